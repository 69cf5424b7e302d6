package gate

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/singleflight"
)

// Examine returns the verdict on c as [Gate.Judge] does, but with everything looked into that the policy asks for: also where the
// refusal is certain without, and waiting for it.
func (g *Gate) Examine(ctx context.Context, c Candidate) (Verdict, error) {
	v, err := g.Judge(ctx, c)
	if err != nil || v.Complete {
		return v, err
	}
	in, err := g.inputs(ctx, c)
	if err != nil {
		return Verdict{}, err
	}
	examine := g.examineLater
	if v.Allowed() {
		examine = g.lookLater
	}
	select {
	case result := <-examine(in):
		if result.Err != nil {
			return Verdict{}, result.Err
		}
		return result.Val.(Verdict), nil
	case <-ctx.Done():
		return Verdict{}, &NoVerdict{StepInventory, ctx.Err()}
	}
}

// examineLater completes the evidence of a denied candidate. The decision stands meanwhile.
func (g *Gate) examineLater(in Inputs) <-chan singleflight.Result {
	return g.flights.DoChan("examine:"+in.Key().String(), g.detached(func(ctx context.Context) (any, error) {
		v, err := g.examine(ctx, in)
		if err != nil && ctx.Err() == nil {
			g.o.Log.WarnContext(ctx, "examining what is in quarantine", "candidate", in.Candidate.String(), "err", err)
		}
		return v, err
	}))
}

// examine judges in with everything looked into. Signatures come last: reading layers takes long, and what is decided at the end must
// not rest on how things were at the beginning.
func (g *Gate) examine(ctx context.Context, in Inputs) (Verdict, error) {
	var at atomic.Pointer[string] // nobody is told how far it has come
	defer g.lease(ctx, in, &at)()
	if v, ok := g.examinedElsewhere(ctx, in); ok {
		return v, g.settle(ctx, in, v, Evidence{}, false)
	}
	step := func(name string, do func() error) error {
		if err := do(); err != nil {
			return &NoVerdict{name, err}
		}
		return nil
	}
	e, err := g.hold(ctx, in, step)
	if err != nil {
		return Verdict{}, err
	}
	p, _ := in.Policies.For(in.Candidate.Repository)
	if p.needsConfig(e) {
		if err := step(StepConfig, func() error { return g.gatherConfig(ctx, p, &e) }); err != nil {
			return Verdict{}, err
		}
	}
	if look := p.looksFor().and(p.looksAfter()); p.needsLayers(e) || look != (Look{}) {
		if err := g.gatherLayers(ctx, in, p, &e, look, step); err != nil {
			return Verdict{}, err
		}
	}
	if err := step(StepVerify, func() error { return g.gatherSignatures(ctx, in, p, &e) }); err != nil {
		return Verdict{}, err
	}
	return g.conclude(ctx, in, e, step)
}
