package review

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Event is a record of the log. It is written once, by whoever takes a decision, and means the same ever after: the configuration of
// whoever reads it does not matter.
type Event struct {
	Kind Kind      `json:"kind"`
	By   Person    `json:"by"`
	At   time.Time `json:"at"`
	// Waivers are those requested or granted, all of them or none.
	Waivers []Waiver `json:"waivers,omitempty"`
	// IDs are the waivers approved or revoked.
	IDs []string `json:"ids,omitempty"`
	// Repository and Digest are the image that is released or dropped.
	Repository oci.Repository `json:"repository,omitzero"`
	Digest     oci.Digest     `json:"digest,omitempty"`
	Reason     string         `json:"reason,omitempty"`
}

// Check returns what is wrong with e; nil if it can be recorded and believed.
func (e Event) Check() error {
	if e.By.Name == "" || e.At.IsZero() {
		return errors.New("nobody, or at no time")
	}
	switch e.Kind {
	case KindRequested, KindGranted:
		if len(e.Waivers) == 0 || len(e.Waivers) > maxEventsWaivers || len(e.IDs) > 0 {
			return fmt.Errorf("%s: %d waivers, %d ids", e.Kind, len(e.Waivers), len(e.IDs))
		}
		for _, w := range e.Waivers {
			if err := w.check(); err != nil {
				return fmt.Errorf("waiver %.30q: %w", w.ID, err)
			}
		}
		return nil
	case KindApproved, KindRevoked:
		if len(e.IDs) == 0 || len(e.Waivers) > 0 {
			return fmt.Errorf("%s: %d waivers, %d ids", e.Kind, len(e.Waivers), len(e.IDs))
		}
		return nil
	case KindDropped:
		_, err := oci.ParseDigest(e.Digest.String())
		if e.Repository.Path == "" || err != nil {
			return errors.New("dropped: no image")
		}
		return nil
	}
	return fmt.Errorf("%.60q is no kind of event", e.Kind)
}

// entry is a record and its name, by which records are ordered. event is the zero Event when the record is not believed.
type entry struct {
	name  string
	event Event
}

// State is how a waiver stands.
type State string

// The states. The empty one is none of them, and counts for nothing.
const (
	Pending State = "pending" // waits for a second person
	Live    State = "live"
	Revoked State = "revoked"
	Expired State = "expired"
	// Doubted is a waiver that something unreadable was recorded after: it may have been revoked.
	Doubted State = "doubted"
)

// States returns the closed set, for whoever counts.
func States() []State { return []State{Pending, Live, Revoked, Expired, Doubted} }

// Standing is a waiver and what became of it.
type Standing struct {
	Waiver
	State State `json:"state"`
	// Source is "granted", or "file" for one that stands in a policy file and has no id.
	Source        string    `json:"source"`
	ApprovedBy    string    `json:"approved_by,omitempty"`
	ApprovedAt    time.Time `json:"approved_at,omitzero"`
	RevokedBy     string    `json:"revoked_by,omitempty"`
	RevokedAt     time.Time `json:"revoked_at,omitzero"`
	RevokedReason string    `json:"revoked_reason,omitempty"`
}

// at returns s as it stands at now.
func (s Standing) at(now time.Time) Standing {
	if (s.State == Live || s.State == Pending) && !now.Before(s.Until) {
		s.State = Expired
	}
	return s
}

// drop is who dropped an image, and when.
type drop struct {
	by     string
	at     time.Time
	reason string
}

// folded is what the records say together. It is never modified once made.
type folded struct {
	// standings are in the order the waivers were asked for; none is Expired, which only time says.
	standings []Standing
	drops     map[gate.Candidate]drop
}

// fold returns what entries, sorted by name, say together. Of two replicas that decide at the same time the names decide which was
// first, so all come to the same.
func fold(entries []entry) folded {
	f := folded{drops: map[gate.Candidate]drop{}}
	at := map[string]int{} // by ID, into standings
	for _, e := range entries {
		each := func(change func(s *Standing)) {
			for _, id := range e.event.IDs {
				if i, ok := at[id]; ok {
					change(&f.standings[i])
				}
			}
		}
		switch e.event.Kind {
		case KindRequested, KindGranted:
			for _, w := range e.event.Waivers {
				if _, taken := at[w.ID]; taken {
					continue
				}
				at[w.ID] = len(f.standings)
				state := Live
				if e.event.Kind == KindRequested {
					state = Pending
				}
				f.standings = append(f.standings, Standing{Waiver: w, State: state, Source: "granted"})
			}
		case KindApproved:
			each(func(s *Standing) {
				if s.State == Pending && e.event.By.Known && e.event.By.Name != s.By {
					s.State, s.ApprovedBy, s.ApprovedAt = Live, e.event.By.Name, e.event.At
				}
			})
		case KindRevoked:
			each(func(s *Standing) {
				if s.State != Revoked {
					s.State, s.RevokedBy, s.RevokedAt, s.RevokedReason = Revoked, e.event.By.Name, e.event.At, e.event.Reason
				}
			})
		case KindDropped:
			c := gate.Candidate{Repository: e.event.Repository, Digest: e.event.Digest}
			f.drops[c] = drop{e.event.By.Name, e.event.At, e.event.Reason}
		default: // not believed: it may have been the end of any of them
			for i := range f.standings {
				if s := &f.standings[i]; s.State == Live || s.State == Pending {
					s.State = Doubted
				}
			}
		}
	}
	return f
}

// named returns the standings that id names: the waiver, or those of a release.
func (f folded) named(id string) []Standing {
	var found []Standing
	for _, s := range f.standings {
		if id != "" && (s.ID == id || s.Release == id) {
			found = append(found, s)
		}
	}
	return found
}

// counts returns the waivers that count until they lapse, whether they have or not.
func (f folded) counts() []Standing {
	return slices.DeleteFunc(slices.Clone(f.standings), func(s Standing) bool { return s.State != Live })
}
