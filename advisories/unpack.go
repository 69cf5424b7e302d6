package advisories

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"
)

const (
	// maxDatabaseBytes bounds trivy.db. Published ones have about 1 GiB and grow by a tenth of that a year.
	maxDatabaseBytes = 8 << 30
	// maxLayerBytes bounds the archive they come in, of which published ones have less than 100 MiB.
	maxLayerBytes = 2 << 30
	// maxMetadataBytes bounds metadata.json, which is four lines.
	maxMetadataBytes = 64 << 10
	// maxEntries bounds the entries of an archive. Published ones have two.
	maxEntries = 64
	// maxSkippedBytes bounds what is read past of entries that are not wanted.
	maxSkippedBytes = 1 << 30
	// copyBlockBytes is copied between two looks at the context.
	copyBlockBytes = 4 << 20
)

// limits are the files a database consists of, and how large each may be. No other name is ever written.
var limits = map[string]int64{databaseName: maxDatabaseBytes, metadataName: maxMetadataBytes}

// unpack writes the database in a tar archive into dir. Other entries are passed over. An entry of one of the two names that is a link,
// a device, or there already is refused, and so is an archive without a database.
func unpack(ctx context.Context, archive io.Reader, dir string) error {
	entries, skipped := tar.NewReader(archive), int64(0)
	for n := 0; ; n++ {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the archive: %w", err)
		}
		if n == maxEntries {
			return fmt.Errorf("the archive has more than %d entries: %w", maxEntries, ErrFormat)
		}
		name := path.Clean(header.Name)
		limit, wanted := limits[name]
		if !wanted {
			if skipped += header.Size; skipped > maxSkippedBytes {
				return fmt.Errorf("the archive has more than %d bytes that are no database: %w", int64(maxSkippedBytes), ErrFormat)
			}
			continue
		}
		if header.Typeflag != tar.TypeReg {
			return fmt.Errorf("%s in the archive is no regular file: %w", name, ErrFormat)
		}
		if err := write(ctx, filepath.Join(dir, name), entries, limit, header.ModTime); err != nil {
			return fmt.Errorf("unpacking %s: %w", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, databaseName)); err != nil {
		return fmt.Errorf("there is no %s in the archive: %w", databaseName, ErrFormat)
	}
	return nil
}

// unpackGzip is unpack of a compressed archive.
func unpackGzip(ctx context.Context, archive io.Reader, dir string) error {
	plain, err := gzip.NewReader(archive)
	if err != nil {
		return fmt.Errorf("decompressing the archive: %w", err)
	}
	return unpack(ctx, plain, dir)
}

// write writes a file that is not there yet, at most limit bytes of it, so that it lasts. Without metadata.json the file's time says
// when the database was built, so it is kept.
func write(ctx context.Context, name string, content io.Reader, limit int64, modified time.Time) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = copyBounded(ctx, file, content, limit)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if modified.IsZero() {
		return nil
	}
	return os.Chtimes(name, modified, modified)
}

// copyBounded copies all of r to w and fails when that is more than limit bytes.
func copyBounded(ctx context.Context, w io.Writer, r io.Reader, limit int64) (int64, error) {
	for n := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		copied, err := io.CopyN(w, r, min(copyBlockBytes, limit-n+1))
		n += copied
		if n > limit {
			return n, fmt.Errorf("larger than %d bytes: %w", limit, ErrFormat)
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
