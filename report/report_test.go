package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

var update = flag.Bool("update", false, "rewrite the documents in testdata")

// formats are the renderers by the names of their documents.
var formats = map[string]func(Report) ([]byte, error){"cdx": CycloneDX, "spdx": SPDX, "sarif": SARIF, "openvex": OpenVEX}

var created = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func candidate(path, content string) gate.Candidate {
	return gate.Candidate{Repository: oci.Repository{Upstream: "registry.test", Path: path}, Digest: oci.FromBytes([]byte(content))}
}

var (
	openssl = gate.Package{Type: "deb", Name: "libssl3", Version: "3.0.11-1~deb12u1", Arch: "amd64", Source: "openssl", SourceVersion: "3.0.11-1~deb12u1"}
	lodash  = gate.Package{Type: "npm", Name: "lodash", Version: "4.17.4", Licenses: []string{"MIT"}}
	log4j   = gate.Package{Type: "maven", Name: "org.apache.logging.log4j:log4j-core", Version: "2.14.1", Licenses: []string{"Apache License, Version 2.0"}}
)

func layerOf(content string) oci.Digest { return oci.FromBytes([]byte(content)) }

// inventory has a package of every kind, some twice, with licenses stated in every way.
func inventory() gate.Inventory {
	return gate.Inventory{
		OS: gate.OS{ID: "debian", Version: "12", Name: "Debian GNU/Linux"},
		Packages: []gate.Found{
			{Package: gate.Package{Type: "composer", Name: "Symfony/Console", Version: "6.4.0", Licenses: []string{"MIT OR GPL-2.0-or-later WITH Classpath-exception-2.0"}}, Path: "app/vendor/composer/installed.json", Layer: layerOf("two")},
			{Package: openssl, Path: "var/lib/dpkg/status", Layer: layerOf("one")},
			{Package: gate.Package{Type: "golang", Name: "github.com/Azure/go-autorest", Version: "14.2.0+incompatible"}, Path: "usr/bin/tool", Layer: layerOf("two")},
			{Package: gate.Package{Type: "golang", Name: "stdlib", Version: "1.26.3"}, Path: "usr/bin/tool", Layer: layerOf("two")},
			{Package: log4j, Path: "app/app.jar", Layer: layerOf("two")},
			{Package: lodash, Path: "app/node_modules/lodash/package.json", Layer: layerOf("two")},
			{Package: lodash, Path: "opt/other/node_modules/lodash/package.json", Layer: layerOf("one")},
			{Package: gate.Package{Type: "npm", Name: "@scope/Name", Version: "1.0.0", Licenses: []string{"SEE LICENSE IN <x>", "ISC", "ISC", " "}}, Path: "app/node_modules/@scope/Name/package.json", Layer: layerOf("two")},
			{Package: gate.Package{Type: "pypi", Name: "Some_Thing", Version: "2.0", Licenses: []string{"\u202eevil\x1b[31m"}}, Path: "usr/lib/python3/dist-packages/a b#c?%.egg-info", Layer: layerOf("two")},
			{Package: gate.Package{Type: "novel", Name: "a/b c", Version: ""}, Path: "c:strange", Layer: layerOf("two")},
		},
		Secrets: []gate.Secret{{Kind: "private key", Path: "etc/key <1>.pem", Layer: layerOf("one")}},
		Gaps:    []gate.Gap{{Kind: gate.GapUnreadablePackage, Layer: layerOf("two"), Path: "app/broken.jar", Why: "truncated"}},
	}
}

