package ocitest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // SHA-384 and SHA-512 are used through the crypto registry
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
)

// KeyKind names an algorithm and a size.
type KeyKind string

// The kinds of keys signers use.
const (
	ECDSAP256 KeyKind = "ecdsa-p256"
	ECDSAP384 KeyKind = "ecdsa-p384"
	Ed25519   KeyKind = "ed25519"
	RSA2048   KeyKind = "rsa-2048"
)

// Key is a private key that signs. It is safe for concurrent use.
type Key struct {
	signer crypto.Signer
	der    []byte // public half, SubjectPublicKeyInfo
	hash   crypto.Hash
}

// NewKey makes a key that hashes as cosign v3 does: SHA-384 for P-384, SHA-256 for the others. Ed25519 signs the message itself.
func NewKey(kind KeyKind) (*Key, error) {
	signer, hash, err := generate(kind)
	if err != nil {
		return nil, fmt.Errorf("making a key of kind %q: %w", kind, err)
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	return &Key{signer: signer, der: der, hash: hash}, nil
}

func generate(kind KeyKind) (crypto.Signer, crypto.Hash, error) {
	switch kind {
	case ECDSAP256:
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		return k, crypto.SHA256, err
	case ECDSAP384:
		k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		return k, crypto.SHA384, err
	case Ed25519:
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, 0, err
	case RSA2048:
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		return k, crypto.SHA256, err
	}
	return nil, 0, fmt.Errorf("there is no such kind")
}

// WithHash returns the same key with another hash: SHA-256 on P-384 is what cosign v2 wrote and cosign verify expects, SHA-512
// with Ed25519 is the pre-hashed Ed25519ph cosign signs with.
func (k *Key) WithHash(hash crypto.Hash) *Key {
	other := *k
	other.hash = hash
	return &other
}

// PublicPEM returns the public half as cosign.pub holds it.
func (k *Key) PublicPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.der})
}

// Hint returns what a bundle calls the key by: the base64 SHA-256 of the public half.
func (k *Key) Hint() string {
	sum := sha256.Sum256(k.der)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Sign returns the signature of message.
func (k *Key) Sign(message []byte) ([]byte, error) {
	digest := message
	if k.hash != 0 {
		h := k.hash.New()
		h.Write(message) // a hash never fails
		digest = h.Sum(nil)
	}
	sig, err := k.signer.Sign(rand.Reader, digest, k.hash)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return sig, nil
}

// SignDSSE returns the signature of a DSSE envelope: over the type and the payload, each with its length (DSSE v1, protocol.md).
func (k *Key) SignDSSE(payloadType string, payload []byte) ([]byte, error) {
	return k.Sign(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload))
}
