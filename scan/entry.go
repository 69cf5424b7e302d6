package scan

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// file examines a regular file. Its bytes are read at most once, and only if somebody wants them.
func (w *walk) file(ctx context.Context, p place, header *tar.Header, content io.Reader) error {
	kind, at := p.database()
	switch kind {
	case osReleaseFile:
		return w.release(at, header.Size, content)
	case journal:
		if header.Size > 0 {
			w.gap(gate.GapUnreadablePackage, at, "changes that were not written back into the database are not read")
		}
		return nil
	}
	if kind == noDatabase {
		at = p.at
	}
	f := file{path: at, info: header.FileInfo()}
	wanting := w.readers.forName(f, kind)
	if header.Size > maxFileBytes {
		return w.largeFile(f, len(wanting) > 0, content)
	}
	head := make([]byte, min(header.Size, int64(len(elfMagic))))
	if _, err := io.ReadFull(content, head); err != nil {
		return fmt.Errorf("reading %q: %w", printable(at), err)
	}
	if isExecutable(head) {
		wanting = append(wanting, w.readers.executables...)
	}
	var aside func(data []byte) error
	if !isExecutable(head) { // an executable is one wherever it lies
		aside = w.aside(at, header.Size)
	}
	mayHide := len(w.detectors) > 0 && header.Size <= maxSecretFileBytes
	if len(wanting) == 0 && !mayHide && aside == nil {
		return nil
	}
	var err error
	if f.data, err = w.readers.load(head, header.Size, content); err != nil {
		return fmt.Errorf("reading %q: %w", printable(at), err)
	}
	if err := w.spend(header.Size); err != nil {
		return err
	}
	if mayHide {
		w.findSecrets(f)
	}
	if aside != nil {
		if err := aside(f.data); err != nil {
			return err
		}
	}
	if len(wanting) == 0 {
		return nil
	}
	return w.examine(ctx, f, wanting)
}

// aside returns what is to be done with a file that tells of packages without being where they are found: which files are a package's,
// or where packages are from. Nil for any other file, and for one too large to be one of those.
func (w *walk) aside(at string, size int64) func(data []byte) error {
	if owner, ok := listOf(at); ok && size <= maxListBytes {
		return func(list []byte) error {
			w.owned.addList(at, owner, list)
			return nil
		}
	}
	if license := licenseReader(at); license != nil && size <= maxLicenseFileBytes {
		return func(data []byte) error {
			if l, ok := license(data); ok {
				return w.keepLicense(at, l)
			}
			return nil
		}
	}
	if size <= maxStoredManifestBytes && inPnpmStore(at) {
		return func(data []byte) error {
			w.stored.add(at, data)
			return nil
		}
	}
	read := channelReader(at)
	if read == nil || size > maxChannelBytes {
		return nil
	}
	return func(data []byte) error {
		channels := channelsOf(at, data, read)
		w.channels[wirePath(at)] = channels
		held := len(at)
		for _, channel := range channels {
			held += len(channel)
		}
		return w.hold(held)
	}
}

// keepLicense records what the file or link at p states of a licence.
func (w *walk) keepLicense(p string, l gate.LicenseFile) error {
	held := len(p) + len(l.Name) + len(l.Version) + len(l.Like)
	for _, name := range l.Licenses {
		held += len(name)
	}
	w.licenses[wirePath(p)] = l
	return w.hold(held)
}

// spend counts n bytes of files as read.
func (w *walk) spend(n int64) error {
	if w.examined += n; w.examined > maxExaminedBytes {
		return overLimit("files of more than %d bytes, by their holes", int64(maxExaminedBytes))
	}
	return nil
}

// examine has f read by readers and keeps what they find, including what one finds that fails midway.
func (w *walk) examine(ctx context.Context, f file, readers []reader) error {
	var told account
	for _, r := range readers {
		packages, err := r.readRecovered(ctx, f)
		told.packages = append(told.packages, packages...)
		if err != nil {
			why := fmt.Sprintf("reading it as %s: %s", r.name, printable(err.Error()))
			told.gaps = append(told.gaps, gate.Gap{Kind: kindOf(err, gate.GapUnreadablePackage), Why: why})
		}
	}
	w.owned.sum(&told, f.path, f.data)
	return w.keep(f.path, told)
}

// largeFile looks through a file that is too large to be held. Only a runtime's name, and the marks of Go and of cargo auditable, can be
// looked for so, and their absence proves that there is nothing to be found but BusyBox, which is never so large: the largest executables
// of public images are written in other languages.
func (w *walk) largeFile(f file, wanted bool, content io.Reader) error {
	size := f.info.Size()
	if !wanted && size <= maxLayerBytes {
		counted := &countingReader{r: content}
		worth, err := mayHold(f.path, counted)
		if err != nil {
			return fmt.Errorf("reading %q: %w", printable(f.path), err)
		}
		if err := w.spend(counted.n); err != nil {
			return err
		}
		if !worth {
			return w.keep(f.path, account{})
		}
	}
	w.gap(gate.GapLimit, f.path, fmt.Sprintf("the file has %d bytes, at most %d are read", size, maxFileBytes))
	return w.keep(f.path, account{})
}

