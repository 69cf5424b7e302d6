package report

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tidewaiter/tidewaiter/gate"
)

// The forms below are those of CycloneDX 1.6 (ECMA-424, first edition), as far as they are used here.

type cdxDocument struct {
	Schema          string             `json:"$schema"`
	Format          string             `json:"bomFormat"`
	SpecVersion     string             `json:"specVersion"`
	SerialNumber    string             `json:"serialNumber"`
	Version         int                `json:"version"`
	Metadata        cdxMetadata        `json:"metadata"`
	Components      []cdxComponent     `json:"components"`
	Dependencies    []cdxDependency    `json:"dependencies"`
	Compositions    []cdxComposition   `json:"compositions,omitempty"`
	Vulnerabilities []cdxVulnerability `json:"vulnerabilities,omitempty"`
}

type cdxMetadata struct {
	Timestamp string       `json:"timestamp"`
	Tools     cdxTools     `json:"tools"`
	Component cdxComponent `json:"component"`
}

type cdxTools struct {
	Components []cdxComponent `json:"components"`
}

type cdxComponent struct {
	Type       string        `json:"type"`
	Ref        string        `json:"bom-ref,omitempty"`
	Group      string        `json:"group,omitempty"`
	Name       string        `json:"name"`
	Version    string        `json:"version,omitempty"`
	Hashes     []cdxHash     `json:"hashes,omitempty"`
	Licenses   []cdxLicense  `json:"licenses,omitempty"`
	PURL       string        `json:"purl,omitempty"`
	Evidence   *cdxEvidence  `json:"evidence,omitempty"`
	Properties []cdxProperty `json:"properties,omitempty"`
}

type cdxHash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

// cdxLicense is either an expression or one license.
type cdxLicense struct {
	Expression string           `json:"expression,omitempty"`
	License    *cdxNamedLicense `json:"license,omitempty"`
}

type cdxNamedLicense struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

type cdxEvidence struct {
	Occurrences []cdxOccurrence `json:"occurrences"`
}

type cdxOccurrence struct {
	Location          string `json:"location"`
	AdditionalContext string `json:"additionalContext,omitempty"`
}

type cdxProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type cdxDependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn,omitempty"`
}

type cdxComposition struct {
	Aggregate  string   `json:"aggregate"`
	Assemblies []string `json:"assemblies"`
}

type cdxVulnerability struct {
	Ref            string        `json:"bom-ref"`
	ID             string        `json:"id"`
	Source         *cdxSource    `json:"source,omitempty"`
	Ratings        []cdxRating   `json:"ratings"`
	Description    string        `json:"description,omitempty"`
	Recommendation string        `json:"recommendation"`
	Published      string        `json:"published,omitempty"`
	Analysis       *cdxAnalysis  `json:"analysis,omitempty"`
	Affects        []cdxAffects  `json:"affects"`
	Properties     []cdxProperty `json:"properties"`
}

type cdxSource struct {
	Name string `json:"name"`
}

type cdxRating struct {
	Source   *cdxSource `json:"source,omitempty"`
	Severity string     `json:"severity"`
}

type cdxAnalysis struct {
	State         string   `json:"state"`
	Justification string   `json:"justification,omitempty"`
	Response      []string `json:"response,omitempty"`
	Detail        string   `json:"detail"`
}

type cdxAffects struct {
	Ref      string       `json:"ref"`
	Versions []cdxVersion `json:"versions"`
}

type cdxVersion struct {
	Version string `json:"version"`
	Status  string `json:"status"`
}

