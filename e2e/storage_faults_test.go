package e2e_test

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// mount mounts a file system until the test ends, or it is unmounted.
func mount(t *testing.T, source, target, kind string, flags uintptr, options string) {
	t.Helper()
	if err := os.MkdirAll(target, 0o700); err != nil {
		t.Fatal(err)
	}
	err := syscall.Mount(source, target, kind, flags, options)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("mounting %s: %v", target, err)
	}
	if err != nil {
		t.Skipf("mounting %s: %v", target, err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(target, syscall.MNT_DETACH) }) // gone already is as good
}

func unmount(t *testing.T, target string) {
	t.Helper()
	if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
		t.Fatalf("unmounting %s: %v", target, err)
	}
}

// troubled is an installation whose storage is about to fail, with images of each fate: shop/web and shop/vulnerable are known by then,
// shop/new and shop/bad are not, and apps/web was pushed and admitted.
type troubled struct {
	*site
	p        *server
	web, new oci.Descriptor
}

func newTroubled(t *testing.T, prepare func(s *site)) *troubled {
	t.Helper()
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	prepare(s)
	tr := &troubled{site: s, web: s.pushSigned(t, "shop/web", shop(goodLodash)), new: s.pushSigned(t, "shop/new", shop(goodLodash, noise(1<<20, 1)))}
	s.pushSigned(t, "shop/vulnerable", shop(badLodash))
	s.pushSigned(t, "shop/bad", shop(badLodash, noise(1<<20, 2)))
	tr.p = s.serve(t)
	ci := pusher{t, tr.p, "ci"}
	ci.image(s.upstream, "shop/web", tr.web.Digest, "apps/web", "1.0")
	ci.signed(s, "shop/web", tr.web.Digest, "apps/web", s.release)
	tr.checkKnown(t)
	return tr
}

// checkKnown checks that what was known before is answered as it was.
func (s *troubled) checkKnown(t *testing.T) {
	t.Helper()
	s.p.mustPull(t, "shop/web")
	if got := s.p.pull(t, "shop/vulnerable"); got.status != http.StatusForbidden {
		t.Errorf("shop/vulnerable: got %+v, want a refusal", got)
	}
	pusher{t, s.p, ""}.must(http.StatusOK, http.MethodGet, "/v2/apps/web/manifests/1.0", nil)
}

// checkNewIsUndecided checks that what cannot be held is neither admitted nor denied, that nothing of it is served, and that no push of it
// is acknowledged.
func (s *troubled) checkNewIsUndecided(t *testing.T) {
	t.Helper()
	for _, repo := range []string{"shop/new", "shop/bad"} {
		got := s.p.get(t, "/v2/"+host+"/"+repo+"/manifests/1.0")
		if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
			t.Errorf("%s: status %d: %s, want 503 and when to come back", repo, got.status, got.body)
		}
	}
	for _, d := range s.parsed(t, "shop/new", s.new.Digest).Blobs() {
		if got := s.p.blob(t, "shop/new", d.Digest); got.status == http.StatusOK {
			t.Errorf("blob %s is served", d.Digest)
		}
	}
	b := &builder{site: s.site, p: s.p, sent: func(int) {}}
	if b.push(t, "shop/new", s.new.Digest, "2.0") {
		t.Error("a push is acknowledged")
	}
}

// checkRecovered checks that the process goes on where it was, with nobody's help.
func (s *troubled) checkRecovered(t *testing.T) {
	t.Helper()
	s.checkKnown(t)
	s.p.mustPull(t, "shop/new")
	if got := s.p.pull(t, "shop/bad"); got.status != http.StatusForbidden {
		t.Errorf("shop/bad: got %+v, want a refusal", got)
	}
	b := &builder{site: s.site, p: s.p, sent: func(int) {}}
	if !b.push(t, "shop/new", s.new.Digest, "2.0") {
		t.Error("a push is not acknowledged")
	}
	s.p.stop(t)
	s.p = s.site.serve(t) // and the next one finds everything
	s.checkKnown(t)
	pusher{t, s.p, "ci"}.must(http.StatusOK, http.MethodHead, "/v2/apps/web/manifests/2.0", nil)
}

