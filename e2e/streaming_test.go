package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// partly serves a blob in two parts: the first sent bytes at once, and the rest, which may be other bytes than the digest promises, when
// released is done. It calls asked, which may be nil, as each request comes.
func partly(content []byte, sent int, released context.Context, asked func()) ocitest.Intercept {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if asked != nil {
			asked()
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(content[:sent]) // whoever left is found out below
		_ = http.NewResponseController(w).Flush()
		select {
		case <-released.Done():
			_, _ = w.Write(content[sent:])
			return true
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// signedPolicy looks at no layer.
const signedPolicy = `policies:
  - name: signed
    match: {repositories: ["**"]}
    require: {signatures: {any_of: [release]}}
`

func TestStreamingWithoutContentRules(t *testing.T) {
	const half = 200_000
	for _, tt := range []struct {
		law   string
		alter func([]byte) []byte
		whole bool
	}{
		{"the client has the first half of a layer before the upstream sends the second", func(b []byte) []byte { return b }, true},
		{"a layer that turns out to be another never arrives whole", func(b []byte) []byte {
			forged := append([]byte(nil), b...)
			forged[len(forged)-1]++
			return forged
		}, false},
	} {
		t.Run(tt.law, func(t *testing.T) {
			s := newSite(t, ocitest.Options{})
			writeFile(t, s.path("policy.yaml"), []byte(signedPolicy))
			image := s.pushSigned(t, "shop/web", []ocitest.LayerSpec{noise(2*half, 1)})
			layer := s.parsed(t, "shop/web", image.Digest).Layers[0]
			content, _ := s.upstream.Blob("shop/web", layer.Digest)
			released, release := context.WithCancel(t.Context())
			defer release()
			s.upstream.SetIntercept(ocitest.When(ocitest.Gets(ocitest.KindBlob).Of(layer.Digest.String()), partly(tt.alter(content), half, released, nil)))
			p := s.serve(t)
			if got := p.get(t, "/v2/"+host+"/shop/web/manifests/1.0"); got.status != 200 {
				t.Fatalf("status %d: %s", got.status, got.body)
			}
			resp, err := client.open(t.Context(), http.MethodGet, "http://"+p.registry+"/v2/"+host+"/shop/web/blobs/"+layer.Digest.String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			got := make([]byte, half)
			if _, err := io.ReadFull(resp.Body, got); err != nil || resp.StatusCode != 200 || string(got) != string(content[:half]) {
				t.Fatalf("the first half: status %d, %v", resp.StatusCode, err)
			}
			release()
			rest, err := io.ReadAll(resp.Body)
			whole := err == nil && oci.FromBytes(append(got, rest...)) == layer.Digest
			if whole != tt.whole || !whole && (err == nil || len(rest) >= len(content)-half) {
				t.Errorf("then %d of %d bytes, %v: whole %t, want %t", len(rest), len(content)-half, err, whole, tt.whole)
			}
		})
	}
}

// TestStreamingToMany has sixteen nodes ask for one layer while it arrives.
func TestStreamingToMany(t *testing.T) {
	const size, sent = 400_000, 100_000
	s := newSite(t, ocitest.Options{})
	writeFile(t, s.path("policy.yaml"), []byte(signedPolicy))
	image := s.pushSigned(t, "shop/web", []ocitest.LayerSpec{noise(size, 1)})
	layer := s.parsed(t, "shop/web", image.Digest).Layers[0]
	content, _ := s.upstream.Blob("shop/web", layer.Digest)
	released, release := context.WithCancel(t.Context())
	defer release()
	s.upstream.SetIntercept(ocitest.When(ocitest.Gets(ocitest.KindBlob).Of(layer.Digest.String()), partly(content, sent, released, nil)))
	p := s.serve(t)
	if got := p.get(t, "/v2/"+host+"/shop/web/manifests/1.0"); got.status != 200 {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	var reading, done sync.WaitGroup
	for range 16 {
		reading.Add(1)
		done.Go(func() {
			begun := sync.OnceFunc(reading.Done)
			defer begun()
			resp, err := client.open(t.Context(), http.MethodGet, "http://"+p.registry+"/v2/"+host+"/shop/web/blobs/"+layer.Digest.String())
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			got := make([]byte, sent)
			_, err = io.ReadFull(resp.Body, got)
			begun()
			rest, restErr := io.ReadAll(resp.Body)
			if d := oci.FromBytes(append(got, rest...)); err != nil || restErr != nil || d != layer.Digest {
				t.Errorf("got %s, %v, %v, want %s", d, err, restErr, layer.Digest)
			}
		})
	}
	reading.Wait() // all have its beginning
	release()
	done.Wait()
	if got := s.upstream.Count(http.MethodGet, ocitest.KindBlob); got != 3 {
		t.Errorf("%d blobs were fetched, want 3: the layer, the config and the signature", got)
	}
}

// TestHold has a layer that does not come: clients are told to come back, and the judging goes on.
func TestHold(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.config["gate"] = keys{"hold": "300ms"}
	image := s.pushSigned(t, "shop/web", shop(goodLodash, noise(100_000, 1)))
	layer := s.parsed(t, "shop/web", image.Digest).Layers[3]
	asked := make(chan struct{})
	content, _ := s.upstream.Blob("shop/web", layer.Digest)
	released, release := context.WithCancel(t.Context())
	defer release()
	s.upstream.SetIntercept(ocitest.When(ocitest.Gets(ocitest.KindBlob).Of(layer.Digest.String()), partly(content, 1000, released, sync.OnceFunc(func() { close(asked) }))))
	p := s.serve(t)
	p.ask(t, http.MethodHead, "/v2/"+host+"/shop/web/manifests/1.0") // begins the judging
	<-asked                                                          // which by now can only wait for the layer

	t.Run("a client is told what is being done and when to come back", func(t *testing.T) {
		for range 2 {
			got := p.get(t, "/v2/"+host+"/shop/web/manifests/1.0")
			failure := got.failure()
			if got.status != 503 || failure.Code != "UNAVAILABLE" || failure.Message != "judging in progress: reading layers" || got.header.Get("Retry-After") == "" {
				t.Errorf("status %d: %+v, Retry-After %q", got.status, failure, got.header.Get("Retry-After"))
			}
		}
	})
	t.Run("a mirror's client is kept from the origin meanwhile", func(t *testing.T) {
		head := p.ask(t, http.MethodHead, "/v2/shop/web/manifests/1.0?ns="+host)
		told := head.header.Get("Docker-Content-Digest")
		if head.status != 200 || told == image.Digest.String() {
			t.Errorf("HEAD: status %d, digest %s", head.status, told)
		}
		got := p.get(t, "/v2/shop/web/manifests/"+told+"?ns="+host)
		if got.status != 503 || !strings.Contains(got.failure().Message, "judging in progress") {
			t.Errorf("GET: status %d: %s", got.status, got.body)
		}
	})
	t.Run("no blob of it is served", func(t *testing.T) {
		for _, d := range s.parsed(t, "shop/web", image.Digest).Blobs() {
			if got := p.blob(t, "shop/web", d.Digest); got.status != 404 {
				t.Errorf("%s: status %d, want 404", d.Digest, got.status)
			}
		}
	})
	t.Run("once the layer is there the image is, after one judging and one fetch", func(t *testing.T) {
		release()
		p.log.await(t, "the verdict", verdicts(image.Digest.String()))
		p.mustPull(t, "shop/web")
		p.settle(t)
		fetches := 0
		for _, q := range s.upstream.Requests() {
			if q.Method == http.MethodGet && q.Reference == layer.Digest.String() {
				fetches++
			}
		}
		if judged := p.log.count(verdicts(image.Digest.String())); judged != 1 || fetches != 1 {
			t.Errorf("judged %d times with %d fetches, want one of each", judged, fetches)
		}
	})
}

// sending returns a proxy that is sending a layer, the rest of which its upstream holds back until release is called.
func sending(t *testing.T) (p *server, layer oci.Descriptor, resp *http.Response, release func()) {
	t.Helper()
	s := newSite(t, ocitest.Options{})
	writeFile(t, s.path("policy.yaml"), []byte(signedPolicy))
	image := s.pushSigned(t, "shop/web", []ocitest.LayerSpec{noise(1<<20, 1)})
	layer = s.parsed(t, "shop/web", image.Digest).Layers[0]
	content, _ := s.upstream.Blob("shop/web", layer.Digest)
	released, release := context.WithCancel(t.Context())
	t.Cleanup(release)
	s.upstream.SetIntercept(ocitest.When(ocitest.Gets(ocitest.KindBlob).Of(layer.Digest.String()), partly(content, 1000, released, nil)))
	p = serve(t, s.write(t))
	p.get(t, "/v2/"+host+"/shop/web/manifests/1.0")
	resp, err := client.open(t.Context(), http.MethodGet, fmt.Sprintf("http://%s/v2/%s/shop/web/blobs/%s", p.registry, host, layer.Digest))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return p, layer, resp, release
}

// TestShutdown stops a proxy that is sending a layer.
func TestShutdown(t *testing.T) {
	t.Run("what was being sent is finished", func(t *testing.T) {
		p, layer, resp, release := sending(t)
		ended := make(chan int, 1)
		go func() { ended <- p.terminate(t) }()
		p.log.await(t, "stopping", func(l line) bool { return l.Msg == "stopping" })
		release()
		got, err := io.ReadAll(resp.Body)
		if err != nil || oci.FromBytes(got) != layer.Digest {
			t.Errorf("got %d of %d bytes, %v", len(got), layer.Size, err)
		}
		if code := <-ended; code != 0 {
			t.Errorf("ended with code %d, want 0", code)
		}
	})
	t.Run("whoever cannot wait asks twice", func(t *testing.T) {
		p, layer, resp, _ := sending(t)
		p.signal(t, syscall.SIGTERM)
		p.log.await(t, "stopping", func(l line) bool { return l.Msg == "stopping" })
		p.terminate(t)
		if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
			t.Errorf("ended with %v, want the signal's own end", p.cmd.ProcessState)
		}
		if got, err := io.ReadAll(resp.Body); err == nil || int64(len(got)) >= layer.Size {
			t.Errorf("what was being sent ended well after %d of %d bytes", len(got), layer.Size)
		}
	})
}
