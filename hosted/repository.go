package hosted

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// maxAge is how old the view of a repository may be that answers a question, when other replicas may have recorded since. That
// something is not there is never said from memory alone.
const maxAge = 5 * time.Second

// limits keep what is remembered finite.
type limits struct {
	// bytes, manifests and tags are of one repository, whose events are held whole, and by what they hold: a list of a thousand digests is
	// one too. Beyond them nothing more is pushed to it.
	bytes, manifests, tags int
	// referrers are those of one subject.
	referrers int
	// eventTags are those of one event; more are said in several.
	eventTags int
	// forwards are those of one repository that one listing has of what is to be forwarded; the rest comes with later ones.
	forwards int
	// folded is how many bytes of events are held of all repositories together. Beyond it repositories are forgotten and read again when
	// asked about.
	folded int
}

// production are the limits outside tests.
var production = limits{
	bytes:     1 << 27, // ten builds an hour of three events reach it in a year
	manifests: 1 << 16, // one manifest is nearly always more than one event
	tags:      1 << 16, //
	referrers: 2000,    // as they must fit a list a client reads; some dozens are usual
	eventTags: 1000,    // at most 128 KiB
	forwards:  1000,
	folded:    1 << 29, // four repositories that are full
}

// repository is the fold over the events of one repository.
type repository struct {
	name oci.Repository

	// changing is held, by sending to it, by whoever changes the repository: one change at a time sees what those before it did.
	changing chan struct{}
	// listing is held, likewise, while events are listed and read.
	listing chan struct{}

	mu       sync.RWMutex
	listings uint64          // guarded by mu; how many listings were completed, 0 until the first
	listedAt time.Time       // guarded by mu; when the last of them began
	outdated bool            // guarded by mu; another replica said, since the last listing began, that something happened
	dropped  bool            // guarded by mu; it has been forgotten, and counts its events no more
	known    map[string]bool // guarded by mu; the names of events
	events   []Recorded      // guarded by mu; sorted by name, those that are not believed left out
	bytes    int             // guarded by mu; what events take in memory, also those that are not believed
	state    *state          // guarded by mu; what events add up to
	// claimed are when claims were first seen, by this process's clock: those of others may differ. Guarded by mu.
	claimed map[string]time.Time
	// tried are evidence tags and what they stood for when they could not be united. Guarded by mu.
	tried map[string]oci.Digest
}

// open returns the fold of repo, which may never have been listed. Errors: NAME_UNKNOWN when repo is not hosted here.
func (r *Repositories) open(repo oci.Repository) (*repository, error) {
	if _, err := r.rule(repo); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rp, ok := r.repositories[repo]
	if !ok {
		rp = &repository{
			name: repo, changing: make(chan struct{}, 1), listing: make(chan struct{}, 1),
			known: map[string]bool{}, state: newState(), tried: map[string]oci.Digest{}, claimed: map[string]time.Time{},
		}
		r.repositories[repo] = rp
	}
	return rp, nil
}

// ask answers a question about repo. The question runs under a read lock, reads the state only, and says whether it found anything.
func ask[T any](ctx context.Context, r *Repositories, repo oci.Repository, question func(s *state) (T, bool)) (answer T, found bool, err error) {
	rp, err := r.open(repo)
	if err != nil {
		return answer, false, err
	}
	rp.mu.RLock()
	listings, age := rp.listings, r.o.Now().Sub(rp.listedAt)
	if listings > 0 && !rp.outdated && age >= 0 && age < maxAge {
		answer, found = question(rp.state)
	}
	rp.mu.RUnlock()
	if found {
		return answer, true, nil
	}
	defer r.trim(rp)
	if err := r.refresh(ctx, rp, listings); err != nil {
		return answer, false, err
	}
	rp.mu.RLock()
	defer rp.mu.RUnlock()
	answer, found = question(rp.state)
	return answer, found, nil
}

