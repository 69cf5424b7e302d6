// Package proxy speaks the distribution API to clients. It is the one place where bytes are served.
//
// It promises that no byte of a manifest or blob leaves but under a verdict that allows it now and that was asked for by this very
// request, or as our own word on a verdict in force ([Statements]); that a blob leaves only by the verdict on a manifest of the same
// repository; that having come to no verdict is answered neither as an admission nor as a denial; and that what it serves is what it
// was handed, unchanged. It must not know where bytes come from or how a verdict is made, and holds nothing that could open what has
// not been released.
package proxy

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// defaultHold is how long a client is kept waiting for a verdict: common load balancers cut a connection that is silent for 60 s.
const defaultHold = 55 * time.Second

// Judge makes verdicts. Implementations are safe for concurrent use.
type Judge interface {
	// Judge returns the verdict on c, making it if there is none that still counts. It waits as long as ctx lasts; the judging
	// goes on without it. An admission is returned only once [Released] opens its bytes.
	// Errors: *gate.NoVerdict, which wraps the context's error when ctx ended first. The Verdict is then of no meaning.
	Judge(ctx context.Context, c gate.Candidate) (gate.Verdict, error)
	// Start begins to judge c and does not wait.
	Start(c gate.Candidate)
	// JudgeTag returns the verdict on asking for c by a tag, besides that on c itself. It does not wait for anything.
	JudgeTag(c gate.Candidate, tag string) gate.Verdict
}

// Released opens what has been released, and has no way to open anything else. Implementations are safe for concurrent use.
type Released interface {
	// Manifest returns the manifest of c. Errors: oci.ErrNotFound when it is not released.
	Manifest(ctx context.Context, c gate.Candidate) (oci.Content, error)
	// Blob opens a blob that c's manifest refers to, of size bytes. Content that is an io.Seeker is served in part without
	// reading what comes before; an *os.File goes to the network without passing through our memory. Reads fail, rather than
	// end, when the bytes turn out not to be d's.
	// Errors: oci.ErrBlobUnknown when c is not released or does not refer to d.
	Blob(ctx context.Context, c gate.Candidate, d oci.Digest) (content io.ReadCloser, size int64, err error)
}

// Resolver knows what repositories hold without fetching it. Implementations are safe for concurrent use.
type Resolver interface {
	// Allowed returns nil if clients may ask for repo at all. It does not wait for anything.
	// Errors: an oci.Error of code DENIED that says which list excludes repo.
	Allowed(repo oci.Repository) error
	// Resolve returns the descriptor of reference, a tag or a digest. stale says that it is an old answer, given because the
	// upstream gives none.
	// Errors: oci.ErrNotFound, oci.ErrUnauthorized, oci.ErrRateLimited, oci.ErrUnavailable.
	Resolve(ctx context.Context, repo oci.Repository, reference string) (desc oci.Descriptor, stale bool, err error)
	// Tags returns at most n tags that follow last, in the upstream's order; n is at least 1. more says that others follow.
	// Errors: as Resolve.
	Tags(ctx context.Context, repo oci.Repository, n int, last string) (tags []string, more bool, err error)
}

// Referrers lists what refers to a manifest. Implementations are safe for concurrent use.
type Referrers interface {
	// Referrers returns the descriptors of what refers to subject; each is a candidate of its own, judged when it is asked for.
	// Errors: as [Resolver]; oci.ErrNotFound when the upstream knows of none or does not know the question.
	Referrers(ctx context.Context, repo oci.Repository, subject oci.Digest) ([]oci.Descriptor, error)
}

// History knows what was released here before. Implementations are safe for concurrent use, and answer from memory.
type History interface {
	// Holders returns the candidates of repo that were released and whose manifests refer to blob, latest first. Whether they
	// are still allowed is for [Judge] to say.
	Holders(ctx context.Context, repo oci.Repository, blob oci.Digest) ([]gate.Candidate, error)
	// Released reports whether c was ever released, withdrawn since or not.
	Released(ctx context.Context, c gate.Candidate) (bool, error)
}

// Options are what a Proxy is built from. Every interface before Log, and Log, are needed; Hosted is nil where nothing is pushed.
type Options struct {
	Callers   Callers
	Rights    Rights
	Judge     Judge
	Released  Released
	Resolver  Resolver
	Referrers Referrers
	History   History
	Log       *slog.Logger
	// DefaultUpstream is the host of the upstream for names that say none; empty for no such upstream.
	DefaultUpstream string
	Hosted          *Hosted
	// Statements are what we state about manifests ourselves; nil for nothing.
	Statements Statements
	// Trail may be nil for nobody who is told, LastGood for nothing that is served in place of something else.
	Trail    Trail
	LastGood LastGood
	// AdminURL is where people find the console; denials point there. Empty for no pointer.
	AdminURL string
	// Hold is how long a client waits for a verdict; 0 for 55 s.
	Hold time.Duration
	// Platforms are those, as "linux/amd64", whose child of an index a mirror's client is told about when it asks for the index.
	Platforms []string
	// Denied is told who asked for a manifest and was refused it by a verdict. It must not block. Nil for nobody.
	Denied func(c gate.Candidate, by access.Caller)
	// Now is the clock requests are timed by; nil for time.Now.
	Now func() time.Time
}

