package scan

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// takeInventory reads the layer src once, as o says, and returns what is in it. It never fails: whatever cannot be read is a gap. dir is a
// directory of its own, for the database library that wants files.
func takeInventory(ctx context.Context, src io.Reader, o order, dir string) gate.LayerInventory {
	s := newStream(src, o.encoding)
	defer s.stop()
	w := newWalk(dir)
	if o.look.Secrets {
		w.detectors = newDetectors()
	}
	err := w.run(ctx, s)
	if err != nil {
		w.gap(kindOf(err, gate.GapUnreadableLayer), "", printable(err.Error()))
	}
	inv := w.result()
	inv.UncompressedBytes = s.n
	if err == nil {
		inv.DiffID = s.diffID()
	}
	return inv
}

// kindOf returns the kind of gap err makes: a limit if it is one, else otherwise.
func kindOf(err error, otherwise gate.GapKind) gate.GapKind {
	if _, ok := errors.AsType[*limitError](err); ok {
		return gate.GapLimit
	}
	return otherwise
}

// walk is what has been read of a layer so far. Paths are clean, relative to the root, with the layer's own links followed.
type walk struct {
	dir     string
	readers *readers
	entries int
	links   links
	// files are those examined, and above counts, for each directory, how many of them lie below it.
	files    map[string]account
	above    map[string]int
	releases map[string]gate.OS
	channels map[string][]string
	// licenses are by the path of the file that states them, as it is written into an inventory.
	licenses map[string]gate.LicenseFile
	owned    *ownership
	stored   pnpmStore
	// whiteouts and opaque may hold a path more than once.
	whiteouts, opaque []string
	gaps              []gate.Gap
	// marked are the directories with a whiteout in them or below.
	marked map[string]bool
	// regular has, by a hash, the regular files of the layer, which hard links may name.
	regular map[uint64]bool
	seed    maphash.Seed
	// detectors is nil when secrets are not looked for.
	detectors      []detector
	secrets        []gate.Secret
	packages, held int
	// examined counts the bytes of files that were read, holes included.
	examined int64
}

func newWalk(dir string) *walk {
	return &walk{
		dir: dir, files: map[string]account{}, above: map[string]int{}, releases: map[string]gate.OS{},
		channels: map[string][]string{}, licenses: map[string]gate.LicenseFile{}, owned: newOwnership(),
		stored: pnpmStore{files: map[string][]byte{}},
		marked: map[string]bool{}, regular: map[uint64]bool{}, seed: maphash.MakeSeed(),
	}
}

// run walks the tar stream r to the end of its bytes, which the DiffID covers, past the end of the archive.
func (w *walk) run(ctx context.Context, r io.Reader) error {
	readers, err := newReaders(w.dir, w.owned)
	if err != nil {
		return err
	}
	w.readers = readers
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("tar entry %d: %w", w.entries+1, err)
		}
		if w.entries++; w.entries > maxEntries {
			return overLimit("more than %d tar entries", maxEntries)
		}
		if err := w.entry(ctx, header, archive); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("after the archive's end: %w", err)
	}
	return nil
}

// entry takes one tar entry. An error ends the walk; what concerns the entry alone is a gap.
func (w *walk) entry(ctx context.Context, header *tar.Header, content io.Reader) error {
	if header.Typeflag == tar.TypeXGlobalHeader || slices.Contains(unionMetadata, cleanPath(header.Name)) {
		return nil
	}
	if len(header.Name) > maxPathBytes || len(header.Linkname) > maxPathBytes || strings.ContainsRune(header.Name, 0) {
		w.gap(gate.GapLimit, header.Name, fmt.Sprintf("the name is malformed or longer than %d bytes", maxPathBytes))
		return nil
	}
	name := cleanPath(header.Name)
	if isBelowMark(name) {
		w.gap(gate.GapUnreadableLayer, name, "it lies below a whiteout, where runtimes differ in what they unpack")
		return nil
	}
	parent, ok := w.links.resolve(path.Dir(name))
	if !ok {
		w.gap(gate.GapUnresolvedLink, name, "the directory lies behind too many links")
		return nil
	}
	at := name
	if parent != path.Dir(name) {
		at = below(parent, path.Base(name))
	}
	if mark, found := strings.CutPrefix(path.Base(name), whiteoutPrefix); found {
		return w.whiteout(name, at, mark)
	}
	if err := w.replace(at, header.Typeflag == tar.TypeDir); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir, tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		return nil
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		w.regular[maphash.String(w.seed, at)] = true
		return w.file(ctx, place{name, at}, header, content)
	case tar.TypeSymlink:
		return w.symlink(place{name, at}, header.Linkname)
	case tar.TypeLink:
		return w.hardLink(ctx, place{name, at}, header.Linkname)
	default:
		w.gap(gate.GapUnreadableLayer, at, fmt.Sprintf("tar entries of type %q are not known", header.Typeflag))
		return nil
	}
}

