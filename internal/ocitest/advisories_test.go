package ocitest_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/metadata"
	"github.com/aquasecurity/trivy-db/pkg/types"
	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

var (
	published = time.Date(2019, 7, 26, 0, 15, 11, 0, time.UTC)
	built     = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

const (
	npmBucket = "npm::GitHub Security Advisory npm"
	baseOS    = "cpe:/o:redhat:enterprise_linux:9::baseos"
	appStream = "cpe:/a:redhat:enterprise_linux:9::appstream"
)

// same is one set of facts, told to both writers.
var same = []ocitest.Advisory{
	{
		Bucket: npmBucket, Package: "lodash", ID: "CVE-2019-10744", Source: "ghsa", Severity: "critical",
		Ratings: map[string]string{"nvd": "high"}, Vulnerable: []string{"<4.17.12"}, Patched: []string{"4.17.12"},
		Title: "Prototype Pollution in lodash", Published: published,
	},
	{Bucket: "debian 12", Package: "tar", ID: "CVE-2005-2541", Source: "debian", RowSeverity: "low", Status: 2},
	{Bucket: "debian 12", Package: "zlib", ID: "CVE-2023-45853", Source: "debian", Status: 5},
	{Bucket: "alpine 3.19", Package: "openssl", ID: "CVE-2024-0727", Source: "alpine", Fixed: "3.1.4-r5"},
	{Bucket: "rubygems::Ruby Advisory Database", Package: "rack", ID: "CVE-2022-44571", Source: "ruby-advisory-db", Patched: []string{"~> 2.0.9, >= 2.0.9.2"}, Unaffected: []string{"< 2.0.0"}},
	{Bucket: "rocky 9", Package: "openssl", ID: "CVE-2023-0286", Source: "rocky", Fixed: "1:3.0.1-47.el9_1", Arches: []string{"x86_64"}},
	{Bucket: "rocky 9", Package: "openssl", ID: "CVE-2023-0286", Source: "rocky", Fixed: "1:3.0.1-48.el9_1", Arches: []string{"aarch64"}},
	{Bucket: "Red Hat", Package: "openssl", ID: "CVE-2023-0286", Erratum: "RHSA-2023:0946", Source: "redhat-csaf-vex", RowSeverity: "high", Fixed: "1:3.0.1-47.el9_1", CPEs: []string{baseOS, appStream}, Builds: []string{"ubi9-container-9.4-1-x86_64"}},
	{Bucket: "Red Hat", Package: "openssl", ID: "CVE-2024-41996", Source: "redhat-csaf-vex", RowSeverity: "low", Status: 2, CPEs: []string{baseOS}, Repositories: []string{"rhel-9-for-x86_64-baseos-rpms"}},
}

// writeWithTrivyDB tells the same facts to trivy-db's own writer.
func writeWithTrivyDB(t *testing.T, dir string) {
	t.Helper()
	if err := db.Init(dir); err != nil {
		t.Fatal(err)
	}
	dbc := db.Config{}
	err := dbc.BatchUpdate(func(tx *bolt.Tx) error {
		put := func(bucket, pkg, key string, row any) {
			if err := dbc.PutAdvisory(tx, []string{bucket, pkg}, key, row); err != nil {
				t.Fatal(err)
			}
		}
		put(npmBucket, "lodash", "CVE-2019-10744", &types.Advisory{VulnerableVersions: []string{"<4.17.12"}, PatchedVersions: []string{"4.17.12"}})
		put("debian 12", "tar", "CVE-2005-2541", &types.Advisory{Severity: types.SeverityLow, Status: types.StatusAffected})
		put("debian 12", "zlib", "CVE-2023-45853", &types.Advisory{Status: types.StatusWillNotFix})
		put("alpine 3.19", "openssl", "CVE-2024-0727", &types.Advisory{FixedVersion: "3.1.4-r5"})
		put("rubygems::Ruby Advisory Database", "rack", "CVE-2022-44571", &types.Advisory{PatchedVersions: []string{"~> 2.0.9, >= 2.0.9.2"}, UnaffectedVersions: []string{"< 2.0.0"}})
		put("rocky 9", "openssl", "CVE-2023-0286", types.Advisories{FixedVersion: "1:3.0.1-48.el9_1", Entries: []types.Advisory{
			{FixedVersion: "1:3.0.1-47.el9_1", Arches: []string{"x86_64"}}, {FixedVersion: "1:3.0.1-48.el9_1", Arches: []string{"aarch64"}},
		}})
		// The form of Red Hat's rows is private to the package that writes them: this is what it writes.
		put("Red Hat", "openssl", "RHSA-2023:0946", json.RawMessage(
			`{"Entries":[{"FixedVersion":"1:3.0.1-47.el9_1","Cves":[{"ID":"CVE-2023-0286","Severity":3}],"Affected":[0,1]}]}`))
		put("Red Hat", "openssl", "CVE-2024-41996", json.RawMessage(`{"Entries":[{"Cves":[{"Severity":1}],"Affected":[0],"Status":2}]}`))
		for bucket, source := range map[string]types.SourceID{
			npmBucket: "ghsa", "debian 12": "debian", "alpine 3.19": "alpine", "rocky 9": "rocky", "Red Hat": "redhat-csaf-vex",
			"rubygems::Ruby Advisory Database": "ruby-advisory-db",
		} {
			name := bucket
			switch bucket {
			case npmBucket:
				name = "GitHub Security Advisory npm"
			case "rubygems::Ruby Advisory Database":
				name = "Ruby Advisory Database"
			}
			if err := dbc.PutDataSource(tx, bucket, types.DataSource{ID: source, Name: name}); err != nil {
				return err
			}
		}
		err := errors.Join(
			dbc.PutRedHatRepositories(tx, "rhel-9-for-x86_64-baseos-rpms", []int{0}), dbc.PutRedHatNVRs(tx, "ubi9-container-9.4-1-x86_64", []int{0, 1}),
		)
		if err != nil {
			return err
		}
		for i, cpe := range []string{baseOS, appStream} {
			if err := dbc.PutRedHatCPEs(tx, i, cpe); err != nil {
				return err
			}
		}
		lodash := types.Vulnerability{
			Title: "Prototype Pollution in lodash", PublishedDate: &published,
			VendorSeverity: types.VendorSeverity{"ghsa": types.SeverityCritical, "nvd": types.SeverityHigh},
		}
		// Readers go by VendorSeverity, but the format's owner still writes the field they are told not to use.
		if err := json.Unmarshal([]byte(`{"Severity":"CRITICAL"}`), &lodash); err != nil {
			return err
		}
		return dbc.PutVulnerability(tx, "CVE-2019-10744", lodash)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := metadata.NewClient(dir).Update(metadata.Metadata{Version: db.SchemaVersion, UpdatedAt: built, NextUpdate: built.Add(24 * time.Hour), DownloadedAt: built}); err != nil {
		t.Fatal(err)
	}
}

// told is everything trivy-db's own reader finds in a file.
type told struct {
	Metadata metadata.Metadata
	Rows     map[string][]types.Advisory
	RedHat   map[string]any
	Rocky    types.Advisories
	Lodash   types.Vulnerability
	CPEs     []string
	// OfRepository and OfBuild are the products of one each.
	OfRepository, OfBuild []int
}

func readWithTrivyDB(t *testing.T, dir string) told {
	t.Helper()
	if err := db.Init(dir); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	read := told{Rows: map[string][]types.Advisory{}, RedHat: map[string]any{}}
	var err error
	read.Metadata, err = metadata.NewClient(dir).Get()
	check(err)
	dbc := db.Config{}
	for _, at := range [][2]string{{npmBucket, "lodash"}, {"npm::", "lodash"}, {"debian 12", "tar"}, {"debian 12", "zlib"}, {"alpine 3.19", "openssl"}, {"rubygems::", "rack"}} {
		rows, err := dbc.GetAdvisories(at[0], at[1])
		check(err)
		if len(rows) == 0 {
			t.Errorf("trivy-db finds no rows in %q of %q", at[1], at[0])
		}
		read.Rows[at[0]+" "+at[1]] = rows
	}
	read.Lodash, err = dbc.GetVulnerability("CVE-2019-10744")
	check(err)
	values, err := dbc.ForEachAdvisory([]string{"rocky 9"}, "openssl")
	check(err)
	check(json.Unmarshal(values["CVE-2023-0286"].Content, &read.Rocky))
	values, err = dbc.ForEachAdvisory([]string{"Red Hat"}, "openssl")
	check(err)
	for id, v := range values {
		var row any
		check(json.Unmarshal(v.Content, &row))
		read.RedHat[id] = row
	}
	read.OfRepository, err = dbc.RedHatRepoToCPEs("rhel-9-for-x86_64-baseos-rpms")
	check(err)
	read.OfBuild, err = dbc.RedHatNVRToCPEs("ubi9-container-9.4-1-x86_64")
	check(err)
	check(dbc.Connection().View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("Red Hat CPE")).Bucket([]byte("cpe")).ForEach(func(k, v []byte) error {
			read.CPEs = append(read.CPEs, string(k)+"="+string(v))
			return nil
		})
	}))
	return read
}

