package quarantine

import (
	"context"
	"errors"
	"io"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Kept returns the view of q for those who review: it opens what is held, released or not, and releases nothing.
func (q *Quarantine) Kept() Kept { return Kept{q} }

// Kept opens what is held. It is for people who are to decide about an image, never for clients.
type Kept struct{ q *Quarantine }

// Manifest returns a manifest that is held. Errors: oci.ErrNotFound.
func (k Kept) Manifest(ctx context.Context, c gate.Candidate) (oci.Content, error) {
	held, err := k.q.holdStored(ctx, c)
	if errors.Is(err, errNotHeld) {
		return oci.Content{}, oci.ErrNotFound
	}
	return held.Content, err
}

// Blob opens a blob that a manifest which is held refers to. A layer that was known from another image has not been fetched for this
// one; it is now, or c's upstream asked whether it has it, as the gate would. content is as [Released.Blob] returns it.
//
// Errors: oci.ErrNotFound when the manifest is not held; oci.ErrBlobUnknown; those of [Quarantine.Open].
func (k Kept) Blob(ctx context.Context, c gate.Candidate, d oci.Digest) (content io.ReadCloser, size int64, err error) {
	held, err := k.q.holdStored(ctx, c)
	if errors.Is(err, errNotHeld) {
		return nil, 0, oci.ErrNotFound
	}
	if err != nil {
		return nil, 0, err
	}
	for _, desc := range held.Manifest.Blobs() {
		if desc.Digest == d {
			content, err = k.q.Open(ctx, c, desc)
			return content, desc.Size, err
		}
	}
	return nil, 0, oci.ErrBlobUnknown
}
