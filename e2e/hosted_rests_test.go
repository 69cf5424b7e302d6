package e2e_test

import (
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// TestAVerdictDoesNotOutliveWhatItRestsOn admits an image for each kind of thing a verdict can rest on, and takes that away.
func TestAVerdictDoesNotOutliveWhatItRestsOn(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	s.config["listen"].(keys)["names"] = []string{"registry.corp"}
	p := s.serve(t)
	ci, nobody := pusher{t, p, "ci"}, pusher{t, p, ""}
	const manifests = "/v2/apps/web/manifests/"
	remove := func(reference string) { ci.must(202, "DELETE", manifests+reference, nil) }
	seed := uint64(100)
	// pushed pushes an image nobody else pushes, and returns it and a blob it alone has.
	pushed := func(t *testing.T, source string) (image, layer oci.Digest) {
		t.Helper()
		seed++
		desc := s.push(t, source, shop(goodLodash, noise(1000, seed)))
		ci.image(s.upstream, source, desc.Digest, "apps/web", "")
		layers := s.parsed(t, source, desc.Digest).Layers
		return desc.Digest, layers[len(layers)-1].Digest
	}
	bundle := func(t *testing.T, source string, d oci.Digest) string {
		t.Helper()
		signature, err := s.upstream.SignBundle(source, d, s.release, ocitest.Statement{}, ocitest.Mint{})
		if err != nil {
			t.Fatal(err)
		}
		ci.image(s.upstream, source, signature.Digest, "apps/web", "")
		return signature.Digest.String()
	}
	legacy := func(t *testing.T, source string, d oci.Digest) (tag string, signatures oci.Digest) {
		t.Helper()
		signed, err := s.upstream.SignLegacy(source, d, s.release, "registry.corp/apps/web", ocitest.Mint{})
		if err != nil {
			t.Fatal(err)
		}
		tag = "sha256-" + d.Encoded() + ".sig"
		ci.image(s.upstream, source, signed.Digest, "apps/web", tag)
		return tag, signed.Digest
	}
	index := func(t *testing.T, source string, child oci.Digest) oci.Digest {
		t.Helper()
		content, _ := s.upstream.Manifest(source, child.String())
		list, err := s.upstream.PushIndex(source, "multi", content.Descriptor())
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := s.upstream.Manifest(source, list.Digest.String())
		ci.manifest("apps/web", "multi-"+child.Encoded()[:12], raw)
		return list.Digest
	}
	for law, rest := range map[string]func(t *testing.T, source string, image oci.Digest) (take func()){
		"a signature": func(t *testing.T, source string, image oci.Digest) func() {
			signature := bundle(t, source, image)
			return func() { remove(signature) }
		},
		"a signature whose blob goes": func(t *testing.T, source string, image oci.Digest) func() {
			signature := oci.Digest(bundle(t, source, image))
			blob := s.parsed(t, source, signature).Layers[0].Digest
			return func() { ci.must(202, "DELETE", "/v2/apps/web/blobs/"+blob.String(), nil) }
		},
		"a signature under a tag, which goes": func(t *testing.T, source string, image oci.Digest) func() {
			tag, _ := legacy(t, source, image)
			return func() { remove(tag) }
		},
		"a signature under a tag that goes with what it stands for": func(t *testing.T, source string, image oci.Digest) func() {
			_, signatures := legacy(t, source, image)
			return func() { remove(signatures.String()) }
		},
		"an index that is signed, which goes": func(t *testing.T, source string, image oci.Digest) func() {
			list := index(t, source, image)
			bundle(t, source, list)
			return func() { remove(list.String()) }
		},
		"an index whose signature goes": func(t *testing.T, source string, image oci.Digest) func() {
			signature := bundle(t, source, index(t, source, image))
			return func() { remove(signature) }
		},
		"an index whose signature under a tag goes": func(t *testing.T, source string, image oci.Digest) func() {
			tag, _ := legacy(t, source, index(t, source, image))
			return func() { remove(tag) }
		},
	} {
		t.Run(law, func(t *testing.T) {
			ci, nobody = pusher{t, p, "ci"}, pusher{t, p, ""}
			source := "shop/" + oci.FromBytes([]byte(law)).Encoded()[:12]
			image, layer := pushed(t, source)
			nobody.must(403, "GET", manifests+image.String(), nil)
			for range 2 { // what was taken away may come back, and be taken away again
				take := rest(t, source, image)
				nobody.must(200, "GET", manifests+image.String(), nil)
				nobody.must(200, "GET", "/v2/apps/web/blobs/"+layer.String(), nil)
				take()
				nobody.must(403, "GET", manifests+image.String(), nil)
				nobody.must(403, "HEAD", manifests+image.String(), nil)
				nobody.must(404, "GET", "/v2/apps/web/blobs/"+layer.String(), nil)
			}
		})
	}
}
