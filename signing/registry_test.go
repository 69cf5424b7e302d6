package signing_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
)

// registry is a registry in memory that answers what a test tells it to.
type registry struct {
	// listed replaces what is listed as referring to the image; nil lists what was attached.
	listed []oci.Descriptor
	// fails maps what is asked for, as in reads, to the error it is answered with.
	fails map[string]error

	attached  map[string][]oci.Descriptor // by repository and subject
	manifests map[string]oci.Content      // by repository and reference
	blobs     map[oci.Digest][]byte

	mu sync.Mutex
	// reads is guarded by mu: everything asked for.
	reads []string
}

func newRegistry() *registry {
	return &registry{
		fails: map[string]error{}, attached: map[string][]oci.Descriptor{}, manifests: map[string]oci.Content{}, blobs: map[oci.Digest][]byte{},
	}
}

func (r *registry) ask(ctx context.Context, format string, args ...any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := fmt.Sprintf(format, args...)
	r.reads = append(r.reads, asked)
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.fails[asked]
}

// asked reports whether anything was asked for by that name.
func (r *registry) asked(what string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.reads, what)
}

func (r *registry) Manifest(ctx context.Context, repo oci.Repository, reference string) (oci.Content, error) {
	if err := r.ask(ctx, "manifest %s", reference); err != nil {
		return oci.Content{}, err
	}
	content, ok := r.manifests[repo.String()+" "+reference]
	if !ok {
		return oci.Content{}, fmt.Errorf("manifest %s: %w", reference, oci.ErrNotFound)
	}
	return content, nil
}

func (r *registry) Blob(ctx context.Context, _ oci.Repository, desc oci.Descriptor) (io.ReadCloser, error) {
	if err := r.ask(ctx, "blob %s", desc.Digest); err != nil {
		return nil, err
	}
	raw, ok := r.blobs[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, oci.ErrBlobUnknown)
	}
	return io.NopCloser(bytes.NewReader(raw)), nil
}

func (r *registry) Referrers(ctx context.Context, repo oci.Repository, subject oci.Digest) ([]oci.Descriptor, error) {
	if err := r.ask(ctx, "referrers"); err != nil {
		return nil, err
	}
	if r.listed != nil {
		return r.listed, nil
	}
	return slices.Clone(r.attached[repo.String()+" "+subject.String()]), nil
}

// put stores m and its layers and returns its descriptor as a referrers list gives it.
func (r *registry) put(t testing.TB, repo oci.Repository, m manifest, layers ...blob) oci.Descriptor {
	t.Helper()
	content := contentOf(t, oci.MediaTypeImage, m)
	r.manifests[repo.String()+" "+content.Digest.String()] = content
	for _, l := range layers {
		r.blobs[l.desc.Digest] = l.raw
	}
	desc := content.Descriptor()
	desc.ArtifactType = m.ArtifactType
	return desc
}

// attach stores m and lists it as referring to subject.
func (r *registry) attach(t testing.TB, repo oci.Repository, subject oci.Digest, m manifest, layers ...blob) oci.Digest {
	t.Helper()
	desc := r.put(t, repo, m, layers...)
	key := repo.String() + " " + subject.String()
	r.attached[key] = append(r.attached[key], desc)
	return desc.Digest
}

// tag stores m under a tag.
func (r *registry) tag(t testing.TB, repo oci.Repository, tag string, m manifest, layers ...blob) oci.Digest {
	t.Helper()
	desc := r.put(t, repo, m, layers...)
	r.manifests[repo.String()+" "+tag] = r.manifests[repo.String()+" "+desc.Digest.String()]
	return desc.Digest
}

// tagIndex stores an index of entries under a tag.
func (r *registry) tagIndex(t testing.TB, repo oci.Repository, tag string, entries []oci.Descriptor) oci.Digest {
	t.Helper()
	content := contentOf(t, oci.MediaTypeIndex, map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": entries})
	r.manifests[repo.String()+" "+tag] = content
	return content.Digest
}

// bench is an image in a registry, an authority called "release" with one P-256 key, and a verifier over both.
type bench struct {
	*registry
	repo    oci.Repository
	digest  oci.Digest
	release signer
	roots   *gate.TrustRoots
	options signing.Options
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{
		registry: newRegistry(), repo: oci.Repository{Upstream: "registry.example", Path: "acme/app"},
		digest: digestOf("app"), release: newP256(t),
	}
	b.roots = &gate.TrustRoots{Authorities: []gate.Authority{authorityOf(t, "release", b.release)}, Revision: "r1"}
	b.options = signing.Options{Registry: b.registry, Roots: func() *gate.TrustRoots { return b.roots }}
	return b
}

func (b *bench) candidate() gate.Candidate {
	return gate.Candidate{Repository: b.repo, Digest: b.digest}
}

func (b *bench) verify(t testing.TB, authorities ...string) (gate.SignatureEvidence, error) {
	t.Helper()
	v, err := signing.New(b.options)
	if err != nil {
		t.Fatal(err)
	}
	if authorities == nil {
		authorities = []string{"release"}
	}
	return v.Verify(t.Context(), b.candidate(), gate.Wanted{Signatures: authorities})
}

func (b *bench) sigTag() string { return "sha256-" + b.digest.Encoded() + ".sig" }
func (b *bench) attTag() string { return "sha256-" + b.digest.Encoded() + ".att" }

// bundle attaches a bundle by its raw JSON and returns the referrer's digest.
func (b *bench) bundle(t testing.TB, raw []byte) oci.Digest {
	t.Helper()
	layer := blobOf(oci.MediaTypeSigstoreBundle, raw)
	return b.attach(t, b.repo, b.digest, holder(oci.MediaTypeSigstoreBundle, b.digest, layer), layer)
}

// good attaches a bundle that counts.
func (b *bench) good(t testing.TB) oci.Digest {
	t.Helper()
	return b.bundle(t, signedBundle(t, b.release, statementOf(signPredicate, b.digest)))
}

// legacy puts layers under the image's .sig tag and returns the manifest's digest.
func (b *bench) legacy(t testing.TB, layers ...blob) oci.Digest {
	t.Helper()
	m := holder("", "", layers...)
	m.Config.MediaType = oci.MediaTypeConfig // cosign's legacy signatures carry an ordinary image config
	return b.tag(t, b.repo, b.sigTag(), m, layers...)
}

// goodLayer returns the layer of a legacy signature that counts.
func (b *bench) goodLayer(t testing.TB) blob {
	t.Helper()
	payload := payloadOf(b.repo.String(), b.digest.String())
	return legacyLayer(payload, b.release.sign(t, payload))
}

// layerOf returns the layer of a legacy signature by the trusted key of whatever payload.
func (b *bench) layerOf(t testing.TB, payload []byte) blob {
	t.Helper()
	return legacyLayer(payload, b.release.sign(t, payload))
}
