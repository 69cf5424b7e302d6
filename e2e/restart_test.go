package e2e_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// TestRestart has no Redis: what a process leaves behind lies in its storage alone.
func TestRestart(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	good := s.pushSigned(t, "shop/web", shop(goodLodash, noise(300_000, 1)))
	bad := s.pushSigned(t, "shop/vulnerable", shop(badLodash))
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	p.pull(t, "shop/vulnerable")
	p.stop(t)

	s.upstream.Close()
	s.upstream.ResetRequests()
	p = s.serve(t)
	const images = "/v2/" + host + "/"
	t.Run("what was allowed is served by digest, with its upstream gone", func(t *testing.T) {
		if got := p.get(t, images+"shop/web/manifests/"+good.Digest.String()); got.status != 200 {
			t.Errorf("manifest: status %d: %s", got.status, got.body)
		}
		for _, d := range s.parsed(t, "shop/web", good.Digest).Blobs() {
			want, _ := s.upstream.Blob("shop/web", d.Digest)
			if got := p.blob(t, "shop/web", d.Digest); got.status != 200 || string(got.body) != string(want) {
				t.Errorf("blob %s: status %d, %d bytes, want %d", d.Digest, got.status, len(got.body), len(want))
			}
		}
	})
	t.Run("a node that holds it may ask by HEAD", func(t *testing.T) {
		if got := p.ask(t, http.MethodHead, images+"shop/web/manifests/"+good.Digest.String()); got.status != 200 {
			t.Errorf("status %d, want 200", got.status)
		}
	})
	t.Run("what was denied is denied, and why is known", func(t *testing.T) {
		got := p.get(t, images+"shop/vulnerable/manifests/"+bad.Digest.String())
		if got.status != 403 || !strings.Contains(got.failure().Message, "CVE-2019-10744") {
			t.Errorf("status %d: %s", got.status, got.body)
		}
		for _, d := range s.parsed(t, "shop/vulnerable", bad.Digest).Blobs() {
			if got := p.blob(t, "shop/vulnerable", d.Digest); got.status != 404 {
				t.Errorf("blob %s: status %d, want 404", d.Digest, got.status)
			}
		}
	})
	t.Run("a tag nobody remembers cannot be told: 503, and when to come back", func(t *testing.T) {
		got := p.get(t, images+"shop/web/manifests/1.0")
		if got.status != 503 || got.failure().Code != "UNAVAILABLE" || got.header.Get("Retry-After") == "" {
			t.Errorf("status %d: %s, Retry-After %q", got.status, got.body, got.header.Get("Retry-After"))
		}
	})
	t.Run("nothing was judged again", func(t *testing.T) {
		p.settle(t)
		if got := p.log.count(func(l line) bool { return l.Msg == "verdict" }); got > 0 {
			t.Errorf("%d verdicts were made", got)
		}
	})
	t.Run("a new policy is applied to what is held, with the upstream gone", func(t *testing.T) {
		lenient := strings.Replace(contentPolicy, "deny_at: high", "deny_at: none, deny: [CVE-2023-45853]", 1)
		p.log.awaitMore(t, "the new policy", func(l line) bool { return l.Msg == "policy in force" }, func() {
			replaceFile(t, s.path("policy.yaml"), []byte(lenient))
		})
		got := p.get(t, images+"shop/web/manifests/"+good.Digest.String())
		if got.status != 403 || !strings.Contains(got.failure().Message, "CVE-2023-45853") {
			t.Errorf("status %d: %s", got.status, got.body)
		}
	})
}
