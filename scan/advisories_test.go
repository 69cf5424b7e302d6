package scan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/types"
	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

var _ gate.Advisories = (*Advisories)(nil)

func advisoryNow() time.Time { return advisoryTime.Add(time.Minute) }

// writeTestAdvisories writes a database of rows, built at advisoryTime, and OSV records by file name, into dir.
func writeTestAdvisories(t testing.TB, dir string, rows []ocitest.Advisory, records map[string]string) {
	t.Helper()
	if err := ocitest.WriteAdvisories(dir, advisoryTime, rows); err != nil {
		t.Fatal(err)
	}
	for name, text := range records {
		writeTestFile(t, filepath.Join(dir, overlayName, name), []byte(text))
	}
}

func writeTestFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func readTestFile(t testing.TB, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestAdvisoriesWithoutDataAreAGap(t *testing.T) {
	a, err := OpenAdvisories(t.Context(), "", time.Hour, advisoryNow)
	if err != nil {
		t.Fatal(err)
	}
	if got := a.Snapshot(); got != (gate.Snapshot{}) {
		t.Errorf("snapshot %+v of nothing", got)
	}
	for _, inv := range []gate.Inventory{{}, inventory(gate.OS{}, "npm/lodash@4.17.4")} {
		if diff := cmp.Diff([]string{"no-advisories"}, brief(matchAll(t, a, inv))); diff != "" {
			t.Errorf("findings (-want +got):\n%s", diff)
		}
	}
	if _, _, err := a.Match(t.Context(), gate.Snapshot{ID: "sha256:other"}, gate.Inventory{}); !errors.Is(err, ErrSnapshotReplaced) {
		t.Errorf("matching by other data: %v", err)
	}
	if changed, err := a.Reload(t.Context()); changed || err != nil {
		t.Errorf("reloading nothing: %t, %v", changed, err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestSnapshotSaysWhatTheDataIsAndHowLongItCounts(t *testing.T) {
	dir := t.TempDir()
	writeTestAdvisories(t, dir, realRows, nil)
	digestOf := func(path string, maxAge time.Duration) gate.Snapshot {
		a, err := OpenAdvisories(t.Context(), path, maxAge, advisoryNow)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = a.Close() }()
		return a.Snapshot()
	}
	got := digestOf(dir, time.Hour)
	want := gate.Snapshot{ID: got.ID, UpdatedAt: advisoryTime, Until: advisoryTime.Add(time.Hour)}
	if diff := cmp.Diff(want, got); diff != "" || len(got.ID) != len("sha256:")+64 {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	if got := digestOf(filepath.Join(dir, databaseName), 0); got.ID != want.ID || !got.Until.IsZero() || !got.UpdatedAt.Equal(advisoryTime) {
		t.Errorf("the file's own path without an age limit gives %+v", got)
	}
	record := `{"id":"X-1","affected":[{"package":{"ecosystem":"npm","name":"x"},"versions":["1.0.0"]}]}`
	writeTestFile(t, filepath.Join(dir, overlayName, "a.json"), []byte(record))
	one := digestOf(dir, 0)
	writeTestFile(t, filepath.Join(dir, overlayName, "a.json"), []byte(record+" "))
	other := digestOf(dir, 0)
	if one.ID == want.ID || other.ID == one.ID {
		t.Errorf("OSV records are not part of the identity: %s, %s, %s", want.ID, one.ID, other.ID)
	}
	if err := os.Remove(filepath.Join(dir, metadataName)); err != nil {
		t.Fatal(err)
	}
	written := advisoryTime.Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, databaseName), written, written); err != nil {
		t.Fatal(err)
	}
	if got := digestOf(dir, 0); !got.UpdatedAt.Equal(written) || got.UpdatedAt.Location() != time.UTC {
		t.Errorf("without metadata it was updated at %s, want the file's %s in UTC", got.UpdatedAt, written)
	}
}

func TestOpenAdvisoriesRefuses(t *testing.T) {
	whole := func(t *testing.T) []byte {
		dir := t.TempDir()
		writeTestAdvisories(t, dir, realRows, nil)
		return readTestFile(t, filepath.Join(dir, databaseName))
	}
	inBolt := func(t *testing.T, fill func(tx *bolt.Tx) error) []byte {
		path := filepath.Join(t.TempDir(), "x.db")
		b, err := bolt.Open(path, 0o644, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(b.Update(fill), b.Close()); err != nil {
			t.Fatal(err)
		}
		return readTestFile(t, path)
	}
	for _, test := range []struct {
		name  string
		files map[string]func(t *testing.T) []byte
	}{
		{"an empty file", map[string]func(*testing.T) []byte{databaseName: func(*testing.T) []byte { return nil }}},
		{"garbage", map[string]func(*testing.T) []byte{databaseName: func(*testing.T) []byte { return bytes.Repeat([]byte("trivy"), 10_000) }}},
		{"a file cut in half", map[string]func(*testing.T) []byte{databaseName: func(t *testing.T) []byte { w := whole(t); return w[:len(w)/2] }}},
		{"a file cut by a byte", map[string]func(*testing.T) []byte{databaseName: func(t *testing.T) []byte {
			return inBolt(t, func(tx *bolt.Tx) error {
				for i := range 4000 {
					b, err := tx.CreateBucketIfNotExists([]byte(vulnerabilityBucket))
					if err != nil {
						return err
					}
					if err := b.Put(fmt.Append(nil, i), bytes.Repeat([]byte("x"), 200)); err != nil {
						return err
					}
				}
				return nil
			})[:4096*8-1]
		}}},
		{"the first root alone", map[string]func(*testing.T) []byte{databaseName: func(t *testing.T) []byte { return whole(t)[:4096] }}},
		{"a wiped root", map[string]func(*testing.T) []byte{databaseName: func(t *testing.T) []byte { w := whole(t); clear(w[4096:8192]); return w }}},
		{"a database of something else", map[string]func(*testing.T) []byte{databaseName: func(t *testing.T) []byte {
			return inBolt(t, func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("users")); return err })
		}}},
		{"a source that is none", map[string]func(*testing.T) []byte{databaseName: func(t *testing.T) []byte {
			return inBolt(t, func(tx *bolt.Tx) error {
				sources, err1 := tx.CreateBucket([]byte(dataSourceBucket))
				_, err2 := tx.CreateBucket([]byte(vulnerabilityBucket))
				_, err3 := tx.CreateBucket([]byte("debian 12"))
				if err := errors.Join(err1, err2, err3); err != nil {
					return err
				}
				return sources.Put([]byte("debian 12"), []byte("debian"))
			})
		}}},
		{"another schema", map[string]func(*testing.T) []byte{databaseName: whole, metadataName: func(*testing.T) []byte { return []byte(`{"Version":1,"UpdatedAt":"2026-01-01T00:00:00Z"}`) }}},
		{"no schema", map[string]func(*testing.T) []byte{databaseName: whole, metadataName: func(*testing.T) []byte { return []byte(`{"UpdatedAt":"2026-01-01T00:00:00Z"}`) }}},
		{"no time", map[string]func(*testing.T) []byte{databaseName: whole, metadataName: func(*testing.T) []byte { return []byte(`{"Version":2}`) }}},
		{"a time to come", map[string]func(*testing.T) []byte{databaseName: whole, metadataName: func(*testing.T) []byte { return []byte(`{"Version":2,"UpdatedAt":"2099-01-01T00:00:00Z"}`) }}},
		{"metadata that is none", map[string]func(*testing.T) []byte{databaseName: whole, metadataName: func(*testing.T) []byte { return []byte(`Version: 2`) }}},
		{"metadata without end", map[string]func(*testing.T) []byte{databaseName: whole, metadataName: func(*testing.T) []byte {
			return append([]byte(`{"Version":2,"UpdatedAt":"2026-01-01T00:00:00Z"}`), bytes.Repeat([]byte(" "), maxMetadataBytes)...)
		}}},
		{"an OSV record that is none", map[string]func(*testing.T) []byte{databaseName: whole, metadataName: func(*testing.T) []byte { return []byte(`{"Version":2,"UpdatedAt":"2026-01-01T00:00:00Z"}`) }, "osv/x.json": func(*testing.T) []byte { return []byte(`[]`) }}},
		{"a directory for a database", map[string]func(*testing.T) []byte{databaseName + "/x": func(*testing.T) []byte { return nil }}},
		{"a directory for a record", map[string]func(*testing.T) []byte{databaseName: whole, metadataName: func(*testing.T) []byte { return []byte(`{"Version":2,"UpdatedAt":"2026-01-01T00:00:00Z"}`) }, "osv/x.json/y": func(*testing.T) []byte { return nil }}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range test.files {
				writeTestFile(t, filepath.Join(dir, name), content(t))
			}
			now := advisoryNow
			if _, ok := test.files[metadataName]; !ok {
				now = func() time.Time { return time.Now().Add(time.Hour) } // the file's own time counts
			}
			a, err := OpenAdvisories(t.Context(), dir, 0, now)
			if err == nil {
				t.Errorf("opened as %+v", a.Snapshot())
			}
		})
	}
	t.Run("what is not there", func(t *testing.T) {
		if _, err := OpenAdvisories(t.Context(), t.TempDir(), 0, advisoryNow); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want that it does not exist", err)
		}
	})
	t.Run("to go on when its context ends", func(t *testing.T) {
		dir := t.TempDir()
		writeTestAdvisories(t, dir, nil, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := OpenAdvisories(ctx, dir, 0, advisoryNow); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want that the context ended", err)
		}
	})
}

