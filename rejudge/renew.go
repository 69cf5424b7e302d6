package rejudge

import (
	"context"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

const (
	// ahead is how long before its end a verdict is made anew: longer than the checks of a slow registry's signatures take, for as many
	// images as lapse between two looks.
	ahead = 5 * time.Minute
	// lapsed is how long after its end a verdict that could not be renewed ahead is made anew: that a grace period or waiver ends is
	// then what withdraws the image. Longer than a look, so that none is missed.
	lapsed = 3 * lapseEvery
	// inUse is how recently an image was pulled to be looked after in this way. Nodes that restart pull what they ran.
	inUse = 7 * 24 * time.Hour
)

// renew makes verdicts that are about to lapse, or just have, anew for what is in use and allowed.
func (r *Rejudger) renew(ctx context.Context) {
	if r.o.Pulls == nil {
		return
	}
	held, release := r.o.Lease(ctx, lease)
	if !held {
		return
	}
	defer release()
	now := r.o.Now()
	lapsing, err := r.lapsing(ctx, now)
	if err != nil {
		if ctx.Err() == nil {
			r.o.Log.WarnContext(ctx, "looking for verdicts that lapse", "err", err)
		}
		return
	}
	clear(r.renewed)
	for _, t := range lapsing {
		r.renewed[t.Candidate] = t.Until
	}
	lapsing = slices.DeleteFunc(lapsing, func(t task) bool { return t.skip })
	if len(lapsing) > 0 {
		r.judge(ctx, lapsing, func() bool { return true })
	}
}

// lapsing returns what is in use and allowed by a verdict that lapses about now. What was renewed ahead once, and lapses all the same
// because a grace period or waiver ends then, is marked to be skipped until it has.
func (r *Rejudger) lapsing(ctx context.Context, now time.Time) ([]task, error) {
	var lapsing []task
	err := r.each(ctx, func(s Standing) error {
		if s.Decision == gate.Allow && s.Until.After(now.Add(-lapsed)) && s.Until.Before(now.Add(ahead)) {
			again := r.renewed[s.Candidate].Equal(s.Until) && now.Before(s.Until)
			lapsing = append(lapsing, task{Standing: s, beyond: s.Until, skip: again})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	pulled, err := r.lastPulled(ctx, lapsing)
	if err != nil {
		return nil, err
	}
	lapsing = slices.DeleteFunc(lapsing, func(t task) bool { return now.Sub(pulled[t.Candidate]) > inUse })
	return r.inUseFirst(ctx, lapsing)
}
