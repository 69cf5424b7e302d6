package gate

import (
	"crypto"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// TrustRoots is everyone whose signatures can count, as the trust files name them. It is never modified once built.
type TrustRoots struct {
	// Authorities is sorted by name; names are unique.
	Authorities []Authority
	// Revision is a hash of what the trust files say and of the keys they name.
	Revision string
}

// Authority is somebody whose signature a policy can ask for by name. It speaks in one way, with keys (Keys and KMS), short-lived
// certificates or notation, and an authority without any speaks in none.
type Authority struct {
	Name string
	// Keys are the public keys that speak for the authority; a signature by any one of them counts.
	Keys []TrustedKey
	// KMS are more such keys, which lie in key management services. They are fetched when a signature is to be checked with them.
	KMS []KMSKey
	// Keyless says which short-lived certificates speak for it.
	Keyless *Keyless
	// Notation says which certificates speak for it through notation.
	Notation *Notation
}

// Notation says which certificates speak for an authority through notation: those that name one of its identities and were issued under
// its certificate authorities.
type Notation struct {
	// Roots are the certificate authorities, in DER, at least one.
	Roots [][]byte
	// TSARoots are the certificate authorities of time stamp services, in DER. With a time stamp of one of these a signature outlives
	// its certificate.
	TSARoots [][]byte
	// Identities are who may sign: a certificate's subject must have every attribute of one of these. At least one.
	Identities []Name
}

// Name is a distinguished name, or a part of one: attributes that a subject must have. The empty name fits nobody.
type Name []Attribute

// Attribute is one attribute of a distinguished name (RFC 4514).
type Attribute struct {
	// Type is C, ST, L, STREET, POSTALCODE, O, OU, CN or SERIALNUMBER.
	Type string
	// Value is what it must be, exactly.
	Value string
}

// Keyless says which certificates of a sigstore instance speak for an authority: those that name its issuer and subject, were issued
// by the instance, and were valid at a time the instance's log or time stamp service vouches for.
type Keyless struct {
	// Issuer is who vouched for the subject, an OpenID Connect issuer. Subject is who signed: a URI or an e-mail address.
	Issuer, Subject Wording
	// TrustedRoot is the instance's trusted_root.json: its certificate authorities, logs and time stamp services.
	TrustedRoot []byte
	// RootDigest is the digest of TrustedRoot.
	RootDigest oci.Digest
	// Tlog, SCT and TSA are how many logs must have the signature, certificate transparency logs the certificate, and time stamp
	// services the time. Each counts once. Tlog and TSA are not both 0: nothing would say when the signature was made.
	Tlog, SCT, TSA int
}

// Wording is what a text must be as a whole. The zero value fits nothing.
type Wording struct {
	// Text is the text itself, or a regular expression (RE2) that the whole of it fits.
	Text string
	// Regexp says that Text is an expression.
	Regexp bool
}

// KMSKey is a public key in a key management service, and when it counts.
type KMSKey struct {
	// Reference names it: "awskms://…", "gcpkms://…", "azurekms://…" or "hashivault://…".
	Reference string
	// NotBefore and NotAfter are as in [TrustedKey].
	NotBefore, NotAfter time.Time
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
