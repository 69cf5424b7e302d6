package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/notify"
)

// newRecords counts what was put on record, and what could not be.
func newRecords() *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tidewaiter_audit_records_total", Help: "What was put on record in the audit log, and what could not be, by outcome.",
	}, []string{"outcome"})
	for _, outcome := range []string{"ok", "failed"} { // there from the start, as in newMeters
		v.WithLabelValues(outcome)
	}
	return v
}

func (m *meters) recorded(err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	m.records.WithLabelValues(outcome).Inc()
}

// eventMetrics collects what a Hub counts. Labels are types of events and names of configured webhooks.
type eventMetrics struct {
	stats func() notify.Stats

	published, readers, cut, deliveries, lost, pending *prometheus.Desc
}

func newEventMetrics(stats func() notify.Stats) *eventMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &eventMetrics{
		stats:      stats,
		published:  desc("tidewaiter_events_total", "Events published, by type.", "type"),
		readers:    desc("tidewaiter_event_readers", "Who reads the stream of events now."),
		cut:        desc("tidewaiter_event_readers_cut_total", "Readers of the stream of events that were too slow, and were cut off."),
		deliveries: desc("tidewaiter_webhook_deliveries_total", "Attempts to tell a webhook of an event, by outcome.", "webhook", "outcome"),
		lost:       desc("tidewaiter_webhook_lost_events_total", "Events a webhook was not told of because too many waited.", "webhook"),
		pending:    desc("tidewaiter_webhook_pending_events", "Events that wait: queued for a first attempt, retrying for another one, dead for somebody to look at them.", "webhook", "state"),
	}
}

// Describe implements prometheus.Collector.
func (e *eventMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{e.published, e.readers, e.cut, e.deliveries, e.lost, e.pending} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (e *eventMetrics) Collect(to chan<- prometheus.Metric) {
	s := e.stats()
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	level := func(d *prometheus.Desc, n int, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	for _, t := range notify.Types() { // there from the start, as in newMeters
		count(e.published, s.Published[t], string(t))
	}
	level(e.readers, s.Readers)
	count(e.cut, s.Cut)
	for _, w := range s.Webhooks {
		count(e.deliveries, w.Delivered, w.Name, "delivered")
		count(e.deliveries, w.Failed, w.Name, "failed")
		count(e.lost, w.Lost, w.Name)
		level(e.pending, w.Queued, w.Name, "queued")
		level(e.pending, w.Retrying, w.Name, "retrying")
		level(e.pending, w.Dead, w.Name, "dead")
	}
}