// place is where a tar entry lies: as it is named, and once the links in its directory are followed. Usually the two are one.
type place struct{ name, at string }

// database returns the kind of package database that lies at p.
func (p place) database() (kind database, at string) {
	if kind := databaseAt(p.at); kind != noDatabase {
		return kind, p.at
	}
	return databaseAt(p.name), p.name
}

// Marks of removed paths (image-spec, layer.md, Whiteouts).
const (
	whiteoutPrefix = ".wh."
	opaqueMark     = ".wh..opq" // without the prefix
)

// unionMetadata are what aufs kept at the root of a layer. What lies below one is unpacked by some runtimes, and linked to by others.
var unionMetadata = []string{".wh..wh.aufs", ".wh..wh.orph", ".wh..wh.plnk"}

// isBelowMark reports whether a path goes through what looks like a whiteout: runtimes differ in what becomes of it.
func isBelowMark(p string) bool {
	return strings.HasPrefix(path.Dir(p), whiteoutPrefix) || strings.Contains(path.Dir(p), "/"+whiteoutPrefix)
}

// whiteout records that the layer removes what mark names. A mark that runtimes would read in different ways is a gap: were it
// recorded, it could hide packages that are there.
func (w *walk) whiteout(name, at, mark string) error {
	switch {
	case name != at:
		w.gap(gate.GapUnresolvedLink, name, "a whiteout lies behind a link")
		return nil
	case mark == opaqueMark:
		w.opaque = append(w.opaque, path.Dir(at))
		w.mark(path.Dir(at))
	case mark == "" || mark == "." || mark == ".." || strings.HasPrefix(mark, whiteoutPrefix):
		w.gap(gate.GapUnreadableLayer, name, "the whiteout names nothing that could be removed")
		return nil
	default:
		w.whiteouts = append(w.whiteouts, path.Join(path.Dir(at), mark))
		w.mark(path.Dir(at))
	}
	return w.hold(len(at))
}

// mark remembers that something below dir, or in it, removes files of lower layers.
func (w *walk) mark(dir string) {
	for ; dir != "." && !w.marked[dir]; dir = path.Dir(dir) {
		w.marked[dir] = true
	}
}

// replace forgets what an entry at p takes the place of: the entry of the same path and, unless both are directories, all that
// lies below it.
func (w *walk) replace(p string, isDir bool) error {
	w.links.remove(p)
	w.drop(p)
	if !isDir && w.marked[p] {
		w.gap(gate.GapUnreadableLayer, p, "it replaces a directory with whiteouts, which some runtimes then forget")
	}
	if isDir {
		return nil
	}
	if w.above[p] > 0 {
		for _, q := range slices.Collect(maps.Keys(w.files)) {
			if strings.HasPrefix(q, p+"/") {
				w.drop(q)
			}
		}
	}
	return w.links.removeBelow(p)
}

// account is what a file told of.
type account struct {
	packages []gate.Package
	// gaps have no path.
	gaps []gate.Gap
	// sums are the file's, nil where nothing is owned. unsummed says that it is too large for that.
	sums     *sums
	unsummed bool
}

