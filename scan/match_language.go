package scan

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// ecosystem is how the advisories of a language's packages are filed.
type ecosystem struct {
	// prefix begins the names of its buckets, before "::".
	prefix string
	order  versionOrder
}

// ecosystems maps a type of package to how advisories are filed for it.
var ecosystems = map[string]ecosystem{
	"npm":      {"npm", orderNPM},
	"pypi":     {"pip", orderPyPI},
	"golang":   {"go", orderGo},
	"maven":    {"maven", orderMaven},
	"gem":      {"rubygems", orderGem},
	"cargo":    {"cargo", orderCargo},
	"nuget":    {"nuget", orderNuGet},
	"composer": {"composer", orderPackagist},
	"conan":    {"conan", orderConan},
	// A runtime without a package manager is what its makers released, which is what Bitnami's advisories count by.
	"generic": {"bitnami", orderBitnami},
}

// matchLanguage matches a package of a language. Every ecosystem above is one the database normally covers, so its absence is a
// gap as soon as the image has a package of it, and so is a type of package that is none of them.
func (m *matcher) matchLanguage(p gate.Found) error {
	e, ok := ecosystems[p.Type]
	if !ok {
		m.uncovered("there are no advisories for packages of type %s", quoted(p.Type))
		return nil
	}
	buckets := m.data.index.ecosystems[e.prefix]
	if len(buckets) == 0 {
		m.uncovered("there are no advisories for %s packages", p.Type)
	}
	installed := newInstalledVersion(e.order, advisedVersion(p.Package))
	for _, name := range m.data.index.languageNames(p.Package) {
		for _, bucket := range buckets {
			err := m.eachRow(bucket, name, func(id string, r row) error {
				return m.matchRow(e, bucket, p, installed, id, r)
			})
			if err != nil {
				return err
			}
		}
		if err := m.matchOverlay(e.prefix, name, installed, p); err != nil {
			return err
		}
	}
	return nil
}

// matchRow records what a row of bucket says about p.
func (m *matcher) matchRow(e ecosystem, bucket string, p gate.Found, installed installedVersion, id string, r row) error {
	affected, err := r.affects(installed)
	if err != nil {
		return m.unknownVersion(p, id, err)
	}
	if !affected {
		return nil
	}
	sourceID := m.data.index.sources[bucket]
	return m.found(p, e.order, hit{id: id, fixed: r.fixedVersion(installed), severity: r.Severity, sourceID: sourceID, source: e.prefix})
}

// affects reports whether a package of version installed is one the row is about: in one of the vulnerable sets, if there are any,
// and in none of the patched and unaffected ones.
func (r row) affects(installed installedVersion) (bool, error) {
	secure := slices.Concat(r.PatchedVersions, r.UnaffectedVersions)
	if slices.ContainsFunc(slices.Concat(r.VulnerableVersions, r.PatchedVersions), isBlank) {
		return true, nil // which is how a source says "all of them"
	}
	if len(r.VulnerableVersions) == 0 && len(secure) == 0 {
		return false, fmt.Errorf("%w: the advisory names none", errUnknownVersion)
	}
	if len(r.VulnerableVersions) == 0 {
		patched, err := inAny(secure, installed)
		return err == nil && !patched, err
	}
	vulnerable, err := inAny(r.VulnerableVersions, installed)
	if err != nil || !vulnerable {
		return false, err
	}
	patched, err := inAny(secure, installed)
	return err != nil || !patched, nil // surely vulnerable, and only a set that can be read clears it
}

func isBlank(text string) bool { return strings.TrimSpace(text) == "" }

// inAny reports whether v is in one of sets. When none of them says so and one cannot be read or compared the answer is an error.
func inAny(sets []string, v installedVersion) (bool, error) {
	var unknown error
	for _, text := range sets {
		set, err := parseVersionSet(v.order, text)
		if err != nil {
			unknown = err
			continue
		}
		in, err := set.contains(v)
		if in {
			return true, nil
		}
		if err != nil {
			unknown = err
		}
	}
	return false, unknown
}

// fixedVersion returns the first version after installed that the row calls patched; if it names some but none is known to come
// after, what it names; if it names none, the lowest end of a vulnerable set after installed.
func (r row) fixedVersion(installed installedVersion) string {
	if fix := firstAfter(installed, r.PatchedVersions, boundEqual, boundFrom, boundFromLine); fix != "" {
		return fix
	}
	if patched := slices.DeleteFunc(slices.Clone(r.PatchedVersions), isBlank); len(patched) > 0 {
		return oneLine(strings.Join(patched, ", "))
	}
	return firstAfter(installed, r.VulnerableVersions, boundBelow)
}

