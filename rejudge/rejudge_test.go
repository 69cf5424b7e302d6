package rejudge_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/rejudge"
)

// runs is what starts a Rejudger.
type runs = func(...func(*rejudge.Options)) *rejudge.Rejudger

// wantJudged fails unless exactly want was judged since it was last asked, in that order.
func wantJudged(t *testing.T, p *proxy, want ...string) {
	t.Helper()
	if diff := cmp.Diff(p.said(), want); diff != "" {
		t.Errorf("judged (-got +want):\n%s", diff)
	}
}

// soon is longer than a change takes to be seen and gone through, and shorter than anything is tried again.
const soon = 10 * time.Second

func TestAChangeIsGoneThrough(t *testing.T) {
	in(t, 4, func(t *testing.T, p *proxy, all []gate.Candidate, run runs) {
		p.takes = time.Millisecond
		r := run()
		pass(soon)
		wantJudged(t, p)
		p.change(func() { p.revision, p.denied[all[1]] = "r2", true })
		pass(soon)
		wantJudged(t, p, "b2", "b1", "a2", "a1")
		want := rejudge.Stats{Withdrawn: 1, Unchanged: 3, Took: 4 * time.Millisecond}
		if diff := cmp.Diff(r.Stats(), want); diff != "" {
			t.Errorf("Stats (-got +want):\n%s", diff)
		}
		p.change(func() { p.revision, p.denied = "r3", map[gate.Candidate]bool{} })
		r.Wake()
		pass(4 * time.Millisecond)
		synctest.Wait()
		wantJudged(t, p, "a1", "a2", "b1", "b2")
		if got := r.Stats().Released; got != 1 {
			t.Errorf("released: got %d, want 1", got)
		}
		if log := p.log.String(); strings.Count(log, "judged again") != 2 || !strings.Contains(log, "candidates=4 finished=true dur=4ms withdrawn=1 released=0 unchanged=3 failed=0") {
			t.Errorf("the log says\n%s", log)
		}
	})
}

// What there is now may be what there was before, and its verdict is remembered. How things stand must say so, or that it is taken back
// later would be no change to anybody.
func TestAVerdictThatCountsAgainIsOnRecordAgain(t *testing.T) {
	in(t, 2, func(t *testing.T, p *proxy, all []gate.Candidate, run runs) {
		r := run()
		p.change(func() { p.revision, p.denied[all[0]] = "r2", true })
		pass(soon)
		p.change(func() { p.revision, p.denied[all[0]] = "r1", false })
		pass(soon)
		for _, c := range all {
			if s := p.standings[c]; s.Decision != gate.Allow || s.Key != p.key(c) {
				t.Errorf("%s stands as %s by another key", short(c), s.Decision)
			}
		}
		p.change(func() { p.revision, p.denied[all[0]] = "r2", true })
		pass(soon)
		if got := r.Stats(); got.Withdrawn != 2 || got.Released != 1 || got.Unchanged != 3 || got.Failed != 0 {
			t.Errorf("Stats: got %+v, want 2 withdrawn, 1 released, 3 unchanged", got)
		}
	})
}

func TestWhatWasPulledLastComesFirst(t *testing.T) {
	in(t, 6, func(t *testing.T, p *proxy, all []gate.Candidate, run runs) {
		p.pulled[all[2]], p.pulled[all[0]] = time.Now(), time.Now().Add(-time.Hour)
		p.revision = "r2"
		run()
		pass(soon)
		wantJudged(t, p, "b1", "a1", "c2", "c1", "b2", "a2")
	})
}

func TestWhatAProcessBeforeLeftIsGoneThroughAtTheStart(t *testing.T) {
	in(t, 4, func(t *testing.T, p *proxy, all []gate.Candidate, run runs) {
		p.revision = "r2"
		p.record(all[0])
		p.said()
		run()
		pass(soon)
		wantJudged(t, p, "b2", "b1", "a2")
	})
}

func TestWhatWasDroppedIsLeftAlone(t *testing.T) {
	in(t, 4, func(t *testing.T, p *proxy, all []gate.Candidate, run runs) {
		p.revision, p.dropped[all[3]] = "r2", true
		run()
		pass(soon)
		wantJudged(t, p, "b1", "a2", "a1")
	})
}

func TestNewerInputsBeginAnew(t *testing.T) {
	in(t, 6, func(t *testing.T, p *proxy, all []gate.Candidate, run runs) {
		p.revision = "r2"
		p.before = func(c gate.Candidate) {
			if c == all[4] {
				p.change(func() { p.revision, p.before = "r3", nil })
			}
		}
		r := run()
		pass(soon)
		// c2 was judged by r2; c1 was under way, and by r3 when it ended. The rest was never judged by r2.
		wantJudged(t, p, "c2", "c1", "c2", "b2", "b1", "a2", "a1")
		if got := r.Stats(); got.Pending != 0 || got.Unchanged != 7 {
			t.Errorf("Stats: got %+v, want nothing pending and 7 unchanged", got)
		}
	})
}

func TestWhatFailsIsTriedAgainLaterAndLater(t *testing.T) {
	in(t, 4, func(t *testing.T, p *proxy, all []gate.Candidate, run runs) {
		p.revision, p.down[all[3]] = "r2", true
		r := run()
		pass(soon)
		wantJudged(t, p, "not b2", "b1", "a2", "a1")
		var tries []time.Duration
		last := time.Now()
		for len(tries) < 4 {
			pass(time.Second)
			if p.said() != nil {
				tries, last = append(tries, time.Since(last).Round(15*time.Second)), time.Now()
			}
		}
		if !slices.IsSorted(tries) || tries[3] < 8*tries[0] {
			t.Errorf("it was tried again after %v, want ever longer pauses", tries)
		}
		p.change(func() { p.down = map[gate.Candidate]bool{} })
		pass(time.Hour)
		wantJudged(t, p, "b2")
		if got := r.Stats().Failed; got != 5 {
			t.Errorf("failed: got %d, want 5", got)
		}
	})
}

