package scan

import (
	"bytes"
	"cmp"
	"crypto/md5"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// specs are two packages: one that is part of a module, has an epoch and its own source; one built from another source.
var specs = map[string]string{
	"tidegate": `Name: tidegate
Epoch: 2
Version: 1.4
Release: 3.tw1
Summary: a package of a module
License: Apache-2.0
BuildArch: noarch
ModularityLabel: tide:4:8090020231018:a75119d5
%description
A package.
%files
`,
	"tidelib": `Name: tidelib
Version: 0.9
Release: 1.tw1
Summary: the source
License: MIT
BuildArch: noarch
%description
The source.
%package devel
Summary: what is built from it
%description devel
What is built from it.
%files devel
`,
}

var rpmPackages = []gate.Package{
	{Type: "rpm", Name: "tidegate", Version: "2:1.4-3.tw1", Arch: "noarch", Modularity: "tide:4:8090020231018:a75119d5", Licenses: []string{"Apache-2.0"}},
	{Type: "rpm", Name: "tidelib-devel", Version: "0.9-1.tw1", Arch: "noarch", Source: "tidelib", SourceVersion: "0.9-1.tw1", Licenses: []string{"MIT"}},
}

// rpmDatabase returns the database rpm writes when specs are installed.
func rpmDatabase(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	run := func(name string, args ...string) {
		cmd := exec.CommandContext(t.Context(), name, append([]string{"--define", "_topdir " + dir, "--define", "_db_backend sqlite", "--dbpath", dir + "/db"}, args...)...)
		cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	for name, spec := range specs {
		file := filepath.Join(dir, name+".spec")
		if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
			t.Fatal(err)
		}
		run("rpmbuild", "-bb", file)
	}
	built, err := filepath.Glob(filepath.Join(dir, "RPMS", "noarch", "*.rpm"))
	if err != nil || len(built) != len(specs) {
		t.Fatalf("built %v, %v", built, err)
	}
	run("rpm", append([]string{"--install", "--justdb", "--nodeps", "--noscripts", "--ignorearch"}, built...)...)
	db, err := os.ReadFile(filepath.Join(dir, "db", "rpmdb.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	return string(db)
}

func TestRPM(t *testing.T) {
	need(t, "rpmbuild")
	l := startLayers(t, Options{Workers: 1})
	db := rpmDatabase(t)
	layer := gzipped(t, tarball(t, regular("usr/lib/sysimage/rpm/rpmdb.sqlite", db)))
	got, err := l.ReadLayer(t.Context(), descriptor(typeGzip, layer), bytes.NewReader(layer), gate.Look{})
	if err != nil || len(got.Gaps) > 0 || len(got.Files) != 1 {
		t.Fatalf("inventory %+v, %v", got, err)
	}
	packages := got.Files[0].Packages
	slices.SortFunc(packages, func(a, b gate.Package) int { return cmp.Compare(a.Name, b.Name) })
	if diff := gocmp.Diff(rpmPackages, packages); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
}

// TestDigestsOfRPMs has databases of rpms with MD5 and with SHA-256, and files without content at their end.
func TestDigestsOfRPMs(t *testing.T) {
	for _, tt := range []struct {
		database, file string
		want           int
	}{
		{"centos5-plain/Packages", "/bin/bash", 2 * md5.Size},
		{"centos7-plain/Packages", "/usr/bin/bash", 2 * sha256.Size},
		{"fedora35/rpmdb.sqlite", "/usr/bin/bash", 2 * sha256.Size},
		{"sle15-bci/Packages.db", "/usr/bin/bash", 2 * sha256.Size},
		{"fedora35/rpmdb.sqlite", "/usr/bin/sh", 0},
	} {
		t.Run(tt.database+tt.file, func(t *testing.T) {
			digest, found := "", 0
			_, err := readRPM(t.Context(), t.TempDir(), libraryDatabase(t, tt.database), func(_ string, files []fileDigest) {
				for _, f := range files {
					if f.path == tt.file {
						digest, found = f.digest, found+1
					}
				}
			})
			if err != nil || found == 0 || len(digest) != tt.want {
				t.Errorf("found %d times, digest %q, %v, want %d digits", found, digest, err, tt.want)
			}
		})
	}
}

// libraryDatabase returns a database from the test data of the library that reads them.
func libraryDatabase(t testing.TB, file string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/erikvarga/go-rpmdb").Output()
	if err != nil {
		t.Fatal(err)
	}
	db, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "pkg", "testdata", filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestDamagedDatabaseIsAGapAndNotAShorterList(t *testing.T) {
	l := startLayers(t, Options{Workers: 2})
	readConfined := func(t *testing.T, name string, db []byte) gate.LayerInventory {
		layer := tarball(t, regular(name, string(db)))
		got, err := l.ReadLayer(t.Context(), descriptor(typeTar, layer), bytes.NewReader(layer), gate.Look{})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	t.Run("sqlite, page by page", func(t *testing.T) {
		const page, packages = 4096, 129
		db := libraryDatabase(t, "cbl-mariner-2.0/rpmdb.sqlite")
		for at := page; at+page <= len(db); at += len(db) / page / 40 * page {
			damaged := bytes.Clone(db)
			copy(damaged[at:], bytes.Repeat([]byte{0xff}, page))
			got := readConfined(t, "var/lib/rpm/rpmdb.sqlite", damaged)
			if len(got.Gaps) == 0 && (len(got.Files) != 1 || len(got.Files[0].Packages) != packages) {
				t.Errorf("page at %d: no gap, and not %d packages", at, packages)
			}
		}
	})
	t.Run("ndb", func(t *testing.T) {
		db := libraryDatabase(t, "sle15-bci/Packages.db")
		copy(db[32+16*7:], "Nope") // the mark of the eighth slot after the header
		got := readConfined(t, "var/lib/rpm/Packages.db", db)
		if kinds := gapKinds(got.Gaps); !slices.Equal(kinds, []gate.GapKind{gate.GapUnreadablePackage}) {
			t.Errorf("gaps %v, want one of kind %s", got.Gaps, gate.GapUnreadablePackage)
		}
	})
}

// TestDatabasesOfDistributions reads what rpm of several distributions wrote, in every format, from the test data of the library
// that reads them.
func TestDatabasesOfDistributions(t *testing.T) {
	for _, tt := range []struct {
		file     string // in the test data
		path     string
		packages int
		want     gate.Package // among them
	}{
		{
			"centos7-plain/Packages", "var/lib/rpm/Packages", 144,
			gate.Package{Type: "rpm", Name: "bind-license", Version: "32:9.9.4-61.el7_5.1", Arch: "noarch", Source: "bind", SourceVersion: "32:9.9.4-61.el7_5.1"},
		},
		{
			"centos8-modularitylabel/Packages", "usr/share/rpm/Packages", 517,
			gate.Package{
				Type: "rpm", Name: "npm", Version: "1:6.14.4-1.10.21.0.3.module_el8.2.0+391+8da3adc6", Arch: "x86_64", Source: "nodejs",
				SourceVersion: "1:10.21.0-3.module_el8.2.0+391+8da3adc6", Modularity: "nodejs:10:8020020200707141642:6a468ee4",
			},
		},
		{"sle15-bci/Packages.db", "usr/lib/sysimage/rpm/Packages.db", 35, gate.Package{Type: "rpm", Name: "bash", Version: "4.4-19.6.1", Arch: "x86_64"}},
		{"fedora35/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite", 137, gate.Package{Type: "rpm", Name: "bash", Version: "5.1.8-2.fc35", Arch: "x86_64"}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			got := readTar(t, regular(tt.path, string(libraryDatabase(t, tt.file))))
			if len(got.Gaps) > 0 || len(got.Files) != 1 {
				t.Fatalf("gaps %v", got.Gaps)
			}
			if n := len(got.Files[0].Packages); n != tt.packages {
				t.Errorf("%d packages, want %d", n, tt.packages)
			}
			i := slices.IndexFunc(got.Files[0].Packages, func(p gate.Package) bool { return p.Name == tt.want.Name })
			if i < 0 {
				t.Fatalf("no package %s", tt.want.Name)
			}
			p := got.Files[0].Packages[i]
			p.Licenses = nil
			if diff := gocmp.Diff(tt.want, p); diff != "" {
				t.Errorf("package (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSplitSourceRPM(t *testing.T) {
	for _, tt := range []struct {
		fileName, name, version string
		ok                      bool
	}{
		{"bash-5.2.26-4.fc41.src.rpm", "bash", "5.2.26-4.fc41", true},
		{"java-1.8.0-openjdk-1.8.0.402.b06-1.el9.src.rpm", "java-1.8.0-openjdk", "1.8.0.402.b06-1.el9", true},
		{"a-1-2.nosrc.rpm", "a", "1-2", true},
		{"a-1.src.rpm", "", "", false},
		{"-1-2.src.rpm", "", "", false},
		{"rpm", "", "", false},
		{".rpm", "", "", false},
		{"", "", "", false},
	} {
		t.Run(tt.fileName, func(t *testing.T) {
			name, version, ok := splitSourceRPM(tt.fileName)
			if name != tt.name || version != tt.version || ok != tt.ok {
				t.Errorf("%q %q %t, want %q %q %t", name, version, ok, tt.name, tt.version, tt.ok)
			}
		})
	}
}
