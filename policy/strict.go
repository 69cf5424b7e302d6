package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// syntaxError is how the YAML library words what it cannot parse. It gives the line nowhere else, at times the one before, and
// leaves out the first.
var syntaxError = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)

// maxMessageBytes bounds a problem's message, which may quote the file. The longest of ours lists every kind of gap.
const maxMessageBytes = 512

// place is where something stands, for problems that refer to it.
type place struct {
	file string
	line int
}

func (p place) String() string { return fmt.Sprintf("%s:%d", p.file, p.line) }

// value is a node of a YAML file and the key it belongs to, which its problems name. The items of a list have the list's key.
type value struct {
	node *yaml.Node
	key  string
}

// fields says how to read each key a mapping may have.
type fields map[string]func(value)

// strict reads YAML files node by node, so that every problem has its line, and refuses whatever it was not told to expect.
type strict struct {
	// file is the file being read.
	file     string
	problems []Problem
}

func (s *strict) report(at *yaml.Node, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if len(message) > maxMessageBytes {
		message = strings.ToValidUTF8(message[:maxMessageBytes], "") + "…"
	}
	s.problems = append(s.problems, Problem{File: s.file, Line: at.Line, Column: at.Column, Message: message})
}

// refuse reports a problem with v, after the name of its key.
func (s *strict) refuse(v value, format string, args ...any) {
	s.report(v.node, "%s: "+format, append([]any{v.key}, args...)...)
}

func (s *strict) at(v value) place { return place{s.file, v.node.Line} }

// open makes src the file being read and returns its one document. ok is false when there is nothing in it that could be read
// any further.
func (s *strict) open(src source) (v value, ok bool) {
	s.file = src.name
	if len(src.data) > maxFileBytes {
		s.report(&yaml.Node{}, "larger than %d bytes", maxFileBytes)
		return value{}, false
	}
	if bad := unreadable(src.data); bad != nil {
		s.report(bad, "not valid YAML: a byte or character that no text has")
		return value{}, false
	}
	var doc, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(src.data))
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		s.report(&yaml.Node{Line: 1, Column: 1}, "the file is empty")
		return value{}, false
	case err != nil:
		s.syntax(err)
		return value{}, false
	}
	if err := decoder.Decode(&second); err == nil {
		s.report(&second, "a second document begins here: write one document a file")
		return value{}, false
	} else if !errors.Is(err, io.EOF) {
		s.syntax(err)
		return value{}, false
	}
	before := len(s.problems)
	s.plain(&doc)
	return value{node: doc.Content[0], key: "the file"}, len(s.problems) == before
}

// unreadable returns where in data the first character is that YAML does not admit, nil if there is none (YAML 1.2, section 5.1).
func unreadable(data []byte) *yaml.Node {
	at := yaml.Node{Line: 1, Column: 1}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		control := unicode.IsControl(r) && !strings.ContainsRune("\t\n\r\u0085", r)
		if control || r == utf8.RuneError && size == 1 || r == '\ufeff' || r == '\ufffe' || r == '\uffff' {
			return &at
		}
		data = data[size:]
		if at.Column++; r == '\n' {
			at.Line, at.Column = at.Line+1, 1
		}
	}
	return nil
}

func (s *strict) syntax(err error) {
	at, message := &yaml.Node{Line: 1}, err.Error()
	if m := syntaxError.FindStringSubmatch(message); m != nil {
		if message = m[2]; m[1] != "" {
			at.Line, _ = strconv.Atoi(m[1]) // a number beyond int becomes 0, not known
		}
	}
	if strings.HasPrefix(message, "unknown anchor") { // the one thing it tells without a line wherever it is
		at.Line = 0
	}
	s.report(at, "not valid YAML: %s", message)
}

// plain refuses the parts of YAML by which a short file can mean a large one, or a value something else than it looks like.
func (s *strict) plain(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		s.report(n, "aliases are refused: write the value out")
	case n.Anchor != "":
		s.report(n, "anchors are refused: write the value out where it is needed")
	case n.Style&yaml.TaggedStyle != 0:
		s.report(n, "tags are refused: %.40q", n.Tag)
	}
	for _, child := range n.Content {
		s.plain(child)
	}
}

// mapping reads v key by key and returns the keys it has, those with a bad value too; nil when v is no mapping.
func (s *strict) mapping(v value, known fields) map[string]bool {
	if !s.is(v, yaml.MappingNode, "", "a mapping") {
		return nil
	}
	seen, lines := map[string]bool{}, map[string]int{}
	for pair := range slices.Chunk(v.node.Content, 2) {
		key := value{pair[0], v.key}
		if !s.is(key, yaml.ScalarNode, "!!str", "a word as key") {
			continue
		}
		name := key.node.Value
		read, ok := known[name]
		switch line, twice := lines[name]; {
		case twice:
			s.report(key.node, "%q is given twice, first in line %d", name, line)
		case !ok:
			s.report(key.node, "unknown key %.60q in %s: want one of %s", name, v.key, known.names())
		default:
			read(value{pair[1], name})
		}
		if _, twice := lines[name]; !twice {
			lines[name], seen[name] = key.node.Line, true
		}
	}
	return seen
}

// need reports the keys that v lacks. has is what [strict.mapping] returned for v.
func (s *strict) need(v value, has map[string]bool, keys ...string) {
	for _, key := range keys {
		if has != nil && !has[key] {
			s.refuse(v, "%s is missing", key)
		}
	}
}

// names returns the supported keys, for a message.
func (f fields) names() string {
	return strings.Join(slices.Sorted(maps.Keys(f)), ", ")
}

// is reports whether v is of a kind and, unless it is empty, of a tag; what names the two in the problem if it is not.
func (s *strict) is(v value, kind yaml.Kind, tag, what string) bool {
	if v.node.Kind == kind && (tag == "" || v.node.ShortTag() == tag) {
		return true
	}
	s.refuse(v, "want %s, got %s", what, describe(v.node))
	return false
}

// scalarKinds names what YAML takes an unquoted word for.
var scalarKinds = map[string]string{
	"!!str": "text", "!!int": "a number", "!!float": "a fraction", "!!bool": "true or false", "!!null": "nothing", "!!timestamp": "a time",
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	if kind, ok := scalarKinds[n.ShortTag()]; ok {
		return kind
	}
	return fmt.Sprintf("%.40q", n.Value)
}

// list calls each for every item of v and reports whether v is a list.
func (s *strict) list(v value, each func(value)) bool {
	if !s.is(v, yaml.SequenceNode, "", "a list") {
		return false
	}
	for _, item := range v.node.Content {
		each(value{item, v.key})
	}
	return true
}

// set reads a list of scalars in which none occurs twice.
func set[T any](s *strict, v value, read func(value) (T, bool)) []T {
	var all []T
	lines := map[string]int{}
	s.list(v, func(item value) {
		t, ok := read(item)
		if !ok {
			return
		}
		if line, twice := lines[item.node.Value]; twice {
			s.refuse(item, "%q is listed twice, first in line %d", item.node.Value, line)
			return
		}
		lines[item.node.Value] = item.node.Line
		all = append(all, t)
	})
	return all
}
