package ledger

import (
	"context"
	"fmt"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Newest returns the last verdict recorded about c, whether it still counts or not. ok is false when none was.
func (l *Ledger) Newest(ctx context.Context, c gate.Candidate) (v gate.Verdict, ok bool, err error) {
	names, _, err := ask(ctx, l, c.Repository, func(r *repository) (names []string, found bool) {
		if m, ok := r.manifests[c.Digest]; ok {
			names = []string{m.newest().name}
		}
		return names, len(names) > 0
	})
	if err != nil {
		return gate.Verdict{}, false, fmt.Errorf("looking up the newest verdict on %s: %w", c, err)
	}
	vs, err := l.verdicts(ctx, c, names)
	if err != nil || len(vs) == 0 {
		return gate.Verdict{}, false, err
	}
	return vs[0], true, nil
}
