package main

import (
	"context"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/oci"
)

// judgedImages is what was judged, as the console lists it.
type judgedImages struct{ *ledger.Ledger }

// Standings implements console.Images.
func (j judgedImages) Standings(ctx context.Context, repo oci.Repository) ([]console.Standing, error) {
	standings, err := j.Ledger.Standings(ctx, repo)
	if err != nil {
		return nil, err
	}
	all := make([]console.Standing, 0, len(standings))
	for _, s := range standings {
		all = append(all, console.Standing{
			Repository: repo.String(), Digest: s.Candidate.Digest, Decision: s.Decision, Quarantined: s.Decision != gate.Allow && s.Keep,
			Admitted: s.Admitted, JudgedAt: s.JudgedAt, Until: s.Until, FirstJudgedAt: s.FirstJudgedAt,
		})
	}
	return all, nil
}

// shownStatements returns what is stated to others, as the console shows it; nil for nothing.
func (in *instance) shownStatements() console.Statements {
	if in.statements == nil {
		return nil
	}
	return in.statements
}