// CycloneDX returns the report as a bill of materials. If its images were judged it has their findings as vulnerabilities. One that a
// waiver set aside is "exploitable" and "will_not_fix", with the waiver's word: somebody lives with it, which is not to say that it does not
// matter. One of which somebody whose word counts states that it does not matter is "not_affected" or "resolved", and so is not its version.
// Gaps are properties of the image, whose composition is then "incomplete".
func CycloneDX(r Report) ([]byte, error) {
	d := cdxDocument{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", SpecVersion: "1.6",
		SerialNumber: "urn:uuid:" + r.uuid("cyclonedx"), Version: 1, Components: []cdxComponent{},
		Metadata: cdxMetadata{
			Timestamp: r.created(),
			Tools:     cdxTools{[]cdxComponent{{Type: "application", Name: "tidewaiter", Version: r.Version}}},
			Component: cdxImage(r.Images[0], r.Name),
		},
	}
	root := cdxDependency{Ref: d.Metadata.Component.Ref}
	for n, i := range r.Images {
		image := cdxImage(i, i.Candidate.Repository.String())
		if n > 0 {
			d.Components = append(d.Components, image)
			root.DependsOn = append(root.DependsOn, image.Ref)
		}
		held := cdxDependency{Ref: image.Ref}
		for _, c := range cdxContents(i, image.Ref) {
			d.Components = append(d.Components, c)
			held.DependsOn = append(held.DependsOn, c.Ref)
		}
		if n > 0 {
			d.Dependencies = append(d.Dependencies, held)
		} else {
			root.DependsOn = append(root.DependsOn, held.DependsOn...)
		}
		if len(i.gaps()) > 0 {
			d.Compositions = append(d.Compositions, cdxComposition{"incomplete", []string{image.Ref}})
		}
		d.Vulnerabilities = append(d.Vulnerabilities, cdxVulnerabilities(i, image.Ref)...)
	}
	d.Dependencies = append([]cdxDependency{root}, d.Dependencies...)
	return encode(d)
}

// cdxImage returns an image or index as a component.
func cdxImage(i Image, name string) cdxComponent {
	purl := imageURL(i.Candidate)
	c := cdxComponent{
		Type: "container", Ref: purl, Name: name, Version: i.Candidate.Digest.String(), PURL: purl,
		Hashes: []cdxHash{{"SHA-256", i.Candidate.Digest.Encoded()}},
	}
	if v := i.Verdict; v != nil {
		c.Properties = []cdxProperty{{"tidewaiter:decision", v.Decision.String()}, {"tidewaiter:policy", v.Policy}, {"tidewaiter:snapshot", v.SnapshotID}}
		c.Properties = slices.DeleteFunc(c.Properties, func(p cdxProperty) bool { return p.Value == "" })
	}
	for _, g := range i.gaps() {
		c.Properties = append(c.Properties, cdxProperty{"tidewaiter:gap", gapText(g)})
	}
	return c
}

// cdxRef returns the name of a package within the document, in which several images may have it.
func cdxRef(image, purl string) string { return image + "#" + purl }

// cdxContents returns the operating system of an image and its packages.
func cdxContents(i Image, image string) []cdxComponent {
	var all []cdxComponent
	if os := i.Inventory.OS; os.ID != "" {
		all = append(all, cdxComponent{Type: "operating-system", Ref: cdxRef(image, "os"), Name: os.ID, Version: os.Version})
	}
	for _, p := range i.components() {
		c := cdxComponent{Type: "library", Ref: cdxRef(image, p.purl), Name: p.Name, Version: p.Version, PURL: p.purl, Licenses: cdxLicenses(p.Licenses), Evidence: &cdxEvidence{}}
		if p.Type == "maven" {
			c.Group, c.Name = cutLast(p.Name, ":")
		}
		for n, path := range p.paths {
			occurrence := cdxOccurrence{Location: path}
			if p.layers[n] != "" {
				occurrence.AdditionalContext = "layer " + p.layers[n]
			}
			c.Evidence.Occurrences = append(c.Evidence.Occurrences, occurrence)
		}
		if p.Source != "" {
			c.Properties = append(c.Properties, cdxProperty{"tidewaiter:source", p.Source + " " + p.SourceVersion})
		}
		if p.Modularity != "" {
			c.Properties = append(c.Properties, cdxProperty{"tidewaiter:modularity", p.Modularity})
		}
		all = append(all, c)
	}
	return all
}

