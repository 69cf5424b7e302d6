package signing

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// VEXStatement is what a document of OpenVEX says of one vulnerability, by somebody's word alone: nothing about it was checked.
type VEXStatement struct {
	// Vulnerabilities are the names of one vulnerability, at least one.
	Vulnerabilities []string
	Status          gate.VEXStatus
	// Justification and Impact are those of the statement; may be empty.
	Justification, Impact string
	// Products are what it is about; none if it does not say.
	Products []VEXProduct
}

// VEXProduct is a product of a statement. The zero value is something that is no image and no package we know.
type VEXProduct struct {
	// Repository is the name of an image's repository, as the document has it; Digest that of its manifest. Both empty for a package.
	Repository string
	Digest     oci.Digest
	// Packages are those of the image that are meant, or the product itself where it is one; none for all of the image.
	Packages []gate.VEXPackage
}

// ReadOpenVEX returns the statements of a document (OpenVEX specification 0.2.0). It bounds their number, not the size of the document.
func ReadOpenVEX(document []byte) ([]VEXStatement, error) {
	var doc openVEX
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, errors.New("the document is no OpenVEX that can be read")
	}
	if len(doc.Statements) > maxVEX {
		return nil, fmt.Errorf("the document has %d statements, at most %d are read", len(doc.Statements), maxVEX)
	}
	var all []VEXStatement
	for _, st := range doc.Statements {
		s := VEXStatement{
			Vulnerabilities: vulnerabilityNames(st.Vulnerability), Status: st.Status, Justification: plain(st.Justification), Impact: plain(st.Impact),
		}
		if len(s.Vulnerabilities) == 0 {
			continue
		}
		for _, p := range st.Products {
			s.Products = append(s.Products, productOf(p))
		}
		all = append(all, s)
	}
	return all, nil
}

// productOf returns what a product names.
func productOf(p vexProduct) (found VEXProduct) {
	for _, c := range p.subcomponents {
		if named, ok := packageOf(c); ok {
			found.Packages = append(found.Packages, named)
		}
	}
	for algorithm, hash := range p.self.Hashes {
		if d, err := oci.ParseDigest("sha256:" + strings.ToLower(hash)); err == nil && strings.EqualFold(strings.ReplaceAll(algorithm, "-", ""), "sha256") {
			found.Digest = d
		}
	}
	id := p.self.ID
	if p.self.Identifiers.PURL != "" {
		id = p.self.Identifiers.PURL
	}
	url, isURL := parsePURL(id)
	name, digest := url.qualifiers["repository_url"], url.version
	switch {
	case !isURL:
		name, digest, _ = strings.Cut(id, "@")
		if strings.Contains(name, ":") { // a URN, or some other address that is no repository
			name = ""
		}
	case url.kind != "oci" && url.kind != "docker":
		if named, ok := packageOf(p.self); ok {
			found.Packages = []gate.VEXPackage{named}
		}
		return found
	case name == "" && url.kind == "docker":
		name = strings.TrimPrefix("docker.io/"+url.namespace+"/"+url.name, "/")
	}
	if d, err := oci.ParseDigest(digest); err == nil && found.Digest == "" {
		found.Digest = d
	}
	if found.Digest == "" && digest != "" { // a tag, which names no manifest for long
		name = ""
	}
	found.Repository = name
	return found
}
