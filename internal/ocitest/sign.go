package ocitest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Names that cosign writes into what it signs and where it stores it.
const (
	PredicateSign = "https://sigstore.dev/cosign/sign/v1"

	payloadTypeInToto   = "application/vnd.in-toto+json"
	statementType       = "https://in-toto.io/Statement/v1"
	statementTypeLegacy = "https://in-toto.io/Statement/v0.1"
	simpleSigningType   = "cosign container image signature"
	annotationSignature = "dev.cosignproject.cosign/signature"
	annotationContent   = "dev.sigstore.bundle.content"
	annotationPredicate = "dev.sigstore.bundle.predicateType"
)

// Mint alters what a signer writes, for the forgeries tests need. Nil fields alter nothing; the zero value is an honest signer.
type Mint struct {
	// Payload edits what will be signed: the simple signing JSON or the in-toto statement.
	Payload func([]byte) []byte
	// Signed edits the payload after it has been signed.
	Signed func([]byte) []byte
	// Annotations edits those of the layer in a legacy signature, of the manifest around a bundle.
	Annotations func(map[string]string)
	// Layer edits the blob that is stored: the bundle, the DSSE envelope, the simple signing JSON.
	Layer func([]byte) []byte
	// Manifest edits the manifest that is stored.
	Manifest func(*ocispec.Manifest)
}

func edit[T any](f func(T) T, v T) T {
	if f == nil {
		return v
	}
	return f(v)
}

func alter[T any](f func(T), v T) {
	if f != nil {
		f(v)
	}
}

// TagOf returns the tag that belongs to a digest: the fallback of the referrers API with an empty suffix, and where cosign's
// first formats live with ".sig" and ".att".
func TagOf(dgst oci.Digest, suffix string) string {
	return strings.Replace(dgst.String(), ":", "-", 1) + suffix
}

// SignLegacy stores a signature of dgst as cosign did before bundles: one more layer of the image tagged sha256-<hex>.sig.
// dockerReference is the repository the payload names. It returns the descriptor of that image.
func (r *Registry) SignLegacy(repo string, dgst oci.Digest, key *Key, dockerReference string, mint Mint) (oci.Descriptor, error) {
	payload, err := json.Marshal(map[string]any{
		"critical": map[string]any{
			"identity": map[string]string{"docker-reference": dockerReference},
			"image":    map[string]string{"docker-manifest-digest": dgst.String()},
			"type":     simpleSigningType,
		},
		"optional": nil,
	})
	if err != nil {
		return oci.Descriptor{}, fmt.Errorf("encoding the payload: %w", err)
	}
	payload = edit(mint.Payload, payload)
	sig, err := key.Sign(payload)
	if err != nil {
		return oci.Descriptor{}, err
	}
	blob := edit(mint.Layer, edit(mint.Signed, payload))
	annotations := map[string]string{annotationSignature: base64.StdEncoding.EncodeToString(sig)}
	return r.appendLayer(repo, TagOf(dgst, ".sig"), oci.MediaTypeSimpleSigning, blob, annotations, mint)
}

// Statement is what an attestation says of an image.
type Statement struct {
	// PredicateType is [PredicateSign], that of a signature, when it is empty.
	PredicateType string
	// Predicate is encoded as JSON; an empty object when it is nil.
	Predicate any
	// Subject, when not nil, is what the stored manifest refers to in place of the manifest in the same repository.
	Subject *oci.Descriptor
}

// AttestLegacy stores an attestation of dgst as cosign did before bundles: a DSSE envelope as one more layer of the image tagged
// sha256-<hex>.att. It returns the descriptor of that image.
func (r *Registry) AttestLegacy(repo string, dgst oci.Digest, key *Key, s Statement, mint Mint) (oci.Descriptor, error) {
	predicateType, payload, err := s.encode(statementTypeLegacy, dgst, r.Host()+"/"+repo)
	if err != nil {
		return oci.Descriptor{}, err
	}
	e, err := newEnvelope(key, payload, mint)
	if err != nil {
		return oci.Descriptor{}, err
	}
	blob, err := json.Marshal(e)
	if err != nil {
		return oci.Descriptor{}, fmt.Errorf("encoding the envelope: %w", err)
	}
	annotations := map[string]string{annotationSignature: "", "predicateType": predicateType}
	return r.appendLayer(repo, TagOf(dgst, ".att"), oci.MediaTypeDSSE, edit(mint.Layer, blob), annotations, mint)
}

// appendLayer adds a layer to the image under a tag, which is made if there is none.
func (r *Registry) appendLayer(
	repo, tag, mediaType string, blob []byte, annotations map[string]string, mint Mint,
) (oci.Descriptor, error) {
	alter(mint.Annotations, annotations)
	layer := r.PutBlob(repo, blob)
	layer.MediaType, layer.Annotations = mediaType, annotations
	r.signing.Lock()
	defer r.signing.Unlock()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: oci.MediaTypeImage}
	if present, ok := r.Manifest(repo, tag); ok {
		if err := json.Unmarshal(present.Raw, &m); err != nil {
			return oci.Descriptor{}, fmt.Errorf("reading %s:%s: %w", repo, tag, err)
		}
	}
	m.Layers = append(m.Layers, layer)
	config, err := signatureConfig(m.Layers)
	if err != nil {
		return oci.Descriptor{}, err
	}
	m.Config = r.PutBlob(repo, config)
	m.Config.MediaType = oci.MediaTypeConfig
	alter(mint.Manifest, &m)
	return r.putJSON(repo, tag, m.MediaType, m)
}

