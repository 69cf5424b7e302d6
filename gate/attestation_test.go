package gate_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidewaiter/tidewaiter/gate"
)

const (
	sbom       = "https://spdx.dev/Document"
	provenance = "https://slsa.dev/provenance/v1"
)

// says is a condition that a predicate must be, as a whole.
type says string

func (s says) String() string { return "says " + string(s) }

func (s says) Check(_ context.Context, a gate.Attestation) error {
	if string(a.Predicate) != string(s) {
		return errors.New("says " + string(a.Predicate))
	}
	return nil
}

// attestedBy returns an attestation that was asked for the condition holds, if that is not empty.
func attestedBy(authority, predicateType, holds string) gate.Attestation {
	a := gate.Attestation{By: signedBy(authority), PredicateType: predicateType}
	if holds != "" {
		a.Answers = map[string]string{says(holds).String(): ""}
	}
	return a
}

func TestAttestations(t *testing.T) {
	rule := func(edit func(*gate.AttestationRule)) []gate.AttestationRule {
		r := gate.AttestationRule{PredicateTypes: []string{sbom}, AnyOf: []string{"ci", "release"}, Conditions: []gate.Condition{says("x")}}
		if edit != nil {
			edit(&r)
		}
		return []gate.AttestationRule{r}
	}
	at := func(a gate.Attestation, signed time.Time) gate.Attestation {
		a.By.SignedAt = signed
		return a
	}
	lapsed := attestedBy("ci", sbom, "x")
	lapsed.By.Until = noon
	for name, tt := range map[string]struct {
		rules []gate.AttestationRule
		have  []gate.Attestation
		want  string // what the reason says; empty when it is admitted
	}{
		"one is enough":                        {rule(nil), []gate.Attestation{attestedBy("ci", sbom, "x")}, ""},
		"none":                                 {rule(nil), nil, "no attestation of type https://spdx.dev/Document by ci or release"},
		"of another type":                      {rule(nil), []gate.Attestation{attestedBy("ci", provenance, "x")}, "no attestation"},
		"by another":                           {rule(nil), []gate.Attestation{attestedBy("stranger", sbom, "x")}, "no attestation"},
		"that does not fulfil the condition":   {rule(nil), []gate.Attestation{{By: signedBy("ci"), PredicateType: sbom, Answers: map[string]string{"says x": "it says y"}}}, "it says y"},
		"that was not asked":                   {rule(nil), []gate.Attestation{attestedBy("ci", sbom, "")}, "nobody asked"},
		"that was asked something else":        {rule(nil), []gate.Attestation{attestedBy("ci", sbom, "y")}, "nobody asked"},
		"two halves do not make one":           {rule(func(r *gate.AttestationRule) { r.Conditions = append(r.Conditions, says("y")) }), []gate.Attestation{attestedBy("ci", sbom, "x"), attestedBy("ci", sbom, "y")}, "nobody asked"},
		"whose key has run out":                {rule(nil), []gate.Attestation{lapsed}, "it counted until"},
		"all of, one missing":                  {rule(func(r *gate.AttestationRule) { r.AnyOf, r.AllOf = nil, r.AnyOf }), []gate.Attestation{attestedBy("ci", sbom, "x")}, "by release"},
		"all of":                               {rule(func(r *gate.AttestationRule) { r.AnyOf, r.AllOf = nil, r.AnyOf }), []gate.Attestation{attestedBy("ci", sbom, "x"), attestedBy("release", sbom, "x")}, ""},
		"two of two, twice the same":           {rule(func(r *gate.AttestationRule) { r.AtLeast = 2 }), []gate.Attestation{attestedBy("ci", sbom, "x"), attestedBy("ci", sbom, "x")}, "2 of ci, release, only by 1"},
		"young enough":                         {rule(func(r *gate.AttestationRule) { r.MaxAge = time.Hour }), []gate.Attestation{at(attestedBy("ci", sbom, "x"), noon.Add(-59*time.Minute))}, ""},
		"too old, exactly on time":             {rule(func(r *gate.AttestationRule) { r.MaxAge = time.Hour }), []gate.Attestation{at(attestedBy("ci", sbom, "x"), noon.Add(-time.Hour))}, "counts for 1h"},
		"of an age nobody vouches for":         {rule(func(r *gate.AttestationRule) { r.MaxAge = time.Hour }), []gate.Attestation{attestedBy("ci", sbom, "x")}, "nobody vouches"},
		"a rule that names nobody":             {rule(func(r *gate.AttestationRule) { r.AnyOf = nil }), []gate.Attestation{attestedBy("ci", sbom, "x")}, "no authority is named"},
		"a rule without a type":                {rule(func(r *gate.AttestationRule) { r.PredicateTypes = nil }), []gate.Attestation{attestedBy("ci", sbom, "x")}, "no attestation"},
		"every rule counts":                    {append(rule(nil), gate.AttestationRule{PredicateTypes: []string{provenance}, AnyOf: []string{"ci"}}), []gate.Attestation{attestedBy("ci", sbom, "x")}, provenance},
		"an attestation is no signature (23)":  {nil, []gate.Attestation{attestedBy("release", sbom, "x")}, "unsigned"},
		"nor is one of a signature's own type": {nil, []gate.Attestation{attestedBy("release", "https://sigstore.dev/cosign/sign/v1", "x")}, "unsigned"},
	} {
		t.Run(name, func(t *testing.T) {
			p, e := strict(t), clean()
			p.Attestations, e.Attestations = tt.rules, tt.have
			if tt.rules == nil {
				e.Signatures = nil
			}
			v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon)
			if v.Allowed() != (tt.want == "") || !strings.Contains(v.Summary(), tt.want) {
				t.Errorf("got %s, %q; want %q", v.Decision, v.Summary(), tt.want)
			}
		})
	}
}

