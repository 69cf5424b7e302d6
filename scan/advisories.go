package scan

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/tidewaiter/tidewaiter/gate"
)

// ErrSnapshotReplaced is returned by [Advisories.Match] for a snapshot that is not the one in use.
var ErrSnapshotReplaced = errors.New("advisory snapshot is not the one in use")

// Advisories is what is known to be bad: a trivy-db file of schema 2, read where it lies, and the OSV records beside it. It
// implements [gate.Advisories], and is safe for concurrent use.
//
// The data comes from publishers nobody vouches for. It can hide an advisory; it cannot crash the process, be used half, or be
// used after its time.
type Advisories struct {
	maxAge time.Duration
	now    func() time.Time

	// awaits says that there may be nothing at path yet.
	awaits bool

	// reloading admits one Reload or Close at a time, and guards path, which is empty when there is nothing to load.
	reloading sync.Mutex
	path      string
	// current is replaced as a whole and never modified; nil when there is no data.
	current atomic.Pointer[advisoryData]
}

// OpenAdvisories opens the advisory data at path: a trivy-db file, or the directory that holds it as trivy.db, or one in which the
// link "current" leads to such a directory. Beside the file may lie metadata.json, which says when it was built (without it, the file's
// own modification time counts), and a directory osv of OSV records, one a file, which add to what the database says and never take
// away from it.
//
// Data older than maxAge does not count; zero is no limit. An empty path is the absence of data: everything is then a gap.
//
// The whole file is read once, for its digest and to check that its pages hang together, so opening takes about two seconds for
// each gigabyte. Errors: those of the file system (fs.ErrNotExist for a missing file); data of another schema, damaged, or built in
// the future; an OSV record that cannot be read, or that is about no package an image can have.
func OpenAdvisories(ctx context.Context, path string, maxAge time.Duration, now func() time.Time) (*Advisories, error) {
	a := &Advisories{path: path, maxAge: maxAge, now: now}
	if path == "" {
		return a, nil
	}
	data, err := openAdvisoryData(ctx, path, maxAge, now())
	if err != nil {
		return nil, fmt.Errorf("opening advisories %s: %w", path, err)
	}
	a.current.Store(data)
	return a, nil
}

// AwaitAdvisories is [OpenAdvisories] for data that may not be there yet: as long as it is not, that is the absence of data and no
// error, and the first Reload that finds it opens it.
func AwaitAdvisories(ctx context.Context, path string, maxAge time.Duration, now func() time.Time) (*Advisories, error) {
	a := &Advisories{path: path, maxAge: maxAge, now: now, awaits: true}
	if _, err := a.Reload(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// Snapshot returns the identity of the data [Advisories.Match] would use now; the zero Snapshot when there is none.
func (a *Advisories) Snapshot() gate.Snapshot {
	if data := a.current.Load(); data != nil {
		return data.snapshot
	}
	return gate.Snapshot{}
}

// Reload opens the data anew if its files are not the ones in use, and swaps it for the old at once. changed says whether the
// snapshot is another one now. When it fails the old data stays in use. The old file is closed when the last Match that reads it
// has ended, before Reload returns.
//
// Files are to be replaced by renaming, trivy.db before metadata.json, or the link by another: a file written over where it lies is one
// that Match reads half of.
func (a *Advisories) Reload(ctx context.Context) (changed bool, err error) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	old := a.current.Load()
	if a.path == "" || old != nil && old.files.unchanged(a.path) {
		return false, nil
	}
	data, err := openAdvisoryData(ctx, a.path, a.maxAge, a.now())
	if a.awaits && old == nil && errors.Is(err, errNoDatabase) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reloading advisories %s: %w", a.path, err)
	}
	a.current.Store(data)
	if old == nil {
		return true, nil
	}
	changed = old.snapshot != data.snapshot
	if err := old.close(); err != nil {
		return changed, fmt.Errorf("closing replaced advisories %s: %w", a.path, err)
	}
	return changed, nil
}

// Close gives the file back when the last Match that reads it has ended. Afterwards there is no data, and none is loaded.
func (a *Advisories) Close() error {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	a.path = ""
	if old := a.current.Swap(nil); old != nil {
		return old.close()
	}
	return nil
}

// Match returns the findings of inv by the data of snapshot, sorted by severity, highest first, then by ID, package and path, and
// what could not be matched: an image without advisory data, a distribution, release or ecosystem the data does not cover, a
// version that cannot be compared. Everything is read in one transaction.
//
// Errors: ErrSnapshotReplaced; ctx's; data that cannot be read, in which case nothing is known about inv.
func (a *Advisories) Match(ctx context.Context, snapshot gate.Snapshot, inv gate.Inventory) ([]gate.Finding, []gate.Gap, error) {
	data := a.current.Load()
	if data == nil {
		if snapshot.ID != "" {
			return nil, nil, ErrSnapshotReplaced
		}
		return nil, []gate.Gap{{Kind: gate.GapNoAdvisories, Why: "there is no advisory data"}}, nil
	}
	if snapshot.ID != data.snapshot.ID {
		return nil, nil, ErrSnapshotReplaced
	}
	m := matcher{data: data, described: map[string]vulnerability{}, seen: map[findingKey]int{}}
	err := data.view(func(tx *bolt.Tx) error {
		m.tx = tx
		return m.match(ctx, inv)
	})
	if errors.Is(err, errClosed) {
		return nil, nil, ErrSnapshotReplaced
	}
	if err != nil {
		return nil, nil, fmt.Errorf("matching against advisories %s: %w", data.snapshot.ID, err)
	}
	return m.sorted(), m.gaps.list(), nil
}
