package gate

import (
	"crypto"
	"time"
)

// TrustRoots is everyone whose signatures can count, as the trust files name them. It is never modified once built.
type TrustRoots struct {
	// Authorities is sorted by name; names are unique.
	Authorities []Authority
	// Revision is a hash of what the trust files say and of the keys they name.
	Revision string
}

// Authority is somebody whose signature a policy can ask for by name.
type Authority struct {
	Name string
	// Keys are the public keys that speak for the authority; a signature by any one of them counts. At least one.
	Keys []TrustedKey
}

// TrustedKey is a public key and when it counts.
type TrustedKey struct {
	// Public is an *ecdsa.PublicKey on P-256, P-384 or P-521, an ed25519.PublicKey, or an *rsa.PublicKey of at least 2048 bits.
	Public crypto.PublicKey
	// Fingerprint is the sha256 of the key's PKIX form, in hexadecimal.
	Fingerprint string
	// NotBefore and NotAfter bound when the key counts, UTC, [NotBefore, NotAfter); zero times are open ends. A signature without
	// a trusted time is taken to be made when it is checked.
	NotBefore, NotAfter time.Time
}
