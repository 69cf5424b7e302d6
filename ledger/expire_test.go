package ledger

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestALogForgetsWholeDays(t *testing.T) {
	s, c := inMemory(), &clock{}
	log := NewLog[note](openLedger(t, s, c), "notes")
	for _, text := range []string{"first", "second", "third"} {
		if _, err := log.Append(t.Context(), nginx, note{text}); err != nil {
			t.Fatal(err)
		}
		c.pass(24 * time.Hour)
	}
	texts := func() []string {
		var all []string
		for _, text := range notes(t, log, nginx) {
			all = append(all, text)
		}
		return all
	}
	for _, tt := range []struct {
		before time.Time
		want   int
	}{{c.now().Add(-96 * time.Hour), 3}, {c.now().Add(-48 * time.Hour), 2}, {c.now().Add(-48 * time.Hour), 2}, {c.now().Add(24 * time.Hour), 0}} {
		if err := log.Expire(t.Context(), nginx, tt.before); err != nil {
			t.Fatal(err)
		}
		if got := texts(); len(got) != tt.want {
			t.Errorf("before %s: %q is left, want %d", tt.before, got, tt.want)
		}
	}
	again := notes(t, NewLog[note](openLedger(t, s, c), "notes"), nginx)
	if diff := cmp.Diff(again, map[string]string{}); diff != "" {
		t.Errorf("after a restart (-got +want):\n%s", diff)
	}
}
