package signing_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
)

// Every place is looked at, and none twice: one bundle costs five requests, and the image's own manifest, which whoever asks for the
// signatures has read already, makes six of the seven that are allowed.
func TestRequestsForOneBundle(t *testing.T) {
	for name, listed := range map[string]struct{ api, tag bool }{
		"by the API":          {true, false},
		"by the fallback tag": {false, true},
		"by both":             {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := ocitest.StartRegistry(ocitest.Options{NoReferrers: !listed.api})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(r.Close)
			image, err := r.PushImage("acme/app", "v1", ocitest.Image{})
			if err != nil {
				t.Fatal(err)
			}
			release := newP256(t)
			layer := blobOf(oci.MediaTypeSigstoreBundle, signedBundle(t, release, statementOf(signPredicate, image.Digest)))
			r.PutBlob("acme/app", layer.raw)
			m := contentOf(t, oci.MediaTypeImage, holder(oci.MediaTypeSigstoreBundle, image.Digest, layer))
			r.PutManifest("acme/app", m.Digest.String(), m.MediaType, m.Raw)
			if desc := m.Descriptor(); listed.tag {
				desc.ArtifactType = oci.MediaTypeSigstoreBundle
				if err := r.ListReferrer("acme/app", image.Digest, desc); err != nil {
					t.Fatal(err)
				}
			}
			v, err := signing.New(signing.Options{Registry: overHTTP(t, r), Roots: func() *gate.TrustRoots {
				return &gate.TrustRoots{Authorities: []gate.Authority{authorityOf(t, "release", release)}}
			}})
			if err != nil {
				t.Fatal(err)
			}
			c := gate.Candidate{Repository: oci.Repository{Upstream: r.Host(), Path: "acme/app"}, Digest: image.Digest}
			if got, err := v.Verify(t.Context(), c, gate.Wanted{Signatures: []string{"release"}}); err != nil || len(got.Signatures) != 1 {
				t.Fatalf("got %v, %v, want one signature", got, err)
			}
			var asked []string
			for _, q := range r.Requests() {
				asked = append(asked, fmt.Sprintf("%s %s %s", q.Method, q.Kind, q.Reference))
			}
			slices.Sort(asked)
			want := []string{
				"GET blob " + layer.desc.Digest.String(), "GET manifest " + ocitest.TagOf(image.Digest, ""),
				"GET manifest " + ocitest.TagOf(image.Digest, ".sig"), "GET manifest " + m.Digest.String(), "GET referrers " + image.Digest.String(),
			}
			slices.Sort(want)
			if diff := cmp.Diff(asked, want); diff != "" {
				t.Errorf("asked of the registry, got -, want +:\n%s", diff)
			}
		})
	}
}
