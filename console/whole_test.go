package console_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/audit"
	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/review"
)

// hostile is what somebody may call something in the hope that a page takes it for more than text.
const hostile = `"><script>document.title="owned"</script><img src=x onerror=alert(1)>`

// richly is denied, with something of everything a verdict can have.
func richly() gate.Verdict {
	v := denied
	by := gate.Signature{Authority: "release", Format: "sigstore-bundle", Signer: hostile, Issuer: "https://issuer.example", Manifest: older, Inherited: oldest, SignedAt: noon, Until: noon}
	finding := gate.Finding{
		ID: "CVE-2026-0001", Package: gate.Package{Type: "deb", Name: hostile, Version: "1.0"}, Path: "usr/lib/" + hostile, Severity: gate.Critical,
		FixedVersion: "1.1", Status: "affected", CVSS: "CVSS:3.1/AV:N", Score: 9.8, Source: "debian 12", Title: hostile, Published: noon,
	}
	v.MediaType, v.SizeBytes, v.FirstSeen, v.LookedAt, v.Keep, v.Packages = oci.MediaTypeImage, 500, noon, noon, true, 312
	v.Reasons = []gate.Reason{
		{Rule: gate.RuleSignatures, Message: "unsigned: " + hostile},
		{Rule: gate.RuleVulnerabilities, Message: "CVE-2026-0001 (critical) in openssl 1.0, fixed in 1.1", Finding: &finding},
		{Rule: gate.RuleGap, Message: "unreadable-layer", Gap: &gate.Gap{Kind: gate.GapUnreadableLayer, Why: "tar entry 10"}},
	}
	v.Warnings = []gate.Reason{{Rule: gate.RuleRootUser, Message: "runs as root"}}
	v.Waived = []gate.Reason{{Rule: gate.RuleVulnerabilities, Message: "CVE-2026-0002 (high) in zlib 1.2", Waiver: "user:kim until 2026-12-01: " + hostile}}
	v.Excused = []gate.Reason{{Rule: gate.RuleVulnerabilities, Message: "CVE-2026-0003 (high) in zlib 1.2", Finding: &finding, Excuse: &gate.Excuse{By: "vendor", Status: gate.VEXNotAffected, Why: hostile, At: noon}}}
	v.Signatures = []gate.Signature{by}
	v.Attestations = []gate.Attestation{{By: by, PredicateType: "https://slsa.dev/provenance/v1", Answers: map[string]string{"predicate.a == 1": hostile, "predicate.b == 2": ""}}}
	v.VEX = []gate.VEX{{By: by, Vulnerabilities: []string{"CVE-2026-0001"}, Packages: []gate.VEXPackage{{Type: "deb", Name: "openssl"}}, Status: "not_affected", Justification: "component_not_present", Why: hostile, At: noon}}
	v.Rejections = []gate.Rejection{{Manifest: oldest, Format: "cosign-legacy", Why: hostile}}
	for i := range 300 {
		f := finding
		f.ID, f.Severity = fmt.Sprintf("CVE-2026-1%03d", i), gate.Low
		v.Findings = append(v.Findings, f)
	}
	v.Findings = append(v.Findings, finding)
	v.Key, v.PolicyRevision, v.WaiverRevision, v.SnapshotID, v.RootsRevision = "k", "p", "w", "sha256:s", "r"
	v.MalwareDatabase, v.MalwareAt = "ClamAV 1.4/27000", noon
	return v
}

// rich is known with a verdict that has something of everything.
type rich struct{ known }

func (rich) History(context.Context, gate.Candidate) ([]gate.Verdict, error) {
	earlier := denied
	earlier.Decision, earlier.Reasons = gate.Allow, nil
	return []gate.Verdict{richly(), earlier, denied}, nil
}

// shelves are repositories with images that were judged, each a minute before the one in front of it.
type shelves map[string]int

func (s shelves) Repositories(context.Context) ([]oci.Repository, error) {
	var all []oci.Repository
	for path := range s {
		all = append(all, repoOf(path))
	}
	return all, nil
}

func repoOf(path string) oci.Repository {
	if path == app.Path {
		return app
	}
	return oci.Repository{Path: path}
}

func (s shelves) Standings(_ context.Context, repo oci.Repository) ([]console.Standing, error) {
	var all []console.Standing
	for i := range s[repo.Path] {
		standing := console.Standing{
			Repository: repo.String(), Digest: oci.FromBytes(fmt.Append(nil, repo.Path, i)), Quarantined: i%2 == 0,
			JudgedAt: noon.Add(-time.Duration(i) * time.Minute), Until: noon.Add(time.Hour), FirstJudgedAt: noon.Add(-time.Hour),
		}
		if i == 0 && repo == app {
			standing.Digest = digest
		}
		if i%2 == 1 {
			standing.Decision, standing.Admitted = gate.Allow, true
		}
		all = append(all, standing)
	}
	slices.Reverse(all)
	return all, nil
}

// said is one statement.
type said struct{}

func (said) Stated(_ context.Context, c gate.Candidate) (oci.Digest, time.Time, bool, error) {
	return older, noon, c == denied.Candidate(), nil
}

