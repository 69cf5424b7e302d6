package quarantine

import (
	"context"
	"io"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// PutManifest stores a manifest that was pushed.
func (q *Quarantine) PutManifest(ctx context.Context, c gate.Candidate, content oci.Content) error {
	return errSkeleton
}

// Manifest returns a manifest that was pushed.
func (q *Quarantine) Manifest(ctx context.Context, c gate.Candidate) (oci.Content, error) {
	return oci.Content{}, errSkeleton
}

// RemoveManifest removes a manifest that was pushed.
func (q *Quarantine) RemoveManifest(ctx context.Context, c gate.Candidate) error { return errSkeleton }

// ReadBlob returns a small blob of a hosted repository.
func (q *Quarantine) ReadBlob(ctx context.Context, repo oci.Repository, desc oci.Descriptor, limit int64) ([]byte, error) {
	return nil, errSkeleton
}

// PutBlob stores a small blob in a hosted repository.
func (q *Quarantine) PutBlob(ctx context.Context, repo oci.Repository, raw []byte) error {
	return errSkeleton
}

// HasBlob returns the size of a blob of a hosted repository. Errors: oci.ErrBlobUnknown.
func (q *Quarantine) HasBlob(ctx context.Context, repo oci.Repository, d oci.Digest) (int64, error) {
	return 0, errSkeleton
}

// DeleteBlob takes a blob out of a hosted repository. Errors: oci.ErrBlobUnknown.
func (q *Quarantine) DeleteBlob(ctx context.Context, repo oci.Repository, d oci.Digest) error {
	return errSkeleton
}

// Mount gives repo a blob that from's manifest refers to. Errors: oci.ErrBlobUnknown.
func (q *Quarantine) Mount(ctx context.Context, repo oci.Repository, from gate.Candidate, d oci.Digest) error {
	return errSkeleton
}

// Pushed returns the view of q for those who push.
func (q *Quarantine) Pushed() Pushed { return Pushed{q} }

// Pushed opens what hosted repositories have, whether it was released or not.
type Pushed struct{ q *Quarantine }

// Manifest returns a manifest of a hosted repository. Errors: oci.ErrNotFound.
func (p Pushed) Manifest(ctx context.Context, c gate.Candidate) (oci.Content, error) {
	return oci.Content{}, errSkeleton
}

// Blob opens a blob of a hosted repository. Errors: oci.ErrBlobUnknown.
func (p Pushed) Blob(ctx context.Context, repo oci.Repository, d oci.Digest) (content io.ReadCloser, size int64, err error) {
	return nil, 0, errSkeleton
}
