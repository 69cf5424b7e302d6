package advisories

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a folder must have been left alone before it is read again: files that replace others come one by one.
const settle = 250 * time.Millisecond

// Watch calls changed whenever another database may be in use at path, a folder, a directory of the two files, or trivy.db itself: the
// link was turned, a file replaced, the whole directory, a record of the operator's written. It returns when ctx ends. A directory that
// is gone for longer than it takes to replace it is not watched when it comes back.
//
// Errors: the system refuses to watch.
func Watch(ctx context.Context, path string, changed func(context.Context)) error {
	dir := path
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		dir = filepath.Dir(path)
	}
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching %s: %w", dir, err)
	}
	defer func() { _ = events.Close() }() // nothing was written through it
	if err := events.Add(dir); err != nil {
		return fmt.Errorf("watching %s: %w", dir, err)
	}
	overlay := filepath.Join(dir, overlayName)
	_ = events.Add(overlay) // there may be none yet, which its directory will tell
	changed(ctx)            // it may have changed before it was watched
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-events.Events:
			if event.Name == dir || concerns(event, overlay, path) {
				settled = time.After(settle)
			}
		case _, open := <-events.Errors: // an overflow: anything may have changed
			if open {
				settled = time.After(settle)
			}
		case <-settled:
			settled = nil
			_ = events.Add(dir) // another may have taken its place; where none has, there is nothing to watch
			_ = events.Add(overlay)
			changed(ctx)
		}
	}
}

// concerns reports whether event can mean that another database is in use.
func concerns(event fsnotify.Event, overlay, path string) bool {
	switch filepath.Base(event.Name) {
	case currentName, databaseName, metadataName, overlayName:
		return true
	}
	return filepath.Dir(event.Name) == overlay || event.Name == path
}
