package scan

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// systemPackages are the types a distribution's own package manager installs.
var systemPackages = map[string]bool{"deb": true, "apk": true, "rpm": true}

// distribution is how the advisories of a distribution are filed. The zero value covers no packages.
type distribution struct {
	// packages is the type of package it consists of. One of another type in the same image is not covered by it.
	packages string
	order    versionOrder
	// bucket begins the names of its buckets, and release, from os-release's VERSION_ID, ends them. A release that is "" is none.
	bucket  string
	release func(version string) (string, bool)
	names   filing
	// streams says that a package of a module stream is filed as "nodejs:18::npm", apart from the one outside of modules.
	streams bool
	// products says that rows are for numbered products of Red Hat, not for a release.
	products bool
	// flavours says that fixes of one build flavour say nothing about another.
	flavours bool
}

// filing is what advisories of a distribution are filed under.
type filing int

const (
	bySource filing = iota // the source package, and its version
	byBinary
	bySourceName // the source package, and the binary's version, which is the source's there
)

// distributions maps os-release's ID to how advisories are filed for it.
var distributions = map[string]distribution{
	"debian":              {packages: "deb", order: orderDeb, bucket: "debian ", release: majorRelease},
	"ubuntu":              {packages: "deb", order: orderDeb, bucket: "ubuntu ", release: minorRelease},
	"alpine":              {packages: "apk", order: orderAPK, bucket: "alpine ", release: alpineRelease},
	"wolfi":               {packages: "apk", order: orderAPK, bucket: "wolfi", release: noRelease},
	"chainguard":          {packages: "apk", order: orderAPK, bucket: "chainguard", release: noRelease},
	"rhel":                {packages: "rpm", order: orderRPM, bucket: "Red Hat", release: noRelease, names: byBinary, streams: true, products: true},
	"centos":              {packages: "rpm", order: orderRPM, bucket: "Red Hat", release: noRelease, names: byBinary, streams: true, products: true},
	"rocky":               {packages: "rpm", order: orderRPM, bucket: "rocky ", release: majorRelease, names: byBinary, streams: true},
	"almalinux":           {packages: "rpm", order: orderRPM, bucket: "alma ", release: majorRelease, names: byBinary, streams: true},
	"ol":                  {packages: "rpm", order: orderRPM, bucket: "Oracle Linux ", release: majorRelease, names: byBinary, flavours: true},
	"amzn":                {packages: "rpm", order: orderRPM, bucket: "amazon linux ", release: amazonRelease, names: byBinary},
	"photon":              {packages: "rpm", order: orderRPM, bucket: "Photon OS ", release: minorRelease, names: bySourceName},
	"azurelinux":          {packages: "rpm", order: orderRPM, bucket: "Azure Linux ", release: minorRelease, names: bySourceName},
	"mariner":             {packages: "rpm", order: orderRPM, bucket: "CBL-Mariner ", release: minorRelease, names: bySourceName},
	"minimos":             {packages: "apk", order: orderAPK, bucket: "minimos", release: noRelease},
	"echo":                {packages: "deb", order: orderDeb, bucket: "echo", release: noRelease},
	"sles":                {packages: "rpm", order: orderRPM, bucket: "SUSE Linux Enterprise ", release: wholeRelease, names: byBinary},
	"sle-micro":           {packages: "rpm", order: orderRPM, bucket: "SUSE Linux Enterprise Micro ", release: wholeRelease, names: byBinary},
	"sl-micro":            {packages: "rpm", order: orderRPM, bucket: "SUSE Linux Enterprise Micro ", release: wholeRelease, names: byBinary},
	"sle-micro-rancher":   {packages: "rpm", order: orderRPM, bucket: "SUSE Linux Enterprise Micro ", release: wholeRelease, names: byBinary},
	"opensuse":            {packages: "rpm", order: orderRPM, bucket: "openSUSE Leap ", release: minorRelease, names: byBinary},
	"opensuse-leap":       {packages: "rpm", order: orderRPM, bucket: "openSUSE Leap ", release: minorRelease, names: byBinary},
	"opensuse-tumbleweed": {packages: "rpm", order: orderRPM, bucket: "openSUSE Tumbleweed", release: noRelease, names: byBinary},
}

