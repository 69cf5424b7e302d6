package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Stored opens what is here already and asks nobody else for it. Implementations are safe for concurrent use.
type Stored interface {
	// HoldStored returns the manifest of c; ok is false when it is not here.
	HoldStored(ctx context.Context, c Candidate) (held Held, ok bool, err error)
	// OpenStored opens a blob that c's manifest refers to, as [Bytes] does; ok is false when it is not here.
	OpenStored(ctx context.Context, c Candidate, desc oci.Descriptor) (r io.ReadCloser, ok bool, err error)
}

// Past knows what was decided before. Implementations are safe for concurrent use.
type Past interface {
	// Newest returns the newest verdict on c, whether it still counts or not. ok is false when there is none.
	Newest(ctx context.Context, c Candidate) (v Verdict, ok bool, err error)
	// Listing returns the indexes of c's repository that were ever judged, admitted or not, and list c.
	Listing(ctx context.Context, c Candidate) ([]Candidate, error)
}

// Replayed is what policies say of a candidate by what is known of it already.
type Replayed struct {
	// Verdict is the zero one, a denial, while Unknown is not empty. It is recorded nowhere and releases nothing.
	Verdict Verdict
	// Unknown is what the policies ask for and nobody has looked for yet, or is not here any more: one clause for a person.
	Unknown string
}

// Replay returns what set decides about c now, by the evidence there is: manifests that are held, inventories of layers, signatures as
// they were last looked for. Nothing is recorded, remembered, released or withdrawn. Without fetch nothing is fetched and nobody asked.
// With it, what is unknown is looked for as judging would; then layers that are read have their inventory on record, which is true
// whoever had it made.
//
// It is the path of [Gate.Judge] with other ends, so the policies in force give the verdict they have given.
//
// Errors: [NoVerdict].
func (g *Gate) Replay(ctx context.Context, set *PolicySet, c Candidate, fetch bool) (Replayed, error) {
	again := g.replaying(set, fetch)
	defer again.Close()
	in, err := again.inputs(ctx, c)
	if err != nil {
		return Replayed{}, err
	}
	var at atomic.Pointer[string]
	v, err := again.judge(ctx, in, &at, time.Time{})
	if unknown, ok := errors.AsType[*unknown](err); ok {
		return Replayed{Unknown: unknown.what}, nil
	}
	if err == nil && again.replay.unexcused.Load() && len(v.Findings) > 0 {
		return Replayed{Unknown: "whether what was found is excused by a statement"}, nil
	}
	return Replayed{Verdict: v}, err
}

// unknown is the error that something was never looked for.
type unknown struct{ what string }

func (u *unknown) Error() string { return u.what + " is not known" }

func notKnown(format string, args ...any) error { return &unknown{fmt.Sprintf(format, args...)} }

// replay is what a gate has that only replays.
type replay struct {
	// of is the gate that judges, which looks for what is not known if fetch says so.
	of    *Gate
	fetch bool
	// unexcused says that statements about findings are missing. They excuse findings and change nothing else.
	unexcused atomic.Bool
}

// replaying returns a gate that judges by set and leaves nothing behind. Whoever gets it closes it.
func (g *Gate) replaying(set *PolicySet, fetch bool) *Gate {
	o := g.o
	r := &replay{of: g, fetch: fetch}
	o.Bytes, o.Policies, o.Releases, o.Verdicts, o.Records = replayedBytes{r}, fixed{set}, inert{}, inert{}, replayedRecords{o.Records, o.Past}
	if !o.Kept.off() {
		o.Kept.Records = replayedSignatures{o.Kept.Records}
	}
	if o.Sightings != nil {
		o.Sightings = replayedSightings{o.Past}
	}
	o.Log, o.Observe, o.Decided, o.Changed, o.Overturns, o.Platforms, o.Leases, o.Trace = slog.New(slog.DiscardHandler), nil, nil, nil, nil, nil, nil, nil
	again := New(o)
	again.replay = r
	return again
}

