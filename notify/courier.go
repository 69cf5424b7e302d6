package notify

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Limits of what waits for one webhook.
const (
	// maxQueuedBytes bounds what waits for a first attempt, in memory: some ten thousand verdicts.
	maxQueuedBytes = 16 << 20
	// maxKept bounds what is kept for later attempts, and as dead letters.
	maxKept = 4096
	// maxAttempting is how many attempts are made at once, as far as the receiver keeps up.
	maxAttempting = 8
	// maxPause bounds how long a receiver is left alone after attempts failed, unless it asks for longer.
	maxPause = time.Minute
	// keepTimeout bounds keeping what is undelivered when the process is to end.
	keepTimeout = 5 * time.Second
	// adoptEvery is how often it is looked for deliveries nobody takes care of; orphanedAfter is how overdue they are. A process that lives
	// may be as late when its receiver is down and much is kept, and both deliver then.
	adoptEvery    = 5 * time.Minute
	orphanedAfter = time.Hour
)

// courier delivers to one webhook. Each event is first tried from memory; once that failed it is kept in the store, and what becomes of it
// is kept before it counts. While a receiver is down, what comes meanwhile goes to the store at once, so that memory does not fill with
// what waits for a time limit to pass.
type courier struct {
	hook    Webhook
	replica string
	send    func(ctx context.Context, id string, body []byte) *failure
	store   Store
	log     *slog.Logger
	now     func() time.Time

	// wake has a value when there is something new in what mu guards.
	wake chan struct{}
	mu   sync.Mutex
	// queue are events that wait for a first attempt, of queuedBytes together; retrying are deliveries that wait until they are due.
	queue       []Published
	queuedBytes int
	retrying    []Stored
	// trying are the ids of events that are being tried, or kept.
	trying map[string]bool
	// dead counts dead letters.
	dead int
	// losing says that the log has it that events are lost.
	losing                  bool
	delivered, failed, lost uint64

	// What follows belongs to run.
	attempting int
	results    chan result
	// until is when the receiver is asked again after failures, of which there were so many without a success between.
	until    time.Time
	failures int
}

// result is what became of an attempt: nothing when it was delivered.
type result struct {
	event  string // its id
	failed *failure
	// left is what is to be tried again, if anything is.
	left *Stored
}

func newCourier(w Webhook, o Options) (*courier, error) {
	s, err := newSender(w, o.Now)
	if err != nil {
		return nil, err
	}
	return &courier{
		hook: w, replica: o.Replica, send: s.send, store: o.Store, log: o.Log.With("webhook", w.name()), now: o.Now,
		trying: map[string]bool{}, wake: make(chan struct{}, 1), results: make(chan result, maxAttempting),
	}, nil
}

// offer queues p, if there is room for it.
func (c *courier) offer(ctx context.Context, p Published) {
	c.mu.Lock()
	full := c.queuedBytes+len(p.Body) > maxQueuedBytes
	if full {
		c.lose(ctx, "too many events wait for a first attempt")
	} else {
		c.losing = false
		c.queue = append(c.queue, p)
		c.queuedBytes += len(p.Body)
	}
	c.mu.Unlock()
	if !full {
		c.rouse()
	}
}

// lose counts an event there is no room for. The caller holds c.mu.
func (c *courier) lose(ctx context.Context, why string) {
	c.lost++
	if !c.losing {
		c.log.ErrorContext(ctx, "events for a webhook are lost", "reason", why, "lost", c.lost)
	}
	c.losing = true
}

func (c *courier) rouse() {
	select {
	case c.wake <- struct{}{}:
	default: // somebody has
	}
}

// revive takes over a delivery that was a dead letter.
func (c *courier) revive(d Stored) {
	c.mu.Lock()
	c.dead = max(c.dead-1, 0)
	c.retrying = append(c.retrying, d)
	c.mu.Unlock()
	c.rouse()
}

// buried counts one dead letter less.
func (c *courier) buried() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = max(c.dead-1, 0)
}

func (c *courier) stats() WebhookStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return WebhookStats{
		Name: c.hook.name(), Delivered: c.delivered, Failed: c.failed, Lost: c.lost,
		Queued: len(c.queue), Retrying: len(c.retrying) + len(c.trying), Dead: c.dead,
	}
}

// run delivers until ctx ends, and then keeps what is undelivered.
func (c *courier) run(ctx context.Context) {
	adopt := time.NewTicker(adoptEvery)
	defer adopt.Stop()
	c.adopt(ctx, true)
	for ctx.Err() == nil {
		c.launch(ctx)
		due, waits := c.nextDue()
		timer := time.NewTimer(due)
		var alarm <-chan time.Time
		if waits && c.attempting < maxAttempting {
			alarm = timer.C
		}
		select {
		case r := <-c.results:
			c.settle(r)
		case <-alarm:
		case <-c.wake:
		case <-adopt.C:
			c.adopt(ctx, false)
		case <-ctx.Done():
		}
		timer.Stop()
	}
	for c.attempting > 0 {
		c.settle(<-c.results)
	}
	c.keepRest(ctx)
}

// launch begins as many attempts as may be made now.
func (c *courier) launch(ctx context.Context) {
	for c.attempting < maxAttempting {
		now := c.now()
		paused := now.Before(c.until)
		d, ok := c.take(now, paused)
		if !ok {
			return
		}
		c.attempting++
		go func() { c.results <- c.attempt(ctx, d, !paused) }() // run waits for each
	}
}

