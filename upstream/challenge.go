package upstream

import (
	"fmt"
	"strings"
)

// challenge is what a registry asks for before it answers (RFC 9110, section 11.6.1; distribution, token authentication).
type challenge struct {
	// scheme is lower case: "bearer", "basic".
	scheme string
	// params has lower-case keys. Only bearer challenges have any that count here.
	params map[string]string
}

// parseChallenge reads the first challenge of a WWW-Authenticate header. A malformed rest is left out, as if it was not there; a
// parameter that occurs twice counts as it was first.
func parseChallenge(header string) challenge {
	scheme, rest := cutToken(header)
	c := challenge{scheme: strings.ToLower(scheme), params: map[string]string{}}
	for {
		var key, value string
		key, rest = cutToken(skipSpace(rest))
		rest = skipSpace(rest)
		if key == "" || !strings.HasPrefix(rest, "=") {
			return c
		}
		rest = skipSpace(rest[1:])
		if strings.HasPrefix(rest, `"`) {
			var ok bool
			if value, rest, ok = cutQuoted(rest); !ok {
				return c
			}
		} else {
			value, rest = cutToken(rest)
		}
		if key = strings.ToLower(key); c.params[key] == "" {
			c.params[key] = value
		}
		if rest = skipSpace(rest); !strings.HasPrefix(rest, ",") {
			return c
		}
		rest = rest[1:]
	}
}

// bearerHeader writes a bearer challenge so that every reader of it reads the same: the library that acts on it has a parser of
// its own, which must not find another realm than the one that was checked.
func bearerHeader(realm, service, scope string) string {
	header := fmt.Sprintf("Bearer realm=%q", realm)
	if service != "" {
		header += fmt.Sprintf(",service=%q", service)
	}
	if scope != "" {
		header += fmt.Sprintf(",scope=%q", scope)
	}
	return header
}

// cutToken takes an RFC 9110 token off the front of s.
func cutToken(s string) (token, rest string) {
	for i := range len(s) {
		c := s[i]
		alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alphanumeric && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return s[:i], s[i:]
		}
	}
	return s, ""
}

// cutQuoted takes an RFC 9110 quoted-string off the front of s, which begins with a quote. Only printable ASCII is accepted
// inside: realms, services and scopes need no more, and the rest is where readers differ.
func cutQuoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], true
		case c < ' ' || c > '~':
			return "", "", false
		case c == '\\':
			if i++; i == len(s) || s[i] < ' ' || s[i] > '~' {
				return "", "", false
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

func skipSpace(s string) string { return strings.TrimLeft(s, " \t") }
