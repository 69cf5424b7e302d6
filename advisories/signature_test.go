package advisories

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/policy"
)

func trusted(t *testing.T, key *ocitest.Key) gate.TrustedKey {
	t.Helper()
	k, err := policy.LoadKey(writeTest(t, filepath.Join(t.TempDir(), "key.pub"), key.PublicPEM()))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignedImport(t *testing.T) {
	archive := packed(t, time.Hour, "CVE-2026-0001")
	path := writeTest(t, filepath.Join(t.TempDir(), "db.tar.gz"), archive)
	key := func(kind ocitest.KeyKind) *ocitest.Key {
		k, err := ocitest.NewKey(kind)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	stranger := key(ocitest.ECDSAP256)
	sign := func(k *ocitest.Key) []byte {
		signature, err := k.Sign(archive)
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	bundle := func(signature []byte) []byte {
		sum := sha256.Sum256(archive)
		text, err := json.Marshal(map[string]any{
			"mediaType":        "application/vnd.dev.sigstore.bundle.v0.3+json",
			"messageSignature": map[string]any{"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": sum[:]}, "signature": signature},
		})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, kind := range []ocitest.KeyKind{ocitest.ECDSAP256, ocitest.ECDSAP384, ocitest.RSA2048} {
		k := key(kind)
		for form, encoded := range map[string][]byte{"base64": []byte(base64.StdEncoding.EncodeToString(sign(k)) + "\n"), "a bundle": bundle(sign(k))} {
			t.Run(string(kind)+" in "+form, func(t *testing.T) {
				signature, err := NewSignature(trusted(t, k), encoded)
				if err != nil {
					t.Fatal(err)
				}
				f := newTestFolder(t)
				o, err := f.Import(t.Context(), path, Proof{Signature: signature})
				if err != nil || o.Verified != "signature by key "+signature.Fingerprint() {
					t.Errorf("got %+v, %v", o, err)
				}
				other := writeTest(t, filepath.Join(t.TempDir(), "db.tar.gz"), packed(t, time.Minute, "CVE-2026-0002"))
				if o, err := f.Import(t.Context(), other, Proof{Signature: signature}); !errors.Is(err, ErrUnverified) {
					t.Errorf("another file: got %+v, %v", o, err)
				}
				signature.key = trusted(t, stranger)
				if o, err := f.Import(t.Context(), path, Proof{Signature: signature}); !errors.Is(err, ErrUnverified) {
					t.Errorf("another key: got %+v, %v", o, err)
				}
			})
		}
	}
	for name, encoded := range map[string]string{
		"nothing": "", "no base64": "!", "a bundle of a statement": `{"dsseEnvelope": {}}`, "broken JSON": "{", "too much": strings.Repeat("A", MaxSignatureBytes+4),
	} {
		if s, err := NewSignature(trusted(t, stranger), []byte(encoded)); !errors.Is(err, ErrUnverified) {
			t.Errorf("%s: got %v, %v", name, s, err)
		}
	}
	t.Run("a directory is not signed", func(t *testing.T) {
		signature, err := NewSignature(trusted(t, stranger), []byte("AAAA"))
		if err != nil {
			t.Fatal(err)
		}
		if o, err := newTestFolder(t).Import(t.Context(), t.TempDir(), Proof{Signature: signature}); !errors.Is(err, ErrUnverified) {
			t.Errorf("got %+v, %v", o, err)
		}
	})
}

// What a real signer writes counts.
func TestSignedByCosign(t *testing.T) {
	cosign, err := exec.LookPath("cosign")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	path := writeTest(t, filepath.Join(dir, "db.tar.gz"), packed(t, time.Hour, "CVE-2026-0001"))
	run := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), cosign, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "COSIGN_PASSWORD=", "HOME="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	run("generate-key-pair")
	writeTest(t, filepath.Join(dir, "offline.json"), []byte(`{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"}`))
	run("sign-blob", "--yes", "--key", "cosign.key", "--signing-config", "offline.json", "--bundle", path+".sigstore.json", path)
	key, err := policy.LoadKey(filepath.Join(dir, "cosign.pub"))
	if err != nil {
		t.Fatal(err)
	}
	signature, err := NewSignature(key, readTest(t, path+".sigstore.json"))
	if err != nil {
		t.Fatal(err)
	}
	if o, err := newTestFolder(t).Import(t.Context(), path, Proof{Signature: signature}); err != nil {
		t.Errorf("got %+v, %v", o, err)
	}
}
