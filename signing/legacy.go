package signing

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	mediaTypePayload = oci.MediaTypeSimpleSigning
	// artifactTypeLegacyReferrer is the type of a manifest that holds legacy signatures and refers to the image.
	artifactTypeLegacyReferrer = "application/vnd.dev.cosign.artifact.sig.v1+json"
	// annotationSignature holds the signature of the layer it stands on, in base64.
	annotationSignature = "dev.cosignproject.cosign/signature"
	payloadType         = "cosign container image signature"
)

// legacy is the format of cosign before version 3, skopeo and podman: a layer is the payload, an annotation of the layer the
// signature (cosign, SIGNATURE_SPEC.md; containers/image, sigstore-style signatures). Where a certificate, a log entry or a time stamp
// stands in other annotations, a trusted key may have signed the payload all the same.
type legacy struct{}

func (legacy) name() string    { return "cosign-legacy" }
func (legacy) maxBytes() int64 { return maxPayloadBytes }

func (legacy) read(s subject, o offer, body []byte) (claim, error) {
	annotation := o.layer.Annotations[annotationSignature]
	if annotation == "" {
		return claim{}, errors.New("the payload has no signature")
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(annotation)
	if err != nil {
		return claim{}, errors.New("the signature is not base64")
	}
	p, err := parsePayload(body)
	if err != nil {
		return claim{}, fmt.Errorf("the payload: %w", err)
	}
	if err := p.check(s); err != nil {
		return claim{}, err
	}
	digest := sha256.Sum256(body)
	c := claim{artifact: func() verify.ArtifactPolicyOption { return verify.WithArtifact(bytes.NewReader(body)) }}
	return c, c.annotate(o.layer.Annotations, func(wire *protobundle.Bundle) {
		wire.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: digest[:]},
			Signature:     signature,
		}}
	})
}

// payload is what a legacy signature signs (containers/image, "simple signing").
type payload struct {
	kind      string
	digest    string
	reference string
}

// parsePayload reads a payload strictly: the critical members are these and no others, each once and spelled this way. What the
// signer added as optional is left alone.
func parsePayload(raw []byte) (payload, error) {
	top, err := members(raw, "critical", "optional")
	if err == nil {
		err = only(top, "critical", "optional")
	}
	if err != nil {
		return payload{}, err
	}
	critical, err := members(top["critical"], "identity", "image", "type")
	if err == nil {
		err = only(critical, "identity", "image", "type")
	}
	if err != nil {
		return payload{}, fmt.Errorf("critical: %w", err)
	}
	var p payload
	if p.kind, err = text(critical["type"]); err != nil {
		return payload{}, fmt.Errorf("critical.type: %w", err)
	}
	if p.digest, err = single(critical["image"], "docker-manifest-digest"); err != nil {
		return payload{}, fmt.Errorf("critical.image: %w", err)
	}
	if p.reference, err = single(critical["identity"], "docker-reference"); err != nil {
		return payload{}, fmt.Errorf("critical.identity: %w", err)
	}
	return p, nil
}

// single returns the text under key in an object that has no other member.
func single(raw json.RawMessage, key string) (string, error) {
	found, err := members(raw, key)
	if err != nil {
		return "", err
	}
	if err := only(found, key); err != nil {
		return "", err
	}
	s, err := text(found[key])
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	return s, nil
}

// check reports, as an error, why p is no signature of s.
func (p payload) check(s subject) error {
	if p.kind != payloadType {
		return fmt.Errorf("the payload is of the unknown type %.120q", p.kind)
	}
	if p.digest != s.Digest.String() {
		return fmt.Errorf("the payload is about another image, %.80q", p.digest)
	}
	name, digest := splitReference(p.reference)
	if digest != "" && digest != p.digest {
		return fmt.Errorf("the payload names two images, %.80q and %.80q", digest, p.digest)
	}
	if !slices.Contains(s.names, name) {
		return fmt.Errorf("the signature is for the repository %.120q, not for %s", name, s.names[0])
	}
	return nil
}

// splitReference takes the tag and the digest off a reference as signers write it: cosign "host/repo", skopeo "host/repo:tag". The
// tag is dropped: it is not what was asked for that is judged but what it stood for.
func splitReference(s string) (name, digest string) {
	name, digest, _ = strings.Cut(s, "@")
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name = name[:colon]
	}
	return name, digest
}

// dockerHub are the hosts that signers write for one and the same registry.
var dockerHub = []string{"docker.io", "index.docker.io", "registry-1.docker.io"}

// namesOf returns the names by which the signer of an image in r may have known r, its own first.
func namesOf(r oci.Repository, aliases []string) []string {
	names := []string{r.String()}
	if slices.Contains(dockerHub, r.Upstream) {
		for _, host := range dockerHub {
			names = append(names, host+"/"+r.Path)
		}
	}
	return append(names, aliases...)
}