var releaseForm = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*$`)

func noRelease(string) (string, bool) { return "", true }

func wholeRelease(version string) (string, bool) { return version, releaseForm.MatchString(version) }

func majorRelease(version string) (string, bool) { return firstNumbers(version, 1) }

func minorRelease(version string) (string, bool) { return firstNumbers(version, 2) }

// firstNumbers returns the first n numbers of a release; ok is false when it has fewer.
func firstNumbers(version string, n int) (release string, ok bool) {
	parts := strings.Split(version, ".")
	if !releaseForm.MatchString(version) || len(parts) < n {
		return "", false
	}
	return strings.Join(parts[:n], "."), true
}

// alpineRelease returns "3.19" for "3.19.1", and "edge" for the snapshots of the next release edge is made of, "3.22_alpha20250108".
func alpineRelease(version string) (string, bool) {
	if version == "edge" || strings.Contains(version, "_alpha") {
		return "edge", true
	}
	return minorRelease(version)
}

// amazonRelease returns "1" for the releases named by year and month before there was a second, "2018.03".
func amazonRelease(version string) (string, bool) {
	if major, ok := majorRelease(version); ok && major != version && major < "2022" {
		return "1", true
	}
	return majorRelease(version)
}

// osRelease is what is needed of the data to match packages of an image's distribution.
type osRelease struct {
	distribution
	// rows is the bucket of the release, empty when it is not known what that would be called.
	rows string
	// scopes are where OSV records about the image's packages may be kept: the distribution as a whole, its release, and whatever else
	// its packages are from. Only those that hold any are listed.
	scopes   []string
	sourceID string
	// numbers are those of the products the image stands for.
	numbers map[int]bool
}

// distribution returns how the system packages of inv are filed, and records gaps for those nothing is known about.
func (m *matcher) distribution(inv gate.Inventory) osRelease {
	release, covered := m.release(inv.OS, inv.Channels)
	managed := slices.ContainsFunc(inv.Packages, func(p gate.Found) bool { return systemPackages[p.Type] })
	switch {
	case managed || inv.OS.ID == "":
	case release.packages == "":
		m.uncovered("there are no advisories for %s", describeOS(inv.OS))
	default: // removed to make the image smaller, or never written, as in chiselled ones: what it listed is there all the same
		why := fmt.Sprintf("the image is of %s, and no %s package is listed in it", describeOS(inv.OS), release.packages)
		m.gaps.add(gate.Gap{Kind: gate.GapUnreadablePackage, Why: why})
	}
	for kind := range systemPackages {
		if !slices.ContainsFunc(inv.Packages, func(p gate.Found) bool { return p.Type == kind }) {
			continue
		}
		switch {
		case inv.OS.ID == "":
			m.uncovered("%s packages of an unknown distribution", kind)
		case kind != release.packages:
			m.uncovered("%s packages on %s", kind, describeOS(inv.OS))
		case !covered:
			m.uncovered("there are no advisories for %s", describeOS(inv.OS))
		}
	}
	slices.SortFunc(m.gaps.gaps, func(a, b gate.Gap) int { return cmp.Compare(a.Why, b.Why) })
	return release
}

// release returns what the data has for os, whose packages are from channels. covered is false when it has nothing.
func (m *matcher) release(os gate.OS, channels []string) (r osRelease, covered bool) {
	d, ok := distributions[os.ID]
	if !ok {
		return osRelease{}, false
	}
	r.distribution = d
	family := strings.TrimSpace(d.bucket)
	release, ok := d.release(os.Version)
	if !ok {
		r.scopes = m.data.overlay.scopes(family)
		return r, false
	}
	r.rows = d.bucket + release
	others := d.otherRows(r.rows, channels)
	r.scopes = m.data.overlay.scopes(slices.Concat([]string{family, r.rows}, others)...)
	for _, other := range others {
		if _, found := m.data.index.sources[other]; found {
			r.rows = other
		}
	}
	r.sourceID, covered = m.data.index.sources[r.rows]
	if d.products {
		major, _ := majorRelease(os.Version)
		r.numbers = m.data.index.redHat.products(major, channels)
		covered = covered && len(r.numbers) > 0
	}
	return r, covered
}

// extendedMaintenance is the channel of Ubuntu's fixes for releases past their end; the bucket they are filed in ends so.
const (
	extendedMaintenance = "esm-infra"
	extendedSuffix      = "-ESM"
)

// otherRows returns the buckets that channels point to in place of rows, the best last: extended maintenance, and the newest of the
// releases Alpine's packages are from, of which edge is the newest.
func (d distribution) otherRows(rows string, channels []string) (others []string) {
	switch d.bucket {
	case distributions["ubuntu"].bucket:
		if slices.Contains(channels, extendedMaintenance) {
			others = append(others, rows+extendedSuffix)
		}
	case distributions["alpine"].bucket:
		for _, channel := range channels {
			if strings.HasPrefix(channel, d.bucket) {
				others = append(others, channel)
			}
		}
		slices.SortFunc(others, func(a, b string) int { // "edge" comes after every number
			c, err := compareVersions(orderAPK, strings.TrimPrefix(a, d.bucket), strings.TrimPrefix(b, d.bucket))
			if err != nil {
				return strings.Compare(a, b)
			}
			return c
		})
	}
	return others
}

func describeOS(os gate.OS) string {
	if os.Version == "" {
		return quoted(os.ID)
	}
	return quoted(os.ID) + " " + quoted(os.Version)
}

// matchSystem matches a package of the image's distribution.
func (m *matcher) matchSystem(r osRelease, p gate.Found) error {
	text := p.Version
	if r.names == bySource {
		text = cmp.Or(p.SourceVersion, p.Version)
	}
	installed := newInstalledVersion(r.order, text)
	for _, name := range r.packageNames(p.Package) {
		stated := statements{}
		err := m.eachRow(r.rows, name, func(id string, row row) error {
			for _, e := range row.entries() {
				if !r.concerns(e, p.Package) {
					continue
				}
				if r.products {
					stated.add(id, e)
					continue
				}
				if err := m.matchEntry(r, p, installed, id, row.AffectedVersion, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, id := range slices.Sorted(maps.Keys(stated)) {
			if err := m.matchEntry(r, p, installed, id, "", stated[id]); err != nil {
				return err
			}
		}
	}
	return m.matchSystemOverlay(r, p)
}

// matchEntry records what one entry of the row id, about versions after from, says about p.
func (m *matcher) matchEntry(r osRelease, p gate.Found, installed installedVersion, id, from string, e rowEntry) error {
	affected, err := e.affects(installed, from, r.flavours)
	if err != nil {
		return m.unknownVersion(p, id, err)
	}
	if !affected {
		return nil
	}
	h := hit{id: id, fixed: e.FixedVersion, status: e.Status, severity: e.Severity, sourceID: r.sourceID, source: r.rows}
	return m.found(p, r.order, h)
}

// statements are what Red Hat says of one package, by vulnerability. It says it once for each product, and of those whose fixes came
// in several releases the last is the one that counts: an image that has it has the others' too.
type statements map[string]rowEntry

// add takes what an entry of the row id says, which is filed under an erratum or under the vulnerability itself.
func (s statements) add(id string, e rowEntry) {
	for _, cve := range e.Cves {
		one := e
		one.Severity, one.Cves = cve.Severity, nil
		about := id
		if !strings.HasPrefix(id, "CVE-") {
			about = cmp.Or(cve.ID, id)
		}
		have, found := s[about]
		if !found {
			s[about] = one
			continue
		}
		severity := max(have.Severity, one.Severity)
		if have.FixedVersion == "" && one.FixedVersion != "" || isOlder(orderRPM, have.FixedVersion, one.FixedVersion) {
			have = one
		}
		have.Severity = severity
		s[about] = have
	}
}

// affects reports whether a package of version installed is one the entry is about; from is the first version affected, empty for all.
func (e rowEntry) affects(installed installedVersion, from string, flavours bool) (bool, error) {
	if e.FixedVersion == "0" || e.FixedVersion == "" && e.Status == statusNotAffected { // "0": no version was ever affected
		return false, nil
	}
	if e.FixedVersion == "" && from == "" {
		return true, nil // every version; not knowing which is installed makes no difference
	}
	if installed.unknown != nil {
		return false, installed.unknown
	}
	if flavours && e.FixedVersion != "" && flavourOf(installed.text) != flavourOf(e.FixedVersion) {
		return false, nil
	}
	if from != "" {
		if c, err := installed.compare(from); err != nil || c < 0 {
			return false, err
		}
	}
	if e.FixedVersion == "" {
		return true, nil
	}
	c, err := installed.compare(e.FixedVersion)
	return c < 0, err
}

// flavourOf returns which of Oracle's parallel builds a version is of: "fips", "ksplice", or "" for the normal one.
func flavourOf(version string) string {
	version = strings.ToLower(version)
	if strings.HasSuffix(version, "_fips") {
		return "fips"
	}
	if strings.Contains(version, ".ksplice") {
		return "ksplice"
	}
	return ""
}

// concerns reports whether e is about the architecture of p and the products of r. A package for every architecture, or one that
// does not say, is taken to be any.
func (r osRelease) concerns(e rowEntry, p gate.Package) bool {
	if len(e.Arches) > 0 && p.Arch != "" && p.Arch != "noarch" && !slices.Contains(e.Arches, p.Arch) {
		return false
	}
	return !r.products || slices.ContainsFunc(e.Affected, func(n int) bool { return r.numbers[n] })
}

// packageNames returns what advisories about p are filed under.
func (d distribution) packageNames(p gate.Package) []string {
	switch d.names {
	case bySource, bySourceName:
		return []string{cmp.Or(p.Source, p.Name)}
	}
	if stream, ok := moduleStream(p.Modularity); ok && d.streams {
		return []string{stream + "::" + p.Name}
	}
	return []string{p.Name}
}

// moduleStream returns "nodejs:18" of "nodejs:18:8080020230712:63b34585".
func moduleStream(label string) (string, bool) {
	parts := strings.SplitN(label, ":", 3)
	if len(parts) < 2 {
		return "", false
	}
	return parts[0] + ":" + parts[1], true
}
