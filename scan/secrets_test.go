package scan

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// privateKeyPEM returns a new private key as keys lie in files.
func privateKeyPEM(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// token has the form of one and opens nothing.
var token = "dop_v1_" + strings.Repeat("0123456789abcdef", 4)

func TestSecrets(t *testing.T) {
	key := privateKeyPEM(t)
	tests := map[string]struct {
		entries []entry
		want    []gate.Secret
	}{
		"a private key":                {[]entry{regular("root/.ssh/id_ed25519", key)}, []gate.Secret{{Kind: "private key", Path: "root/.ssh/id_ed25519"}}},
		"one in a file with a reader":  {[]entry{regular("app/node_modules/a/package.json", `{"name":"a","version":"1","token":"`+token+`"}`)}, []gate.Secret{{Kind: "DigitalOcean key", Path: "app/node_modules/a/package.json"}}},
		"two kinds in one file":        {[]entry{regular("env", key+"\nexport TOKEN="+token+"\n")}, []gate.Secret{{Kind: "DigitalOcean key", Path: "env"}, {Kind: "private key", Path: "env"}}},
		"one that is replaced later":   {[]entry{regular("key", key), regular("key", "nothing")}, []gate.Secret{{Kind: "private key", Path: "key"}}},
		"a public key is none":         {[]entry{regular("key.pub", "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n")}, nil},
		"a binary is not searched":     {[]entry{regular("bin", "\x00"+key)}, nil},
		"a large file is not searched": {[]entry{regular("dump", strings.Repeat("x", maxSecretFileBytes)+key)}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			layer := tarball(t, tt.entries...)
			inv := takeInventory(t.Context(), bytes.NewReader(layer), order{encoding: encodingPlain, look: gate.Look{Secrets: true}}, t.TempDir())
			if diff := cmp.Diff(inv.Secrets, tt.want); diff != "" || len(inv.Gaps) > 0 {
				t.Errorf("secrets, got/want:\n%sgaps %v", diff, inv.Gaps)
			}
			inv = takeInventory(t.Context(), bytes.NewReader(layer), order{encoding: encodingPlain}, t.TempDir())
			if len(inv.Secrets) > 0 {
				t.Errorf("found without having been looked for: %v", inv.Secrets)
			}
		})
	}
}

func TestSecretsThroughTheWorker(t *testing.T) {
	l := startLayers(t, Options{Workers: 1})
	layer := tarball(t, regular("key", privateKeyPEM(t)))
	for _, look := range []bool{true, false} {
		inv, err := l.ReadLayer(t.Context(), descriptor(typeTar, layer), bytes.NewReader(layer), gate.Look{Secrets: look})
		if err != nil || inv.SecretsRead != look || (len(inv.Secrets) == 1) != look {
			t.Errorf("look %t: read %t, %v, %v", look, inv.SecretsRead, inv.Secrets, err)
		}
	}
}

func TestSecretsAreBounded(t *testing.T) {
	var entries []entry
	for i := range maxSecrets + 10 {
		entries = append(entries, regular(strings.Repeat("k", i+1), privateKeyPEM(t)))
	}
	inv := takeInventory(t.Context(), bytes.NewReader(tarball(t, entries...)), order{encoding: encodingPlain, look: gate.Look{Secrets: true}}, t.TempDir())
	if len(inv.Secrets) != maxSecrets || !slices.IsSortedFunc(inv.Secrets, func(a, b gate.Secret) int { return strings.Compare(a.Path, b.Path) }) {
		t.Errorf("got %d secrets, want %d in order", len(inv.Secrets), maxSecrets)
	}
	if err := checkInventory(inv); err != nil {
		t.Errorf("what a worker says of them is not believed: %v", err)
	}
	inv.Secrets = append(inv.Secrets, gate.Secret{Kind: "joke"})
	if err := checkInventory(inv); err == nil {
		t.Error("a kind nobody looks for was believed")
	}
}
