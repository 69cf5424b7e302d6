package trail

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func everywhere(oci.Repository) bool { return true }

func recalledNow(t *testing.T, tr *Trail) []Recalled {
	t.Helper()
	all, err := tr.Recalls(t.Context(), everywhere)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRecall(t *testing.T) {
	a := image(nginx, "a")
	// pulled returns a site where a was admitted and pulled, and a process that knows.
	pulled := func(t *testing.T) (*site, *Trail) {
		s := newSite()
		tr := s.trail()
		s.decide(a, gate.Allow, tr)
		tr.Pulled(a, node1)
		tr.Flush(t.Context())
		s.clock.pass(time.Hour)
		return s, tr
	}
	want := func(s *site) []Recalled {
		return []Recalled{{
			Repository: nginx,
			Recall:     Recall{Digest: a.Digest, At: noon.Add(time.Hour), JudgedAt: noon.Add(time.Hour), Policy: "production", Reasons: []string{"CVE-2026-0001 (critical) in zlib 1.2"}},
			Pulls:      Pullers{Clients: []Pull{{a.Digest, node1, noon, noon, 1}}},
		}}
	}
	t.Run("names everybody who has what is withdrawn, once", func(t *testing.T) {
		s, tr := pulled(t)
		for range 3 {
			s.decide(a, gate.Deny, tr)
			tr.Flush(t.Context())
		}
		if diff := cmp.Diff(s.recalled, want(s)); diff != "" {
			t.Errorf("told (-got +want):\n%s", diff)
		}
		if diff := cmp.Diff(recalledNow(t, tr), want(s)); diff != "" {
			t.Errorf("listed (-got +want):\n%s", diff)
		}
		if got := tr.Stats().Recalled; got != 1 {
			t.Errorf("%d are recalled, want 1", got)
		}
		if r, ok, err := tr.RecallOf(t.Context(), a); err != nil || !ok || r.Policy != "production" {
			t.Errorf("RecallOf: %+v, %t, %v", r, ok, err)
		}
	})
	t.Run("comes after a crash between the verdict and the recall, once", func(t *testing.T) {
		s, _ := pulled(t)
		s.decide(a, gate.Deny) // and nobody hears of it
		for range 2 {
			tr := s.trail()
			tr.suspectAll(t.Context()) // as Run does at first
			tr.Flush(t.Context())
			if got := tr.Stats().Recalled; got != 1 {
				t.Errorf("%d are recalled, want 1", got)
			}
		}
		if diff := cmp.Diff(s.recalled, want(s)); diff != "" {
			t.Errorf("-got +want:\n%s", diff)
		}
	})
	t.Run("does not come to pass for what nobody has", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		s.decide(a, gate.Allow, tr)
		s.decide(a, gate.Deny, tr)
		tr.Flush(t.Context())
		if len(s.recalled) != 0 {
			t.Errorf("got %+v", s.recalled)
		}
	})
	t.Run("comes when a pull ends after the verdict it began before", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		s.decide(a, gate.Allow, tr)
		s.decide(a, gate.Deny, tr)
		tr.Flush(t.Context())
		tr.Pulled(a, node1)
		tr.Flush(t.Context())
		if len(s.recalled) != 1 {
			t.Errorf("got %+v", s.recalled)
		}
	})
	t.Run("does not come to pass for what was never let out, or is let out still", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		tr.Pulled(a, node1) // by those who push there
		s.decide(a, gate.Deny, tr)
		b := image(nginx, "b")
		s.decide(b, gate.Allow, tr)
		tr.Pulled(b, node1)
		tr.Flush(t.Context())
		if len(s.recalled) != 0 || tr.Stats().Recalled != 0 {
			t.Errorf("got %+v", s.recalled)
		}
	})
	t.Run("is over when it is let out again, and comes anew when it is withdrawn again", func(t *testing.T) {
		s, tr := pulled(t)
		for _, d := range []gate.Decision{gate.Deny, gate.Allow} {
			s.decide(a, d, tr)
			tr.Flush(t.Context())
		}
		if n := tr.Stats().Recalled; n != 0 || len(recalledNow(t, s.trail())) != 0 {
			t.Errorf("%d are recalled, want none", n)
		}
		if _, ok, err := tr.RecallOf(t.Context(), a); ok || err != nil {
			t.Errorf("RecallOf: %t, %v", ok, err)
		}
		s.decide(a, gate.Deny, tr)
		tr.Flush(t.Context())
		if len(s.recalled) != 2 {
			t.Errorf("told %d times, want twice", len(s.recalled))
		}
	})
	t.Run("of a child names those who pulled the child", func(t *testing.T) {
		s, tr := pulled(t)
		child := image(nginx, "child")
		s.decide(child, gate.Allow, tr)
		tr.Pulled(child, node2)
		s.decide(child, gate.Deny, tr)
		tr.Flush(t.Context())
		if len(s.recalled) != 1 || len(s.recalled[0].Pulls.Clients) != 1 || s.recalled[0].Pulls.Clients[0].Client != node2 {
			t.Errorf("got %+v", s.recalled)
		}
	})
	t.Run("is tried again when it cannot be recorded", func(t *testing.T) {
		s, tr := pulled(t)
		s.decide(a, gate.Deny, tr)
		s.recalls.fail(errDisk)
		tr.Flush(t.Context())
		s.recalls.fail(nil)
		tr.Flush(t.Context())
		if len(s.recalled) != 1 {
			t.Errorf("told %d times, want once", len(s.recalled))
		}
	})
	t.Run("lists only what whoever asks may see", func(t *testing.T) {
		s, tr := pulled(t)
		s.decide(a, gate.Deny, tr)
		tr.Flush(t.Context())
		all, err := tr.Recalls(t.Context(), func(r oci.Repository) bool { return r != nginx })
		if err != nil || len(all) != 0 {
			t.Errorf("got %+v, %v", all, err)
		}
	})
}

// Run looks at first, and as soon as it hears of a verdict.
func TestRun(t *testing.T) {
	s := newSite()
	tr := s.trail()
	a := image(nginx, "a")
	s.decide(a, gate.Allow)
	tr.Pulled(a, node1)
	tr.Flush(t.Context())
	s.decide(a, gate.Deny)
	told := make(chan Recalled, 1)
	tr.o.Recalled = func(r Recalled) { told <- r }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); tr.Run(ctx) }()
	<-told
	b := image(web, "b")
	s.decide(b, gate.Allow)
	tr.Pulled(b, node2)
	s.decide(b, gate.Deny, tr)
	<-told
	cancel()
	<-done
}
