package gate

import (
	"fmt"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Decision is the yes or no of a verdict.
type Decision int

// Decisions. The zero value is the refusal.
const (
	Deny Decision = iota
	Allow
)

// String returns "allow" for Allow and "deny" for everything else.
func (d Decision) String() string {
	if d == Allow {
		return "allow"
	}
	return "deny"
}

// MarshalText implements encoding.TextMarshaler.
func (d Decision) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; anything but the two words is refused.
func (d *Decision) UnmarshalText(text []byte) error {
	switch string(text) {
	case "allow":
		*d = Allow
	case "deny":
		*d = Deny
	default:
		return fmt.Errorf("unknown decision %q", text)
	}
	return nil
}

// Rule names what a reason is about. It is a closed set: metrics are labelled with it and waivers name it.
type Rule string

// The rules.
const (
	RuleMatch           Rule = "match"           // no policy matches the repository
	RuleSignatures      Rule = "signatures"      // the signatures the policy asks for are not there
	RuleAttestations    Rule = "attestations"    // a statement the policy asks for is not there, or does not say what it should
	RuleVulnerabilities Rule = "vulnerabilities" // a finding at or above deny_at
	RuleDenyList        Rule = "deny-list"       // a finding the policy names
	RuleMalware         Rule = "malware"         // a file that the malware scanner has a signature of
	RulePackages        Rule = "packages"        // a package the policy names
	RuleLicenses        Rule = "licenses"        // a package under a licence that is not allowed
	RuleEndOfLife       Rule = "end-of-life"     // a distribution that is no longer mended
	RuleOS              Rule = "os"              // a distribution the policy does not allow
	RuleSecrets         Rule = "secrets"         // a credential left in a layer or in the config
	RuleHostileConfig   Rule = "hostile-config"  // a config that is known to break runtimes, or lead out of them
	RuleRootUser        Rule = "root-user"       // runs as root
	RuleLabels          Rule = "labels"          // a label the policy asks for is not there, or not what it should be
	RuleBaseAge         Rule = "base-age"        // built upon what is older than the policy allows
	RuleGap             Rule = "gap"             // something stayed unexamined
	RuleSize            Rule = "size"            // larger than the policy allows
	RuleForeignLayers   Rule = "foreign-layers"  // layers that clients fetch past us
	RuleCEL             Rule = "cel"             // an expression of the policy's own is true of it
	RuleMinAge          Rule = "min-age"         // seen here for the first time too recently
	RuleUnexamined      Rule = "unexamined"      // the layers were not looked into; only together with another reason, early
)

// Rules returns every rule, in the order reasons are given.
func Rules() []Rule {
	return append([]Rule{RuleMatch}, append(WaivableRules(), RuleUnexamined)...)
}

// WaivableRules returns the rules a waiver may name, in the order reasons are given. That no policy matches, or that nobody has
// looked, cannot be waived.
func WaivableRules() []Rule {
	return []Rule{
		RuleSignatures, RuleAttestations, RuleDenyList, RuleVulnerabilities, RulePackages, RuleLicenses, RuleEndOfLife, RuleOS, RuleMalware, RuleSecrets,
		RuleHostileConfig, RuleRootUser, RuleLabels, RuleBaseAge, RuleForeignLayers, RuleSize, RuleMinAge, RuleCEL, RuleGap,
	}
}

// Reason is why a candidate is denied, or would be.
type Reason struct {
	Rule Rule `json:"rule"`
	// Message is one clause for a person, without a full stop: "CVE-2021-44228 (critical) in log4j-core 2.14.1, fixed in 2.15.0".
	Message string `json:"message"`
	// Finding is set for reasons about an advisory, Gap for reasons about a gap.
	Finding *Finding `json:"finding,omitempty"`
	Gap     *Gap     `json:"gap,omitempty"`
	// Line is where the policy asks for the rule, in the file of the policy as it was when the verdict was made; 0 where it is not written.
	Line int `json:"line,omitempty"`
	// Waiver says who waived the reason, until when and why; set only among [Verdict.Waived].
	Waiver string `json:"waiver,omitempty"`
	// Excuse is who states that the finding does not matter; set only among [Verdict.Excused].
	Excuse *Excuse `json:"excuse,omitempty"`
}

// Verdict is a decision about a candidate, with its reasons, until a time. The zero value denies.
type Verdict struct {
	Decision   Decision       `json:"decision"`
	Repository oci.Repository `json:"repository"`
	Digest     oci.Digest     `json:"digest"`
	MediaType  string         `json:"media_type"`
	// SizeBytes is the size of the manifest itself.
	SizeBytes int64 `json:"size_bytes,omitempty"`
	// Attached says that the manifest belongs to another: it refers to one, or its layers claim to be signatures and attestations.
	Attached bool `json:"attached,omitempty"`
	// Policy is the name of the policy that decided, File and Line where it stands; empty when none matched.
	Policy string `json:"policy,omitempty"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	// Reasons are why it is denied; empty exactly when it is allowed. Sorted by [Decide].
	Reasons []Reason `json:"reasons,omitempty"`
	// Warnings are what would have denied it had the policy's mode not been warn, and what it only warns of.
	Warnings []Reason `json:"warnings,omitempty"`
	// Waived are reasons that a waiver set aside: somebody lives with them.
	Waived []Reason `json:"waived,omitempty"`
	// Excused are findings that would be reasons, had not a statement of VEX said that they do not matter.
	Excused []Reason `json:"excused,omitempty"`
	// Keep says that denied bytes stay in quarantine for review.
	Keep bool `json:"keep,omitempty"`
	// Complete says that everything the policy asks for was examined. A denial that was certain early may not be, nor an admission
	// by a policy that only warns of something, until that was looked for.
	Complete   bool        `json:"complete"`
	Signatures []Signature `json:"signatures,omitempty"`
	// Attestations are those the policy asks for, with what its conditions found.
	Attestations []Attestation `json:"attestations,omitempty"`
	// VEX are the statements about the findings; of an index, all that its children may lean on.
	VEX        []VEX       `json:"vex,omitempty"`
	Rejections []Rejection `json:"rejections,omitempty"`
	// LookedAt is when the four above were looked for, UTC; zero when they were not. It is before JudgedAt where what was found then was
	// kept.
	LookedAt time.Time `json:"looked_at,omitzero"`
	Findings []Finding `json:"findings,omitempty"`
	// Packages counts the packages of the inventory the findings were matched against.
	Packages int `json:"packages"`
	// Blobs are the blobs an admission lets out; Children the manifests of an index, which are judged themselves.
	Blobs    []oci.Digest `json:"blobs,omitempty"`
	Children []oci.Digest `json:"children,omitempty"`
	// JudgedAt and Until bound the time the verdict counts, UTC, [JudgedAt, Until). Until is the earliest of the verdict's own
	// limit, the first waiver to lapse, the end of a grace period and the snapshot's limit.
	JudgedAt time.Time `json:"judged_at"`
	Until    time.Time `json:"until"`
	// FirstSeen is when the candidate was first seen here, UTC; zero when that is not known.
	FirstSeen time.Time `json:"first_seen,omitzero"`
	// Key identifies the inputs; the fields below say which they were.
	Key            string `json:"key"`
	PolicyRevision string `json:"policy_revision"`
	WaiverRevision string `json:"waiver_revision"`
	SnapshotID     string `json:"snapshot,omitempty"`
	RootsRevision  string `json:"roots_revision,omitempty"`
	// MalwareDatabase is what its layers were looked into for malware with and MalwareAt when, UTC, the oldest of several; zero when
	// they were not.
	MalwareDatabase string    `json:"malware_database,omitempty"`
	MalwareAt       time.Time `json:"malware_at,omitzero"`
}

// Candidate returns what the verdict is about.
func (v Verdict) Candidate() Candidate { return Candidate{Repository: v.Repository, Digest: v.Digest} }

// Allowed reports whether the candidate may be served. It asks nothing but the decision: whether the verdict still counts is
// checked where it is looked up.
func (v Verdict) Allowed() bool { return v.Decision == Allow }

// Amendable reports whether v may be replaced, under the same key and before it lapses, by what is found out later: it admits what was
// not looked into completely, or for malware, of which other signatures find more. Whoever remembers verdicts where an older one can come
// back in the place of a newer must not remember these there.
func (v Verdict) Amendable() bool { return v.Allowed() && (!v.Complete || !v.MalwareAt.IsZero()) }

// Passed reports whether everything the policy asks for was looked into and is fulfilled. What is let through with a warning has not
// passed; what was waived or excused has.
func (v Verdict) Passed() bool { return v.Allowed() && v.Complete && len(v.Warnings) == 0 }

// maxSummaryReasons is how many reasons fit the one line a container client prints.
const maxSummaryReasons = 3

// Summary returns the reasons in one line: "production: unsigned; CVE-… (2 more)".
func (v Verdict) Summary() string { return v.summary(v.Reasons) }

// WarningSummary returns, in one line, what would have denied the candidate; empty when nothing would.
func (v Verdict) WarningSummary() string { return v.summary(v.Warnings) }

func (v Verdict) summary(reasons []Reason) string {
	if len(reasons) == 0 {
		return ""
	}
	var messages []string
	for _, r := range reasons[:min(len(reasons), maxSummaryReasons)] {
		messages = append(messages, r.Message)
	}
	s := strings.Join(messages, "; ")
	if more := len(reasons) - len(messages); more > 0 {
		s += fmt.Sprintf(" (%d more)", more)
	}
	if v.Policy == "" {
		return s
	}
	return v.Policy + ": " + s
}
