package access

import (
	"fmt"
	"slices"
	"strings"
)

// Action is something that can be done to a repository. The set is closed; the zero Action is none of them and is never allowed.
type Action string

// The actions. Each includes [Pull], since nobody can work on what he may not see.
const (
	// Pull is reading manifests, blobs, tags and referrers.
	Pull Action = "pull"
	// Push is writing manifests and blobs. It includes [Sign]: a signature is a manifest.
	Push Action = "push"
	// Sign is writing manifests that refer to one that is there, and nothing else.
	Sign Action = "sign"
	// Delete is removing manifests, tags and blobs.
	Delete Action = "delete"
	// Review is deciding about what lies in quarantine, and granting waivers.
	Review Action = "review"
	// Admin is all of these, and whatever else there is.
	Admin Action = "admin"
)

// Actions returns the closed set, in the order people are shown.
func Actions() []Action { return []Action{Pull, Push, Sign, Delete, Review, Admin} }

// ParseAction returns the action called s.
func ParseAction(s string) (Action, error) {
	if a := Action(s); a.set() != 0 {
		return a, nil
	}
	var names []string
	for _, a := range Actions() {
		names = append(names, string(a))
	}
	return "", fmt.Errorf("action %.40q is not one of %s", s, strings.Join(names, ", "))
}

// actionSet is a set of actions, one bit each, in the order of [Actions]. The zero value holds none.
type actionSet uint8

// set returns the set that holds a alone; the empty one for what is no action.
func (a Action) set() actionSet {
	i := slices.Index(Actions(), a)
	if i < 0 {
		return 0
	}
	return 1 << i
}

// with returns s and everything its actions include.
func (s actionSet) with() actionSet {
	if s&Admin.set() != 0 {
		return allActions()
	}
	if s&Push.set() != 0 {
		s |= Sign.set()
	}
	if s != 0 {
		s |= Pull.set()
	}
	return s
}

func allActions() actionSet { return 1<<len(Actions()) - 1 }

// names returns the actions of s.
func (s actionSet) names() []string {
	var names []string
	for _, a := range Actions() {
		if s&a.set() != 0 {
			names = append(names, string(a))
		}
	}
	return names
}
