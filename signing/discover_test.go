package signing_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

const legacyReferrerType = "application/vnd.dev.cosign.artifact.sig.v1+json"

// Every way in which signatures are stored is looked at, and none keeps another from being looked at.
func TestWays(t *testing.T) {
	run(t, map[string]attack{
		"referrers API": {counts: 1, attach: func(t *testing.T, b *bench) { b.good(t) }},
		"36 junk bundle beside a good legacy signature": {counts: 1, why: "not a sigstore bundle", attach: func(t *testing.T, b *bench) {
			b.bundle(t, []byte("junk"))
			b.legacy(t, b.goodLayer(t))
		}},
		"36 junk legacy signature beside a good bundle": {counts: 1, why: "no signature", attach: func(t *testing.T, b *bench) {
			b.good(t)
			b.legacy(t, legacyLayer([]byte("{}"), nil))
		}},
		"37 100 junk bundles and a good one": {counts: 1, why: "not a sigstore bundle", attach: func(t *testing.T, b *bench) {
			junk(t, b, 100)
			b.good(t)
		}},
		"37 100 junk bundles and a good legacy signature": {counts: 1, why: "not a sigstore bundle", attach: func(t *testing.T, b *bench) {
			junk(t, b, 100)
			b.legacy(t, b.goodLayer(t))
		}},
		"all at once": {counts: 3, attach: func(t *testing.T, b *bench) {
			b.good(t)
			b.legacy(t, b.goodLayer(t))
			b.attach(t, b.repo, b.digest, holder(legacyReferrerType, b.digest, b.goodLayer(t)), b.goodLayer(t))
		}},
		"legacy signature as a referrer, type by its config": {counts: 1, attach: func(t *testing.T, b *bench) {
			m := holder("", b.digest, b.goodLayer(t))
			m.Config.MediaType = legacyReferrerType
			b.attach(t, b.repo, b.digest, m, b.goodLayer(t))
		}},
		"65 listed twice": {counts: 1, attach: func(t *testing.T, b *bench) {
			b.good(t)
			b.listed = slices.Repeat(b.attachments(), 3)
		}},
		"listed without a type": {counts: 1, attach: func(t *testing.T, b *bench) {
			b.good(t)
			b.listed = b.attachments()
			b.listed[0].ArtifactType = ""
		}},
		"listed as empty": {counts: 1, attach: func(t *testing.T, b *bench) {
			b.good(t)
			b.listed = b.attachments()
			b.listed[0].ArtifactType = oci.MediaTypeEmpty
		}},
		"somebody else's referrer is left alone": {attach: func(t *testing.T, b *bench) {
			layer := blobOf("application/spdx+json", []byte("{}"))
			b.attach(t, b.repo, b.digest, holder("application/spdx+json", b.digest, layer), layer)
			b.listed = b.attachments()
			b.listed[0].ArtifactType = ""
		}},
		"a signature that claims to be an SBOM": {attach: func(t *testing.T, b *bench) {
			layer := blobOf(oci.MediaTypeSigstoreBundle, signedBundle(t, b.release, statementOf(signPredicate, b.digest)))
			b.attach(t, b.repo, b.digest, holder("application/spdx+json", b.digest, layer), layer)
			b.listed = b.attachments()
			b.listed[0].ArtifactType = oci.MediaTypeSigstoreBundle
		}},
	})
}

// attachments returns what was attached to the image.
func (b *bench) attachments() []oci.Descriptor {
	return slices.Clone(b.attached[b.repo.String()+" "+b.digest.String()])
}

func junk(t *testing.T, b *bench, n int) {
	t.Helper()
	for i := range n {
		b.bundle(t, fmt.Appendf(nil, "junk %d", i))
	}
}

