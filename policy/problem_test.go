package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestProblemsError(t *testing.T) {
	t.Run("gives what is known of the place", func(t *testing.T) {
		p := &Problems{List: []Problem{
			{File: "a.yaml", Line: 12, Column: 5, Message: "wrong"},
			{File: "a.yaml", Line: 12, Message: "wrong"},
			{File: "a.yaml", Message: "wrong"},
		}}
		if diff := cmp.Diff("a.yaml:12:5: wrong\na.yaml:12: wrong\na.yaml: wrong", p.Error()); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
	t.Run("is bounded, the list is not", func(t *testing.T) {
		_, err := Parse("p", []byte("policies:\n"+strings.Repeat("- 1\n", maxLines+3)), testNow)
		p, ok := errors.AsType[*Problems](err)
		if !ok || len(p.List) != maxLines+3 {
			t.Fatalf("got %v, want %d problems", err, maxLines+3)
		}
		if lines := strings.Split(p.Error(), "\n"); len(lines) != maxLines+1 || lines[maxLines] != "and 3 more problems" {
			t.Errorf("got %d lines, the last %q", len(lines), lines[len(lines)-1])
		}
	})
	t.Run("bounds what it quotes", func(t *testing.T) {
		_, err := Parse("p", []byte(`policies: [{name: p, match: {repositories: ["`+strings.Repeat("É", 1000)+`"]}}]`), testNow)
		if got := problemsOf(t, err); len(got) > maxMessageBytes+100 || !strings.HasSuffix(got, "…\n") {
			t.Errorf("got %d bytes, ending in %q", len(got), got[len(got)-20:])
		}
	})
}
