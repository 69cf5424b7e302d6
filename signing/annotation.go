package signing

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
)

// Annotations in which cosign before version 3 keeps what belongs to the signature on a layer (cosign, SIGNATURE_SPEC.md).
const (
	annotationCertificate = "dev.sigstore.cosign/certificate"
	annotationLogEntry    = "dev.sigstore.cosign/bundle"
	annotationTimestamp   = "dev.sigstore.cosign/rfc3161timestamp"
	// legacyBundleType is the bundle a legacy signature is turned into, so that one verifier reads both formats.
	legacyBundleType = mediaTypeBundle01
)

// annotate adds to c what a layer with these annotations holds as something the library can check: signed with a key and, if there is
// a certificate, with that too. fill puts the signed content into a bundle. A certificate that cannot be read is no reason not to
// ask the keys.
func (c *claim) annotate(annotations map[string]string, fill func(*protobundle.Bundle)) error {
	keyed := &protobundle.Bundle{
		MediaType: legacyBundleType,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}},
		},
	}
	fill(keyed)
	b, err := bundle.NewBundle(keyed)
	if err != nil {
		return fmt.Errorf("the signature: %v", err)
	}
	c.keyed = b
	if annotations[annotationCertificate] == "" {
		return nil
	}
	c.uncertified = c.certify(annotations, fill)
	return nil
}

// certify adds to c what the key of the certificate in annotations can have signed.
func (c *claim) certify(annotations map[string]string, fill func(*protobundle.Bundle)) error {
	block, rest := pem.Decode([]byte(annotations[annotationCertificate]))
	if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return errors.New("the certificate is not one in PEM")
	}
	leaf, err := leafOf(block.Bytes)
	if err != nil {
		return err
	}
	wire := &protobundle.Bundle{
		MediaType: legacyBundleType,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &protocommon.X509CertificateChain{
				Certificates: []*protocommon.X509Certificate{{RawBytes: block.Bytes}},
			}},
		},
	}
	if raw := annotations[annotationLogEntry]; raw != "" {
		entry, err := parseLogEntry(raw)
		if err != nil {
			return fmt.Errorf("the log entry: %w", err)
		}
		wire.VerificationMaterial.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	}
	if raw := annotations[annotationTimestamp]; raw != "" {
		stamp, err := parseTimestamp(raw)
		if err != nil {
			return fmt.Errorf("the time stamp: %w", err)
		}
		wire.VerificationMaterial.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: stamp}},
		}
	}
	fill(wire)
	b, err := bundle.NewBundle(wire)
	if err != nil {
		return fmt.Errorf("its log entry or certificate: %v", err)
	}
	c.leaf, c.certified = leaf, b
	return nil
}

// parseLogEntry reads an entry of the log as cosign annotates it, with the log's promise and no proof.
func parseLogEntry(raw string) (*protorekor.TransparencyLogEntry, error) {
	var wire struct {
		Promise []byte `json:"SignedEntryTimestamp"`
		Payload struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		} `json:"Payload"`
	}
	if err := json.Unmarshal([]byte(raw), &wire); err != nil {
		return nil, errors.New("it is not the JSON of one")
	}
	logID, err := hex.DecodeString(wire.Payload.LogID)
	if err != nil {
		return nil, errors.New("its log's id is not hexadecimal")
	}
	var kind struct {
		Version string `json:"apiVersion"`
		Kind    string `json:"kind"`
	}
	if err := json.Unmarshal(wire.Payload.Body, &kind); err != nil {
		return nil, errors.New("its body is not JSON")
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex: wire.Payload.LogIndex, LogId: &protocommon.LogId{KeyId: logID},
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.Version},
		IntegratedTime:    wire.Payload.IntegratedTime,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: wire.Promise},
		CanonicalizedBody: wire.Payload.Body,
	}, nil
}

func parseTimestamp(raw string) ([]byte, error) {
	var wire struct {
		Signed string `json:"SignedRFC3161Timestamp"`
	}
	if err := json.Unmarshal([]byte(raw), &wire); err != nil {
		return nil, errors.New("it is not the JSON of one")
	}
	stamp, err := base64.StdEncoding.DecodeString(wire.Signed)
	if err != nil {
		return nil, errors.New("it is not base64")
	}
	return stamp, nil
}
