// Package quarantine owns the bytes Tidewaiter holds: it fetches them, or takes them from those who push, checks every one against its
// digest, stores them, and serves none until it is told to.
//
// It promises that what it hands out belongs to its digest, that a blob is fetched once however many ask for it, that a repository
// gets no blob its own upstream would not have given it, or if it is hosted here, that was not pushed to it, and that [Released], the
// view the proxy has, opens nothing but what an admission names. [Pushed], the view of those who may push, opens nothing but what
// hosted repositories have. It must not decide anything itself.
//
// Images can be removed at any time, by [Room.Evict], without anybody noticing but by a second fetch. This is why. What is removed is
// named by its digest, and an image that was evicted stays released, so whoever finds it gone fetches the very same bytes again; a 200
// is never cut short by it: a file that was opened is read to its end though it has no name any more, a blob that is arriving is not
// evicted for, and neither is an object that is being read. A blob goes only when nobody claims it. Within a process claims are made
// under a lock that whoever drops holds alone, and a blob that is fetched, uploaded, mounted or found to be there is claimed in the same
// step as it is stored or seen; so what was acknowledged to a pusher, whose claims no eviction touches, cannot lose a blob it shares with
// an image that goes. Between processes a blob is moved aside before it is removed, and claims are looked at after that: whoever claimed
// it before it was moved gets it back, and whoever claims it later finds it gone and brings it again, or is told. A claim is made only
// while the manifest is stored it is for, so that what is claimed can be found and evicted; the manifest goes last, so that a process
// which dies has removed part of an image, which is fetched again, or is swept up by the next.
package quarantine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// maxRemembered bounds what is kept in memory about held content: parsed manifests, admissions, files seen to be intact. Each can be
// had again, so forgetting one costs a read.
const maxRemembered = 1 << 16

// maxManifests and maxRememberedManifest bound the parsed manifests kept in memory: 128 MiB of them, should somebody push as many as
// large. Real ones are a few kilobytes; the largest indexes are read from storage each time.
const (
	maxManifests          = 2048
	maxRememberedManifest = 64 << 10
)

// Source reads from the registries content comes from. Implementations are safe for concurrent use. What they return is verified
// here.
type Source interface {
	// Manifest returns the manifest that reference, a tag or a digest, names in repo. Errors: oci.ErrNotFound, oci.ErrUnauthorized,
	// oci.ErrRateLimited, oci.ErrUnavailable.
	Manifest(ctx context.Context, repo oci.Repository, reference string) (oci.Content, error)
	// Blob streams a blob. Errors: as Manifest, oci.ErrBlobUnknown.
	Blob(ctx context.Context, repo oci.Repository, desc oci.Descriptor) (io.ReadCloser, error)
	// BlobExists returns nil when repo has the blob. Errors: as Blob.
	BlobExists(ctx context.Context, repo oci.Repository, desc oci.Descriptor) error
}

// Leases lets one process of several fetch a blob while the others wait for it to be stored. Implementations are safe for concurrent
// use.
type Leases interface {
	// Acquire returns once no other process holds the lease on name, or ctx has ended. release gives it up, and must be called when err is
	// nil. An error means that nobody can say who fetches; then everybody does.
	Acquire(ctx context.Context, name string) (release func(), err error)
}

// Quarantine holds content. It implements gate.Bytes and gate.Releases, and is safe for concurrent use.
type Quarantine struct {
	source Source
	store  *store
	log    *slog.Logger
	leases Leases // nil when no other process fetches into the same storage

	manifests *bounded[gate.Candidate, gate.Held]
	intact    *bounded[oci.Digest, identity]
	claimed   *bounded[claimKey, struct{}]
	// released maps each admitted candidate to the blobs its admission lets out.
	released *bounded[gate.Candidate, map[oci.Digest]bool]

	uses *uses
	// full holds a value when the storage had no room for something.
	full chan struct{}

	// claims is held for reading while a blob is claimed, and for writing while blobs nobody claims are dropped. Never across a
	// request to an upstream.
	claims sync.RWMutex

	mu       sync.Mutex
	arrivals map[arrivalKey]*arrival // guarded by mu; what is being fetched
	fetching sync.WaitGroup          // added to under mu, while lifetime has not ended
	lifetime context.Context
	end      context.CancelFunc
}

