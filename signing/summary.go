package signing

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// predicateTypeSummary is the type of what we state ourselves (SLSA verification summary attestation 1.1).
const predicateTypeSummary = "https://slsa.dev/verification_summary/v1"

// The results of a summary.
const (
	resultPassed = "PASSED"
	resultFailed = "FAILED"
)

// SigningKey is the key our own statements are signed with. Implementations are safe for concurrent use.
type SigningKey interface {
	// PublicKey returns the public half, which stays the same.
	PublicKey(ctx context.Context) (crypto.PublicKey, error)
	// Sign returns the signature of message, hashed as "cosign verify" expects it of such a key.
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// fileKey is a private key held in memory.
type fileKey struct{ private crypto.Signer }

// ParseSigningKey reads a private key in PEM (PKCS #8 or SEC 1): ECDSA on P-256, P-384 or P-521, or RSA of 2048 to 8192 bits. It hashes
// with SHA-256 whatever the key, since cosign checks it so.
func ParseSigningKey(encoded []byte) (SigningKey, error) {
	block, rest := pem.Decode(encoded)
	if block == nil || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("want one private key in PEM, and nothing else")
	}
	if strings.Contains(block.Type, "ENCRYPTED") || block.Headers["Proc-Type"] != "" {
		return nil, errors.New("the private key is encrypted: give one that is not, readable by this process alone, or one in a key management service")
	}
	var parsed any
	var err error
	if block.Type == "EC PRIVATE KEY" {
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	} else {
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, errors.New("not a private key that can be read")
	}
	switch k := parsed.(type) {
	case *ecdsa.PrivateKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return nil, errors.New("a key on an unsupported curve")
		}
		return fileKey{k}, nil
	case *rsa.PrivateKey:
		if _, err := schemesOf(k.Public()); err != nil {
			return nil, err
		}
		return fileKey{k}, nil
	}
	return nil, fmt.Errorf("a private key of type %T: want ECDSA or RSA", parsed)
}

// PublicKey implements [SigningKey].
func (k fileKey) PublicKey(context.Context) (crypto.PublicKey, error) { return k.private.Public(), nil }

