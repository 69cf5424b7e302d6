package hosted

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// hesitant is a journal that lets others do something, once, right before it records an event of that kind.
type hesitant struct {
	Journal
	at     Kind
	others func()
}

func (h *hesitant) Append(ctx context.Context, repo oci.Repository, e Event) (string, error) {
	if do := h.others; do != nil && e.Kind == h.at {
		h.others = nil
		do()
	}
	return h.Journal.Append(ctx, repo, e)
}

// TestOneTagIsNeverPromisedTwice has two replicas push different images under a tag that must not move, one in the middle of the other,
// whichever of their clocks is ahead.
func TestOneTagIsNeverPromisedTwice(t *testing.T) {
	for _, tt := range []struct {
		law    string
		at     Kind // what the first is about to record when the second pushes
		second oci.Code
		first  oci.Code
	}{
		{"before the first has claimed it, the second has it", Claimed, "", oci.CodeDenied},
		{"once the first has claimed it, the first has it", Pushed, oci.CodeUnavailable, ""},
	} {
		for _, ahead := range []bool{false, true} {
			t.Run(tt.law, func(t *testing.T) {
				s, c := newStorage(), &clock{}
				immutable := rule(t, Immutable, "apps/**")
				skew := 3 * claimLapse
				if ahead {
					skew = -skew
				}
				second := startSkewed(t, s, c, skew, immutable)
				images := []oci.Content{second.image(t, "one"), second.image(t, "two")}
				journal := &hesitant{Journal: &replica{storage: s}, at: tt.at}
				first, err := New(Options{
					Rules: []Rule{immutable}, Journal: journal, Bytes: s, Now: c.now, Log: slog.New(slog.DiscardHandler), Judge: func(gate.Candidate) {},
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(first.Close)
				journal.others = func() {
					_, err := second.Put(t.Context(), web, Reference{Tag: "v1"}, images[1], "user:ci")
					if got := code(err); got != tt.second {
						t.Errorf("the second: got %v, want code %q", err, tt.second)
					}
				}
				_, err = first.Put(t.Context(), web, Reference{Tag: "v1"}, images[0], "user:ci")
				if got := code(err); got != tt.first {
					t.Errorf("the first: got %v, want code %q", err, tt.first)
				}
				want := images[slices.Index([]oci.Code{tt.first, tt.second}, "")].Digest
				for _, w := range []*world{second, start(t, s, c, immutable)} {
					c.pass(maxAge)
					w.wantTag(t, "v1", want, "")
				}
			})
		}
	}
}

// TestAClaimLapses: one that a process has left behind keeps nobody from pushing for long.
func TestAClaimLapses(t *testing.T) {
	s, c := newStorage(), &clock{}
	immutable := rule(t, Immutable, "apps/**")
	abandoned := Event{At: c.now(), By: "user:ci", Kind: Claimed, Tag: "v1", Descriptor: oci.Descriptor{Digest: digestOf(1)}, Claim: "abandoned"}
	if _, err := (&replica{storage: s}).Append(t.Context(), web, abandoned); err != nil {
		t.Fatal(err)
	}
	w := start(t, s, c, immutable)
	one := w.image(t, "one")
	put := func(tag string) oci.Code {
		_, err := w.Put(t.Context(), web, Reference{Tag: tag}, one, "user:ci")
		return code(err)
	}
	if got := put("v1"); got != oci.CodeUnavailable {
		t.Errorf("at once: got %q, want it told to come back", got)
	}
	if got := put("v2"); got != "" {
		t.Errorf("another tag: got %q, want it pushed", got)
	}
	c.pass(claimLapse)
	if got := put("v1"); got != "" {
		t.Errorf("later: got %q, want it pushed", got)
	}
	w.wantTag(t, "v1", one.Digest, "")
}
