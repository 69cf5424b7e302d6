package gate

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tidewaiter/tidewaiter/oci"
)

// maxLater bounds the candidates that wait to be looked into once their verdict is given. What finds no room is tried again when it is
// next asked for.
const maxLater = 256

// errLaterFull says that too many candidates wait already.
var errLaterFull = errors.New("too many images wait to be looked into")

// errLapsed says that a verdict counts no longer, so that there is nothing to add to.
var errLapsed = errors.New("the verdict has lapsed")

// warned takes the reasons p only warns of out of reasons.
func (p Policy) warned(reasons []Reason) (others, warnings []Reason) {
	after := p.looksAfter()
	for _, r := range reasons {
		if r.Rule == RuleSecrets && after.Secrets || r.Rule == RuleMalware && after.Malware {
			warnings = append(warnings, r)
		} else {
			others = append(others, r)
		}
	}
	return others, warnings
}

// noteGaps returns what could not be looked into as reasons of a rule that only warns: they do not deny. told is what was looked for.
func noteGaps(p Policy, rule Rule, told string, gaps []Gap) []Reason {
	notes := gapReasons(p, Evidence{Gaps: gaps})
	for i := range notes {
		notes[i].Rule, notes[i].Message = rule, told+" not looked for: "+notes[i].Message
	}
	return notes
}

// amend returns the admission v with what was found since of what e has been looked into for. It is pure. It can deny what was
// admitted; nothing in it admits, and what it returns counts no longer than v does.
func amend(set *PolicySet, v Verdict, e Evidence, now time.Time) Verdict {
	p, ok := set.For(v.Repository)
	if !ok || !v.Allowed() {
		return v
	}
	var reasons []Reason
	if e.Looked.Secrets {
		reasons = append(reasons, secretReasons(p, e)...)
	}
	if e.Looked.Malware {
		reasons = append(reasons, malwareReasons(p, e, &v)...)
	}
	reasons, waived := waive(set.Waivers, v.Candidate(), reasons, now, &v)
	denying, warnings := p.warned(reasons)
	if p.Mode == Warn {
		denying, warnings = nil, append(warnings, denying...)
	}
	v.Warnings = sorted(append(without(v.Warnings, e.Looked), warnings...))
	v.Waived = sorted(append(without(v.Waived, e.Looked), waived...))
	v.JudgedAt, v.Complete = now.UTC(), true
	if len(denying) > 0 {
		v.Decision, v.Reasons = Deny, sorted(denying)
	}
	v.place(p)
	return v
}

// without returns the reasons that are about nothing that was looked for again.
func without(reasons []Reason, looked Look) []Reason {
	return slices.DeleteFunc(slices.Clone(reasons), func(r Reason) bool {
		return r.Rule == RuleSecrets && looked.Secrets || r.Rule == RuleMalware && looked.Malware
	})
}

// isDue reports whether an admission is to be looked into further: something it only warns of was not looked for yet, or malware
// by other signatures than those in use, or long ago.
func (g *Gate) isDue(v Verdict) bool {
	if !v.Allowed() {
		return false
	}
	if !v.Complete {
		return true
	}
	return g.o.Malware != nil && !v.MalwareAt.IsZero() && g.isMalwareDue(v.MalwareDatabase, v.MalwareAt)
}

// lookLater looks into an admitted candidate with nobody waiting for it. The admission stands meanwhile.
func (g *Gate) lookLater(in Inputs) <-chan singleflight.Result {
	return g.flights.DoChan("later:"+in.Key().String(), g.detached(func(ctx context.Context) (any, error) {
		v, err := g.lookAfter(ctx, in)
		switch {
		case errors.Is(err, errLaterFull), errors.Is(err, errLapsed): // it is tried again when it is next asked for
			g.o.Log.DebugContext(ctx, "looking into what was admitted", "candidate", in.Candidate.String(), "err", err)
		case err != nil && ctx.Err() == nil:
			g.o.Log.WarnContext(ctx, "looking into what was admitted; it is tried again when it is next asked for",
				"candidate", in.Candidate.String(), "err", err)
		}
		return v, err
	}))
}

// lookAfter waits for its turn, looks, and records the admission anew with what it found. A verdict that took the admission's place
// meanwhile stays. Dying anywhere in it leaves the admission as it was.
func (g *Gate) lookAfter(ctx context.Context, in Inputs) (Verdict, error) {
	select {
	case g.waiting <- struct{}{}:
		defer func() { <-g.waiting }()
	default:
		return Verdict{}, &NoVerdict{StepInventory, errLaterFull}
	}
	select {
	case g.later <- struct{}{}: // one at a time, so that it takes no more than a processor from those who wait
		defer func() { <-g.later }()
	case <-ctx.Done():
		return Verdict{}, &NoVerdict{StepInventory, ctx.Err()}
	}
	v, err := g.standing(ctx, in)
	if err != nil || !g.isDue(v) {
		return v, err
	}
	e, err := g.gatherLater(ctx, in)
	if err != nil {
		return Verdict{}, err
	}
	if v, err = g.standing(ctx, in); err != nil {
		return Verdict{}, err
	}
	amended := amend(in.Policies, v, e, g.o.Now())
	if !v.Allowed() || isSame(v, amended) {
		return v, nil
	}
	if err := g.o.Records.RecordVerdict(ctx, amended); err != nil {
		return Verdict{}, &NoVerdict{StepRecord, err}
	}
	if err := g.settle(ctx, in, amended, Evidence{}, true); err != nil {
		return Verdict{}, err
	}
	if err := g.possess(ctx, amended); err != nil {
		return Verdict{}, &NoVerdict{StepRelease, err}
	}
	return amended, nil
}