func (w *walk) release(at string, size int64, content io.Reader) error {
	if size > maxOSReleaseBytes {
		w.gap(gate.GapLimit, at, fmt.Sprintf("the file has %d bytes, at most %d are read", size, maxOSReleaseBytes))
		return nil
	}
	text, err := io.ReadAll(content)
	if err != nil {
		return fmt.Errorf("reading %q: %w", at, err)
	}
	w.releases[at] = parseOSRelease(text)
	return nil
}

// symlink takes a symbolic link. Files it may lead to are found where they lie, so only one that leads a package database astray
// is a gap: node_modules/.bin alone has hundreds.
func (w *walk) symlink(p place, target string) error {
	for _, at := range []string{p.name, p.at} {
		to := target
		if !strings.HasPrefix(to, "/") {
			to = path.Dir(at) + "/" + to
		}
		if misleads(at, cleanPath(to)) {
			w.gap(gate.GapUnresolvedLink, at, fmt.Sprintf("a package database lies behind a link to %q", printable(target)))
			break
		}
	}
	if l, ok := licenseLink(p.at, target); ok {
		if err := w.keepLicense(p.at, l); err != nil {
			return err
		}
	}
	return w.links.add(p.at, target)
}

// hardLink takes a hard link: another name for a file of the same layer. Where that file was examined, what it yielded is found
// under the new name too, since the old one may be removed by a higher layer. Where it was not, because only the new name tells
// what it is, its bytes have passed, and that is a gap, unless they are those of a manifest that pnpm stored.
func (w *walk) hardLink(ctx context.Context, p place, target string) error {
	source := cleanPath(target)
	parent, ok := w.links.resolve(path.Dir(source))
	if !ok {
		w.gap(gate.GapUnresolvedLink, p.at, "the target lies behind too many links")
		return nil
	}
	source = below(parent, path.Base(source))
	if !w.regular[maphash.String(w.seed, source)] { // what it names lies in a lower layer, whose removal would leave it here
		w.gap(gate.GapUnresolvedLink, p.at, fmt.Sprintf("a hard link to %q, which is no file of this layer", printable(target)))
		return nil
	}
	w.regular[maphash.String(w.seed, p.at)] = true
	kind, at := p.database()
	if release, found := w.releases[source]; found && kind == osReleaseFile {
		w.releases[at] = release
		return nil
	}
	if kind == noDatabase {
		at = p.at
	}
	told, examined := w.files[source]
	wanting := w.readers.namesFor(at, kind)
	if manifest, kept := w.stored.files[source]; kept && slices.Equal(wanting, []string{npmReader}) {
		f := file{path: at, info: (&tar.Header{}).FileInfo(), data: manifest}
		if err := w.spend(int64(len(manifest))); err != nil {
			return err
		}
		return w.examine(ctx, f, w.readers.forName(f, kind))
	}
	alike := kind == databaseAt(source) && slices.Equal(wanting, w.readers.namesFor(source, kind))
	unread := kind != noDatabase || len(wanting) > 0
	if examined && alike {
		named := runtimeOf(at).name
		unread = named != "" && named != runtimeOf(source).name
	}
	if unread {
		w.gap(gate.GapUnresolvedLink, at, fmt.Sprintf("a hard link to %q, which was not examined under that name", printable(target)))
	}
	if examined && alike {
		told.packages = withoutLinkedRuntimes(told.packages, at)
		return w.keep(at, told)
	}
	return nil
}

// elfMagic and peMagic are the first bytes of what can run in a container.
const (
	elfMagic = "\x7fELF"
	peMagic  = "MZ"
)

func isExecutable(head []byte) bool {
	return bytes.HasPrefix(head, []byte(elfMagic)) || bytes.HasPrefix(head, []byte(peMagic))
}

// mayHold reports whether r, of a file at p, is an executable that a reader could find packages in. It reads no further than it must.
func mayHold(p string, r io.Reader) (bool, error) {
	buf := make([]byte, chunkBytes)
	n, err := io.ReadFull(r, buf[:len(elfMagic)])
	if err != nil || !isExecutable(buf[:n]) {
		return false, err
	}
	if runtimeOf(p).name != "" {
		return true, nil
	}
	for {
		m, err := r.Read(buf[n:])
		if read := buf[:n+m]; bytes.Contains(read, []byte(goMark)) || bytes.Contains(read, []byte(auditableSection)) {
			return true, nil
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		n = copy(buf, buf[max(0, n+m-len(goMark)+1):n+m]) // what the longer of the two may begin in
	}
}
