package review

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Asker is somebody who asked for an image and was refused it.
type Asker struct {
	By      string    `json:"by"`
	Address string    `json:"address,omitempty"`
	At      time.Time `json:"at"`
}

// Asked is how often an image was asked for and refused, and by whom first and last. The zero value is never.
type Asked struct {
	Count int   `json:"count"`
	First Asker `json:"first,omitzero"`
	Last  Asker `json:"last,omitzero"`
}

// plus returns a and b together.
func (a Asked) plus(b Asked) Asked {
	if a.Count == 0 || b.Count == 0 {
		if a.Count == 0 {
			return b
		}
		return a
	}
	sum := Asked{a.Count + b.Count, a.First, a.Last}
	if b.First.At.Before(a.First.At) {
		sum.First = b.First
	}
	if b.Last.At.After(a.Last.At) {
		sum.Last = b.Last
	}
	return sum
}

// Asking is a record of how often an image was refused since the one before.
type Asking struct {
	Digest oci.Digest `json:"digest"`
	Asked
}

// Check returns what is wrong with a; nil if it can be recorded and believed.
func (a Asking) Check() error {
	if _, err := oci.ParseDigest(a.Digest.String()); err != nil {
		return err
	}
	if a.Count <= 0 || a.First.At.IsZero() || a.Last.At.IsZero() {
		return errors.New("nobody asked")
	}
	return nil
}

// AskingLog keeps who asked for what, by repository. Implementations are as those of [Log].
type AskingLog interface {
	Append(ctx context.Context, repo oci.Repository, a Asking) (name string, err error)
	Records(ctx context.Context, repo oci.Repository, since time.Time, known func(name string) bool, found func(name string, a Asking)) error
}

// Bounds of what is remembered of who asked. What does not fit is not counted: it is for people, and nothing rests on it.
const (
	maxAskedImages       = 10_000
	maxAskedRepositories = 1_000
	maxAskingRecords     = 200_000 // of all the repositories remembered together, some 100 bytes each
	writeAskersEvery     = time.Minute
	// askedAnew is how old the counts of other replicas may be that are shown.
	askedAnew = 5 * time.Second
	// rewriteAfter bounds how long a count stays in memory alone. Before that it is written whenever it has doubled, so that an image that
	// a cluster asks for every minute makes a record an hour.
	rewriteAfter = time.Hour
	// askersTimeout bounds the writing of them all.
	askersTimeout = 30 * time.Second
)

// Askers count who asks for what is denied. They are made by [NewAskers] and safe for concurrent use.
type Askers struct {
	log    AskingLog
	now    func() time.Time
	logger *slog.Logger

	mu sync.Mutex
	// fresh is what was counted here and is not in the log yet; written how much of each is, and when that was. Guarded by mu.
	fresh   map[gate.Candidate]Asked
	written map[gate.Candidate]mark
	// known is what the log says of some repositories. Guarded by mu.
	known   map[oci.Repository]*asked
	records int // guarded by mu; the names in known

	end   context.CancelFunc
	ended chan struct{}
}

type mark struct {
	count int
	at    time.Time
}

// asked is what the log says of a repository.
type asked struct {
	reading sync.Mutex // held while the log is read
	// names, counts and at are guarded by the mu of the Askers.
	names  map[string]bool
	counts map[oci.Digest]Asked
	at     time.Time
}

// NewAskers returns Askers that write what they count into log every minute, and when they are closed.
func NewAskers(log AskingLog, now func() time.Time, logger *slog.Logger) *Askers {
	lifetime, end := context.WithCancel(context.Background())
	a := &Askers{
		log: log, now: now, logger: logger, fresh: map[gate.Candidate]Asked{}, written: map[gate.Candidate]mark{},
		known: map[oci.Repository]*asked{}, end: end, ended: make(chan struct{}),
	}
	go a.run(lifetime)
	return a
}

