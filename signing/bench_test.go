package signing_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/revocation"
	"github.com/notaryproject/notation-core-go/revocation/result"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
)

// BenchmarkVerify sets what it costs to find and check one signature beside what the library alone takes to check the same bundle.
func BenchmarkVerify(b *testing.B) {
	bench := newBench(b)
	raw := signedBundle(b, bench.release, statementOf(signPredicate, bench.digest))
	scheme, err := signature.LoadECDSAVerifier(bench.release.trusted(b).Public.(*ecdsa.PublicKey), bench.release.hash)
	if err != nil {
		b.Fatal(err)
	}
	key := root.NewExpiringKey(scheme, time.Time{}, time.Time{})
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return key, nil })
	v, err := verify.NewVerifier(material, verify.WithNoObserverTimestamps(), verify.WithoutStatementPredicate())
	if err != nil {
		b.Fatal(err)
	}
	digest := mustHex(bench.digest)
	benchmarkBeside(b, "", func() error {
		var parsed bundle.Bundle
		if err := parsed.UnmarshalJSON(raw); err != nil {
			return err
		}
		_, err := v.Verify(&parsed, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest), verify.WithKey()))
		return err
	}, checkOf(b, bench, "release", oci.MediaTypeSigstoreBundle, raw))
	b.Run("one bundle", func(b *testing.B) {
		bench.bundle(b, raw)
		benchmarkVerify(b, bench, 1)
	})
	b.Run("one bundle and one legacy signature", func(b *testing.B) {
		bench.legacy(b, bench.goodLayer(b))
		benchmarkVerify(b, bench, 2)
	})
	b.Run("beside 100 signatures of strangers", func(b *testing.B) {
		stranger := newP256(b)
		for range 100 {
			bench.bundle(b, signedBundle(b, stranger, statementOf(signPredicate, bench.digest)))
		}
		benchmarkVerify(b, bench, 2)
	})
}

func benchmarkVerify(b *testing.B, bench *bench, want int) {
	b.Helper()
	v, err := signing.New(bench.options)
	if err != nil {
		b.Fatal(err)
	}
	var got gate.SignatureEvidence
	b.ReportAllocs()
	for b.Loop() {
		bench.reads = bench.reads[:0]
		if got, err = v.Verify(b.Context(), bench.candidate(), gate.Wanted{Signatures: []string{"release"}}); err != nil {
			b.Fatal(err)
		}
	}
	if len(got.Signatures) != want {
		b.Fatalf("got %v, want %d signatures", got, want)
	}
}

// BenchmarkKeyless sets what it costs to find and check one signature by a certificate beside what the library alone takes for it.
func BenchmarkKeyless(b *testing.B) {
	k := newKeylessBench(b, nil)
	raw := k.goodSignature(b).bundle(b)
	trusted, err := root.NewTrustedRootFromJSON(k.sigstore.TrustedRoot())
	if err != nil {
		b.Fatal(err)
	}
	v, err := verify.NewVerifier(trusted, verify.WithoutStatementPredicate(), verify.WithSignedCertificateTimestamps(1), verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	if err != nil {
		b.Fatal(err)
	}
	id, err := verify.NewShortCertificateIdentity(actionsIssuer, "", actionsSubject, "")
	if err != nil {
		b.Fatal(err)
	}
	digest := mustHex(k.digest)
	benchmarkBeside(b, "", func() error {
		var parsed bundle.Bundle
		if err := parsed.UnmarshalJSON(raw); err != nil {
			return err
		}
		_, err := v.Verify(&parsed, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest), verify.WithCertificateIdentity(id)))
		return err
	}, checkOf(b, k.bench, "actions", oci.MediaTypeSigstoreBundle, raw))
	b.Run("one bundle", func(b *testing.B) {
		k.bundle(b, raw)
		benchmarkWanted(b, k.bench, gate.Wanted{Signatures: []string{"actions"}})
	})
}

