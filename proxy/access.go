package proxy

import (
	"context"
	"net/http"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Callers knows who sends a request. Implementations are safe for concurrent use.
type Callers interface {
	// Identify returns who sends r; whoever shows nothing is anonymous, who may have few rights or none.
	// Errors: an oci.Error that a client may see: UNAUTHORIZED for credentials that are not good, TOOMANYREQUESTS for somebody who
	// tried too many, UNAVAILABLE when it cannot be told. Credentials that are not good never make a caller anonymous.
	Identify(r *http.Request) (access.Caller, error)
	// Welcome returns nil if caller is to be told that it is welcome here, before it has asked for anything.
	// Errors: an oci.Error of code UNAUTHORIZED where clients have to be told that they could show who they are.
	Welcome(caller access.Caller) error
	// Challenge returns what WWW-Authenticate says to somebody who would need credentials for action on repo, which is the zero
	// Repository when it is about no one of them. It is not empty.
	Challenge(r *http.Request, action access.Action, repo oci.Repository) string
}

// Rights knows who may do what. Implementations are safe for concurrent use.
type Rights interface {
	// AllowOn returns nil if caller may do action to what on names, and has that on record: an action that cannot be recorded is refused.
	// Errors: an oci.Error that a client may see, and that is the same whether or not there is such a repository: UNAUTHORIZED for
	// somebody unknown, DENIED for somebody known, UNAVAILABLE when it could not be recorded.
	AllowOn(ctx context.Context, caller access.Caller, action access.Action, on oci.Reference) error
	// May is AllowOn for what is not worth a record.
	May(caller access.Caller, action access.Action, repo oci.Repository) bool
	// Authors reports whether caller is one of those who are granted to push to repo or sign there, and may pull from it now. It does not
	// matter for what its token was given: a client that is about to sign shows one for pulling when it reads what it will sign.
	Authors(caller access.Caller, repo oci.Repository) bool
}

// actionOf returns the right that q needs. Whoever may sign may upload what signatures consist of, which [Proxy.mayUpload] and
// [Proxy.mayPut] know.
func actionOf(q oci.Request) access.Action {
	switch {
	case !q.Pushes():
		return access.Pull
	case q.Method == http.MethodDelete && q.Kind != oci.KindUpload:
		return access.Delete
	default:
		return access.Push
	}
}

// identify notes who sends the request.
func (p *Proxy) identify(x *exchange, r *http.Request) (err error) {
	x.caller, err = p.o.Callers.Identify(r)
	x.by = x.client(r)
	return err
}

// introduced returns nil if it is known well enough who asks for the exchange's repository. In a hosted one it depends on who asks what is
// there, also where everybody may pull; and many clients show who they are only once they are asked to.
func (p *Proxy) introduced(x *exchange, r *http.Request) error {
	if !x.isHosted() || r.Header.Get("Authorization") != "" {
		return nil
	}
	return p.o.Callers.Welcome(x.caller)
}

// allow returns nil if the exchange's caller may do action to what its request names.
func (p *Proxy) allow(ctx context.Context, x *exchange, action access.Action) error {
	return p.allowOn(ctx, x, action, x.request.Digest)
}

// allowOn is allow for a request about the content d, which it may have named by tag alone.
func (p *Proxy) allowOn(ctx context.Context, x *exchange, action access.Action, d oci.Digest) error {
	return p.o.Rights.AllowOn(ctx, x.caller, action, oci.Reference{Repository: x.repo, Tag: x.request.Tag, Digest: d})
}

// seesPending reports whether the caller gets what was pushed to a hosted repository before, and whether or not, it is admitted: those
// who push there, to whom it is their own, and those who sign it.
func (p *Proxy) seesPending(x *exchange) bool {
	return x.isHosted() && p.o.Rights.Authors(x.caller, x.repo)
}

// ping answers end-1. Clients ask it for how to show who they are, and many ask nothing else.
func (p *Proxy) ping(x *exchange) error {
	if err := p.o.Callers.Welcome(x.caller); err != nil {
		return err
	}
	return writeJSON(x.answer, "application/json", struct{}{})
}
