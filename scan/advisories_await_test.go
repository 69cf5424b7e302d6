package scan

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

func TestAwaitAdvisories(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "advisories")
	a, err := AwaitAdvisories(t.Context(), dir, time.Hour, advisoryNow)
	if err != nil || a.Snapshot() != (gate.Snapshot{}) {
		t.Fatalf("with nothing there: got %+v, %v", a, err)
	}
	defer func() { _ = a.Close() }()
	if changed, err := a.Reload(t.Context()); changed || err != nil {
		t.Errorf("still with nothing there: got %t, %v", changed, err)
	}
	writeTestFile(t, filepath.Join(dir, databaseName), []byte("no database"))
	if changed, err := a.Reload(t.Context()); changed || err == nil {
		t.Errorf("with something else there: got %t, %v", changed, err)
	}
	if b, err := AwaitAdvisories(t.Context(), dir, time.Hour, advisoryNow); err == nil {
		t.Errorf("opening something else: got %+v", b.Snapshot())
	}
	if err := os.Remove(filepath.Join(dir, databaseName)); err != nil {
		t.Fatal(err)
	}
	writeTestAdvisories(t, dir, nil, nil)
	if changed, err := a.Reload(t.Context()); !changed || err != nil || a.Snapshot().ID == "" {
		t.Errorf("with data: got %t, %v, %+v", changed, err, a.Snapshot())
	}
	if err := os.Remove(filepath.Join(dir, databaseName)); err != nil {
		t.Fatal(err)
	}
	if changed, err := a.Reload(t.Context()); changed || !errors.Is(err, fs.ErrNotExist) || a.Snapshot().ID == "" {
		t.Errorf("with data gone: got %t, %v, %+v", changed, err, a.Snapshot())
	}
}

func TestTheCurrentLinkCounts(t *testing.T) {
	dir := t.TempDir()
	turn := func(name string) {
		t.Helper()
		fresh := filepath.Join(dir, "fresh")
		if err := errors.Join(os.Symlink(name, fresh), os.Rename(fresh, filepath.Join(dir, currentName))); err != nil {
			t.Fatal(err)
		}
	}
	rows := []ocitest.Advisory{{Bucket: "debian 12", Package: "bash", ID: "CVE-2026-0001", Source: "debian", Severity: "low"}}
	writeTestAdvisories(t, dir, nil, nil) // which the link hides
	for name, rows := range map[string][]ocitest.Advisory{"one": nil, "two": rows} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		writeTestAdvisories(t, filepath.Join(dir, name), rows, nil)
	}
	turn("two")
	a, err := OpenAdvisories(t.Context(), dir, time.Hour, advisoryNow)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	want, err := OpenAdvisories(t.Context(), filepath.Join(dir, "two"), time.Hour, advisoryNow)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = want.Close() }()
	if got := a.Snapshot(); got != want.Snapshot() {
		t.Errorf("got %+v, want %+v", got, want.Snapshot())
	}
	if changed, err := a.Reload(t.Context()); changed || err != nil {
		t.Errorf("unchanged: got %t, %v", changed, err)
	}
	turn("one")
	if changed, err := a.Reload(t.Context()); !changed || err != nil || a.Snapshot() == want.Snapshot() {
		t.Errorf("turned: got %t, %v, %+v", changed, err, a.Snapshot())
	}
}
