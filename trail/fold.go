package trail

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// maxAge is how old the view of a repository may be that answers a question, when other replicas may have recorded since. A question
// that would be answered with nothing is never answered from memory alone.
const maxAge = 5 * time.Second

// maxFolded is how many records, and things in them, are held in memory of one kind over all repositories, at some 200 bytes each.
// Beyond it repositories are forgotten and read again when asked about; a single one is kept whole.
const maxFolded = 1 << 19

// state is what the records of one repository add up to. It is used by one goroutine at a time.
type state[T any] interface {
	// add takes in a record, in any order.
	add(name string, record T)
	// size returns how many things it holds.
	size() int
}

// folds are the folds over the records of one kind. It is safe for concurrent use.
type folds[T any, S state[T]] struct {
	log   Log[T]
	begin func() S
	now   func() time.Time
	// since is how far back records count; the zero time for all.
	since func() time.Time
	limit int64

	// mu is taken before the lock of a fold, never after.
	mu    sync.Mutex
	repos map[oci.Repository]*fold[T, S] // guarded by mu
	// held is what all of repos hold together.
	held atomic.Int64
}

// fold is the fold over the records of one repository.
type fold[T any, S state[T]] struct {
	repo oci.Repository
	// changing is held, by sending to it, by whoever adds a record after having looked; listing, likewise, while records are read.
	changing, listing chan struct{}

	mu       sync.Mutex
	listings uint64          // guarded by mu; how many listings were completed, 0 until the first
	listedAt time.Time       // guarded by mu; when the last of them began
	known    map[string]bool // guarded by mu; the names of records, also of those that were not believed
	state    S               // guarded by mu
	// forgotten says that it is none of the folds any more, and held does not count what is in it. Guarded by mu.
	forgotten bool
	held      *atomic.Int64
}

func newFolds[T any, S state[T]](log Log[T], begin func() S, now, since func() time.Time) *folds[T, S] {
	return &folds[T, S]{log: log, begin: begin, now: now, since: since, limit: maxFolded, repos: map[oci.Repository]*fold[T, S]{}}
}

// open returns the fold of repo, which may never have been listed.
func (fs *folds[T, S]) open(repo oci.Repository) *fold[T, S] {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f, ok := fs.repos[repo]
	if !ok {
		f = &fold[T, S]{
			repo: repo, changing: make(chan struct{}, 1), listing: make(chan struct{}, 1), known: map[string]bool{}, state: fs.begin(),
			held: &fs.held,
		}
		fs.repos[repo] = f
	}
	return f
}

// ask puts a question to what the records of repo add up to: to what is in memory if that is fresh, and unless the question says that it
// found something there, to everything that was recorded until now.
func (fs *folds[T, S]) ask(ctx context.Context, repo oci.Repository, question func(s S) (found bool)) error {
	f := fs.open(repo)
	f.mu.Lock()
	listings, old := f.listings, fs.now().Sub(f.listedAt)
	found := listings > 0 && old >= 0 && old < maxAge && question(f.state)
	f.mu.Unlock()
	if found {
		return nil
	}
	defer fs.trim(f)
	if err := fs.refresh(ctx, f, listings); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	question(f.state)
	return nil
}

// refresh reads what was recorded since f was last listed, when it had been listed that many times. Those who wait for each other share
// a listing, provided that it began after they asked.
func (fs *folds[T, S]) refresh(ctx context.Context, f *fold[T, S], listings uint64) error {
	select {
	case f.listing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-f.listing }()
	f.mu.Lock()
	completed, since := f.listings, f.listedAt
	f.mu.Unlock()
	if completed >= listings+2 { // the first of the two may have been under way
		return nil
	}
	began := fs.now()
	if completed == 0 || began.Before(since) { // the clock was set back: it may have been far ahead
		since = fs.since()
	}
	known := func(name string) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.known[name]
	}
	if err := fs.log.Records(ctx, f.repo, since, known, f.add); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listings, f.listedAt = f.listings+1, began
	return nil
}

// add makes a record part of the fold, once.
func (f *fold[T, S]) add(name string, record T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[name] {
		return
	}
	before := f.size()
	f.known[name] = true
	f.state.add(name, record)
	if !f.forgotten {
		f.held.Add(int64(f.size() - before))
	}
}

// append records what next returns for what was recorded until now, unless it says that there is nothing to record. Nobody else in this
// process adds to repo meanwhile.
func (fs *folds[T, S]) append(ctx context.Context, repo oci.Repository, next func(s S) (record T, news bool)) error {
	return fs.change(ctx, repo, true, next)
}

// appendSeen is append for what this process has seen, which is enough where it does no harm to record something twice.
func (fs *folds[T, S]) appendSeen(ctx context.Context, repo oci.Repository, next func(s S) (record T, news bool)) error {
	return fs.change(ctx, repo, false, next)
}

func (fs *folds[T, S]) change(ctx context.Context, repo oci.Repository, all bool, next func(s S) (record T, news bool)) error {
	for {
		f := fs.open(repo)
		select {
		case f.changing <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		f.mu.Lock()
		forgotten := f.forgotten
		f.mu.Unlock()
		if forgotten { // while we waited; somebody else may be adding to its successor
			<-f.changing
			continue
		}
		defer fs.trim(f)
		defer func() { <-f.changing }()
		return fs.appendTo(ctx, f, all, next)
	}
}

func (fs *folds[T, S]) appendTo(ctx context.Context, f *fold[T, S], all bool, next func(s S) (record T, news bool)) error {
	f.mu.Lock()
	listings := f.listings
	f.mu.Unlock()
	if all || listings == 0 {
		if err := fs.refresh(ctx, f, listings); err != nil {
			return err
		}
	}
	f.mu.Lock()
	record, news := next(f.state)
	f.mu.Unlock()
	if !news {
		return nil
	}
	name, err := fs.log.Append(ctx, f.repo, record)
	if err != nil {
		return err
	}
	f.add(name, record)
	return nil
}

// peek puts a question to what is in memory alone.
func (fs *folds[T, S]) peek(repo oci.Repository, question func(s S)) {
	fs.mu.Lock()
	f, ok := fs.repos[repo]
	fs.mu.Unlock()
	if ok {
		f.mu.Lock()
		defer f.mu.Unlock()
		question(f.state)
	}
}

// trim forgets f when nothing is recorded in it, so that asking for names at random fills no memory, and others as long as too much is
// held. Forgetting loses nothing: a record is stored before it is in a fold.
func (fs *folds[T, S]) trim(f *fold[T, S]) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.mu.Lock()
	empty := f.size() == 0
	f.mu.Unlock()
	if fs.repos[f.repo] == f && empty {
		fs.drop(f)
	}
	for _, other := range fs.repos {
		if fs.held.Load() <= fs.limit {
			return
		}
		if other != f {
			fs.drop(other)
		}
	}
}

// forget has repo read anew when it is asked about next.
func (fs *folds[T, S]) forget(repo oci.Repository) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f, ok := fs.repos[repo]; ok {
		fs.drop(f)
	}
}

// drop forgets f, unless somebody is adding to it. The caller holds fs.mu.
func (fs *folds[T, S]) drop(f *fold[T, S]) {
	select {
	case f.changing <- struct{}{}:
	default:
		return
	}
	defer func() { <-f.changing }()
	delete(fs.repos, f.repo)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgotten = true
	fs.held.Add(-int64(f.size()))
}

// size returns how many things f holds. The caller holds f.mu.
func (f *fold[T, S]) size() int { return len(f.known) + f.state.size() }
