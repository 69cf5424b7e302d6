package gate

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// PackagePattern names packages that may not be in an image.
type PackagePattern struct {
	// Type is as in [Package], or "*" for any.
	Type string
	// Name is the package's, or that of the source it was built from. Case does not matter.
	Name Glob
	// Version is "*" for any.
	Version Glob
}

// String returns the pattern as policies write it.
func (d PackagePattern) String() string {
	if d.Version == "*" {
		return d.Type + "/" + string(d.Name)
	}
	return d.Type + "/" + string(d.Name) + "@" + string(d.Version)
}

// PackageTypes returns the types of packages there are.
func PackageTypes() []string {
	return []string{"deb", "apk", "rpm", "golang", "npm", "pypi", "maven", "gem", "cargo", "nuget", "composer", "conan", "generic"}
}

// matches reports whether the pattern means p.
func (d PackagePattern) matches(p Package) bool {
	if d.Type != "*" && d.Type != p.Type {
		return false
	}
	is := func(name, version string) bool {
		return name != "" && d.Name.folded().Match(strings.ToLower(name)) && d.matchesVersion(p.Type, version)
	}
	if p.Type == "pypi" {
		d.Name = Glob(pypiSeparators.ReplaceAllString(string(d.Name), "-"))
		return is(pypiSeparators.ReplaceAllString(p.Name, "-"), p.Version)
	}
	return is(p.Name, p.Version) || is(p.Source, p.SourceVersion)
}

// pypiSeparators are the same to PyPI (PEP 503).
var pypiSeparators = regexp.MustCompile(`[-_.]+`)

// matchesVersion takes versions for the same with and without what people leave away: the epoch of a distribution's, the v of Go's.
func (d PackagePattern) matchesVersion(kind, version string) bool {
	short := version
	switch kind {
	case "deb", "rpm":
		if epoch, rest, ok := strings.Cut(version, ":"); ok && strings.Trim(epoch, "0123456789") == "" {
			short = rest
		}
	case "golang":
		short = strings.TrimPrefix(version, "v")
		return d.Version.Match(version) || Glob(strings.TrimPrefix(string(d.Version), "v")).Match(short)
	}
	return d.Version.Match(version) || d.Version.Match(short)
}

func packageReasons(p Policy, e Evidence) []Reason {
	if len(p.DenyPackages) == 0 {
		return nil
	}
	var reasons []Reason
	for _, f := range e.Inventory.Packages {
		i := slices.IndexFunc(p.DenyPackages, func(d PackagePattern) bool { return d.matches(f.Package) })
		if i >= 0 {
			reasons = append(reasons, Reason{Rule: RulePackages, Message: fmt.Sprintf("package %s is denied by %s", f.told(), p.DenyPackages[i])})
		}
	}
	return bounded(reasons)
}

// told names a package for a person, and where it is.
func (f Found) told() string {
	s := fmt.Sprintf("%s/%s %s", f.Type, f.Name, f.Version)
	if f.Source != "" {
		s += fmt.Sprintf(" (of %s %s)", f.Source, f.SourceVersion)
	}
	return clip(s+" in "+f.Path, maxTold)
}

// OSRule says which distributions an image may be built upon.
type OSRule struct {
	// DenyEndOfLife denies those that are no longer mended.
	DenyEndOfLife bool
	// Allow are the only ones allowed; empty for all.
	Allow []OSPattern
}

// OSPattern names releases of a distribution.
type OSPattern struct {
	// ID is os-release's ID; "none" is an image without a distribution.
	ID Glob
	// Version is os-release's VERSION_ID, or the first components of it; "*" for any.
	Version Glob
}

// NoDistribution is the ID of an image without a distribution.
const NoDistribution = "none"

// String returns the pattern as policies write it.
func (o OSPattern) String() string {
	if o.Version == "*" {
		return string(o.ID)
	}
	return string(o.ID) + " " + string(o.Version)
}

func (o OSPattern) matches(id, version string) bool {
	return o.ID.Match(id) && (o.Version.Match(version) || (o.Version + ".*").Match(version))
}

// distribution returns the ID and version of what inv is built upon (os-release(5) has a default for the first).
func (inv Inventory) distribution() (id, version string) {
	switch {
	case inv.OS == OS{}:
		return NoDistribution, ""
	case inv.OS.ID == "":
		return "linux", inv.OS.Version
	}
	return inv.OS.ID, inv.OS.Version
}

// errNoLifetimes is why a policy that asks for the end of life cannot be decided by.
var errNoLifetimes = errors.New("nobody knows when distributions are no longer mended")

// osReasons judges the distribution. While it is still mended v lapses as that ends.
func osReasons(p Policy, e Evidence, now time.Time, v *Verdict) []Reason {
	if p.OS == nil || !e.Examined {
		return nil
	}
	id, version := e.Inventory.distribution()
	name := clip(strings.TrimSpace(id+" "+version), maxTold)
	var reasons []Reason
	if end := e.EndOfLife; p.OS.DenyEndOfLife && !end.IsZero() {
		if now.Before(end) {
			v.lapseAt(end)
		} else {
			message := fmt.Sprintf("%s is no longer mended since %s", name, end.UTC().Format(time.DateOnly))
			reasons = append(reasons, Reason{Rule: RuleEndOfLife, Message: message})
		}
	}
	if len(p.OS.Allow) > 0 && !slices.ContainsFunc(p.OS.Allow, func(o OSPattern) bool { return o.matches(id, version) }) {
		message := name + " is no distribution the policy allows"
		if id == NoDistribution {
			message = "it has no distribution, and the policy allows some only"
		}
		reasons = append(reasons, Reason{Rule: RuleOS, Message: message})
	}
	return reasons
}