func TestARecordThatCannotBeReadIsNoEnd(t *testing.T) {
	in(t, 2, func(t *testing.T, p *proxy, _ []gate.Candidate, run runs) {
		p.revision, p.unlisted = "r2", true
		run()
		pass(soon)
		wantJudged(t, p)
		p.change(func() { p.unlisted = false })
		pass(time.Minute)
		wantJudged(t, p, "a2", "a1")
	})
}

func TestNoMoreAreJudgedThanMayBe(t *testing.T) {
	in(t, 20, func(t *testing.T, p *proxy, _ []gate.Candidate, run runs) {
		p.revision, p.takes = "r2", time.Second
		r := run(func(o *rejudge.Options) { o.Workers, o.PerSecond = 3, 2 })
		began := time.Now()
		for r.Stats().Unchanged < 20 {
			pass(100 * time.Millisecond)
		}
		if took := time.Since(began); took < 10*time.Second || took > 12*time.Second {
			t.Errorf("20 at 2 a second took %s", took)
		}
		if p.most > 3 {
			t.Errorf("%d were judged at once, want at most 3", p.most)
		}
	})
}

func TestPullsComeFirst(t *testing.T) {
	in(t, 4, func(t *testing.T, p *proxy, _ []gate.Candidate, run runs) {
		p.revision, p.others = "r2", 1
		run()
		pass(500 * time.Millisecond)
		wantJudged(t, p)
		pass(time.Second) // but not for ever
		wantJudged(t, p, "b2")
		p.change(func() { p.others = 0 })
		pass(100 * time.Millisecond)
		wantJudged(t, p, "b1", "a2", "a1")
	})
}

func TestOneReplicaIsEnough(t *testing.T) {
	in(t, 4, func(t *testing.T, p *proxy, _ []gate.Candidate, run runs) {
		var ours atomic.Bool
		var held atomic.Int32
		p.revision = "r2"
		run(func(o *rejudge.Options) {
			o.Lease = func(_ context.Context, name string) (bool, func()) {
				if name != "rejudge" {
					t.Errorf("the lease is called %q", name)
				}
				if !ours.Load() {
					return false, nil
				}
				held.Add(1)
				return true, func() { held.Add(-1) }
			}
		})
		pass(time.Minute)
		wantJudged(t, p)
		ours.Store(true) // the other one has died
		pass(soon)
		wantJudged(t, p, "b2", "b1", "a2", "a1")
		if n := held.Load(); n != 0 {
			t.Errorf("the lease is held %d times after the work, want it given back", n)
		}
	})
}

func TestVerdictsAreRenewedBeforeTheyLapse(t *testing.T) {
	in(t, 4, func(t *testing.T, p *proxy, all []gate.Candidate, run runs) {
		judged := time.Now()
		p.pulled[all[0]], p.pulled[all[1]] = judged, judged.Add(-8*24*time.Hour)
		p.denied[all[2]], p.pulled[all[2]] = true, judged
		p.record(all[2])
		p.said()
		r := run()
		pass(23 * time.Hour)
		wantJudged(t, p) // nothing is about to lapse
		pass(58 * time.Minute)
		wantJudged(t, p, "a1") // which was pulled lately, and is allowed
		pass(time.Hour)
		wantJudged(t, p)
		if got := r.Stats(); got.Unchanged != 1 || got.Pending != 0 {
			t.Errorf("Stats: got %+v, want 1 unchanged", got)
		}
	})
}

func TestTheEndOfAGracePeriodWithdraws(t *testing.T) {
	in(t, 2, func(t *testing.T, p *proxy, all []gate.Candidate, run runs) {
		p.pulled[all[0]] = time.Now()
		p.ends[all[0]] = time.Now().Add(time.Hour)
		p.record(all[0])
		p.said()
		r := run()
		pass(58 * time.Minute)
		wantJudged(t, p, "a1") // ahead, once: it ends all the same
		pass(4 * time.Minute)
		wantJudged(t, p, "a1")
		if got := r.Stats(); got.Withdrawn != 1 {
			t.Errorf("Stats: got %+v, want 1 withdrawn", got)
		}
		pass(time.Hour)
		wantJudged(t, p)
	})
}

func TestWithoutPullsNothingIsRenewed(t *testing.T) {
	in(t, 2, func(t *testing.T, p *proxy, _ []gate.Candidate, run runs) {
		run(func(o *rejudge.Options) { o.Pulls = nil })
		pass(48 * time.Hour)
		wantJudged(t, p)
	})
}

func TestItEndsInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy()
		p.candidates(8)
		p.revision, p.takes = "r2", time.Minute
		r := rejudge.New(rejudge.Options{Judge: p, Standings: p, Holdings: p, Log: newLog(p), Now: time.Now, Workers: 2})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); r.Run(ctx) }()
		pass(90 * time.Second)
		if got := r.Stats(); got.Pending != 6 || got.Unchanged != 2 {
			t.Errorf("Stats: got %+v, want 2 judged and 6 pending", got)
		}
		cancel()
		<-ended
		if got := r.Stats(); got.Failed != 0 || got.Unchanged != 2 {
			t.Errorf("Stats: got %+v, want what was interrupted to count as nothing", got)
		}
	})
}

func TestNewRefusesToDoWithout(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("New took no judge")
		}
	}()
	rejudge.New(rejudge.Options{})
}
