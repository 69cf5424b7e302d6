package quarantine

import (
	"context"
	"errors"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Holds reports whether the manifest of c is stored here. Of bytes that were dropped, or never came, it is false; it asks nobody else
// and reads no content.
func (q *Quarantine) Holds(ctx context.Context, c gate.Candidate) (bool, error) {
	err := q.store.hasManifest(ctx, c)
	if errors.Is(err, errNotHeld) {
		return false, nil
	}
	return err == nil, err
}
