package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long the files must have been left alone before they are read again: a file written in place is for a moment
// empty, or half there, and a set of files changes one by one.
const settle = 100 * time.Millisecond

// Watch reloads the files whenever one of them changes, until ctx is done. It watches the directories they lie in and those their
// links lead to, so that a file that is replaced, and a link that is turned as Kubernetes turns those of a ConfigMap, counts as a
// change. Replacing such a directory itself does not; [Files.Reload] is for that. Problems are logged, and what was in force stays.
//
// Errors: the system refuses to watch one of the directories as Watch begins.
func (f *Files) Watch(ctx context.Context) error {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching policy files: %w", err)
	}
	defer func() { _ = events.Close() }() // nothing was written through it
	w := watch{files: f, events: events}
	if _, err := w.follow(); err != nil {
		return err
	}
	settled := w.reload(ctx) // the files may have changed before they were watched
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-events.Events:
			if w.concerns(event) {
				settled = time.After(settle)
			}
		case err := <-events.Errors: // an overflow: events were lost, and any file may have changed
			f.log.WarnContext(ctx, "watching policy files", "err", err)
			settled = time.After(settle)
		case <-settled:
			settled = w.reload(ctx)
		}
	}
}

// watch is the state of one [Files.Watch].
type watch struct {
	files  *Files
	events *fsnotify.Watcher
	// leadsTo maps each file, as [placed] names it, to where its links lead: to itself if it is none, to "" if nothing is there.
	leadsTo map[string]string
}

// follow brings what is watched in line with the files there are now and where they lead, and reports whether that has changed.
// A directory that cannot be watched is an error, and no reason not to watch the others.
func (w *watch) follow() (changed bool, err error) {
	leadsTo := map[string]string{}
	dirs := map[string]bool{}
	for _, name := range w.files.paths() {
		path, placeErr := placed(name)
		if placeErr != nil {
			err = errors.Join(err, fmt.Errorf("watching %s: %w", name, placeErr))
			continue
		}
		leadsTo[path] = target(path)
		dirs[filepath.Dir(path)] = true
		if end := leadsTo[path]; end != "" {
			dirs[filepath.Dir(end)] = true
		}
	}
	for _, dir := range w.events.WatchList() {
		if !dirs[dir] {
			_ = w.events.Remove(dir) // it fails for a directory that is gone, which is no longer watched either
		}
	}
	for dir := range dirs {
		if addErr := w.events.Add(dir); addErr != nil { // harmless for one that is watched, needed for one that was replaced
			err = errors.Join(err, fmt.Errorf("watching %s: %w", dir, addErr))
		}
	}
	changed = !maps.Equal(leadsTo, w.leadsTo)
	w.leadsTo = leadsTo
	return changed, err
}

// placed returns name as an absolute path through no linked directory. One directory then has one name, by which the system tells
// of changes in it.
func placed(name string) (string, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// target returns where the links at path lead, or nothing.
func target(path string) string {
	end, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	return end
}

// concerns reports whether event can mean that one of the files says something else now.
func (w *watch) concerns(event fsnotify.Event) bool {
	for path, end := range w.leadsTo {
		if event.Name == path || event.Name == end || target(path) != end {
			return true
		}
	}
	return false
}

// reload reads the files again. Each file is watched before it is read, so no change goes by in between; where the files turn out
// to name or lead to others than were watched, reload returns when to read them once more.
func (w *watch) reload(ctx context.Context) <-chan time.Time {
	_, _ = w.follow() // what cannot be watched is told below, once
	if err := w.files.Reload(ctx); err != nil {
		w.files.log.ErrorContext(ctx, "policy files refused, what was in force stays in force",
			"err", err, "policy_revision", w.files.Current().Revision, "roots_revision", w.files.Roots().Revision)
	}
	changed, err := w.follow()
	if err != nil {
		w.files.log.ErrorContext(ctx, "policy files are not all watched: changes need a reload", "err", err)
	}
	if changed {
		return time.After(settle)
	}
	return nil
}
