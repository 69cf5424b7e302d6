package quarantine

import (
	"path"
	"sync"
)

// scales know how much lies in storage: every blob once, whoever claims it, and uploads. They are told of each change this process
// makes, once it has been made, and put right by a count, which also finds what other processes did. They are safe for concurrent use.
//
// A size is set, not added, so being told of the same blob twice changes nothing. Blobs come while claims is held for reading and go
// while it is held for writing, and an upload has one writer, so no two changes of the same thing are told in the wrong order.
type scales struct {
	mu      sync.Mutex
	sizes   map[string]int64 // guarded by mu; by digest in hexadecimal, or an upload's session
	bytes   int64            // guarded by mu; the sum of sizes
	counted bool             // guarded by mu; the sizes are those of everything, not only of what changed since the start
	// during is what changed while somebody counts, absent for what went: the count may have seen it before or after. Guarded by mu; nil
	// when nobody does.
	during map[string]int64
	// grown holds a value when something came since it was last received from.
	grown chan struct{}
}

// absent is the size of what has gone.
const absent = -1

func newScales() *scales { return &scales{sizes: map[string]int64{}, grown: make(chan struct{}, 1)} }

// weighed is the name by which the scales know the blob or upload whose bytes lie at p.
func weighed(p string) string { return path.Base(path.Dir(p)) }

// put notes that what lies at p has so many bytes.
func (s *scales) put(p string, size int64) {
	s.mu.Lock()
	s.set(weighed(p), size)
	s.mu.Unlock()
	select {
	case s.grown <- struct{}{}:
	default:
	}
}

// remove notes that nothing lies at p any more, and returns how many bytes are known to have gone.
func (s *scales) remove(p string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set(weighed(p), absent)
}

// set returns the size there was. The caller holds the lock.
func (s *scales) set(name string, size int64) (was int64) {
	was = s.sizes[name]
	s.bytes -= was
	if size == absent {
		delete(s.sizes, name)
	} else {
		s.sizes[name] = size
		s.bytes += size
	}
	if s.during != nil {
		s.during[name] = size
	}
	return was
}

// begin is called before somebody counts.
func (s *scales) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.during = map[string]int64{}
}

// end makes what was counted the truth, with what changed meanwhile. A nil found is a count that failed: all stays as it was.
func (s *scales) end(found map[string]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	during := s.during
	s.during = nil
	if found == nil {
		return
	}
	s.sizes, s.bytes, s.counted = found, 0, true
	for _, size := range found {
		s.bytes += size
	}
	for name, size := range during {
		s.set(name, size)
	}
}

// held returns how many bytes there are. counted is false before the first count.
func (s *scales) held() (bytes int64, counted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes, s.counted
}

// blobs returns the digests, in hexadecimal, of the blobs that are known.
func (s *scales) blobs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.sizes))
	for name := range s.sizes {
		if !sessionPattern.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}
