package signing_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	jws          = "application/jose+json"
	cose         = "application/cose"
	notationType = "application/vnd.cncf.notary.signature"
	imageBytes   = 1234
)

// notaryBench is a bench with an authority called "corp" that signs with notation. The library goes by the time of day, so times are
// taken from it, with a day to spare.
type notaryBench struct {
	*bench
	now      time.Time
	ca       *x509.Certificate
	caKey    signer
	sigstore *ocitest.Sigstore // whose time stamp service is trusted
	trust    gate.Notation
}

func newNotaryBench(t testing.TB) *notaryBench {
	t.Helper()
	n := &notaryBench{bench: newBench(t), now: time.Now().Truncate(time.Second), caKey: newP256(t)}
	var err error
	if n.sigstore, err = ocitest.NewSigstore(n.now); err != nil {
		t.Fatal(err)
	}
	n.ca = n.authority(t, n.caKey)
	n.trust = gate.Notation{Roots: [][]byte{n.ca.Raw}, Identities: []gate.Name{{{Type: "C", Value: "US"}, {Type: "CN", Value: "Release"}, {Type: "O", Value: "Acme"}}}}
	return n
}

func (n *notaryBench) authority(t testing.TB, key signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"Acme"}, CommonName: "CA"},
		NotBefore: n.now.AddDate(-5, 0, 0), NotAfter: n.now.AddDate(5, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return issueCertificate(t, template, template, key.private.Public(), key)
}

func issueCertificate(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, by signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by.private)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// notarizing is how a signature by notation is made; tests change it.
type notarizing struct {
	mediaType string
	payload   string
	subject   pkix.Name
	from      time.Time // of the certificate, which is valid for two days
	signedAt  time.Time
	expiry    time.Time
	scheme    signature.SigningScheme
	extended  []signature.Attribute
	ca        *x509.Certificate
	caKey     signer
}

func (n *notaryBench) notarizing(mediaType string) notarizing {
	return notarizing{
		mediaType: mediaType, subject: pkix.Name{Country: []string{"US"}, Organization: []string{"Acme"}, OrganizationalUnit: []string{"Ops"}, CommonName: "Release"},
		payload: fmt.Sprintf(`{"targetArtifact":{"mediaType":%q,"digest":%q,"size":%d}}`, oci.MediaTypeImage, n.digest, imageBytes),
		from:    n.now.Add(-24 * time.Hour), signedAt: n.now.Add(-time.Minute), scheme: signature.SigningSchemeX509, ca: n.ca, caKey: n.caKey,
	}
}

// sign returns the envelope.
func (o notarizing) sign(t testing.TB) []byte {
	t.Helper()
	key := newP256(t)
	leaf := issueCertificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: o.subject, NotBefore: o.from, NotAfter: o.from.Add(48 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		OCSPServer: []string{"http://127.0.0.1:1/ocsp"}, CRLDistributionPoints: []string{"http://127.0.0.1:1/crl"},
	}, o.ca, key.private.Public(), o.caKey)
	local, err := signature.NewLocalSigner([]*x509.Certificate{leaf, o.ca}, key.private)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := signature.NewEnvelope(o.mediaType)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := envelope.Sign(&signature.SignRequest{
		Payload: signature.Payload{ContentType: "application/vnd.cncf.notary.payload.v1+json", Content: []byte(o.payload)},
		Signer:  local, SigningTime: o.signedAt, Expiry: o.expiry, SigningScheme: o.scheme, ExtendedSignedAttributes: o.extended,
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// stamp adds a time stamp to a signature in JWS.
func (n *notaryBench) stamp(t testing.TB, raw []byte, at time.Time) []byte {
	t.Helper()
	var envelope map[string]json.RawMessage
	var header map[string]any
	var encoded string
	for _, step := range []error{json.Unmarshal(raw, &envelope), json.Unmarshal(envelope["header"], &header), json.Unmarshal(envelope["signature"], &encoded)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	return n.stampEnvelope(t, envelope, header, encoded, at)
}

func (n *notaryBench) stampEnvelope(t testing.TB, envelope map[string]json.RawMessage, header map[string]any, encoded string, at time.Time) []byte {
	t.Helper()
	response, err := n.sigstore.Timestamp(mustBase64URL(t, encoded), at)
	if err != nil {
		t.Fatal(err)
	}
	var parts struct{ Status, Token asn1.RawValue }
	if _, err := asn1.Unmarshal(response, &parts); err != nil {
		t.Fatal(err)
	}
	header["io.cncf.notary.timestampSignature"] = parts.Token.FullBytes
	if envelope["header"], err = json.Marshal(header); err != nil {
		t.Fatal(err)
	}
	stamped, err := json.Marshal(envelope)
	if err != nil {
		t.Fatal(err)
	}
	return stamped
}

// notarize attaches an envelope and returns the referrer's digest.
func (n *notaryBench) notarize(t testing.TB, mediaType string, raw []byte) oci.Digest {
	t.Helper()
	layer := blobOf(mediaType, raw)
	m := holder("", n.digest, layer)
	m.Config.MediaType = notationType
	return n.attach(t, n.repo, n.digest, m, layer)
}

// look verifies what the image is offered.
func (n *notaryBench) look(t testing.TB) gate.SignatureEvidence {
	t.Helper()
	n.roots = &gate.TrustRoots{Authorities: []gate.Authority{{Name: "corp", Notation: &n.trust}, n.roots.Authorities[len(n.roots.Authorities)-1]}, Revision: "r3"}
	return n.attest(t, gate.Wanted{Signatures: []string{"corp"}, MediaType: oci.MediaTypeImage, SizeBytes: imageBytes})
}
