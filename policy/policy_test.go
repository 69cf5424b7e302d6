package policy

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// testNow is the time waivers of the tests are measured against.
var testNow = time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)

// samePatterns compares patterns by what they say: their parts are not exported.
var samePatterns = cmp.Comparer(func(a, b oci.Pattern) bool { return a.String() == b.String() })

func patterns(t *testing.T, texts ...string) []oci.Pattern {
	t.Helper()
	var list []oci.Pattern
	for _, text := range texts {
		p, err := oci.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

// golden compares got with the file called name, or rewrites that.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// problemsOf returns what err tells a person, which has to be problems.
func problemsOf(t *testing.T, err error) string {
	t.Helper()
	if _, ok := errors.AsType[*Problems](err); !ok {
		t.Fatalf("got error %v, want problems", err)
	}
	return err.Error() + "\n"
}

// TestProblems holds every file under testdata/problems against the problems beside it: each has a line, and all come at once.
func TestProblems(t *testing.T) {
	files, err := filepath.Glob("testdata/problems/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			set, err := Parse(filepath.Base(file), data, testNow)
			if set != nil {
				t.Errorf("got a policy set from a file with problems: %+v", set)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", problemsOf(t, err))
		})
	}
}

const fullPolicy = `
policies:
  - name: production
    match: {repositories: ["docker.io/**", "registry.example_5000/*", "apps/**"], except: ["apps/sandbox/**"]}
    mode: warn
    min_age: 24h
    last_good: 720h
    on_fail: quarantine
    require:
      signatures: {any_of: [release-key, ci], all_of: [security], at_least: 2, max_age: 720h, every_child: true}
      attestations:
        - {predicate_type: "https://spdx.dev/Document", any_of: [ci, release-key], all_of: [security], at_least: 2, max_age: 24h, cel: "predicate.spdxVersion == 'SPDX-2.3'"}
        - {any_of: [ci], slsa: {builder: "https://b.example", source_regexp: "https://github\\.com/acme/.+"}}
        - {any_of: [ci], vsa: {levels: [SLSA_BUILD_LEVEL_3]}}
    vulnerabilities: {deny_at: high, only_fixable: true, grace: 168h, deny: [CVE-2021-44228, ghsa-x]}
    vex: {any_of: [security, vendor]}
    secrets: warn
    malware: deny
    image:
      {max_bytes: 4GiB, deny_foreign_layers: false, deny_hostile_config: false, deny_root_user: true, max_base_age: 720h,
      require_labels: [org.opencontainers.image.source, "team=a*"]}
    packages: {deny: ["npm/@acme/*@1.2.*", "*/event-stream"]}
    licenses: {deny: [AGPL-3.0-only, "GPL-2.0-only WITH x"], allow: [MIT], deny_unknown: true}
    os: {deny_end_of_life: true, allow: [debian 12, none]}
    cel:
      - {name: no-latest, deny_if: "tag == 'latest'", message: pin a version}
      - {name: small, deny_if: "image.layers > 5"}
    gaps: {tolerate: [limit, no-advisories]}
  - name: rest
    match: {repositories: ["**"]}
waivers:
  - vulnerability: CVE-2024-0001
    package: npm/@scope/name
    repositories: ["docker.io/library/nginx"]
    digest: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
    until: 2026-10-01T02:00:00+02:00
    reason: >
      not reachable
      here; TICKET-12
    by: alice
  - {rule: signatures, repositories: ["apps/old"], until: "2020-01-01T00:00:00Z", reason: lapsed long ago, by: bob}
waiver_max: 1000h
`

func TestParseReadsEveryField(t *testing.T) {
	got, err := Parse("full.yaml", []byte(fullPolicy), testNow)
	if err != nil {
		t.Fatal(err)
	}
	want := &gate.PolicySet{
		Policies: []gate.Policy{
			{
				Name: "production", File: "full.yaml", Line: 3,
				Match:  patterns(t, "docker.io/**", "registry.example:5000/*", "apps/**"),
				Except: patterns(t, "apps/sandbox/**"),
				Mode:   gate.Warn,
				OnFail: gate.Quarantine,
				MinAge: 24 * time.Hour, LastGood: 720 * time.Hour,
				Signatures: gate.SignatureRule{
					AnyOf: []string{"release-key", "ci"}, AllOf: []string{"security"}, AtLeast: 2, MaxAge: 720 * time.Hour, EveryChild: true,
				},
				Attestations: []gate.AttestationRule{
					{
						PredicateTypes: []string{"https://spdx.dev/Document"}, AnyOf: []string{"ci", "release-key"}, AllOf: []string{"security"},
						AtLeast: 2, MaxAge: 24 * time.Hour, Conditions: conditions("cel: predicate.spdxVersion == 'SPDX-2.3'"),
					},
					{
						PredicateTypes: []string{provenance02, provenance1}, AnyOf: []string{"ci"},
						Conditions: conditions(`slsa: builder "https://b.example", source /https://github\.com/acme/.+/, build type ""`),
					},
					{PredicateTypes: []string{summary1}, AnyOf: []string{"ci"}, Conditions: conditions(`vsa: passed, verifier "", levels ["SLSA_BUILD_LEVEL_3"]`)},
				},
				Vulnerabilities: &gate.VulnerabilityRule{
					DenyAt: new(gate.High), OnlyFixable: true, Grace: 168 * time.Hour, Deny: []string{"CVE-2021-44228", "ghsa-x"},
				},
				VEX:     []string{"security", "vendor"},
				Secrets: &gate.SecretRule{Warn: true},
				Malware: &gate.MalwareRule{},
				Image: gate.ImageRule{
					MaxBytes: 4 << 30, UnsafeForeignLayers: true, UnsafeHostileConfig: true, DenyRootUser: true, MaxBaseAge: 720 * time.Hour,
					RequireLabels: []gate.LabelPattern{{Name: "org.opencontainers.image.source", Value: "*"}, {Name: "team", Value: "a*"}},
				},
				DenyPackages: []gate.PackagePattern{{Type: "npm", Name: "@acme/*", Version: "1.2.*"}, {Type: "*", Name: "event-stream", Version: "*"}},
				Licenses:     &gate.LicenseRule{Deny: []string{"AGPL-3.0-only", "GPL-2.0-only WITH x"}, Allow: []string{"MIT"}, DenyUnknown: true},
				OS:           &gate.OSRule{DenyEndOfLife: true, Allow: []gate.OSPattern{{ID: "debian", Version: "12"}, {ID: "none", Version: "*"}}},
				Expressions: []gate.ExpressionRule{
					{Name: "no-latest", Message: "pin a version", DenyIf: sees("cel: tag == 'latest'")}, {Name: "small", DenyIf: sees("cel: image.layers > 5")},
				},
				TolerateGaps: []gate.GapKind{gate.GapLimit, gate.GapNoAdvisories},
			},
			{Name: "rest", File: "full.yaml", Line: 29, Match: patterns(t, "**"), Mode: gate.Enforce, OnFail: gate.Block},
		},
		Waivers: []gate.Waiver{
			{
				Vulnerability: "CVE-2024-0001", Package: "npm/@scope/name", Repositories: patterns(t, "docker.io/library/nginx"),
				Digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
				Until:  time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC), Reason: "not reachable here; TICKET-12", By: "alice",
			},
			{
				Rule: gate.RuleSignatures, Repositories: patterns(t, "apps/old"),
				Until: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), Reason: "lapsed long ago", By: "bob",
			},
		},
		Revision: got.Revision, WaiverRevision: got.WaiverRevision, WaiverMax: 1000 * time.Hour,
	}
	if diff := cmp.Diff(want, got, samePatterns, sameConditions, sameExpressions, otherLines); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// said is a condition that is only known by its text.
