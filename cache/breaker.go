package cache

import (
	"sync"
	"time"
)

// failuresToOpen is how many calls in a row fail before Redis is left alone: one may be a lost packet.
const failuresToOpen = 3

// probeInterval is how long it is left alone before something is tried again.
const probeInterval = time.Second

// breaker keeps callers away from what does not answer, so that a dead Redis costs a request nothing. It never lets a caller try
// whether it is back: a probe, one at a time, does. The zero value lets calls pass. It is safe for concurrent use.
type breaker struct {
	mu       sync.Mutex
	failures int       // guarded by mu; calls that failed since one succeeded
	probeAt  time.Time // guarded by mu; when to probe next, zero while calls pass
	probing  bool      // guarded by mu
	closed   bool      // guarded by mu; for good
}

// admit reports whether a call may be made. When it is time to see whether Redis is back it calls start, which must not block and
// has probed called once the answer is known. After shut it never does.
func (b *breaker) admit(now time.Time, start func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return false
	case b.probeAt.IsZero():
		return true
	case !b.probing && !now.Before(b.probeAt):
		b.probing = true
		start()
	}
	return false
}

// report tells how a call that passed went. It returns true when this opened the breaker.
func (b *breaker) report(ok bool, now time.Time) (opened bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		b.failures = 0
		return false
	}
	b.failures++
	if b.failures < failuresToOpen || !b.probeAt.IsZero() {
		return false
	}
	b.probeAt = now.Add(probeInterval)
	return true
}

// probed tells how a probe went.
func (b *breaker) probed(ok bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
	if ok {
		b.failures, b.probeAt = 0, time.Time{}
		return
	}
	b.probeAt = now.Add(probeInterval)
}

// shut keeps every caller away from now on.
func (b *breaker) shut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}
