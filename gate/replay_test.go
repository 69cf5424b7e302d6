package gate_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// here is what a world has without asking anybody: what was held and opened before.
type here struct {
	w       *world
	dropped bool
}

func (h here) HoldStored(_ context.Context, c gate.Candidate) (gate.Held, bool, error) {
	if h.dropped {
		return gate.Held{}, false, nil
	}
	content, ok := h.w.held[c]
	if !ok {
		return gate.Held{}, false, nil
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	return gate.Held{Candidate: c, Content: content, Manifest: m}, err == nil, err
}

func (h here) OpenStored(_ context.Context, _ gate.Candidate, desc oci.Descriptor) (io.ReadCloser, bool, error) {
	if h.w.count("open "+desc.MediaType+" "+desc.Digest.String()) == 0 {
		return nil, false, nil
	}
	return io.NopCloser(strings.NewReader(string(h.w.blobs[desc.Digest]))), true, nil
}

func (h here) Newest(_ context.Context, c gate.Candidate) (gate.Verdict, bool, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for _, v := range slices.Backward(h.w.records) {
		if v.Candidate() == c {
			return v, true, nil
		}
	}
	return gate.Verdict{}, false, nil
}

func (h here) Listing(_ context.Context, c gate.Candidate) (indexes []gate.Candidate, err error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for _, v := range h.w.records {
		if v.Repository == c.Repository && slices.Contains(v.Children, c.Digest) && !slices.Contains(indexes, v.Candidate()) {
			indexes = append(indexes, v.Candidate())
		}
	}
	return indexes, nil
}

// remembering returns a gate that can replay.
func (w *world) remembering() *gate.Gate {
	o := w.options(maxImageBytes)
	o.Stored, o.Past = here{w: w}, here{w: w}
	o.Sightings = seen{w, map[gate.Candidate]time.Time{}}
	o.Platforms = nil // nothing is judged that no test asks for
	o.Kept = gate.Keeping{Records: &keeps{w: w, kept: map[gate.Candidate][]byte{}}, For: keptFor}
	g := gate.New(o)
	w.t.Cleanup(g.Close)
	return g
}

// touched returns the calls since before that change something or ask somebody else.
func (w *world) touched(before int) (calls []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.calls[before:] {
		word, _, _ := strings.Cut(c, " ")
		if slices.Contains([]string{"hold", "open", "scan", "malware", "verify", "record", "remember", "release", "withdraw", "keep", "see"}, word) {
			calls = append(calls, c)
		}
	}
	return calls
}

func (w *world) made() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.calls)
}

// essence is what of a verdict depends on policies and evidence. How many packages there are is known to whoever was asked for more than the
// policy asks for; what is only warned of is not known to whoever is not complete.
func essence(v gate.Verdict, complete bool) gate.Verdict {
	v.JudgedAt, v.Until, v.Key, v.Packages = time.Time{}, time.Time{}, "", 0
	if !complete {
		later := func(r gate.Reason) bool { return r.Rule == gate.RuleSecrets || r.Rule == gate.RuleMalware }
		v.Warnings = slices.DeleteFunc(slices.Clone(v.Warnings), later)
		v.Complete, v.MalwareDatabase, v.MalwareAt = false, "", time.Time{}
	}
	return v
}

// anyPolicy returns one of very many policies.
func anyPolicy(t *testing.T, r *rand.Rand) gate.Policy {
	p := strict(t)
	chance := func() bool { return r.IntN(2) == 0 }
	if chance() {
		p.Signatures = gate.SignatureRule{}
	} else if chance() {
		p.Signatures = gate.SignatureRule{AllOf: []string{"ci"}, EveryChild: chance()}
	}
	if chance() {
		p.Attestations = []gate.AttestationRule{{PredicateTypes: []string{sbom}, AnyOf: []string{"ci"}, Conditions: []gate.Condition{says("x")}}}
	}
	switch r.IntN(3) {
	case 0:
		p.Vulnerabilities = nil
	case 1:
		p.VEX = []string{"ci"}
	}
	switch r.IntN(3) {
	case 0:
		p.Secrets = &gate.SecretRule{Warn: chance()}
	case 1:
		p.Malware = &gate.MalwareRule{Warn: chance()}
	}
	if chance() {
		p.Mode = gate.Warn
	}
	if chance() {
		p.OnFail = gate.Block
	}
	if chance() {
		p.Image.MaxBytes = int64(r.IntN(2000))
	}
	if r.IntN(4) == 0 {
		p.Image.DenyRootUser = true
	}
	if r.IntN(4) == 0 {
		p.DenyPackages = []gate.PackagePattern{{Type: "maven", Name: "*log4j*", Version: "*"}}
	}
	if r.IntN(4) == 0 {
		p.MinAge = time.Hour
	}
	return p
}

