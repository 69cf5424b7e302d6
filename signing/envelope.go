package signing

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"

	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	mediaTypeEnvelope = oci.MediaTypeDSSE
	// artifactTypeStatement is the type of a manifest that holds statements in envelopes and refers to the image.
	artifactTypeStatement = "application/vnd.in-toto+json"
)

// enveloped is the format of attestations before bundles: a layer is a DSSE envelope around an in-toto statement, and what belongs to
// its signature stands in annotations of the layer, as for a legacy signature (cosign, attestation spec; DSSE v1, envelope.md).
type enveloped struct{}

func (enveloped) name() string    { return "dsse-envelope" }
func (enveloped) maxBytes() int64 { return maxBundleBytes }

func (enveloped) read(s subject, o offer, body []byte) (claim, error) {
	envelope, err := parseEnvelope(body)
	if err != nil {
		return claim{}, fmt.Errorf("the envelope: %w", err)
	}
	c, err := readEnvelope(s, envelope)
	if err != nil {
		return claim{}, err
	}
	return c, c.annotate(o.layer.Annotations, func(wire *protobundle.Bundle) {
		wire.Content = &protobundle.Bundle_DsseEnvelope{DsseEnvelope: envelope}
	})
}

// parseEnvelope reads an envelope strictly, but for the key ids: hints that nobody signed.
func parseEnvelope(body []byte) (*protodsse.Envelope, error) {
	top, err := members(body, "payload", "payloadType", "signatures")
	if err != nil {
		return nil, err
	}
	payloadType, err := text(top["payloadType"])
	if err != nil {
		return nil, fmt.Errorf("payloadType: %w", err)
	}
	payload, err := base64Text(top["payload"])
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(top["signatures"], &list); err != nil {
		return nil, errors.New("signatures: not a list")
	}
	envelope := &protodsse.Envelope{PayloadType: payloadType, Payload: payload}
	if len(list) != 1 {
		return nil, fmt.Errorf("it has %d signatures instead of one", len(list))
	}
	signature, err := members(list[0], "keyid", "sig")
	if err != nil {
		return nil, fmt.Errorf("the signature: %w", err)
	}
	sig, err := base64Text(signature["sig"])
	if err != nil {
		return nil, fmt.Errorf("the signature: %w", err)
	}
	envelope.Signatures = []*protodsse.Signature{{Sig: sig}}
	return envelope, nil
}

// base64Text returns the bytes of a string in base64, of either alphabet as DSSE has it.
func base64Text(raw json.RawMessage) ([]byte, error) {
	encoded, err := text(raw)
	if err != nil {
		return nil, err
	}
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		if decoded, err := encoding.DecodeString(encoded); err == nil {
			return decoded, nil
		}
	}
	return nil, errors.New("not base64")
}
