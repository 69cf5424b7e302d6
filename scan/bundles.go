package scan

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Packages of npm that are not unpacked: Yarn has node load them from an archive each, Electron from one for the whole application.

// maxBundledBytes bounds the package.json files of one archive. The largest applications have some ten megabytes of them.
const maxBundledBytes = 64 << 20

// bundle collects the packages in one archive.
type bundle struct {
	packages []gate.Package
	// left is what remains of maxBundledBytes.
	left int64
}

// manifest takes the package.json of size bytes at p in the archive, which load returns.
func (b *bundle) manifest(ctx context.Context, p string, size int64, load func() ([]byte, error)) error {
	if b.left -= size; size < 0 || b.left < 0 {
		return overLimit("package.json files of more than %d bytes", maxBundledBytes)
	}
	data, err := load()
	if err != nil {
		return fmt.Errorf("%s: %w", printable(p), err)
	}
	found, err := readNPM(ctx, file{path: p, data: data})
	if err != nil {
		return fmt.Errorf("%s: %w", printable(p), err)
	}
	if b.packages = append(b.packages, found...); len(b.packages) > maxPackages {
		return overLimit("more than %d packages", maxPackages)
	}
	return nil
}

// yarnCache is where Yarn 2 and later keep packages, of a project and of a user, and node loads them from (yarnpkg.com, Plug'n'Play).
var yarnCache = fileName{name: ".zip", place: regexp.MustCompile(`(?:^|/)\.yarn/(?:berry/)?cache/[^/]+$`)}

// readYarn returns the package in an archive of Yarn's cache, and those bundled with it.
func readYarn(ctx context.Context, f file) ([]gate.Package, error) {
	archive, _, err := openZip(f.data)
	if err != nil {
		return nil, err
	}
	b := bundle{left: maxBundledBytes}
	for _, entry := range archive.File {
		if path.Base(entry.Name) != packageJSON.name {
			continue
		}
		size := int64(min(entry.UncompressedSize64, maxBundledBytes+1)) // as it says, which is found out
		err := b.manifest(ctx, cleanPath(entry.Name), size, func() ([]byte, error) { return readZipped(entry, make([]byte, size)) })
		if err != nil {
			return b.packages, err
		}
	}
	return b.packages, nil
}

// electronArchive matches the archives Electron loads an application from: resources/app.asar.
var electronArchive = fileName{name: ".asar"}

const (
	// asarBegin is what an archive begins with: the size of the number that follows, as Chromium's Pickle writes it.
	asarBegin = "\x04\x00\x00\x00"
	// asarHeadBytes are before the header: that, the size of the header with its own sizes, and those two.
	asarHeadBytes = 16
	// maxAsarHeaderBytes bounds the header, a JSON object of all files: that of a large editor has three megabytes.
	maxAsarHeaderBytes = 16 << 20
	// maxAsarDepth bounds the directories within one another. Each level has the header below it read once more.
	maxAsarDepth = 64
)

// readAsar returns the packages in an archive of Electron's (github.com/electron/asar, README, Format). Files that lie unpacked beside
// it are found there.
func readAsar(ctx context.Context, f file) ([]gate.Package, error) {
	if !bytes.HasPrefix(f.data, []byte(asarBegin)) || len(f.data) < asarHeadBytes {
		return nil, nil // Electron would not load it either
	}
	start := int64(binary.LittleEndian.Uint32(f.data[4:])) + 8 // of the files' content
	size := int64(binary.LittleEndian.Uint32(f.data[12:]))
	if size > maxAsarHeaderBytes {
		return nil, overLimit("a header of %d bytes", size)
	}
	if start > int64(len(f.data)) || asarHeadBytes+size > start {
		return nil, errors.New("the header does not fit the archive")
	}
	a := asar{bundle: bundle{left: maxBundledBytes}, content: f.data[start:]}
	err := a.directory(ctx, "", f.data[asarHeadBytes:asarHeadBytes+size], maxAsarDepth)
	return a.packages, err
}

type asar struct {
	bundle
	content []byte
}

// directory takes what the header says of the directory at p, and of depth levels below it.
func (a *asar) directory(ctx context.Context, p string, raw json.RawMessage, depth int) error {
	if depth == 0 {
		return overLimit("directories more than %d deep", maxAsarDepth)
	}
	var about, files object
	if err := errors.Join(json.Unmarshal(raw, &about), json.Unmarshal(about["files"], &files)); err != nil {
		return fmt.Errorf("directory %q: %w", printable(p), err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var entry object
		if err := json.Unmarshal(files[name], &entry); err != nil {
			return fmt.Errorf("%q: %w", printable(path.Join(p, name)), err)
		}
		var err error
		switch {
		case entry["files"] != nil:
			err = a.directory(ctx, path.Join(p, name), files[name], depth-1)
		case name == packageJSON.name && entry["offset"] != nil:
			err = a.file(ctx, path.Join(p, name), entry)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file takes a package.json in the archive.
func (a *asar) file(ctx context.Context, p string, entry object) error {
	offset, err := strconv.ParseInt(text(entry["offset"]), 10, 64)
	if err != nil {
		return fmt.Errorf("offset of %q: %w", printable(p), err)
	}
	var size int64
	if err := json.Unmarshal(entry["size"], &size); err != nil {
		return fmt.Errorf("size of %q: %w", printable(p), err)
	}
	return a.manifest(ctx, p, size, func() ([]byte, error) {
		if left := int64(len(a.content)) - offset; offset < 0 || left < size {
			return nil, errors.New("it lies outside the archive")
		}
		return a.content[offset : offset+size], nil
	})
}
