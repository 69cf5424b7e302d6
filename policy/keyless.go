package policy

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// maxTrustedRootBytes bounds a trusted_root.json. That of the public instance has 7 KB.
const maxTrustedRootBytes = 1 << 20

// trustedRootType is the one type of trusted root that is read (sigstore protobuf-specs, sigstore_trustroot.proto).
const trustedRootType = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"

// maxThreshold bounds how many logs or services may be asked for. A bundle holds at most 32 of each.
const maxThreshold = 32

// keyless reads which certificates of a sigstore instance speak for an authority.
func (r *roots) keyless(v value) *gate.Keyless {
	k := gate.Keyless{Tlog: 1, SCT: 1}
	before := len(r.problems)
	var root value
	has := r.mapping(v, fields{
		"issuer":            func(v value) { k.Issuer.Text, _ = r.text(v) },
		"issuer_regexp":     func(v value) { k.Issuer = r.wholeExpression(v) },
		"subject":           func(v value) { k.Subject.Text, _ = r.text(v) },
		"subject_regexp":    func(v value) { k.Subject = r.wholeExpression(v) },
		"trusted_root_file": func(v value) { root, k.TrustedRoot = v, r.trustedRoot(v) },
		"tlog":              func(v value) { k.Tlog = r.threshold(v) },
		"sct":               func(v value) { k.SCT = r.threshold(v) },
		"tsa":               func(v value) { k.TSA = r.threshold(v) },
	})
	if has == nil {
		return nil
	}
	r.exactlyOne(v, has, "issuer", "issuer_regexp")
	r.exactlyOne(v, has, "subject", "subject_regexp")
	r.need(v, has, "trusted_root_file")
	if len(r.problems) == before && k.Tlog == 0 && k.TSA == 0 {
		r.refuse(v, "tlog and tsa are both 0, so nothing would say when a short-lived certificate was used")
	}
	if len(r.problems) > before {
		return nil
	}
	if err := checkTrustedRoot(k); err != nil {
		r.refuse(root, "%v", err)
		return nil
	}
	k.RootDigest = oci.FromBytes(k.TrustedRoot)
	return &k
}

func (r *roots) threshold(v value) int {
	if !r.is(v, yaml.ScalarNode, "!!int", "a number") {
		return 0
	}
	n, err := strconv.Atoi(v.node.Value)
	// Written back and compared, since YAML takes what begins with 0 for an octal number.
	if err != nil || n < 0 || n > maxThreshold || strconv.Itoa(n) != v.node.Value {
		r.refuse(v, "%.40q is no threshold: want 0 to %d", v.node.Value, maxThreshold)
		return 0
	}
	return n
}

func (r *roots) trustedRoot(v value) []byte {
	name, ok := r.text(v)
	if !ok {
		return nil
	}
	content, _ := r.beside(v, name, maxTrustedRootBytes)
	return content
}

// checkTrustedRoot reports, as an error, why k could never be satisfied by what its trusted root holds. Whoever checks signatures reads
// the root again; this is to tell at once, and with a line, of a file that is another one or lacks what is asked for.
func checkTrustedRoot(k gate.Keyless) error {
	if len(k.TrustedRoot) > maxTrustedRootBytes {
		return fmt.Errorf("larger than %d bytes", maxTrustedRootBytes)
	}
	type authority struct {
		CertChain struct {
			Certificates []struct {
				RawBytes []byte `json:"rawBytes"`
			} `json:"certificates"`
		} `json:"certChain"`
	}
	var root struct {
		MediaType              string            `json:"mediaType"`
		CertificateAuthorities []authority       `json:"certificateAuthorities"`
		TimestampAuthorities   []authority       `json:"timestampAuthorities"`
		Tlogs                  []json.RawMessage `json:"tlogs"`
		CTLogs                 []json.RawMessage `json:"ctlogs"`
	}
	if err := json.Unmarshal(k.TrustedRoot, &root); err != nil {
		return errors.New("not the JSON of a trusted root")
	}
	if root.MediaType != trustedRootType {
		return fmt.Errorf("its mediaType is %.80q: want %s", root.MediaType, trustedRootType)
	}
	for _, a := range slices.Concat(root.CertificateAuthorities, root.TimestampAuthorities) {
		if len(a.CertChain.Certificates) == 0 {
			return errors.New("one of its authorities has no certificates")
		}
		for _, c := range a.CertChain.Certificates {
			if _, err := x509.ParseCertificate(c.RawBytes); err != nil {
				return errors.New("one of its certificates cannot be read")
			}
		}
	}
	for _, demand := range []struct {
		what       string
		want, have int
	}{
		{"certificate authorities", 1, len(root.CertificateAuthorities)},
		{"logs, and tlog", k.Tlog, len(root.Tlogs)},
		{"certificate transparency logs, and sct", k.SCT, len(root.CTLogs)},
		{"time stamp authorities, and tsa", k.TSA, len(root.TimestampAuthorities)},
	} {
		if demand.have < demand.want {
			return fmt.Errorf("it has %d %s asks for %d", demand.have, demand.what, demand.want)
		}
	}
	return nil
}