// Proxy answers the distribution API. It is safe for concurrent use. It reads the path as it was sent, so it must not stand behind
// anything that cleans paths.
type Proxy struct {
	o          Options
	tombstones *tombstones
	metrics    *metrics
	// large has a value for each large manifest that is being taken.
	large chan struct{}
}

// New returns a Proxy. It panics when an option it cannot do without is missing.
func New(o Options) *Proxy {
	for name, missing := range map[string]bool{
		"Callers": o.Callers == nil, "Rights": o.Rights == nil, "Judge": o.Judge == nil, "Released": o.Released == nil, "Resolver": o.Resolver == nil,
		"Referrers": o.Referrers == nil, "History": o.History == nil, "Log": o.Log == nil,
	} {
		if missing {
			panic("proxy: option " + name + " is missing")
		}
	}
	if o.Hold == 0 {
		o.Hold = defaultHold
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Denied == nil {
		o.Denied = func(gate.Candidate, access.Caller) {}
	}
	o.AdminURL = strings.TrimSuffix(o.AdminURL, "/")
	o.Platforms = slices.Clone(o.Platforms)
	return &Proxy{o: o, tombstones: newTombstones(maxTombstones), metrics: newMetrics(), large: make(chan struct{}, maxLargeManifests)}
}

// Metrics returns what the proxy counts. No label ever holds what a client or an upstream wrote.
func (p *Proxy) Metrics() []prometheus.Collector { return p.metrics.all() }

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{answer: &answer{ResponseWriter: w, head: r.Method == http.MethodHead}, began: p.o.Now(), id: rand.Text()}
	// A name the client chose could be that of somebody else's request, so nothing it sent is taken for one.
	r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, x.id))
	defer p.finish(r, x)
	h := x.answer.Header()
	h.Set("Docker-Distribution-Api-Version", "registry/2.0")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Request-Id", x.id)
	h.Set("Cache-Control", "no-store")
	q, err := oci.ParseRequest(r.Method, r.URL)
	x.request = q
	if err == nil {
		err = p.serve(x, r, q)
	}
	if err != nil {
		p.refuse(x, r, err)
	}
}

// refuse answers with err.
func (p *Proxy) refuse(x *exchange, r *http.Request, err error) {
	x.err = err
	if answerTo(err).Status() == http.StatusUnauthorized {
		// Never the upstream's challenge: it would have the client send us another registry's password.
		x.answer.Header().Set("WWW-Authenticate", p.o.Callers.Challenge(r, actionOf(x.request), x.repo))
	}
	writeError(x.answer, err)
}

// serve answers q. An error it returns is answered by the caller; nothing has been written then.
func (p *Proxy) serve(x *exchange, r *http.Request, q oci.Request) (err error) {
	if err := p.identify(x, r); err != nil {
		return err
	}
	switch q.Kind {
	case oci.KindPing:
		return p.ping(x)
	case oci.KindCatalog:
		return p.serveCatalog(x, r, q)
	}
	if x.repo, err = q.Repository(p.o.DefaultUpstream, p.hosts); err != nil {
		return err
	}
	if err := p.introduced(x, r); err != nil {
		return err
	}
	switch {
	case q.Pushes() && x.isHosted():
		return p.servePush(x, r, q)
	case q.Pushes():
		return pushRefused(x.repo)
	}
	err = p.readable(r.Context(), x)
	if q.Kind == oci.KindManifest {
		return p.serveManifest(x, r, q, err)
	}
	if err != nil {
		return err
	}
	switch q.Kind {
	case oci.KindBlob:
		return p.serveBlob(x, r, q)
	case oci.KindTags:
		return p.serveTags(x, r, q)
	case oci.KindReferrers:
		return p.serveReferrers(x, r, q)
	default:
		return &oci.Error{Code: oci.CodeUnsupported, Message: "the request is not supported"}
	}
}

func pushRefused(repo oci.Repository) error {
	message := repo.String() + " belongs to an upstream and can only be read here; push to " + repo.Upstream + " itself"
	return &oci.Error{Code: oci.CodeUnsupported, Message: message}
}

// readable returns nil if the caller may ask for the exchange's repository at all, else what to answer. What the allowlist says is for
// those alone who may pull what it names.
func (p *Proxy) readable(ctx context.Context, x *exchange) error {
	if err := p.allow(ctx, x, access.Pull); err != nil || x.isHosted() {
		return err
	}
	err := p.o.Resolver.Allowed(x.repo)
	if isDenial(err) {
		return err
	}
	return failure("looking up whether the repository is allowed", err)
}

// requestIDKey is the key under which a request's context holds its id, the only thing it holds.
type requestIDKey struct{}

// RequestID returns the id of the request ctx belongs to, as the answer's X-Request-Id and the log have it; empty for none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}
