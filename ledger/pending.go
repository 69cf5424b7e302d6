package ledger

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
)

// Pending keeps records of one kind for as long as there is something to be done about them. Unlike all others they are forgotten one by
// one; they are not changed either: whoever has something else to say keeps that, and then forgets what was before. A Pending is safe for
// concurrent use, also beside others like it.
type Pending[T Checked] struct {
	l    *Ledger
	kind string
}

// NewPending returns the pending records of kind that lie in l. kind is a word of letters, of which each kind of record has its own.
func NewPending[T Checked](l *Ledger, kind string) Pending[T] { return Pending[T]{l, kind} }

func (p Pending[T]) dir() string { return path.Join(root, p.kind, pendingDir) }

// Keep keeps record. When it returns nil a restart does not lose it. The name sorts by time, and is no other record's.
func (p Pending[T]) Keep(ctx context.Context, record T) (name string, err error) {
	if name, err = p.keep(ctx, record); err != nil {
		return "", fmt.Errorf("keeping in the %s: %w", p.kind, err)
	}
	return name, nil
}

func (p Pending[T]) keep(ctx context.Context, record T) (name string, err error) {
	if err := record.Check(); err != nil {
		return "", err
	}
	plain, err := encode(record, p.l.limits.event)
	if err != nil {
		return "", err
	}
	name = recordName(p.l.stamp(), plain)
	return name, p.l.write(ctx, path.Join(p.dir(), name), plain, p.l.limits.event)
}

// Forget forgets the record called name. That there is none is no error.
func (p Pending[T]) Forget(ctx context.Context, name string) error {
	if _, ok := parseName(name); !ok {
		return fmt.Errorf("forgetting %.100q: %w", name, errBroken)
	}
	if err := p.l.driver.Delete(ctx, path.Join(p.dir(), name)); err != nil && !isAbsent(err) {
		return fmt.Errorf("forgetting %s of the %s: %w", name, p.kind, err)
	}
	return nil
}

// Kept returns every record with its name, sorted by name. Those that are not believed are left out, and counted.
func (p Pending[T]) Kept(ctx context.Context) (names []string, records []T, err error) {
	all, err := p.l.names(ctx, p.dir())
	if err != nil {
		return nil, nil, fmt.Errorf("reading the %s: %w", p.kind, err)
	}
	var mu sync.Mutex
	found := map[string]T{} // guarded by mu
	err = readAll(ctx, all, func(ctx context.Context, name string) error {
		record, believed, err := readChecked[T](ctx, p.l, path.Join(p.dir(), name), "kind", p.kind)
		if isAbsent(err) { // forgotten since it was listed
			return nil
		}
		if err != nil || !believed {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		found[name] = record
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading the %s: %w", p.kind, err)
	}
	slices.SortFunc(all, strings.Compare)
	for _, name := range all {
		if record, ok := found[name]; ok {
			names, records = append(names, name), append(records, record)
		}
	}
	return names, records, nil
}