// isSame reports whether b says nothing that a does not.
func isSame(a, b Verdict) bool {
	b.JudgedAt = a.JudgedAt
	return reflect.DeepEqual(a, b)
}

// standing returns the verdict that counts now on in.
//
// Errors: [NoVerdict], of errLapsed when there is none.
func (g *Gate) standing(ctx context.Context, in Inputs) (Verdict, error) {
	if v, ok := g.o.Verdicts.Get(ctx, in.Key()); ok && g.counts(v, in) {
		return v, nil
	}
	v, ok, err := g.o.Records.Verdict(ctx, in.Candidate, in.Key())
	if err != nil {
		return Verdict{}, &NoVerdict{StepRecord, err}
	}
	if !ok || !g.counts(v, in) {
		return Verdict{}, &NoVerdict{StepInventory, errLapsed}
	}
	return v, nil
}

// gatherLater looks into the layers for what the policy only warns of, and for malware by the signatures in use. What was looked for in
// a layer before is not looked for again.
func (g *Gate) gatherLater(ctx context.Context, in Inputs) (Evidence, error) {
	held, err := g.o.Bytes.Hold(ctx, in.Candidate)
	if err != nil {
		return Evidence{}, &NoVerdict{StepHold, err}
	}
	p, _ := in.Policies.For(in.Candidate.Repository)
	e := Evidence{Candidate: in.Candidate, Manifest: held.Manifest}
	what := p.looksAfter()
	what.Malware = p.Malware != nil
	return e, g.lookInto(ctx, &e, what, true, readers{g.read, g.lookForMalware})
}

// readers read one layer of which not enough is known.
type readers struct {
	inventory func(ctx context.Context, c Candidate, desc oci.Descriptor, look Look) (LayerInventory, error)
	malware   malwareLook
}

// lookInto adds to e what there is of what in its layers. With renew, malware is looked for again where it is due.
func (g *Gate) lookInto(ctx context.Context, e *Evidence, what Look, renew bool, by readers) (err error) {
	if what.Secrets {
		found, err := g.secretsIn(ctx, e.Candidate, e.Manifest, by)
		if err != nil {
			return &NoVerdict{StepInventory, err}
		}
		e.Inventory.Secrets, e.SecretGaps = found.Secrets, found.Gaps
	}
	if what.Malware {
		if e.Malware, err = g.findMalware(ctx, e.Candidate, e.Manifest, renew, by.malware); err != nil {
			return &NoVerdict{StepMalware, err}
		}
	}
	e.Looked = e.Looked.and(what)
	return nil
}

// secretsIn returns what is known of secrets in the layers of m, reading those of which nothing is.
func (g *Gate) secretsIn(ctx context.Context, c Candidate, m oci.Manifest, by readers) (Inventory, error) {
	if gap := g.tooLarge(m); gap != nil {
		return Inventory{Gaps: []Gap{*gap}}, nil
	}
	var layers []LayerInventory
	for _, desc := range m.Layers {
		if _, gap := announced(desc); gap != nil {
			layers = append(layers, LayerInventory{Layer: desc.Digest, Gaps: []Gap{*gap}})
			continue
		}
		look := Look{Secrets: true}
		inv, ok, err := g.known(ctx, desc.Digest, look)
		if err == nil && !ok {
			inv, err = by.inventory(ctx, c, desc, look)
		}
		if err != nil {
			return Inventory{}, fmt.Errorf("layer %s: %w", desc.Digest, err)
		}
		layers = append(layers, inv)
	}
	return Merge(layers), nil
}

// errUnknown says that a layer would have to be read.
var errUnknown = errors.New("nothing is known of it")

// recall adds to e what p only warns of where that is known of every layer, so that it is told at once.
func (g *Gate) recall(ctx context.Context, p Policy, e *Evidence) error {
	after := p.looksAfter()
	if e.Manifest.IsIndex() || e.OnlyStatements || e.Looked.covers(after) || after.Malware && g.o.Malware == nil {
		return nil
	}
	recalled := *e
	err := g.lookInto(ctx, &recalled, after, false, readers{
		inventory: func(context.Context, Candidate, oci.Descriptor, Look) (LayerInventory, error) {
			return LayerInventory{}, errUnknown
		},
		malware: func(context.Context, Candidate, oci.Descriptor) (LayerMalware, error) {
			return LayerMalware{}, errUnknown
		},
	})
	if errors.Is(err, errUnknown) {
		return nil
	}
	if err == nil {
		*e = recalled
	}
	return err
}
