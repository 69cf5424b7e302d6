package scan

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	rpmdb "github.com/erikvarga/go-rpmdb/pkg"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// owned is whose files readRPM tells of, each with its digest.
type owned struct {
	Vendor string
	Files  []string
}

func stated(files []fileDigest) []string {
	var texts []string
	for _, f := range files {
		texts = append(texts, f.path+" "+f.digest)
	}
	return texts
}

// TestAgreesWithTheRPMLibrary compares what is read of each database in the test data of a library that reads them with what it reads.
func TestAgreesWithTheRPMLibrary(t *testing.T) {
	for _, file := range []string{
		"cbl-mariner-2.0/rpmdb.sqlite", "centos5-plain/Packages", "centos6-devtools/Packages", "centos6-many/Packages", "centos6-plain/Packages",
		"centos7-devtools/Packages", "centos7-httpd24/Packages", "centos7-many/Packages", "centos7-plain/Packages", "centos7-python35/Packages",
		"centos8-modularitylabel/Packages", "fedora35-plus-mongo/rpmdb.sqlite", "fedora35/rpmdb.sqlite", "libuuid/Packages", "sle15-bci/Packages.db",
		"ubi8-s390x/Packages",
	} {
		t.Run(file, func(t *testing.T) {
			data := libraryDatabase(t, file)
			want, wantOwned := byLibrary(t, data)
			var gotOwned []owned
			got, err := readRPM(t.Context(), t.TempDir(), data, func(vendor string, files []fileDigest) { gotOwned = append(gotOwned, owned{vendor, stated(files)}) })
			if err != nil {
				t.Fatal(err)
			}
			slices.SortStableFunc(got, byName)
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("packages (-want +got):\n%s", diff)
			}
			if diff := gocmp.Diff(wantOwned, sortedOwned(gotOwned)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func byName(a, b gate.Package) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Arch, b.Arch))
}

// sortedOwned returns all without those of no file.
func sortedOwned(all []owned) []owned {
	all = slices.DeleteFunc(all, func(o owned) bool { return len(o.Files) == 0 })
	slices.SortFunc(all, func(a, b owned) int { return cmp.Or(cmp.Compare(a.Vendor, b.Vendor), slices.Compare(a.Files, b.Files)) })
	return all
}

func byLibrary(t *testing.T, data []byte) ([]gate.Package, []owned) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "rpmdb")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := rpmdb.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.ListPackages()
	if err != nil {
		t.Fatal(err)
	}
	var packages []gate.Package
	var files []owned
	for _, row := range rows {
		if row.Name == "gpg-pubkey" {
			continue
		}
		p := gate.Package{Type: "rpm", Name: row.Name, Version: row.Version + "-" + row.Release, Arch: row.Arch, Modularity: row.Modularitylabel}
		epoch := ""
		if n := row.EpochNum(); n > 0 {
			epoch = fmt.Sprintf("%d:", n)
		}
		p.Version = epoch + p.Version
		if row.License != "" {
			p.Licenses = []string{row.License}
		}
		if source, version, ok := splitSourceRPM(row.SourceRpm); ok {
			setSource(&p, source, epoch+version)
		}
		packages = append(packages, p)
		installed, err := row.InstalledFileNames()
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, owned{row.Vendor, stated(withDigests(installed, row.FileDigests))})
	}
	slices.SortStableFunc(packages, byName)
	return packages, sortedOwned(files)
}
