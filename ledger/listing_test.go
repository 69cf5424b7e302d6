package ledger

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestListingHasIndexesThatWereNeverAdmitted(t *testing.T) {
	s, c := inMemory(), &clock{}
	l := openLedger(t, s, c)
	child := candidate(nginx, "child")
	listed := func(v gate.Verdict) gate.Verdict {
		v.Children = []oci.Digest{child.Digest}
		return v
	}
	denied, admitted := candidate(nginx, "denied"), candidate(nginx, "admitted")
	for _, v := range []gate.Verdict{listed(denial(denied, "k")), listed(admission(admitted, "k")), listed(denial(admitted, "later"))} {
		c.pass(time.Hour)
		record(t, l, v)
	}
	for when, asked := range map[string]*Ledger{"at once": l, "after a restart": openLedger(t, s, c)} {
		got, err := asked.Listing(t.Context(), child)
		if diff := cmp.Diff(got, []gate.Candidate{admitted, denied}); err != nil || diff != "" {
			t.Errorf("%s: %v, got -, want +:\n%s", when, err, diff)
		}
		got, err = asked.Parents(t.Context(), child)
		if diff := cmp.Diff(got, []gate.Candidate{admitted}); err != nil || diff != "" {
			t.Errorf("%s, the parents: %v, got -, want +:\n%s", when, err, diff)
		}
	}
}
