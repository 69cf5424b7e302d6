// Package rejudge owns the judging anew of what is held, with nobody waiting for it.
//
// When policies, waivers, advisories or trust roots change, every verdict made before is no longer asked for, and [Rejudger.Run] has
// each held candidate judged by what there is now: what no longer passes is withdrawn and what now passes is released before anybody
// asks. It promises that a change is gone through until nothing is left that was judged by something else, across failures and
// restarts; that yet newer inputs begin anew with those; that pulls come first; and that of what was dropped nothing is fetched again.
//
// What is left to do follows from the records alone, so nothing is kept here that could be lost. It must not decide anything, nor know
// where bytes or records lie.
package rejudge

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Judge makes verdicts. Implementations are safe for concurrent use.
type Judge interface {
	// Revision identifies what verdicts are made by now.
	Revision() string
	// Key returns the key of the verdict on c that would count now.
	Key(ctx context.Context, c gate.Candidate) (gate.Key, error)
	// Renew returns the verdict on c, making it unless there is one that counts beyond a time; the zero time for one that counts now.
	// When it returns, what can be served is in line with the verdict, and the verdict is recorded.
	Renew(ctx context.Context, c gate.Candidate, beyond time.Time) (gate.Verdict, error)
}

// Standing is what the newest verdict says of a candidate.
type Standing struct {
	Candidate gate.Candidate
	Decision  gate.Decision
	Key       gate.Key
	// JudgedAt and Until are those of the verdict, UTC.
	JudgedAt, Until time.Time
}

// Standings knows how what was ever judged stands. Implementations are safe for concurrent use.
type Standings interface {
	// Repositories returns the repositories of which anything was judged.
	Repositories(ctx context.Context) ([]oci.Repository, error)
	// Standings returns how every candidate of repo stands, in no order.
	Standings(ctx context.Context, repo oci.Repository) ([]Standing, error)
}

// Holdings knows what is held. Implementations are safe for concurrent use.
type Holdings interface {
	// Holds reports whether the manifest of c is held.
	Holds(ctx context.Context, c gate.Candidate) (bool, error)
}

// Pulls knows what is in use. Implementations are safe for concurrent use.
type Pulls interface {
	// LastPulled returns when each of candidates was last served to anybody, UTC; those that never were are not in it.
	LastPulled(ctx context.Context, candidates []gate.Candidate) (map[gate.Candidate]time.Time, error)
}

// Options are what a Rejudger is built from. Judge, Standings, Holdings, Log and Now are needed.
type Options struct {
	Judge     Judge
	Standings Standings
	Holdings  Holdings
	// Pulls may be nil: then what was judged last comes first, and no verdict is made anew before it lapses.
	Pulls Pulls
	// UnderWay returns how many judgings are under way, ours among them; nil if nobody counts.
	UnderWay func() int
	// Lease asks for the work of this name, which one of several replicas does at a time. held says that it is ours until release is
	// called. Nil for a single replica.
	Lease func(ctx context.Context, name string) (held bool, release func())
	Log   *slog.Logger
	Now   func() time.Time
	// Workers is how many candidates are judged at once; at least 1.
	Workers int
	// PerSecond is how many judgings begin in a second at most; 0 for any number.
	PerSecond int
}

// Rejudger judges anew. It is safe for concurrent use, and Run is called once.
type Rejudger struct {
	o     Options
	woken chan struct{}

	mu    sync.Mutex
	stats Stats     // guarded by mu
	turn  time.Time // guarded by mu; when the next judging may begin
	mine  int       // guarded by mu; our judgings under way
	// renewed has what was renewed ahead and may lapse all the same, by the end of the verdict then. Only Run uses it.
	renewed map[gate.Candidate]time.Time
}

// Stats is what was done since the start, and what is left.
type Stats struct {
	// Pending is how many candidates are left of what is being gone through.
	Pending int
	// Withdrawn were allowed before and are denied, Released the other way round. Failed came to no verdict, and count each time.
	Withdrawn, Released, Unchanged, Failed uint64
	// Took is how long the last change took that was gone through to its end.
	Took time.Duration
}

// New returns a Rejudger, which does nothing until [Rejudger.Run]. It panics when an option it cannot do without is missing.
func New(o Options) *Rejudger {
	for name, missing := range map[string]bool{
		"Judge": o.Judge == nil, "Standings": o.Standings == nil, "Holdings": o.Holdings == nil, "Log": o.Log == nil, "Now": o.Now == nil,
	} {
		if missing {
			panic("rejudge: option " + name + " is missing")
		}
	}
	if o.UnderWay == nil {
		o.UnderWay = func() int { return 0 }
	}
	if o.Lease == nil {
		o.Lease = func(context.Context, string) (bool, func()) { return true, func() {} }
	}
	o.Workers = max(o.Workers, 1)
	return &Rejudger{o: o, woken: make(chan struct{}, 1), renewed: map[gate.Candidate]time.Time{}}
}

// Stats returns the counts so far.
func (r *Rejudger) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

// Wake says that what verdicts are made by may have changed. It does not wait for anything.
func (r *Rejudger) Wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// lease is the name under which one of several replicas judges anew.
const lease = "rejudge"

const (
	// look is how often it is looked whether something has changed that nobody told of: comparing a few hashes.
	look = 2 * time.Second
	// lapseEvery is how often verdicts are looked for that lapse. It lists every repository's records.
	lapseEvery = time.Minute
	// retryAfter and maxRetry bound the pause before what failed is tried again; it doubles from one to the other.
	retryAfter = 15 * time.Second
	maxRetry   = 15 * time.Minute
)

