package main

import (
	"context"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/forward"
	"github.com/tidewaiter/tidewaiter/gate"
)

// begin has what is counted be there from the start, so that whoever alerts sees the first one.
func (m *meters) begin() {
	for _, step := range []string{gate.StepHold, gate.StepVerify, gate.StepInventory, gate.StepMatch, gate.StepRecord, gate.StepRelease} {
		m.steps.WithLabelValues(step)
		m.failures.WithLabelValues(step)
	}
	for _, d := range []gate.Decision{gate.Deny, gate.Allow} {
		m.verdicts.WithLabelValues(d.String())
	}
	for _, r := range gate.Rules() {
		m.reasons.WithLabelValues(string(r))
	}
	for _, o := range forward.Outcomes() {
		m.forwards.WithLabelValues(string(o))
	}
}

// stateMetrics are what is true now, looked at when somebody asks.
func stateMetrics(in *instance) []prometheus.Collector {
	level := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	one := func() float64 { return 1 }
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidewaiter_build_info", Help: "1, labelled with what this is.",
			ConstLabels: prometheus.Labels{"version": version, "commit": commit(), "go": runtime.Version()},
		}, one),
		level("tidewaiter_storage_writable", "1 if the storage takes writes, else 0.", func() float64 {
			if in.ready(context.Background()) != nil {
				return 0
			}
			return 1
		}),
		level("tidewaiter_judgings_in_progress", "Judgings under way.", func() float64 { return float64(in.gate.Load().Judgings) }),
		level("tidewaiter_judgings_ahead", "Judgings under way that nobody waits for.", func() float64 { return float64(in.gate.Load().Ahead) }),
		level("tidewaiter_layers_reading", "Layers being read.", func() float64 { return float64(in.gate.Load().Layers) }),
		level("tidewaiter_layer_workers", "Layers that can be read at once.", func() float64 { return float64(in.gate.Load().Workers) }),
	}
}
