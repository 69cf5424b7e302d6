package access

import (
	"context"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// What is answered. None depends on what there is.
var (
	errLogIn        = &oci.Error{Code: oci.CodeUnauthorized, Message: "authentication is required"}
	errDenied       = &oci.Error{Code: oci.CodeDenied, Message: "this is not granted, or there is no such repository"}
	errCredentials  = &oci.Error{Code: oci.CodeUnauthorized, Message: "the credentials are not valid"}
	errNotRecorded  = &oci.Error{Code: oci.CodeUnavailable, Message: "the audit log cannot be written, so nothing may be done", RetryAfter: unavailableRetry}
	errIssuerDown   = &oci.Error{Code: oci.CodeUnavailable, Message: "the token's issuer cannot be reached, so nobody can tell whether it is valid", RetryAfter: unavailableRetry}
	errTooManyTries = &oci.Error{Code: oci.CodeUnavailable, Message: "too many passwords are being compared; ask again", RetryAfter: time.Second}
)

// unavailableRetry is when to come back after something of ours was down: what restarts has, and what does not is not asked often.
const unavailableRetry = 10 * time.Second

// rights returns what caller may do to the repository called name, whatever token it holds.
func (c *Control) rights(caller *Caller, name string) actionSet {
	if caller.Name == "" {
		return 0
	}
	var may actionSet
	for _, r := range c.everyone { // what nobody needs a name for is not lost by having one
		may |= r.on(name)
	}
	return may | c.grantedBeyond(may, caller, name)
}

// grantedBeyond returns what grants give caller on the repository called name. Those that give no more than may are not looked at.
func (c *Control) grantedBeyond(may actionSet, caller *Caller, name string) actionSet {
	if caller.Name == "" {
		return 0
	}
	for i := range c.grants {
		if g := &c.grants[i]; g.gives&^may != 0 && g.who.is(caller) {
			may |= g.on(name)
		}
	}
	return may
}

// left returns what the token c holds leaves of rights to the repository called name.
func (c *Caller) left(rights actionSet, name string) actionSet {
	if c.narrow == nil {
		return rights
	}
	return rights & c.narrow.granted[name].with()
}

// May reports whether caller may do action to repo now. It goes by today's grants, puts nothing on record, and is for choosing what
// to show or to offer; what is to be done goes through [Control.Allow].
func (c *Control) May(caller Caller, action Action, repo oci.Repository) bool {
	name := repo.String()
	return name != "" && caller.left(c.rights(&caller, name), name)&action.set() != 0
}

// Authors reports whether caller is one of those who are granted to push to repo or to sign there, and may pull from it now. It goes by
// today's grants, whatever of them a token was given for: clients that are about to sign show one for pulling when they read what they
// will sign. What everybody may push makes nobody an author: everybody who pulls would be one.
func (c *Control) Authors(caller Caller, repo oci.Repository) bool {
	name := repo.String()
	granted := c.grantedBeyond(0, &caller, name)
	return name != "" && granted&(Push.set()|Sign.set()) != 0 && caller.left(granted, name)&Pull.set() != 0
}

// Lists reports whether repo may be named to caller in a list of repositories: whether it may be pulled, a token for the catalog
// being one for everything.
func (c *Control) Lists(caller Caller, repo oci.Repository) bool {
	if caller.narrow != nil && caller.narrow.catalog {
		caller.narrow = nil
	}
	return c.May(caller, Pull, repo)
}

// Allow returns nil if caller may do action to repo. Then it is on record, unless it is a pull: those are counted, and not recorded
// one by one. Refusals of known callers are all on record. Those that only ask for credentials, or for a token with more in it, are
// the first half of every login, so of each place and action one a minute is.
//
// Errors: an *oci.Error. UNAUTHORIZED: credentials, or a wider token, may help; the answer needs a [Control.Challenge]. DENIED: they
// will not. UNAVAILABLE: it is granted, and could not be put on record.
func (c *Control) Allow(ctx context.Context, caller Caller, action Action, repo oci.Repository) error {
	return c.AllowOn(ctx, caller, action, oci.Reference{Repository: repo})
}

// AllowOn is [Control.Allow] for what on names, which goes on record with it. Rights are those to the repository.
func (c *Control) AllowOn(ctx context.Context, caller Caller, action Action, on oci.Reference) error {
	name := on.Repository.String()
	var rights actionSet
	if name != "" {
		rights = c.rights(&caller, name)
	}
	attempt := Attempt{Caller: caller.Name, Address: caller.Address, Action: action, Repository: name, Tag: on.Tag, Digest: on.Digest}
	switch wanted := action.set(); {
	case caller.left(rights, name)&wanted != 0:
		attempt.Event = EventAllowed
		c.o.Observe(EventAllowed)
		if action == Pull {
			return nil
		}
		if err := c.record(ctx, attempt); err != nil {
			return errNotRecorded
		}
		return nil
	case rights&wanted != 0:
		attempt.Event, attempt.Reason = EventChallenged, "the token was not given for this"
		c.note(ctx, attempt, "")
		return errLogIn
	case caller.Anonymous() && wanted != 0 && c.takesCredentials():
		attempt.Event, attempt.Reason = EventChallenged, "not granted to everybody"
		c.note(ctx, attempt, "")
		return errLogIn
	case caller.Anonymous():
		attempt.Event, attempt.Reason = EventRefused, "not granted to everybody"
		c.note(ctx, attempt, "")
		return errDenied
	}
	attempt.Event, attempt.Reason = EventRefused, "not granted"
	c.o.Observe(EventRefused)
	_ = c.record(ctx, attempt) // logged; it is refused either way
	return errDenied
}

// record puts a on record. Errors are logged here.
func (c *Control) record(ctx context.Context, a Attempt) error {
	err := c.o.Audit.Record(ctx, a)
	if err != nil {
		c.o.Observe(EventAuditFailed)
		c.o.Log.ErrorContext(ctx, "an attempt could not be put on record", "event", a.Event, "client", a.Caller, "err", err)
	}
	return err
}

// note counts a refusal anybody can bring about, and puts it on record unless one like it is there from the last minute: otherwise
// anybody could fill the disk. account is that which was tried, if there is one.
func (c *Control) note(ctx context.Context, a Attempt, account string) {
	c.o.Observe(a.Event)
	if c.noted.first(notedKey{a.Event, a.Address, a.Action, account}) {
		_ = c.record(ctx, a) // logged; it is refused either way
	}
}

// Of refusals that look alike, one in notedFor is on record. maxNoted of them are remembered: more addresses than that at once have
// more of their refusals recorded, not fewer.
const (
	notedFor = time.Minute
	maxNoted = 4096
)

// noted remembers which refusals are on record. It is safe for concurrent use.
type noted struct {
	now func() time.Time
	mu  sync.Mutex
	at  *recent[notedKey, time.Time] // guarded by mu
}

// notedKey is what makes two refusals alike. Names of repositories are not in it, nor those of accounts there are not: a client can
// make up any number.
type notedKey struct {
	event   Event
	address string
	action  Action
	account string
}

func newNoted(now func() time.Time) *noted {
	return &noted{now: now, at: newRecent[notedKey, time.Time](maxNoted)}
}

// first reports whether a refusal is the first of its kind in a while.
func (n *noted) first(key notedKey) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	if last, ok := n.at.get(key); ok && now.Sub(last) < notedFor {
		return false
	}
	n.at.put(key, now)
	return true
}
