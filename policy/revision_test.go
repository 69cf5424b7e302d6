package policy

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// withoutMeaning are the fields that say where a value is from, or that another field stands for.
var withoutMeaning = map[string]bool{"File": true, "Line": true, "Lines": true, "Public": true, "TrustedRoot": true}

// eachChange changes, one after the other, everything that v is made of, calls try, and puts it back. A field it has never heard of
// is changed too, so one that a revision leaves out is found.
func eachChange(t *testing.T, v reflect.Value, path string, try func(path string)) {
	t.Helper()
	old := reflect.New(v.Type()).Elem()
	old.Set(v)
	defer v.Set(old)
	change := func(how string, to any) {
		v.Set(reflect.ValueOf(to).Convert(v.Type()))
		try(path + how)
		v.Set(old)
	}
	switch x := v.Interface().(type) {
	case gate.Condition:
		v.Set(reflect.ValueOf(said("changed")))
		try(path)
		return
	case gate.Expression:
		v.Set(reflect.ValueOf(sees("changed")))
		try(path)
		return
	case oci.Pattern:
		change("", patterns(t, "changed")[0])
		return
	case time.Time:
		change("", x.Add(time.Second))
		return
	}
	switch v.Kind() {
	case reflect.String:
		change("", v.String()+"x")
	case reflect.Bool:
		change("", !v.Bool())
	case reflect.Uint8:
		change("", v.Uint()+1)
	case reflect.Int, reflect.Int64:
		change("", v.Int()+1)
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; !withoutMeaning[name] {
				eachChange(t, v.Field(i), path+"."+name, try)
			}
		}
	case reflect.Pointer:
		if v.IsNil() {
			change(" given", reflect.New(v.Type().Elem()).Interface())
			return
		}
		change(" left out", reflect.Zero(v.Type()).Interface())
		eachChange(t, v.Elem(), path, try)
	case reflect.Slice:
		if v.Len() == 0 {
			t.Fatalf("%s is empty: nothing in it can be changed", path)
		}
		change(" shortened", v.Slice(0, v.Len()-1).Interface())
		for i := range v.Len() {
			eachChange(t, v.Index(i), fmt.Sprintf("%s[%d]", path, i), try)
		}
	default:
		t.Fatalf("%s is of kind %s, which this test does not know to change", path, v.Kind())
	}
}

// everyChange checks that each change of anything under all gives a revision of its own.
func everyChange(t *testing.T, all any, revision func() string) {
	t.Helper()
	seen := map[string]string{revision(): "no change"}
	eachChange(t, reflect.ValueOf(all).Elem(), "", func(path string) {
		got := revision()
		if other, ok := seen[got]; ok {
			t.Errorf("changing %s gives the same revision as %s", path, other)
		}
		seen[got] = path
	})
	if before := revision(); seen[before] != "no change" {
		t.Fatal("the test did not put everything back")
	}
}

func TestEveryChangeOfMeaningIsANewRevision(t *testing.T) {
	set, err := Parse("full.yaml", []byte(fullPolicy), testNow)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("of policies", func(t *testing.T) {
		policies := slices.Clone(set.Policies[:1]) // the one that has every field, and in its first attestation too
		policies[0].Attestations = policies[0].Attestations[:1]
		everyChange(t, &policies, func() string { return policyRevision(policies) })
	})
	t.Run("of waivers", func(t *testing.T) {
		waivers := set.Waivers[:1]
		everyChange(t, &waivers, func() string { return waiverRevision(waivers) })
	})
	t.Run("of trust roots", func(t *testing.T) {
		authorities := []gate.Authority{{
			Name: "a", Keys: []gate.TrustedKey{{Fingerprint: "f", NotBefore: testNow, NotAfter: testNow}},
			KMS:      []gate.KMSKey{{Reference: "k", NotBefore: testNow, NotAfter: testNow}},
			Keyless:  &gate.Keyless{Issuer: gate.Wording{Text: "i"}, Subject: gate.Wording{Text: "s"}, RootDigest: "r"},
			Notation: &gate.Notation{Roots: [][]byte{{1}}, TSARoots: [][]byte{{2}}, Identities: []gate.Name{{{Type: "O", Value: "Acme"}}}},
		}}
		everyChange(t, &authorities, func() string { return rootsRevision(authorities) })
	})
	t.Run("of the order of policies", func(t *testing.T) {
		turned := slices.Clone(set.Policies)
		slices.Reverse(turned)
		if policyRevision(turned) == set.Revision {
			t.Error("the revision is the same, and the first match is another")
		}
	})
	t.Run("of the order of waivers", func(t *testing.T) {
		turned := slices.Clone(set.Waivers)
		slices.Reverse(turned)
		if waiverRevision(turned) == set.WaiverRevision {
			t.Error("the revision is the same, and the waiver a verdict names is another")
		}
	})
	t.Run("of what a list belongs to", func(t *testing.T) {
		either, each := gate.Policy{}, gate.Policy{}
		either.Signatures.AnyOf, each.Signatures.AllOf = []string{"a"}, []string{"a"}
		if policyRevision([]gate.Policy{either}) == policyRevision([]gate.Policy{each}) {
			t.Error("the revision is the same")
		}
	})
	t.Run("of the kind of list", func(t *testing.T) {
		seen := map[string]bool{policyRevision(nil): true, waiverRevision(nil): true, rootsRevision(nil): true}
		if len(seen) != 3 {
			t.Errorf("got %d revisions of three kinds of nothing", len(seen))
		}
	})
}

