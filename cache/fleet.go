package cache

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// channel is what replicas announce things in. It is also what the seal of an announcement is bound to.
const channel = "tidewaiter:v1:announcements"

// maxAnnouncementBytes bounds an announcement. Most are a reference and a key; what is larger lies in the ledger.
const maxAnnouncementBytes = 64 << 10

// topicReleased is of this package: a lease whose name is the payload has been given up.
const topicReleased = "released"

// Pauses between attempts to listen, doubled after each that failed. Until there is one, folds are up to five seconds old.
const (
	minListenPause = 100 * time.Millisecond
	maxListenPause = 10 * time.Second
)

// listenPing is how long nothing has to be heard before Redis is asked whether it is still there, and then once more.
const listenPing = 5 * time.Second

// Fleet is the replicas that share a Redis, as one of them sees it: it can tell the others something, and see to it that one of them
// does what the others then need not. All of it is an economy. Messages are sealed, so whoever can write to Redis can keep them from
// arriving, or have old ones arrive again, which makes work and nothing else; without Redis every replica does everything itself.
//
// It is safe for concurrent use.
type Fleet struct {
	redis  *remote // nil: this process is all there is. Its connections are its own, and more patient than those of verdicts
	memory *memory
	id     string
	log    *slog.Logger
	now    func() time.Time

	mu      sync.Mutex
	waiting map[string]*waiters // guarded by mu, by the name of a lease
	lives   map[string]life     // guarded by mu, by the name of a lease
}

// announcement is what goes over the channel.
type announcement struct {
	From    string `json:"from"`
	Topic   string `json:"topic"`
	Payload []byte `json:"payload,omitempty"`
}

// Fleet returns the replicas that share the Redis of c.
func (c *Verdicts) Fleet() *Fleet { return c.fleet }

func newFleet(m *memory, log *slog.Logger, now func() time.Time) *Fleet {
	return &Fleet{memory: m, id: rand.Text(), log: log, now: now, waiting: map[string]*waiters{}, lives: map[string]life{}}
}

// ID tells this replica from the others. It is another one after every start.
func (f *Fleet) ID() string { return f.id }

// Shared reports whether there can be others.
func (f *Fleet) Shared() bool { return f.redis != nil }

// Announce tells the other replicas something. That it was said does not mean that anybody heard it.
//
// Errors: oci.ErrTooLarge, [ErrUnavailable], and whatever Redis returns.
func (f *Fleet) Announce(ctx context.Context, topic string, payload []byte) error {
	if f.redis == nil {
		return nil
	}
	raw, err := json.Marshal(announcement{From: f.id, Topic: topic, Payload: payload})
	if err != nil {
		return fmt.Errorf("announcing %s: %w", topic, err)
	}
	if len(raw) > maxAnnouncementBytes {
		return fmt.Errorf("announcing %s: %d bytes: %w", topic, len(raw), oci.ErrTooLarge)
	}
	err = f.redis.call(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		return client.Publish(ctx, channel, f.redis.key.Seal(channel, raw)).Err()
	})
	if err != nil {
		return fmt.Errorf("announcing %s: %w", topic, err)
	}
	return nil
}

// Listener hears what other replicas announce. Neither function may block for long: what comes next waits.
type Listener struct {
	// Connected is called whenever announcements begin to arrive, at first and after every interruption: whatever was announced before
	// may have been missed. Verdicts in memory have been forgotten then.
	Connected func()
	// Heard is called for each announcement of another replica. It may be an old one.
	Heard func(topic string, payload []byte)
}

// Listen hears announcements until ctx ends.
func (f *Fleet) Listen(ctx context.Context, l Listener) {
	if f.redis == nil {
		<-ctx.Done()
		return
	}
	pause := minListenPause
	for ctx.Err() == nil {
		heard, err := f.listen(ctx, l)
		if ctx.Err() != nil {
			return
		}
		if heard {
			pause = minListenPause
		}
		f.log.DebugContext(ctx, "announcements do not arrive", "err", err, "wait", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, maxListenPause)
	}
}

// listen hears announcements over one connection, and reports whether it came to that.
func (f *Fleet) listen(ctx context.Context, l Listener) (connected bool, err error) {
	sub := f.redis.client.Load().Subscribe(ctx, channel)
	defer func() { _ = sub.Close() }()                         // closed already when ctx has ended
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })() // waiting for a message does not end with it
	asked := false
	for {
		message, err := sub.ReceiveTimeout(ctx, listenPing)
		var silence interface{ Timeout() bool }
		switch {
		case err != nil && connected && !asked && errors.As(err, &silence) && silence.Timeout() && ctx.Err() == nil:
			asked = true
			if err := sub.Ping(ctx); err != nil {
				return connected, err
			}
			continue
		case err != nil:
			return connected, err
		}
		asked = false
		switch m := message.(type) {
		case *redis.Subscription:
			connected = true
			f.memory.purge()
			f.wakeAll()
			l.Connected()
		case *redis.Message:
			f.hear(ctx, l, []byte(m.Payload))
		}
	}
}

// hear takes one message.
func (f *Fleet) hear(ctx context.Context, l Listener, sealed []byte) {
	a, err := f.open(sealed)
	switch {
	case err != nil:
		f.log.WarnContext(ctx, "an announcement in redis is not one of ours", "err", err)
	case a.From == f.id:
	case a.Topic == topicReleased:
		f.wake(string(a.Payload))
	default:
		l.Heard(a.Topic, a.Payload)
	}
}

// open reads an announcement. Errors: seal.ErrBroken, errUnknownForm.
func (f *Fleet) open(sealed []byte) (announcement, error) {
	raw, err := f.redis.key.Open(channel, sealed)
	if err != nil {
		return announcement{}, err
	}
	return decodeAnnouncement(raw)
}

// decodeAnnouncement reads what was sealed. Errors: errUnknownForm.
func decodeAnnouncement(raw []byte) (announcement, error) {
	var a announcement
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return announcement{}, fmt.Errorf("%w: %v", errUnknownForm, err)
	}
	return a, nil
}

// Forget drops what is remembered of a candidate in this process.
func (c *Verdicts) Forget(candidate gate.Candidate) { c.memory.forget(candidate) }

// Turn reports whether it is for this replica to do now what the fleet does once in every so often: one is told so in each such time,
// and each of them while Redis does not answer.
func (f *Fleet) Turn(ctx context.Context, work string, every time.Duration) bool {
	if f.redis == nil {
		return true
	}
	key, now := "tidewaiter:v1:turn:"+work, f.now()
	lasts := every - every/10 // so that the next round of whoever did it finds it over
	until, err := now.Add(lasts).UTC().MarshalText()
	if err != nil {
		return true
	}
	held, err := f.redis.take(ctx, key, f.redis.key.Seal(key, until), nil, lasts)
	if err != nil || held == nil {
		return true
	}
	text, err := f.redis.key.Open(key, held)
	if err != nil {
		return true // not the word of one of us
	}
	var over time.Time
	return over.UnmarshalText(text) != nil || !now.Before(over)
}
