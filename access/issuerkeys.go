package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"

	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/seal"
)

// How the keys of an issuer are kept. An hour is how long one that was withdrawn still counts, unless the issuer cannot be reached to
// say so: then a day, for a registry that nobody can use when another service is down takes the cluster down with it. Anybody can
// show a token of a key nobody knows, so for those the issuer is asked once in a while only.
const (
	keysFreshFor   = time.Hour
	keysStandFor   = 24 * time.Hour
	askAgainAfter  = 10 * time.Second
	askTimeout     = 10 * time.Second // both documents, by a server that may be far away
	maxKeysBytes   = 1 << 20          // a key is under 4 KiB with its certificates
	maxIssuerKeys  = 100
	minRSABits     = 2048
	maxBearerBytes = maxTokenBytes
	maxCABytes     = 4 << 20 // the bundles systems come with are 250 KB
)

// issuerKeys are the keys of one issuer, fetched when they are needed. It is safe for concurrent use.
type issuerKeys struct {
	of     Issuer
	now    func() time.Time
	log    *slog.Logger
	flight singleflight.Group

	mu      sync.Mutex
	keys    []jose.JSONWebKey // guarded by mu; handed out and never modified
	fetched time.Time         // when keys were had; guarded by mu
	tried   time.Time         // when they were last asked for; guarded by mu
	failed  error             // why they were not had at tried; guarded by mu
}

func newIssuerKeys(of Issuer, now func() time.Time, log *slog.Logger) *issuerKeys {
	return &issuerKeys{of: of, now: now, log: log}
}

// check returns what is wrong with the files; some of that may be nil.
func (k *issuerKeys) check() []error {
	_, err := k.client()
	if k.of.TokenFile == "" {
		return []error{err}
	}
	_, tokenErr := k.bearer()
	return []error{err, tokenErr}
}

// checking is the check of one token. It implements oidc.KeySet.
type checking struct {
	keys *issuerKeys
	// unreachable is why there were no keys to check the token by.
	unreachable error
}

// VerifySignature returns what the token says if a key of the issuer's signed it. Its algorithm has been checked by then.
func (c *checking) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	var accepted []jose.SignatureAlgorithm
	for _, a := range algorithms {
		accepted = append(accepted, jose.SignatureAlgorithm(a))
	}
	signed, err := jose.ParseSignedCompact(token, accepted)
	if err != nil {
		return nil, err
	}
	since := time.Time{}
	for range 2 { // with the keys there are, and with those there are now
		keys, at, err := c.keys.get(ctx, since)
		if err != nil {
			c.unreachable = err
			return nil, err
		}
		if at.Equal(since) {
			break
		}
		if payload, ok := opened(signed, keys); ok {
			return payload, nil
		}
		since = at
	}
	return nil, errors.New("no key of the issuer's signed it")
}

