package signing

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Predicate types of documents about vulnerabilities: OpenVEX, as cosign and vexctl write it, and CSAF 2.0 by the address of its schema.
const (
	predicateTypeOpenVEX    = "https://openvex.dev/ns"
	predicateTypeOpenVEX020 = "https://openvex.dev/ns/v0.2.0"
	predicateTypeCSAF       = "https://docs.oasis-open.org/csaf/csaf/v2.0/csaf_json_schema.json"
)

// vexTypes are the predicate types that are read as statements about vulnerabilities.
var vexTypes = map[string]func(predicate []byte, s subject) ([]gate.VEX, error){
	predicateTypeOpenVEX:    parseOpenVEX,
	predicateTypeOpenVEX020: parseOpenVEX,
	predicateTypeCSAF:       parseCSAF,
}

// maxVEX bounds the statements read of one document: a vendor's about everything ever found in a distribution has some thousands.
const maxVEX = 10000

// openVEX is a document (OpenVEX specification 0.2.0; what 0.0 wrote differently is read too).
type openVEX struct {
	Timestamp   time.Time `json:"timestamp"`
	LastUpdated time.Time `json:"last_updated"`
	Statements  []struct {
		Vulnerability json.RawMessage `json:"vulnerability"`
		Timestamp     time.Time       `json:"timestamp"`
		LastUpdated   time.Time       `json:"last_updated"`
		Products      []vexProduct    `json:"products"`
		Status        gate.VEXStatus  `json:"status"`
		Justification string          `json:"justification"`
		Impact        string          `json:"impact_statement"`
	} `json:"statements"`
}

// vexProduct is a product, and the components of it that are meant.
type vexProduct struct {
	self          vexComponent
	subcomponents []vexComponent
}

