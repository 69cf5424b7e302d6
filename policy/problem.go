package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Problem is one thing wrong with a file.
type Problem struct {
	// File is the file's name as it was given to [Load] or [LoadTrust].
	File string
	// Line and Column count from 1. They are 0 where they are not known, as for a file that is too large.
	Line, Column int
	// Message is one clause for a person, without a full stop. It may quote the file.
	Message string
}

// String returns the problem in the form compilers print: "policy.yaml:12:5: unknown key …".
func (p Problem) String() string {
	switch {
	case p.Line == 0:
		return p.File + ": " + p.Message
	case p.Column == 0:
		return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// Problems is the error that says everything that is wrong with a set of files.
type Problems struct {
	// List is never empty; files are in the order they were given in, lines and columns ascend.
	List []Problem
}

// maxLines bounds the text of [Problems]: beyond it the file is likely no policy at all, and the text goes to the log.
const maxLines = 200

// Error returns one line for each problem, up to a bound.
func (p *Problems) Error() string {
	var lines []string
	for _, problem := range p.List[:min(len(p.List), maxLines)] {
		lines = append(lines, problem.String())
	}
	if more := len(p.List) - len(lines); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more problems", more))
	}
	return strings.Join(lines, "\n")
}

// asError returns problems as an error, nil when there are none, in the order of sources and of their lines.
func asError(problems []Problem, sources []source) error {
	if len(problems) == 0 {
		return nil
	}
	rank := func(p Problem) int {
		return slices.IndexFunc(sources, func(s source) bool { return s.name == p.File })
	}
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return &Problems{List: problems}
}

// joined returns a and b as one error, so that the problems of both are one list.
func joined(a, b error) error {
	pa, isA := errors.AsType[*Problems](a)
	pb, isB := errors.AsType[*Problems](b)
	if isA && isB {
		return &Problems{List: slices.Concat(pa.List, pb.List)}
	}
	return errors.Join(a, b)
}

// CheckAuthorities reports every authority that a policy of set asks for and roots does not know. No signature could ever satisfy
// such a policy.
//
// Errors: [*Problems], each at the line of its policy.
func CheckAuthorities(set *gate.PolicySet, roots *gate.TrustRoots) error {
	known := map[string]bool{}
	for _, a := range roots.Authorities {
		known[a.Name] = true
	}
	var problems []Problem
	for _, p := range set.Policies {
		for _, name := range p.Authorities() {
			if !known[name] {
				problems = append(problems, Problem{
					File: p.File, Line: p.Line,
					Message: fmt.Sprintf("policy %q asks for the word of %q, which no trust file names", p.Name, name),
				})
			}
		}
	}
	if problems == nil {
		return nil
	}
	return &Problems{List: problems}
}
