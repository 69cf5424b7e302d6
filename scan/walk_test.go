package scan

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

const lodash = `{"name":"lodash","version":"4.17.4"}`

var lodashPackage = []gate.Package{{Type: "npm", Name: "lodash", Version: "4.17.4"}}

// dpkgFile is the inventory of statusTwoPackages at p.
func dpkgFile(p string) gate.FileInventory { return gate.FileInventory{Path: p, Packages: packagesTwo} }

func TestWalk(t *testing.T) {
	status := regular("var/lib/dpkg/status", statusTwoPackages)
	dpkg := []gate.FileInventory{dpkgFile("var/lib/dpkg/status")}
	npm := func(p string) []gate.FileInventory {
		return []gate.FileInventory{{Path: p, Packages: lodashPackage}}
	}
	for _, tt := range []struct {
		name    string
		entries []entry
		want    gate.LayerInventory
		gaps    []gate.GapKind
	}{
		{"whiteouts and opaque directories", []entry{
			directory("usr/"), regular("usr/.wh.share", ""), regular("./.wh.opt", ""), regular("/srv/.wh..wh..opq", ""), regular(".wh..wh..opq", ""),
		}, gate.LayerInventory{Whiteouts: []string{"opt", "usr/share"}, Opaque: []string{".", "srv"}}, nil},
		{"a whiteout once, however often", []entry{regular(".wh.a", ""), regular("./.wh.a", "")}, gate.LayerInventory{Whiteouts: []string{"a"}}, nil},
		{
			"aufs's own marks are not whiteouts", []entry{directory(".wh..wh.plnk"), regular(".wh..wh.aufs", "")},
			gate.LayerInventory{}, nil,
		},
		{
			"a file below one, which some runtimes unpack and link to", []entry{directory(".wh..wh.plnk"), regular(".wh..wh.plnk/node_modules/a/package.json", lodash)},
			gate.LayerInventory{}, []gate.GapKind{gate.GapUnreadableLayer},
		},
		{
			"a file below a whiteout", []entry{regular("a/.wh.b/package.json", lodash)}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnreadableLayer},
		},
		{
			"a directory with whiteouts that is replaced", []entry{regular("d/.wh..wh..opq", ""), regular("d", "x"), directory("d")},
			gate.LayerInventory{Opaque: []string{"d"}}, []gate.GapKind{gate.GapUnreadableLayer},
		},
		{
			"one above a directory with whiteouts", []entry{regular("d/e/.wh.f", ""), symlink("d", "x")},
			gate.LayerInventory{Whiteouts: []string{"d/e/f"}}, []gate.GapKind{gate.GapUnreadableLayer},
		},
		{
			"a hard link to a file of a lower layer", []entry{hardLink("keep", "d/evil"), regular(".wh.d", "")},
			gate.LayerInventory{Whiteouts: []string{"d"}}, []gate.GapKind{gate.GapUnresolvedLink},
		},
		{
			"a hard link to a hard link of this layer", []entry{regular("a", "x"), hardLink("b", "a"), hardLink("c", "b")}, gate.LayerInventory{}, nil,
		},
		{"whiteout of nothing", []entry{regular("a/.wh.", "")}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnreadableLayer}},
		{"whiteout of the directory itself", []entry{regular("a/.wh..", "")}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnreadableLayer}},
		{"whiteout of the directory above", []entry{regular("a/.wh...", "")}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnreadableLayer}},
		{"whiteout of a whiteout", []entry{regular("a/.wh..wh.b", "")}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnreadableLayer}},
		{
			"whiteout behind a link", []entry{symlink("x", "var/lib/dpkg"), regular("x/.wh.status", "")},
			gate.LayerInventory{}, []gate.GapKind{gate.GapUnresolvedLink},
		},

		{"names are cleaned as a runtime does", []entry{
			regular("../../a/package.json", lodash), regular("/b//./package.json", lodash), regular("c/../../d/package.json", lodash),
		}, gate.LayerInventory{Files: []gate.FileInventory{
			{Path: "a/package.json", Packages: lodashPackage}, {Path: "b/package.json", Packages: lodashPackage}, {Path: "d/package.json", Packages: lodashPackage},
		}}, nil},
		{
			"names that are not text stay apart", []entry{regular("a\xff/package.json", lodash), regular(`a\xff/package.json`, lodash), regular("a\uFFFD/package.json", lodash)},
			gate.LayerInventory{Files: []gate.FileInventory{
				{Path: `a\\xff/package.json`, Packages: lodashPackage}, {Path: `a\xff/package.json`, Packages: lodashPackage},
				{Path: "a\uFFFD/package.json", Packages: lodashPackage},
			}}, nil,
		},
		{
			"a name of a megabyte", []entry{regular(strings.Repeat("a/", 400_000)+"package.json", lodash), regular("package.json", lodash)},
			gate.LayerInventory{Files: npm("package.json")}, []gate.GapKind{gate.GapLimit},
		},

		{
			"the last of two files of one path counts", []entry{regular("package.json", `{"name":"a","version":"1"}`), regular("./package.json", lodash)},
			gate.LayerInventory{Files: npm("package.json")}, nil,
		},
		{
			"a file of another kind replaces", []entry{executable("bin/tide", "\x7fELF"), executable("bin/tide", "#!/bin/sh")},
			gate.LayerInventory{}, nil,
		},
		{"a directory replaces a file", []entry{regular("package.json", lodash), directory("package.json/")}, gate.LayerInventory{}, nil},
		{"a link replaces a directory and all in it", []entry{regular("app/package.json", lodash), symlink("app", "elsewhere")}, gate.LayerInventory{}, nil},
		{"a directory keeps what is in it", []entry{regular("app/package.json", lodash), directory("app/")}, gate.LayerInventory{Files: npm("app/package.json")}, nil},
		{"a whiteout leaves the layer's own files", []entry{status, regular("var/lib/dpkg/.wh.status", "")}, gate.LayerInventory{
			Files: dpkg, Whiteouts: []string{"var/lib/dpkg/status"},
		}, nil},

		{"a file named through a link lies where the link leads", []entry{symlink("x", "var/lib/dpkg"), regular("x/status", statusTwoPackages)}, gate.LayerInventory{Files: dpkg}, nil},
		{
			"through several links", []entry{symlink("a", "/b"), symlink("b", "var"), symlink("var/l", "../var/./lib"), regular("a/l/dpkg/status", statusTwoPackages)},
			gate.LayerInventory{Files: dpkg}, nil,
		},
		{
			"through a link that was replaced by a directory", []entry{symlink("x", "var/lib/dpkg"), directory("x"), regular("x/status", statusTwoPackages)},
			gate.LayerInventory{}, nil,
		},
		{"a circle of links", []entry{symlink("a", "b"), symlink("b", "a"), regular("a/package.json", lodash)}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnresolvedLink}},

		{
			"dpkg's status as a link", []entry{regular("opt/s", statusTwoPackages), symlink("var/lib/dpkg/status", "/opt/s")},
			gate.LayerInventory{}, []gate.GapKind{gate.GapUnresolvedLink},
		},
		{
			"dpkg's status as a hard link", []entry{regular("opt/s", statusTwoPackages), hardLink("var/lib/dpkg/status", "opt/s")},
			gate.LayerInventory{}, []gate.GapKind{gate.GapUnresolvedLink},
		},
		{"status.d as a link", []entry{symlink("var/lib/dpkg/status.d", "/opt")}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnresolvedLink}},
		{"a file of status.d as a link", []entry{symlink("var/lib/dpkg/status.d/base", "/opt/base")}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnresolvedLink}},
		{"var/lib as a link", []entry{symlink("var/lib", "/data/lib")}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnresolvedLink}},
		{"rpm's directory as a link to nowhere we know", []entry{symlink("var/lib/rpm", "../../opt/rpm")}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnresolvedLink}},
		{"rpm's database as a link to another manager's", []entry{symlink("var/lib/rpm/Packages", "../dpkg/status")}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnresolvedLink}},
		{"apk's directory as a link", []entry{symlink("lib/apk/db", "/opt/db")}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnresolvedLink}},
		{"os-release as a link to nowhere we know", []entry{symlink("etc/os-release", "../opt/release")}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnresolvedLink}},
		{
			"an installed file as a hard link to one that was not examined", []entry{regular("store/ab12", lodash), hardLink("node_modules/lodash/package.json", "store/ab12")},
			gate.LayerInventory{}, []gate.GapKind{gate.GapUnresolvedLink},
		},
		{
			"a hard link to a file of another kind", []entry{regular("a.jar", ""), hardLink("package.json", "a.jar")},
			gate.LayerInventory{Files: []gate.FileInventory{{Path: "a.jar"}}}, []gate.GapKind{gate.GapUnresolvedLink},
		},

		{"Fedora's rpm directory", []entry{symlink("var/lib/rpm", "../../usr/lib/sysimage/rpm")}, gate.LayerInventory{}, nil},
		{"Alpine's apk directory", []entry{symlink("lib/apk", "../usr/lib/apk")}, gate.LayerInventory{}, nil},
		{"a merged usr", []entry{symlink("lib", "usr/lib"), symlink("bin", "usr/bin"), symlink("sbin", "usr/sbin"), symlink("lib64", "usr/lib64")}, gate.LayerInventory{}, nil},
		{"Debian's links", []entry{
			symlink("etc/os-release", "../usr/lib/os-release"), symlink("var/run", "/run"), symlink("usr/bin/X11", "."), symlink("etc/mtab", "/proc/mounts"),
			symlink("var/lib/dpkg/status.d/base.md5sums", "x"),
		}, gate.LayerInventory{}, nil},
		{"npm's links", []entry{
			symlink("node_modules/.bin/rimraf", "../rimraf/bin.js"), symlink("node_modules/a/package.json", "../b/package.json"), symlink("app.jar", "app-1.jar"),
		}, gate.LayerInventory{}, nil},
		{"a hard link to an examined file", []entry{regular("a/package.json", lodash), hardLink("b/package.json", "./a/package.json")}, gate.LayerInventory{
			Files: []gate.FileInventory{{Path: "a/package.json", Packages: lodashPackage}, {Path: "b/package.json", Packages: lodashPackage}},
		}, nil},
		{"hard links of files nobody looks for", []entry{regular("usr/bin/perl", "x"), hardLink("usr/bin/perl5", "usr/bin/perl")}, gate.LayerInventory{}, nil},

		{"os-release", []entry{regular("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n")}, gate.LayerInventory{
			OSRelease: map[string]gate.OS{"etc/os-release": {ID: "debian", Version: "12", Name: "Debian GNU/Linux 12 (bookworm)"}},
		}, nil},
		{
			"os-release as a hard link", []entry{regular("usr/lib/os-release", "ID=alpine\n"), hardLink("etc/os-release", "usr/lib/os-release")},
			gate.LayerInventory{OSRelease: map[string]gate.OS{"etc/os-release": {ID: "alpine"}, "usr/lib/os-release": {ID: "alpine"}}}, nil,
		},
		{"a device in the place of a database", []entry{status, {header: tar.Header{Typeflag: tar.TypeChar, Name: "var/lib/dpkg/status"}}}, gate.LayerInventory{}, nil},
		{"an entry of a type nobody knows", []entry{{header: tar.Header{Typeflag: 'Z', Name: "a"}}}, gate.LayerInventory{}, []gate.GapKind{gate.GapUnreadableLayer}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, tt.entries...)
			if diff := cmp.Diff(tt.gaps, gapKinds(got.Gaps)); diff != "" {
				t.Errorf("gaps (-want +got):\n%s\n%v", diff, got.Gaps)
			}
			tt.want.Format, tt.want.Entries = gate.InventoryFormat, got.Entries
			plain := tarball(t, tt.entries...)
			tt.want.DiffID, tt.want.UncompressedBytes = oci.FromBytes(plain), int64(len(plain))
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(gate.LayerInventory{}, "Gaps")); diff != "" {
				t.Errorf("inventory (-want +got):\n%s", diff)
			}
			if err := checkInventory(got); err != nil {
				t.Errorf("the parent would not believe it: %v", err)
			}
		})
	}
}

