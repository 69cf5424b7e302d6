package access

import (
	"net/netip"
	"sync"
	"time"
)

// How guessing is slowed. People mistype, and a machine whose password has changed tries the old one a few times; after that each
// failure doubles the wait. A place has more to spare than a user at it, since many may share an address. The longest wait is short
// enough that an attacker at somebody's address does not keep him out for long, and leaves 1,440 guesses a day.
const (
	freeForUser  = 5
	freeForPlace = 30
	firstWait    = time.Second
	longestWait  = time.Minute
	// forgetAfter is when failures are forgotten.
	forgetAfter = 15 * time.Minute
	// maxGuessers bounds what is remembered of either kind: 64 Ki entries are some 10 MB.
	maxGuessers = 1 << 16
)

// guesses slows those who guess passwords: by place, and by user at a place. Never by user alone, or anybody could keep anybody else
// out. It is safe for concurrent use.
type guesses struct {
	now func() time.Time

	mu     sync.Mutex
	places *recent[netip.Prefix, failures] // guarded by mu
	users  *recent[guesser, failures]      // guarded by mu
}

type guesser struct {
	user  string
	place netip.Prefix
}

// failures are what somebody has behind him.
type failures struct {
	count int
	last  time.Time
	until time.Time // before it nothing is compared
}

func newGuesses(now func() time.Time) *guesses {
	return &guesses{now: now, places: newRecent[netip.Prefix, failures](maxGuessers), users: newRecent[guesser, failures](maxGuessers)}
}

// begin counts a guess as failed until it turns out otherwise, so that many at once are no way around. A wait of more than 0 means
// that there is to be none. end takes back what was counted.
func (g *guesses) begin(user string, place netip.Prefix) (end func(right bool), wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now, at := g.now(), guesser{user, place}
	byPlace, byUser := recall(g.places, place, now), recall(g.users, at, now)
	if wait = max(byPlace.until.Sub(now), byUser.until.Sub(now)); wait > 0 {
		return nil, wait
	}
	byPlace, byUser = byPlace.failed(now, freeForPlace), byUser.failed(now, freeForUser)
	g.places.put(place, byPlace)
	g.users.put(at, byUser)
	return func(right bool) {
		g.mu.Lock()
		defer g.mu.Unlock()
		// The place keeps what others at it have behind them: an account of one's own is no way around either.
		undo(g.places, place, byPlace)
		if right {
			g.users.remove(at)
			return
		}
		undo(g.users, at, byUser)
	}, 0
}

// recall returns what key has behind it, nothing when that is long ago.
func recall[K comparable](of *recent[K, failures], key K, now time.Time) failures {
	f, ok := of.get(key)
	if !ok || now.Sub(f.last) >= forgetAfter {
		return failures{}
	}
	return f
}

// undo takes back one failure that was none, and the wait it brought unless another has brought one since.
func undo[K comparable](of *recent[K, failures], key K, counted failures) {
	f, ok := of.get(key)
	if !ok || f.count == 0 {
		return
	}
	f.count--
	if f.until.Equal(counted.until) {
		f.until = time.Time{}
	}
	of.put(key, f)
}

// failed returns f with one failure more.
func (f failures) failed(now time.Time, free int) failures {
	f.count++
	f.last = now
	if over := f.count - free; over > 0 {
		wait := longestWait
		if over < 8 { // 2⁶ s is beyond the longest, and a shift is not to overflow
			wait = min(firstWait<<(over-1), longestWait)
		}
		f.until = now.Add(wait)
	}
	return f
}
