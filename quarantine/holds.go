package quarantine

import (
	"context"
	"errors"
	"io"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

var _ gate.Stored = (*Quarantine)(nil)

// Holds reports whether the manifest of c is stored here. Of bytes that were dropped, or never came, it is false; it asks nobody else
// and reads no content.
func (q *Quarantine) Holds(ctx context.Context, c gate.Candidate) (bool, error) {
	err := q.store.hasManifest(ctx, c)
	if errors.Is(err, errNotHeld) {
		return false, nil
	}
	return err == nil, err
}

// HoldStored implements [gate.Stored].
func (q *Quarantine) HoldStored(ctx context.Context, c gate.Candidate) (gate.Held, bool, error) {
	held, err := q.holdStored(ctx, c)
	if errors.Is(err, errNotHeld) {
		return gate.Held{}, false, nil
	}
	return held, err == nil, err
}

// OpenStored implements [gate.Stored]. It asks nobody whether c's repository may have the blob, so it is for whoever decides and serves
// none of it.
func (q *Quarantine) OpenStored(ctx context.Context, _ gate.Candidate, desc oci.Descriptor) (io.ReadCloser, bool, error) {
	r, err := q.openIntact(ctx, desc)
	if errors.Is(err, errNotHeld) {
		return nil, false, nil
	}
	return r, err == nil, err
}
