package cache

import (
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/cache/cachetest"
)

// tell reports n calls with the same outcome and returns how many of them opened the breaker.
func tell(b *breaker, n int, ok bool, now time.Time) (opened int) {
	for range n {
		if b.report(ok, now) {
			opened++
		}
	}
	return opened
}

func TestBreaker(t *testing.T) {
	at := cachetest.Epoch
	never := func() { t.Error("a probe was started") }
	t.Run("lets calls pass at first", func(t *testing.T) {
		var b breaker
		if !b.admit(at, never) {
			t.Error("got a refusal")
		}
	})
	t.Run("stays closed while calls succeed in between", func(t *testing.T) {
		var b breaker
		for range 10 {
			tell(&b, failuresToOpen-1, false, at)
			tell(&b, 1, true, at)
		}
		if !b.admit(at, never) {
			t.Error("got a refusal")
		}
	})
	t.Run("opens once, however many calls were under way", func(t *testing.T) {
		var b breaker
		if got := tell(&b, 10*failuresToOpen, false, at); got != 1 {
			t.Errorf("opened %d times, want once", got)
		}
		if b.admit(at, never) {
			t.Error("got a pass")
		}
	})
	t.Run("stays open when a late call succeeds", func(t *testing.T) {
		var b breaker
		tell(&b, failuresToOpen, false, at)
		tell(&b, 1, true, at)
		if b.admit(at, never) {
			t.Error("got a pass")
		}
	})
	t.Run("starts one probe when the time has come, and lets nobody pass meanwhile", func(t *testing.T) {
		var b breaker
		tell(&b, failuresToOpen, false, at)
		started := 0
		for _, now := range []time.Time{at, at.Add(probeInterval - 1), at.Add(probeInterval), at.Add(2 * probeInterval)} {
			if b.admit(now, func() { started++ }) {
				t.Errorf("at %v: got a pass", now)
			}
		}
		if started != 1 {
			t.Errorf("started %d probes, want 1", started)
		}
	})
	t.Run("waits again after a probe without an answer", func(t *testing.T) {
		var b breaker
		tell(&b, failuresToOpen, false, at)
		b.admit(at.Add(probeInterval), func() {})
		b.probed(false, at.Add(probeInterval))
		started := 0
		b.admit(at.Add(2*probeInterval-1), never)
		b.admit(at.Add(2*probeInterval), func() { started++ })
		if started != 1 {
			t.Errorf("started %d probes, want 1", started)
		}
	})
	t.Run("closes after a probe with an answer", func(t *testing.T) {
		var b breaker
		tell(&b, failuresToOpen, false, at)
		b.admit(at.Add(probeInterval), func() {})
		b.probed(true, at.Add(probeInterval))
		if !b.admit(at, never) {
			t.Error("got a refusal")
		}
		if got := tell(&b, failuresToOpen-1, false, at); got != 0 {
			t.Error("it opened early: failures of before still count")
		}
	})
	t.Run("starts nothing once it is shut", func(t *testing.T) {
		var b breaker
		tell(&b, failuresToOpen, false, at)
		b.shut()
		if b.admit(at.Add(time.Hour), never) {
			t.Error("got a pass")
		}
	})
}
