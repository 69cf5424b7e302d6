package signing_test

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
)

// bomb returns about a megabyte that unpacks to a gibibyte.
func bomb(t *testing.T) []byte {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	zeros := make([]byte, 1<<20)
	for range 1 << 10 {
		if _, err := z.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// Nothing is unpacked: a megabyte of gzip costs its own size a few times, in whatever format it is offered, and what lies beside it counts.
func TestNothingIsUnpacked(t *testing.T) {
	const most = 64 << 20
	b := newBench(t)
	packed := bomb(t)
	b.bundle(t, packed)
	layer := blobOf(oci.MediaTypeDSSE, packed)
	b.attach(t, b.repo, b.digest, holder("application/vnd.in-toto+json", b.digest, layer), layer)
	for _, mediaType := range []string{jws, cose} {
		signature := blobOf(mediaType, packed[:200<<10])
		b.attach(t, b.repo, b.digest, holder(notationType, b.digest, signature), signature)
	}
	b.good(t)
	v, err := signing.New(b.options)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := v.Verify(t.Context(), b.candidate(), gate.Wanted{Signatures: []string{"release"}, MediaType: oci.MediaTypeImage, SizeBytes: imageBytes})
	runtime.ReadMemStats(&after)
	if err != nil || len(got.Signatures) != 1 || len(got.Rejections) != 4 {
		t.Errorf("got %v, %v; want one signature and four rejections", got, err)
	}
	if spent := after.TotalAlloc - before.TotalAlloc; spent > most {
		t.Errorf("%d bytes were allocated, at most %d should be", spent, most)
	}
}

// Over HTTP, from a registry with and without the referrers API, every way of signing is found at once; from one that does not let us
// look, nothing is, and that is a failure (51).
func TestEveryWayOverHTTP(t *testing.T) {
	for name, tc := range map[string]struct {
		noAPI     bool
		intercept func(w http.ResponseWriter, r *http.Request) bool // true when it has answered
		fails     bool
	}{
		"with the API":      {},
		"without the API":   {noAPI: true},
		"500":               {intercept: refusing("/referrers/", http.StatusInternalServerError), fails: true},
		"403":               {intercept: refusing("/referrers/", http.StatusForbidden), fails: true},
		"429":               {intercept: refusing("/referrers/", http.StatusTooManyRequests), fails: true},
		"401 on the tag":    {intercept: refusing(".sig", http.StatusUnauthorized), fails: true},
		"500 on a bundle":   {intercept: refusing("/blobs/", http.StatusInternalServerError), fails: true},
		"500 on a referrer": {intercept: refusing("/manifests/sha256:", http.StatusInternalServerError), fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := ocitest.StartRegistry(ocitest.Options{NoReferrers: tc.noAPI})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(r.Close)
			image, err := r.PushImage("acme/app", "v1", ocitest.Image{})
			if err != nil {
				t.Fatal(err)
			}
			k := newKeylessBench(t, nil)
			k.digest = image.Digest
			k.options.Registry = overHTTP(t, r)
			k.repo = oci.Repository{Upstream: r.Host(), Path: "acme/app"}
			attachTo(t, r, image, blobOf(oci.MediaTypeSigstoreBundle, k.goodSignature(t).bundle(t)))
			attachTo(t, r, image, blobOf(oci.MediaTypeSigstoreBundle, signedBundle(t, k.release, saying(sbomType, "{}", image.Digest))))
			if tc.intercept != nil {
				r.SetIntercept(tc.intercept)
			}
			v, err := signing.New(k.options)
			if err != nil {
				t.Fatal(err)
			}
			wanted := sboms("release")
			wanted.Signatures = []string{"actions"}
			got, err := v.Verify(t.Context(), gate.Candidate{Repository: k.repo, Digest: image.Digest}, wanted)
			if tc.fails {
				if err == nil || len(got.Signatures)+len(got.Attestations) > 0 {
					t.Errorf("got %v, %v; want a failure and nothing else", got, err)
				}
				return
			}
			if err != nil || len(got.Signatures) != 1 || len(got.Attestations) != 1 || len(got.Rejections) != 0 {
				t.Errorf("got %v, %v; want a signature and an attestation", got, err)
			}
		})
	}
}

func refusing(part string, status int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, part) {
			return false
		}
		w.WriteHeader(status)
		return true
	}
}

// attachTo stores a layer in a manifest that refers to image.
func attachTo(t *testing.T, r *ocitest.Registry, image oci.Descriptor, layer blob) {
	t.Helper()
	r.PutBlob("acme/app", layer.raw)
	m := holder(layer.desc.MediaType, image.Digest, layer)
	m.Config = r.PutBlob("acme/app", []byte("{}"))
	m.Config.MediaType = oci.MediaTypeEmpty
	content := contentOf(t, oci.MediaTypeImage, m)
	r.PutManifest("acme/app", "", content.MediaType, content.Raw)
	desc := content.Descriptor()
	desc.ArtifactType = layer.desc.MediaType
	if err := r.ListReferrer("acme/app", image.Digest, desc); err != nil {
		t.Fatal(err)
	}
}
