package gate

import "context"

// Tracer shows where the time goes. Implementations are safe for concurrent use; they wait for nobody.
type Tracer interface {
	// Start begins a span called name about c, below the one in ctx, and returns it in a context. end ends it, with its error or nil.
	Start(ctx context.Context, name string, c Candidate) (_ context.Context, end func(error))
	// Follow returns ctx with the span of from.
	Follow(ctx, from context.Context) context.Context
	// Link notes at the span of ctx that it waits for that of other.
	Link(ctx, other context.Context)
}

// The spans of a judging beside its steps.
const (
	spanAsk   = "verdict" // somebody asks for a verdict that is not remembered, until there is one or nobody waits any more
	spanJudge = "judging" // the judging itself, below whoever asked first
)

// untraced is the Tracer of nobody.
type untraced struct{}

func (untraced) Start(ctx context.Context, _ string, _ Candidate) (context.Context, func(error)) {
	return ctx, func(error) {}
}
func (untraced) Follow(ctx, _ context.Context) context.Context { return ctx }
func (untraced) Link(context.Context, context.Context)         {}

// flown is what comes of a judging that several may wait for: the verdict, and the context with its span.
type flown struct {
	verdict Verdict
	ctx     context.Context
}

// waited notes at the span of ctx for which judging it waited, if that has ended.
func (g *Gate) waited(ctx context.Context, val any) {
	if f, ok := val.(flown); ok {
		g.o.Trace.Link(ctx, f.ctx)
	}
}
