// Package trail owns what was seen here of images: since when they have been here, what tags stood for, who pulled them, and of whom
// they had to be called back.
//
// Records are written once and only added to; what is true now is a fold over them, kept in memory as far as it fits, so replicas that
// share a log cannot overwrite one another. The package promises that the time an image was first seen never changes, that whoever was
// sent an image is on record seconds later, and that an image which somebody has and which is denied from now on becomes a recall, also
// after a crash in between. It must not judge, and it keeps nobody from anything: a trail that cannot be written costs knowledge, except
// for the first sighting, which the age of an image counts from.
package trail

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Log keeps records of one kind, durably. Implementations are safe for concurrent use, also beside others over the same storage.
type Log[T any] interface {
	// Append records something about repo under a name of its own, after those of all records this process has seen, and returns the
	// name. When it returns nil, a restart does not lose it.
	Append(ctx context.Context, repo oci.Repository, record T) (name string, err error)
	// Records calls found, not at the same time and in no order, with each record of repo whose name is not known, of the day before
	// since and later; of any time for the zero time. One that is not believed comes as the zero T.
	Records(ctx context.Context, repo oci.Repository, since time.Time, known func(name string) bool, found func(name string, record T)) error
	// Repositories returns the repositories there are records about.
	Repositories(ctx context.Context) ([]oci.Repository, error)
}

// PullLog is a log that does not keep everything for ever.
type PullLog interface {
	Log[Pulls]
	// Expire removes the records of repo of the days before the day that before is in.
	Expire(ctx context.Context, repo oci.Repository, before time.Time) error
}

// Verdicts knows what was decided. Implementations are safe for concurrent use.
type Verdicts interface {
	// Withdrawn returns the candidates of repo that were once admitted and that the newest verdict denies, in no order.
	Withdrawn(ctx context.Context, repo oci.Repository) ([]gate.Candidate, error)
	// Newest returns the newest verdict on c. ok is false when there is none.
	Newest(ctx context.Context, c gate.Candidate) (v gate.Verdict, ok bool, err error)
	// FirstJudged returns when the first verdict on c was made. ok is false when there is none.
	FirstJudged(ctx context.Context, c gate.Candidate) (at time.Time, ok bool, err error)
}

// Options are what a Trail is built from. Everything but the two funcs at the end is needed.
type Options struct {
	Sightings Log[Sighting]
	Tags      Log[Tagged]
	Pulls     PullLog
	Recalls   Log[Recall]
	Verdicts  Verdicts
	// Keep is how long it is known who pulled what; at least a day.
	Keep time.Duration
	Now  func() time.Time
	Log  *slog.Logger
	// Moved is told of every tag that looks like a version and came to stand for something else. It must not block; nil for nobody.
	Moved func(Move)
	// Recalled is told of every recall, once it is on record. It must not block; nil for nobody.
	Recalled func(Recalled)
}

// Stats counts what could not be put on record since the start, and what is true now.
type Stats struct {
	// LostPulls counts pulls that are not on record: more clients at once than are remembered.
	LostPulls uint64
	// Failures counts records of tags, pulls and recalls that could not be written or read. Pulls are tried again.
	Failures uint64
	// Recalled is how many images are withdrawn that somebody has.
	Recalled int
}

// Trail knows what was seen here. It is safe for concurrent use.
type Trail struct {
	o         Options
	sightings *folds[Sighting, *sightings]
	tags      *folds[Tagged, *tags]
	pulls     *folds[Pulls, *pulls]
	recalls   *folds[Recall, *recalls]

	// wake holds a value when there is something to look at before the next tick.
	wake chan struct{}

	mu sync.Mutex
	// latest is what tags stood for when they were last heard of here. Guarded by mu.
	latest map[tagKey]oci.Digest
	// suspect are the repositories in which something may have to be recalled, or need not be any more. Guarded by mu.
	suspect map[oci.Repository]bool
	// recalled counts the images of each repository that are recalled now. Guarded by mu.
	recalled map[oci.Repository]int

	pullMu sync.Mutex
	// pending are pulls that are not on record yet. Guarded by pullMu.
	pending map[pullKey]*tally

	lostPulls, failures atomic.Uint64
}

