package oci

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"math"

	_ "crypto/sha256" // go-digest computes sha256 through the crypto registry
)

// ErrMismatch says that content does not have the digest or size it was announced with.
var ErrMismatch = errors.New("content does not match its descriptor")

// ErrTooLarge says that content is larger than whoever reads it allows.
var ErrTooLarge = errors.New("content is too large")

// Verifier reads content and compares it with its descriptor: in place of io.EOF it returns [ErrMismatch] when the bytes are too
// few, too many, or others than the digest says. It is not safe for concurrent use.
type Verifier struct {
	r    io.Reader
	desc Descriptor
	hash hash.Hash
	n    int64
}

// NewVerifier returns a Verifier of r. The descriptor's digest must come from [ParseDigest] or [ParseManifest].
func NewVerifier(r io.Reader, desc Descriptor) *Verifier {
	return &Verifier{r: r, desc: desc, hash: desc.Digest.Algorithm().Hash()}
}

// Read implements io.Reader. A caller that stops before io.EOF has verified nothing.
func (v *Verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.n += int64(n)
	_, _ = v.hash.Write(p[:n]) // a hash never fails
	if v.n > v.desc.Size {
		return 0, fmt.Errorf("%s: more than the announced %d bytes: %w", v.desc.Digest, v.desc.Size, ErrMismatch)
	}
	if errors.Is(err, io.EOF) {
		if v.n != v.desc.Size {
			return n, fmt.Errorf("%s: %d of %d bytes: %w", v.desc.Digest, v.n, v.desc.Size, ErrMismatch)
		}
		if got := fmt.Sprintf("sha256:%x", v.hash.Sum(nil)); got != v.desc.Digest.String() {
			return n, fmt.Errorf("%s: content has digest %s: %w", v.desc.Digest, got, ErrMismatch)
		}
	}
	return n, err
}

// ReadBounded reads r to its end and fails, rather than truncating, when there are more than limit bytes.
//
// Errors: [ErrTooLarge], and whatever r returns.
func ReadBounded(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, min(limit, math.MaxInt64-1)+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("more than %d bytes: %w", limit, ErrTooLarge)
	}
	return b, nil
}

// ReadVerified reads the whole of the content desc names, at most limit bytes of it, and returns it only if it is that content.
//
// Errors: [ErrTooLarge], [ErrMismatch], and whatever r returns.
func ReadVerified(r io.Reader, desc Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are read: %w", desc.Digest, desc.Size, limit, ErrTooLarge)
	}
	return ReadBounded(NewVerifier(r, desc), limit)
}
