package gate_test

import (
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
)

func TestReasonsSayWhereTheirRuleIsWritten(t *testing.T) {
	p := strict(t)
	p.File, p.Line = "policy.yaml", 2
	p.Lines = map[gate.Rule]int{gate.RuleSignatures: 7, gate.RuleVulnerabilities: 9}
	e := clean()
	e.Signatures, e.Findings, e.Gaps = nil, []gate.Finding{log4j}, []gate.Gap{unreadable}
	for mode, reasons := range map[gate.Mode]func(gate.Verdict) []gate.Reason{
		gate.Enforce: func(v gate.Verdict) []gate.Reason { return v.Reasons },
		gate.Warn:    func(v gate.Verdict) []gate.Reason { return v.Warnings },
	} {
		p.Mode = mode
		v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon)
		got := map[gate.Rule]string{}
		for _, r := range reasons(v) {
			got[r.Rule] = v.Place(r)
		}
		for rule, want := range map[gate.Rule]string{
			gate.RuleSignatures: "strict (policy.yaml:7)", gate.RuleVulnerabilities: "strict (policy.yaml:9)",
			gate.RuleGap: "strict (policy.yaml:2)", // it holds without being written
		} {
			if got[rule] != want {
				t.Errorf("%s is at %q, want %q", rule, got[rule], want)
			}
		}
	}
	if v := gate.Decide(&gate.PolicySet{}, e, noon); v.Place(v.Reasons[0]) != "" {
		t.Errorf("where no policy matches the place is %q", v.Place(v.Reasons[0]))
	}
}
