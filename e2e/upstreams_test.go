package e2e_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// TestUpstreams stands in front of registries that differ from the one the specification describes.
func TestUpstreams(t *testing.T) {
	for _, tt := range []struct {
		law     string
		options ocitest.Options
	}{
		{"that has no referrers API", ocitest.Options{NoReferrers: true}},
		{"that does not say digests", ocitest.Options{OmitDigestHeader: true}},
		{"that keeps its blobs elsewhere", ocitest.Options{RedirectBlobs: true}},
		{"that gives tokens to everybody", ocitest.Options{BearerAuth: &ocitest.Auth{}}},
		{"that wants credentials", ocitest.Options{BearerAuth: &ocitest.Auth{Username: "node", Password: "secret", SeparateRealm: true}}},
		{"that lists one entry a page", ocitest.Options{PageSize: 1}},
	} {
		t.Run("a registry "+tt.law, func(t *testing.T) {
			s := newSite(t, tt.options)
			if auth := tt.options.BearerAuth; auth != nil && auth.Username != "" {
				writeFile(t, s.path("password"), []byte(auth.Password+"\n"))
				s.upstreamKeys()["credentials"] = keys{"username": auth.Username, "password_file": s.path("password")}
				realm, _, _ := strings.Cut(s.upstream.TokenURL(), "/token")
				s.upstreamKeys()["realms"] = []string{realm}
			}
			s.pushSigned(t, "shop/web", shop(goodLodash))
			s.pushSigned(t, "shop/vulnerable", shop(badLodash))
			s.push(t, "shop/unsigned", shop(goodLodash, noise(1000, 1)))
			p := s.serve(t)
			p.mustPull(t, "shop/web")
			for repo, says := range map[string]string{"shop/vulnerable": "CVE-2019-10744", "shop/unsigned": "unsigned: no signature by release"} {
				if got := p.pull(t, repo); got.status != http.StatusForbidden || !strings.Contains(got.message, says) {
					t.Errorf("%s: %+v, want a refusal that says %q", repo, got, says)
				}
			}
		})
	}
}

// TestHostileUpstream has one layer answered wrongly, in front of a policy that must see it. That is no verdict: neither an admission
// nor a denial, and nothing that lasts.
func TestHostileUpstream(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	image := s.pushSigned(t, "shop/web", shop(goodLodash, noise(50_000, 1)))
	m := s.parsed(t, "shop/web", image.Digest)
	layer := m.Layers[3]
	content, _ := s.upstream.Blob("shop/web", layer.Digest)
	forged := append([]byte(nil), content...)
	forged[100]++
	p := s.serve(t)
	const octets = "application/octet-stream"
	for law, answer := range map[string]ocitest.Intercept{
		"other bytes of the right size":   ocitest.Body(octets, forged),
		"fewer bytes":                     ocitest.Body(octets, content[:40_000]),
		"more bytes":                      ocitest.Body(octets, append(append([]byte(nil), content...), "and more"...)),
		"bytes that break off every time": ocitest.ShortBody(octets, content, 10_000),
		"that there is no such layer":     ocitest.Status(http.StatusNotFound, 0, "hostile"),
		"a way into a private network":    ocitest.Redirect("http://127.0.0.1:1/admin"),
	} {
		t.Run("an upstream that answers "+law, func(t *testing.T) {
			s.upstream.SetIntercept(ocitest.When(ocitest.Gets(ocitest.KindBlob).Of(layer.Digest.String()), answer))
			defer s.upstream.SetIntercept(nil)
			got := p.get(t, "/v2/"+host+"/shop/web/manifests/1.0")
			if got.status != 503 || got.header.Get("Retry-After") == "" || strings.Contains(string(got.body), "hostile") {
				t.Errorf("status %d: %s, Retry-After %q", got.status, got.body, got.header.Get("Retry-After"))
			}
			for _, d := range m.Blobs() {
				if got := p.blob(t, "shop/web", d.Digest); got.status == http.StatusOK {
					t.Errorf("blob %s is served", d.Digest)
				}
			}
		})
	}
	t.Run("once it answers rightly the image is let through", func(t *testing.T) { p.mustPull(t, "shop/web") })
}

func TestStaleTags(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.upstreamKeys()["tag_ttl"], s.upstreamKeys()["stale_tags_for"] = "0s", "1h"
	image := s.pushSigned(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	s.upstream.SetIntercept(ocitest.Status(http.StatusServiceUnavailable, 0, "down for maintenance"))
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		got := p.ask(t, method, "/v2/"+host+"/shop/web/manifests/1.0")
		if got.status != 200 || got.header.Get("Docker-Content-Digest") != image.Digest.String() || !strings.HasPrefix(got.header.Get("Warning"), "110 ") {
			t.Errorf("%s: status %d, digest %s, Warning %q, want the old answer and a warning", method, got.status, got.header.Get("Docker-Content-Digest"), got.header.Get("Warning"))
		}
	}
	if got := p.get(t, "/v2/"+host+"/shop/web/manifests/other"); got.status != 503 {
		t.Errorf("a tag nobody asked for before: status %d, want 503", got.status)
	}
}
