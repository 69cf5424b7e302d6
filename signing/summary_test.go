package signing_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
)

// summarizer returns summaries signed with a key of our own, which "tidewaiter" speaks for.
func summarizer(t *testing.T, b *bench) *signing.Summaries {
	t.Helper()
	own := newP256(t)
	key, err := signing.ParseSigningKey(privatePEM(t, own.private, "PRIVATE KEY"))
	if err != nil {
		t.Fatal(err)
	}
	b.roots.Authorities = append(b.roots.Authorities, authorityOf(t, "tidewaiter", own))
	s, err := signing.NewSummaries(signing.SummaryOptions{Key: key, Verifier: "https://gate.example/tidewaiter", Version: "v1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// state puts the summary of v beside the image of b, in place of the one before.
func (b *bench) state(t *testing.T, s *signing.Summaries, v gate.Verdict) {
	t.Helper()
	made, err := s.Sign(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	b.serve(v.Candidate(), made)
}

func (b *bench) serve(c gate.Candidate, made oci.Artifact) {
	repo := c.Repository.String()
	b.manifests[repo+" "+made.Manifest.Digest.String()] = made.Manifest
	for _, blob := range made.Blobs {
		b.blobs[oci.FromBytes(blob)] = blob
	}
	desc := made.Manifest.Descriptor()
	desc.ArtifactType = oci.MediaTypeSigstoreBundle
	b.attached[repo+" "+c.Digest.String()] = []oci.Descriptor{desc}
}

func privatePEM(t *testing.T, private crypto.Signer, kind string) []byte {
	t.Helper()
	var der []byte
	var err error
	if kind == "EC PRIVATE KEY" {
		der, err = x509.MarshalECPrivateKey(private.(*ecdsa.PrivateKey))
	} else {
		der, err = x509.MarshalPKCS8PrivateKey(private)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func (b *bench) verdict(decision gate.Decision) gate.Verdict {
	return gate.Verdict{
		Decision: decision, Repository: b.repo, Digest: b.digest, MediaType: oci.MediaTypeImage, SizeBytes: imageBytes, Key: "k1", Policy: "production", Complete: true, JudgedAt: signedAt(), Until: signedAt().Add(time.Hour),
		PolicyRevision: digestOf("policy").String(), WaiverRevision: digestOf("waivers").String(), RootsRevision: "r1", SnapshotID: "s1",
		Signatures:   []gate.Signature{{Manifest: digestOf("b")}, {Manifest: digestOf("a")}, {Manifest: digestOf("b")}},
		Attestations: []gate.Attestation{{By: gate.Signature{Manifest: digestOf("c")}}},
	}
}

// What is stated says all that went into the verdict, and is read by ourselves like anybody's attestation.
func TestSummary(t *testing.T) {
	b := newBench(t)
	b.state(t, summarizer(t, b), b.verdict(gate.Allow))
	got := b.attest(t, gate.Wanted{Attestations: map[string][]string{vsaType: {"tidewaiter"}}})
	if len(got.Attestations) != 1 || len(got.Rejections) != 0 {
		t.Fatalf("got %v", got)
	}
	var predicate map[string]any
	if err := json.Unmarshal(got.Attestations[0].Predicate, &predicate); err != nil {
		t.Fatal(err)
	}
	reference := "oci://registry.example/acme/app@"
	input := func(name string) any {
		return map[string]any{"uri": reference + digestOf(name).String(), "digest": map[string]any{"sha256": digestOf(name).Encoded()}}
	}
	inputs := []any{input("a"), input("b"), input("c")}
	sortInputs(inputs)
	want := map[string]any{
		"verifier":           map[string]any{"id": "https://gate.example/tidewaiter", "version": map[string]any{"tidewaiter": "v1.2.3"}},
		"timeVerified":       "2026-03-01T12:00:00Z",
		"resourceUri":        reference + b.digest.String(),
		"policy":             map[string]any{"uri": "https://gate.example/tidewaiter#production", "digest": map[string]any{"sha256": digestOf("policy").Encoded()}},
		"inputAttestations":  inputs,
		"verificationResult": "PASSED",
		"verifiedLevels":     []any{"SLSA_BUILD_LEVEL_UNEVALUATED"},
		"tidewaiter": map[string]any{
			"policyRevision": digestOf("policy").String(), "waiverRevision": digestOf("waivers").String(), "rootsRevision": "r1",
			"advisories": "s1", "waived": 0.0, "excused": 0.0, "until": "2026-03-01T13:00:00Z",
		},
	}
	if diff := cmp.Diff(predicate, want); diff != "" {
		t.Errorf("got/want:\n%s", diff)
	}
	if got := b.attest(t, gate.Wanted{Signatures: []string{"tidewaiter"}}); len(got.Signatures) != 0 {
		t.Errorf("a summary was taken for a signature: %v", got)
	}
}

func sortInputs(inputs []any) {
	uri := func(v any) string { return v.(map[string]any)["uri"].(string) }
	for i := range inputs {
		for j := i; j > 0 && uri(inputs[j]) < uri(inputs[j-1]); j-- {
			inputs[j], inputs[j-1] = inputs[j-1], inputs[j]
		}
	}
}

// Only what passed is said to have passed.
func TestSummaryResults(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*gate.Verdict)
		want string
	}{
		"admitted":                 {func(*gate.Verdict) {}, "PASSED"},
		"denied":                   {func(v *gate.Verdict) { v.Decision = gate.Deny }, "FAILED"},
		"admitted with a warning":  {func(v *gate.Verdict) { v.Warnings = []gate.Reason{{Rule: gate.RuleSignatures}} }, "FAILED"},
		"not everything was asked": {func(v *gate.Verdict) { v.Complete = false }, "FAILED"},
		"excused":                  {func(v *gate.Verdict) { v.Excused = []gate.Reason{{Rule: gate.RuleVulnerabilities}} }, "PASSED"},
		"waived":                   {func(v *gate.Verdict) { v.Waived = []gate.Reason{{Rule: gate.RuleGap}} }, "PASSED"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.verdict(gate.Allow)
			tc.edit(&v)
			b.state(t, summarizer(t, b), v)
			if got := b.result(t); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// result returns what the one statement about the image says.
func (b *bench) result(t *testing.T) string {
	t.Helper()
	got := b.attest(t, gate.Wanted{Attestations: map[string][]string{vsaType: {"tidewaiter"}}})
	if len(got.Attestations) != 1 {
		t.Fatalf("got %v, want one statement", got)
	}
	var predicate struct{ VerificationResult string }
	if err := json.Unmarshal(got.Attestations[0].Predicate, &predicate); err != nil {
		t.Fatal(err)
	}
	return predicate.VerificationResult
}

// failing is a key whose service is down.
type failing struct{ signing.SigningKey }

func (failing) Sign(context.Context, []byte) ([]byte, error) { return nil, errors.New("down") }

func TestSummariesRefuse(t *testing.T) {
	b := newBench(t)
	s := summarizer(t, b)
	sizeless := b.verdict(gate.Allow)
	sizeless.SizeBytes = 0
	for name, v := range map[string]gate.Verdict{"nothing": {}, "a manifest of unknown size": sizeless} {
		if _, err := s.Sign(t.Context(), v); err == nil {
			t.Errorf("stated something about %s", name)
		}
	}
	key, err := signing.ParseSigningKey(privatePEM(t, newP256(t).private, "EC PRIVATE KEY"))
	if err != nil {
		t.Fatal(err)
	}
	good := signing.SummaryOptions{Key: key, Verifier: "https://gate.example", Version: "v1"}
	for name, edit := range map[string]func(*signing.SummaryOptions){
		"no key":     func(o *signing.SummaryOptions) { o.Key = nil },
		"no version": func(o *signing.SummaryOptions) { o.Version = "" }, "no URI": func(o *signing.SummaryOptions) { o.Verifier = "gate" },
	} {
		o := good
		edit(&o)
		if _, err := signing.NewSummaries(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	good.Key = failing{}
	down, err := signing.NewSummaries(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := down.Sign(t.Context(), b.verdict(gate.Allow)); err == nil {
		t.Error("stated without a signature")
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, encoded := range map[string][]byte{
		"nothing": nil, "no PEM": []byte("key"), "a public key": []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
		"an encrypted key": []byte("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"),
		"a weak curve":     privatePEM(t, p224, "PRIVATE KEY"), "a weak RSA key": privatePEM(t, newRSA1024(t).private, "PRIVATE KEY"),
		"Ed25519": privatePEM(t, newEd25519(t, 0).private, "PRIVATE KEY"), "two keys": append(privatePEM(t, newP256(t).private, "PRIVATE KEY"), "x"...),
	} {
		if _, err := signing.ParseSigningKey(encoded); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The real cosign accepts our statement, for the image it is about and no other.
func TestRealCosignAcceptsSummaries(t *testing.T) {
	client := findCosign(t)
	for name, private := range map[string]signer{"P-256": newP256(t), "P-384": newECDSA(t, elliptic.P384(), crypto.SHA256), "RSA": newRSA(t, 2048)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			der, err := x509.MarshalPKIXPublicKey(private.private.Public())
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "own.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
				t.Fatal(err)
			}
			registry, err := ocitest.StartRegistry(ocitest.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(registry.Close)
			image, err := registry.PushImage("acme/app", "v1", ocitest.Image{})
			if err != nil {
				t.Fatal(err)
			}
			key, err := signing.ParseSigningKey(privatePEM(t, private.private, "PRIVATE KEY"))
			if err != nil {
				t.Fatal(err)
			}
			s, err := signing.NewSummaries(signing.SummaryOptions{Key: key, Verifier: "https://gate.example/tidewaiter", Version: "v1"})
			if err != nil {
				t.Fatal(err)
			}
			v := gate.Verdict{Decision: gate.Allow, Complete: true, Repository: oci.Repository{Upstream: registry.Host(), Path: "acme/app"}, Digest: image.Digest, MediaType: image.MediaType, SizeBytes: image.Size, JudgedAt: signedAt(), Policy: "p"}
			made, err := s.Sign(t.Context(), v)
			if err != nil {
				t.Fatal(err)
			}
			for _, blob := range made.Blobs {
				registry.PutBlob("acme/app", blob)
			}
			registry.PutManifest("acme/app", "", made.Manifest.MediaType, made.Manifest.Raw)
			cosign(t, client, dir, "verify-attestation", "--allow-http-registry", "--allow-insecure-registry", "--key", "own.pub", "--insecure-ignore-tlog=true",
				"--new-bundle-format", "--type", vsaType, registry.Host()+"/acme/app@"+image.Digest.String())
		})
	}
}
