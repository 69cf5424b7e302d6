package gate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// VEXStatus is what a statement says of a vulnerability (OpenVEX 0.2, status labels; CSAF 2.0 has the same).
type VEXStatus string

// The statuses. The first two excuse a finding.
const (
	VEXNotAffected   VEXStatus = "not_affected"
	VEXFixed         VEXStatus = "fixed"
	VEXAffected      VEXStatus = "affected"
	VEXInvestigating VEXStatus = "under_investigation"
)

// VEX is a checked statement of what a vulnerability means for an image: one of those a signed document holds.
type VEX struct {
	// By is who made it and where it was found, as for a signature.
	By Signature `json:"by"`
	// Vulnerabilities are the names of one vulnerability, at least one.
	Vulnerabilities []string `json:"vulnerabilities"`
	// Packages narrows the statement to some packages of the image; empty means that it is about all of it.
	Packages []VEXPackage `json:"packages,omitempty"`
	Status   VEXStatus    `json:"status"`
	// Justification is why the image is not affected, in one of the words OpenVEX and CSAF have for that; may be empty.
	Justification string `json:"justification,omitempty"`
	// Why is what else was written of it; bounded, may be empty.
	Why string `json:"why,omitempty"`
	// At is when its author says it was made, UTC. Of two about the same thing the later counts.
	At time.Time `json:"at,omitzero"`
}

// VEXPackage names packages of an image as findings name them.
type VEXPackage struct {
	Type string `json:"type"`
	Name string `json:"name"`
	// Version is the one version meant; empty for any.
	Version string `json:"version,omitempty"`
}

// Excuse is what a statement of VEX says by which a finding does not matter.
type Excuse struct {
	// By is the authority that states it.
	By string `json:"by"`
	// Status is [VEXNotAffected] or [VEXFixed].
	Status VEXStatus `json:"status"`
	// Justification, Why and At are those of the [VEX].
	Justification string    `json:"justification,omitempty"`
	Why           string    `json:"why,omitempty"`
	At            time.Time `json:"at,omitzero"`
}

// String returns, for a person, who states what: "vendor states not_affected on 2026-01-02: component_not_present".
func (x Excuse) String() string {
	s := fmt.Sprintf("%s states %s", x.By, x.Status)
	if !x.At.IsZero() {
		s += " on " + x.At.UTC().Format(time.DateOnly)
	}
	var why []string
	for _, said := range []string{x.Justification, x.Why} {
		if said != "" {
			why = append(why, said)
		}
	}
	if len(why) > 0 {
		s += ": " + strings.Join(why, ", ")
	}
	return s
}

// names reports whether x is about f.
func (x VEX) names(f Finding) bool {
	if !slices.ContainsFunc(x.Vulnerabilities, func(id string) bool { return strings.EqualFold(id, f.ID) }) {
		return false
	}
	return len(x.Packages) == 0 || slices.ContainsFunc(x.Packages, func(p VEXPackage) bool {
		return p.Type == f.Package.Type && sameName(p.Type, p.Name, f.Package.Name) && (p.Version == "" || p.Version == f.Package.Version)
	})
}

// sameName reports whether a and b name the same package of a type. Package URLs write most names in lower case, and those of PyPI with a
// dash for what is between the words, which is all the same there (Python Packaging, "Names and normalization").
func sameName(kind, a, b string) bool {
	if kind == "pypi" {
		words := func(s string) string {
			return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune("-_.", r) }), "-")
		}
		a, b = words(a), words(b)
	}
	return strings.EqualFold(a, b)
}

// excuses reports whether x says that f does not matter.
func (x VEX) excuses() bool { return x.Status == VEXNotAffected || x.Status == VEXFixed }

// excuse returns what statements say of f by which it does not matter at now, and until when the one that says so counts; ok is false if
// there is none, or the latest says otherwise. Of statements of the same time the one that excuses nothing counts.
func excuse(statements []VEX, f Finding, now time.Time) (x Excuse, until time.Time, ok bool) {
	about := slices.DeleteFunc(slices.Clone(statements), func(x VEX) bool { return x.By.stale(0, now) != "" || !x.names(f) })
	if len(about) == 0 {
		return Excuse{}, time.Time{}, false
	}
	rank := func(x VEX) int {
		if x.excuses() {
			return 0
		}
		return 1
	}
	latest := slices.MaxFunc(about, func(a, b VEX) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(rank(a), rank(b)), cmp.Compare(b.told().String(), a.told().String()))
	})
	return latest.told(), latest.By.Until, latest.excuses()
}

// told returns who says what in x.
func (x VEX) told() Excuse {
	return Excuse{By: x.By.Authority, Status: x.Status, Justification: x.Justification, Why: x.Why, At: x.At}
}

// excuseFindings splits reasons into those that stand and those a statement of VEX that v keeps sets aside, and lets v lapse with the
// statements it leaned on. What a policy denies by name stands: who wrote the policy knew of the vulnerability.
func excuseFindings(reasons []Reason, now time.Time, v *Verdict) (standing, excused []Reason) {
	for _, r := range reasons {
		if r.Rule != RuleVulnerabilities || r.Finding == nil {
			standing = append(standing, r)
			continue
		}
		x, until, ok := excuse(v.VEX, *r.Finding, now)
		if !ok {
			standing = append(standing, r)
			continue
		}
		v.lapseAt(until)
		r.Excuse = &x
		excused = append(excused, r)
	}
	return standing, excused
}

// Excuse returns what was stated of a finding of v by which it does not matter, whether the policy minds it or not. ok is false where
// nothing was, or the latest statement says otherwise.
func (v Verdict) Excuse(f Finding) (x Excuse, ok bool) {
	x, _, ok = excuse(v.VEX, f, v.JudgedAt)
	return x, ok
}

// vexOf returns the statements a verdict on e keeps: those about its findings, and all of them for an index, whose children lean on them.
func vexOf(p Policy, e Evidence) []VEX {
	var kept []VEX
	for _, x := range e.VEX {
		about := func(f Finding) bool { return x.names(f) }
		if slices.Contains(p.VEX, x.By.Authority) && (e.Manifest.IsIndex() || slices.ContainsFunc(e.Findings, about)) {
			kept = append(kept, x)
		}
	}
	return kept
}