// anyImages fills w with an index, its two children and an image beside them, all made by chance.
func anyImages(w *world, r *rand.Rand) []gate.Candidate {
	chance := func() bool { return r.IntN(2) == 0 }
	var images []gate.Candidate
	for i := range 3 {
		layer := w.blob(gzipLayer, fmt.Sprint("layer ", i, r.Uint64()))
		if r.IntN(8) == 0 {
			layer.MediaType = "application/x-unheard-of"
		}
		if chance() {
			w.packages[layer.Digest] = []gate.Package{log4j.Package}
		}
		if chance() {
			w.secrets[layer.Digest] = []gate.Secret{key}
		}
		if chance() {
			w.infected[layer.Digest] = []gate.Infection{tool}
		}
		images = append(images, w.image(layer))
	}
	images = append(images, w.index(nginx, images[:2]...))
	w.findings = []gate.Finding{log4j}
	for _, c := range images {
		var e gate.SignatureEvidence
		for _, who := range []string{"release", "ci", "stranger"} {
			if chance() {
				e.Signatures = append(e.Signatures, signedBy(who))
			}
		}
		if chance() {
			e.Attestations = []gate.Attestation{{By: signedBy("ci"), PredicateType: sbom, Predicate: []byte("x")}}
		}
		if chance() {
			e.VEX = []gate.VEX{{By: signedBy("ci"), Vulnerabilities: []string{log4j.ID}, Status: gate.VEXNotAffected}}
		}
		w.signatures[c] = e
	}
	slices.Reverse(images) // an index is pulled before its children
	return images
}

func TestReplayingThePoliciesInForceChangesNothing(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t)
		w.set = &gate.PolicySet{Policies: []gate.Policy{anyPolicy(t, r)}, Revision: "p1"}
		images, g := anyImages(w, r), w.remembering()
		want := map[gate.Candidate]gate.Verdict{}
		for _, c := range images {
			v, err := g.Judge(t.Context(), c)
			if err == nil && (v.Keep || v.Allowed()) {
				v, err = g.Examine(t.Context(), c)
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			want[c] = v
		}
		before := w.made()
		for _, c := range images {
			got, err := g.Replay(t.Context(), w.set, c, false)
			if err != nil || got.Unknown != "" {
				t.Errorf("seed %d: of %s unknown %q, %v", seed, c, got.Unknown, err)
				continue
			}
			if diff := cmp.Diff(essence(got.Verdict, got.Verdict.Complete), essence(want[c], got.Verdict.Complete), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("seed %d: replayed -, judged +:\n%s", seed, diff)
			}
		}
		if calls := w.touched(before); len(calls) > 0 {
			t.Errorf("seed %d: replaying made the calls %q", seed, calls)
		}
	}
}

func TestReplayAgreesWithJudgingByTheDraft(t *testing.T) {
	known := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		w := newWorld(t)
		w.set = &gate.PolicySet{Policies: []gate.Policy{anyPolicy(t, r)}, Revision: "p1"}
		draft := &gate.PolicySet{Policies: []gate.Policy{anyPolicy(t, r)}, Revision: "p2"}
		images, g := anyImages(w, r), w.remembering()
		for _, c := range images {
			if _, err := g.Examine(t.Context(), c); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		before, replayed := w.made(), map[gate.Candidate]gate.Replayed{}
		for _, c := range images {
			got, err := g.Replay(t.Context(), draft, c, false)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			replayed[c] = got
		}
		if calls := w.touched(before); len(calls) > 0 {
			t.Errorf("seed %d: replaying made the calls %q", seed, calls)
		}
		fetched := map[gate.Candidate]gate.Replayed{}
		for _, c := range images {
			got, err := g.Replay(t.Context(), draft, c, true)
			if err != nil || got.Unknown != "" {
				t.Fatalf("seed %d: with everything looked for, unknown %q, %v", seed, got.Unknown, err)
			}
			fetched[c] = got
		}
		w.set = draft
		for _, c := range images {
			v, err := g.Judge(t.Context(), c)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if got := fetched[c].Verdict; got.Decision != v.Decision {
				t.Errorf("seed %d: %s with everything looked for, %s once judged (%s; %s)", seed, got.Decision, v.Decision, got.Summary(), v.Summary())
			}
			if got := replayed[c]; got.Unknown == "" {
				known++
				if got.Verdict.Decision != v.Decision {
					t.Errorf("seed %d: %s replayed, %s once judged (%s; %s)", seed, got.Verdict.Decision, v.Decision, got.Verdict.Summary(), v.Summary())
				}
			}
		}
	}
	if known < 300 {
		t.Errorf("only %d of 1200 verdicts were known", known)
	}
}

