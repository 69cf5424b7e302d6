package main

import (
	"context"

	"github.com/tidewaiter/tidewaiter/forward"
	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/oci"
)

// openForwarder opens what copies admitted images to upstreams.
func (in *instance) openForwarder() {
	in.forwarder = forward.New(forward.Options{
		Queue: forwardQueue{in.hosted}, Judge: in.gate, Released: in.quarantine.Released(), Evidence: servedEvidence{in.hosted},
		Destination: in.upstreams, Log: in.log, Observe: in.meters.forwarded,
	})
}

// forwards reports whether anything is forwarded at all.
func (c *config) forwards() bool {
	for _, h := range c.Hosted {
		if h.ForwardTo != "" {
			return true
		}
	}
	return false
}

// forwardQueue is what the hosted repositories have yet to forward.
type forwardQueue struct{ hosted *hosted.Repositories }

// Pending implements forward.Queue.
func (q forwardQueue) Pending(ctx context.Context) ([]forward.Item, error) {
	found, err := q.hosted.Unforwarded(ctx)
	items := make([]forward.Item, 0, len(found))
	for _, f := range found {
		items = append(items, forward.Item{Candidate: f.Candidate, Tags: f.Tags, To: f.To, AdmittedAt: f.AdmittedAt, Revision: f.Revision})
	}
	return items, err
}

// Done implements forward.Queue.
func (q forwardQueue) Done(ctx context.Context, item forward.Item) error {
	return q.hosted.Forwarded(ctx, hosted.Forward{Candidate: item.Candidate, To: item.To, Tags: item.Tags, Revision: item.Revision})
}

// servedEvidence is what hangs on images, as everybody sees it.
type servedEvidence struct{ hosted *hosted.Repositories }

// Referrers implements forward.Evidence.
func (e servedEvidence) Referrers(ctx context.Context, repo oci.Repository, subject oci.Digest) ([]oci.Descriptor, error) {
	return e.hosted.Referrers(ctx, repo, subject)
}

// Resolve implements forward.Evidence. What has only been pushed is not there yet.
func (e servedEvidence) Resolve(ctx context.Context, repo oci.Repository, tag string) (oci.Descriptor, error) {
	t, err := e.hosted.Resolve(ctx, repo, tag)
	if err == nil && t.Served.Digest == "" {
		return oci.Descriptor{}, oci.ErrNotFound
	}
	return t.Served, err
}
