package scan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/tidewaiter/tidewaiter/gate"
)

// matchSystemOverlay records what OSV records say about a package of the image's distribution. By the schema most distributions' name the
// source package, some the installed one, and several published ones are not of their schema's mind: a name means either.
func (m *matcher) matchSystemOverlay(r osRelease, p gate.Found) error {
	names := map[string]string{p.Name: p.Version} // to the version that counts under that name
	names[cmp.Or(p.Source, p.Name)] = cmp.Or(p.SourceVersion, p.Version)
	if stream, ok := moduleStream(p.Modularity); ok && r.streams {
		names[stream+"::"+p.Name] = p.Version
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		installed := newInstalledVersion(r.order, names[name])
		for _, scope := range r.scopes {
			if err := m.matchOverlay(scope, name, names[name], installed, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// scopes returns those of names that hold records, each once, in order.
func (o overlay) scopes(names ...string) []string {
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return len(o[name]) == 0 })
}

// matchOverlay records what OSV records say about p, filed under scope and name. What p states as its version may not be in the form
// that installed is compared in.
func (m *matcher) matchOverlay(scope, name, stated string, installed installedVersion, p gate.Found) error {
	for _, a := range m.data.overlay[scope][name] {
		if err := m.look(); err != nil {
			return err
		}
		affected, err := a.affects(installed, stated)
		if err != nil {
			if err := m.unknownVersion(p, a.id, err); err != nil {
				return err
			}
			continue
		}
		if !affected {
			continue
		}
		v, err := m.vulnerability(a.id)
		if err != nil {
			return err
		}
		f := gate.Finding{
			ID: a.id, Package: p.Package, Path: p.Path, Source: overlaySource, FixedVersion: a.fixedVersion(installed),
			Severity: cmp.Or(a.severity, v.severity(0, "")), Title: cmp.Or(a.title, oneLine(v.Title)), Published: a.published,
		}
		if f.Published.IsZero() {
			f.Published = v.PublishedDate.UTC()
		}
		if err := m.record(installed.order, f); err != nil {
			return err
		}
	}
	return nil
}

// affects reports whether a package of version installed, which its package states so, is one the record names, singly or in a range.
func (a *overlayAdvisory) affects(installed installedVersion, stated string) (bool, error) {
	if len(a.ranges) == 0 && len(a.versions) == 0 {
		return false, fmt.Errorf("%w: the advisory names none", errUnknownVersion)
	}
	for _, version := range a.versions {
		if version == installed.text || version == stated {
			return true, nil
		}
		if c, err := installed.compare(version); err == nil && c == 0 { // what is no version is not the one installed
			return true, nil
		}
	}
	unknown := installed.unknown
	for _, events := range a.ranges {
		in, err := inRange(events, installed)
		if in {
			return true, nil
		}
		if err != nil {
			unknown = err
		}
	}
	return false, unknown
}

// inRange follows events up to installed, as the schema's evaluation does.
func inRange(events []overlayEvent, installed installedVersion) (in bool, err error) {
	for _, e := range events {
		if e.kind == eventIntroduced && e.version == fromTheStart {
			in = true
			continue
		}
		c, err := installed.compare(e.version)
		if err != nil {
			return false, err
		}
		switch e.kind {
		case eventIntroduced:
			in = in || c >= 0
		case eventFixed:
			in = in && c < 0
		case eventLastAffected:
			in = in && c <= 0
		}
	}
	return in, nil
}

// fixedVersion returns the first version after installed at which a range ends; empty when there is none.
func (a *overlayAdvisory) fixedVersion(installed installedVersion) string {
	for _, events := range a.ranges {
		if in, err := inRange(events, installed); err != nil || !in {
			continue
		}
		for _, e := range events {
			if e.kind == eventFixed && isAfter(installed, e.version) {
				return e.version
			}
		}
	}
	return ""
}
