package upstream

import (
	"testing"
	"time"
)

// mustEnter fails the test unless b is closed to requests for wait, or open to them when wait is 0. It returns the pass.
func mustEnter(t *testing.T, b *breaker, wait time.Duration) pass {
	t.Helper()
	p, closed := b.enter()
	switch {
	case wait == 0 && closed != nil:
		t.Fatalf("got a wait of %s, want a pass", closed.wait)
	case wait != 0 && closed == nil:
		t.Fatalf("got a pass, want a wait of %s", wait)
	case wait != 0 && closed.wait != wait:
		t.Fatalf("got a wait of %s, want %s", closed.wait, wait)
	}
	return p
}

func trip(t *testing.T, b *breaker) {
	t.Helper()
	for range breakerThreshold {
		mustEnter(t, b, 0).fail()
	}
}

func TestBreakerOpensAfterFailuresInARow(t *testing.T) {
	c := newClock()
	b := &breaker{now: c.Now}
	for range breakerThreshold - 1 {
		mustEnter(t, b, 0).fail()
	}
	mustEnter(t, b, 0).succeed()
	trip(t, b)
	mustEnter(t, b, breakerMinWait)
	c.advance(breakerMinWait - time.Second)
	mustEnter(t, b, time.Second)
}

func TestBreakerLetsOneThroughWhenHalfOpen(t *testing.T) {
	c := newClock()
	b := &breaker{now: c.Now}
	trip(t, b)
	c.advance(breakerMinWait)
	probe := mustEnter(t, b, 0)
	mustEnter(t, b, probeWait)
	probe.succeed()
	mustEnter(t, b, 0).succeed()
	mustEnter(t, b, 0).succeed()
}

func TestBreakerWaitsLongerAfterEachFailedProbe(t *testing.T) {
	c := newClock()
	b := &breaker{now: c.Now}
	trip(t, b)
	for _, wait := range []time.Duration{5, 10, 20, 40, 80, 120, 120} {
		mustEnter(t, b, wait*time.Second)
		c.advance(wait * time.Second)
		mustEnter(t, b, 0).fail()
	}
	c.advance(breakerMaxWait)
	mustEnter(t, b, 0).succeed()
	trip(t, b)
	mustEnter(t, b, breakerMinWait) // a success starts over
}

func TestBreakerLetsAnotherProbeWhenOneIsAbandoned(t *testing.T) {
	c := newClock()
	b := &breaker{now: c.Now}
	trip(t, b)
	c.advance(breakerMinWait)
	mustEnter(t, b, 0).abandon()
	mustEnter(t, b, 0)
}

func TestBreakerOpensAtOnceWhenLimited(t *testing.T) {
	c := newClock()
	b := &breaker{now: c.Now}
	mustEnter(t, b, 0).limit(time.Minute)
	mustEnter(t, b, time.Minute)
	if _, closed := b.enter(); !closed.limited {
		t.Error("got closed for being down, want for being limited")
	}
	c.advance(time.Minute)
	mustEnter(t, b, 0).succeed()
	mustEnter(t, b, 0)
}

// Requests that were under way when the breaker opened tell nothing of how things are now.
func TestBreakerIgnoresLateAnswers(t *testing.T) {
	c := newClock()
	b := &breaker{now: c.Now}
	late := []pass{mustEnter(t, b, 0), mustEnter(t, b, 0), mustEnter(t, b, 0)}
	trip(t, b)
	late[0].succeed()
	late[1].fail()
	mustEnter(t, b, breakerMinWait)
	c.advance(breakerMinWait)
	mustEnter(t, b, 0) // the probe
	late[2].abandon()
	mustEnter(t, b, probeWait)
}
