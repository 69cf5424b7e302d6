package rejudge

import (
	"context"
	"sync"
	"time"
)

// judge judges tasks in their order, several at once, for as long as wanted says so. It returns false when it was not all of them.
func (r *Rejudger) judge(ctx context.Context, tasks []task, wanted func() bool) (finished bool) {
	r.pending(len(tasks))
	defer r.pending(0)
	var (
		mu    sync.Mutex
		next  int  // guarded by mu
		ended bool // guarded by mu
		wg    sync.WaitGroup
	)
	take := func() (t task, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == len(tasks) || ended {
			return task{}, false
		}
		if ctx.Err() != nil || !wanted() {
			ended = true
			return task{}, false
		}
		next++
		return tasks[next-1], true
	}
	for range min(r.o.Workers, len(tasks)) {
		wg.Go(func() {
			for {
				t, ok := take()
				if !ok || !r.mayBegin(ctx) {
					return
				}
				r.one(ctx, t)
			}
		})
	}
	wg.Wait()
	return !ended && ctx.Err() == nil
}

func (r *Rejudger) pending(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Pending = n
}

// one judges a candidate and counts what came of it.
func (r *Rejudger) one(ctx context.Context, t task) {
	r.count(1)
	defer r.count(-1)
	v, err := r.o.Judge.Renew(ctx, t.Candidate, t.beyond)
	if err == nil && v.Key != t.Key.String() && v.JudgedAt.Before(t.JudgedAt) {
		// What there is now is what there was before, and its verdict counts again. On record it must come after the one since.
		v, err = r.o.Judge.Renew(ctx, t.Candidate, v.Until)
	}
	if ctx.Err() != nil && err != nil {
		return // what is left is left for the process after this one
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Pending = max(r.stats.Pending-1, 0)
	switch {
	case err != nil:
		r.stats.Failed++
		r.o.Log.DebugContext(ctx, "judging again", "candidate", t.Candidate.String(), "err", err)
	case v.Decision == t.Decision:
		r.stats.Unchanged++
	case v.Allowed():
		r.stats.Released++
	default:
		r.stats.Withdrawn++
	}
}

func (r *Rejudger) count(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mine += n
}

const (
	// yieldFor is how long a judging of ours is put off at most while others' are under way: long enough for those of a pull whose
	// layers are known, and short enough to come to an end on a proxy that is never idle.
	yieldFor = time.Second
	// yieldStep is how often it is looked whether they have ended. Nobody could tell us without costing every pull something.
	yieldStep = 20 * time.Millisecond
)

// mayBegin waits until a judging of ours may begin: its turn has come, and nobody else's is under way. It returns false when ctx ends
// before.
func (r *Rejudger) mayBegin(ctx context.Context) bool {
	if !pause(ctx, r.takeTurn()) {
		return false
	}
	for waited := time.Duration(0); waited < yieldFor && r.othersJudge(); waited += yieldStep {
		if !pause(ctx, yieldStep) {
			return false
		}
	}
	return ctx.Err() == nil
}

// takeTurn returns how long to wait for the next turn.
func (r *Rejudger) takeTurn() time.Duration {
	if r.o.PerSecond <= 0 {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.o.Now()
	if r.turn.Before(now) {
		r.turn = now
	}
	wait := r.turn.Sub(now)
	r.turn = r.turn.Add(time.Second / time.Duration(r.o.PerSecond))
	return wait
}

func (r *Rejudger) othersJudge() bool {
	r.mu.Lock()
	mine := r.mine
	r.mu.Unlock()
	return r.o.UnderWay() > mine
}

// pause waits, and returns false when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