// New returns a Quarantine over driver. When driver keeps plain files, root is the folder it keeps them in, and arriving blobs are
// renamed into place; else root is empty and they are written through the driver. spool is a folder on the same file system for
// blobs that are arriving; what a process that died left there is removed.
func New(source Source, driver storagedriver.StorageDriver, root, spool string, log *slog.Logger) (*Quarantine, error) {
	dir, err := openSpool(spool)
	if err != nil {
		return nil, fmt.Errorf("opening the spool %s: %w", spool, err)
	}
	stored := &store{driver: driver, root: root, spool: dir, scales: newScales()}
	lifetime, end := context.WithCancel(context.Background())
	if err := errors.Join(stored.makeFolders(), stored.settleAllDropped(lifetime)); err != nil {
		end()
		return nil, errors.Join(fmt.Errorf("ending what was being dropped: %w", err), dir.remove())
	}
	return &Quarantine{
		source: source, store: stored, log: log,
		manifests: newBounded[gate.Candidate, gate.Held](maxManifests),
		intact:    newBounded[oci.Digest, identity](maxRemembered),
		claimed:   newBounded[claimKey, struct{}](maxRemembered),
		released:  newBounded[gate.Candidate, map[oci.Digest]bool](maxRemembered),
		uses:      newUses(),
		full:      make(chan struct{}, 1),
		arrivals:  map[arrivalKey]*arrival{}, lifetime: lifetime, end: end,
	}, nil
}

// ShareFetches has blobs be fetched by one process of all those that share l and the storage. It is called before q is used.
func (q *Quarantine) ShareFetches(l Leases) { q.leases = l }

// Close ends every fetch, waits for it, and removes the spool.
func (q *Quarantine) Close() error {
	q.mu.Lock()
	q.end()
	q.mu.Unlock()
	q.fetching.Wait()
	return q.store.spool.remove()
}

// TempDir returns a folder of this process's own, on the file system of the spool, for whatever need not outlive it: if the process is
// killed, the next one removes the folder.
func (q *Quarantine) TempDir() string { return q.store.spool.dir }

// Hold implements [gate.Bytes]. The manifest is stored before Hold returns, so that what is judged is what will be served.
func (q *Quarantine) Hold(ctx context.Context, c gate.Candidate) (gate.Held, error) {
	q.uses.touch(c)
	if held, ok := q.manifests.get(c); ok {
		return held, nil
	}
	held, err := q.holdStored(ctx, c)
	if !errors.Is(err, errNotHeld) {
		return held, err
	}
	if isHosted(c.Repository) { // there is nobody else to ask
		return gate.Held{}, oci.ErrNotFound
	}
	content, err := q.fetchManifest(ctx, c)
	if err != nil {
		return gate.Held{}, err
	}
	return q.parse(c, content)
}

// holdStored returns a manifest that is stored. Errors: errNotHeld.
func (q *Quarantine) holdStored(ctx context.Context, c gate.Candidate) (gate.Held, error) {
	content, err := q.store.manifest(ctx, c)
	if err != nil {
		return gate.Held{}, err
	}
	held, err := q.parse(c, content)
	if err != nil || !isHosted(c.Repository) {
		return held, err
	}
	// What was deleted while it was read must not be remembered. Whoever deletes it forgets it last, so one of the two does.
	if err := q.store.hasManifest(ctx, c); err != nil {
		q.manifests.remove(c)
		return gate.Held{}, err
	}
	return held, nil
}

