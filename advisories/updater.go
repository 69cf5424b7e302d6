package advisories

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	// jitter is the part of a wait by which it may be shorter or longer, so that replicas that started together do not ask together.
	jitter = 0.1
	// firstRetry is how long to wait after a failure; each further one doubles it, up to the usual wait.
	firstRetry = time.Minute
)

// UpdaterOptions are what an Updater is built from. All are needed.
type UpdaterOptions struct {
	Folder   *Folder
	Registry Registry
	Source   oci.Reference
	// Refresh is how often the source is asked.
	Refresh time.Duration
	// Changed is told when there is another database in use, before the next wait begins.
	Changed func(context.Context)
	Now     func() time.Time
	// Random returns a number in [0, 1).
	Random func() float64
	Log    *slog.Logger
}

// Updater keeps a folder as its source is. It is safe for concurrent use.
type Updater struct {
	o UpdaterOptions

	mu       sync.Mutex
	attempts Attempts // guarded by mu; what this process knows of them, in case the folder takes no writes
	failures int      // guarded by mu; how many attempts failed since one succeeded
}

// NewUpdater returns an Updater of o.
func NewUpdater(o UpdaterOptions) *Updater {
	u := &Updater{o: o}
	if s, err := o.Folder.Status(); err == nil {
		u.attempts = s.Attempts
	}
	return u
}

// Attempts returns what came of fetching, as far as is known here.
func (u *Updater) Attempts() Attempts {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.attempts
}

// Run asks the source whenever it is due, until ctx ends. It asks at once when nothing is in use, when what is in use is from somewhere
// else, or when the last success is long enough ago. A failure leaves what is in use in use, and is tried again, at first soon.
func (u *Updater) Run(ctx context.Context) {
	timer := time.NewTimer(u.first(ctx))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(u.attempt(ctx))
		}
	}
}

// first returns how long to wait for the first attempt.
func (u *Updater) first(ctx context.Context) time.Duration {
	s, err := u.o.Folder.Status()
	if err != nil || s.InUse == nil || s.InUse.From != u.o.Source.String() || s.Failing() {
		return 0
	}
	now := u.o.Now()
	wait := s.SucceededAt.Add(u.jittered(u.o.Refresh)).Sub(now)
	if wait <= 0 || wait > 2*u.o.Refresh { // the latter is a clock that was wrong
		return 0
	}
	u.schedule(ctx, now.Add(wait))
	return wait
}

// attempt asks the source and returns how long to wait for the next time.
func (u *Updater) attempt(ctx context.Context) time.Duration {
	began := u.o.Now()
	changed, err := u.o.Folder.Update(ctx, u.o.Registry, u.o.Source)
	ended := u.o.Now()
	if ctx.Err() != nil { // stopping is no failure of the source's
		return u.o.Refresh
	}
	wait := u.count(ended, err)
	took := slog.Duration("dur", ended.Sub(began))
	switch {
	case errors.Is(err, ErrBusy):
		u.o.Log.InfoContext(ctx, "advisories are being changed by somebody else", "next", ended.Add(wait))
	case err != nil:
		u.o.Log.WarnContext(ctx, "advisories were not updated, what was in use stays in use", "source", u.o.Source.String(), "err", err, "next", ended.Add(wait), took)
	case changed:
		u.o.Log.InfoContext(ctx, "advisories updated", "source", u.o.Source.String(), took)
	default:
		u.o.Log.DebugContext(ctx, "advisories are up to date", "source", u.o.Source.String(), took)
	}
	u.schedule(ctx, ended.Add(wait))
	if changed {
		u.o.Changed(ctx)
	}
	return wait
}

// count counts an attempt and returns how long to wait after it.
func (u *Updater) count(at time.Time, err error) time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case errors.Is(err, ErrBusy):
		return u.jittered(firstRetry)
	case err != nil:
		u.attempts.fail(at, err)
		wait := u.o.Refresh
		if u.failures < 20 { // beyond which a shift would not be a time any more
			wait = min(wait, firstRetry<<u.failures)
		}
		u.failures++
		return u.jittered(wait)
	}
	u.attempts.SucceededAt, u.failures = at.UTC(), 0
	return u.jittered(u.o.Refresh)
}

func (u *Updater) jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*u.o.Random()))
}

// schedule says when the source will be asked next.
func (u *Updater) schedule(ctx context.Context, at time.Time) {
	u.mu.Lock()
	u.attempts.NextAt = at.UTC()
	u.mu.Unlock()
	if err := u.o.Folder.note(func(a *Attempts) { a.NextAt = at.UTC() }); err != nil {
		u.o.Log.WarnContext(ctx, "the state of the advisories cannot be recorded", "err", err)
	}
}
