package policy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// maxKeyBytes bounds a public key in PEM. The largest that is accepted takes 1.5 KiB.
const maxKeyBytes = 16 << 10

// Bounds of RSA keys: shorter moduli are within reach of factoring, longer ones make each check cost without being safer, and
// smaller exponents have a record of forgeries (NIST SP 800-56B rev. 2, section 6.2).
const (
	minRSABits     = 2048
	maxRSABits     = 8192
	minRSAExponent = 65537
)

// pemBegin opens every PEM block (RFC 7468).
const pemBegin = "-----BEGIN "

// parseKey returns the one public key that encoded holds, in PEM and PKIX form (RFC 7468, section 13).
func parseKey(encoded []byte) (gate.TrustedKey, error) {
	encoded = bytes.TrimSpace(encoded)
	if len(encoded) > maxKeyBytes {
		return gate.TrustedKey{}, fmt.Errorf("larger than %d bytes", maxKeyBytes)
	}
	if n := bytes.Count(encoded, []byte(pemBegin)); n > 1 {
		return gate.TrustedKey{}, fmt.Errorf("holds %d PEM blocks: want one public key, or list them under keys", n)
	}
	block, rest := pem.Decode(encoded)
	if block == nil || len(rest) > 0 || len(block.Headers) > 0 || !bytes.HasPrefix(encoded, []byte(pemBegin)) {
		return gate.TrustedKey{}, errors.New("want one PEM block, from -----BEGIN PUBLIC KEY----- to its end, and nothing else")
	}
	if strings.Contains(block.Type, "PRIVATE KEY") {
		return gate.TrustedKey{}, errors.New("holds a private key: keep it secret, and give the public key that belongs to it")
	}
	if block.Type != "PUBLIC KEY" {
		return gate.TrustedKey{}, fmt.Errorf("holds a PEM block of type %.40q: want a PUBLIC KEY in PKIX form", block.Type)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return gate.TrustedKey{}, errors.New("not a public key in PKIX form of an algorithm that is known")
	}
	if err := checkKey(public); err != nil {
		return gate.TrustedKey{}, err
	}
	// Encoded anew, so that one key has one fingerprint however its file spells it.
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return gate.TrustedKey{}, fmt.Errorf("encoding the key: %w", err)
	}
	sum := sha256.Sum256(der)
	return gate.TrustedKey{Public: public, Fingerprint: hex.EncodeToString(sum[:])}, nil
}

// checkKey refuses algorithms and parameters that are unknown or too weak.
func checkKey(public crypto.PublicKey) error {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return fmt.Errorf("curve %s is not accepted: want P-256, P-384 or P-521", k.Params().Name)
		}
		return nil
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("an RSA key of %d bits: want %d to %d", bits, minRSABits, maxRSABits)
		}
		if k.E < minRSAExponent || k.E%2 == 0 {
			return fmt.Errorf("an RSA key with the exponent %d: want an odd one of at least %d", k.E, minRSAExponent)
		}
		return nil
	}
	return fmt.Errorf("keys of type %T are not accepted: want ECDSA, Ed25519 or RSA", public)
}
