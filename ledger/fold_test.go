package ledger

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// TestAVerdictThatIsNotOursIsNotBelieved covers what anybody who can write to the storage can do to a record.
func TestAVerdictThatIsNotOursIsNotBelieved(t *testing.T) {
	c := candidate(nginx, "a")
	tests := []struct {
		name string
		// spoil acts on the one record of c, an admission.
		spoil      func(t *testing.T, s *storage, at string)
		wantBroken uint64
	}{
		{"altered", func(t *testing.T, s *storage, at string) {
			content := s.get(t, at)
			content[len(content)/2] ^= 1
			s.put(t, at, content)
		}, 1},
		{"truncated", func(t *testing.T, s *storage, at string) { s.put(t, at, s.get(t, at)[:50]) }, 1},
		{"empty", func(t *testing.T, s *storage, at string) { s.put(t, at, nil) }, 1},
		{"written by somebody without the key", func(t *testing.T, s *storage, at string) {
			s.put(t, at, []byte(`{"decision":"allow"}`))
		}, 1},
		{"renamed, to look newer", func(t *testing.T, s *storage, at string) {
			move(t, s, at, path.Join(path.Dir(at), recordName(epoch.UnixNano()+1, nil)))
		}, 1},
		{"under a name that is none", func(t *testing.T, s *storage, at string) { move(t, s, at, path.Join(path.Dir(at), "newest")) }, 1},
		{"moved from another repository", func(t *testing.T, s *storage, at string) {
			dir, err := verdictsPath(redis)
			if err != nil {
				t.Fatal(err)
			}
			move(t, s, at, path.Join(dir, path.Base(at)))
		}, 0}, // which is seen in redis, below
		{"deleted", func(t *testing.T, s *storage, at string) {
			if err := s.Delete(t.Context(), at); err != nil {
				t.Fatal(err)
			}
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := inMemory()
			record(t, openLedger(t, s, &clock{}), admission(c, "k", "blob"))
			tt.spoil(t, s, s.records(t, nginx)[0])
			l := openLedger(t, s, &clock{})
			wantNoVerdict(t, l, c, "k")
			wantReleased(t, l, c, false)
			wantHolders(t, l, nginx, "blob")
			wantHistory(t, l, c)
			if got, want := l.Stats(), (Stats{BrokenVerdicts: tt.wantBroken}); got != want {
				t.Errorf("Stats: got %+v, want %+v: each is counted once", got, want)
			}
			wantReleased(t, l, candidate(redis, "a"), false)
			wantHolders(t, l, redis, "blob")
			record(t, l, admission(c, "k"))
			wantReleased(t, l, c, true)
		})
	}
}

func move(t *testing.T, s *storage, from, to string) {
	t.Helper()
	if err := s.Move(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
}

func TestOneBrokenRecordDoesNotHideTheOthers(t *testing.T) {
	s := inMemory()
	c := candidate(nginx, "a")
	first, second, third := admission(c, "1"), denial(c, "2"), denial(c, "3")
	record(t, openLedger(t, s, &clock{}), first, second, third)
	s.put(t, s.records(t, nginx)[1], []byte("noise"))
	wantHistory(t, openLedger(t, s, &clock{}), c, third, first)
}

func TestARecordThatBreaksAfterItWasReadIsNotReturned(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, s *storage, at string){
		"altered": func(t *testing.T, s *storage, at string) { s.put(t, at, []byte("noise")) },
		"deleted": func(t *testing.T, s *storage, at string) {
			if err := s.Delete(t.Context(), at); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := inMemory()
			l := openLedger(t, s, &clock{})
			c := candidate(nginx, "a")
			older, newer := admission(c, "k"), denial(c, "k")
			record(t, l, older, newer)
			wantVerdict(t, l, c, "k", newer)
			spoil(t, s, s.records(t, nginx)[1])
			wantNoVerdict(t, l, c, "k") // and above all not the older one
			wantHistory(t, l, c, older)
		})
	}
}

