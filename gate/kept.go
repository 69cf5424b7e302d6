package gate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// SignatureRecords keeps what looking for signatures found, durably. Implementations are safe for concurrent use.
type SignatureRecords interface {
	// KeptSignatures returns what was kept last of c. ok is false for none, and for what is not believed.
	KeptSignatures(ctx context.Context, c Candidate) (kept KeptSignatures, ok bool, err error)
	// KeepSignatures keeps what was found of a candidate in the place of what was found before.
	KeepSignatures(ctx context.Context, kept KeptSignatures) error
}

// KeptSignatures is what looking for the signatures and attestations of a candidate itself found, whatever an index has to add.
type KeptSignatures struct {
	Candidate Candidate `json:"candidate"`
	// Asked identifies what was looked for, whose word counts, and what was known to be attached.
	Asked string `json:"asked"`
	// LookedAt is when it was looked, UTC.
	LookedAt time.Time         `json:"looked_at"`
	Found    SignatureEvidence `json:"found"`
}

// Keeping says how long signatures that were found count without looking for them again. The zero value is not at all.
type Keeping struct {
	Records SignatureRecords
	// For is how long what satisfied a policy counts as it is. It counts as long again while it is not possible to look.
	For time.Duration
}

// off reports whether nothing is kept.
func (k Keeping) off() bool { return k.Records == nil || k.For <= 0 }

// keptFormat changes whenever the same things could be found otherwise because the code that looks for them has changed.
const keptFormat = "tidewaiter-signatures-2"

// asked returns the identity of what is looked for. Attestations are kept with the answers to the conditions they were asked, without
// what they say, so other conditions are another thing looked for.
func asked(in Inputs, p Policy, wanted Wanted) (string, error) {
	type rule struct{ Types, Authorities, Conditions []string }
	var rules []rule
	for _, r := range p.Attestations {
		one := rule{Types: r.PredicateTypes, Authorities: r.Authorities()}
		for _, c := range r.Conditions {
			one.Conditions = append(one.Conditions, c.String())
		}
		rules = append(rules, one)
	}
	terms, err := json.Marshal([]any{keptFormat, in.Roots, in.Attached, wanted, rules})
	if err != nil {
		return "", fmt.Errorf("identifying what is looked for: %w", err)
	}
	sum := sha256.Sum256(terms)
	return hex.EncodeToString(sum[:]), nil
}

// keptFor is how long what was kept counts at most, in terms of [Keeping.For]. Only what satisfies the policy counts at all: a
// signature that is missing may have come since.
const keptFor = 2

// signatures adds to e who signed and attested what: what was kept if that satisfies p and was looked for lately, otherwise what there
// is now. fresh demands the latter.
func (g *Gate) signatures(ctx context.Context, in Inputs, p Policy, wanted Wanted, e *Evidence, fresh bool) error {
	if g.replay != nil {
		return g.replay.signatures(ctx, g, in, p, wanted, e)
	}
	if g.o.Kept.off() {
		return g.look(ctx, in, p, wanted, e)
	}
	id, err := asked(in, p, wanted)
	if err != nil {
		return err
	}
	kept, usable := g.keptSignatures(ctx, p, id, *e)
	if usable && !fresh && g.o.Now().Sub(kept.LookedAt) < g.o.Kept.For {
		*e = kept
		return nil
	}
	if err := g.look(ctx, in, p, wanted, e); err != nil {
		if !usable || ctx.Err() != nil {
			return err
		}
		g.o.Log.WarnContext(ctx, "signatures cannot be looked for, what was found before counts", "candidate", e.Candidate.String(),
			"looked_at", kept.LookedAt, "err", err)
		*e = kept
	}
	return nil
}

// keptSignatures returns e with the signatures that were kept of it. usable is false when there are none that count by now, or they do
// not satisfy p.
func (g *Gate) keptSignatures(ctx context.Context, p Policy, id string, e Evidence) (with Evidence, usable bool) {
	kept, ok, err := g.o.Kept.Records.KeptSignatures(ctx, e.Candidate)
	if err != nil { // it can be looked for, which costs time
		g.o.Log.WarnContext(ctx, "looking up kept signatures", "candidate", e.Candidate.String(), "err", err)
	}
	age := g.o.Now().Sub(kept.LookedAt)
	if err != nil || !ok || kept.Asked != id || kept.Candidate != e.Candidate || age < 0 || age >= keptFor*g.o.Kept.For {
		return Evidence{}, false
	}
	e.SignatureEvidence, e.LookedAt = kept.Found, kept.LookedAt
	if err := g.inheritSignatures(ctx, p, &e); err != nil {
		g.o.Log.DebugContext(ctx, "asking the indexes of an image with kept signatures", "candidate", e.Candidate.String(), "err", err)
		return Evidence{}, false
	}
	return e, g.satisfied(p, e)
}