// take takes out what is to be tried next: what is due, then what is new. While the receiver is paused only what is new is taken, to be
// kept.
func (c *courier) take(now time.Time, paused bool) (Stored, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !paused {
		for i, d := range c.retrying {
			if !now.Before(d.Due) {
				c.retrying = slices.Delete(c.retrying, i, i+1)
				c.trying[d.EventID] = true
				return d, true
			}
		}
	}
	if len(c.queue) == 0 {
		return Stored{}, false
	}
	p := c.queue[0]
	c.queue = c.queue[1:] // append moves what is left to a new array every so often
	c.queuedBytes -= len(p.Body)
	c.trying[p.ID] = true
	return Stored{Delivery: Delivery{
		Webhook: c.hook.name(), Replica: c.replica, EventID: p.ID, Type: p.Type, Subject: p.Subject, Body: p.Body,
	}}, true
}

// nextDue returns how long it is until something is to be done that nobody will tell of. ok is false for never.
func (c *courier) nextDue() (in time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var at time.Time
	for _, d := range c.retrying {
		if !ok || d.Due.Before(at) {
			at, ok = d.Due, true
		}
	}
	if at.Before(c.until) {
		at = c.until
	}
	return max(at.Sub(c.now()), 0), ok
}

// attempt tries to deliver d, or keeps it untried. Whatever became of d is kept before it returns.
func (c *courier) attempt(ctx context.Context, d Stored, try bool) result {
	var failed *failure
	if try {
		if failed = c.send(ctx, d.EventID, d.Body); failed == nil {
			c.forget(ctx, d.Name)
			return result{event: d.EventID}
		}
	}
	after, more := time.Duration(0), true
	now := c.now().UTC()
	if failed != nil && !failed.abandoned {
		d.Attempts++
		d.Problem = failed.problem
		after, more = wait(d.Attempts, failed.after)
	}
	if d.FailedAt.IsZero() {
		d.FailedAt = now
	}
	d.Due, d.Dead, d.Replica = now.Add(after), !more, c.replica
	return result{d.EventID, failed, c.keep(ctx, d)}
}

// keep keeps what has become of d, and returns what is to be tried again. When it cannot be kept it goes on in memory alone.
func (c *courier) keep(ctx context.Context, d Stored) *Stored {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	if d.Name == "" && !c.room(ctx) {
		return nil
	}
	name, err := c.store.Keep(ctx, d.Delivery)
	if err != nil {
		c.log.ErrorContext(ctx, "what a webhook is to be told is not kept: a restart now would lose it", "event", d.EventID, "err", err)
		if !d.Dead || d.Name != "" {
			return &d
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lose(ctx, "a dead letter cannot be kept")
		return nil
	}
	if d.Name != "" {
		c.forget(ctx, d.Name)
	}
	d.Name = name
	if d.Dead {
		c.log.ErrorContext(ctx, "a webhook was told of an event in vain; it is a dead letter now", "event", d.EventID, "type", string(d.Type), "reason", d.Problem)
	}
	return &d
}

// room reports whether something more can be kept, and counts what cannot.
func (c *courier) room(ctx context.Context) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.retrying)+len(c.trying)+c.dead <= maxKept {
		return true
	}
	c.lose(ctx, "too many are kept for later")
	return false
}

// forget forgets what is kept under name. When that fails it is delivered once more after a restart, which receivers have to expect.
func (c *courier) forget(ctx context.Context, name string) {
	if name == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	if err := c.store.Forget(ctx, name); err != nil {
		c.log.WarnContext(ctx, "what was delivered is still kept", "record", name, "err", err)
	}
}

// settle takes note of what became of an attempt.
func (c *courier) settle(r result) {
	c.attempting--
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.trying, r.event)
	switch {
	case r.left == nil:
	case r.left.Dead:
		c.dead++
	default:
		c.retrying = append(c.retrying, *r.left)
	}
	switch {
	case r.failed == nil && r.left == nil:
		if c.failures > 0 {
			c.log.Info("a webhook answers again", "failures", c.failures)
		}
		c.delivered++
		c.until, c.failures, c.losing = time.Time{}, 0, false
	case r.failed != nil && !r.failed.abandoned:
		if c.failures == 0 {
			c.log.Warn("a webhook does not take events; they are kept and tried again", "reason", r.failed.problem)
		}
		c.failed++
		c.failures++
		pause, _ := wait(min(c.failures, len(backoff)), 0)
		c.until = c.now().Add(max(min(pause, maxPause), r.failed.after))
	}
}

// keepRest keeps what there was no time for.
func (c *courier) keepRest(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	for {
		d, ok := c.take(time.Time{}, true)
		if !ok {
			return
		}
		d.FailedAt, d.Due = c.now().UTC(), c.now().UTC()
		left := c.keep(ctx, d)
		c.mu.Lock()
		delete(c.trying, d.EventID)
		if left != nil {
			c.retrying = append(c.retrying, *left)
		}
		c.mu.Unlock()
	}
}

// adopt takes over what is kept and nobody takes care of: at the start what this process left behind, and whatever should have been tried
// a while ago.
func (c *courier) adopt(ctx context.Context, starting bool) {
	kept, err := c.store.Kept(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.log.WarnContext(ctx, "looking for what a webhook is to be told", "err", err)
		}
		return
	}
	overdue := c.now().Add(-orphanedAfter)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = 0
	for _, d := range latest(kept) {
		switch {
		case d.Webhook != c.hook.name():
		case d.Dead:
			c.dead++
		case starting && d.Replica == c.replica, d.Due.Before(overdue):
			if !c.has(d) {
				c.retrying = append(c.retrying, d)
			}
		}
	}
}

// has reports whether d is known. The caller holds c.mu.
func (c *courier) has(d Stored) bool {
	return c.trying[d.EventID] || slices.ContainsFunc(c.retrying, func(r Stored) bool { return r.EventID == d.EventID })
}
