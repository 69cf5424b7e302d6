package advisories

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Proof is what is to be imported is compared with. The zero value asks for nothing.
type Proof struct {
	// Digest is the file's, the manifest's for an OCI layout, trivy.db's for a directory; empty for any.
	Digest oci.Digest
	// Signature, when not nil, must be one of the file.
	Signature *Signature
}

// Import makes the database in a file or directory the one in use. It may be: trivy.db itself, with the metadata.json beside it if
// there is one, which proof does not reach; a tar archive, gzipped or not, of trivy.db and metadata.json; an OCI layout, as a directory
// or such an archive; a directory of the two files.
//
// A file is copied into the folder first, and the copy is what is compared with proof and unpacked: nothing that happens to the file
// meanwhile matters. A database that is older than the one in use is taken: whoever imports it has it in his hands.
//
// Errors: ErrUnverified, ErrFormat, ErrBusy; those of the file system and of checking the database.
func (f *Folder) Import(ctx context.Context, path string, proof Proof) (Origin, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return Origin{}, err
	}
	info, err := os.Stat(absolute)
	if err != nil {
		return Origin{}, err
	}
	take := takeFile
	switch {
	case info.IsDir():
		take = takeDirectory
	case !info.Mode().IsRegular():
		return Origin{}, fmt.Errorf("%s is neither a regular file nor a directory: %w", path, ErrFormat)
	}
	return f.install(ctx, true, func(dir string, o *Origin) error {
		o.From = absolute
		return take(ctx, absolute, dir, proof, o)
	})
}

// takeFile writes the database in the file at path into dir.
func takeFile(ctx context.Context, path, dir string, proof Proof, o *Origin) error {
	copied := filepath.Join(dir, importFile)
	own, modified, err := copyFile(ctx, path, copied, maxDatabaseBytes)
	if err != nil {
		return err
	}
	if proof.Signature != nil {
		if err := proof.Signature.verify(copied); err != nil {
			return err
		}
		o.Verified = "signature by key " + proof.Signature.Fingerprint()
	}
	switch format, err := formatOf(copied); {
	case err != nil:
		return err
	case format == formatDatabase:
		if err := proof.matches(own, o); err != nil {
			return err
		}
		if err := os.Rename(copied, filepath.Join(dir, databaseName)); err != nil {
			return err
		}
		if err := os.Chtimes(filepath.Join(dir, databaseName), modified, modified); err != nil {
			return err
		}
		_, _, err := copyFile(ctx, filepath.Join(filepath.Dir(path), metadataName), filepath.Join(dir, metadataName), maxMetadataBytes)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	default:
		err := takeArchive(ctx, archive{copied, format == formatGzip}, own, dir, proof, o)
		return errors.Join(err, os.Remove(copied))
	}
}

// takeArchive writes the database in an archive, whose own digest is given, into dir.
func takeArchive(ctx context.Context, a archive, own oci.Digest, dir string, proof Proof, o *Origin) error {
	layout, err := a.open(ctx, layoutIndex)
	if err == nil {
		if err := layout.Close(); err != nil {
			return err
		}
		if proof.Digest == own { // which the whole file has
			proof.Digest, o.Verified = "", "digest"
		}
		return takeLayout(ctx, a.open, dir, proof, o)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := proof.matches(own, o); err != nil {
		return err
	}
	content, err := a.reader()
	if err != nil {
		return err
	}
	return errors.Join(unpack(ctx, content, dir), content.Close())
}

// takeDirectory writes the database in the directory at path into dir.
func takeDirectory(ctx context.Context, path, dir string, proof Proof, o *Origin) error {
	if proof.Signature != nil {
		return fmt.Errorf("a directory cannot be signed as a file is: %w", ErrUnverified)
	}
	if _, err := os.Stat(filepath.Join(path, layoutIndex)); err == nil {
		open := func(_ context.Context, name string) (io.ReadCloser, error) {
			return os.OpenInRoot(path, filepath.FromSlash(name))
		}
		return takeLayout(ctx, open, dir, proof, o)
	}
	for name, limit := range limits {
		digest, modified, err := copyFile(ctx, filepath.Join(path, name), filepath.Join(dir, name), limit)
		switch {
		case errors.Is(err, fs.ErrNotExist) && name == databaseName:
			return fmt.Errorf("there is neither %s nor %s in %s: %w", databaseName, layoutIndex, path, ErrFormat)
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		}
		if name == databaseName {
			err = proof.matches(digest, o)
		}
		if err := errors.Join(err, os.Chtimes(filepath.Join(dir, name), modified, modified)); err != nil {
			return err
		}
	}
	return nil
}

// matches compares what was taken with what was asked for.
func (p Proof) matches(digest oci.Digest, o *Origin) error {
	if p.Digest != "" {
		if digest != p.Digest {
			return fmt.Errorf("it has digest %s, asked for is %s: %w", digest, p.Digest, ErrUnverified)
		}
		if o.Verified == "" {
			o.Verified = "digest"
		}
	}
	o.Digest = digest
	return nil
}

// copyFile copies a regular file and returns the digest of what was copied and the file's time.
func copyFile(ctx context.Context, from, to string, limit int64) (oci.Digest, time.Time, error) {
	in, err := os.Open(from)
	if err != nil {
		return "", time.Time{}, err
	}
	defer func() { _ = in.Close() }() // it was only read
	info, err := in.Stat()
	if err != nil {
		return "", time.Time{}, err
	}
	h := sha256.New()
	if err := write(ctx, to, io.TeeReader(in, h), limit, time.Time{}); err != nil {
		return "", time.Time{}, fmt.Errorf("copying %s: %w", from, err)
	}
	return oci.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil))), info.ModTime(), nil
}

type format int

const (
	formatDatabase format = iota
	formatTar
	formatGzip
)

// How the files begin that are known: RFC 1952, section 2.3.1; POSIX ustar; the second word of bbolt's first page.
const (
	tarMagicAt      = 257
	databaseMagicAt = 16
	databaseMagic   = 0xED0CDAED
)

// formatOf returns what a file is by how it begins.
func formatOf(path string) (format, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }() // it was only read
	var head [512]byte
	if _, err := io.ReadFull(file, head[:]); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return 0, err
	}
	switch {
	case head[0] == 0x1f && head[1] == 0x8b:
		return formatGzip, nil
	case bytes.HasPrefix(head[tarMagicAt:], []byte("ustar")):
		return formatTar, nil
	case binary.NativeEndian.Uint32(head[databaseMagicAt:]) == databaseMagic:
		return formatDatabase, nil
	}
	return 0, fmt.Errorf("it is neither a database nor a tar archive: %w", ErrFormat)
}

// archive is a tar archive on disk.
type archive struct {
	path string
	gzip bool
}

// reader returns the archive, decompressed.
func (a archive) reader() (io.ReadCloser, error) {
	file, err := os.Open(a.path)
	if err != nil || !a.gzip {
		return file, err
	}
	plain, err := gzip.NewReader(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("decompressing the archive: %w", err), file.Close())
	}
	return within{plain, file}, nil
}

// within reads from one reader that reads from another, which is what there is to close.
type within struct {
	io.Reader
	io.Closer
}

// open returns an entry of the archive, which is read from its beginning to find it.
func (a archive) open(ctx context.Context, name string) (io.ReadCloser, error) {
	content, err := a.reader()
	if err != nil {
		return nil, err
	}
	entry, err := find(ctx, tar.NewReader(content), name)
	if err != nil {
		return nil, errors.Join(err, content.Close())
	}
	return within{entry, content}, nil
}