// cdxLicenses returns what a package states: one expression or, where a text is none, every text by itself, since the format has either.
func cdxLicenses(licenses []string) []cdxLicense {
	texts := stated(licenses)
	if len(texts) == 1 && !knownLicenses[texts[0]] && isExpression(texts[0]) {
		return []cdxLicense{{Expression: texts[0]}}
	}
	var all []cdxLicense
	for _, text := range texts {
		if knownLicenses[text] {
			all = append(all, cdxLicense{License: &cdxNamedLicense{ID: text}})
		} else {
			all = append(all, cdxLicense{License: &cdxNamedLicense{Name: text}})
		}
	}
	return all
}

// cdxVulnerabilities returns the findings of an image. Those that differ in nothing but the package are one.
func cdxVulnerabilities(i Image, image string) []cdxVulnerability {
	type same struct {
		id, source, title, advice, why string
		severity                       gate.Severity
		standing                       standing
	}
	var all []cdxVulnerability
	at := map[same]int{}
	for _, f := range i.findings() {
		key := same{f.ID, f.Source, f.Title, f.advice(), "", f.Severity, f.standing}
		status := "affected"
		switch f.standing {
		case waived:
			key.why = f.why
		case excused:
			key.why, status = f.why, "unaffected"
		}
		n, ok := at[key]
		if !ok {
			n = len(all)
			at[key] = n
			all = append(all, cdxFinding(f))
		}
		ref := cdxRef(image, packageURL(f.Package, i.Inventory.OS))
		if !slices.ContainsFunc(all[n].Affects, func(a cdxAffects) bool { return a.Ref == ref }) {
			all[n].Affects = append(all[n].Affects, cdxAffects{ref, []cdxVersion{{f.Package.Version, status}}})
		}
	}
	for n := range all {
		slices.SortFunc(all[n].Affects, func(a, b cdxAffects) int { return cmp.Compare(a.Ref, b.Ref) })
		all[n].Ref = fmt.Sprintf("%s#%s#%d", image, all[n].ID, n+1)
	}
	return all
}

func cdxFinding(f finding) cdxVulnerability {
	v := cdxVulnerability{
		ID: f.ID, Ratings: []cdxRating{{Severity: cdxSeverity(f.Severity)}}, Description: f.Title, Recommendation: f.advice(),
		Properties: []cdxProperty{{"tidewaiter:standing", string(f.standing)}},
	}
	if f.Source != "" {
		v.Source = &cdxSource{f.Source}
		v.Ratings[0].Source = v.Source
	}
	if !f.Published.IsZero() {
		v.Published = stamp(f.Published)
	}
	switch f.standing {
	case waived:
		v.Analysis = &cdxAnalysis{State: "exploitable", Response: []string{"will_not_fix"}, Detail: "waived by " + f.why}
	case excused:
		v.Analysis = &cdxAnalysis{State: "resolved", Detail: f.why}
		if f.excuse.Status == gate.VEXNotAffected {
			v.Analysis.State, v.Analysis.Justification = "not_affected", cdxJustifications[f.excuse.Justification]
		}
	}
	return v
}

// cdxJustifications are the justifications of OpenVEX in the words of CycloneDX, where it has one that says the same. For code that an
// adversary cannot control it has none; the detail says it.
var cdxJustifications = map[string]string{
	"component_not_present": "code_not_present", "vulnerable_code_not_present": "code_not_present",
	"vulnerable_code_not_in_execute_path": "code_not_reachable", "inline_mitigations_already_exist": "protected_by_mitigating_control",
}

func cdxSeverity(s gate.Severity) string {
	if s == gate.Unrated {
		return "unknown"
	}
	return s.String()
}
