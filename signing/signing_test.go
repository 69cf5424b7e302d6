package signing_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/elliptic"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
)

var _ gate.Signatures = (*signing.Verifier)(nil)

// Every kind of key counts in both formats, however its client hashes.
func TestEveryKindOfKey(t *testing.T) {
	kinds := map[string]signer{
		"P-256":                newP256(t),
		"P-384 with SHA-384":   newECDSA(t, elliptic.P384(), crypto.SHA384),
		"P-384 with SHA-256":   newECDSA(t, elliptic.P384(), crypto.SHA256),
		"P-521 with SHA-512":   newECDSA(t, elliptic.P521(), crypto.SHA512),
		"P-521 with SHA-256":   newECDSA(t, elliptic.P521(), crypto.SHA256),
		"Ed25519":              newEd25519(t, 0),
		"Ed25519ph":            newEd25519(t, crypto.SHA512),
		"RSA-2048 PKCS #1 1.5": newRSA(t, 2048),
	}
	for name, s := range kinds {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.release, b.roots.Authorities[0] = s, authorityOf(t, "release", s)
			bundle, legacy := b.good(t), b.legacy(t, b.goodLayer(t))
			got, err := b.verify(t)
			if err != nil {
				t.Fatal(err)
			}
			signer := s.trusted(t).Fingerprint
			want := gate.SignatureEvidence{Signatures: sorted(
				gate.Signature{Authority: "release", Format: "sigstore-bundle", Signer: signer, Manifest: bundle},
				gate.Signature{Authority: "release", Format: "cosign-legacy", Signer: signer, Manifest: legacy},
			)}
			if diff := cmp.Diff(got, want); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// sorted returns two signatures of one authority by their manifests.
func sorted(a, b gate.Signature) []gate.Signature {
	if a.Manifest > b.Manifest {
		return []gate.Signature{b, a}
	}
	return []gate.Signature{a, b}
}

// A key that nobody should sign with makes its authority unusable, which is a failure and not the absence of a signature.
func TestUnusableKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		key  gate.TrustedKey
		want string
	}{
		"RSA of 1024 bits": {newRSA1024(t).trusted(t), "RSA key of 1024 bits"},
		"P-224":            {newECDSA(t, elliptic.P224(), crypto.SHA256).trusted(t), "unsupported curve"},
		"no key":           {gate.TrustedKey{}, "unsupported kind"},
		"a private key":    {gate.TrustedKey{Public: newEd25519(t, 0).private}, "unsupported kind"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.good(t)
			b.roots.Authorities = append(b.roots.Authorities, gate.Authority{Name: "weak", Keys: []gate.TrustedKey{tc.key}})
			if _, err := b.verify(t, "weak"); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want one about %q", err, tc.want)
			}
			if got, err := b.verify(t, "release"); err != nil || len(got.Signatures) != 1 {
				t.Errorf("another authority: got %v, %v, want one signature", got, err)
			}
		})
	}
}

func newRSA1024(t *testing.T) signer {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	return newRSA(t, 1024)
}

// An unsigned image is a fact, and costs the few requests it takes to know.
func TestUnsigned(t *testing.T) {
	b := newBench(t)
	got, err := b.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, gate.SignatureEvidence{}); diff != "" {
		t.Error(diff)
	}
	if got := len(b.reads); got != 2 {
		t.Errorf("got %d requests, want 2: %v", got, b.reads)
	}
}

// One bundle and one legacy signature take no more requests than there are things to read.
func TestRequests(t *testing.T) {
	b := newBench(t)
	b.good(t)
	b.legacy(t, b.goodLayer(t))
	if _, err := b.verify(t); err != nil {
		t.Fatal(err)
	}
	if got := len(b.reads); got != 5 { // referrers, referrer, bundle, .sig, payload
		t.Errorf("got %d requests, want 5: %v", got, b.reads)
	}
}

// Each authority asked for is told apart; those not asked for do not appear, and asking twice changes nothing.
func TestAuthorities(t *testing.T) {
	b := newBench(t)
	qa, spare := newP256(t), newEd25519(t, 0)
	b.roots.Authorities = append(b.roots.Authorities, authorityOf(t, "qa", spare, qa), authorityOf(t, "other", newP256(t)))
	byRelease := b.good(t)
	byQA := b.bundle(t, signedBundle(t, qa, statementOf(signPredicate, b.digest)))
	release := gate.Signature{Authority: "release", Format: "sigstore-bundle", Signer: b.release.trusted(t).Fingerprint, Manifest: byRelease}
	qaSigned := gate.Signature{Authority: "qa", Format: "sigstore-bundle", Signer: qa.trusted(t).Fingerprint, Manifest: byQA}
	for name, tc := range map[string]struct {
		ask  []string
		want []gate.Signature
		why  string // of the single rejection; empty for none
	}{
		"both":       {[]string{"release", "qa"}, []gate.Signature{qaSigned, release}, ""},
		"twice":      {[]string{"qa", "release", "qa", "release"}, []gate.Signature{qaSigned, release}, ""},
		"one of two": {[]string{"qa"}, []gate.Signature{qaSigned}, "not signed with a key of qa"},
		"nobody":     {[]string{}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := b.verify(t, tc.ask...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got.Signatures, tc.want); diff != "" {
				t.Error(diff)
			}
			if whys := whysOf(got); whys != tc.why {
				t.Errorf("got rejections %q, want %q", whys, tc.why)
			}
		})
	}
}

