package gate

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/oci"
)

// InventoryFormat is the version of [LayerInventory]. It changes whenever a layer read again would yield other facts, and
// inventories of another version are not used.
const InventoryFormat = 4

// How a layer's bytes are compressed.
const (
	CompressionNone = "none"
	CompressionGzip = "gzip"
	CompressionZstd = "zstd"
)

// Package is a piece of software found installed in a layer. All of it was written by whoever built the layer.
type Package struct {
	// Type is the package-URL type: deb, apk, rpm, golang, npm, pypi, maven, gem, cargo, nuget, composer, conan; generic for a
	// runtime that no package manager installed.
	Type    string `json:"type"`
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch,omitempty"`
	// Source and SourceVersion name the source package advisories of a distribution are filed under; empty when the package is
	// its own source.
	Source        string `json:"source,omitempty"`
	SourceVersion string `json:"source_version,omitempty"`
	// Modularity is the module stream of an rpm, "nodejs:18:…"; empty otherwise.
	Modularity string `json:"modularity,omitempty"`
	// Licenses are as the package states them, in its order.
	Licenses []string `json:"licenses,omitempty"`
	// Roots are what the names of a Java archive's classes begin with, "org.apache.commons", where the archive does not state its
	// group: the group in Name is then a guess, and advisories are found by the artifact and these.
	Roots []string `json:"roots,omitempty"`
}

// Look says what is looked for in a layer besides packages.
type Look struct {
	// Secrets are credentials left in files. Looking for them costs many times what all else does.
	Secrets bool
	// Malware is looked for by [Malware], not by [Scanner].
	Malware bool
}

// covers reports whether nothing of other is missing in l.
func (l Look) covers(other Look) bool {
	return (l.Secrets || !other.Secrets) && (l.Malware || !other.Malware)
}

// and returns what is looked for by l or other.
func (l Look) and(other Look) Look {
	return Look{Secrets: l.Secrets || other.Secrets, Malware: l.Malware || other.Malware}
}

// Secret is a credential found in a layer. It is never recorded itself.
type Secret struct {
	// Kind says what it opens: "private key", "AWS access key".
	Kind string `json:"kind"`
	// Path is as in [FileInventory].
	Path string `json:"path"`
	// Layer is set in an [Inventory].
	Layer oci.Digest `json:"layer,omitempty"`
}

// FileInventory is what one file of a layer yielded.
type FileInventory struct {
	// Path is clean, relative to the root, without a leading slash: "var/lib/dpkg/status".
	Path string `json:"path"`
	// Packages is empty for a file that could have held packages and did not: in a higher layer it still hides the file of the
	// same path below.
	Packages []Package `json:"packages,omitempty"`
}

// OS is what os-release says a layer or image is.
type OS struct {
	// ID is os-release's ID, "debian".
	ID string `json:"id"`
	// Version is os-release's VERSION_ID, "12"; empty for rolling distributions.
	Version string `json:"version,omitempty"`
	Name    string `json:"name,omitempty"`
}

