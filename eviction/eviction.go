// Package eviction owns what goes when there is no room: the images that nobody has pulled for longest.
//
// It promises that what was pushed, what is in quarantine for review, and what anybody was served a moment ago stays; that nothing goes
// as long as there is room; and that what went is only bytes: verdicts, inventories and histories stay, and the image is fetched again
// for whoever asks. It must not judge, nor know how anything is stored.
package eviction

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Storage knows how much is held. Implementations are safe for concurrent use.
type Storage interface {
	// Count looks through everything for how much is held.
	Count(ctx context.Context) error
	// HeldBytes returns how much is held. counted is false before the first Count; then the number means nothing.
	HeldBytes() (bytes int64, counted bool)
	// Sweep removes what nothing refers to any more and was left before then, and returns how many bytes that were.
	Sweep(ctx context.Context, before time.Time) (freed int64, err error)
}

// Images knows the images of upstreams that are held, and removes them. Implementations are safe for concurrent use.
type Images interface {
	// Images calls visit with every image of an upstream that is held, and when it came, in no order.
	Images(ctx context.Context, visit func(c gate.Candidate, at time.Time) error) error
	// Evict removes the bytes of c that nothing else needs, and returns how many those were. done is false when c is in use, or was since
	// then; then it is still held, at least in part.
	Evict(ctx context.Context, c gate.Candidate, since time.Time) (freed int64, done bool, err error)
}

// Standing is what the newest verdict says of an image.
type Standing struct {
	// Decision is that of the verdict.
	Decision gate.Decision
	// Keep says that it stays for review although it is denied.
	Keep bool
}

// inQuarantine reports whether somebody is to look at the image.
func (s Standing) inQuarantine() bool { return s.Decision != gate.Allow && s.Keep }

// Standings knows what was decided. Implementations are safe for concurrent use.
type Standings interface {
	// Standing returns how c stands. known is false when there is no verdict on it.
	Standing(ctx context.Context, c gate.Candidate) (s Standing, known bool, err error)
}

// Pulls knows what was pulled. Implementations are safe for concurrent use.
type Pulls interface {
	// LastPulled returns when each of candidates was last served to anybody, UTC; those that never were are not in it.
	LastPulled(ctx context.Context, candidates []gate.Candidate) (map[gate.Candidate]time.Time, error)
}

// Options are what an Evictor is built from. Everything is needed but what says otherwise.
type Options struct {
	Storage   Storage
	Images    Images
	Standings Standings
	// Pulls may be nil: then an image counts as last used when it came.
	Pulls Pulls
	// MaxBytes is how much may be held; 0 for no limit. Then something goes only when the storage says that it is full.
	MaxBytes int64
	// Grown receives a value when more is held than before.
	Grown <-chan struct{}
	// Full receives a value when there was no room for something.
	Full <-chan struct{}
	// Idle is how long ago an image must have been used to go: longer than clients pause between two requests of one pull. 0 for no time.
	Idle time.Duration
	Now  func() time.Time
	Log  *slog.Logger
}

const (
	// judgedWithin is longer than it takes to judge an image. Of one that has no verdict yet, and came before that, nobody knows any more.
	judgedWithin = time.Hour
	// orphanAge is how old what nothing refers to must be: nobody who is still at work left it there.
	orphanAge = 24 * time.Hour
)

// lowWater is how much is left of bytes when something has to go, nine tenths: to look through everything for what is oldest pays for
// many images then.
func lowWater(bytes int64) int64 { return bytes - bytes/10 }

// How often things are looked at. Counting finds what other processes stored and removed; sweeping is for what processes left that died.
const (
	countEvery = 15 * time.Minute
	sweepEvery = 6 * time.Hour
	// retryAfter is when it is tried again to make room where all that could go was in use.
	retryAfter = 5 * time.Second
)

// Stats counts since the start.
type Stats struct {
	// Images and Bytes were evicted.
	Images, Bytes uint64
	// Orphaned are bytes that nothing referred to, and that were removed.
	Orphaned uint64
	// Full counts how often the storage was found to be full.
	Full uint64
	// Running says that [Evictor.Run] does: what is held is known to this process.
	Running bool
}