// Run judges anew whenever there is something to, until ctx ends. It begins with what a process before this one left.
func (r *Rejudger) Run(ctx context.Context) {
	var (
		gone    string       // the revision that was gone through, or is as far as it can be
		retryAt time.Time    // when what failed of it is tried again; zero for nothing failed
		pause   = retryAfter // the pause after the next failure
		lapseAt = r.o.Now()  // when verdicts that lapse are looked for
		ticker  = time.NewTicker(look)
	)
	defer ticker.Stop()
	for ctx.Err() == nil {
		now, revision := r.o.Now(), r.o.Judge.Revision()
		switch {
		case revision != gone:
			pause = retryAfter
			fallthrough
		case !retryAt.IsZero() && !now.Before(retryAt):
			switch r.sweep(ctx, revision) {
			case done:
				gone, retryAt = revision, time.Time{}
			case failed:
				gone, retryAt = revision, r.o.Now().Add(pause)
				pause = min(2*pause, maxRetry)
			case overtaken: // by yet newer inputs
				continue
			case elsewhere: // another replica is at it; whether it came to the end is seen at the next look
			}
		case !now.Before(lapseAt):
			r.renew(ctx)
			lapseAt = r.o.Now().Add(lapseEvery)
		}
		select {
		case <-ctx.Done():
		case <-r.woken:
		case <-ticker.C:
		}
	}
}

// outcome is how going through everything held ended. The zero value is the one that leaves it to be done again.
type outcome int

const (
	elsewhere outcome = iota
	overtaken
	failed
	done
)

// sweep judges everything held that was last judged by something else than revision.
func (r *Rejudger) sweep(ctx context.Context, revision string) outcome {
	held, release := r.o.Lease(ctx, lease)
	if !held {
		return elsewhere
	}
	defer release()
	began := r.o.Now()
	stale, err := r.stale(ctx)
	if err != nil {
		if ctx.Err() == nil {
			r.o.Log.WarnContext(ctx, "looking for what is to be judged again", "err", err)
		}
		return failed
	}
	if len(stale) == 0 {
		return done
	}
	r.o.Log.InfoContext(ctx, "judging again", "candidates", len(stale))
	before := r.Stats()
	finished := r.judge(ctx, stale, func() bool { return r.o.Judge.Revision() == revision })
	after, took := r.Stats(), r.o.Now().Sub(began)
	failures := after.Failed - before.Failed
	r.o.Log.InfoContext(ctx, "judged again", "candidates", len(stale), "finished", finished, "dur", took.Round(time.Millisecond).String(),
		"withdrawn", after.Withdrawn-before.Withdrawn, "released", after.Released-before.Released,
		"unchanged", after.Unchanged-before.Unchanged, "failed", failures)
	switch {
	case !finished:
		return overtaken
	case failures > 0:
		return failed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Took = took
	return done
}

// task is a candidate to be judged so that its verdict counts beyond a time.
type task struct {
	Standing
	beyond time.Time
	// skip leaves it out this time.
	skip bool
}

// stale returns what is held and was last judged by something else than what there is now: what was pulled last comes first, then
// what was judged last.
func (r *Rejudger) stale(ctx context.Context) ([]task, error) {
	var tasks []task
	err := r.each(ctx, func(s Standing) error {
		key, err := r.o.Judge.Key(ctx, s.Candidate)
		if err != nil {
			return err
		}
		if key != s.Key {
			tasks = append(tasks, task{Standing: s})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r.inUseFirst(ctx, tasks)
}

// each calls visit with how each candidate stands.
func (r *Rejudger) each(ctx context.Context, visit func(Standing) error) error {
	repositories, err := r.o.Standings.Repositories(ctx)
	if err != nil {
		return err
	}
	for _, repo := range repositories {
		standings, err := r.o.Standings.Standings(ctx, repo)
		if err != nil {
			return err
		}
		for _, s := range standings {
			if err := visit(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// inUseFirst sorts tasks and leaves out what is not held: its record stays, and whoever pulls it has it fetched and judged.
func (r *Rejudger) inUseFirst(ctx context.Context, tasks []task) ([]task, error) {
	held := tasks[:0]
	for _, t := range tasks {
		ok, err := r.o.Holdings.Holds(ctx, t.Candidate)
		if err != nil {
			return nil, err
		}
		if ok {
			held = append(held, t)
		}
	}
	pulled, err := r.lastPulled(ctx, held)
	if err != nil { // an order is no reason not to judge
		r.o.Log.WarnContext(ctx, "looking up what was pulled last", "err", err)
	}
	slices.SortStableFunc(held, func(a, b task) int {
		return cmp.Or(pulled[b.Candidate].Compare(pulled[a.Candidate]), b.JudgedAt.Compare(a.JudgedAt))
	})
	return held, nil
}

func (r *Rejudger) lastPulled(ctx context.Context, tasks []task) (map[gate.Candidate]time.Time, error) {
	if r.o.Pulls == nil || len(tasks) == 0 {
		return nil, nil
	}
	var candidates []gate.Candidate
	for _, t := range tasks {
		candidates = append(candidates, t.Candidate)
	}
	return r.o.Pulls.LastPulled(ctx, candidates)
}