// Who lists a referrer vouches for nothing: it is read by its digest and has to say itself what it is and refers to.
func TestReferrers(t *testing.T) {
	other := digestOf("other")
	run(t, map[string]attack{
		"14 bundle of another image": {why: "about other artifacts", attach: func(t *testing.T, b *bench) {
			b.bundle(t, signedBundle(t, b.release, statementOf(signPredicate, other)))
		}},
		"34 another image's referrer": {why: "does not refer to this image", attach: func(t *testing.T, b *bench) {
			layer := blobOf(oci.MediaTypeSigstoreBundle, signedBundle(t, b.release, statementOf(signPredicate, other)))
			b.attach(t, b.repo, b.digest, holder(oci.MediaTypeSigstoreBundle, other, layer), layer)
		}},
		"35 another image's referrer, whose statement names both": {why: "does not refer to this image", attach: func(t *testing.T, b *bench) {
			layer := blobOf(oci.MediaTypeSigstoreBundle, signedBundle(t, b.release, statementOf(signPredicate, other, b.digest)))
			b.attach(t, b.repo, b.digest, holder(oci.MediaTypeSigstoreBundle, other, layer), layer)
		}},
		"no subject": {why: "does not refer to this image", attach: func(t *testing.T, b *bench) {
			layer := blobOf(oci.MediaTypeSigstoreBundle, signedBundle(t, b.release, statementOf(signPredicate, b.digest)))
			b.attach(t, b.repo, b.digest, holder(oci.MediaTypeSigstoreBundle, "", layer), layer)
		}},
		"61 subject by sha512": {why: "the referrer", attach: func(t *testing.T, b *bench) {
			m := holder(oci.MediaTypeSigstoreBundle, b.digest)
			m.Subject.Digest = "sha512:" + oci.Digest(strings.Repeat("0", 128))
			b.attach(t, b.repo, b.digest, m)
		}},
		"not there": {counts: 1, why: "the manifest is not known", attach: func(t *testing.T, b *bench) {
			gone := b.bundle(t, []byte("gone"))
			delete(b.manifests, b.repo.String()+" "+gone.String())
			b.good(t)
		}},
		"bytes of another digest": {counts: 1, why: "does not match", attach: func(t *testing.T, b *bench) {
			good, bad := b.good(t), b.bundle(t, []byte("bad"))
			b.manifests[b.repo.String()+" "+bad.String()] = b.manifests[b.repo.String()+" "+good.String()]
		}},
		"bytes of another digest, as many": {why: "does not match", attach: func(t *testing.T, b *bench) {
			good := b.repo.String() + " " + b.good(t).String()
			content := b.manifests[good]
			content.Raw = bytes.Replace(content.Raw, []byte(`"size":1234`), []byte(`"size":4321`), 1)
			b.manifests[good] = content
		}},
		"another size": {counts: 1, why: "does not match", attach: func(t *testing.T, b *bench) {
			b.bundle(t, []byte("bad"))
			b.attached[b.repo.String()+" "+b.digest.String()][0].Size++
			b.good(t)
		}},
		"larger than manifests are": {counts: 1, why: "more than is read", attach: func(t *testing.T, b *bench) {
			b.bundle(t, []byte("bad"))
			b.attached[b.repo.String()+" "+b.digest.String()][0].Size = 4<<20 + 1
			b.good(t)
		}},
		"58 announced as an index": {counts: 1, why: "calls itself", attach: func(t *testing.T, b *bench) {
			bad := b.repo.String() + " " + b.bundle(t, []byte("bad")).String()
			content := b.manifests[bad]
			content.MediaType = oci.MediaTypeIndex
			b.manifests[bad] = content
			b.good(t)
		}},
	})
}

// A registry that cannot be looked into is a failure, whatever else was found. Only 404 means that there is nothing.
func TestFailures(t *testing.T) {
	causes := map[string]error{
		"401":     oci.ErrUnauthorized,
		"403":     &oci.Error{Code: oci.CodeDenied, Message: "denied"},
		"429":     oci.ErrRateLimited,
		"500":     oci.ErrUnavailable,
		"network": errors.New("connection reset by peer"),
		"404":     oci.ErrNotFound, // of a list, which has no business to be missing
	}
	for cause, failure := range causes {
		for where, what := range map[string]func(b *bench) string{
			"51 referrers": func(*bench) string { return "referrers" },
			".sig tag":     func(b *bench) string { return "manifest " + b.sigTag() },
			"referrer":     func(b *bench) string { return "manifest " + b.attachments()[0].Digest.String() },
			"bundle":       func(b *bench) string { return "blob " + digestOf("junk 0").String() },
			"legacy payload": func(b *bench) string {
				return "blob " + oci.FromBytes(payloadOf(b.repo.String(), b.digest.String())).String()
			},
		} {
			if cause == "404" && where != "51 referrers" {
				continue // a fact
			}
			t.Run(cause+" from "+where, func(t *testing.T) {
				b := newBench(t)
				junk(t, b, 1)
				b.good(t)
				b.legacy(t, b.goodLayer(t))
				failing := what(b)
				b.fails[failing] = fmt.Errorf("upstream: %w", failure)
				got, err := b.verify(t)
				if !errors.Is(err, failure) {
					t.Errorf("got %v, %v, want %v", got, err, failure)
				}
				if len(got.Signatures)+len(got.Rejections) != 0 {
					t.Errorf("evidence beside the error: %v", got)
				}
			})
		}
	}
}