// look adds to e what is signed and attested now, and keeps what it found if that satisfies p.
func (g *Gate) look(ctx context.Context, in Inputs, p Policy, wanted Wanted, e *Evidence) error {
	lookedAt := g.o.Now().UTC()
	found, err := g.o.Signatures.Verify(ctx, e.Candidate, wanted)
	if err != nil {
		return err
	}
	if now := g.o.Signatures.Revision(); now != in.Roots {
		return fmt.Errorf("the trust roots changed from %s to %s", in.Roots, now)
	}
	found.Attestations = slices.Clone(found.Attestations)
	if err := g.ask(ctx, p, found.Attestations); err != nil {
		return err
	}
	e.SignatureEvidence, e.LookedAt = found, lookedAt
	return g.inheritSignatures(ctx, p, e)
}

// keep keeps the signatures of e itself if they satisfy p, for the next judging, or if those kept before would: they are no longer what
// there is. It is called once it is certain that they are what was attached when in was taken.
func (g *Gate) keep(ctx context.Context, in Inputs, p Policy, e Evidence) {
	if g.o.Kept.off() || e.LookedAt.IsZero() {
		return
	}
	id, err := asked(in, p, p.wanted(e))
	if err == nil && !g.satisfied(p, e) {
		// Nothing is gained by keeping it, unless what is kept would count again once it is not possible to look.
		without := e
		without.SignatureEvidence = SignatureEvidence{}
		if _, usable := g.keptSignatures(ctx, p, id, without); !usable {
			return
		}
	}
	if err == nil {
		err = g.o.Kept.Records.KeepSignatures(ctx, KeptSignatures{Candidate: e.Candidate, Asked: id, LookedAt: e.LookedAt, Found: own(e.SignatureEvidence)})
	}
	if err != nil && ctx.Err() == nil { // losing it costs time, not safety
		g.o.Log.WarnContext(ctx, "keeping signatures", "candidate", e.Candidate.String(), "err", err)
	}
}

// own returns what of found is about the candidate itself. What an index has to add is for the index's own verdict to say, each time.
func own(found SignatureEvidence) SignatureEvidence {
	found.Signatures = slices.DeleteFunc(slices.Clone(found.Signatures), func(s Signature) bool { return s.Inherited != "" })
	found.Attestations = slices.DeleteFunc(slices.Clone(found.Attestations), func(a Attestation) bool { return a.By.Inherited != "" })
	found.VEX = slices.DeleteFunc(slices.Clone(found.VEX), func(x VEX) bool { return x.By.Inherited != "" })
	return found
}

// satisfied reports whether e has everything that p wants to be signed and attested.
func (g *Gate) satisfied(p Policy, e Evidence) bool {
	now := g.o.Now()
	return len(signatureReasons(p, e, now)) == 0 && len(attestationReasons(p, e, now)) == 0
}

// lookAgain looks for signatures once more where what was kept is about to refuse: a statement that excuses the finding may have come
// since. That it cannot be looked for keeps nothing in that has become known to be bad.
func (g *Gate) lookAgain(ctx context.Context, in Inputs, e *Evidence, step func(string, func() error) error) {
	p, ok := in.Policies.For(in.Candidate.Repository)
	if !ok || len(p.VEX) == 0 || e.LookedAt.IsZero() || g.o.Now().Sub(e.LookedAt) < unexcusedLifetime {
		return
	}
	v := Decide(in.Policies, *e, g.o.Now())
	if v.Allowed() || !slices.ContainsFunc(v.Reasons, func(r Reason) bool { return r.Rule == RuleVulnerabilities }) {
		return
	}
	again := *e
	if err := step(StepVerify, func() error { return g.gatherFresh(ctx, in, p, &again) }); err != nil {
		g.o.Log.WarnContext(ctx, "statements about findings cannot be looked for, what was found before counts", "candidate", e.Candidate.String(), "err", err)
		return
	}
	*e = again
}

// counted returns how long a verdict on e may count for the age of the signatures in it; the zero time for any time.
func (g *Gate) counted(e Evidence) time.Time {
	if e.LookedAt.IsZero() || g.o.Kept.off() {
		return time.Time{}
	}
	return e.LookedAt.Add(keptFor * g.o.Kept.For)
}