// signatureConfig returns the image config cosign stores beside signatures: no platform, and the layers as their own diff ids.
func signatureConfig(layers []oci.Descriptor) ([]byte, error) {
	var diffIDs []oci.Digest
	for _, l := range layers {
		diffIDs = append(diffIDs, l.Digest)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "", "os": "", "created": "0001-01-01T00:00:00Z", "config": map[string]any{},
		"rootfs": ocispec.RootFS{Type: "layers", DiffIDs: diffIDs},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the config of signatures: %w", err)
	}
	return config, nil
}

// envelope is a DSSE envelope (DSSE v1, envelope.md). Byte slices are base64 in JSON.
type envelope struct {
	Payload     []byte              `json:"payload"`
	PayloadType string              `json:"payloadType"`
	Signatures  []envelopeSignature `json:"signatures"`
}

type envelopeSignature struct {
	KeyID string `json:"keyid,omitempty"`
	Sig   []byte `json:"sig"`
}

func newEnvelope(key *Key, payload []byte, mint Mint) (envelope, error) {
	payload = edit(mint.Payload, payload)
	sig, err := key.SignDSSE(payloadTypeInToto, payload)
	if err != nil {
		return envelope{}, err
	}
	return envelope{edit(mint.Signed, payload), payloadTypeInToto, []envelopeSignature{{Sig: sig}}}, nil
}

// encode returns the statement about dgst as JSON, and its predicate type. The subject has a name only if name is not empty.
func (s Statement) encode(kind string, dgst oci.Digest, name string) (predicateType string, payload []byte, err error) {
	predicateType, predicate := s.PredicateType, s.Predicate
	if predicateType == "" {
		predicateType = PredicateSign
	}
	if predicate == nil {
		predicate = struct{}{}
	}
	subject := map[string]any{"digest": map[string]string{dgst.Algorithm().String(): dgst.Encoded()}}
	if name != "" {
		subject["name"] = name
	}
	payload, err = json.Marshal(map[string]any{
		"_type": kind, "subject": []any{subject}, "predicateType": predicateType, "predicate": predicate,
	})
	if err != nil {
		return "", nil, fmt.Errorf("encoding the statement: %w", err)
	}
	return predicateType, payload, nil
}

// SignBundle stores a statement about dgst as cosign v3 does: a sigstore bundle v0.3 in a manifest that refers to the image. A
// zero Statement is a signature. Without the referrers API the manifest is also listed under the fallback tag. It returns the
// manifest's descriptor.
func (r *Registry) SignBundle(repo string, dgst oci.Digest, key *Key, s Statement, mint Mint) (oci.Descriptor, error) {
	subject := s.Subject
	if subject == nil {
		present, ok := r.Manifest(repo, dgst.String())
		if !ok {
			return oci.Descriptor{}, fmt.Errorf("signing %s@%s: there is no such manifest", repo, dgst)
		}
		desc := present.Descriptor()
		subject = &desc
	}
	predicateType, payload, err := s.encode(statementType, dgst, "")
	if err != nil {
		return oci.Descriptor{}, err
	}
	blob, err := newBundle(key, payload, mint)
	if err != nil {
		return oci.Descriptor{}, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: oci.MediaTypeImage, ArtifactType: oci.MediaTypeSigstoreBundle,
		Config: r.PutBlob(repo, []byte("{}")), Layers: []oci.Descriptor{r.PutBlob(repo, blob)}, Subject: subject,
		Annotations: map[string]string{
			annotationContent: "dsse-envelope", annotationPredicate: predicateType,
			ocispec.AnnotationCreated: epoch().Format(time.RFC3339),
		},
	}
	m.Config.MediaType, m.Layers[0].MediaType = oci.MediaTypeEmpty, oci.MediaTypeSigstoreBundle
	alter(mint.Annotations, m.Annotations)
	alter(mint.Manifest, &m)
	desc, err := r.putJSON(repo, "", m.MediaType, m)
	if err != nil || !r.opts.NoReferrers {
		return desc, err
	}
	desc.ArtifactType = m.ArtifactType
	return desc, r.ListReferrer(repo, subject.Digest, desc)
}

// newBundle returns a bundle without log entries and timestamps, which is what signing with a key alone gives.
func newBundle(key *Key, payload []byte, mint Mint) ([]byte, error) {
	e, err := newEnvelope(key, payload, mint)
	if err != nil {
		return nil, err
	}
	blob, err := json.Marshal(map[string]any{
		"mediaType":            oci.MediaTypeSigstoreBundle,
		"verificationMaterial": map[string]any{"publicKey": map[string]string{"hint": key.Hint()}},
		"dsseEnvelope":         e,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the bundle: %w", err)
	}
	return edit(mint.Layer, blob), nil
}

// ListReferrer adds a descriptor to the index under the fallback tag of subject, as clients of a registry without the referrers
// API do (distribution-spec, Referrers Tag Schema). Nothing about the descriptor is checked.
func (r *Registry) ListReferrer(repo string, subject oci.Digest, desc oci.Descriptor) error {
	r.signing.Lock()
	defer r.signing.Unlock()
	tag := TagOf(subject, "")
	var index ocispec.Index
	if present, ok := r.Manifest(repo, tag); ok {
		if err := json.Unmarshal(present.Raw, &index); err != nil {
			return fmt.Errorf("reading %s:%s: %w", repo, tag, err)
		}
	}
	index.SchemaVersion, index.MediaType = 2, oci.MediaTypeIndex
	index.Manifests = append(index.Manifests, desc)
	_, err := r.putJSON(repo, tag, oci.MediaTypeIndex, index)
	return err
}
