package signing

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// An object is read in one way or not at all.
func TestMembers(t *testing.T) {
	for name, tc := range map[string]struct {
		raw  string
		want map[string]string // nil when it is refused
	}{
		"empty":                      {`{}`, map[string]string{}},
		"values as written":          {` {"a": 1.0 ,"b":{"c" : [1,2]},"c":null}` + "\n", map[string]string{"a": "1.0", "b": `{"c" : [1,2]}`, "c": "null"}},
		"unknown keys by case":       {`{"x":1,"X":2}`, map[string]string{"x": "1", "X": "2"}},
		"repeated inside a value":    {`{"a":{"b":1,"b":2}}`, map[string]string{"a": `{"b":1,"b":2}`}},
		"repeated":                   {`{"a":1,"a":1}`, nil},
		"repeated by an escape":      {`{"a":1,"\u0061":1}`, nil},
		"known by case":              {`{"A":1}`, nil},
		"known by an escape of case": {`{"\u0041":1}`, nil},
		"known by Unicode folding":   {`{"ſubject":1}`, nil},
		"cut short":                  {`{"a":1`, nil},
		"no value":                   {`{"a"}`, nil},
		"trailing comma":             {`{"a":1,}`, nil},
		"followed by an object":      {`{}{}`, nil},
		"followed by a bracket":      {`{}]`, nil},
		"followed by a zero byte":    {"{}\x00", nil},
		"after a byte order mark":    {"\ufeff{}", nil},
		"a list":                     {`[{}]`, nil},
		"null":                       {`null`, nil},
		"nothing":                    {``, nil},
		"deeper than is parsed":      {`{"a":` + strings.Repeat("[", 20000), nil},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := members([]byte(tc.raw), "a", "subject")
			if tc.want == nil {
				if err == nil {
					t.Errorf("got %v, want an error", found)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for k, v := range found {
				got[k] = string(v)
			}
			if diff := cmp.Diff(got, tc.want); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A signature counts only if the library found the predicate in the statement that we found.
func TestTwoReaders(t *testing.T) {
	s, k, genuine := genuineBundle(t)
	c, err := bundled{}.read(s, offer{}, genuine)
	if err != nil || !k.signed(c) {
		t.Fatalf("the genuine bundle does not count: %v", err)
	}
	c.predicateType = "https://spdx.dev/Document"
	if k.signed(c) {
		t.Error("it counts although the library reads another predicate")
	}
}

func TestText(t *testing.T) {
	for raw, want := range map[string]string{`"a"`: "a", `"\u00e9"`: "é", `""`: ""} {
		if got, err := text([]byte(raw)); err != nil || got != want {
			t.Errorf("text(%s): got %q, %v, want %q", raw, got, err, want)
		}
	}
	for _, raw := range []string{``, `null`, `1`, `["a"]`, `{"a":"a"}`, `"a`, `true`} {
		if got, err := text([]byte(raw)); err == nil {
			t.Errorf("text(%s): got %q, want an error", raw, got)
		}
	}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"as it is — é":              "as it is — é",
		"two\nlines\tand\u00a0more": "two lines and more",
		"\x1b[31mred\u202e":         "?[31mred?",
		"bad \xff byte":             "bad ? byte",
	} {
		if got := plain(in); got != want {
			t.Errorf("plain(%q): got %q, want %q", in, got, want)
		}
	}
	for _, long := range []string{strings.Repeat("x", 1<<20), strings.Repeat("é", 1<<20), strings.Repeat("x", 239) + strings.Repeat("世", 99)} {
		if got := plain(long); len(got) > maxWhyBytes+len("…") || !utf8.ValidString(got) || !strings.HasSuffix(got, "…") {
			t.Errorf("plain of %d bytes: got %d bytes %q", len(long), len(got), got)
		}
	}
}

func TestBudget(t *testing.T) {
	left := budget(10)
	for _, tc := range []struct {
		n    int64
		want bool
	}{{-1, false}, {11, false}, {4, true}, {7, false}, {6, true}, {0, true}, {1, false}} {
		if got := left.take(tc.n); got != tc.want {
			t.Errorf("take(%d): got %v, want %v", tc.n, got, tc.want)
		}
	}
}

// Everything is done, never more than a few at once, and the first error is the one returned.
func TestEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most, done atomic.Int32
		wait := make(chan struct{})
		result := make(chan error)
		go func() {
			result <- each(t.Context(), 20, func(context.Context, int) error {
				if n := running.Add(1); n > most.Load() {
					most.Store(n)
				}
				<-wait
				running.Add(-1)
				done.Add(1)
				return nil
			})
		}()
		synctest.Wait()
		if got := running.Load(); got != fetchers {
			t.Errorf("got %d at once, want %d", got, fetchers)
		}
		close(wait)
		if err := <-result; err != nil || done.Load() != 20 || most.Load() > fetchers {
			t.Errorf("got %v, %d done, %d at once; want 20 done, %d at once", err, done.Load(), most.Load(), fetchers)
		}
	})
	first := errors.New("first")
	var calls atomic.Int32
	err := each(t.Context(), 1000, func(ctx context.Context, i int) error {
		calls.Add(1)
		if i == 0 {
			return first
		}
		<-ctx.Done() // stopped by the first
		return ctx.Err()
	})
	if !errors.Is(err, first) || calls.Load() > fetchers+1 {
		t.Errorf("got %v after %d calls, want the first error after about %d", err, calls.Load(), fetchers)
	}
	if err := each(t.Context(), 0, nil); err != nil {
		t.Errorf("nothing to do: got %v", err)
	}
}
