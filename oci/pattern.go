package oci

import (
	"fmt"
	"strings"
)

// Pattern is a glob over repository names, anchored at both ends: '*' stands for any run of characters within one path
// component, '**' for any number of whole components, none included. The zero value matches nothing.
type Pattern struct {
	parts []string
}

// ParsePattern returns the pattern s describes. An empty pattern, an empty component, or a '**' that shares its component with
// other characters is refused, because each is more likely a slip than a wish.
func ParsePattern(s string) (Pattern, error) {
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if p == "" {
			return Pattern{}, fmt.Errorf("pattern %q has an empty component", s)
		}
		if strings.Contains(p, "**") && p != "**" {
			return Pattern{}, fmt.Errorf("pattern %q: ** must be a whole component", s)
		}
		for _, r := range p {
			if !patternRune(r) {
				return Pattern{}, fmt.Errorf("pattern %q: %q never occurs in a repository name", s, r)
			}
		}
	}
	return Pattern{parts: parts}, nil
}

// ParseFullPattern is [ParsePattern] for patterns over full names, upstream host first: a port's ':' may be written '_', as it is
// in the names clients use. Names at docker.io have at least two components below the host, so a pattern with one is refused: it
// would never match.
func ParseFullPattern(s string) (Pattern, error) {
	p, err := ParsePattern(s)
	if err == nil && len(p.parts) == 2 && p.parts[0] == "docker.io" && p.parts[1] != "**" {
		return Pattern{}, fmt.Errorf("pattern %q never matches: names at docker.io have two components, as in docker.io/library/%s", s, p.parts[1])
	}
	if err == nil && len(p.parts) > 1 {
		p.parts[0] = UnescapePort(p.parts[0])
	}
	return p, err
}

func patternRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("*._-:", r)
}

// String returns the pattern as it was written, but for the ':' of a port in front of a full one.
func (p Pattern) String() string { return strings.Join(p.parts, "/") }

// Match reports whether the whole of name fits the pattern.
func (p Pattern) Match(name string) bool {
	return len(p.parts) > 0 && matchParts(p.parts, strings.Split(name, "/"), matchPart)
}

// Covers reports whether p matches every name that q matches, as far as that shows component by component: it may say no where a
// closer look would find that it does, and never the other way round.
func (p Pattern) Covers(q Pattern) bool {
	return len(p.parts) > 0 && len(q.parts) > 0 && matchParts(p.parts, q.parts, coversPart)
}

// coversPart reports whether one component of a pattern, which is no '**', matches whatever a component of another matches. What q has
// between its '*' is there in every name, so a match with q as if it were a name is one with all of them; a '**' is no component at all.
func coversPart(pattern, q string) bool { return q != "**" && matchPart(pattern, q) }

// matchParts matches component by component. At a mismatch it goes back to the last '**' and lets that take one component more: an
// earlier one need not be tried again, so the cost is the product of the lengths.
func matchParts(pattern, name []string, fits func(pattern, part string) bool) bool {
	p, n := 0, 0
	star, taken := -1, 0 // the last '**' in the pattern, and where in the name what follows it was tried
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == "**":
			star, taken = p, n
			p++
		case p < len(pattern) && fits(pattern[p], name[n]):
			p, n = p+1, n+1
		case star >= 0:
			taken++
			p, n = star+1, taken
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "**" {
		p++
	}
	return p == len(pattern)
}

// matchPart matches one component, in which each '*' stands for any run of characters.
func matchPart(pattern, s string) bool {
	pieces := strings.Split(pattern, "*")
	if len(pieces) == 1 {
		return pattern == s
	}
	if !strings.HasPrefix(s, pieces[0]) {
		return false
	}
	s = s[len(pieces[0]):]
	last := pieces[len(pieces)-1]
	for _, piece := range pieces[1 : len(pieces)-1] {
		i := strings.Index(s, piece)
		if i < 0 {
			return false
		}
		s = s[i+len(piece):]
	}
	return len(s) >= len(last) && strings.HasSuffix(s, last)
}
