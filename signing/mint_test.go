package signing_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	_ "crypto/sha512" // for the longer hashes of signers

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// signer signs as one client does with one kind of key: by hand, with nothing of the libraries under test.
type signer struct {
	private crypto.Signer
	// hash is what the message is hashed with before it is signed; 0 for Ed25519, which signs the message itself.
	hash crypto.Hash
}

func (s signer) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	digest, opts := message, crypto.SignerOpts(s.hash)
	if s.hash != 0 {
		h := s.hash.New()
		h.Write(message)
		digest = h.Sum(nil)
	}
	if _, ok := s.private.(ed25519.PrivateKey); ok {
		opts = &ed25519.Options{Hash: s.hash}
	}
	signature, err := s.private.Sign(rand.Reader, digest, opts)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// trusted returns the public half as trust files yield it, counting always.
func (s signer) trusted(t testing.TB) gate.TrustedKey {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return gate.TrustedKey{Public: s.private.Public(), Fingerprint: fmt.Sprintf("%x", sha256.Sum256(der))}
}

func newECDSA(t testing.TB, curve elliptic.Curve, hash crypto.Hash) signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{k, hash}
}

func newP256(t testing.TB) signer { return newECDSA(t, elliptic.P256(), crypto.SHA256) }

func newEd25519(t testing.TB, hash crypto.Hash) signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{k, hash}
}

func newRSA(t testing.TB, bits int) signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return signer{k, crypto.SHA256}
}

// authorityOf returns an authority that any of signers speaks for.
func authorityOf(t testing.TB, name string, signers ...signer) gate.Authority {
	t.Helper()
	a := gate.Authority{Name: name}
	for _, s := range signers {
		a.Keys = append(a.Keys, s.trusted(t))
	}
	return a
}

// payloadOf returns what cosign signs in its legacy format.
func payloadOf(reference, digest string) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`,
		reference, digest)
}

// blob is content with its descriptor.
type blob struct {
	desc oci.Descriptor
	raw  []byte
}

func blobOf(mediaType string, raw []byte) blob {
	return blob{oci.Descriptor{MediaType: mediaType, Digest: oci.FromBytes(raw), Size: int64(len(raw))}, raw}
}

// legacyLayer returns the layer of a legacy signature.
func legacyLayer(payload, signature []byte) blob {
	b := blobOf(oci.MediaTypeSimpleSigning, payload)
	b.desc.Annotations = map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(signature)}
	return b
}

// statementOf returns an in-toto statement about artifacts named by sha256.
func statementOf(predicateType string, digests ...oci.Digest) []byte {
	var subjects []string
	for _, d := range digests {
		subjects = append(subjects, fmt.Sprintf(`{"digest":{"sha256":%q}}`, d.Encoded()))
	}
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[%s],"predicateType":%q,"predicate":{}}`, strings.Join(subjects, ","), predicateType)
}

const signPredicate = "https://sigstore.dev/cosign/sign/v1"

// envelope is a DSSE envelope in a bundle. Tests change it before it is written.
type envelope struct {
	Payload     string          `json:"payload"`
	PayloadType string          `json:"payloadType"`
	Signatures  []dsseSignature `json:"signatures"`
}

type dsseSignature struct {
	Sig   string `json:"sig"`
	KeyID string `json:"keyid,omitempty"`
}

// sealed returns the envelope in which s signs payload as payloadType.
func sealed(t testing.TB, s signer, payloadType string, payload []byte) envelope {
	t.Helper()
	pae := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
	return envelope{
		Payload: base64.StdEncoding.EncodeToString(payload), PayloadType: payloadType,
		Signatures: []dsseSignature{{Sig: base64.StdEncoding.EncodeToString(s.sign(t, pae))}},
	}
}

const inToto = "application/vnd.in-toto+json"

// bundleOf returns a sigstore bundle v0.3 signed with a key. Fields of content, the envelope or the message signature among them,
// are put beside the key's hint, and replace the usual ones.
func bundleOf(t testing.TB, content map[string]any) []byte {
	t.Helper()
	wire := map[string]any{
		"mediaType":            oci.MediaTypeSigstoreBundle,
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": "aGludA=="}},
	}
	for k, v := range content {
		wire[k] = v
	}
	raw, err := json.Marshal(wire)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// signedBundle returns the bundle in which s signs statement.
func signedBundle(t testing.TB, s signer, statement []byte) []byte {
	t.Helper()
	return bundleOf(t, map[string]any{"dsseEnvelope": sealed(t, s, inToto, statement)})
}

// manifest is an OCI image manifest to be written. Its zero fields are left out.
type manifest struct {
	SchemaVersion int              `json:"schemaVersion"`
	MediaType     string           `json:"mediaType,omitempty"`
	ArtifactType  string           `json:"artifactType,omitempty"`
	Config        oci.Descriptor   `json:"config"`
	Layers        []oci.Descriptor `json:"layers"`
	Subject       *oci.Descriptor  `json:"subject,omitempty"`
}

// holder returns a manifest that holds layers, as artifactType, referring to subject unless that is empty.
func holder(artifactType string, subject oci.Digest, layers ...blob) manifest {
	m := manifest{SchemaVersion: 2, MediaType: oci.MediaTypeImage, ArtifactType: artifactType, Layers: []oci.Descriptor{}}
	m.Config = oci.Descriptor{MediaType: oci.MediaTypeEmpty, Digest: oci.FromBytes([]byte("{}")), Size: 2}
	if subject != "" {
		m.Subject = &oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: subject, Size: 1234}
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, l.desc)
	}
	return m
}

func contentOf(t testing.TB, mediaType string, v any) oci.Content {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return oci.Content{MediaType: mediaType, Digest: oci.FromBytes(raw), Raw: raw}
}

// digestOf returns the digest of an image called name. The image itself is never read.
func digestOf(name string) oci.Digest { return oci.FromBytes([]byte(name)) }

// upperHex returns the statement with the digest's digits in upper case.
func upperHex(statement []byte, d oci.Digest) []byte {
	return bytes.ReplaceAll(statement, []byte(d.Encoded()), []byte(strings.ToUpper(hex.EncodeToString(mustHex(d)))))
}

func mustHex(d oci.Digest) []byte {
	b, err := hex.DecodeString(d.Encoded())
	if err != nil {
		panic(err) // a digest of ours
	}
	return b
}
