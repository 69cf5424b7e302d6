package advisories

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/scan"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// today is the time of these tests.
var today = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func atToday() time.Time { return today }

// checkAsReader checks a database as cmd does, by opening it as the scanner will.
func checkAsReader(ctx context.Context, dir string) (gate.Snapshot, error) {
	a, err := scan.OpenAdvisories(ctx, dir, 0, atToday)
	if err != nil {
		return gate.Snapshot{}, err
	}
	return a.Snapshot(), a.Close()
}

func newTestFolder(t *testing.T) *Folder {
	t.Helper()
	return NewFolder(filepath.Join(t.TempDir(), "advisories"), checkAsReader, atToday)
}

// database returns the two files of a database built so long before today, which names one vulnerability.
func database(t *testing.T, age time.Duration, id string) (db, metadata []byte) {
	t.Helper()
	dir := t.TempDir()
	err := ocitest.WriteAdvisories(dir, today.Add(-age), []ocitest.Advisory{
		{Bucket: "npm::GitHub Security Advisory npm", Package: "lodash", ID: id, Vulnerable: []string{"<1.0.0"}, Source: "ghsa", Severity: "high"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return readTest(t, filepath.Join(dir, databaseName)), readTest(t, filepath.Join(dir, metadataName))
}

func readTest(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func writeTest(t *testing.T, path string, content []byte) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

// entry is one entry of a tar archive.
type entry struct {
	tar.Header
	content []byte
}

func file(name string, content []byte) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: today.Add(-time.Hour)}, content}
}

func pack(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipped(t *testing.T, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// packed returns a database as publishers pack it.
func packed(t *testing.T, age time.Duration, id string) []byte {
	t.Helper()
	db, metadata := database(t, age, id)
	return zipped(t, pack(t, file(databaseName, db), file(metadataName, metadata)))
}

// source is a registry that holds databases, and how it is asked.
type source struct {
	*ocitest.Registry
	client *upstream.Registries
	ref    oci.Reference
}

func newSource(t *testing.T) *source {
	t.Helper()
	r, err := ocitest.StartRegistry(ocitest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	client, err := upstream.New([]upstream.Config{{Host: "registry.test", URL: r.URL(), UnsafePrivateAddresses: true, Allow: []string{"trivy-db"}}}, upstream.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	ref, err := ParseSource("registry.test/trivy-db:2")
	if err != nil {
		t.Fatal(err)
	}
	return &source{r, client, ref}
}

// publish makes a layer what the tag leads to.
func (s *source) publish(t *testing.T, layer []byte) oci.Digest {
	t.Helper()
	desc, err := s.PushImage("trivy-db", "2", artifact(layer))
	if err != nil {
		t.Fatal(err)
	}
	return desc.Digest
}

func artifact(layer []byte) ocitest.Image {
	return ocitest.Image{
		Layers: []ocitest.LayerSpec{{Blob: layer, MediaType: layerMediaType}}, ConfigBlob: []byte("{}"),
		ConfigMediaType: "application/vnd.aquasec.trivy.config.v1+json",
	}
}

// inUse returns the names of the generations and which the links lead to, having checked that nothing else is left.
func inUse(t *testing.T, f *Folder) Status {
	t.Helper()
	s, err := f.Status()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(f.Path())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	kept := []string{f.target(currentName), f.target(previousName)}
	for _, e := range entries {
		switch name := e.Name(); {
		case slices.Contains([]string{currentName, previousName, statusName, rolledBackName, lockName, overlayName}, name):
		case strings.HasPrefix(name, generationPrefix) && slices.Contains(kept, name):
		default:
			t.Errorf("%s was left behind", name)
		}
	}
	return s
}

func TestRollback(t *testing.T) {
	s, f := newSource(t), newTestFolder(t)
	if _, err := f.Rollback(t.Context()); !errors.Is(err, ErrNoPrevious) {
		t.Errorf("with nothing: got %v", err)
	}
	first := s.publish(t, packed(t, 3*time.Hour, "CVE-2026-0001"))
	if _, err := f.Update(t.Context(), s.client, s.ref); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Rollback(t.Context()); !errors.Is(err, ErrNoPrevious) {
		t.Errorf("with one: got %v", err)
	}
	second := s.publish(t, packed(t, 2*time.Hour, "CVE-2026-0002"))
	if _, err := f.Update(t.Context(), s.client, s.ref); err != nil {
		t.Fatal(err)
	}
	if o, err := f.Rollback(t.Context()); err != nil || o.Digest != first {
		t.Errorf("with two: got %+v, %v", o, err)
	}
	if got := inUse(t, f); got.InUse.Digest != first || got.Previous.Digest != second {
		t.Errorf("got %+v", got)
	}
	if changed, err := f.Update(t.Context(), s.client, s.ref); changed || err != nil {
		t.Errorf("what was rolled back from comes again: %t, %v", changed, err)
	}
	third := s.publish(t, packed(t, time.Hour, "CVE-2026-0003"))
	if changed, err := f.Update(t.Context(), s.client, s.ref); !changed || err != nil {
		t.Errorf("the next one: got %t, %v", changed, err)
	}
	if got := inUse(t, f); got.InUse.Digest != third || got.Previous.Digest != first {
		t.Errorf("got %+v", got)
	}
	writeTest(t, filepath.Join(f.Path(), previousName, metadataName), []byte("{"))
	if _, err := f.Rollback(t.Context()); err == nil {
		t.Error("a database that cannot be used is in use")
	}
	if got := inUse(t, f).InUse.Digest; got != third {
		t.Errorf("in use is %s", got)
	}
}

func TestRecover(t *testing.T) {
	s, f := newSource(t), newTestFolder(t)
	if err := f.Recover(t.Context()); !errors.Is(err, ErrNoPrevious) {
		t.Errorf("with nothing: got %v", err)
	}
	first := s.publish(t, packed(t, 2*time.Hour, "CVE-2026-0001"))
	if _, err := f.Update(t.Context(), s.client, s.ref); err != nil {
		t.Fatal(err)
	}
	second := s.publish(t, packed(t, time.Hour, "CVE-2026-0002"))
	if _, err := f.Update(t.Context(), s.client, s.ref); err != nil {
		t.Fatal(err)
	}
	if err := f.Recover(t.Context()); err != nil || inUse(t, f).InUse.Digest != second {
		t.Errorf("of one that can be read: got %v, in use is %+v", err, inUse(t, f).InUse)
	}
	spoil := func() { writeTest(t, filepath.Join(f.Path(), currentName, databaseName), []byte("gone bad")) }
	spoil()
	if err := f.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := inUse(t, f); got.InUse.Digest != first || got.Previous != nil {
		t.Errorf("with one before: got %+v", got)
	}
	if changed, err := f.Update(t.Context(), s.client, s.ref); !changed || err != nil || inUse(t, f).InUse.Digest != second {
		t.Errorf("what had gone bad does not come again: %t, %v", changed, err)
	}
	spoil()
	writeTest(t, filepath.Join(f.Path(), previousName, databaseName), []byte("gone bad"))
	if err := f.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := inUse(t, f); got.InUse != nil || got.Previous != nil {
		t.Errorf("with none before: got %+v", got)
	}
}

func TestOneChangeAtATime(t *testing.T) {
	f := newTestFolder(t)
	unlock, err := f.lock()
	if err != nil {
		t.Fatal(err)
	}
	s := newSource(t)
	s.publish(t, packed(t, time.Hour, "CVE-2026-0001"))
	if _, err := f.Update(t.Context(), s.client, s.ref); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
	if got := inUse(t, f); got.Failure != "" {
		t.Errorf("it counts as a failure: %+v", got)
	}
	unlock()
	if changed, err := f.Update(t.Context(), s.client, s.ref); !changed || err != nil {
		t.Errorf("afterwards: got %t, %v", changed, err)
	}
}

func TestWhatADeadProcessLeftIsRemoved(t *testing.T) {
	s, f := newSource(t), newTestFolder(t)
	writeTest(t, filepath.Join(f.Path(), incomingPrefix+"123", databaseName), []byte("half"))
	writeTest(t, filepath.Join(f.Path(), generationPrefix+"123", databaseName), []byte("never used"))
	if err := os.Symlink(generationPrefix+"123", filepath.Join(f.Path(), incomingPrefix+currentName)); err != nil {
		t.Fatal(err)
	}
	s.publish(t, packed(t, time.Hour, "CVE-2026-0001"))
	if _, err := f.Update(t.Context(), s.client, s.ref); err != nil {
		t.Fatal(err)
	}
	inUse(t, f)
}

func TestRecordsOfTheOperatorStay(t *testing.T) {
	s, f := newSource(t), newTestFolder(t)
	writeTest(t, filepath.Join(f.Path(), overlayName, "ours.json"), []byte(`{"id": "OURS-1", "modified": "2026-05-01T00:00:00Z", "affected": [{"package": {"ecosystem": "npm", "name": "left-pad"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}]}]}`))
	s.publish(t, packed(t, 2*time.Hour, "CVE-2026-0001"))
	if _, err := f.Update(t.Context(), s.client, s.ref); err != nil {
		t.Fatal(err)
	}
	s.publish(t, packed(t, time.Hour, "CVE-2026-0002"))
	if _, err := f.Update(t.Context(), s.client, s.ref); err != nil {
		t.Fatal(err)
	}
	a, err := scan.OpenAdvisories(t.Context(), f.Path(), 0, atToday)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	findings, _, err := a.Match(t.Context(), a.Snapshot(), gate.Inventory{Packages: []gate.Found{
		{Package: gate.Package{Type: "npm", Name: "left-pad", Version: "1.0.0"}, Path: "a"}, {Package: gate.Package{Type: "npm", Name: "lodash", Version: "0.9.0"}, Path: "b"},
	}})
	if err != nil || len(findings) != 2 || findings[0].ID != "CVE-2026-0002" || findings[1].ID != "OURS-1" {
		t.Errorf("got %+v, %v", findings, err)
	}
}

// A reader that follows the link while databases come and go always finds a whole one, and no error.
func TestSwapsUnderLoad(t *testing.T) {
	s, f := newSource(t), newTestFolder(t)
	s.publish(t, packed(t, 100*time.Hour, "CVE-2026-0000"))
	if _, err := f.Update(t.Context(), s.client, s.ref); err != nil {
		t.Fatal(err)
	}
	a, err := scan.OpenAdvisories(t.Context(), f.Path(), 0, atToday)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	lodash := gate.Inventory{Packages: []gate.Found{{Package: gate.Package{Type: "npm", Name: "lodash", Version: "0.9.0"}, Path: "b"}}}
	var stop atomic.Bool
	done := make(chan int)
	go func() {
		matched := 0
		defer func() { done <- matched }()
		for !stop.Load() {
			findings, _, err := a.Match(t.Context(), a.Snapshot(), lodash)
			if errors.Is(err, scan.ErrSnapshotReplaced) {
				continue
			}
			if err != nil || len(findings) != 1 {
				t.Errorf("got %v, %v", findings, err)
				return
			}
			matched++
		}
	}()
	for i := range 10 {
		s.publish(t, packed(t, time.Duration(90-i)*time.Hour, "CVE-2026-000"+string(rune('1'+i%9))))
		if changed, err := f.Update(t.Context(), s.client, s.ref); err != nil || !changed {
			t.Fatalf("got %t, %v", changed, err)
		}
		if changed, err := a.Reload(t.Context()); err != nil || !changed {
			t.Fatalf("reloading: got %t, %v", changed, err)
		}
	}
	stop.Store(true)
	if matched := <-done; matched == 0 {
		t.Error("nothing was matched meanwhile")
	}
}
