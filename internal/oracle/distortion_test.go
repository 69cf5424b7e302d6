package oracle

import (
	"slices"
	"testing"
)

// distortions are ways in which a matcher of ours could be wrong, each of one finding. They report whether they change it.
var distortions = map[string]func(f *finding) bool{
	"unrated":       func(f *finding) bool { return replace(&f.severity, unrated) },
	"rated lowest":  func(f *finding) bool { return replace(&f.severity, "low") },
	"rated highest": func(f *finding) bool { return replace(&f.severity, "critical") },
	"without its fix": func(f *finding) bool {
		f.status = "affected"
		return replace(&f.fixed, "")
	},
	"with a later fix": func(f *finding) bool {
		f.status = "fixed"
		return replace(&f.fixed, "99:99.99.99")
	},
	"of another status":  func(f *finding) bool { return f.fixed == "" && replace(&f.status, "end_of_life") },
	"without a status":   func(f *finding) bool { return f.fixed == "" && replace(&f.status, "affected") },
	"in another version": func(f *finding) bool { return replace(&f.version, "0") },
}

func replace(field *string, with string) (changed bool) {
	changed = *field != with
	*field = with
	return changed
}

// sampled is of how many findings one is distorted.
const sampled = 20

// TestEveryDistortionIsNoticed fails when a finding of ours could be another one, or missing, and the comparison would excuse it. What
// the oracle itself says is no distortion.
func TestEveryDistortionIsNoticed(t *testing.T) {
	noticed := map[string]int{}
	for _, about := range newCase(seed).match(t) {
		for i := 0; i < len(about); i += sampled {
			c := about[i]
			if len(c.ours) == 0 {
				continue
			}
			for name, distort := range distortions {
				if distorted, ok := c.with(distort); ok {
					expectNoticed(t, name, distorted, noticed)
				}
			}
			if len(c.oracle) > 0 {
				c.ours = nil
				expectNoticed(t, "missing", c, noticed)
			}
		}
	}
	t.Logf("noticed: %v", noticed)
	for name := range distortions {
		if noticed[name] == 0 {
			t.Errorf("nothing was %s", name)
		}
	}
}

// with returns c with our finding distorted. ok is false where that makes it what the oracle says, or what it was.
func (c comparison) with(distort func(f *finding) bool) (distorted comparison, ok bool) {
	f := c.ours[0]
	if !distort(&f) {
		return comparison{}, false
	}
	distorted = c
	distorted.ours = []finding{f}
	changed := comparison{oracle: c.ours, ours: distorted.ours, installed: c.installed}.differing()
	return distorted, slices.ContainsFunc(distorted.differing(), func(a aspect) bool { return a == presence || slices.Contains(changed, a) })
}

func expectNoticed(t *testing.T, name string, c comparison, noticed map[string]int) {
	t.Helper()
	if reasons, ok := c.reasons(); ok {
		t.Errorf("%s: a finding that is %s is excused by %v\noracle: %v\n ours: %v\n of: %+v", c.where, name, reasons, c.oracle, c.ours, c.rows[0])
	}
	noticed[name]++
}
