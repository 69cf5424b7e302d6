package ocitest

import (
	"archive/zip"
	"bytes"
	"cmp"
	"crypto/md5"  // the sums dpkg keeps
	"crypto/sha1" // the sums apk keeps
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
)

// DebPackage is a package as dpkg records it.
type DebPackage struct {
	Name, Version string
	// Source is the source package, when it is called otherwise; SourceVersion its version, when that differs too.
	Source, SourceVersion string
	// Arch is amd64 when it is empty.
	Arch string
	// Status is "install ok installed" when it is empty.
	Status string
}

// stanza returns the record of p. The status line is left out of the files distroless images keep.
func (p DebPackage) stanza(withStatus bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Package: %s\n", p.Name)
	if withStatus {
		fmt.Fprintf(&b, "Status: %s\n", cmp.Or(p.Status, "install ok installed"))
	}
	fmt.Fprintf(&b, "Priority: optional\nSection: libs\nInstalled-Size: 1024\n")
	fmt.Fprintf(&b, "Maintainer: Package Maintainers <maintainers@example.org>\nArchitecture: %s\n", cmp.Or(p.Arch, "amd64"))
	if p.Source != "" && p.SourceVersion != "" {
		fmt.Fprintf(&b, "Source: %s (%s)\n", p.Source, p.SourceVersion)
	} else if p.Source != "" {
		fmt.Fprintf(&b, "Source: %s\n", p.Source)
	}
	fmt.Fprintf(&b, "Version: %s\nDescription: the package %s\n It has a longer description,\n .\n in two paragraphs.\n", p.Version, p.Name)
	return b.String()
}

// debianCodenames are the code names of stable releases.
var debianCodenames = map[string]string{"10": "buster", "11": "bullseye", "12": "bookworm", "13": "trixie"}

// Debian returns what a Debian image of a major version ("12") records about itself and its packages. As in the real images
// etc/os-release is a symbolic link.
func Debian(version string, pkgs ...DebPackage) []File {
	files := debianRelease(version)
	var status strings.Builder
	for _, p := range pkgs {
		status.WriteString(p.stanza(true) + "\n")
		list := fmt.Sprintf("/.\n/usr\n/usr/share/doc/%s\n", p.Name)
		files = append(files, text("var/lib/dpkg/info/"+p.Name+".list", list))
	}
	return append(files, text("var/lib/dpkg/status", status.String()))
}

// Distroless returns what an image without a package manager records: one file for each package, and no status.
func Distroless(version string, pkgs ...DebPackage) []File {
	files := debianRelease(version)
	for _, p := range pkgs {
		path := "var/lib/dpkg/status.d/" + p.Name
		doc := "usr/share/doc/" + p.Name + "/copyright"
		sum := fmt.Sprintf("%x  %s\n", md5.Sum([]byte(doc)), doc)
		files = append(files, text(path, p.stanza(false)), text(path+".md5sums", sum))
	}
	return files
}

func debianRelease(version string) []File {
	pretty, codename := version, debianCodenames[version]
	if codename != "" {
		pretty += " (" + codename + ")"
	}
	release := fmt.Sprintf("PRETTY_NAME=\"Debian GNU/Linux %s\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"%s\"\nVERSION=\"%s\"\n"+
		"VERSION_CODENAME=%s\nID=debian\n", pretty, version, pretty, codename)
	return append(osRelease(release), text("etc/debian_version", version+".0\n"))
}

func osRelease(body string) []File {
	return []File{text("usr/lib/os-release", body), {Path: "etc/os-release", Symlink: "../usr/lib/os-release"}}
}

// ApkPackage is a package as apk records it.
type ApkPackage struct {
	Name, Version string
	// Origin is the source package; Name when it is empty.
	Origin string
	// Arch is x86_64 when it is empty.
	Arch string
	// License is MIT when it is empty.
	License string
}

// Alpine returns what an Alpine image of a version ("3.19.1") records about itself and its packages. As in the real images
// etc/os-release is a symbolic link.
func Alpine(version string, pkgs ...ApkPackage) []File {
	release := fmt.Sprintf("NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=%s\nPRETTY_NAME=\"Alpine Linux v%s\"\n",
		version, version[:max(0, strings.LastIndexByte(version, '.'))])
	var installed, world strings.Builder
	for _, p := range pkgs {
		installed.WriteString(p.stanza() + "\n")
		world.WriteString(p.Name + "\n")
	}
	return append(osRelease(release),
		text("etc/alpine-release", version+"\n"), text("etc/apk/world", world.String()), text("etc/apk/arch", "x86_64\n"),
		text("lib/apk/db/installed", installed.String()))
}

