package forward

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// run runs f until stop is called, which returns when it has ended.
func run(t *testing.T, f *Forwarder) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.Run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// pass lets time pass in a bubble.
func pass(d time.Duration) { <-time.After(d) }

// outcomes returns the outcomes observed so far.
func (h *harbor) outcomes() []Outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.observed)
}

// failWith makes q answer what matches with err.
func (q *quay) failWith(err error, match string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fail = func(_ context.Context, what string, _ oci.Repository) error {
		if strings.Contains(what, match) {
			return err
		}
		return nil
	}
}

// inBubble runs a test in which time passes only while nobody has anything to do.
func inBubble(t *testing.T, build func(h *harbor), test func(t *testing.T, h *harbor, q *quay)) {
	t.Helper()
	h := newHarbor(t) // its listener stays outside
	build(h)
	synctest.Test(t, func(t *testing.T) { test(t, h, newQuay(h)) })
}

func TestHowOftenItIsTried(t *testing.T) {
	for _, tt := range []struct {
		law          string
		err          error
		wantOutcome  Outcome
		first, later [2]int // attempts in the first hour, and in each of the hours after it, at least and at most
	}{
		{"an upstream that is down", oci.ErrUnavailable, OutcomeUnavailable, [2]int{9, 14}, [2]int{3, 8}},
		{"an upstream that limits us", &oci.Error{Code: oci.CodeTooManyRequests, RetryAfter: 20 * time.Minute}, OutcomeLimited, [2]int{3, 3}, [2]int{3, 3}},
		{"an upstream that asks for more time than it may", &oci.Error{Code: oci.CodeUnavailable, RetryAfter: 100 * time.Hour}, OutcomeUnavailable, [2]int{1, 1}, [2]int{1, 1}},
		{"an upstream that refuses", oci.ErrUnauthorized, OutcomeRefused, [2]int{1, 1}, [2]int{0, 1}},
	} {
		t.Run(tt.law, func(t *testing.T) {
			inBubble(t, func(h *harbor) { h.admit(h.image("web", "v1"), "v1") }, func(t *testing.T, h *harbor, q *quay) {
				q.failWith(tt.err, "blob web/0")
				defer run(t, h.forwarder(q))()
				before := 0
				for hour := range 30 {
					want := tt.later
					if hour == 0 {
						want = tt.first
						pass(time.Hour - time.Nanosecond)
					} else {
						pass(time.Hour)
					}
					synctest.Wait()
					got := len(h.outcomes())
					if n := got - before; n < want[0] || n > want[1] {
						t.Errorf("hour %d: tried %d times, want %d to %d", hour, n, want[0], want[1])
					}
					before = got
				}
				if got := slices.Compact(h.outcomes()); !slices.Equal(got, []Outcome{tt.wantOutcome}) {
					t.Errorf("got outcomes %v, want only %s", got, tt.wantOutcome)
				}
				// It is never given up.
				q.failWith(nil, "")
				pass(rareWait)
				synctest.Wait()
				if len(h.done) != 1 {
					t.Error("what the upstream takes now was not copied")
				}
			})
		})
	}
}