// Distinct authorities are spoken for by distinct signers (65).
func TestThresholds(t *testing.T) {
	by := func(authority, signer string) gate.Signature {
		s := signedBy(authority)
		s.Signer = signer
		return s
	}
	three := gate.SignatureRule{AnyOf: []string{"a", "b", "c"}, AtLeast: 2}
	for name, tt := range map[string]struct {
		rule gate.SignatureRule
		have []gate.Signature
		want string
	}{
		"two of three":                         {three, []gate.Signature{by("a", "1"), by("c", "2")}, ""},
		"one of three":                         {three, []gate.Signature{by("a", "1")}, "2 of a, b, c, only by 1"},
		"one of three, listed twice":           {three, []gate.Signature{by("a", "1"), by("a", "1")}, "only by 1"},
		"one of three, by two of its keys":     {three, []gate.Signature{by("a", "1"), by("a", "2")}, "only by 1"},
		"one signer that fits two authorities": {three, []gate.Signature{by("a", "1"), by("b", "1")}, "only by 1"},
		"one that fits two, beside another":    {three, []gate.Signature{by("a", "1"), by("b", "1"), by("b", "2")}, ""},
		"one that fits all, beside another":    {three, []gate.Signature{by("a", "1"), by("b", "1"), by("c", "1"), by("a", "2")}, ""},
		"the same name of another issuer":      {three, []gate.Signature{by("a", "1"), func() gate.Signature { s := by("b", "1"); s.Issuer = "i"; return s }()}, ""},
		"all of, by one signer that fits both": {gate.SignatureRule{AllOf: []string{"a", "b"}}, []gate.Signature{by("a", "1"), by("b", "1")}, "a signer of his own"},
		"a stranger is none of three":          {three, []gate.Signature{by("a", "1"), by("d", "2")}, "only by 1"},
		"at least of nobody":                   {gate.SignatureRule{AtLeast: 1}, []gate.Signature{by("a", "1")}, "not signed"},
		"more than there are":                  {gate.SignatureRule{AnyOf: []string{"a"}, AtLeast: 2}, []gate.Signature{by("a", "1"), by("a", "2")}, "only by 1"},
		"too old":                              {gate.SignatureRule{AnyOf: []string{"a"}, MaxAge: time.Hour}, []gate.Signature{func() gate.Signature { s := by("a", "1"); s.SignedAt = noon.Add(-time.Hour); return s }()}, "counts for 1h"},
		"too old, beside one that is young (55)": {gate.SignatureRule{AnyOf: []string{"a"}, MaxAge: time.Hour}, []gate.Signature{
			func() gate.Signature { s := by("a", "1"); s.SignedAt = noon.Add(-time.Hour); return s }(),
			func() gate.Signature { s := by("a", "2"); s.SignedAt = noon.Add(-time.Minute); return s }(),
		}, ""},
		"of an age nobody vouches for": {gate.SignatureRule{AnyOf: []string{"a"}, MaxAge: time.Hour}, []gate.Signature{by("a", "1")}, "nobody vouches"},
	} {
		t.Run(name, func(t *testing.T) {
			p, e := strict(t), clean()
			p.Signatures, e.Signatures = tt.rule, tt.have
			v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon)
			if v.Allowed() != (tt.want == "") || !strings.Contains(v.Summary(), tt.want) {
				t.Errorf("got %s, %q; want %q", v.Decision, v.Summary(), tt.want)
			}
		})
	}
}

