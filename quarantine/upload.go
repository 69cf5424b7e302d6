package quarantine

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

var errSkeleton = errors.New("not written yet")

// Uploads takes blobs from those who push to hosted repositories.
type Uploads struct {
	q        *Quarantine
	maxBytes int64
	now      func() time.Time
}

// Uploads returns the uploads into q. A blob may have maxBytes.
func (q *Quarantine) Uploads(maxBytes int64, now func() time.Time) *Uploads {
	return &Uploads{q: q, maxBytes: maxBytes, now: now}
}

// Start begins an upload.
func (u *Uploads) Start(ctx context.Context, repo oci.Repository) (session string, err error) {
	return "", errSkeleton
}

// Progress returns how many bytes have arrived.
func (u *Uploads) Progress(ctx context.Context, repo oci.Repository, session string) (end int64, err error) {
	return 0, errSkeleton
}

// Append adds body to an upload.
func (u *Uploads) Append(ctx context.Context, repo oci.Repository, session string, at int64, body io.Reader) (end int64, err error) {
	return 0, errSkeleton
}

// Finish adds body and makes the whole a blob of repo.
func (u *Uploads) Finish(ctx context.Context, repo oci.Repository, session string, at int64, body io.Reader, d oci.Digest) (size int64, err error) {
	return 0, errSkeleton
}

// Cancel removes an upload.
func (u *Uploads) Cancel(ctx context.Context, repo oci.Repository, session string) error {
	return errSkeleton
}

// Purge removes uploads nothing was added to for olderThan.
func (u *Uploads) Purge(ctx context.Context, olderThan time.Duration) (int, error) {
	return 0, errSkeleton
}
