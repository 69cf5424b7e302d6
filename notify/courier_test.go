package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// pass lets time go by, on the clock of a synctest bubble.
func pass(d time.Duration) { <-time.After(d) }

// until lets time go by until done, for at most d.
func until(t *testing.T, d time.Duration, done func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !done(); pass(time.Second) {
		if time.Now().After(end) {
			t.Fatalf("in vain after %s", d)
		}
	}
}

// everBefore is longer than the attempts at one event last.
const everBefore = 24 * time.Hour

func TestDelivery(t *testing.T) {
	for law, test := range map[string]func(t *testing.T, s *memory, r *receiver){
		"an event is delivered, and nothing is kept of it": func(t *testing.T, s *memory, r *receiver) {
			h := hub(t, s, r, Webhook{})
			defer running(t, h)()
			h.Publish(t.Context(), about("a"))
			synctest.Wait()
			if diff := cmp.Diff(r.got(), []string{"a"}); diff != "" {
				t.Error(diff)
			}
			if got := s.states(); len(got) > 0 {
				t.Errorf("kept: %q", got)
			}
		},
		"what a receiver that is down did not take is kept at once, and delivered when it is up": func(t *testing.T, s *memory, r *receiver) {
			r.set(down)
			h := hub(t, s, r, Webhook{})
			defer running(t, h)()
			for i := range 20 {
				h.Publish(t.Context(), about(fmt.Sprintf("%02d", i)))
			}
			synctest.Wait()
			if got := len(s.states()); got != 20 {
				t.Errorf("%d are kept, want 20", got)
			}
			if r.asked > maxAttempting {
				t.Errorf("a receiver that is down is asked %d times at once", r.asked)
			}
			r.set(nil)
			until(t, 10*time.Minute, func() bool { return len(r.got()) == 20 })
			synctest.Wait()
			if got := s.states(); len(got) > 0 {
				t.Errorf("kept: %q", got)
			}
		},
		"one event that is never taken holds up no other, and ends as a dead letter": func(t *testing.T, s *memory, r *receiver) {
			r.set(func(body string) *failure {
				if strings.Contains(body, `"poison"`) {
					return &failure{problem: "it answered 400 Bad Request"}
				}
				return nil
			})
			h := hub(t, s, r, Webhook{})
			defer running(t, h)()
			h.Publish(t.Context(), about("poison"))
			h.Publish(t.Context(), about("good"))
			until(t, time.Minute, func() bool { return len(r.got()) == 1 })
			until(t, everBefore, func() bool { return h.Stats().Webhooks[0].Dead == 1 })
			want := []string{fmt.Sprintf("ops poison attempts=%d dead=true it answered 400 Bad Request", len(backoff)+1)}
			if diff := cmp.Diff(s.states(), want); diff != "" {
				t.Error(diff)
			}
			if asked := r.asked; asked != len(want)+len(backoff)+1 {
				t.Errorf("it was asked %d times", asked)
			}
		},
		"a receiver that says when is not asked before": func(t *testing.T, s *memory, r *receiver) {
			r.set(func(string) *failure { return &failure{problem: "busy", after: 30 * time.Minute} })
			h := hub(t, s, r, Webhook{})
			defer running(t, h)()
			h.Publish(t.Context(), about("a"))
			pass(29 * time.Minute)
			h.Publish(t.Context(), about("b"))
			synctest.Wait()
			if r.asked != 1 {
				t.Errorf("it was asked %d times", r.asked)
			}
			r.set(nil)
			until(t, 5*time.Minute, func() bool { return len(r.got()) == 2 })
		},
		"what is undelivered at the end is delivered after the next start": func(t *testing.T, s *memory, r *receiver) {
			r.set(down)
			h := hub(t, s, r, Webhook{})
			stop := running(t, h)
			h.Publish(t.Context(), about("a"))
			synctest.Wait()
			h.Publish(t.Context(), about("b"))
			stop()
			r.set(nil)
			again := hub(t, s, r, Webhook{})
			defer running(t, again)()
			until(t, time.Minute, func() bool { return len(r.got()) == 2 })
		},
		"a process that is gone for good has its deliveries made by another": func(t *testing.T, s *memory, r *receiver) {
			r.set(down)
			h := hub(t, s, r, Webhook{})
			stop := running(t, h)
			h.Publish(t.Context(), about("a"))
			synctest.Wait()
			stop()
			r.set(nil)
			other := hub(t, s, r, Webhook{})
			other.couriers[0].replica = "two"
			defer running(t, other)()
			pass(orphanedAfter / 2)
			if got := r.got(); len(got) > 0 {
				t.Errorf("it did not wait for the other process: %q", got)
			}
			until(t, orphanedAfter+2*adoptEvery, func() bool { return len(r.got()) == 1 })
		},
		"a dead letter is delivered when somebody asks for it, or dropped": func(t *testing.T, s *memory, r *receiver) {
			r.set(down)
			h := hub(t, s, r, Webhook{})
			defer running(t, h)()
			h.Publish(t.Context(), about("a"))
			h.Publish(t.Context(), about("b"))
			until(t, 2*everBefore, func() bool { return h.Stats().Webhooks[0].Dead == 2 })
			r.set(nil)
			dead, err := h.DeadLetters(t.Context())
			if err != nil || len(dead) != 2 {
				t.Fatalf("got %v, %v", dead, err)
			}
			if err := h.Redeliver(t.Context(), dead[0].Name); err != nil {
				t.Fatal(err)
			}
			if err := h.Drop(t.Context(), dead[1].Name); err != nil {
				t.Fatal(err)
			}
			until(t, time.Minute, func() bool { return len(r.got()) == 1 })
			synctest.Wait()
			if got := s.states(); len(got) > 0 {
				t.Errorf("kept: %q", got)
			}
			for _, err := range []error{h.Redeliver(t.Context(), dead[0].Name), h.Drop(t.Context(), dead[1].Name)} {
				if !errors.Is(err, ErrNoLetter) {
					t.Errorf("a letter that is gone: got %v", err)
				}
			}
			if diff := cmp.Diff(h.Stats().Webhooks[0], WebhookStats{Name: "ops", Delivered: 1, Failed: 16}); diff != "" {
				t.Error(diff)
			}
		},
		"a store that takes nothing loses nothing while the process lives": func(t *testing.T, s *memory, r *receiver) {
			s.broken = errDisk
			r.set(down)
			h := hub(t, s, r, Webhook{})
			defer running(t, h)()
			h.Publish(t.Context(), about("a"))
			synctest.Wait()
			r.set(nil)
			until(t, time.Minute, func() bool { return len(r.got()) == 1 })
		},
		"only what it asked for is a webhook told of": func(t *testing.T, s *memory, r *receiver) {
			pattern, err := oci.ParseFullPattern("docker.io/library/*")
			if err != nil {
				t.Fatal(err)
			}
			h := hub(t, s, r, Webhook{Types: []Type{VerdictDenied, PolicyChanged}, Repositories: []oci.Pattern{pattern}})
			defer running(t, h)()
			nginx, other := repository(t, "docker.io/library/nginx"), repository(t, "docker.io/acme/nginx")
			h.Publish(t.Context(), Event{Type: VerdictDenied, Repository: nginx, Subject: "yes"})
			h.Publish(t.Context(), Event{Type: VerdictAllowed, Repository: nginx, Subject: "another type"})
			h.Publish(t.Context(), Event{Type: VerdictDenied, Repository: other, Subject: "another repository"})
			h.Publish(t.Context(), Event{Type: PolicyChanged, Subject: "no repository"})
			synctest.Wait()
			if diff := cmp.Diff(r.got(), []string{"yes"}); diff != "" {
				t.Error(diff)
			}
		},
	} {
		t.Run(law, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, &memory{}, &receiver{}) })
		})
	}
}