// Evictor makes room. Run is for one caller; the rest is safe for concurrent use.
type Evictor struct {
	o                             Options
	images, bytes, orphaned, full atomic.Uint64
	running                       atomic.Bool
}

// New returns an Evictor. It panics when an option it cannot do without is missing. It does nothing until it runs.
func New(o Options) *Evictor {
	for name, missing := range map[string]bool{
		"Storage": o.Storage == nil, "Images": o.Images == nil, "Standings": o.Standings == nil, "Grown": o.Grown == nil,
		"Full": o.Full == nil, "Now": o.Now == nil, "Log": o.Log == nil,
	} {
		if missing {
			panic("eviction: option " + name + " is missing")
		}
	}
	return &Evictor{o: o}
}

// Stats returns the counts so far.
func (e *Evictor) Stats() Stats {
	return Stats{Images: e.images.Load(), Bytes: e.bytes.Load(), Orphaned: e.orphaned.Load(), Full: e.full.Load(), Running: e.running.Load()}
}

// Run sees to it that there is room until ctx ends. Of several processes that share a storage one runs it at a time; it learns what the
// others store when it counts.
func (e *Evictor) Run(ctx context.Context) {
	counting, sweeping := time.NewTicker(countEvery), time.NewTicker(sweepEvery)
	defer counting.Stop()
	defer sweeping.Stop()
	e.running.Store(true)
	defer e.running.Store(false)
	e.count(ctx)
	e.sweep(ctx)
	grown, full := e.o.Grown, e.o.Full
	retry := time.NewTimer(retryAfter)
	defer retry.Stop()
	for {
		if grown != nil && !e.keepWithin(ctx) { // until it is tried again, what comes changes nothing
			grown = nil
			retry.Reset(retryAfter)
		}
		select {
		case <-grown:
		case <-full:
			if !e.relieve(ctx) {
				full = nil
				retry.Reset(retryAfter)
			} else {
				e.forgetFull()
			}
		case <-retry.C:
			grown, full = e.o.Grown, e.o.Full
		case <-counting.C:
			e.count(ctx)
		case <-sweeping.C:
			e.count(ctx)
			e.sweep(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// forgetFull takes what was said of a full storage before there was room.
func (e *Evictor) forgetFull() {
	select {
	case <-e.o.Full:
	default:
	}
}

// count counts. What fails is tried again at the next time; until then the numbers there are go on.
func (e *Evictor) count(ctx context.Context) {
	if err := e.o.Storage.Count(ctx); err != nil && ctx.Err() == nil {
		e.o.Log.WarnContext(ctx, "how much is held is not known", "err", err)
	}
}

// sweep removes what nothing refers to: bytes nobody claims, and images nobody knows of.
func (e *Evictor) sweep(ctx context.Context) {
	freed, err := e.o.Storage.Sweep(ctx, e.o.Now().Add(-orphanAge))
	if err == nil {
		var n int64
		n, err = e.evictUnknown(ctx)
		freed += n
	}
	e.orphaned.Add(uint64(max(freed, 0)))
	if err != nil && ctx.Err() == nil {
		e.o.Log.WarnContext(ctx, "sweeping up what nothing refers to", "err", err)
	}
	if freed > 0 {
		e.o.Log.InfoContext(ctx, "swept up what nothing referred to", "bytes", freed)
	}
}

// evictUnknown removes images that came long ago and were never judged.
func (e *Evictor) evictUnknown(ctx context.Context) (freed int64, err error) {
	before := e.o.Now().Add(-orphanAge)
	var unknown []gate.Candidate
	err = e.o.Images.Images(ctx, func(c gate.Candidate, at time.Time) error {
		if !at.Before(before) {
			return nil
		}
		_, known, err := e.o.Standings.Standing(ctx, c)
		if err == nil && !known {
			unknown = append(unknown, c)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, c := range unknown {
		n, _, err := e.o.Images.Evict(ctx, c, before)
		freed += n
		if err != nil {
			return freed, err
		}
	}
	return freed, nil
}
