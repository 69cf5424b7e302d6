package review

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Grant grants what is asked for, all of it or nothing; where two people are asked for it is pending from then on. By is the one who
// sends the request, whom the caller knows to have a right to.
//
// Errors: [Refusal]; what the audit log or the storage return, and then nothing is granted.
func (w *Waivers) Grant(ctx context.Context, by Person, asked ...Request) ([]Standing, error) {
	var waivers []Waiver
	now := w.o.Now()
	for _, r := range asked {
		made, err := r.waiver(by, now, w.o.Files.Current().WaiverMax)
		if err != nil {
			return nil, err
		}
		waivers = append(waivers, made)
	}
	return w.grant(ctx, Act{Kind: KindGranted, By: by, Waivers: waivers})
}

// grant puts what was checked into force. The act is [KindGranted], or [KindReleased] for the image it names.
func (w *Waivers) grant(ctx context.Context, a Act) ([]Standing, error) {
	if len(a.Waivers) == 0 || len(a.Waivers) > maxEventsWaivers {
		return nil, refuse(Invalid, "%d waivers are no number to grant at once, at most %d are", len(a.Waivers), maxEventsWaivers)
	}
	e := Event{
		Kind: KindGranted, By: a.By, At: w.o.Now().UTC(), Waivers: a.Waivers, Reason: a.Reason,
		Repository: a.Candidate.Repository, Digest: a.Candidate.Digest,
	}
	if w.o.SecondApprover {
		if !a.By.Known {
			return nil, refuse(Forbidden, "two people decide here, so each has to say who it is")
		}
		e.Kind, a.Pending = KindRequested, true
		if a.Kind == KindGranted {
			a.Kind = KindRequested
		}
	}
	w.changing.Lock()
	defer w.changing.Unlock()
	if err := w.Refresh(ctx); err != nil {
		return nil, err
	}
	counts := w.Counts()
	if n := counts[Live] + counts[Pending] + len(a.Waivers); n > maxLive {
		return nil, refuse(Full, "there would be %d waivers, at most %d are kept; revoke some", n, maxLive)
	}
	if err := w.decide(ctx, a, e); err != nil {
		return nil, err
	}
	var made []Standing
	for _, granted := range a.Waivers {
		made = append(made, w.Named(granted.ID)...)
	}
	return made, nil
}

// Approve has the pending waiver called id count, or those of the release called so.
//
// Errors: as [Waivers.Grant]; Forbidden for whoever asked for it, and for whoever is not known.
func (w *Waivers) Approve(ctx context.Context, by Person, id, reason string) ([]Standing, error) {
	if !by.Known {
		return nil, refuse(Forbidden, "whoever approves has to say who it is")
	}
	return w.change(ctx, by, KindApproved, id, reason, func(s Standing) error {
		switch {
		case s.State != Pending:
			return refuse(Conflict, "waiver %s is %s, not pending", s.ID, s.State)
		case s.By == by.Name:
			return refuse(Forbidden, "waiver %s was asked for by %s, so somebody else has to approve it", s.ID, s.By)
		}
		return nil
	})
}

// Revoke ends the waiver called id, or those of the release called so. One person is enough: it lets nothing through.
//
// Errors: as [Waivers.Grant].
func (w *Waivers) Revoke(ctx context.Context, by Person, id, reason string) ([]Standing, error) {
	reason, err := required("reason", reason, maxReasonBytes)
	if err != nil {
		return nil, err
	}
	return w.change(ctx, by, KindRevoked, id, reason, func(s Standing) error {
		if s.State == Revoked || s.State == Expired {
			return refuse(Conflict, "waiver %s is %s already", s.ID, s.State)
		}
		return nil
	})
}

// change records that something became of waivers, of those that id names for which may returns nil; at least one must be.
func (w *Waivers) change(ctx context.Context, by Person, kind Kind, id, reason string, may func(Standing) error) ([]Standing, error) {
	reason, err := sentence("reason", reason, maxReasonBytes)
	if err != nil {
		return nil, err
	}
	w.changing.Lock()
	defer w.changing.Unlock()
	if err := w.Refresh(ctx); err != nil { // another replica may have decided
		return nil, err
	}
	named := w.Named(id)
	if len(named) == 0 {
		return nil, refuse(Unknown, "there is no waiver %.40q; one that stands in a policy file is ended there", id)
	}
	a := Act{Kind: kind, By: by, Reason: reason}
	e := Event{Kind: kind, By: by, At: w.o.Now().UTC(), Reason: reason}
	var why error
	for _, s := range named {
		if err := may(s); err != nil {
			why = err
			continue
		}
		a.Waivers, e.IDs = append(a.Waivers, s.Waiver), append(e.IDs, s.ID)
	}
	if len(e.IDs) == 0 {
		return nil, why
	}
	if err := w.decide(ctx, a, e); err != nil {
		return nil, err
	}
	return w.Named(id), nil
}

// decide puts an act on record and into the log, in this order: what cannot be put on record is not done. The caller holds changing.
func (w *Waivers) decide(ctx context.Context, a Act, e Event) error {
	if err := w.o.Audit.Record(ctx, a); err != nil {
		return fmt.Errorf("putting a decision on record: %w", err)
	}
	name, err := w.o.Log.Append(ctx, oci.Repository{}, e)
	if err != nil {
		a.Failed = true
		_ = w.o.Audit.Record(ctx, a) // that it failed is told below whether or not that is on record
		return fmt.Errorf("recording a decision: %w", err)
	}
	w.add([]entry{{name, e}})
	var ids []string
	for _, one := range a.Waivers[:min(len(a.Waivers), maxLogged)] {
		ids = append(ids, one.ID)
	}
	w.o.Logger.InfoContext(ctx, "a decision", "kind", a.Kind, "by", a.By.Name, "client", a.By.Address, "waiver", ids, "waivers", len(a.Waivers),
		"candidate", named(a.Candidate), "pending", a.Pending, "reason", a.Reason)
	w.o.Notify(a)
	return nil
}

// maxLogged is how many ids of waivers a line of the log has.
const maxLogged = 10

func named(c gate.Candidate) string {
	if c == (gate.Candidate{}) {
		return ""
	}
	return c.String()
}

// Covering returns the granted waivers that could be about c, newest first, as they stand now.
func (w *Waivers) Covering(c gate.Candidate) []Standing {
	return slices.DeleteFunc(w.List(), func(s Standing) bool { return !s.reaches(c) })
}

// dropped returns who dropped c last, and when; ok is false if nobody did.
func (w *Waivers) dropped(c gate.Candidate) (by, reason string, at time.Time, ok bool) {
	d, ok := w.state.Load().drops[c]
	return d.by, d.reason, d.at, ok
}
