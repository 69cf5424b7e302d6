package forward

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// lookAgain is how long the queue is left alone when nobody says that something is new: another process may have admitted something
// and ended before it was copied.
const lookAgain = 30 * time.Minute

// maxReasonBytes bounds the reason of an [ItemStatus], which is shown in a line.
const maxReasonBytes = 500

// place is what a task is about: a manifest, and where it goes.
type place struct {
	candidate gate.Candidate
	to        string
}

// lane is what one attempt at a time is made in: two that moved the same tag could leave it where the older one stands.
type lane struct{ repository, to string }

func (i Item) place() place { return place{i.Candidate, i.To} }
func (i Item) lane() lane   { return lane{i.Candidate.Repository.String(), i.To} }

// task is an item and what became of the attempts to copy it.
type task struct {
	item     Item
	running  bool
	attempts int // that have ended
	outcome  Outcome
	reason   string
	// next is when it is tried, or tried again.
	next time.Time
}

// ItemStatus is how far an item has got.
type ItemStatus struct {
	Item Item
	// Running says that an attempt is being made.
	Running bool
	// Attempts counts those that have ended since the process started.
	Attempts int
	// Outcome and Reason tell how the last of them ended. Reason is for operators, and may quote what an upstream wrote.
	Outcome Outcome
	Reason  string
	// NextTry is when the next is made at the earliest, UTC.
	NextTry time.Time
}

// Status returns what is pending, as far as is known, oldest first.
func (f *Forwarder) Status() []ItemStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]ItemStatus, 0, len(f.tasks))
	for _, t := range f.tasks {
		if t.outcome == OutcomeCopied {
			continue
		}
		item := t.item
		item.Tags = slices.Clone(item.Tags)
		list = append(list, ItemStatus{item, t.running, t.attempts, t.outcome, t.reason, t.next.UTC()})
	}
	slices.SortFunc(list, func(a, b ItemStatus) int { return older(a.Item, b.Item) })
	return list
}

// host returns the name of the upstream that to is at.
func host(to string) string {
	host, _, _ := strings.Cut(to, "/")
	return host
}

func older(a, b Item) int {
	return cmp.Or(a.AdmittedAt.Compare(b.AdmittedAt), cmp.Compare(a.Candidate.String(), b.Candidate.String()), cmp.Compare(a.To, b.To))
}

// round looks at what is pending and returns what is to be tried now, already marked as running, and how long the next round can wait
// unless something happens.
func (f *Forwarder) round(ctx context.Context) (due []Item, next time.Duration) {
	if wait := f.listingWait(); wait > 0 {
		return nil, wait
	}
	items, err := f.o.Queue.Pending(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.o.Now()
	if err != nil {
		f.unlisted++
		pause := wait(f.unlisted, err)
		f.listAt = now.Add(pause)
		if ctx.Err() == nil {
			f.o.Log.ErrorContext(ctx, "what is to be forwarded could not be looked up; nothing is copied meanwhile", "err", err, "wait", pause)
		}
		return nil, pause
	}
	f.unlisted = 0
	f.learn(items, now)
	return f.choose(now)
}

// listingWait returns how long a queue that could not be read is still left alone.
func (f *Forwarder) listingWait() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unlisted == 0 {
		return 0
	}
	return f.listAt.Sub(f.o.Now())
}

// learn brings the tasks into line with what is pending. The caller holds mu.
func (f *Forwarder) learn(items []Item, now time.Time) {
	pending := make(map[place]bool, len(items))
	for _, item := range items {
		pending[item.place()] = true
		t := f.tasks[item.place()]
		switch {
		case t == nil:
			f.tasks[item.place()] = &task{item: item, next: now}
		case t.running: // what it is about is settled; what is left of it will be pending then
		case !slices.Equal(t.item.Tags, item.Tags) || t.item.Revision != item.Revision:
			*t = task{item: item, next: now}
		}
	}
	maps.DeleteFunc(f.tasks, func(p place, t *task) bool { return !pending[p] && !t.running })
}

// choose marks as running what is due and has a worker, longest due first. The caller holds mu.
func (f *Forwarder) choose(now time.Time) (due []Item, next time.Duration) {
	tasks := slices.SortedFunc(maps.Values(f.tasks), func(a, b *task) int { return cmp.Or(a.next.Compare(b.next), older(a.item, b.item)) })
	workers, lanes, hosts := 0, map[lane]bool{}, map[string]int{}
	run := func(t *task) {
		workers++
		lanes[t.item.lane()] = true
		hosts[host(t.item.To)]++
	}
	for _, t := range tasks {
		if t.running {
			run(t)
		}
	}
	next = lookAgain
	for _, t := range tasks {
		switch wait := t.next.Sub(now); {
		case t.running:
		case wait > 0:
			next = min(next, wait)
		case workers < f.o.Workers && !lanes[t.item.lane()] && hosts[host(t.item.To)] < max(f.o.Workers/2, 1):
			t.running = true
			run(t)
			due = append(due, t.item)
		} // what has no worker gets one when an attempt ends, which begins a round
	}
	return due, next
}

// attempt tries once to copy an item that was marked as running.
func (f *Forwarder) attempt(ctx context.Context, item Item) {
	began := f.o.Now()
	bytes, err := f.copyItem(ctx, item)
	took := f.o.Now().Sub(began)

	f.mu.Lock()
	t := f.tasks[item.place()]
	t.running = false
	if err != nil && ctx.Err() != nil {
		f.mu.Unlock()
		return
	}
	t.attempts++
	t.outcome, t.reason = outcomeOf(err), ""
	pause := wait(t.attempts, err) // after a success too, should the queue not believe it
	t.next = f.o.Now().Add(pause)
	attempts := t.attempts
	if err != nil {
		t.reason = strings.ToValidUTF8(err.Error()[:min(len(err.Error()), maxReasonBytes)], "")
	}
	f.mu.Unlock()

	f.o.Observe(Event{outcomeOf(err), took, bytes})
	f.report(ctx, item, err, "attempts", attempts, "dur", took, "wait", pause, "bytes", bytes)
}

// report logs how an attempt ended.
func (f *Forwarder) report(ctx context.Context, item Item, err error, facts ...any) {
	log := f.o.Log.With("candidate", item.Candidate.String(), "to", item.To, "tags", item.Tags, "outcome", string(outcomeOf(err))).With(facts...)
	switch outcomeOf(err) {
	case OutcomeCopied:
		log.InfoContext(ctx, "forwarded")
	case OutcomeRefused:
		log.ErrorContext(ctx, "the upstream refuses what is forwarded to it; it is tried again rarely until somebody puts that right", "err", err)
	case OutcomeDenied:
		log.WarnContext(ctx, "not forwarded: it is not allowed any more", "err", err)
	default:
		log.WarnContext(ctx, "not forwarded yet", "err", err)
	}
}