func (p ApkPackage) stanza() string {
	sum := sha1.Sum([]byte(p.Name + "-" + p.Version))
	id := "Q1" + base64.StdEncoding.EncodeToString(sum[:])
	lines := []string{
		"C:" + id, "P:" + p.Name, "V:" + p.Version, "A:" + cmp.Or(p.Arch, "x86_64"), "S:4096", "I:8192",
		"T:the package " + p.Name, "U:https://example.org/" + p.Name, "L:" + cmp.Or(p.License, "MIT"),
		"o:" + cmp.Or(p.Origin, p.Name), "m:Package Maintainers <maintainers@example.org>", "t:1704164645",
		"c:0123456789abcdef0123456789abcdef01234567", "F:usr/share/" + p.Name, "R:README", "a:0:0:644", "Z:" + id,
	}
	return strings.Join(lines, "\n") + "\n"
}

// NPM returns an installed npm package, scoped ("@scope/name") or not.
func NPM(name, version string) []File {
	return []File{jsonFile("app/node_modules/"+name+"/package.json", map[string]any{
		"name": name, "version": version, "license": "MIT", "main": "index.js",
	})}
}

// Wheel returns an installed Python package.
func Wheel(name, version string) []File {
	module := strings.NewReplacer("-", "_", ".", "_").Replace(name)
	dir := "usr/local/lib/python3.12/site-packages/" + module + "-" + version + ".dist-info/"
	record := strings.Join([]string{dir + "METADATA,,", dir + "WHEEL,,", dir + "RECORD,,"}, "\n") + "\n"
	return []File{
		text(dir+"METADATA", fmt.Sprintf("Metadata-Version: 2.1\nName: %s\nVersion: %s\nSummary: the package %s\nLicense: MIT\n\nText.\n",
			name, version, name)),
		text(dir+"WHEEL", "Wheel-Version: 1.0\nGenerator: ocitest\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
		text(dir+"INSTALLER", "pip\n"),
		text(dir+"RECORD", strings.ReplaceAll(record, "usr/local/lib/python3.12/site-packages/", "")),
	}
}

// Jar returns a Java archive as Maven packs one. Inner archives are packed into it, as those of an application are.
func Jar(group, artifact, version string, inner ...File) []File {
	meta := "META-INF/maven/" + group + "/" + artifact + "/"
	entries := []File{
		text("META-INF/MANIFEST.MF", fmt.Sprintf("Manifest-Version: 1.0\r\nImplementation-Title: %s\r\nImplementation-Version: %s\r\n"+
			"Implementation-Vendor-Id: %s\r\n\r\n", artifact, version, group)),
		text(meta+"pom.properties", fmt.Sprintf("groupId=%s\nartifactId=%s\nversion=%s\n", group, artifact, version)),
		text(meta+"pom.xml", fmt.Sprintf("<project><modelVersion>4.0.0</modelVersion><groupId>%s</groupId>"+
			"<artifactId>%s</artifactId><version>%s</version></project>\n", group, artifact, version)),
	}
	for _, f := range inner {
		entries = append(entries, File{Path: "BOOT-INF/lib/" + f.Path[strings.LastIndexByte(f.Path, '/')+1:], Body: f.Body})
	}
	return []File{{Path: "app/lib/" + artifact + "-" + version + ".jar", Body: packZip(entries)}}
}

// packZip panics when an entry cannot be packed: the writer is memory and never fails.
func packZip(entries []File) []byte {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, f := range entries {
		entry, err := w.CreateHeader(&zip.FileHeader{Name: f.Path, Method: zip.Deflate, Modified: epoch()})
		if err == nil {
			_, err = entry.Write(f.Body)
		}
		if err != nil {
			panic(fmt.Sprintf("ocitest: packing %s: %v", f.Path, err))
		}
	}
	if err := w.Close(); err != nil {
		panic(fmt.Sprintf("ocitest: packing an archive: %v", err))
	}
	return buf.Bytes()
}

// Random returns bytes that do not compress, the same for the same seed.
func Random(size int, seed uint64) []byte {
	b := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24),
		byte(seed >> 32), byte(seed >> 40), byte(seed >> 48), byte(seed >> 56)})
	_, _ = source.Read(b) // never fails
	return b
}

func text(path, body string) File { return File{Path: path, Body: []byte(body)} }

// jsonFile panics when v is not JSON: its callers give strings only.
func jsonFile(path string, v any) File {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("ocitest: encoding %s: %v", path, err))
	}
	return File{Path: path, Body: append(b, '\n')}
}
