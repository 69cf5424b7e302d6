// Package ocitest owns a registry that lives in the process, and the images and signatures it serves.
//
// It promises the distribution API over real HTTP on loopback, faithful enough for real clients to push to and pull from, and
// any misbehaviour a test asks for: missing features, missing headers, redirects, token services, slow or wrong bodies, content
// that changes between two requests. Images hold real package databases and signatures are the bytes real signers write, made
// with the standard library alone, so that what reads them is never tested against itself. The same input gives the same digests.
//
// Tests and the demo command use it. It must not be used to keep anything: content lives in memory, and content put directly is
// stored unchecked, because an upstream nobody trusts may hold anything.
package ocitest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// headerTimeout bounds how long a client may take over its request headers, so that a lost one does not hold a goroutine forever.
const headerTimeout = 30 * time.Second

// Options says what kind of registry to start. The zero value is a well-behaved one that anybody may push to.
type Options struct {
	// NoReferrers answers the referrers API with 404 and leaves out OCI-Subject, as registries before OCI 1.1 do. Signers then
	// use the fallback tag sha256-<hex>.
	NoReferrers bool
	// OmitDigestHeader leaves Docker-Content-Digest out of every answer; the specification only recommends it.
	OmitDigestHeader bool
	// BearerAuth, when not nil, demands a token for everything below /v2/.
	BearerAuth *Auth
	// RedirectBlobs answers GET of a blob with 307 to a second listener, as registries in front of object storage do.
	RedirectBlobs bool
	// BytesPerSecond bounds the rate of each blob's body; 0 for no bound. Bodies are then sent in steps of a tenth of a second.
	BytesPerSecond int64
	// PageSize is the most entries of tags/list, _catalog and referrers in one answer, whatever the client asks for; 0 for no limit.
	PageSize int
}

// Intercept answers a request in the registry's place and reports true, or reports false to let it through, having written
// nothing. It is called from many goroutines, for the requests of all listeners, before authorization. It must return once the
// request's context is done. [Classify] tells what a request asks for.
type Intercept func(w http.ResponseWriter, r *http.Request) (handled bool)

// Registry is a running registry. Its methods are safe for concurrent use.
type Registry struct {
	opts    Options
	store   *store
	tokens  *tokenService // nil without BearerAuth
	uploads *uploads
	log     record
	signing sync.Mutex // serializes the changes of tags that list signatures

	hosts   map[string]string // host:port by role; never modified after start
	servers []*http.Server
	cancel  context.CancelFunc
	serving sync.WaitGroup // the goroutines that accept

	mu        sync.Mutex
	intercept Intercept      // guarded by mu
	closed    bool           // guarded by mu
	inflight  sync.WaitGroup // requests being answered; Add only under mu while not closed
}

// The roles of listeners.
const (
	roleRegistry = "registry"
	roleStorage  = "storage"
	roleToken    = "token"
)

// StartRegistry starts a registry on a free port of 127.0.0.1. The caller closes it.
func StartRegistry(opts Options) (*Registry, error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Registry{opts: opts, store: newStore(), uploads: newUploads(), hosts: map[string]string{}, cancel: cancel}
	handlers := map[string]http.HandlerFunc{roleRegistry: r.serveRegistry}
	if opts.RedirectBlobs {
		handlers[roleStorage] = r.serveStorage
	}
	if opts.BearerAuth != nil {
		r.tokens = newTokenService(*opts.BearerAuth)
		if opts.BearerAuth.SeparateRealm {
			handlers[roleToken] = r.tokens.ServeHTTP
		}
	}
	for role, handler := range handlers {
		if err := r.listen(ctx, role, handler); err != nil {
			r.Close()
			return nil, err
		}
	}
	return r, nil
}

func (r *Registry) listen(ctx context.Context, role string, handler http.HandlerFunc) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for the %s: %w", role, err)
	}
	server := &http.Server{
		Handler:           r.observe(role, handler),
		ReadHeaderTimeout: headerTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	r.hosts[role] = l.Addr().String()
	r.servers = append(r.servers, server)
	r.serving.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(fmt.Sprintf("ocitest: the %s stopped serving: %v", role, err)) // nothing but Close may end it
		}
	})
	return nil
}

// Close stops the registry, breaks off what is being answered and waits for it. It may be called again.
func (r *Registry) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	for _, server := range r.servers {
		_ = server.Close() // what fails to close has been closed by its client
	}
	r.serving.Wait()
	r.inflight.Wait()
}

// Host returns the address clients write in references, "127.0.0.1:<port>".
func (r *Registry) Host() string { return r.hosts[roleRegistry] }

// URL returns the root of the registry, "http://127.0.0.1:<port>", without a slash at its end.
func (r *Registry) URL() string { return "http://" + r.Host() }

// StorageHost returns the address blobs are redirected to; empty without Options.RedirectBlobs.
func (r *Registry) StorageHost() string { return r.hosts[roleStorage] }

// TokenURL returns the address of the token service; empty without Options.BearerAuth.
func (r *Registry) TokenURL() string {
	switch {
	case r.tokens == nil:
		return ""
	case r.hosts[roleToken] != "":
		return "http://" + r.hosts[roleToken] + tokenPath
	}
	return r.URL() + tokenPath
}

// SetIntercept lets f answer from the next request on; nil lets the registry answer again. Requests already being answered are
// not affected.
func (r *Registry) SetIntercept(f Intercept) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.intercept = f
}

// observe records each request and its status, and asks the intercept before the handler.
func (r *Registry) observe(role string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		intercept, ok := r.enter()
		if !ok {
			panic(http.ErrAbortHandler)
		}
		defer r.inflight.Done()
		w = &recorder{ResponseWriter: w, log: &r.log, entry: r.log.begin(role, req)}
		if intercept != nil && intercept(w, req) {
			return
		}
		next(w, req)
	}
}

// enter counts a request in, and reports false when the registry is closing.
func (r *Registry) enter() (Intercept, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, false
	}
	r.inflight.Add(1)
	return r.intercept, true
}
