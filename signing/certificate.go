package signing

import (
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/tidewaiter/tidewaiter/gate"
)

// keyless is an authority that signs with short-lived certificates of a sigstore instance.
type keyless struct {
	name            string
	issuer, subject *regexp.Regexp
	identity        verify.PolicyOption
	check           *verify.Verifier
}

// loadKeyless prepares k for checking. It fails when the trusted root cannot be read or k leaves open who signs, or when.
func loadKeyless(name string, k gate.Keyless) (*keyless, error) {
	material, err := root.NewTrustedRootFromJSON(k.TrustedRoot)
	if err != nil {
		return nil, fmt.Errorf("trusted root: %v", err)
	}
	loaded := &keyless{name: name}
	if loaded.issuer, err = whole(k.Issuer); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	if loaded.subject, err = whole(k.Subject); err != nil {
		return nil, fmt.Errorf("subject: %w", err)
	}
	// The library is given the same anchored expressions, so that it comes to the same result or none.
	identity, err := verify.NewShortCertificateIdentity("", loaded.issuer.String(), "", loaded.subject.String())
	if err != nil {
		return nil, err
	}
	loaded.identity = verify.WithCertificateIdentity(identity)
	demands, err := demandsOf(k)
	if err != nil {
		return nil, err
	}
	loaded.check, err = verify.NewVerifier(material, demands...)
	return loaded, err
}

// whole returns the expression that the whole of a text must fit to be w.
func whole(w gate.Wording) (*regexp.Regexp, error) {
	if w.Text == "" {
		return nil, errors.New("it is empty, and anybody fits that")
	}
	expression := w.Text
	if !w.Regexp {
		expression = regexp.QuoteMeta(w.Text)
	}
	if _, err := regexp.Compile(expression); err != nil { // on its own, lest its parentheses close ours
		return nil, err
	}
	return regexp.Compile(`\A(?:` + expression + `)\z`)
}

// demandsOf returns what the library must find of logs and time stamps.
func demandsOf(k gate.Keyless) ([]verify.VerifierOption, error) {
	if k.Tlog < 0 || k.SCT < 0 || k.TSA < 0 {
		return nil, errors.New("a threshold below 0")
	}
	demands := []verify.VerifierOption{verify.WithoutStatementPredicate()}
	if k.SCT > 0 {
		demands = append(demands, verify.WithSignedCertificateTimestamps(k.SCT))
	}
	if k.Tlog > 0 {
		demands = append(demands, verify.WithTransparencyLog(k.Tlog))
	}
	switch {
	case k.TSA > 0:
		demands = append(demands, verify.WithSignedTimestamps(k.TSA))
	case k.Tlog > 0: // of a log, or, where logs state no time (Rekor 2), of a time stamp service
		demands = append(demands, verify.WithObserverTimestamps(1))
	default:
		return nil, errors.New("neither a log nor a time stamp is asked for, so nothing says when a certificate's signature was made")
	}
	return demands, nil
}

// made implements [speaker]. Who is named in the certificate is looked at first: it costs little, and what it says is of use to
// people even where nobody vouches for it.
func (k *keyless) made(c claim, _ time.Time) (mark, error) {
	switch {
	case c.certified != nil:
	case c.notarized != nil:
		return mark{}, fmt.Errorf("it is signed with notation, and %s signs with certificates of sigstore", k.name)
	case c.uncertified != nil:
		return mark{}, c.uncertified
	default:
		return mark{}, fmt.Errorf("it is signed with a key, and %s signs with certificates", k.name)
	}
	if !k.issuer.MatchString(c.leaf.Issuer) || !k.subject.MatchString(c.leaf.SubjectAlternativeName) {
		return mark{}, fmt.Errorf("its certificate is for %.120q by %.120q, which is not %s", c.leaf.SubjectAlternativeName, c.leaf.Issuer, k.name)
	}
	result, err := k.check.Verify(c.certified, verify.NewPolicy(c.artifact(), k.identity))
	if err != nil {
		return mark{}, fmt.Errorf("its certificate is for %s, but: %v", k.name, err)
	}
	if result.Statement.GetPredicateType() != c.predicateType || result.Signature == nil || result.Signature.Certificate == nil || len(result.VerifiedTimestamps) == 0 {
		return mark{}, errors.New("it is understood in two ways")
	}
	who := result.Signature.Certificate
	first := slices.MinFunc(result.VerifiedTimestamps, func(a, b verify.TimestampVerificationResult) int { return a.Timestamp.Compare(b.Timestamp) })
	return mark{signer: who.SubjectAlternativeName, issuer: who.Issuer, at: first.Timestamp.UTC()}, nil
}

// maxCertificateBytes bounds a signer's certificate. Those of Fulcio have one to two kilobytes, of which the SCT is the larger part.
const maxCertificateBytes = 16 << 10

// leafOf returns what a signer's certificate says of him. It must name one subject: of several, two readers could see different ones.
func leafOf(der []byte) (certificate.Summary, error) {
	if len(der) > maxCertificateBytes {
		return certificate.Summary{}, fmt.Errorf("the certificate has %d bytes, at most %d are read", len(der), maxCertificateBytes)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return certificate.Summary{}, errors.New("the certificate cannot be read")
	}
	if _, err := schemesOf(leaf.PublicKey); err != nil {
		return certificate.Summary{}, fmt.Errorf("the certificate is for %w", err)
	}
	if n := len(leaf.URIs) + len(leaf.EmailAddresses) + len(leaf.DNSNames) + len(leaf.IPAddresses); n > 1 {
		return certificate.Summary{}, fmt.Errorf("the certificate names %d subjects", n)
	}
	summary, err := certificate.SummarizeCertificate(leaf)
	if err != nil {
		return certificate.Summary{}, errors.New("the certificate names no subject")
	}
	return summary, nil
}