type said string

func (s said) String() string                              { return string(s) }
func (said) Check(context.Context, gate.Attestation) error { return errors.New("is not asked") }

func conditions(texts ...string) (all []gate.Condition) {
	for _, t := range texts {
		all = append(all, said(t))
	}
	return all
}

// sees is an expression that is only known by its text.
type sees string

func (s sees) String() string                 { return string(s) }
func (sees) Reads() gate.Reads                { return gate.Reads{} }
func (sees) Holds(gate.Subject) (bool, error) { return false, errors.New("is not asked") }

// sameExpressions compares expressions by their text, as revisions do.
var sameExpressions = cmp.Comparer(func(a, b gate.Expression) bool { return a.String() == b.String() })

// sameConditions compares conditions by their text, as revisions do.
var sameConditions = cmp.Comparer(func(a, b gate.Condition) bool { return a.String() == b.String() })

func TestSecrets(t *testing.T) {
	for word, want := range map[string]*gate.SecretRule{"deny": {}, "warn": {Warn: true}, "ignore": nil} {
		set, err := Parse("p", []byte(`policies: [{name: p, match: {repositories: ["**"]}, secrets: `+word+`}]`), testNow)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, set.Policies[0].Secrets); diff != "" {
			t.Errorf("%s: -want +got:\n%s", word, diff)
		}
	}
	if _, err := Parse("p", []byte(`policies: [{name: p, match: {repositories: ["**"]}, secrets: maybe}]`), testNow); err == nil {
		t.Error("an unknown word was accepted")
	}
}

