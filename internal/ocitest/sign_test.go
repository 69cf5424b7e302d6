package ocitest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidewaiter/tidewaiter/oci"
)

func newKey(t *testing.T, kind KeyKind) *Key {
	t.Helper()
	k, err := NewKey(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// verifies reports whether sig is the key's signature of message, by the standard library and the public half alone.
func verifies(t *testing.T, k *Key, hash crypto.Hash, message, sig []byte) bool {
	t.Helper()
	block, _ := pem.Decode(k.PublicPEM())
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	digest := message
	if hash != 0 {
		h := hash.New()
		h.Write(message)
		digest = h.Sum(nil)
	}
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, digest, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, hash, digest, sig) == nil
	case ed25519.PublicKey:
		return ed25519.VerifyWithOptions(public, digest, sig, &ed25519.Options{Hash: hash}) == nil
	}
	t.Fatalf("unknown key %T", public)
	return false
}

func TestKey(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind KeyKind
		hash crypto.Hash // 0 keeps the key's own
		want crypto.Hash
	}{
		{"P-256", ECDSAP256, 0, crypto.SHA256},
		{"P-384", ECDSAP384, 0, crypto.SHA384},
		{"P-384 as cosign v2", ECDSAP384, crypto.SHA256, crypto.SHA256},
		{"Ed25519", Ed25519, 0, 0},
		{"Ed25519ph", Ed25519, crypto.SHA512, crypto.SHA512},
		{"RSA", RSA2048, 0, crypto.SHA256},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newKey(t, tt.kind)
			if tt.hash != 0 {
				k = k.WithHash(tt.hash)
			}
			sig, err := k.Sign([]byte("message"))
			if err != nil {
				t.Fatal(err)
			}
			if !verifies(t, k, tt.want, []byte("message"), sig) {
				t.Error("the signature does not verify")
			}
			if verifies(t, k, tt.want, []byte("other message"), sig) || verifies(t, newKey(t, tt.kind), tt.want, []byte("message"), sig) {
				t.Error("the signature is anybody's")
			}
		})
	}
	t.Run("an unknown kind is refused", func(t *testing.T) {
		if k, err := NewKey("dsa"); err == nil {
			t.Errorf("made %v", k)
		}
	})
}

