package gate_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/tidewaiter/tidewaiter/gate"
)

// shared are leases of processes that share a world. While broken nobody can say who has them.
type shared struct {
	mu     sync.Mutex
	held   map[gate.Key]chan struct{} // guarded by mu
	broken bool
}

// Acquire implements gate.Leases.
func (s *shared) Acquire(ctx context.Context, key gate.Key) (release func(), err error) {
	if s.broken {
		return nil, errBroken
	}
	for {
		s.mu.Lock()
		given, taken := s.held[key]
		if !taken {
			given = make(chan struct{})
			s.held[key] = given
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.held, key)
				close(given)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-given:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// forgetful remembers no verdict, as memories do that are not shared.
type forgetful struct{}

// Get implements gate.Verdicts.
func (forgetful) Get(context.Context, gate.Key) (gate.Verdict, bool) { return gate.Verdict{}, false }

// Put implements gate.Verdicts.
func (forgetful) Put(context.Context, gate.Key, gate.Verdict) error { return nil }

// replica returns a gate that shares nothing with others but the records of w, and leases.
func (w *world) replica(leases gate.Leases) *gate.Gate {
	g := gate.New(gate.Options{
		Bytes: w, Releases: w, Scanner: w, Advisories: w, Signatures: w, Policies: w, Verdicts: forgetful{}, Inventories: w, Records: w,
		Attachments: w, Leases: leases, Now: w.clock, Log: slog.New(slog.DiscardHandler), Workers: 4, MaxImageBytes: maxImageBytes,
	})
	w.t.Cleanup(g.Close)
	return g
}

func TestReplicasJudgeOnce(t *testing.T) {
	for law, tt := range map[string]struct {
		leases *shared
		want   int
	}{
		"while they hold leases":                      {&shared{held: map[gate.Key]chan struct{}{}}, 1},
		"and each for itself when nobody knows whose": {&shared{broken: true}, 3},
	} {
		t.Run(law, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.stall = make(chan struct{})
				c := w.image(w.blob(gzipLayer, "one"), w.blob(gzipLayer, "two"))
				var callers sync.WaitGroup
				for range 3 {
					g := w.replica(tt.leases)
					callers.Go(func() {
						if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
							t.Errorf("got %s, %v", v.Decision, err)
						}
					})
				}
				synctest.Wait() // one reads layers, or all do; the others wait for it
				close(w.stall)
				callers.Wait()
				if got := w.count("record verdict"); got != tt.want {
					t.Errorf("%d judgings, want %d", got, tt.want)
				}
			})
		})
	}
	t.Run("and what waits says what for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, leases := newWorld(t), &shared{held: map[gate.Key]chan struct{}{}}
			w.stall = make(chan struct{})
			c := w.image(w.blob(gzipLayer, "one"))
			first, second := w.replica(leases), w.replica(leases)
			first.Start(c)
			synctest.Wait()
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error, 1)
			go func() {
				_, err := second.Judge(ctx, c)
				failed <- err
			}()
			synctest.Wait()
			cancel()
			if got, want := (<-failed).Error(), gate.StepWait+": context canceled"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			close(w.stall)
		})
	})
}
