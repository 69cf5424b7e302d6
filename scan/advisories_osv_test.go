package scan

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// lodashRecord has what GHSA-jf85-cpcp-j695 has: a range of commits before the one that counts, and fields nobody asked for.
const lodashRecord = `{
  "schema_version": "1.7.0", "id": "GHSA-jf85-cpcp-j695", "aliases": ["SNYK-1", "CVE-2019-10744"], "modified": "2024-04-16T00:00:00Z",
  "published": "2019-07-10T19:45:23Z", "summary": "Prototype Pollution in lodash", "some_new_field": {"a": [1]},
  "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:H/A:H"}, {"type": "CVSS_V4", "score": "CVSS:4.0/AV:N"}],
  "affected": [{
    "package": {"ecosystem": "npm", "name": "lodash", "purl": "pkg:npm/lodash"},
    "ranges": [
      {"type": "GIT", "repo": "https://example.org/lodash", "events": [{"introduced": "0"}, {"fixed": "1f8ea07746963a535385a5befc19fa687a627d2b"}]},
      {"type": "SEMVER", "events": [{"fixed": "4.17.12"}, {"introduced": "0"}], "database_specific": {"x": 1}}
    ],
    "database_specific": {"source": "https://example.org"}
  }],
  "database_specific": {"severity": "CRITICAL", "cwe_ids": ["CWE-1321"]}
}`

func TestOverlayAddsToTheDatabase(t *testing.T) {
	a := openTestAdvisories(t, realRows[1:], map[string]string{"lodash.json": lodashRecord, "README": "not a record"})
	findings, gaps := matchAll(t, a, inventory(gate.OS{}, "npm/lodash@4.17.11"))
	want := []gate.Finding{{
		ID: "CVE-2019-10744", Package: gate.Package{Type: "npm", Name: "lodash", Version: "4.17.11"}, Path: "npm/path", Severity: gate.Critical,
		FixedVersion: "4.17.12", Source: "osv", Title: "Prototype Pollution in lodash", Published: time.Date(2019, 7, 10, 19, 45, 23, 0, time.UTC),
	}}
	if diff := cmp.Diff(want, findings); diff != "" || len(gaps) > 0 {
		t.Errorf("findings (-want +got):\n%s\ngaps: %v", diff, gaps)
	}
	if got := brief(matchAll(t, a, inventory(gate.OS{}, "npm/lodash@4.17.12"))); len(got) > 0 {
		t.Errorf("a fixed version: %q", got)
	}
}

