// Package cachetest holds the laws of gate.Verdicts as tests, for whoever implements it.
package cachetest

import (
	"crypto/sha256"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Epoch is what the clock shows when a test begins.
var Epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Clock is a clock that moves when told. It starts at [Epoch] and is safe for concurrent use.
type Clock struct {
	mu     sync.Mutex
	passed time.Duration // guarded by mu
}

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Epoch.Add(c.passed)
}

// Pass lets d pass.
func (c *Clock) Pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passed += d
}

// NewVerdict returns an admission that counts for an hour from [Epoch], and its key. Each seed has another key.
func NewVerdict(seed string) (gate.Key, gate.Verdict) {
	key := gate.Key(sha256.Sum256([]byte(seed)))
	blob := oci.FromBytes([]byte("blob of " + seed))
	finding := gate.Finding{
		ID: "CVE-2026-0001", Package: gate.Package{Type: "deb", Name: "openssl", Version: "3.0.1"}, Path: "var/lib/dpkg/status",
		Severity: gate.Low, Source: "debian 12", Published: Epoch.Add(-time.Hour),
	}
	return key, gate.Verdict{
		Decision: gate.Allow, Repository: oci.Repository{Upstream: "docker.io", Path: "library/nginx"},
		Digest: oci.FromBytes([]byte(seed)), MediaType: oci.MediaTypeImage, Policy: "production", File: "policy.yaml", Line: 3,
		Excused:  []gate.Reason{{Rule: gate.RuleVulnerabilities, Message: "excused", Finding: &finding, Excuse: &gate.Excuse{By: "vendor", Status: gate.VEXFixed, At: finding.Published}}},
		Waived:   []gate.Reason{{Rule: gate.RuleVulnerabilities, Message: "waived", Finding: &finding, Waiver: "alice: not reachable"}},
		Complete: true, Findings: []gate.Finding{finding}, Packages: 7, Blobs: []oci.Digest{blob},
		Signatures: []gate.Signature{{Authority: "release-key", Format: "sigstore-bundle", Signer: "ab12", Manifest: blob}},
		JudgedAt:   Epoch, Until: Epoch.Add(time.Hour),
		Key: key.String(), PolicyRevision: "p1", WaiverRevision: "w1", SnapshotID: "s1", RootsRevision: "r1",
	}
}

// Run tests that what open returns obeys gate.Verdicts. Each call of open returns an empty one that takes the time from now.
func Run(t *testing.T, open func(t *testing.T, now func() time.Time) gate.Verdicts) {
	t.Helper()
	laws := map[string]func(*testing.T, gate.Verdicts, *Clock){
		"returns what was put":                     returnsWhatWasPut,
		"returns a denial as a denial":             returnsDenials,
		"has nothing under a key nobody put":       hasNothingElse,
		"replaces what was put before":             replaces,
		"forgets a verdict when it stops counting": forgetsInTime,
		"does not take what no longer counts":      refusesTheExpired,
		"serves many at once":                      servesManyAtOnce,
	}
	for name, law := range laws {
		t.Run(name, func(t *testing.T) {
			clock := &Clock{}
			law(t, open(t, clock.Now), clock)
		})
	}
}

func put(t *testing.T, vs gate.Verdicts, key gate.Key, v gate.Verdict) {
	t.Helper()
	if err := vs.Put(t.Context(), key, v); err != nil {
		t.Fatalf("Put: %v", err)
	}
}

// want fails unless vs remembers exactly v under key.
func want(t *testing.T, vs gate.Verdicts, key gate.Key, v gate.Verdict) {
	t.Helper()
	got, ok := vs.Get(t.Context(), key)
	if !ok {
		t.Fatal("Get: got nothing, want the verdict")
	}
	if diff := cmp.Diff(got, v); diff != "" {
		t.Errorf("Get (-got +want):\n%s", diff)
	}
}

// wantNone fails unless vs remembers nothing under key.
func wantNone(t *testing.T, vs gate.Verdicts, key gate.Key) {
	t.Helper()
	got, ok := vs.Get(t.Context(), key)
	if diff := cmp.Diff(got, gate.Verdict{}); ok || diff != "" {
		t.Errorf("Get: got %v and a verdict, want nothing (-got +want):\n%s", ok, diff)
	}
}

func returnsWhatWasPut(t *testing.T, vs gate.Verdicts, _ *Clock) {
	key, v := NewVerdict("a")
	put(t, vs, key, v)
	want(t, vs, key, v)
	want(t, vs, key, v)
}

func returnsDenials(t *testing.T, vs gate.Verdicts, _ *Clock) {
	key, v := NewVerdict("denied")
	v.Decision, v.Keep, v.Reasons = gate.Deny, true, []gate.Reason{{Rule: gate.RuleSignatures, Message: "unsigned"}}
	put(t, vs, key, v)
	want(t, vs, key, v)
}

func hasNothingElse(t *testing.T, vs gate.Verdicts, _ *Clock) {
	other, _ := NewVerdict("b")
	wantNone(t, vs, other)
	key, v := NewVerdict("a")
	put(t, vs, key, v)
	wantNone(t, vs, other)
	wantNone(t, vs, gate.Key{})
}

func replaces(t *testing.T, vs gate.Verdicts, _ *Clock) {
	key, v := NewVerdict("a")
	put(t, vs, key, v)
	v.Decision, v.Reasons = gate.Deny, []gate.Reason{{Rule: gate.RuleGap, Message: "a layer could not be read"}}
	put(t, vs, key, v)
	want(t, vs, key, v)
}

func forgetsInTime(t *testing.T, vs gate.Verdicts, clock *Clock) {
	key, v := NewVerdict("a")
	put(t, vs, key, v)
	clock.Pass(v.Until.Sub(Epoch) - 1)
	want(t, vs, key, v)
	clock.Pass(1)
	wantNone(t, vs, key)
}

func refusesTheExpired(t *testing.T, vs gate.Verdicts, _ *Clock) {
	for _, until := range []time.Time{Epoch, Epoch.Add(-time.Nanosecond), {}} {
		key, v := NewVerdict("a")
		v.Until = until
		_ = vs.Put(t.Context(), key, v) // whether it says so is its own affair
		wantNone(t, vs, key)
	}
}

func servesManyAtOnce(t *testing.T, vs gate.Verdicts, _ *Clock) {
	var wg sync.WaitGroup
	for _, seed := range []string{"a", "b", "c", "d", "a", "b", "c", "d"} {
		wg.Go(func() {
			key, v := NewVerdict(seed)
			for range 20 {
				if err := vs.Put(t.Context(), key, v); err != nil {
					t.Errorf("Put: %v", err)
				}
				got, ok := vs.Get(t.Context(), key)
				if diff := cmp.Diff(got, v); !ok || diff != "" {
					t.Errorf("Get: got %v (-got +want):\n%s", ok, diff)
				}
			}
		})
	}
	wg.Wait()
}
