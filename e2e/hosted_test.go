package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// eventually returns once done does, and fails the test when it never does. What is waited for happens in the background by itself.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond) // to look again; that it has happened is what is waited for
	defer ticker.Stop()
	vain := time.After(patience)
	for !done() {
		select {
		case <-ticker.C:
		case <-vain:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// TestPushedPendingServed follows an image from its push by CI, before and after it is signed, to those who pull it.
func TestPushedPendingServed(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	p := s.serve(t)
	ci, signer, nobody := pusher{t, p, "ci"}, pusher{t, p, "signer"}, pusher{t, p, ""}
	first := s.push(t, "shop/first", shop(goodLodash))
	second := s.push(t, "shop/second", shop(goodLodash, noise(1<<16, 9)))
	vulnerable := s.push(t, "shop/vulnerable", shop(badLodash))
	layer := func(source string, d oci.Digest, i int) string {
		return "/v2/apps/web/blobs/" + s.parsed(t, source, d).Layers[i].Digest.String()
	}
	const tag = "/v2/apps/web/manifests/1.0"
	digestOf := func(r reply) oci.Digest { return oci.Digest(r.header.Get("Docker-Content-Digest")) }

	t.Run("nobody pushes without a right", func(t *testing.T) {
		nobody.must(401, "POST", "/v2/apps/web/blobs/uploads/", nil)
		signer.must(403, "PUT", tag, strings.NewReader(`{"schemaVersion":2,"manifests":[]}`), "Content-Type", oci.MediaTypeIndex)
		ci.must(405, "POST", "/v2/"+host+"/shop/first/blobs/uploads/", nil)
	})
	ci.image(s.upstream, "shop/first", first.Digest, "apps/web", "1.0")
	t.Run("whoever pushed reads it back, and so does whoever signs", func(t *testing.T) {
		for _, u := range []pusher{ci, signer} {
			if got := digestOf(u.must(200, "GET", tag, nil)); got != first.Digest {
				t.Errorf("got %s, want %s", got, first.Digest)
			}
			u.must(200, "HEAD", layer("shop/first", first.Digest, 0), nil)
		}
	})
	t.Run("everybody else gets the refusal, and no blob", func(t *testing.T) {
		if r := nobody.must(403, "GET", tag, nil); !strings.Contains(string(r.body), "production: unsigned") {
			t.Errorf("got %s", r.body)
		}
		nobody.must(404, "GET", layer("shop/first", first.Digest, 0), nil)
	})
	t.Run("a stranger's signature changes nothing", func(t *testing.T) {
		signer.signed(s, "shop/first", first.Digest, "apps/web", s.stranger)
		nobody.must(403, "GET", tag, nil)
	})
	t.Run("a good signature admits it at once", func(t *testing.T) {
		signer.signed(s, "shop/first", first.Digest, "apps/web", s.release)
		nobody.must(200, "GET", tag, nil)
		nobody.must(200, "GET", layer("shop/first", first.Digest, 0), nil)
	})
	t.Run("a tag that moves on is served as it was until the new image is admitted", func(t *testing.T) {
		ci.image(s.upstream, "shop/second", second.Digest, "apps/web", "1.0")
		for _, method := range []string{"GET", "HEAD"} {
			if got := digestOf(nobody.must(200, method, tag, nil)); got != first.Digest {
				t.Errorf("%s: got %s, want what was admitted, %s", method, got, first.Digest)
			}
			if got := digestOf(ci.must(200, method, tag, nil)); got != second.Digest {
				t.Errorf("%s by ci: got %s, want what was pushed, %s", method, got, second.Digest)
			}
		}
		nobody.must(403, "GET", "/v2/apps/web/manifests/"+second.Digest.String(), nil)
		signer.signed(s, "shop/second", second.Digest, "apps/web", s.release)
		eventually(t, "the tag is served as it was pushed", func() bool { return digestOf(nobody.must(200, "HEAD", tag, nil)) == second.Digest })
	})
	t.Run("a signature does not make up for a vulnerability", func(t *testing.T) {
		ci.image(s.upstream, "shop/vulnerable", vulnerable.Digest, "apps/web", "2.0")
		signer.signed(s, "shop/vulnerable", vulnerable.Digest, "apps/web", s.release)
		if r := nobody.must(403, "GET", "/v2/apps/web/manifests/2.0", nil); !strings.Contains(string(r.body), "CVE-2019-10744") {
			t.Errorf("got %s", r.body)
		}
	})
	t.Run("lists show what each may see", func(t *testing.T) {
		for _, tt := range []struct {
			u    pusher
			want string
		}{{ci, `"tags":["1.0","2.0"]`}, {nobody, `"tags":["1.0"]`}} {
			if r := tt.u.must(200, "GET", "/v2/apps/web/tags/list", nil); !strings.Contains(string(r.body), tt.want) {
				t.Errorf("%q: got %s, want %s", tt.u.name, r.body, tt.want)
			}
		}
		if r := nobody.must(200, "GET", "/v2/_catalog", nil); string(r.body) != `{"repositories":["apps/web"]}` {
			t.Errorf("got %s", r.body)
		}
		if r := nobody.must(200, "GET", "/v2/apps/web/referrers/"+first.Digest.String(), nil); strings.Count(string(r.body), `"digest"`) != 2 {
			t.Errorf("got %s, want both signatures", r.body)
		}
	})
	t.Run("check judges what was pushed, from the storage alone", func(t *testing.T) {
		for reference, want := range map[string]int{"apps/web:1.0": 0, "apps/web:2.0": 3, "apps/web:none": 1} {
			if got := tidewaiter(t, "check", "--config", s.path("tidewaiter.yaml"), reference); got.code != want {
				t.Errorf("%s: got %d, want %d; it says\n%s%s", reference, got.code, want, got.stdout, got.stderr)
			}
		}
	})
	t.Run("what is deleted is gone for everybody", func(t *testing.T) {
		signer.must(403, "DELETE", tag, nil)
		ci.must(202, "DELETE", "/v2/apps/web/manifests/"+second.Digest.String(), nil)
		for _, u := range []pusher{ci, nobody} {
			u.must(404, "GET", "/v2/apps/web/manifests/"+second.Digest.String(), nil)
			u.must(404, "GET", tag, nil)
		}
		nobody.must(404, "GET", layer("shop/second", second.Digest, len(s.parsed(t, "shop/second", second.Digest).Layers)-1), nil)
	})
}

// TestPushedSurvives kills the proxy after each acknowledged step, and looks whether the next process knows of it.
func TestPushedSurvives(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	config := s.write(t)
	image := s.push(t, "shop/web", shop(goodLodash))
	const tag = "/v2/apps/web/manifests/1.0"
	for i, step := range []struct {
		law  string
		do   func(ci pusher)
		want int // what whoever pulls the tag gets
	}{
		{"an image", func(ci pusher) { ci.image(s.upstream, "shop/web", image.Digest, "apps/web", "1.0") }, 403},
		{"its signature", func(ci pusher) { ci.signed(s, "shop/web", image.Digest, "apps/web", s.release) }, 200},
		{"its admission", func(ci pusher) { pusher{ci.t, ci.p, ""}.must(200, "GET", tag, nil) }, 200},
		{"that the signature is gone", func(ci pusher) {
			for _, d := range referrersOf(ci, "apps/web", image.Digest) {
				ci.must(202, "DELETE", "/v2/apps/web/manifests/"+d, nil)
			}
		}, 403},
		{"that the tag is gone", func(ci pusher) { ci.must(202, "DELETE", tag, nil) }, 404},
	} {
		t.Run(fmt.Sprintf("%d %s", i, step.law), func(t *testing.T) {
			p := serve(t, config)
			step.do(pusher{t, p, "ci"})
			p.kill()
			p = serve(t, config)
			pusher{t, p, ""}.must(step.want, "GET", tag, nil)
			p.stop(t)
		})
	}
}

// referrersOf returns the digests of what refers to an image.
func referrersOf(u pusher, repo string, d oci.Digest) []string {
	u.t.Helper()
	r := u.must(200, "GET", "/v2/"+repo+"/referrers/"+d.String(), nil)
	m, err := oci.ParseManifest(oci.MediaTypeIndex, r.body)
	if err != nil {
		u.t.Fatal(err)
	}
	var all []string
	for _, desc := range m.Manifests {
		all = append(all, desc.Digest.String())
	}
	return all
}
