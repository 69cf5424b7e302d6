package ledger

import (
	"cmp"
	"context"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// maxAge is how old the view of a repository may be that answers a question, when other replicas may have recorded since. A question
// that would be answered with nothing is never answered from memory alone.
const maxAge = 5 * time.Second

// readers is how many records of a repository are read at once.
const readers = 8

// repository is the fold over the verdicts of one repository: an index of what was decided, not the verdicts themselves.
type repository struct {
	name oci.Repository
	dir  string

	// listing is held, by sending to it, while records are listed and read.
	listing chan struct{}

	mu       sync.RWMutex
	listings uint64    // guarded by mu; how many listings were completed, 0 until the first
	listedAt time.Time // guarded by mu; when the last of them began
	outdated bool      // guarded by mu; another replica said, since the last listing began, that it recorded something
	dropped  bool      // guarded by mu; the ledger has forgotten it, and counts its records no more
	// seen are the names of records that need no reading again, also of those that were not believed. Guarded by mu.
	seen map[string]bool
	// manifests, byBlob and byChild are the index, guarded by mu. The last two hold manifests once each, byBlob admitted ones only.
	manifests       map[oci.Digest]*manifest
	byBlob, byChild map[oci.Digest][]*manifest
}

// manifest is what is known of one candidate.
type manifest struct {
	digest oci.Digest
	// entries are sorted by name, oldest first; never empty.
	entries []entry
	// admitted says that one of the entries allows.
	admitted bool
	// blobs are what admissions listed, and children what any verdict did.
	blobs, children []oci.Digest
}

// entry is a verdict, without its reasons.
type entry struct {
	// name is that of the record, below the repository's directory.
	name            string
	key             gate.Key
	judgedAt, until time.Time
	allowed, keep   bool
	says            wording
}

func (m *manifest) newest() entry { return m.entries[len(m.entries)-1] }

// open returns the fold of repo, which may never have been listed.
//
// Errors: oci.ErrNameInvalid.
func (l *Ledger) open(repo oci.Repository) (*repository, error) {
	dir, err := verdictsPath(repo)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.repositories[repo]
	if !ok {
		r = &repository{
			name: repo, dir: dir, listing: make(chan struct{}, 1), seen: map[string]bool{},
			manifests: map[oci.Digest]*manifest{}, byBlob: map[oci.Digest][]*manifest{}, byChild: map[oci.Digest][]*manifest{},
		}
		l.repositories[repo] = r
	}
	return r, nil
}

// ask answers a question about repo. The question runs under a read lock, reads r only, and says whether it found anything.
func ask[T any](
	ctx context.Context, l *Ledger, repo oci.Repository, question func(r *repository) (T, bool),
) (answer T, found bool, err error) {
	r, err := l.open(repo)
	if err != nil {
		return answer, false, err
	}
	r.mu.RLock()
	listings, age := r.listings, l.now().Sub(r.listedAt)
	if listings > 0 && !r.outdated && age >= 0 && age < maxAge {
		answer, found = question(r)
	}
	r.mu.RUnlock()
	if found {
		return answer, true, nil
	}
	defer l.trim(r)
	if err := l.refresh(ctx, r, listings); err != nil {
		return answer, false, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	answer, found = question(r)
	return answer, found, nil
}

// refresh reads what was recorded in r since it was last listed, when it had been listed that many times. Questions that wait for
// each other share a listing, provided that it began after they were asked.
func (l *Ledger) refresh(ctx context.Context, r *repository, listings uint64) error {
	select {
	case r.listing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.listing }()
	r.mu.RLock()
	completed := r.listings
	r.mu.RUnlock()
	if completed >= listings+2 { // the first of the two may have been under way
		return nil
	}
	began := l.now()
	r.mu.Lock()
	r.outdated = false // what is said from now on may not be in this listing
	r.mu.Unlock()
	err := l.list(ctx, r)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.outdated = true
		return err
	}
	r.listings, r.listedAt = r.listings+1, began
	return nil
}

// list reads what was recorded in r since it was last listed. What was added before it failed stays, so that the next attempt has less
// to read.
func (l *Ledger) list(ctx context.Context, r *repository) error {
	names, err := l.unseen(ctx, r)
	if err != nil {
		return err
	}
	return readAll(ctx, names, func(ctx context.Context, name string) error { return l.readInto(ctx, r, name) })
}

// Outdate says that another replica recorded something in repo: the next question about it is not answered from memory alone.
func (l *Ledger) Outdate(repo oci.Repository) {
	l.mu.Lock()
	r := l.repositories[repo]
	l.mu.Unlock()
	if r != nil {
		r.outdate()
	}
}

// OutdateAll says that other replicas may have recorded anything.
func (l *Ledger) OutdateAll() {
	l.mu.Lock()
	all := slices.Collect(maps.Values(l.repositories))
	l.mu.Unlock()
	for _, r := range all {
		r.outdate()
	}
}

func (r *repository) outdate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outdated = true
}