// Close writes what has not been written.
func (a *Askers) Close() error {
	a.end()
	<-a.ended
	ctx, cancel := context.WithTimeout(context.Background(), askersTimeout)
	defer cancel()
	return a.write(ctx, true)
}

func (a *Askers) run(ctx context.Context) {
	defer close(a.ended)
	ticker := time.NewTicker(writeAskersEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := a.write(ctx, false); err != nil && ctx.Err() == nil {
				a.logger.WarnContext(ctx, "who asked for denied images was not written down", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// Note counts that by asked for c, which is denied. It does not wait.
func (a *Askers) Note(c gate.Candidate, by Person) {
	at := a.now().UTC()
	a.mu.Lock()
	defer a.mu.Unlock()
	so, ok := a.fresh[c]
	if !ok && len(a.fresh) >= maxAskedImages {
		return
	}
	one := Asker{By: by.Name, Address: by.Address, At: at}
	a.fresh[c] = so.plus(Asked{1, one, one})
}

// write appends what is due to the log; all there is if everything is.
func (a *Askers) write(ctx context.Context, everything bool) error {
	now := a.now()
	a.mu.Lock()
	due := map[gate.Candidate]Asked{}
	for c, fresh := range a.fresh {
		last := a.written[c]
		if everything || fresh.Count >= last.count || now.Sub(last.at).Abs() >= rewriteAfter {
			due[c] = fresh
			delete(a.fresh, c)
		}
	}
	a.mu.Unlock()
	var failed error
	for c, fresh := range due {
		name := ""
		if failed == nil {
			name, failed = a.log.Append(ctx, c.Repository, Asking{c.Digest, fresh})
		}
		a.mu.Lock()
		if failed != nil { // back to where it was, for the next time
			a.fresh[c] = a.fresh[c].plus(fresh)
		} else {
			if len(a.written) >= maxAskedImages {
				clear(a.written)
			}
			a.written[c] = mark{a.written[c].count + fresh.Count, now}
			a.take(c.Repository, name, Asking{c.Digest, fresh})
		}
		a.mu.Unlock()
	}
	if failed != nil {
		return fmt.Errorf("writing down who asked: %w", failed)
	}
	return nil
}

// take adds a record to what is known of its repository, if anything is. The caller holds mu.
func (a *Askers) take(repo oci.Repository, name string, record Asking) {
	known, ok := a.known[repo]
	if !ok || known.names[name] {
		return
	}
	known.names[name] = true
	a.records++
	if record.Count > 0 {
		known.counts[record.Digest] = known.counts[record.Digest].plus(record.Asked)
	}
}

// Asked returns how often c was asked for, as far as this and the other replicas have written it down.
func (a *Askers) Asked(ctx context.Context, c gate.Candidate) (Asked, error) {
	a.mu.Lock()
	known, ok := a.known[c.Repository]
	if !ok {
		if len(a.known) >= maxAskedRepositories || a.records >= maxAskingRecords { // they are read again when asked about
			clear(a.known)
			a.records = 0
		}
		known = &asked{names: map[string]bool{}, counts: map[oci.Digest]Asked{}}
		a.known[c.Repository] = known
	}
	a.mu.Unlock()
	if err := a.read(ctx, c.Repository, known); err != nil {
		return Asked{}, fmt.Errorf("looking up who asked for %s: %w", c, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return known.counts[c.Digest].plus(a.fresh[c]), nil
}

// read brings what is known of repo up to date.
func (a *Askers) read(ctx context.Context, repo oci.Repository, known *asked) error {
	known.reading.Lock()
	defer known.reading.Unlock()
	began := a.now()
	a.mu.Lock()
	since := known.at
	a.mu.Unlock()
	if !since.IsZero() && began.Sub(since).Abs() < askedAnew {
		return nil
	}
	err := a.log.Records(ctx, repo, since, func(name string) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return known.names[name]
	}, func(name string, record Asking) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.known[repo] == known {
			a.take(repo, name, record)
		}
	})
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	known.at = began
	return nil
}
