package e2e_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// TestStorageFull lets the proxy write no file beyond 64 KiB, as a disk without room would.
func TestStorageFull(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	small := s.pushSigned(t, "shop/small", shop(goodLodash))
	large := s.pushSigned(t, "shop/large", shop(goodLodash, noise(1<<20, 1)))
	cmd := command(t, program(t, "sh"), "-c", `ulimit -S -f 128; exec "$0" "$@"`, binary, "serve", "--config", s.write(t)) // blocks of 512 bytes
	log := newJournal()
	p := &server{process: start(t, cmd, log)}
	at := log.await(t, "starting to serve", func(l line) bool { return l.Msg == "serving" })
	p.registry, p.admin = at.Registry, at.Admin

	t.Run("an image that cannot be held is neither admitted nor denied", func(t *testing.T) {
		for _, reference := range []string{"1.0", large.Digest.String()} {
			if got := p.get(t, "/v2/"+host+"/shop/large/manifests/"+reference); got.status != 503 || got.failure().Code != "UNAVAILABLE" {
				t.Errorf("%s: status %d: %s, want 503", reference, got.status, got.body)
			}
		}
		if p.log.count(says("file too large")) == 0 {
			t.Error("and that for another reason than the storage")
		}
		for _, d := range s.parsed(t, "shop/large", large.Digest).Blobs() {
			if got := p.blob(t, "shop/large", d.Digest); got.status == http.StatusOK {
				t.Errorf("blob %s is served", d.Digest)
			}
		}
	})
	t.Run("one that fits is served", func(t *testing.T) {
		if got := p.mustPull(t, "shop/small"); got.digest != small.Digest {
			t.Errorf("got %s, want %s", got.digest, small.Digest)
		}
	})
	t.Run("with room again, and nothing else changed, the large one is too", func(t *testing.T) {
		p.stop(t)
		s.serve(t).mustPull(t, "shop/large")
	})
}

// TestAlteredStorage changes what lies in the storage while no proxy looks.
func TestAlteredStorage(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	image := s.pushSigned(t, "shop/web", shop(goodLodash, noise(10_000, 1)))
	s.pushSigned(t, "shop/vulnerable", shop(badLodash))
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	p.pull(t, "shop/vulnerable")
	p.stop(t)

	t.Run("altered blobs are fetched again, never served", func(t *testing.T) {
		for _, d := range s.parsed(t, "shop/web", image.Digest).Blobs() {
			path := filepath.Join(s.path("data/docker/registry/v2/blobs/sha256"), d.Digest.Encoded()[:2], d.Digest.Encoded(), "data")
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			content[len(content)-1]++
			writeFile(t, path, content)
		}
		p := s.serve(t)
		p.mustPull(t, "shop/web") // every byte is compared there
		if got := p.log.count(says("is not what its digest says")); got == 0 {
			t.Error("nobody was told")
		}
	})
	t.Run("altered verdicts and inventories are not believed, and made again", func(t *testing.T) {
		if n := corrupt(t, s.path("data/tidewaiter/ledger")); n == 0 {
			t.Fatal("there are no records")
		}
		p := s.serve(t)
		rightVerdicts(t, p)
		p.settle(t)
		if got := p.log.count(says("is not believed")); got == 0 {
			t.Error("nobody was told")
		}
	})
	t.Run("a storage sealed with another key is worth nothing, and its images are judged again", func(t *testing.T) {
		writeFile(t, s.path("data/seal.key"), []byte(oci.FromBytes([]byte("another key")).Encoded()))
		rightVerdicts(t, s.serve(t))
	})
}

// corrupt changes one byte in every file below dir and returns how many there are.
func corrupt(t *testing.T, dir string) (files int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil || len(content) == 0 {
			return err
		}
		files++
		content[len(content)/2] ^= 1
		return os.WriteFile(path, content, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestSharedStorage has commands work in the storage of a running proxy.
func TestSharedStorage(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	image := s.pushSigned(t, "shop/web", shop(goodLodash, noise(100_000, 1)))
	s.pushSigned(t, "shop/vulnerable", shop(badLodash))
	layer := s.parsed(t, "shop/web", image.Digest).Layers[3]
	content, _ := s.upstream.Blob("shop/web", layer.Digest)
	released, release := context.WithCancel(t.Context())
	defer release()
	asked := make(chan struct{})
	s.upstream.SetIntercept(ocitest.When(ocitest.Gets(ocitest.KindBlob).Of(layer.Digest.String()), partly(content, 50_000, released, sync.OnceFunc(func() { close(asked) }))))
	p := s.serve(t)
	p.ask(t, http.MethodHead, "/v2/"+host+"/shop/web/manifests/1.0")
	<-asked // half of the layer is there

	config := s.path("tidewaiter.yaml")
	var commands sync.WaitGroup
	for range 4 {
		commands.Go(func() {
			if got := tidewaiter(t, "check", "--quiet", "--config", config, host+"/shop/vulnerable:1.0"); got.code != 3 || !strings.Contains(got.stdout, "CVE-2019-10744") {
				t.Errorf("check exits with %d: %s%s", got.code, got.stdout, got.stderr)
			}
		})
	}
	commands.Wait()
	release()
	p.mustPull(t, "shop/web")
	if got := p.pull(t, "shop/vulnerable"); got.status != http.StatusForbidden {
		t.Errorf("what the commands denied: %+v, want a refusal", got)
	}
}

// TestStartingAtOnce has commands open the same storage at the same moment.
func TestStartingAtOnce(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.pushSigned(t, "shop/web", shop(goodLodash))
	config := s.write(t)
	for range 8 {
		var commands sync.WaitGroup
		for range 8 {
			commands.Go(func() {
				if got := tidewaiter(t, "check", "--quiet", "--config", config, host+"/shop/web:1.0"); got.code != 0 {
					t.Errorf("check exits with %d: %s%s", got.code, got.stdout, got.stderr)
				}
			})
		}
		commands.Wait()
	}
}
