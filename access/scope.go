package access

import (
	"regexp"
	"strings"
)

// Limits of the scopes of one token. A push that mounts asks for a handful; a token lists what it was given for, and goes along
// with every request.
const (
	maxScopes     = 64
	maxScopeBytes = 1024
)

// scope is one thing a token is asked for (distribution-spec token scope: "repository:apps/web:pull,push").
type scope struct {
	// name is the repository as clients write it in paths; empty when the scope is the catalog.
	name  string
	asked actionSet
}

// repositoryType is the type of a scope for a repository, with or without a class: "repository(plugin)". What is in a repository is no
// matter of rights.
var repositoryType = regexp.MustCompile(`^repository(?:\([a-z0-9]+\))?$`)

// asks maps the actions of scopes to what they ask for. Clients know three, and push signatures as they push everything: whoever may
// only sign is given that much of a push.
var asks = map[string]actionSet{
	"pull": Pull.set(), "push": Push.set() | Sign.set(), "delete": Delete.set(), "*": allActions(),
	"sign": Sign.set(), "review": Review.set(), "admin": Admin.set(),
}

// parseScopes reads the scope parameters of a request, each of which may hold several, separated by spaces. What is malformed or
// unknown is left out, as everything is that is not granted: the token then says so by what it lacks.
func parseScopes(params []string) []scope {
	var scopes []scope
	for _, param := range params {
		for s := range strings.FieldsSeq(param) {
			if len(scopes) == maxScopes {
				return scopes
			}
			if parsed, ok := parseScope(s); ok {
				scopes = append(scopes, parsed)
			}
		}
	}
	return scopes
}

func parseScope(s string) (scope, bool) {
	kind, rest, ok := strings.Cut(s, ":")
	last := strings.LastIndexByte(rest, ':') // a name may begin with a host and port
	if !ok || last <= 0 || len(s) > maxScopeBytes {
		return scope{}, false
	}
	name, actions := rest[:last], rest[last+1:]
	if kind == "registry" && name == "catalog" && actions == "*" {
		return scope{asked: Pull.set()}, true
	}
	parsed := scope{name: name}
	for a := range strings.SplitSeq(actions, ",") {
		parsed.asked |= asks[a]
	}
	return parsed, repositoryType.MatchString(kind) && parsed.asked != 0
}
