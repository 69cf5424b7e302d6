package gate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Sightings knows since when candidates have been here. Implementations are safe for concurrent use.
type Sightings interface {
	// FirstSeen returns when c was first seen in its repository, UTC, and has that on record from now on if it was not. When it returns
	// nil a restart does not lose it, and it never becomes another time. It is of the repository and the digest together: whoever may
	// put something into one repository must not be able to let it come of age there for another.
	FirstSeen(ctx context.Context, c Candidate) (time.Time, error)
}

// see adds to e since when its candidate has been here. It is asked only about what is held: what is merely asked for, and need not
// exist, does not come of age.
func (g *Gate) see(ctx context.Context, e *Evidence) (err error) {
	if g.o.Sightings == nil {
		return nil
	}
	e.FirstSeen, err = g.o.Sightings.FirstSeen(ctx, e.Candidate)
	return err
}

// ageReasons returns why e is too young. A verdict that rests on it lapses as it comes of age. Statements that were read and are nothing
// else are of any age, and so are lists of them: they run nowhere, and whoever checks an image needs them when the image passes.
func ageReasons(p Policy, e Evidence, now time.Time, v *Verdict) []Reason {
	if p.MinAge == 0 || e.OnlyStatements || listsStatements(e.Manifest) {
		return nil
	}
	if e.FirstSeen.IsZero() {
		return []Reason{{Rule: RuleMinAge, Message: "it is not known when it was first seen here, min_age is " + inWords(p.MinAge)}}
	}
	passes := e.FirstSeen.Add(p.MinAge)
	if !now.Before(passes) {
		return nil
	}
	v.lapseAt(passes)
	return []Reason{{Rule: RuleMinAge, Message: fmt.Sprintf("first seen here %s ago, min_age is %s, passes at %s",
		inWords(max(now.Sub(e.FirstSeen), 0)), inWords(p.MinAge), passes.UTC().Format(time.RFC3339))}}
}

// listsStatements reports whether m is a list of referrers, as clients keep one where there is no referrers API (distribution-spec,
// Referrers Tag Schema). Whatever it lists is judged by itself, so one that lists something else lets nothing through.
func listsStatements(m oci.Manifest) bool {
	return m.IsIndex() && !slices.ContainsFunc(m.Manifests, func(d oci.Descriptor) bool { return d.ArtifactType == "" })
}

// inWords returns a duration as a person writes it: whole seconds, and nothing that is zero at its end.
func inWords(d time.Duration) string {
	s := d.Truncate(time.Second).String()
	for _, nothing := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, nothing) {
			s = s[:len(s)-len("0s")]
		}
	}
	return s
}

func hasRule(reasons []Reason, rule Rule) bool {
	return slices.ContainsFunc(reasons, func(r Reason) bool { return r.Rule == rule })
}