// unseen lists the names of records that r does not hold yet.
func (l *Ledger) unseen(ctx context.Context, r *repository) ([]string, error) {
	names, err := l.names(ctx, r.dir)
	if err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.DeleteFunc(names, func(name string) bool { return r.seen[name] }), nil
}

// names lists what is recorded in dir, in no order; nothing if there is no such directory.
func (l *Ledger) names(ctx context.Context, dir string) ([]string, error) {
	paths, err := l.driver.List(ctx, dir)
	if err != nil && !isAbsent(err) {
		return nil, err
	}
	var names []string
	for _, p := range paths {
		// The driver writes under a temporary name first; after a crash one may be left.
		if name := path.Base(p); !strings.HasSuffix(name, ".tmp") {
			names = append(names, name)
		}
	}
	return names, nil
}

// readAll calls readOne with each of names, some at once, until one fails.
func readAll(ctx context.Context, names []string, readOne func(ctx context.Context, name string) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan string)
	var wg sync.WaitGroup
	for range min(readers, len(names)) {
		wg.Go(func() {
			for name := range work {
				if err := readOne(ctx, name); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	for _, name := range names {
		select {
		case work <- name:
		case <-ctx.Done():
		}
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

// readInto adds the record called name to r. One that is not believed is skipped, now and later.
func (l *Ledger) readInto(ctx context.Context, r *repository, name string) error {
	stamp, ok := parseName(name)
	var v gate.Verdict
	err := errBroken
	if ok {
		v, err = l.verdict(ctx, path.Join(r.dir, name))
	}
	switch {
	case err == nil:
		l.add(r, name, stamp, v)
	case isAbsent(err): // gone since it was listed
	case isBroken(err):
		l.disbelieve(ctx, r.name, name, err)
		l.skip(r, name)
	default:
		return err
	}
	return nil
}

// disbelieve counts and logs a verdict that is not believed.
func (l *Ledger) disbelieve(ctx context.Context, repo oci.Repository, name string, err error) {
	l.brokenVerdicts.Add(1)
	l.log.WarnContext(ctx, "a recorded verdict is not believed", "repo", repo.String(), "record", name, "err", err)
}

// add makes v, recorded under name, part of the fold, once.
func (l *Ledger) add(r *repository, name string, stamp int64, v gate.Verdict) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = max(l.last, stamp)
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.see(r, name) {
		r.index(name, v)
	}
}

// skip notes that the record called name is not believed, so that it is not read again.
func (l *Ledger) skip(r *repository, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	l.see(r, name)
}

// see notes that name needs no reading again, and returns false when that was so before. The caller holds both locks.
func (l *Ledger) see(r *repository, name string) bool {
	if r.seen[name] {
		return false
	}
	r.seen[name] = true
	if !r.dropped {
		l.folded++
	}
	return true
}

// index enters v. Repositories whose names differ only in how a port is written share a directory: a verdict on another of them is no
// part of this fold. The caller holds r.mu.
func (r *repository) index(name string, v gate.Verdict) {
	key, err := parseKey(v.Key)
	if err != nil || v.Repository != r.name { // the key was checked when v was read or written
		return
	}
	m, ok := r.manifests[v.Digest]
	if !ok {
		m = &manifest{digest: v.Digest}
		r.manifests[v.Digest] = m
	}
	at, _ := slices.BinarySearchFunc(m.entries, name, func(e entry, name string) int { return cmp.Compare(e.name, name) })
	m.entries = slices.Insert(m.entries, at, entry{
		name: name, key: key, judgedAt: v.JudgedAt, until: v.Until, allowed: v.Allowed(), keep: v.Keep, says: wordingOf(v),
	})
	if v.Allowed() {
		m.admitted = true
		m.blobs = list(r.byBlob, m, m.blobs, v.Blobs)
	}
	m.children = list(r.byChild, m, m.children, v.Children)
}

// list enters m under each digest it is not known for yet, and returns all it is known for. What a manifest lists follows from its
// digest, so nearly always that is nothing or everything.
func list(under map[oci.Digest][]*manifest, m *manifest, known, listed []oci.Digest) []oci.Digest {
	if slices.Equal(known, listed) {
		return known
	}
	for _, d := range listed {
		if !slices.Contains(known, d) {
			known = append(known, d)
			under[d] = append(under[d], m)
		}
	}
	return known
}

// trim forgets r when nothing is recorded in it, so that asking for names at random fills no memory, and other repositories as long
// as too many records are indexed. Forgetting loses nothing: a verdict is stored before it is added to whatever fold there is, so
// a fold that begins later finds it.
func (l *Ledger) trim(r *repository) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.repositories[r.name] == r && r.size() == 0 {
		l.drop(r)
	}
	for _, other := range l.repositories {
		if l.folded <= l.limits.folded {
			return
		}
		if other != r {
			l.drop(other)
		}
	}
}

// size returns how many records r counts for.
func (r *repository) size() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.seen)
}

// drop forgets r. The caller holds l.mu.
func (l *Ledger) drop(r *repository) {
	delete(l.repositories, r.name)
	r.mu.Lock()
	defer r.mu.Unlock()
	l.folded -= len(r.seen)
	r.dropped = true
}
