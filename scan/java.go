package scan

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/google/osv-scalibr/extractor/filesystem/language/java/archive"
	"github.com/klauspost/compress/zip"

	"github.com/tidewaiter/tidewaiter/gate"
)

const (
	// maxPomBytes bounds a pom.xml, pom.properties or manifest that is looked into. They have some kilobytes; the manifest of a signed
	// archive names each of its files.
	maxPomBytes = 4 << 20
	// maxPoms bounds how many pom.xml are read of one archive; an application of all of Hadoop has a fifth.
	maxPoms = 2000
	// maxRoots bounds the hints at whose an archive is that does not say so itself. What was packed of several has a handful.
	maxRoots = 16
	// maxRootBytes is far above the longest name of a package of classes that is one.
	maxRootBytes = 128
)

// readJava returns the packages in a Java archive (JAR File Specification) and the archives in it. One that maven built says what it is,
// and what was packed into it, in a pom.properties for each. Of others the manifest and the name tell, which know the group at best
// by accident: such a package has [gate.Package.Roots], by which advisories are found whatever the group is.
func readJava(ctx context.Context, f file) ([]gate.Package, error) {
	a := javaArchives{ctx: ctx, left: maxArchiveBytes, poms: maxPoms}
	return a.read(f.data, f.path, 1)
}

// isJava reports whether a file is taken for a Java archive by its name.
func isJava(f file) bool { return archive.IsArchive(f.path) }

// javaArchives reads an archive and those in it.
type javaArchives struct {
	ctx context.Context
	// left is how many bytes may still be unpacked of archives in archives, and poms how many pom.xml be read.
	left int64
	poms int
	// scratch is what the content of small files is read into. It is valid until the next.
	scratch []byte
}

// javaArchive is what has been read of one archive.
type javaArchive struct {
	// inner are the packages of archives in it.
	inner []gate.Package
	// stated are the packages that a pom.properties states, and licenses those of a pom.xml, by "group:artifact".
	stated   []gate.Package
	licenses map[string][]string
	// manifests are in the order of the archive. Tools that pack several into one leave all of theirs.
	manifests []javaManifest
	roots     rootList
	// err is the first thing that is wrong: others are alike, and there may be as many as files.
	err error
}

// read returns the packages in the archive data, called name. With an error it returns those it found all the same.
func (a *javaArchives) read(data []byte, name string, depth int) ([]gate.Package, error) {
	if depth > maxArchiveDepth {
		return nil, overLimit("archives in archives, more than %d deep", maxArchiveDepth)
	}
	if len(data) == 0 { // which somebody touched
		return nil, nil
	}
	files, data, err := openZip(data)
	if err != nil {
		return nil, err
	}
	var found javaArchive
	for _, f := range files.File {
		if err := a.ctx.Err(); err != nil {
			return found.inner, err
		}
		if err := a.file(&found, f, data, depth); err != nil && found.err == nil {
			found.err = fmt.Errorf("%s: %w", printable(f.Name), err)
		}
	}
	return found.packages(name), found.err
}

// file adds what the file f in an archive says to found.
func (a *javaArchives) file(found *javaArchive, f *zip.File, data []byte, depth int) error {
	switch base := f.Name[strings.LastIndexByte(f.Name, '/')+1:]; {
	case strings.HasSuffix(base, ".class"):
		found.roots.addClass(f.Name)
		return nil
	case base == "pom.properties":
		content, err := a.small(f)
		if err == nil {
			found.addProperties(content)
		}
		return err
	case base == "pom.xml":
		a.addLicenses(found, f)
		return nil
	case strings.EqualFold(base, "manifest.mf"):
		content, err := a.small(f)
		if err != nil {
			return err
		}
		manifest, err := parseManifest(content)
		found.manifests = append(found.manifests, manifest)
		return err
	case archive.IsArchive(base):
		content, err := a.unpack(f, data)
		if err != nil {
			return err
		}
		inner, err := a.read(content, f.Name, depth+1)
		found.inner = append(found.inner, inner...)
		return err
	default:
		return nil
	}
}

// addLicenses adds the licences that the pom.xml f states, if it lies where maven puts it. What cannot be read leaves them unknown,
// which is no gap.
func (a *javaArchives) addLicenses(found *javaArchive, f *zip.File) {
	place, ok := strings.CutPrefix(f.Name, "META-INF/maven/")
	parts := strings.Split(place, "/")
	if !ok || len(parts) != 3 || a.poms == 0 {
		return
	}
	a.poms--
	content, err := a.small(f)
	if err != nil {
		return
	}
	if licenses := pomLicenses(content); len(licenses) > 0 {
		if found.licenses == nil {
			found.licenses = map[string][]string{}
		}
		found.licenses[parts[0]+":"+parts[1]] = licenses
	}
}

// small returns the content of a file that has some kilobytes. It is valid until the next.
func (a *javaArchives) small(f *zip.File) ([]byte, error) {
	if f.UncompressedSize64 > maxPomBytes {
		return nil, overLimit("it has %d bytes, at most %d are read", f.UncompressedSize64, maxPomBytes)
	}
	if uint64(cap(a.scratch)) < f.UncompressedSize64 {
		a.scratch = make([]byte, f.UncompressedSize64)
	}
	return readZipped(f, a.scratch[:f.UncompressedSize64])
}

// unpack returns the content of an archive in the archive outer, which is a part of outer where it is stored as it is.
func (a *javaArchives) unpack(f *zip.File, outer []byte) ([]byte, error) {
	if f.UncompressedSize64 > uint64(a.left) {
		return nil, overLimit("archives in archives of more than %d bytes", maxArchiveBytes)
	}
	size := int64(f.UncompressedSize64)
	a.left -= size
	if f.Method == zip.Store && f.CompressedSize64 == f.UncompressedSize64 {
		from, err := f.DataOffset()
		if err != nil {
			return nil, err
		}
		if from < 0 || from > int64(len(outer))-size {
			return nil, io.ErrUnexpectedEOF
		}
		return outer[from : from+size], nil
	}
	return readZipped(f, make([]byte, size))
}

// addProperties adds the package that a pom.properties states.
func (j *javaArchive) addProperties(content []byte) {
	var group, artifact, version string
	for line := range bytes.Lines(content) {
		key, value, ok := strings.Cut(string(line), "=")
		if !ok {
			continue
		}
		switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
		case "groupId":
			group = value
		case "artifactId":
			artifact = value
		case "version":
			version = value
		}
	}
	for _, part := range []string{group, artifact, version} {
		if part == "" || strings.Contains(part, " ") {
			return // a template nobody filled in
		}
	}
	j.stated = append(j.stated, gate.Package{Type: "maven", Name: group + ":" + artifact, Version: version})
}

// packages returns the packages in an archive called name and the archives in it.
func (j *javaArchive) packages(name string) []gate.Package {
	own := j.stated
	if len(own) == 0 {
		own = j.guessed(path.Base(name))
	}
	for i, p := range own {
		own[i].Licenses = j.licenses[p.Name]
	}
	if len(own) == 1 && len(own[0].Licenses) == 0 && len(j.manifests) > 0 {
		own[0].Licenses = j.manifests[0].licenses
	}
	return append(j.inner, own...)
}
