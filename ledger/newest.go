package ledger

import (
	"context"
	"fmt"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Newest returns the newest verdict on c, whether or not it still counts. ok is false when there is none that is believed.
func (l *Ledger) Newest(ctx context.Context, c gate.Candidate) (v gate.Verdict, ok bool, err error) {
	name, found, err := ask(ctx, l, c.Repository, func(r *repository) (string, bool) {
		m, ok := r.manifests[c.Digest]
		if !ok {
			return "", false
		}
		return m.newest().name, true
	})
	if err != nil {
		return gate.Verdict{}, false, fmt.Errorf("looking up the newest verdict on %s: %w", c, err)
	}
	if !found {
		return gate.Verdict{}, false, nil
	}
	vs, err := l.verdicts(ctx, c, []string{name})
	if err != nil || len(vs) == 0 {
		return gate.Verdict{}, false, err
	}
	return vs[0], true, nil
}
