package hosted

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// claimLapse is how long a claim counts after it was first seen: its process has died by then, or given up, which it does after half of
// that time by its own clock.
const claimLapse = time.Minute

// errRival answers the push of a tag that must not move while another replica may be pushing it too.
var errRival = &oci.Error{
	Code: oci.CodeUnavailable, Message: "somebody else is pushing this tag at the same time: push again", RetryAfter: retryMoving,
}

// putFixed takes content and records e, which pushes content under a tag that must not move and is not there yet. The name of an event says
// when it was begun, and not when others could see it, so of two replicas neither could tell from the events alone whether the other has
// been told that its push is the one that counts. Each claims the tag first, and gives way to any other claim it then sees. So never are
// both told, and perhaps none.
func (r *Repositories) putFixed(ctx context.Context, rp *repository, content oci.Content, e Event) error {
	if err := r.o.Bytes.PutManifest(ctx, gate.Candidate{Repository: rp.name, Digest: content.Digest}, content); err != nil {
		return err
	}
	began := r.o.Now()
	claim := Event{By: e.By, Kind: Claimed, Tag: e.Tag, Descriptor: oci.Descriptor{Digest: content.Digest}, Claim: rand.Text()}
	if err := r.record(ctx, rp, claim); err != nil {
		return err
	}
	err := r.refreshNow(ctx, rp)
	if err == nil {
		err = rp.rivals(claim, r.o.Now())
	}
	if err == nil && r.o.Now().Sub(began) >= claimLapse/2 {
		err = errRival
	}
	if err == nil {
		e.Claim = claim.Claim
		err = r.record(ctx, rp, e)
	}
	if err != nil {
		claim.Kind = Unclaimed
		_ = r.record(context.WithoutCancel(ctx), rp, claim) // or it lapses
		return err
	}
	return r.checkMoved(ctx, rp, e)
}

// rivals returns why the tag that claim is about is not to be pushed now; nil when it may be.
func (rp *repository) rivals(claim Event, now time.Time) error {
	rp.mu.RLock()
	defer rp.mu.RUnlock()
	d := claim.Descriptor.Digest
	if t, ok := rp.state.tags[claim.Tag]; ok && t.pushed.desc.Digest != d {
		return errImmutable(claim.Tag, t.pushed.desc.Digest)
	}
	for name, other := range rp.state.claims {
		if name != claim.Claim && other.Tag == claim.Tag && other.Descriptor.Digest != d && now.Sub(rp.claimed[name]) < claimLapse {
			return errRival
		}
	}
	return nil
}

// noteClaim notes when a claim was first seen, or that it has ended. The caller holds rp.mu.
func (rp *repository) noteClaim(e Event, now time.Time) {
	switch {
	case e.Kind == Claimed:
		rp.claimed[e.Claim] = now
	case e.Claim != "":
		delete(rp.claimed, e.Claim)
	}
}
