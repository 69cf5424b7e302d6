package console

import (
	"context"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Statements tell what is stated of images to others. Implementations are safe for concurrent use.
type Statements interface {
	// Stated returns the manifest of what is stated of c, which refers to it, and when the verdict was made, UTC, that it states. ok is
	// false when nothing is.
	Stated(ctx context.Context, c gate.Candidate) (manifest oci.Digest, judgedAt time.Time, ok bool, err error)
}

// Statement is what is stated of an image to others.
type Statement struct {
	Manifest oci.Digest `json:"manifest"`
	// JudgedAt is when the verdict was made that it states, UTC.
	JudgedAt time.Time `json:"judged_at"`
}

// stated adds to image what is stated of it.
func (c *Console) stated(ctx context.Context, image *Image) error {
	if c.o.Statements == nil {
		return nil
	}
	manifest, at, ok, err := c.o.Statements.Stated(ctx, image.Verdict.Candidate())
	if ok && err == nil {
		image.Statement = &Statement{manifest, at}
	}
	return err
}