func TestSealedByUsIsNotEnough(t *testing.T) {
	dir, err := verdictsPath(nginx)
	if err != nil {
		t.Fatal(err)
	}
	c := candidate(nginx, "a")
	noKey, noDigest := admission(c, ""), admission(c, "k")
	noKey.Key, noDigest.Digest = "", "latest"
	for name, v := range map[string]any{
		"a verdict without a key":    noKey,
		"a verdict without a digest": noDigest,
		"a field of a later version": struct {
			gate.Verdict
			Unless string `json:"unless"`
		}{admission(c, "k"), "tuesday"},
	} {
		t.Run(name, func(t *testing.T) {
			s := inMemory()
			l := openLedger(t, s, &clock{})
			place(t, l, s, dir, recordName(1, nil), v)
			wantReleased(t, l, c, false)
			if got, want := l.Stats(), (Stats{BrokenVerdicts: 1}); got != want {
				t.Errorf("Stats: got %+v, want %+v", got, want)
			}
		})
	}
}

// TestRepositoriesThatShareADirectoryShareNothingElse is about names that differ only in how a port is written.
func TestRepositoriesThatShareADirectoryShareNothingElse(t *testing.T) {
	upstream := oci.Repository{Upstream: "registry.example:5000", Path: "app"}
	hosted := oci.Repository{Path: "registry.example_5000/app"}
	l := openLedger(t, inMemory(), &clock{})
	record(t, l, admission(candidate(upstream, "a"), "k", "blob"), denial(candidate(hosted, "a"), "k"))
	wantReleased(t, l, candidate(upstream, "a"), true)
	wantReleased(t, l, candidate(hosted, "a"), false)
	wantHolders(t, l, hosted, "blob")
	wantVerdict(t, l, candidate(hosted, "a"), "k", denial(candidate(hosted, "a"), "k"))
	if got := l.Stats(); got != (Stats{}) {
		t.Errorf("Stats: got %+v, want none", got)
	}
}

func TestWhatACrashLeavesBehindIsIgnored(t *testing.T) {
	s := onDisk(t)
	c := candidate(nginx, "a")
	v := admission(c, "k")
	record(t, openLedger(t, s, &clock{}), v)
	at := s.records(t, nginx)[0]
	s.put(t, at+".0b5a3f6e-1111-4222-8333-444455556666.tmp", s.get(t, at)[:40])
	l := openLedger(t, s, &clock{})
	wantHistory(t, l, c, v)
	if got := l.Stats(); got != (Stats{}) {
		t.Errorf("Stats: got %+v, want none", got)
	}
}

func TestLedgersShareAStorage(t *testing.T) {
	s, cl := onDisk(t), &clock{}
	one, two := openLedger(t, s, cl), openLedger(t, s, cl)
	a, b, c := candidate(nginx, "a"), candidate(nginx, "b"), candidate(nginx, "c")
	record(t, one, admission(a, "k", "shared"))
	wantHolders(t, two, nginx, "shared", a)
	t.Run("what would be answered with nothing is seen at once", func(t *testing.T) {
		record(t, one, admission(b, "k", "of b"))
		wantHolders(t, two, nginx, "of b", b)
		record(t, one, admission(c, "k"))
		wantReleased(t, two, c, true)
		record(t, one, denial(c, "l"))
		wantVerdict(t, two, c, "l", denial(c, "l"))
	})
	t.Run("the rest before long", func(t *testing.T) {
		record(t, one, admission(b, "m", "shared"))
		wantHolders(t, two, nginx, "shared", a)
		cl.pass(maxAge)
		wantHolders(t, two, nginx, "shared", b, a)
	})
	t.Run("or at once when somebody says so, of it or of everything", func(t *testing.T) {
		for i, say := range []func(){func() { two.Outdate(nginx) }, two.OutdateAll, func() { two.Outdate(redis) }} {
			next := candidate(nginx, fmt.Sprint("said ", i))
			record(t, one, admission(next, "k", "said"))
			say()
			got, err := two.Holders(t.Context(), nginx, oci.FromBytes([]byte("said")))
			if want := i + 1; err != nil || i < 2 && len(got) != want || i == 2 && len(got) != 2 {
				t.Errorf("%d: got %v, %v", i, got, err)
			}
		}
	})
	t.Run("records of the same nanosecond are all kept", func(t *testing.T) {
		record(t, one, denial(a, "by one"))
		record(t, two, denial(a, "by two"))
		for _, l := range []*Ledger{one, two, openLedger(t, s, cl)} {
			wantVerdict(t, l, a, "by one", denial(a, "by one"))
			wantVerdict(t, l, a, "by two", denial(a, "by two"))
		}
	})
}

