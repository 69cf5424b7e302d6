package e2e_test

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// evictedBytes is the size of the layer that each image in these tests has to itself.
const evictedBytes = 256 << 10

// evicting lets a site hold so many of such images, and no image be too recent to go.
func (s *site) evicting(images int) {
	s.config["storage"] = keys{
		"filesystem": keys{"root": s.path("data")}, "max_bytes": images * (evictedBytes + 20<<10), "min_idle": "0s",
	}
}

// TestEvictedImagesAreFetchedAgainAndNotReadAgain pulls more images than may be held, and all of them again.
func TestEvictedImagesAreFetchedAgainAndNotReadAgain(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.evicting(3)
	const images = 6
	repo := func(i int) string { return fmt.Sprintf("shop/image-%d", i) }
	descs := make([]oci.Descriptor, images)
	for i := range images {
		descs[i] = s.pushSigned(t, repo(i), shop(goodLodash, noise(evictedBytes, uint64(i))))
	}
	kept := s.push(t, "shop/unsigned", shop(goodLodash, noise(evictedBytes, 100)))
	p := s.serve(t)
	if got := p.pull(t, "shop/unsigned"); got.status != http.StatusForbidden {
		t.Fatalf("an unsigned image: %+v", got)
	}
	own := func(i int) oci.Digest { return s.parsed(t, repo(i), descs[i].Digest).Layers[3].Digest }
	for i := range images {
		p.mustPull(t, repo(i))
	}
	eventually(t, "no more is held than may be", func() bool {
		return p.metric(t, "tidewaiter_storage_held_bytes", "") <= p.metric(t, "tidewaiter_storage_max_bytes", "")
	})
	t.Run("the one that was pulled first has gone, the last is there, and so is what is to be looked at", func(t *testing.T) {
		if s.stored(own(0)) || !s.stored(own(images-1)) {
			t.Errorf("stored: %t and %t, want only the last", s.stored(own(0)), s.stored(own(images-1)))
		}
		if !s.stored(kept.Digest) || !s.stored(s.parsed(t, "shop/unsigned", kept.Digest).Layers[3].Digest) {
			t.Error("what is in quarantine is not there")
		}
		if n := p.metric(t, "tidewaiter_storage_evicted_images_total", ""); n == 0 {
			t.Error("no image was counted")
		}
	})
	p.settle(t)
	read := p.metric(t, "tidewaiter_judging_step_duration_seconds_count", `step="reading layers"`)
	judged := p.log.count(func(l line) bool { return l.Msg == "verdict" })
	t.Run("it was not withdrawn: HEAD answers as for any image", func(t *testing.T) {
		if got := p.ask(t, http.MethodHead, "/v2/"+host+"/"+repo(0)+"/manifests/"+descs[0].Digest.String()); got.status != http.StatusOK {
			t.Errorf("status %d, want 200", got.status)
		}
	})
	t.Run("pulled again it is judged by what is on record", func(t *testing.T) {
		p.mustPull(t, repo(0))
		p.settle(t)
		if got := p.metric(t, "tidewaiter_judging_step_duration_seconds_count", `step="reading layers"`); got != read {
			t.Errorf("layers were read %v times, want %v as before", got, read)
		}
		if got := p.log.count(func(l line) bool { return l.Msg == "verdict" }); got != judged {
			t.Errorf("%d verdicts were made, want %d as before", got, judged)
		}
	})
	t.Run("and judged anew, after its advisories have changed, without being fetched", func(t *testing.T) {
		eventually(t, "the image has gone again", func() bool {
			p.mustPull(t, repo(3))
			p.mustPull(t, repo(4))
			p.mustPull(t, repo(5))
			return !s.stored(own(0))
		})
		p.stop(t)
		writeAdvisories(t, s.path("advisories"), append(advisories(), ocitest.Advisory{
			Bucket: "npm::GitHub Security Advisory npm", Source: "ghsa", Package: "left-pad", ID: "CVE-2026-0001", Severity: "critical",
			Vulnerable: []string{"<1.0.0"}, Patched: []string{"1.0.0"}, Title: "Nothing of ours", Published: time.Now(),
		}))
		p := s.serve(t)
		if got := p.ask(t, http.MethodGet, "/v2/"+host+"/"+repo(0)+"/manifests/"+descs[0].Digest.String()); got.status != http.StatusOK {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
		p.settle(t)
		if n := p.log.count(func(l line) bool { return l.Msg == "verdict" && l.Digest == descs[0].Digest.String() }); n != 1 {
			t.Errorf("%d verdicts were made on it, want 1", n)
		}
		if s.stored(own(0)) {
			t.Error("its layer was fetched to be judged")
		}
		p.mustPull(t, repo(0))
	})
}

// TestAnEvictedImageIsCalledBack has an image that was pulled and evicted become a vulnerable one.
func TestAnEvictedImageIsCalledBack(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.evicting(2)
	writeAdvisories(t, s.path("advisories"), append(advisories()[1:], ocitest.Advisory{
		Bucket: "npm::GitHub Security Advisory npm", Source: "ghsa", Package: "left-pad", ID: "CVE-2026-0001", Severity: "critical",
		Vulnerable: []string{"<1.0.0"}, Patched: []string{"1.0.0"}, Title: "Nothing of ours", Published: time.Now(),
	}))
	image := s.pushSigned(t, "shop/vulnerable", shop(badLodash, noise(evictedBytes, 1)))
	for i := range 3 {
		s.pushSigned(t, fmt.Sprintf("shop/image-%d", i), shop(goodLodash, noise(evictedBytes, uint64(10+i))))
	}
	layer := s.parsed(t, "shop/vulnerable", image.Digest).Layers[3].Digest
	p := s.serve(t)
	p.mustPull(t, "shop/vulnerable")
	for i := range 3 {
		p.mustPull(t, fmt.Sprintf("shop/image-%d", i))
	}
	eventually(t, "the image has gone", func() bool { return !s.stored(layer) })
	p.settle(t)
	writeAdvisories(t, s.path("advisories"), advisories())
	p.signal(t, syscall.SIGHUP)
	eventually(t, "it is called back", func() bool { return p.metric(t, "tidewaiter_recalled_images", "") == 1 })
	if s.stored(layer) {
		t.Error("its layer was fetched for that")
	}
}

// TestPullsBesideEviction pulls from several sides what does not fit together: every answer is whole and right.
func TestPullsBesideEviction(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.evicting(1)
	const images, clients, enough = 5, 4, 10
	for i := range images {
		s.pushSigned(t, fmt.Sprintf("shop/image-%d", i), shop(goodLodash, noise(evictedBytes, uint64(i))))
	}
	p := s.serve(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var pulling sync.WaitGroup
	for c := range clients {
		pulling.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				repo := fmt.Sprintf("shop/image-%d", (c+n)%images)
				got, err := client.pull(t.Context(), p.registry, repo, "1.0") // every byte is compared there
				if err != nil || got.status != http.StatusOK {
					t.Errorf("pulling %s: %+v, %v", repo, got, err)
				}
			}
		})
	}
	eventually(t, "enough images are evicted", func() bool { return p.metric(t, "tidewaiter_storage_evicted_images_total", "") >= enough })
	stop()
	pulling.Wait()
}

