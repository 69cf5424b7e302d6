package access

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Limits of a token key file: a PKCS#8 key of these kinds is some 240 bytes, and two or three are what a change of keys needs.
const (
	maxKeyFileBytes = 64 << 10
	maxTokenKeys    = 8
)

// tokenKeys is what a token key file says. It is never modified.
type tokenKeys struct {
	// signer signs, by the first key of the file.
	signer jose.Signer
	// byID are all of them; each checks what it signed.
	byID map[string]tokenKey
}

type tokenKey struct {
	public    crypto.PublicKey
	algorithm jose.SignatureAlgorithm
}

// parseTokenKeys reads PEM blocks of PKCS#8 keys, Ed25519 or ECDSA P-256. The first one signs; those behind it only check, so that
// keys can be changed without a token becoming worthless.
func parseTokenKeys(content []byte) (*tokenKeys, error) {
	keys := &tokenKeys{byID: map[string]tokenKey{}}
	for rest := content; strings.TrimSpace(string(rest)) != ""; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("not PEM, or something behind it that is not")
		}
		if block.Type != "PRIVATE KEY" {
			return nil, fmt.Errorf("a PEM block %.40q, want PRIVATE KEY: a key in PKCS#8", block.Type)
		}
		private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("a PEM block that is not PKCS#8")
		}
		if len(keys.byID) == maxTokenKeys {
			return nil, fmt.Errorf("more than %d keys", maxTokenKeys)
		}
		if err := keys.add(private); err != nil {
			return nil, err
		}
	}
	if keys.signer == nil {
		return nil, errors.New("there is no key in it")
	}
	return keys, nil
}

func (k *tokenKeys) add(private crypto.PrivateKey) error {
	var key tokenKey
	switch p := private.(type) {
	case ed25519.PrivateKey:
		key = tokenKey{p.Public(), jose.EdDSA}
	case *ecdsa.PrivateKey:
		if p.Curve != elliptic.P256() {
			return fmt.Errorf("an ECDSA key on %s, want P-256", p.Curve.Params().Name)
		}
		key = tokenKey{p.Public(), jose.ES256}
	default:
		return fmt.Errorf("a key of kind %T, want Ed25519 or ECDSA P-256", private)
	}
	thumbprint, err := (&jose.JSONWebKey{Key: key.public}).Thumbprint(crypto.SHA256) // RFC 7638
	if err != nil {
		return err
	}
	id := base64.RawURLEncoding.EncodeToString(thumbprint)
	k.byID[id] = key
	if k.signer != nil {
		return nil
	}
	signing := jose.SigningKey{Algorithm: key.algorithm, Key: jose.JSONWebKey{Key: private, KeyID: id}}
	k.signer, err = jose.NewSigner(signing, (&jose.SignerOptions{}).WithType("JWT"))
	return err
}

// CreateTokenKey writes a new Ed25519 key to path, for Options.KeyFile. The file's mode is 0600; one that is there is not replaced.
//
// Errors: fs.ErrExist, and whatever writing returns.
func CreateTokenKey(path string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("creating the token key: %w", err)
	}
	if err := errors.Join(pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("creating the token key: %w", errors.Join(err, os.Remove(path)))
	}
	return syncDir(filepath.Dir(path))
}