// TestStorageReadOnly has the storage of a running proxy take no writes for a while.
func TestStorageReadOnly(t *testing.T) {
	s := newTroubled(t, func(*site) {})
	data := s.path("data")
	mount(t, data, data, "", syscall.MS_BIND, "")
	if err := syscall.Mount("", data, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	ready := func() int { return request(t, http.MethodGet, "http://"+s.p.admin+"/readyz").status }
	eventually(t, "the proxy is not ready", func() bool { return ready() == http.StatusServiceUnavailable })
	s.checkKnown(t)
	s.checkNewIsUndecided(t)
	unmount(t, data)
	eventually(t, "the proxy is ready", func() bool { return ready() == http.StatusOK })
	s.checkRecovered(t)
}

// TestDiskFillsUp has the disk of a running proxy without room for a while.
func TestDiskFillsUp(t *testing.T) {
	s := newTroubled(t, func(s *site) { mount(t, "tmpfs", s.path("data"), "tmpfs", 0, "size=64m") })
	ballast := filepath.Join(s.path("data"), "ballast")
	fill(t, ballast)
	s.checkKnown(t)
	s.checkNewIsUndecided(t)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	s.checkRecovered(t)
}

// fill writes to a file until there is no room.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // it is full
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
}

// slowness is between a proxy and its bucket. It is safe for concurrent use.
type slowness struct {
	each    atomic.Int64 // how long each request is held up, in nanoseconds
	stalled atomic.Pointer[context.Context]
	address string
}

// newSlowness returns the way to a bucket, which holds nothing up yet.
func newSlowness(t *testing.T, b *bucket) *slowness {
	t.Helper()
	s := &slowness{}
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: b.address})
			r.Out.Host = r.In.Host // it is signed
		},
		Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
		ErrorLog:  log.New(io.Discard, "", 0), // of those who gave up
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		late := time.NewTimer(time.Duration(s.each.Load()))
		defer late.Stop()
		select {
		case <-late.C:
		case <-r.Context().Done():
		}
		if until := s.stalled.Load(); until != nil {
			select {
			case <-(*until).Done():
			case <-r.Context().Done():
			}
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.address = server.Listener.Addr().String()
	return s
}

// stall holds everything up until the function it returns is called.
func (s *slowness) stall(t *testing.T) (resume func()) {
	ctx, resume := context.WithCancel(t.Context())
	s.stalled.Store(&ctx)
	return resume
}

// TestBucketIsSlow has each request to the bucket take a while, then all of them for ever, then go on.
func TestBucketIsSlow(t *testing.T) {
	b := newBucket(t)
	way := newSlowness(t, b)
	s := newTroubled(t, func(s *site) {
		s.useBucket(t, &bucket{address: way.address, dir: b.dir})
		s.config["gate"] = keys{"hold": "1s"}
	})
	t.Run("each request takes a while: what is answered is right", func(t *testing.T) {
		way.each.Store(int64(50 * time.Millisecond))
		s.checkKnown(t)
		defer way.each.Store(0)
		slow := s.pushSigned(t, "shop/slow", shop(goodLodash, noise(1<<20, 9)))
		eventually(t, "the image is let through", func() bool {
			got := s.p.pull(t, "shop/slow")
			if got.status != http.StatusOK && got.status != http.StatusServiceUnavailable {
				t.Fatalf("got %+v", got)
			}
			return got.status == http.StatusOK && got.digest == slow.Digest
		})
	})
	t.Run("none is answered: nothing new is let through or denied", func(t *testing.T) {
		resume := way.stall(t)
		defer resume()
		for _, repo := range []string{"shop/new", "shop/bad"} {
			if got := s.p.get(t, "/v2/"+host+"/"+repo+"/manifests/1.0"); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
				t.Errorf("%s: status %d: %s, want 503 and when to come back", repo, got.status, got.body)
			}
		}
	})
	t.Run("and it goes on with nobody's help", func(t *testing.T) {
		eventually(t, "the new image is let through", func() bool { return s.p.pull(t, "shop/new").status == http.StatusOK })
		eventually(t, "the bad one is refused", func() bool { return s.p.pull(t, "shop/bad").status == http.StatusForbidden })
		s.checkRecovered(t)
	})
}
