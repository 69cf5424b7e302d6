package ledger

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Expire removes the records about repo of the days before the day that before is in, whole days at a time. It is for kinds that say of
// themselves that they do not last; whoever reads meanwhile may find such a record or not.
func (g Log[T]) Expire(ctx context.Context, repo oci.Repository, before time.Time) error {
	if err := g.expire(ctx, repo, before); err != nil {
		return fmt.Errorf("removing what is old in the %s of %q: %w", g.kind, repo.String(), err)
	}
	return nil
}

func (g Log[T]) expire(ctx context.Context, repo oci.Repository, before time.Time) error {
	dir, err := g.dir(repo)
	if err != nil {
		return err
	}
	days, err := g.l.names(ctx, dir)
	if err != nil {
		return err
	}
	first := dayName(before.UnixNano())
	for _, day := range slices.DeleteFunc(days, func(day string) bool { return !isDayName(day) || day >= first }) {
		if err := g.l.driver.Delete(ctx, path.Join(dir, day)); err != nil && !isAbsent(err) {
			return err
		}
	}
	return nil
}
