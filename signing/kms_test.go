package signing_test

import (
	"context"
	"crypto"
	"errors"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/signing"
)

// A key in a service is fetched when it is first needed, once, and counts like any other; while it cannot be fetched there is no verdict.
func TestKeysInServices(t *testing.T) {
	b := newBench(t)
	b.good(t)
	down := errors.New("the service is down")
	asked, fails := 0, true
	b.options.KeyService = func(_ context.Context, reference string) (crypto.PublicKey, error) {
		if asked++; fails {
			return nil, down
		}
		if reference != "hashivault://release" {
			t.Errorf("asked for %s", reference)
		}
		return b.release.private.Public(), nil
	}
	inService := gate.Authority{Name: "vault", KMS: []gate.KMSKey{{Reference: "hashivault://release"}}}
	b.roots = &gate.TrustRoots{Authorities: []gate.Authority{inService}}
	if err := signing.CheckRoots(b.roots); err != nil || asked != 0 {
		t.Errorf("checking roots: got %v after %d requests", err, asked)
	}
	v, err := signing.New(b.options)
	if err != nil {
		t.Fatal(err)
	}
	look := func() (gate.SignatureEvidence, error) {
		return v.Verify(t.Context(), b.candidate(), gate.Wanted{Signatures: []string{"vault"}})
	}
	if got, err := look(); !errors.Is(err, down) || len(got.Signatures) != 0 {
		t.Errorf("while it is down: got %v, %v", got, err)
	}
	fails, asked = false, 0
	for range 3 {
		if got, err := look(); err != nil || len(got.Signatures) != 1 || got.Signatures[0].Signer != b.release.trusted(t).Fingerprint {
			t.Errorf("got %v, %v", got, err)
		}
	}
	inService.KMS = []gate.KMSKey{{Reference: "hashivault://release", NotAfter: time.Now().Add(-time.Hour)}}
	b.roots = &gate.TrustRoots{Authorities: []gate.Authority{inService}} // read again, with the key's time run out
	fails = true
	if got, err := look(); err != nil || len(got.Signatures) != 0 || asked != 1 {
		t.Errorf("run out: got %v, %v after %d requests, want none counting after 1", got, err, asked)
	}
	b.options.KeyService = nil
	if got, err := b.verify(t, "vault"); err == nil || len(got.Signatures) != 0 {
		t.Errorf("without a service: got %v, %v", got, err)
	}
}
