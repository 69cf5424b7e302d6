package ledger

import (
	"context"
	"errors"

	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Journal keeps the events of hosted repositories. It implements [hosted.Journal].
type Journal struct{ l *Ledger }

var _ hosted.Journal = Journal{}

// Journal returns the journal that lies in the ledger.
func (l *Ledger) Journal() Journal { return Journal{l} }

var errSkeleton = errors.New("not written yet")

// Append implements hosted.Journal.
func (j Journal) Append(ctx context.Context, repo oci.Repository, e hosted.Event) error {
	return errSkeleton
}

// Events implements hosted.Journal.
func (j Journal) Events(ctx context.Context, repo oci.Repository, known func(name string) bool) ([]hosted.Recorded, error) {
	return nil, errSkeleton
}

// Repositories implements hosted.Journal.
func (j Journal) Repositories(ctx context.Context) ([]oci.Repository, error) {
	return nil, errSkeleton
}
