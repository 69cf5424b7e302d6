package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewaiter/tidewaiter/seal"
)

// lookEvery is how long a file is not looked at again: a pull asks who it is for every blob, and nobody who changes a file waits for
// less.
const lookEvery = time.Second

// file is what a file says, read again when the file has changed. A file that turns bad leaves what was in force in force, and is
// complained of once. It is safe for concurrent use; a nil file says nothing.
type file[T any] struct {
	path string
	// what names the file in the log: "htpasswd file".
	what     string
	maxBytes int64
	parse    func(content []byte) (*T, error)
	now      func() time.Time
	log      *slog.Logger
	observe  func(Event)

	current atomic.Pointer[T] // what it says; never modified, never nil once opened
	looked  atomic.Int64      // when it was last looked at, nanoseconds since 1970

	mu sync.Mutex // held while it is read
	// seen is the file that was last read, whether or not it was good; nil when it was not there. Guarded by mu.
	seen fs.FileInfo
}

// openFile reads a file for the first time. An empty path is no file.
func openFile[T any](f *file[T]) (*file[T], error) {
	if f.path == "" {
		return nil, nil
	}
	if err := f.reload(true); err != nil {
		return nil, err
	}
	return f, nil
}

// get returns what the file says now, to within [lookEvery]; nil when there is no file.
func (f *file[T]) get(ctx context.Context) *T {
	if f == nil {
		return nil
	}
	now := f.now().UnixNano()
	last := f.looked.Load()
	if recent := time.Duration(now-last) < lookEvery && now >= last; !recent && f.looked.CompareAndSwap(last, now) { // of several, one looks
		f.again(ctx, false)
	}
	return f.current.Load()
}

// again reads the file again if it has changed, or in any case.
func (f *file[T]) again(ctx context.Context, always bool) {
	before := f.current.Load()
	if err := f.reload(always); err != nil {
		f.observe(EventReloadFailed)
		f.log.ErrorContext(ctx, "the "+f.what+" is refused, what was in force stays in force", "path", f.path, "err", err)
	} else if f.current.Load() != before {
		f.observe(EventReloaded)
		f.log.InfoContext(ctx, "the "+f.what+" is in force", "path", f.path)
	}
}

// reload reads the file if it is another than was last read, or in any case.
func (f *file[T]) reload(always bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		if f.seen == nil && !always && errors.Is(err, fs.ErrNotExist) {
			return nil // which has been said
		}
		f.seen = nil
		return fmt.Errorf("reading the %s: %w", f.what, err)
	}
	if !always && same(info, f.seen) {
		return nil
	}
	f.seen = info // as it was before it is read: what changes from here on is read the next time
	content, err := seal.ReadFile(f.path, f.maxBytes)
	if err != nil {
		return fmt.Errorf("reading the %s: %w", f.what, err)
	}
	read, err := f.parse(content)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.current.Store(read)
	return nil
}

func same(a, b fs.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && a.Mode() == b.Mode()
}