// Sign implements [SigningKey].
func (k fileKey) Sign(_ context.Context, message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	return k.private.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// SummaryOptions configure [Summaries]. All of them are needed.
type SummaryOptions struct {
	Key SigningKey
	// Verifier says who we are: the URI that readers of our statements expect as the verifier's id.
	Verifier string
	// Version is that of this program.
	Version string
}

// Summaries turns verdicts into signed SLSA verification summaries: an admission controller, another cluster or a site without a network
// then checks one signature instead of everything we checked. It is safe for concurrent use.
type Summaries struct{ o SummaryOptions }

// NewSummaries returns Summaries. It fails when an option is missing.
func NewSummaries(o SummaryOptions) (*Summaries, error) {
	if o.Key == nil || o.Version == "" {
		return nil, errors.New("summaries need a key and a version")
	}
	if err := CheckVerifier(o.Verifier); err != nil {
		return nil, err
	}
	return &Summaries{o}, nil
}

// CheckVerifier returns what is wrong with an id of ours.
func CheckVerifier(id string) error {
	if u, err := url.Parse(id); err != nil || u.Scheme == "" {
		return fmt.Errorf("the verifier %.80q is no URI", id)
	}
	return nil
}

// Sign returns the signed summary of v, as a manifest that refers to v's. It says PASSED only of what [gate.Verdict.Passed]. Whoever has an
// older one goes on believing it, so readers should bound its age.
//
// Errors: of the key; v is about nothing, or from a version that did not note the size of its manifest.
func (s *Summaries) Sign(ctx context.Context, v gate.Verdict) (oci.Artifact, error) {
	made, err := s.sign(ctx, v)
	if err != nil {
		return oci.Artifact{}, fmt.Errorf("stating the verdict on %s: %w", v.Candidate(), err)
	}
	return made, nil
}

func (s *Summaries) sign(ctx context.Context, v gate.Verdict) (oci.Artifact, error) {
	if v.Digest == "" || v.MediaType == "" || v.SizeBytes <= 0 {
		return oci.Artifact{}, errors.New("it does not say what it is about")
	}
	payload, err := json.Marshal(s.summary(v))
	if err != nil {
		return oci.Artifact{}, err
	}
	bundle, err := s.seal(ctx, payload)
	if err != nil {
		return oci.Artifact{}, err
	}
	raw, err := json.Marshal(summaryManifest{
		SchemaVersion: 2, MediaType: oci.MediaTypeImage, ArtifactType: mediaTypeBundle,
		Config:  oci.Descriptor{MediaType: mediaTypeEmpty, Digest: oci.FromBytes([]byte(oci.EmptyJSON)), Size: int64(len(oci.EmptyJSON))},
		Layers:  []oci.Descriptor{{MediaType: mediaTypeBundle, Digest: oci.FromBytes(bundle), Size: int64(len(bundle))}},
		Subject: oci.Descriptor{MediaType: v.MediaType, Digest: v.Digest, Size: v.SizeBytes},
		Annotations: map[string]string{
			"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": predicateTypeSummary,
			"org.opencontainers.image.created": v.JudgedAt.UTC().Format(time.RFC3339),
		},
	})
	if err != nil {
		return oci.Artifact{}, err
	}
	return artifactOf(raw, bundle), nil
}

// artifactOf returns the manifest raw of a summary with what it refers to.
func artifactOf(raw, bundle []byte) oci.Artifact {
	manifest := oci.Content{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes(raw), Raw: raw}
	return oci.Artifact{Manifest: manifest, Blobs: [][]byte{[]byte(oci.EmptyJSON), bundle}}
}

// summaryManifest is the referrer that holds a statement, as cosign writes one (OCI image specification, manifest.md).
type summaryManifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        oci.Descriptor    `json:"config"`
	Layers        []oci.Descriptor  `json:"layers"`
	Subject       oci.Descriptor    `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// summary returns the statement of v: which manifest, by which policy and other inputs, on whose word, with what result.
func (s *Summaries) summary(v gate.Verdict) any {
	result, levels := resultFailed, []string{resultFailed}
	if v.Passed() {
		result, levels = resultPassed, []string{"SLSA_BUILD_LEVEL_UNEVALUATED"} // what a policy demands is not a level of SLSA
	}
	inputs := []any{}
	for _, d := range leanedOn(v) {
		inputs = append(inputs, map[string]any{"uri": "oci://" + v.Repository.String() + "@" + d.String(), "digest": digestSet(d)})
	}
	name := v.Repository.String()
	return map[string]any{
		"_type": statementType, "predicateType": predicateTypeSummary,
		"subject": []any{map[string]any{"name": name, "digest": digestSet(v.Digest)}},
		"predicate": map[string]any{
			"verifier":           map[string]any{"id": s.o.Verifier, "version": map[string]string{"tidewaiter": s.o.Version}},
			"timeVerified":       v.JudgedAt.UTC().Format(time.RFC3339),
			"resourceUri":        "oci://" + name + "@" + v.Digest.String(),
			"policy":             map[string]any{"uri": s.o.Verifier + "#" + url.PathEscape(v.Policy), "digest": revisionSet(v.PolicyRevision)},
			"inputAttestations":  inputs,
			"verificationResult": result,
			"verifiedLevels":     levels,
			"tidewaiter": map[string]any{
				"policyRevision": v.PolicyRevision, "waiverRevision": v.WaiverRevision, "rootsRevision": v.RootsRevision,
				"advisories": v.SnapshotID, "waived": len(v.Waived), "excused": len(v.Excused), "until": v.Until.UTC().Format(time.RFC3339),
			},
		},
	}
}

// leanedOn returns the manifests of the signatures and attestations that v was made from, sorted, each once.
func leanedOn(v gate.Verdict) []oci.Digest {
	var all []oci.Digest
	for _, s := range v.Signatures {
		all = append(all, s.Manifest)
	}
	for _, a := range v.Attestations {
		all = append(all, a.By.Manifest)
	}
	for _, x := range v.VEX {
		all = append(all, x.By.Manifest)
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(d oci.Digest) bool { return d == "" })
}

func digestSet(d oci.Digest) map[string]string {
	return map[string]string{d.Algorithm().String(): d.Encoded()}
}

// revisionSet returns the hash that a revision is.
func revisionSet(revision string) map[string]string {
	d, err := oci.ParseDigest(revision)
	if err != nil {
		return map[string]string{}
	}
	return digestSet(d)
}

// seal returns payload in a bundle signed with our key, which logs nothing and has no time stamp: whoever trusts the key needs neither.
func (s *Summaries) seal(ctx context.Context, payload []byte) ([]byte, error) {
	pae := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadTypeInToto), payloadTypeInToto, len(payload), payload)
	sig, err := s.o.Key.Sign(ctx, pae)
	if err != nil {
		return nil, err
	}
	public, err := s.o.Key.PublicKey(ctx)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	hint := sha256.Sum256(der)
	return json.Marshal(map[string]any{
		"mediaType":            mediaTypeBundle,
		"verificationMaterial": map[string]any{"publicKey": map[string]string{"hint": base64.StdEncoding.EncodeToString(hint[:])}},
		"dsseEnvelope": map[string]any{
			"payload": payload, "payloadType": payloadTypeInToto, "signatures": []any{map[string]any{"sig": sig}},
		},
	})
}