// TestRequestBudget counts what questions cost.
func TestRequestBudget(t *testing.T) {
	s, cl := inMemory(), &clock{}
	c := candidate(nginx, "a")
	before := openLedger(t, s, cl)
	record(t, before, admission(c, "k", "blob"), admission(candidate(nginx, "b"), "k"), denial(c, "l"))
	s.called()
	l := openLedger(t, s, cl)
	steps := []struct {
		name string
		do   func()
		want map[string]int
	}{
		{"the first question reads each record once", func() { wantReleased(t, l, c, true) }, map[string]int{"List": 1, "Reader": 3}},
		{"later ones are answered from memory", func() {
			wantReleased(t, l, c, true)
			wantHolders(t, l, nginx, "blob", c)
		}, map[string]int{}},
		{"a verdict is read when it is asked for", func() { wantVerdict(t, l, c, "k", admission(c, "k", "blob")) }, map[string]int{"Reader": 1}},
		{"recording is one write", func() { record(t, l, denial(c, "m")) }, map[string]int{"PutContent": 1}},
		{"what was recorded here is not read to be known", func() {
			wantReleased(t, l, candidate(nginx, "unknown"), false)
		}, map[string]int{"List": 1}},
		{"an old view is refreshed by listing", func() {
			cl.pass(maxAge)
			wantReleased(t, l, c, true)
			wantReleased(t, l, c, true)
		}, map[string]int{"List": 1}},
		{"a view from the future is refreshed too", func() {
			cl.pass(-2 * maxAge)
			wantReleased(t, l, c, true)
		}, map[string]int{"List": 1}},
		{"an inventory is one read", func() { wantNoInventory(t, l, oci.FromBytes(nil)) }, map[string]int{"Reader": 1}},
	}
	for _, step := range steps {
		step.do()
		if diff := cmp.Diff(s.called(), step.want); diff != "" {
			t.Errorf("%s (-got +want):\n%s", step.name, diff)
		}
	}
}

func TestAskingForNamesAtRandomFillsNoMemory(t *testing.T) {
	s := inMemory()
	l := openLedger(t, s, &clock{})
	ask := func(n int) {
		for i := range n {
			_, _ = l.Released(t.Context(), candidate(oci.Repository{Path: fmt.Sprintf("random/name%d", i)}, "a"))
		}
	}
	ask(10)
	s.failing("List", errDisk)
	ask(10)
	if got := len(l.repositories); got != 0 {
		t.Errorf("got %d repositories in memory, want none", got)
	}
}

func TestMemoryIsBoundedByForgettingRepositories(t *testing.T) {
	c := &clock{}
	l := openLedger(t, inMemory(), c)
	l.limits.folded = 10
	const repositories, each = 8, 4
	at := func(i int) gate.Candidate { return candidate(oci.Repository{Path: fmt.Sprintf("apps/%d", i)}, "a") }
	for i := range repositories {
		for j := range each {
			record(t, l, admission(at(i), fmt.Sprint(j), fmt.Sprintf("blob %d", i)))
		}
	}
	for range 2 {
		for i := range repositories {
			wantReleased(t, l, at(i), true)
			wantHolders(t, l, at(i).Repository, fmt.Sprintf("blob %d", i), at(i))
			if l.folded > l.limits.folded {
				t.Errorf("%d records are indexed, want at most %d", l.folded, l.limits.folded)
			}
		}
	}
	t.Run("but never the one that is asked about", func(t *testing.T) {
		l.limits.folded = each - 1
		c.pass(maxAge) // or it is answered from memory, if it happens to be there, and nothing is forgotten
		wantReleased(t, l, at(0), true)
		if got := len(l.repositories); got != 1 || l.folded != each {
			t.Errorf("got %d repositories of %d records, want the one of %d", got, l.folded, each)
		}
	})
}

// TestAVerdictRecordedDuringAListingIsNotMissed stops a listing at the worst moment: when the storage has answered, and the fold does
// not hold the answer yet.
func TestAVerdictRecordedDuringAListingIsNotMissed(t *testing.T) {
	s := inMemory()
	old, c := candidate(nginx, "old"), candidate(nginx, "new")
	record(t, openLedger(t, s, &clock{}), admission(old, "k"))
	l := openLedger(t, s, &clock{})
	var once sync.Once
	s.before["Reader"] = func(context.Context) { once.Do(func() { record(t, l, admission(c, "k")) }) }
	wantReleased(t, l, old, true)
	s.called()
	wantReleased(t, l, c, true)
	if got := s.called(); len(got) != 0 {
		t.Errorf("got %v, want it answered from memory", got)
	}
}

