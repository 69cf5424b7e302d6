package hosted

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// TagRule says which tags move.
type TagRule int

// Tag rules. The zero value is the strictest. Evidence tags are exempt from all.
const (
	Immutable       TagRule = iota // none
	ImmutableSemver                // all but full semantic versions, with or without a v in front
	Mutable                        // all
)

// ParseTagRule returns the rule that is written "mutable", "immutable" or "immutable-semver".
func ParseTagRule(s string) (TagRule, error) {
	switch s {
	case "mutable":
		return Mutable, nil
	case "immutable":
		return Immutable, nil
	case "immutable-semver":
		return ImmutableSemver, nil
	}
	return Immutable, fmt.Errorf("%.40q is not one of mutable, immutable, immutable-semver", s)
}

// DefaultPending is [Rule.Pending] when that is 0: whoever signs at all has signed within a day.
const DefaultPending = 24 * time.Hour

// Rule is how some repositories are hosted.
type Rule struct {
	// Repositories are patterns over paths. The first rule that matches counts.
	Repositories []oci.Pattern
	Tags         TagRule
	// ForwardTo is where what was admitted is copied to; empty for nowhere. It is not looked at here.
	ForwardTo string
	// Pending is how long what was pushed and denied stays before its bytes may be dropped; [DefaultPending] if 0.
	Pending time.Duration
}

// errPending says that a rule keeps pushed content for less than no time.
var errPending = errors.New("pending must not be negative")

func (r Rule) check() error {
	if r.Pending < 0 {
		return fmt.Errorf("%v: %w", r.Pending, errPending)
	}
	return nil
}

// fullVersion is a semantic version with all its parts (semver.org, 2.0.0). A tag cannot have the '+' of build metadata; charts write
// '_' for it.
var fullVersion = regexp.MustCompile(`^v?(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?(_[0-9A-Za-z.-]+)?$`)

// fixes reports whether tag, once pushed, stays what it is.
func (r Rule) fixes(tag string) bool {
	if _, evidence := oci.ParseEvidenceTag(tag); evidence {
		return false
	}
	switch r.Tags {
	case Mutable:
		return false
	case ImmutableSemver:
		return fullVersion.MatchString(tag)
	}
	return true
}

// rule returns the rule for repo. Errors: NAME_UNKNOWN when it is not hosted here.
func (r *Repositories) rule(repo oci.Repository) (Rule, error) {
	if _, err := oci.NewRepository("", repo.Path); err != nil || repo.Upstream != "" {
		return Rule{}, errNameUnknown
	}
	for _, rule := range r.o.Rules {
		for _, p := range rule.Repositories {
			if p.Match(repo.Path) {
				return rule, nil
			}
		}
	}
	return Rule{}, errNameUnknown
}

// errNameUnknown answers for a repository that is not here.
var errNameUnknown = &oci.Error{Code: oci.CodeNameUnknown, Message: "the repository is not known"}

// Hosts reports whether the repository called path is hosted here, whether or not anything was pushed to it yet.
func (r *Repositories) Hosts(path string) bool {
	_, err := r.rule(oci.Repository{Path: path})
	return err == nil
}