func TestBrokenStreams(t *testing.T) {
	plain := tarball(t, regular("var/lib/dpkg/status", statusTwoPackages))
	member := func(part []byte) []byte { return gzipped(t, part) }
	for _, tt := range []struct {
		name     string
		encoding encoding
		layer    []byte
		gaps     []gate.GapKind
	}{
		{"gzip in several members", encodingGzip, append(member(plain[:700]), member(plain[700:])...), nil},
		{"zstd in several frames", encodingZstd, append(zstded(t, plain[:700]), zstded(t, plain[700:])...), nil},
		{"zstd after a skippable frame", encodingZstd, append([]byte("\x50\x2a\x4d\x18\x02\x00\x00\x00xx"), zstded(t, plain)...), nil},
		{"zeros after the archive", encodingPlain, append(bytes.Clone(plain), make([]byte, 10_000)...), nil},
		{"anything after the archive, which no runtime reads", encodingPlain, append(bytes.Clone(plain), "more"...), nil},
		{"nothing at all", encodingPlain, nil, nil},
		{"an empty gzip", encodingGzip, gzipped(t, nil), nil},

		{"tar cut short in a file", encodingPlain, plain[:600], []gate.GapKind{gate.GapUnreadableLayer}},
		{"tar cut short in a header", encodingPlain, plain[:100], []gate.GapKind{gate.GapUnreadableLayer}},
		{"gzip cut short", encodingGzip, gzipped(t, plain)[:200], []gate.GapKind{gate.GapUnreadableLayer}},
		{"gzip without its checksum", encodingGzip, gzipped(t, plain)[:len(gzipped(t, plain))-4], []gate.GapKind{gate.GapUnreadableLayer}},
		{"zstd cut short", encodingZstd, zstded(t, plain)[:200], []gate.GapKind{gate.GapUnreadableLayer}},
		{"something after the gzip", encodingGzip, append(gzipped(t, plain), "more"...), []gate.GapKind{gate.GapUnreadableLayer}},
		{"something after the zstd", encodingZstd, append(zstded(t, plain), "more"...), []gate.GapKind{gate.GapUnreadableLayer}},
		{"no tar", encodingPlain, []byte(strings.Repeat("no tar ", 200)), []gate.GapKind{gate.GapUnreadableLayer}},
		{"zstd announced as gzip", encodingGzip, zstded(t, plain), []gate.GapKind{gate.GapUnreadableLayer}},
		{"plain announced as gzip", encodingGzip, plain, []gate.GapKind{gate.GapUnreadableLayer}},
		{"gzip announced as zstd", encodingZstd, gzipped(t, plain), []gate.GapKind{gate.GapUnreadableLayer}},
		{"gzip announced as plain", encodingPlain, gzipped(t, plain), []gate.GapKind{gate.GapUnreadableLayer}},
		{"a tar a runtime would take for bzip2", encodingPlain, tarball(t, regular("BZh91AY", "")), []gate.GapKind{gate.GapUnreadableLayer}},
		{"an encoding nobody knows", 'x', plain, []gate.GapKind{gate.GapUnreadableLayer}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := takeInventory(t.Context(), bytes.NewReader(tt.layer), order{encoding: tt.encoding}, t.TempDir())
			if diff := cmp.Diff(tt.gaps, gapKinds(got.Gaps)); diff != "" {
				t.Errorf("gaps (-want +got):\n%s\n%v", diff, got.Gaps)
			}
			if (got.DiffID == "") != (tt.gaps != nil) {
				t.Errorf("diff id %q beside gaps %v", got.DiffID, got.Gaps)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	t.Run("a file too large to be held", func(t *testing.T) {
		large := tar.Header{Typeflag: tar.TypeReg, Name: "package.json", Size: maxFileBytes + 1}
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&large); err != nil {
			t.Fatal(err)
		}
		layer := io.MultiReader(&b, io.LimitReader(zeros{}, maxFileBytes+512+1024)) // the file, its padding, the end
		got := takeInventory(t.Context(), layer, order{encoding: encodingPlain}, t.TempDir())
		if diff := cmp.Diff([]gate.GapKind{gate.GapLimit}, gapKinds(got.Gaps)); diff != "" {
			t.Errorf("gaps (-want +got):\n%s\n%v", diff, got.Gaps)
		}
	})
	t.Run("more gaps than are told", func(t *testing.T) {
		w := newWalk("")
		for range 10 * maxGaps {
			w.gap(gate.GapUnreadablePackage, "a", "b")
		}
		if got, want := len(w.gaps), maxGaps+1; got != want || w.gaps[maxGaps].Kind != gate.GapLimit {
			t.Errorf("%d gaps, want %d, the last one a limit", got, want)
		}
	})
	t.Run("more packages than are kept", func(t *testing.T) {
		w := newWalk("")
		err := w.keep("a", account{packages: make([]gate.Package, maxPackages+1)})
		if kindOf(err, gate.GapScanner) != gate.GapLimit {
			t.Errorf("error %v, want a limit", err)
		}
	})
	t.Run("replacing a file for ever", func(t *testing.T) {
		w := newWalk("")
		var err error
		for range maxHeldBytes {
			if err = w.keep(strings.Repeat("a", 1000), account{}); err != nil {
				break
			}
		}
		if kindOf(err, gate.GapScanner) != gate.GapLimit {
			t.Errorf("error %v, want a limit", err)
		}
	})
	t.Run("more links than are remembered", func(t *testing.T) {
		var l links
		var err error
		for range maxLinkBytes / 1000 {
			if err = l.add("a", strings.Repeat("b", 1000)); err != nil {
				break
			}
		}
		if kindOf(err, gate.GapScanner) != gate.GapLimit {
			t.Errorf("error %v, want a limit", err)
		}
	})
	t.Run("names behind more links than are followed", func(t *testing.T) {
		w := newWalk("")
		w.links.steps = maxLinkSteps - 10
		layer := tarball(t, symlink("a", "b"), regular("a/1/package.json", lodash), regular("a/2/3/4/5/6/7/8/9/10/package.json", lodash))
		if err := w.run(t.Context(), bytes.NewReader(layer)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]gate.GapKind{gate.GapUnresolvedLink}, gapKinds(w.gaps)); diff != "" {
			t.Errorf("gaps (-want +got):\n%s", diff)
		}
	})
	t.Run("more entries than are walked", func(t *testing.T) {
		w := newWalk("")
		w.entries = maxEntries
		err := w.run(t.Context(), bytes.NewReader(tarball(t, directory("a"))))
		if kindOf(err, gate.GapScanner) != gate.GapLimit {
			t.Errorf("error %v, want a limit", err)
		}
	})
	for _, tt := range []struct {
		name    string
		out, in int64
		over    bool
	}{
		{"a small file of zeros", ratioFloorBytes, 1, false},
		{"an honest ratio", 8 << 30, 1 << 30, false},
		{"a bomb", ratioFloorBytes + maxRatio, ratioFloorBytes / maxRatio, true},
		{"larger than any layer", maxLayerBytes + 1, maxLayerBytes, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := checkSize(tt.out, tt.in) != nil; got != tt.over {
				t.Errorf("over the limit: %t, want %t", got, tt.over)
			}
		})
	}
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestLargeExecutables has executables one byte larger than any that is held.
func TestLargeExecutables(t *testing.T) {
	zeros := func(n int) string { return strings.Repeat("\x00", n) }
	limit := []gate.GapKind{gate.GapLimit}
	for _, tt := range []struct {
		name, path, data string
		want             []gate.GapKind
	}{
		{"built by Go", "usr/bin/tide", elfMagic + zeros(3*chunkBytes+7) + goMark, limit},
		{"no whole mark", "usr/bin/tide", elfMagic + "\xff Go buildinf", nil},
		{"built by cargo auditable", "usr/bin/tide", elfMagic + zeros(chunkBytes) + auditableSection, limit},
		{"for Windows", "tide.exe", peMagic + goMark, limit},
		{"node", "usr/local/bin/node", elfMagic, limit},
		{"a library of Java's", "opt/jre/lib/server/libjvm.so", elfMagic, limit},
		{"php", "usr/local/bin/php8.3", elfMagic, limit},
		{"python", "opt/conda/lib/libpython3.12.so.1.0", elfMagic, limit},
		{"redis", "usr/local/bin/redis-server", elfMagic, limit},
		{"in another language", "usr/lib/libtorch.so", elfMagic, nil},
		{"no executable that speaks of them", "usr/bin/tide", "#!/bin/sh " + goMark + auditableSection, nil},
		{"no executable of a runtime's name", "var/lib/node", "data", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			layer := sparseFile(t, tt.path, tt.data, maxFileBytes+1)
			got := takeInventory(t.Context(), bytes.NewReader(layer), order{encoding: encodingPlain}, t.TempDir())
			if diff := cmp.Diff([]gate.FileInventory{{Path: tt.path}}, got.Files); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, gapKinds(got.Gaps)); diff != "" {
				t.Errorf("gaps (-want +got):\n%s\n%v", diff, got.Gaps)
			}
		})
	}
}

