package ledger

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Checked is a record that knows whether it says something.
type Checked interface {
	// Check returns what is wrong with the record; nil if it can be recorded and believed.
	Check() error
}

// Log keeps records of one kind, each about a repository or, under the zero Repository, about all of them. Records are only added to.
// The state that follows from them is kept by whoever asks, not here. A Log is safe for concurrent use, also beside others like it.
type Log[T Checked] struct {
	l    *Ledger
	kind string
}

// NewLog returns the log of kind that lies in l. kind is a word of letters, of which each kind of record has its own.
func NewLog[T Checked](l *Ledger, kind string) Log[T] { return Log[T]{l, kind} }

// Append records what happened. When it returns nil a restart does not lose it. The name sorts by time, and is no other record's.
func (g Log[T]) Append(ctx context.Context, repo oci.Repository, record T) (name string, err error) {
	if name, err = g.append(ctx, repo, record); err != nil {
		return "", fmt.Errorf("recording in the %s of %q: %w", g.kind, repo.String(), err)
	}
	return name, nil
}

func (g Log[T]) append(ctx context.Context, repo oci.Repository, record T) (name string, err error) {
	dir, err := g.dir(repo)
	if err != nil {
		return "", err
	}
	if err := record.Check(); err != nil {
		return "", err
	}
	plain, err := encode(record, g.l.limits.event)
	if err != nil {
		return "", err
	}
	stamp := g.l.stamp()
	name = recordName(stamp, plain)
	return name, g.l.write(ctx, path.Join(dir, dayName(stamp), name), plain, g.l.limits.event)
}

// Records calls found, not at the same time and in no order, with each record of repo whose name is not known, of the day before since
// and later; of any time for the zero time. One that is not believed comes as the zero T, so that its name can be noted.
func (g Log[T]) Records(
	ctx context.Context, repo oci.Repository, since time.Time, known func(name string) bool, found func(name string, record T),
) error {
	if err := g.records(ctx, repo, since, known, found); err != nil {
		return fmt.Errorf("reading the %s of %q: %w", g.kind, repo.String(), err)
	}
	return nil
}

func (g Log[T]) records(
	ctx context.Context, repo oci.Repository, since time.Time, known func(name string) bool, found func(name string, record T),
) error {
	dir, err := g.dir(repo)
	if err != nil {
		return err
	}
	paths, err := g.paths(ctx, dir, since)
	if err != nil {
		return err
	}
	var mu sync.Mutex // one call of found at a time
	unknown := slices.DeleteFunc(paths, func(p string) bool { return known(path.Base(p)) })
	return readAll(ctx, unknown, func(ctx context.Context, p string) error {
		record, err := g.record(ctx, repo, p)
		if isAbsent(err) { // gone since it was listed
			return nil
		}
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		found(path.Base(p), record)
		return nil
	})
}

// Record returns the record of repo that Append or Records named. ok is false when it has gone or is not believed.
func (g Log[T]) Record(ctx context.Context, repo oci.Repository, name string) (record T, ok bool, err error) {
	dir, err := g.dir(repo)
	if stamp, isName := parseName(name); err == nil && isName {
		record, err = g.record(ctx, repo, path.Join(dir, dayName(stamp), name))
	}
	if err != nil && !isAbsent(err) {
		return record, false, fmt.Errorf("reading one of the %s of %q: %w", g.kind, repo.String(), err)
	}
	return record, err == nil && record.Check() == nil, nil
}

// Repositories returns the repositories there are records about, sorted. It looks at directories, not at records.
func (g Log[T]) Repositories(ctx context.Context) ([]oci.Repository, error) {
	return g.l.repositoriesBelow(ctx, path.Join(root, g.kind), eventsDir)
}

// dir returns where the records about repo lie.
func (g Log[T]) dir(repo oci.Repository) (string, error) {
	if repo == (oci.Repository{}) {
		return path.Join(root, g.kind, eventsDir), nil
	}
	if !oci.ValidPath(repo.Escaped()) {
		return "", fmt.Errorf("repository %.100q: %w", repo.String(), oci.ErrNameInvalid)
	}
	return path.Join(root, g.kind, repo.Escaped(), eventsDir), nil
}

// paths lists the records below dir of the day before since, and later; all for the zero time.
func (g Log[T]) paths(ctx context.Context, dir string, since time.Time) ([]string, error) {
	days, err := g.l.names(ctx, dir)
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
		names, err := g.l.names(ctx, path.Join(dir, day))
		mu.Lock()
		defer mu.Unlock()
		for _, name := range names {
			paths = append(paths, path.Join(dir, day, name))
		}
		return err
	})
	return paths, err
}

// record returns what is recorded at p; the zero T when it is not believed.
func (g Log[T]) record(ctx context.Context, repo oci.Repository, p string) (record T, err error) {
	record, _, err = readChecked[T](ctx, g.l, p, "kind", g.kind, "repo", repo.String())
	return record, err
}

// readChecked returns the record at p; believed is false, and the record the zero T, for one that was altered or says nothing, which is
// counted, and logged with attrs.
func readChecked[T Checked](ctx context.Context, l *Ledger, p string, attrs ...any) (record T, believed bool, err error) {
	var none T
	stamp, ok := parseName(path.Base(p))
	err = errBroken
	if ok {
		record, err = read[T](ctx, l, p, l.limits.event)
	}
	if err == nil {
		if wrong := record.Check(); wrong != nil {
			err = fmt.Errorf("%w: %v", errBroken, wrong)
		}
	}
	if err == nil {
		l.saw(stamp)
		return record, true, nil
	}
	if !isBroken(err) {
		return none, false, err
	}
	l.brokenEvents.Add(1)
	l.log.WarnContext(ctx, "a record is not believed", append(attrs, "record", path.Base(p), "err", err)...)
	return none, false, nil
}

// saw notes a stamp, so that whatever is recorded here from now on comes after it.
func (l *Ledger) saw(stamp int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = max(l.last, stamp)
}

// repositoriesBelow returns the repositories that have a directory called leaf below top, sorted.
func (l *Ledger) repositoriesBelow(ctx context.Context, top, leaf string) ([]oci.Repository, error) {
	var found []oci.Repository
	listed := 0
	pending := []string{top}
	for len(pending) > 0 {
		dir := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		below, err := l.driver.List(ctx, dir)
		if err != nil && !isAbsent(err) {
			return nil, fmt.Errorf("listing the repositories: %w", err)
		}
		for _, p := range below {
			switch name := path.Base(p); {
			case name == leaf:
				upstream, rest := oci.SplitUpstream(strings.TrimPrefix(strings.TrimPrefix(dir, top), "/"))
				if repo, err := oci.NewRepository(upstream, rest); err == nil {
					found = append(found, repo)
				}
			case oci.ValidPath(name): // anything else is not ours
				pending = append(pending, p)
			}
		}
		if listed += len(below); listed > maxListed {
			return nil, fmt.Errorf("listing the repositories: %w", errTooMany)
		}
	}
	slices.SortFunc(found, func(a, b oci.Repository) int { return strings.Compare(a.String(), b.String()) })
	return found, nil
}
