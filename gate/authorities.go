package gate

import (
	"fmt"
	"slices"
	"strings"
)

// Wanted is what is looked for beside a candidate. The zero value looks for nothing.
type Wanted struct {
	// Signatures are the authorities whose signatures are looked for.
	Signatures []string
	// Attestations has, by predicate type, the authorities whose statements are looked for.
	Attestations map[string][]string
	// VEX are the authorities whose statements about vulnerabilities are looked for.
	VEX []string
	// MediaType and SizeBytes are those of the candidate's manifest, which some signatures name.
	MediaType string
	SizeBytes int64
}

// Nothing reports whether w looks for nothing.
func (w Wanted) Nothing() bool {
	return len(w.Signatures) == 0 && len(w.Attestations) == 0 && len(w.VEX) == 0
}

// wanted returns what the policy asks for beside a candidate.
func (p Policy) wanted(e Evidence) Wanted {
	w := Wanted{Signatures: p.Signatures.Authorities(), MediaType: e.Manifest.MediaType, SizeBytes: e.SizeBytes}
	if p.Vulnerabilities != nil {
		w.VEX = eachOnce(p.VEX, nil)
	}
	for _, r := range p.Attestations {
		for _, predicateType := range r.PredicateTypes {
			if w.Attestations == nil {
				w.Attestations = map[string][]string{}
			}
			w.Attestations[predicateType] = eachOnce(w.Attestations[predicateType], r.Authorities())
		}
	}
	return w
}

// Authorities returns every authority that p asks for something, sorted, each once.
func (p Policy) Authorities() []string {
	all := eachOnce(p.Signatures.Authorities(), p.VEX)
	for _, r := range p.Attestations {
		all = eachOnce(all, r.Authorities())
	}
	return all
}

// eachOnce returns what is in a or b, sorted, each once.
func eachOnce(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// missing says, for a person, whose signature is missing among good; empty when none is. Of anyOf there must be atLeast, and at least
// one; allOf must all be there. A signer speaks for one authority at a time: were he to fit two, his one signature would stand for both.
func missing(anyOf, allOf []string, atLeast int, good []Signature) string {
	var lacks []string
	if need := max(atLeast, 1); len(anyOf) == 0 && atLeast > 0 {
		lacks = append(lacks, fmt.Sprintf("%d of nobody", need))
	} else if len(anyOf) > 0 {
		if have := speaking(anyOf, good); have < need && need > 1 {
			lacks = append(lacks, fmt.Sprintf("%d of %s, only by %d", need, strings.Join(anyOf, ", "), have))
		} else if have < need {
			lacks = append(lacks, strings.Join(anyOf, " or "))
		}
	}
	if len(allOf) > 0 && speaking(allOf, good) < len(allOf) {
		absent := slices.DeleteFunc(slices.Clone(allOf), func(name string) bool { return speaking([]string{name}, good) > 0 })
		if len(absent) == 0 {
			absent = []string{"a signer of his own for each of " + strings.Join(allOf, ", ")}
		}
		lacks = append(lacks, strings.Join(absent, " and "))
	}
	if len(anyOf) == 0 && len(allOf) == 0 && atLeast == 0 {
		return "anybody: no authority is named"
	}
	return strings.Join(lacks, ", and by ")
}

// signer tells one signer from another, whatever authorities he speaks for.
type signer struct{ issuer, name string }

// speaking returns how many of authorities have a signer of their own among the makers of good: the size of the largest matching of
// authorities with signers.
func speaking(authorities []string, good []Signature) int {
	fits := map[string][]signer{}
	for _, s := range good {
		fits[s.Authority] = append(fits[s.Authority], signer{s.Issuer, s.Signer})
	}
	speaksFor := map[signer]string{}
	count := 0
	for _, a := range eachOnce(authorities, nil) {
		if assign(a, fits, speaksFor, map[signer]bool{}) {
			count++
		}
	}
	return count
}

// assign finds a signer for the authority a, moving others to another signer of theirs where that frees one.
func assign(a string, fits map[string][]signer, speaksFor map[signer]string, tried map[signer]bool) bool {
	for _, s := range fits[a] {
		if tried[s] {
			continue
		}
		tried[s] = true
		if other, taken := speaksFor[s]; !taken || assign(other, fits, speaksFor, tried) {
			speaksFor[s] = a
			return true
		}
	}
	return false
}
