package ledger

import (
	"context"
	"fmt"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Listing returns the indexes of c's repository that were ever judged, admitted or not, and list c. The one with the newest verdict comes
// first. It is for whoever asks what would be if another policy were in force; what counts is what [Ledger.Parents] returns.
func (l *Ledger) Listing(ctx context.Context, c gate.Candidate) ([]gate.Candidate, error) {
	cs, _, err := ask(ctx, l, c.Repository, func(r *repository) ([]gate.Candidate, bool) { return r.candidates(r.byChild[c.Digest]) })
	if err != nil {
		return nil, fmt.Errorf("looking up the indexes that list %s: %w", c, err)
	}
	return cs, nil
}
