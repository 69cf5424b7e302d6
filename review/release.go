package review

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Detail is everything there is to decide by about an image.
type Detail struct {
	Item
	// Verdict is the newest, with all its reasons, findings, signatures and what was offered as one.
	Verdict gate.Verdict `json:"verdict"`
	// Layers are those of the manifest, and Held says whether it lies here. An index has none.
	Layers []oci.Descriptor `json:"layers,omitempty"`
	Held   bool             `json:"held"`
	// Waivers are those granted that could be about it.
	Waivers []Standing `json:"waivers"`
	// DroppedBy is who dropped it last, DroppedAt when, and DroppedReason why; empty if nobody did.
	DroppedBy     string    `json:"dropped_by,omitempty"`
	DroppedAt     time.Time `json:"dropped_at,omitzero"`
	DroppedReason string    `json:"dropped_reason,omitempty"`
}

// Show returns what there is to decide by about c, whose newest verdict may keep its bytes or not.
//
// Errors: [Refusal] of Unknown when c was never judged, of Conflict when it is allowed.
func (q *Queue) Show(ctx context.Context, c gate.Candidate) (Detail, error) {
	v, err := q.denied(ctx, c)
	if err != nil {
		return Detail{}, err
	}
	k := Kept{Candidate: c, JudgedAt: v.JudgedAt, FirstSeen: v.JudgedAt}
	kept, err := q.Records.Kept(ctx, c.Repository)
	if err != nil {
		return Detail{}, err
	}
	if i := slices.IndexFunc(kept, func(k Kept) bool { return k.Candidate == c }); i >= 0 {
		k = kept[i]
	}
	d := Detail{Verdict: v, Waivers: q.Waivers.Covering(c)}
	if d.Item, err = q.item(ctx, k, v); err != nil {
		return Detail{}, err
	}
	m, held, err := q.Bytes.Manifest(ctx, c)
	if err != nil {
		return Detail{}, err
	}
	d.Layers, d.Held = m.Layers, held
	d.DroppedBy, d.DroppedReason, d.DroppedAt, _ = q.Waivers.dropped(c)
	return d, nil
}

// denied returns the newest verdict on c if it denies.
func (q *Queue) denied(ctx context.Context, c gate.Candidate) (gate.Verdict, error) {
	v, ok, err := q.Records.Newest(ctx, c)
	switch {
	case err != nil:
		return gate.Verdict{}, err
	case !ok:
		return gate.Verdict{}, refuse(Unknown, "no verdict has been made on this image")
	case v.Allowed():
		return gate.Verdict{}, refuse(Conflict, "it is not in quarantine: it is allowed until %s", v.Until.Format(time.RFC3339))
	}
	return v, nil
}

// ReleaseRequest is how an image is released. Exactly one of Until and For.
type ReleaseRequest struct {
	Reason string
	Ticket string
	Until  time.Time
	For    time.Duration
}

// Released is what came of a release.
type Released struct {
	// Waivers are those granted, one for each reason, or pending.
	Waivers []Standing `json:"waivers"`
	// Pending says that a second person has to approve them, by the name of the release they share.
	Pending bool `json:"pending"`
	// Verdict is the one made by them; the one before, when they are pending. Where it denies, its reasons are what remains.
	Verdict gate.Verdict `json:"verdict"`
}

// Release waives, for this digest in this repository, each of the reasons c is denied for now, and has it judged anew. What is found
// later denies again. Of an index only its own reasons are waived: its children are judged, and released, by themselves.
//
// Errors: [Refusal]; *gate.NoVerdict; as [Waivers.Grant].
func (q *Queue) Release(ctx context.Context, by Person, c gate.Candidate, r ReleaseRequest) (Released, error) {
	v, err := q.Judge.Examine(ctx, c)
	if err != nil {
		return Released{}, err
	}
	if v.Allowed() {
		return Released{}, refuse(Conflict, "it is not denied: it is allowed until %s", v.Until.Format(time.RFC3339))
	}
	a := Act{Kind: KindReleased, By: by, Candidate: c, Reason: r.Reason}
	if a.Waivers, err = q.Waivers.forReasons(by, c, v.Reasons, r); err != nil {
		return Released{}, err
	}
	made, err := q.Waivers.grant(ctx, a)
	if err != nil {
		return Released{}, err
	}
	released := Released{Waivers: made, Verdict: v, Pending: made[0].State == Pending}
	if released.Pending {
		return released, nil
	}
	if released.Verdict, err = q.Judge.Judge(ctx, c); err != nil {
		return Released{}, fmt.Errorf("judging anew: %w", err)
	}
	return released, nil
}

