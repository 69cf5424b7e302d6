package upstream

import (
	"sync"
	"time"
)

const (
	// breakerThreshold is how many failures in a row make an endpoint count as down. Each has been retried already.
	breakerThreshold = 5
	// breakerMinWait and breakerMaxWait are how long it is then left alone: the former at first, twice as long after every
	// attempt that fails again, up to the latter, which is about how long a person waits before asking what is wrong.
	breakerMinWait = 5 * time.Second
	breakerMaxWait = 2 * time.Minute
	// probeWait is when to come back while somebody else is finding out whether the endpoint answers again.
	probeWait = 2 * time.Second
)

// breaker decides whether an endpoint is asked at all. It is closed at first; open after too many failures or when the endpoint
// said to come back later; and half open, letting one request through, once the wait is over. It is safe for concurrent use.
type breaker struct {
	now func() time.Time

	mu sync.Mutex // guards everything below
	// failures counts those in a row since the last success.
	failures int
	// wait is how long the breaker was opened for the last time; zero since the last success.
	wait time.Duration
	// until is when an open breaker becomes half open; zero when it is closed.
	until time.Time
	// limited says that it is open because the endpoint limits our rate, not because it is down.
	limited bool
	probing bool
}

// pass is the permission to send one request. Its holder owes exactly one call of succeed, fail, limit or abandon.
type pass struct {
	*breaker
	// probe says that the request is the one a half-open breaker lets through.
	probe bool
}

// closedFor says that no request may be sent for some time.
type closedFor struct {
	wait    time.Duration
	limited bool
}

// enter returns a pass, or how long to stay away.
func (b *breaker) enter() (pass, *closedFor) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.until.IsZero() {
		return pass{breaker: b}, nil
	}
	if wait := b.until.Sub(b.now()); wait > 0 {
		return pass{}, &closedFor{wait, b.limited}
	}
	if b.probing {
		return pass{}, &closedFor{probeWait, b.limited}
	}
	b.probing = true
	return pass{breaker: b, probe: true}, nil
}

// succeed says that the endpoint answered, be it only that it does not have what was asked for.
func (p pass) succeed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.until.IsZero() && !p.probe {
		return // sent before the breaker opened: it says nothing about now
	}
	p.failures, p.wait, p.until, p.limited, p.probing = 0, 0, time.Time{}, false, false
}

// fail says that the endpoint did not answer, or only that it cannot.
func (p pass) fail() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failures++; !p.probe && (!p.until.IsZero() || p.failures < breakerThreshold) {
		return
	}
	p.wait = min(max(2*p.wait, breakerMinWait), breakerMaxWait)
	p.open(p.wait, false)
}

// limit says that the endpoint asked to be left alone for wait.
func (p pass) limit(wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open(wait, true)
}

// abandon says that the request ended for a reason on our side.
func (p pass) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.probe {
		p.probing = false
	}
}

func (b *breaker) open(wait time.Duration, limited bool) {
	b.until, b.limited, b.probing = b.now().Add(wait), limited, false
}
