package report

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// excusedIn has one finding of which somebody states something.
func excusedIn(status gate.VEXStatus, justification, why string) Report {
	c := candidate("app", "image")
	f := gate.Finding{ID: "CVE-2026-1", Package: lodash, Path: "a", Severity: gate.High}
	x := vexBy("vendor", status, justification, why, f.ID)
	return Report{Name: "app", Created: created, Images: []Image{{Candidate: c, Verdict: &gate.Verdict{
		Repository: c.Repository, Digest: c.Digest, JudgedAt: created, Findings: []gate.Finding{f}, VEX: []gate.VEX{x},
	}}}}
}

// What somebody stated is told in every format as what it is: neither as a waiver nor as affected.
func TestWhatIsExcusedIsToldAsWhatItIs(t *testing.T) {
	const by = "vendor states "
	type told struct{ VEX, CycloneDX, SARIF string }
	for law, tt := range map[string]struct {
		report Report
		want   told
	}{
		"not affected, with a justification": {excusedIn(gate.VEXNotAffected, "component_not_present", "x"), told{
			"not_affected component_not_present: x", "not_affected code_not_present unaffected", by + "not_affected on 2026-05-03: component_not_present, x"}},
		"not affected, with one CycloneDX has no word for": {excusedIn(gate.VEXNotAffected, "vulnerable_code_cannot_be_controlled_by_adversary", ""), told{
			"not_affected vulnerable_code_cannot_be_controlled_by_adversary: ", "not_affected  unaffected", by + "not_affected on 2026-05-03: vulnerable_code_cannot_be_controlled_by_adversary"}},
		"not affected, with one nobody knows": {excusedIn(gate.VEXNotAffected, "because", ""), told{
			"not_affected : because", "not_affected  unaffected", by + "not_affected on 2026-05-03: because"}},
		"not affected, without any": {excusedIn(gate.VEXNotAffected, "", ""), told{
			"not_affected : " + by + "not_affected on 2026-05-03", "not_affected  unaffected", by + "not_affected on 2026-05-03"}},
		"fixed":    {excusedIn(gate.VEXFixed, "", "backported"), told{"fixed : ", "resolved  unaffected", by + "fixed on 2026-05-03: backported"}},
		"affected": {excusedIn(gate.VEXAffected, "", ""), told{"affected : there is no fix yet", " affected", ""}},
	} {
		t.Run(law, func(t *testing.T) {
			var got told
			var v vexDocument
			read(t, OpenVEX, tt.report, &v)
			s := v.Statements[0]
			got.VEX = s.Status + " " + s.Justification + ": " + s.Impact + s.Action
			if s.Status != "affected" && s.Timestamp != "2026-05-03T12:00:00Z" {
				t.Errorf("it is as of %s", s.Timestamp)
			}
			var b cdxDocument
			read(t, CycloneDX, tt.report, &b)
			if a := b.Vulnerabilities[0].Analysis; a != nil {
				got.CycloneDX = a.State + " " + a.Justification
			}
			got.CycloneDX += " " + b.Vulnerabilities[0].Affects[0].Versions[0].Status
			var l sarifLog
			read(t, SARIF, tt.report, &l)
			for _, x := range l.Runs[0].Results[0].Suppressions {
				got.SARIF += x.Justification
			}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("-got +want:\n%s", diff)
			}
		})
	}
}

// read renders r and reads the document again.
func read(t *testing.T, render func(Report) ([]byte, error), r Report, into any) {
	t.Helper()
	document, err := render(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(document, into); err != nil {
		t.Fatal(err)
	}
}
