package quarantine

import (
	"context"
	"errors"
	"io"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Kept returns the view of q for those who review: it opens what is held, released or not, fetches nothing, and changes nothing.
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

// Blob opens a blob that the manifest of c refers to and that is held for c's repository. content is as [Released.Blob] returns it.
//
// Errors: oci.ErrNotFound when the manifest is not held; oci.ErrBlobUnknown; oci.ErrMismatch when the manifest lies about its size.
func (k Kept) Blob(ctx context.Context, c gate.Candidate, d oci.Digest) (content io.ReadCloser, size int64, err error) {
	held, err := k.q.holdStored(ctx, c)
	if errors.Is(err, errNotHeld) {
		return nil, 0, oci.ErrNotFound
	}
	if err != nil {
		return nil, 0, err
	}
	for _, desc := range held.Manifest.Blobs() {
		if desc.Digest != d {
			continue
		}
		content, err = k.open(ctx, c, desc)
		if errors.Is(err, errNotHeld) {
			err = oci.ErrBlobUnknown
		}
		return content, desc.Size, err
	}
	return nil, 0, oci.ErrBlobUnknown
}

// open opens a stored blob that c's repository was seen to have. What another repository brought here is not c's to show, whatever its
// manifest says. Errors: errNotHeld.
func (k Kept) open(ctx context.Context, c gate.Candidate, desc oci.Descriptor) (io.ReadCloser, error) {
	by, err := k.q.store.claimed(ctx, c, desc.Digest)
	if err == nil && by < byRepository {
		err = errNotHeld
	}
	if err != nil {
		return nil, err
	}
	return k.q.openIntact(ctx, desc)
}