// manifestOf reads a stored manifest through the strict parser.
func manifestOf(t *testing.T, r *Registry, repo, reference string) oci.Manifest {
	t.Helper()
	content, ok := r.Manifest(repo, reference)
	if !ok {
		t.Fatalf("there is no %s", reference)
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Blobs() {
		if b, ok := r.Blob(repo, d.Digest); !ok || int64(len(b)) != d.Size {
			t.Fatalf("%s refers to %s, which is not there", reference, d.Digest)
		}
	}
	return m
}

func TestSignLegacy(t *testing.T) {
	r := start(t, Options{})
	img := push(t, r, "app", "v1", Image{})
	keys := []*Key{newKey(t, ECDSAP256), newKey(t, RSA2048)}
	for _, k := range keys {
		if _, err := r.SignLegacy("app", img.Digest, k, "registry.example/app", Mint{}); err != nil {
			t.Fatal(err)
		}
	}
	m := manifestOf(t, r, "app", TagOf(img.Digest, ".sig"))
	if len(m.Layers) != len(keys) || m.Config.MediaType != oci.MediaTypeConfig {
		t.Fatalf("stored %+v", m)
	}
	want := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":"registry.example/app"},`+
		`"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, img.Digest)
	for i, l := range m.Layers {
		payload, _ := r.Blob("app", l.Digest)
		if diff := cmp.Diff(string(payload), want); diff != "" {
			t.Errorf("payload (-got +want)\n%s", diff)
		}
		sig, err := base64.StdEncoding.DecodeString(l.Annotations["dev.cosignproject.cosign/signature"])
		if err != nil || !verifies(t, keys[i], crypto.SHA256, payload, sig) {
			t.Errorf("the signature of layer %d does not verify: %v", i, err)
		}
		if l.MediaType != oci.MediaTypeSimpleSigning {
			t.Errorf("layer type %q", l.MediaType)
		}
	}
}

// statement is an in-toto statement as its readers see it.
type statement struct {
	Type          string                       `json:"_type"`
	Subject       []struct{ Digest, Name any } `json:"subject"`
	PredicateType string                       `json:"predicateType"`
	Predicate     any                          `json:"predicate"`
}

// openEnvelope verifies a DSSE envelope and returns its statement.
func openEnvelope(t *testing.T, k *Key, raw []byte) statement {
	t.Helper()
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	signed := fmt.Sprintf("DSSEv1 28 application/vnd.in-toto+json %d %s", len(e.Payload), e.Payload)
	if len(e.Signatures) != 1 || !verifies(t, k, crypto.SHA256, []byte(signed), e.Signatures[0].Sig) {
		t.Errorf("the envelope does not verify: %s", raw)
	}
	var s statement
	if err := json.Unmarshal(e.Payload, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAttestLegacy(t *testing.T) {
	r := start(t, Options{})
	img, k := push(t, r, "app", "v1", Image{}), newKey(t, ECDSAP256)
	says := Statement{PredicateType: "https://slsa.dev/provenance/v1", Predicate: map[string]any{"by": "ci"}}
	if _, err := r.AttestLegacy("app", img.Digest, k, says, Mint{}); err != nil {
		t.Fatal(err)
	}
	m := manifestOf(t, r, "app", TagOf(img.Digest, ".att"))
	raw, _ := r.Blob("app", m.Layers[0].Digest)
	got := openEnvelope(t, k, raw)
	want := statement{
		"https://in-toto.io/Statement/v0.1",
		[]struct{ Digest, Name any }{{map[string]any{"sha256": img.Digest.Encoded()}, r.Host() + "/app"}},
		says.PredicateType, says.Predicate,
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	annotations := map[string]string{"dev.cosignproject.cosign/signature": "", "predicateType": says.PredicateType}
	if diff := cmp.Diff(m.Layers[0].Annotations, annotations); diff != "" || m.Layers[0].MediaType != oci.MediaTypeDSSE {
		t.Errorf("layer %s (-got +want)\n%s", m.Layers[0].MediaType, diff)
	}
}

func TestSignBundle(t *testing.T) {
	for _, tt := range []struct {
		name        string
		noReferrers bool
		says        Statement
		want        string // predicate type
	}{
		{"a signature", false, Statement{}, "https://sigstore.dev/cosign/sign/v1"},
		{"a signature under the fallback tag", true, Statement{}, "https://sigstore.dev/cosign/sign/v1"},
		{"an attestation", false, Statement{PredicateType: "https://spdx.dev/Document", Predicate: map[string]any{}}, "https://spdx.dev/Document"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, Options{NoReferrers: tt.noReferrers})
			img, k := push(t, r, "app", "v1", Image{}), newKey(t, ECDSAP256)
			desc, err := r.SignBundle("app", img.Digest, k, tt.says, Mint{})
			if err != nil {
				t.Fatal(err)
			}
			m := manifestOf(t, r, "app", desc.Digest.String())
			if m.ArtifactType != oci.MediaTypeSigstoreBundle || m.Subject.Digest != img.Digest || m.Subject.Size != img.Size || m.Config.MediaType != oci.MediaTypeEmpty {
				t.Errorf("stored %+v", m)
			}
			raw, _ := r.Blob("app", m.Layers[0].Digest)
			var b struct {
				MediaType            string
				VerificationMaterial struct{ PublicKey struct{ Hint string } }
				DSSEEnvelope         json.RawMessage
			}
			if err := json.Unmarshal(raw, &b); err != nil {
				t.Fatal(err)
			}
			if b.MediaType != oci.MediaTypeSigstoreBundle || b.VerificationMaterial.PublicKey.Hint != k.Hint() {
				t.Errorf("bundle %s", raw)
			}
			got := openEnvelope(t, k, b.DSSEEnvelope)
			want := statement{"https://in-toto.io/Statement/v1",
				[]struct{ Digest, Name any }{{map[string]any{"sha256": img.Digest.Encoded()}, nil}}, tt.want, map[string]any{}}
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
			if _, listed := r.Manifest("app", TagOf(img.Digest, "")); listed != tt.noReferrers {
				t.Errorf("listed under the fallback tag: %v", listed)
			}
		})
	}
	t.Run("the fallback tag keeps what it lists", func(t *testing.T) {
		r := start(t, Options{NoReferrers: true})
		img := push(t, r, "app", "v1", Image{})
		for range 3 {
			if _, err := r.SignBundle("app", img.Digest, newKey(t, ECDSAP256), Statement{}, Mint{}); err != nil {
				t.Fatal(err)
			}
		}
		m := manifestOf(t, r, "app", TagOf(img.Digest, ""))
		if len(m.Manifests) != 3 || m.Manifests[0].ArtifactType != oci.MediaTypeSigstoreBundle {
			t.Errorf("listed %+v", m.Manifests)
		}
	})
	t.Run("what is not here is signed only with a subject given", func(t *testing.T) {
		r := start(t, Options{})
		dgst := oci.FromBytes([]byte("absent"))
		if _, err := r.SignBundle("app", dgst, newKey(t, ECDSAP256), Statement{}, Mint{}); err == nil {
			t.Error("signed")
		}
		subject := oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: dgst, Size: 6}
		desc, err := r.SignBundle("signatures", dgst, newKey(t, ECDSAP256), Statement{Subject: &subject}, Mint{})
		if err != nil || manifestOf(t, r, "signatures", desc.Digest.String()).Subject.Digest != dgst {
			t.Errorf("pushed %+v: %v", desc, err)
		}
	})
}

func TestSignInParallel(t *testing.T) {
	r := start(t, Options{})
	img, k := push(t, r, "app", "v1", Image{}), newKey(t, ECDSAP256)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := r.SignLegacy("app", img.Digest, k, "app", Mint{}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got, want := len(manifestOf(t, r, "app", TagOf(img.Digest, ".sig")).Layers), 8; got != want {
		t.Errorf("%d signatures are kept, want %d", got, want)
	}
}

func TestMint(t *testing.T) {
	r := start(t, Options{})
	k := newKey(t, ECDSAP256)
	other := func(b []byte) []byte {
		return []byte(strings.Replace(string(b), "cosign container image signature", "forged", 1))
	}
	blank := func(a map[string]string) { a["dev.cosignproject.cosign/signature"] = "" }
	for _, tt := range []struct {
		name       string
		mint       Mint
		wantForged bool
		wantValid  bool
	}{
		{"an honest signer", Mint{}, false, true},
		{"a payload altered before it is signed", Mint{Payload: other}, true, true},
		{"a payload altered after it is signed", Mint{Signed: other}, true, false},
		{"a blob altered at the end", Mint{Layer: other}, true, false},
		{"an annotation taken away", Mint{Annotations: blank}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			img := push(t, r, "app", "", Image{Annotations: map[string]string{"case": tt.name}})
			if _, err := r.SignLegacy("app", img.Digest, k, "app", tt.mint); err != nil {
				t.Fatal(err)
			}
			l := manifestOf(t, r, "app", TagOf(img.Digest, ".sig")).Layers[0]
			payload, _ := r.Blob("app", l.Digest)
			sig, err := base64.StdEncoding.DecodeString(l.Annotations["dev.cosignproject.cosign/signature"])
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(string(payload), "forged"); got != tt.wantForged {
				t.Errorf("payload %s", payload)
			}
			if got := verifies(t, k, crypto.SHA256, payload, sig); got != tt.wantValid {
				t.Errorf("valid %v, want %v", got, tt.wantValid)
			}
		})
	}
	t.Run("the manifest around a bundle", func(t *testing.T) {
		img := push(t, r, "app", "", Image{})
		desc, err := r.SignBundle("app", img.Digest, k, Statement{}, Mint{
			Annotations: func(a map[string]string) { a["note"] = "x" },
			Layer:       func([]byte) []byte { return []byte("junk") },
			Manifest:    func(m *ocispec.Manifest) { m.ArtifactType = "a/b" },
		})
		if err != nil {
			t.Fatal(err)
		}
		m := manifestOf(t, r, "app", desc.Digest.String())
		if m.ArtifactType != "a/b" || m.Annotations["note"] != "x" || m.Layers[0].Digest != oci.FromBytes([]byte("junk")) {
			t.Errorf("stored %+v", m)
		}
	})
}
