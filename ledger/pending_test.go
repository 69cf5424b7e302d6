package ledger

import (
	"errors"
	"path"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// wantPending fails unless what is kept in l says want, oldest first. It returns the names.
func wantPending(t *testing.T, l *Ledger, want ...string) []string {
	t.Helper()
	names, notes, err := NewPending[note](l, "letters").Kept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range notes {
		got = append(got, n.Text)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("kept (-got +want):\n%s", diff)
	}
	return names
}

func keep(t *testing.T, l *Ledger, text string) string {
	t.Helper()
	name, err := NewPending[note](l, "letters").Keep(t.Context(), note{text})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPendingRecordsStayUntilTheyAreForgotten(t *testing.T) {
	for driver, s := range map[string]*storage{"in memory": inMemory(), "on disk": onDisk(t)} {
		t.Run(driver, func(t *testing.T) {
			l := openLedger(t, s, &clock{})
			wantPending(t, l)
			first := keep(t, l, "a")
			for _, text := range []string{"b", "c"} {
				keep(t, l, text)
			}
			l = openLedger(t, s, &clock{}) // after a restart
			names := wantPending(t, l, "a", "b", "c")
			if names[0] != first {
				t.Errorf("its name is %s, and was %s", names[0], first)
			}
			pending := NewPending[note](l, "letters")
			for range 2 { // twice is as good
				if err := pending.Forget(t.Context(), names[1]); err != nil {
					t.Fatal(err)
				}
			}
			wantPending(t, l, "a", "c")
			keep(t, l, "d")
			wantPending(t, openLedger(t, s, &clock{}), "a", "c", "d")
		})
	}
}

func TestPendingRecordsThatAreNotOursAreNotBelieved(t *testing.T) {
	s := inMemory()
	l := openLedger(t, s, &clock{})
	dir := NewPending[note](l, "letters").dir()
	for _, text := range []string{"good", "altered", "moved"} {
		keep(t, l, text)
	}
	names := wantPending(t, l, "good", "altered", "moved")
	content := s.get(t, path.Join(dir, names[1]))
	content[len(content)/2] ^= 1
	s.put(t, path.Join(dir, names[1]), content)
	move(t, s, path.Join(dir, names[2]), path.Join(dir, recordName(epoch.UnixNano()+1<<40, nil)))
	s.put(t, path.Join(dir, "nonsense"), []byte("x"))
	place(t, l, s, dir, recordName(epoch.UnixNano()+1<<41, nil), note{})
	wantPending(t, l, "good")
	if got, want := l.Stats(), (Stats{BrokenEvents: 4}); got != want {
		t.Errorf("Stats: got %+v, want %+v", got, want)
	}
}

func TestPendingRecordsThatCannotBeReadAreAFailure(t *testing.T) {
	s := inMemory()
	l := openLedger(t, s, &clock{})
	pending := NewPending[note](l, "letters")
	keep(t, l, "a")
	for _, method := range []string{"List", "Reader"} {
		s.failing(method, errDisk)
		if _, _, err := pending.Kept(t.Context()); !errors.Is(err, errDisk) {
			t.Errorf("%s fails: got %v", method, err)
		}
		s.failing(method, nil)
	}
	s.failing("PutContent", errDisk)
	if _, err := pending.Keep(t.Context(), note{"b"}); !errors.Is(err, errDisk) {
		t.Errorf("PutContent fails: got %v", err)
	}
	if _, err := pending.Keep(t.Context(), note{}); err == nil {
		t.Error("what says nothing was kept")
	}
	for _, name := range []string{"", "..", "../../verdicts", "nonsense"} {
		if err := pending.Forget(t.Context(), name); !errors.Is(err, errBroken) {
			t.Errorf("forgetting %q: got %v", name, err)
		}
	}
}