func TestTheSameMeaningIsTheSameRevision(t *testing.T) {
	want, err := Parse("full.yaml", []byte(fullPolicy), testNow)
	if err != nil {
		t.Fatal(err)
	}
	const rewritten = `# Another author, other habits.
"waivers":
- by: 'alice'   # asked on Monday
  reason: "not reachable here; TICKET-12"
  until: "2026-10-01T00:00:00.000Z"
  digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  repositories:
  - docker.io/library/nginx
  package: npm/@scope/name
  vulnerability: "CVE-2024-0001"
- {by: bob, reason: lapsed   long ago, until: 2020-01-01T00:00:00+00:00, repositories: [apps/old], rule: signatures}
policies:

- require:
    attestations:
    - {at_least: 2, max_age: 1440m, cel: "predicate.spdxVersion == 'SPDX-2.3'", all_of: [security], any_of: [release-key, ci], predicate_type: https://spdx.dev/Document}
    - {slsa: {source_regexp: 'https://github\.com/acme/.+', builder: https://b.example}, any_of: [ci]}
    - {vsa: {levels: [SLSA_BUILD_LEVEL_3]}, predicate_type: https://slsa.dev/verification_summary/v1, any_of: [ci]}
    signatures: {all_of: [security], any_of: [ci, release-key], every_child: true, at_least: 2, max_age: 43200m}
  gaps:
    tolerate:
    - no-advisories
    - limit
  image: {deny_foreign_layers: False, max_bytes: 4294967296, require_labels: ["team=a*", "org.opencontainers.image.source=*"], max_base_age: 43200m,
    deny_root_user: TRUE, deny_hostile_config: false}
  os: {allow: [none, debian  12], deny_end_of_life: true}
  cel: [{message: "pin  a version", deny_if: "tag == 'latest'", name: no-latest}, {deny_if: image.layers > 5, name: small}]
  licenses: {deny_unknown: true, allow: [MIT], deny: [GPL-2.0-only WITH x, AGPL-3.0-only]}
  packages: {deny: ["*/event-stream", "npm/@acme/*@1.2.*"]}
  vulnerabilities: {deny: [ghsa-x, CVE-2021-44228], grace: 10080m, only_fixable: TRUE, deny_at: "high"}
  on_fail: "quarantine"
  secrets: "warn"
  malware: deny
  last_good: 43200m
  min_age: 86400s
  vex: {any_of: [vendor, security]}
  mode: 'warn'
  match:
    except: [apps/sandbox/**]
    repositories: [apps/**, "registry.example:5000/*", docker.io/**]
  name: production
- match: {repositories: ['**'], except: []}
  name: rest
  on_fail: block
  mode: enforce
  image: {deny_foreign_layers: true, max_bytes: 0}
  gaps: {tolerate: []}
waiver_max: 5000h
`
	got, err := Parse("elsewhere/policy.yaml", []byte(rewritten), testNow.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if got.Revision != want.Revision {
		t.Errorf("got policy revision %s, want %s", got.Revision, want.Revision)
	}
	if got.WaiverRevision != want.WaiverRevision {
		t.Errorf("got waiver revision %s, want %s", got.WaiverRevision, want.WaiverRevision)
	}
}

// TestShippedRevision pins the revision of the shipped policy: should the canonical form change, every remembered verdict is made
// anew after an update, and that should be meant.
func TestShippedRevision(t *testing.T) {
	set, err := Load(nil, testNow)
	if err != nil {
		t.Fatal(err)
	}
	const want = "sha256:d1b1a60d2bea74577e03b52c39b30d3c154f2ca101fe3c0c1d25a944c5ecdabd"
	if set.Revision != want {
		t.Errorf("got %s, want %s", set.Revision, want)
	}
}

func TestEachRevisionIsOfItsOwnList(t *testing.T) {
	const policies = `policies: [{name: p, match: {repositories: ["**"]}}]`
	const waivers = `
waivers: [{rule: gap, repositories: [x], until: 2026-09-03T00:00:00Z, reason: r, by: b}]`
	bare, err := Parse("p", []byte(policies), testNow)
	if err != nil {
		t.Fatal(err)
	}
	waived, err := Parse("p", []byte(policies+waivers), testNow)
	if err != nil {
		t.Fatal(err)
	}
	if bare.Revision != waived.Revision || bare.WaiverRevision == waived.WaiverRevision {
		t.Errorf("got revisions %s, %s without and %s, %s with a waiver",
			bare.Revision, bare.WaiverRevision, waived.Revision, waived.WaiverRevision)
	}
}