// TestKilledWhileEvicting kills the proxy as it evicts. What the next one holds is consistent, and nothing is left over.
func TestKilledWhileEvicting(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.evicting(3)
	const images, kills = 4, 4
	for i := range images {
		s.pushSigned(t, fmt.Sprintf("shop/image-%d", i), shop(goodLodash, noise(evictedBytes, uint64(i))))
	}
	life := &life{site: s}
	for round := range kills {
		p := serve(t, s.write(t))
		for i := range images {
			if got := p.pull(t, fmt.Sprintf("shop/image-%d", (i+round)%images)); got.status != http.StatusOK {
				t.Fatalf("round %d: %+v", round, got)
			}
		}
		p.kill()
		if err := life.checkStored(); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
	}
	p := s.serve(t)
	for i := range images {
		p.mustPull(t, fmt.Sprintf("shop/image-%d", i))
	}
	eventually(t, "what is counted is what is there", func() bool {
		return int64(p.metric(t, "tidewaiter_storage_held_bytes", "")) == s.storedBytes(t)
	})
	left, err := os.ReadDir(s.path("data/tidewaiter/dropped"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v, %v are left of what was being dropped", left, err)
	}
}

// storedBytes counts the bytes of blobs.
func (s *site) storedBytes(t testing.TB) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(s.path("data/docker/registry/v2/blobs"), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "data" {
			return nil // it went while it was looked at
		}
		if info, err := entry.Info(); err == nil {
			bytes += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// TestDiskFull runs on a disk that holds less than all images together, without a limit of its own.
func TestDiskFull(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	disk := s.path("disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tidewaiter", disk, "tmpfs", 0, "size=6m"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mounting a small disk: %v", err)
		}
		t.Skipf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) }) // gone with the test's own folder
	const images, layer = 12, 1 << 20
	repo := func(i int) string { return fmt.Sprintf("shop/image-%d", i) }
	for i := range images {
		s.pushSigned(t, repo(i), shop(goodLodash, noise(layer, uint64(i))))
	}
	huge := s.pushSigned(t, "shop/huge", shop(goodLodash, noise(8<<20, 100)))
	t.Run("while nothing may go, what is held is served, and what is new is put off", func(t *testing.T) {
		s.config["storage"] = keys{"filesystem": keys{"root": disk}, "min_idle": "1h"}
		p := s.serve(t)
		status := http.StatusOK
		for i := 0; i < images && status == http.StatusOK; i++ {
			status = p.pull(t, repo(i)).status
		}
		if status != http.StatusServiceUnavailable {
			t.Errorf("status %d, want 503", status)
		}
		p.mustPull(t, repo(0))
		p.stop(t)
	})
	s.config["storage"] = keys{"filesystem": keys{"root": disk}, "min_idle": "0s"}
	p := s.serve(t)
	full := 0
	for i := range images {
		// A client is told to come back, and does.
		eventually(t, repo(i)+" is served", func() bool {
			got := p.pull(t, repo(i))
			if got.status == http.StatusServiceUnavailable {
				full++
			}
			if got.status != http.StatusOK && got.status != http.StatusServiceUnavailable {
				t.Fatalf("%s: %+v, want it served or put off", repo(i), got)
			}
			return got.status == http.StatusOK
		})
	}
	if n := p.metric(t, "tidewaiter_storage_full_total", ""); n == 0 {
		t.Error("the disk was never full")
	}
	t.Logf("put off %d times, evicted %v images", full, p.metric(t, "tidewaiter_storage_evicted_images_total", ""))
	t.Run("what does not fit at all is put off, and others are served meanwhile", func(t *testing.T) {
		if got := p.ask(t, http.MethodGet, "/v2/"+host+"/shop/huge/manifests/"+huge.Digest.String()); got.status != 503 || got.header.Get("Retry-After") == "" {
			t.Errorf("status %d: %s, want 503", got.status, got.body)
		}
		eventually(t, "another is served", func() bool { return p.pull(t, repo(images-1)).status == http.StatusOK })
	})
}
