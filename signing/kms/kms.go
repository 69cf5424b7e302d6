// Package kms owns the way to keys that lie in key management services: it fetches their public halves, and has the services sign.
//
// It promises that only the four services it names are ever asked, whatever a reference says: the library behind it starts a program
// called after any scheme it does not know. It must not decide who is trusted; it is told by trust files and configuration.
package kms

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/aws"
	"github.com/sigstore/sigstore/pkg/signature/kms/azure"
	"github.com/sigstore/sigstore/pkg/signature/kms/gcp"
	"github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// callTimeout bounds one call of a service: they answer in tens of milliseconds, and retry by themselves.
const callTimeout = 15 * time.Second

// ErrReference says that a reference names no key of a service that is known.
var ErrReference = errors.New("not a key of a service that is known")

// Client reaches key management services. AWS, Google and Azure find credentials as their own tools do: in the environment, in files of
// the user, from the machine they run on. It holds no state and is safe for concurrent use.
type Client struct {
	// Env returns a variable of the environment; required. Vault's address and token are VAULT_ADDR and VAULT_TOKEN, and the path of
	// its engine TRANSIT_SECRET_ENGINE_PATH. No token helper is run.
	Env func(name string) string
}

// service is how one scheme is served.
type service struct {
	check func(reference string) error
	load  func(ctx context.Context, c Client, reference string) (signature.SignerVerifier, error)
}

// services are the schemes that are served, and no others.
var services = map[string]service{
	aws.ReferenceScheme: {aws.ValidReference, func(ctx context.Context, _ Client, reference string) (signature.SignerVerifier, error) {
		return aws.LoadSignerVerifier(ctx, reference)
	}},
	gcp.ReferenceScheme: {gcp.ValidReference, func(ctx context.Context, _ Client, reference string) (signature.SignerVerifier, error) {
		return gcp.LoadSignerVerifier(ctx, reference)
	}},
	azure.ReferenceScheme: {azure.ValidReference, func(ctx context.Context, _ Client, reference string) (signature.SignerVerifier, error) {
		return azure.LoadSignerVerifier(ctx, reference)
	}},
	hashivault.ReferenceScheme: {hashivault.ValidReference, vault},
}

func vault(ctx context.Context, c Client, reference string) (signature.SignerVerifier, error) {
	address, token := c.Env("VAULT_ADDR"), c.Env("VAULT_TOKEN")
	if address == "" || token == "" {
		return nil, errors.New("VAULT_ADDR and VAULT_TOKEN are not both set")
	}
	auth := options.RPCAuth{Address: address, Token: token, Path: c.Env("TRANSIT_SECRET_ENGINE_PATH")}
	return hashivault.LoadSignerVerifier(reference, crypto.SHA256, options.WithContext(ctx), options.WithRPCAuthOpts(auth))
}

// Check reports whether reference names a key of a service that is known, as far as can be told without asking.
//
// Errors: ErrReference.
func Check(reference string) error {
	s, ok := serviceOf(reference)
	if !ok {
		return fmt.Errorf("%.80q: %w: want awskms://, gcpkms://, azurekms:// or hashivault://", reference, ErrReference)
	}
	if err := s.check(reference); err != nil {
		return fmt.Errorf("%.200q: %w: %v", reference, ErrReference, err)
	}
	return nil
}

func serviceOf(reference string) (service, bool) {
	scheme, _, ok := strings.Cut(reference, "://")
	if !ok {
		return service{}, false
	}
	s, ok := services[scheme+"://"]
	return s, ok
}

// PublicKey fetches the public half of the key that reference names.
//
// Errors: ErrReference, and whatever the service fails with.
func (c Client) PublicKey(ctx context.Context, reference string) (crypto.PublicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key, err := c.load(ctx, reference)
	if err != nil {
		return nil, err
	}
	public, err := key.PublicKey(options.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("fetching the key %s: %w", reference, err)
	}
	return public, nil
}

func (c Client) load(ctx context.Context, reference string) (signature.SignerVerifier, error) {
	if err := Check(reference); err != nil {
		return nil, err
	}
	s, _ := serviceOf(reference)
	key, err := s.load(ctx, c, reference)
	if err != nil {
		return nil, fmt.Errorf("reaching the key %s: %w", reference, err)
	}
	return key, nil
}

// Key is a key that a service signs with. It is safe for concurrent use.
type Key struct {
	client    Client
	reference string

	mu     sync.Mutex
	public crypto.PublicKey // guarded by mu; nil until it was fetched
}

// Key returns the key that reference names, for signing. It asks nobody yet: a service that is down keeps nothing else from working.
//
// Errors: ErrReference.
func (c Client) Key(reference string) (*Key, error) {
	if err := Check(reference); err != nil {
		return nil, err
	}
	return &Key{client: c, reference: reference}, nil
}

// PublicKey returns the public half, as it was when it was first fetched.
//
// Errors: as [Client.PublicKey].
func (k *Key) PublicKey(ctx context.Context) (crypto.PublicKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.public == nil {
		public, err := k.client.PublicKey(ctx, k.reference)
		if err != nil {
			return nil, err
		}
		k.public = public
	}
	return k.public, nil
}

// Sign has the service sign message.
func (k *Key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key, err := k.client.load(ctx, k.reference)
	if err != nil {
		return nil, err
	}
	sig, err := key.SignMessage(bytes.NewReader(message), options.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("signing with %s: %w", k.reference, err)
	}
	return sig, nil
}
