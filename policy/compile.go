package policy

import (
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// draft is what has been read of a set of policy files.
type draft struct {
	strict
	policies []gate.Policy
	waivers  []gate.Waiver
	// named says where each policy's name was first used.
	named map[string]place
	// limit is waiver_max and limitAt where it stands; the files share one.
	limit   time.Duration
	limitAt place
	// lapses are checked against limit once every file has been read.
	lapses []lapse
}

// lapse is the end of a waiver and where it is written.
type lapse struct {
	file  string
	until value
	at    time.Time
}

// compile reads sources into one set.
func compile(sources []source, now time.Time) (*gate.PolicySet, error) {
	d := draft{named: map[string]place{}, limit: defaultWaiverMax}
	for _, src := range sources {
		d.read(src)
	}
	d.checkLapses(now)
	if len(d.problems) == 0 && len(d.policies) == 0 {
		d.report(&yaml.Node{}, "no policy is given, so every pull would be denied")
	}
	if err := asError(d.problems, sources); err != nil {
		return nil, err
	}
	return &gate.PolicySet{
		Policies: d.policies, Waivers: d.waivers,
		Revision: policyRevision(d.policies), WaiverRevision: waiverRevision(d.waivers), WaiverMax: d.limit,
	}, nil
}

func (d *draft) read(src source) {
	root, ok := d.open(src)
	if !ok {
		return
	}
	d.mapping(root, fields{
		"policies":   func(v value) { d.list(v, d.policy) },
		"waivers":    func(v value) { d.list(v, d.waiver) },
		"waiver_max": d.waiverMax,
	})
}

func (d *draft) policy(v value) {
	p := gate.Policy{File: d.file, Line: v.node.Line, Lines: ruleLines(v)}
	has := d.mapping(v, fields{
		"name":            func(v value) { p.Name = d.policyName(v) },
		"match":           func(v value) { p.Match, p.Except = d.match(v) },
		"mode":            func(v value) { p.Mode, _ = choice(&d.strict, v, modes) },
		"on_fail":         func(v value) { p.OnFail, _ = choice(&d.strict, v, onFails) },
		"require":         func(v value) { d.require(v, &p) },
		"vulnerabilities": func(v value) { p.Vulnerabilities = d.vulnerabilities(v) },
		"vex":             func(v value) { p.VEX = d.vex(v) },
		"image":           func(v value) { p.Image = d.image(v) },
		"gaps":            func(v value) { p.TolerateGaps = d.gaps(v) },
		"secrets":         func(v value) { p.Secrets = d.secrets(v) },
		"malware":         func(v value) { p.Malware = d.malware(v) },
		"os":              func(v value) { p.OS = d.distributions(v) },
		"packages":        func(v value) { p.DenyPackages = d.packages(v) },
		"licenses":        func(v value) { p.Licenses = d.licenses(v) },
		"cel":             func(v value) { d.expressions(v, &p) },
		"min_age":         func(v value) { p.MinAge, _ = d.duration(v) },
		"last_good":       func(v value) { p.LastGood, _ = d.duration(v) },
	})
	d.need(v, has, "name", "match")
	if has["vex"] && !has["vulnerabilities"] {
		d.refuse(v, "vex excuses findings, and without vulnerabilities there are none")
	}
	d.checkLooks(v, p)
	d.policies = append(d.policies, p)
}

func (d *draft) policyName(v value) string {
	name, ok := d.name(v)
	if !ok {
		return ""
	}
	if first, taken := d.named[name]; taken {
		d.refuse(v, "a policy named %q stands at %s already", name, first)
		return ""
	}
	d.named[name] = d.at(v)
	return name
}

// The words policies choose from.
var (
	modes   = map[string]gate.Mode{"enforce": gate.Enforce, "warn": gate.Warn}
	onFails = map[string]gate.OnFail{"block": gate.Block, "quarantine": gate.Quarantine}
	// severities lacks a word for unrated findings, which count as low; their value stands for denying by no severity.
	severities = map[string]gate.Severity{
		"none": gate.Unrated, "low": gate.Low, "medium": gate.Medium, "high": gate.High, "critical": gate.Critical,
	}
)

// secretRules are what can be done about secrets; to ignore them is not to look for them.
var secretRules = map[string]*gate.SecretRule{"deny": {}, "warn": {Warn: true}, "ignore": nil}

// secrets reads what is done about secrets. Each policy gets a rule of its own: what a set holds is never shared.
func (d *draft) secrets(v value) *gate.SecretRule {
	rule, _ := choice(&d.strict, v, secretRules)
	if rule == nil {
		return nil
	}
	own := *rule
	return &own
}

// malwareRules are what can be done about malware, as secretRules.
var malwareRules = map[string]*gate.MalwareRule{"deny": {}, "warn": {Warn: true}, "ignore": nil}

// malware reads what is done about malware. Each policy gets a rule of its own.
func (d *draft) malware(v value) *gate.MalwareRule {
	rule, _ := choice(&d.strict, v, malwareRules)
	if rule == nil {
		return nil
	}
	own := *rule
	return &own
}

func (d *draft) match(v value) (match, except []oci.Pattern) {
	has := d.mapping(v, fields{
		"repositories": func(v value) { match = d.repositories(v) },
		"except":       func(v value) { except = d.patterns(v) },
	})
	d.need(v, has, "repositories")
	return match, except
}

// repositories reads patterns, at least one.
func (d *draft) repositories(v value) []oci.Pattern {
	if v.node.Kind == yaml.SequenceNode && len(v.node.Content) == 0 {
		d.refuse(v, "is empty, so it matches nothing")
	}
	return d.patterns(v)
}

func (d *draft) patterns(v value) []oci.Pattern {
	return set(&d.strict, v, func(v value) (oci.Pattern, bool) {
		t, ok := d.text(v)
		if !ok {
			return oci.Pattern{}, false
		}
		p, err := oci.ParseFullPattern(t)
		if err != nil {
			d.refuse(v, "%v", err)
		}
		return p, err == nil
	})
}

func (d *draft) vulnerabilities(v value) *gate.VulnerabilityRule {
	var r gate.VulnerabilityRule
	before := len(d.problems)
	has := d.mapping(v, fields{
		"deny_at":      func(v value) { r.DenyAt = d.denyAt(v) },
		"only_fixable": func(v value) { r.OnlyFixable, _ = d.flag(v) },
		"grace":        func(v value) { r.Grace, _ = d.duration(v) },
		"deny":         func(v value) { r.Deny = set(&d.strict, v, d.word) },
	})
	if len(d.problems) == before && !has["deny_at"] && len(r.Deny) == 0 {
		d.refuse(v, "says nothing of what denies: give deny_at or deny")
	}
	return &r
}

// vex reads whose statements excuse findings.
func (d *draft) vex(v value) (authorities []string) {
	before := len(d.problems)
	d.mapping(v, fields{"any_of": func(v value) { authorities = set(&d.strict, v, d.name) }})
	if len(d.problems) == before && len(authorities) == 0 {
		d.refuse(v, "names no authority: give any_of")
	}
	return authorities
}

func (d *draft) denyAt(v value) *gate.Severity {
	lowest, _ := choice(&d.strict, v, severities)
	if lowest == gate.Unrated {
		return nil
	}
	return &lowest
}

func (d *draft) size(v value) int64 {
	if v.node.Kind != yaml.ScalarNode {
		d.refuse(v, "want a size such as 4GiB, got %s", describe(v.node))
		return 0
	}
	n, err := ParseBytes(v.node.Value)
	if err != nil {
		d.refuse(v, "%v", err)
	}
	return n
}

func (d *draft) gaps(v value) (kinds []gate.GapKind) {
	d.mapping(v, fields{"tolerate": func(v value) {
		kinds = set(&d.strict, v, func(v value) (gate.GapKind, bool) { return choice(&d.strict, v, words(gate.GapKinds())) })
	}})
	return kinds
}
