package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/tidewaiter/tidewaiter/gate"
)

// maxNameBytes bounds the name of a policy or authority, which ends up in log lines and HTTP headers.
const maxNameBytes = 128

// maxTextBytes bounds a sentence for people, such as a waiver's reason, for the same cause.
const maxTextBytes = 1024

// text reads text that is not empty.
func (s *strict) text(v value) (string, bool) {
	if !s.is(v, yaml.ScalarNode, "!!str", "text") {
		return "", false
	}
	if v.node.Value == "" {
		s.refuse(v, "is empty")
		return "", false
	}
	return v.node.Value, true
}

// name reads what people and files refer to something by: printable text with no space around it.
func (s *strict) name(v value) (string, bool) {
	t, ok := s.text(v)
	if !ok {
		return "", false
	}
	unprintable := strings.ContainsFunc(t, func(r rune) bool { return !unicode.IsPrint(r) })
	if unprintable || t != strings.TrimSpace(t) || len(t) > maxNameBytes {
		s.refuse(v, "%.60q is no name: want at most %d bytes, printable, without space around it", t, maxNameBytes)
		return "", false
	}
	return t, true
}

// word reads a name without any space in it.
func (s *strict) word(v value) (string, bool) {
	t, ok := s.name(v)
	if ok && strings.ContainsFunc(t, unicode.IsSpace) {
		s.refuse(v, "%.60q has a space in it", t)
		return "", false
	}
	return t, ok
}

// sentence reads text for people as one line: each run of white space is one space.
func (s *strict) sentence(v value) (string, bool) {
	t, ok := s.text(v)
	if !ok {
		return "", false
	}
	t = strings.Join(strings.Fields(t), " ")
	unprintable := strings.ContainsFunc(t, func(r rune) bool { return !unicode.IsPrint(r) })
	if t == "" || unprintable || len(t) > maxTextBytes {
		s.refuse(v, "want a printable sentence of at most %d bytes", maxTextBytes)
		return "", false
	}
	return t, true
}

// flag reads true or false.
func (s *strict) flag(v value) (on, ok bool) {
	if !s.is(v, yaml.ScalarNode, "!!bool", "true or false") {
		return false, false
	}
	return strings.EqualFold(v.node.Value, "true"), true
}

// duration reads a time span that is not negative.
func (s *strict) duration(v value) (time.Duration, bool) {
	if v.node.Kind != yaml.ScalarNode {
		s.refuse(v, "want a duration such as 168h, got %s", describe(v.node))
		return 0, false
	}
	d, err := time.ParseDuration(v.node.Value)
	if err != nil || d < 0 {
		s.refuse(v, "%.40q is no duration: want hours, minutes or seconds, such as 168h", v.node.Value)
		return 0, false
	}
	return d, true
}

// instant reads a time as RFC 3339 writes it, and returns it in UTC.
func (s *strict) instant(v value) (time.Time, bool) {
	if v.node.Kind != yaml.ScalarNode {
		s.refuse(v, "want a time such as 2026-12-31T00:00:00Z, got %s", describe(v.node))
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, v.node.Value)
	t = t.UTC()
	// Only years of four digits can be written again, and the zero time means something else.
	if err != nil || t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		s.refuse(v, "%.40q is no time: want RFC 3339, such as 2026-12-31T00:00:00Z", v.node.Value)
		return time.Time{}, false
	}
	return t, true
}

// choice reads one of a closed set of words.
func choice[T any](s *strict, v value, words map[string]T) (T, bool) {
	t, ok := words[v.node.Value]
	if v.node.Kind != yaml.ScalarNode || v.node.ShortTag() != "!!str" || !ok {
		got := describe(v.node)
		if v.node.Kind == yaml.ScalarNode {
			got = fmt.Sprintf("%.60q", v.node.Value)
		}
		s.refuse(v, "unknown value %s: want one of %s", got, strings.Join(slices.Sorted(maps.Keys(words)), ", "))
		var zero T
		return zero, false
	}
	return t, true
}

// words returns the names of a closed set by themselves.
func words[T ~string](all []T) map[string]T {
	m := make(map[string]T, len(all))
	for _, t := range all {
		m[string(t)] = t
	}
	return m
}

// strangers are texts that an expression which names somebody does not all fit.
var strangers = []string{"a", "https://stranger.example/anybody", "stranger@mail.example", "https://github.com/stranger/any/.github/workflows/a.yml@refs/heads/b"}

// wholeExpression reads a regular expression that the whole of a text must fit. One that everything fits names nobody.
func (s *strict) wholeExpression(v value) gate.Wording {
	t, ok := s.text(v)
	if !ok {
		return gate.Wording{}
	}
	_, err := regexp.Compile(t) // on its own, lest its parentheses close ours
	if err != nil {
		s.refuse(v, "%v", err)
		return gate.Wording{}
	}
	whole, err := regexp.Compile(`\A(?:` + t + `)\z`)
	if err != nil {
		s.refuse(v, "%v", err)
		return gate.Wording{}
	}
	if whole.MatchString("") || !slices.ContainsFunc(strangers, func(s string) bool { return !whole.MatchString(s) }) {
		s.refuse(v, "%.60q fits anybody", t)
		return gate.Wording{}
	}
	return gate.Wording{Text: t, Regexp: true}
}

// maxAge reads how long something counts. Not at all is no age.
func (s *strict) maxAge(v value) time.Duration {
	age, ok := s.duration(v)
	if ok && age == 0 {
		s.refuse(v, "nothing is that young")
	}
	return age
}
