package report

import (
	"cmp"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// The forms below are those of OpenVEX 0.2.0.

type vexDocument struct {
	Context    string         `json:"@context"`
	ID         string         `json:"@id"`
	Author     string         `json:"author"`
	Role       string         `json:"role"`
	Timestamp  string         `json:"timestamp"`
	Version    int            `json:"version"`
	Tooling    string         `json:"tooling"`
	Statements []vexStatement `json:"statements"`
}

type vexStatement struct {
	Vulnerability vexVulnerability `json:"vulnerability"`
	Timestamp     string           `json:"timestamp,omitempty"`
	Products      []vexProduct     `json:"products"`
	Status        string           `json:"status"`
	StatusNotes   string           `json:"status_notes,omitempty"`
	Justification string           `json:"justification,omitempty"`
	Impact        string           `json:"impact_statement,omitempty"`
	Action        string           `json:"action_statement,omitempty"`
}

type vexVulnerability struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
}

type vexProduct struct {
	ID          string         `json:"@id"`
	Identifiers vexIdentifiers `json:"identifiers"`
	// Subcomponents are the packages the statement is about.
	Subcomponents []vexComponent `json:"subcomponents"`
}

type vexComponent struct {
	ID          string         `json:"@id"`
	Identifiers vexIdentifiers `json:"identifiers"`
}

type vexIdentifiers struct {
	PURL string `json:"purl"`
}

// OpenVEX returns a statement for every finding of the images that were judged. They say "affected", and what is to be done: to update, to
// wait, or, with the waiver's own words, to live with it until the waiver lapses. "Not affected" is a claim about the code that neither a
// match of versions nor a waiver makes; where somebody whose word counts made it, or says that it is fixed, the statement is theirs, as of
// when they made it, so that whatever they stated since goes before it. Without findings there is nothing to state, and it returns
// nil: the format has no document without a statement.
func OpenVEX(r Report) ([]byte, error) {
	d := vexDocument{
		Context: "https://openvex.dev/ns/v0.2.0", ID: "https://openvex.dev/docs/public/vex-" + r.identity("openvex"), Author: "Tidewaiter", Role: "image gate",
		Timestamp: r.created(), Version: 1, Tooling: "tidewaiter/" + r.Version, Statements: []vexStatement{},
	}
	for _, i := range r.Images {
		seen := map[[2]string]bool{} // a package at two paths is one subcomponent
		for _, f := range i.findings() {
			purl := packageURL(f.Package, i.Inventory.OS)
			if seen[[2]string{f.ID, purl}] {
				continue
			}
			seen[[2]string{f.ID, purl}] = true
			d.Statements = append(d.Statements, vexAbout(f, i.Candidate, purl))
		}
	}
	if len(d.Statements) == 0 {
		return nil, nil
	}
	return encode(d)
}

func vexAbout(f finding, c gate.Candidate, purl string) vexStatement {
	image := imageURL(c)
	s := vexStatement{
		Vulnerability: vexVulnerability{f.ID, f.Title}, Status: string(gate.VEXAffected), Action: f.advice(),
		Products: []vexProduct{{image, vexIdentifiers{image}, []vexComponent{{purl, vexIdentifiers{purl}}}}},
	}
	switch f.standing {
	case excused:
		s.stated(f.excuse)
	case waived:
		s.Action, s.StatusNotes = "accepted: waived by "+f.why, "waived; "+f.advice()
	case denied, warned:
		s.StatusNotes = string(f.standing) + ": " + f.why
	}
	return s
}

// stated makes s say what somebody else stated. The format has an author for documents and not for statements, so the notes name them.
func (s *vexStatement) stated(x gate.Excuse) {
	s.Status, s.Action, s.StatusNotes = string(x.Status), "", string(excused)+": "+x.String()
	if !x.At.IsZero() {
		s.Timestamp = x.At.UTC().Format(time.RFC3339Nano)
	}
	if x.Status != gate.VEXNotAffected {
		return
	}
	if s.Impact = x.Why; slices.Contains(justifications, x.Justification) {
		s.Justification = x.Justification
	} else if s.Impact == "" { // one of the two must be there
		s.Impact = cmp.Or(x.Justification, x.String())
	}
}