func TestMarksAcrossReads(t *testing.T) {
	for _, mark := range []string{goMark, auditableSection} {
		for i := range mark {
			got, err := mayHold("usr/bin/tide", io.MultiReader(strings.NewReader(elfMagic+"x"+mark[:i]), strings.NewReader(mark[i:]+"x")))
			if err != nil || !got {
				t.Errorf("%q cut at %d: %t, %v", mark, i, got, err)
			}
		}
	}
}

// readable are the names of files each reader wants, or takes aside, with something to begin from.
var readable = []struct{ name, data string }{
	{"var/lib/dpkg/status", statusTwoPackages},
	{"var/lib/dpkg/status.d/base", distrolessStatus},
	{"var/lib/dpkg/info/a.list", "/usr/lib/a\n"},
	{"lib/apk/db/installed", apkInstalled},
	{"var/lib/rpm/Packages", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x61\x15\x06\x00"},
	{"var/lib/rpm/Packages.db", "RpmP"},
	{"var/lib/rpm/rpmdb.sqlite", sqliteMagic},
	{"a/package.json", lodash},
	{"a.dist-info/METADATA", wheelMetadata},
	{"a.whl", "PK\x03\x04"},
	{"a.jar", "PK\x03\x04"},
	{"specifications/rack-2.2.6.gemspec", rackSpecification},
	{"a.deps.json", depsOfAnApplication},
	{"composer.lock", `{"packages":` + composerPackages + `}`},
	{"vendor/composer/installed.json", composerPackages},
	{"conan.lock", `{"requires":["zlib/1.2.13#e3"]}`},
	{"usr/lib/libpython3.12.so", elfMagic + "\x003.12.1\x00"},
	{"usr/bin/node", elfMagic + "https://nodejs.org/download/release/v20.11.1/"},
	{"etc/os-release", "ID=debian"},
	{"etc/apk/repositories", "https://dl-cdn.alpinelinux.org/alpine/v3.19/main"},
	{"root/buildinfo/content_manifests/a.json", `{"content_sets":["a"]}`},
	{"root/buildinfo/Dockerfile-a-1-2", `LABEL "com.redhat.component"="a" "architecture"="x86_64"`},
	{"var/lib/ubuntu-advantage/status.json", `{"services":[{"name":"esm-infra","status":"enabled"}]}`},
	{".yarn/cache/a.zip", "PK\x03\x04"},
	{"app.asar", asarBegin + "\x10\x00\x00\x00\x0c\x00\x00\x00\x0c\x00\x00\x00{\"files\":{}}"},
	{"var/lib/dpkg/info/a.md5sums", "d41d8cd98f00b204e9800998ecf8427e  usr/lib/a\n"},
}

// FuzzReaders has each reader read anything, in the way a child does, and the parent believe what is found.
func FuzzReaders(f *testing.F) {
	for i, r := range readable {
		f.Add(uint8(i), []byte(r.data))
	}
	f.Add(uint8(10), []byte(zipped(f, "META-INF/maven/a/b/pom.properties", "groupId=a\nartifactId=b\nversion=1\n")))
	f.Add(uint8(9), []byte(zipped(f, "Jinja2-2.11.2.dist-info/METADATA", wheelMetadata)))
	f.Add(uint8(23), []byte(zipped(f, "node_modules/a/package.json", lodash)))
	f.Add(uint8(24), []byte(asarApplication()))
	f.Add(uint8(17), []byte(elfWith(f, auditableSection, zlibbed(f, crates), "")))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		inv := readTar(t, executable(readable[int(which)%len(readable)].name, string(data)))
		answer, err := json.Marshal(inv)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeInventory(answer, "sha256:layer"); err != nil {
			t.Errorf("the parent would not believe it: %v", err)
		}
	})
}

