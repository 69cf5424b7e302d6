package e2e_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// TestForward: what is admitted in a hosted repository arrives at an upstream, image and evidence, whatever happens on the way; what is
// not admitted never does.
func TestForward(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	mirror := startRegistry(t, ocitest.Options{})
	s.config["upstreams"] = append(s.config["upstreams"].([]any), keys{"host": "mirror.test", "url": mirror.URL(), "unsafe_private_addresses": true})
	s.config["hosted"] = []any{keys{"repositories": []string{"apps/**"}, "forward_to": "mirror.test/copies"}}
	config := s.write(t)
	image, unsigned := s.push(t, "shop/web", shop(goodLodash)), s.push(t, "shop/unsigned", shop(goodLodash, noise(1<<12, 3)))
	child := s.push(t, "shop/multi", shop(goodLodash, noise(1<<12, 4)))
	index, err := s.upstream.PushIndex("shop/multi", "1.0", child)
	if err != nil {
		t.Fatal(err)
	}
	has := func(reference string, want oci.Digest) bool {
		content, ok := mirror.Manifest("copies/apps/web", reference)
		return ok && content.Digest == want
	}

	// The mirror is down while everything is pushed and admitted, and the proxy is killed before it is up again.
	mirror.SetIntercept(ocitest.When(func(ocitest.Request) bool { return true }, ocitest.Status(http.StatusServiceUnavailable, time.Second, "")))
	p := serve(t, config)
	ci := pusher{t, p, "ci"}
	ci.image(s.upstream, "shop/unsigned", unsigned.Digest, "apps/web", "unsigned")
	ci.image(s.upstream, "shop/web", image.Digest, "apps/web", "1.0")
	ci.signed(s, "shop/web", image.Digest, "apps/web", s.release)
	ci.image(s.upstream, "shop/multi", child.Digest, "apps/web", "")
	content, _ := s.upstream.Manifest("shop/multi", index.Digest.String())
	ci.manifest("apps/web", "multi", content)
	ci.signed(s, "shop/multi", index.Digest, "apps/web", s.release)
	eventually(t, "an attempt to forward fails", func() bool {
		return p.metric(t, "tidewaiter_forwards_total", `outcome="copied"`) == 0 && p.log.count(says("forward")) > 0
	})
	p.kill()
	mirror.SetIntercept(nil)

	p = serve(t, config)
	eventually(t, "the image arrives under its tag", func() bool { return has("1.0", image.Digest) })
	eventually(t, "the index arrives", func() bool { return has("multi", index.Digest) && has(child.Digest.String(), child.Digest) })
	for _, d := range []oci.Digest{image.Digest, index.Digest} {
		for _, referrer := range referrersOf(pusher{t, p, "ci"}, "apps/web", d) {
			eventually(t, "the signature arrives", func() bool { return has(referrer, oci.Digest(referrer)) })
		}
	}
	t.Run("a signature that comes later goes after its image", func(t *testing.T) {
		before := referrersOf(pusher{t, p, "ci"}, "apps/web", image.Digest)
		pusher{t, p, "signer"}.signed(s, "shop/web", image.Digest, "apps/web", s.stranger)
		after := referrersOf(pusher{t, p, "ci"}, "apps/web", image.Digest)
		if len(after) != len(before)+1 {
			t.Fatalf("%d referrers, want one more than %d", len(after), len(before))
		}
		for _, referrer := range after {
			eventually(t, "the later signature arrives", func() bool { return has(referrer, oci.Digest(referrer)) })
		}
	})
	t.Run("what is not admitted stays here", func(t *testing.T) {
		for _, reference := range []string{"unsigned", unsigned.Digest.String()} {
			if _, ok := mirror.Manifest("copies/apps/web", reference); ok {
				t.Errorf("%s has arrived", reference)
			}
		}
	})
	p.stop(t)
}