// keep records what the file at p told of.
func (w *walk) keep(p string, told account) error {
	w.drop(p)
	w.files[p] = told
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		w.above[dir]++
	}
	size := len(p)
	for _, g := range told.gaps {
		size += len(g.Why)
	}
	for _, pkg := range told.packages {
		size += len(pkg.Type) + len(pkg.Name) + len(pkg.Version) + len(pkg.Arch) + len(pkg.Source) + len(pkg.SourceVersion) + len(pkg.Modularity)
		for _, text := range slices.Concat(pkg.Licenses, pkg.Roots) {
			size += len(text)
		}
	}
	if w.packages += len(told.packages); w.packages > maxPackages {
		return overLimit("more than %d packages", maxPackages)
	}
	return w.hold(size)
}

func (w *walk) drop(p string) {
	delete(w.releases, p)
	delete(w.channels, wirePath(p))
	delete(w.licenses, wirePath(p))
	delete(w.stored.files, p)
	told, found := w.files[p]
	if !found {
		return
	}
	w.packages -= len(told.packages)
	delete(w.files, p)
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if w.above[dir]--; w.above[dir] == 0 {
			delete(w.above, dir)
		}
	}
}

// hold counts n bytes of names. What is dropped again still counts, so that replacing a file for ever ends too.
func (w *walk) hold(n int) error {
	if w.held += n; w.held > maxHeldBytes {
		return overLimit("more than %d bytes of names", maxHeldBytes)
	}
	return nil
}

// gap records that something of the layer stays unexamined. p may be anything; why must be printable.
func (w *walk) gap(kind gate.GapKind, p, why string) {
	switch {
	case len(w.gaps) < maxGaps:
		w.gaps = append(w.gaps, gate.Gap{Kind: kind, Path: printable(p), Why: why})
	case len(w.gaps) == maxGaps:
		w.gaps = append(w.gaps, gate.Gap{Kind: gate.GapLimit, Why: fmt.Sprintf("more than %d gaps", maxGaps)})
	}
}

// result returns what has been read. Its order depends on the layer alone.
func (w *walk) result() gate.LayerInventory {
	files := w.inventories() // which adds gaps
	inv := gate.LayerInventory{
		Format: gate.InventoryFormat, Entries: w.entries, Files: files, Gaps: w.gaps,
		Whiteouts: sortedPaths(w.whiteouts), Opaque: sortedPaths(w.opaque),
	}
	inv.Secrets = w.secrets
	slices.SortFunc(inv.Secrets, func(a, b gate.Secret) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Kind, b.Kind))
	})
	inv.Secrets = slices.Compact(inv.Secrets)
	if len(w.releases) > 0 {
		inv.OSRelease = w.releases
	}
	if len(w.channels) > 0 {
		inv.Channels = w.channels
	}
	if len(w.licenses) > 0 {
		inv.LicenseFiles = w.licenses
	}
	return inv
}

// inventories returns what files told of, sorted by path, but for what the packages that own them tell. What could not be read of a file
// that is certainly a package's is no gap: its bytes are the distribution's, whatever they say.
func (w *walk) inventories() []gate.FileInventory {
	var files []gate.FileInventory
	for _, p := range slices.Sorted(maps.Keys(w.files)) {
		told := w.files[p]
		if databaseAt(p) == noDatabase {
			owned, verified := w.owned.owns(p, told)
			if owned {
				told.packages = nil // the package that owns it tells
			}
			if verified {
				told.gaps = nil
			}
		}
		for _, g := range told.gaps {
			w.gap(g.Kind, p, g.Why)
		}
		files = append(files, gate.FileInventory{Path: wirePath(p), Packages: told.packages})
	}
	slices.SortFunc(files, func(a, b gate.FileInventory) int { return strings.Compare(a.Path, b.Path) })
	return files
}

func sortedPaths(paths []string) []string {
	var wire []string
	for _, p := range paths {
		wire = append(wire, wirePath(p))
	}
	slices.Sort(wire)
	return slices.Compact(wire)
}