// A connection that breaks while a layer is read is a failure, not a layer that is wrong.
func TestBrokenBody(t *testing.T) {
	b := newBench(t)
	b.good(t)
	b.options.Registry = broken{b.registry}
	if got, err := b.verify(t); !errors.Is(err, io.ErrUnexpectedEOF) || len(got.Rejections) != 0 {
		t.Errorf("got %v, %v, want io.ErrUnexpectedEOF", got, err)
	}
}

// broken is a registry whose blobs break off.
type broken struct{ *registry }

func (broken) Blob(context.Context, oci.Repository, oci.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader("{"), iotest.ErrReader(io.ErrUnexpectedEOF))), nil
}

// Bytes that a registry itself calls wrong are wrong, and nothing else is kept from counting by them.
func TestMalformedManifests(t *testing.T) {
	run(t, map[string]attack{
		".sig tag": {counts: 1, why: ".sig: the manifest is malformed", attach: func(t *testing.T, b *bench) {
			b.fails["manifest "+b.sigTag()] = oci.ErrManifestInvalid
			b.good(t)
		}},
		"unusable digests in the list": {counts: 1, why: "unusable digest", attach: func(t *testing.T, b *bench) {
			b.good(t)
			b.listed = b.attachments()
			for _, d := range []oci.Digest{"", "sha256:../../etc", "latest", "sha512:" + oci.Digest(strings.Repeat("0", 128))} {
				b.listed = append(b.listed, oci.Descriptor{Digest: d, ArtifactType: oci.MediaTypeSigstoreBundle})
			}
		}},
		"negative size in the list": {counts: 1, why: "more than is read", attach: func(t *testing.T, b *bench) {
			b.good(t)
			b.listed = append(b.attachments(), oci.Descriptor{Digest: digestOf("other"), Size: -1})
		}},
	})
}

// There are more things than are read: what is small and listed is read first, whatever the order of the list, and what is left out
// is said.
func TestLimits(t *testing.T) {
	t.Run("200 referrers", func(t *testing.T) {
		b := newBench(t)
		junk(t, b, 250)
		got, err := b.verify(t)
		if err != nil {
			t.Fatal(err)
		}
		opened := 0
		for _, d := range b.attachments() {
			if b.asked("manifest " + d.Digest.String()) {
				opened++
			}
		}
		if opened != 200 || len(got.Signatures) != 0 {
			t.Errorf("got %d opened, %v; want 200", opened, got.Signatures)
		}
	})
	t.Run("200 referrers, the smallest", func(t *testing.T) {
		b := newBench(t)
		for i := range 250 {
			m := holder(oci.MediaTypeSigstoreBundle, b.digest)
			m.Config.Annotations = map[string]string{"padding": strings.Repeat("x", 1000+i)}
			b.attach(t, b.repo, b.digest, m)
		}
		b.good(t)
		got, err := b.verify(t)
		if err != nil || len(got.Signatures) != 1 || !strings.Contains(whysOf(got), "one of 51 referrers too many") {
			t.Errorf("got %v, %v, want one signature and 51 referrers left out", got, err)
		}
	})
	t.Run("bytes of manifests", func(t *testing.T) {
		b := newBench(t)
		for i := range 13 { // 13 × 2.7 MiB; the good one is smaller and comes first, though listed last
			m := holder(oci.MediaTypeSigstoreBundle, b.digest)
			m.Config.Annotations = map[string]string{"padding": strings.Repeat("x", 2_800_000+i)}
			b.attach(t, b.repo, b.digest, m)
		}
		b.good(t)
		got, err := b.verify(t)
		if err != nil || len(got.Signatures) != 1 || !strings.Contains(whysOf(got), "bytes is more than is read") {
			t.Errorf("got %v, %v, want one signature and referrers left out", got, err)
		}
	})
	t.Run("bytes of layers", func(t *testing.T) {
		b := newBench(t)
		for i := range 5 { // 5 × 8 MiB in smaller manifests than the good one's; four of them would leave nothing
			b.bundle(t, slices.Repeat([]byte{byte('a' + i)}, 8<<20))
		}
		layer := blobOf(oci.MediaTypeSigstoreBundle, signedBundle(t, b.release, statementOf(signPredicate, b.digest)))
		m := holder(oci.MediaTypeSigstoreBundle, b.digest, layer)
		m.Config.Annotations = map[string]string{"padding": strings.Repeat("x", 1000)}
		b.attach(t, b.repo, b.digest, m, layer)
		got, err := b.verify(t)
		if err != nil || len(got.Signatures) != 1 || !strings.Contains(whysOf(got), "a layer of 8388608 bytes is more than is read") {
			t.Errorf("got %v, %v, want one signature and a layer left out", got.Signatures, err)
		}
	})
	t.Run("one layer", func(t *testing.T) {
		b := newBench(t)
		large := blobOf(oci.MediaTypeSigstoreBundle, []byte("large"))
		large.desc.Size = 8<<20 + 1
		b.attach(t, b.repo, b.digest, holder(oci.MediaTypeSigstoreBundle, b.digest, large), large)
		got, err := b.verify(t)
		if err != nil || !strings.Contains(whysOf(got), "more than is read") || b.asked("blob "+large.desc.Digest.String()) {
			t.Errorf("got %v, %v after %v, want a rejection without a request", got, err, b.reads)
		}
	})
	t.Run("legacy signatures hidden behind legacy referrers", func(t *testing.T) {
		b := newBench(t)
		layers := manyLayers(t, b, 50)
		for i := range 10 { // 500 layers, each smaller than the good one
			m := holder(legacyReferrerType, b.digest, layers...)
			m.Config.Size = int64(i)
			b.attach(t, b.repo, b.digest, m, layers...)
		}
		b.legacy(t, b.layerOf(t, payloadOf(b.repo.String()+":"+strings.Repeat("x", 100), b.digest.String())))
		got, err := b.verify(t)
		if err != nil || len(got.Signatures) != 1 {
			t.Errorf("got %v, %v, want one signature", got, err)
		}
		read := 0
		for _, r := range b.reads {
			if strings.HasPrefix(r, "blob ") {
				read++
			}
		}
		if read != 400 {
			t.Errorf("got %d layers read, want 400", read)
		}
	})
}

