// Package oracle compares the findings of package scan with those of an independent matcher of the same database, Trivy's detectors, over
// generated databases and inventories of every distribution and ecosystem. It is a module of its own, so that nothing of theirs
// is linked into the program or listed among its requirements.
package oracle

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aquasecurity/trivy-db/pkg/db"
	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	"github.com/aquasecurity/trivy/pkg/detector/library"
	"github.com/aquasecurity/trivy/pkg/detector/ospkg"
	fanal "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/types"
	"github.com/aquasecurity/trivy/pkg/vulnerability"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/scan"
)

var built = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const (
	// packagesOfEach is how many installed packages are made for each distribution and ecosystem.
	packagesOfEach = 400
	// databases are how many are made, of their own advisories and packages each, from seed on.
	databases = 4
	seed      = 20260102
	// maxShown bounds the differences shown of each.
	maxShown = 10
)

// TestFindingsAreThoseOfTheOracle fails on a finding, or a lack of one, that is not among differences, and on a difference that no
// longer occurs.
func TestFindingsAreThoseOfTheOracle(t *testing.T) {
	met := map[string]int{}
	var advisories, packages, findings int
	for i := range uint64(databases) {
		t.Run(fmt.Sprint("database ", i), func(t *testing.T) {
			c := newCase(seed + i)
			findings += c.compare(t, met)
			advisories += len(c.rows)
			packages += len(c.inventories) * packagesOfEach
		})
	}
	t.Logf("%d advisories, %d packages, %d findings compared; differences: %v", advisories, packages, findings, met)
	for _, d := range differences {
		if met[d.name] == 0 {
			t.Errorf("the difference %q no longer occurs", d.name)
		}
	}
}

// oracleCase is a database and what is installed, by distribution and ecosystem.
type oracleCase struct {
	rows        []ocitest.Advisory
	inventories map[string]gate.Inventory
}

func newCase(seed uint64) oracleCase {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 1))}
	inventories := map[string]gate.Inventory{}
	for _, s := range systems {
		sources := []string{s.name[:3] + "lib", "tide-" + s.packages, "curl"}
		if s.cpe != "" { // all of Red Hat's rows lie in one bucket
			sources = []string{strings.ReplaceAll(s.name, " ", "-"), strings.ReplaceAll(s.name, " ", "-") + "-libs"}
		}
		if s.modules {
			sources = append(sources, "nodejs:18::npm", "nodejs:18::"+s.name[:3])
		}
		g.systemRows(s, sources)
		inventories[s.name] = gate.Inventory{OS: s.os, Channels: s.channels, Packages: g.systemPackages(s, sources, packagesOfEach)}
	}
	for _, l := range languages {
		g.languageRows(l)
		inventories[l.kind] = gate.Inventory{Packages: g.languagePackages(l, packagesOfEach)}
	}
	return oracleCase{g.rows, inventories}
}

// compare has both sides match c, counts the differences that have a reason, and returns how many findings were compared.
func (c oracleCase) compare(t *testing.T, met map[string]int) (total int) {
	for where, about := range c.match(t) {
		t.Run(where, func(t *testing.T) { agree(t, about, met) })
		total += len(about)
	}
	return total
}

// match has both sides match c, and returns what they say by distribution and ecosystem.
func (c oracleCase) match(t *testing.T) map[string][]comparison {
	t.Helper()
	dir := t.TempDir()
	if err := ocitest.WriteAdvisories(dir, built, c.rows); err != nil {
		t.Fatal(err)
	}
	ours, err := scan.OpenAdvisories(t.Context(), dir, 0, func() time.Time { return built })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ours.Close() })
	found := map[string][]finding{}
	for name, inv := range c.inventories {
		found[name] = match(t, ours, inv)
	}
	if err := ours.Close(); err != nil { // the other side wants the file to itself
		t.Fatal(err)
	}
	if err := db.Init(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	said := map[string][]comparison{}
	for _, s := range systems {
		said[s.name] = c.comparisons(t, s.name, s.detect(t, c.inventories[s.name]), found[s.name])
	}
	for _, l := range languages {
		said[l.kind] = c.comparisons(t, l.kind, l.detect(t, c.inventories[l.kind]), found[l.kind])
	}
	return said
}

// comparisons puts together what both sides say, in the order of vulnerabilities and places.
func (c oracleCase) comparisons(t *testing.T, where string, oracle, ours []finding) (all []comparison) {
	t.Helper()
	if len(oracle) == 0 {
		t.Errorf("the oracle finds nothing in %s", where)
	}
	rows := map[string][]ocitest.Advisory{}
	for _, a := range c.rows {
		rows[a.ID] = append(rows[a.ID], a)
	}
	about := map[string]comparison{}
	for _, f := range oracle {
		said := about[f.key()]
		said.oracle = append(said.oracle, f)
		about[f.key()] = said
	}
	for _, f := range ours {
		said := about[f.key()]
		said.ours = append(said.ours, f)
		about[f.key()] = said
	}
	for _, key := range slices.Sorted(maps.Keys(about)) {
		said := about[key]
		one := slices.Concat(said.oracle, said.ours)[0]
		said.where, said.rows = where, rows[one.id]
		i := slices.IndexFunc(c.inventories[where].Packages, func(p gate.Found) bool { return p.Path == one.path })
		if i < 0 {
			t.Fatalf("%s: nobody installed what is said of %v", where, one)
		}
		said.installed = c.inventories[where].Packages[i]
		all = append(all, said)
	}
	return all
}

