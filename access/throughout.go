package access

import (
	"context"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/oci"
)

// MayThroughout reports whether caller may do action in every repository that scope can match, by a single grant that covers all of
// them. A token of ours is for repositories by name, so by one nobody may do anything throughout a pattern with a '*'.
func (c *Control) MayThroughout(caller Caller, action Action, scope oci.Pattern) bool {
	if caller.Name == "" || caller.left(action.set(), scope.String())&action.set() == 0 {
		return false
	}
	gives := func(r rule) bool {
		return r.gives&action.set() != 0 && slices.ContainsFunc(r.repositories, func(p oci.Pattern) bool { return p.Covers(scope) })
	}
	return slices.ContainsFunc(c.everyone, gives) ||
		slices.ContainsFunc(c.grants, func(g grant) bool { return g.who.is(&caller) && gives(g.rule) })
}

// AllowThroughout is [Control.Allow] for every repository that any of scopes can match. Without scopes nothing is allowed.
func (c *Control) AllowThroughout(ctx context.Context, caller Caller, action Action, scopes []oci.Pattern) error {
	var names []string
	allowed := len(scopes) > 0
	for _, s := range scopes {
		names = append(names, s.String())
		allowed = allowed && c.MayThroughout(caller, action, s)
	}
	on := strings.Join(names, " ")
	if !allowed {
		return c.refuse(ctx, caller, Attempt{Action: action, Repository: on, Reason: "not granted throughout"})
	}
	c.o.Observe(EventAllowed)
	attempt := Attempt{Event: EventAllowed, Caller: caller.Name, Address: caller.Address, Action: action, Repository: on}
	if c.record(ctx, attempt) != nil {
		return errNotRecorded
	}
	return nil
}

// AllowSomewhere returns nil if caller may do action in any repository there could be, which is what a list takes that shows everybody
// his own. That is not put on record; a refusal is, as [Control.Allow] does.
func (c *Control) AllowSomewhere(ctx context.Context, caller Caller, action Action) error {
	gives := func(r rule) bool { return r.gives&action.set() != 0 }
	granted := slices.ContainsFunc(c.everyone, gives) ||
		slices.ContainsFunc(c.grants, func(g grant) bool { return g.who.is(&caller) && gives(g.rule) })
	if granted && caller.Name != "" && caller.narrow == nil { // a token of ours is for repositories by name
		return nil
	}
	return c.refuse(ctx, caller, Attempt{Action: action, Reason: "not granted anywhere"})
}

// refuse puts on record that caller was kept from what attempt says, and returns what it is answered.
func (c *Control) refuse(ctx context.Context, caller Caller, attempt Attempt) error {
	attempt.Caller, attempt.Address = caller.Name, caller.Address
	switch {
	case caller.Anonymous() && c.takesCredentials():
		attempt.Event, attempt.Reason = EventChallenged, "not granted to everybody"
		c.note(ctx, attempt, "")
		return errLogIn
	case caller.Anonymous():
		attempt.Event, attempt.Reason = EventRefused, "not granted to everybody"
		c.note(ctx, attempt, "")
		return errDenied
	}
	attempt.Event = EventRefused
	c.o.Observe(EventRefused)
	_ = c.record(ctx, attempt) // logged; it is refused either way
	return errDenied
}