func TestWriteAdvisoriesIsReadByTrivyDBAsItsOwn(t *testing.T) {
	ours, theirs := t.TempDir(), t.TempDir()
	if err := ocitest.WriteAdvisories(ours, built, same); err != nil {
		t.Fatal(err)
	}
	writeWithTrivyDB(t, theirs)
	got, want := readWithTrivyDB(t, ours), readWithTrivyDB(t, theirs)
	if len(want.RedHat) != 2 || len(want.OfBuild) != 2 || len(want.Rocky.Entries) != 2 || want.Lodash.Title == "" {
		t.Fatalf("the comparison is hollow: %+v", want)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("trivy-db reads from what we wrote (+) something else than from what it wrote (-):\n%s", diff)
	}
}

func TestWriteAdvisoriesReplacesWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	for _, advisories := range [][]ocitest.Advisory{same, nil} {
		if err := ocitest.WriteAdvisories(dir, built, advisories); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff([]string{"metadata.json", "trivy.db"}, got); diff != "" {
		t.Errorf("files left behind (-want +got):\n%s", diff)
	}
	file, err := bolt.Open(filepath.Join(dir, "trivy.db"), 0, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	err = file.View(func(tx *bolt.Tx) error {
		if tx.Bucket([]byte("debian 12")) != nil {
			t.Error("a row of the file before is still there")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWriteAdvisoriesRefusesAnUnknownSeverity(t *testing.T) {
	for _, a := range []ocitest.Advisory{{Severity: "HIGH"}, {RowSeverity: "severe"}, {Ratings: map[string]string{"nvd": "x"}}} {
		a.Bucket, a.Package, a.ID = "debian 12", "tar", "CVE-1"
		if err := ocitest.WriteAdvisories(t.TempDir(), built, []ocitest.Advisory{a}); err == nil {
			t.Errorf("%+v is written", a)
		}
	}
}
