package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/audit"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/notify"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/trail"
)

// minTrail is the shortest time it can be known who pulled what: what is forgotten is forgotten by whole days.
const minTrail = 24 * time.Hour

// openTrail opens what is known of who saw and pulled what.
func (in *instance) openTrail() {
	o := trailIn(in.ledger)
	o.Keep, o.Now, o.Log, o.Moved, o.Recalled = in.config.Trail.Keep, time.Now, in.log, in.moved, in.recalled
	in.trail = trail.New(o)
	in.closers = append(in.closers, func() error { in.trail.Close(); return nil })
}

// trailIn returns the options of a trail that is kept in l.
func trailIn(l *ledger.Ledger) trail.Options {
	return trail.Options{
		Sightings: ledger.NewLog[trail.Sighting](l, "sightings"), Tags: ledger.NewLog[trail.Tagged](l, "tags"),
		Pulls: ledger.NewLog[trail.Pulls](l, "pulls"), Recalls: ledger.NewLog[trail.Recall](l, "recalls"), Verdicts: withdrawals{l},
	}
}

// moved is told of every tag that looks like a version and moved.
func (in *instance) moved(m trail.Move) {
	in.meters.trail.moves.WithLabelValues(string(m.Kind)).Inc()
	in.events.Publish(context.Background(), notify.Event{Type: notify.TagMoved, Repository: m.Repository, Subject: m.Repository.String() + ":" + m.Tag, Data: m})
}

// recalled is told of every recall. It is for the audit log too, whose failure does not undo it.
func (in *instance) recalled(r trail.Recalled) {
	in.meters.trail.recalls.Inc()
	reason := ""
	if len(r.Reasons) > 0 {
		reason = r.Policy + ": " + r.Reasons[0]
	}
	_ = in.record(context.Background(), audit.Event{ // said by record
		Event: "image.recalled", Repository: r.Repository.String(), Digest: r.Digest.String(), Result: "withdrawn", Reason: reason,
	})
	in.events.Publish(context.Background(), notify.Event{Type: notify.Recall, Repository: r.Repository, Subject: r.Repository.String() + "@" + r.Digest.String(), Data: r})
}

// withdrawals are the verdicts as the trail asks for them.
type withdrawals struct{ *ledger.Ledger }

// Withdrawn implements trail.Verdicts.
func (w withdrawals) Withdrawn(ctx context.Context, repo oci.Repository) ([]gate.Candidate, error) {
	standings, err := w.Standings(ctx, repo)
	var all []gate.Candidate
	for _, s := range standings {
		if s.Admitted && s.Decision != gate.Allow {
			all = append(all, s.Candidate)
		}
	}
	return all, err
}

// lastGood is what tags stood for before, for as long as policies say. It implements proxy.LastGood.
type lastGood struct {
	policies gate.Policies
	trail    *trail.Trail
	now      func() time.Time
}

// window returns how long ago a tag of repo may have moved on; 0 for never.
func (l lastGood) window(repo oci.Repository) time.Duration {
	p, _ := l.policies.Current().For(repo)
	return p.LastGood
}

// Serves implements proxy.LastGood.
func (l lastGood) Serves(repo oci.Repository) bool { return l.window(repo) > 0 }

// Earlier implements proxy.LastGood.
func (l lastGood) Earlier(ctx context.Context, repo oci.Repository, tag string, now oci.Digest) ([]oci.Digest, error) {
	window := l.window(repo)
	if window <= 0 {
		return nil, nil
	}
	return l.trail.Before(ctx, repo, tag, now, l.now().Add(-window))
}

// trailMeters count what the trail tells of.
type trailMeters struct {
	moves   *prometheus.CounterVec
	recalls prometheus.Counter
}

func newTrailMeters() trailMeters {
	m := trailMeters{
		moves: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewaiter_tag_moves_total", Help: "Tags that look like versions and came to stand for something else: for the first time, or again.",
		}, []string{"kind"}),
		recalls: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidewaiter_recalls_total", Help: "Images that were withdrawn and that somebody has.",
		}),
	}
	for _, kind := range trail.MoveKinds() { // there from the start, so that whoever alerts sees the first one
		m.moves.WithLabelValues(string(kind))
	}
	return m
}

// watch registers what the trail counts by itself, and what is told of it.
func (m trailMeters) watch(t *trail.Trail, registry *prometheus.Registry) {
	registry.MustRegister(m.moves, m.recalls,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidewaiter_recalled_images", Help: "Images that are withdrawn now and that somebody has.",
		}, func() float64 { return float64(t.Stats().Recalled) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tidewaiter_trail_failures_total", Help: "Tags, pulls and recalls that could not be put on record or looked up; pulls and recalls are tried again.",
		}, func() float64 { return float64(t.Stats().Failures) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tidewaiter_trail_lost_pulls_total", Help: "Pulls that are not on record: more clients at once than are remembered.",
		}, func() float64 { return float64(t.Stats().LostPulls) }),
	)
}
