package notify

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// How much of the past can be read again, by whoever was cut off for a moment: so many events, and not more bytes than that.
const (
	ringEvents = 2048
	ringBytes  = 8 << 20
)

// ring is the last that was published, oldest first.
type ring struct {
	events []Published
	bytes  int
}

func (r *ring) add(p Published) {
	r.events = append(r.events, p)
	r.bytes += len(p.Body)
	drop := 0
	for len(r.events)-drop > ringEvents || r.bytes > ringBytes {
		r.bytes -= len(r.events[drop].Body)
		drop++
	}
	r.events = r.events[drop:] // append moves what is left to a new array every so often, and the old one goes
}

// How many may read at once, and how far each may fall behind: more than a browser's tab in the background, less than matters.
const (
	maxReaders    = 64
	readerBacklog = 512
)

// ErrTooManyReaders says that as many read the stream as may.
var ErrTooManyReaders = errors.New("too many read the events already")

// Reader reads events as they are published. It belongs to one goroutine.
type Reader struct {
	// Missed says that there were events after the one it was to go on from that cannot be read any more.
	Missed bool
	// Gone is closed once the reader has been cut off, or has left.
	Gone <-chan struct{}
	// past is what was published before it came and it asked for.
	past   []Published
	events chan Published // never closed: what is in it can still be read
	gone   chan struct{}  // Gone
}

// Next returns the next event. event is false when there was none before beats had a value. ok is false when ctx has ended, and when the
// reader was too slow, has been cut off, and has read what there was until then.
func (r *Reader) Next(ctx context.Context, beats <-chan time.Time) (p Published, event, ok bool) {
	if len(r.past) > 0 {
		p, r.past = r.past[0], r.past[1:]
		return p, true, true
	}
	select {
	case p = <-r.events:
		return p, true, true
	case <-beats:
		return Published{}, false, true
	case <-ctx.Done():
		return Published{}, false, false
	case <-r.gone:
	}
	select { // nothing is added any more
	case p = <-r.events:
		return p, true, true
	default:
		return Published{}, false, false
	}
}

// offer hands p over if there is room for it. The caller holds the hub's lock.
func (r *Reader) offer(p Published) bool {
	select {
	case r.events <- p:
		return true
	default:
		return false
	}
}

// Read returns a reader of what is published from now on, and before that of what came after the event with the id after, as far as it
// can still be had; after is empty for whoever asks for none of that. Whoever gets a reader calls leave when done with it.
//
// Errors: [ErrTooManyReaders].
func (h *Hub) Read(after string) (r *Reader, leave func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.readers) >= maxReaders {
		return nil, nil, ErrTooManyReaders
	}
	gone := make(chan struct{})
	r = &Reader{events: make(chan Published, readerBacklog), gone: gone, Gone: gone}
	if after != "" {
		r.past, r.Missed = h.since(after)
	}
	h.readers[r] = nil
	return r, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.leave(r)
	}, nil
}

// leave ends r, if nobody has. The caller holds h.mu.
func (h *Hub) leave(r *Reader) {
	if _, there := h.readers[r]; there {
		delete(h.readers, r)
		close(r.gone)
	}
}

// since returns what was published after the event of that id. missed says that it cannot be told what that is: there was a restart
// meanwhile, or it is too long ago, and then it returns all there is. The caller holds h.mu.
func (h *Hub) since(id string) (past []Published, missed bool) {
	epoch, digits, _ := strings.Cut(id, "-")
	sequence, err := strconv.ParseUint(digits, 10, 64)
	oldest := h.sequence - uint64(len(h.ring.events)) // the last that is gone
	if epoch != h.epoch || err != nil || sequence > h.sequence || sequence < oldest {
		return slices.Clone(h.ring.events), true
	}
	return slices.Clone(h.ring.events[sequence-oldest:]), false
}
