package signing

import (
	"errors"
	"fmt"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	mediaTypeBundle   = oci.MediaTypeSigstoreBundle
	mediaTypeBundle02 = oci.MediaTypeBundle02
	mediaTypeBundle01 = oci.MediaTypeBundle01
	// mediaTypeBundle03 is how some clients wrote [mediaTypeBundle] before it had its name.
	mediaTypeBundle03 = "application/vnd.dev.sigstore.bundle+json;version=0.3"
)

// bundleTypes are the types of bundles that are read, as a bundle itself states them.
var bundleTypes = map[string]bool{mediaTypeBundle: true, mediaTypeBundle03: true, mediaTypeBundle02: true, mediaTypeBundle01: true}

// bundled is the sigstore bundle in which cosign stores signatures since version 3, and GitHub its attestations: an in-toto statement
// in a DSSE envelope, in a layer of a manifest that refers to the image (sigstore bundle specification; cosign, bundle signing). The
// statement names the image by digest alone, so such a signature counts in whatever repository the image lies.
type bundled struct{}

func (bundled) name() string    { return "sigstore-bundle" }
func (bundled) maxBytes() int64 { return maxBundleBytes }

// read checks the statement before anybody asks who signed it. Both have to be right, and this is the cheaper half: attestations
// nobody asked for, the largest of bundles, go no further.
func (bundled) read(s subject, _ offer, body []byte) (claim, error) {
	wire, err := parseBundle(body)
	if err != nil {
		return claim{}, err
	}
	envelope := wire.GetDsseEnvelope()
	if envelope == nil {
		return claim{}, errors.New("the bundle signs bytes and not a statement")
	}
	c, err := readEnvelope(s, envelope)
	if err != nil {
		return claim{}, err
	}
	return c, c.enclose(wire)
}

// parseBundle reads the outside of a bundle.
func parseBundle(body []byte) (*protobundle.Bundle, error) {
	var wire protobundle.Bundle
	if err := protojson.Unmarshal(body, &wire); err != nil {
		return nil, fmt.Errorf("not a sigstore bundle: %v", err)
	}
	if !bundleTypes[wire.GetMediaType()] {
		return nil, fmt.Errorf("not a sigstore bundle of a version that is read: %.100q", wire.GetMediaType())
	}
	for _, signature := range wire.GetDsseEnvelope().GetSignatures() {
		// The key id is a hint that nobody signed, yet the library skips keys whose id, in the notation of SSH, is another one.
		if signature != nil {
			signature.Keyid = ""
		}
	}
	return &wire, nil
}

// readEnvelope checks what the statement in an envelope says, and whether it has one signature.
func readEnvelope(s subject, envelope *protodsse.Envelope) (claim, error) {
	switch {
	case envelope.GetPayloadType() != payloadTypeInToto:
		return claim{}, fmt.Errorf("the envelope holds the unknown type %.120q", envelope.GetPayloadType())
	case len(envelope.GetSignatures()) != 1:
		return claim{}, fmt.Errorf("the envelope has %d signatures instead of one", len(envelope.GetSignatures()))
	}
	statement, err := parseStatement(envelope.GetPayload())
	if err != nil {
		return claim{}, err
	}
	attestation := s.attested(statement.predicateType)
	if attestation {
		err = statement.checkAttestation(s.Digest)
	} else {
		err = statement.checkSignature(s.Digest)
	}
	if err != nil {
		return claim{}, err
	}
	digest := sum(s.Digest)
	c := claim{
		artifact:      func() verify.ArtifactPolicyOption { return verify.WithArtifactDigest("sha256", digest[:]) },
		predicateType: statement.predicateType,
	}
	if attestation {
		c.statement, c.predicate = envelope.GetPayload(), statement.predicate
	}
	return c, nil
}

// enclose adds to c what wire holds as something the library can check: signed with a key, or with a certificate.
func (c *claim) enclose(wire *protobundle.Bundle) error {
	material := wire.GetVerificationMaterial()
	var der []byte
	switch content := material.GetContent().(type) {
	case *protobundle.VerificationMaterial_PublicKey:
		// Nobody checks log entries and time stamps beside a key's signature, so nobody has to be able to read them either.
		material.TlogEntries, material.TimestampVerificationData = nil, nil
		b, err := bundle.NewBundle(wire)
		if err != nil {
			return fmt.Errorf("not a sigstore bundle: %v", err)
		}
		c.keyed = b
		return nil
	case *protobundle.VerificationMaterial_Certificate:
		der = content.Certificate.GetRawBytes()
	case *protobundle.VerificationMaterial_X509CertificateChain:
		if chain := content.X509CertificateChain.GetCertificates(); len(chain) > 0 {
			der = chain[0].GetRawBytes() // the rest is the signer's word for who vouches for him, and is left out
			content.X509CertificateChain.Certificates = chain[:1]
		}
	default:
		return errors.New("not a sigstore bundle: it says nothing of what it is signed with")
	}
	var err error
	if c.leaf, err = leafOf(der); err != nil {
		return err
	}
	b, err := bundle.NewBundle(wire)
	if err != nil {
		return fmt.Errorf("not a sigstore bundle: %v", err)
	}
	c.certified = b
	return nil
}