// BenchmarkNotation does so for signatures by notation.
func BenchmarkNotation(b *testing.B) {
	for _, mediaType := range []string{jws, cose} {
		n := newNotaryBench(b)
		raw := n.notarizing(mediaType).sign(b)
		trusted, err := verifier.NewWithOptions(&trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{
			Name: "x", RegistryScopes: []string{"*"}, TrustStores: []string{"ca:x"}, TrustedIdentities: []string{"*"},
			SignatureVerification: trustpolicy.SignatureVerification{VerificationLevel: "strict"},
		}}}, oneStore{n.ca}, nil, verifier.VerifierOptions{RevocationCodeSigningValidator: nobody{}, RevocationTimestampingValidator: nobody{}})
		if err != nil {
			b.Fatal(err)
		}
		desc := ocispec.Descriptor{MediaType: oci.MediaTypeImage, Digest: n.digest, Size: imageBytes}
		n.look(b)
		benchmarkBeside(b, mediaType+", ", func() error {
			_, err := trusted.Verify(b.Context(), desc, raw, notation.VerifierVerifyOptions{ArtifactReference: "a.invalid/x@" + n.digest.String(), SignatureMediaType: mediaType})
			return err
		}, checkOf(b, n.bench, "corp", mediaType, raw))
		b.Run(mediaType+", one signature", func(b *testing.B) {
			n.notarize(b, mediaType, raw)
			n.look(b) // brings its roots into force
			benchmarkWanted(b, n.bench, gate.Wanted{Signatures: []string{"corp"}, MediaType: oci.MediaTypeImage, SizeBytes: imageBytes})
		})
	}
}

// BenchmarkLargeAttestation checks an SBOM of five megabytes.
func BenchmarkLargeAttestation(b *testing.B) {
	k := newKeylessBench(b, nil)
	packages := strings.Repeat(`{"name":"a package of some name","versionInfo":"1.2.3-4","licenseDeclared":"MIT"},`, 5<<20/82)
	raw := k.sign(b, saying(sbomType, `{"spdxVersion":"SPDX-2.3","packages":[`+strings.TrimSuffix(packages, ",")+`]}`, k.digest), nil).bundle(b)
	k.bundle(b, raw)
	benchmarkWanted(b, k.bench, sboms("actions"))
}

// oneStore is a trust store of one certificate, nobody a validator that asks nobody.
type (
	oneStore struct{ cert *x509.Certificate }
	nobody   struct{}
)

func (s oneStore) GetCertificates(context.Context, truststore.Type, string) ([]*x509.Certificate, error) {
	return []*x509.Certificate{s.cert}, nil
}

func (nobody) ValidateContext(_ context.Context, o revocation.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	results := make([]*result.CertRevocationResult, len(o.CertChain))
	for i := range results {
		results[i] = &result.CertRevocationResult{Result: result.ResultNonRevokable}
	}
	return results, nil
}

// checkOf returns what reads and checks a layer that is fetched already, as the library alone does.
func checkOf(b *testing.B, bench *bench, authority, mediaType string, raw []byte) func() error {
	b.Helper()
	i := slices.IndexFunc(bench.roots.Authorities, func(a gate.Authority) bool { return a.Name == authority })
	check, err := signing.Checker(bench.roots.Authorities[i], bench.candidate(), gate.Wanted{MediaType: oci.MediaTypeImage, SizeBytes: imageBytes})
	if err != nil {
		b.Fatal(err)
	}
	layer := blobOf(mediaType, raw).desc
	return func() error { return check(layer, raw) }
}

// benchmarkBeside runs the library and ours each for itself, for the memory they take, and then in turns: how many times as long as the
// library's ours takes, in the middle of all turns, is x-bare. Whatever else the machine does slows both, and no single turn counts.
func benchmarkBeside(b *testing.B, name string, library, ours func() error) {
	b.Helper()
	for part, do := range map[string]func() error{"library alone": library, "ours, fetched": ours} {
		b.Run(name+part, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run(name+"in turns", func(b *testing.B) {
		var ratios []float64
		turn := func(do func() error) float64 {
			began := time.Now()
			if err := do(); err != nil {
				b.Fatal(err)
			}
			return float64(time.Since(began))
		}
		for first := true; b.Loop(); first = !first {
			var bare, own float64
			if first { // what the one leaves to be collected is the other's burden
				bare, own = turn(library), turn(ours)
			} else {
				own, bare = turn(ours), turn(library)
			}
			ratios = append(ratios, own/bare)
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[len(ratios)/2], "x-bare")
	})
}

// benchmarkWanted looks for what is wanted, which is there once.
func benchmarkWanted(b *testing.B, bench *bench, wanted gate.Wanted) {
	b.Helper()
	v, err := signing.New(bench.options)
	if err != nil {
		b.Fatal(err)
	}
	var got gate.SignatureEvidence
	b.ReportAllocs()
	for b.Loop() {
		bench.reads = bench.reads[:0]
		if got, err = v.Verify(b.Context(), bench.candidate(), wanted); err != nil {
			b.Fatal(err)
		}
	}
	if len(got.Signatures)+len(got.Attestations) != 1 {
		b.Fatalf("got %v, want one", whysOf(got))
	}
}
