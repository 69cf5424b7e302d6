package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/audit"
	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/quarantine"
	"github.com/tidewaiter/tidewaiter/review"
)

type reviewConfig struct {
	SecondApprover bool          `mapstructure:"second_approver"`
	WarnBefore     time.Duration `mapstructure:"warn_before"`
}

// reviewProblems returns what is wrong with how people decide.
func (c *config) reviewProblems() (found []error) {
	if c.Review.WarnBefore < 0 {
		found = append(found, errors.New("review.warn_before must not be negative"))
	}
	if c.Review.SecondApprover && !c.hasReviewers() {
		found = append(found, errors.New("review.second_approver needs access.grants that say who reviews: two people have to be told apart"))
	}
	return found
}

// Kinds of the logs people's decisions, and the requests that were denied, are kept in.
const (
	waiversKind = "waivers"
	askedKind   = "asked"
)

// openReview opens what people decided: the waivers that the gate goes by beside those of the files, and who asked for what is denied.
func (in *instance) openReview(ctx context.Context) error {
	decided := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tidewaiter_decisions_total", Help: "What people decided about denied images and waivers, and what came about with time, by kind.",
	}, []string{"kind"})
	for _, k := range review.Kinds() { // there from the start, so that whoever alerts sees the first one
		decided.WithLabelValues(string(k))
	}
	var err error
	in.waivers, err = review.Open(ctx, review.Options{
		Files: in.policies, Log: ledger.NewLog[review.Event](in.ledger, waiversKind), Audit: decisions{in},
		SecondApprover: in.config.Review.SecondApprover, WarnBefore: in.config.Review.WarnBefore,
		Notify: func(a review.Act) {
			decided.WithLabelValues(string(a.Kind)).Inc()
			in.acted(a)
		},
		Now: time.Now, Logger: in.log,
	})
	if err != nil {
		return err
	}
	in.closers = append(in.closers, in.waivers.Close)
	in.askers = review.NewAskers(ledger.NewLog[review.Asking](in.ledger, askedKind), time.Now, in.log)
	in.closers = append(in.closers, func() error {
		if err := in.askers.Close(); err != nil { // some counts, which nothing rests on
			in.log.Warn("who asked for what is denied is not all written down", "err", err)
		}
		return nil
	})
	in.meters.registry.MustRegister(decided)
	for _, s := range review.States() {
		in.meters.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidewaiter_waivers", Help: "Waivers there are, by state.", ConstLabels: prometheus.Labels{"state": string(s)},
		}, func() float64 { return float64(in.waivers.Counts()[s]) }))
	}
	in.meters.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tidewaiter_waivers_expiring", Help: "Waivers that count and will have lapsed within review.warn_before.",
	}, func() float64 { return float64(len(in.waivers.Expiring(in.config.Review.WarnBefore))) }))
	return nil
}

// decisions puts what people decide on record.
type decisions struct{ in *instance }

// Record implements review.Audit.
func (d decisions) Record(ctx context.Context, a review.Act) error {
	if d.in.audit == nil {
		return errors.New("there is no audit log but while serving")
	}
	e := audit.Event{
		Event: "waiver." + string(a.Kind), Caller: a.By.Name, Address: a.By.Address, Action: string(access.Review), Result: "allowed", Reason: a.Reason,
	}
	switch a.Kind {
	case review.KindReleased, review.KindDropped, review.KindRead:
		e.Event = "quarantine." + string(a.Kind)
	}
	switch {
	case a.Failed:
		e.Result = "failed"
	case a.Pending:
		e.Result = "pending"
	}
	if a.Candidate != (gate.Candidate{}) {
		e.Repository, e.Digest = a.Candidate.Repository.String(), a.Candidate.Digest.String()
	}
	if a.Blob != "" {
		e.Reason = "blob " + a.Blob.String()
	}
	if len(a.Waivers) > 0 { // the log cuts what is too long; all of them are in the log of waivers
		w := a.Waivers[0]
		if a.Candidate == (gate.Candidate{}) {
			e.Repository, e.Digest = strings.Join(w.Repositories, " "), w.Digest.String()
		}
		var about []string
		for _, w := range a.Waivers {
			about = append(about, strings.TrimSpace(w.ID+" "+w.Vulnerability+string(w.Rule)+" "+w.Package))
		}
		e.Reason = fmt.Sprintf("%s, until %s: %s", strings.Join(about, ", "), w.Until.Format(time.RFC3339), strings.TrimSpace(w.Reason+" "+w.Ticket))
		if a.Reason != "" && a.Reason != w.Reason {
			e.Reason = a.Reason + ": " + e.Reason
		}
	}
	return d.in.record(ctx, e)
}

// asked notes who was denied what.
func (in *instance) asked(c gate.Candidate, by access.Caller) {
	in.askers.Note(c, review.Person{Name: by.Name, Address: by.Address, Known: !by.Anonymous()})
}

// reviewed returns what people decide with at the console.
func (in *instance) reviewed() *console.Review {
	queue := &review.Queue{Waivers: in.waivers, Records: denials{in.ledger}, Judge: in.gate, Bytes: kept{in.quarantine, in.hosted}, Counts: in.askers}
	return &console.Review{
		Waivers: in.waivers, WaiverDesk: in.waivers, Quarantine: queue, QuarantineDesk: queue, Forensics: in.quarantine.Kept(), Scopes: in.access,
		AnybodyDecides: isLoopback(in.config.Listen.Admin),
	}
}

// denials are the verdicts as the review queue asks for them.
type denials struct{ *ledger.Ledger }

// Kept implements review.Records. An image counts as first seen when it was first judged.
func (d denials) Kept(ctx context.Context, repo oci.Repository) ([]review.Kept, error) {
	standings, err := d.Standings(ctx, repo)
	if err != nil {
		return nil, err
	}
	var all []review.Kept
	for _, s := range standings {
		if s.Decision != gate.Allow && s.Keep {
			all = append(all, review.Kept{Candidate: s.Candidate, JudgedAt: s.JudgedAt, FirstSeen: s.FirstJudgedAt})
		}
	}
	return all, nil
}

// kept is what lies in quarantine, as the review queue asks for it.
type kept struct {
	quarantine *quarantine.Quarantine
	hosted     *hosted.Repositories
}

// Manifest implements review.Bytes.
func (k kept) Manifest(ctx context.Context, c gate.Candidate) (oci.Manifest, bool, error) {
	content, err := k.quarantine.Kept().Manifest(ctx, c)
	if oci.IsMissing(err) {
		return oci.Manifest{}, false, nil
	}
	if err != nil {
		return oci.Manifest{}, false, err
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	return m, err == nil, err
}

// Drop implements review.Bytes. What was pushed here goes with its tags, or there would be some that stand for nothing.
func (k kept) Drop(ctx context.Context, c gate.Candidate, by string) error {
	if c.Repository.Upstream != "" {
		return k.quarantine.Withdraw(ctx, c, true)
	}
	err := k.hosted.DeleteManifest(ctx, c.Repository, c.Digest, by)
	if oci.IsMissing(err) { // gone already
		return nil
	}
	return err
}
