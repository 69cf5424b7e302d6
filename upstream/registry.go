package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/singleflight"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/tidewaiter/tidewaiter/oci"
)

// requestTimeout bounds everything about one read of a manifest or a list at one endpoint: 4 MiB over a slow line.
const requestTimeout = 60 * time.Second

// registry is one upstream with its mirrors. It is safe for concurrent use.
type registry struct {
	settings
	// endpoints are the mirrors in their order, then the registry itself, whose word is final.
	endpoints []*endpoint
	// target is the registry itself once more, for what is pushed to it: with tokens of its own, so that no pull carries one that could
	// change something, and a breaker of its own, since a registry that takes nothing for a while still gives.
	target     *endpoint
	transports []*http.Transport
	// listing holds a token for whoever adds to an index under a fallback tag, which is read, added to, and written.
	listing   chan struct{}
	log       *slog.Logger
	now       func() time.Time
	observe   func(Event)
	trace     func(context.Context, Kind, string) (context.Context, func(Outcome))
	retryWait time.Duration

	tags    *memory[answer]
	digests *memory[oci.Descriptor]
	flights singleflight.Group
}

func newRegistry(s settings, o Options) (*registry, error) {
	transport, err := newTransport(s)
	if err != nil {
		return nil, err
	}
	pushing := transport.Clone()
	pushing.ResponseHeaderTimeout = commitTimeout
	r := &registry{
		settings: s, transports: []*http.Transport{transport, pushing}, listing: make(chan struct{}, 1), retryWait: o.retryWait, log: o.Log.With("upstream", s.Host), now: o.Now, observe: o.Observe, trace: o.Trace,
		tags: newMemory[answer](maxTags), digests: newMemory[oci.Descriptor](maxDigests),
	}
	for _, origin := range append(slices.Clone(s.mirrors), s.url) {
		r.endpoints = append(r.endpoints, newEndpoint(s, origin, transport, o, auth.ActionPull))
	}
	r.target = newEndpoint(s, s.url, pushing, o, auth.ActionPull, auth.ActionPush)
	if s.UnsafePrivateAddresses {
		r.log.Warn("unsafe_private_addresses is set: this upstream can lead requests into private networks")
	}
	return r, nil
}

func (r *registry) close() {
	for _, t := range r.transports {
		t.CloseIdleConnections()
	}
}

// allows returns nil if the lists have repo.
func (r *registry) allows(repo oci.Repository) error {
	matches := func(p oci.Pattern) bool { return p.Match(repo.Path) }
	switch {
	case slices.ContainsFunc(r.deny, matches):
		return denied("%s is not on the allowlist of upstream %s: it is denied there", repo, r.Host)
	case r.allow != nil && !slices.ContainsFunc(r.allow, matches):
		return denied("%s is not on the allowlist of upstream %s", repo, r.Host)
	}
	return nil
}

// ask reads from the first endpoint that has what is asked for. What it returns otherwise is the registry's own last word, not a
// mirror's.
func (r *registry) ask(ctx context.Context, kind Kind, read func(context.Context, *endpoint) (int64, error)) (err error) {
	var n int64
	ctx, end := r.trace(ctx, kind, r.Host)
	defer func() { end(outcomeOf(err)) }()
	defer func() { r.observe(Event{Upstream: r.Host, Kind: kind, Outcome: outcomeOf(err), Bytes: n}) }()
	for _, e := range r.endpoints {
		n, err = readWithin(ctx, requestTimeout, e, read)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return err
}

// readWithin calls read with a deadline. It is the endpoint that is slow when that passes, not the caller.
func readWithin(ctx context.Context, limit time.Duration, e *endpoint, read func(context.Context, *endpoint) (int64, error)) (int64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTooSlow)
	defer cancel()
	return read(ctx, e)
}

// get sends req to e and reads the whole of its answer, at most limit bytes.
func (e *endpoint) get(ctx context.Context, req request, limit int64) ([]byte, http.Header, error) {
	resp, err := e.do(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	body, err := oci.ReadBounded(resp.Body, limit)
	if err != nil {
		return nil, nil, e.bodyFailure(ctx, req.kind, limit, err)
	}
	return body, resp.Header, nil
}

// bodyFailure returns what it means that an answer's body could not be read to its end.
func (e *endpoint) bodyFailure(ctx context.Context, kind Kind, limit int64, err error) error {
	if errors.Is(err, oci.ErrTooLarge) {
		return refused(e.host, fmt.Sprintf("sends more than %d bytes", limit), oci.ErrTooLarge)
	}
	e.debug(ctx, kind, err)
	return exchangeFailure(ctx, e.host, kind, e.now(), err)
}
