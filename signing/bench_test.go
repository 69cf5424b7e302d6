package signing_test

import (
	"crypto/ecdsa"
	"encoding/hex"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/signing"
)

// BenchmarkVerify sets what it costs to find and check one signature beside what the library alone takes to check the same bundle.
func BenchmarkVerify(b *testing.B) {
	bench := newBench(b)
	raw := signedBundle(b, bench.release, statementOf(signPredicate, bench.digest))
	b.Run("library alone", func(b *testing.B) {
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
		digest, err := hex.DecodeString(bench.digest.Encoded())
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			var parsed bundle.Bundle
			if err := parsed.UnmarshalJSON(raw); err != nil {
				b.Fatal(err)
			}
			if _, err := v.Verify(&parsed, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest), verify.WithKey())); err != nil {
				b.Fatal(err)
			}
		}
	})
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
