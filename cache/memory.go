package cache

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tidewaiter/tidewaiter/gate"
)

// maxMemoryBytes bounds what verdicts may take in memory. Tens of thousands without findings fit, and a few hundred of the largest.
const maxMemoryBytes = 256 << 20

// expansion is how many times larger a verdict is in memory than encoded, rounded up, and entryBytes what every entry takes at
// least.
const (
	expansion  = 3
	entryBytes = 1 << 10
)

// memory is an LRU of verdicts, bounded in number and in bytes. It is safe for concurrent use.
type memory struct {
	maxBytes int64

	mu    sync.Mutex
	lru   *simplelru.LRU[gate.Key, remembered] // guarded by mu
	bytes int64                                // guarded by mu; the sum of the entries' sizes
}

type remembered struct {
	verdict gate.Verdict
	bytes   int64
	at      time.Time
}

// newMemory returns an empty memory of at most entries, which is positive.
func newMemory(entries int, maxBytes int64) *memory {
	m := &memory{maxBytes: maxBytes}
	lru, err := simplelru.NewLRU(entries, func(_ gate.Key, r remembered) { m.bytes -= r.bytes })
	if err != nil {
		panic("cache: " + err.Error()) // only a size that is not positive is refused
	}
	m.lru = lru
	return m
}

// get returns the verdict remembered for key, and since when it is.
func (m *memory) get(key gate.Key) (v gate.Verdict, since time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.lru.Get(key)
	return r.verdict, r.at, ok
}

// add remembers v, whose encoded form has size bytes, in place of the least recently used, from now on.
func (m *memory) add(key gate.Key, v gate.Verdict, size int, now time.Time) {
	r := remembered{verdict: v, bytes: entryBytes + expansion*int64(size), at: now}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lru.Remove(key) // replacing is no eviction, so the size would not be given back
	if r.bytes > m.maxBytes {
		return
	}
	m.lru.Add(key, r)
	for m.bytes += r.bytes; m.bytes > m.maxBytes; {
		m.lru.RemoveOldest()
	}
}

// purge forgets everything.
func (m *memory) purge() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lru.Purge()
}

// forget forgets the verdicts on c.
func (m *memory) forget(c gate.Candidate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range m.lru.Keys() {
		if r, ok := m.lru.Peek(key); ok && r.verdict.Candidate() == c {
			m.lru.Remove(key)
		}
	}
}
