package ledger

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

func TestNewest(t *testing.T) {
	s, c := inMemory(), &clock{}
	l := openLedger(t, s, c)
	image := candidate(nginx, "image")
	if v, ok, err := l.Newest(t.Context(), image); ok || err != nil {
		t.Errorf("before any: %+v, %v", v, err)
	}
	var want gate.Verdict
	for _, v := range []gate.Verdict{admission(image, "then"), denial(image, "now")} {
		c.pass(time.Hour)
		record(t, l, v)
		want = v
	}
	then := admission(image, "then").JudgedAt
	c.pass(1000 * time.Hour)
	for when, asked := range map[string]*Ledger{"at once": l, "after a restart": openLedger(t, s, c)} {
		got, ok, err := asked.Newest(t.Context(), image)
		if diff := cmp.Diff(got, want); !ok || err != nil || diff != "" {
			t.Errorf("%s: %t, %v (-got +want):\n%s", when, ok, err, diff)
		}
		if first, ok, err := asked.FirstJudged(t.Context(), image); !first.Equal(then) || !ok || err != nil {
			t.Errorf("%s: first judged %s, %t, %v, want %s", when, first, ok, err, then)
		}
		if first, ok, err := asked.FirstJudged(t.Context(), candidate(nginx, "another")); ok || err != nil {
			t.Errorf("%s: another: first judged %s, %v", when, first, err)
		}
	}
}
