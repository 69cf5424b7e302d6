package signing

import (
	"context"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Journal keeps what we stated, durably. Implementations are safe for concurrent use, also beside others with the same storage.
type Journal interface {
	// Append records something about repo. When it returns nil a restart does not lose it. The name is no other record's.
	Append(ctx context.Context, repo oci.Repository, record Stated) (name string, err error)
	// Record returns the record of repo under a name. ok is false when it has gone or is not believed.
	Record(ctx context.Context, repo oci.Repository, name string) (record Stated, ok bool, err error)
	// Records calls found, not at the same time and in no order, with each record of repo whose name is not known, of the day before
	// since and later; of any time for the zero time. One that is not believed comes as the zero Stated.
	Records(ctx context.Context, repo oci.Repository, since time.Time, known func(name string) bool, found func(name string, record Stated)) error
}

// maxUnseen is how long what another replica stated may go unnoticed, where that does no harm.
const maxUnseen = 5 * time.Second

// How much is remembered: repositories, among them those of which nothing was stated, and records at some 300 bytes each. Beyond it
// repositories are forgotten, and read again when they are asked about.
const (
	maxKeptRepositories = 1 << 14
	maxKeptRecords      = 1 << 18
)

// kept is the fold over the journal: what was said last about each manifest, and which digests are those of anything we ever said. It is
// safe for concurrent use.
type kept struct {
	journal Journal
	now     func() time.Time

	mu           sync.Mutex
	repositories map[oci.Repository]*repository // guarded by mu
	records      int                            // guarded by mu; of all repositories together
}

// repository is the fold over the records about one repository.
type repository struct {
	name oci.Repository
	// reading is held, by sending to it, while records are read.
	reading chan struct{}

	mu sync.RWMutex
	// readAt is when the last complete reading began; the zero time before the first. Guarded by mu.
	readAt time.Time
	// seen are the names of all records, also those that are not believed. Guarded by mu.
	seen map[string]bool
	// newest is what was said last about each subject. Guarded by mu.
	newest map[oci.Digest]entry
	// about maps manifests and bundles of ours, superseded ones too, to what they are about. Guarded by mu.
	about map[oci.Digest]oci.Digest
}

func newKept(journal Journal, now func() time.Time) *kept {
	return &kept{journal: journal, now: now, repositories: map[oci.Repository]*repository{}}
}

// last returns what was said last about a manifest of repo.
func (k *kept) last(ctx context.Context, repo oci.Repository, subject oci.Digest) (entry, bool, error) {
	r, err := k.read(ctx, repo, false)
	if err != nil {
		return entry{}, false, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	e, ok := r.newest[subject]
	return e, ok, nil
}

// subject returns what a manifest or blob of ours is about. The empty config belongs to all of them, and is taken for that of the latest.
// With anew set it counts what other replicas stated until now.
func (k *kept) subject(ctx context.Context, repo oci.Repository, d oci.Digest, anew bool) (oci.Digest, bool, error) {
	r, err := k.read(ctx, repo, anew)
	if err != nil {
		return "", false, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if d == oci.FromBytes([]byte(oci.EmptyJSON)) {
		subject, ok := r.latest()
		return subject, ok, nil
	}
	subject, ok := r.about[d]
	return subject, ok, nil
}

// latest returns the subject something was said about last. The caller holds mu.
func (r *repository) latest() (subject oci.Digest, ok bool) {
	var newest entry
	for d, e := range r.newest {
		if !e.silent && (!ok || e.replaces(newest)) {
			subject, newest, ok = d, e, true
		}
	}
	return subject, ok
}

// append records s, and returns its entry.
func (k *kept) append(ctx context.Context, s Stated) (entry, error) {
	name, err := k.journal.Append(ctx, s.Repository, s)
	if err != nil {
		return entry{}, err
	}
	k.add(k.open(s.Repository), name, s) // a fold that begins later finds it in the journal
	return s.entry(name), nil
}

// open returns the fold of repo, of which nothing may have been read yet.
func (k *kept) open(repo oci.Repository) *repository {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.repositories[repo]
	if !ok {
		k.trim()
		r = &repository{
			name: repo, reading: make(chan struct{}, 1), seen: map[string]bool{}, newest: map[oci.Digest]entry{}, about: map[oci.Digest]oci.Digest{},
		}
		k.repositories[repo] = r
	}
	return r
}

// trim forgets repositories while too much is remembered. The caller holds k.mu.
func (k *kept) trim() {
	for name, r := range k.repositories {
		if len(k.repositories) < maxKeptRepositories && k.records < maxKeptRecords {
			return
		}
		r.mu.RLock()
		k.records -= len(r.seen)
		r.mu.RUnlock()
		delete(k.repositories, name)
	}
}

// read returns the fold of repo with what was recorded up to now, or with anew unset, up to [maxUnseen] ago.
func (k *kept) read(ctx context.Context, repo oci.Repository, anew bool) (*repository, error) {
	asked := k.now()
	r := k.open(repo)
	if r.readSince(asked, k.now, anew) {
		return r, nil
	}
	select {
	case r.reading <- struct{}{}:
		defer func() { <-r.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r.readSince(asked, k.now, anew) { // by whoever held it before
		return r, nil
	}
	began := k.now()
	r.mu.RLock()
	since := r.readAt
	r.mu.RUnlock()
	known := func(name string) bool {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return r.seen[name]
	}
	if err := k.journal.Records(ctx, repo, since, known, func(name string, s Stated) { k.add(r, name, s) }); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readAt = began
	return r, nil
}

// readSince reports whether r needs no reading for a question that was asked then.
func (r *repository) readSince(asked time.Time, now func() time.Time, anew bool) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.readAt.IsZero() {
		return false
	}
	if anew {
		return r.readAt.After(asked)
	}
	age := now().Sub(r.readAt)
	return age >= 0 && age < maxUnseen
}

// add makes a record part of the fold, once. Repositories whose names differ only in how a port is written share a place in the journal.
func (k *kept) add(r *repository, name string, s Stated) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[name] {
		return
	}
	r.seen[name] = true
	if k.repositories[r.name] == r {
		k.records++
	}
	if s.Repository != r.name || s.Subject == "" {
		return
	}
	if e, before := s.entry(name), r.newest[s.Subject]; before.name == "" || e.replaces(before) {
		r.newest[s.Subject] = e
	}
	if !s.silent() {
		r.about[oci.FromBytes(s.Manifest)], r.about[oci.FromBytes(s.Bundle)] = s.Subject, s.Subject
	}
}