// parse returns a manifest parsed, and remembers it.
func (q *Quarantine) parse(c gate.Candidate, content oci.Content) (gate.Held, error) {
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		return gate.Held{}, err
	}
	held := gate.Held{Candidate: c, Content: content, Manifest: m}
	if len(content.Raw) <= maxRememberedManifest {
		q.manifests.put(c, held)
	}
	return held, nil
}

func (q *Quarantine) fetchManifest(ctx context.Context, c gate.Candidate) (oci.Content, error) {
	content, err := q.source.Manifest(ctx, c.Repository, c.Digest.String())
	if err != nil {
		return oci.Content{}, err
	}
	if got := oci.FromBytes(content.Raw); got != c.Digest {
		return oci.Content{}, fmt.Errorf("manifest %s: content has digest %s: %w", c.Digest, got, oci.ErrMismatch)
	}
	content.Digest = c.Digest
	q.claims.RLock()
	defer q.claims.RUnlock()
	if err := q.store.putManifest(ctx, c, content); err != nil {
		q.notice(err)
		return oci.Content{}, fmt.Errorf("storing manifest %s: %w", c.Digest, err)
	}
	return content, nil
}

// openAttempts bounds how often Open looks again because a blob moved, or was found broken, between two of its steps.
const openAttempts = 3

// Open implements [gate.Bytes].
func (q *Quarantine) Open(ctx context.Context, c gate.Candidate, desc oci.Descriptor) (io.ReadCloser, error) {
	if isHosted(c.Repository) {
		return q.openPushed(ctx, c, desc)
	}
	q.uses.touch(c)
	for range openAttempts {
		if r, err := q.openStored(ctx, c, desc); !errors.Is(err, errNotHeld) {
			return r, err
		}
		if r, err := q.openArriving(ctx, c, desc); !errors.Is(err, errNotHeld) {
			return r, err
		}
	}
	return nil, fmt.Errorf("opening %s: %w", desc.Digest, errNotHeld)
}

// openPushed opens a blob of a hosted repository. Who has it is looked up each time: it can be deleted, also by another process.
// Errors: oci.ErrBlobUnknown.
func (q *Quarantine) openPushed(ctx context.Context, c gate.Candidate, desc oci.Descriptor) (io.ReadCloser, error) {
	if err := q.claimPushed(ctx, c, desc.Digest); err != nil {
		return nil, err
	}
	r, err := q.openIntact(ctx, desc)
	if errors.Is(err, errNotHeld) {
		return nil, oci.ErrBlobUnknown
	}
	return r, err
}

// openStored opens a blob that is stored already. Errors: errNotHeld when it is not there, or is not what it should be any more.
func (q *Quarantine) openStored(ctx context.Context, c gate.Candidate, desc oci.Descriptor) (io.ReadCloser, error) {
	if _, ok := q.claimed.get(claimKey{c, desc.Digest}); !ok {
		if err := q.proveAndClaim(ctx, c, desc); err != nil {
			return nil, err
		}
	}
	r, err := q.openIntact(ctx, desc)
	if w, ok := r.(*withholding); ok { // a file that is removed can be read to its end, which nobody promises of an object
		w.closed = q.uses.begin(c)
	}
	return r, err
}

// claimKey is a candidate's claim on a blob.
type claimKey struct {
	candidate gate.Candidate
	blob      oci.Digest
}

// proveAndClaim makes sure that c's repository may have a stored blob, which somebody else may have brought here, and notes it.
// What was proven of a repository holds for all its manifests. Of another repository its upstream's word is enough, given that the
// upstream has sent these bytes before; one that has not could claim to have what it only knows the digest of.
//
// Errors: errNotHeld also when the upstream has yet to prove, by sending it, that it has the blob.
func (q *Quarantine) proveAndClaim(ctx context.Context, c gate.Candidate, desc oci.Descriptor) error {
	if err := q.store.hasBlob(ctx, desc.Digest); err != nil {
		return err
	}
	by, err := q.claimedBy(ctx, c, desc.Digest)
	if err != nil || by == byCandidate {
		return err
	}
	if by == byNobody {
		return errNotHeld
	}
	if by == byUpstream {
		if err := q.source.BlobExists(ctx, c.Repository, desc); err != nil {
			return err
		}
	}
	q.claims.RLock()
	defer q.claims.RUnlock()
	if err := q.rest(ctx, c); err != nil {
		return fmt.Errorf("claiming %s for %s: the manifest: %v", desc.Digest, c, err)
	}
	if err := q.store.claim(ctx, c, desc.Digest); err != nil {
		q.notice(err)
		return err
	}
	q.claimed.put(claimKey{c, desc.Digest}, struct{}{})
	return nil
}

