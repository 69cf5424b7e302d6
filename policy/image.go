package policy

import (
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

func (d *draft) image(v value) (r gate.ImageRule) {
	d.mapping(v, fields{
		"max_bytes": func(v value) { r.MaxBytes = d.size(v) },
		"deny_foreign_layers": func(v value) {
			denied, ok := d.flag(v)
			r.UnsafeForeignLayers = ok && !denied
		},
		"deny_hostile_config": func(v value) {
			denied, ok := d.flag(v)
			r.UnsafeHostileConfig = ok && !denied
		},
		"deny_root_user": func(v value) { r.DenyRootUser, _ = d.flag(v) },
		"require_labels": func(v value) { r.RequireLabels = set(&d.strict, v, d.label) },
		"max_base_age":   func(v value) { r.MaxBaseAge = d.maxAge(v) },
	})
	return r
}

// label reads "name", or "name=value" with '*' for any characters.
func (d *draft) label(v value) (gate.LabelPattern, bool) {
	t, ok := d.name(v)
	if !ok {
		return gate.LabelPattern{}, false
	}
	name, pattern, given := strings.Cut(t, "=")
	if !given {
		pattern = "*"
	}
	if name == "" || pattern == "" {
		d.refuse(v, "%.60q is no label: want name, or name=value", t)
		return gate.LabelPattern{}, false
	}
	return gate.LabelPattern{Name: name, Value: gate.Glob(pattern)}, true
}

// packages reads which packages are denied.
func (d *draft) packages(v value) (denied []gate.PackagePattern) {
	before := len(d.problems)
	d.mapping(v, fields{"deny": func(v value) { denied = set(&d.strict, v, d.packagePattern) }})
	if len(d.problems) == before && len(denied) == 0 {
		d.refuse(v, "denies nothing: give deny")
	}
	return denied
}

// packagePattern reads "type/name" or "type/name@version". The '@' of an npm scope leads its component and begins no version.
func (d *draft) packagePattern(v value) (gate.PackagePattern, bool) {
	t, ok := d.word(v)
	if !ok {
		return gate.PackagePattern{}, false
	}
	kind, name, _ := strings.Cut(t, "/")
	version := "*"
	if i := strings.LastIndexByte(name, '@'); i > strings.LastIndexByte(name, '/')+1 {
		name, version = name[:i], name[i+1:]
	}
	switch {
	case kind == "" || name == "" || version == "":
		d.refuse(v, "%.60q is no package: want type/name or type/name@version, such as npm/event-stream@3.3.6", t)
	case kind != "*" && !slices.Contains(gate.PackageTypes(), kind):
		d.refuse(v, "%.60q: there are no packages of type %.40q: want one of %s, or *", t, kind, strings.Join(gate.PackageTypes(), ", "))
	case strings.ContainsAny(version, "<>=^"):
		d.refuse(v, "%.60q: ranges of versions are not supported: write the version with * for any characters", t)
	default:
		return gate.PackagePattern{Type: kind, Name: gate.Glob(name), Version: gate.Glob(version)}, true
	}
	return gate.PackagePattern{}, false
}

// licenses reads which licences are denied or allowed.
func (d *draft) licenses(v value) *gate.LicenseRule {
	var r gate.LicenseRule
	before := len(d.problems)
	d.mapping(v, fields{
		"deny":         func(v value) { r.Deny = set(&d.strict, v, d.license) },
		"allow":        func(v value) { r.Allow = set(&d.strict, v, d.license) },
		"deny_unknown": func(v value) { r.DenyUnknown, _ = d.flag(v) },
	})
	if len(d.problems) == before && len(r.Deny) == 0 && len(r.Allow) == 0 && !r.DenyUnknown {
		d.refuse(v, "denies nothing: give deny, allow or deny_unknown")
	}
	return &r
}

// license reads one licence. An expression is none: which of its parts would be meant?
func (d *draft) license(v value) (string, bool) {
	t, ok := d.name(v)
	if !ok {
		return "", false
	}
	upper := strings.ToUpper(t)
	if strings.Contains(upper, " OR ") || strings.Contains(upper, " AND ") || strings.ContainsAny(t, "()") {
		d.refuse(v, "%.60q is an expression: list each licence", t)
		return "", false
	}
	return t, true
}

// distributions reads which distributions an image may be built upon.
func (d *draft) distributions(v value) *gate.OSRule {
	var r gate.OSRule
	before := len(d.problems)
	d.mapping(v, fields{
		"deny_end_of_life": func(v value) { r.DenyEndOfLife, _ = d.flag(v) },
		"allow":            func(v value) { r.Allow = set(&d.strict, v, d.distribution) },
	})
	if len(d.problems) > before || r.DenyEndOfLife || len(r.Allow) > 0 {
		return &r
	}
	return nil // which is what somebody who turns it off means
}

// distribution reads "id" or "id version", as os-release has them.
func (d *draft) distribution(v value) (gate.OSPattern, bool) {
	t, ok := d.name(v)
	if !ok {
		return gate.OSPattern{}, false
	}
	words := strings.Fields(t)
	o := gate.OSPattern{ID: gate.Glob(words[0]), Version: "*"}
	switch {
	case len(words) > 2 || t != strings.ToLower(t):
		d.refuse(v, "%.60q is no distribution: want the ID of os-release and a version, such as debian 12", t)
		return gate.OSPattern{}, false
	case len(words) == 2 && words[0] == gate.NoDistribution:
		d.refuse(v, "%s has no version", gate.NoDistribution)
		return gate.OSPattern{}, false
	case len(words) == 2:
		o.Version = gate.Glob(words[1])
	}
	return o, true
}

// expressions reads the conditions under which a policy denies images.
func (d *draft) expressions(v value, p *gate.Policy) {
	named := map[string]place{}
	read := func(v value) {
		var x gate.ExpressionRule
		has := d.mapping(v, fields{
			"name": func(v value) {
				var ok bool
				if x.Name, ok = d.name(v); !ok {
					return
				}
				if first, taken := named[x.Name]; taken {
					d.refuse(v, "an expression named %q stands at %s already", x.Name, first)
				}
				named[x.Name] = d.at(v)
			},
			"deny_if": func(v value) { x.DenyIf = d.denyIf(v) },
			"message": func(v value) { x.Message, _ = d.sentence(v) },
		})
		d.need(v, has, "name", "deny_if")
		if x.DenyIf != nil {
			p.Expressions = append(p.Expressions, x)
		}
	}
	if d.list(v, read) && len(v.node.Content) == 0 {
		d.refuse(v, "is empty")
	}
}

// checkLooks refuses an expression over signatures that are not looked for: it would see none, whoever signed.
func (d *draft) checkLooks(v value, p gate.Policy) {
	for _, x := range p.Expressions {
		e, ok := x.DenyIf.(*imageExpression)
		switch {
		case !ok:
		case e.looksAt["signatures"] && len(p.Signatures.Authorities()) == 0:
			d.refuse(v, "the expression %q looks at signatures, and none are looked for without require.signatures", x.Name)
		case e.looksAt["attestations"] && len(p.Attestations) == 0:
			d.refuse(v, "the expression %q looks at attestations, and none are looked for without require.attestations", x.Name)
		}
	}
}

func (d *draft) denyIf(v value) gate.Expression {
	t, ok := d.text(v)
	if !ok {
		return nil
	}
	x, err := compileImageExpression(t)
	if err != nil {
		d.refuse(v, "%v", err)
		return nil
	}
	return x
}
