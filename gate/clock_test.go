package gate_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// TestClocksThatAreSet has the clock jump between judgings of the same image by the same inputs.
func TestClocksThatAreSet(t *testing.T) {
	const day = 24 * time.Hour
	const deny, allow = gate.Deny, gate.Allow
	for law, tt := range map[string]struct {
		prepare func(w *world, c gate.Candidate)
		// jumps are how far the clock is set each time, and want what is decided then, the first before any.
		jumps []time.Duration
		want  []gate.Decision
		made  int // judgings
	}{
		"who came of age by a clock that ran ahead is as young as before": {
			func(w *world, _ gate.Candidate) { w.set.Policies[0].MinAge = day }, []time.Duration{day, -day}, []gate.Decision{deny, allow, deny}, 3,
		},
		"a waiver that lapsed by a clock that ran ahead counts again": {func(w *world, c gate.Candidate) {
			w.set.Policies[0].MinAge = 30 * day
			w.set.Waivers = []gate.Waiver{{Rule: gate.RuleMinAge, Digest: c.Digest, Until: noon.Add(time.Hour)}}
		}, []time.Duration{day, -day}, []gate.Decision{allow, deny, allow}, 3},
		"a verdict does not lapse when the clock is set back by a little": {
			func(*world, gate.Candidate) {}, []time.Duration{-30 * time.Second}, []gate.Decision{allow, allow}, 1,
		},
		"one of a time to come is made again":   {func(*world, gate.Candidate) {}, []time.Duration{-day, 0}, []gate.Decision{allow, allow, allow}, 2},
		"one that was made lapses by the clock": {func(*world, gate.Candidate) {}, []time.Duration{day}, []gate.Decision{allow, allow}, 2},
		"who was young by a clock that ran behind is of age by the right one": {
			func(w *world, _ gate.Candidate) { w.set.Policies[0].MinAge = day }, []time.Duration{-day, day, day}, []gate.Decision{deny, deny, deny, allow}, 4,
		},
	} {
		t.Run(law, func(t *testing.T) {
			w := newWorld(t)
			c := w.image(w.blob(gzipLayer, "layer"))
			w.set.Policies[0].OnFail = gate.Block // nothing is examined in the background
			tt.prepare(w, c)
			g := w.gateWith(func(o *gate.Options) { o.Sightings = seen{w, map[gate.Candidate]time.Time{}} })
			var got []gate.Decision
			for _, jump := range append([]time.Duration{0}, tt.jumps...) {
				w.advance(jump)
				v, err := g.Judge(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, v.Decision)
			}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("decisions (-got +want):\n%s", diff)
			}
			if made := w.count("record verdict"); made != tt.made {
				t.Errorf("%d judgings, want %d", made, tt.made)
			}
		})
	}
}
