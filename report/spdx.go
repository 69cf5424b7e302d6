package report

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// The forms below are those of SPDX 2.3 in JSON, as far as they are used here. Words follow its JSON schema, which writes some of the
// specification's with another dash.

type spdxDocument struct {
	SPDXVersion   string             `json:"spdxVersion"`
	DataLicense   string             `json:"dataLicense"`
	SPDXID        string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	CreationInfo  spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Relationships []spdxRelationship `json:"relationships"`
	Extracted     []spdxLicense      `json:"hasExtractedLicensingInfos,omitempty"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	Name             string           `json:"name"`
	SPDXID           string           `json:"SPDXID"`
	VersionInfo      string           `json:"versionInfo,omitempty"`
	DownloadLocation string           `json:"downloadLocation"`
	FilesAnalyzed    bool             `json:"filesAnalyzed"`
	Checksums        []spdxChecksum   `json:"checksums,omitempty"`
	SourceInfo       string           `json:"sourceInfo,omitempty"`
	LicenseConcluded string           `json:"licenseConcluded"`
	LicenseDeclared  string           `json:"licenseDeclared"`
	Copyright        string           `json:"copyrightText"`
	References       []spdxReference  `json:"externalRefs,omitempty"`
	Annotations      []spdxAnnotation `json:"annotations,omitempty"`
	Purpose          string           `json:"primaryPackagePurpose"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxReference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
	Comment  string `json:"comment,omitempty"`
}

