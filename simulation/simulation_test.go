package simulation_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/simulation"
)

var (
	noon     = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	inForce  = &gate.PolicySet{Revision: "p1"}
	draft    = &gate.PolicySet{Revision: "p2", WaiverRevision: "w2"}
	unsigned = gate.Reason{Rule: gate.RuleSignatures, Message: "unsigned"}
	large    = gate.Reason{Rule: gate.RuleSize, Message: "too large", Line: 7}
	errFull  = errors.New("the disk is full")
)

func image(n int) gate.Candidate {
	return gate.Candidate{Repository: oci.Repository{Upstream: "docker.io", Path: fmt.Sprintf("library/%c", 'a'+n/2)}, Digest: oci.FromBytes(fmt.Append(nil, n))}
}

// said is what was decided, or would be.
type said struct {
	reasons, warnings []gate.Reason
	unknown           string
	err               error
	lapsed, dropped   bool
	pulled            time.Time
}

func (s said) verdict(c gate.Candidate) gate.Verdict {
	v := gate.Verdict{
		Repository: c.Repository, Digest: c.Digest, Policy: "production", File: "policy.yaml", Line: 3, Reasons: s.reasons, Warnings: s.warnings,
		Complete: true, Key: key(c).String(), Until: noon.Add(time.Hour),
	}
	if len(s.reasons) == 0 {
		v.Decision = gate.Allow
	}
	if s.lapsed {
		v.Until = noon
	}
	return v
}

func key(c gate.Candidate) gate.Key { return gate.Key(sha256.Sum256([]byte(c.String()))) }

// proxy is what a Simulator goes through, in memory: what was said of each image, and what the draft says.
type proxy struct {
	images         []gate.Candidate
	before, after  map[gate.Candidate]said
	nowBy          map[gate.Candidate]said // what the policies in force say now, where that is asked
	replayed       []string                // in order
	fetched        int
	each           func()
	now            time.Time
	repositoriesIn []oci.Repository
}

func newProxy(n int) *proxy {
	p := &proxy{before: map[gate.Candidate]said{}, after: map[gate.Candidate]said{}, nowBy: map[gate.Candidate]said{}, now: noon}
	for i := range n {
		c := image(i)
		p.images = append(p.images, c)
		if !slices.Contains(p.repositoriesIn, c.Repository) {
			p.repositoriesIn = append(p.repositoriesIn, c.Repository)
		}
	}
	slices.Reverse(p.repositoriesIn)
	return p
}

func (p *proxy) Replay(_ context.Context, set *gate.PolicySet, c gate.Candidate, fetch bool) (gate.Replayed, error) {
	from := p.after
	if set == inForce {
		from = p.nowBy
	} else {
		p.replayed = append(p.replayed, c.String())
	}
	if fetch {
		p.fetched++
	}
	if p.each != nil {
		p.each()
	}
	s := from[c]
	if s.err != nil || s.unknown != "" {
		return gate.Replayed{Unknown: s.unknown}, s.err
	}
	return gate.Replayed{Verdict: s.verdict(c)}, nil
}

func (p *proxy) Key(_ context.Context, c gate.Candidate) (gate.Key, error) { return key(c), nil }

func (p *proxy) Repositories(context.Context) ([]oci.Repository, error) { return p.repositoriesIn, nil }

func (p *proxy) Judged(_ context.Context, repo oci.Repository) (all []gate.Candidate, err error) {
	for _, c := range slices.Backward(p.images) {
		if c.Repository == repo {
			all = append(all, c)
		}
	}
	return all, nil
}

func (p *proxy) Newest(_ context.Context, c gate.Candidate) (gate.Verdict, bool, error) {
	return p.before[c].verdict(c), true, nil
}

func (p *proxy) Holds(_ context.Context, c gate.Candidate) (bool, error) {
	return !p.before[c].dropped, nil
}

func (p *proxy) LastPulled(_ context.Context, candidates []gate.Candidate) (map[gate.Candidate]time.Time, error) {
	at := map[gate.Candidate]time.Time{}
	for _, c := range candidates {
		if pulled := p.before[c].pulled; !pulled.IsZero() {
			at[c] = pulled
		}
	}
	return at, nil
}

func (p *proxy) Current() *gate.PolicySet { return inForce }

func (p *proxy) simulator() *simulation.Simulator {
	return simulation.New(simulation.Options{Gate: p, Past: p, Holdings: p, Pulls: p, Policies: p, Now: func() time.Time { return p.now }})
}

