package signing

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/notaryproject/notation-core-go/revocation"
	"github.com/notaryproject/notation-core-go/revocation/result"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"github.com/notaryproject/tspclient-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	mediaTypeJWS  = oci.MediaTypeJWS
	mediaTypeCOSE = oci.MediaTypeCOSE
	// artifactTypeNotation is the type of a manifest that holds a signature by notation and refers to the image.
	artifactTypeNotation = "application/vnd.cncf.notary.signature"
	// maxNotationBytes bounds an envelope: a payload of a few hundred bytes, a chain of certificates and a time stamp.
	maxNotationBytes = 256 << 10
)

// notarized is the format of notation: an envelope, JWS or COSE, whose payload names the image's manifest by type, digest and size
// (notary project specification, signature-specification).
type notarized struct{ mediaType string }

func (notarized) name() string    { return "notation" }
func (notarized) maxBytes() int64 { return maxNotationBytes }

// read leaves everything to the check: that nothing is believed before it is verified is the library's order too.
func (n notarized) read(s subject, _ offer, body []byte) (claim, error) {
	if s.MediaType == "" || s.SizeBytes <= 0 {
		return claim{}, errors.New("the type and size of the image's manifest are not known")
	}
	return claim{notarized: &notarizedClaim{
		mediaType: n.mediaType, envelope: body,
		subject: ocispec.Descriptor{MediaType: s.MediaType, Digest: s.Digest, Size: s.SizeBytes},
	}}, nil
}

// notarizedClaim is an envelope and what it must be about.
type notarizedClaim struct {
	mediaType string
	envelope  []byte
	subject   ocispec.Descriptor
}

// notary is an authority that signs with certificates of its own certificate authorities, through notation.
type notary struct {
	name       string
	identities []gate.Name
	// now checks against the present, stamped against the time of a time stamp; stamped is nil where no service is trusted.
	now, stamped notation.Verifier
}

// Names of the one trust policy that a notary is checked by, and of the repository its signatures claim to be for: none of it leaves
// this process, and none of it decides who may sign for what.
const (
	notaryStore     = "trusted"
	notaryReference = "notary.invalid/image@"
)

func loadNotation(name string, trust gate.Notation) (*notary, error) {
	if len(trust.Roots) == 0 || len(trust.Identities) == 0 {
		return nil, errors.New("it names no certificate authority, or nobody in it")
	}
	for _, identity := range trust.Identities {
		if len(identity) == 0 {
			return nil, errors.New("an identity is empty, and anybody fits that")
		}
	}
	store := memoryStore{}
	for kind, certs := range map[truststore.Type][][]byte{truststore.TypeCA: trust.Roots, truststore.TypeTSA: trust.TSARoots} {
		for _, der := range certs {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, errors.New("one of its certificates cannot be read")
			}
			store[kind] = append(store[kind], cert)
		}
	}
	loaded := &notary{name: name, identities: trust.Identities}
	var err error
	if loaded.now, err = newNotary(store, "ca:"+notaryStore); err != nil {
		return nil, err
	}
	if len(store[truststore.TypeTSA]) > 0 {
		loaded.stamped, err = newNotary(store, "ca:"+notaryStore, "tsa:"+notaryStore)
	}
	return loaded, err
}

// newNotary returns a verifier that demands everything, asks nobody over the network, and starts no program.
func newNotary(store memoryStore, stores ...string) (notation.Verifier, error) {
	// Who may sign is checked by us: the library knows only names that have a state or province.
	document := &trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{
		Name: notaryStore, RegistryScopes: []string{"*"}, TrustStores: stores, TrustedIdentities: []string{"*"},
		SignatureVerification: trustpolicy.SignatureVerification{
			VerificationLevel: trustpolicy.LevelStrict.Name, VerifyTimestamp: trustpolicy.OptionAlways,
		},
	}}}
	return verifier.NewWithOptions(document, store, nil, verifier.VerifierOptions{
		RevocationCodeSigningValidator: unasked{}, RevocationTimestampingValidator: unasked{},
	})
}

// memoryStore implements truststore.X509TrustStore.
type memoryStore map[truststore.Type][]*x509.Certificate

// GetCertificates returns the certificates of a kind.
func (m memoryStore) GetCertificates(_ context.Context, kind truststore.Type, _ string) ([]*x509.Certificate, error) {
	return m[kind], nil
}

// unasked implements revocation.Validator: no certificate is asked whether it was revoked. Where to ask is written in the certificate,
// by whoever wants to be believed, so asking would have us call addresses a stranger chose.
type unasked struct{}

// ValidateContext says of each certificate that it cannot be revoked.
func (unasked) ValidateContext(_ context.Context, o revocation.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	results := make([]*result.CertRevocationResult, len(o.CertChain))
	for i := range results {
		results[i] = &result.CertRevocationResult{Result: result.ResultNonRevokable}
	}
	return results, nil
}

