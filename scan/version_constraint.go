package scan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// versionSet is a set of versions as language advisories write it: alternatives, of which a version has to fit one, each a list of
// bounds that it has to fit all of.
type versionSet [][]versionBound

// versionBound is one comparison with a version. The zero value fits nothing.
type versionBound struct {
	op      boundOp
	version string
	// within, for operators that stay inside a line of releases, is the line: the leading numbers a version has to share.
	within []string
}

type boundOp int

const (
	boundInvalid boundOp = iota
	boundAny             // every version
	boundEqual
	boundNot
	boundBelow
	boundUpTo
	boundAbove
	boundFrom
	boundLine      // the line alone: "1.2.x"
	boundNotLine   // everything but the line: "!=1.2.*"
	boundAfterLine // newer than the whole line: ">1.2.x"
	boundUpToLine  // older than the line, or in it: "<=1.2.x"
	boundFromLine  // from the version to the end of the line: "^1.2.3", "~>1.2.3"
)

// boundOps maps each operator to what it means in front of a whole version.
var boundOps = map[string]boundOp{
	"": boundEqual, "=": boundEqual, "==": boundEqual, "===": boundEqual, "!=": boundNot,
	"<": boundBelow, "<=": boundUpTo, "=<": boundUpTo, ">": boundAbove, ">=": boundFrom, "=>": boundFrom,
	"^": boundFromLine, "~": boundFromLine, "~>": boundFromLine, "~=": boundFromLine,
}

// lineOps maps the operators that mean something else in front of a line, "1.2.x", than of a version.
var lineOps = map[boundOp]boundOp{boundEqual: boundLine, boundNot: boundNotLine, boundAbove: boundAfterLine, boundUpTo: boundUpToLine}

// parseVersionSet reads alternatives parted by "||" of bounds parted by commas or spaces, at least one in each. order tells what a
// lone tilde means: to Composer the same as "~>", to everyone else at most the next minor release.
//
// Known not to be read: Maven's interval brackets, which this data does not use.
func parseVersionSet(order versionOrder, text string) (versionSet, error) {
	var set versionSet
	for alternative := range strings.SplitSeq(text, "||") {
		bounds, err := parseBounds(order, alternative)
		if err != nil {
			return nil, fmt.Errorf("%w: %s is no set of versions", err, quoted(text))
		}
		set = append(set, bounds)
	}
	return set, nil
}

const (
	boundSeparators = ", \t\r\n"
	boundOpBytes    = "<>=!~^"
)

func parseBounds(order versionOrder, text string) ([]versionBound, error) {
	var bounds []versionBound
	for text = strings.TrimLeft(text, boundSeparators); text != ""; text = strings.TrimLeft(text, boundSeparators) {
		rest := strings.TrimLeft(text, boundOpBytes)
		op := text[:len(text)-len(rest)]
		rest = strings.TrimLeft(rest, " \t")
		end := strings.IndexAny(rest, boundSeparators+"<>=!^")
		if end < 0 {
			end = len(rest)
		}
		if through, ok := strings.CutPrefix(rest[end:], " - "); ok && op == "" { // "1.2 - 1.4"
			bound, err := newBound(order, ">=", rest[:end])
			if err != nil {
				return nil, err
			}
			bounds, text = append(bounds, bound), "<="+strings.TrimLeft(through, " ")
			continue
		}
		bound, err := newBound(order, op, rest[:end])
		if err != nil {
			return nil, err
		}
		bounds, text = append(bounds, bound), rest[end:]
	}
	if len(bounds) == 0 {
		return nil, errUnknownVersion
	}
	return bounds, nil
}

func newBound(order versionOrder, operator, version string) (versionBound, error) {
	op, ok := boundOps[operator]
	if !ok || version == "" {
		return versionBound{}, fmt.Errorf("%w: %s before %s", errUnknownVersion, quoted(operator), quoted(version))
	}
	line, wild := cutWildcard(version)
	if wild && line == "" {
		return versionBound{op: boundAny}, nil
	}
	if err := checkVersion(order, line); err != nil {
		return versionBound{}, err
	}
	numbers := leadingNumbers(line)
	if (wild || op == boundFromLine) && (len(numbers) == 0 || strings.Contains(line, "!")) { // "1!2.0" has an epoch
		return versionBound{}, fmt.Errorf("%w: %s is not of a line of releases", errUnknownVersion, quoted(version))
	}
	if wild {
		if lineOp, ok := lineOps[op]; ok {
			op = lineOp
		}
		if op == boundFromLine { // "^1.x", "~> 1.x": the line itself
			return versionBound{op: boundFromLine, version: line, within: numbers}, nil
		}
		return versionBound{op: op, version: line, within: numbers}, nil
	}
	b := versionBound{op: op, version: line}
	if op == boundFromLine {
		b.within = numbers[:lineLength(order, operator, numbers)]
	}
	return b, nil
}

