package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"hash"
	"sync"
	"time"
)

// How much is remembered of credentials that held. A pull shows its own for every blob; comparing a password costs a thousand times
// what remembering it does. Ten thousand is more callers than a proxy has in five minutes.
const (
	rememberFor   = 5 * time.Minute
	maxRemembered = 10_000
)

// remembered knows credentials that held a short while ago. It holds no credentials: a mark of each, by a key only this process has
// and never writes anywhere. It is safe for concurrent use.
type remembered struct {
	now  func() time.Time
	macs sync.Pool // of hash.Hash, keyed

	mu sync.Mutex
	of *recent[mark, memory] // guarded by mu
}

// mark is what credentials are known by.
type mark [sha256.Size]byte

type memory struct {
	caller Caller
	until  time.Time
	// by is what the credentials were checked against; they are forgotten once that is another.
	by any
}

func newRemembered(now func() time.Time) *remembered {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return &remembered{
		now: now, of: newRecent[mark, memory](maxRemembered),
		macs: sync.Pool{New: func() any { return hmac.New(sha256.New, key) }},
	}
}

// mark returns the mark of credentials: their kind and parts, which hold no NUL but for the last.
func (m *remembered) mark(parts ...string) mark {
	mac := m.macs.Get().(hash.Hash)
	defer m.macs.Put(mac)
	mac.Reset()
	for _, p := range parts {
		_, _ = mac.Write(append([]byte(p), 0)) // a hash never fails
	}
	return mark(mac.Sum(nil))
}

// find returns who the credentials of that mark are, if they still count and stands says so of what they were checked against.
func (m *remembered) find(k mark, stands func(by any) bool) (Caller, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.of.get(k)
	if !ok {
		return Caller{}, false
	}
	if !stands(found.by) || !m.now().Before(found.until) {
		m.of.remove(k)
		return Caller{}, false
	}
	return found.caller, true
}

// put remembers that the credentials of that mark are caller's, as checked against by.
func (m *remembered) put(k mark, caller Caller, by any) {
	until := m.now().Add(rememberFor)
	if !caller.until.IsZero() && caller.until.Before(until) {
		until = caller.until
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of.put(k, memory{caller, until, by})
}
