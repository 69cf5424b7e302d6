package eviction

import (
	"context"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// keepWithin makes room if more is held than may be, and reports whether no more is.
func (e *Evictor) keepWithin(ctx context.Context) bool {
	held, counted := e.o.Storage.HeldBytes()
	if e.o.MaxBytes == 0 || !counted || held <= e.o.MaxBytes {
		return true
	}
	e.makeRoom(ctx, lowWater(e.o.MaxBytes))
	if held, _ = e.o.Storage.HeldBytes(); held <= e.o.MaxBytes || ctx.Err() != nil {
		return true
	}
	e.o.Log.WarnContext(ctx, "more is held than storage.max_bytes, and all of it is hosted, in quarantine or in use",
		"bytes", held, "max_bytes", e.o.MaxBytes)
	return false
}

// relieve makes room in a storage that is full, and reports whether there is any more of it.
func (e *Evictor) relieve(ctx context.Context) bool {
	e.full.Add(1)
	held, counted := e.o.Storage.HeldBytes()
	if !counted {
		e.count(ctx)
		held, counted = e.o.Storage.HeldBytes()
	}
	freed := int64(0)
	if counted {
		freed = e.makeRoom(ctx, lowWater(held))
	}
	if freed > 0 || ctx.Err() != nil {
		return true
	}
	e.o.Log.ErrorContext(ctx, "the storage is full, and all that is held is hosted, in quarantine or in use", "bytes", held)
	return false
}

// image is one that is held, and when it was last used.
type image struct {
	candidate gate.Candidate
	used      time.Time
}

// makeRoom evicts images, the least recently used first, until no more than target is held, and returns how many bytes went.
func (e *Evictor) makeRoom(ctx context.Context, target int64) (freed int64) {
	since := e.o.Now().Add(-e.o.Idle)
	images, err := e.idle(ctx, since)
	evicted := 0
	for _, i := range images {
		if held, _ := e.o.Storage.HeldBytes(); held <= target || err != nil {
			break
		}
		var n int64
		var done bool
		n, done, err = e.evict(ctx, i.candidate, since)
		freed += n
		if done {
			evicted++
		}
	}
	e.images.Add(uint64(evicted))
	e.bytes.Add(uint64(max(freed, 0)))
	if err != nil && ctx.Err() == nil {
		e.o.Log.WarnContext(ctx, "evicting images", "err", err)
	}
	if evicted > 0 {
		e.o.Log.InfoContext(ctx, "images evicted", "images", evicted, "bytes", freed)
	}
	return freed
}

// evict evicts c unless it was put in quarantine since it was listed.
func (e *Evictor) evict(ctx context.Context, c gate.Candidate, since time.Time) (freed int64, done bool, err error) {
	s, _, err := e.o.Standings.Standing(ctx, c)
	if err != nil || s.inQuarantine() {
		return 0, false, err
	}
	return e.o.Images.Evict(ctx, c, since)
}

// idle returns the images that were not used since then, and that are not in quarantine, the least recently used first.
func (e *Evictor) idle(ctx context.Context, since time.Time) ([]image, error) {
	var images []image
	err := e.o.Images.Images(ctx, func(c gate.Candidate, at time.Time) error {
		s, known, err := e.o.Standings.Standing(ctx, c)
		beingJudged := !known && at.After(e.o.Now().Add(-judgedWithin))
		if err == nil && !s.inQuarantine() && !beingJudged {
			images = append(images, image{c, at})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := e.recall(ctx, images); err != nil {
		return nil, err
	}
	images = slices.DeleteFunc(images, func(i image) bool { return !i.used.Before(since) })
	slices.SortStableFunc(images, func(a, b image) int { return a.used.Compare(b.used) })
	return images, nil
}

// recall sets when images were last used to when they were last pulled, unless they came later than that. When one was judged does not
// count: everything that is held is judged again from time to time.
func (e *Evictor) recall(ctx context.Context, images []image) error {
	if e.o.Pulls == nil {
		return nil
	}
	candidates := make([]gate.Candidate, len(images))
	for i := range images {
		candidates[i] = images[i].candidate
	}
	pulled, err := e.o.Pulls.LastPulled(ctx, candidates)
	for i := range images {
		if at, ok := pulled[images[i].candidate]; ok && at.After(images[i].used) {
			images[i].used = at
		}
	}
	return err
}
