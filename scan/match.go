package scan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	bolt "go.etcd.io/bbolt"

	"github.com/tidewaiter/tidewaiter/gate"
)

const (
	// maxFindings bounds the evidence of one image; the worst seen in practice, a full distribution left alone for years, has a
	// fifth of it.
	maxFindings = 50_000
	// maxRows bounds the work for one image: some ten seconds. A large image of a distribution needs a twentieth of it; one that lists
	// the same package over and over needs any amount.
	maxRows = 1_000_000
	// maxVersionGaps bounds how many packages are named one by one for a version that cannot be compared.
	maxVersionGaps = 20
	// maxTitleBytes is one line on a screen, twice.
	maxTitleBytes = 200
	// packagesPerLook is how many packages are matched between two looks at the context.
	packagesPerLook = 32
)

// errMatchLimit ends a match that has reached a limit, for which there is then a gap.
var errMatchLimit = errors.New("match limit reached")

// matcher matches one inventory, inside one transaction.
type matcher struct {
	data *advisoryData
	tx   *bolt.Tx
	// described remembers what was read of vulnerabilities: packages of one source share them.
	described map[string]vulnerability
	findings  []gate.Finding
	// seen maps what a finding is about to its place in findings.
	seen map[findingKey]int
	gaps gapList
	// rows counts the advisories looked at.
	rows int
}

// findingKey is what there is one finding of: a vulnerability in a package at a place.
type findingKey struct {
	id, kind, name, version, path string
}

// hit is a row that applies to a package.
type hit struct {
	id     string
	fixed  string
	status int
	// severity is the row's own rating in trivy-db's numbers, sourceID who stated it, source the part of the data to be named.
	severity         int
	sourceID, source string
}

func (m *matcher) match(ctx context.Context, inv gate.Inventory) error {
	release := m.distribution(inv)
	for i, p := range inv.Packages {
		if i%packagesPerLook == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		var err error
		switch {
		case systemPackages[p.Type] && release.packages == p.Type:
			err = m.matchSystem(release, p)
		case !systemPackages[p.Type]:
			err = m.matchLanguage(p)
		}
		if errors.Is(err, errMatchLimit) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// limited records that the match ends early, and why.
func (m *matcher) limited(format string, args ...any) error {
	m.gaps.add(gate.Gap{Kind: gate.GapLimit, Why: fmt.Sprintf(format, args...)})
	return errMatchLimit
}

// look counts one advisory looked at.
func (m *matcher) look() error {
	if m.rows++; m.rows > maxRows {
		return m.limited("more than %d advisories about the packages", maxRows)
	}
	return nil
}

// eachRow calls f with the rows about pkg in bucket, in the order of their identifiers.
func (m *matcher) eachRow(bucket, pkg string, f func(id string, r row) error) error {
	return forEachRow(m.tx, bucket, pkg, func(id string, r row) error {
		if err := m.look(); err != nil {
			return err
		}
		return f(id, r)
	})
}

// vulnerability returns what is known of id.
func (m *matcher) vulnerability(id string) (vulnerability, error) {
	if v, ok := m.described[id]; ok {
		return v, nil
	}
	v, err := readVulnerability(m.tx, id)
	if err == nil {
		m.described[id] = v
	}
	return v, err
}

// found records that h applies to p.
func (m *matcher) found(p gate.Found, order versionOrder, h hit) error {
	v, err := m.vulnerability(h.id)
	if err != nil {
		return err
	}
	f := gate.Finding{
		ID: h.id, Package: p.Package, Path: p.Path, Source: h.source,
		Severity: v.severity(h.severity, h.sourceID), FixedVersion: h.fixed,
		Title: oneLine(v.Title), Published: v.PublishedDate.UTC(),
	}
	if h.fixed == "" {
		f.Status = statusWord(h.status)
	}
	f.CVSS, f.Score = v.cvss(h.sourceID)
	return m.record(order, f)
}

// record keeps f, once for each vulnerability, package and place. Where several rows say so the worst rating stands, and the newest
// of the fixed versions: an older one was not enough.
func (m *matcher) record(order versionOrder, f gate.Finding) error {
	key := findingKey{f.ID, f.Package.Type, f.Package.Name, f.Package.Version, f.Path}
	i, ok := m.seen[key]
	if !ok {
		if len(m.findings) == maxFindings {
			return m.limited("more than %d findings", maxFindings)
		}
		m.seen[key] = len(m.findings)
		m.findings = append(m.findings, f)
		return nil
	}
	have := &m.findings[i]
	have.Severity = max(have.Severity, f.Severity)
	have.Title = cmp.Or(have.Title, f.Title)
	if have.CVSS == "" {
		have.CVSS, have.Score = f.CVSS, f.Score
	}
	if have.Published.IsZero() {
		have.Published = f.Published
	}
	if f.FixedVersion == "" {
		return nil
	}
	if c, err := compareVersions(order, have.FixedVersion, f.FixedVersion); have.FixedVersion == "" || err == nil && c < 0 {
		have.FixedVersion, have.Status = f.FixedVersion, ""
	}
	return nil
}

// sorted returns the findings in the order of [gate.Evidence].
func (m *matcher) sorted() []gate.Finding {
	slices.SortFunc(m.findings, func(a, b gate.Finding) int {
		return cmp.Or(-cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package.Name, b.Package.Name),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Package.Version, b.Package.Version), cmp.Compare(a.Package.Type, b.Package.Type))
	})
	return m.findings
}

