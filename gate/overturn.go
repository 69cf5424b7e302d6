package gate

import "context"

// Overturns knows what was decided before. Implementations are safe for concurrent use.
type Overturns interface {
	// Overturned returns the verdict on the same candidate that was recorded right before v, if it decided otherwise than v. v is
	// recorded. ok is false when the decision is the same, and when v is the first.
	Overturned(ctx context.Context, v Verdict) (before Verdict, ok bool, err error)
}

// overturned tells whoever wants to know that v, which has just been recorded, decides otherwise than the verdict before it. Should the
// process die between the record and the telling nobody is told: whoever must not miss any compares the records when it starts.
func (g *Gate) overturned(ctx context.Context, v Verdict) {
	if g.o.Overturns == nil || g.o.Changed == nil {
		return
	}
	before, ok, err := g.o.Overturns.Overturned(ctx, v)
	if err != nil { // the verdict stands whether or not anybody hears what it was before
		g.o.Log.WarnContext(ctx, "looking up what a verdict overturns", "candidate", v.Candidate().String(), "err", err)
	}
	if ok && before.Decision != v.Decision {
		g.o.Changed(before, v)
	}
}
