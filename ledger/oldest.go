package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// FirstJudged returns when the first verdict on c was made that is recorded, UTC. ok is false when there is none. What another replica
// recorded in the last seconds it may not know.
func (l *Ledger) FirstJudged(ctx context.Context, c gate.Candidate) (at time.Time, ok bool, err error) {
	_, _, err = ask(ctx, l, c.Repository, func(r *repository) (struct{}, bool) {
		m, known := r.manifests[c.Digest]
		if known {
			at, ok = m.entries[0].judgedAt.UTC(), true
		}
		return struct{}{}, true // what is in memory is fresh enough
	})
	if err != nil {
		return time.Time{}, false, fmt.Errorf("looking up when %s was first judged: %w", c, err)
	}
	return at, ok, nil
}
