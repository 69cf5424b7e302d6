package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// patience is how long is waited for what should happen at once. It only ends tests that hang.
const patience = 90 * time.Second

// serving is a proxy in process.
type serving struct {
	addresses
	stop  context.CancelFunc
	ended chan error
}

func (l *lab) serve(t *testing.T) *serving {
	t.Helper()
	return l.serveLogging(t, slog.New(slog.DiscardHandler))
}

func (l *lab) serveLogging(t *testing.T, log *slog.Logger) *serving {
	t.Helper()
	c, err := loadConfigFile(l.config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	s := &serving{stop: stop, ended: make(chan error, 1)}
	listening := make(chan addresses, 1)
	go func() {
		s.ended <- serve(ctx, c, log, func(at addresses) { listening <- at })
	}()
	select {
	case s.addresses = <-listening:
	case err := <-s.ended:
		t.Fatalf("it ended: %v", err)
	}
	return s
}

// await returns what comes from c.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("not reached")
	}
}

// answer is an answer and its whole body.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

func ask(ctx context.Context, url string) answer {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{err: err}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body), err}
}

// The upstream of this test is in the middle of a layer when the proxy is told to end, one client waits for a verdict that needs it,
// and another is being sent a layer it reads slowly.
func TestShutdown(t *testing.T) {
	l := newLab(t, lenient)
	layer := ocitest.LayerSpec{Files: []ocitest.File{{Path: "noise", Body: ocitest.Random(16<<20, 1)}}} // more than two sockets buffer
	if _, err := l.upstream.PushImage("app", "large", ocitest.Image{Layers: []ocitest.LayerSpec{layer}}); err != nil {
		t.Fatal(err)
	}
	slow := l.push(t, "slow", oci.Platform{})
	s := l.serve(t)
	defer s.stop()

	// A layer is under way.
	var large oci.Manifest
	if got := ask(t.Context(), "http://"+s.registry+"/v2/registry.demo/app/manifests/large"); got.status != http.StatusOK {
		t.Fatalf("got %+v", got)
	} else if err := json.Unmarshal([]byte(got.body), &large); err != nil {
		t.Fatal(err)
	}
	desc := large.Layers[0]
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.registry+"/v2/registry.demo/app/blobs/"+desc.Digest.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sent, err := http.DefaultClient.Do(req)
	if err != nil || sent.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v", sent, err)
	}
	defer func() { _ = sent.Body.Close() }() // read to its end

	// A client waits for a verdict that cannot come yet.
	arrived := make(chan struct{})
	release, letGo := context.WithCancel(t.Context())
	defer letGo()
	l.upstream.SetIntercept(ocitest.When(ocitest.Gets(ocitest.KindManifest).Of(slow.Digest.String()), ocitest.Stall(release, arrived)))
	waiting := make(chan answer, 1)
	go func() { waiting <- ask(t.Context(), "http://"+s.registry+"/v2/registry.demo/app/manifests/slow") }()
	await(t, "the upstream to be asked", arrived)
	if got := ask(t.Context(), "http://"+s.admin+"/readyz"); got.status != http.StatusOK {
		t.Fatalf("before the end: got %+v", got)
	}

	s.stop()
	if got := await(t, "the answer to who waits", waiting); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" || !strings.Contains(got.body, "stopping") {
		t.Errorf("who waits for a verdict is told %+v", got)
	}
	if got := ask(t.Context(), "http://"+s.admin+"/readyz"); got.status != http.StatusServiceUnavailable || got.body != "not ready: stopping\n" {
		t.Errorf("whoever asks for readiness is told %+v", got)
	}
	if got := ask(t.Context(), "http://"+s.admin+"/healthz"); got.status != http.StatusOK {
		t.Errorf("whoever asks for health is told %+v", got)
	}
	if n, err := io.Copy(io.Discard, oci.NewVerifier(sent.Body, desc)); err != nil || n != desc.Size {
		t.Errorf("the layer ended after %d of %d bytes: %v", n, desc.Size, err)
	}
	letGo()
	if err := await(t, "the end", s.ended); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if got := ask(t.Context(), "http://"+s.admin+"/readyz"); got.err == nil {
		t.Errorf("it still answers: %+v", got)
	}
}

func TestReady(t *testing.T) {
	dir := t.TempDir()
	in := &instance{storage: storage{root: dir}, log: slog.New(slog.DiscardHandler)}
	if err := in.ready(t.Context()); err != nil {
		t.Errorf("writable storage: got %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v behind, %v", left, err)
	}
	var log strings.Builder
	in.log = slog.New(slog.NewTextHandler(&log, nil))
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	err := in.ready(t.Context())
	if err == nil || strings.Contains(err.Error(), dir) || err.Error() != "the storage takes no writes" {
		t.Errorf("storage that is gone: got %v", err)
	}
	if !strings.Contains(log.String(), dir) {
		t.Errorf("the log does not say which storage: %s", log.String())
	}
}