func TestWhatThereIsNoRoomForIsCounted(t *testing.T) {
	h := hub(t, &memory{}, &receiver{}, Webhook{}) // which nobody runs
	large := Event{Type: VerdictDenied, Data: strings.Repeat("x", maxDataBytes-2)}
	const events = maxQueuedBytes/maxDataBytes + 10
	for range events {
		h.Publish(t.Context(), large)
	}
	got := h.Stats().Webhooks[0]
	if got.Lost < 10 || got.Queued+int(got.Lost) != events {
		t.Errorf("got %+v of %d", got, events)
	}
}

func TestTheLatestOfADeliveryCounts(t *testing.T) {
	kept := []Stored{
		{"1", Delivery{Webhook: "a", EventID: "x", Attempts: 1}}, {"2", Delivery{Webhook: "b", EventID: "x", Attempts: 2}},
		{"3", Delivery{Webhook: "a", EventID: "x", Attempts: 3, Dead: true}}, {"4", Delivery{Webhook: "a", EventID: "y"}},
	}
	var got []string
	for _, k := range latest(kept) {
		got = append(got, k.Name)
	}
	if diff := cmp.Diff(got, []string{"3", "2", "4"}); diff != "" {
		t.Error(diff)
	}
}

func TestWait(t *testing.T) {
	for attempts := 1; attempts <= len(backoff); attempts++ {
		step := backoff[attempts-1]
		if got, ok := wait(attempts, 0); !ok || got < step/2 || got > step+step/2 {
			t.Errorf("after %d attempts: %s, %t", attempts, got, ok)
		}
	}
	if got, ok := wait(1, time.Hour); !ok || got != time.Hour {
		t.Errorf("a receiver that asks for an hour gets %s", got)
	}
	if _, ok := wait(len(backoff)+1, time.Hour); ok {
		t.Error("there is no end to it")
	}
}

// TestDeliveriesThatSayNothing is about what a store may hand back.
func TestDeliveriesThatSayNothing(t *testing.T) {
	for law, d := range map[string]Delivery{
		"no webhook": {EventID: "x", Body: json.RawMessage("{}")},
		"no event":   {Webhook: "a", Body: json.RawMessage("{}")},
		"no body":    {Webhook: "a", EventID: "x"},
	} {
		if d.Check() == nil {
			t.Errorf("%s: it is believed", law)
		}
	}
	if err := (Delivery{Webhook: "a", EventID: "x", Body: json.RawMessage("{}")}).Check(); err != nil {
		t.Error(err)
	}
	if !slices.IsSorted(backoff) {
		t.Error("waits become shorter")
	}
}