// lineLength returns how many leading numbers an operator keeps: a caret up to the first that is not zero, "~>" and "~=" all but the
// last, a tilde the first two.
func lineLength(order versionOrder, operator string, numbers []string) int {
	switch {
	case operator == "^":
		if i := slices.IndexFunc(numbers, func(n string) bool { return n != "0" }); i >= 0 {
			return i + 1
		}
		return len(numbers)
	case operator == "~" && order != orderPackagist:
		return min(2, len(numbers))
	default:
		return max(1, len(numbers)-1)
	}
}

// cutWildcard cuts the wildcards off the end of "1.2.x", "1.2.*" and "*". wild says whether there were any.
func cutWildcard(version string) (line string, wild bool) {
	for line = version; ; wild = true {
		i := strings.LastIndexByte(line, '.')
		if last := line[i+1:]; last != "x" && last != "X" && last != "*" {
			return line, wild
		}
		line = line[:max(i, 0)]
		if line == "" {
			return "", true
		}
	}
}

// leadingNumbers returns the numbers a version begins with, without leading zeros: "v1.02.3-rc1" is 1, 2, 3.
func leadingNumbers(version string) []string {
	version = strings.TrimLeft(version, "vV")
	var numbers []string
	for part := range strings.SplitSeq(version, ".") {
		digits := part[:len(part)-len(strings.TrimLeft(part, "0123456789"))]
		if digits == "" {
			break
		}
		numbers = append(numbers, cmp.Or(strings.TrimLeft(digits, "0"), "0"))
		if digits != part {
			break
		}
	}
	return numbers
}

// contains reports whether v is in the set. Where a bound cannot be compared with v the answer is an error, unless the others
// settle it.
func (s versionSet) contains(v installedVersion) (bool, error) {
	var unknown error
	for _, bounds := range s {
		in, err := fitsAll(bounds, v)
		if in {
			return true, nil
		}
		if err != nil {
			unknown = err
		}
	}
	return false, unknown
}

// fitsAll reports whether v fits every bound. One that it surely does not fit settles it.
func fitsAll(bounds []versionBound, v installedVersion) (bool, error) {
	var unknown error
	for _, b := range bounds {
		in, err := b.fits(v)
		if err == nil && !in {
			return false, nil
		}
		if err != nil {
			unknown = err
		}
	}
	return unknown == nil, unknown
}

func (b versionBound) fits(v installedVersion) (bool, error) {
	if b.op == boundAny {
		return true, nil
	}
	c, err := v.compare(b.version)
	if err != nil {
		return false, err
	}
	switch inLine := b.holdsLine(v); b.op {
	case boundEqual:
		return c == 0, nil
	case boundNot:
		return c != 0, nil
	case boundBelow:
		return c < 0, nil
	case boundUpTo:
		return c <= 0, nil
	case boundAbove:
		return c > 0 && !isPostRelease(v, b.version), nil
	case boundFrom:
		return c >= 0, nil
	case boundLine:
		return inLine, nil
	case boundNotLine:
		return !inLine, nil
	case boundAfterLine:
		return c > 0 && !inLine, nil
	case boundUpToLine:
		return c < 0 || inLine, nil
	case boundFromLine:
		return c >= 0 && inLine, nil
	default:
		return false, fmt.Errorf("%w: no operator", errUnknownVersion)
	}
}

// isPostRelease reports whether v is a post-release of version, "1.0.post1" of "1.0": the same once more with its packaging mended, which
// PEP 440 has newer than it and yet not in ">1.0".
func isPostRelease(v installedVersion, version string) bool {
	if v.order != orderPyPI {
		return false
	}
	form := versionForms[orderPyPI]
	parts := form.FindStringSubmatchIndex(v.text)
	if parts == nil || parts[2*form.SubexpIndex("post")] < 0 {
		return false
	}
	c, err := compareVersions(orderPyPI, v.text[:parts[2*form.SubexpIndex("post")]], version)
	return err == nil && c == 0
}

// holdsLine reports whether v begins with the numbers of the bound's line; numbers v does not have are zero.
func (b versionBound) holdsLine(v installedVersion) bool {
	numbers := leadingNumbers(v.text)
	for i, want := range b.within {
		have := "0"
		if i < len(numbers) {
			have = numbers[i]
		}
		if have != want {
			return false
		}
	}
	return true
}