// finding is what both sides say, as far as they are compared.
type finding struct {
	id, name, version, arch string
	path                    string
	severity, status, fixed string
}

func (f finding) String() string {
	return fmt.Sprintf("%s in %s %s at %s: %s, %s %s", f.id, f.name, f.version, f.path, f.severity, f.status, f.fixed)
}

// isOf reports whether f is about the package p, as it is installed.
func (f finding) isOf(p gate.Found) bool {
	return f.name == p.Name && f.version == p.Version && f.arch == p.Arch && f.path == p.Path
}

// key is what there is one finding of.
func (f finding) key() string { return f.id + " " + f.path }

// match returns our findings.
func match(t *testing.T, ours *scan.Advisories, inv gate.Inventory) []finding {
	t.Helper()
	findings, gaps, err := ours.Match(t.Context(), ours.Snapshot(), inv)
	if err != nil {
		t.Fatal(err)
	}
	if len(gaps) > 0 { // every version made is one, and everything is covered
		t.Errorf("gaps: %v", gaps)
	}
	var found []finding
	for _, f := range findings {
		status := f.Status
		if f.FixedVersion != "" {
			status = "fixed"
		}
		found = append(found, finding{f.ID, f.Package.Name, f.Package.Version, f.Package.Arch, f.Path, f.Severity.String(), cmp.Or(status, "affected"), f.FixedVersion})
	}
	return found
}

// theirs returns the other side's findings in the same words.
func theirs(vulns []types.DetectedVulnerability, inv gate.Inventory) []finding {
	vulnerability.NewClient(db.Config{}).FillInfo(vulns, []dbtypes.SourceID{"auto"})
	known := map[string]gate.Found{} // by path, or by name where it does not say more, which names are made for
	for _, p := range inv.Packages {
		known[p.Path], known[p.Name] = p, p
	}
	var found []finding
	for _, v := range vulns {
		severity := strings.ToLower(v.VendorSeverity[v.SeveritySource].String())
		if severity == "unknown" {
			severity = "unrated"
		}
		p := known[cmp.Or(v.PkgPath, v.PkgID, v.PkgName)]
		found = append(found, finding{v.VulnerabilityID, v.PkgName, p.Version, p.Arch, p.Path, severity, v.Status.String(), v.FixedVersion})
	}
	return found
}

// detect has the other side match inv.
func (s system) detect(t *testing.T, inv gate.Inventory) []finding {
	t.Helper()
	target := types.ScanTarget{OS: fanal.OS{Family: s.family, Name: s.release}}
	if s.repository != "" {
		target.Repository = &fanal.Repository{Family: s.family, Release: s.repository}
	}
	for _, p := range inv.Packages {
		pkg := fanal.Package{ID: p.Path, Name: p.Name, Arch: p.Arch, Modularitylabel: p.Modularity, SrcName: cmp.Or(p.Source, p.Name)}
		pkg.Epoch, pkg.Version, pkg.Release = cutVersion(p.Version, s.packages)
		pkg.SrcEpoch, pkg.SrcVersion, pkg.SrcRelease = cutVersion(cmp.Or(p.SourceVersion, p.Version), s.packages)
		if s.family == fanal.RedHat && s.channels != nil {
			pkg.BuildInfo = &fanal.BuildInfo{ContentSets: s.channels}
		}
		target.Packages = append(target.Packages, pkg)
	}
	detector, err := ospkg.NewDetector(target)
	if err != nil {
		t.Fatal(err)
	}
	vulns, _, err := detector.Detect(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return theirs(vulns, inv)
}

// cutVersion takes a version apart as the other side keeps it. apk's is in one piece there.
func cutVersion(text, kind string) (epoch int, version, release string) {
	if kind == "apk" {
		return 0, text, ""
	}
	if before, after, ok := strings.Cut(text, ":"); ok {
		epoch, _ = strconv.Atoi(before)
		text = after
	}
	if i := strings.LastIndexByte(text, '-'); i >= 0 {
		return epoch, text[:i], text[i+1:]
	}
	return epoch, text, ""
}

func (l language) detect(t *testing.T, inv gate.Inventory) []finding {
	t.Helper()
	var packages []fanal.Package
	for _, p := range inv.Packages {
		packages = append(packages, fanal.Package{ID: p.Path, Name: p.Name, Version: p.Version, FilePath: p.Path})
	}
	vulns, err := library.Detect(t.Context(), l.other, packages)
	if err != nil {
		t.Fatal(err)
	}
	return theirs(vulns, inv)
}

// agree reports every difference that has no reason, and counts those that have.
func agree(t *testing.T, about []comparison, met map[string]int) {
	t.Helper()
	unexplained := 0
	for _, c := range about {
		reasons, ok := c.reasons()
		for _, name := range reasons {
			met[name]++
		}
		if ok {
			continue
		}
		if unexplained++; unexplained <= maxShown {
			t.Errorf("oracle: %v\n ours: %v\n of: %+v", c.oracle, c.ours, c.rows[0])
		}
	}
	if unexplained > maxShown {
		t.Errorf("and %d more differences", unexplained-maxShown)
	}
}