// A verdict lapses as what it leans on grows too old.
func TestVerdictsLapseWithAge(t *testing.T) {
	p, e := strict(t), clean()
	p.Signatures.MaxAge = time.Hour
	p.Attestations = []gate.AttestationRule{{PredicateTypes: []string{sbom}, AnyOf: []string{"ci"}, MaxAge: 2 * time.Hour}}
	e.Signatures[0].SignedAt = noon.Add(-30 * time.Minute)
	e.Attestations = []gate.Attestation{attestedBy("ci", sbom, "")}
	e.Attestations[0].By.SignedAt = noon.Add(-105 * time.Minute)
	set := &gate.PolicySet{Policies: []gate.Policy{p}}
	if v := gate.Decide(set, e, noon); !v.Allowed() || !v.Until.Equal(noon.Add(15*time.Minute)) {
		t.Errorf("got %s until %s, %q", v.Decision, v.Until, v.Summary())
	}
	if v := gate.Decide(set, e, noon.Add(15*time.Minute)); v.Allowed() {
		t.Error("admitted by an attestation that is too old")
	}
}

// statedBy returns a statement by security, about a vulnerability of everything in the image unless packages are given.
func statedBy(status gate.VEXStatus, id string, packages ...gate.VEXPackage) gate.VEX {
	return gate.VEX{By: signedBy("security"), Vulnerabilities: []string{id}, Status: status, Packages: packages, At: noon.Add(-time.Hour)}
}

