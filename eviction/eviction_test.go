package eviction

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

var errLost = errors.New("the storage does not answer")

// shelf is a storage with images of ten bytes each, and what is known of them. It implements every interface of the package.
type shelf struct {
	mu      sync.Mutex
	images  map[string]time.Time // guarded by mu; when each came
	verdict map[string]Standing  // guarded by mu
	pulls   map[string]time.Time // guarded by mu
	inUse   map[string]bool      // guarded by mu
	fixed   int64                // guarded by mu; bytes that do not go
	orphans int64                // guarded by mu
	counted bool                 // guarded by mu
	gone    []string             // guarded by mu; in the order they went
	swept   time.Time            // guarded by mu
	fail    error                // guarded by mu
	grown   chan struct{}
	full    chan struct{}
}

func newShelf() *shelf {
	return &shelf{
		images: map[string]time.Time{}, verdict: map[string]Standing{}, pulls: map[string]time.Time{}, inUse: map[string]bool{},
		grown: make(chan struct{}, 1), full: make(chan struct{}, 1),
	}
}

func named(name string) gate.Candidate {
	return gate.Candidate{Repository: oci.Repository{Upstream: "a.test", Path: name}, Digest: oci.FromBytes([]byte(name))}
}

func (s *shelf) Count(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counted = s.fail == nil
	return s.fail
}

func (s *shelf) HeldBytes() (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fixed + s.orphans + 10*int64(len(s.images)), s.counted
}

func (s *shelf) Sweep(_ context.Context, before time.Time) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	freed := s.orphans
	s.orphans, s.swept = 0, before
	return freed, s.fail
}

func (s *shelf) Images(_ context.Context, visit func(gate.Candidate, time.Time) error) error {
	s.mu.Lock()
	images := map[string]time.Time{}
	for name, at := range s.images {
		images[name] = at
	}
	s.mu.Unlock()
	for name, at := range images {
		if err := visit(named(name), at); err != nil {
			return err
		}
	}
	return nil
}

func (s *shelf) Evict(_ context.Context, c gate.Candidate, _ time.Time) (int64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := c.Repository.Path
	if s.inUse[name] || s.fail != nil {
		return 0, false, s.fail
	}
	delete(s.images, name)
	s.gone = append(s.gone, name)
	return 10, true, nil
}

func (s *shelf) Standing(_ context.Context, c gate.Candidate) (Standing, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, known := s.verdict[c.Repository.Path]
	return v, known, s.fail
}

func (s *shelf) LastPulled(_ context.Context, cs []gate.Candidate) (map[gate.Candidate]time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[gate.Candidate]time.Time{}
	for _, c := range cs {
		if at, ok := s.pulls[c.Repository.Path]; ok {
			found[c] = at
		}
	}
	return found, s.fail
}

// put puts an image there that was admitted so long before now, and tells of it.
func (s *shelf) put(now time.Time, name string, age time.Duration) {
	s.mu.Lock()
	s.images[name] = now.Add(-age)
	s.verdict[name] = Standing{Decision: gate.Allow}
	s.mu.Unlock()
	select {
	case s.grown <- struct{}{}:
	default:
	}
}

func (s *shelf) has() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.gone, " ")
}

func (s *shelf) evictor(maxBytes int64) *Evictor {
	return New(Options{
		Storage: s, Images: s, Standings: s, Pulls: s, MaxBytes: maxBytes, Grown: s.grown, Full: s.full, Idle: 2 * time.Minute,
		Now: time.Now, Log: slog.New(slog.DiscardHandler),
	})
}

// run runs e in a bubble of its own time until do returns.
func run(t *testing.T, e *Evictor, do func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.Run(ctx)
	}()
	synctest.Wait()
	do()
	stop()
	<-ended
}

func TestWhatGoes(t *testing.T) {
	const hour = time.Hour
	for law, tt := range map[string]struct {
		set  func(s *shelf, now time.Time)
		max  int64
		want string
	}{
		"nothing while there is room":         {func(*shelf, time.Time) {}, 50, ""},
		"nothing without a limit":             {func(*shelf, time.Time) {}, 0, ""},
		"the one that came longest ago first": {func(*shelf, time.Time) {}, 49, "e"},
		"down to nine tenths":                 {func(*shelf, time.Time) {}, 40, "e d"},
		"not what was pulled since": {func(s *shelf, now time.Time) {
			s.pulls["e"] = now.Add(-hour)
		}, 40, "d c"},
		"but what was pulled last before others came": {func(s *shelf, now time.Time) {
			s.images["a"] = now.Add(-200 * hour)
			s.pulls["a"] = now.Add(-100 * hour)
		}, 49, "a"},
		"not what came again since it was pulled": {func(s *shelf, now time.Time) {
			s.pulls["e"], s.images["e"] = now.Add(-100*hour), now.Add(-hour)
		}, 49, "d"},
		"not what is in quarantine": {func(s *shelf, _ time.Time) {
			s.verdict["e"] = Standing{Keep: true}
		}, 40, "d c"},
		"what is denied and not kept for review": {func(s *shelf, _ time.Time) {
			s.verdict["e"] = Standing{}
		}, 49, "e"},
		"what was kept once and is admitted now": {func(s *shelf, _ time.Time) {
			s.verdict["e"] = Standing{Decision: gate.Allow, Keep: true}
		}, 49, "e"},
		"not what is in use": {func(s *shelf, _ time.Time) { s.inUse["e"] = true }, 40, "d c"},
		"not what was pulled a moment ago, whatever the limit": {func(s *shelf, now time.Time) {
			for _, name := range []string{"a", "b", "c"} {
				s.pulls[name] = now.Add(-time.Minute)
			}
		}, 1, "e d"},
		"what was never judged, once nobody can be at it": {func(s *shelf, now time.Time) {
			delete(s.verdict, "e")
			s.images["e"] = now.Add(-20 * hour)
		}, 49, "e"},
		"not what is being judged for the first time": {func(s *shelf, now time.Time) {
			delete(s.verdict, "e")
			s.images["e"] = now.Add(-hour / 2)
		}, 49, "d"},
	} {
		t.Run(law, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShelf()
				for i, name := range []string{"a", "b", "c", "d", "e"} {
					s.put(time.Now(), name, time.Duration(i+1)*hour)
				}
				tt.set(s, time.Now())
				e := s.evictor(tt.max)
				run(t, e, func() {
					if got := s.has(); got != tt.want {
						t.Errorf("%q went, want %q", got, tt.want)
					}
				})
				n := uint64(len(strings.Fields(tt.want)))
				if diff := cmp.Diff(e.Stats(), Stats{Images: n, Bytes: 10 * n}); diff != "" {
					t.Errorf("Stats (-got +want):\n%s", diff)
				}
			})
		})
	}
}

func TestRoomIsMadeWhenMoreComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		run(t, s.evictor(30), func() {
			for i, name := range []string{"a", "b", "c", "d"} {
				s.put(time.Now(), name, time.Duration(10-i)*time.Hour)
				synctest.Wait()
			}
			if got := s.has(); got != "a b" {
				t.Errorf("%q went, want a and b", got)
			}
		})
	})
}

func TestWhereNothingCanGoItIsTriedAgainLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		s.put(time.Now(), "a", time.Hour)
		s.mu.Lock()
		s.inUse["a"], s.fixed = true, 100
		s.mu.Unlock()
		run(t, s.evictor(50), func() {
			s.mu.Lock()
			s.inUse["a"] = false
			s.mu.Unlock()
			s.put(time.Now(), "b", 2*time.Hour)
			synctest.Wait()
			if got := s.has(); got != "" {
				t.Errorf("%q went before it was time", got)
			}
			<-time.After(retryAfter) // in the bubble
			synctest.Wait()
			if got := s.has(); got != "b a" {
				t.Errorf("%q went, want b and a", got)
			}
		})
	})
}

func TestAFullStorage(t *testing.T) {
	tell := func(s *shelf) {
		s.full <- struct{}{}
		synctest.Wait()
	}
	t.Run("is relieved of a tenth, without a limit too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newShelf()
			for i := range 20 {
				s.put(time.Now(), string(rune('a'+i)), time.Duration(i+1)*time.Hour)
			}
			e := s.evictor(0)
			run(t, e, func() {
				tell(s)
				if got := s.has(); got != "t s" {
					t.Errorf("%q went, want t and s", got)
				}
				tell(s)
				if got := s.has(); got != "t s r q" {
					t.Errorf("%q went, want r and q too", got)
				}
			})
			if got := e.Stats().Full; got != 2 {
				t.Errorf("found full %d times, want 2", got)
			}
		})
	})
	t.Run("in which all is in use is looked at again later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newShelf()
			s.put(time.Now(), "a", time.Hour)
			s.inUse["a"] = true
			e := s.evictor(0)
			run(t, e, func() {
				tell(s)
				tell(s)
				if got := e.Stats().Full; got != 1 {
					t.Errorf("looked through %d times, want once", got)
				}
				s.mu.Lock()
				s.inUse["a"] = false
				s.mu.Unlock()
				<-time.After(retryAfter) // in the bubble
				synctest.Wait()
				if got := s.has(); got != "a" {
					t.Errorf("%q went, want a", got)
				}
			})
		})
	})
}

func TestSweeping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		s.orphans = 7
		for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "new": 23 * time.Hour, "judged": 100 * time.Hour} {
			s.put(time.Now(), name, age)
			if name != "judged" {
				delete(s.verdict, name)
			}
		}
		e := s.evictor(0)
		started := time.Now()
		run(t, e, func() {
			if got := s.has(); got != "old" {
				t.Errorf("%q went, want what is old and was never judged", got)
			}
			s.mu.Lock()
			swept := s.swept
			s.mu.Unlock()
			if want := started.Add(-orphanAge); !swept.Equal(want) {
				t.Errorf("swept up what is from before %s, want %s", swept, want)
			}
			<-time.After(sweepEvery) // in the bubble
			synctest.Wait()
			if got := s.has(); got != "old new" {
				t.Errorf("%q went, want new too, which is old by now", got)
			}
		})
		if got := e.Stats(); got.Orphaned != 27 || got.Images != 0 {
			t.Errorf("%+v, want 27 bytes that nothing referred to", got)
		}
	})
}

func TestNothingGoesByWhatIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		s.fail = errLost
		s.put(time.Now(), "a", time.Hour)
		e := s.evictor(5)
		run(t, e, func() {
			s.full <- struct{}{}
			synctest.Wait()
			if got := s.has(); got != "" {
				t.Errorf("%q went", got)
			}
			s.mu.Lock()
			s.fail = nil
			s.mu.Unlock()
			<-time.After(countEvery) // in the bubble
			synctest.Wait()
			if got := s.has(); got != "a" {
				t.Errorf("%q went once the storage answered, want a", got)
			}
		})
	})
}

func TestNewNeedsItsOptions(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("an evictor was made of nothing")
		}
	}()
	New(Options{})
}
