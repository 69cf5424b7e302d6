package quarantine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
)

// lookedAt is a driver that has something done while a purge looks at how old an upload is.
type lookedAt struct {
	storagedriver.StorageDriver
	meanwhile func()
}

func (l *lookedAt) Stat(ctx context.Context, path string) (storagedriver.FileInfo, error) {
	if do := l.meanwhile; do != nil && strings.Contains(path, "/uploads/") {
		l.meanwhile = nil
		do()
	}
	return l.StorageDriver.Stat(ctx, path)
}

// A slow storage has a purge look for long at what a client has just begun.
func TestPurgeIsInNobodysWay(t *testing.T) {
	w := onFiles(t)
	driver := &lookedAt{StorageDriver: w.driver}
	w = open(t, world{source: w.source, driver: driver, root: w.root}, t.TempDir())
	u := w.uploads()
	session := begin(t, u, web)
	driver.meanwhile = func() {
		if _, err := u.Append(t.Context(), web, session, 0, strings.NewReader("half")); err != nil {
			t.Errorf("Append during a purge: %v", err)
		}
	}
	if n, err := u.Purge(t.Context(), time.Hour); n != 0 || err != nil || driver.meanwhile != nil {
		t.Errorf("Purge: got %d, %v, want 0, and that it looked", n, err)
	}
	if end, err := u.Progress(t.Context(), web, session); end != int64(len("half")) || err != nil {
		t.Errorf("Progress: got %d, %v, want what was added", end, err)
	}
}
