package gate_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// keeps is the signatures a world has kept, as JSON, since that is what lasts.
type keeps struct {
	w    *world
	kept map[gate.Candidate][]byte
}

func (k *keeps) KeptSignatures(_ context.Context, c gate.Candidate) (kept gate.KeptSignatures, ok bool, err error) {
	if err := k.w.note("kept %s", c.Digest); err != nil {
		return gate.KeptSignatures{}, false, err
	}
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	raw, ok := k.kept[c]
	if ok {
		err = json.Unmarshal(raw, &kept)
	}
	return kept, ok, err
}

func (k *keeps) KeepSignatures(_ context.Context, kept gate.KeptSignatures) error {
	if err := k.w.note("keep %s", kept.Candidate.Digest); err != nil {
		return err
	}
	raw, err := json.Marshal(kept)
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.kept[kept.Candidate] = raw
	return err
}

// keptFor is how long signatures are kept in these tests.
const keptFor = 12 * time.Hour

// keeping returns a gate that keeps signatures, and what it keeps.
func (w *world) keeping() (*gate.Gate, *keeps) {
	k := &keeps{w: w, kept: map[gate.Candidate][]byte{}}
	g := gate.New(gate.Options{
		Bytes: w, Releases: w, Scanner: w, Advisories: w, Signatures: w, Policies: w, Verdicts: remembers{w}, Inventories: w, Records: w,
		Attachments: w, Now: w.clock, Log: slog.New(slog.DiscardHandler), Workers: 4, MaxImageBytes: maxImageBytes,
		Kept: gate.Keeping{Records: k, For: keptFor},
	})
	w.t.Cleanup(g.Close)
	return g, k
}

// judged judges c, to the end of examining it, and returns how the verdict came about: its decision, and whether signatures were
// looked for.
func (w *world) judged(g *gate.Gate, c gate.Candidate) string {
	before := w.count("verify ")
	v, err := g.Examine(w.t.Context(), c)
	said := v.Decision.String()
	if err != nil {
		said = "no verdict"
	}
	if w.count("verify ") > before {
		said += ", looked"
	}
	return said
}

// TestKeptSignatures follows one image: what is judged after each change, and whether anybody was asked for signatures.
func TestKeptSignatures(t *testing.T) {
	unsign := func(w *world) {
		w.mu.Lock()
		defer w.mu.Unlock()
		clear(w.signatures)
	}
	snapshot := func(id string) func(*world) { return func(w *world) { w.snap.ID = id } }
	down := func(w *world) { w.breaks = "verify" }
	both := func(changes ...func(*world)) func(*world) {
		return func(w *world) {
			for _, c := range changes {
				c(w)
			}
		}
	}
	wait := func(d time.Duration) func(*world) { return func(w *world) { w.advance(d) } }
	type step struct {
		change func(*world)
		want   string
	}
	signed := step{func(*world) {}, "allow, looked"}
	for law, steps := range map[string][]step{
		"count when only advisories change, and nobody is asked": {signed, {both(snapshot("s2"), down), "allow"}, {snapshot("s3"), "allow"}},
		"count when only the content of the policies changes":    {signed, {both(func(w *world) { w.set = withRevision(w.set, "p2") }, down), "allow"}},
		"do not count under other trust roots":                   {signed, {both(func(w *world) { w.roots = "r2" }, unsign), "deny, looked"}},
		"do not count when something was attached or removed":    {signed, {both(func(w *world) { w.attached = "a2" }, unsign), "deny, looked"}},
		"do not count for a policy that wants others": {signed, {func(w *world) {
			w.set = withRevision(w.set, "p2")
			w.set.Policies[0].Signatures.AllOf = []string{"security"}
		}, "deny, looked"}},
		"are looked for again when they are old":        {signed, {both(snapshot("s2"), wait(keptFor-1)), "allow"}, {both(snapshot("s3"), wait(1), unsign), "deny, looked"}},
		"count twice as long while nobody can be asked": {signed, {both(snapshot("s2"), down, wait(2*keptFor-1)), "allow, looked"}, {both(snapshot("s3"), wait(1)), "no verdict, looked"}},
		"that are looked for again count from then":     {signed, {both(snapshot("s2"), wait(keptFor)), "allow, looked"}, {both(snapshot("s3"), wait(keptFor-1), down), "allow"}},
		"are not those of a clock that was turned back": {signed, {both(snapshot("s2"), wait(-time.Hour), unsign), "deny, looked"}},
		"that are missing are looked for each time":     {{unsign, "deny, looked"}, {snapshot("s2"), "deny, looked"}, {both(snapshot("s3"), down), "no verdict, looked"}},
		"that were seen to be gone do not come back with nobody to ask": {
			signed, {both(snapshot("s2"), wait(keptFor), unsign), "deny, looked"}, {both(snapshot("s3"), down), "no verdict, looked"},
		},
		"that do not last are looked for again when lapsed": {{func(w *world) { w.signUntil(w.clock().Add(time.Hour)) }, "allow, looked"}, {both(snapshot("s2"), wait(time.Hour)), "deny, looked"}},
	} {
		t.Run(law, func(t *testing.T) {
			w := newWorld(t)
			g, _ := w.keeping()
			c := w.image(w.blob(gzipLayer, "layer"))
			for i, s := range steps {
				s.change(w)
				if got := w.judged(g, c); got != s.want {
					t.Errorf("step %d: got %q, want %q", i+1, got, s.want)
				}
			}
			if n := w.count("scan "); n > 1 {
				t.Errorf("layers were read %d times, want once", n)
			}
		})
	}
}

