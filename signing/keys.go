package signing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha512" // the curves' own hashes are looked up in the crypto registry
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/tidewaiter/tidewaiter/gate"
)

// key is a trusted key and every way in which signers are known to sign with such a key.
type key struct {
	gate.TrustedKey
	checks []*verify.Verifier
}

// keys is an authority that signs with any of some keys.
type keys struct {
	name string
	keys []key
}

// loadKeys prepares keys for checking. It fails for a key of a kind nobody should sign with.
func loadKeys(name string, trusted []gate.TrustedKey) (keys, error) {
	loaded := keys{name: name}
	for _, t := range trusted {
		k, err := loadKey(t)
		if err != nil {
			return keys{}, fmt.Errorf("key %.16s: %w", t.Fingerprint, err)
		}
		loaded.keys = append(loaded.keys, k)
	}
	return loaded, nil
}

func loadKey(trusted gate.TrustedKey) (key, error) {
	schemes, err := schemesOf(trusted.Public)
	if err != nil {
		return key{}, err
	}
	k := key{TrustedKey: trusted}
	for _, scheme := range schemes {
		verifier := root.NewExpiringKey(scheme, trusted.NotBefore, trusted.NotAfter)
		material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return verifier, nil })
		check, err := verify.NewVerifier(material, verify.WithNoObserverTimestamps(), verify.WithoutStatementPredicate())
		if err != nil {
			return key{}, err
		}
		k.checks = append(k.checks, check)
	}
	return k, nil
}

// schemesOf returns the signature schemes to try with a key, the likelier first. cosign 3 hashes as long as the curve is, earlier
// versions and other clients always with SHA-256; cosign signs with Ed25519ph what others sign with plain Ed25519.
func schemesOf(public crypto.PublicKey) ([]signature.Verifier, error) {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsaSchemes(k)
	case ed25519.PublicKey:
		return ed25519Schemes(k)
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return nil, fmt.Errorf("an RSA key of %d bits; %d to %d are accepted", bits, minRSABits, maxRSABits)
		}
		scheme, err := signature.LoadRSAPKCS1v15Verifier(k, crypto.SHA256)
		return []signature.Verifier{scheme}, err
	default:
		return nil, fmt.Errorf("a key of the unsupported kind %T", public)
	}
}

func ecdsaSchemes(k *ecdsa.PublicKey) ([]signature.Verifier, error) {
	hashes := map[elliptic.Curve][]crypto.Hash{
		elliptic.P256(): {crypto.SHA256},
		elliptic.P384(): {crypto.SHA384, crypto.SHA256},
		elliptic.P521(): {crypto.SHA512, crypto.SHA256},
	}[k.Curve]
	if hashes == nil {
		return nil, errors.New("an ECDSA key on an unsupported curve")
	}
	var schemes []signature.Verifier
	for _, hash := range hashes {
		scheme, err := signature.LoadECDSAVerifier(k, hash)
		if err != nil {
			return nil, err
		}
		schemes = append(schemes, scheme)
	}
	return schemes, nil
}

func ed25519Schemes(k ed25519.PublicKey) ([]signature.Verifier, error) {
	if len(k) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("an Ed25519 key of %d bytes", len(k))
	}
	pure, err := signature.LoadED25519Verifier(k)
	if err != nil {
		return nil, err
	}
	prehashed, err := signature.LoadED25519phVerifier(k)
	if err != nil {
		return nil, err
	}
	return []signature.Verifier{pure, prehashed}, nil
}

// signed reports whether the key made the signature of c, whenever that was. The library reads a statement a second time, with
// another reader than ours: it counts only if both found the same predicate.
func (k key) signed(c claim) bool {
	return slices.ContainsFunc(k.checks, func(check *verify.Verifier) bool {
		result, err := check.Verify(c.keyed, verify.NewPolicy(c.artifact(), verify.WithKey()))
		return err == nil && result.Statement.GetPredicateType() == c.predicateType
	})
}

// counts reports whether a signature by the key counts at now. No signature of a key alone proves when it was made, so a key that
// has run out takes its signatures with it.
func (k key) counts(now time.Time) bool {
	return !now.Before(k.NotBefore) && (k.NotAfter.IsZero() || now.Before(k.NotAfter))
}

// window says when the key counts, for people.
func (k key) window() string {
	var edges []string
	if !k.NotBefore.IsZero() {
		edges = append(edges, "from "+k.NotBefore.UTC().Format(time.RFC3339))
	}
	if !k.NotAfter.IsZero() {
		edges = append(edges, "until "+k.NotAfter.UTC().Format(time.RFC3339))
	}
	return strings.Join(edges, " ")
}

// made implements [speaker]. Of a refusal by several keys it tells that of the one that made the signature.
func (a keys) made(c claim, now time.Time) (mark, error) {
	switch {
	case c.notarized != nil:
		return mark{}, fmt.Errorf("it is signed with notation, and %s signs with keys", a.name)
	case c.keyed == nil:
		return mark{}, fmt.Errorf("it is signed with a certificate, and %s signs with keys", a.name)
	}
	refusal := errNotSigned
	for _, k := range a.keys {
		if !k.signed(c) {
			continue
		}
		if k.counts(now) {
			return mark{signer: k.Fingerprint, until: k.NotAfter}, nil
		}
		refusal = fmt.Errorf("signed with the key %.16s of %s, which counts %s", k.Fingerprint, a.name, k.window())
	}
	return mark{}, refusal
}
