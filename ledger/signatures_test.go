package ledger

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func kept(c gate.Candidate, asked string) gate.KeptSignatures {
	by := gate.Signature{Authority: "release", Format: "sigstore-bundle", Signer: "k1", SignedAt: epoch, Manifest: oci.FromBytes([]byte("bundle"))}
	return gate.KeptSignatures{
		Candidate: c, Asked: asked, LookedAt: epoch.Add(time.Minute),
		Found: gate.SignatureEvidence{
			Signatures:   []gate.Signature{by},
			Attestations: []gate.Attestation{{By: by, PredicateType: "https://slsa.dev/provenance/v1", Answers: map[string]string{"slsa": "", "cel": "it is not"}}},
			VEX:          []gate.VEX{{By: by, Vulnerabilities: []string{"CVE-2026-1"}, Status: gate.VEXNotAffected, Why: "not reachable", At: epoch}},
			Rejections:   []gate.Rejection{{Format: "sigstore-bundle", Why: "not signed with a key of release"}},
		},
	}
}

func wantKept(t *testing.T, l *Ledger, c gate.Candidate, want gate.KeptSignatures, wantOK bool) {
	t.Helper()
	got, ok, err := l.KeptSignatures(t.Context(), c)
	if diff := cmp.Diff(got, want); ok != wantOK || err != nil || diff != "" {
		t.Errorf("KeptSignatures: got %v, %v, want %v (-got +want):\n%s", ok, err, wantOK, diff)
	}
}

func TestKeptSignatures(t *testing.T) {
	for name, s := range map[string]*storage{"in memory": inMemory(), "on disk": onDisk(t)} {
		t.Run(name, func(t *testing.T) {
			l := openLedger(t, s, &clock{})
			a, b := candidate(nginx, "a"), candidate(nginx, "b")
			for _, k := range []gate.KeptSignatures{kept(a, "once"), kept(b, "once"), kept(a, "again")} {
				if err := l.KeepSignatures(t.Context(), k); err != nil {
					t.Fatal(err)
				}
			}
			for _, l := range []*Ledger{l, openLedger(t, s, &clock{})} { // the other as after a restart
				wantKept(t, l, a, kept(a, "again"), true)
				wantKept(t, l, b, kept(b, "once"), true)
				wantKept(t, l, candidate(redis, "a"), gate.KeptSignatures{}, false)
			}
		})
	}
}

func TestBrokenSignaturesAreLookedForAgain(t *testing.T) {
	a, b := candidate(nginx, "a"), candidate(nginx, "b")
	atA, err := signaturesPath(a)
	if err != nil {
		t.Fatal(err)
	}
	atB, err := signaturesPath(b)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(content, other []byte) []byte{
		"altered":                   func(content, _ []byte) []byte { content[len(content)/2] ^= 1; return content },
		"empty":                     func(_, _ []byte) []byte { return nil },
		"those of another image":    func(_, other []byte) []byte { return other },
		"without a seal":            func(_, _ []byte) []byte { return []byte(`{"asked":"once"}`) },
		"cut off where they end in": func(content, _ []byte) []byte { return content[:len(content)-1] },
	} {
		t.Run(name, func(t *testing.T) {
			s := inMemory()
			l := openLedger(t, s, &clock{})
			for _, c := range []gate.Candidate{a, b} {
				if err := l.KeepSignatures(t.Context(), kept(c, "once")); err != nil {
					t.Fatal(err)
				}
			}
			s.put(t, atA, spoil(s.get(t, atA), s.get(t, atB)))
			wantKept(t, l, a, gate.KeptSignatures{}, false)
			if got := l.Stats().BrokenEvents; got != 1 {
				t.Errorf("broken: got %d, want 1", got)
			}
			if err := l.KeepSignatures(t.Context(), kept(a, "again")); err != nil {
				t.Fatal(err)
			}
			wantKept(t, l, a, kept(a, "again"), true)
		})
	}
}

func TestSignaturesWithoutStorage(t *testing.T) {
	s := inMemory()
	l := openLedger(t, s, &clock{})
	a := candidate(nginx, "a")
	s.failing("Reader", errDisk)
	if _, _, err := l.KeptSignatures(t.Context(), a); !errors.Is(err, errDisk) {
		t.Errorf("KeptSignatures: got %v, want the driver's error", err)
	}
	s.failing("PutContent", errDisk)
	if err := l.KeepSignatures(t.Context(), kept(a, "once")); !errors.Is(err, errDisk) {
		t.Errorf("KeepSignatures: got %v, want the driver's error", err)
	}
	for _, c := range []gate.Candidate{{}, {Repository: nginx}, {Repository: oci.Repository{Path: "../x"}, Digest: a.Digest}} {
		if err := l.KeepSignatures(t.Context(), kept(c, "once")); err == nil {
			t.Errorf("KeepSignatures of %s: got no error", c)
		}
		if _, _, err := l.KeptSignatures(t.Context(), c); err == nil {
			t.Errorf("KeptSignatures of %s: got no error", c)
		}
	}
}
