package scan

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"runtime/debug"

	cpb "github.com/google/osv-scalibr/binary/proto/config_go_proto"
	"github.com/google/osv-scalibr/extractor"
	"github.com/google/osv-scalibr/extractor/filesystem"
	"github.com/google/osv-scalibr/extractor/filesystem/language/python/wheelegg"
	"github.com/google/osv-scalibr/extractor/filesystem/simplefileapi"

	"github.com/tidewaiter/tidewaiter/gate"
)

// file is a regular file of a layer. data is lent for the time it is examined.
type file struct {
	path string
	info fs.FileInfo
	data []byte
}

// reader finds packages in files of one kind.
type reader struct {
	name string
	// wants reports whether the file at path is for this reader, by its name alone; nil for readers chosen otherwise.
	wants func(f file) bool
	// read returns the packages f tells of. With an error it may still return some.
	read func(ctx context.Context, f file) ([]gate.Package, error)
}

// readRecovered is r.read with a panic as an error. The libraries below parse hostile bytes.
func (r reader) readRecovered(ctx context.Context, f file) (packages []gate.Package, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return r.read(ctx, f)
}

// readers are the readers of every kind, and the memory they read from.
type readers struct {
	databases   map[database]reader
	byName      []reader
	executables []reader
	buf         []byte
}

// newReaders returns the readers. dir is where the rpm database is put, for the library that wants a file; owned is told which files
// the package databases say are theirs.
func newReaders(dir string, owned *ownership) (*readers, error) {
	// Sizes are bounded before a reader is asked. Its own bound would make it say that it does not want the file, and the file would
	// pass unexamined.
	config := &cpb.PluginConfig{MaxFileSizeBytes: math.MaxInt64}
	var errs []error
	scalibr := func(create func(*cpb.PluginConfig) (filesystem.Extractor, error)) reader {
		e, err := create(config)
		if err != nil {
			errs = append(errs, err)
			return reader{}
		}
		return fromExtractor(e)
	}
	r := &readers{
		databases: map[database]reader{
			dpkgStatus: observed(reader{name: "os/dpkg", read: readDpkg}, func(f file) { owned.addStatus(f.path, f.data) }),
			apkState:   observed(reader{name: "os/apk", read: readAPK}, func(f file) { owned.addAPK(f.data) }),
			rpmDB: {name: "os/rpm", read: func(ctx context.Context, f file) ([]gate.Package, error) {
				return readRPM(ctx, dir, f.data, owned.addRPM)
			}},
		},
		byName: []reader{
			{name: npmReader, wants: packageJSON.matches, read: readNPM},
			licensedPython(scalibr(wheelegg.New)),
			{name: "java/archive", wants: isJava, read: readJava},
			{name: "gem", wants: installedGem.matches, read: readGem},
			named("nuget", depsJSON, readNuGet),
			named("composer", composerLock, readComposer),
			named("composer", composerInstalled, readComposer),
			named("conan", conanLock, readConan),
			{name: "yarn", wants: yarnCache.matches, read: readYarn},
			{name: "asar", wants: electronArchive.matches, read: readAsar},
		},
		executables: []reader{{name: "go/binary", read: readGo}, {name: "cargo-auditable", read: readRust}, {name: "runtime", read: readRuntime}},
	}
	return r, errors.Join(errs...)
}

// observed is r that shows each file to see before it reads it.
func observed(r reader, see func(f file)) reader {
	read := r.read
	r.read = func(ctx context.Context, f file) ([]gate.Package, error) {
		see(f)
		return read(ctx, f)
	}
	return r
}

// forName returns the readers that want f by where it lies and what it is called.
func (r *readers) forName(f file, kind database) []reader {
	if db, ok := r.databases[kind]; ok {
		return []reader{db}
	}
	var wanting []reader
	for _, candidate := range r.byName {
		if candidate.wants(f) {
			wanting = append(wanting, candidate)
		}
	}
	return wanting
}

// namesFor returns the names of the readers that want a file at p, whatever is in it.
func (r *readers) namesFor(p string, kind database) []string {
	var names []string
	for _, wanting := range r.forName(file{path: p, info: (&tar.Header{}).FileInfo()}, kind) {
		names = append(names, wanting.name)
	}
	return names
}

// largeBufferBytes is from where on a buffer that is too small is given back before there is a larger one.
const largeBufferBytes = 16 << 20

// load returns the size bytes of a file that begins with head and goes on with rest. They are valid until the next load: one
// buffer serves all files, or garbage of large ones would pile up faster than it is collected.
func (r *readers) load(head []byte, size int64, rest io.Reader) ([]byte, error) {
	if have := int64(cap(r.buf)); have < size {
		if have > largeBufferBytes { // or both would be in memory, the old one for nothing
			r.buf = nil
			debug.FreeOSMemory()
		}
		r.buf = make([]byte, max(size, min(2*have, maxFileBytes)))
	}
	data := r.buf[:size]
	n := copy(data, head)
	_, err := io.ReadFull(rest, data[n:])
	return data, err
}

// fromExtractor returns e as a reader.
func fromExtractor(e filesystem.Extractor) reader {
	return reader{
		name:  e.Name(),
		wants: func(f file) bool { return e.FileRequired(simplefileapi.New(f.path, f.info)) },
		read: func(ctx context.Context, f file) ([]gate.Package, error) {
			inv, err := e.Extract(ctx, &filesystem.ScanInput{FS: noFiles{}, Path: f.path, Info: f.info, Reader: bytes.NewReader(f.data)})
			if errors.Is(err, filesystem.ErrExtractorMemoryLimitExceeded) {
				err = overLimit("%v", err)
			}
			return convert(inv.Packages, err)
		},
	}
}

// noFiles is a file system without files: readers see the one file they are given.
type noFiles struct{}

func (noFiles) Open(name string) (fs.File, error) { return nil, notExist("open", name) }
func (noFiles) ReadDir(name string) ([]fs.DirEntry, error) {
	return nil, notExist("readdir", name)
}
func (noFiles) Stat(name string) (fs.FileInfo, error) { return nil, notExist("stat", name) }

func notExist(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// convert returns found as packages of ours, passing err on.
func convert(found []*extractor.Package, err error) ([]gate.Package, error) {
	var packages []gate.Package
	for _, p := range found {
		pkg := gate.Package{Type: p.PURLType, Name: p.Name, Version: p.Version}
		for _, license := range p.Licenses {
			if license != "" {
				pkg.Licenses = append(pkg.Licenses, license)
			}
		}
		if !packageTypes[pkg.Type] {
			return packages, errors.Join(err, fmt.Errorf("packages of type %q are not known", pkg.Type))
		}
		packages = append(packages, pkg)
	}
	return packages, err
}

// packageTypes are the types of packages the readers yield.
var packageTypes = map[string]bool{
	"deb": true, "apk": true, "rpm": true, "golang": true, "npm": true, "pypi": true, "maven": true, "gem": true, "cargo": true, "nuget": true,
	"composer": true, "conan": true, "generic": true,
}

// setSource records the source package of p, unless it is p itself. A source without a version has p's.
func setSource(p *gate.Package, name, version string) {
	if name == "" {
		return
	}
	if version == "" {
		version = p.Version
	}
	if name != p.Name || version != p.Version {
		p.Source, p.SourceVersion = name, version
	}
}
