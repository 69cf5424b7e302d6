package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// maxRedirects bounds the hops of one request. Object stores take one, registry.k8s.io two.
const maxRedirects = 5

// maxExcerptBytes is how much of an error's body goes to the debug log: a registry's error is about 200 bytes.
const maxExcerptBytes = 512

// endpoint is one URL a registry answers at: its own, or a mirror's. It is safe for concurrent use.
type endpoint struct {
	// host is the upstream's name to clients, which answers and logs use.
	host   string
	origin *url.URL
	// signed sends requests to the endpoint with whatever credentials it wants; plain sends them anywhere with none.
	signed    *auth.Client
	plain     *http.Client
	userAgent string
	// actions are what tokens are asked for to let us do: to pull, and to push only where nothing else than pushing is done.
	actions []string
	breaker breaker
	log     *slog.Logger
	now     func() time.Time
	observe func(Event)
	// diagnose is told why a realm gave no token; nil for nobody.
	diagnose func(error)
}

// request is one read from an endpoint.
type request struct {
	kind   Kind
	method string
	// repo is the repository's path at the upstream; path what comes after it: "manifests/latest".
	repo, path string
	query      url.Values
	// at takes the place of repo, path and query when a list goes on; nil otherwise.
	at *url.URL
	// accept are the media types that are understood, in order of preference.
	accept []string
	// from is the first byte wanted. When it is not 0 the answer may still begin at 0, with status 200.
	from int64
	// unless is the entity tag of an answer that need not be sent again; empty for none. The answer may then have status 304.
	unless string
}

// newEndpoint returns the endpoint of s at origin, to do actions there. The credentials of s are only offered where origin is its URL.
func newEndpoint(s settings, origin *url.URL, transport http.RoundTripper, o Options, actions ...string) *endpoint {
	e := &endpoint{
		host: s.Host, origin: origin, userAgent: o.UserAgent, actions: actions, breaker: breaker{now: o.Now},
		log: o.Log.With("upstream", s.Host), now: o.Now, observe: o.Observe,
	}
	realms := s.realms
	if len(realms) == 0 || origin != s.url {
		realms = append(slices.Clone(realms), realm{origin: originOf(origin)})
	}
	guarded := &guard{next: transport, upstream: s.Host, origin: origin, realms: realms, pushes: slices.Contains(actions, auth.ActionPush)}
	kept := newTokens(e.tokenEnded)
	e.signed = &auth.Client{
		Client:   &http.Client{Transport: withRetries(guarded, o.retryWait), CheckRedirect: noRedirects},
		Header:   http.Header{"User-Agent": {o.UserAgent}},
		Cache:    kept,
		ClientID: "tidewaiter",
	}
	if origin == s.url {
		e.signed.Credential = s.credential
		if s.Credentials != nil {
			kept.basic = s.basic
		}
	}
	e.plain = &http.Client{Transport: withRetries(transport, o.retryWait), CheckRedirect: noRedirects}
	return e
}

// tokenEnded is told how asking a realm ended, and returns what that means. Basic credentials need no asking.
func (e *endpoint) tokenEnded(ctx context.Context, scheme auth.Scheme, err error) error {
	if err != nil {
		e.debug(ctx, KindToken, err)
		if e.diagnose != nil {
			e.diagnose(err)
		}
		err = exchangeFailure(ctx, e.host, KindToken, e.now(), err)
	}
	if scheme == auth.SchemeBearer {
		e.observe(Event{Upstream: e.host, Kind: KindToken, Outcome: outcomeOf(err)})
	}
	return err
}

// do sends req, unless the endpoint is being left alone, and returns an answer with status 200, or 206 if req.from is set, or
// 304 if req.unless is. The caller closes its body.
//
// Errors: a *failure, or ctx's own.
func (e *endpoint) do(ctx context.Context, req request) (*http.Response, error) {
	return e.unlessClosed(func() (*http.Response, error) { return e.exchange(ctx, req) })
}

// unlessClosed calls exchange unless the endpoint is being left alone, and learns from how it ends whether to leave it alone.
func (e *endpoint) unlessClosed(exchange func() (*http.Response, error)) (*http.Response, error) {
	pass, closed := e.breaker.enter()
	if closed != nil {
		if closed.limited {
			return nil, limited(e.host, closed.wait)
		}
		return nil, down(e.host, closed.wait)
	}
	resp, err := exchange()
	switch outcomeOf(err) {
	case OutcomeDown:
		pass.fail()
	case OutcomeLimited:
		f, _ := errors.AsType[*failure](err)
		pass.limit(f.answer.RetryAfter)
	case OutcomeOK, OutcomeMissing, OutcomeUnauthorized:
		pass.succeed()
	default:
		pass.abandon()
	}
	return resp, err
}