func TestRounds(t *testing.T) {
	t.Run("what fails keeps nothing else back", func(t *testing.T) {
		inBubble(t, func(h *harbor) {
			for i := range 10 {
				h.admit(h.image(fmt.Sprintf("bad%d", i), ""))
				h.admit(h.image(fmt.Sprintf("good%d", i), ""))
			}
		}, func(t *testing.T, h *harbor, q *quay) {
			q.failWith(oci.ErrUnavailable, "manifest bad")
			f := h.forwarder(q)
			defer run(t, f)()
			synctest.Wait() // before any time has passed
			if got := len(h.done); got != 10 {
				t.Errorf("got %d copied, want 10", got)
			}
			if got := len(f.Status()); got != 10 {
				t.Errorf("got %d left, want 10", got)
			}
		})
	})

	t.Run("an upstream that hangs leaves workers to the others", func(t *testing.T) {
		inBubble(t, func(h *harbor) {
			for i := range 6 {
				item := h.admit(h.image(fmt.Sprintf("web%d", i), ""))
				hung := item
				hung.To, hung.AdmittedAt = fmt.Sprintf("hangs.example/%d", i), item.AdmittedAt.Add(-time.Hour)
				h.pending[hung.place()] = hung
			}
		}, func(t *testing.T, h *harbor, q *quay) {
			q.fail = func(ctx context.Context, _ string, repo oci.Repository) error {
				if repo.Upstream == "hangs.example" {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}
			f := h.forwarder(q)
			defer run(t, f)()
			synctest.Wait()
			if got := len(h.done); got != 6 {
				t.Errorf("got %d copied, want 6", got)
			}
			running := 0
			for _, s := range f.Status() {
				if s.Running {
					running++
				}
			}
			if running != defaultWorkers/2 {
				t.Errorf("got %d attempts that hang, want %d", running, defaultWorkers/2)
			}
			pass(attemptTimeout + time.Second) // which ends them
			synctest.Wait()
			if got := h.outcomes(); !slices.Contains(got, OutcomeUnavailable) {
				t.Errorf("got outcomes %v, want that the upstream counts as unavailable", got)
			}
		})
	})

	t.Run("one attempt at a time is made in a repository", func(t *testing.T) {
		inBubble(t, func(h *harbor) {
			for i := range 4 {
				h.admit(h.image(fmt.Sprintf("web%d", i), ""))
			}
		}, func(t *testing.T, h *harbor, q *quay) {
			q.fail = func(ctx context.Context, _ string, _ oci.Repository) error {
				<-ctx.Done()
				return ctx.Err()
			}
			f := h.forwarder(q)
			defer run(t, f)()
			synctest.Wait()
			var running []bool
			for _, s := range f.Status() {
				running = append(running, s.Running)
			}
			if diff := cmp.Diff([]bool{true, false, false, false}, running); diff != "" {
				t.Errorf("which run (-want +got):\n%s", diff)
			}
		})
	})

	t.Run("whoever is woken looks at once", func(t *testing.T) {
		inBubble(t, func(h *harbor) {}, func(t *testing.T, h *harbor, q *quay) {
			f := h.forwarder(q)
			defer run(t, f)()
			synctest.Wait()
			h.admit(h.image("web", ""))
			synctest.Wait()
			if len(h.done) != 0 {
				t.Error("it was copied before anybody said that it is there")
			}
			f.Wake()
			f.Wake()
			synctest.Wait()
			if len(h.done) != 1 {
				t.Error("it was not copied")
			}
		})
	})

	t.Run("what nobody told of is found in the end", func(t *testing.T) {
		inBubble(t, func(h *harbor) {}, func(t *testing.T, h *harbor, q *quay) {
			defer run(t, h.forwarder(q))()
			synctest.Wait()
			h.admit(h.image("web", ""))
			pass(lookAgain)
			synctest.Wait()
			if len(h.done) != 1 {
				t.Error("it was not copied")
			}
		})
	})

	t.Run("a tag that is new begins the attempts anew", func(t *testing.T) {
		inBubble(t, func(h *harbor) { h.admit(h.image("web", "v1"), "v1") }, func(t *testing.T, h *harbor, q *quay) {
			q.failWith(oci.ErrUnauthorized, "manifest")
			f := h.forwarder(q)
			defer run(t, f)()
			synctest.Wait()
			web := f.Status()[0].Item.Candidate.Digest
			q.failWith(nil, "")
			h.content.Tag(hostedPath, "v2", web)
			h.admit(oci.Descriptor{Digest: web}, "v1", "v2")
			f.Wake()
			synctest.Wait()
			want := []string{"blob web/0", "blob web/1", "manifest web", "tag v1 web", "tag v2 web"}
			if diff := cmp.Diff(want, q.log()); diff != "" {
				t.Errorf("what arrived (-want +got):\n%s", diff)
			}
		})
	})

	t.Run("what somebody else has copied is not tried again", func(t *testing.T) {
		inBubble(t, func(h *harbor) { h.admit(h.image("web", "v1"), "v1") }, func(t *testing.T, h *harbor, q *quay) {
			q.failWith(oci.ErrUnavailable, "manifest")
			f := h.forwarder(q)
			defer run(t, f)()
			synctest.Wait()
			h.mu.Lock()
			clear(h.pending)
			h.mu.Unlock()
			pass(time.Hour)
			synctest.Wait()
			if got := len(h.outcomes()); got != 1 {
				t.Errorf("got %d attempts, want 1", got)
			}
			if got := f.Status(); len(got) != 0 {
				t.Errorf("got %v left, want nothing", got)
			}
		})
	})

	t.Run("a queue that cannot be read is asked again, less and less often", func(t *testing.T) {
		inBubble(t, func(h *harbor) { h.admit(h.image("web", "v1"), "v1"); h.queueErr = errBroken }, func(t *testing.T, h *harbor, q *quay) {
			f := h.forwarder(q)
			defer run(t, f)()
			pass(time.Hour)
			f.Wake() // does not make it ask sooner
			synctest.Wait()
			h.mu.Lock()
			if h.asked < 9 || h.asked > 14 {
				t.Errorf("asked %d times in an hour, want 9 to 14", h.asked)
			}
			h.queueErr = nil
			h.mu.Unlock()
			pass(maxWait)
			synctest.Wait()
			if len(h.done) != 1 {
				t.Error("it was not copied")
			}
		})
	})

	t.Run("a queue that forgets what is done is not believed for ever", func(t *testing.T) {
		inBubble(t, func(h *harbor) { h.admit(h.image("web", "v1"), "v1") }, func(t *testing.T, h *harbor, q *quay) {
			item := h.admit(h.image("web", "v1"), "v1")
			forgetful := New(Options{
				Queue: forgetful{item}, Judge: h, Released: h, Evidence: h, Destination: q, Log: slog.New(slog.DiscardHandler), Observe: h.observe,
			})
			defer run(t, forgetful)()
			pass(time.Hour - time.Second)
			synctest.Wait()
			if n := len(h.outcomes()); n > 14 {
				t.Errorf("copied %d times in an hour, want at most 14", n)
			}
		})
	})
}

// forgetful is a Queue that does not remember what is done.
type forgetful struct{ item Item }

func (q forgetful) Pending(context.Context) ([]Item, error) { return []Item{q.item}, nil }
func (forgetful) Done(context.Context, Item) error          { return nil }

func TestStatus(t *testing.T) {
	inBubble(t, func(h *harbor) { h.admit(h.image("web", "v1"), "v1") }, func(t *testing.T, h *harbor, q *quay) {
		q.failWith(&oci.Error{Code: oci.CodeUnauthorized, Message: "upstream registry.example refuses"}, "manifest")
		f := h.forwarder(q)
		if got := f.Status(); len(got) != 0 {
			t.Errorf("before it runs: got %v", got)
		}
		defer run(t, f)()
		synctest.Wait()
		got := f.Status()
		if len(got) != 1 {
			t.Fatalf("got %v, want one", got)
		}
		if wait := time.Until(got[0].NextTry); wait < rareWait/2 || wait > rareWait {
			t.Errorf("the next try is in %s, want %s at most and half of it at least", wait, rareWait)
		}
		got[0].NextTry = time.Time{}
		c := got[0].Item.Candidate
		want := ItemStatus{
			Item: h.pending[place{c, to}], Attempts: 1, Outcome: OutcomeRefused,
			Reason: fmt.Sprintf("forwarding %s to registry.example/mirror/apps/web: pushing manifest %s: upstream registry.example refuses", c, c.Digest),
		}
		if diff := cmp.Diff(want, got[0]); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
	})
}

// The process ends between the manifest's arrival and the note that it arrived; the next one finds the same queue.
func TestRestart(t *testing.T) {
	for _, tt := range []struct {
		law  string
		stop string // what has just arrived when the process ends
		want []string
	}{
		{"after the blobs", "blob web/1", []string{"manifest web", "tag v1 web"}},
		{"after the manifest", "manifest web", []string{"manifest web", "tag v1 web"}},
		{"after the tag", "tag v1 web", []string{"manifest web", "tag v1 web"}},
	} {
		t.Run(tt.law, func(t *testing.T) {
			inBubble(t, func(h *harbor) { h.admit(h.image("web", "v1"), "v1") }, func(t *testing.T, h *harbor, q *quay) {
				dying := make(chan struct{})
				q.lose = func(ctx context.Context, what string) error {
					if what != tt.stop {
						return nil
					}
					close(dying)
					<-ctx.Done()
					return ctx.Err()
				}
				stop := run(t, h.forwarder(q))
				<-dying
				synctest.Wait()
				stop()
				if got := h.outcomes(); len(got) != 0 || len(h.done) != 0 {
					t.Errorf("got outcomes %v and %d done, want that nothing counts", got, len(h.done))
				}

				q.lose = nil
				q.forget()
				defer run(t, h.forwarder(q))()
				synctest.Wait()
				if diff := cmp.Diff(tt.want, q.log()); diff != "" {
					t.Errorf("what is sent after the restart (-want +got):\n%s", diff)
				}
				if len(h.done) != 1 || len(h.pending) != 0 {
					t.Errorf("got %d done, %d pending, want 1 and 0", len(h.done), len(h.pending))
				}
			})
		})
	}

	t.Run("what was copied but not noted is copied again, and nothing changes", func(t *testing.T) {
		inBubble(t, func(h *harbor) {
			h.admit(h.image("web", "v1"), "v1")
			h.doneErr = errBroken
		}, func(t *testing.T, h *harbor, q *quay) {
			stop := run(t, h.forwarder(q))
			synctest.Wait()
			stop()
			if diff := cmp.Diff([]Outcome{OutcomeUnnoted}, h.outcomes()); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
			before := fmt.Sprint(q.manifests, q.blobs)
			h.doneErr = nil
			q.forget()
			defer run(t, h.forwarder(q))()
			synctest.Wait()
			if diff := cmp.Diff([]string{"manifest web", "tag v1 web"}, q.log()); diff != "" {
				t.Errorf("what is sent again (-want +got):\n%s", diff)
			}
			if after := fmt.Sprint(q.manifests, q.blobs); after != before {
				t.Errorf("the destination has %s, had %s", after, before)
			}
			if len(h.done) != 1 {
				t.Error("it is not done")
			}
		})
	})
}

func TestNewRefuses(t *testing.T) {
	defer func() {
		if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "forward: option ") {
			t.Errorf("got %s, want a word about an option", got)
		}
	}()
	New(Options{})
}