// claimedBy returns on whose word c may have a stored blob, and remembers when that is its own.
func (q *Quarantine) claimedBy(ctx context.Context, c gate.Candidate, d oci.Digest) (claimant, error) {
	q.claims.RLock()
	defer q.claims.RUnlock()
	by, err := q.store.claimed(ctx, c, d)
	if err == nil && by == byCandidate {
		q.claimed.put(claimKey{c, d}, struct{}{})
	}
	return by, err
}

// rest makes sure that the manifest of c is stored, before c claims a blob: a claim without one would keep the blob for ever. One that
// was evicted, here or by another process, while somebody is still at it, is stored again from memory; one that was dropped is not in
// memory either. The caller holds claims for reading. Errors: errNotHeld.
func (q *Quarantine) rest(ctx context.Context, c gate.Candidate) error {
	err := q.store.hasManifest(ctx, c)
	if !errors.Is(err, errNotHeld) {
		return err
	}
	held, ok := q.manifests.get(c)
	if !ok {
		return err
	}
	return q.store.putManifest(ctx, c, held.Content)
}

// openArriving joins or begins the fetch of a blob. Errors: errNotHeld when it ended meanwhile, and the blob is stored.
func (q *Quarantine) openArriving(ctx context.Context, c gate.Candidate, desc oci.Descriptor) (io.ReadCloser, error) {
	a, err := q.arrive(ctx, c, desc)
	if err != nil {
		return nil, err
	}
	if a.candidate.Repository != c.Repository {
		// Another repository is fetching the same bytes. They are c's only if c's own upstream would have handed them out.
		if err := q.source.BlobExists(ctx, c.Repository, desc); err != nil {
			return nil, err
		}
	}
	return a.open(ctx)
}

