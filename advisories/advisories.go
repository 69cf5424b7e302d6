// Package advisories owns the folder of advisory data: how a database comes into it, from a registry or from a file, which one is in
// use, and which one was before.
//
// It promises that a database is in use only after whoever will read it has checked the whole of it, that one rename puts it there, so
// that a crash leaves the old one or the new one, that the one before is kept, and that of an archive nothing is written but the two
// files a database consists of. It must not match packages, and must not decide what is too old to count.
package advisories

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Names inside a folder. What is in use is behind the link [currentName], as the reader of advisories knows it.
const (
	currentName      = "current"
	previousName     = "previous"
	statusName       = "status.json"
	rolledBackName   = "rolled-back.json"
	lockName         = "lock"
	generationPrefix = "generation-"
	incomingPrefix   = "incoming-"
	// overlayName is the operator's directory of OSV records. It belongs to no database and goes with all of them.
	overlayName = "osv"
)

// Names inside a generation, which is one database.
const (
	databaseName = "trivy.db"
	metadataName = "metadata.json"
	originName   = "origin.json"
)

// Errors of this package.
var (
	// ErrBusy says that another process, or another goroutine, is changing the folder.
	ErrBusy = errors.New("the folder is being changed by somebody else")
	// ErrNoPrevious says that there is no database to return to.
	ErrNoPrevious = errors.New("there is no database before the one in use")
	// ErrOlder says that a tag leads to a database built before the one in use. Who can turn a tag back could hide advisories so.
	ErrOlder = errors.New("the database is older than the one in use")
	// ErrUnverified says that what was to be imported is not what was asked for: another digest, or no signature by the key.
	ErrUnverified = errors.New("it is not what was asked for")
	// ErrFormat says that something is not a database in any form that is known.
	ErrFormat = errors.New("it is no advisory database")
)

// Check opens the database in dir as its reader will, all of it, and closes it again. It returns the identity it would be used under.
// Errors: what is wrong with the database.
type Check func(ctx context.Context, dir string) (gate.Snapshot, error)

// Folder is a directory of databases, of which one is in use. It is safe for concurrent use, by several processes too: one at a time
// changes it, and readers follow a link.
type Folder struct {
	path  string
	check Check
	now   func() time.Time
}

// NewFolder returns the folder at path, which need not exist: whatever changes it creates it.
func NewFolder(path string, check Check, now func() time.Time) *Folder {
	return &Folder{path: path, check: check, now: now}
}

// Path returns where the folder is.
func (f *Folder) Path() string { return f.path }

// install makes what fill writes the database in use. fill is given an empty directory in the folder, and says where what it writes there
// comes from; older says whether the database may be older than the one in use. On any error what was in use stays in use.
func (f *Folder) install(ctx context.Context, older bool, fill func(dir string, o *Origin) error) (Origin, error) {
	unlock, err := f.lock()
	if err != nil {
		return Origin{}, err
	}
	defer unlock()
	f.sweep()
	incoming, err := os.MkdirTemp(f.path, incomingPrefix)
	if err != nil {
		return Origin{}, err
	}
	defer func() { _ = os.RemoveAll(incoming) }() // there is nothing once it has its name; else the next sweep tries again
	var o Origin
	if err := fill(incoming, &o); err != nil {
		return Origin{}, err
	}
	// The reader finds records of the operator beside the database. Where there are none the link leads nowhere, which is the same.
	if err := os.Symlink(filepath.Join("..", overlayName), filepath.Join(incoming, overlayName)); err != nil {
		return Origin{}, err
	}
	snapshot, err := f.check(ctx, incoming)
	if err != nil {
		return Origin{}, fmt.Errorf("checking the database: %w", err)
	}
	if inUse, ok := f.generation(currentName); ok && !older && snapshot.UpdatedAt.Before(inUse.BuiltAt) {
		return Origin{}, fmt.Errorf("built %s, in use is one of %s: %w", stamp(snapshot.UpdatedAt), stamp(inUse.BuiltAt), ErrOlder)
	}
	o.BuiltAt, o.Snapshot, o.InstalledAt = snapshot.UpdatedAt, snapshot.ID, f.now().UTC()
	o.NextUpdate = publisherNext(incoming)
	if err := writeRecord(filepath.Join(incoming, originName), o); err != nil {
		return Origin{}, err
	}
	// It is public knowledge, and whoever serves may be another user than whoever imported.
	if err := os.Chmod(incoming, 0o755); err != nil {
		return Origin{}, err
	}
	name := generationPrefix + strings.TrimPrefix(filepath.Base(incoming), incomingPrefix)
	if err := os.Rename(incoming, filepath.Join(f.path, name)); err != nil {
		return Origin{}, err
	}
	// Dying here leaves a generation nobody uses, which the next sweep removes.
	if err := f.use(name); err != nil {
		return Origin{}, err
	}
	f.sweep()
	return o, nil
}

