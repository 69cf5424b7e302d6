package scan

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

const apkInstalled = `C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=
P:alpine-baselayout
V:3.6.8-r1
A:x86_64
S:8515
I:315392
T:Alpine base dir structure and init scripts
U:https://git.alpinelinux.org/cgit/aports/tree/main/alpine-baselayout
L:GPL-2.0-only
o:alpine-baselayout
m:Natanael Copa <ncopa@alpinelinux.org>
F:dev
F:etc

C:Q1l/gXFO4hkZNzaf4BfUS9IvhtCQ4=
P:libcrypto3
V:3.3.3-r0
A:x86_64
L:Apache-2.0
o:openssl
F:usr
F:usr/lib
R:libcrypto.so.3
`

var apkPackages = []gate.Package{
	{Type: "apk", Name: "alpine-baselayout", Version: "3.6.8-r1", Arch: "x86_64", Licenses: []string{"GPL-2.0-only"}},
	{Type: "apk", Name: "libcrypto3", Version: "3.3.3-r0", Arch: "x86_64", Source: "openssl", SourceVersion: "3.3.3-r0", Licenses: []string{"Apache-2.0"}},
}

const distrolessStatus = `Package: base-files
Version: 12.4+deb12u8
Architecture: amd64
Maintainer: Santiago Vila <sanvila@debian.org>
Description: Debian base system miscellaneous files
`

const wheelMetadata = "Metadata-Version: 2.1\nName: Jinja2\nVersion: 2.11.2\nAuthor: Armin Ronacher\nLicense: BSD-3-Clause\n\nA template engine.\n"