func simulate(t *testing.T, p *proxy, r simulation.Request) simulation.Page {
	t.Helper()
	r.Draft = draft
	page, err := p.simulator().Simulate(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func TestWhatADraftChanges(t *testing.T) {
	warned := said{warnings: []gate.Reason{large}}
	elsewhere := large
	elsewhere.Line = 70
	for law, tt := range map[string]struct {
		before, after, now said
		want               simulation.Kind // empty for no change
	}{
		"what stays allowed is no change":           {},
		"what stays denied for the same is none":    {before: said{reasons: []gate.Reason{large}}, after: said{reasons: []gate.Reason{large}}},
		"nor when that is written elsewhere":        {before: said{reasons: []gate.Reason{large}}, after: said{reasons: []gate.Reason{elsewhere}}},
		"allowed, then denied":                      {after: said{reasons: []gate.Reason{large}}, want: simulation.Denied},
		"denied, then allowed":                      {before: said{reasons: []gate.Reason{large}}, want: simulation.Admitted},
		"denied, then only warned of":               {before: said{reasons: []gate.Reason{large}}, after: warned, want: simulation.Admitted},
		"denied for something else":                 {before: said{reasons: []gate.Reason{large}}, after: said{reasons: []gate.Reason{unsigned}}, want: simulation.Reworded},
		"allowed with a warning that was not there": {after: warned, want: simulation.Reworded},
		"not known": {after: said{unknown: "its layers"}, want: simulation.Unknown},
		"a verdict that has lapsed is not what is compared with":     {before: said{reasons: []gate.Reason{large}, lapsed: true}},
		"but it is where nothing else is known":                      {before: said{reasons: []gate.Reason{large}, lapsed: true}, now: said{unknown: "its layers"}, want: simulation.Admitted},
		"what is not held any more is not looked at, whatever it is": {before: said{dropped: true}, after: said{reasons: []gate.Reason{large}}},
	} {
		t.Run(law, func(t *testing.T) {
			p := newProxy(1)
			p.before[image(0)], p.after[image(0)], p.nowBy[image(0)] = tt.before, tt.after, tt.now
			page := simulate(t, p, simulation.Request{})
			var got simulation.Kind
			if len(page.Changes) > 0 {
				got = page.Changes[0].Kind
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAPageCountsAndSaysWhy(t *testing.T) {
	p := newProxy(5)
	p.before[image(1)] = said{reasons: []gate.Reason{unsigned}}
	p.after[image(0)] = said{reasons: []gate.Reason{large, unsigned}}
	p.after[image(3)] = said{unknown: "what is in its layers"}
	page := simulate(t, p, simulation.Request{})
	changes := page.Changes
	page.Changes = nil
	if diff := cmp.Diff(page, simulation.Page{Images: 5, Denied: 1, Admitted: 1, Unknown: 1, Revision: "p2", WaiverRevision: "w2"}); diff != "" {
		t.Errorf("got -, want +:\n%s", diff)
	}
	slices.SortFunc(changes, func(a, b simulation.Change) int {
		return slices.Index(p.images, candidate(a)) - slices.Index(p.images, candidate(b))
	})
	allowed := simulation.Side{Decision: gate.Allow, Policy: "production"}
	denied := func(reasons ...simulation.Reason) *simulation.Side {
		return &simulation.Side{Policy: "production", Reasons: reasons}
	}
	want := []simulation.Change{
		{Kind: simulation.Denied, Repository: image(0).Repository.String(), Digest: image(0).Digest, Before: allowed, After: denied(
			simulation.Reason{Rule: gate.RuleSize, Message: "too large", Place: "production (policy.yaml:7)"},
			simulation.Reason{Rule: gate.RuleSignatures, Message: "unsigned", Place: "production (policy.yaml:3)"})},
		{Kind: simulation.Admitted, Repository: image(1).Repository.String(), Digest: image(1).Digest, After: &allowed, Before: *denied(
			simulation.Reason{Rule: gate.RuleSignatures, Message: "unsigned", Place: "production (policy.yaml:3)"})},
		{Kind: simulation.Unknown, Repository: image(3).Repository.String(), Digest: image(3).Digest, Before: allowed, Unknown: "what is in its layers"},
	}
	if diff := cmp.Diff(changes, want); diff != "" {
		t.Errorf("got -, want +:\n%s", diff)
	}
}

func candidate(c simulation.Change) gate.Candidate {
	for i := range 5 {
		if image(i).Digest == c.Digest {
			return image(i)
		}
	}
	return gate.Candidate{}
}

func TestPagesLookAtEachImageOnce(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 7, 0} {
		p := newProxy(7)
		for _, c := range p.images {
			p.after[c] = said{reasons: []gate.Reason{large}}
		}
		after, images, changes, pages := "", 0, 0, 0
		for {
			page := simulate(t, p, simulation.Request{After: after, Limit: limit})
			images, changes, pages = images+page.Images, changes+len(page.Changes), pages+1
			if limit > 0 && page.Images > limit {
				t.Errorf("a page of %d has %d", limit, page.Images)
			}
			if after = page.Next; after == "" {
				break
			}
		}
		if unique := len(slices.Compact(slices.Sorted(slices.Values(p.replayed)))); images != 7 || changes != 7 || unique != 7 {
			t.Errorf("by %d: %d images, %d of them different, %d changes in %d pages; want 7", limit, images, unique, changes, pages)
		}
	}
	t.Run("a page ends when it takes long", func(t *testing.T) {
		p := newProxy(4)
		p.each = func() { p.now = p.now.Add(15 * time.Second) }
		if page := simulate(t, p, simulation.Request{}); page.Images != 2 || page.Next == "" {
			t.Errorf("%d images, next %q", page.Images, page.Next)
		}
	})
}

func TestOnlyWhatIsAskedForIsLookedAt(t *testing.T) {
	p := newProxy(6)
	p.before[image(0)] = said{pulled: noon.Add(-time.Hour)}
	p.before[image(1)] = said{pulled: noon.Add(-time.Minute)}
	if page := simulate(t, p, simulation.Request{Since: noon.Add(-10 * time.Minute)}); page.Images != 1 || !slices.Equal(p.replayed, []string{image(1).String()}) {
		t.Errorf("of what was pulled lately: %q", p.replayed)
	}
	b := image(2).Repository
	if page := simulate(t, p, simulation.Request{Wanted: func(repo oci.Repository) bool { return repo == b }, Fetch: true}); page.Images != 2 || p.fetched != 2 {
		t.Errorf("of one repository: %d images, %d looked for", page.Images, p.fetched)
	}
	s := simulation.New(simulation.Options{Gate: p, Past: p, Holdings: p, Policies: p, Now: func() time.Time { return noon }})
	if _, err := s.Simulate(t.Context(), simulation.Request{Draft: draft, Since: noon}); !errors.Is(err, simulation.ErrNoPulls) {
		t.Errorf("where nobody knows of pulls: %v", err)
	}
}

func TestFailures(t *testing.T) {
	p := newProxy(2)
	p.after[image(0)] = said{err: &gate.NoVerdict{Step: gate.StepInventory, Err: errFull}}
	if _, err := p.simulator().Simulate(t.Context(), simulation.Request{Draft: draft}); !errors.Is(err, errFull) {
		t.Errorf("a failure became %v", err)
	}
	page := simulate(t, p, simulation.Request{Fetch: true})
	if page.Images != 2 || page.Unknown != 1 || page.Changes[0].Unknown != "it was looked for in vain: "+gate.StepInventory {
		t.Errorf("what is looked for in vain: %+v", page)
	}
	t.Run("one at a time", func(t *testing.T) {
		p := newProxy(1)
		s := p.simulator()
		var second error
		p.each = func() {
			p.each = nil
			_, second = s.Simulate(t.Context(), simulation.Request{Draft: draft})
		}
		if _, err := s.Simulate(t.Context(), simulation.Request{Draft: draft}); err != nil || !errors.Is(second, simulation.ErrBusy) {
			t.Errorf("got %v and %v", err, second)
		}
		if _, err := s.Simulate(t.Context(), simulation.Request{Draft: draft}); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
	t.Run("it ends with whoever asked", func(t *testing.T) {
		p := newProxy(4)
		ctx, cancel := context.WithCancel(t.Context())
		p.each = cancel
		if _, err := p.simulator().Simulate(ctx, simulation.Request{Draft: draft}); !errors.Is(err, context.Canceled) || len(p.replayed) != 1 {
			t.Errorf("got %v after %d images", err, len(p.replayed))
		}
	})
	t.Run("it panics when built without what it needs", func(t *testing.T) {
		defer func() {
			if recover() == nil {
				t.Error("a simulator was built from nothing")
			}
		}()
		simulation.New(simulation.Options{})
	})
}
