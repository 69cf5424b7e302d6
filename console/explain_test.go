package console_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
)

func TestReasonsAreExplained(t *testing.T) {
	finding := func(name, fixed string) *gate.Finding {
		return &gate.Finding{ID: "CVE-2019-10744", Package: gate.Package{Type: "npm", Name: name, Version: "4.17.11"}, FixedVersion: fixed}
	}
	const waive = "tidewaiter waiver grant "
	scope := " --repository registry.example:5000/acme/app --digest " + digest.String() + " --for 168h --reason WHY"
	for law, tt := range map[string]struct {
		reason gate.Reason
		want   console.Explanation
	}{
		"a finding with a fix": {
			gate.Reason{Rule: gate.RuleVulnerabilities, Line: 9, Finding: finding("lodash", "4.17.12")},
			console.Explanation{
				Place: "production (policy.yaml:9)", Remedies: []string{"update lodash from 4.17.11 to 4.17.12 or later"},
				Waive: waive + "--vulnerability CVE-2019-10744 --package npm/lodash" + scope,
			},
		},
		"a finding without": {
			gate.Reason{Rule: gate.RuleDenyList, Finding: finding("lodash", "")},
			console.Explanation{
				Place: "production (policy.yaml:3)", Remedies: []string{"there is no version without it yet; take the package out, or have it waived"},
				Waive: waive + "--vulnerability CVE-2019-10744 --package npm/lodash" + scope,
			},
		},
		"nothing that a shell would read is in a command": {
			gate.Reason{Rule: gate.RuleVulnerabilities, Finding: finding("x; rm -rf $HOME", "1")},
			console.Explanation{
				Place: "production (policy.yaml:3)", Remedies: []string{"update x; rm -rf $HOME from 4.17.11 to 1 or later"},
				Waive: waive + "--vulnerability CVE-2019-10744" + scope,
			},
		},
		"a rule": {
			gate.Reason{Rule: gate.RuleRootUser, Line: 12},
			console.Explanation{Place: "production (policy.yaml:12)", Remedies: []string{"set a user in the image"}, Waive: waive + "--rule root-user" + scope},
		},
		"what cannot be waived": {
			gate.Reason{Rule: gate.RuleUnexamined},
			console.Explanation{Place: "production (policy.yaml:3)", Remedies: []string{"settle the other reasons: its layers are looked into then"}},
		},
	} {
		t.Run(law, func(t *testing.T) {
			v := denied
			v.Reasons = []gate.Reason{tt.reason}
			tt.want.Rule = tt.reason.Rule
			if diff := cmp.Diff(console.Explain(v), []console.Explanation{tt.want}); diff != "" {
				t.Errorf("got -, want +:\n%s", diff)
			}
		})
	}
	t.Run("the page explains", func(t *testing.T) {
		w := get(t, console.Options{}, "/images/registry.example:5000/acme/app:1.0")
		for _, want := range []string{"asked for by production (policy.yaml:3)", "To pass: have the image signed", "tidewaiter waiver grant --rule signatures"} {
			if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
				t.Errorf("got %d without %q: %s", w.Code, want, w.Body)
			}
		}
	})
	t.Run("every rule has a way", func(t *testing.T) {
		for _, rule := range gate.Rules() {
			v := denied
			v.Reasons = []gate.Reason{{Rule: rule}}
			switch e := console.Explain(v); {
			case rule == gate.RuleVulnerabilities, rule == gate.RuleDenyList, rule == gate.RuleCEL: // their reasons say it themselves
			case len(e[0].Remedies) == 0:
				t.Errorf("nothing is said of what can be done about %s", rule)
			}
		}
	})
}
