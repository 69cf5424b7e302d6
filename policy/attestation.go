package policy

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/tidewaiter/tidewaiter/gate"
)

// require reads what must have been signed and attested.
func (d *draft) require(v value, p *gate.Policy) {
	has := d.mapping(v, fields{
		"signatures": func(v value) { p.Signatures = d.signatures(v) },
		"attestations": func(v value) {
			if d.list(v, func(v value) { p.Attestations = append(p.Attestations, d.attestation(v)) }) && len(v.node.Content) == 0 {
				d.refuse(v, "is empty")
			}
		},
	})
	if has != nil && len(has) == 0 {
		d.refuse(v, "requires nothing: give signatures or attestations, or leave it out")
	}
}

func (d *draft) signatures(v value) (r gate.SignatureRule) {
	before := len(d.problems)
	has := d.mapping(v, fields{
		"any_of":      func(v value) { r.AnyOf = set(&d.strict, v, d.name) },
		"all_of":      func(v value) { r.AllOf = set(&d.strict, v, d.name) },
		"at_least":    func(v value) { r.AtLeast = d.atLeast(v) },
		"max_age":     func(v value) { r.MaxAge = d.maxAge(v) },
		"every_child": func(v value) { r.EveryChild, _ = d.flag(v) },
	})
	if len(d.problems) == before {
		d.checkAuthorities(v, has, r.AnyOf, r.AllOf, r.AtLeast)
	}
	return r
}

// checkAuthorities reports a rule that names nobody, or asks for more of any_of than it has.
func (d *draft) checkAuthorities(v value, has map[string]bool, anyOf, allOf []string, atLeast int) {
	switch {
	case len(anyOf) == 0 && len(allOf) == 0:
		d.refuse(v, "names no authority: give any_of or all_of")
	case has["at_least"] && atLeast > len(anyOf):
		d.refuse(v, "at_least asks for %d of the %d in any_of", atLeast, len(anyOf))
	}
}

// atLeast reads how many authorities must speak.
func (d *draft) atLeast(v value) int {
	if !d.is(v, yaml.ScalarNode, "!!int", "a number") {
		return 0
	}
	n, err := strconv.Atoi(v.node.Value)
	if err != nil || n < 1 || strconv.Itoa(n) != v.node.Value {
		d.refuse(v, "%.40q is no number of authorities: want 1 or more", v.node.Value)
		return 0
	}
	return n
}

// attestation reads one statement that must have been made.
func (d *draft) attestation(v value) (r gate.AttestationRule) {
	before := len(d.problems)
	var slsaAt, vsaAt value
	has := d.mapping(v, fields{
		"predicate_type": func(v value) { r.PredicateTypes = d.predicateType(v) },
		"any_of":         func(v value) { r.AnyOf = set(&d.strict, v, d.name) },
		"all_of":         func(v value) { r.AllOf = set(&d.strict, v, d.name) },
		"at_least":       func(v value) { r.AtLeast = d.atLeast(v) },
		"max_age":        func(v value) { r.MaxAge = d.maxAge(v) },
		"cel":            func(v value) { r.Conditions = append(r.Conditions, d.expression(v)...) },
		"slsa": func(v value) {
			slsaAt = v
			r.Conditions = append(r.Conditions, d.slsa(v))
		},
		"vsa": func(v value) {
			vsaAt = v
			r.Conditions = append(r.Conditions, d.vsa(v))
		},
	})
	if has == nil || len(d.problems) > before {
		return r
	}
	d.checkAuthorities(v, has, r.AnyOf, r.AllOf, r.AtLeast)
	given := r.PredicateTypes
	switch {
	case has["slsa"] && has["vsa"]:
		d.refuse(v, "slsa and vsa are about different statements: write two")
	case has["slsa"] && !has["predicate_type"]:
		r.PredicateTypes = []string{provenance02, provenance1}
	case has["slsa"] && given[0] != provenance02 && given[0] != provenance1:
		d.refuse(slsaAt, "is about %s or %s", provenance02, provenance1)
	case has["vsa"] && !has["predicate_type"]:
		r.PredicateTypes = []string{summary1}
	case has["vsa"] && given[0] != summary1:
		d.refuse(vsaAt, "is about %s", summary1)
	default:
		d.need(v, has, "predicate_type")
	}
	if slices.Contains(r.PredicateTypes, summary1) && !has["vsa"] { // a summary that says FAILED is not what anybody requires
		r.Conditions = append(r.Conditions, vsa{})
	}
	return r
}

// predicateType reads the type of a statement: a URI, as signers write it.
func (d *draft) predicateType(v value) []string {
	t, ok := d.word(v)
	if !ok {
		return nil
	}
	if u, err := url.Parse(t); err != nil || u.Scheme == "" {
		d.refuse(v, "%.80q is no URI, such as %s", t, provenance1)
		return nil
	}
	return []string{t}
}

func (d *draft) expression(v value) []gate.Condition {
	t, ok := d.text(v)
	if !ok {
		return nil
	}
	e, err := compileExpression(t)
	if err != nil {
		d.refuse(v, "%v", err)
		return nil
	}
	return []gate.Condition{e}
}

func (d *draft) slsa(v value) gate.Condition {
	var s slsa
	has := d.mapping(v, fields{
		"builder":           func(v value) { s.builder = d.exactly(v) },
		"builder_regexp":    func(v value) { s.builder = d.fitting(v) },
		"source":            func(v value) { s.source = d.exactly(v) },
		"source_regexp":     func(v value) { s.source = d.fitting(v) },
		"build_type":        func(v value) { s.buildType = d.exactly(v) },
		"build_type_regexp": func(v value) { s.buildType = d.fitting(v) },
	})
	for _, key := range []string{"builder", "source", "build_type"} {
		if has[key] && has[key+"_regexp"] {
			d.refuse(v, "want one of %s, %s_regexp", key, key)
		}
	}
	if has != nil && len(has) == 0 {
		d.refuse(v, "demands nothing: give builder, source or build_type")
	}
	return s
}

func (d *draft) vsa(v value) gate.Condition {
	var c vsa
	has := d.mapping(v, fields{
		"verifier":        func(v value) { c.verifier = d.exactly(v) },
		"verifier_regexp": func(v value) { c.verifier = d.fitting(v) },
		"levels":          func(v value) { c.levels = set(&d.strict, v, d.word) },
	})
	if has["verifier"] && has["verifier_regexp"] {
		d.refuse(v, "want one of verifier, verifier_regexp")
	}
	return c
}

func (d *draft) exactly(v value) wording {
	t, _ := d.text(v)
	return wording{Wording: gate.Wording{Text: t}}
}

func (d *draft) fitting(v value) wording {
	w := d.wholeExpression(v)
	if !w.Regexp {
		return wording{}
	}
	return wording{w, regexp.MustCompile(`\A(?:` + w.Text + `)\z`)}
}