type spdxAnnotation struct {
	Date      string `json:"annotationDate"`
	Type      string `json:"annotationType"`
	Annotator string `json:"annotator"`
	Comment   string `json:"comment"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

type spdxLicense struct {
	ID   string `json:"licenseId"`
	Text string `json:"extractedText"`
	Name string `json:"name"`
}

const (
	spdxDocumentID  = "SPDXRef-DOCUMENT"
	spdxNoAssertion = "NOASSERTION"
)

// SPDX returns the report as a bill of materials. If its images were judged each finding is a reference from its package to the advisory, with
// what became of it as the comment (SPDX 2.3, annex K.1), and the decision is an annotation of the image, as gaps are. A license that is no
// SPDX expression is kept as the text it is, under a name of this document.
func SPDX(r Report) ([]byte, error) {
	w := spdxWriter{report: r, licenses: map[string]string{}}
	w.document = spdxDocument{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: spdxDocumentID, Name: r.Name,
		Namespace:    "https://spdx.org/spdxdocs/tidewaiter-" + r.uuid("spdx"),
		CreationInfo: spdxCreation{r.created(), []string{w.tool()}},
	}
	root := ""
	for n, i := range r.Images {
		id := w.image(i, n)
		if n == 0 {
			root = id
			w.relate(spdxDocumentID, "DESCRIBES", id)
		} else {
			w.relate(root, "CONTAINS", id)
		}
		w.contents(i, id)
	}
	slices.SortFunc(w.document.Extracted, func(a, b spdxLicense) int { return strings.Compare(a.ID, b.ID) })
	return encode(w.document)
}

// spdxWriter is a document that is being made.
type spdxWriter struct {
	report   Report
	document spdxDocument
	// licenses maps texts that are no expressions to what they are called here.
	licenses map[string]string
}

func (w *spdxWriter) tool() string { return "Tool: tidewaiter-" + w.report.Version }

func (w *spdxWriter) relate(element, how, related string) {
	w.document.Relationships = append(w.document.Relationships, spdxRelationship{element, how, related})
}

// spdxID returns the name of what is identified by parts. Names may hold little else than letters and digits.
func spdxID(kind string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return fmt.Sprintf("SPDXRef-%s-%x", kind, sum[:10])
}

// image adds an image or index and returns its name.
func (w *spdxWriter) image(i Image, n int) string {
	name := i.Candidate.Repository.String()
	if n == 0 {
		name = w.report.Name
	}
	p := spdxPackage{
		Name: name, SPDXID: spdxID("Image", i.Candidate.String()), VersionInfo: i.Candidate.Digest.String(), DownloadLocation: spdxNoAssertion,
		Checksums:        []spdxChecksum{{"SHA256", i.Candidate.Digest.Encoded()}},
		LicenseConcluded: spdxNoAssertion, LicenseDeclared: spdxNoAssertion, Copyright: spdxNoAssertion, Purpose: "CONTAINER",
		References: []spdxReference{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: imageURL(i.Candidate)}},
	}
	if v := i.Verdict; v != nil {
		p.Annotations = append(p.Annotations, spdxAnnotation{w.report.created(), "OTHER", w.tool(), decisionText(*v)})
	}
	for _, g := range i.gaps() {
		p.Annotations = append(p.Annotations, spdxAnnotation{w.report.created(), "OTHER", w.tool(), "not examined: " + gapText(g)})
	}
	w.document.Packages = append(w.document.Packages, p)
	return p.SPDXID
}

// contents adds the operating system and the packages of an image.
func (w *spdxWriter) contents(i Image, image string) {
	add := func(p spdxPackage) {
		p.DownloadLocation, p.LicenseConcluded, p.Copyright = spdxNoAssertion, spdxNoAssertion, spdxNoAssertion
		w.document.Packages = append(w.document.Packages, p)
		w.relate(image, "CONTAINS", p.SPDXID)
	}
	advisories := spdxAdvisories(i)
	if os := i.Inventory.OS; os.ID != "" {
		add(spdxPackage{
			Name: os.ID, SPDXID: spdxID("OperatingSystem", image), VersionInfo: os.Version, LicenseDeclared: spdxNoAssertion, Purpose: "OPERATING_SYSTEM",
		})
	}
	for _, c := range i.components() {
		add(spdxPackage{
			Name: c.Name, SPDXID: spdxID("Package", image, c.purl), VersionInfo: c.Version, LicenseDeclared: w.declared(c.Licenses),
			SourceInfo: "found in " + strings.Join(c.paths, ", "), Purpose: "LIBRARY",
			References: append([]spdxReference{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: c.purl}}, advisories[c.purl]...),
		})
	}
}

// spdxAdvisories returns, by the URL of a package, references to the advisories of its findings.
func spdxAdvisories(i Image) map[string][]spdxReference {
	all := map[string][]spdxReference{}
	for _, f := range i.findings() {
		text := fmt.Sprintf("%s (%s): %s; %s", f.ID, f.Severity, f.advice(), f.standing)
		if f.why != "" {
			text += ": " + f.why
		}
		purl := packageURL(f.Package, i.Inventory.OS)
		reference := spdxReference{"SECURITY", "advisory", advisoryURL(f.ID), text}
		if !slices.Contains(all[purl], reference) { // a package may be found in several places
			all[purl] = append(all[purl], reference)
		}
	}
	return all
}

// decisionText returns what was decided in one line.
func decisionText(v gate.Verdict) string {
	text := "decision: " + v.Decision.String()
	if why := cmp.Or(v.Summary(), v.WarningSummary(), v.Policy); why != "" {
		text += " by " + why
	}
	return text
}

// declared returns what a package states of its licenses as an expression, in which all of them hold.
func (w *spdxWriter) declared(licenses []string) string {
	var terms []string
	for _, text := range stated(licenses) {
		if !isExpression(text) {
			text = w.extracted(text)
		}
		terms = append(terms, text)
	}
	switch len(terms) {
	case 0:
		return spdxNoAssertion
	case 1:
		return terms[0]
	}
	return "(" + strings.Join(terms, ") AND (") + ")"
}

// spdxIllegal matches what the name of a license must not hold.
var spdxIllegal = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// maxLicenseNameBytes bounds the part of a license's name that a person can read; texts may be whole licenses.
const maxLicenseNameBytes = 40

// extracted returns what a text is called in this document.
func (w *spdxWriter) extracted(text string) string {
	if id, ok := w.licenses[text]; ok {
		return id
	}
	sum := sha256.Sum256([]byte(text))
	readable := strings.Trim(spdxIllegal.ReplaceAllString(text[:min(len(text), maxLicenseNameBytes)], "-"), "-.")
	id := fmt.Sprintf("LicenseRef-%s-%x", readable, sum[:4])
	if readable == "" {
		id = fmt.Sprintf("LicenseRef-%x", sum[:4])
	}
	w.licenses[text] = id
	w.document.Extracted = append(w.document.Extracted, spdxLicense{id, text, spdxNoAssertion})
	return id
}