// TestAVerdictThatIsAlsoListedIsHeldOnce has the writer of a verdict add it between the listing that found it and its being read.
func TestAVerdictThatIsAlsoListedIsHeldOnce(t *testing.T) {
	s := inMemory()
	c := candidate(nginx, "a")
	v := admission(c, "k", "blob")
	record(t, openLedger(t, s, &clock{}), v)
	l := openLedger(t, s, &clock{})
	name := path.Base(s.records(t, nginx)[0])
	var once sync.Once
	s.before["Reader"] = func(context.Context) { once.Do(func() { l.add(l.repositories[nginx], name, 1, v) }) }
	wantHistory(t, l, c, v)
	wantHolders(t, l, nginx, "blob", c)
	if got := l.folded; got != 1 {
		t.Errorf("got %d records counted, want 1", got)
	}
}

func TestAQuestionThatIsGivenUpLeavesTheFoldUsable(t *testing.T) {
	s := inMemory()
	c := candidate(nginx, "a")
	record(t, openLedger(t, s, &clock{}), admission(c, "k"), admission(c, "l"))
	l := openLedger(t, s, &clock{})
	ctx, cancel := context.WithCancel(t.Context())
	s.before["Reader"] = func(context.Context) { cancel() }
	if _, err := l.Released(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Released: got %v, want context.Canceled", err)
	}
	wantReleased(t, l, c, true)
}

func TestWaitersHonourTheirOwnContext(t *testing.T) {
	s := inMemory()
	c := candidate(nginx, "a")
	record(t, openLedger(t, s, &clock{}), admission(c, "k"))
	l := openLedger(t, s, &clock{})
	listing, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.before["List"] = func(context.Context) { once.Do(func() { close(listing); <-proceed }) }
	var first sync.WaitGroup
	first.Go(func() { wantReleased(t, l, c, true) })
	<-listing
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Released(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Released: got %v, want context.Canceled", err)
	}
	close(proceed)
	first.Wait()
}

func TestQuestionsThatWaitForEachOtherShareAListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inMemory()
		c := candidate(nginx, "a")
		record(t, openLedger(t, s, &clock{}), admission(c, "k"))
		s.called()
		l := openLedger(t, s, &clock{})
		proceed := make(chan struct{})
		s.before["List"] = func(context.Context) { <-proceed }
		var askers sync.WaitGroup
		for range 10 {
			askers.Go(func() { wantReleased(t, l, c, true) })
		}
		synctest.Wait() // one lists, nine wait
		close(proceed)
		askers.Wait()
		want := map[string]int{"List": 2, "Reader": 1} // the first may have begun before the others asked
		if diff := cmp.Diff(s.called(), want); diff != "" {
			t.Errorf("calls (-got +want):\n%s", diff)
		}
	})
}

// TestManyAtOnce lets writers and readers of two ledgers work on the same repositories; what matters besides the result is -race.
func TestManyAtOnce(t *testing.T) {
	s, cl := onDisk(t), &clock{}
	ledgers := []*Ledger{openLedger(t, s, cl), openLedger(t, s, cl)}
	ledgers[0].limits.folded = 20 // so that repositories are forgotten meanwhile
	const each = 20
	var writers sync.WaitGroup
	for i, l := range ledgers {
		for _, repo := range []oci.Repository{nginx, redis} {
			writers.Go(func() {
				for n := range each {
					c := candidate(repo, fmt.Sprintf("%d of %d", n, i))
					if err := l.RecordVerdict(t.Context(), admission(c, "k", "shared")); err != nil {
						t.Error(err)
					}
					wantVerdict(t, l, c, "k", admission(c, "k", "shared"))
					wantReleased(t, ledgers[1-i], c, true)
					if _, err := l.Holders(t.Context(), repo, oci.FromBytes([]byte("shared"))); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	writers.Wait()
	cl.pass(maxAge)
	for _, l := range append(ledgers, openLedger(t, s, cl)) {
		for _, repo := range []oci.Repository{nginx, redis} {
			got, err := l.Holders(t.Context(), repo, oci.FromBytes([]byte("shared")))
			if want := each * len(ledgers); len(got) != want || err != nil {
				t.Errorf("Holders: got %d, %v, want %d", len(got), err, want)
			}
		}
		if got := l.Stats(); got != (Stats{}) {
			t.Errorf("Stats: got %+v, want none", got)
		}
	}
}