// use turns the links: name is in use, and what was in use is the one before.
func (f *Folder) use(name string) error {
	if old := f.target(currentName); old != "" {
		if err := f.turn(previousName, old); err != nil {
			return err
		}
	}
	// Dying here leaves the old database in use, and before it itself.
	return f.turn(currentName, name)
}

// turn makes the link called link lead to name, at once.
func (f *Folder) turn(link, name string) error {
	fresh := filepath.Join(f.path, incomingPrefix+link)
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(name, fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, filepath.Join(f.path, link)); err != nil {
		return err
	}
	return syncDir(f.path)
}

// target returns the name of the generation a link leads to; empty when there is none.
func (f *Folder) target(link string) string {
	name, err := os.Readlink(filepath.Join(f.path, link))
	if err != nil || filepath.Base(name) != name || !strings.HasPrefix(name, generationPrefix) {
		return ""
	}
	if _, err := os.Stat(filepath.Join(f.path, name)); err != nil {
		return ""
	}
	return name
}

// sweep removes what no link leads to: older generations, and what a process that died left. It is called by whoever holds the lock.
// What cannot be removed costs room and is tried again the next time.
func (f *Folder) sweep() {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return
	}
	current, previous := f.target(currentName), f.target(previousName)
	for _, e := range entries {
		name := e.Name()
		stale := strings.HasPrefix(name, incomingPrefix) || strings.HasPrefix(name, generationPrefix) && name != current && name != previous
		if stale {
			_ = os.RemoveAll(filepath.Join(f.path, name))
		}
	}
}

// Rollback puts the database before into use again, and keeps the one that was in use as the one before. What a registry sent and is
// rolled back from is not fetched again by its tag until the tag leads to another one.
//
// Errors: ErrNoPrevious, ErrBusy; the database before cannot be used either, and then the one in use stays.
func (f *Folder) Rollback(ctx context.Context) (Origin, error) {
	unlock, err := f.lock()
	if err != nil {
		return Origin{}, err
	}
	defer unlock()
	left, _ := f.generation(currentName)
	if err := f.back(ctx); err != nil {
		return Origin{}, err
	}
	o, _ := f.generation(currentName)
	return o, writeRecord(filepath.Join(f.path, rolledBackName), rolledBack{left.Digest})
}

// back puts the database before into use. It is called by whoever holds the lock.
func (f *Folder) back(ctx context.Context) error {
	previous := f.target(previousName)
	if previous == "" || previous == f.target(currentName) {
		return ErrNoPrevious
	}
	if _, err := f.check(ctx, filepath.Join(f.path, previous)); err != nil {
		return fmt.Errorf("checking the database before: %w", err)
	}
	return f.use(previous)
}

// Recover is for a database in use that cannot be read, because something happened to it since it was checked. The one before takes
// its place or, where there is none that can be read, nothing; what is broken is removed, and may be fetched again. A database in use
// that can be read stays.
//
// Errors: ErrNoPrevious when nothing is in use here, ErrBusy.
func (f *Folder) Recover(ctx context.Context) error {
	unlock, err := f.lock()
	if err != nil {
		return err
	}
	defer unlock()
	broken := f.target(currentName)
	if broken == "" {
		return ErrNoPrevious
	}
	if _, err := f.check(ctx, filepath.Join(f.path, broken)); err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if err := f.back(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := os.Remove(filepath.Join(f.path, currentName)); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(f.path, previousName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f.sweep()
	return nil
}

// syncDir makes the names in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
