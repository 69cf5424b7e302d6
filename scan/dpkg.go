package scan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// dpkgName matches the names of packages, which dpkg takes in either case and knows in the lower.
var dpkgName = regexp.MustCompile(`^[a-z0-9][a-z0-9+._-]*$`)

// dpkgSource matches what a package says it was built from: a name, and a version where it is another.
var dpkgSource = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9+._-]*)\s*(?:\(\s*([^\s()]+)\s*\))?$`)

// dpkgSpace is what dpkg takes for space. It begins a line that goes on with the one before.
const dpkgSpace = " \t\n\v\f\r"

// maxDpkgValueBytes bounds a field of several lines that is looked at, none of which has any reason to go on for one.
const maxDpkgValueBytes = 4 << 10

// dpkgStanza are the fields of one package that are looked at, by their names in lower case; "" is there if there are others.
type dpkgStanza struct {
	fields map[string]string
	last   string // the field a line that begins with space belongs to
	line   int    // the last one
}

// readDpkg returns the packages of dpkg's state, or of a file of status.d. Every state but removal counts as installed. What dpkg would
// take for an installed package is among them, or there is an error besides: a stanza without a version, lines that are no field. Where
// dpkg would refuse the whole file, the rest is still read.
//
// Scalibr's reader is not used: it passes over what it does not understand.
func readDpkg(_ context.Context, f file) ([]gate.Package, error) {
	var packages []gate.Package
	var first error // of what is wrong; the others are alike, and there may be many
	note := func(line int, err error) {
		if first == nil && err != nil {
			first = fmt.Errorf("line %d: %w", line, err)
		}
	}
	s := dpkgStanza{fields: map[string]string{}}
	end := func() {
		if len(s.fields) > 0 {
			p, installed, err := s.pkg()
			note(s.line, err)
			if installed {
				packages = append(packages, p)
			}
		}
		clear(s.fields)
		s.last = ""
	}
	for line := range bytes.Lines(f.data) {
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			end()
		} else {
			note(s.line+1, s.add(line))
		}
		s.line++
	}
	end()
	if first == nil && len(packages) == 0 && strings.HasPrefix(f.path, dpkgStatusDir) && len(bytes.TrimSpace(f.data)) > 0 {
		first = errors.New("it tells of no package") // and each file there is about one
	}
	return packages, first
}

// add takes a line that is not empty.
func (s *dpkgStanza) add(line []byte) error {
	if bytes.ContainsAny(line, "\x00\x1a") {
		return errors.New("a character that dpkg takes for the end of what is before it")
	}
	if strings.IndexByte(dpkgSpace, line[0]) >= 0 {
		if s.last == "" {
			return errors.New("it goes on with a field, and there is none")
		}
		value, wanted := s.fields[s.last]
		if wanted && len(value)+len(line) > maxDpkgValueBytes {
			return fmt.Errorf("the field %q has more than %d bytes", s.last, maxDpkgValueBytes)
		}
		if wanted {
			s.fields[s.last] = strings.Trim(value+"\n"+string(bytes.Trim(line, dpkgSpace)), dpkgSpace)
		}
		return nil
	}
	field, value, found := bytes.Cut(line, []byte(":"))
	name := strings.ToLower(string(bytes.TrimRight(field, dpkgSpace)))
	if !found || name == "" || name[0] == '-' || strings.ContainsAny(name, dpkgSpace) {
		return errors.New("it is no field")
	}
	s.last = name
	switch name {
	case "package", "version", "status", "architecture", "source":
		if _, twice := s.fields[name]; twice {
			s.last = "" // or the one that counts would go on
			return fmt.Errorf("the field %q is there twice", name)
		}
		s.fields[name] = string(bytes.Trim(value, dpkgSpace))
	case "revision", "package_revision", "package-revision": // of the last century; dpkg takes it for a part of the version
		return errors.New("a version in two fields")
	default:
		s.fields[""] = "" // which no line goes on with
	}
	return nil
}

// pkg returns the package s is about, and whether it is installed.
func (s *dpkgStanza) pkg() (p gate.Package, installed bool, err error) {
	name, version := strings.ToLower(s.fields["package"]), s.fields["version"]
	switch {
	case !dpkgName.MatchString(name):
		return p, false, fmt.Errorf("the stanza before names a package %.100q", name)
	case removed(s.fields["status"]):
		return p, false, nil
	case version == "" || strings.ContainsFunc(version, func(r rune) bool { return r <= ' ' }):
		return p, false, fmt.Errorf("the package %q has the version %.100q", name, version)
	}
	p = gate.Package{Type: "deb", Name: name, Version: version, Arch: s.fields["architecture"]}
	if source := s.fields["source"]; source != "" {
		parts := dpkgSource.FindStringSubmatch(source)
		if parts == nil {
			return p, true, fmt.Errorf("the package %q has the source %.100q", name, source)
		}
		setSource(&p, parts[1], parts[2])
	}
	return p, true, nil
}

// removed reports whether a dpkg status, "want flag state", says that nothing of the package is left but configuration. Every
// other state, and one that cannot be read, counts as installed: a package half configured has its files in place.
func removed(status string) bool {
	fields := strings.Fields(status)
	return len(fields) == 3 && (fields[2] == "not-installed" || fields[2] == "config-files")
}
