package quarantine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// arrivalTimeout bounds the fetch of one blob: 10 GiB, the largest layer registries take, at 6 MiB/s.
const arrivalTimeout = 30 * time.Minute

// arrivalBuffer is how much is read from the upstream at a time.
const arrivalBuffer = 256 << 10

// arrival is a blob on its way in. One goroutine writes it to the spool; any number of readers follow it there, at their own speed.
type arrival struct {
	candidate gate.Candidate // who asked first, on whose repository's behalf it is fetched
	desc      oci.Descriptor

	mu      sync.Mutex
	path    string        // guarded by mu: the file in the spool; empty until there is one
	written int64         // guarded by mu
	done    bool          // guarded by mu: stored, or failed
	err     error         // guarded by mu: why it failed
	changed chan struct{} // guarded by mu: closed, and replaced, at every change
}

// arrivalKey tells whose fetch can be shared: the same upstream's, of a blob announced alike. Another upstream that is slow, fails, or
// is said to have the blob with another size, keeps nobody waiting but its own.
type arrivalKey struct {
	upstream string
	digest   oci.Digest
	size     int64
}

func (a *arrival) key() arrivalKey {
	return arrivalKey{a.candidate.Repository.Upstream, a.desc.Digest, a.desc.Size}
}

// arrive joins the arrival of desc, or begins it. Of ctx the values alone matter, to whoever begins it: it outlives who asks.
func (q *Quarantine) arrive(ctx context.Context, c gate.Candidate, desc oci.Descriptor) (*arrival, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.lifetime.Err(); err != nil {
		return nil, err
	}
	begun := &arrival{candidate: c, desc: desc, changed: make(chan struct{})}
	if a, ok := q.arrivals[begun.key()]; ok {
		return a, nil
	}
	q.arrivals[begun.key()] = begun
	q.fetching.Go(func() { q.receive(context.WithoutCancel(ctx), begun) })
	return begun, nil
}

// receive carries an arrival through, and takes it off the list when it has ended either way.
func (q *Quarantine) receive(ctx context.Context, a *arrival) {
	ctx, cancel := context.WithTimeout(ctx, arrivalTimeout)
	defer cancel()
	defer context.AfterFunc(q.lifetime, cancel)()
	err := q.fetch(ctx, a)
	q.notice(err)
	q.mu.Lock()
	delete(q.arrivals, a.key())
	q.mu.Unlock()
	a.change(func() { a.done, a.err = true, err })
}

// fetch brings the bytes to the spool, checks them, and moves them to where blobs lie. Dying anywhere before the move leaves a spool
// file that the next start removes; dying after it leaves a blob that is intact and that nobody can be served.
func (q *Quarantine) fetch(ctx context.Context, a *arrival) error {
	if arrived, err := q.arrived(ctx, a); err != nil || arrived {
		return err
	}
	release, shared := q.lease(ctx, a)
	defer release()
	if shared { // another process may have brought it
		if arrived, err := q.arrived(ctx, a); err != nil || arrived {
			return err
		}
	}
	file, err := q.store.spool.create()
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // gone already when all went well
	defer func() { _ = file.Close() }()           // written through the page cache; a loss shows when the blob is hashed
	a.change(func() { a.path = file.Name() })
	if err := q.copyVerified(ctx, a, file); err != nil {
		return err
	}
	q.claims.RLock()
	defer q.claims.RUnlock()
	if err := q.rest(ctx, a.candidate); err != nil { // dropped meanwhile: nobody would ever drop this blob
		return fmt.Errorf("storing %s for %s: the manifest: %v", a.desc.Digest, a.candidate, err)
	}
	if err := q.store.claim(ctx, a.candidate, a.desc.Digest); err != nil {
		return fmt.Errorf("storing %s: %w", a.desc.Digest, err)
	}
	if err := q.store.commit(ctx, file, a.desc.Digest); err != nil {
		return fmt.Errorf("storing %s: %w", a.desc.Digest, err)
	}
	q.store.scales.put(blobPath(a.desc.Digest), a.desc.Size)
	if q.store.root != "" {
		if _, now, ok := identify(file); ok {
			q.intact.put(a.desc.Digest, now)
		}
	}
	return nil
}