// judged is a verdict with findings of every standing and reasons of other kinds.
func judged(c gate.Candidate) *gate.Verdict {
	high := gate.Finding{ID: "CVE-2023-5678", Package: openssl, Path: "var/lib/dpkg/status", Severity: gate.High, FixedVersion: "3.0.13-1~deb12u1", Source: "debian 12", Title: "DH keys <checked> slowly", Published: time.Date(2023, 11, 6, 16, 15, 0, 0, time.UTC)}
	twice := gate.Finding{ID: "CVE-2019-10744", Package: lodash, Path: "app/node_modules/lodash/package.json", Severity: gate.Critical, FixedVersion: "4.17.12", Source: "npm"}
	again := twice
	again.Path = "opt/other/node_modules/lodash/package.json"
	lived := gate.Finding{ID: "CVE-2021-44228", Package: log4j, Path: "app/app.jar", Severity: gate.Critical, Status: "will_not_fix", Source: "maven", Title: "Remote code injection in Log4j"}
	minor := gate.Finding{ID: "GHSA-xxxx-yyyy-zzzz", Package: gate.Package{Type: "golang", Name: "stdlib", Version: "1.26.3"}, Path: "usr/bin/tool", Severity: gate.Unrated}
	unreached := gate.Finding{ID: "CVE-2020-8203", Package: lodash, Path: "app/node_modules/lodash/package.json", Severity: gate.High, FixedVersion: "4.17.19", Source: "npm"}
	mended := gate.Finding{ID: "CVE-2024-4741", Package: openssl, Path: "var/lib/dpkg/status", Severity: gate.Medium, FixedVersion: "3.0.14-1~deb12u1", Source: "debian 12"}
	unminded := gate.Finding{ID: "CVE-2021-23337", Package: lodash, Path: "opt/other/node_modules/lodash/package.json", Severity: gate.Low, FixedVersion: "4.17.21", Source: "npm"}
	gap := gate.Gap{Kind: gate.GapUnknownVersion, Path: "c:strange", Why: "the version is empty"}
	v := &gate.Verdict{
		Repository: c.Repository, Digest: c.Digest, Policy: "production", SnapshotID: "sha256:1234", JudgedAt: created,
		Findings: []gate.Finding{lived, twice, again, high, unreached, mended, unminded, minor},
		VEX: []gate.VEX{
			vexBy("vendor", gate.VEXNotAffected, "vulnerable_code_not_in_execute_path", "zip <is> never called", unreached.ID),
			vexBy("security", gate.VEXFixed, "", "backported", mended.ID),
			vexBy("security", gate.VEXNotAffected, "", "", unminded.ID),
		},
		Reasons: []gate.Reason{
			{Rule: gate.RuleSignatures, Message: "unsigned"},
			{Rule: gate.RuleDenyList, Message: "CVE-2019-10744 is on the deny list", Finding: &twice},
			{Rule: gate.RuleVulnerabilities, Message: "CVE-2019-10744 (critical) in lodash 4.17.4, fixed in 4.17.12", Finding: &again},
			{Rule: gate.RuleGap, Message: "unknown version", Gap: &gap},
		},
		Warnings: []gate.Reason{{Rule: gate.RuleVulnerabilities, Message: "CVE-2023-5678 (high) in libssl3", Finding: &high}, {Rule: gate.RuleSecrets, Message: "a private key in etc/key.pem"}},
		Waived: []gate.Reason{
			{Rule: gate.RuleVulnerabilities, Message: "CVE-2021-44228 (critical)", Finding: &lived, Waiver: "alice, until 2026-12-31T00:00:00Z: not reachable; TICKET-12"},
			{Rule: gate.RuleSize, Message: "5 GiB", Waiver: "bob, until 2026-06-01T00:00:00Z: on its way out"},
		},
	}
	for _, f := range []gate.Finding{unreached, mended} {
		x, _ := v.Excuse(f)
		v.Excused = append(v.Excused, gate.Reason{Rule: gate.RuleVulnerabilities, Message: f.ID, Finding: &f, Excuse: &x})
	}
	return v
}

// vexBy is what an authority stated of a vulnerability, a day before the verdict.
func vexBy(by string, status gate.VEXStatus, justification, why, id string) gate.VEX {
	return gate.VEX{By: gate.Signature{Authority: by}, Vulnerabilities: []string{id}, Status: status, Justification: justification, Why: why, At: created.AddDate(0, 0, -1)}
}

func image() Report {
	c := candidate("library/App", "image")
	return Report{Name: "registry.test/library/App:1.0", Version: "1.2.3", Created: created, Images: []Image{{c, inventory(), judged(c)}}}
}

// reports are what the documents in testdata are about.
func reports() map[string]Report {
	index, child := candidate("app", "index"), candidate("app", "child")
	unjudged := image()
	unjudged.Images[0].Verdict = nil
	return map[string]Report{
		"image":     image(),
		"inventory": unjudged,
		"index": {Name: "registry.test/app:1.0", Version: "1.2.3", Created: created, Images: []Image{
			{Candidate: index, Verdict: &gate.Verdict{Repository: index.Repository, Digest: index.Digest, Decision: gate.Allow, Policy: "production"}},
			{child, inventory(), judged(child)},
			{candidate("app", "other"), gate.Inventory{OS: gate.OS{ID: "rhel", Version: "9.4"}, Packages: []gate.Found{
				{Package: gate.Package{Type: "rpm", Name: "Lib++", Version: "1:2.3-4.el9", Arch: "x86_64", Modularity: "nodejs:18:1", Licenses: []string{"GPL-2.0-only AND MIT"}}, Path: "var/lib/rpm/rpmdb.sqlite"},
			}}, &gate.Verdict{Decision: gate.Allow}},
		}},
		"nothing": {Name: "registry.test/app:1.0", Version: "", Created: created, Images: []Image{{Candidate: index, Verdict: &gate.Verdict{}}}},
	}
}

func TestDocuments(t *testing.T) {
	for name, r := range reports() {
		for format, render := range formats {
			t.Run(name+" as "+format, func(t *testing.T) {
				got, err := render(r)
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join("testdata", name+"."+format+".json")
				if nothing := format == "openvex" && len(r.Images[0].findings()) == 0 && len(r.Images) == 1; nothing != (got == nil) {
					t.Errorf("it has nothing to state: %t, and writes %d bytes", nothing, len(got))
				} else if nothing { // and the format has no document without a statement
					return
				}
				if *update {
					if err := os.WriteFile(file, got, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(got), string(want)); diff != "" {
					t.Errorf("another document (-got +want):\n%s", diff)
				}
				if !json.Valid(got) || !bytes.HasSuffix(got, []byte("}\n")) {
					t.Error("it is no JSON, or no line")
				}
			})
		}
	}
}

func TestEqualReportsAreEqualDocuments(t *testing.T) {
	for format, render := range formats {
		first, err := render(image())
		if err != nil {
			t.Fatal(err)
		}
		if second, err := render(image()); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s: a second time it is another document, %v", format, err)
		}
		later := image()
		later.Created = created.Add(time.Second)
		if second, err := render(later); err != nil || bytes.Equal(first, second) {
			t.Errorf("%s: another time is the same document, %v", format, err)
		}
	}
}