func TestVEX(t *testing.T) {
	log4jCore := gate.VEXPackage{Type: "maven", Name: log4j.Package.Name}
	later := func(x gate.VEX) gate.VEX { x.At = noon.Add(-time.Minute); return x }
	of := func(x gate.VEX, authority string) gate.VEX { x.By = signedBy(authority); return x }
	lapsed := statedBy(gate.VEXNotAffected, log4j.ID)
	lapsed.By.Until = noon
	for name, tt := range map[string]struct {
		have    []gate.VEX
		excused bool
	}{
		"not affected":                   {[]gate.VEX{statedBy(gate.VEXNotAffected, log4j.ID)}, true},
		"fixed":                          {[]gate.VEX{statedBy(gate.VEXFixed, "cve-2021-44228")}, true},
		"affected":                       {[]gate.VEX{statedBy(gate.VEXAffected, log4j.ID)}, false},
		"under investigation":            {[]gate.VEX{statedBy(gate.VEXInvestigating, log4j.ID)}, false},
		"a status nobody knows":          {[]gate.VEX{statedBy("harmless", log4j.ID)}, false},
		"no status":                      {[]gate.VEX{statedBy("", log4j.ID)}, false},
		"of another vulnerability":       {[]gate.VEX{statedBy(gate.VEXNotAffected, "CVE-2021-44229")}, false},
		"of the package":                 {[]gate.VEX{statedBy(gate.VEXNotAffected, log4j.ID, log4jCore)}, true},
		"of its version":                 {[]gate.VEX{statedBy(gate.VEXNotAffected, log4j.ID, gate.VEXPackage{Type: "maven", Name: log4j.Package.Name, Version: "2.14.1"})}, true},
		"of another version":             {[]gate.VEX{statedBy(gate.VEXNotAffected, log4j.ID, gate.VEXPackage{Type: "maven", Name: log4j.Package.Name, Version: "2.14.2"})}, false},
		"of another package":             {[]gate.VEX{statedBy(gate.VEXNotAffected, log4j.ID, gate.VEXPackage{Type: "npm", Name: log4j.Package.Name})}, false},
		"by a stranger":                  {[]gate.VEX{of(statedBy(gate.VEXNotAffected, log4j.ID), "stranger")}, false},
		"whose key has run out":          {[]gate.VEX{lapsed}, false},
		"taken back":                     {[]gate.VEX{statedBy(gate.VEXNotAffected, log4j.ID), later(statedBy(gate.VEXAffected, log4j.ID))}, false},
		"taken back by another":          {[]gate.VEX{statedBy(gate.VEXNotAffected, log4j.ID), later(of(statedBy(gate.VEXAffected, log4j.ID), "vendor"))}, false},
		"taken back by a stranger":       {[]gate.VEX{statedBy(gate.VEXNotAffected, log4j.ID), later(of(statedBy(gate.VEXAffected, log4j.ID), "stranger"))}, true},
		"found out":                      {[]gate.VEX{statedBy(gate.VEXInvestigating, log4j.ID), later(statedBy(gate.VEXNotAffected, log4j.ID))}, true},
		"two at once":                    {[]gate.VEX{statedBy(gate.VEXNotAffected, log4j.ID), statedBy(gate.VEXAffected, log4j.ID)}, false},
		"taken back for another version": {[]gate.VEX{statedBy(gate.VEXNotAffected, log4j.ID), later(statedBy(gate.VEXAffected, log4j.ID, gate.VEXPackage{Type: "maven", Name: "x"}))}, true},
		"one name of several":            {[]gate.VEX{{By: signedBy("security"), Vulnerabilities: []string{"GHSA-jfh8", log4j.ID}, Status: gate.VEXFixed}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, e := strict(t), clean()
			p.VEX, e.Findings, e.VEX = []string{"security", "vendor"}, []gate.Finding{log4j}, tt.have
			v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon)
			if v.Allowed() != tt.excused || (len(v.Excused) == 1) != tt.excused || len(v.Waived) > 0 {
				t.Fatalf("got %s, %q, excused %v, waived %v", v.Decision, v.Summary(), v.Excused, v.Waived)
			}
			x, ok := v.Excuse(log4j)
			if ok != tt.excused {
				t.Errorf("asked for its excuse it says %v", x)
			}
			if tt.excused {
				if diff := cmp.Diff(v.Excused[0].Excuse, &x); diff != "" || v.Excused[0].Waiver != "" || !strings.HasPrefix(x.String(), "security states ") {
					t.Errorf("it is waived by %q, excused by %q (-got +asked):\n%s", v.Excused[0].Waiver, x, diff)
				}
			}
			p.Vulnerabilities.Deny = []string{log4j.ID}
			if v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon); v.Allowed() {
				t.Error("admitted what the policy denies by name")
			}
			p.VEX = nil
			p.Vulnerabilities.Deny = nil
			if v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon); v.Allowed() {
				t.Error("admitted by the word of somebody the policy does not name")
			}
		})
	}
}

// A statement is about the package it names however its package URL writes the name.
func TestVEXNamesPackages(t *testing.T) {
	for law, tt := range map[string]struct {
		kind, named, found string
		excused            bool
	}{
		"in another case":                     {"composer", "symfony/console", "Symfony/Console", true},
		"of PyPI as its URL writes it":        {"pypi", "some-thing", "Some_Thing", true},
		"of PyPI with a dot":                  {"pypi", "ruamel-yaml", "ruamel.yaml", true},
		"of PyPI, another":                    {"pypi", "something", "Some_Thing", false},
		"elsewhere a dash is no other letter": {"npm", "some-thing", "some_thing", false},
	} {
		t.Run(law, func(t *testing.T) {
			p, e := strict(t), clean()
			f := log4j
			f.Package = gate.Package{Type: tt.kind, Name: tt.found, Version: "1"}
			p.VEX, e.Findings = []string{"security"}, []gate.Finding{f}
			e.VEX = []gate.VEX{statedBy(gate.VEXNotAffected, f.ID, gate.VEXPackage{Type: tt.kind, Name: tt.named, Version: "1"})}
			if v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon); v.Allowed() != tt.excused {
				t.Errorf("got %s, %q", v.Decision, v.Summary())
			}
		})
	}
}

