package report

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// The forms below are those of SARIF 2.1.0 with errata 01, as far as they are used here.

type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool              sarifTool       `json:"tool"`
	AutomationDetails sarifAutomation `json:"automationDetails"`
	Invocations       []sarifCall     `json:"invocations"`
	ColumnKind        string          `json:"columnKind"`
	Results           []sarifResult   `json:"results"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name           string      `json:"name"`
	Version        string      `json:"version"`
	InformationURI string      `json:"informationUri"`
	Rules          []sarifRule `json:"rules"`
}

type sarifAutomation struct {
	ID string `json:"id"`
}

type sarifCall struct {
	ExecutionSuccessful bool   `json:"executionSuccessful"`
	EndTimeUTC          string `json:"endTimeUtc"`
}

type sarifRule struct {
	ID               string          `json:"id"`
	Name             string          `json:"name"`
	ShortDescription sarifMessage    `json:"shortDescription"`
	HelpURI          string          `json:"helpUri,omitempty"`
	Properties       sarifProperties `json:"properties"`
}

type sarifMessage struct {
	Text string `json:"text"`
}

// sarifProperties are what readers besides the standard look for: GitHub ranks by security-severity.
type sarifProperties struct {
	Tags             []string `json:"tags,omitempty"`
	SecuritySeverity string   `json:"security-severity,omitempty"`
	Severity         string   `json:"severity,omitempty"`
	PURL             string   `json:"purl,omitempty"`
	FixedVersion     string   `json:"fixedVersion,omitempty"`
	Standing         standing `json:"standing,omitempty"`
	Image            string   `json:"image,omitempty"`
}

type sarifResult struct {
	RuleID       string             `json:"ruleId"`
	RuleIndex    int                `json:"ruleIndex"`
	Level        string             `json:"level"`
	Message      sarifMessage       `json:"message"`
	Locations    []sarifLocation    `json:"locations"`
	Fingerprints map[string]string  `json:"partialFingerprints"`
	Suppressions []sarifSuppression `json:"suppressions,omitempty"`
	Properties   sarifProperties    `json:"properties"`
}

type sarifLocation struct {
	Physical sarifPhysical  `json:"physicalLocation"`
	Logical  []sarifLogical `json:"logicalLocations"`
	Message  sarifMessage   `json:"message"`
}

type sarifPhysical struct {
	Artifact sarifArtifact `json:"artifactLocation"`
	Region   sarifRegion   `json:"region"`
}

type sarifArtifact struct {
	URI string `json:"uri"`
}

type sarifRegion struct {
	StartLine int `json:"startLine"`
}

type sarifLogical struct {
	FullyQualifiedName string `json:"fullyQualifiedName"`
	Kind               string `json:"kind"`
}

type sarifSuppression struct {
	Kind          string `json:"kind"`
	Status        string `json:"status"`
	Justification string `json:"justification"`
}

// sarifSeverities are what each severity is in SARIF, and the score by which GitHub sorts: the middle of the band that CVSS gives it.
var sarifSeverities = map[gate.Severity]struct{ level, score string }{
	gate.Unrated: {"note", "0.1"}, gate.Low: {"note", "2.0"}, gate.Medium: {"warning", "5.5"}, gate.High: {"error", "8.0"}, gate.Critical: {"error", "9.5"},
}

// ruleTexts say what each rule of the gate is about.
var ruleTexts = map[gate.Rule]string{
	gate.RuleMatch:      "No policy matches the repository.",
	gate.RuleSignatures: "A signature the policy asks for is missing.",
	gate.RuleGap:        "Something could not be examined.",
	gate.RuleMalware:    "A file in a layer is malware by a signature of the scanner.",
	gate.RuleSecrets:    "A credential was left in a layer or in the config.",

	gate.RulePackages:      "A package is denied by name.",
	gate.RuleLicenses:      "A package is under a licence that is not allowed.",
	gate.RuleEndOfLife:     "The distribution is no longer mended.",
	gate.RuleOS:            "The distribution is not allowed.",
	gate.RuleHostileConfig: "The config has values that are known to break runtimes or to lead out of them.",
	gate.RuleRootUser:      "The image runs as root.",
	gate.RuleLabels:        "A label the policy asks for is missing or another one.",
	gate.RuleBaseAge:       "What the image is built upon is too old.",
	gate.RuleCEL:           "A condition of the policy is true of the image.",
}

// SARIF returns the report as results: one for each finding of the images that were judged, and one for each other reason of a denial or
// warning. Findings a waiver set aside, and other waived reasons, are suppressed, with the waiver's word, and so are those of which somebody
// whose word counts states that they do not matter, with theirs. Of images that were not judged the results are what could not be examined and
// the secrets that were found, which no policy has looked at. A result's place is the file
// in the image or, for what concerns all of it, the image's name.
func SARIF(r Report) ([]byte, error) {
	w := sarifWriter{rules: map[string]int{}}
	w.run = sarifRun{
		Tool:              sarifTool{sarifDriver{Name: "Tidewaiter", Version: r.Version, InformationURI: "https://github.com/tidewaiter/tidewaiter", Rules: []sarifRule{}}},
		AutomationDetails: sarifAutomation{r.category()},
		Invocations:       []sarifCall{{true, r.created()}}, ColumnKind: "unicodeCodePoints", Results: []sarifResult{},
	}
	for _, i := range r.Images {
		for _, f := range i.findings() {
			w.finding(i, f)
		}
		if i.Verdict != nil {
			w.reasons(i)
		} else {
			w.inventory(i)
		}
	}
	return encode(sarifLog{
		Schema: "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{w.run},
	})
}

// category returns by what readers know which results take the place of which: those of an inventory do not take that of a check's.
func (r Report) category() string {
	if slices.ContainsFunc(r.Images, func(i Image) bool { return i.Verdict != nil }) {
		return "tidewaiter/" + r.Name + "/"
	}
	return "tidewaiter/inventory/" + r.Name + "/"
}

// sarifWriter is a run that is being made.
type sarifWriter struct {
	run sarifRun
	// rules maps the rules there are to their places.
	rules map[string]int
}

// rule returns the place of a rule, which describe makes if it is not there yet. Of two findings of one name the graver comes first, since
// findings are sorted, and gives the rule its severity.
func (w *sarifWriter) rule(id string, describe func() sarifRule) int {
	n, ok := w.rules[id]
	if !ok {
		n = len(w.run.Tool.Driver.Rules)
		w.rules[id] = n
		w.run.Tool.Driver.Rules = append(w.run.Tool.Driver.Rules, describe())
	}
	return n
}

func (w *sarifWriter) finding(i Image, f finding) {
	severity := sarifSeverities[f.Severity]
	place := w.rule(f.ID, func() sarifRule {
		text := f.Title
		if text == "" {
			text = f.ID + " in " + f.Package.Name
		}
		rule := sarifRule{ID: f.ID, Name: "Vulnerability", ShortDescription: sarifMessage{text}, Properties: sarifProperties{
			Tags: []string{"security", "vulnerability", f.Severity.String()}, SecuritySeverity: severity.score,
		}}
		if at := advisoryURL(f.ID); strings.HasPrefix(at, "https:") {
			rule.HelpURI = at
		}
		return rule
	})
	purl := packageURL(f.Package, i.Inventory.OS)
	text := fmt.Sprintf("%s (%s) in %s %s: %s", f.ID, f.Severity, f.Package.Name, f.Package.Version, f.advice())
	if f.why != "" && f.standing != waived && f.standing != excused {
		text += fmt.Sprintf("; %s: %s", f.standing, f.why)
	}
	result := sarifResult{
		RuleID: f.ID, RuleIndex: place, Level: severity.level, Message: sarifMessage{text}, Locations: location(i, f.Path),
		// By what does not change with the image's digest or a new build of the package, so that readers know it again.
		Fingerprints: map[string]string{"tidewaiter/v1": fingerprint(i, f.ID, f.Package.Type, f.Package.Name, f.Path)},
		Properties: sarifProperties{
			Severity: f.Severity.String(), PURL: purl, FixedVersion: f.FixedVersion, Standing: f.standing, Image: i.Candidate.String(),
		},
	}
	switch f.standing {
	case waived:
		result.Suppressions = suppressed("waived by " + f.why)
	case excused:
		result.Suppressions = suppressed(f.why)
	}
	w.run.Results = append(w.run.Results, result)
}

// reasons adds what a verdict rests on besides findings.
func (w *sarifWriter) reasons(i Image) {
	for _, list := range []struct {
		standing standing
		level    string
		reasons  []gate.Reason
	}{{denied, "error", i.Verdict.Reasons}, {warned, "warning", i.Verdict.Warnings}, {waived, "note", i.Verdict.Waived}} {
		for _, r := range list.reasons {
			if r.Finding != nil {
				continue
			}
			path := ""
			if r.Gap != nil {
				path = r.Gap.Path
			}
			id := "tidewaiter/" + string(r.Rule)
			result := sarifResult{
				RuleID: id, RuleIndex: w.rule(id, func() sarifRule { return policyRule(id, r.Rule) }), Level: list.level,
				Message: sarifMessage{r.Message}, Locations: location(i, path),
				Fingerprints: map[string]string{"tidewaiter/v1": fingerprint(i, id, r.Message)},
				Properties:   sarifProperties{Standing: list.standing, Image: i.Candidate.String()},
			}
			if list.standing == waived {
				result.Suppressions = suppressed("waived by " + r.Waiver)
			}
			w.run.Results = append(w.run.Results, result)
		}
	}
}

// inventory adds what reading an image found that its packages do not say.
func (w *sarifWriter) inventory(i Image) {
	add := func(rule gate.Rule, text, path string, identity ...string) {
		id := "tidewaiter/" + string(rule)
		w.run.Results = append(w.run.Results, sarifResult{
			RuleID: id, RuleIndex: w.rule(id, func() sarifRule { return policyRule(id, rule) }), Level: "warning", Message: sarifMessage{text},
			Locations: location(i, path), Fingerprints: map[string]string{"tidewaiter/v1": fingerprint(i, append(identity, id, path)...)},
			Properties: sarifProperties{Image: i.Candidate.String()},
		})
	}
	for _, g := range i.gaps() {
		add(gate.RuleGap, "not examined: "+gapText(g), g.Path, string(g.Kind), g.Why)
	}
	for _, s := range i.Inventory.Secrets {
		add(gate.RuleSecrets, fmt.Sprintf("a secret, %s, in layer %s", s.Kind, s.Layer), s.Path, s.Kind)
	}
}

func policyRule(id string, rule gate.Rule) sarifRule {
	text, ok := ruleTexts[rule]
	if !ok {
		text = "The policy's rule " + string(rule) + " is not met."
	}
	return sarifRule{ID: id, Name: "Policy", ShortDescription: sarifMessage{text}, Properties: sarifProperties{Tags: []string{"security", "policy"}}}
}

// location returns where a result is: a file in the image or, without a path, the image.
func location(i Image, path string) []sarifLocation {
	name, uri, kind := i.Candidate.String(), pathURL(i.Candidate.Repository.String()), "module"
	where := name
	if path != "" {
		where, uri, kind = name+":"+path, pathURL(path), "resource"
	}
	return []sarifLocation{{
		Physical: sarifPhysical{sarifArtifact{uri}, sarifRegion{1}},
		Logical:  []sarifLogical{{where, kind}},
		Message:  sarifMessage{where},
	}}
}

func suppressed(why string) []sarifSuppression {
	return []sarifSuppression{{Kind: "external", Status: "accepted", Justification: why}}
}

// fingerprint identifies a result in a repository by parts.
func fingerprint(i Image, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(append([]string{i.Candidate.Repository.String()}, parts...), "\n")))
	return hex.EncodeToString(sum[:])
}
