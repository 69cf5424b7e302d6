package gate

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// verdictLifetime is how long a verdict counts when nothing makes it lapse earlier. It bounds how long a fact outside our inputs,
// such as a signature removed at the upstream, can go unnoticed.
const verdictLifetime = 24 * time.Hour

// unsignedLifetime is how long a refusal for want of a signature or attestation counts: they arrive after the image they are about.
const unsignedLifetime = time.Minute

// unexcusedLifetime is how long a refusal for a finding counts where statements of VEX could excuse it: those are written when somebody
// has looked, long after the image, so it need not be looked for them as often as for a signature.
const unexcusedLifetime = 15 * time.Minute

// Decide returns the verdict on e by the policies of set at the time now. It is pure: equal arguments give equal verdicts. Adding
// a finding or a gap, or taking away a signature or attestation, never turns a denial into an admission, and the order of what is in e does not
// matter. Layers that are asked for and have not been looked into deny, and no waiver or mode changes that.
func Decide(set *PolicySet, e Evidence, now time.Time) Verdict {
	v := Verdict{
		Repository: e.Candidate.Repository, Digest: e.Candidate.Digest, MediaType: e.Manifest.MediaType,
		SizeBytes: e.SizeBytes, Attached: e.Manifest.Subject != nil || e.Manifest.IsEvidence(),
		PolicyRevision: set.Revision, WaiverRevision: set.WaiverRevision,
		Signatures: e.Signatures, Attestations: e.Attestations, Rejections: e.Rejections, LookedAt: e.LookedAt, Findings: e.Findings, Packages: len(e.Inventory.Packages),
		FirstSeen: e.FirstSeen, JudgedAt: now.UTC(), Until: now.UTC().Add(verdictLifetime), Complete: true,
	}
	for _, d := range e.Manifest.Blobs() {
		v.Blobs = append(v.Blobs, d.Digest)
	}
	for _, d := range e.Manifest.Manifests {
		v.Children = append(v.Children, d.Digest)
	}
	p, ok := set.For(e.Candidate.Repository)
	if !ok {
		v.Reasons = []Reason{{Rule: RuleMatch, Message: "no policy matches " + e.Candidate.Repository.String()}}
		return v
	}
	v.Policy, v.File, v.Line, v.Keep = p.Name, p.File, p.Line, p.OnFail == Quarantine
	v.lapseWith(p, e, now)

	var reasons []Reason
	reasons = append(reasons, imageReasons(p, e.Manifest)...)
	reasons = append(reasons, configReasons(p, e, now, &v)...)
	reasons = append(reasons, hostileReasons(p, e)...)
	reasons = append(reasons, ageReasons(p, e, now, &v)...)
	reasons = append(reasons, signatureReasons(p, e, now)...)
	reasons = append(reasons, attestationReasons(p, e, now)...)
	v.VEX = vexOf(p, e)
	standing, excused := excuseFindings(findingReasons(p, e, now, &v), now, &v)
	reasons = append(reasons, standing...)
	reasons = append(reasons, packageReasons(p, e)...)
	reasons = append(reasons, licenseReasons(p, e)...)
	reasons = append(reasons, osReasons(p, e, now, &v)...)
	reasons = append(reasons, secretReasons(p, e)...)
	reasons = append(reasons, malwareReasons(p, e, &v)...)
	reasons = append(reasons, configSecretReasons(p, e)...)
	reasons = append(reasons, expressionReasons(p, e)...)
	reasons = append(reasons, gapReasons(p, e)...)
	reasons, v.Waived = waive(set.Waivers, e.Candidate, reasons, now, &v)
	reasons, v.Waived, v.Excused = sorted(reasons), sorted(v.Waived), sorted(excused)
	reasons, v.Warnings = p.warned(reasons)
	v.Complete = e.Manifest.IsIndex() || e.OnlyStatements || e.Looked.covers(p.looksAfter())

	switch {
	case p.needsLayers(e) && !(e.Examined && e.Looked.covers(p.looksFor())):
		v.Complete = false
		v.Reasons = append(reasons, Reason{Rule: RuleUnexamined, Message: "its layers have not been examined"})
	case p.needsConfig(e) && !e.ConfigExamined:
		if v.Complete, v.Reasons = false, reasons; len(reasons) == 0 {
			v.Reasons = []Reason{{Rule: RuleUnexamined, Message: "its config has not been examined"}}
		}
	case p.Mode == Warn:
		v.Warnings, v.Decision = sorted(append(reasons, v.Warnings...)), Allow
	case len(reasons) == 0:
		v.Decision = Allow
	default:
		v.Reasons = reasons
	}
	v.place(p)
	if len(p.VEX) > 0 && slices.ContainsFunc(v.Reasons, func(r Reason) bool { return r.Rule == RuleVulnerabilities }) {
		v.lapseAt(now.Add(unexcusedLifetime))
	}
	unsigned := func(r Reason) bool { return r.Rule == RuleSignatures || r.Rule == RuleAttestations }
	if slices.ContainsFunc(slices.Concat(v.Reasons, v.Warnings), unsigned) {
		v.lapseAt(now.Add(unsignedLifetime))
	}
	return v
}

