package quarantine

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/tidewaiter/tidewaiter/oci"
)

// verifyFile reads all of file, compares it with desc, and goes back to its start. Errors: oci.ErrMismatch.
func verifyFile(file *os.File, desc oci.Descriptor) error {
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, oci.NewVerifier(file, desc), make([]byte, arrivalBuffer)); err != nil {
		return err
	}
	_, err := file.Seek(0, io.SeekStart)
	return err
}

// removeBroken removes a stored blob that proved wrong, unless it is another one by now.
func (q *Quarantine) removeBroken(ctx context.Context, d oci.Digest, broken identity) error {
	q.claims.Lock()
	defer q.claims.Unlock()
	r, err := q.store.openBlob(ctx, d)
	if errors.Is(err, errNotHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	_, now, ok := identify(r)
	if err := r.Close(); err != nil || ok && now != broken {
		return err
	}
	return q.store.removeBlob(ctx, d)
}

// removeWrong removes a stored blob that proved wrong.
func (q *Quarantine) removeWrong(ctx context.Context, d oci.Digest) error {
	q.claims.Lock()
	defer q.claims.Unlock()
	return q.store.removeBlob(ctx, d)
}

// suspect looks, with nobody waiting, whether a stored blob that proved wrong to a reader is not what its digest says, and removes it
// then, so that it is fetched again. To the reader it may have been the manifest that lied.
func (q *Quarantine) suspect(d oci.Digest) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lifetime.Err() != nil {
		return
	}
	q.fetching.Go(func() {
		ctx, cancel := context.WithTimeout(q.lifetime, arrivalTimeout)
		defer cancel()
		right, err := q.store.proves(ctx, d)
		if err == nil && !right {
			q.log.ErrorContext(ctx, "a stored blob is not what its digest says and is fetched again", "digest", d.String())
			err = q.removeWrong(ctx, d)
		}
		if err != nil && !errors.Is(err, errNotHeld) && ctx.Err() == nil {
			q.log.WarnContext(ctx, "looking at a stored blob that proved wrong", "digest", d.String(), "err", err)
		}
	})
}

// withholding reads content and gives out its last byte only once all of it has proved right.
type withholding struct {
	in   *bufio.Reader
	from io.Closer
	err  error
	// closed is called by Close; nil for nobody to be told.
	closed func()
	// wrong is called once if the content proves wrong.
	wrong func()
}

func newWithholding(r io.ReadCloser, desc oci.Descriptor, wrong func()) *withholding {
	return &withholding{in: bufio.NewReaderSize(oci.NewVerifier(r, desc), arrivalBuffer), from: r, wrong: wrong}
}

// Read implements io.Reader.
func (w *withholding) Read(p []byte) (int, error) {
	if len(p) == 0 || w.err != nil {
		return 0, w.err
	}
	// Looking one byte further than is handed out makes the verifier see the end before the last byte leaves.
	peeked, err := w.in.Peek(min(len(p)+1, arrivalBuffer))
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		w.err = err
		if errors.Is(err, oci.ErrMismatch) {
			w.wrong()
		}
		return 0, err
	}
	n := len(peeked)
	if err == nil {
		n--
	}
	if n == 0 {
		w.err = io.EOF
		return 0, io.EOF
	}
	n = copy(p, peeked[:min(n, len(p))])
	_, _ = w.in.Discard(n) // they have just been peeked at
	return n, nil
}

// Close implements io.Closer.
func (w *withholding) Close() error {
	if w.closed != nil {
		w.closed()
	}
	return w.from.Close()
}

// bounded is a map that forgets arbitrary entries rather than grow beyond its size. It is safe for concurrent use.
type bounded[K comparable, V any] struct {
	mu      sync.RWMutex
	entries map[K]V // guarded by mu
	size    int
}

func newBounded[K comparable, V any](size int) *bounded[K, V] {
	return &bounded[K, V]{entries: map[K]V{}, size: size}
}

func (b *bounded[K, V]) get(k K) (V, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	v, ok := b.entries[k]
	return v, ok
}

func (b *bounded[K, V]) put(k K, v V) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for old := range b.entries {
		if len(b.entries) < b.size {
			break
		}
		delete(b.entries, old)
	}
	b.entries[k] = v
}

func (b *bounded[K, V]) remove(k K) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.entries, k)
}
