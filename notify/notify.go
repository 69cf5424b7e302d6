// Package notify owns events: what happened, told to whoever wants to know, by webhook or as a stream.
//
// It promises that publishing an event neither waits nor fails, whoever is being told; that everything kept for those who are told is
// bounded, and what went beyond is counted and logged; that a webhook is delivered to at least once, by attempts that go on after a
// restart, and that what cannot be delivered ends among the dead letters, where somebody can look at it. It must not decide anything,
// believe what a receiver answers, or reach what the operator did not name.
package notify

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Type is what kind of event it is, in lower case with dots. The set is closed.
type Type string

// The types.
const (
	VerdictAllowed     Type = "verdict.allowed"     // a verdict was made, and allows; remembered ones are none
	VerdictDenied      Type = "verdict.denied"      // a verdict was made, and denies
	ImageReleased      Type = "image.released"      // what was denied is allowed now, and can be pulled
	ImageWithdrawn     Type = "image.withdrawn"     // what was allowed is denied now, and cannot be pulled any more
	ImageQuarantined   Type = "image.quarantined"   // denied bytes are kept for somebody to review
	QuarantineReleased Type = "quarantine.released" // somebody let an image out of quarantine
	QuarantineDropped  Type = "quarantine.dropped"  // somebody had the bytes deleted
	WaiverGranted      Type = "waiver.granted"
	WaiverRevoked      Type = "waiver.revoked"
	WaiverExpiring     Type = "waiver.expiring" // a waiver ends soon
	WaiverExpired      Type = "waiver.expired"
	PolicyChanged      Type = "policy.changed"  // other policies, waivers or trust roots are in force
	PolicyRejected     Type = "policy.rejected" // files that changed are bad; what was in force stays
	AdvisoriesChanged  Type = "advisories.changed"
	AdvisoriesRejected Type = "advisories.rejected"
	TagMoved           Type = "tag.moved" // a tag that looks like a version means something else now
	Recall             Type = "recall"    // a withdrawn image, and who has it
	LoginFailed        Type = "login.failed"
	AuditFailed        Type = "audit.failed" // something could not be put on record
)

// Types returns the closed set.
func Types() []Type {
	return []Type{
		VerdictAllowed, VerdictDenied, ImageReleased, ImageWithdrawn, ImageQuarantined, QuarantineReleased, QuarantineDropped, WaiverGranted,
		WaiverRevoked, WaiverExpiring, WaiverExpired, PolicyChanged, PolicyRejected, AdvisoriesChanged, AdvisoriesRejected, TagMoved, Recall,
		LoginFailed, AuditFailed,
	}
}

// Known reports whether t is of the closed set.
func (t Type) Known() bool { return slices.Contains(Types(), t) }

// Event is something that happened. Texts in it may have been written by clients, upstreams, or whoever built an image.
type Event struct {
	Type Type
	// Time is when, UTC; the zero time is now.
	Time time.Time
	// Repository is what it is about, and with it who may be told; the zero Repository is about none of them, for operators alone.
	Repository oci.Repository
	// Subject names what it is about more closely, such as a reference by digest. Empty: the repository, or nothing.
	Subject string
	// Data is what there is to say beyond that: a value that JSON can write, of at most maxDataBytes. It is read before Publish returns.
	Data any
}

// maxDataBytes bounds what an event says. A denial with its reasons takes some kilobytes, and receivers refuse what is much larger.
const maxDataBytes = 32 << 10

// Published is an event as it is passed on. It is never modified.
type Published struct {
	// ID is unique among all events of all processes. It has letters, digits and '-' alone.
	ID         string
	Type       Type
	Repository oci.Repository
	Subject    string
	// Body is the event as JSON (CloudEvents 1.0.2, JSON event format, in structured mode).
	Body []byte
}

// Options are what a Hub is built from. Log is needed, and Store with Webhooks.
type Options struct {
	// Source says whose events they are, as a URI reference: where the admin address is, or a name of this installation.
	Source string
	// Replica is the name of this process among those that share the store, the same after a restart.
	Replica  string
	Webhooks []Webhook
	Store    Store
	Log      *slog.Logger
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// Hub passes events on. It is made by [New] and safe for concurrent use.
type Hub struct {
	o        Options
	couriers []*courier
	// epoch tells the events of this process from those of others.
	epoch string

	mu        sync.Mutex
	sequence  uint64          // guarded by mu; of the last event
	ring      ring            // guarded by mu
	readers   map[*Reader]any // guarded by mu
	cut       uint64          // guarded by mu; readers that were too slow
	published map[Type]uint64 // guarded by mu
}

// New returns a Hub, or everything that is wrong with its webhooks, joined. It tells nobody before [Hub.Run] does.
func New(o Options) (*Hub, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &Hub{o: o, epoch: rand.Text(), readers: map[*Reader]any{}, published: map[Type]uint64{}}
	if err := Check(o.Webhooks); err != nil {
		return nil, err
	}
	for _, w := range o.Webhooks {
		c, err := newCourier(w, o)
		if err != nil {
			return nil, fmt.Errorf("webhook %s: %w", w.name(), err)
		}
		h.couriers = append(h.couriers, c)
	}
	return h, nil
}

// Publish passes e on to whoever wants to know. It never waits for any of them.
func (h *Hub) Publish(ctx context.Context, e Event) {
	data, err := encodeData(e.Data)
	if err != nil {
		h.o.Log.ErrorContext(ctx, "an event is passed on without what it says", "event", string(e.Type), "err", err)
	}
	p := h.publish(e, data)
	for _, c := range h.couriers {
		if c.hook.wants(p) {
			c.offer(ctx, p)
		}
	}
}

// publish gives e its id and passes it to the readers.
func (h *Hub) publish(e Event, data json.RawMessage) Published {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sequence++
	h.published[e.Type]++
	if e.Time.IsZero() {
		e.Time = h.o.Now()
	}
	if e.Subject == "" && e.Repository != (oci.Repository{}) {
		e.Subject = e.Repository.String()
	}
	p := Published{ID: h.epoch + "-" + strconv.FormatUint(h.sequence, 10), Type: e.Type, Repository: e.Repository, Subject: e.Subject}
	p.Body = encode(p, h.o.Source, e.Time, data)
	h.ring.add(p)
	for r := range h.readers {
		if !r.offer(p) {
			h.cut++
			h.leave(r)
		}
	}
	return p
}

// Run delivers to the webhooks until ctx ends, and then keeps what is undelivered for the next start.
func (h *Hub) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, c := range h.couriers {
		running.Go(func() { c.run(ctx) })
	}
	running.Wait()
}

// Stats are what a Hub counts.
type Stats struct {
	// Published counts events by their type, those there were none of left out.
	Published map[Type]uint64
	// Readers is how many read the stream now, Cut how many were too slow for it since the start.
	Readers  int
	Cut      uint64
	Webhooks []WebhookStats
}

// WebhookStats are about one webhook, since the start.
type WebhookStats struct {
	Name string
	// Delivered counts events, Failed attempts, Lost events there was no more room for.
	Delivered, Failed, Lost uint64
	// Queued is how many events wait for a first attempt, Retrying for another one, Dead how many letters are dead.
	Queued, Retrying, Dead int
}

// Stats returns the counts so far.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	s := Stats{Published: map[Type]uint64{}, Readers: len(h.readers), Cut: h.cut}
	for t, n := range h.published {
		s.Published[t] = n
	}
	h.mu.Unlock()
	for _, c := range h.couriers {
		s.Webhooks = append(s.Webhooks, c.stats())
	}
	return s
}