func withRevision(set *gate.PolicySet, revision string) *gate.PolicySet {
	other := *set
	other.Policies, other.Revision = []gate.Policy{set.Policies[0]}, revision
	return &other
}

// signUntil has every signature count until then.
func (w *world) signUntil(until time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c, e := range w.signatures {
		for i := range e.Signatures {
			e.Signatures[i].Until = until
		}
		w.signatures[c] = e
	}
}

func TestAVerdictLapsesWithTheSignaturesItLeansOn(t *testing.T) {
	w := newWorld(t)
	g, _ := w.keeping()
	c := w.image(w.blob(gzipLayer, "layer"))
	looked := w.clock()
	for _, s := range []string{"s2", "s3"} {
		w.snap.ID = s
		v, err := g.Judge(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if !v.LookedAt.Equal(looked) || v.Until.After(looked.Add(2*keptFor)) {
			t.Errorf("looked at %v and counts until %v, want %v and at most %s more", v.LookedAt, v.Until, looked, 2*keptFor)
		}
		w.advance(keptFor - 1)
	}
}

func TestAnIndexSignsForItsChildrenWithoutAskingAgain(t *testing.T) {
	w := newWorld(t)
	g, _ := w.keeping()
	child := w.image(w.blob(gzipLayer, "layer"))
	delete(w.signatures, child)
	index := w.index(nginx, child)
	w.sign(index, "release")
	for _, c := range []gate.Candidate{index, child} {
		if got := w.judged(g, c); !strings.HasPrefix(got, "allow, looked") {
			t.Fatalf("%s: got %q", c, got)
		}
	}
	w.snap.ID, w.breaks = "s2", "verify"
	if got := w.judged(g, child); got != "allow" {
		t.Errorf("the child, with nobody to ask: got %q, want it allowed by the index's signature", got)
	}
	t.Run("but not when the index is denied", func(t *testing.T) {
		w.snap.ID, w.breaks, w.roots = "s3", "", "r2"
		delete(w.signatures, index)
		if got := w.judged(g, child); !strings.HasPrefix(got, "deny") {
			t.Errorf("got %q, want a denial", got)
		}
	})
}

func TestKeptAttestationsHaveTheirAnswers(t *testing.T) {
	w := newWorld(t)
	rule := gate.AttestationRule{PredicateTypes: []string{sbom}, AnyOf: []string{"ci"}, Conditions: []gate.Condition{says("x")}}
	w.set = withRevision(w.set, "p2")
	w.set.Policies[0].Attestations = []gate.AttestationRule{rule}
	g, _ := w.keeping()
	c := w.image(w.blob(gzipLayer, "layer"))
	found := w.signatures[c]
	found.Attestations = []gate.Attestation{{By: signedBy("ci"), PredicateType: sbom, Predicate: []byte("x")}}
	w.signatures[c] = found
	for _, s := range []struct {
		change func()
		want   string
	}{
		{func() {}, "allow, looked"},
		{func() { w.snap.ID = "s2" }, "allow"},
		{func() { // another condition was never put to them
			w.set = withRevision(w.set, "p3")
			rule.Conditions = []gate.Condition{says("y")}
			w.set.Policies[0].Attestations = []gate.AttestationRule{rule}
		}, "deny, looked"},
	} {
		s.change()
		if got := w.judged(g, c); got != s.want {
			t.Errorf("got %q, want %q", got, s.want)
		}
	}
}

// TestAFindingIsDeniedByWhatIsKept follows an image of whose findings statements may come.
func TestAFindingIsDeniedByWhatIsKept(t *testing.T) {
	bad := gate.Finding{ID: "CVE-1", Severity: gate.Critical, Package: gate.Package{Type: "deb", Name: "openssl", Version: "1"}, FixedVersion: "2"}
	excuse := gate.VEX{By: signedBy("release"), Vulnerabilities: []string{"CVE-1"}, Status: gate.VEXNotAffected}
	world := func(t *testing.T) (*world, *gate.Gate, gate.Candidate) {
		w := newWorld(t)
		w.set = withRevision(w.set, "p2")
		w.set.Policies[0].VEX = []string{"release"}
		layer := w.blob(gzipLayer, "layer")
		w.packages[layer.Digest] = []gate.Package{bad.Package}
		c := w.image(layer)
		g, _ := w.keeping()
		if got := w.judged(g, c); got != "allow, looked" {
			t.Fatalf("before: got %q", got)
		}
		w.snap.ID, w.findings = "s2", []gate.Finding{bad}
		return w, g, c
	}
	t.Run("while they are fresh, without asking", func(t *testing.T) {
		w, g, c := world(t)
		if got := w.judged(g, c); got != "deny" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("later after asking for a statement that excuses it", func(t *testing.T) {
		w, g, c := world(t)
		w.advance(time.Hour)
		found := w.signatures[c]
		found.VEX = []gate.VEX{excuse}
		w.signatures[c] = found
		if got := w.judged(g, c); got != "allow, looked" {
			t.Errorf("got %q", got)
		}
		w.snap.ID = "s3"
		if got := w.judged(g, c); got != "allow" {
			t.Errorf("by the statement that is kept now: got %q", got)
		}
	})
	t.Run("even when nobody can be asked", func(t *testing.T) {
		w, g, c := world(t)
		w.advance(time.Hour)
		w.breaks = "verify"
		if got := w.judged(g, c); got != "deny, looked" {
			t.Errorf("got %q", got)
		}
		if w.isReleased(c) {
			t.Error("it is still released")
		}
	})
}

func TestWhatCannotBeKeptIsLookedFor(t *testing.T) {
	for _, breaks := range []string{"keep ", "kept "} {
		t.Run(breaks, func(t *testing.T) {
			w := newWorld(t)
			w.breaks = breaks
			g, _ := w.keeping()
			c := w.image(w.blob(gzipLayer, "layer"))
			for _, s := range []string{"s2", "s3"} {
				w.snap.ID = s
				if got := w.judged(g, c); got != "allow, looked" {
					t.Errorf("got %q", got)
				}
			}
		})
	}
}

func TestSignaturesKeptOfAnotherAreNotBelieved(t *testing.T) {
	w := newWorld(t)
	g, k := w.keeping()
	good := w.image(w.blob(gzipLayer, "layer"))
	w.judged(g, good)
	unsigned := w.image(w.blob(gzipLayer, "another"))
	delete(w.signatures, unsigned)
	k.kept[unsigned] = k.kept[good]
	if got := w.judged(g, unsigned); got != "deny, looked" {
		t.Errorf("got %q", got)
	}
	var kept gate.KeptSignatures
	if err := json.Unmarshal(k.kept[good], &kept); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]oci.Digest{kept.Candidate.Digest}, []oci.Digest{good.Digest}); diff != "" {
		t.Errorf("kept is of (-got +want):\n%s", diff)
	}
}