// change runs do, which changes repo, while nobody else in this process does, and after everything that was recorded before.
func (r *Repositories) change(ctx context.Context, repo oci.Repository, do func(rp *repository) error) error {
	for {
		rp, err := r.open(repo)
		if err != nil {
			return err
		}
		select {
		case rp.changing <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		rp.mu.RLock()
		dropped := rp.dropped
		rp.mu.RUnlock()
		if dropped { // while we waited; somebody else may be changing its successor
			<-rp.changing
			continue
		}
		defer r.trim(rp)
		defer func() { <-rp.changing }()
		if err := r.refreshNow(ctx, rp); err != nil {
			return err
		}
		return do(rp)
	}
}

// view runs look under a read lock.
func (rp *repository) view(look func(s *state)) {
	rp.mu.RLock()
	defer rp.mu.RUnlock()
	look(rp.state)
}

// refreshNow reads everything that was recorded until now.
func (r *Repositories) refreshNow(ctx context.Context, rp *repository) error {
	rp.mu.RLock()
	listings := rp.listings
	rp.mu.RUnlock()
	return r.refresh(ctx, rp, listings)
}

// refresh reads what was recorded since rp was last listed, when it had been listed that many times. Those who wait for each other
// share a listing, provided that it began after they asked.
func (r *Repositories) refresh(ctx context.Context, rp *repository, listings uint64) error {
	select {
	case rp.listing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-rp.listing }()
	rp.mu.RLock()
	completed, since := rp.listings, rp.listedAt
	rp.mu.RUnlock()
	if completed >= listings+2 { // the first of the two may have been under way
		return nil
	}
	began := r.o.Now()
	rp.mu.Lock()
	rp.outdated = false // what is said from now on may not be in this listing
	rp.mu.Unlock()
	if began.Before(since) { // the clock was set back: it may have been far ahead
		since = time.Time{}
	}
	events, err := r.o.Journal.Events(ctx, rp.name, since, func(name string) bool {
		rp.mu.RLock()
		defer rp.mu.RUnlock()
		return rp.known[name]
	})
	if err != nil {
		rp.outdate()
		return err
	}
	r.add(rp, events...)
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.listings, rp.listedAt = rp.listings+1, began
	return nil
}

// Outdate says that something happened to repo at another replica: the next question about it is not answered from memory alone.
func (r *Repositories) Outdate(repo oci.Repository) {
	r.mu.Lock()
	rp := r.repositories[repo]
	r.mu.Unlock()
	if rp != nil {
		rp.outdate()
	}
}

// OutdateAll says that anything may have happened at other replicas.
func (r *Repositories) OutdateAll() {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.repositories))
	r.mu.Unlock()
	for _, rp := range all {
		rp.outdate()
	}
}

func (rp *repository) outdate() {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.outdated = true
}

// record appends e to the journal and to the fold.
func (r *Repositories) record(ctx context.Context, rp *repository, e Event) error {
	e.At = r.o.Now().UTC()
	name, err := r.o.Journal.Append(ctx, rp.name, e)
	if err != nil {
		return err
	}
	r.add(rp, Recorded{Name: name, Event: e})
	return nil
}

// add makes events part of the fold, each once. Events in between, which come from replicas, make it begin anew.
func (r *Repositories) add(rp *repository, events ...Recorded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rp.mu.Lock()
	defer rp.mu.Unlock()
	slices.SortFunc(events, byName)
	inOrder := true
	for _, e := range events {
		if rp.known[e.Name] {
			continue
		}
		rp.known[e.Name] = true
		rp.bytes += e.Event.bytes()
		if !rp.dropped {
			r.folded += e.Event.bytes()
		}
		if e.Event.Kind == "" { // not believed
			continue
		}
		rp.noteClaim(e.Event, r.o.Now())
		at, _ := slices.BinarySearchFunc(rp.events, e, byName)
		inOrder = inOrder && at == len(rp.events)
		rp.events = slices.Insert(rp.events, at, e)
		if inOrder {
			rp.state.apply(e.Event)
		}
	}
	if !inOrder {
		rp.state = fold(rp.events)
	}
}

func byName(a, b Recorded) int { return cmp.Compare(a.Name, b.Name) }

// trim forgets rp when nothing is recorded in it, so that asking for names at random fills no memory, and other repositories as long
// as too many events are held. Forgetting loses nothing: an event is in the journal before it is in a fold.
func (r *Repositories) trim(rp *repository) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.repositories[rp.name] == rp && rp.size() == 0 {
		r.drop(rp)
	}
	for _, other := range r.repositories {
		if r.folded <= r.limits.folded {
			return
		}
		if other != rp {
			r.drop(other)
		}
	}
}

// size returns how many events rp counts for.
func (rp *repository) size() int {
	rp.mu.RLock()
	defer rp.mu.RUnlock()
	return len(rp.known)
}

// drop forgets rp, unless somebody is changing it. The caller holds r.mu.
func (r *Repositories) drop(rp *repository) {
	select {
	case rp.changing <- struct{}{}:
	default:
		return
	}
	defer func() { <-rp.changing }()
	delete(r.repositories, rp.name)
	rp.mu.Lock()
	defer rp.mu.Unlock()
	r.folded -= rp.bytes
	rp.dropped = true
}