func TestReplaySaysWhatIsNotKnown(t *testing.T) {
	for law, tt := range map[string]struct {
		now, draft func(*gate.Policy)
		dropped    bool
		want       string
	}{
		"layers that were never read": {
			now: func(p *gate.Policy) { p.Vulnerabilities = nil }, want: "what is in its layers, which were never read",
		},
		"secrets nobody looked for": {
			draft: func(p *gate.Policy) { p.Secrets = &gate.SecretRule{} }, want: "whether there are secrets in its layers",
		},
		"malware nobody looked for": {
			draft: func(p *gate.Policy) { p.Malware = &gate.MalwareRule{} }, want: "whether there is malware in its layers",
		},
		"signatures nobody looked for": {
			now: func(p *gate.Policy) { p.Signatures = gate.SignatureRule{} }, want: "who signed or attested it, which was not looked for",
		},
		"signatures of somebody who was not asked about": {
			draft: func(p *gate.Policy) { p.Signatures.AnyOf = []string{"corp"} }, want: "who signed or attested it, which was not looked for",
		},
		"what was dropped": {dropped: true, want: "its manifest, which is not held any more"},
	} {
		t.Run(law, func(t *testing.T) {
			w := newWorld(t)
			p, draft := strict(t), strict(t)
			if tt.now != nil {
				tt.now(&p)
			}
			if tt.draft != nil {
				tt.draft(&draft)
			}
			w.set = &gate.PolicySet{Policies: []gate.Policy{p}, Revision: "p1"}
			o := w.options(maxImageBytes)
			o.Stored, o.Past = here{w: w, dropped: tt.dropped}, here{w: w}
			g := gate.New(o)
			t.Cleanup(g.Close)
			c := w.image(w.blob(gzipLayer, "layer"))
			if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
				t.Fatalf("got %s (%s), %v", v.Decision, v.Summary(), err)
			}
			set, before := &gate.PolicySet{Policies: []gate.Policy{draft}, Revision: "p2"}, w.made()
			got, err := g.Replay(t.Context(), set, c, false)
			if diff := cmp.Diff(got, gate.Replayed{Unknown: tt.want}); err != nil || diff != "" {
				t.Errorf("got -, want +, %v:\n%s", err, diff)
			}
			if calls := w.touched(before); len(calls) > 0 {
				t.Errorf("replaying made the calls %q", calls)
			}
			got, err = g.Replay(t.Context(), set, c, true)
			if err != nil || got.Unknown != "" || got.Verdict.PolicyRevision != "p2" {
				t.Errorf("looked for: unknown %q, %+v, %v", got.Unknown, got.Verdict, err)
			}
			if w.count("record verdict") != 1 || w.count("release") != 1 || w.count("withdraw") != 0 {
				t.Errorf("replaying left something behind: %q", w.calls[before:])
			}
		})
	}
	t.Run("a failure is no answer", func(t *testing.T) {
		w := newWorld(t)
		c, g := w.image(w.blob(gzipLayer, "layer")), w.remembering()
		if _, err := g.Judge(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		w.breaks = "inventory"
		if got, err := g.Replay(t.Context(), w.set, c, false); err == nil || got.Verdict.Allowed() || got.Unknown != "" {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

func TestReplayUsesSignaturesAsTheyWereLastLookedFor(t *testing.T) {
	w := newWorld(t)
	c, g := w.image(w.blob(gzipLayer, "layer")), w.remembering()
	w.sign(c, "stranger")
	if v, err := g.Examine(t.Context(), c); err != nil || v.Allowed() {
		t.Fatalf("got %s, %v", v.Decision, err)
	}
	w.advance(time.Hour) // the refusal has lapsed, and what it was made by is known all the same
	w.sign(c, "release")
	got, err := g.Replay(t.Context(), w.set, c, false)
	if err != nil || got.Unknown != "" || got.Verdict.Allowed() {
		t.Errorf("got %s, unknown %q, %v", got.Verdict.Decision, got.Unknown, err)
	}
	w.roots = "r2"
	if got, err = g.Replay(t.Context(), w.set, c, false); err != nil || got.Unknown == "" {
		t.Errorf("by other trust roots: got %s, unknown %q, %v", got.Verdict.Decision, got.Unknown, err)
	}
	if got, err = g.Replay(t.Context(), w.set, c, true); err != nil || !got.Verdict.Allowed() {
		t.Errorf("looked for now: got %s (%s), %v", got.Verdict.Decision, got.Verdict.Summary(), err)
	}
}

// TestReplayHasAnAnswerForEveryOption fails when a gate gets something new to read, ask or tell, until it is decided what a replay does in
// its place.
func TestReplayHasAnAnswerForEveryOption(t *testing.T) {
	decided := map[string]string{
		"Bytes": "replaced", "Releases": "replaced", "Policies": "replaced", "Verdicts": "replaced", "Records": "replaced", "Kept": "read only",
		"Sightings": "replaced", "Log": "left out", "Observe": "left out", "Decided": "left out", "Changed": "left out", "Overturns": "left out",
		"Platforms": "left out", "Leases": "left out", "Trace": "left out", "Stored": "only read", "Past": "only read", "Inventories": "only read",
		"Advisories": "only read", "Attachments": "only read", "Scanner": "not asked", "Signatures": "its revision is read", "Malware": "its database is read",
		"MalwareMaxAge": "a limit", "MalwareFileBytes": "a limit", "EndOfLife": "pure", "SecretKinds": "pure", "Now": "only read", "Workers": "a limit",
		"MaxImageBytes": "a limit",
	}
	options := reflect.TypeFor[gate.Options]()
	for i := range options.NumField() {
		if name := options.Field(i).Name; decided[name] == "" {
			t.Errorf("a replay uses %s as a judging does: does that change anything, or ask anybody?", name)
		}
	}
}