func FuzzWalk(f *testing.F) {
	f.Add(tarball(f, regular("var/lib/dpkg/status", statusTwoPackages), symlink("lib", "usr/lib"), regular("usr/.wh.share", "")))
	f.Add(tarball(f, regular("lib/apk/db/installed", apkInstalled), hardLink("usr/lib/apk/db/installed", "lib/apk/db/installed")))
	f.Add(tarball(f, regular("a/package.json", lodash), regular("x.dist-info/METADATA", wheelMetadata), symlink("a", "b"), regular("a/.wh..wh..opq", "")))
	f.Add(tarball(f, regular("etc/os-release", "ID=debian"), executable("bin/a", "\x7fELF"), regular("\xff\\", "")))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, layer []byte) {
		w := newWalk(dir)
		if err := w.run(t.Context(), bytes.NewReader(layer)); err != nil {
			w.gap(gate.GapUnreadableLayer, "", printable(err.Error()))
		}
		believed(t, w)
	})
}

// FuzzEntries fuzzes what FuzzWalk rarely gets to, behind the checksum of a tar header: names, types, and links between entries.
func FuzzEntries(f *testing.F) {
	f.Add("x", byte(tar.TypeSymlink), "var/lib/dpkg", "x/status", byte(tar.TypeReg), statusTwoPackages)
	f.Add("a/package.json", byte(tar.TypeReg), lodash, "b/package.json", byte(tar.TypeLink), "a/package.json")
	f.Add("var/lib/.wh..wh..opq", byte(tar.TypeReg), "", "../\xff\\", byte(tar.TypeDir), "")
	f.Add("a", byte(tar.TypeSymlink), "b", "b", byte(tar.TypeSymlink), "a/../b/.")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, name1 string, type1 byte, data1, name2 string, type2 byte, data2 string) {
		w := newWalk(dir)
		readers, err := newReaders(dir, w.owned)
		if err != nil {
			t.Fatal(err)
		}
		w.readers = readers
		for _, e := range []entry{
			{tar.Header{Name: name1, Typeflag: type1, Linkname: data1, Size: int64(len(data1))}, data1},
			{tar.Header{Name: name2, Typeflag: type2, Linkname: data2, Size: int64(len(data2))}, data2},
			regular(path.Join(name1, name2), data2),
		} {
			if err := w.entry(t.Context(), &e.header, strings.NewReader(e.data)); err != nil {
				t.Fatal(err) // nothing this small is past a limit, and the content is all there
			}
		}
		believed(t, w)
	})
}

// believed reports whether the parent would believe what w says.
func believed(t *testing.T, w *walk) {
	t.Helper()
	inv := w.result()
	inv.DiffID = empty.DiffID
	if err := checkInventory(inv); err != nil {
		t.Errorf("the parent would not believe it: %v", err)
	}
}
