package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/audit"
)

// opened is a log that is being written.
func (f *file) opened(t testing.TB) *audit.Log {
	t.Helper()
	l, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// callers returns what the callers of entries are called.
func callers(entries []audit.Entry) (names []string) {
	for _, e := range entries {
		names = append(names, e.Caller)
	}
	return names
}

func record(t testing.TB, l *audit.Log, n int, e audit.Event) {
	t.Helper()
	for i := range n {
		e.Caller = strconv.Itoa(i)
		if err := l.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRecent(t *testing.T) {
	l := newFile(t).opened(t)
	record(t, l, 10, audit.Event{Event: "access.refused"})
	record(t, l, 2, audit.Event{Event: "waiver.granted"})
	for _, tt := range []struct {
		law   string
		query audit.Query
		want  []string
		more  bool
	}{
		{"the newest comes first", audit.Query{N: 3}, []string{"1", "0", "9"}, true},
		{"all there are, the line of opening too", audit.Query{N: 500}, []string{"1", "0", "9", "8", "7", "6", "5", "4", "3", "2", "1", "0", ""}, false},
		{"those that are wanted", audit.Query{N: 2, Wanted: func(e audit.Event) bool { return e.Event == "access.refused" }}, []string{"9", "8"}, true},
		{"none that is wanted", audit.Query{N: 2, Wanted: func(audit.Event) bool { return false }}, nil, false},
	} {
		page, err := l.Recent(t.Context(), tt.query)
		if err != nil || page.Broken != "" || page.Entries == nil || (page.Next != "") != tt.more {
			t.Fatalf("%s: got %+v, %v", tt.law, page, err)
		}
		if diff := cmp.Diff(callers(page.Entries), tt.want); diff != "" {
			t.Errorf("%s (-got +want):\n%s", tt.law, diff)
		}
	}
	t.Run("an entry says what its line says", func(t *testing.T) {
		page, err := l.Recent(t.Context(), audit.Query{N: 1})
		if err != nil {
			t.Fatal(err)
		}
		got := page.Entries[0]
		if len(got.Hash) != 64 {
			t.Errorf("hash: got %q", got.Hash)
		}
		got.Hash = ""
		if diff := cmp.Diff(got, audit.Entry{Sequence: 13, Time: now(), Event: audit.Event{Event: "waiver.granted", Caller: "1"}}); diff != "" {
			t.Errorf("-got +want:\n%s", diff)
		}
	})
	t.Run("what is written is verified", func(t *testing.T) {
		report, err := l.Verify(t.Context())
		if err != nil || !report.Whole || report.Records != 13 {
			t.Errorf("got %+v, %v", report, err)
		}
	})
	t.Run("whoever does not wait gets nothing", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.Recent(ctx, audit.Query{N: 1}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestPagesOfTheLogAreTheLog(t *testing.T) {
	for law, tt := range map[string]struct {
		reason string
		n      int
	}{
		"one at a time":                    {"", 1},
		"some":                             {"", 7},
		"lines of which few fit a chunk":   {strings.Repeat("\x01", 10_000), 3},
		"lines of which many fill a chunk": {strings.Repeat("x", 900), 500},
	} {
		t.Run(law, func(t *testing.T) {
			f := newFile(t)
			l := f.opened(t)
			record(t, l, 40, audit.Event{Event: "access.allowed", Reason: tt.reason, Tag: tt.reason, Digest: tt.reason, Repository: tt.reason})
			var sequences []uint64
			for q, pages := (audit.Query{N: tt.n}), 0; ; pages++ {
				page, err := l.Recent(t.Context(), q)
				if err != nil || page.Broken != "" || pages > 50 {
					t.Fatalf("got %q, %v", page.Broken, err)
				}
				for _, e := range page.Entries {
					sequences = append(sequences, e.Sequence)
				}
				if q.Before = page.Next; q.Before == "" {
					break
				}
			}
			for i, s := range sequences {
				if s != uint64(41-i) {
					t.Fatalf("got %d", sequences)
				}
			}
			if len(sequences) != 41 {
				t.Errorf("got %d of 41", len(sequences))
			}
		})
	}
}

func TestAPageIsOfOneLookAtTheFile(t *testing.T) {
	l := newFile(t).opened(t)
	long := strings.Repeat("\x01", 1024)
	record(t, l, 200, audit.Event{Event: "access.allowed", Reason: long, Tag: long, Digest: long, Repository: long, Action: long, Address: long, Inputs: long})
	page, err := l.Recent(t.Context(), audit.Query{N: 1, Wanted: func(e audit.Event) bool { return e.Event == "audit.begun" }})
	if err != nil || len(page.Entries) != 0 || page.Next == "" {
		t.Fatalf("got %d entries, next %q, %v", len(page.Entries), page.Next, err)
	}
	page, err = l.Recent(t.Context(), audit.Query{N: 1, Before: page.Next})
	if err != nil || len(page.Entries) != 1 {
		t.Errorf("the next page: got %+v, %v", page, err)
	}
}

func TestPositionsThatAreNone(t *testing.T) {
	l := newFile(t).opened(t)
	record(t, l, 3, audit.Event{Event: "access.allowed"})
	for _, before := range []string{"x", "0", "-1", "1", "17", "99999", "9223372036854775808"} {
		if page, err := l.Recent(t.Context(), audit.Query{N: 1, Before: before}); !errors.Is(err, audit.ErrPosition) {
			t.Errorf("%s: got %+v, %v", before, page, err)
		}
	}
}

func TestRecentSeesTampering(t *testing.T) {
	for law, tt := range map[string]struct {
		change  func(content []byte) []byte
		entries int
	}{
		"a changed line":    {func(c []byte) []byte { return bytes.Replace(c, []byte(`"caller":"2"`), []byte(`"caller":"7"`), 1) }, 2},
		"a changed end":     {func(c []byte) []byte { return bytes.Replace(c, []byte(`"caller":"4"`), []byte(`"caller":"7"`), 1) }, 0},
		"zeros for a line":  {func(c []byte) []byte { return append(make([]byte, len(c)/2), c[len(c)/2:]...) }, 2},
		"a file of nothing": {func([]byte) []byte { return nil }, 0},
	} {
		f := newFile(t)
		l := f.opened(t)
		record(t, l, 5, audit.Event{Event: "access.allowed"})
		f.put(t, tt.change(f.content(t)))
		page, err := l.Recent(t.Context(), audit.Query{N: 100})
		if err != nil || page.Broken == "" || page.Next != "" || len(page.Entries) != tt.entries {
			t.Errorf("%s: got %+v, %v", law, page, err)
		}
	}
	t.Run("a head that is none", func(t *testing.T) {
		f := newFile(t)
		l := f.opened(t)
		f.putHead(t, []byte("x"))
		if page, err := l.Recent(t.Context(), audit.Query{N: 100}); err != nil || page.Broken == "" {
			t.Errorf("got %+v, %v", page, err)
		}
	})
}

func TestRecentPassesOverWhatIsTorn(t *testing.T) {
	for _, torn := range []string{`{"seq":5,"time":"2026`, strings.Repeat("x", 600<<10), "x\ny\n\n"} {
		f := newFile(t)
		f.crash(t, 3)
		f.put(t, append(f.content(t), torn...))
		page, err := f.opened(t).Recent(t.Context(), audit.Query{N: 100})
		if err != nil || page.Broken != "" || len(page.Entries) != 6 {
			t.Errorf("%.20q: got %s, %v", torn, fmt.Sprintf("%+v", page), err)
		}
	}
}

func TestWithoutAFileThereIsNothingToLookAt(t *testing.T) {
	l, err := audit.Open(audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Recent(t.Context(), audit.Query{N: 1}); !errors.Is(err, audit.ErrNoFile) {
		t.Errorf("got %v", err)
	}
	if _, err := l.Verify(t.Context()); !errors.Is(err, audit.ErrNoFile) {
		t.Errorf("got %v", err)
	}
}
