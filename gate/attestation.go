package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Attestation is a checked statement about a manifest. Whoever makes one says something of the image and not that it is to be run, so
// it is never a signature.
type Attestation struct {
	// By is who made it and where it was found, as for a signature.
	By Signature `json:"by"`
	// PredicateType says what kind of statement it is, a URI. It was signed like the rest.
	PredicateType string `json:"predicate_type"`
	// Statement is the in-toto statement as it was signed, and Predicate what it says, both JSON. They are read while evidence is
	// gathered and are no part of a verdict.
	Statement json.RawMessage `json:"-"`
	Predicate json.RawMessage `json:"-"`
	// Answers has what each condition that was asked found, by its text: empty when it holds, otherwise why it does not.
	Answers map[string]string `json:"answers,omitempty"`
}

// Condition is something an attestation must say. Implementations are safe for concurrent use.
type Condition interface {
	// Check reports, as an error for a person, why a does not fulfil the condition. That it could not be found out is such a reason too.
	Check(ctx context.Context, a Attestation) error
	// String identifies the condition: two with the same text find the same.
	String() string
}

// AttestationRule demands statements about an image. The zero value is satisfied by nothing.
type AttestationRule struct {
	// PredicateTypes are the kinds of statement that count, at least one.
	PredicateTypes []string
	// AnyOf, AllOf and AtLeast are as in [SignatureRule].
	AnyOf, AllOf []string
	AtLeast      int
	// MaxAge is how long a statement counts from when it was made, by the word of a log or time stamp service; 0 for any time.
	MaxAge time.Duration
	// Conditions must all hold of one and the same statement.
	Conditions []Condition
}

// Authorities returns every authority the rule names, sorted, each once.
func (r AttestationRule) Authorities() []string { return eachOnce(r.AnyOf, r.AllOf) }

// concerns reports whether the rule asks for statements like a.
func (r AttestationRule) concerns(a Attestation) bool {
	return slices.Contains(r.PredicateTypes, a.PredicateType) &&
		(slices.Contains(r.AnyOf, a.By.Authority) || slices.Contains(r.AllOf, a.By.Authority))
}

// refusal returns why a does not satisfy the rule at now; empty when it does.
func (r AttestationRule) refusal(a Attestation, now time.Time) string {
	if why := a.By.stale(r.MaxAge, now); why != "" {
		return why
	}
	for _, c := range r.Conditions {
		why, asked := a.Answers[c.String()]
		if !asked {
			return "nobody asked it for " + c.String()
		}
		if why != "" {
			return why
		}
	}
	return ""
}

// stale returns why s does not count at now; empty when it does. maxAge is 0 when its age does not matter.
func (s Signature) stale(maxAge time.Duration, now time.Time) string {
	switch {
	case !s.Until.IsZero() && !now.Before(s.Until):
		return "it counted until " + s.Until.UTC().Format(time.RFC3339)
	case maxAge == 0:
		return ""
	case s.SignedAt.IsZero():
		return "nobody vouches for when it was made, and its age matters"
	case !now.Before(s.SignedAt.Add(maxAge)):
		return fmt.Sprintf("it is from %s and counts for %s", s.SignedAt.UTC().Format(time.RFC3339), maxAge)
	}
	return ""
}

// ends returns when s stops to count, given how old it may be; the zero time is never.
func (s Signature) ends(maxAge time.Duration) time.Time {
	if maxAge == 0 || s.SignedAt.IsZero() {
		return s.Until
	}
	return earlier(s.Until, s.SignedAt.Add(maxAge))
}

// maxTold bounds the text that says why statements do not count, of which there can be many.
const maxTold = 240

func attestationReasons(p Policy, e Evidence, now time.Time) []Reason {
	if e.OnlyStatements {
		return nil
	}
	var reasons []Reason
	for _, r := range p.Attestations {
		var good []Signature
		told := map[string]bool{}
		for _, a := range e.Attestations {
			if !r.concerns(a) {
				continue
			}
			if why := r.refusal(a, now); why != "" {
				told["that by "+a.By.Authority+" does not count: "+why] = true
				continue
			}
			good = append(good, a.By)
		}
		missing := missing(r.AnyOf, r.AllOf, r.AtLeast, good)
		if missing == "" {
			continue
		}
		message := fmt.Sprintf("no attestation of type %s by %s", strings.Join(r.PredicateTypes, " or "), missing)
		if len(told) > 0 {
			message += " (" + clip(strings.Join(slices.Sorted(maps.Keys(told)), "; "), maxTold) + ")"
		} else {
			message += offered(e.Rejections)
		}
		reasons = append(reasons, Reason{Rule: RuleAttestations, Message: message})
	}
	return reasons
}

// clip returns at most n bytes of s, whole characters, and says if there was more.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// conditionsTimeout bounds asking the conditions of a policy about everything attested of one image. Those of real policies take
// milliseconds; the largest documents take a second to be read.
const conditionsTimeout = 20 * time.Second

// ask puts the conditions of p to the attestations that p's rules concern, and lets go of what they say. A large document takes many
// times its size while it is asked, so few images are asked about at once.
func (g *Gate) ask(ctx context.Context, p Policy, attestations []Attestation) error {
	if len(attestations) == 0 {
		return nil
	}
	select {
	case g.statements <- struct{}{}:
		defer func() { <-g.statements }()
	case <-ctx.Done():
		return ctx.Err()
	}
	limited, cancel := context.WithTimeout(ctx, conditionsTimeout)
	defer cancel()
	for i := range attestations {
		attestations[i].Answers = answersOf(limited, p, attestations[i])
		attestations[i].Statement, attestations[i].Predicate = nil, nil
	}
	return ctx.Err() // that we ran out of time ourselves is an answer, that nobody wants it any more is none
}

func answersOf(ctx context.Context, p Policy, a Attestation) map[string]string {
	answers := map[string]string{}
	for _, r := range p.Attestations {
		if !r.concerns(a) {
			continue
		}
		for _, c := range r.Conditions {
			if _, asked := answers[c.String()]; asked {
				continue
			}
			answers[c.String()] = ""
			if err := c.Check(ctx, a); err != nil {
				answers[c.String()] = clip("it "+err.Error(), maxTold)
			}
		}
	}
	return answers
}
