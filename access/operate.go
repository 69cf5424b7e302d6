package access

import (
	"context"
	"slices"

	"github.com/tidewaiter/tidewaiter/oci"
)

// everywhere is the pattern of all repositories there are, hosted here or not.
const everywhere = "**"

// Operates reports whether caller is granted [Admin] everywhere, and so may see what is about no repository in particular. Like May it puts
// nothing on record. A token of ours is given for repositories, so it makes nobody an operator.
func (c *Control) Operates(caller Caller) bool {
	return caller.narrow == nil && c.anyRule(&caller, func(r rule) bool {
		return r.gives&Admin.set() != 0 && slices.ContainsFunc(r.repositories, func(p oci.Pattern) bool { return p.String() == everywhere })
	})
}

// Reviews reports whether there is any repository that caller may review. Like May it puts nothing on record.
func (c *Control) Reviews(caller Caller) bool {
	return caller.narrow == nil && c.anyRule(&caller, func(r rule) bool { return r.gives&Review.set() != 0 })
}

// anyRule reports whether one of the rules for caller holds.
func (c *Control) anyRule(caller *Caller, holds func(rule) bool) bool {
	if caller.Name == "" {
		return false
	}
	for i := range c.grants {
		if g := &c.grants[i]; g.who.is(caller) && holds(g.rule) {
			return true
		}
	}
	return slices.ContainsFunc(c.everyone, holds)
}

// Operate returns nil if caller operates all of this, and has on record that it does, or was kept from, what doing says.
//
// Errors: an *oci.Error: UNAUTHORIZED for somebody unknown where credentials are taken, DENIED, or UNAVAILABLE when it is granted and
// could not be put on record.
func (c *Control) Operate(ctx context.Context, caller Caller, doing string) error {
	attempt := Attempt{Caller: caller.Name, Address: caller.Address, Action: Admin, Reason: doing}
	switch {
	case c.Operates(caller):
		attempt.Event = EventAllowed
		c.o.Observe(EventAllowed)
		if err := c.record(ctx, attempt); err != nil {
			return errNotRecorded
		}
		return nil
	case caller.Anonymous() && c.takesCredentials():
		attempt.Event = EventChallenged
		c.note(ctx, attempt, "")
		return errLogIn
	}
	attempt.Event = EventRefused
	c.note(ctx, attempt, "")
	return errDenied
}
