package e2e_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// TestUpstreamFails has an upstream refuse everything for a while, each time in another way. What was let through goes on being served by
// digest, what was denied is denied, and what nobody knows is neither.
func TestUpstreamFails(t *testing.T) {
	t.Parallel()
	s := newSite(t, ocitest.Options{})
	s.config["gate"] = keys{"hold": "2s"}
	web := s.pushSigned(t, "shop/web", shop(goodLodash, noise(1000, 1)))
	bad := s.pushSigned(t, "shop/vulnerable", shop(badLodash))
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	p.pull(t, "shop/vulnerable")
	for i, tt := range []struct {
		law    string
		answer func(ctx context.Context) ocitest.Intercept
	}{
		{"is down", func(context.Context) ocitest.Intercept {
			return ocitest.Status(http.StatusServiceUnavailable, 0, "hostile")
		}},
		{"has a fault", func(context.Context) ocitest.Intercept {
			return ocitest.Status(http.StatusInternalServerError, 0, "hostile")
		}},
		{"limits the rate", func(context.Context) ocitest.Intercept {
			return ocitest.Status(http.StatusTooManyRequests, 7*time.Second, "hostile")
		}},
		{"answers nothing", func(ctx context.Context) ocitest.Intercept { return ocitest.Stall(ctx, nil) }},
		{"breaks connections off", func(context.Context) ocitest.Intercept {
			return func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
		}},
	} {
		t.Run("an upstream that "+tt.law, func(t *testing.T) {
			repo := []string{"shop/a", "shop/b", "shop/c", "shop/d", "shop/e"}[i]
			fresh := s.pushSigned(t, repo, shop(goodLodash, noise(1000, uint64(10+i))))
			ctx, end := context.WithCancel(t.Context())
			defer end()
			s.upstream.SetIntercept(tt.answer(ctx))
			const images = "/v2/" + host + "/"
			if got := p.byDigest(t, http.MethodGet, "shop/web", web.Digest); got != http.StatusOK {
				t.Errorf("what was let through: status %d", got)
			}
			if got := p.byDigest(t, http.MethodGet, "shop/vulnerable", bad.Digest); got != http.StatusForbidden {
				t.Errorf("what was denied: status %d", got)
			}
			for _, reference := range []string{"1.0", fresh.Digest.String()} {
				got := p.get(t, images+repo+"/manifests/"+reference)
				if got.status != 503 || got.header.Get("Retry-After") == "" || strings.Contains(string(got.body), "hostile") {
					t.Errorf("%s of what nobody knows: status %d, Retry-After %q: %s", reference, got.status, got.header.Get("Retry-After"), got.body)
				}
			}
			s.upstream.SetIntercept(nil)
			end()
			began := time.Now()
			eventually(t, "it is let through", func() bool {
				got, err := client.pull(t.Context(), p.registry, repo, "1.0")
				return err == nil && got.status == http.StatusOK && got.digest == fresh.Digest
			})
			t.Logf("let through %v after the upstream was back", time.Since(began).Round(time.Millisecond))
		})
	}
}