// leaseWait is how long another process that fetches a blob is waited for. Its bytes cannot be followed while they arrive there, and load
// balancers cut connections that are silent for a minute.
const leaseWait = 20 * time.Second

// lease waits until no other process fetches what a is about, but not for long. shared is false when that is not known.
func (q *Quarantine) lease(ctx context.Context, a *arrival) (release func(), shared bool) {
	if q.leases == nil {
		return func() {}, false
	}
	ctx, cancel := context.WithTimeout(ctx, leaseWait)
	defer cancel()
	release, err := q.leases.Acquire(ctx, fmt.Sprint("blob:", a.candidate.Repository.Upstream, ":", a.desc.Digest, ":", a.desc.Size))
	if err != nil {
		q.log.DebugContext(ctx, "fetching without a lease", "digest", a.desc.Digest.String(), "err", err)
		return func() {}, false
	}
	return release, true
}

// arrived reports whether an earlier arrival from the same upstream brought the blob between two looks.
func (q *Quarantine) arrived(ctx context.Context, a *arrival) (bool, error) {
	if err := q.store.hasBlob(ctx, a.desc.Digest); err != nil {
		if errors.Is(err, errNotHeld) {
			return false, nil
		}
		return false, err
	}
	by, err := q.store.claimed(ctx, a.candidate, a.desc.Digest)
	return by != byNobody, err
}

func (q *Quarantine) copyVerified(ctx context.Context, a *arrival, file *os.File) error {
	body, err := q.source.Blob(ctx, a.candidate.Repository, a.desc)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // every byte wanted has been read and checked, or the fetch has failed already
	in := oci.NewVerifier(body, a.desc)
	buf := make([]byte, arrivalBuffer)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if _, err := file.Write(buf[:n]); err != nil {
				return err
			}
			a.change(func() { a.written += int64(n) })
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// change applies do and wakes every reader.
func (a *arrival) change(do func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	do()
	close(a.changed)
	a.changed = make(chan struct{})
}

// open returns a reader that follows the arrival from its first byte. Errors: errNotHeld when the arrival has ended well, and
// its bytes are to be found where blobs lie; why it failed otherwise.
func (a *arrival) open(ctx context.Context) (io.ReadCloser, error) {
	for {
		a.mu.Lock()
		path, done, err, changed := a.path, a.done, a.err, a.changed
		a.mu.Unlock()
		if done {
			return nil, cmp.Or(err, errNotHeld)
		}
		if path != "" {
			file, err := os.Open(path)
			if err == nil {
				return &follower{a: a, file: file, gone: ctx.Done(), cause: ctx.Err}, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			} // it was moved to where blobs lie, or removed, a moment ago: that it is done comes next
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// follower reads an arriving blob. The last byte comes only once the whole blob is stored, so nobody ever has all of one that
// proved wrong. It implements io.Seeker for ranges; it is not safe for concurrent use.
type follower struct {
	a      *arrival
	file   *os.File
	offset int64
	gone   <-chan struct{} // closed when the reader's own caller has gone
	cause  func() error
}

// Read implements io.Reader. It waits for bytes that have not arrived.
func (f *follower) Read(p []byte) (int, error) {
	for {
		f.a.mu.Lock()
		readable, done, err, changed := f.a.written, f.a.done, f.a.err, f.a.changed
		f.a.mu.Unlock()
		if err != nil {
			return 0, err
		}
		if !done {
			readable = min(readable, f.a.desc.Size-1)
		}
		if f.offset < readable {
			n, err := f.file.ReadAt(p[:min(int64(len(p)), readable-f.offset)], f.offset)
			f.offset += int64(n)
			if n > 0 {
				return n, nil
			}
			return 0, err
		}
		if done {
			return 0, io.EOF
		}
		select {
		case <-changed:
		case <-f.gone:
			return 0, f.cause()
		}
	}
}

// Seek implements io.Seeker. The end is where the descriptor says it will be.
func (f *follower) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.offset
	case io.SeekEnd:
		offset += f.a.desc.Size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seeking to %d", offset)
	}
	f.offset = offset
	return offset, nil
}

// Close implements io.Closer. The arrival goes on.
func (f *follower) Close() error { return f.file.Close() }
