package gate

import "strings"

// Glob is a pattern over a whole text, in which each '*' stands for any characters. The zero value matches nothing.
type Glob string

// Match reports whether all of s fits the pattern.
func (g Glob) Match(s string) bool {
	pieces := strings.Split(string(g), "*")
	if len(pieces) == 1 {
		return g != "" && s == string(g)
	}
	s, ok := strings.CutPrefix(s, pieces[0])
	if !ok {
		return false
	}
	last := pieces[len(pieces)-1]
	for _, piece := range pieces[1 : len(pieces)-1] {
		_, after, found := strings.Cut(s, piece)
		if !found {
			return false
		}
		s = after
	}
	return strings.HasSuffix(s, last)
}

// folded returns the pattern for texts in lower case.
func (g Glob) folded() Glob { return Glob(strings.ToLower(string(g))) }
