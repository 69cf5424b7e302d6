package scan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// apkRecord are the fields of one package that tell what it is.
type apkRecord struct {
	fields map[byte]string
	any    bool // whether there was a line at all
}

// readAPK returns the packages of apk's state: a letter, a colon and a value a line, and a line of less than two characters after each
// package. A package without a name or a version, and a line that is none of this, is an error besides; the rest is still read.
//
// Scalibr's reader is not used: it passes over what has no version, and reads nothing where a line is long.
func readAPK(_ context.Context, f file) ([]gate.Package, error) {
	var packages []gate.Package
	var first error // of what is wrong; the others are alike, and there may be many
	number := 0
	note := func(err error) {
		if first == nil && err != nil {
			first = fmt.Errorf("line %d: %w", number, err)
		}
	}
	r := apkRecord{fields: map[byte]string{}}
	end := func() {
		if r.any {
			p, err := r.pkg()
			note(err)
			if err == nil {
				packages = append(packages, p)
			}
		}
		clear(r.fields)
		r.any = false
	}
	for line := range bytes.Lines(f.data) {
		number++
		line = bytes.TrimRight(line, "\r\n")
		if len(line) < 2 {
			end()
			continue
		}
		note(r.add(line))
	}
	end()
	return packages, first
}

// add takes a line of at least two characters.
func (r *apkRecord) add(line []byte) error {
	r.any = true
	if line[1] != ':' {
		return errors.New("it is no field")
	}
	switch field := line[0]; field {
	case 'P', 'V', 'A', 'o', 'L':
		if _, twice := r.fields[field]; twice {
			return fmt.Errorf("the field %q is there twice", field)
		}
		r.fields[field] = string(line[2:])
	}
	return nil
}

// pkg returns the package r is about.
func (r *apkRecord) pkg() (gate.Package, error) {
	name, version := r.fields['P'], r.fields['V']
	odd := func(s string) bool { return s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' }) }
	if odd(name) || odd(version) {
		return gate.Package{}, fmt.Errorf("the package %.100q has the version %.100q", name, version)
	}
	p := gate.Package{Type: "apk", Name: name, Version: version, Arch: r.fields['A']}
	if license := r.fields['L']; license != "" {
		p.Licenses = []string{license}
	}
	setSource(&p, r.fields['o'], "")
	return p, nil
}
