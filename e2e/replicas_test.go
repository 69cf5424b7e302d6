package e2e_test

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// TestTwoProxies has two processes work on one storage, as replicas do: what one has acknowledged, the other goes by within seconds.
func TestTwoProxies(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	s.config["hosted"] = []any{keys{"repositories": []string{"apps/**"}, "tags": "immutable-semver"}}
	a, b := s.serve(t), s.serve(t)
	ciA, ciB, nobodyA, nobodyB := pusher{t, a, "ci"}, pusher{t, b, "ci"}, pusher{t, a, ""}, pusher{t, b, ""}
	const tag = "/v2/apps/web/manifests/latest"
	is := func(u pusher, status int) func() bool {
		return func() bool { return u.send("GET", tag, nil).status == status }
	}
	image := s.push(t, "shop/web", shop(goodLodash))
	ciA.image(s.upstream, "shop/web", image.Digest, "apps/web", "latest")
	nobodyB.must(403, "GET", tag, nil)
	ciB.signed(s, "shop/web", image.Digest, "apps/web", s.release)
	nobodyB.must(200, "GET", tag, nil)
	eventually(t, "the other goes by the signature", is(nobodyA, 200))
	signatures := referrersOf(ciA, "apps/web", image.Digest)
	if len(signatures) != 1 {
		t.Fatalf("got %d signatures, want one", len(signatures))
	}
	ciA.must(202, "DELETE", "/v2/apps/web/manifests/"+signatures[0], nil)
	nobodyA.must(403, "GET", tag, nil)
	eventually(t, "the other goes by the signature no more", is(nobodyB, 403))
	ciB.must(202, "DELETE", "/v2/apps/web/manifests/"+image.Digest.String(), nil)
	nobodyB.must(404, "GET", tag, nil)
	eventually(t, "the other has the image no more", is(nobodyA, 404))

	t.Run("a tag that must not move is promised to one of them at most", func(t *testing.T) {
		for n := range 20 {
			reference := fmt.Sprintf("/v2/apps/web/manifests/v1.0.%d", n)
			var digests [2]oci.Digest
			var statuses [2]int
			var pushing sync.WaitGroup
			for i, ci := range []pusher{ciA, ciB} {
				raw := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[],"annotations":{"of":"%d"}}`, i)
				digests[i] = oci.FromBytes(raw)
				pushing.Go(func() {
					statuses[i] = ci.send("PUT", reference, bytes.NewReader(raw), "Content-Type", oci.MediaTypeIndex).status
				})
			}
			pushing.Wait()
			// Whoever is not told that it has the tag is told that it has not, or to push again; perhaps both are.
			won := slices.Index(statuses[:], 201)
			for i, status := range statuses {
				if i != won && status != 403 && status != 503 {
					t.Fatalf("got %v, want one of them at most", statuses)
				}
			}
			for _, ci := range []pusher{ciA, ciB} {
				r := ci.send("HEAD", reference, nil)
				if got := r.header.Get("Docker-Content-Digest"); won < 0 && r.status != 404 || won >= 0 && got != digests[won].String() {
					t.Errorf("%s, pushed with %v: got %d %s", reference, statuses, r.status, got)
				}
			}
		}
	})
	t.Run("of eight that sign at the same time, at both, none is lost", func(t *testing.T) {
		next := s.push(t, "shop/next", shop(goodLodash, noise(1000, 11)))
		ciA.image(s.upstream, "shop/next", next.Digest, "apps/web", "")
		var want []string
		var signing sync.WaitGroup
		signatures := "sha256-" + next.Digest.Encoded() + ".sig"
		for n := range 8 {
			key, source := newKey(t), fmt.Sprintf("shop/next-%d", n)
			s.upstream.PutManifest(source, "1.0", oci.MediaTypeIndex, []byte(`{"schemaVersion":2,"manifests":[]}`))
			signed, err := s.upstream.SignLegacy(source, next.Digest, key, "registry.corp/apps/web", ocitest.Mint{})
			if err != nil {
				t.Fatal(err)
			}
			content, _ := s.upstream.Manifest(source, signed.Digest.String())
			m := s.parsed(t, source, signed.Digest)
			want = append(want, m.Layers[0].Annotations["dev.cosignproject.cosign/signature"])
			ci := []pusher{ciA, ciB}[n%2]
			for _, d := range m.Blobs() {
				blob, _ := s.upstream.Blob(source, d.Digest)
				ci.blob("apps/web", blob)
			}
			signing.Go(func() {
				for range 10 { // a client that is told to come back does
					if r := ci.send("PUT", "/v2/apps/web/manifests/"+signatures, bytes.NewReader(content.Raw), "Content-Type", content.MediaType); r.status != 503 {
						if r.status != 201 {
							t.Errorf("signing: got %d %s", r.status, r.body)
						}
						return
					}
				}
			})
		}
		signing.Wait()
		slices.Sort(want)
		for _, ci := range []pusher{ciA, ciB} {
			var got []string
			eventually(t, "all signatures are there", func() bool {
				r := ci.must(200, "GET", "/v2/apps/web/manifests/"+signatures, nil)
				m, err := oci.ParseManifest(oci.BaseMediaType(r.header.Get("Content-Type")), r.body)
				if err != nil {
					t.Fatal(err)
				}
				got = nil
				for _, l := range m.Layers {
					got = append(got, l.Annotations["dev.cosignproject.cosign/signature"])
				}
				return len(got) >= len(want)
			})
			slices.Sort(got)
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("signatures (-got +want):\n%s", diff)
			}
		}
	})
}