// openIntact opens a stored blob. A plain file is hashed when this process sees it for the first time or sees it changed, and then
// handed out as it is; anything else is verified as it is read, its last byte held back until the whole has proved right.
// Errors: errNotHeld, also after removing a blob that is not what its digest says; oci.ErrMismatch when the descriptor lies about
// the size of one that is.
func (q *Quarantine) openIntact(ctx context.Context, desc oci.Descriptor) (io.ReadCloser, error) {
	r, err := q.store.openBlob(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	file, now, ok := identify(r)
	if !ok {
		return newWithholding(r, desc, func() { q.suspect(desc.Digest) }), nil
	}
	if seen, ok := q.intact.get(desc.Digest); !ok || seen != now {
		err = verifyFile(file, oci.Descriptor{Digest: desc.Digest, Size: now.size})
	}
	switch {
	case errors.Is(err, oci.ErrMismatch):
		q.log.ErrorContext(ctx, "a stored blob is not what its digest says and is fetched again", "digest", desc.Digest.String(), "err", err)
		if err := errors.Join(file.Close(), q.removeBroken(ctx, desc.Digest, now)); err != nil {
			return nil, err
		}
		return nil, errNotHeld
	case err != nil:
		return nil, errors.Join(err, file.Close())
	}
	q.intact.put(desc.Digest, now)
	if now.size != desc.Size {
		err := fmt.Errorf("%s: %d bytes, the manifest announces %d: %w", desc.Digest, now.size, desc.Size, oci.ErrMismatch)
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Release implements [gate.Releases]. It refuses a verdict that does not allow.
func (q *Quarantine) Release(_ context.Context, v gate.Verdict) error {
	if !v.Allowed() {
		return fmt.Errorf("releasing %s: the verdict does not allow it", v.Candidate())
	}
	if _, ok := q.released.get(v.Candidate()); ok {
		return nil // what a manifest refers to never changes, so neither does what its admission lets out
	}
	blobs := make(map[oci.Digest]bool, len(v.Blobs))
	for _, d := range v.Blobs {
		blobs[d] = true
	}
	q.released.put(v.Candidate(), blobs)
	return nil
}

// Withdraw implements [gate.Releases].
func (q *Quarantine) Withdraw(ctx context.Context, c gate.Candidate, drop bool) error {
	q.released.remove(c)
	if !drop {
		return nil
	}
	q.claims.Lock()
	defer q.claims.Unlock()
	q.manifests.remove(c)
	content, err := q.store.manifest(ctx, c)
	if errors.Is(err, errNotHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	var blobs []oci.Descriptor
	if m, err := oci.ParseManifest(content.MediaType, content.Raw); err == nil {
		blobs = m.Blobs()
	}
	for _, d := range blobs {
		if _, err := q.drop(ctx, c, d.Digest); err != nil {
			return fmt.Errorf("dropping %s: %w", d.Digest, err)
		}
	}
	if _, err := q.drop(ctx, c, c.Digest); err != nil {
		return fmt.Errorf("dropping %s: %w", c.Digest, err)
	}
	defer q.manifests.remove(c)
	return q.store.removeManifest(ctx, c)
}

// drop gives up c's claim on a blob, and removes the blob when that was the last one. It returns how many bytes went.
func (q *Quarantine) drop(ctx context.Context, c gate.Candidate, d oci.Digest) (freed int64, err error) {
	q.claimed.remove(claimKey{c, d})
	return q.dropClaim(ctx, d, claimName(c))
}

// dropClaim gives up the claim called name on a blob, and removes the blob when that was the last one. The caller holds the lock on
// claims for writing.
func (q *Quarantine) dropClaim(ctx context.Context, d oci.Digest, name string) (freed int64, err error) {
	left, err := q.store.unclaim(ctx, d, name)
	if err != nil || left > 0 {
		return 0, err
	}
	q.intact.remove(d)
	return q.store.dropBlob(ctx, d)
}

// Released returns the view of q that serves: it opens what was released and has no way to ask for more.
func (q *Quarantine) Released() Released { return Released{q} }

// Released opens admitted content and nothing else.
type Released struct{ q *Quarantine }

// Manifest returns the manifest of an admitted candidate. Errors: oci.ErrNotFound when it is not admitted.
func (r Released) Manifest(ctx context.Context, c gate.Candidate) (oci.Content, error) {
	if _, ok := r.q.released.get(c); !ok {
		return oci.Content{}, oci.ErrNotFound
	}
	held, err := r.q.Hold(ctx, c)
	return held.Content, err
}

// Blob opens a blob that the manifest of an admitted candidate refers to. content is an *os.File when the blob is a file seen to be
// intact; otherwise its last byte comes only once the whole has proved right, and it is an io.Seeker if it can be.
//
// Errors: oci.ErrBlobUnknown when c is not admitted or does not refer to d; those of [Quarantine.Open].
func (r Released) Blob(ctx context.Context, c gate.Candidate, d oci.Digest) (content io.ReadCloser, size int64, err error) {
	blobs, ok := r.q.released.get(c)
	if !ok || !blobs[d] {
		return nil, 0, oci.ErrBlobUnknown
	}
	held, err := r.q.Hold(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	for _, desc := range held.Manifest.Blobs() {
		if desc.Digest == d {
			content, err = r.q.Open(ctx, c, desc)
			return content, desc.Size, err
		}
	}
	return nil, 0, oci.ErrBlobUnknown
}
