package policy

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// maxCertificatesBytes bounds a file of certificates, and maxCertificates how many one holds.
const (
	maxCertificatesBytes = 256 << 10
	maxCertificates      = 64
)

// notation reads which certificates speak for an authority through notation.
func (r *roots) notation(v value) *gate.Notation {
	var n gate.Notation
	before := len(r.problems)
	has := r.mapping(v, fields{
		"ca_files":     func(v value) { n.Roots = r.certificates(v) },
		"tsa_ca_files": func(v value) { n.TSARoots = r.certificates(v) },
		"identities": func(v value) {
			n.Identities = set(&r.strict, v, r.identity)
			if len(r.problems) == before && len(n.Identities) == 0 {
				r.refuse(v, "is empty: name who may sign, such as %q", exampleIdentity)
			}
		},
	})
	r.need(v, has, "ca_files", "identities")
	if has == nil || len(r.problems) > before {
		return nil
	}
	return &n
}

// certificates reads the certificate authorities in a list of files, sorted, each once.
func (r *roots) certificates(v value) [][]byte {
	var all [][]byte
	before := len(r.problems)
	set(&r.strict, v, func(v value) (string, bool) {
		name, ok := r.text(v)
		if !ok {
			return "", false
		}
		encoded, ok := r.beside(v, name, maxCertificatesBytes)
		if !ok {
			return "", false
		}
		found, err := parseCertificates(encoded)
		if err != nil {
			r.refuse(v, "%v", err)
			return "", false
		}
		all = append(all, found...)
		return name, true
	})
	if len(r.problems) == before && len(all) == 0 {
		r.refuse(v, "is empty")
	}
	slices.SortFunc(all, bytes.Compare)
	return slices.CompactFunc(all, bytes.Equal)
}

// parseCertificates returns the certificate authorities that encoded holds in PEM, and nothing else.
func parseCertificates(encoded []byte) ([][]byte, error) {
	if len(encoded) > maxCertificatesBytes {
		return nil, fmt.Errorf("larger than %d bytes", maxCertificatesBytes)
	}
	var all [][]byte
	for rest := bytes.TrimSpace(encoded); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if !bytes.HasPrefix(rest, []byte(pemBegin)) {
			return nil, errors.New("want PEM blocks of certificates, and nothing else")
		}
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("want PEM blocks of certificates, and nothing else")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("a certificate in it cannot be read")
		}
		if !cert.IsCA && cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) != nil {
			return nil, fmt.Errorf("the certificate of %.80q is neither an authority's nor signed by itself", cert.Subject)
		}
		if all = append(all, cert.Raw); len(all) > maxCertificates {
			return nil, fmt.Errorf("it has more than %d certificates", maxCertificates)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("it has no certificate")
	}
	return all, nil
}

const exampleIdentity = "x509.subject: C=US, O=Acme, CN=Release"

// attributeTypes are the attributes of a name that an identity can demand (RFC 4514, section 3).
var attributeTypes = map[string]bool{
	"C": true, "ST": true, "L": true, "STREET": true, "POSTALCODE": true, "O": true, "OU": true, "CN": true, "SERIALNUMBER": true,
}

// identity reads who may sign: "x509.subject:" and attributes of a distinguished name.
func (r *roots) identity(v value) (gate.Name, bool) {
	t, ok := r.text(v)
	if !ok {
		return nil, false
	}
	dn, ok := strings.CutPrefix(t, "x509.subject:")
	if !ok {
		r.refuse(v, "%.80q is no identity: want one such as %q", t, exampleIdentity)
		return nil, false
	}
	name, err := parseName(dn)
	if err != nil {
		r.refuse(v, "%.80q: %v", t, err)
	}
	return name, err == nil
}

// parseName reads attributes separated by commas, sorted by type. A backslash takes the next character for itself (RFC 4514, section 2.4).
func parseName(s string) (gate.Name, error) {
	var name gate.Name
	for _, part := range splitUnescaped(s, ',') {
		pair := splitUnescaped(part, '=')
		if len(pair) < 2 {
			return nil, fmt.Errorf("%.40q is no attribute, such as O=Acme", strings.TrimSpace(part))
		}
		a := gate.Attribute{Type: strings.ToUpper(strings.TrimSpace(pair[0])), Value: unescape(strings.TrimSpace(strings.Join(pair[1:], "=")))}
		if !attributeTypes[a.Type] {
			return nil, fmt.Errorf("unknown attribute %.40q", a.Type)
		}
		if a.Value == "" || a.Value == "*" {
			return nil, fmt.Errorf("attribute %s is for anybody", a.Type)
		}
		if slices.ContainsFunc(name, func(b gate.Attribute) bool { return a.Type == b.Type }) {
			return nil, fmt.Errorf("attribute %s is given twice", a.Type)
		}
		name = append(name, a)
	}
	slices.SortFunc(name, func(a, b gate.Attribute) int { return strings.Compare(a.Type, b.Type) })
	return name, nil
}

// splitUnescaped splits s at each separator that no backslash stands before.
func splitUnescaped(s string, separator byte) []string {
	var parts []string
	from := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case separator:
			parts, from = append(parts, s[from:i]), i+1
		}
	}
	return append(parts, s[from:])
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