// zipped returns a zip archive of names and contents, in order.
func zipped(t testing.TB, namesAndContents ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for pair := range slices.Chunk(namesAndContents, 2) {
		f, err := w.Create(pair[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(pair[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func pomProperties(group, name, version string) (string, string) {
	return "META-INF/maven/" + group + "/" + name + "/pom.properties", fmt.Sprintf("groupId=%s\nartifactId=%s\nversion=%s\n", group, name, version)
}

func TestPackagesOfEveryEcosystem(t *testing.T) {
	pomName, pom := pomProperties("org.apache.logging.log4j", "log4j-core", "2.14.1")
	jar := zipped(t, pomName, pom)
	for _, tt := range []struct {
		name  string
		entry entry
		want  []gate.Package
	}{
		{"dpkg", regular("var/lib/dpkg/status", statusTwoPackages), packagesTwo},
		{"dpkg without packages", regular("var/lib/dpkg/status", ""), nil},
		{
			"dpkg of a distroless image", regular("./var/lib/dpkg/status.d/base", distrolessStatus),
			[]gate.Package{{Type: "deb", Name: "base-files", Version: "12.4+deb12u8", Arch: "amd64"}},
		},
		{
			"dpkg counts every state but removal as installed",
			regular("var/lib/dpkg/status", "Package: a\nStatus: install ok half-configured\nVersion: 1\n\n"+
				"Package: b\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: c\nVersion: 1\n\n"+
				"Package: d\nStatus: purge ok not-installed\nVersion: 1\n\nPackage: e\nStatus: nonsense\nVersion: 1\n"),
			[]gate.Package{{Type: "deb", Name: "a", Version: "1"}, {Type: "deb", Name: "c", Version: "1"}, {Type: "deb", Name: "e", Version: "1"}},
		},
		{
			"dpkg takes no author's word for a package being empty",
			regular("var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nVersion: 1\nDescription: transitional package\n"),
			[]gate.Package{{Type: "deb", Name: "a", Version: "1"}},
		},
		{"apk", regular("lib/apk/db/installed", apkInstalled), apkPackages},
		{"apk in usr/lib", regular("usr/lib/apk/db/installed", apkInstalled), apkPackages},
		{"apk in var/lib", regular("var/lib/apk/db/installed", apkInstalled), apkPackages},
		{
			"npm", regular("app/node_modules/lodash/package.json", `{"name":"lodash","version":"4.17.4"}`),
			[]gate.Package{{Type: "npm", Name: "lodash", Version: "4.17.4"}},
		},
		{
			"npm with a byte order mark and fields of odd types",
			regular("a/package.json", "\xef\xbb\xbf"+`{"name":"@a/b","version":"1.0.0","author":7,"dependencies":[]}`),
			[]gate.Package{{Type: "npm", Name: "@a/b", Version: "1.0.0"}},
		},
		{
			"npm reads keys as node does", regular("a/package.json", `{"name":"a","version":"1.0.0","Version":"9.9.9","NAME":"z"}`),
			[]gate.Package{{Type: "npm", Name: "a", Version: "1.0.0"}},
		},
		{"npm without a version", regular("app/package.json", `{"name":"app","private":true}`), nil},
		{"npm test data that is not JSON", regular("app/node_modules/resolve/test/resolver/malformed_package_json/package.json", "{\n"), nil},
		{
			"wheel", regular("usr/lib/python3/dist-packages/Jinja2-2.11.2.dist-info/METADATA", wheelMetadata),
			[]gate.Package{{Type: "pypi", Name: "Jinja2", Version: "2.11.2", Licenses: []string{"BSD-3-Clause"}}},
		},
		{
			"egg", regular("opt/Jinja2.egg-info/PKG-INFO", wheelMetadata),
			[]gate.Package{{Type: "pypi", Name: "Jinja2", Version: "2.11.2", Licenses: []string{"BSD-3-Clause"}}},
		},
		{
			"zipped wheel", regular("w/jinja.whl", zipped(t, "Jinja2-2.11.2.dist-info/METADATA", wheelMetadata)),
			[]gate.Package{{Type: "pypi", Name: "Jinja2", Version: "2.11.2"}},
		},
		{
			"jar", regular("app/log4j.jar", jar),
			[]gate.Package{{Type: "maven", Name: "org.apache.logging.log4j:log4j-core", Version: "2.14.1"}},
		},
		{
			"jar in a jar", regular("app/boot.jar", zipped(t, "BOOT-INF/lib/log4j-core.jar", jar)),
			[]gate.Package{{Type: "maven", Name: "org.apache.logging.log4j:log4j-core", Version: "2.14.1"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, tt.entry)
			want := []gate.FileInventory{{Path: cleanPath(tt.entry.header.Name), Packages: tt.want}}
			if diff := cmp.Diff(want, got.Files); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if got.Gaps != nil {
				t.Errorf("gaps: %v", got.Gaps)
			}
		})
	}
}

func TestUnreadablePackages(t *testing.T) {
	deep := "x"
	for range maxArchiveDepth + 1 {
		deep = zipped(t, "inner.jar", strings.Repeat(" ", 30)+deep) // an archive may have something in front
	}
	for _, tt := range []struct {
		name  string
		entry entry
		want  []gate.GapKind
	}{
		{"dpkg", regular("var/lib/dpkg/status", "Package bash\n"), []gate.GapKind{gate.GapUnreadablePackage}},
		{"dpkg of a distroless image", regular("var/lib/dpkg/status.d/base", "Package base\n"), []gate.GapKind{gate.GapUnreadablePackage}},
		{"dpkg source", regular("var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nVersion: 1\nSource: b (2\n"), []gate.GapKind{gate.GapUnreadablePackage}},
		{"apk", regular("lib/apk/db/installed", "P:a\nV:1\nnonsense\n"), []gate.GapKind{gate.GapUnreadablePackage}},
		{"rpm", regular("var/lib/rpm/rpmdb.sqlite", "not a database"), []gate.GapKind{gate.GapUnreadablePackage}},
		{"rpm cut short", regular("var/lib/rpm/rpmdb.sqlite", sqliteMagic), []gate.GapKind{gate.GapUnreadablePackage}},
		{"rpm journal", regular("usr/lib/sysimage/rpm/rpmdb.sqlite-wal", "pages"), []gate.GapKind{gate.GapUnreadablePackage}},
		{"installed npm", regular("node_modules/@a/b/package.json", "{"), []gate.GapKind{gate.GapUnreadablePackage}},
		{
			"npm nested deeper than we read and node does", regular("a/package.json", `{"x":`+strings.Repeat("[", 20000)+strings.Repeat("]", 20000)+`,"name":"a","version":"1"}`),
			[]gate.GapKind{gate.GapUnreadablePackage},
		},
		{"wheel without a name", regular("a.dist-info/METADATA", "Version: 1\n"), []gate.GapKind{gate.GapUnreadablePackage}},
		{"jar", regular("a.jar", strings.Repeat("x", 64)), []gate.GapKind{gate.GapUnreadablePackage}},
		{"jar too deep", regular("a.jar", deep), []gate.GapKind{gate.GapLimit}},
		{"os-release too large", regular("etc/os-release", strings.Repeat("x", maxOSReleaseBytes+1)), []gate.GapKind{gate.GapLimit}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, tt.entry)
			if diff := cmp.Diff(tt.want, gapKinds(got.Gaps)); diff != "" {
				t.Errorf("gaps (-want +got):\n%s\n%v", diff, got.Gaps)
			}
			if len(got.Gaps) > 0 && got.Gaps[0].Path != tt.entry.header.Name {
				t.Errorf("gap at %q, want %q", got.Gaps[0].Path, tt.entry.header.Name)
			}
		})
	}
}

// buildGo returns a Go program built from source for linux.
func buildGo(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.test/tide\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", "tide", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	binary, err := os.ReadFile(filepath.Join(dir, "tide"))
	if err != nil {
		t.Fatal(err)
	}
	return string(binary)
}

func TestGoBinaries(t *testing.T) {
	binary := buildGo(t)
	want := []gate.Package{
		{Type: "golang", Name: "stdlib", Version: strings.TrimPrefix(runtime.Version(), "go")},
		{Type: "golang", Name: "example.test/tide", Version: "(devel)"},
	}
	for _, tt := range []struct {
		name  string
		entry entry
		want  []gate.FileInventory
	}{
		{"executable", executable("usr/bin/tide", binary), []gate.FileInventory{{Path: "usr/bin/tide", Packages: want}}},
		{"not executable until somebody makes it so", regular("usr/bin/tide", binary), []gate.FileInventory{{Path: "usr/bin/tide", Packages: want}}},
		{"whatever its name", executable("usr/share/tide.json", binary), []gate.FileInventory{{Path: "usr/share/tide.json", Packages: want}}},
		{"even where dpkg keeps lists", executable("var/lib/dpkg/info/tide.list", binary), []gate.FileInventory{{Path: "var/lib/dpkg/info/tide.list", Packages: want}}},
		{"or apk its repositories", executable("etc/apk/repositories", binary), []gate.FileInventory{{Path: "etc/apk/repositories", Packages: want}}},
		{"other executables are looked into too", executable("usr/bin/c", "\x7fELF and no more"), []gate.FileInventory{{Path: "usr/bin/c"}}},
		{"scripts are not", executable("usr/bin/sh", "#!/bin/sh\n"), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, tt.entry)
			if diff := cmp.Diff(tt.want, got.Files); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if got.Gaps != nil {
				t.Errorf("gaps: %v", got.Gaps)
			}
		})
	}
}

func TestPanicOfAReaderIsAGap(t *testing.T) {
	r := reader{name: "hostile", read: nil} // calling it panics
	w := newWalk("")
	if err := w.examine(t.Context(), file{path: "a"}, []reader{r}); err != nil {
		t.Fatal(err)
	}
	if got, want := gapKinds(w.result().Gaps), []gate.GapKind{gate.GapUnreadablePackage}; !slices.Equal(got, want) {
		t.Errorf("gaps: %v, want %v", got, want)
	}
}

func TestReadersAnswerByNameWhateverTheSize(t *testing.T) {
	rs, err := newReaders(t.TempDir(), newOwnership())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"a/package.json", "a.dist-info/METADATA", "a.whl", "a.jar", "specifications/a-1.gemspec", "a.deps.json", "composer.lock",
		"vendor/composer/installed.json", "conan.lock", ".yarn/cache/a.zip", "app.asar",
	} {
		header := entry{}.header
		header.Name, header.Size = name, 1<<50
		if len(rs.forName(file{path: name, info: header.FileInfo()}, noDatabase)) == 0 {
			t.Errorf("%s: a large one passes unexamined", name)
		}
	}
}
