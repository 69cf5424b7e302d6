package gate

import (
	"fmt"
	"time"
)

// Expression is a condition of a policy's own under which an image is denied. Implementations are pure, bounded in what they cost, and
// safe for concurrent use.
type Expression interface {
	// Holds reports whether the condition is true. An error says, to a person, why that cannot be told, which denies.
	Holds(about Subject) (bool, error)
	// Reads says what the condition looks at; of all else it learns nothing.
	Reads() Reads
	// String identifies the condition: two with the same text find the same.
	String() string
}

// Subject is what an [Expression] is asked about.
type Subject struct {
	Evidence
	// Tag is what the image was asked for by; set only for expressions that read it, and then there is no evidence.
	Tag string
}

// Reads is a set of what expressions look at, besides the candidate and its signatures.
type Reads struct {
	// Tag is what is asked for. An expression that reads it reads nothing but that and the repository.
	Tag bool
	// Image is the config; Layers is what is in the layers; Findings is what is known of that.
	Image, Layers, Findings bool
}

// ExpressionRule denies what its condition is true of.
type ExpressionRule struct {
	Name   string
	DenyIf Expression
	// Message is what people are told; empty for the name alone.
	Message string
}

// reason returns why x denies; ok is false when it does not.
func (x ExpressionRule) reason(about Subject) (r Reason, ok bool) {
	holds, err := x.DenyIf.Holds(about)
	switch {
	case err != nil:
		return Reason{Rule: RuleCEL, Message: fmt.Sprintf("%s: %s", x.Name, clip(err.Error(), maxTold))}, true
	case !holds:
		return Reason{}, false
	case x.Message == "":
		return Reason{Rule: RuleCEL, Message: "denied by " + x.Name}, true
	}
	return Reason{Rule: RuleCEL, Message: x.Name + ": " + x.Message}, true
}

// expressionsRead returns all that p's expressions look at.
func (p Policy) expressionsRead() (all Reads) {
	for _, x := range p.Expressions {
		r := x.DenyIf.Reads()
		all.Tag, all.Image = all.Tag || r.Tag, all.Image || r.Image
		all.Layers, all.Findings = all.Layers || r.Layers || r.Findings, all.Findings || r.Findings
	}
	return all
}

// expressionReasons asks the expressions that do not read the tag. Those about an image's config are asked of images, those about
// layers of whatever has layers that are looked into; until that was examined they are not asked, and something else denies.
func expressionReasons(p Policy, e Evidence) []Reason {
	if e.OnlyStatements {
		return nil
	}
	var reasons []Reason
	for _, x := range p.Expressions {
		reads := x.DenyIf.Reads()
		switch {
		case reads.Tag:
			continue
		case reads.Image && (!mayBeImage(e.Manifest) || !e.ConfigExamined || !e.isImage()):
			continue
		case (reads.Layers || reads.Findings) && (e.Manifest.IsIndex() || !e.Examined):
			continue
		}
		if reads.Image && e.Config == nil {
			reasons = append(reasons, Reason{Rule: RuleCEL, Message: x.Name + ": cannot be told, for its config could not be read"})
			continue
		}
		if r, ok := x.reason(Subject{Evidence: e}); ok {
			reasons = append(reasons, r)
		}
	}
	return reasons
}

// DecideTag returns the verdict on asking for c by tag, which is another one than that on c: a tag moves, and what is pulled by digest
// has none. It is pure. It allows what the policy of the repository has no expression against; whether c may be served is not its
// question.
func DecideTag(set *PolicySet, c Candidate, tag string, now time.Time) Verdict {
	v := Verdict{
		Repository: c.Repository, Digest: c.Digest, PolicyRevision: set.Revision, WaiverRevision: set.WaiverRevision,
		JudgedAt: now.UTC(), Until: now.UTC().Add(verdictLifetime), Complete: true,
	}
	p, ok := set.For(c.Repository)
	if !ok {
		v.Reasons = []Reason{{Rule: RuleMatch, Message: "no policy matches " + c.Repository.String()}}
		return v
	}
	v.Policy, v.File, v.Line = p.Name, p.File, p.Line
	var reasons []Reason
	for _, x := range p.Expressions {
		if !x.DenyIf.Reads().Tag {
			continue
		}
		if r, denies := x.reason(Subject{Evidence: Evidence{Candidate: c}, Tag: tag}); denies {
			reasons = append(reasons, r)
		}
	}
	reasons, v.Waived = waive(set.Waivers, c, reasons, now, &v)
	reasons, v.Waived = sorted(reasons), sorted(v.Waived)
	switch {
	case p.Mode == Warn:
		v.Warnings, v.Decision = reasons, Allow
	case len(reasons) == 0:
		v.Decision = Allow
	default:
		v.Reasons = reasons
	}
	return v
}

// JudgeTag is [DecideTag] by the policies in force now.
func (g *Gate) JudgeTag(c Candidate, tag string) Verdict {
	return DecideTag(g.o.Policies.Current(), c, tag, g.o.Now())
}