// firstAfter returns the lowest version after installed at which one of sets begins or ends, by the bounds of kind ops; empty when
// there is none.
func firstAfter(installed installedVersion, sets []string, ops ...boundOp) string {
	lowest := ""
	for _, text := range sets {
		set, err := parseVersionSet(installed.order, text)
		if err != nil {
			continue
		}
		for _, bounds := range set {
			at := highestBound(installed.order, bounds, ops)
			if at != "" && isAfter(installed, at) && (lowest == "" || isOlder(installed.order, at, lowest)) {
				lowest = at
			}
		}
	}
	return lowest
}

// highestBound returns the highest version among those of bounds that are of kind ops, which is where a version fits all of them.
func highestBound(order versionOrder, bounds []versionBound, ops []boundOp) string {
	highest := ""
	for _, b := range bounds {
		if slices.Contains(ops, b.op) && (highest == "" || isOlder(order, highest, b.version)) {
			highest = b.version
		}
	}
	return highest
}

// isOlder reports whether a is known to be older than b.
func isOlder(order versionOrder, a, b string) bool {
	c, err := compareVersions(order, a, b)
	return err == nil && c < 0
}

// isAfter reports whether version is known to be newer than installed.
func isAfter(installed installedVersion, version string) bool {
	c, err := installed.compare(version)
	return err == nil && c < 0
}

// languageNames returns the spellings under which advisories about p may be filed.
func (x *advisoryIndex) languageNames(p gate.Package) []string {
	var names []string
	switch p.Type {
	case "golang": // the only one whose names differ by case
		return []string{p.Name}
	case "pypi":
		canonical := canonicalPyPIName(p.Name)
		names = append([]string{canonical}, x.spellings[canonical]...)
	default:
		names = []string{strings.ToLower(p.Name)}
	}
	if !slices.Contains(names, p.Name) { // older data kept the spelling of the source
		names = append(names, p.Name)
	}
	if len(p.Roots) > 0 {
		names = append(names, x.akinNames(p, names)...)
	}
	return names
}

// akinNames returns the names, other than those known, under which there are advisories about what p may be, a Java archive that does
// not state its group.
func (x *advisoryIndex) akinNames(p gate.Package, known []string) []string {
	var names []string
	_, artifact, _ := strings.Cut(strings.ToLower(p.Name), ":")
	for _, name := range x.artifacts[artifact] {
		group, _, _ := strings.Cut(strings.ToLower(name), ":")
		if !slices.Contains(known, name) && akin(group, artifact, p.Roots) {
			names = append(names, name)
		}
	}
	return names
}

var pypiSeparators = regexp.MustCompile(`[-_.]+`)

// canonicalPyPIName returns name as PEP 503 compares it.
func canonicalPyPIName(name string) string {
	return strings.ToLower(pypiSeparators.ReplaceAllString(name, "-"))
}

var toolchainForm = regexp.MustCompile(`^(?:go)?(\d+\.\d+)(\.\d+)?(?:(rc|beta)(\d+))?([-+ ].*)?$`)

// advisedVersion returns the version of p in the form its advisories use.
func advisedVersion(p gate.Package) string {
	switch {
	case p.Type == "golang" && (p.Name == "stdlib" || p.Name == "toolchain"):
		return toolchainVersion(p)
	case p.Type == "generic" && p.Name == "python": // "3.13.0rc2", which semantic versions write with a hyphen
		return pythonCandidate.ReplaceAllString(p.Version, "$1-$2")
	case p.Type == "generic" && p.Name == "java": // whose fourth number is a matter of packaging
		return javaRelease.FindString(p.Version)
	default:
		return p.Version
	}
}

var javaRelease = regexp.MustCompile(`^\d+(?:\.\d+){0,2}`)

var pythonCandidate = regexp.MustCompile(`^([0-9.]+)((?:a|b|rc)\d+)$`)

// toolchainVersion returns the version of Go's standard library, "1.22.0-rc.1" for "go1.22rc1". What a vendor appended, "-fips" or
// " X:experiment", does not count.
func toolchainVersion(p gate.Package) string {
	parts := toolchainForm.FindStringSubmatch(strings.TrimPrefix(p.Version, "v"))
	if parts == nil {
		return p.Version
	}
	version := parts[1] + parts[2]
	if parts[2] == "" {
		version += ".0"
	}
	switch {
	case parts[3] != "":
		version += "-" + parts[3] + "." + parts[4]
	case strings.HasPrefix(parts[5], "-rc.") || strings.HasPrefix(parts[5], "-beta."):
		version += parts[5]
	}
	return version
}
