package ledger

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// life records one verdict a minute on c, each of them a letter: a an admission, b another one by another policy, d a denial, e a denial
// for another reason. They count for half an hour.
func life(t *testing.T, l *Ledger, cl *clock, c gate.Candidate, letters string) (said []gate.Verdict) {
	t.Helper()
	for i, letter := range letters {
		cl.pass(time.Minute)
		key := string(letter) + string(rune('0'+i))
		v := map[rune]gate.Verdict{'a': admission(c, key, "blob"), 'b': admission(c, key, "blob"), 'd': denial(c, key), 'e': denial(c, key)}[letter]
		if letter == 'b' {
			v.Policy = "staging"
		}
		if letter == 'e' {
			v.Reasons[0].Message = "not signed by release"
		}
		v.JudgedAt, v.Until = cl.now(), cl.now().Add(30*time.Minute)
		record(t, l, v)
		said = append(said, v)
	}
	return said
}

// told returns the history of c, oldest first, in the letters of [life] and the number of each.
func told(t *testing.T, l *Ledger, c gate.Candidate, said []gate.Verdict) (letters string) {
	t.Helper()
	history, err := l.History(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range slices.Backward(history) {
		i := slices.IndexFunc(said, func(s gate.Verdict) bool { return s.Key == v.Key })
		if i < 0 || !cmp.Equal(said[i], v) {
			t.Fatalf("the history has a verdict that was not recorded: %+v", v)
		}
		letters += v.PolicyRevision[:1]
	}
	return letters
}

func TestThin(t *testing.T) {
	for law, test := range map[string]struct{ recorded, want string }{
		"keeps the first of those that say the same, and the newest": {"aaaaa", "aa"},
		"keeps every change":                        {"adaead", "adaead"},
		"removes repetitions between changes":       {"aaadddaaaeeed", "adaed"},
		"keeps the newest, though it is repeated":   {"aad", "ad"},
		"tells apart by which policy it is said":    {"abba", "aba"},
		"tells denials apart by their reasons":      {"ddeedd", "dedd"},
		"keeps a single verdict":                    {"d", "d"},
		"keeps two":                                 {"dd", "dd"},
		"removes those of one that is asked often":  {"dddddddddddddddddddddddddd", "dd"},
		"keeps that it was admitted once, long ago": {"adddddddd", "add"},
	} {
		t.Run(law, func(t *testing.T) {
			s, cl := inMemory(), &clock{}
			l := openLedger(t, s, cl)
			c, other := candidate(nginx, "a"), candidate(nginx, "b")
			said := life(t, l, cl, c, test.recorded)
			life(t, l, cl, other, "d")
			replica := openLedger(t, s, cl)
			if got := told(t, replica, c, said); got != test.recorded {
				t.Fatalf("before: got %s", got)
			}
			admitted, err := l.Released(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			cl.pass(24 * time.Hour)
			removed, err := l.Thin(t.Context(), cl.now().Add(-time.Hour))
			if want := len(test.recorded) - len(test.want); removed != want || err != nil {
				t.Errorf("Thin: got %d, %v, want %d", removed, err, want)
			}
			for where, l := range map[string]*Ledger{"here": l, "after a restart": openLedger(t, s, cl), "on a replica": replica} {
				if got := told(t, l, c, said); got != test.want {
					t.Errorf("%s: got %s, want %s", where, got, test.want)
				}
				wantReleased(t, l, c, admitted)
				if admitted {
					wantHolders(t, l, nginx, "blob", c)
				}
				standings, err := l.Standings(t.Context(), nginx)
				if err != nil || len(standings) != 2 {
					t.Errorf("%s: Standings: got %d, %v, want both candidates", where, len(standings), err)
				}
			}
			if again, err := replica.Thin(t.Context(), cl.now().Add(-time.Hour)); err != nil {
				t.Errorf("Thin by a replica that has them in memory: got %d, %v", again, err)
			}
			if got := told(t, openLedger(t, s, cl), c, said); got != test.want {
				t.Errorf("after a replica thinned out too: got %s, want %s", got, test.want)
			}
		})
	}
}

func TestThinKeepsWhatCountsOrIsYoung(t *testing.T) {
	s, cl := inMemory(), &clock{}
	l := openLedger(t, s, cl)
	c := candidate(nginx, "a")
	said := life(t, l, cl, c, "aaaaaa")
	for law, before := range map[string]time.Time{
		"all are younger": epoch,
		"all count":       cl.now(),
	} {
		if removed, err := l.Thin(t.Context(), before); removed != 0 || err != nil {
			t.Errorf("%s: got %d, %v, want none removed", law, removed, err)
		}
	}
	cl.pass(27 * time.Minute) // the first three have lapsed
	if removed, err := l.Thin(t.Context(), cl.now()); removed != 2 || err != nil {
		t.Errorf("of the three that lapsed: got %d, %v, want all but the first removed", removed, err)
	}
	wantVerdict(t, l, c, "a3", said[3])
	wantNoVerdict(t, l, c, "a1")
}

// TestThinCutOff has the work end at each removal, by a failure of the storage or because nobody wants it any more.
func TestThinCutOff(t *testing.T) {
	const recorded, want = "aaadddaaaeeed", "adaed"
	for cut := range len(recorded) - len(want) {
		s, cl := inMemory(), &clock{}
		l := openLedger(t, s, cl)
		c := candidate(nginx, "a")
		said := life(t, l, cl, c, recorded)
		cl.pass(24 * time.Hour)
		deletes := 0
		broken := &deleting{storage: s, before: func() error {
			if deletes++; deletes > cut {
				return errDisk
			}
			return nil
		}}
		dying := New(broken, testKey(t, "one"), l.log, cl.now)
		if removed, err := dying.Thin(t.Context(), cl.now()); removed != cut || !errors.Is(err, errDisk) {
			t.Fatalf("cut %d: got %d, %v, want as many removed and the driver's error", cut, removed, err)
		}
		next := openLedger(t, s, cl)
		if got := changes(told(t, next, c, said)); got != changes(recorded) {
			t.Errorf("cut %d: the history of changes is %s, want %s", cut, got, changes(recorded))
		}
		if _, err := next.Thin(t.Context(), cl.now()); err != nil {
			t.Fatal(err)
		}
		if got := told(t, next, c, said); got != want {
			t.Errorf("cut %d, completed: got %s, want %s", cut, got, want)
		}
	}
}

// changes leaves out of letters each that repeats the one before it.
func changes(letters string) (s string) {
	for i, letter := range letters {
		if i == 0 || letters[i-1] != byte(letter) {
			s += string(letter)
		}
	}
	return s
}

// deleting is a storage that asks before it deletes.
type deleting struct {
	*storage
	before func() error
}

func (d *deleting) Delete(ctx context.Context, path string) error {
	if err := d.before(); err != nil {
		return err
	}
	return d.storage.Delete(ctx, path)
}

func TestThinForgetsWhatItRemoved(t *testing.T) {
	s, cl := inMemory(), &clock{}
	l := openLedger(t, s, cl)
	c := candidate(nginx, "a")
	life(t, l, cl, c, "dddddddddd")
	wantReleased(t, l, c, false)
	cl.pass(24 * time.Hour)
	if _, err := l.Thin(t.Context(), cl.now()); err != nil {
		t.Fatal(err)
	}
	if l.folded != 2 {
		t.Errorf("%d records are counted as indexed, want 2", l.folded)
	}
	life(t, l, cl, c, "a")
	wantReleased(t, l, c, true)
}
