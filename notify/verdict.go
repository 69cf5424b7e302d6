package notify

import (
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// maxReasons bounds the reasons an event repeats. The admin API has them all.
const maxReasons = 50

// Judged is what an event says of a verdict.
type Judged struct {
	Decision   gate.Decision `json:"decision"`
	Repository string        `json:"repository"`
	Digest     string        `json:"digest"`
	MediaType  string        `json:"media_type,omitempty"`
	Policy     string        `json:"policy,omitempty"`
	// Summary is the reasons, or warnings, in one line.
	Summary  string   `json:"summary,omitempty"`
	Reasons  []Reason `json:"reasons,omitempty"`
	Warnings []Reason `json:"warnings,omitempty"`
	// Waived counts reasons that a waiver set aside, Excused those of which a statement of VEX says that they do not matter; Findings
	// advisories that match.
	Waived   int `json:"waived,omitempty"`
	Excused  int `json:"excused,omitempty"`
	Findings int `json:"findings,omitempty"`
	// Keep says that denied bytes stay for review.
	Keep           bool      `json:"keep,omitempty"`
	Complete       bool      `json:"complete"`
	JudgedAt       time.Time `json:"judged_at"`
	Until          time.Time `json:"until"`
	PolicyRevision string    `json:"policy_revision"`
	Snapshot       string    `json:"snapshot,omitempty"`
}

// Reason is one of the reasons of a verdict.
type Reason struct {
	Rule    gate.Rule `json:"rule"`
	Message string    `json:"message"`
}

// Verdict returns the event that v was made.
func Verdict(v gate.Verdict) Event {
	t, summary := VerdictDenied, v.Summary()
	if v.Allowed() {
		t, summary = VerdictAllowed, v.WarningSummary()
	}
	return About(t, v, summary)
}

// About returns an event of type t about what v is on.
func About(t Type, v gate.Verdict, summary string) Event {
	return Event{Type: t, Time: v.JudgedAt, Repository: v.Repository, Subject: v.Candidate().String(), Data: Judged{
		Decision: v.Decision, Repository: v.Repository.String(), Digest: v.Digest.String(), MediaType: v.MediaType, Policy: v.Policy,
		Summary: cut(summary), Reasons: reasons(v.Reasons), Warnings: reasons(v.Warnings), Waived: len(v.Waived), Excused: len(v.Excused), Findings: len(v.Findings),
		Keep: v.Keep, Complete: v.Complete, JudgedAt: v.JudgedAt, Until: v.Until, PolicyRevision: v.PolicyRevision, Snapshot: v.SnapshotID,
	}}
}

func reasons(all []gate.Reason) []Reason {
	var some []Reason
	for _, r := range all[:min(len(all), maxReasons)] {
		some = append(some, Reason{r.Rule, cut(r.Message)})
	}
	return some
}

// maxTextBytes bounds each text of an event, so that maxReasons of them, each byte of which JSON may write as six, are no more than an
// event may say most of the time; what is beyond goes without its data.
const maxTextBytes = 256

// cut returns the start of s.
func cut(s string) string {
	if len(s) <= maxTextBytes {
		return s
	}
	end := maxTextBytes
	for end > 0 && s[end]&0xC0 == 0x80 { // in the middle of a character
		end--
	}
	return s[:end] + "…"
}