// layer is [Gate.readOnce] for a replay.
func (r *replay) layer(ctx context.Context, c Candidate, desc oci.Descriptor, look Look) (LayerInventory, error) {
	inv, ok, err := r.of.o.Inventories.Inventory(ctx, desc.Digest)
	switch {
	case err != nil || ok && (inv.SecretsRead || !look.Secrets):
		return inv, err
	case r.fetch:
		return r.of.readOnce(ctx, c, desc, look)
	case ok:
		return LayerInventory{}, notKnown("whether there are secrets in its layers")
	}
	return LayerInventory{}, notKnown("what is in its layers, which were never read")
}

// malware is [Gate.awaitMalware] for a replay.
func (r *replay) malware(ctx context.Context, c Candidate, desc oci.Descriptor) (LayerMalware, error) {
	if r.fetch {
		return r.of.awaitMalware(ctx, c, desc)
	}
	return LayerMalware{}, notKnown("whether there is malware in its layers")
}

// signatures is [Gate.signatures] for the gate again, which replays: who signed and attested what, as it was last looked for.
func (r *replay) signatures(ctx context.Context, again *Gate, in Inputs, p Policy, wanted Wanted, e *Evidence) error {
	found, ok, err := r.found(ctx, in, p, wanted, *e)
	if err != nil {
		return err
	}
	if ok {
		*e = found
		return again.inheritSignatures(ctx, p, e)
	}
	if !again.o.Kept.off() {
		id, err := asked(in, p, wanted)
		if err != nil {
			return err
		}
		if kept, usable := again.keptSignatures(ctx, p, id, *e); usable {
			*e = kept
			return nil
		}
	}
	if r.fetch {
		return again.look(ctx, in, p, wanted, e)
	}
	return notKnown("who signed or attested it, which was not looked for")
}

// found returns e with the signatures of the newest verdict. ok is false when that was made after looking for less than is wanted.
func (r *replay) found(ctx context.Context, in Inputs, p Policy, wanted Wanted, e Evidence) (with Evidence, ok bool, err error) {
	if r.of.o.Past == nil {
		return Evidence{}, false, nil
	}
	v, ok, err := r.of.o.Past.Newest(ctx, e.Candidate)
	if err != nil || !ok {
		return Evidence{}, false, err
	}
	then := in
	then.Policies = r.of.o.Policies.Current()
	if v.LookedAt.IsZero() || v.PolicyRevision != then.Policies.Revision || v.RootsRevision != in.Roots {
		return Evidence{}, false, nil
	}
	if in.Attached != "" && v.Key != then.Key().String() { // what was attached then is known only by the key
		return Evidence{}, false, nil
	}
	before, _ := then.Policies.For(e.Candidate.Repository)
	if !before.wanted(e).covers(wanted) || !p.wasAsked(v.Attestations) {
		return Evidence{}, false, nil
	}
	if missing := len(wanted.VEX) > 0 && !(within(wanted.VEX, before.wanted(e).VEX) && v.hasAllVEX(in.Snapshot)); missing && r.fetch {
		return Evidence{}, false, nil
	} else if missing {
		r.unexcused.Store(true)
	}
	e.SignatureEvidence = own(SignatureEvidence{Signatures: v.Signatures, Attestations: v.Attestations, VEX: v.VEX, Rejections: v.Rejections})
	e.LookedAt = v.LookedAt
	return e, true, nil
}

// within reports whether all has each of some.
func within(some, all []string) bool {
	return !slices.ContainsFunc(some, func(name string) bool { return !slices.Contains(all, name) })
}

// covers reports whether whoever looked for w has looked for every signature and attestation of other.
func (w Wanted) covers(other Wanted) bool {
	for predicateType, authorities := range other.Attestations {
		if !within(authorities, w.Attestations[predicateType]) {
			return false
		}
	}
	return within(other.Signatures, w.Signatures)
}