func whysOf(e gate.SignatureEvidence) string {
	var whys []string
	for _, r := range e.Rejections {
		whys = append(whys, r.Why)
	}
	return strings.Join(whys, "\n")
}

// An authority nobody knows is a failure: a policy that names it was written for other trust roots.
func TestUnknownAuthority(t *testing.T) {
	b := newBench(t)
	b.good(t)
	if got, err := b.verify(t, "release", "nobody"); err == nil || !strings.Contains(err.Error(), `no authority "nobody"`) || got.Signatures != nil {
		t.Errorf("got %v, %v, want an error about nobody", got, err)
	}
	b.roots = nil
	if _, err := b.verify(t); err == nil {
		t.Error("without trust roots: got no error")
	}
}

// Trust roots are asked for at every verification, and the revision is always that of the roots in force.
func TestRootsReload(t *testing.T) {
	b := newBench(t)
	b.good(t)
	v, err := signing.New(b.options)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := v.Verify(t.Context(), b.candidate(), gate.Wanted{Signatures: []string{"release"}}); err != nil || len(got.Signatures) != 1 || v.Revision() != "r1" {
		t.Fatalf("before: got %v, %v, revision %s", got, err, v.Revision())
	}
	b.roots = &gate.TrustRoots{Authorities: []gate.Authority{authorityOf(t, "release", newP256(t))}, Revision: "r2"}
	if got, err := v.Verify(t.Context(), b.candidate(), gate.Wanted{Signatures: []string{"release"}}); err != nil || len(got.Signatures) != 0 || v.Revision() != "r2" {
		t.Errorf("after: got %v, %v, revision %s", got, err, v.Revision())
	}
	b.roots = nil
	if got := v.Revision(); got != "" {
		t.Errorf("without roots: got revision %q", got)
	}
}

// A key counts from NotBefore until just before NotAfter, at the time of asking; the signature says until when.
func TestKeyWindows(t *testing.T) {
	from, until := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		from, until, now time.Time
		counts           bool
	}{
		"a moment early":    {from, until, from.Add(-1), false},
		"from the start":    {from, until, from, true},
		"a moment left":     {from, until, until.Add(-1), true},
		"at the end":        {from, until, until, false},
		"long after":        {from, until, until.AddDate(10, 0, 0), false},
		"no start":          {time.Time{}, until, from.AddDate(-10, 0, 0), true},
		"no end":            {from, time.Time{}, until.AddDate(10, 0, 0), true},
		"no start, ended":   {time.Time{}, until, until, false},
		"no end, not begun": {from, time.Time{}, from.Add(-1), false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.good(t)
			k := &b.roots.Authorities[0].Keys[0]
			k.NotBefore, k.NotAfter = tc.from, tc.until
			b.options.Now = func() time.Time { return tc.now }
			got, err := b.verify(t)
			if err != nil {
				t.Fatal(err)
			}
			if counts := len(got.Signatures) == 1; counts != tc.counts {
				t.Fatalf("got %v, want counting %v", got, tc.counts)
			}
			if tc.counts && !got.Signatures[0].Until.Equal(tc.until) {
				t.Errorf("got until %v, want %v", got.Signatures[0].Until, tc.until)
			}
			if !tc.counts && !strings.Contains(whysOf(got), "of release, which counts") {
				t.Errorf("got rejections %q, want one about the key's window", whysOf(got))
			}
		})
	}
}

// After a rotation the old key's signatures count until its window ends, beside the new one's, and the same key listed again counts
// by whichever window is open.
func TestKeyRotation(t *testing.T) {
	b := newBench(t)
	b.good(t)
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	b.options.Now = func() time.Time { return now }
	old := b.release.trusted(t)
	old.NotAfter = now
	again := b.release.trusted(t)
	again.NotBefore, again.NotAfter = now, now.Add(time.Hour)
	b.roots.Authorities[0].Keys = []gate.TrustedKey{newP256(t).trusted(t), old, again}
	got, err := b.verify(t)
	if err != nil || len(got.Signatures) != 1 || !got.Signatures[0].Until.Equal(again.NotAfter) {
		t.Errorf("got %v, %v, want a signature until %v", got, err, again.NotAfter)
	}
}

// One verifier serves many images at once.
func TestConcurrentUse(t *testing.T) {
	b := newBench(t)
	b.good(t)
	b.legacy(t, b.goodLayer(t))
	v, err := signing.New(b.options)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for range 16 {
		running.Go(func() {
			got, err := v.Verify(t.Context(), b.candidate(), gate.Wanted{Signatures: []string{"release"}})
			if err != nil || len(got.Signatures) != 2 {
				t.Errorf("got %v, %v, want two signatures", got, err)
			}
		})
	}
	running.Wait()
}

