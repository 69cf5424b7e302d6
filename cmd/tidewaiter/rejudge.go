package main

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/rejudge"
)

// rejudgeConfig says how fast what is held is judged again when what verdicts go by changes.
type rejudgeConfig struct {
	Workers   int
	PerSecond int `mapstructure:"per_second"`
}

// problems returns what is wrong with c.
func (c rejudgeConfig) problems() []error {
	var found []error
	if c.Workers < 0 {
		found = append(found, errors.New("rejudge.workers must not be negative"))
	}
	if c.PerSecond < 0 {
		found = append(found, errors.New("rejudge.per_second must not be negative"))
	}
	return found
}

// openRejudger makes what judges again what is held. It does nothing until it runs.
func (in *instance) openRejudger() {
	c := in.config.Rejudge
	in.rejudger = rejudge.New(rejudge.Options{
		Judge: again{in.gate}, Standings: standings{in.ledger}, Holdings: holdings{in.quarantine, in.ledger, in.trail}, Pulls: in.trail, UnderWay: in.gate.UnderWay, Lease: in.lease,
		Log: in.log, Now: time.Now, PerSecond: c.PerSecond,
		Workers: cmp.Or(c.Workers, max(runtime.GOMAXPROCS(0)/2, 1)),
	})
}

// again is the gate for what is judged with nobody waiting.
type again struct{ *gate.Gate }

// Renew implements rejudge.Judge. What stays in quarantine is examined to the end before it returns, so that no more of that goes on at
// once than there are workers.
func (a again) Renew(ctx context.Context, c gate.Candidate, beyond time.Time) (gate.Verdict, error) {
	v, err := a.Gate.Renew(ctx, c, beyond)
	if err != nil || v.Allowed() || v.Complete || !v.Keep {
		return v, err
	}
	if examined, err := a.Examine(ctx, c); err == nil { // the refusal stands without
		return examined, nil
	}
	return v, nil
}

// standings is the ledger as the rejudger asks it.
type standings struct{ *ledger.Ledger }

// Standings implements rejudge.Standings.
func (s standings) Standings(ctx context.Context, repo oci.Repository) ([]rejudge.Standing, error) {
	found, err := s.Ledger.Standings(ctx, repo)
	all := make([]rejudge.Standing, len(found))
	for i, f := range found {
		all[i] = rejudge.Standing{Candidate: f.Candidate, Decision: f.Decision, Key: f.Key, JudgedAt: f.JudgedAt, Until: f.Until}
	}
	return all, err
}

// rejudgeMetrics are what the rejudger counts by itself.
func rejudgeMetrics(stats func() rejudge.Stats) []prometheus.Collector {
	all := []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidewaiter_rejudge_pending", Help: "Candidates left to be judged again of those being gone through.",
		}, func() float64 { return float64(stats().Pending) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidewaiter_rejudge_last_duration_seconds", Help: "How long the last change took that everything held was judged again for; 0 for none yet.",
		}, func() float64 { return stats().Took.Seconds() }),
	}
	for result, count := range map[string]func(rejudge.Stats) uint64{
		"withdrawn": func(s rejudge.Stats) uint64 { return s.Withdrawn }, "released": func(s rejudge.Stats) uint64 { return s.Released },
		"unchanged": func(s rejudge.Stats) uint64 { return s.Unchanged }, "failed": func(s rejudge.Stats) uint64 { return s.Failed },
	} {
		all = append(all, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tidewaiter_rejudge_total", Help: "Candidates judged again with nobody waiting, by what came of it.",
			ConstLabels: prometheus.Labels{"result": result},
		}, func() float64 { return float64(count(stats())) }))
	}
	return all
}
