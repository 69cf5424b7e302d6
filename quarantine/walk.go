package quarantine

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// stored is something that lies in storage.
type stored struct {
	path string
	size int64
	at   time.Time // when it was written, by the clock of the storage
}

// walk calls visit with everything that lies below top, in no order. What comes or goes meanwhile may be left out.
func (s *store) walk(ctx context.Context, top string, visit func(stored) error) error {
	if s.root != "" { // the driver would give up when a folder goes while it walks, and looks at every one of them once more
		return s.walkFiles(ctx, top, visit)
	}
	if _, err := s.driver.Stat(ctx, top); isNotFound(err) {
		return nil
	}
	return s.driver.Walk(ctx, top, func(info storagedriver.FileInfo) error {
		if info.IsDir() {
			return ctx.Err()
		}
		return visit(stored{info.Path(), info.Size(), info.ModTime()})
	})
}

func (s *store) walkFiles(ctx context.Context, top string, visit func(stored) error) error {
	from := filepath.Join(s.root, filepath.FromSlash(top)) + string(filepath.Separator) // which may be a link to another disk
	return filepath.WalkDir(from, func(p string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = entry.Info(); err == nil {
				rel, _ := filepath.Rel(s.root, p) // it lies there
				return visit(stored{path.Join("/", filepath.ToSlash(rel)), info.Size(), info.ModTime()})
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.Join(err, ctx.Err())
	})
}

// notes calls visit with every manifest that is noted as stored, and when that was.
func (s *store) notes(ctx context.Context, visit func(gate.Candidate, time.Time) error) error {
	return s.walk(ctx, manifestsPath, func(note stored) error {
		c, ok := notedAt(note.path)
		if !ok { // the driver's own, from a write that was cut short
			return nil
		}
		return visit(c, note.at)
	})
}

// notedAt returns whose note lies at p, as [manifestPath] has it.
func notedAt(p string) (c gate.Candidate, ok bool) {
	name, encoded, ok := strings.Cut(strings.TrimPrefix(p, manifestsPath+"/"), "/_manifests/")
	if !ok {
		return gate.Candidate{}, false
	}
	d, err := oci.ParseDigest("sha256:" + encoded)
	if err != nil {
		return gate.Candidate{}, false
	}
	upstream, rest := oci.SplitUpstream(name)
	repo, err := oci.NewRepository(upstream, rest)
	return gate.Candidate{Repository: repo, Digest: d}, err == nil
}
