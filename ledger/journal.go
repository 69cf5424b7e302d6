package ledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"
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
type Journal struct{ events Log[hosted.Event] }

var _ hosted.Journal = Journal{}

// Journal returns the journal that lies in the ledger.
func (l *Ledger) Journal() Journal { return Journal{NewLog[hosted.Event](l, eventsKind)} }

// Append implements hosted.Journal.
func (j Journal) Append(ctx context.Context, repo oci.Repository, e hosted.Event) (name string, err error) {
	if err := isHosted(repo); err != nil {
		return "", err
	}
	return j.events.Append(ctx, repo, e)
}

// Events implements hosted.Journal.
func (j Journal) Events(ctx context.Context, repo oci.Repository, since time.Time, known func(name string) bool) ([]hosted.Recorded, error) {
	if err := isHosted(repo); err != nil {
		return nil, err
	}
	var events []hosted.Recorded
	err := j.events.Records(ctx, repo, since, known, func(name string, e hosted.Event) {
		events = append(events, hosted.Recorded{Name: name, Event: e})
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(events, func(a, b hosted.Recorded) int { return cmp.Compare(a.Name, b.Name) })
	return events, nil
}

// Repositories implements hosted.Journal.
func (j Journal) Repositories(ctx context.Context) ([]oci.Repository, error) {
	all, err := j.events.Repositories(ctx)
	return slices.DeleteFunc(all, func(repo oci.Repository) bool { return isHosted(repo) != nil }), err
}

// isHosted refuses a repository that cannot be pushed to.
func isHosted(repo oci.Repository) error {
	if _, err := oci.NewRepository("", repo.Path); err != nil || repo.Upstream != "" {
		return fmt.Errorf("repository %.100q is not hosted here: %w", repo.String(), oci.ErrNameInvalid)
	}
	return nil
}