// wasAsked reports whether the attestations were asked for every condition of p that is about them.
func (p Policy) wasAsked(attestations []Attestation) bool {
	for _, a := range attestations {
		for _, r := range p.Attestations {
			if !r.concerns(a) {
				continue
			}
			for _, c := range r.Conditions {
				if _, asked := a.Answers[c.String()]; !asked {
					return false
				}
			}
		}
	}
	return true
}

// hasAllVEX reports whether v has every statement that was found of what is found by s. A verdict keeps those about its findings, and of
// an index all of them.
func (v Verdict) hasAllVEX(s Snapshot) bool {
	unexamined := slices.ContainsFunc(v.Reasons, func(r Reason) bool { return r.Rule == RuleUnexamined })
	return len(v.Children) > 0 || !unexamined && v.SnapshotID == s.ID
}

// replayedBytes are those that are here.
type replayedBytes struct{ *replay }

func (b replayedBytes) Hold(ctx context.Context, c Candidate) (Held, error) {
	if b.fetch {
		return b.of.o.Bytes.Hold(ctx, c)
	}
	if b.of.o.Stored == nil {
		return Held{}, notKnown("its manifest")
	}
	held, ok, err := b.of.o.Stored.HoldStored(ctx, c)
	if err == nil && !ok {
		err = notKnown("its manifest, which is not held any more")
	}
	return held, err
}

func (b replayedBytes) Open(ctx context.Context, c Candidate, desc oci.Descriptor) (io.ReadCloser, error) {
	if b.fetch {
		return b.of.o.Bytes.Open(ctx, c, desc)
	}
	if b.of.o.Stored == nil {
		return nil, notKnown("what is in %s", short(desc.Digest))
	}
	r, ok, err := b.of.o.Stored.OpenStored(ctx, c, desc)
	if err == nil && !ok {
		err = notKnown("what is in %s, which was never fetched", short(desc.Digest))
	}
	return r, err
}

// fixed are policies that stay.
type fixed struct{ set *PolicySet }

func (f fixed) Current() *PolicySet { return f.set }

// inert remembers and releases nothing.
type inert struct{}

func (inert) Get(context.Context, Key) (Verdict, bool)        { return Verdict{}, false }
func (inert) Put(context.Context, Key, Verdict) error         { return nil }
func (inert) Release(context.Context, Verdict) error          { return nil }
func (inert) Withdraw(context.Context, Candidate, bool) error { return nil }

// replayedRecords are what indexes are looked up in, and nothing else.
type replayedRecords struct {
	records Records
	past    Past
}

func (replayedRecords) RecordVerdict(context.Context, Verdict) error {
	return errors.New("a verdict that is replayed is not recorded")
}

func (replayedRecords) Verdict(context.Context, Candidate, Key) (Verdict, bool, error) {
	return Verdict{}, false, nil
}

// Parents returns those that were admitted, and those that may be by other policies.
func (r replayedRecords) Parents(ctx context.Context, c Candidate) ([]Candidate, error) {
	parents, err := r.records.Parents(ctx, c)
	if err != nil || r.past == nil {
		return parents, err
	}
	listing, err := r.past.Listing(ctx, c)
	for _, index := range listing {
		if !slices.Contains(parents, index) {
			parents = append(parents, index)
		}
	}
	return parents, err
}

// replayedSignatures are those that were kept. None is added.
type replayedSignatures struct{ records SignatureRecords }

func (s replayedSignatures) KeptSignatures(ctx context.Context, c Candidate) (KeptSignatures, bool, error) {
	return s.records.KeptSignatures(ctx, c)
}

func (replayedSignatures) KeepSignatures(context.Context, KeptSignatures) error { return nil }

// replayedSightings are those that verdicts tell of.
type replayedSightings struct{ past Past }

// FirstSeen returns the zero time for what has no verdict. Whatever is held has been seen before.
func (s replayedSightings) FirstSeen(ctx context.Context, c Candidate) (time.Time, error) {
	if s.past == nil {
		return time.Time{}, nil
	}
	v, _, err := s.past.Newest(ctx, c)
	return v.FirstSeen, err
}
