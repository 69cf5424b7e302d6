package scan

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

var advisoryTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// openTestAdvisories opens a database of rows, a minute after it was built, with OSV records by file name beside it.
func openTestAdvisories(t testing.TB, rows []ocitest.Advisory, records map[string]string) *Advisories {
	t.Helper()
	dir := t.TempDir()
	writeTestAdvisories(t, dir, rows, records)
	a, err := OpenAdvisories(context.Background(), dir, 0, func() time.Time { return advisoryTime.Add(time.Minute) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func matchAll(t testing.TB, a *Advisories, inv gate.Inventory) ([]gate.Finding, []gate.Gap) {
	t.Helper()
	findings, gaps, err := a.Match(t.Context(), a.Snapshot(), inv)
	if err != nil {
		t.Fatal(err)
	}
	return findings, gaps
}

// inventory returns an image of os with packages, each given as "type/name@version".
func inventory(os gate.OS, packages ...string) gate.Inventory {
	inv := gate.Inventory{OS: os}
	for _, p := range packages {
		kind, rest, _ := strings.Cut(p, "/")
		at := strings.LastIndex(rest, "@")
		inv.Packages = append(inv.Packages, gate.Found{
			Package: gate.Package{Type: kind, Name: rest[:at], Version: rest[at+1:]}, Path: kind + "/path", Layer: "sha256:layer",
		})
	}
	return inv
}

// brief returns findings as "CVE-1 high npm/lodash@1.0 fixed 1.1", and gaps as their kinds.
func brief(findings []gate.Finding, gaps []gate.Gap) (lines []string) {
	for _, f := range findings {
		line := fmt.Sprintf("%s %s %s", f.ID, f.Severity, f.Package.Type+"/"+f.Package.Name+"@"+f.Package.Version)
		if f.FixedVersion != "" {
			line += " fixed " + f.FixedVersion
		}
		if f.Status != "" {
			line += " " + f.Status
		}
		lines = append(lines, line)
	}
	for _, g := range gaps {
		lines = append(lines, string(g.Kind))
	}
	return lines
}

const (
	npmRows = "npm::GitHub Security Advisory npm"
	pipRows = "pip::GitHub Security Advisory pip"
	mvnRows = "maven::GitHub Security Advisory Maven"
	goRows  = "go::The Go Vulnerability Database"
	gemRows = "rubygems::Ruby Advisory Database"
)

// realRows are advisories as their sources state them.
var realRows = []ocitest.Advisory{
	{
		Bucket: npmRows, Package: "lodash", ID: "CVE-2019-10744", Source: "ghsa", Severity: "critical", Vulnerable: []string{"<4.17.12"}, Patched: []string{"4.17.12"},
		Title: "Prototype Pollution in lodash", Published: time.Date(2019, 7, 26, 0, 15, 11, 0, time.UTC),
	},
	{Bucket: npmRows, Package: "lodash", ID: "CVE-2018-16487", Source: "ghsa", Severity: "high", Vulnerable: []string{"<4.17.11"}, Patched: []string{"4.17.11"}},
	{Bucket: npmRows, Package: "minimist", ID: "CVE-2021-44906", Source: "ghsa", Severity: "critical", Vulnerable: []string{">=1.0.0, <1.2.6", "<0.2.4"}, Patched: []string{"1.2.6", "0.2.4"}},
	{Bucket: pipRows, Package: "jinja2", ID: "CVE-2020-28493", Source: "ghsa", Severity: "medium", Vulnerable: []string{"<2.11.3"}, Patched: []string{"2.11.3"}},
	{Bucket: mvnRows, Package: "org.apache.logging.log4j:log4j-core", ID: "CVE-2021-44228", Source: "ghsa", Severity: "critical", Vulnerable: []string{">=2.13.0, <2.15.0", ">=2.4, <2.12.2", ">=2.0-beta9, <2.3.1"}, Patched: []string{"2.15.0", "2.12.2", "2.3.1"}},
	{Bucket: goRows, Package: "stdlib", ID: "CVE-2023-45288", Source: "govulndb", Ratings: map[string]string{"nvd": "high"}, Vulnerable: []string{"<1.21.9", ">=1.22.0-0, <1.22.2"}, Patched: []string{"1.21.9", "1.22.2"}},
	{Bucket: gemRows, Package: "rack", ID: "CVE-2022-44571", Source: "ruby-advisory-db", Severity: "high", Patched: []string{"~> 2.0.9, >= 2.0.9.2", "~> 2.1.4, >= 2.1.4.2", ">= 2.2.6.2"}, Unaffected: []string{"< 2.0.0"}},
	{Bucket: "conan::GitLab Advisory Database Community", Package: "zlib", ID: "CVE-2022-37434", Source: "glad", Severity: "critical", Vulnerable: []string{"<1.2.13"}, Patched: []string{"1.2.13"}},
	{Bucket: "bitnami::Bitnami Vulnerability Database", Package: "node", ID: "CVE-2024-22019", Source: "bitnami", Severity: "high", Vulnerable: []string{">=18.0.0, <18.19.1", ">=20.0.0, <20.11.1"}, Patched: []string{"18.19.1", "20.11.1"}},
	{Bucket: "nuget::GitHub Security Advisory NuGet", Package: "newtonsoft.json", ID: "CVE-2024-21907", Source: "ghsa", Severity: "high", Vulnerable: []string{"<13.0.1"}, Patched: []string{"13.0.1"}},
	{Bucket: "composer::GitHub Security Advisory Composer", Package: "symfony/http-kernel", ID: "CVE-2022-24894", Source: "ghsa", Severity: "medium", Vulnerable: []string{">=5.0.0, <5.4.20"}, Patched: []string{"5.4.20"}},
	{Bucket: "debian 12", Package: "tar", ID: "CVE-2005-2541", Source: "debian", RowSeverity: "low", Status: 2, Ratings: map[string]string{"nvd": "critical"}},
	{Bucket: "debian 12", Package: "zlib", ID: "CVE-2023-45853", Source: "debian", Status: 5, Ratings: map[string]string{"nvd": "critical"}},
}

func TestMatchFindsRealVulnerabilities(t *testing.T) {
	a := openTestAdvisories(t, realRows, nil)
	inv := inventory(gate.OS{ID: "debian", Version: "12"},
		"npm/lodash@4.17.4", "npm/minimist@1.2.0", "pypi/Jinja2@2.11.2", "maven/org.apache.logging.log4j:log4j-core@2.14.1",
		"golang/stdlib@1.22.1", "gem/rack@2.2.6", "conan/zlib@1.2.11", "generic/node@20.11.0", "nuget/Newtonsoft.Json@12.0.3",
		"composer/symfony/http-kernel@v5.4.19", "deb/tar@1.34+dfsg-1.2+deb12u1", "deb/zlib1g@1:1.2.13.dfsg-1")
	zlib := &inv.Packages[len(inv.Packages)-1]
	zlib.Source, zlib.SourceVersion = "zlib", "1:1.2.13.dfsg-1"
	want := []string{
		"CVE-2019-10744 critical npm/lodash@4.17.4 fixed 4.17.12",
		"CVE-2021-44228 critical maven/org.apache.logging.log4j:log4j-core@2.14.1 fixed 2.15.0",
		"CVE-2021-44906 critical npm/minimist@1.2.0 fixed 1.2.6",
		"CVE-2022-37434 critical conan/zlib@1.2.11 fixed 1.2.13",
		"CVE-2023-45853 critical deb/zlib1g@1:1.2.13.dfsg-1 will_not_fix",
		"CVE-2018-16487 high npm/lodash@4.17.4 fixed 4.17.11",
		"CVE-2022-44571 high gem/rack@2.2.6 fixed 2.2.6.2",
		"CVE-2023-45288 high golang/stdlib@1.22.1 fixed 1.22.2",
		"CVE-2024-21907 high nuget/Newtonsoft.Json@12.0.3 fixed 13.0.1",
		"CVE-2024-22019 high generic/node@20.11.0 fixed 20.11.1",
		"CVE-2020-28493 medium pypi/Jinja2@2.11.2 fixed 2.11.3",
		"CVE-2022-24894 medium composer/symfony/http-kernel@v5.4.19 fixed 5.4.20",
		"CVE-2005-2541 low deb/tar@1.34+dfsg-1.2+deb12u1 affected",
	}
	if diff := cmp.Diff(want, brief(matchAll(t, a, inv))); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestMatchDescribesAFinding(t *testing.T) {
	a := openTestAdvisories(t, realRows, nil)
	got, gaps := matchAll(t, a, inventory(gate.OS{}, "npm/lodash@4.17.11"))
	want := []gate.Finding{{
		ID: "CVE-2019-10744", Package: gate.Package{Type: "npm", Name: "lodash", Version: "4.17.11"}, Path: "npm/path", Severity: gate.Critical,
		FixedVersion: "4.17.12", Source: "npm", Title: "Prototype Pollution in lodash", Published: time.Date(2019, 7, 26, 0, 15, 11, 0, time.UTC),
	}}
	if diff := cmp.Diff(want, got); diff != "" || len(gaps) > 0 {
		t.Errorf("findings (-want +got):\n%s\ngaps: %v", diff, gaps)
	}
}

func TestMatchFindsNothingInFixedVersions(t *testing.T) {
	a := openTestAdvisories(t, realRows, nil)
	inv := inventory(gate.OS{ID: "debian", Version: "12"},
		"npm/lodash@4.17.12", "npm/minimist@0.2.4", "npm/minimist@1.2.6", "pypi/Jinja2@2.11.3", "maven/org.apache.logging.log4j:log4j-core@2.12.2",
		"golang/stdlib@1.21.9", "golang/stdlib@1.22.2", "conan/zlib@1.2.13", "generic/node@18.19.1", "nuget/Newtonsoft.Json@13.0.1",
		"composer/symfony/http-kernel@v5.4.20", "gem/rack@2.0.9.2", "gem/rack@1.6.13", "deb/coreutils@9.1-1", "npm/left-pad@1.0.0")
	if got := brief(matchAll(t, a, inv)); len(got) > 0 {
		t.Errorf("got %q, want nothing", got)
	}
}

func TestMatchRecordsEachVulnerabilityOncePerPackageAndPlace(t *testing.T) {
	row := ocitest.Advisory{Bucket: npmRows, Package: "lodash", ID: "CVE-1", Source: "ghsa", Severity: "high", Vulnerable: []string{"<2"}, Patched: []string{"1.5.0"}}
	other := row
	other.Bucket, other.Source, other.Severity, other.Patched = "npm::Node.js Ecosystem Security Working Group", "nodejs-security-wg", "critical", []string{">=1.6.0"}
	a := openTestAdvisories(t, []ocitest.Advisory{row, other}, nil)
	inv := inventory(gate.OS{}, "npm/lodash@1.0.0", "npm/lodash@1.0.0")
	if diff := cmp.Diff([]string{"CVE-1 critical npm/lodash@1.0.0 fixed 1.6.0"}, brief(matchAll(t, a, inv))); diff != "" {
		t.Errorf("two sources of one vulnerability (-want +got):\n%s", diff)
	}
	inv.Packages[1].Path = "elsewhere"
	if got := brief(matchAll(t, a, inv)); len(got) != 2 {
		t.Errorf("got %q, want one finding for each place", got)
	}
}

func TestMatchRates(t *testing.T) {
	for _, test := range []struct {
		name string
		row  ocitest.Advisory
		want gate.Severity
	}{
		{"by the row first", ocitest.Advisory{RowSeverity: "low", Severity: "medium", Ratings: map[string]string{"nvd": "critical"}}, gate.Low},
		{"by the row's source next", ocitest.Advisory{Severity: "medium", Ratings: map[string]string{"nvd": "critical", "ghsa": "high"}}, gate.Medium},
		{"then by GitHub", ocitest.Advisory{Ratings: map[string]string{"nvd": "critical", "ghsa": "high", "amazon": "low"}}, gate.High},
		{"then by NVD", ocitest.Advisory{Ratings: map[string]string{"nvd": "critical", "amazon": "low"}}, gate.Critical},
		{"never by another vendor", ocitest.Advisory{Ratings: map[string]string{"amazon": "low"}}, gate.Unrated},
		{"not at all when nobody does", ocitest.Advisory{}, gate.Unrated},
	} {
		t.Run(test.name, func(t *testing.T) {
			row := test.row
			row.Bucket, row.Package, row.ID, row.Source = "debian 12", "tar", "CVE-1", "debian"
			a := openTestAdvisories(t, []ocitest.Advisory{row}, nil)
			findings, _ := matchAll(t, a, inventory(gate.OS{ID: "debian", Version: "12"}, "deb/tar@1.34"))
			if len(findings) != 1 || findings[0].Severity != test.want {
				t.Errorf("got %v, want one of severity %s", findings, test.want)
			}
		})
	}
	t.Run("by the default where sources are out of range", func(t *testing.T) {
		v := vulnerability{Severity: "HIGH", VendorSeverity: map[string]int{"debian": 9, "ghsa": -1}}
		if got := v.severity(17, "debian"); got != gate.High {
			t.Errorf("got %s, want high", got)
		}
	})
	t.Run("Red Hat by its own name for either feed", func(t *testing.T) {
		v := vulnerability{VendorSeverity: map[string]int{"redhat": 2, "nvd": 4}}
		if got := v.severity(0, "redhat-csaf-vex"); got != gate.Medium {
			t.Errorf("got %s, want medium", got)
		}
	})
}

func TestMatchHasGapsWhereItKnowsNothing(t *testing.T) {
	a := openTestAdvisories(t, realRows, nil)
	for _, test := range []struct {
		name string
		inv  gate.Inventory
		want []gate.GapKind
		says string
	}{
		{"a release without advisories", inventory(gate.OS{ID: "debian", Version: "13"}, "deb/tar@1", "deb/zlib1g@1"), []gate.GapKind{gate.GapNoAdvisories}, `"debian" "13"`},
		{"a distribution without advisories", inventory(gate.OS{ID: "arch"}, "deb/tar@1"), []gate.GapKind{gate.GapNoAdvisories}, `"arch"`},
		{"a rolling release", inventory(gate.OS{ID: "debian"}, "deb/tar@1"), []gate.GapKind{gate.GapNoAdvisories}, `"debian"`},
		{"a release that is none", inventory(gate.OS{ID: "debian", Version: "12 "}, "deb/tar@1"), []gate.GapKind{gate.GapNoAdvisories}, `"12 "`},
		{"an unknown distribution", inventory(gate.OS{}, "deb/tar@1"), []gate.GapKind{gate.GapNoAdvisories}, "unknown distribution"},
		{"packages of another distribution", inventory(gate.OS{ID: "debian", Version: "12"}, "deb/less@590", "rpm/tar@1", "apk/tar@1"), []gate.GapKind{gate.GapNoAdvisories, gate.GapNoAdvisories}, `rpm packages on "debian" "12"`},
		{"an ecosystem without advisories", inventory(gate.OS{}, "cargo/time@0.1.0", "cargo/serde@1.0.0"), []gate.GapKind{gate.GapNoAdvisories}, "cargo"},
		{"a type nobody knows", inventory(gate.OS{}, "hex/plug@1.0.0"), []gate.GapKind{gate.GapNoAdvisories}, "hex"},
		{"a version that is none", inventory(gate.OS{}, "npm/lodash@latest"), []gate.GapKind{gate.GapUnknownVersion}, `"latest" of npm/"lodash"`},
		{"no version", inventory(gate.OS{}, "npm/lodash@"), []gate.GapKind{gate.GapUnknownVersion}, `version ""`},
		{"nothing for a version that is none of a package without advisories", inventory(gate.OS{}, "npm/left-pad@latest"), nil, ""},
		{"nothing for an image of no distribution", inventory(gate.OS{}, "npm/left-pad@1.0.0"), nil, ""},
		{"a distribution whose packages are not read", inventory(gate.OS{ID: "arch"}), []gate.GapKind{gate.GapNoAdvisories}, `"arch"`},
		{"a distribution whose packages are listed nowhere", inventory(gate.OS{ID: "ubuntu", Version: "24.04"}, "npm/left-pad@1.0.0"), []gate.GapKind{gate.GapUnreadablePackage}, `"ubuntu" "24.04", and no deb package`},
	} {
		t.Run(test.name, func(t *testing.T) {
			findings, gaps := matchAll(t, a, test.inv)
			var kinds []gate.GapKind
			said := test.says == ""
			for _, g := range gaps {
				kinds = append(kinds, g.Kind)
				said = said || strings.Contains(g.Why, test.says)
			}
			if diff := cmp.Diff(test.want, kinds); diff != "" || !said || len(findings) > 0 {
				t.Errorf("gaps (-want +got):\n%s\nin full: %+v, want one that says %q\nfindings: %v", diff, gaps, test.says, findings)
			}
		})
	}
}

func TestMatchReportsWhatIsUnfixedWhateverTheVersion(t *testing.T) {
	a := openTestAdvisories(t, realRows, nil)
	got := brief(matchAll(t, a, inventory(gate.OS{ID: "debian", Version: "12"}, "deb/tar@???")))
	if diff := cmp.Diff([]string{"CVE-2005-2541 low deb/tar@??? affected"}, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestMatchBoundsVersionGaps(t *testing.T) {
	a := openTestAdvisories(t, realRows, nil)
	inv := inventory(gate.OS{})
	for i := range 10 * maxVersionGaps {
		inv.Packages = append(inv.Packages, gate.Found{Package: gate.Package{Type: "npm", Name: "lodash", Version: fmt.Sprint("x", i)}, Path: "p"})
	}
	_, gaps := matchAll(t, a, inv)
	if len(gaps) != maxVersionGaps+1 || !strings.Contains(gaps[maxVersionGaps].Why, "more") {
		t.Errorf("got %d gaps, the last %v", len(gaps), gaps[len(gaps)-1])
	}
}

func TestMatchBoundsFindings(t *testing.T) {
	a := openTestAdvisories(t, realRows, nil)
	inv := inventory(gate.OS{})
	for i := range maxFindings {
		inv.Packages = append(inv.Packages, gate.Found{Package: gate.Package{Type: "npm", Name: "lodash", Version: "4.17.4"}, Path: fmt.Sprint(i)})
	}
	findings, gaps := matchAll(t, a, inv)
	if len(findings) != maxFindings || len(gaps) != 1 || gaps[0].Kind != gate.GapLimit {
		t.Errorf("got %d findings and gaps %v", len(findings), gaps)
	}
}

func TestMatchBoundsItsWork(t *testing.T) {
	a := openTestAdvisories(t, realRows, nil)
	m := matcher{data: a.current.Load(), described: map[string]vulnerability{}, seen: map[findingKey]int{}, rows: maxRows - 1}
	err := m.data.view(func(tx *bolt.Tx) error {
		m.tx = tx
		return m.match(t.Context(), inventory(gate.OS{}, "npm/lodash@4.17.4", "npm/minimist@1.2.0"))
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"CVE-2018-16487 high npm/lodash@4.17.4 fixed 4.17.11", "limit"}
	if diff := cmp.Diff(want, brief(m.sorted(), m.gaps.list())); diff != "" {
		t.Errorf("with work left for one advisory (-want +got):\n%s", diff)
	}
}

func TestMatchSurvivesHostilePackages(t *testing.T) {
	rows := realRows
	for _, bucket := range []string{"alpine 3.19", "rocky 9"} {
		rows = append(rows, ocitest.Advisory{Bucket: bucket, Package: "x", ID: "CVE-1", Fixed: "1.0-1"})
	}
	a := openTestAdvisories(t, rows, map[string]string{"x.json": `{"id":"X","affected":[{"package":{"ecosystem":"npm","name":"x"},"versions":["1"]}]}`})
	hostile := []string{"", "\x00", strings.Repeat("a", 1<<20), "a\x00b", "../../x", "debian 12", "vulnerability", "🙈", "a:1", "-1", strings.Repeat("1.", 100), strings.Repeat("9", 1<<20), "%s%d", "::"}
	for _, os := range []gate.OS{{ID: "debian", Version: "12"}, {ID: "alpine", Version: "3.19.1"}, {ID: "rocky", Version: "9"}, {ID: strings.Repeat("x", 1<<16), Version: "\x00"}} {
		inv := gate.Inventory{OS: os}
		for _, kind := range []string{"deb", "apk", "rpm", "npm", "pypi", "golang", "maven", "gem", "cargo", "nuget", "composer", "\x00"} {
			for _, text := range hostile {
				for _, p := range []gate.Package{
					{Name: text, Version: text, Source: text, SourceVersion: text, Modularity: text, Arch: text},
					{Name: "lodash", Version: text}, {Name: "stdlib", Version: text}, {Name: "jinja2", Version: text}, {Name: "x", Version: text}, {Name: "tar", Version: text},
					{Name: "org.apache.logging.log4j:log4j-core", Version: text}, {Name: "rack", Version: text},
				} {
					p.Type = kind
					inv.Packages = append(inv.Packages, gate.Found{Package: p})
				}
			}
		}
		_, gaps := matchAll(t, a, inv)
		for _, g := range gaps {
			if len(g.Why) > 1000 || strings.ContainsRune(g.Why, 0) {
				t.Errorf("a gap quotes %d bytes of a package: %.200q", len(g.Why), g.Why)
			}
		}
	}
}

func TestMatchStopsWithItsContext(t *testing.T) {
	a := openTestAdvisories(t, realRows, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	findings, gaps, err := a.Match(ctx, a.Snapshot(), inventory(gate.OS{}, "npm/lodash@4.17.4"))
	if err == nil || findings != nil || gaps != nil {
		t.Errorf("got %v, %v, %v, want an error alone", findings, gaps, err)
	}
}

func TestMatchNamesTheLayerOfAVersionGap(t *testing.T) {
	a := openTestAdvisories(t, realRows, nil)
	_, gaps := matchAll(t, a, inventory(gate.OS{}, "npm/lodash@?"))
	if len(gaps) != 1 || gaps[0].Layer != oci.Digest("sha256:layer") || gaps[0].Path != "npm/path" {
		t.Errorf("got %+v", gaps)
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"": "", " a\n\tb\x00c\u0085d ": "a b c d", strings.Repeat("é", 200): strings.Repeat("é", 100) + "…", "a" + strings.Repeat("é", 200): "a" + strings.Repeat("é", 99) + "…",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("oneLine(%q) = %q, want %q", in, got, want)
		}
	}
}
