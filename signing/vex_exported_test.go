package signing

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/report"
)

// exportedPackages are of every type whose package URL is written in a way of its own.
var exportedPackages = []gate.Package{
	{Type: "deb", Name: "libstdc++6", Version: "1:12.2.0-14+deb12u1~x", Arch: "amd64"}, {Type: "apk", Name: "busybox", Version: "1.36.1-r2", Arch: "x86_64"},
	{Type: "rpm", Name: "dbus", Version: "1:1.12-5.el9", Arch: "x86_64"}, {Type: "rpm", Name: "dbus", Version: "1.12-5.el9", Arch: "x86_64"},
	{Type: "npm", Name: "@scope/Name", Version: "1.0.0"}, {Type: "npm", Name: "Name", Version: "1.0.0"}, {Type: "npm", Name: "Name", Version: "1.0.1"},
	{Type: "pypi", Name: "Some_Thing", Version: "2.0"}, {Type: "pypi", Name: "ruamel.yaml", Version: "0.17"}, {Type: "pypi", Name: "other", Version: "2.0"},
	{Type: "golang", Name: "github.com/Azure/go-autorest", Version: "14.2.0+incompatible"}, {Type: "golang", Name: "stdlib", Version: "1.26.3"},
	{Type: "maven", Name: "org.apache.logging.log4j:log4j-core", Version: "2.14.1"}, {Type: "composer", Name: "Symfony/Console", Version: "6.4.0"},
	{Type: "conan", Name: "zlib", Version: "1.2.11"}, {Type: "generic", Name: "node", Version: "20.11.0"}, {Type: "gem", Name: "rails", Version: "7.0"},
}

// exportedEvidence returns random findings in the image c and random statements about them by security.
func exportedEvidence(r *rand.Rand, c gate.Candidate, now time.Time) gate.Evidence {
	pick := func(from []string) string { return from[r.IntN(len(from))] }
	ids := []string{"CVE-2026-1", "CVE-2026-2", "GHSA-aaaa-bbbb-cccc", "CVE-2026-9"}
	e := gate.Evidence{
		Candidate: c, Manifest: oci.Manifest{MediaType: oci.MediaTypeImage}, Examined: true, ConfigExamined: true,
		Inventory: gate.Inventory{OS: gate.OS{ID: pick([]string{"debian", "rhel", "alpine", ""}), Version: "12"}},
	}
	for range 1 + r.IntN(12) {
		p := exportedPackages[r.IntN(len(exportedPackages))]
		e.Findings = append(e.Findings, gate.Finding{ID: pick(ids), Package: p, Path: pick([]string{"a", "b"}), Severity: gate.Severity(r.IntN(5))})
	}
	for range r.IntN(8) {
		x := gate.VEX{
			By: gate.Signature{Authority: "security"}, Vulnerabilities: []string{pick(ids)}, At: now.Add(-time.Duration(r.IntN(5)) * time.Hour),
			Status: []gate.VEXStatus{gate.VEXNotAffected, gate.VEXNotAffected, gate.VEXFixed, gate.VEXAffected}[r.IntN(4)],
			Why:    pick([]string{"", "nobody calls it"}),
		}
		for range r.IntN(3) {
			f := e.Findings[r.IntN(len(e.Findings))]
			x.Packages = append(x.Packages, gate.VEXPackage{Type: f.Package.Type, Name: f.Package.Name, Version: pick([]string{"", f.Package.Version})})
		}
		e.VEX = append(e.VEX, x)
	}
	return e
}

// excusedBy returns which findings a verdict by the word of an authority excuses.
func excusedBy(v gate.Verdict) []string {
	var all []string
	for _, r := range v.Excused {
		all = append(all, r.Finding.ID+" "+r.Finding.Package.Type+" "+r.Finding.Package.Name+" "+r.Finding.Package.Version)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// What was excused and is told to others as OpenVEX excuses the same findings of the image, and no others, where its word counts.
func TestExportedOpenVEXExcusesTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 12))
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	c := gate.Candidate{Repository: oci.Repository{Upstream: "registry.test", Path: "library/App"}, Digest: oci.FromBytes([]byte("image"))}
	match, err := oci.ParsePattern("**")
	if err != nil {
		t.Fatal(err)
	}
	medium, some := gate.Medium, 0
	policy := gate.Policy{
		Name: "p", Match: []oci.Pattern{match}, VEX: []string{"security"},
		Vulnerabilities: &gate.VulnerabilityRule{DenyAt: &medium, Deny: []string{"CVE-2026-9"}},
	}
	for range 400 {
		e := exportedEvidence(r, c, now)
		before := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{policy}}, e, now)
		document, err := report.OpenVEX(report.Report{Name: "x", Created: now, Images: []report.Image{{Candidate: c, Inventory: e.Inventory, Verdict: &before}}})
		if err != nil {
			t.Fatal(err)
		}
		stated, err := parseOpenVEX(document, subject{Candidate: c, names: []string{c.Repository.String()}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range stated {
			stated[i].By.Authority = "exporter"
		}
		for name, also := range map[string][]gate.VEX{"alone": nil, "beside the statements it was made from": e.VEX} {
			again, other := e, policy
			again.VEX, other.VEX = slices.Concat(also, stated), []string{"security", "exporter"}
			after := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{other}}, again, now)
			if diff := cmp.Diff(excusedBy(after), excusedBy(before)); diff != "" || after.Decision != before.Decision {
				t.Fatalf("%s it gives %s, not %s (-got +want):\n%s%s", name, after.Decision, before.Decision, diff, document)
			}
		}
		if len(excusedBy(before)) > 0 {
			some++
		}
	}
	if some < 40 {
		t.Errorf("only %d verdicts excused anything", some)
	}
}