func TestOverlayAndDatabaseMakeOneFindingOfOneVulnerability(t *testing.T) {
	row := realRows[0]
	row.Severity = "low"
	a := openTestAdvisories(t, []ocitest.Advisory{row}, map[string]string{"lodash.json": lodashRecord})
	got := brief(matchAll(t, a, inventory(gate.OS{}, "npm/lodash@4.17.4")))
	if diff := cmp.Diff([]string{"CVE-2019-10744 critical npm/lodash@4.17.4 fixed 4.17.12"}, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestOverlayDoesNotStandInForADatabase(t *testing.T) {
	a := openTestAdvisories(t, nil, map[string]string{"lodash.json": lodashRecord})
	got := brief(matchAll(t, a, inventory(gate.OS{}, "npm/lodash@4.17.4")))
	if diff := cmp.Diff([]string{"CVE-2019-10744 critical npm/lodash@4.17.4 fixed 4.17.12", "no-advisories"}, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

// osvAbout returns a record that says affected of a package.
func osvAbout(ecosystem, name, affected string) string {
	return `{"id":"X-1","affected":[{"package":{"ecosystem":"` + ecosystem + `","name":"` + name + `"},` + affected + `}]}`
}

func TestOverlayMatches(t *testing.T) {
	lines := `"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"1.0.0"},{"fixed":"1.2.0"},{"introduced":"2.0.0"},{"last_affected":"2.1.0"},{"limit":"3"}]}]`
	debian := inventory(gate.OS{ID: "debian", Version: "12"}, "deb/libx1@9")
	debian.Packages[0].Source, debian.Packages[0].SourceVersion = "x", "1.1.0-1"
	extended := inventory(gate.OS{ID: "ubuntu", Version: "18.04"}, "deb/x@1.0.0-1")
	extended.Channels = []string{"esm-infra"}
	edge := inventory(gate.OS{ID: "alpine", Version: "3.19.1"}, "apk/x@1.0.0-r1")
	edge.Channels = []string{"alpine 3.20", "alpine edge"}
	rpm := inventory(gate.OS{ID: "rocky", Version: "9.2"}, "rpm/x-libs@0:1.0.0-1")
	rpm.Packages[0].Source, rpm.Packages[0].SourceVersion, rpm.Packages[0].Modularity = "x", "1.0.0-1", "y:1:1:1"
	apk := inventory(gate.OS{ID: "wolfi"}, "apk/x-libs@1.0.0-r1")
	apk.Packages[0].Source = "x"
	const hit, fixed = "X-1 unrated npm/x@", " fixed 1.2.0"
	for _, test := range []struct {
		name, record string
		inv          gate.Inventory
		want         []string
	}{
		{"before the first line", osvAbout("npm", "x", lines), inventory(gate.OS{}, "npm/x@0.9.0"), nil},
		{"at the start of a line", osvAbout("npm", "x", lines), inventory(gate.OS{}, "npm/x@1.0.0"), []string{hit + "1.0.0" + fixed}},
		{"at the fix", osvAbout("npm", "x", lines), inventory(gate.OS{}, "npm/x@1.2.0"), nil},
		{"at the last affected", osvAbout("npm", "x", lines), inventory(gate.OS{}, "npm/x@2.1.0"), []string{hit + "2.1.0"}},
		{"after the last affected", osvAbout("npm", "x", lines), inventory(gate.OS{}, "npm/x@2.1.1"), nil},
		{"a version that is none", osvAbout("npm", "x", lines), inventory(gate.OS{}, "npm/x@main"), []string{"unknown-version"}},
		{"a single version", osvAbout("npm", "x", `"versions":["1.0","odd one"]`), inventory(gate.OS{}, "npm/x@1.0.0"), []string{hit + "1.0.0"}},
		{"not a single version", osvAbout("npm", "x", `"versions":["1.0","odd one"]`), inventory(gate.OS{}, "npm/x@1.0.1"), nil},
		{"commits alone", osvAbout("npm", "x", `"ranges":[{"type":"GIT","events":[{"introduced":"0"}]}]`), inventory(gate.OS{}, "npm/x@1.0.0"), []string{"unknown-version"}},
		{"PyPI by canonical name", osvAbout("PyPI", "X_Y.z", `"versions":["1.0"]`), inventory(gate.OS{}, "pypi/x-y-z@1.0"), []string{"X-1 unrated pypi/x-y-z@1.0"}},
		{"Maven", osvAbout("Maven", "org.X:y", `"versions":["1.0"]`), inventory(gate.OS{}, "maven/org.x:y@1.0"), []string{"X-1 unrated maven/org.x:y@1.0"}},
		{"Go by exact name", osvAbout("Go", "example.org/X", `"versions":["1.0.0"]`), inventory(gate.OS{}, "golang/example.org/X@v1.0.0", "golang/example.org/x@v1.0.0"), []string{"X-1 unrated golang/example.org/X@v1.0.0"}},
		{"another ecosystem", osvAbout("PyPI", "x", lines), inventory(gate.OS{}, "npm/x@1.0.0"), nil},
		{"Debian by source and its version", osvAbout("Debian:12", "x", lines), debian, []string{"X-1 unrated deb/libx1@9 fixed 1.2.0"}},
		{"Debian of any release", osvAbout("Debian", "x", lines), debian, []string{"X-1 unrated deb/libx1@9 fixed 1.2.0"}},
		{"Debian of another release", osvAbout("Debian:11", "x", lines), debian, nil},
		{"Ubuntu with its mark", osvAbout("Ubuntu:22.04:LTS", "x", lines), inventory(gate.OS{ID: "ubuntu", Version: "22.04"}, "deb/x@1.0.0-1"), []string{"X-1 unrated deb/x@1.0.0-1 fixed 1.2.0"}},
		{"Alpine with its letter", osvAbout("Alpine:v3.19", "x", lines), inventory(gate.OS{ID: "alpine", Version: "3.19.1"}, "apk/x@1.0.0-r1"), []string{"X-1 unrated apk/x@1.0.0-r1 fixed 1.2.0"}},
		{"Wolfi", osvAbout("Wolfi", "x", lines), inventory(gate.OS{ID: "wolfi"}, "apk/x@1.0.0-r1"), []string{"X-1 unrated apk/x@1.0.0-r1 fixed 1.2.0"}},
		{"Rocky", osvAbout("Rocky Linux:9", "x", lines), inventory(gate.OS{ID: "rocky", Version: "9.2"}, "rpm/x@0:1.0.0-1"), []string{"X-1 unrated rpm/x@0:1.0.0-1 fixed 1.2.0"}},
		{"Ubuntu with extended maintenance", osvAbout("Ubuntu:18.04:LTS", "x", lines), extended, []string{"X-1 unrated deb/x@1.0.0-1 fixed 1.2.0"}},
		{"Alpine's own release with edge beside it", osvAbout("Alpine:v3.19", "x", lines), edge, []string{"X-1 unrated apk/x@1.0.0-r1 fixed 1.2.0"}},
		{"Alpine's other release with edge beside it", osvAbout("Alpine:v3.20", "x", lines), edge, []string{"X-1 unrated apk/x@1.0.0-r1 fixed 1.2.0"}},
		{"Alpine's edge without data of it", osvAbout("Alpine:edge", "x", lines), edge, []string{"X-1 unrated apk/x@1.0.0-r1 fixed 1.2.0"}},
		{"Alpine's release without packages of it", osvAbout("Alpine:v3.18", "x", lines), edge, nil},
		{"Rocky by source", osvAbout("Rocky Linux:9", "x", lines), rpm, []string{"X-1 unrated rpm/x-libs@0:1.0.0-1 fixed 1.2.0"}},
		{"Rocky by binary, of a module", osvAbout("Rocky Linux", "x-libs", lines), rpm, []string{"X-1 unrated rpm/x-libs@0:1.0.0-1 fixed 1.2.0"}},
		{"Rocky by module and binary", osvAbout("Rocky Linux", "y:1::x-libs", lines), rpm, []string{"X-1 unrated rpm/x-libs@0:1.0.0-1 fixed 1.2.0"}},
		{"Wolfi by package", osvAbout("Wolfi", "x-libs", lines), apk, []string{"X-1 unrated apk/x-libs@1.0.0-r1 fixed 1.2.0"}},
		{"Debian by binary and its version", osvAbout("Debian:12", "libx1", `"versions":["9"]`), debian, []string{"X-1 unrated deb/libx1@9"}},
		{"Conan", osvAbout("ConanCenter", "x", lines), inventory(gate.OS{}, "conan/x@1.0.0"), []string{"X-1 unrated conan/x@1.0.0 fixed 1.2.0"}},
		{"runtimes", osvAbout("Bitnami", "node", lines), inventory(gate.OS{}, "generic/node@1.1.0"), []string{"X-1 unrated generic/node@1.1.0 fixed 1.2.0"}},
		{"a runtime's candidate as its makers write it", osvAbout("Bitnami", "python", `"versions":["3.13.0rc2"]`), inventory(gate.OS{}, "generic/python@3.13.0rc2"), []string{"X-1 unrated generic/python@3.13.0rc2"}},
		{"one package that no image has, and one that some have", `{"id":"X-1","affected":[{"package":{"ecosystem":"Hex","name":"x"},"ranges":[{"type":"NEW"}]},{"package":{"ecosystem":"npm","name":"x"},"versions":["1.0.0"]}]}`, inventory(gate.OS{}, "npm/x@1.0.0"), []string{hit + "1.0.0"}},
		{"withdrawn", `{"id":"X-1","withdrawn":"2025-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"x"},"versions":["1.0.0"]}]}`, inventory(gate.OS{}, "npm/x@1.0.0"), nil},
		{"to be withdrawn", `{"id":"X-1","withdrawn":"2099-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"x"},"versions":["1.0.0"]}]}`, inventory(gate.OS{}, "npm/x@1.0.0"), []string{hit + "1.0.0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			rows := []ocitest.Advisory{}
			for _, bucket := range []string{npmRows, pipRows, mvnRows, goRows, "debian 12", "ubuntu 22.04", "ubuntu 18.04", "ubuntu 18.04-ESM", "alpine 3.19", "alpine 3.20", "wolfi", "rocky 9", "conan::x", "bitnami::x"} {
				rows = append(rows, ocitest.Advisory{Bucket: bucket, Package: "other", ID: "CVE-1"})
			}
			a := openTestAdvisories(t, rows, map[string]string{"x.json": test.record})
			if diff := cmp.Diff(test.want, brief(matchAll(t, a, test.inv))); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOverlayRefuses(t *testing.T) {
	for name, record := range map[string]string{
		"an empty file":           ``,
		"a list":                  `[` + lodashRecord + `]`,
		"null":                    `null`,
		"half a record":           lodashRecord[:len(lodashRecord)/2],
		"two records":             lodashRecord + lodashRecord,
		"no id":                   `{"affected":[]}`,
		"a field of another type": `{"id":"X-1","affected":{}}`,
		"a time that is none":     `{"id":"X-1","withdrawn":"yesterday"}`,
		"an unknown range":        osvAbout("npm", "x", `"ranges":[{"type":"CALVER","events":[]}]`),
		"an unknown event":        osvAbout("npm", "x", `"ranges":[{"type":"SEMVER","events":[{"vanished":"1.0.0"}]}]`),
		"an event of two":         osvAbout("npm", "x", `"ranges":[{"type":"SEMVER","events":[{"introduced":"0","fixed":"1.0.0"}]}]`),
		"a version that is none":  osvAbout("npm", "x", `"ranges":[{"type":"SEMVER","events":[{"introduced":"main"}]}]`),
		"an unknown ecosystem":    osvAbout("Perl", "x", `"versions":["1"]`),
		"an unmapped product":     osvAbout("Red Hat:enterprise_linux:9::baseos", "x", `"versions":["1"]`),
		"a paid-for fix":          osvAbout("Ubuntu:Pro:22.04:LTS", "x", `"versions":["1"]`),
		"what no image has":       osvAbout("Hex", "x", `"versions":["1"]`),
		"no name":                 osvAbout("npm", "", `"versions":["1"]`),
		"nothing affected":        `{"id":"X-1","affected":[]}`,
		"commits of no package":   `{"id":"X-1","affected":[{"ranges":[{"type":"GIT"}]}]}`,
		"a range of nothing":      osvAbout("npm", "x", `"ranges":[{"type":"SEMVER","events":[]}]`),
		"a range with no start":   osvAbout("npm", "x", `"ranges":[{"type":"SEMVER","events":[{"fixed":"1.0.0"},{"limit":"*"}]}]`),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeTestAdvisories(t, dir, nil, map[string]string{"good.json": lodashRecord, "x.json": record})
			a, err := OpenAdvisories(t.Context(), dir, 0, advisoryNow)
			if err == nil {
				t.Fatalf("opened as %+v", a.Snapshot())
			}
			if !strings.Contains(err.Error(), "x.json") {
				t.Errorf("%v does not name the file", err)
			}
		})
	}
}

func TestOverlayRates(t *testing.T) {
	for record, want := range map[string]gate.Severity{
		`"database_specific":{"severity":"MODERATE"}`:                                                               gate.Medium,
		`"database_specific":{"severity":{"text":"x"}}`:                                                             gate.Unrated,
		`"severity":[{"type":"Ubuntu","score":"high"}]`:                                                             gate.High,
		`"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]`:                    gate.Critical,
		`"severity":[{"type":"CVSS_V4","score":"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"}]`: gate.Critical,
		`"database_specific":{"severity":"LOW"},"severity":[{"score":"CVSS:3.0/AV:L/AC:H/PR:N/UI:R/S:U/C:H"}]`:      gate.Low,
	} {
		r, err := parseOSVRecord([]byte(`{"id":"X-1",` + record + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := r.worst(osvAffected{}); got != want {
			t.Errorf("%s is %s, want %s", record, got, want)
		}
	}
	t.Run("by the database when the record does not", func(t *testing.T) {
		row := realRows[0]
		row.Package = "other"
		record := `{"id":"CVE-2019-10744","affected":[{"package":{"ecosystem":"npm","name":"x"},"versions":["1.0.0"]}]}`
		a := openTestAdvisories(t, []ocitest.Advisory{row, {Bucket: npmRows, ID: "CVE-2019-10744", Package: "y", Source: "ghsa", Ratings: map[string]string{"nvd": "high", "ghsa": "critical"}}}, map[string]string{"x.json": record})
		if diff := cmp.Diff([]string{"CVE-2019-10744 critical npm/x@1.0.0"}, brief(matchAll(t, a, inventory(gate.OS{}, "npm/x@1.0.0")))); diff != "" {
			t.Errorf("findings (-want +got):\n%s", diff)
		}
	})
}

func TestSeverityOfVector(t *testing.T) {
	// Scores as NVD publishes them: 10.0, 9.8, 9.3, 9.1, 7.8, 5.9, 6.1, 3.7, 0.
	for vector, want := range map[string]gate.Severity{
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H":     gate.Critical,
		"CVSS:3.0/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H/E:P": gate.Critical,
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:H/I:H/A:N":     gate.Critical,
		"CVSS:3.1/AV:N/AC:L/PR:H/UI:N/S:C/C:H/I:H/A:H":     gate.Critical,
		"CVSS:3.1/AV:L/AC:L/PR:N/UI:R/S:U/C:H/I:H/A:H":     gate.High,
		"CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:H/I:N/A:N":     gate.Medium,
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N":     gate.Medium,
		"CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:N/I:N/A:L":     gate.Low,
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N":     gate.Unrated,
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N":         gate.Unrated,
		"CVSS:3.1/AV:Z/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H":     gate.Unrated,
		// Scores as FIRST's calculator has them: 10.0, 9.3, 8.7, 8.5, 6.9, 5.1, 2.1, 0, and 9.3 again without threat and environment.
		"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:H/SI:H/SA:H":                       gate.Critical,
		"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N":                       gate.Critical,
		"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:N/VI:N/VA:H/SC:N/SI:N/SA:N":                       gate.High,
		"CVSS:4.0/AV:L/AC:L/AT:N/PR:L/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N":                       gate.High,
		"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:L/VI:N/VA:N/SC:N/SI:N/SA:N":                       gate.Medium,
		"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:A/VC:N/VI:N/VA:N/SC:L/SI:L/SA:N":                       gate.Medium,
		"CVSS:4.0/AV:N/AC:L/AT:P/PR:L/UI:P/VC:L/VI:N/VA:N/SC:N/SI:N/SA:N":                       gate.Low,
		"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:N/VI:N/VA:N/SC:N/SI:N/SA:N":                       gate.Unrated,
		"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N/E:U/MVC:N/MVI:N/MVA:N": gate.Critical,
		"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/S:C":                                  gate.Unrated,
		"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:Z":                       gate.Unrated,
		"CVSS:4.0": gate.Unrated,
		"CVSS:5.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N": gate.Unrated,
		"": gate.Unrated,
	} {
		if got := severityOfVector(vector); got != want {
			t.Errorf("%s is %s, want %s", vector, got, want)
		}
	}
	for score, want := range map[float64]float64{4.02: 4.1, 4.0: 4.0, 8.600000000000001: 8.6, 9.9999: 10} {
		if got := cvssRoundUp(score); got != want {
			t.Errorf("%v is rounded up to %v, want %v", score, got, want)
		}
	}
}

func FuzzOSVRecord(f *testing.F) {
	f.Add([]byte(lodashRecord), "4.17.4")
	f.Add([]byte(osvAbout("npm", "lodash", `"ranges":[{"type":"SEMVER","events":[{"introduced":"1.0.0"},{"last_affected":"2.0.0"}]}],"versions":["1"]`)), "2.0.0")
	f.Add([]byte(`{"id":"X-1","severity":[{"score":"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"}],"affected":[{"package":{"ecosystem":"npm","name":"lodash"},"versions":["1"]}]}`), "1")
	f.Fuzz(func(t *testing.T, text []byte, version string) {
		record, err := parseOSVRecord(text)
		if err != nil {
			return
		}
		o := overlay{}
		if err := o.add(record, advisoryTime); err != nil {
			return
		}
		installed := newInstalledVersion(orderNPM, version)
		for _, a := range o["npm"]["lodash"] {
			affected, err := a.affects(installed, version)
			if affected && err != nil {
				t.Errorf("affected and an error: %v", err)
			}
			if fix := a.fixedVersion(installed); fix != "" && !isAfter(installed, fix) {
				t.Errorf("%s is fixed in %s", version, fix)
			}
		}
	})
}