// vexComponent is something a package URL or a hash names. Old documents write its identifier alone.
type vexComponent struct {
	ID          string `json:"@id"`
	Identifiers struct {
		PURL string `json:"purl"`
	} `json:"identifiers"`
	Hashes map[string]string `json:"hashes"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *vexProduct) UnmarshalJSON(raw []byte) error {
	if err := json.Unmarshal(raw, &p.self); err != nil || raw[0] == '"' {
		return err
	}
	var more struct {
		Subcomponents []vexComponent `json:"subcomponents"`
	}
	err := json.Unmarshal(raw, &more)
	p.subcomponents = more.Subcomponents
	return err
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *vexComponent) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '"' {
		return json.Unmarshal(raw, &c.ID)
	}
	type component vexComponent
	return json.Unmarshal(raw, (*component)(c))
}

// parseOpenVEX returns the statements of a document that are about s. A document that is attested of an image need not say so again:
// a statement without products is about the image.
func parseOpenVEX(predicate []byte, s subject) ([]gate.VEX, error) {
	var doc openVEX
	if err := json.Unmarshal(predicate, &doc); err != nil {
		return nil, errors.New("the document is no OpenVEX that can be read")
	}
	if len(doc.Statements) > maxVEX {
		return nil, fmt.Errorf("the document has %d statements, at most %d are read", len(doc.Statements), maxVEX)
	}
	var all []gate.VEX
	for _, st := range doc.Statements {
		x := gate.VEX{
			Vulnerabilities: vulnerabilityNames(st.Vulnerability), Status: st.Status,
			Justification: plain(st.Justification), Why: plain(st.Impact), At: latest(doc.Timestamp, doc.LastUpdated),
		}
		if own := latest(st.Timestamp, st.LastUpdated); !own.IsZero() {
			x.At = own
		}
		var about bool
		if x.Packages, about = s.products(st.Products); about && len(x.Vulnerabilities) > 0 {
			all = append(all, x)
		}
	}
	return all, nil
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		a = b
	}
	return a.UTC()
}

// vulnerabilityNames returns the names of a vulnerability as OpenVEX writes it: text, or an object with a name and aliases.
func vulnerabilityNames(raw json.RawMessage) []string {
	var name string
	if json.Unmarshal(raw, &name) == nil {
		return named(name)
	}
	var object struct {
		Name    string   `json:"name"`
		Aliases []string `json:"aliases"`
	}
	if json.Unmarshal(raw, &object) != nil {
		return nil
	}
	return named(append([]string{object.Name}, object.Aliases...)...)
}

func named(names ...string) []string {
	return slices.DeleteFunc(names, func(s string) bool { return s == "" || len(s) > maxWhyBytes })
}

// products returns which packages of s a statement about products is about; none for all of s. about is false when s is not among them.
func (s subject) products(products []vexProduct) (packages []gate.VEXPackage, about bool) {
	if len(products) == 0 {
		return nil, true
	}
	whole := false
	for _, p := range products {
		if !s.isImage(p.self) {
			if found, ok := packageOf(p.self); ok { // a package as the product: wherever it is in the image that is attested
				packages = append(packages, found)
			}
			continue
		}
		whole = whole || len(p.subcomponents) == 0
		for _, c := range p.subcomponents {
			if found, ok := packageOf(c); ok {
				packages = append(packages, found)
			}
		}
	}
	if whole {
		return nil, true
	}
	return packages, len(packages) > 0
}

// isImage reports whether c is the image s itself: by its digest, or by the name of its repository where no digest is given.
func (s subject) isImage(c vexComponent) bool {
	for algorithm, hash := range c.Hashes {
		if strings.EqualFold(strings.ReplaceAll(algorithm, "-", ""), "sha256") {
			return strings.EqualFold(hash, s.Digest.Encoded())
		}
	}
	id := c.ID
	if c.Identifiers.PURL != "" {
		id = c.Identifiers.PURL
	}
	p, ok := parsePURL(id)
	if !ok {
		name, digest, tagged := strings.Cut(id, "@")
		return tagged && digest == s.Digest.String() && name != ""
	}
	if p.kind != "oci" && p.kind != "docker" {
		return false
	}
	if p.version != "" {
		return oci.Digest(p.version) == s.Digest
	}
	return slices.ContainsFunc(s.names, func(name string) bool {
		at, isURL := p.qualifiers["repository_url"]
		if isURL {
			return strings.EqualFold(at, name)
		}
		return name[strings.LastIndexByte(name, '/')+1:] == p.name
	})
}

// packageOf returns the package that c is, as inventories name it.
func packageOf(c vexComponent) (gate.VEXPackage, bool) {
	id := c.ID
	if c.Identifiers.PURL != "" {
		id = c.Identifiers.PURL
	}
	p, ok := parsePURL(id)
	if !ok || p.kind == "oci" || p.kind == "docker" {
		return gate.VEXPackage{}, false
	}
	found := gate.VEXPackage{Type: p.kind, Name: p.name, Version: p.version}
	switch {
	case p.namespace == "" || p.kind == "deb" || p.kind == "apk" || p.kind == "rpm": // there it names the distribution
	case p.kind == "maven":
		found.Name = p.namespace + ":" + p.name
	default:
		found.Name = p.namespace + "/" + p.name
	}
	if p.kind == "golang" {
		found.Version = strings.TrimPrefix(found.Version, "v") // as inventories have it
	}
	if epoch := p.qualifiers["epoch"]; epoch != "" && found.Version != "" {
		found.Version = epoch + ":" + found.Version
	}
	return found, true
}

// purl is a package URL (purl specification 1.0).
type purl struct {
	kind, namespace, name, version string
	qualifiers                     map[string]string
}

func parsePURL(s string) (purl, bool) {
	rest, ok := strings.CutPrefix(s, "pkg:")
	if !ok || len(s) > 4096 {
		return purl{}, false
	}
	rest, _, _ = strings.Cut(strings.TrimLeft(rest, "/"), "#")
	rest, query, _ := strings.Cut(rest, "?")
	p := purl{qualifiers: map[string]string{}}
	if kind, after, ok := strings.Cut(rest, "/"); ok {
		p.kind, rest = strings.ToLower(kind), after
	}
	if at := strings.LastIndexByte(rest, '@'); at > strings.LastIndexByte(rest, '/') && at > 0 {
		p.version, rest = rest[at+1:], rest[:at]
	}
	if slash := strings.LastIndexByte(rest, '/'); slash >= 0 {
		p.namespace, rest = rest[:slash], rest[slash+1:]
	}
	p.name = rest
	var err error
	for _, part := range []*string{&p.namespace, &p.name, &p.version} {
		if *part, err = url.PathUnescape(*part); err != nil {
			return purl{}, false
		}
	}
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if value, err = url.QueryUnescape(value); err != nil {
			return purl{}, false
		}
		p.qualifiers[strings.ToLower(key)] = value
	}
	return p, p.kind != "" && p.name != ""
}

// csaf is a document (CSAF 2.0, profile 5: VEX).
type csaf struct {
	Document struct {
		Category string `json:"category"`
		Tracking struct {
			Current time.Time `json:"current_release_date"`
		} `json:"tracking"`
	} `json:"document"`
	Tree struct {
		Branches []csafBranch  `json:"branches"`
		Names    []csafProduct `json:"full_product_names"`
	} `json:"product_tree"`
	Vulnerabilities []struct {
		CVE string `json:"cve"`
		IDs []struct {
			Text string `json:"text"`
		} `json:"ids"`
		Status map[string][]string `json:"product_status"`
		Flags  []csafFlag          `json:"flags"`
	} `json:"vulnerabilities"`
}

// csafFlag is why products are not affected. Those it names by groups alone it names nowhere that is followed.
type csafFlag struct {
	Label    string   `json:"label"`
	Products []string `json:"product_ids"`
}

type csafBranch struct {
	Branches []csafBranch `json:"branches"`
	Product  *csafProduct `json:"product"`
}

type csafProduct struct {
	ID   string `json:"product_id"`
	Help struct {
		PURL string `json:"purl"`
	} `json:"product_identification_helper"`
}

// csafStatuses are the product statuses that mean the same as one of VEX.
var csafStatuses = map[string]gate.VEXStatus{
	"known_not_affected": gate.VEXNotAffected, "fixed": gate.VEXFixed, "first_fixed": gate.VEXFixed,
	"known_affected": gate.VEXAffected, "first_affected": gate.VEXAffected, "last_affected": gate.VEXAffected,
	"under_investigation": gate.VEXInvestigating,
}

// maxBranches bounds how deep the tree of products is followed.
const maxBranches = 32

// parseCSAF returns the statements of a document that are about s. Products are known by their package URLs; relationships between
// products are not followed, so what is said of them is not taken for being about the image.
func parseCSAF(predicate []byte, s subject) ([]gate.VEX, error) {
	var doc csaf
	if err := json.Unmarshal(predicate, &doc); err != nil || doc.Document.Category != "csaf_vex" {
		return nil, errors.New("the document is no CSAF of category csaf_vex that can be read")
	}
	products := map[string]vexProduct{}
	add := func(p csafProduct) {
		products[p.ID] = vexProduct{self: vexComponent{ID: p.Help.PURL}}
	}
	for _, p := range doc.Tree.Names {
		add(p)
	}
	var walk func(branches []csafBranch, deep int)
	walk = func(branches []csafBranch, deep int) {
		for _, b := range branches {
			if b.Product != nil {
				add(*b.Product)
			}
			if deep < maxBranches {
				walk(b.Branches, deep+1)
			}
		}
	}
	walk(doc.Tree.Branches, 0)
	var all []gate.VEX
	for _, v := range doc.Vulnerabilities {
		names := []string{v.CVE}
		for _, id := range v.IDs {
			names = append(names, id.Text)
		}
		for status, ids := range v.Status {
			ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { _, about := s.products(pick(products, []string{id})); return !about })
			x := gate.VEX{Vulnerabilities: named(names...), Status: csafStatuses[status], At: doc.Document.Tracking.Current.UTC()}
			switch labels := labelsOf(v.Flags, ids); len(labels) {
			case 0:
			case 1:
				x.Justification = plain(labels[0])
			default: // of several products
				x.Why = plain(strings.Join(labels, ", "))
			}
			if x.Packages, _ = s.products(pick(products, ids)); x.Status != "" && len(ids) > 0 && len(x.Vulnerabilities) > 0 {
				all = append(all, x)
			}
			if len(all) > maxVEX {
				return nil, fmt.Errorf("the document has more than %d statements", maxVEX)
			}
		}
	}
	return all, nil
}

// labelsOf returns, each once, the labels of flags about any of the products called ids.
func labelsOf(flags []csafFlag, ids []string) []string {
	var labels []string
	for _, f := range flags {
		mine := func(id string) bool { return slices.Contains(ids, id) }
		if f.Label != "" && !slices.Contains(labels, f.Label) && slices.ContainsFunc(f.Products, mine) {
			labels = append(labels, f.Label)
		}
	}
	return labels
}

// pick returns the products called ids.
func pick(products map[string]vexProduct, ids []string) []vexProduct {
	var picked []vexProduct
	for _, id := range ids {
		picked = append(picked, products[id])
	}
	return picked
}
