package ledger

import (
	"context"
	"fmt"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Standing returns how c stands. known is false when it was never judged.
func (l *Ledger) Standing(ctx context.Context, c gate.Candidate) (s Standing, known bool, err error) {
	s, known, err = ask(ctx, l, c.Repository, func(r *repository) (s Standing, found bool) {
		if m, ok := r.manifests[c.Digest]; ok {
			return m.standing(c.Repository), true
		}
		return Standing{}, false
	})
	if err != nil {
		return Standing{}, false, fmt.Errorf("looking up how %s stands: %w", c, err)
	}
	return s, known, nil
}

// standing returns what the newest verdict says of m, a manifest of repo.
func (m *manifest) standing(repo oci.Repository) Standing {
	e := m.newest()
	s := Standing{
		Candidate: gate.Candidate{Repository: repo, Digest: m.digest}, Keep: e.keep, Admitted: m.admitted, Key: e.key,
		JudgedAt: e.judgedAt, Until: e.until, FirstJudgedAt: m.entries[0].judgedAt,
	}
	if e.allowed {
		s.Decision = gate.Allow
	}
	return s
}