// opened returns the payload if one of keys signed it.
func opened(signed *jose.JSONWebSignature, keys []jose.JSONWebKey) ([]byte, bool) {
	header := signed.Signatures[0].Protected
	for _, key := range keys {
		if header.KeyID != "" && key.KeyID != header.KeyID || key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := signed.Verify(key.Key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// get returns the keys and when they were had. since is when those were had that will not do; zero for none. They may be the same
// again, when it is too soon to ask.
func (k *issuerKeys) get(ctx context.Context, since time.Time) ([]jose.JSONWebKey, time.Time, error) {
	k.mu.Lock()
	keys, fetched, tried, failed, now := k.keys, k.fetched, k.tried, k.failed, k.now()
	k.mu.Unlock()
	wanted := fetched.IsZero() || now.Sub(fetched) >= keysFreshFor || fetched.Equal(since)
	if wanted && (tried.IsZero() || now.Sub(tried) >= askAgainAfter) {
		done := k.flight.DoChan("", func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout) // others wait for it too
			defer cancel()
			return nil, k.fetch(ctx)
		})
		select {
		case <-done:
		case <-ctx.Done():
			return nil, time.Time{}, ctx.Err()
		}
		k.mu.Lock()
		keys, fetched, failed = k.keys, k.fetched, k.failed
		k.mu.Unlock()
	}
	// A token by a key that is not among the old ones may be by one of those that could not be had.
	if failed != nil && (fetched.IsZero() || fetched.Equal(since) || now.Sub(fetched) >= keysStandFor) {
		return nil, time.Time{}, failed
	}
	return keys, fetched, nil
}

// fetch asks for the keys, and keeps them or why there are none.
func (k *issuerKeys) fetch(ctx context.Context) error {
	keys, err := k.ask(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tried, k.failed = k.now(), err
	if err != nil {
		k.log.WarnContext(ctx, "the keys of an issuer cannot be had", "issuer", k.of.Issuer, "err", err)
		return err
	}
	k.keys, k.fetched = keys, k.tried
	return nil
}

// ask fetches the keys from where they are.
func (k *issuerKeys) ask(ctx context.Context) ([]jose.JSONWebKey, error) {
	client, err := k.client()
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	from := k.of.JWKSURL
	if from == "" {
		var said struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if err := k.read(ctx, client, k.discoveryURL(), &said); err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
		if said.Issuer != k.of.Issuer {
			return nil, fmt.Errorf("discovery: it is the configuration of another issuer, %.200q", said.Issuer)
		}
		if err := secureURL("jwks_uri", said.Keys); err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
		from = said.Keys
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := k.read(ctx, client, from, &set); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	keys := usable(set.Keys)
	if len(keys) == 0 {
		return nil, errors.New("keys: there are none that tokens can be checked by")
	}
	return keys, nil
}

func (k *issuerKeys) discoveryURL() string {
	if k.of.DiscoveryURL != "" {
		return k.of.DiscoveryURL
	}
	return strings.TrimSuffix(k.of.Issuer, "/") + "/.well-known/openid-configuration"
}

// usable returns the public keys in raw that signatures can be checked by. Others are left out: an issuer may publish kinds that are
// not known here yet. A symmetric one is among them; it would let anybody who can read it sign.
func usable(raw []json.RawMessage) []jose.JSONWebKey {
	var keys []jose.JSONWebKey
	for _, r := range raw[:min(len(raw), maxIssuerKeys)] {
		var key jose.JSONWebKey
		if err := json.Unmarshal(r, &key); err != nil || key.Use != "" && key.Use != "sig" {
			continue
		}
		switch public := key.Key.(type) {
		case *rsa.PublicKey:
			if public.N.BitLen() < minRSABits {
				continue
			}
		case *ecdsa.PublicKey, ed25519.PublicKey:
		default:
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

// read fetches a JSON document. What the server wrote is not in its errors.
func (k *issuerKeys) read(ctx context.Context, client *http.Client, from string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/json, application/jwk-set+json")
	if k.of.TokenFile != "" && k.trusted(r.URL.Host) {
		token, err := k.bearer()
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // only read from
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %d", r.URL.Host, response.StatusCode)
	}
	body, err := oci.ReadBounded(response.Body, maxKeysBytes)
	if err != nil {
		return fmt.Errorf("%s: %w", r.URL.Host, err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s answers what is not the JSON that was asked for", r.URL.Host)
	}
	return nil
}

// trusted reports whether the operator has named host, so that the token may be sent there. What a configuration leads to is not.
func (k *issuerKeys) trusted(host string) bool {
	return slices.ContainsFunc([]string{k.discoveryURL(), k.of.JWKSURL}, func(link string) bool {
		u, err := url.Parse(link)
		return err == nil && u.Host == host
	})
}

// bearer returns the token to show.
func (k *issuerKeys) bearer() (string, error) {
	content, err := seal.ReadFile(k.of.TokenFile, maxBearerBytes)
	if err != nil {
		return "", fmt.Errorf("token_file: %w", err)
	}
	token := strings.TrimSpace(string(content))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("token_file: %s does not hold a token", k.of.TokenFile)
	}
	return token, nil
}

// client returns a client that goes by the CA file as it is now and follows no redirect: keys come from where they were said to be.
func (k *issuerKeys) client() (*http.Client, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if k.of.CAFile != "" {
		content, err := seal.ReadFile(k.of.CAFile, maxCABytes)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(content) {
			return nil, fmt.Errorf("ca_file: %s holds no certificate", k.of.CAFile)
		}
	}
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: settings, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}