// New returns a Trail. It panics when an option it cannot do without is missing. It reads nothing yet.
func New(o Options) *Trail {
	for name, missing := range map[string]bool{
		"Sightings": o.Sightings == nil, "Tags": o.Tags == nil, "Pulls": o.Pulls == nil, "Recalls": o.Recalls == nil,
		"Verdicts": o.Verdicts == nil, "Keep": o.Keep < day, "Now": o.Now == nil, "Log": o.Log == nil,
	} {
		if missing {
			panic("trail: option " + name + " is missing")
		}
	}
	if o.Moved == nil {
		o.Moved = func(Move) {}
	}
	if o.Recalled == nil {
		o.Recalled = func(Recalled) {}
	}
	forever := func() time.Time { return time.Time{} }
	kept := func() time.Time { return o.Now().Add(-o.Keep) }
	return &Trail{
		o:         o,
		sightings: newFolds(o.Sightings, newSightings, o.Now, forever),
		tags:      newFolds(o.Tags, newTags, o.Now, forever),
		pulls:     newFolds(Log[Pulls](o.Pulls), newPulls, o.Now, kept),
		recalls:   newFolds(o.Recalls, newRecalls, o.Now, forever),
		wake:      make(chan struct{}, 1), latest: map[tagKey]oci.Digest{}, suspect: map[oci.Repository]bool{},
		recalled: map[oci.Repository]int{}, pending: map[pullKey]*tally{},
	}
}

// Stats returns the counts so far.
func (t *Trail) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Stats{LostPulls: t.lostPulls.Load(), Failures: t.failures.Load()}
	for _, n := range t.recalled {
		s.Recalled += n
	}
	return s
}

// How often pulls are put on record, all repositories are looked through, and what is too old is removed. The first is how long it may
// take until somebody is known to have an image, the second until a replica knows of recalls by others.
const (
	flushEvery  = 5 * time.Second
	lookEvery   = time.Hour
	expireEvery = day
	day         = 24 * time.Hour
)

// closeTimeout bounds what is put on record as the process ends.
const closeTimeout = 5 * time.Second

// Run keeps the trail until ctx ends. At first, and every hour, it looks through all repositories for what must be recalled.
func (t *Trail) Run(ctx context.Context) {
	ticker, hourly, daily := time.NewTicker(flushEvery), time.NewTicker(lookEvery), time.NewTicker(expireEvery)
	defer ticker.Stop()
	defer hourly.Stop()
	defer daily.Stop()
	t.suspectAll(ctx)
	for {
		t.Flush(ctx)
		select {
		case <-t.wake:
		case <-ticker.C:
		case <-hourly.C:
			t.suspectAll(ctx)
		case <-daily.C:
			t.expire(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// Close puts on record what is not yet. It is called when nothing is served any more.
func (t *Trail) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	t.record(ctx, true)
}

// Flush puts on record who came to have an image, and then looks for what must be recalled.
func (t *Trail) Flush(ctx context.Context) {
	t.pullMu.Lock()
	full := len(t.pending) > maxPending/2
	t.pullMu.Unlock()
	t.record(ctx, full)
	t.recall(ctx)
}

// nudge has [Trail.Run] look before the next tick.
func (t *Trail) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// fail notes that something could not be put on record or read, which nobody is refused anything for.
func (t *Trail) fail(ctx context.Context, doing string, repo oci.Repository, err error) {
	if ctx.Err() != nil { // whoever asked has gone, or the process ends
		return
	}
	t.failures.Add(1)
	t.o.Log.WarnContext(ctx, "the trail has a gap", "doing", doing, "upstream", repo.Upstream, "repo", repo.Path, "err", err)
}