// made implements [speaker].
func (n *notary) made(c claim, now time.Time) (mark, error) {
	if c.notarized == nil {
		return mark{}, fmt.Errorf("it is not signed with notation, and %s signs so", n.name)
	}
	if n.stamped != nil { // a time stamp that counts is better than none: it also says when
		if m, err := n.verify(n.stamped, c.notarized, now, true); err == nil {
			return m, nil
		}
	}
	return n.verify(n.now, c.notarized, now, false)
}

func (n *notary) verify(v notation.Verifier, c *notarizedClaim, now time.Time, stamped bool) (mark, error) {
	outcome, err := v.Verify(context.Background(), c.subject, c.envelope, notation.VerifierVerifyOptions{
		ArtifactReference: notaryReference + c.subject.Digest.String(), SignatureMediaType: c.mediaType,
	})
	if err != nil {
		return mark{}, fmt.Errorf("its notation signature: %v", err)
	}
	for _, r := range outcome.VerificationResults {
		if r.Error != nil {
			return mark{}, fmt.Errorf("its notation signature: %v", r.Error)
		}
	}
	signed := outcome.EnvelopeContent
	if err := checkNotaryPayload(signed.Payload.Content); err != nil {
		return mark{}, fmt.Errorf("its notation payload: %w", err)
	}
	for _, attribute := range signed.SignerInfo.SignedAttributes.ExtendedAttributes {
		if attribute.Critical { // the specification has whoever does not understand one refuse it; the library asks plugins alone
			return mark{}, fmt.Errorf("its notation signature demands the unknown attribute %.60q", fmt.Sprint(attribute.Key))
		}
	}
	leaf := signed.SignerInfo.CertificateChain[0]
	if !slices.ContainsFunc(n.identities, func(identity gate.Name) bool { return isSubject(identity, leaf.Subject) }) {
		return mark{}, fmt.Errorf("its certificate is for %.120q, which is not %s", leaf.Subject, n.name)
	}
	m := mark{signer: leaf.Subject.String(), issuer: leaf.Issuer.String(), until: signed.SignerInfo.SignedAttributes.Expiry}
	if stamped {
		if m.at, err = stampedAt(signed.SignerInfo); err != nil {
			return mark{}, err
		}
	} else {
		for _, cert := range signed.SignerInfo.CertificateChain {
			m.until = earliest(m.until, cert.NotAfter)
		}
	}
	m.until = m.until.UTC()
	if !m.until.IsZero() && !now.Before(m.until) {
		return mark{}, fmt.Errorf("its notation signature counted until %s", m.until.Format(time.RFC3339))
	}
	return m, nil
}

// checkNotaryPayload reads the signed payload once more, strictly: the library takes the last of repeated members.
func checkNotaryPayload(payload []byte) error {
	top, err := members(payload, "targetArtifact")
	if err != nil {
		return err
	}
	target, err := members(top["targetArtifact"], "mediaType", "digest", "size", "annotations")
	if err != nil {
		return fmt.Errorf("targetArtifact: %w", err)
	}
	for _, raw := range []json.RawMessage{target["mediaType"], target["digest"]} {
		if _, err := text(raw); err != nil {
			return fmt.Errorf("targetArtifact: %w", err)
		}
	}
	return nil
}

// stampedAt returns the time of a time stamp that was verified.
func stampedAt(s signature.SignerInfo) (time.Time, error) {
	token, err := tspclient.ParseSignedToken(s.UnsignedAttributes.TimestampSignature)
	if err != nil {
		return time.Time{}, fmt.Errorf("its time stamp: %v", err)
	}
	info, err := token.Info()
	if err != nil {
		return time.Time{}, fmt.Errorf("its time stamp: %v", err)
	}
	stamp, err := info.Validate(s.Signature)
	if err != nil {
		return time.Time{}, fmt.Errorf("its time stamp: %v", err)
	}
	return stamp.Value.UTC(), nil
}

// earliest returns the earlier of two times, of which the zero time is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// isSubject reports whether a certificate's subject has every attribute of identity, and each of them once: of several, two readers
// could see different ones.
func isSubject(identity gate.Name, subject pkix.Name) bool {
	has := map[string][]string{
		"C": subject.Country, "O": subject.Organization, "OU": subject.OrganizationalUnit, "L": subject.Locality, "ST": subject.Province,
		"STREET": subject.StreetAddress, "POSTALCODE": subject.PostalCode,
	}
	for name, value := range map[string]string{"CN": subject.CommonName, "SERIALNUMBER": subject.SerialNumber} {
		if value != "" {
			has[name] = []string{value}
		}
	}
	for _, attribute := range identity {
		if got := has[strings.ToUpper(attribute.Type)]; len(got) != 1 || got[0] != attribute.Value {
			return false
		}
	}
	return len(identity) > 0 && len(commonNames(subject)) <= 1
}

// commonNames returns the common names of a subject, of which the parser keeps the last.
func commonNames(subject pkix.Name) (names []any) {
	for _, attribute := range subject.Names {
		if attribute.Type.String() == "2.5.4.3" {
			names = append(names, attribute.Value)
		}
	}
	return names
}