// needsLayers reports whether p can only decide on e with the content of its layers.
func (p Policy) needsLayers(e Evidence) bool {
	return p.ReadsLayers() && !e.Manifest.IsIndex() && !e.OnlyStatements
}

// lapseAt brings v's end forward to t, unless it is earlier already or t is the zero time.
func (v *Verdict) lapseAt(t time.Time) {
	if t = t.UTC(); !t.IsZero() && t.Before(v.Until) {
		v.Until = t
	}
}

func imageReasons(p Policy, m oci.Manifest) []Reason {
	var reasons []Reason
	if size := totalBytes(m); p.Image.MaxBytes > 0 && size > p.Image.MaxBytes {
		reasons = append(reasons, Reason{Rule: RuleSize, Message: fmt.Sprintf("%d bytes, more than the %d allowed", size, p.Image.MaxBytes)})
	}
	if p.Image.UnsafeForeignLayers {
		return reasons
	}
	for _, d := range append(m.Blobs(), m.Manifests...) {
		if isForeign(d) {
			reasons = append(reasons, Reason{Rule: RuleForeignLayers, Message: fmt.Sprintf("%s is fetched by clients from elsewhere, past this gate", short(d.Digest))})
		}
	}
	return reasons
}

// isForeign reports whether clients may fetch d from somewhere else: containerd tries a descriptor's urls before it asks us.
func isForeign(d oci.Descriptor) bool {
	return len(d.URLs) > 0 || strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".rootfs.foreign.")
}

// totalBytes adds up the config and layers as their descriptors give them. It saturates: a manifest may claim anything.
func totalBytes(m oci.Manifest) int64 {
	var sum int64
	for _, d := range m.Blobs() {
		if d.Size > math.MaxInt64-sum {
			return math.MaxInt64
		}
		sum += d.Size
	}
	return sum
}

// lapseWith brings v's end forward to when the first signature or attestation that counts at now stops to.
func (v *Verdict) lapseWith(p Policy, e Evidence, now time.Time) {
	lapse := func(end time.Time) {
		if now.Before(end) {
			v.lapseAt(end)
		}
	}
	for _, s := range e.Signatures {
		lapse(s.ends(p.Signatures.MaxAge))
	}
	for _, a := range e.Attestations {
		for _, r := range p.Attestations {
			if r.concerns(a) {
				lapse(a.By.ends(r.MaxAge))
			}
		}
	}
}

func signatureReasons(p Policy, e Evidence, now time.Time) []Reason {
	r := p.Signatures
	if e.OnlyStatements || len(r.AnyOf) == 0 && len(r.AllOf) == 0 && r.AtLeast == 0 {
		return nil
	}
	var good []Signature
	stale := map[string]bool{}
	for _, s := range e.Signatures {
		if why := s.stale(r.MaxAge, now); why != "" {
			stale["that by "+s.Authority+" does not count: "+why] = true
			continue
		}
		good = append(good, s)
	}
	missing := missing(r.AnyOf, r.AllOf, r.AtLeast, good)
	switch {
	case missing == "":
		return nil
	case len(stale) > 0:
		missing = "not signed by " + missing + " (" + clip(strings.Join(slices.Sorted(maps.Keys(stale)), "; "), maxTold) + ")"
	case len(e.Rejections) > 0 || len(good) > 0:
		missing = "not signed by " + missing + offered(e.Rejections)
	default:
		missing = "unsigned: no signature by " + missing
	}
	return []Reason{{Rule: RuleSignatures, Message: missing}}
}

// offered says, for a person, what was there in place of the signature that is missing.
func offered(rejections []Rejection) string {
	if len(rejections) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d offered, the first is refused: %s)", len(rejections), rejections[0].Why)
}

