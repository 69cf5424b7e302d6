package scan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Names inside an advisory directory.
const (
	databaseName = "trivy.db"
	metadataName = "metadata.json"
	overlayName  = "osv"
	// currentName is a link to the directory of the three above that counts, where several are kept. Turning it replaces all at once.
	currentName = "current"
)

// databaseSchema is the only version of trivy-db's layout this package reads.
const databaseSchema = 2

const (
	// maxMetadataBytes bounds metadata.json, which is four lines.
	maxMetadataBytes = 64 << 10
	// lockTimeout is how long to wait for a process that is writing the database; one that replaces it by renaming never locks it.
	lockTimeout = 2 * time.Second
	// clockSkew is how far ahead of ours the publisher's clock may be. Data from further in the future would never grow stale.
	clockSkew = time.Hour
	// digestBlockBytes is read between two looks at the context.
	digestBlockBytes = 1 << 20
)

var (
	errClosed = errors.New("advisory file is closed")
	// errNoDatabase says that there is nothing where the database should be. It comes with the error of the file system.
	errNoDatabase = errors.New("there is no advisory database")
)

// advisoryData is one state of the advisory files, opened. It is never modified.
type advisoryData struct {
	db       *bolt.DB
	snapshot gate.Snapshot
	files    advisoryFiles
	index    advisoryIndex
	overlay  overlay
}

// advisoryFiles says which files data was read from, to tell whether they are still the ones in place.
type advisoryFiles []advisoryFile

type advisoryFile struct {
	path string
	info fs.FileInfo
}

// findAdvisoryFiles returns the files at path: the database, then metadata.json if there is one, then the OSV records by name.
func findAdvisoryFiles(path string) (advisoryFiles, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		// The link is followed once, so that all files are of one directory should it be turned meanwhile.
		if current, err := filepath.EvalSymlinks(filepath.Join(path, currentName)); err == nil {
			path = current
		}
		path = filepath.Join(path, databaseName)
		info, err = os.Stat(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errNoDatabase, err)
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	files := advisoryFiles{{path, info}}
	dir := filepath.Dir(path)
	switch info, err := os.Stat(filepath.Join(dir, metadataName)); {
	case err == nil:
		files = append(files, advisoryFile{filepath.Join(dir, metadataName), info})
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	records, err := findOverlayFiles(filepath.Join(dir, overlayName))
	return append(files, records...), err
}

func findOverlayFiles(dir string) (advisoryFiles, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files advisoryFiles
	for _, e := range entries { // sorted by name
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path) // follows links, which is how mounted configuration is laid out
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is not a regular file", path)
		}
		files = append(files, advisoryFile{path, info})
	}
	return files, nil
}

// unchanged reports whether the files at path are the very ones f was read from. What cannot be told is a change.
func (f advisoryFiles) unchanged(path string) bool {
	now, err := findAdvisoryFiles(path)
	return err == nil && slices.EqualFunc(f, now, func(a, b advisoryFile) bool {
		return a.path == b.path && os.SameFile(a.info, b.info) && a.info.Size() == b.info.Size() && a.info.ModTime().Equal(b.info.ModTime())
	})
}

// metadata returns the path of metadata.json, if there is one.
func (f advisoryFiles) metadata() (path string, ok bool) {
	if len(f) > 1 && filepath.Base(f[1].path) == metadataName && filepath.Dir(f[1].path) == filepath.Dir(f[0].path) {
		return f[1].path, true
	}
	return "", false
}

// overlay returns the files of the OSV records.
func (f advisoryFiles) overlay() advisoryFiles {
	if _, ok := f.metadata(); ok {
		return f[2:]
	}
	return f[1:]
}

// openAdvisoryData reads the advisory files at path, all of them or none.
func openAdvisoryData(ctx context.Context, path string, maxAge time.Duration, now time.Time) (_ *advisoryData, err error) {
	files, err := findAdvisoryFiles(path)
	if err != nil {
		return nil, err
	}
	updatedAt, err := files.updatedAt(now)
	if err != nil {
		return nil, err
	}
	d := &advisoryData{files: files}
	id, err := d.openDatabase(ctx, files[0].path)
	if err != nil {
		return nil, err
	}
	if err := d.readIndex(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	overlayDigest, err := d.readOverlay(ctx, now)
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	if len(files.overlay()) > 0 {
		both := sha256.Sum256(slices.Concat(id, overlayDigest))
		id = both[:]
	}
	d.snapshot = gate.Snapshot{ID: "sha256:" + hex.EncodeToString(id), UpdatedAt: updatedAt}
	if maxAge > 0 {
		d.snapshot.Until = updatedAt.Add(maxAge)
	}
	return d, nil
}

// updatedAt returns when the publisher built the data, UTC, by metadata.json or, without it, by the file's modification time.
func (f advisoryFiles) updatedAt(now time.Time) (time.Time, error) {
	updatedAt := f[0].info.ModTime()
	if path, ok := f.metadata(); ok {
		text, err := readBounded(path, maxMetadataBytes)
		if err != nil {
			return time.Time{}, err
		}
		var m struct {
			Version   int
			UpdatedAt time.Time
		}
		if err := json.Unmarshal(text, &m); err != nil {
			return time.Time{}, fmt.Errorf("reading %s: %w", path, err)
		}
		if m.Version != databaseSchema || m.UpdatedAt.IsZero() {
			return time.Time{}, fmt.Errorf("%s: schema %d of %s, want %d and a time", path, m.Version, m.UpdatedAt, databaseSchema)
		}
		updatedAt = m.UpdatedAt
	}
	if updatedAt.After(now.Add(clockSkew)) {
		return time.Time{}, fmt.Errorf("built at %s, which is in the future", updatedAt.UTC().Format(time.RFC3339))
	}
	return updatedAt.UTC(), nil
}

// readBounded returns the content of a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only: nothing is lost
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return text, nil
}

// openDatabase opens the file at path once, so that what is digested and checked is what is read, and returns its digest.
func (d *advisoryData) openDatabase(ctx context.Context, path string) (digest []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	digest, err = checkDatabase(ctx, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	err = guarded(func() error {
		d.db, err = bolt.Open(path, 0, &bolt.Options{ // takes f over, and closes it if it fails
			ReadOnly: true,
			Timeout:  lockTimeout,
			OpenFile: func(string, int, os.FileMode) (*os.File, error) { return f, nil },
		})
		return err
	})
	return digest, err
}

func checkDatabase(ctx context.Context, f *os.File) (digest []byte, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	for content := io.NewSectionReader(f, 0, info.Size()); ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, err := io.CopyN(h, content, digestBlockBytes); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
	}
	return h.Sum(nil), checkPages(f, info.Size())
}

// view reads the database in one transaction.
func (d *advisoryData) view(read func(*bolt.Tx) error) error {
	return guarded(func() error {
		if err := d.db.View(read); !errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
			return err
		}
		return errClosed
	})
}

// close gives the file back when the last view has ended.
func (d *advisoryData) close() error { return guarded(d.db.Close) }

// guarded runs f, and makes an error of a panic. The pages were checked when the file was opened, so this is for a file that was
// written over or cut off since, which shows as a fault of memory.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("reading the advisory file: %v", p)
		}
	}()
	return f()
}