// The order of packages is not the inventory's, so another order is the same but for the document's own name.
func TestOrderDoesNotMatter(t *testing.T) {
	shuffled := image()
	slices.Reverse(shuffled.Images[0].Inventory.Packages)
	a, err := CycloneDX(image())
	if err != nil {
		t.Fatal(err)
	}
	b, err := CycloneDX(shuffled)
	if err != nil {
		t.Fatal(err)
	}
	without := func(document []byte) string {
		lines := strings.Split(string(document), "\n")
		return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "serialNumber") }), "\n")
	}
	if diff := cmp.Diff(without(a), without(b)); diff != "" {
		t.Error(diff)
	}
}

func TestEveryFindingIsTold(t *testing.T) {
	r := image()
	for format, render := range formats {
		got, err := render(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Images[0].Verdict.Findings {
			_, ok := r.Images[0].Verdict.Excuse(f)
			fixed := f.FixedVersion != "" && !(ok && format == "openvex") // nothing is to be done about it
			if !strings.Contains(string(got), f.ID) || fixed && !strings.Contains(string(got), f.FixedVersion) {
				t.Errorf("%s says nothing of %s and its fix", format, f.ID)
			}
		}
		if !strings.Contains(string(got), "not reachable; TICKET-12") {
			t.Errorf("%s does not say why a finding was waived", format)
		}
		for _, told := range []string{"vendor states not_affected on 2026-05-03: vulnerable_code_not_in_execute_path, zip <is> never called", "security states fixed"} {
			if !strings.Contains(string(got), told) {
				t.Errorf("%s does not say that %s", format, told)
			}
		}
	}
}

func TestStandings(t *testing.T) {
	var got []string
	for _, f := range image().Images[0].findings() {
		got = append(got, f.ID+" "+string(f.standing))
	}
	want := []string{"CVE-2021-44228 waived", "CVE-2019-10744 denied", "CVE-2019-10744 denied", "CVE-2023-5678 warned", "CVE-2020-8203 excused", "CVE-2024-4741 excused", "CVE-2021-23337 excused", "GHSA-xxxx-yyyy-zzzz recorded"}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Error(diff)
	}
	t.Run("a finding that is waived for one rule and denied by another is denied", func(t *testing.T) {
		r := image()
		f := r.Images[0].Verdict.Findings[0]
		r.Images[0].Verdict.Reasons = append(r.Images[0].Verdict.Reasons, gate.Reason{Rule: gate.RuleDenyList, Message: "listed", Finding: &f})
		if got := r.Images[0].findings()[0]; got.standing != denied || got.why != "listed" {
			t.Errorf("got %s, %s", got.standing, got.why)
		}
	})
}

// A reader takes names for references: each must be defined once.
func TestReferencesLeadSomewhere(t *testing.T) {
	for name, r := range reports() {
		raw, err := CycloneDX(r)
		if err != nil {
			t.Fatal(err)
		}
		var d cdxDocument
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatal(err)
		}
		defined := map[string]bool{d.Metadata.Component.Ref: true}
		for _, c := range d.Components {
			if defined[c.Ref] {
				t.Errorf("%s: %s is defined twice", name, c.Ref)
			}
			defined[c.Ref] = true
		}
		for _, v := range d.Vulnerabilities {
			if defined[v.Ref] {
				t.Errorf("%s: %s is defined twice", name, v.Ref)
			}
			defined[v.Ref] = true
			for _, a := range v.Affects {
				if !defined[a.Ref] {
					t.Errorf("%s: %s affects %s, which is not there", name, v.ID, a.Ref)
				}
			}
		}
		for _, dep := range d.Dependencies {
			for _, ref := range append(dep.DependsOn, dep.Ref) {
				if !defined[ref] {
					t.Errorf("%s: %s is depended on and not there", name, ref)
				}
			}
		}
		raw, err = SPDX(r)
		if err != nil {
			t.Fatal(err)
		}
		var s spdxDocument
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
		defined = map[string]bool{spdxDocumentID: true}
		for _, p := range s.Packages {
			if defined[p.SPDXID] {
				t.Errorf("%s: %s is defined twice", name, p.SPDXID)
			}
			defined[p.SPDXID] = true
		}
		for _, rel := range s.Relationships {
			if !defined[rel.Element] || !defined[rel.Related] {
				t.Errorf("%s: %+v leads nowhere", name, rel)
			}
		}
	}
}
