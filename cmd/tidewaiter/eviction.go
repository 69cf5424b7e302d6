package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/eviction"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/quarantine"
	"github.com/tidewaiter/tidewaiter/trail"
)

// openEviction makes what sees to it that there is room. It does nothing until it runs.
func (in *instance) openEviction() {
	in.room = in.quarantine.Room(time.Now)
	in.evictor = eviction.New(eviction.Options{
		Storage: in.room, Images: in.room, Standings: evictable{in.ledger}, Pulls: in.trail, MaxBytes: int64(in.config.Storage.MaxBytes), Idle: in.config.Storage.MinIdle,
		Grown: in.room.Grown(), Full: in.room.Full(), Now: time.Now, Log: in.log,
	})
}

// stepped is told of every step of a judging. One that failed because the storage is full is a reason to make room, whatever was to be
// kept.
func (in *instance) stepped(step string, took time.Duration, err error) {
	in.meters.step(step, took, err)
	in.room.Notice(err)
}

// keepRoom makes room until ctx ends, while this replica is the one of the fleet to do it.
func (in *instance) keepRoom(ctx context.Context) { in.lead(ctx, "eviction", in.evictor.Run) }

// held returns how much is held, if this replica is the one that knows.
func (in *instance) held() (bytes int64, known bool) {
	bytes, counted := in.room.HeldBytes()
	return bytes, counted && in.evictor.Stats().Running
}

// evictable is the ledger as the evictor asks it.
type evictable struct{ *ledger.Ledger }

// Standing implements eviction.Standings.
func (e evictable) Standing(ctx context.Context, c gate.Candidate) (eviction.Standing, bool, error) {
	s, known, err := e.Ledger.Standing(ctx, c)
	return eviction.Standing{Decision: s.Decision, Keep: s.Keep}, known, err
}

// holdings are the images that are judged again with nobody asking: those that are held, and those that were evicted while somebody has
// them, who would otherwise never hear that they are denied by now. Of the latter the manifest is fetched again, and no layer.
type holdings struct {
	*quarantine.Quarantine
	ledger *ledger.Ledger
	trail  *trail.Trail
}

// Holds implements rejudge.Holdings.
func (h holdings) Holds(ctx context.Context, c gate.Candidate) (bool, error) {
	held, err := h.Quarantine.Holds(ctx, c)
	if err != nil || held || c.Repository.Upstream == "" {
		return held, err
	}
	s, known, err := h.ledger.Standing(ctx, c)
	if err != nil || !known || s.Decision != gate.Allow {
		return false, err
	}
	by, err := h.trail.PulledBy(ctx, c)
	return err == nil && by.Any(), err
}

// heldGauge tells how much is held once somebody has counted: a number that is not known is no number.
type heldGauge struct {
	desc *prometheus.Desc
	held func() (bytes int64, counted bool)
}

// Describe implements prometheus.Collector.
func (g heldGauge) Describe(to chan<- *prometheus.Desc) { to <- g.desc }

// Collect implements prometheus.Collector.
func (g heldGauge) Collect(to chan<- prometheus.Metric) {
	if bytes, counted := g.held(); counted {
		to <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(bytes))
	}
}

// evictionMetrics are what the evictor counts by itself.
func evictionMetrics(stats func() eviction.Stats, held func() (int64, bool), maxBytes int64) []prometheus.Collector {
	count := func(name, help string, value func(eviction.Stats) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value(stats())) })
	}
	return []prometheus.Collector{
		heldGauge{prometheus.NewDesc("tidewaiter_storage_held_bytes",
			"Bytes of blobs and uploads in storage, by the last count and what this process did since; absent where nobody counts.", nil, nil), held},
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidewaiter_storage_max_bytes", Help: "storage.max_bytes; 0 for no limit.",
		}, func() float64 { return float64(maxBytes) }),
		count("tidewaiter_storage_evicted_images_total", "Images evicted to make room.", func(s eviction.Stats) uint64 { return s.Images }),
		count("tidewaiter_storage_evicted_bytes_total", "Bytes that went with evicted images.", func(s eviction.Stats) uint64 { return s.Bytes }),
		count("tidewaiter_storage_orphaned_bytes_total", "Bytes removed that nothing referred to.", func(s eviction.Stats) uint64 { return s.Orphaned }),
		count("tidewaiter_storage_full_total", "How often the storage had no room for something.", func(s eviction.Stats) uint64 { return s.Full }),
	}
}