// A refusal that a statement could still excuse is not remembered for long.
func TestRefusalsThatCanBeExcused(t *testing.T) {
	p, e := strict(t), clean()
	e.Findings = []gate.Finding{log4j}
	if v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon); !v.Until.Equal(noon.Add(24 * time.Hour)) {
		t.Errorf("nobody could excuse it: got until %s", v.Until)
	}
	p.VEX = []string{"security"}
	if v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon); !v.Until.Equal(noon.Add(15 * time.Minute)) {
		t.Errorf("got until %s", v.Until)
	}
}

// Laws of attestations and VEX, over random evidence.
func TestLawsOfStatements(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	allowed := 0
	for range draws {
		set, e := randomPolicies(t, r), randomEvidence(r)
		set.Policies[0].VEX = []string{"security"}
		set.Policies[0].Attestations = []gate.AttestationRule{{PredicateTypes: []string{sbom}, AnyOf: []string{"ci", "release"}, AtLeast: 1 + r.IntN(2), Conditions: []gate.Condition{says("x")}}}
		for range r.IntN(5) {
			e.Attestations = append(e.Attestations, attestedBy([]string{"ci", "release", "stranger"}[r.IntN(3)], []string{sbom, sbom, provenance}[r.IntN(3)], []string{"x", "x", "y"}[r.IntN(3)]))
		}
		for range r.IntN(3) {
			e.VEX = append(e.VEX, randomVEX(r))
		}
		v := gate.Decide(set, e, noon)
		if v.Allowed() {
			allowed++
		}

		fewer := e
		if len(e.Attestations) > 0 {
			fewer.Attestations = e.Attestations[1:]
		}
		mustStayDenied(t, v, gate.Decide(set, fewer, noon))

		shuffled := e
		shuffled.Attestations, shuffled.VEX = slices.Clone(e.Attestations), slices.Clone(e.VEX)
		r.Shuffle(len(e.Attestations), func(i, j int) {
			shuffled.Attestations[i], shuffled.Attestations[j] = shuffled.Attestations[j], shuffled.Attestations[i]
		})
		r.Shuffle(len(e.VEX), func(i, j int) { shuffled.VEX[i], shuffled.VEX[j] = shuffled.VEX[j], shuffled.VEX[i] })
		again := gate.Decide(set, shuffled, noon)
		again.Attestations, again.VEX = v.Attestations, v.VEX // what it was made from is passed on as it is
		if diff := cmp.Diff(again, v); diff != "" {
			t.Fatalf("the verdict on shuffled evidence, got/want:\n%s", diff)
		}

		more, x := e, randomVEX(r)
		more.VEX = append(slices.Clone(e.VEX), x)
		after := gate.Decide(set, more, noon)
		named := func(reason gate.Reason) bool {
			return reason.Finding != nil && reason.Finding.ID == x.Vulnerabilities[0] || reason.Rule == gate.RuleUnexamined
		}
		others := func(v gate.Verdict) []gate.Reason {
			return slices.DeleteFunc(slices.Concat(v.Reasons, v.Warnings), named)
		}
		if diff := cmp.Diff(others(after), others(v), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("a statement changed other findings, got/want:\n%s", diff)
		}
		if t.Failed() {
			return
		}
	}
	if allowed < draws/20 || allowed > draws*19/20 {
		t.Errorf("%d of %d draws are admitted: the laws were hardly tried", allowed, draws)
	}
}

func randomVEX(r *rand.Rand) gate.VEX {
	x := statedBy([]gate.VEXStatus{gate.VEXNotAffected, gate.VEXFixed, gate.VEXAffected}[r.IntN(3)], []string{"CVE-1", "CVE-2", "CVE-3"}[r.IntN(3)])
	if r.IntN(2) == 0 {
		x.Packages = []gate.VEXPackage{{Type: []string{"deb", "npm"}[r.IntN(2)], Name: "tar"}}
	}
	x.At = noon.Add(-time.Duration(r.IntN(3)) * time.Hour)
	return x
}

