package gate_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// spans is a gate.Tracer that notes each span as it ends: "request > verdict > judging: failed".
type spans struct {
	mu    sync.Mutex
	ended []string // guarded by mu
	links map[string]int
}

type spanKey struct{}

func spanOf(ctx context.Context) string { s, _ := ctx.Value(spanKey{}).(string); return s }

func (s *spans) Start(ctx context.Context, name string, _ gate.Candidate) (context.Context, func(error)) {
	path := strings.TrimPrefix(spanOf(ctx)+" > "+name, " > ")
	return context.WithValue(ctx, spanKey{}, path), func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			path += ": failed"
		}
		s.ended = append(s.ended, path)
	}
}

func (s *spans) Follow(ctx, from context.Context) context.Context {
	return context.WithValue(ctx, spanKey{}, spanOf(from))
}

func (s *spans) Link(ctx, other context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links[spanOf(ctx)+" waits for "+spanOf(other)]++
}

func (w *world) traced(s *spans) *gate.Gate {
	g := gate.New(gate.Options{
		Bytes: w, Releases: w, Scanner: w, Advisories: w, Signatures: w, Policies: w, Verdicts: remembers{w}, Inventories: w, Records: w,
		Attachments: w, Now: w.clock, Log: slog.New(slog.DiscardHandler), Workers: 4, Trace: s,
	})
	w.t.Cleanup(g.Close)
	return g
}

func TestAJudgingIsTraced(t *testing.T) {
	request := func(t *testing.T, name string) context.Context {
		return context.WithValue(t.Context(), spanKey{}, name)
	}
	t.Run("step by step, below whoever asked first; others are linked to it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, s := newWorld(t), &spans{links: map[string]int{}}
			w.stall = make(chan struct{})
			c, g := w.image(w.blob(gzipLayer, "one")), w.traced(s)
			var callers sync.WaitGroup
			ask := func(name string) {
				callers.Go(func() {
					if _, err := g.Judge(request(t, name), c); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait()
			}
			for i := range 3 {
				ask(fmt.Sprint("request ", i))
			}
			close(w.stall)
			callers.Wait()
			const judging = "request 0 > verdict > judging"
			got := s.ended
			slices.Sort(got)
			want := []string{
				"request 0 > verdict", judging, judging + " > " + gate.StepHold, judging + " > " + gate.StepMatch, judging + " > " + gate.StepInventory,
				judging + " > " + gate.StepRecord, judging + " > " + gate.StepRecord, judging + " > " + gate.StepConfig, judging + " > " + gate.StepVerify, "request 1 > verdict", "request 2 > verdict",
			}
			slices.Sort(want)
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("spans (-got +want):\n%s", diff)
			}
			links := map[string]int{}
			for i := range 3 {
				links[fmt.Sprintf("request %d > verdict waits for %s", i, judging)] = 1
			}
			if diff := cmp.Diff(s.links, links); diff != "" {
				t.Errorf("links (-got +want):\n%s", diff)
			}
		})
	})
	t.Run("with the step that failed", func(t *testing.T) {
		w, s := newWorld(t), &spans{links: map[string]int{}}
		w.breaks = "hold"
		if _, err := w.traced(s).Judge(request(t, "request"), w.image()); err == nil {
			t.Error("it did not fail")
		}
		want := []string{"request > verdict > judging > holding: failed", "request > verdict > judging: failed", "request > verdict: failed"}
		if diff := cmp.Diff(s.ended, want); diff != "" {
			t.Errorf("spans (-got +want):\n%s", diff)
		}
	})
	t.Run("and a remembered verdict is not", func(t *testing.T) {
		w, s := newWorld(t), &spans{links: map[string]int{}}
		c, g := w.image(w.blob(gzipLayer, "layer")), w.traced(s)
		for range 2 {
			if _, err := g.Judge(request(t, "request"), c); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(s.ended); got != 9 {
			t.Errorf("%d spans: %q", got, s.ended)
		}
	})
}
