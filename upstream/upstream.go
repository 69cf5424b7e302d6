// Package upstream reads from registries that nobody trusts, and pushes to them what was admitted.
//
// It owns how Tidewaiter asks: authentication, mirrors, retries, back-off, resuming, and what is remembered of tags. It promises
// that a credential never leaves for a host that was not configured to receive it, that nothing inside the operator's network is
// reached because an upstream said so, that a manifest it returns has the digest that was asked for, that everything but a blob
// is bounded in size and time, and that no text an upstream wrote reaches a client. Reading never carries a token that could change
// anything: what pushes has tokens and connections of its own.
//
// It must not decide what may be served: what it returns are bytes nobody has vouched for. Blobs it does not even verify; whoever
// reads one does so through [oci.NewVerifier].
package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Registries are the configured upstreams. It is safe for concurrent use.
//
// Every method that reads from a repository refuses, as [Registries.Allowed] does, one that is not allowed. Its errors are, or wrap,
// an [oci.Error] that a client may see, unless the caller's own context ended: then they wrap the context's error.
type Registries struct {
	byHost map[string]*registry
	// signatures are the repositories some upstream names as the holder of its signatures. They are read whether or not the
	// allowlist has them, but clients get them only if it has.
	signatures map[oci.Repository]bool
	closers    []func()
}

// Options are what Registries needs from whoever wires it.
type Options struct {
	// UserAgent is sent with every request: "tidewaiter/1.2.3".
	UserAgent string
	// Log may be nil for none. Text that an upstream wrote goes there at debug level only, quoted and cut short.
	Log *slog.Logger
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Observe is told of every exchange when it is over; nil for nobody. It is called from many goroutines and must not block.
	Observe func(Event)
	// Trace begins a span of an exchange of that kind with an upstream, which end ends; nil for nobody. It must not block. It is told
	// the outcome and no error: the text of one may hold what an upstream wrote, or a URL that is a permission to read.
	Trace func(ctx context.Context, kind Kind, host string) (_ context.Context, end func(Outcome))

	// retryWait is for tests; 0 for the real one.
	retryWait time.Duration
}

// New returns the upstreams configs describe. The error names everything that is wrong with all of them.
func New(configs []Config, o Options) (*Registries, error) {
	o.UserAgent = cmp.Or(o.UserAgent, "tidewaiter")
	o.retryWait = cmp.Or(o.retryWait, retryWait)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Observe == nil {
		o.Observe = func(Event) {}
	}
	if o.Trace == nil {
		o.Trace = func(ctx context.Context, _ Kind, _ string) (context.Context, func(Outcome)) {
			return ctx, func(Outcome) {}
		}
	}
	rs := &Registries{byHost: map[string]*registry{}, signatures: map[oci.Repository]bool{}}
	var problems []error
	for i, c := range configs {
		if err := rs.add(c.withDefaults(), o); err != nil {
			problems = append(problems, fmt.Errorf("upstreams[%d] %s: %w", i, c.Host, err))
		}
	}
	problems = append(problems, rs.linkSignatures()...)
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return rs, nil
}

func (rs *Registries) add(c Config, o Options) error {
	s, err := c.parse()
	if rs.byHost[c.Host] != nil {
		err = errors.Join(err, errors.New("the host is configured twice"))
	}
	if err != nil {
		return err
	}
	r, err := newRegistry(s, o)
	if err != nil {
		return err
	}
	rs.byHost[c.Host] = r
	rs.closers = append(rs.closers, r.close)
	return nil
}

// linkSignatures checks that every repository of signatures can be read through one of the upstreams.
func (rs *Registries) linkSignatures() []error {
	var problems []error
	for host, r := range rs.byHost {
		in := r.signaturesIn
		if in == (oci.Repository{}) {
			continue
		}
		if rs.byHost[in.Upstream] == nil {
			problems = append(problems, fmt.Errorf("upstream %s: signatures_in %s is not of a configured upstream", host, in))
			continue
		}
		rs.signatures[in] = true
	}
	slices.SortFunc(problems, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return problems
}

// Close gives up idle connections. Requests under way are not disturbed.
func (rs *Registries) Close() {
	for _, closeIdle := range rs.closers {
		closeIdle()
	}
}

// Hosts returns the names of the configured upstreams, sorted.
func (rs *Registries) Hosts() []string {
	hosts := make([]string, 0, len(rs.byHost))
	for host := range rs.byHost {
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	return hosts
}

// Allowed returns nil if clients may ask for repo: its upstream is configured, and the upstream's lists do not exclude it.
//
// Errors: an [oci.Error] with code DENIED that names the allowlist.
func (rs *Registries) Allowed(repo oci.Repository) error {
	r, ok := rs.byHost[repo.Upstream]
	if !ok {
		return denied("%s is not on the allowlist: its upstream is not configured", repo)
	}
	return r.allows(repo)
}

// SignaturesIn returns the repository that holds the signatures of repo: repo itself unless its upstream names another one.
func (rs *Registries) SignaturesIn(repo oci.Repository) oci.Repository {
	if r, ok := rs.byHost[repo.Upstream]; ok && r.signaturesIn != (oci.Repository{}) {
		return r.signaturesIn
	}
	return repo
}

// readable returns the upstream repo is to be read from.
func (rs *Registries) readable(repo oci.Repository) (*registry, error) {
	if err := rs.Allowed(repo); err != nil && !rs.signatures[repo] {
		return nil, err
	}
	if !oci.ValidPath(repo.Path) {
		return nil, fmt.Errorf("repository %.100q: %w", repo.Path, oci.ErrNameInvalid)
	}
	return rs.byHost[repo.Upstream], nil
}

func denied(format string, args ...any) error {
	return &oci.Error{Code: oci.CodeDenied, Message: fmt.Sprintf(format, args...)}
}