// LicenseFile is what a file states of the licence of a package that another file tells of, perhaps in another layer.
type LicenseFile struct {
	// Type, Name and Version say which package; Version is empty where a name says enough.
	Type    string `json:"type"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	// Licenses are as in [Package]. Like, when it is not empty, is the name of another package that has the same licences.
	Licenses []string `json:"licenses,omitempty"`
	Like     string   `json:"like,omitempty"`
}

// LayerInventory is what reading one layer found. It depends on the layer's bytes, [InventoryFormat] and whether secrets were looked
// for, so a layer is read once, ever, and once more for the first policy that asks for secrets.
type LayerInventory struct {
	Format int        `json:"format"`
	Layer  oci.Digest `json:"layer"`
	// Compression is what the layer's bytes are, whatever a manifest announces: one of the Compression constants.
	Compression string `json:"compression"`
	// DiffID is the digest of the uncompressed layer.
	DiffID oci.Digest `json:"diff_id"`
	// UncompressedBytes and Entries are the size of the tar stream.
	UncompressedBytes int64 `json:"uncompressed_bytes"`
	Entries           int   `json:"entries"`
	// Files is sorted by path; only files that yielded packages or could have.
	Files []FileInventory `json:"files,omitempty"`
	// Whiteouts are the paths this layer removes from those below, sorted, without the ".wh." mark.
	Whiteouts []string `json:"whiteouts,omitempty"`
	// Opaque are the directories whose content below this layer is hidden, sorted; "." is the root.
	Opaque []string `json:"opaque,omitempty"`
	// OSRelease maps the path of each os-release file to what it says.
	OSRelease map[string]OS `json:"os_release,omitempty"`
	// Channels maps the path of each file that says where system packages are from to what it says, sorted; see [Inventory].
	Channels map[string][]string `json:"channels,omitempty"`
	// LicenseFiles maps the path of each file that states the licence of a package which another file tells of to what it states.
	LicenseFiles map[string]LicenseFile `json:"license_files,omitempty"`
	// SecretsRead says that secrets were looked for; else Secrets is empty for want of looking. Sorted by path, then kind.
	SecretsRead bool     `json:"secrets_read,omitempty"`
	Secrets     []Secret `json:"secrets,omitempty"`
	// Malware is nil when it was never looked for. Unlike all else here it also depends on the signatures there were.
	Malware *LayerMalware `json:"malware,omitempty"`
	// Gaps is what could not be read of the layer. A layer that could not be read at all has a gap and nothing else.
	Gaps []Gap `json:"gaps,omitempty"`
}

// Found is a package in an image, and where.
type Found struct {
	Package
	// Path is the file that told of the package.
	Path string `json:"path"`
	// Layer is the layer that file came from.
	Layer oci.Digest `json:"layer"`
}

// Inventory is what an image holds once its layers lie on top of one another.
type Inventory struct {
	OS OS `json:"os"`
	// Channels are what the distribution's packages are from beyond what OS tells, sorted: Red Hat's content sets and builds
	// ("nvr:ubi9-container-9.4-1-x86_64"), Ubuntu's extended maintenance ("esm-infra"), Alpine's repositories ("alpine edge").
	Channels []string `json:"channels,omitempty"`
	// Packages is sorted by type, name, version and path.
	Packages []Found `json:"packages"`
	// Secrets is in the order of the layers. What a higher layer removes is still in the lower one, for everybody to read.
	Secrets []Secret `json:"secrets,omitempty"`
	Gaps    []Gap    `json:"gaps,omitempty"`
	// secretsRead says that secrets were looked for in every layer.
	secretsRead bool
}

// osReleasePaths are where os-release may lie, in the order os-release(5) gives precedence.
var osReleasePaths = [...]string{"etc/os-release", "usr/lib/os-release"}

// Merge lays layers on top of one another, lowest first, as a runtime does: a whiteout removes the path and all below it, an
// opaque directory but the root hides what lower layers put there, and a file replaces the file of the same path. Removals act on lower layers
// only (image-spec, layer.md, Whiteouts).
func Merge(layers []LayerInventory) Inventory {
	type origin struct {
		file  FileInventory
		layer oci.Digest
	}
	files := map[string]origin{}
	releases := map[string]OS{}
	channels := map[string][]string{}
	licenses := map[string]LicenseFile{}
	merged := Inventory{secretsRead: true}
	for _, l := range layers {
		merged.secretsRead = merged.secretsRead && l.SecretsRead
		hidden := hiddenBy(l)
		maps.DeleteFunc(files, func(p string, _ origin) bool { return hidden(p) })
		maps.DeleteFunc(releases, func(p string, _ OS) bool { return hidden(p) })
		maps.DeleteFunc(channels, func(p string, _ []string) bool { return hidden(p) })
		maps.DeleteFunc(licenses, func(p string, _ LicenseFile) bool { return hidden(p) })
		for _, f := range l.Files {
			files[f.Path] = origin{f, l.Layer}
		}
		maps.Copy(releases, l.OSRelease)
		maps.Copy(channels, l.Channels)
		maps.Copy(licenses, l.LicenseFiles)
		merged.Gaps = append(merged.Gaps, l.Gaps...)
		for _, s := range l.Secrets {
			s.Layer = l.Layer
			merged.Secrets = append(merged.Secrets, s)
		}
	}
	for _, p := range osReleasePaths {
		if os, ok := releases[p]; ok {
			merged.OS = os
			break
		}
	}
	merged.Channels = slices.Compact(slices.Sorted(slices.Values(slices.Concat(slices.Collect(maps.Values(channels))...))))
	for p, o := range files {
		for _, pkg := range o.file.Packages {
			merged.Packages = append(merged.Packages, Found{Package: pkg, Path: p, Layer: o.layer})
		}
	}
	addLicenses(merged.Packages, licenses)
	slices.SortFunc(merged.Packages, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Path, b.Path))
	})
	return merged
}

// maxLicenseLinks bounds how many packages are gone through for the licence of one; Debian's never lead further than to the next.
const maxLicenseLinks = 3

// licensed says which package a [LicenseFile] is about.
type licensed struct{ kind, name, version string }

// addLicenses gives packages that state no licence what files state of it.
func addLicenses(packages []Found, files map[string]LicenseFile) {
	stated := map[licensed]LicenseFile{}
	for _, p := range slices.Sorted(maps.Keys(files)) {
		f := files[p]
		key := licensed{f.Type, f.Name, f.Version}
		if known, twice := stated[key]; !twice || len(known.Licenses) == 0 { // what a file says counts more than what a link does
			stated[key] = f
		}
	}
	for i, p := range packages {
		if len(p.Licenses) > 0 {
			continue
		}
		key := licensed{kind: p.Type, name: p.Name}
		if p.Type == "nuget" {
			key = licensed{p.Type, strings.ToLower(p.Name), p.Version}
		}
		for range maxLicenseLinks {
			f := stated[key]
			if packages[i].Licenses = f.Licenses; f.Like == "" {
				break
			}
			key.name = f.Like
		}
	}
}

// hiddenBy returns whether l hides a path of the layers below it. A lookup climbs from the path to the root, so its cost is the
// path's depth, however many whiteouts there are.
func hiddenBy(l LayerInventory) func(string) bool {
	removed := map[string]bool{}
	for _, w := range l.Whiteouts {
		removed[w] = true
	}
	opaque := map[string]bool{}
	for _, o := range l.Opaque {
		opaque[o] = o != "." // overlay does not honour an opaque root, so what is below it is taken to be there
	}
	return func(p string) bool {
		if removed[p] {
			return true
		}
		for dir := path.Dir(p); ; dir = path.Dir(dir) {
			if removed[dir] || opaque[dir] {
				return true
			}
			if dir == "." {
				return false
			}
		}
	}
}
