package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/audit"
	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/notify"
	"github.com/tidewaiter/tidewaiter/policy"
	"github.com/tidewaiter/tidewaiter/proxy"
	"github.com/tidewaiter/tidewaiter/review"
)

// openEvents opens what passes events on, to which everything that is opened later may publish.
func (in *instance) openEvents() (err error) {
	host, err := os.Hostname()
	if err != nil { // one of several without a name would take the others' deliveries for its own, which are then made twice
		host = "tidewaiter"
	}
	source := strings.TrimSuffix(in.config.Listen.AdminURL, "/")
	if source == "" {
		source = "urn:tidewaiter:" + host
	}
	webhooks, _ := in.config.webhooks()
	in.events, err = notify.New(notify.Options{
		Source: source, Replica: host + "/" + in.config.Listen.Registry, Webhooks: webhooks, Log: in.log,
		Store: deliveries{ledger.NewPending[notify.Delivery](in.ledger, "webhooks")},
	})
	if err != nil {
		return usageError(err)
	}
	in.policies.Tell(policyChanges{in})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	in.deliver = func() { running.Go(func() { in.events.Run(ctx) }) }
	in.closers = append(in.closers, func() error { // by when nothing publishes any more
		stop()
		running.Wait()
		return nil
	})
	return nil
}

// deliveries are the events on their way to webhooks, in the ledger. It implements notify.Store.
type deliveries struct {
	ledger.Pending[notify.Delivery]
}

// Kept implements notify.Store.
func (d deliveries) Kept(ctx context.Context) ([]notify.Stored, error) {
	names, records, err := d.Pending.Kept(ctx)
	var all []notify.Stored
	for i, name := range names {
		all = append(all, notify.Stored{Name: name, Delivery: records[i]})
	}
	return all, err
}

// record puts e on record. After an error, which is counted, logged and told, nothing that must be on record may be done.
func (in *instance) record(ctx context.Context, e audit.Event) error {
	if in.audit == nil { // nobody is served: a single check
		return nil
	}
	err := in.audit.Record(ctx, e)
	in.meters.recorded(err)
	if err != nil {
		in.log.ErrorContext(ctx, "something could not be put on record", "event", e.Event, "err", err)
		in.events.Publish(ctx, notify.Event{Type: notify.AuditFailed, Data: map[string]string{"event": e.Event}})
	}
	return err
}

// putOnRecord implements access.Audit.
func (in *instance) putOnRecord(ctx context.Context, a access.Attempt) error {
	result := "refused"
	if a.Event == access.EventAllowed || a.Event == access.EventTokenIssued {
		result = "allowed"
	}
	if a.Event == access.EventBadCredentials {
		in.events.Publish(ctx, notify.Event{
			Type: notify.LoginFailed, Data: map[string]string{"caller": a.Caller, "address": a.Address, "reason": a.Reason},
		})
	}
	return in.record(ctx, audit.Event{
		Event: "access." + string(a.Event), Caller: a.Caller, Address: a.Address, Action: string(a.Action), Repository: a.Repository,
		Tag: a.Tag, Digest: a.Digest.String(), Result: result, Reason: a.Reason, RequestID: proxy.RequestID(ctx),
	})
}

// audited puts every verdict on record before it is one: what cannot be put there does not come about, and is judged again by whoever
// asks next.
type audited struct {
	gate.Records
	in *instance
}

// RecordVerdict implements gate.Records.
func (a audited) RecordVerdict(ctx context.Context, v gate.Verdict) error {
	if a.in.audit != nil && a.in.audit.Durable() { // else the log has it already, in its own words
		if err := a.in.record(ctx, verdictRecord(v)); err != nil {
			return err
		}
	}
	return a.Records.RecordVerdict(ctx, v)
}

func verdictRecord(v gate.Verdict) audit.Event {
	e := audit.Event{
		Event: string(notify.VerdictDenied), Repository: v.Repository.String(), Digest: v.Digest.String(), Result: "refused",
		Reason: v.Summary(), Inputs: v.Key,
	}
	if v.Allowed() {
		e.Event, e.Result, e.Reason = string(notify.VerdictAllowed), "allowed", v.WarningSummary()
		if e.Reason == "" {
			e.Reason = v.Policy
		}
	}
	return e
}

// decided is told of every verdict that was made. It waits for nothing.
func (in *instance) decided(v gate.Verdict) {
	in.meters.verdict(v)
	in.tell(topicVerdict, []byte(v.Candidate().String()))
	in.trail.Decided(v)
	if in.statements != nil {
		in.statements.Decided(v)
	}
	in.events.Publish(context.Background(), notify.Verdict(v))
	if !v.Allowed() && v.Keep {
		in.events.Publish(context.Background(), notify.About(notify.ImageQuarantined, v, v.Summary()))
	}
}

// changed is told of every verdict made here that decides otherwise than the one before it. It waits for nothing.
func (in *instance) changed(before, after gate.Verdict) {
	switch {
	case before.Allowed() && !after.Allowed():
		in.tell(topicWithdrawn, []byte(after.Candidate().String()))
		in.events.Publish(context.Background(), notify.About(notify.ImageWithdrawn, after, after.Summary()))
	case !before.Allowed() && after.Allowed():
		in.events.Publish(context.Background(), notify.About(notify.ImageReleased, after, before.Summary()))
	}
}