// What is asked of attestations is asked while evidence is gathered, and what they said is let go of.
func TestConditionsAreAsked(t *testing.T) {
	w := newWorld(t)
	w.set.Policies[0].Attestations = []gate.AttestationRule{{PredicateTypes: []string{sbom}, AnyOf: []string{"ci"}, Conditions: []gate.Condition{says(`{"a":1}`)}}}
	good, bad := w.image(w.blob(gzipLayer, "good")), w.image(w.blob(gzipLayer, "bad"))
	for c, predicate := range map[gate.Candidate]string{good: `{"a":1}`, bad: `{"a":2}`} {
		w.signatures[c] = gate.SignatureEvidence{
			Signatures:   []gate.Signature{signedBy("release")},
			Attestations: []gate.Attestation{{By: signedBy("ci"), PredicateType: sbom, Predicate: []byte(predicate), Statement: []byte(predicate)}},
		}
	}
	g := w.gate()
	v, err := g.Judge(t.Context(), good)
	if err != nil || !v.Allowed() || len(v.Attestations) != 1 || v.Attestations[0].Predicate != nil || v.Attestations[0].Answers[`says {"a":1}`] != "" {
		t.Errorf("got %s, %q, %v, %v", v.Decision, v.Summary(), v.Attestations, err)
	}
	if v, err := g.Judge(t.Context(), bad); err != nil || v.Allowed() || !strings.Contains(v.Summary(), `it says {"a":2}`) {
		t.Errorf("got %s, %q, %v", v.Decision, v.Summary(), err)
	}
}

// A child leans on the signature, the attestations and the VEX of an admitted index that lists it, unless every child is asked for its own.
func TestChildrenLeanOnTheirIndex(t *testing.T) {
	t.Run("on what covers it", func(t *testing.T) { leanOnIndex(t, false) })
	t.Run("every child needs its own where that is asked", func(t *testing.T) { leanOnIndex(t, true) })
}

func leanOnIndex(t *testing.T, everyChild bool) {
	w := newWorld(t)
	p := &w.set.Policies[0]
	p.Signatures.EveryChild = everyChild
	p.Attestations = []gate.AttestationRule{{PredicateTypes: []string{sbom}, AnyOf: []string{"ci"}, Conditions: []gate.Condition{says(`{}`)}}}
	p.VEX = []string{"security"}
	layer := w.blob(gzipLayer, "layer")
	w.packages[layer.Digest] = []gate.Package{log4j.Package}
	w.findings = []gate.Finding{log4j}
	child, extra := w.image(layer), w.image(layer, w.blob(gzipLayer, "extra"))
	index := w.index(nginx, child)
	delete(w.signatures, child)
	delete(w.signatures, extra)
	w.signatures[index] = gate.SignatureEvidence{
		Signatures:   []gate.Signature{signedBy("release")},
		Attestations: []gate.Attestation{{By: signedBy("ci"), PredicateType: sbom, Predicate: []byte("{}"), Statement: []byte("{}")}},
		VEX:          []gate.VEX{statedBy(gate.VEXNotAffected, log4j.ID)},
	}
	g := w.gate()
	if v, err := g.Judge(t.Context(), index); err != nil || !v.Allowed() {
		t.Fatalf("the index: %s, %q, %v", v.Decision, v.Summary(), err)
	}
	v, err := g.Judge(t.Context(), child)
	if everyChild {
		if err != nil || v.Allowed() {
			t.Errorf("a child without its own: %s, %v", v.Decision, err)
		}
		return
	}
	if err != nil || !v.Allowed() || len(v.Excused) != 1 || v.Attestations[0].By.Inherited != index.Digest {
		t.Errorf("a child: %s, %q, excused %v, %v", v.Decision, v.Summary(), v.Excused, err)
	}
	t.Run("54 a platform added in a new, unsigned index leans on nothing", func(t *testing.T) {
		unsigned := w.index(nginx, child, extra)
		if v, err := g.Judge(t.Context(), unsigned); err != nil || v.Allowed() {
			t.Errorf("the index: %s, %v", v.Decision, err)
		}
		if v, err := g.Judge(t.Context(), extra); err != nil || v.Allowed() {
			t.Errorf("the platform: %s, %v", v.Decision, err)
		}
	})
}
