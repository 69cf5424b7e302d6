package gate

import (
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Mode says what a policy's refusal does.
type Mode int

// Modes. The zero value refuses.
const (
	// Enforce denies what fails.
	Enforce Mode = iota
	// Warn admits what fails and says what would have been denied.
	Warn
)

// OnFail says what becomes of the bytes of a denied candidate.
type OnFail int

// What becomes of denied bytes. The zero value drops them.
const (
	// Block drops the bytes; the record of the verdict stays.
	Block OnFail = iota
	// Quarantine keeps the bytes for review and examines them fully.
	Quarantine
)

// PolicySet is every policy and waiver in force. It is never modified once built.
type PolicySet struct {
	// Policies are in the order of the file: the first that matches a repository decides.
	Policies []Policy
	Waivers  []Waiver
	// Revision and WaiverRevision are hashes of what the two lists say, not of the files' bytes.
	Revision       string
	WaiverRevision string
	// WaiverMax is how far ahead a waiver that is granted now may lapse. Verdicts do not depend on it.
	WaiverMax time.Duration
}

// For returns the policy that decides for repo. ok is false when none matches, which denies.
func (s *PolicySet) For(repo oci.Repository) (p Policy, ok bool) {
	name := repo.String()
	i := slices.IndexFunc(s.Policies, func(p Policy) bool { return p.matches(name) })
	if i < 0 {
		return Policy{}, false
	}
	return s.Policies[i], true
}

// Policy is what is demanded of the repositories it matches. The zero value matches nothing.
type Policy struct {
	Name string
	// File and Line say where it was written.
	File string
	Line int
	// Lines are the lines of the keys that ask for rules. A rule that holds without being written is not in it.
	Lines map[Rule]int
	// Match and Except are patterns over full repository names. One of Match and none of Except must fit.
	Match, Except []oci.Pattern
	Mode          Mode
	OnFail        OnFail
	Signatures    SignatureRule
	// Attestations must all be satisfied.
	Attestations []AttestationRule
	// VEX names the authorities whose statements excuse findings: what a later one of them takes back counts again.
	VEX []string
	// Vulnerabilities is nil when the policy does not look into layers for them.
	Vulnerabilities *VulnerabilityRule
	// Secrets is nil when the policy does not look into layers for them.
	Secrets *SecretRule
	// Malware is nil when the policy does not look into layers for it.
	Malware *MalwareRule
	Image   ImageRule
	// DenyPackages are packages that may not be in an image.
	DenyPackages []PackagePattern
	// Licenses is nil when the policy does not look at licences, and OS when it does not look at distributions.
	Licenses *LicenseRule
	OS       *OSRule
	// Expressions are conditions of the policy's own, each of which denies.
	Expressions []ExpressionRule
	// MinAge is how long a candidate must have been known here; 0 for no time.
	MinAge time.Duration
	// LastGood is for how long after a tag has moved on what it stood for before may be served in its place, while that alone is allowed;
	// 0 for not at all. No verdict depends on it.
	LastGood time.Duration
	// TolerateGaps are the kinds of gaps that do not deny.
	TolerateGaps []GapKind
}

func (p Policy) matches(name string) bool {
	fits := func(pattern oci.Pattern) bool { return pattern.Match(name) }
	return slices.ContainsFunc(p.Match, fits) && !slices.ContainsFunc(p.Except, fits)
}

// ReadsLayers reports whether the policy asks for what only the content of layers can tell, before there is a verdict.
func (p Policy) ReadsLayers() bool {
	return p.Vulnerabilities != nil || p.looksFor() != Look{} || len(p.DenyPackages) > 0 || p.Licenses != nil || p.OS != nil || p.expressionsRead().Layers
}

// matchesAdvisories reports whether the policy asks for findings.
func (p Policy) matchesAdvisories() bool {
	return p.Vulnerabilities != nil || p.expressionsRead().Findings
}

// looksFor returns what is looked for in layers, besides packages, before there is a verdict.
func (p Policy) looksFor() Look {
	return Look{Secrets: p.Secrets != nil && !p.Secrets.Warn, Malware: p.Malware != nil && !p.Malware.Warn}
}

// looksAfter returns what is looked for once the verdict is given, because the policy would only warn of it.
func (p Policy) looksAfter() Look {
	return Look{Secrets: p.Secrets != nil && p.Secrets.Warn, Malware: p.Malware != nil && p.Malware.Warn}
}

// SignatureRule names the authorities that must have signed. The zero value demands nothing.
type SignatureRule struct {
	// AnyOf: at least AtLeast of these, and at least one, when there are any.
	AnyOf []string
	// AllOf: each of these.
	AllOf []string
	// AtLeast is how many of AnyOf must have signed, each with a signer of his own; 0 for one.
	AtLeast int
	// MaxAge is how long a signature counts from when it was made, by the word of a log or time stamp service; 0 for any time.
	MaxAge time.Duration
	// EveryChild demands of a child of an index what is demanded of the index: the index's signature does not cover it.
	EveryChild bool
}

// Authorities returns every authority the rule names, sorted, each once.
func (r SignatureRule) Authorities() []string { return eachOnce(r.AnyOf, r.AllOf) }

// VulnerabilityRule says which findings deny.
type VulnerabilityRule struct {
	// DenyAt is the lowest severity that denies; nil for none by severity.
	DenyAt *Severity
	// OnlyFixable lets findings pass for which no fixed version exists.
	OnlyFixable bool
	// Grace lets a finding pass until so long after it was published. A finding without that date has no grace.
	Grace time.Duration
	// Deny lists advisories that deny whatever their severity, fix or age.
	Deny []string
}

// SecretRule says what credentials left in layers do. The zero value denies them.
type SecretRule struct {
	// Warn admits them, without waiting for whether there are any, and says afterwards what was found.
	Warn bool
}

// MalwareRule says what malware in layers does. The zero value denies it.
type MalwareRule struct {
	// Warn admits it, without waiting for whether there is any, and says afterwards what was found.
	Warn bool
}

// ImageRule bounds the manifest and config themselves.
type ImageRule struct {
	// MaxBytes is the largest sum of config and layers, compressed; 0 for no limit of the policy's own.
	MaxBytes int64
	// UnsafeForeignLayers admits layers that clients fetch from elsewhere, past us.
	UnsafeForeignLayers bool
	// UnsafeHostileConfig admits configs with values that are known to break runtimes or lead out of them.
	UnsafeHostileConfig bool
	// DenyRootUser denies images that run as root unless they are told otherwise.
	DenyRootUser bool
	// RequireLabels must all be there.
	RequireLabels []LabelPattern
	// MaxBaseAge is how old what the image is built upon may be, by the image's own word; 0 for any age.
	MaxBaseAge time.Duration
}

// Waiver excepts a named risk from denying, for some repositories or one digest, until a time. It has a reason and an author.
type Waiver struct {
	// Vulnerability is the advisory waived; empty when Rule is set.
	Vulnerability string
	// Package narrows Vulnerability to one package, "type/name"; empty for any.
	Package string
	// Rule is the rule waived; empty when Vulnerability is set.
	Rule Rule
	// Says narrows Rule to the reason with this message; empty for the rule as a whole.
	Says string
	// Repositories narrows the waiver; empty means every repository, and then Digest is set.
	Repositories []oci.Pattern
	// Digest narrows the waiver to one manifest; empty for any.
	Digest oci.Digest
	// Until is when the waiver lapses, UTC, exclusive.
	Until  time.Time
	Reason string
	By     string
}
