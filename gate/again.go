package gate

import (
	"context"
	"sync/atomic"
	"time"
)

// Revision identifies what every verdict made now goes by: policies, waivers, advisories and trust roots. Two that are equal lead to the
// same [Gate.Key] for every candidate, but for what is attached to it.
func (g *Gate) Revision() string { return g.always(Candidate{}).Key().String() }

// Key returns the key of the verdict on c that [Gate.Judge] would return now.
//
// Errors: [NoVerdict].
func (g *Gate) Key(ctx context.Context, c Candidate) (Key, error) {
	in, err := g.inputs(ctx, c)
	if err != nil {
		return Key{}, err
	}
	return in.Key(), nil
}

// UnderWay returns how many judgings are under way, whoever waits for them.
func (g *Gate) UnderWay() int {
	n := 0
	g.steps.Range(func(any, any) bool { n++; return true })
	return n
}

// Renew returns the verdict on c as [Gate.Judge] does, but makes it anew if the one that is remembered counts no longer than until
// beyond. Who asks meanwhile gets the one that is remembered. With the zero time it is Judge.
//
// Errors: [NoVerdict].
func (g *Gate) Renew(ctx context.Context, c Candidate, beyond time.Time) (Verdict, error) {
	if beyond.IsZero() {
		return g.Judge(ctx, c)
	}
	in, err := g.inputs(ctx, c)
	if err != nil {
		return Verdict{}, err
	}
	renewal := "renew:" + in.Key().String()
	done := g.flights.DoChan(renewal, g.detached(func(ctx context.Context) (any, error) {
		var at atomic.Pointer[string]
		g.steps.Store(renewal, &at)
		defer g.steps.Delete(renewal)
		return g.judge(ctx, in, &at, beyond)
	}))
	select {
	case result := <-done:
		if result.Err != nil {
			return Verdict{}, result.Err
		}
		v := result.Val.(Verdict)
		if err := g.possess(ctx, v); err != nil {
			return Verdict{}, &NoVerdict{StepRelease, err}
		}
		return v, nil
	case <-ctx.Done():
		return Verdict{}, &NoVerdict{StepHold, ctx.Err()}
	}
}

// always takes a view of everything verdicts depend on but what is attached to c.
func (g *Gate) always(c Candidate) Inputs {
	return Inputs{
		Candidate: c, Policies: g.o.Policies.Current(), Snapshot: g.o.Advisories.Snapshot(), Roots: g.o.Signatures.Revision(),
		MaxImageBytes: g.o.MaxImageBytes, MalwareFileBytes: g.o.MalwareFileBytes,
	}
}
