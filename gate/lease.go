package gate

import (
	"context"
	"sync/atomic"
)

// StepWait is the step before the first, where there are other processes.
const StepWait = "waiting for another replica"

// Leases lets one process of several make a verdict while the others wait for it to be recorded. It is an economy, never a safety: two
// that judge the same come to the same. Implementations are safe for concurrent use.
type Leases interface {
	// Acquire returns once no other process holds the lease on key, or ctx has ended. release gives it up, and must be called when err is
	// nil. A holder that died loses it within seconds. An error means that nobody can say who judges; then everybody does.
	Acquire(ctx context.Context, key Key) (release func(), err error)
}

// lease waits until no other process judges in, and returns what lets the next one. What that one found is in the records then.
func (g *Gate) lease(ctx context.Context, in Inputs, at *atomic.Pointer[string]) (release func()) {
	if g.o.Leases == nil {
		return func() {}
	}
	step, began := StepWait, g.o.Now()
	at.Store(&step)
	release, err := g.o.Leases.Acquire(ctx, in.Key())
	g.o.Observe(step, g.o.Now().Sub(began), err)
	if err != nil { // judging what somebody else judges costs time, not safety
		g.o.Log.DebugContext(ctx, "judging without a lease", "candidate", in.Candidate.String(), "err", err)
		return func() {}
	}
	return release
}

// examinedElsewhere returns the verdict on in if another process has looked into everything while this one waited to.
func (g *Gate) examinedElsewhere(ctx context.Context, in Inputs) (Verdict, bool) {
	if g.o.Leases == nil {
		return Verdict{}, false
	}
	v, ok, err := g.o.Records.Verdict(ctx, in.Candidate, in.Key())
	return v, err == nil && ok && v.Complete && g.counts(v, in)
}