// exchange sends req and follows where the answer leads. Once that has left the API at the endpoint's origin, nothing of what the
// endpoint may know us by goes along, not even when it is led back.
func (e *endpoint) exchange(ctx context.Context, req request) (*http.Response, error) {
	u, left := e.url(req), false
	for range maxRedirects + 1 {
		resp, err := e.send(ctx, req, u, left)
		if err != nil {
			e.debug(ctx, req.kind, err)
			return nil, exchangeFailure(ctx, e.host, req.kind, e.now(), err)
		}
		if !isRedirect(resp.StatusCode) {
			return e.vet(ctx, req, resp)
		}
		drain(resp.Body)
		if u, err = redirectTarget(u, resp.Header.Get("Location")); err != nil {
			return nil, refused(e.host, "redirects where Tidewaiter does not follow", err)
		}
		left = left || !e.isAPI(u)
	}
	return nil, refused(e.host, fmt.Sprintf("redirects more than %d times", maxRedirects), errLeak)
}

// url returns where req is sent at first.
func (e *endpoint) url(req request) *url.URL {
	if req.at != nil {
		return req.at
	}
	return &url.URL{Scheme: e.origin.Scheme, Host: e.origin.Host, Path: "/v2/" + req.repo + "/" + req.path, RawQuery: req.query.Encode()}
}

// isAPI reports whether u lies under the distribution API of the endpoint, in whatever way a server reads its path.
func (e *endpoint) isAPI(u *url.URL) bool {
	return originOf(u) == originOf(e.origin) && strings.HasPrefix(u.Path, "/v2/") && path.Clean(u.Path) == u.Path && u.RawPath == ""
}

func (e *endpoint) send(ctx context.Context, req request, u *url.URL, left bool) (*http.Response, error) {
	ctx = auth.WithScopes(ctx, auth.ScopeRepository(req.repo, e.actions...))
	r, err := http.NewRequestWithContext(ctx, req.method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", strings.Join(req.accept, ", ")) // some servers read only the first of several headers
	// Some servers compress whatever they are not asked to leave alone, and the bytes' digest with it.
	r.Header.Set("Accept-Encoding", "identity")
	if req.from > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", req.from))
	}
	if !left {
		if req.unless != "" { // it could be a name for us, so it stays here
			r.Header.Set("If-None-Match", req.unless)
		}
		return e.signed.Do(r)
	}
	r.Header.Set("User-Agent", e.userAgent)
	return e.plain.Do(r)
}

// vet turns an answer without the content asked for into a failure.
func (e *endpoint) vet(ctx context.Context, req request, resp *http.Response) (*http.Response, error) {
	switch {
	case resp.StatusCode == http.StatusOK,
		resp.StatusCode == http.StatusPartialContent && req.from > 0,
		resp.StatusCode == http.StatusNotModified && req.unless != "":
		return resp, nil
	}
	e.dismiss(ctx, req.kind, resp)
	return nil, statusFailure(e.host, req.kind, resp.StatusCode, resp.Header, e.now())
}

// dismiss ends an answer that is not what was asked for, of which only an excerpt is of interest.
func (e *endpoint) dismiss(ctx context.Context, kind Kind, resp *http.Response) {
	excerpt := make([]byte, maxExcerptBytes)
	n, _ := io.ReadFull(resp.Body, excerpt) // as much as there is
	_ = resp.Body.Close()                   // the rest does not matter
	e.log.DebugContext(ctx, "upstream answered something else",
		"step", string(kind), "status", resp.StatusCode, "said", fmt.Sprintf("%q", excerpt[:n]))
}

func (e *endpoint) debug(ctx context.Context, kind Kind, err error) {
	e.log.DebugContext(ctx, "upstream did not answer", "step", string(kind), "err", fmt.Sprintf("%.500q", withoutURL(err).Error()))
}

// drain ends an answer whose content is of no interest, reading the little there should be so that its connection can be used
// again.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, maxExcerptBytes)
	_ = body.Close()
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// redirectTarget returns where location leads from u. It does not lead from https to http, nor to credentials of the upstream's
// choosing. Errors do not repeat the location: its query may be a permission to read.
func redirectTarget(u *url.URL, location string) (*url.URL, error) {
	target, err := u.Parse(location)
	switch {
	case err != nil || location == "":
		return nil, fmt.Errorf("the location is not a URL: %w", errLeak)
	case target.Hostname() == "" || target.Scheme != "https" && target.Scheme != "http":
		return nil, fmt.Errorf("the location is not on the web: %w", errLeak)
	case target.Scheme == "http" && u.Scheme == "https":
		return nil, fmt.Errorf("the location gives up encryption: %w", errLeak)
	case target.User != nil:
		return nil, fmt.Errorf("the location holds credentials: %w", errLeak)
	}
	target.Fragment, target.RawFragment = "", ""
	return target, nil
}
