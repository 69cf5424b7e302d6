package trail

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Sighting records that a manifest was seen in a repository for the first time.
type Sighting struct {
	Digest oci.Digest `json:"digest"`
	// At is when, by the clock of whoever saw it, UTC.
	At time.Time `json:"at"`
}

// errNoTime says that a record does not say when.
var errNoTime = errors.New("it does not say when")

// Check returns what is wrong with the record.
func (s Sighting) Check() error {
	if _, err := oci.ParseDigest(s.Digest.String()); err != nil {
		return err
	}
	if s.At.IsZero() {
		return errNoTime
	}
	return nil
}

// sightings are those of one repository: of each manifest the first, which is the one whose record has the earliest name.
type sightings struct {
	first map[oci.Digest]named[time.Time]
}

// named is something with the name of the record it is from.
type named[T any] struct {
	name  string
	value T
}

func newSightings() *sightings { return &sightings{map[oci.Digest]named[time.Time]{}} }

func (s *sightings) size() int { return len(s.first) }

func (s *sightings) add(name string, record Sighting) {
	if record.Digest == "" { // not believed
		return
	}
	if before, ok := s.first[record.Digest]; !ok || name < before.name {
		s.first[record.Digest] = named[time.Time]{name, record.At.UTC()}
	}
}

// FirstSeen implements gate.Sightings. Of replicas that see an image at the same time, the one that recorded it first counts for all.
func (t *Trail) FirstSeen(ctx context.Context, c gate.Candidate) (time.Time, error) {
	var at time.Time
	seen := func(s *sightings) bool {
		first, ok := s.first[c.Digest]
		at = first.value
		return ok
	}
	t.sightings.peek(c.Repository, func(s *sightings) { seen(s) }) // what is in memory is true however old it is
	if !at.IsZero() {
		return at, nil
	}
	// What was judged before sightings were recorded was seen then.
	judged, before, err := t.o.Verdicts.FirstJudged(ctx, c)
	if err == nil {
		err = t.sightings.append(ctx, c.Repository, func(s *sightings) (Sighting, bool) {
			if seen(s) {
				return Sighting{}, false
			}
			if at = t.o.Now().UTC(); before && judged.Before(at) && !judged.IsZero() {
				at = judged.UTC()
			}
			return Sighting{Digest: c.Digest, At: at}, true
		})
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("looking up when %s was first seen: %w", c, err)
	}
	return at, nil
}
