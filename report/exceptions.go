package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Exception is a waiver of an advisory, as it is told to others.
type Exception struct {
	ID string
	// Vulnerability is the advisory; Package, "type/name", narrows it and may be empty.
	Vulnerability, Package string
	// Repositories are patterns over full names, Digest one manifest; at least one of the two.
	Repositories []string
	Digest       oci.Digest
	Reason       string
	Ticket       string
	// By is who answers for it.
	By          string
	From, Until time.Time
}

// justifications are the reasons OpenVEX knows for a product not to be affected (OpenVEX 0.2.0, status justifications).
var justifications = []string{
	"component_not_present", "vulnerable_code_not_present", "vulnerable_code_not_in_execute_path",
	"vulnerable_code_cannot_be_controlled_by_adversary", "inline_mitigations_already_exist",
}

// Exceptions are waivers that are told to others.
type Exceptions struct {
	// Version and Created are those of [Report].
	Version    string
	Created    time.Time
	Exceptions []Exception
}

type exceptionStatement struct {
	Vulnerability   vexVulnerability   `json:"vulnerability"`
	Timestamp       string             `json:"timestamp,omitempty"`
	Products        []exceptionProduct `json:"products"`
	Status          string             `json:"status"`
	StatusNotes     string             `json:"status_notes,omitempty"`
	Justification   string             `json:"justification,omitempty"`
	ImpactStatement string             `json:"impact_statement,omitempty"`
	Action          string             `json:"action_statement,omitempty"`
}

type exceptionProduct struct {
	ID            string          `json:"@id"`
	Identifiers   *vexIdentifiers `json:"identifiers,omitempty"`
	Subcomponents []vexComponent  `json:"subcomponents,omitempty"`
}

// OpenVEX returns a statement for every exception. A waiver is a risk somebody accepted, so it says "affected", and as the action that it
// is accepted, by whom, until when and why. Only where the reason begins with one of the justifications OpenVEX knows did somebody claim
// more, and then it says "not_affected" for that. A pattern of repositories is no product others know; it becomes a URN of ours. Of no
// exceptions it returns nil, as [OpenVEX] does.
func (e Exceptions) OpenVEX() ([]byte, error) {
	if len(e.Exceptions) == 0 {
		return nil, nil
	}
	created := e.Created.UTC().Truncate(time.Second).Format(time.RFC3339)
	statements := []exceptionStatement{}
	for _, x := range e.Exceptions {
		statements = append(statements, x.statement())
	}
	identity, err := encode(statements)
	if err != nil {
		return nil, err
	}
	return encode(struct {
		vexDocument
		Statements []exceptionStatement `json:"statements"`
	}{vexDocument{
		Context: "https://openvex.dev/ns/v0.2.0", Author: "Tidewaiter", Role: "image gate", Timestamp: created, Version: 1, Tooling: "tidewaiter/" + e.Version,
		ID: "https://openvex.dev/docs/public/vex-" + oci.FromBytes(append([]byte("waivers "+created), identity...)).Encoded(),
	}, statements})
}

func (x Exception) statement() exceptionStatement {
	s := exceptionStatement{Vulnerability: vexVulnerability{Name: x.Vulnerability}, Status: "affected", Products: x.products()}
	if !x.From.IsZero() {
		s.Timestamp = x.From.UTC().Truncate(time.Second).Format(time.RFC3339)
	}
	reason := x.Reason
	if x.Ticket != "" {
		reason += " (" + x.Ticket + ")"
	}
	s.StatusNotes = fmt.Sprintf("waiver %s by %s until %s", cmp.Or(x.ID, "of a policy file"), x.By, x.Until.UTC().Format(time.RFC3339))
	label, more, _ := strings.Cut(x.Reason, ":")
	if label = strings.TrimSpace(label); slices.Contains(justifications, label) {
		s.Status, s.Justification, s.ImpactStatement = "not_affected", label, strings.TrimSpace(more)
		return s
	}
	s.Action = fmt.Sprintf("accepted by %s until %s: %s", x.By, x.Until.UTC().Format(time.RFC3339), reason)
	return s
}

// products returns what the exception is about.
func (x Exception) products() []exceptionProduct {
	var components []vexComponent
	if kind, name, ok := strings.Cut(x.Package, "/"); ok {
		purl := packageURL(gate.Package{Type: kind, Name: name}, gate.OS{})
		components = []vexComponent{{purl, vexIdentifiers{purl}}}
	}
	var products []exceptionProduct
	for _, r := range x.Repositories {
		p := exceptionProduct{Subcomponents: components}
		upstream, path := oci.SplitUpstream(r)
		if repo, err := oci.NewRepository(upstream, path); err == nil && !strings.Contains(r, "*") {
			p.ID = imageURL(gate.Candidate{Repository: repo, Digest: x.Digest})
			p.Identifiers = &vexIdentifiers{p.ID}
		} else {
			p.ID = "urn:tidewaiter:repositories:" + escape(r)
			if x.Digest != "" {
				p.ID += "@" + x.Digest.String()
			}
		}
		products = append(products, p)
	}
	if len(products) == 0 {
		products = append(products, exceptionProduct{ID: "urn:tidewaiter:manifest:" + x.Digest.String(), Subcomponents: components})
	}
	return products
}
