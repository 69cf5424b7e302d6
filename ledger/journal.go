package ledger

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/oci"
)

// maxListed bounds the directories that are walked to find the repositories there are: each repository has one, and shares those above.
const maxListed = 1 << 18

// errTooMany says that there are more directories than are walked.
var errTooMany = fmt.Errorf("more than %d directories", maxListed)

// Journal keeps the events of hosted repositories. It implements hosted.Journal. The state that follows from them is kept by whoever
// asks, not here.
type Journal struct{ l *Ledger }

var _ hosted.Journal = Journal{}

// Journal returns the journal that lies in the ledger.
func (l *Ledger) Journal() Journal { return Journal{l} }

// Append implements hosted.Journal.
func (j Journal) Append(ctx context.Context, repo oci.Repository, e hosted.Event) (name string, err error) {
	if name, err = j.append(ctx, repo, e); err != nil {
		return "", fmt.Errorf("recording what happened in %s: %w", repo, err)
	}
	return name, nil
}

func (j Journal) append(ctx context.Context, repo oci.Repository, e hosted.Event) (name string, err error) {
	dir, err := eventsPath(repo)
	if err != nil {
		return "", err
	}
	if err := e.Check(); err != nil {
		return "", err
	}
	plain, err := encode(e, j.l.limits.event)
	if err != nil {
		return "", err
	}
	stamp := j.l.stamp()
	name = recordName(stamp, plain)
	return name, j.l.write(ctx, path.Join(dir, dayName(stamp), name), plain, j.l.limits.event)
}

// Events implements hosted.Journal.
func (j Journal) Events(ctx context.Context, repo oci.Repository, since time.Time, known func(name string) bool) ([]hosted.Recorded, error) {
	events, err := j.events(ctx, repo, since, known)
	if err != nil {
		return nil, fmt.Errorf("looking up what happened in %s: %w", repo, err)
	}
	return events, nil
}

func (j Journal) events(ctx context.Context, repo oci.Repository, since time.Time, known func(name string) bool) ([]hosted.Recorded, error) {
	dir, err := eventsPath(repo)
	if err != nil {
		return nil, err
	}
	paths, err := j.paths(ctx, dir, since)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var events []hosted.Recorded // guarded by mu
	unknown := slices.DeleteFunc(paths, func(p string) bool { return known(path.Base(p)) })
	err = readAll(ctx, unknown, func(ctx context.Context, p string) error {
		e, err := j.event(ctx, repo, p)
		if isAbsent(err) { // gone since it was listed
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		events = append(events, hosted.Recorded{Name: path.Base(p), Event: e})
		return err
	})
	slices.SortFunc(events, func(a, b hosted.Recorded) int { return cmp.Compare(a.Name, b.Name) })
	return events, err
}

// paths lists the records below dir of the day before since, and later; all for the zero time.
func (j Journal) paths(ctx context.Context, dir string, since time.Time) ([]string, error) {
	days, err := j.l.names(ctx, dir)
	if err != nil {
		return nil, err
	}
	first := ""
	if !since.IsZero() {
		first = dayName(since.Add(-24 * time.Hour).UnixNano())
	}
	days = slices.DeleteFunc(days, func(day string) bool { return !isDayName(day) || day < first })
	var mu sync.Mutex
	var paths []string // guarded by mu
	err = readAll(ctx, days, func(ctx context.Context, day string) error {
		names, err := j.l.names(ctx, path.Join(dir, day))
		mu.Lock()
		defer mu.Unlock()
		for _, name := range names {
			paths = append(paths, path.Join(dir, day, name))
		}
		return err
	})
	return paths, err
}

// event returns the event recorded at p; the zero Event when it is not believed.
func (j Journal) event(ctx context.Context, repo oci.Repository, p string) (hosted.Event, error) {
	stamp, ok := parseName(path.Base(p))
	var e hosted.Event
	err := errBroken
	if ok {
		e, err = read[hosted.Event](ctx, j.l, p, j.l.limits.event)
	}
	if wrong := e.Check(); err == nil && wrong != nil {
		err = fmt.Errorf("%w: %v", errBroken, wrong)
	}
	if err == nil {
		j.l.saw(stamp)
		return e, nil
	}
	if !isBroken(err) {
		return hosted.Event{}, err
	}
	j.l.brokenEvents.Add(1)
	j.l.log.WarnContext(ctx, "a recorded event is not believed", "repo", repo.String(), "record", path.Base(p), "err", err)
	return hosted.Event{}, nil
}

// saw notes a stamp, so that whatever is recorded here from now on comes after it.
func (l *Ledger) saw(stamp int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = max(l.last, stamp)
}

// Repositories implements hosted.Journal. It looks at directories, not at records.
func (j Journal) Repositories(ctx context.Context) ([]oci.Repository, error) {
	var found []oci.Repository
	listed := 0
	pending := []string{eventsRoot}
	for len(pending) > 0 {
		dir := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		below, err := j.l.driver.List(ctx, dir)
		if err != nil && !isAbsent(err) {
			return nil, fmt.Errorf("listing the hosted repositories: %w", err)
		}
		for _, p := range below {
			switch name := path.Base(p); {
			case name == eventsDir:
				if repo, err := oci.NewRepository("", strings.TrimPrefix(dir, eventsRoot+"/")); err == nil {
					found = append(found, repo)
				}
			case oci.ValidPath(name): // anything else is not ours
				pending = append(pending, p)
			}
		}
		if listed += len(below); listed > maxListed {
			return nil, fmt.Errorf("listing the hosted repositories: %w", errTooMany)
		}
	}
	slices.SortFunc(found, func(a, b oci.Repository) int { return cmp.Compare(a.Path, b.Path) })
	return found, nil
}
