package kms_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
	"github.com/tidewaiter/tidewaiter/signing/kms"
)

// vault stands for the transit engine of a vault: one key, and a count of what is asked.
type vault struct {
	key   *ecdsa.PrivateKey
	asked []string
	fails bool
}

func newVault(t *testing.T) (*vault, kms.Client) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	v := &vault{key: key}
	server := httptest.NewServer(v)
	t.Cleanup(server.Close)
	env := map[string]string{"VAULT_ADDR": server.URL, "VAULT_TOKEN": "token"}
	return v, kms.Client{Env: func(name string) string { return env[name] }}
}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.asked = append(v.asked, r.Method+" "+r.URL.Path)
	if v.fails || r.Header.Get("X-Vault-Token") != "token" {
		http.Error(w, `{"errors":["permission denied"]}`, http.StatusForbidden)
		return
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/transit/keys/"):
		der, _ := x509.MarshalPKIXPublicKey(v.key.Public())
		encoded := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"latest_version": 1, "keys": map[string]any{"1": map[string]any{"public_key": string(encoded)}}}})
	case strings.HasPrefix(r.URL.Path, "/v1/transit/sign/"):
		var request struct {
			Input string `json:"input"`
		}
		_ = json.NewDecoder(r.Body).Decode(&request)
		digest, _ := base64.StdEncoding.DecodeString(request.Input)
		sig, _ := ecdsa.SignASN1(rand.Reader, v.key, digest)
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"signature": "vault:v1:" + base64.StdEncoding.EncodeToString(sig)}})
	default:
		http.NotFound(w, r)
	}
}

func TestVault(t *testing.T) {
	v, client := newVault(t)
	public, err := client.PublicKey(t.Context(), "hashivault://release")
	if err != nil {
		t.Fatal(err)
	}
	if !v.key.PublicKey.Equal(public) || len(v.asked) != 1 {
		t.Errorf("got %v after %q, want the key after one request", public, v.asked)
	}
	key, err := client.Key("hashivault://release")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := key.Sign(t.Context(), []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	own, err := key.PublicKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(own.(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("the signature is not the key's")
	}
	v.fails = true
	if _, err := key.PublicKey(t.Context()); err != nil {
		t.Errorf("the key is fetched again: %v", err)
	}
	if late, err := client.Key("hashivault://release"); err != nil {
		t.Errorf("a vault that refuses keeps a key from being named: %v", err)
	} else if _, err := late.PublicKey(t.Context()); err == nil {
		t.Error("got a key of a vault that refuses")
	}
	if _, err := client.PublicKey(t.Context(), "hashivault://release"); err == nil || errors.Is(err, kms.ErrReference) {
		t.Errorf("a vault that refuses: got %v", err)
	}
	if _, err := key.Sign(t.Context(), []byte("message")); err == nil {
		t.Error("signed by a vault that refuses")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.PublicKey(ctx, "hashivault://release"); err == nil {
		t.Error("fetched for nobody")
	}
}

func TestVaultNeedsItsEnvironment(t *testing.T) {
	client := kms.Client{Env: func(string) string { return "" }}
	if _, err := client.PublicKey(t.Context(), "hashivault://release"); err == nil || !strings.Contains(err.Error(), "VAULT_TOKEN") {
		t.Errorf("got %v", err)
	}
}

// What names no key of a known service is refused before anybody is asked, and no program is started for it.
func TestReferences(t *testing.T) {
	dir := t.TempDir()
	ran := filepath.Join(dir, "ran")
	for _, scheme := range []string{"evil", "k8s", "file", "AWSKMS"} {
		script := fmt.Sprintf("#!/bin/sh\ntouch %s\n", ran)
		if err := os.WriteFile(filepath.Join(dir, "sigstore-kms-"+scheme), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	client := kms.Client{Env: func(string) string { return "" }}
	for _, reference := range []string{
		"", "release.pub", "evil://key", "k8s://ns/secret", "file:///etc/passwd", "AWSKMS:///alias/x", "awskms:/x", " awskms:///alias/x",
		"awskms://", "awskms:///", "gcpkms://x", "gcpkms://projects/p/locations/l", "azurekms://", "hashivault://", "hashivault:///",
	} {
		if err := kms.Check(reference); !errors.Is(err, kms.ErrReference) {
			t.Errorf("%q: got %v, want %v", reference, err, kms.ErrReference)
		}
		if _, err := client.Key(reference); !errors.Is(err, kms.ErrReference) {
			t.Errorf("naming %q: got %v, want %v", reference, err, kms.ErrReference)
		}
		if _, err := client.PublicKey(t.Context(), reference); !errors.Is(err, kms.ErrReference) {
			t.Errorf("fetching %q: got %v, want %v", reference, err, kms.ErrReference)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program was started for an unknown scheme")
	}
	for _, reference := range []string{
		"awskms:///alias/release", "awskms:///arn:aws:kms:us-east-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
		"gcpkms://projects/p/locations/global/keyRings/r/cryptoKeys/k/versions/1", "azurekms://vault.vault.azure.net/key", "hashivault://release",
	} {
		if err := kms.Check(reference); err != nil {
			t.Errorf("%q: got %v", reference, err)
		}
	}
}

// What is stated of an image is signed by the service as by a key in a file.
func TestVaultSignsStatements(t *testing.T) {
	v, client := newVault(t)
	key, err := client.Key("hashivault://own")
	if err != nil {
		t.Fatal(err)
	}
	summaries, err := signing.NewSummaries(signing.SummaryOptions{Key: key, Verifier: "https://gate.example", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	verdict := gate.Verdict{
		Decision: gate.Allow, Complete: true, Repository: oci.Repository{Upstream: "registry.example", Path: "acme/app"}, Digest: oci.FromBytes([]byte("image")),
		MediaType: oci.MediaTypeImage, SizeBytes: 5,
	}
	made, err := summaries.Sign(t.Context(), verdict)
	if err != nil {
		t.Fatal(err)
	}
	var bundle struct {
		DSSEEnvelope struct {
			Payload, PayloadType string
			Signatures           []struct{ Sig []byte }
		}
	}
	if err := json.Unmarshal(made.Blobs[1], &bundle); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(bundle.DSSEEnvelope.Payload)
	if err != nil {
		t.Fatal(err)
	}
	signed := sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(bundle.DSSEEnvelope.PayloadType), bundle.DSSEEnvelope.PayloadType, len(payload), payload))
	if sigs := bundle.DSSEEnvelope.Signatures; len(sigs) != 1 || !ecdsa.VerifyASN1(&v.key.PublicKey, signed[:], sigs[0].Sig) {
		t.Error("the signature is not the service's")
	}
	v.fails = true
	if _, err := summaries.Sign(t.Context(), verdict); err == nil {
		t.Error("signed by a vault that refuses")
	}
}
