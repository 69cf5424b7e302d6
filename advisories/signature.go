package advisories

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	_ "crypto/sha512" // crypto.SHA384 and crypto.SHA512 are computed through the registry

	"github.com/tidewaiter/tidewaiter/gate"
)

// MaxSignatureBytes bounds a file that holds a signature. A bundle with the proof of a transparency log has 10 KiB.
const MaxSignatureBytes = 256 << 10

// Signature is a detached signature of a file, as "cosign sign-blob --key" makes one, and the key that is asked for.
type Signature struct {
	key   gate.TrustedKey
	bytes []byte
}

// NewSignature returns the signature in encoded, which is a Sigstore bundle or the signature alone in base64, to be checked with key.
// Of a bundle nothing but the signature counts: with a key, whatever a log or a certificate says changes nothing.
//
// Errors: ErrUnverified for what is no signature of a file.
func NewSignature(key gate.TrustedKey, encoded []byte) (*Signature, error) {
	text := bytes.TrimSpace(encoded)
	if len(text) > MaxSignatureBytes {
		return nil, fmt.Errorf("the signature is larger than %d bytes: %w", MaxSignatureBytes, ErrUnverified)
	}
	if !bytes.HasPrefix(text, []byte("{")) {
		raw, err := base64.StdEncoding.DecodeString(string(text))
		if err != nil || len(raw) == 0 {
			return nil, fmt.Errorf("the signature is neither a bundle nor base64: %w", ErrUnverified)
		}
		return &Signature{key, raw}, nil
	}
	var bundle struct {
		MessageSignature struct {
			Signature []byte `json:"signature"`
		} `json:"messageSignature"`
	}
	if err := json.Unmarshal(text, &bundle); err != nil || len(bundle.MessageSignature.Signature) == 0 {
		return nil, fmt.Errorf("the bundle holds no signature of a file: %w", ErrUnverified)
	}
	return &Signature{key, bundle.MessageSignature.Signature}, nil
}

// Fingerprint returns the fingerprint of the key.
func (s *Signature) Fingerprint() string { return s.key.Fingerprint }

// verify returns nil if the signature is one of the file at path by the key.
//
// Errors: ErrUnverified.
func (s *Signature) verify(path string) error {
	check, hashes := s.scheme()
	if check == nil {
		return fmt.Errorf("a key of type %T cannot be used for a file: %w", s.key.Public, ErrUnverified)
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	var writers []io.Writer
	sums := map[crypto.Hash]func([]byte) []byte{}
	for _, h := range hashes {
		sum := h.New()
		writers, sums[h] = append(writers, sum), sum.Sum
	}
	_, err = io.Copy(io.MultiWriter(writers...), file)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	for _, h := range hashes {
		if check(h, sums[h](nil)) {
			return nil
		}
	}
	return fmt.Errorf("the signature is not one of this file by key %s: %w", s.key.Fingerprint, ErrUnverified)
}

// scheme returns how signatures of the key are checked, and the hashes they may be over: those cosign 3 chooses by the key's size, and
// SHA-256, which cosign 2 always took. Ed25519 is the pre-hashed form (RFC 8032, section 5.1), the only one for files of any size.
func (s *Signature) scheme() (check func(crypto.Hash, []byte) bool, hashes []crypto.Hash) {
	switch key := s.key.Public.(type) {
	case *ecdsa.PublicKey:
		hashes = []crypto.Hash{crypto.SHA256}
		switch key.Curve {
		case elliptic.P384():
			hashes = append(hashes, crypto.SHA384)
		case elliptic.P521():
			hashes = append(hashes, crypto.SHA512)
		}
		return func(_ crypto.Hash, sum []byte) bool { return ecdsa.VerifyASN1(key, sum, s.bytes) }, hashes
	case *rsa.PublicKey:
		return func(h crypto.Hash, sum []byte) bool { return rsa.VerifyPKCS1v15(key, h, sum, s.bytes) == nil }, []crypto.Hash{crypto.SHA256}
	case ed25519.PublicKey:
		return func(h crypto.Hash, sum []byte) bool {
			return ed25519.VerifyWithOptions(key, sum, s.bytes, &ed25519.Options{Hash: h}) == nil
		}, []crypto.Hash{crypto.SHA512}
	}
	return nil, nil
}