// diary is an audit log with so many entries.
type diary struct {
	n     int
	err   error
	asked audit.Query
}

func (d *diary) Recent(_ context.Context, q audit.Query) (audit.Page, error) {
	d.asked = q
	page := audit.Page{Entries: []audit.Entry{}, Next: "17", Broken: ""}
	for i := range d.n {
		e := audit.Event{
			Event: "access.refused", Caller: "user:" + hostile, Address: "192.0.2.1", Action: "pull", Repository: "apps/web", Tag: "1.0", Digest: digest.String(),
			Result: "refused", Reason: hostile, Inputs: "p", RequestID: "R1",
		}
		if i == 0 {
			e.Caller = "user:first"
		}
		if q.Wanted(e) {
			page.Entries = append(page.Entries, audit.Entry{Sequence: uint64(d.n - i), Time: noon, Event: e, Hash: "00ff"})
		}
	}
	return page, d.err
}

func (d *diary) Verify(context.Context) (audit.Report, error) {
	return audit.Report{Whole: true, Records: 3, First: noon, Last: noon, Hash: "00ff", Torn: []audit.Torn{{Line: 2, Bytes: 7}}, Broken: &audit.Break{Line: 1, Reason: "r"}}, d.err
}

// operator may do everything as root, without being asked where there is no password.
type operator struct{ roles }

func (*operator) Identify(*http.Request) (access.Caller, error) {
	return access.Caller{Name: "user:root"}, nil
}
func (*operator) May(access.Caller, access.Action, oci.Repository) bool {
	return true
}

func (*operator) Allow(context.Context, access.Caller, access.Action, oci.Repository) error {
	return nil
}

func (*operator) MayThroughout(access.Caller, access.Action, oci.Pattern) bool { return true }

func (*operator) AllowThroughout(context.Context, access.Caller, access.Action, []oci.Pattern) error {
	return nil
}

func (*operator) AllowSomewhere(context.Context, access.Caller, access.Action) error { return nil }

// advisoryFacts are all there can be.
func advisoryFacts(context.Context) (any, error) {
	origin := map[string]any{"from": "mirror.example/db:2", "digest": digest, "verified": "signature by db", "snapshot": "sha256:s", "built_at": noon, "installed_at": noon, "next_update": noon}
	return map[string]any{
		"source": "mirror.example/db:2", "snapshot": "sha256:s", "built_at": noon, "age_seconds": 7300, "until": noon, "stale": false, "in_use": origin,
		"previous": origin, "succeeded_at": noon, "failed_at": noon, "failure": hostile, "next_at": noon,
	}, nil
}

// wholeOptions are a console's with nothing left out, for somebody who may do everything.
func wholeOptions(t *testing.T) console.Options {
	t.Helper()
	c, who, tries := &counter{}, &operator{}, &tried{}
	c.page = review.Page{Next: "1.x", Images: []review.Item{{
		Repository: app.String(), Digest: digest, MediaType: oci.MediaTypeImage, Policy: "production", Why: "unsigned: " + hostile, Rules: []gate.Rule{gate.RuleSignatures},
		Findings: map[string]int{"critical": 2}, Signatures: []string{"release"}, FirstSeen: noon, JudgedAt: noon, Pending: []string{"r1"},
		Asked: review.Asked{Count: 3, First: review.Asker{By: "user:ci", At: noon}, Last: review.Asker{By: "user:ci", Address: "10.0.0.7", At: noon}},
	}}}
	return console.Options{
		History: rich{}, Resolver: known{}, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), Access: who, Operators: who,
		Trail: seen{}, Judge: judged{digest: gate.Deny, older: gate.Allow}, Events: newHub(t), Letters: newDrawer(), Until: t.Context(),
		Ready: func(context.Context) error { return nil }, DefaultUpstream: "docker.io", Hosts: func(string) bool { return false },
		Advisories: advisoryFacts, Images: shelves{app.Path: 3, "apps/web": 2}, Audit: &diary{n: 3}, Statements: said{},
		Review: &console.Review{
			Waivers: c, WaiverDesk: c, Quarantine: queue{c}, QuarantineDesk: queue{c}, Forensics: shelf{}, Scopes: who, AnybodyDecides: true,
		},
		Policy: &console.Policy{
			InForce: tries, Files: []string{"policy.yaml"}, Roots: func() string { return "r1" }, Parse: tries.parse, Simulator: tries, Rights: who,
			Now: func() time.Time { return policyNow },
		},
		Version: "0.0-test", Unsafe: []string{"listen.unsafe_plaintext"},
	}
}

// TestTheWholeConsoleIsWhole keeps an option from being left out of what the tests of routes and pages are run with.
func TestTheWholeConsoleIsWhole(t *testing.T) {
	for _, options := range []any{wholeOptions(t), *wholeOptions(t).Review, *wholeOptions(t).Policy} {
		v := reflect.ValueOf(options)
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%s.%s is not set", v.Type(), v.Type().Field(i).Name)
			}
		}
	}
}
