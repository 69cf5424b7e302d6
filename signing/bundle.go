package signing

import (
	"errors"
	"fmt"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	mediaTypeBundle = oci.MediaTypeSigstoreBundle
	bundleVersion   = "v0.3"
)

// bundled is the sigstore bundle in which cosign stores signatures since version 3: an in-toto statement in a DSSE envelope, in a
// layer of a manifest that refers to the image (sigstore bundle specification; cosign, bundle signing). The statement names the
// image by digest alone, so such a signature counts in whatever repository the image lies.
type bundled struct{}

func (bundled) name() string    { return "sigstore-bundle" }
func (bundled) maxBytes() int64 { return maxBundleBytes }

// read checks the statement before anybody asks who signed it. Both have to be right, and this is the cheaper half: attestations,
// the largest of bundles, go no further.
func (bundled) read(s subject, _ offer, body []byte) (claim, error) {
	b, err := parseBundle(body)
	if err != nil {
		return claim{}, err
	}
	envelope := b.GetDsseEnvelope()
	switch {
	case envelope == nil:
		return claim{}, errors.New("the bundle signs bytes and not a statement")
	case b.GetVerificationMaterial().GetPublicKey() == nil:
		return claim{}, errors.New("the bundle is signed with a certificate, and authorities sign with keys")
	case envelope.GetPayloadType() != payloadTypeInToto:
		return claim{}, fmt.Errorf("the bundle signs the unknown type %.120q", envelope.GetPayloadType())
	case len(envelope.GetSignatures()) != 1:
		return claim{}, fmt.Errorf("the bundle has %d signatures instead of one", len(envelope.GetSignatures()))
	}
	statement, err := parseStatement(envelope.GetPayload())
	if err != nil {
		return claim{}, err
	}
	if err := statement.checkSignature(s.Digest); err != nil {
		return claim{}, err
	}
	digest := sum(s.Digest)
	return claim{
		entity:        b,
		artifact:      func() verify.ArtifactPolicyOption { return verify.WithArtifactDigest("sha256", digest[:]) },
		predicateType: statement.predicateType,
	}, nil
}

// parseBundle reads a bundle without what a key's signature does not need. Nobody would check it, so nobody has to parse it either.
func parseBundle(body []byte) (*bundle.Bundle, error) {
	var wire protobundle.Bundle
	if err := protojson.Unmarshal(body, &wire); err != nil {
		return nil, fmt.Errorf("not a sigstore bundle: %v", err)
	}
	if material := wire.GetVerificationMaterial(); material != nil {
		material.TlogEntries, material.TimestampVerificationData = nil, nil
	}
	for _, signature := range wire.GetDsseEnvelope().GetSignatures() {
		// The key id is a hint that nobody signed, yet the library skips keys whose id, in the notation of SSH, is another one.
		signature.Keyid = ""
	}
	b, err := bundle.NewBundle(&wire)
	if err != nil {
		return nil, fmt.Errorf("not a sigstore bundle: %v", err)
	}
	if version, err := b.Version(); err != nil || version != bundleVersion {
		return nil, fmt.Errorf("a sigstore bundle of version %.20q, only %s is read", version, bundleVersion)
	}
	return b, nil
}
