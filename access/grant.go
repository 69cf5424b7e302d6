package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Rule is a set of repositories and what may be done to them.
type Rule struct {
	// Repositories are patterns over full names, upstream host first, see [oci.ParseFullPattern].
	Repositories []string
	// Actions are of the closed set, see [ParseAction].
	Actions []string
}

// Grant lets somebody do something.
type Grant struct {
	// Who is "user:NAME", "robot:NAME", "group:NAME", "cert:CN=NAME" or "oidc:ISSUER:SUBJECT", where NAME and SUBJECT may hold '*'
	// for a run of characters without '/' and ':' and '**' for any run, or "authenticated" for everybody who is known.
	Who string
	Rule
}

// nameKinds are how names begin, and with them the who of a grant, that are followed by a pattern alone.
var nameKinds = []string{"user:", "robot:", "cert:CN="}

// grant is a Grant, checked. The zero value gives nothing to anybody.
type grant struct {
	who who
	rule
}

// rule is a Rule, checked.
type rule struct {
	repositories []oci.Pattern
	gives        actionSet // with what the actions include
}

// who says whom a grant is for. The zero value is nobody.
type who struct {
	// everybody is everybody who is known by name.
	everybody bool
	group     bool
	// prefix is how the name begins, literally: "user:", "oidc:https://issuer.example:".
	prefix string
	rest   glob
}

func (w who) is(c *Caller) bool {
	switch {
	case w.everybody:
		return c.known()
	case w.group:
		return slices.ContainsFunc(c.Groups, w.rest.match)
	}
	rest, ok := strings.CutPrefix(c.Name, w.prefix)
	return ok && w.prefix != "" && w.rest.match(rest)
}

// parseWho reads the who of a grant. issuers are the URLs of those whose tokens count.
func parseWho(s string, issuers []string) (who, error) {
	var w who
	rest, isOIDC := strings.CutPrefix(s, "oidc:")
	switch {
	case s == "authenticated":
		return who{everybody: true}, nil
	case s == anonymous:
		return who{}, errors.New("who may do what without a name is said by access.anonymous")
	case isOIDC:
		for _, issuer := range issuers {
			if subject, ok := strings.CutPrefix(rest, issuer+":"); ok {
				w.prefix, rest = "oidc:"+issuer+":", subject
			}
		}
		if w.prefix == "" {
			return who{}, fmt.Errorf("%.200q names no configured issuer, as in oidc:https://issuer.example:SUBJECT", s)
		}
	default:
		if rest, w.group = strings.CutPrefix(s, "group:"); !w.group {
			i := slices.IndexFunc(nameKinds, func(kind string) bool { return strings.HasPrefix(s, kind) })
			if i < 0 {
				return who{}, fmt.Errorf("%.200q is not user:, robot:, group:, cert:CN=, oidc:ISSUER: with a name behind it, or authenticated", s)
			}
			w.prefix, rest = nameKinds[i], s[len(nameKinds[i]):]
		}
	}
	var err error
	w.rest, err = parseGlob(rest)
	return w, err
}

// parseRule reads a rule, and returns what is wrong with it; some of that may be nil.
func parseRule(r Rule) (parsed rule, problems []error) {
	for _, s := range r.Repositories {
		p, err := oci.ParseFullPattern(s)
		problems = append(problems, err)
		parsed.repositories = append(parsed.repositories, p)
	}
	for _, s := range r.Actions {
		a, err := ParseAction(s)
		problems = append(problems, err)
		parsed.gives |= a.set()
	}
	if len(r.Repositories) == 0 {
		problems = append(problems, errors.New("names no repositories"))
	}
	if len(r.Actions) == 0 {
		problems = append(problems, errors.New("names no actions"))
	}
	parsed.gives = parsed.gives.with()
	return parsed, problems
}

// on returns what the rule gives on the repository called name.
func (r rule) on(name string) actionSet {
	if slices.ContainsFunc(r.repositories, func(p oci.Pattern) bool { return p.Match(name) }) {
		return r.gives
	}
	return 0
}

// parseRules reads everything that is granted.
func parseRules(o Options) (everyone []rule, grants []grant, problems []error) {
	for i, a := range o.Anonymous {
		r, wrong := parseRule(a)
		problems = append(problems, at(fmt.Sprintf("access.anonymous[%d]", i), wrong)...)
		everyone = append(everyone, r)
	}
	var issuers []string
	for _, issuer := range o.Issuers {
		issuers = append(issuers, issuer.Issuer)
	}
	for i, g := range o.Grants {
		w, whoErr := parseWho(g.Who, issuers)
		r, wrong := parseRule(g.Rule)
		problems = append(problems, at(fmt.Sprintf("access.grants[%d]", i), append(wrong, whoErr))...)
		grants = append(grants, grant{w, r})
	}
	return everyone, grants, problems
}

// at returns the problems there are, each with where it is in front.
func at(where string, problems []error) []error {
	var all []error
	for _, err := range problems {
		if err != nil {
			all = append(all, fmt.Errorf("%s: %w", where, err))
		}
	}
	return all
}
