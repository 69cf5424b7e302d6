// Package oci owns the words and wire forms of the OCI specifications that the rest of Tidewaiter speaks: repositories,
// references, digests, descriptors, manifests, the requests of the distribution API, its errors, and the readers that bound
// and verify bytes nobody has vouched for.
//
// It promises that a value it parsed is well formed and that a byte read through its verifying readers belongs to its digest.
// It must not know anything of policy, storage or the network.
package oci

import (
	"errors"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Digest identifies content by algorithm and hash, "sha256:…" (image-spec, descriptor.md, Digests).
type Digest = digest.Digest

// Descriptor names content by media type, digest and size (image-spec, descriptor.md). Whoever wrote the manifest it came from
// wrote it: nothing in it is true until the content has been read through [NewVerifier].
type Descriptor = ocispec.Descriptor

// Platform is the operating system and architecture an image claims to run on.
type Platform = ocispec.Platform

// ParseDigest returns s as a digest Tidewaiter can check. Only sha256 is accepted: storage is addressed by it.
//
// Errors: an [*Error] that is [ErrDigestInvalid] and says what is wrong with s.
func ParseDigest(s string) (Digest, error) {
	d, err := digest.Parse(s)
	algorithm, _, _ := strings.Cut(s, ":")
	if err == nil && algorithm != digest.SHA256.String() || errors.Is(err, digest.ErrDigestUnsupported) {
		return "", refuse(CodeDigestInvalid, "the digest algorithm %.30q is not supported, only sha256", algorithm)
	}
	if err != nil {
		return "", refuse(CodeDigestInvalid, "the digest %.80q is malformed", s)
	}
	return d, nil
}

// FromBytes returns the sha256 digest of b.
func FromBytes(b []byte) Digest { return digest.SHA256.FromBytes(b) }

// Content is a manifest as it crossed the wire: the bytes, and what they were called.
type Content struct {
	// MediaType is the Content-Type the sender gave, without parameters.
	MediaType string
	// Digest is the sha256 of Raw, computed here.
	Digest Digest
	// Raw is exactly what was sent. It is never re-encoded: a digest is identity.
	Raw []byte
}

// Descriptor returns the descriptor of c.
func (c Content) Descriptor() Descriptor {
	return Descriptor{MediaType: c.MediaType, Digest: c.Digest, Size: int64(len(c.Raw))}
}

// Artifact is a manifest with the blobs it refers to, all of it small.
type Artifact struct {
	Manifest Content
	// Blobs are in the order the manifest lists them, the config first.
	Blobs [][]byte
}
