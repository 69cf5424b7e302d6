package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/forward"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// meters turn what components report into metrics. Every label is from a closed set: a step, a decision, a rule, a kind, an outcome,
// or the host of a configured upstream.
type meters struct {
	registry  *prometheus.Registry
	steps     *prometheus.HistogramVec
	failures  *prometheus.CounterVec
	verdicts  *prometheus.CounterVec
	reasons   *prometheus.CounterVec
	warned    *prometheus.CounterVec
	exchanges *prometheus.CounterVec
	received  *prometheus.CounterVec
	forwards  *prometheus.CounterVec
	access    *prometheus.CounterVec
	trail     trailMeters
	records   *prometheus.CounterVec
}

func newMeters() *meters {
	m := &meters{
		registry: prometheus.NewRegistry(), trail: newTrailMeters(),
		steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tidewaiter_judging_step_duration_seconds", Help: "Time each step of a judging took.",
			Buckets: []float64{.001, .005, .025, .1, .5, 1, 5, 15, 60, 300},
		}, []string{"step"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewaiter_judging_failures_total", Help: "Judgings that came to no verdict, by the step that failed.",
		}, []string{"step"}),
		verdicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewaiter_verdicts_total", Help: "Verdicts made, by decision.",
		}, []string{"decision"}),
		reasons: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewaiter_denials_total", Help: "Denials, by rule; one with reasons of several rules counts once for each.",
		}, []string{"rule"}),
		warned: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewaiter_warned_total", Help: "Admissions with warnings, by rule; one with warnings of several rules counts once for each.",
		}, []string{"rule"}),
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewaiter_upstream_requests_total", Help: "Requests to upstreams, by upstream, kind and outcome.",
		}, []string{"upstream", "kind", "outcome"}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewaiter_upstream_received_bytes_total", Help: "Bytes of content read from upstreams.",
		}, []string{"upstream", "kind"}),
		forwards: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewaiter_forwards_total", Help: "Attempts to copy an admitted manifest to an upstream, by outcome.",
		}, []string{"outcome"}),
		access: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewaiter_access_total", Help: "What came of who asked, and what happened to the files that say who may, by event.",
		}, []string{"event"}),
	}
	m.records = newRecords()
	m.begin()
	for _, e := range access.Events() { // there from the start, so that whoever alerts sees the first one
		m.access.WithLabelValues(string(e))
	}
	m.registry.MustRegister(m.records, m.forwards, m.access, m.steps, m.failures, m.verdicts, m.reasons, m.warned, m.exchanges, m.received,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *meters) step(step string, took time.Duration, err error) {
	m.steps.WithLabelValues(step).Observe(took.Seconds())
	if err != nil {
		m.failures.WithLabelValues(step).Inc()
	}
}

func (m *meters) accessed(e access.Event) { m.access.WithLabelValues(string(e)).Inc() }

func (m *meters) forwarded(e forward.Event) { m.forwards.WithLabelValues(string(e.Outcome)).Inc() }

func (m *meters) verdict(v gate.Verdict) {
	m.verdicts.WithLabelValues(v.Decision.String()).Inc()
	countRules(m.reasons, v.Reasons)
	if v.Allowed() {
		countRules(m.warned, v.Warnings)
	}
}

// countRules counts each rule of reasons once.
func countRules(counter *prometheus.CounterVec, reasons []gate.Reason) {
	counted := map[gate.Rule]bool{}
	for _, r := range reasons {
		if !counted[r.Rule] {
			counted[r.Rule] = true
			counter.WithLabelValues(string(r.Rule)).Inc()
		}
	}
}

func (m *meters) exchange(e upstream.Event) {
	m.exchanges.WithLabelValues(e.Upstream, string(e.Kind), string(e.Outcome)).Inc()
	m.received.WithLabelValues(e.Upstream, string(e.Kind)).Add(float64(e.Bytes))
}

// watch registers what components count by themselves.
func (m *meters) watch(in *instance, served ...prometheus.Collector) {
	count := func(name, help string, value func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	moment := func(name, help string, at func() time.Time) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if t := at(); !t.IsZero() {
				return float64(t.Unix())
			}
			return 0
		})
	}
	m.registry.MustRegister(served...)
	m.registry.MustRegister(evictionMetrics(in.evictor.Stats, in.held, int64(in.config.Storage.MaxBytes))...)
	m.registry.MustRegister(rejudgeMetrics(in.rejudger.Stats)...)
	m.registry.MustRegister(newEventMetrics(in.events.Stats))
	m.registry.MustRegister(stateMetrics(in)...)
	m.registry.MustRegister(
		count("tidewaiter_verdict_cache_hits_total", "Verdicts remembered in process.", func() uint64 { return in.verdicts.Stats().Hits }),
		count("tidewaiter_verdict_cache_redis_hits_total", "Verdicts remembered in Redis.", func() uint64 { return in.verdicts.Stats().RedisHits }),
		count("tidewaiter_verdict_cache_misses_total", "Verdicts not remembered.", func() uint64 { return in.verdicts.Stats().Misses }),
		count("tidewaiter_redis_tampered_total", "Values in Redis that were not sealed by us for their key, and were ignored.", func() uint64 { return in.verdicts.Stats().Tampered }),
		count("tidewaiter_redis_errors_total", "Calls Redis did not answer as it should.", func() uint64 { return in.verdicts.Stats().RedisErrors }),
		count("tidewaiter_ledger_broken_verdicts_total", "Recorded verdicts that were not believed.", func() uint64 { return in.ledger.Stats().BrokenVerdicts }),
		count("tidewaiter_ledger_broken_inventories_total", "Recorded inventories that were not believed.", func() uint64 { return in.ledger.Stats().BrokenInventories }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tidewaiter_fleet_replicas", Help: "Replicas that share the Redis and were heard of lately, this one too."},
			func() float64 {
				others, _ := in.peers.counts()
				return float64(1 + others)
			}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidewaiter_fleet_disagreement", Help: "Replicas that have judged by other policies, waivers or trust than this one for longer than a reload takes.",
		}, func() float64 {
			_, disagreeing := in.peers.counts()
			return float64(disagreeing)
		}),
		moment("tidewaiter_advisories_updated_timestamp_seconds", "When the advisory data in use was built; 0 for none.",
			func() time.Time { return in.advisories.Snapshot().UpdatedAt }),
		moment("tidewaiter_advisories_until_timestamp_seconds", "When the advisory data in use is too old to count; 0 for never.",
			func() time.Time { return in.advisories.Snapshot().Until }),
		moment("tidewaiter_advisories_last_success_timestamp_seconds", "When fetching advisory data last succeeded, whether or not there was any newer; 0 for never.",
			func() time.Time { return in.attempts().SucceededAt }),
		moment("tidewaiter_advisories_last_failure_timestamp_seconds", "When fetching advisory data last failed; 0 for never.",
			func() time.Time { return in.attempts().FailedAt }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidewaiter_scan_sandbox_info", Help: "1, labelled with the sandbox layers are read in.",
			ConstLabels: prometheus.Labels{"sandbox": in.layers.Sandbox()},
		}, func() float64 { return 1 }),
	)
}