// Signatures may lie in another repository too; those beside the image count all the same, and a failure of either is a failure.
func TestSignaturesElsewhere(t *testing.T) {
	store := oci.Repository{Upstream: "signatures.example", Path: "all"}
	elsewhere := func(t *testing.T) *bench {
		b := newBench(t)
		b.options.Revision = "1"
		b.options.SignaturesIn = func(oci.Repository) oci.Repository { return store }
		layer := blobOf(oci.MediaTypeSigstoreBundle, signedBundle(t, b.release, statementOf(signPredicate, b.digest)))
		b.attach(t, store, b.digest, holder(oci.MediaTypeSigstoreBundle, b.digest, layer), layer)
		legacy := b.goodLayer(t) // it names the image's repository, not the one it lies in
		b.tag(t, store, b.sigTag(), holder("", "", legacy), legacy)
		return b
	}
	for name, tc := range map[string]struct {
		edit   func(t *testing.T, b *bench)
		counts int
	}{
		"there":          {func(*testing.T, *bench) {}, 2},
		"there and here": {func(t *testing.T, b *bench) { b.good(t) }, 3},
		"not configured": {func(_ *testing.T, b *bench) { b.options.SignaturesIn = nil }, 0},
		"none for this one": {func(_ *testing.T, b *bench) {
			b.options.SignaturesIn = func(oci.Repository) oci.Repository { return oci.Repository{} }
		}, 0},
		"the same one": {func(t *testing.T, b *bench) {
			b.good(t)
			b.options.SignaturesIn = func(r oci.Repository) oci.Repository { return r }
		}, 1},
		"by the name they lie in": {func(t *testing.T, b *bench) {
			b.options.SignaturesIn = nil
			payload := payloadOf(store.String(), b.digest.String())
			b.legacy(t, b.layerOf(t, payload))
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := elsewhere(t)
			tc.edit(t, b)
			got, err := b.verify(t)
			if err != nil || len(got.Signatures) != tc.counts {
				t.Errorf("got %v, %v, want %d signatures", got, err, tc.counts)
			}
		})
	}
}

// The same content leads to the same evidence, in whatever order a registry lists it.
func TestOrder(t *testing.T) {
	b := newBench(t)
	junk(t, b, 20)
	b.good(t)
	b.bundle(t, signedBundle(t, b.release, statementOf(signPredicate, b.digest, digestOf("more"))))
	b.legacy(t, append(manyLayers(t, b, 5), b.goodLayer(t))...)
	want, err := b.verify(t)
	if err != nil || len(want.Signatures) != 3 {
		t.Fatalf("got %v, %v, want three signatures", want, err)
	}
	b.listed = b.attachments()
	slices.Reverse(b.listed)
	got, err := b.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Error(diff)
	}
}