func TestMatchReadsWhatTrivyDBWrites(t *testing.T) {
	dir := t.TempDir()
	if err := db.Init(dir); err != nil {
		t.Fatal(err)
	}
	dbc := db.Config{}
	err := dbc.BatchUpdate(func(tx *bolt.Tx) error {
		return errors.Join(
			dbc.PutDataSource(tx, "debian 12", types.DataSource{ID: "debian", Name: "Debian Security Tracker"}),
			dbc.PutAdvisory(tx, []string{"debian 12", "tar"}, "CVE-2005-2541", &types.Advisory{Severity: types.SeverityLow, Status: types.StatusAffected}),
			dbc.PutAdvisory(tx, []string{"rocky 9", "bind"}, "CVE-1", types.Advisories{FixedVersion: "0.0.0", Entries: []types.Advisory{{FixedVersion: "2-1", Arches: []string{"aarch64"}}}}),
			dbc.PutAdvisory(tx, []string{"npm::GHSA", "lodash"}, "CVE-2019-10744", types.Advisory{VulnerableVersions: []string{"<4.17.12"}, PatchedVersions: []string{"4.17.12"}}),
			dbc.PutVulnerability(tx, "CVE-2019-10744", types.Vulnerability{Title: "Prototype Pollution", VendorSeverity: types.VendorSeverity{"nvd": types.SeverityCritical}}),
			// Red Hat's rows lead to products by way of repositories, as they do for those who know an image's content sets.
			dbc.PutRedHatRepositories(tx, "rhel-9-for-x86_64-appstream-rpms", []int{7}),
			dbc.PutAdvisory(tx, []string{"Red Hat", "bind"}, "CVE-2", map[string]any{"Entries": []any{map[string]any{"FixedVersion": "3-1", "Affected": []int{7}, "Cves": []any{map[string]any{"Severity": 4}}}}}),
		)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	a, err := OpenAdvisories(t.Context(), dir, 0, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	for _, test := range []struct {
		inv  gate.Inventory
		want string
	}{
		{inventory(gate.OS{ID: "debian", Version: "12"}, "deb/tar@1.34+dfsg-1.2+deb12u1"), "CVE-2005-2541 low deb/tar@1.34+dfsg-1.2+deb12u1 affected"},
		{inventory(gate.OS{ID: "rocky", Version: "9.2"}, "rpm/bind@1-1"), "CVE-1 unrated rpm/bind@1-1 fixed 2-1"},
		{inventory(gate.OS{ID: "rhel", Version: "9.2"}, "rpm/bind@2-1"), "CVE-2 critical rpm/bind@2-1 fixed 3-1"},
		{inventory(gate.OS{}, "npm/lodash@4.17.4"), "CVE-2019-10744 critical npm/lodash@4.17.4 fixed 4.17.12"},
	} {
		if diff := cmp.Diff([]string{test.want}, brief(matchAll(t, a, test.inv))); diff != "" {
			t.Errorf("findings (-want +got):\n%s", diff)
		}
	}
}

func TestReloadSwapsTheData(t *testing.T) {
	dir := t.TempDir()
	writeTestAdvisories(t, dir, realRows, nil)
	a, err := OpenAdvisories(t.Context(), dir, 0, advisoryNow)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	inv := inventory(gate.OS{}, "npm/lodash@4.17.4")
	before := a.Snapshot()
	if changed, err := a.Reload(t.Context()); changed || err != nil {
		t.Errorf("reloading the same files: %t, %v", changed, err)
	}

	good := readTestFile(t, filepath.Join(dir, databaseName))
	replace := func(content []byte) {
		writeTestFile(t, filepath.Join(dir, "new"), content)
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, databaseName)); err != nil {
			t.Fatal(err)
		}
	}
	replace([]byte("nonsense"))
	if changed, err := a.Reload(t.Context()); changed || err == nil {
		t.Errorf("reloading nonsense: %t, %v", changed, err)
	}
	if got := brief(matchAll(t, a, inv)); len(got) != 2 || a.Snapshot() != before {
		t.Errorf("after a bad file: %q by %+v", got, a.Snapshot())
	}
	replace(good)
	if changed, err := a.Reload(t.Context()); changed || err != nil {
		t.Errorf("reloading a copy of the same content: %t, %v", changed, err)
	}

	writeTestAdvisories(t, dir, realRows[:1], nil)
	old := a.current.Load()
	if changed, err := a.Reload(t.Context()); !changed || err != nil {
		t.Errorf("reloading other content: %t, %v", changed, err)
	}
	if err := old.view(func(*bolt.Tx) error { return nil }); !errors.Is(err, errClosed) {
		t.Errorf("the replaced file is still open: %v", err)
	}
	if _, _, err := a.Match(t.Context(), before, inv); !errors.Is(err, ErrSnapshotReplaced) {
		t.Errorf("matching by the snapshot before: %v", err)
	}
	if got := brief(matchAll(t, a, inv)); len(got) != 1 {
		t.Errorf("after the swap: %q", got)
	}

	writeTestFile(t, filepath.Join(dir, overlayName, "a.json"), []byte(`{"id":"X-1","affected":[{"package":{"ecosystem":"npm","name":"lodash"},"versions":["4.17.4"]}]}`))
	if changed, err := a.Reload(t.Context()); !changed || err != nil {
		t.Errorf("reloading with a new record: %t, %v", changed, err)
	}
	if got := brief(matchAll(t, a, inv)); len(got) != 2 {
		t.Errorf("with a new record: %q", got)
	}

	last := a.Snapshot()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := a.Match(t.Context(), last, inv); !errors.Is(err, ErrSnapshotReplaced) {
		t.Errorf("matching after closing: %v", err)
	}
	if changed, err := a.Reload(t.Context()); changed || err != nil || a.Snapshot() != (gate.Snapshot{}) {
		t.Errorf("reloading after closing: %t, %v, %+v", changed, err, a.Snapshot())
	}
}

func TestMatchWhileTheDataIsSwapped(t *testing.T) {
	dir := t.TempDir()
	writeTestAdvisories(t, dir, realRows, nil)
	a, err := OpenAdvisories(t.Context(), dir, 0, advisoryNow)
	if err != nil {
		t.Fatal(err)
	}
	inv := inventory(gate.OS{}, "npm/lodash@4.17.4", "npm/minimist@1.2.0")
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				findings, gaps, err := a.Match(t.Context(), a.Snapshot(), inv)
				switch {
				case errors.Is(err, ErrSnapshotReplaced):
				case err != nil || len(gaps) > 0 || len(findings) != 3 && len(findings) != 2:
					t.Errorf("got %v, %v, %v", findings, gaps, err)
					return
				}
			}
		})
	}
	for i := range 20 {
		writeTestAdvisories(t, dir, realRows[i%2:], nil)
		if changed, err := a.Reload(t.Context()); i > 0 && (!changed || err != nil) {
			t.Errorf("swap %d: %t, %v", i, changed, err)
		}
	}
	close(done)
	readers.Wait()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestMatchAnswersAFileCutOffUnderItWithAnError(t *testing.T) {
	dir := t.TempDir()
	rows := realRows
	for i := range 2000 {
		rows = append(rows, ocitest.Advisory{Bucket: npmRows, Package: fmt.Sprint("mod", i), ID: "CVE-1", Source: "ghsa", Vulnerable: []string{"<1"}})
	}
	writeTestAdvisories(t, dir, rows, nil)
	a, err := OpenAdvisories(t.Context(), dir, 0, advisoryNow)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	if err := os.Truncate(filepath.Join(dir, databaseName), 8192); err != nil {
		t.Fatal(err)
	}
	findings, gaps, err := a.Match(t.Context(), a.Snapshot(), inventory(gate.OS{}, "npm/lodash@4.17.4", "npm/mod999@0.1.0"))
	if err == nil {
		t.Errorf("got %v, %v", findings, gaps)
	}
}

func TestMatchAnswersARowNobodyCanReadWithAnError(t *testing.T) {
	for _, at := range [][]string{{npmRows, "lodash"}, {vulnerabilityBucket}} {
		dir := t.TempDir()
		writeTestAdvisories(t, dir, realRows, nil)
		b, err := bolt.Open(filepath.Join(dir, databaseName), 0o644, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = b.Update(func(tx *bolt.Tx) error {
			bucket := tx.Bucket([]byte(at[0]))
			for _, name := range at[1:] {
				bucket = bucket.Bucket([]byte(name))
			}
			return bucket.Put([]byte("CVE-2019-10744"), []byte(`{"FixedVersion": 1, "Title": 1}`))
		})
		if err := errors.Join(err, b.Close()); err != nil {
			t.Fatal(err)
		}
		a, err := OpenAdvisories(t.Context(), dir, 0, advisoryNow)
		if err != nil {
			t.Fatal(err)
		}
		findings, gaps, err := a.Match(t.Context(), a.Snapshot(), inventory(gate.OS{}, "npm/lodash@4.17.4"))
		if err == nil || findings != nil || gaps != nil {
			t.Errorf("%v: got %v, %v, %v, want an error alone", at, findings, gaps, err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}