// forReasons returns waivers of exactly reasons, each once.
func (w *Waivers) forReasons(by Person, c gate.Candidate, reasons []gate.Reason, r ReleaseRequest) ([]Waiver, error) {
	release, now, limit := newID("r"), w.o.Now(), w.o.Files.Current().WaiverMax
	var requests []Request
	for _, reason := range reasons {
		if !slices.Contains(gate.WaivableRules(), reason.Rule) {
			return nil, refuse(Conflict, "it cannot be released: %s", reason.Message)
		}
		one := requestFor(reason)
		same := func(other Request) bool {
			return other.Vulnerability == one.Vulnerability && other.Package == one.Package && other.Rule == one.Rule && other.Says == one.Says
		}
		if !slices.ContainsFunc(requests, same) {
			requests = append(requests, one)
		}
	}
	if len(requests) > maxReleaseRisks {
		return nil, refuse(Conflict, "it is denied for %d reasons, more than the %d a release waives; grant a waiver of a rule", len(requests), maxReleaseRisks)
	}
	var waivers []Waiver
	for _, one := range requests {
		one.Repositories, one.Digest = []string{c.Repository.String()}, c.Digest
		one.Reason, one.Ticket, one.Until, one.For = r.Reason, r.Ticket, r.Until, r.For
		made, err := one.waiver(by, now, limit)
		if err != nil {
			return nil, err
		}
		made.Release = release
		waivers = append(waivers, made)
	}
	return waivers, nil
}

// wholeRules are waived as a whole, for one digest: what they say of it differs from one look to the next, with what was offered as a
// signature and with the time, while what they are about stays the same.
var wholeRules = []gate.Rule{gate.RuleSignatures, gate.RuleAttestations, gate.RuleSize, gate.RuleMinAge}

// requestFor asks for a waiver of r and as little else as can be said.
func requestFor(r gate.Reason) Request {
	switch {
	case r.Finding != nil && r.Finding.ID != "":
		return Request{Vulnerability: r.Finding.ID, Package: r.Finding.Package.Type + "/" + r.Finding.Package.Name}
	case slices.Contains(wholeRules, r.Rule):
		return Request{Rule: r.Rule}
	}
	return Request{Rule: r.Rule, Says: r.Message}
}

// Drop deletes the bytes of c, which is denied, and remembers who did so and why. The verdict stands, and so does every record of it.
// Whoever asks for the image while the verdict counts is refused as before; afterwards it is fetched again, and judged again.
//
// Errors: [Refusal]; an oci.Error when it must stay; as [Waivers.Grant].
func (q *Queue) Drop(ctx context.Context, by Person, c gate.Candidate, reason string) error {
	reason, err := required("reason", reason, maxReasonBytes)
	if err != nil {
		return err
	}
	if _, err := q.denied(ctx, c); err != nil {
		return err
	}
	w := q.Waivers
	e := Event{Kind: KindDropped, By: by, At: w.o.Now().UTC(), Repository: c.Repository, Digest: c.Digest, Reason: reason}
	w.changing.Lock()
	err = w.decide(ctx, Act{Kind: KindDropped, By: by, Candidate: c, Reason: reason}, e)
	w.changing.Unlock()
	if err != nil {
		return err
	}
	if err := q.Bytes.Drop(ctx, c, by.Name); err != nil {
		_ = w.o.Audit.Record(ctx, Act{Kind: KindDropped, By: by, Candidate: c, Reason: reason, Failed: true}) // told below
		return fmt.Errorf("dropping %s: %w", c, err)
	}
	return nil
}

// Read puts on record that by reads bytes of c, of its manifest when blob is empty, before any are sent. Only what is denied is read here.
//
// Errors: [Refusal]; what the audit log returns: then nothing may be sent.
func (q *Queue) Read(ctx context.Context, by Person, c gate.Candidate, blob oci.Digest) error {
	if _, err := q.denied(ctx, c); err != nil {
		return err
	}
	a := Act{Kind: KindRead, By: by, Candidate: c, Blob: blob}
	if err := q.Waivers.o.Audit.Record(ctx, a); err != nil {
		return fmt.Errorf("putting a reading on record: %w", err)
	}
	q.Waivers.o.Notify(a)
	return nil
}

// IsRefusal returns the refusal err is or wraps, if it does.
func IsRefusal(err error) (*Refusal, bool) { return errors.AsType[*Refusal](err) }