func findingReasons(p Policy, e Evidence, now time.Time, v *Verdict) []Reason {
	if p.Vulnerabilities == nil {
		return nil
	}
	var reasons []Reason
	for _, f := range e.Findings {
		rule, denies := p.Vulnerabilities.denies(f, now, v)
		if !denies {
			continue
		}
		message := fmt.Sprintf("%s (%s) in %s %s", f.ID, f.Severity, f.Package.Name, f.Package.Version)
		if f.FixedVersion != "" {
			message += ", fixed in " + f.FixedVersion
		}
		reasons = append(reasons, Reason{Rule: rule, Message: message, Finding: &f})
	}
	return reasons
}

// denies reports whether f denies, and by which rule. When only its grace lets f pass, v lapses as the grace ends.
func (r VulnerabilityRule) denies(f Finding, now time.Time, v *Verdict) (Rule, bool) {
	if slices.ContainsFunc(r.Deny, func(id string) bool { return strings.EqualFold(id, f.ID) }) {
		return RuleDenyList, true
	}
	if r.DenyAt == nil || max(f.Severity, Low) < *r.DenyAt || r.OnlyFixable && f.FixedVersion == "" {
		return "", false
	}
	if !f.Published.IsZero() && now.Before(f.Published.Add(r.Grace)) {
		v.lapseAt(f.Published.Add(r.Grace))
		return "", false
	}
	return RuleVulnerabilities, true
}

func secretReasons(p Policy, e Evidence) []Reason {
	if p.Secrets == nil {
		return nil
	}
	var reasons []Reason
	for _, s := range e.Inventory.Secrets {
		reasons = append(reasons, Reason{Rule: RuleSecrets, Message: fmt.Sprintf("a secret, %s, in %s of layer %s", s.Kind, s.Path, short(s.Layer))})
	}
	return append(bounded(reasons), bounded(noteGaps(p, RuleSecrets, "secrets were", e.SecretGaps))...)
}

// maxLikeReasons bounds the reasons of one kind that are kept one by one. The first denies already, and a denial that is too large to be
// recorded would be none: a layer may have hundreds of what is found in it, and an image a thousand layers.
const maxLikeReasons = 1000

// bounded returns the first of reasons, all of one rule, in the order of [sorted], and one for the rest.
func bounded(reasons []Reason) []Reason {
	if len(reasons) <= maxLikeReasons {
		return reasons
	}
	reasons = sorted(reasons)
	if rest := len(reasons) - maxLikeReasons; rest > 0 {
		more := Reason{Rule: reasons[0].Rule, Message: fmt.Sprintf("%d more of the kind", rest)}
		reasons = append(reasons[:maxLikeReasons:maxLikeReasons], more)
	}
	return reasons
}

func gapReasons(p Policy, e Evidence) []Reason {
	var reasons []Reason
	for _, g := range e.Gaps {
		if slices.Contains(p.TolerateGaps, g.Kind) {
			continue
		}
		message := fmt.Sprintf("%s: %s", g.Kind, g.Why)
		if g.Layer != "" {
			message += " in layer " + short(g.Layer)
		}
		reasons = append(reasons, Reason{Rule: RuleGap, Message: message, Gap: &g})
	}
	return reasons
}

// sorted puts reasons in the order of [Rules], the worst finding first, and drops repetitions: the same package found at two
// paths is one reason for a person. Only reasons that every waiver treats alike are dropped for one another.
func sorted(reasons []Reason) []Reason {
	rank := map[Rule]int{}
	for i, r := range Rules() {
		rank[r] = i
	}
	severity := func(r Reason) Severity {
		if r.Finding == nil {
			return Unrated
		}
		return r.Finding.Severity
	}
	slices.SortFunc(reasons, func(a, b Reason) int {
		return cmp.Or(cmp.Compare(rank[a.Rule], rank[b.Rule]), cmp.Compare(severity(b), severity(a)),
			cmp.Compare(a.Message, b.Message), cmp.Compare(a.about(), b.about()))
	})
	return slices.CompactFunc(reasons, func(a, b Reason) bool {
		return a.Rule == b.Rule && a.Message == b.Message && a.packageType() == b.packageType()
	})
}

// packageType returns what a message does not say of the package it is about, and a waiver can.
func (r Reason) packageType() string {
	if r.Finding == nil {
		return ""
	}
	return r.Finding.Package.Type
}

// about says what r is about beyond its message, so that equal messages have an order.
func (r Reason) about() string {
	switch {
	case r.Finding != nil:
		return r.packageType() + " " + r.Finding.Path
	case r.Gap != nil:
		return string(r.Gap.Layer) + r.Gap.Path
	}
	return ""
}

// short returns enough of a digest for a person to tell it from another.
func short(d oci.Digest) string {
	const shown = len("sha256:") + 12
	return d.String()[:min(len(d), shown)]
}