// acted is told of what people decided, once it is on record, and of waivers that lapse.
func (in *instance) acted(a review.Act) {
	in.tell(topicWaivers, nil)
	types := map[review.Kind]notify.Type{
		review.KindGranted: notify.WaiverGranted, review.KindApproved: notify.WaiverGranted, review.KindRevoked: notify.WaiverRevoked,
		review.KindExpiring: notify.WaiverExpiring, review.KindExpired: notify.WaiverExpired,
		review.KindReleased: notify.QuarantineReleased, review.KindDropped: notify.QuarantineDropped,
	}
	t, told := types[a.Kind]
	if !told || a.Pending || a.Failed {
		return
	}
	e := notify.Event{Type: t, Repository: a.Candidate.Repository, Data: struct {
		By      string          `json:"by,omitempty"`
		Reason  string          `json:"reason,omitempty"`
		Waivers []review.Waiver `json:"waivers,omitempty"`
	}{a.By.Name, start(a.Reason), a.Waivers[:min(len(a.Waivers), maxWaiversTold)]}}
	if a.Candidate != (gate.Candidate{}) {
		e.Subject = a.Candidate.String()
	} else if len(a.Waivers) > 0 {
		e.Subject = a.Waivers[0].ID
	}
	in.events.Publish(context.Background(), e)
}

// maxWaiversTold bounds the waivers of one event. A release has one for each reason, and all of them are at the console.
const maxWaiversTold = 20

// policyChanges is told of changed policy and trust files. It implements policy.Told.
type policyChanges struct{ in *instance }

// Changed implements policy.Told.
func (p policyChanges) Changed(ctx context.Context, before, after policy.Revisions) error {
	err := p.in.record(ctx, audit.Event{
		Event: string(notify.PolicyChanged), Result: "allowed", Inputs: written(after), Reason: "before: " + written(before),
	})
	if err != nil {
		return err
	}
	p.in.events.Publish(ctx, notify.Event{Type: notify.PolicyChanged, Data: struct {
		Before policy.Revisions `json:"before"`
		After  policy.Revisions `json:"after"`
	}{before, after}})
	return nil
}

// Refused implements policy.Told.
func (p policyChanges) Refused(ctx context.Context, inForce policy.Revisions, why error) {
	_ = p.in.record(ctx, audit.Event{ // said by record; nothing changes either way
		Event: string(notify.PolicyRejected), Result: "refused", Inputs: written(inForce), Reason: why.Error(),
	})
	p.in.events.Publish(ctx, notify.Event{Type: notify.PolicyRejected, Data: struct {
		InForce policy.Revisions `json:"in_force"`
		Reason  string           `json:"reason"`
	}{inForce, start(why.Error())}})
}

// maxReasonBytes bounds what an event repeats of what is wrong with files. The log has all of it.
const maxReasonBytes = 4 << 10

func start(s string) string {
	if len(s) <= maxReasonBytes {
		return s
	}
	return strings.ToValidUTF8(s[:maxReasonBytes], "") + "…"
}

func written(r policy.Revisions) string {
	return fmt.Sprintf("policies %s, waivers %s, roots %s", r.Policies, r.Waivers, r.Roots)
}

// advisoriesReloaded says that other advisory data is in use, or why what changed is not.
func (in *instance) advisoriesReloaded(ctx context.Context, changed bool, err error) {
	snapshot := in.advisories.Snapshot()
	switch {
	case err != nil:
		_ = in.record(ctx, audit.Event{Event: string(notify.AdvisoriesRejected), Result: "refused", Inputs: snapshot.ID, Reason: err.Error()}) // as in Refused
		in.events.Publish(ctx, notify.Event{Type: notify.AdvisoriesRejected, Data: map[string]string{"in_use": snapshot.ID, "reason": start(err.Error())}})
	case changed:
		_ = in.record(ctx, audit.Event{Event: string(notify.AdvisoriesChanged), Result: "allowed", Inputs: snapshot.ID}) // they are in use already, and every verdict names them
		in.events.Publish(ctx, notify.Event{Type: notify.AdvisoriesChanged, Data: map[string]any{"snapshot": snapshot.ID, "built": snapshot.UpdatedAt}})
	}
}

// recordStart puts on record what the process goes by from here on.
func (in *instance) recordStart(ctx context.Context) error {
	configured, err := json.Marshal(in.config)
	if err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	// Marked with our key, so that nobody can try out what a URL with a password in it may have been.
	mark := in.key.Derive("configuration").Mark("configuration", configured)
	return in.record(ctx, audit.Event{
		Event: "process.started", Result: "allowed", Inputs: written(in.policies.Revisions()),
		Reason: "version " + version + ", configuration " + hex.EncodeToString(mark) + ", advisories " + in.advisories.Snapshot().ID,
	})
}

// operators returns who runs all of this as the console asks for it; nil where everybody does who reaches its address.
func (in *instance) operators() console.Operators {
	if !in.config.hasReviewers() {
		return nil
	}
	return in.access
}
