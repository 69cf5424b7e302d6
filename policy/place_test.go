package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidewaiter/tidewaiter/gate"
)

// otherLines lets policies differ in where their rules are written.
var otherLines = cmpopts.IgnoreFields(gate.Policy{}, "Lines")

func TestRulesHaveTheLineOfTheKeyThatAsksForThem(t *testing.T) {
	const text = `policies:
  - name: production
    match: {repositories: ["**"]}
    require:
      signatures: {any_of: [release]}
    vulnerabilities:
      deny_at: high
      deny: [CVE-2021-44228]
    image: {max_bytes: 1GiB, deny_root_user: true}
    secrets: deny
  - {name: rest, match: {repositories: ["docker.io/**"]}, min_age: 24h}
`
	set, err := ParseAll([]File{{"a.yaml", []byte(text)}, {"b.yaml", []byte("waivers: []\n")}}, testNow)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[gate.Rule]int
	for _, p := range set.Policies {
		got = append(got, p.Lines)
	}
	want := []map[gate.Rule]int{{
		gate.RuleSignatures: 5, gate.RuleVulnerabilities: 7, gate.RuleDenyList: 8, gate.RuleSize: 9, gate.RuleRootUser: 9, gate.RuleSecrets: 10,
	}, {gate.RuleMinAge: 11}}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("got -, want +:\n%s", diff)
	}
}

func TestEveryRuleThatIsWrittenHasAPlace(t *testing.T) {
	set, err := Parse("full.yaml", []byte(fullPolicy), testNow)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range gate.WaivableRules() {
		if written[rule] == "" {
			t.Errorf("nobody knows which key asks for %s", rule)
		} else if set.Policies[0].Lines[rule] == 0 {
			t.Errorf("%s has no line in a policy that has every key: %s is not there", rule, written[rule])
		}
	}
}