// A caller that gives up gets an error, not an unsigned image.
func TestCancelled(t *testing.T) {
	b := newBench(t)
	b.good(t)
	v, err := signing.New(b.options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Verify(ctx, b.candidate(), gate.Wanted{Signatures: []string{"release"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// slow is a registry whose blobs come when it is told so.
type slow struct {
	*registry
	open    chan struct{} // closed when blobs may come
	waiting atomic.Int32
}

func (r *slow) Blob(ctx context.Context, repo oci.Repository, desc oci.Descriptor) (io.ReadCloser, error) {
	r.waiting.Add(1)
	defer r.waiting.Add(-1)
	select {
	case <-r.open:
		return r.registry.Blob(ctx, repo, desc)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Large bundles are read two at a time, over all images; small ones do not wait for them.
func TestLargeBundles(t *testing.T) {
	for name, tc := range map[string]struct {
		padding int
		atOnce  int32
	}{
		"large": {2 << 20, 2},
		"small": {0, 8},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			statement := append(statementOf(signPredicate, b.digest), bytes.Repeat([]byte(" "), tc.padding)...)
			b.bundle(t, signedBundle(t, b.release, statement))
			synctest.Test(t, func(t *testing.T) {
				registry := &slow{registry: b.registry, open: make(chan struct{})}
				b.options.Registry = registry
				v, err := signing.New(b.options)
				if err != nil {
					t.Fatal(err)
				}
				var running sync.WaitGroup
				for range 8 {
					running.Go(func() {
						got, err := v.Verify(t.Context(), b.candidate(), gate.Wanted{Signatures: []string{"release"}})
						if err != nil || len(got.Signatures) != 1 {
							t.Errorf("got %v, %v, want one signature", got, err)
						}
					})
				}
				synctest.Wait()
				if got := registry.waiting.Load(); got != tc.atOnce {
					t.Errorf("got %d read at once, want %d", got, tc.atOnce)
				}
				close(registry.open)
				running.Wait()
			})
		})
	}
}

// A registry that never answers costs a minute, and is a failure.
func TestTimeout(t *testing.T) {
	b := newBench(t)
	b.good(t)
	synctest.Test(t, func(t *testing.T) {
		b.options.Registry = &slow{registry: b.registry, open: make(chan struct{})}
		start := time.Now()
		if _, err := b.verify(t); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want context.DeadlineExceeded", err)
		}
		if got := time.Since(start); got != time.Minute {
			t.Errorf("got an answer after %v, want after a minute", got)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	b := newBench(t)
	for name, o := range map[string]signing.Options{
		"nothing":                    {},
		"no roots":                   {Registry: b.registry},
		"no registry":                {Roots: b.options.Roots},
		"aliases without a revision": {Registry: b.registry, Roots: b.options.Roots, ReferenceAliases: func(oci.Repository) []string { return nil }},
		"places without a revision":  {Registry: b.registry, Roots: b.options.Roots, SignaturesIn: func(r oci.Repository) oci.Repository { return r }},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := signing.New(o); err == nil {
				t.Error("got no error")
			}
		})
	}
}

// A digest of an algorithm that is not checked is refused before anything is asked of the registry.
func TestUnusableDigest(t *testing.T) {
	b := newBench(t)
	b.digest = "sha512:" + oci.Digest(strings.Repeat("0", 128))
	if _, err := b.verify(t); !errors.Is(err, oci.ErrDigestInvalid) || len(b.reads) != 0 {
		t.Errorf("got %v after %v, want ErrDigestInvalid", err, b.reads)
	}
}

// One verifier serves many images at once, in every way of signing.
func TestVerifierIsShared(t *testing.T) {
	k := newKeylessBench(t, nil)
	n := newNotaryBench(t)
	n.registry, n.repo, n.digest = k.registry, k.repo, k.digest
	k.bundle(t, k.goodSignature(t).bundle(t))
	k.legacy(t, k.goodLayer(t))
	n.notarize(t, jws, n.notarizing(jws).sign(t))
	k.bundle(t, signedBundle(t, k.release, saying(sbomType, "{}", k.digest)))
	k.roots = &gate.TrustRoots{Authorities: append(k.roots.Authorities, gate.Authority{Name: "corp", Notation: &n.trust})}
	v, err := signing.New(k.options)
	if err != nil {
		t.Fatal(err)
	}
	wanted := sboms("release")
	wanted.Signatures, wanted.MediaType, wanted.SizeBytes = []string{"actions", "release", "corp"}, oci.MediaTypeImage, imageBytes
	var running sync.WaitGroup
	for range 16 {
		running.Go(func() {
			for range 4 {
				if got, err := v.Verify(t.Context(), k.candidate(), wanted); err != nil || len(got.Signatures) != 3 || len(got.Attestations) != 1 {
					t.Errorf("got %v, %v", got, err)
				}
			}
		})
	}
	running.Wait()
}
