// Package forward copies what was admitted in a repository hosted here to an upstream: an image, the children of an index, and the
// evidence that hangs on them.
//
// It promises that no manifest leaves but under a verdict that allows it at that moment, that a tag appears at the upstream only once
// everything it stands for is there, signatures among it, and that what could not be copied is tried again for as long as it is
// pending, without keeping anything else from being copied. It keeps nothing itself: after a restart what is pending is asked for
// anew, and what was copied but not noted is copied again, which changes nothing.
//
// It must not know how bytes are kept or sent, nor decide anything about them.
package forward

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Item is something that was admitted and is to be copied.
type Item struct {
	Candidate gate.Candidate
	// Tags are those that stand for the candidate, sorted; empty for a manifest that has none. Tags that name evidence are tags too.
	Tags []string
	// To is where it goes, see [Target]: "registry.example/mirror".
	To string
	// AdmittedAt is when it was first admitted, UTC.
	AdmittedAt time.Time
	// Revision is the queue's own, by which it knows again what it listed: other evidence that hangs on the candidate is another one.
	Revision string
}

// Queue knows what is to be copied. Implementations are safe for concurrent use, and answer Pending from memory as a rule: it is asked
// before every round of attempts.
type Queue interface {
	// Pending returns what was admitted and is not done, with the tags it has now. One candidate has one item for each place it goes to.
	Pending(ctx context.Context) ([]Item, error)
	// Done notes that an item was copied, with the tags in it. When it returns nil a restart does not bring the item back; a tag that
	// is not in it does, as an item with the tags that are left.
	Done(ctx context.Context, item Item) error
}

// Judge makes verdicts. Implementations are safe for concurrent use.
type Judge interface {
	// Judge returns the verdict on c that counts now. An admission is returned only once [Released] opens its bytes.
	// Errors: *gate.NoVerdict; the Verdict is then of no meaning.
	Judge(ctx context.Context, c gate.Candidate) (gate.Verdict, error)
}

// Released opens what has been released, and has no way to open anything else. Implementations are safe for concurrent use.
type Released interface {
	// Manifest returns the manifest of c. Errors: oci.ErrNotFound when it is not released.
	Manifest(ctx context.Context, c gate.Candidate) (oci.Content, error)
	// Blob opens a blob of size bytes that c's manifest refers to. Reads fail, rather than end, when the bytes turn out not to be d's.
	// Errors: oci.ErrBlobUnknown when c is not released or does not refer to d.
	Blob(ctx context.Context, c gate.Candidate, d oci.Digest) (content io.ReadCloser, size int64, err error)
}

// Evidence knows what hangs on manifests. Implementations are safe for concurrent use.
type Evidence interface {
	// Referrers returns the descriptors of what refers to subject, through the referrers API or the index under the fallback tag.
	// Errors: oci.ErrNotFound, or none and an empty list, when there is nothing.
	Referrers(ctx context.Context, repo oci.Repository, subject oci.Digest) ([]oci.Descriptor, error)
	// Resolve returns the descriptor of the manifest tag stands for, to everybody: one that was only pushed does not count yet.
	// Errors: oci.ErrNotFound.
	Resolve(ctx context.Context, repo oci.Repository, tag string) (oci.Descriptor, error)
}

// Destination writes to upstreams. Implementations are safe for concurrent use, and bound the time they wait for a registry that does
// not move.
type Destination interface {
	// PushBlob makes sure that repo has a blob, and sends it only if it has not. open opens its content from the start, perhaps more
	// than once; whoever calls it closes what it returned.
	// Errors: an *oci.Error says what the registry answered, with RetryAfter if that did; what open and the content return is wrapped.
	PushBlob(ctx context.Context, repo oci.Repository, desc oci.Descriptor, open func() (io.ReadCloser, error)) error
	// PushManifest stores a manifest under reference, a tag or its digest. Content that refers to a subject is listed among that one's
	// referrers when it returns, be it by the fallback tag.
	// Errors: as PushBlob; oci.ErrMismatch when the registry says that it stored something else.
	PushManifest(ctx context.Context, repo oci.Repository, reference string, content oci.Content) error
}

// Options are what a Forwarder is built from. Every interface and Log are needed.
type Options struct {
	Queue       Queue
	Judge       Judge
	Released    Released
	Evidence    Evidence
	Destination Destination
	Log         *slog.Logger
	// Observe is told of every attempt when it is over; nil for nobody. It is called from many goroutines and must not block.
	Observe func(Event)
	// Workers is how many items are copied at a time; 0 for 4. At most half of them, but one at least, copy to one upstream.
	Workers int
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// defaultWorkers is enough to fill a line while some of them wait for answers, and few for the memory and sockets they take.
const defaultWorkers = 4

// Forwarder copies what is pending. It is safe for concurrent use.
type Forwarder struct {
	o Options
	// woken holds a value when there may be something new to do.
	woken chan struct{}

	mu       sync.Mutex
	tasks    map[place]*task // guarded by mu, the values too
	unlisted int             // guarded by mu; how often in a row the queue could not be read
	listAt   time.Time       // guarded by mu; when a queue that could not be read is asked again
}

// New returns a Forwarder, which does nothing until [Forwarder.Run]. It panics when an option it cannot do without is missing.
func New(o Options) *Forwarder {
	for name, missing := range map[string]bool{
		"Queue": o.Queue == nil, "Judge": o.Judge == nil, "Released": o.Released == nil,
		"Evidence": o.Evidence == nil, "Destination": o.Destination == nil, "Log": o.Log == nil,
	} {
		if missing {
			panic("forward: option " + name + " is missing")
		}
	}
	if o.Observe == nil {
		o.Observe = func(Event) {}
	}
	if o.Workers <= 0 {
		o.Workers = defaultWorkers
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Forwarder{o: o, woken: make(chan struct{}, 1), tasks: map[place]*task{}}
}

// Wake says that something may have become pending. It does not wait for anything.
func (f *Forwarder) Wake() {
	select {
	case f.woken <- struct{}{}:
	default: // it is about to look already
	}
}

// Run copies what is pending until ctx ends, and returns when every attempt has ended. An attempt that ctx cut short counts for
// nothing: what it was about stays pending.
func (f *Forwarder) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for ctx.Err() == nil {
		due, next := f.round(ctx)
		for _, item := range due {
			running.Go(func() {
				f.attempt(ctx, item)
				f.Wake()
			})
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-f.woken:
		case <-timer.C:
		}
		timer.Stop()
	}
}