// uncovered records that there are no advisories for something.
func (m *matcher) uncovered(format string, args ...any) {
	m.gaps.add(gate.Gap{Kind: gate.GapNoAdvisories, Why: fmt.Sprintf(format, args...)})
}

// unknownVersion records that p could not be compared with the advisory id, or fails for any other reason than that.
func (m *matcher) unknownVersion(p gate.Found, id string, err error) error {
	if !errors.Is(err, errUnknownVersion) {
		return err
	}
	m.gaps.addVersion(p, fmt.Sprintf("version %s of %s/%s cannot be compared with advisory %s: %v",
		quoted(p.Version), p.Type, quoted(p.Name), quoted(id), err))
	return nil
}

// gapList collects gaps, each once, and a bounded number for versions.
type gapList struct {
	gaps     []gate.Gap
	seen     map[gate.Gap]bool
	versions map[versionGapKey]bool
	more     int
}

// versionGapKey is what there is one version gap of, however many advisories it could not be compared with.
type versionGapKey struct {
	kind, name, version, path string
}

func (g *gapList) add(gap gate.Gap) {
	if g.seen[gap] {
		return
	}
	if g.seen == nil {
		g.seen = map[gate.Gap]bool{}
	}
	g.seen[gap] = true
	g.gaps = append(g.gaps, gap)
}

func (g *gapList) addVersion(p gate.Found, why string) {
	key := versionGapKey{p.Type, p.Name, p.Version, p.Path}
	if g.versions[key] {
		return
	}
	if len(g.versions) >= maxVersionGaps {
		g.more++
		return
	}
	if g.versions == nil {
		g.versions = map[versionGapKey]bool{}
	}
	g.versions[key] = true
	g.gaps = append(g.gaps, gate.Gap{Kind: gate.GapUnknownVersion, Layer: p.Layer, Path: p.Path, Why: why})
}

// list returns the gaps in the order they were met, and one for those not named.
func (g *gapList) list() []gate.Gap {
	if g.more == 0 {
		return g.gaps
	}
	return append(g.gaps, gate.Gap{Kind: gate.GapUnknownVersion, Why: fmt.Sprintf("%d more comparisons of versions failed", g.more)})
}

// oneLine returns text without control characters, cut to what fits a line or two.
func oneLine(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if len(text) <= maxTitleBytes {
		return text
	}
	return strings.ToValidUTF8(text[:maxTitleBytes], "") + "…"
}