func TestMalware(t *testing.T) {
	for word, want := range map[string]*gate.MalwareRule{"deny": {}, "warn": {Warn: true}, "ignore": nil} {
		set, err := Parse("p", []byte(`policies: [{name: p, match: {repositories: ["**"]}, malware: `+word+`}]`), testNow)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, set.Policies[0].Malware); diff != "" {
			t.Errorf("%s: -want +got:\n%s", word, diff)
		}
	}
	if _, err := Parse("p", []byte(`policies: [{name: p, match: {repositories: ["**"]}, malware: maybe}]`), testNow); err == nil {
		t.Error("an unknown word was accepted")
	}
}

func TestVulnerabilityThresholds(t *testing.T) {
	tests := map[string]struct {
		rule string
		want gate.VulnerabilityRule
	}{
		"none denies by no severity":    {`{deny_at: none}`, gate.VulnerabilityRule{}},
		"low":                           {`{deny_at: low}`, gate.VulnerabilityRule{DenyAt: new(gate.Low)}},
		"medium":                        {`{deny_at: medium}`, gate.VulnerabilityRule{DenyAt: new(gate.Medium)}},
		"critical, quoted":              {`{deny_at: "critical"}`, gate.VulnerabilityRule{DenyAt: new(gate.Critical)}},
		"a deny list needs no deny_at":  {`{deny: [CVE-1]}`, gate.VulnerabilityRule{Deny: []string{"CVE-1"}}},
		"no grace":                      {`{deny_at: none, grace: 0}`, gate.VulnerabilityRule{}},
		"only_fixable written as false": {`{deny_at: none, only_fixable: false}`, gate.VulnerabilityRule{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			set, err := Parse("p", []byte(`policies: [{name: p, match: {repositories: ["**"]}, vulnerabilities: `+tt.rule+`}]`), testNow)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tt.want, set.Policies[0].Vulnerabilities); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestSizes(t *testing.T) {
	tests := map[string]int64{
		"0": 0, "1": 1, "17B": 17, "500MB": 500_000_000, "4GiB": 4 << 30, "1KiB": 1024, "1KB": 1000, "2TB": 2e12, "3TiB": 3 << 40,
		"9223372036854775807": 1<<63 - 1, "8388607TiB": 8388607 << 40,
	}
	for text, want := range tests {
		if got, err := ParseBytes(text); got != want || err != nil {
			t.Errorf("%q: got %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "GiB", "-1", "+1", "01", "0x10", "1_000", "1.5GiB", "4 GiB", "4gib", "4G", "4GiBGiB", "4iB", "٤", "1e3",
		"9223372036854775808", "8388608TiB", "9999999999999999TB",
	} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, data string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := write("1.yaml", `policies: [{name: a, match: {repositories: ["a/**"]}}, {name: b, match: {repositories: ["b/**"]}}]`)
	second := write("2.yaml", `policies: [{name: c, match: {repositories: ["**"]}}]`)
	waivers := write("waivers.yaml", `waivers: [{rule: gap, repositories: [x], until: 2026-09-03T00:00:00Z, reason: r, by: b}]`)
	short := write("short.yaml", `waiver_max: 47h`)
	again := write("again.yaml", "waiver_max: 48h\npolicies: [{name: b, match: {repositories: [x]}}]")
	huge := write("huge.yaml", strings.Repeat("#", maxFileBytes+1))

	t.Run("concatenates files in their order", func(t *testing.T) {
		set, err := Load([]string{second, waivers, first}, testNow)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range set.Policies {
			got = append(got, p.Name+" in "+filepath.Base(p.File))
		}
		if diff := cmp.Diff([]string{"c in 2.yaml", "a in 1.yaml", "b in 1.yaml"}, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if len(set.Waivers) != 1 {
			t.Errorf("got %d waivers, want 1", len(set.Waivers))
		}
	})
	t.Run("is the shipped policy without files", func(t *testing.T) {
		set, err := Load(nil, testNow)
		if err != nil {
			t.Fatal(err)
		}
		want := []gate.Policy{{
			Name: "default", File: defaultName, Line: 4, Match: patterns(t, "**"), OnFail: gate.Quarantine,
			Vulnerabilities: &gate.VulnerabilityRule{DenyAt: new(gate.Critical), OnlyFixable: true},
		}}
		if diff := cmp.Diff(want, set.Policies, samePatterns, otherLines); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
	t.Run("fails for a file that is not there", func(t *testing.T) {
		if _, err := Load([]string{first, filepath.Join(dir, "absent")}, testNow); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want %v", err, fs.ErrNotExist)
		}
	})
	t.Run("fails for a directory", func(t *testing.T) {
		if _, err := Load([]string{dir}, testNow); err == nil {
			t.Error("got no error")
		}
	})

	refused := map[string]struct {
		files []string
		want  string
	}{
		"a file over the limit":                    {[]string{huge}, "huge.yaml: larger than 1048576 bytes"},
		"waiver_max of one file, waivers of other": {[]string{first, waivers, short}, "waivers.yaml:1:49: until: 2026-09-03T00:00:00Z is later than waiver_max (47h0m0s) from now allows, 2026-09-02T23:00:00Z"},
		"only waivers":                             {[]string{waivers}, "waivers.yaml: no policy is given, so every pull would be denied"},
		"problems of several files, in their order": {
			[]string{short, first, again, huge},
			"again.yaml:1:13: waiver_max: is given at DIR/short.yaml:1 already\n" +
				"again.yaml:2:19: name: a policy named \"b\" stands at DIR/1.yaml:1 already\n" +
				"huge.yaml: larger than 1048576 bytes",
		},
	}
	for name, tt := range refused {
		t.Run("refuses "+name, func(t *testing.T) {
			_, err := Load(tt.files, testNow)
			want := dir + "/" + strings.ReplaceAll(strings.ReplaceAll(tt.want, "DIR", dir), "\n", "\n"+dir+"/") + "\n"
			if diff := cmp.Diff(want, problemsOf(t, err)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestWaiverMaxIsInclusiveAndDefaultsTo2160Hours(t *testing.T) {
	const file = `
policies: [{name: p, match: {repositories: ["**"]}}]
waivers: [{rule: gap, repositories: [x], until: 2026-11-30T00:00:00Z, reason: r, by: b}]`
	if got := testNow.Add(2160 * time.Hour).Format(time.RFC3339); got != "2026-11-30T00:00:00Z" {
		t.Fatal("the test's own date is off", got)
	}
	if _, err := Parse("p", []byte(file), testNow); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	_, err := Parse("p", []byte(file), testNow.Add(-time.Second))
	if got := problemsOf(t, err); !strings.Contains(got, "2160h0m0s") {
		t.Errorf("a second beyond the limit: got %v, want the limit named", got)
	}
}

func TestCheckAuthorities(t *testing.T) {
	set, err := Parse("full.yaml", []byte(fullPolicy), testNow)
	if err != nil {
		t.Fatal(err)
	}
	authorities := func(names ...string) *gate.TrustRoots {
		var roots gate.TrustRoots
		for _, name := range names {
			roots.Authorities = append(roots.Authorities, gate.Authority{Name: name})
		}
		return &roots
	}
	t.Run("passes when each is known", func(t *testing.T) {
		if err := CheckAuthorities(set, authorities("security", "ci", "release-key", "vendor", "unused")); err != nil {
			t.Error(err)
		}
	})
	t.Run("names each that is not, with the policy's line", func(t *testing.T) {
		err := CheckAuthorities(set, authorities("ci", "Security", "vendor"))
		want := `full.yaml:3: policy "production" asks for the word of "release-key", which no trust file names
full.yaml:3: policy "production" asks for the word of "security", which no trust file names
`
		if diff := cmp.Diff(want, problemsOf(t, err)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// TestExamples reads the files that are shipped to be copied, which name every supported key.
func TestExamples(t *testing.T) {
	const policyFile, trustFile = "../configs/policy.yaml", "../configs/trust.yaml"
	set, err := Load([]string{policyFile}, testNow)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := LoadTrust([]string{trustFile})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("fit together", func(t *testing.T) {
		if err := CheckAuthorities(set, roots); err != nil {
			t.Error(err)
		}
	})
	t.Run("trust no key that somebody could hold", func(t *testing.T) {
		nobodys := map[string]bool{}
		for _, of := range []string{"release-key", "ci", "security, 2025", "security, 2026", "corp-ca", "corp-tsa"} {
			sum := sha256.Sum256([]byte("tidewaiter example: " + of))
			nobodys[string(sum[:])] = true
		}
		for _, a := range roots.Authorities {
			for _, k := range a.Keys {
				if key, ok := k.Public.(ed25519.PublicKey); !ok || !nobodys[string(key)] {
					t.Errorf("authority %s has a key that is not derived from its name", a.Name)
				}
			}
			if a.Notation != nil {
				for _, der := range slices.Concat(a.Notation.Roots, a.Notation.TSARoots) {
					cert, err := x509.ParseCertificate(der)
					if err != nil {
						t.Fatal(err)
					}
					if key, ok := cert.PublicKey.(ed25519.PublicKey); !ok || !nobodys[string(key)] {
						t.Errorf("authority %s has a certificate whose key is not derived from its name", a.Name)
					}
				}
			}
			if a.Keyless != nil {
				checkNobodysRoot(t, a.Keyless.TrustedRoot)
			}
		}
	})
	t.Run("show every supported key", func(t *testing.T) {
		for file, keys := range map[string][]string{
			policyFile: {
				"policies", "name", "match", "repositories", "except", "mode", "on_fail", "require", "signatures", "any_of", "all_of", "at_least", "max_age", "every_child",
				"attestations", "predicate_type", "cel", "slsa", "builder", "source", "build_type", "vsa", "verifier", "levels", "vex",
				"vulnerabilities", "deny_at", "only_fixable", "grace", "deny", "secrets", "malware", "image", "max_bytes", "deny_foreign_layers", "gaps",
				"tolerate", "waivers", "vulnerability", "package", "rule", "digest", "until", "reason", "by", "waiver_max",
			},
			trustFile: {
				"authorities", "name", "cosign", "key_file", "key", "keys", "not_before", "not_after", "kms",
				"keyless", "issuer", "issuer_regexp", "subject", "subject_regexp", "trusted_root_file", "tlog", "sct", "tsa",
				"notation", "ca_files", "tsa_ca_files", "identities",
			},
		} {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range keys {
				if !regexp.MustCompile(`(?m)^[ -]*` + key + `:`).Match(data) {
					t.Errorf("%s does not show %s", file, key)
				}
			}
		}
	})
	t.Run("list every gap and rule", func(t *testing.T) {
		data, err := os.ReadFile(policyFile)
		if err != nil {
			t.Fatal(err)
		}
		var words []string
		for _, kind := range gate.GapKinds() {
			words = append(words, string(kind))
		}
		for _, rule := range gate.WaivableRules() {
			words = append(words, string(rule))
		}
		for _, word := range words {
			if !strings.Contains(string(data), word) {
				t.Errorf("%s does not mention %s", policyFile, word)
			}
		}
	})
}

// checkNobodysRoot checks that every key in a trusted root is derived from a name.
func checkNobodysRoot(t *testing.T, raw []byte) {
	t.Helper()
	type authority struct {
		CertChain struct{ Certificates []struct{ RawBytes []byte } }
	}
	type log struct{ PublicKey struct{ RawBytes []byte } }
	var root struct {
		CertificateAuthorities, TimestampAuthorities []authority
		Tlogs, Ctlogs                                []log
	}
	if err := json.Unmarshal(raw, &root); err != nil {
		t.Fatal(err)
	}
	nobodys := map[string]bool{}
	for _, of := range []string{"rekor", "fulcio", "ctlog", "tsa"} {
		sum := sha256.Sum256([]byte("tidewaiter example: " + of))
		nobodys[string(sum[:])] = true
	}
	check := func(public crypto.PublicKey, err error) {
		if key, ok := public.(ed25519.PublicKey); err != nil || !ok || !nobodys[string(key)] {
			t.Errorf("a key in the trusted root is not derived from a name: %v", err)
		}
	}
	for _, a := range slices.Concat(root.CertificateAuthorities, root.TimestampAuthorities) {
		for _, c := range a.CertChain.Certificates {
			cert, err := x509.ParseCertificate(c.RawBytes)
			if err != nil {
				t.Fatal(err)
			}
			check(cert.PublicKey, nil)
		}
	}
	for _, l := range slices.Concat(root.Tlogs, root.Ctlogs) {
		check(x509.ParsePKIXPublicKey(l.PublicKey.RawBytes))
	}
}
