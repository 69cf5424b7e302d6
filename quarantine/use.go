package quarantine

import (
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// touchEvery is how long an image counts as just used before that is noted again: many clients ask for the same one at once.
const touchEvery = time.Second

// uses know what this process is at: what was asked for last, and what is being read that could not be read on were it removed. They are
// safe for concurrent use.
type uses struct {
	now     func() time.Time // nil as long as nobody wants to know
	touched *bounded[gate.Candidate, time.Time]

	mu   sync.Mutex
	open map[gate.Candidate]int // guarded by mu; how many readers there are over objects
}

func newUses() *uses {
	return &uses{touched: newBounded[gate.Candidate, time.Time](maxRemembered), open: map[gate.Candidate]int{}}
}

// touch notes that c is wanted now.
func (u *uses) touch(c gate.Candidate) {
	if u.now == nil {
		return
	}
	now := u.now()
	if at, ok := u.touched.get(c); !ok || now.Sub(at) >= touchEvery || now.Before(at) {
		u.touched.put(c, now)
	}
}

// begin notes that a blob is read for c, until end is called.
func (u *uses) begin(c gate.Candidate) (end func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open[c]++
	return sync.OnceFunc(func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.open[c]--; u.open[c] == 0 {
			delete(u.open, c)
		}
	})
}

// since reports whether c is being read, or was wanted at then or later.
func (u *uses) since(c gate.Candidate, then time.Time) bool {
	if at, ok := u.touched.get(c); ok && !at.Before(then) {
		return true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.open[c] > 0
}
