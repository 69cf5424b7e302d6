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
	attempt := Attempt{Event: EventAllowed, Caller: caller.Name, Address: caller.Address, Action: action, Repository: strings.Join(names, " ")}
	switch {
	case allowed:
		c.o.Observe(EventAllowed)
		if c.record(ctx, attempt) != nil {
			return errNotRecorded
		}
		return nil
	case caller.Anonymous() && c.takesCredentials():
		attempt.Event, attempt.Reason = EventChallenged, "not granted to everybody"
		c.note(ctx, attempt, "")
		return errLogIn
	case caller.Anonymous():
		attempt.Event, attempt.Reason = EventRefused, "not granted to everybody"
		c.note(ctx, attempt, "")
		return errDenied
	}
	attempt.Event, attempt.Reason = EventRefused, "not granted throughout"
	c.o.Observe(EventRefused)
	_ = c.record(ctx, attempt) // logged; it is refused either way
	return errDenied
}
