package policy

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// keyFiles stands for files that hold keys, by base name.
type keyFiles map[string][]byte

// read returns the file of name's base name.
func (k keyFiles) read(name string, _ int64) ([]byte, error) {
	data, ok := k[filepath.Base(name)]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: filepath.Base(name), Err: fs.ErrNotExist}
	}
	return data, nil
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func pkix(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return block("PUBLIC KEY", der)
}

// ed25519Key returns the same public key for the same seed.
func ed25519Key(seed byte) ed25519.PublicKey {
	private := ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-1), seed))
	return private.Public().(ed25519.PublicKey)
}

// testKeys returns the files that the trust files under testdata name.
func testKeys(t testing.TB) keyFiles {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	modulus := new(big.Int).SetBit(big.NewInt(1), 2047, 1)
	keys := keyFiles{
		"private.pem":     block("PRIVATE KEY", pkcs8),
		"cosign.key":      block("ENCRYPTED SIGSTORE PRIVATE KEY", []byte("{}")),
		"certificate.pem": block("CERTIFICATE", []byte("certificate")),
		"two.pub":         append(pkix(t, ed25519Key(1)), pkix(t, ed25519Key(2))...),
		"pkcs1.pub":       block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsa.PublicKey{N: modulus, E: 65537})),
	}
	root, err := os.ReadFile("../configs/trusted_root.json")
	if err != nil {
		t.Fatal(err)
	}
	keys["root.json"] = root
	keys["bundle.json"] = []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`)
	keys["chainless.json"] = []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","certificateAuthorities":[{}]}`)
	keys["garbled.json"] = bytes.ReplaceAll(root, []byte(`"rawBytes": "MII`), []byte(`"rawBytes": "AII`))
	keys["large.json"] = append(bytes.Clone(root), make([]byte, maxTrustedRootBytes)...)
	ca, err := os.ReadFile("../configs/corp-ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	keys["ca.pem"], keys["empty.pem"], keys["trailing.pem"] = ca, nil, append(bytes.Clone(ca), "x"...)
	keys["garbled.pem"] = block("CERTIFICATE", []byte("certificate"))
	keys["leaf.pem"] = leafCertificate(t)
	for i, name := range []string{"good.pub", "other.pub", "third.pub", "fourth.pub", "fifth.pub", "sixth.pub"} {
		keys[name] = pkix(t, ed25519Key(byte(10+i)))
	}
	return keys
}

// TestTrustProblems holds every file under testdata/trust against the problems beside it.
func TestTrustProblems(t *testing.T) {
	files, err := filepath.Glob("testdata/trust/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	keys := testKeys(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			roots, _, err := parseTrust([]source{{filepath.Base(file), data}}, keys.read)
			if roots != nil {
				t.Errorf("got trust roots from a file with problems: %+v", roots)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", problemsOf(t, err))
		})
	}
}

func TestParseKeyAccepts(t *testing.T) {
	curve := func(c elliptic.Curve) crypto.PublicKey {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key.Public()
	}
	modulus := func(bits int) *big.Int { return new(big.Int).SetBit(big.NewInt(1), bits-1, 1) }
	tests := map[string]crypto.PublicKey{
		"ECDSA P-256":           curve(elliptic.P256()),
		"ECDSA P-384":           curve(elliptic.P384()),
		"ECDSA P-521":           curve(elliptic.P521()),
		"Ed25519":               ed25519Key(1),
		"RSA of 2048 bits":      &rsa.PublicKey{N: modulus(2048), E: 65537},
		"RSA of 8192 bits":      &rsa.PublicKey{N: modulus(8192), E: 65537},
		"RSA, another exponent": &rsa.PublicKey{N: modulus(3072), E: 65539},
	}
	for name, public := range tests {
		t.Run(name, func(t *testing.T) {
			encoded := pkix(t, public)
			k, err := parseKey(append([]byte("\n  "), encoded...))
			if err != nil {
				t.Fatal(err)
			}
			if !k.Public.(interface{ Equal(crypto.PublicKey) bool }).Equal(public) {
				t.Errorf("got key %v, want %v", k.Public, public)
			}
			if len(encoded) > maxKeyBytes {
				t.Errorf("a key of %d bytes is over the limit", len(encoded))
			}
		})
	}
}

func TestParseKeyRefuses(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	modulus := func(bits int) *big.Int { return new(big.Int).SetBit(big.NewInt(1), bits-1, 1) }
	good := string(pkix(t, ed25519Key(1)))
	tests := map[string]struct{ encoded, want string }{
		"a weak curve":               {string(pkix(t, p224.Public())), "P-224"},
		"a key that cannot sign":     {string(pkix(t, x25519.Public())), "*ecdh.PublicKey"},
		"a short RSA key":            {string(pkix(t, &rsa.PublicKey{N: modulus(2047), E: 65537})), "2047 bits"},
		"an oversized RSA key":       {string(pkix(t, &rsa.PublicKey{N: modulus(8193), E: 65537})), "8193 bits"},
		"exponent 1":                 {string(pkix(t, &rsa.PublicKey{N: modulus(2048), E: 1})), "exponent 1"},
		"exponent 3":                 {string(pkix(t, &rsa.PublicKey{N: modulus(2048), E: 3})), "exponent 3"},
		"an even exponent":           {string(pkix(t, &rsa.PublicKey{N: modulus(2048), E: 65538})), "exponent 65538"},
		"a key after a key":          {good + good, "2 PEM blocks"},
		"text before the key":        {"my key:\n" + good, "nothing else"},
		"text after the key":         {good + "trailing", "nothing else"},
		"headers":                    {strings.Replace(good, "KEY-----\n", "KEY-----\nProc-Type: 4\n\n", 1), "nothing else"},
		"a private key":              {strings.ReplaceAll(good, "PUBLIC", "PRIVATE"), "private key"},
		"an encrypted private key":   {strings.ReplaceAll(good, "PUBLIC", "ENCRYPTED COSIGN PRIVATE"), "private key"},
		"a malformed first block":    {"-----BEGIN PRIVATE KEY-----\n" + good, "2 PEM blocks"},
		"a key of another block":     {strings.ReplaceAll(good, "PUBLIC KEY", "CERTIFICATE"), "CERTIFICATE"},
		"trailing data in the key":   {string(block("PUBLIC KEY", append(mustDER(t, good), 0))), "PKIX"},
		"a key without its armour":   {"MCowBQYDK2VwAyEA", "nothing else"},
		"more than any key needs":    {good + strings.Repeat("x", maxKeyBytes), "16384 bytes"},
		"nothing but white space":    {" \n\t", "nothing else"},
		"an end without a begin":     {"-----END PUBLIC KEY-----", "nothing else"},
		"a beginning without an end": {good[:len(good)/2], "nothing else"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k, err := parseKey([]byte(tt.encoded))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			if k.Public != nil || k.Fingerprint != "" {
				t.Errorf("got a key with the error: %+v", k)
			}
		})
	}
}

func mustDER(t *testing.T, encoded string) []byte {
	t.Helper()
	b, _ := pem.Decode([]byte(encoded))
	if b == nil {
		t.Fatal("no PEM block")
	}
	return b.Bytes
}

// writeFiles writes each file under dir, and returns dir.
func writeFiles(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadTrust(t *testing.T) {
	release, ci, old := ed25519Key(1), ed25519Key(2), ed25519Key(3)
	indented := "      " + strings.ReplaceAll(strings.TrimSpace(string(pkix(t, ci))), "\n", "\n      ")
	absolute := filepath.Join(writeFiles(t, t.TempDir(), map[string]string{"old.pub": string(pkix(t, old))}), "old.pub")
	dir := writeFiles(t, t.TempDir(), map[string]string{
		"a/keys/release.pub": string(pkix(t, release)),
		"a/trust.yaml": "authorities:\n" +
			"  - {name: release-key, cosign: {keys: [{key_file: keys/release.pub, not_before: 2026-01-01T01:00:00+01:00}," +
			" {key_file: " + absolute + ", not_after: 2026-01-01T00:00:00Z}]}}\n",
		"b/trust.yaml": "authorities:\n  - name: ci\n    cosign:\n      key: |\n  " + strings.ReplaceAll(indented, "\n", "\n  ") + "\n",
	})
	files := []string{filepath.Join(dir, "a/trust.yaml"), filepath.Join(dir, "b/trust.yaml")}

	t.Run("reads keys inline, beside the file and from anywhere", func(t *testing.T) {
		roots, err := LoadTrust(files)
		if err != nil {
			t.Fatal(err)
		}
		type key struct {
			public     string
			from, till time.Time
		}
		got := map[string]map[key]bool{}
		for _, a := range roots.Authorities {
			got[a.Name] = map[key]bool{}
			for _, k := range a.Keys {
				got[a.Name][key{string(k.Public.(ed25519.PublicKey)), k.NotBefore, k.NotAfter}] = true
			}
		}
		turn := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		want := map[string]map[key]bool{
			"ci":          {key{public: string(ci)}: true},
			"release-key": {key{public: string(release), from: turn}: true, key{public: string(old), till: turn}: true},
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(key{})); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if roots.Authorities[0].Name != "ci" {
			t.Errorf("got %q first, want authorities sorted by name", roots.Authorities[0].Name)
		}
	})
	t.Run("trusts nobody without files", func(t *testing.T) {
		roots, err := LoadTrust(nil)
		if err != nil || len(roots.Authorities) != 0 || roots.Revision == "" {
			t.Errorf("got %+v, %v", roots, err)
		}
	})
	t.Run("does not depend on the order of files", func(t *testing.T) {
		one, err := LoadTrust(files)
		if err != nil {
			t.Fatal(err)
		}
		other, err := LoadTrust([]string{files[1], files[0]})
		if err != nil {
			t.Fatal(err)
		}
		if one.Revision != other.Revision {
			t.Errorf("got revisions %s and %s", one.Revision, other.Revision)
		}
	})
	t.Run("refuses one name in two files", func(t *testing.T) {
		_, err := LoadTrust([]string{files[0], files[0]})
		if got := problemsOf(t, err); !strings.Contains(got, `an authority named "release-key" stands at `+files[0]+":2 already") {
			t.Errorf("got %s", got)
		}
	})
	t.Run("fails for a trust file that is not there", func(t *testing.T) {
		if _, err := LoadTrust([]string{filepath.Join(dir, "absent.yaml")}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want %v", err, fs.ErrNotExist)
		}
	})
	t.Run("tells of a key file that is a directory", func(t *testing.T) {
		writeFiles(t, dir, map[string]string{"c.yaml": "authorities: [{name: x, cosign: {key_file: a}}]"})
		_, err := LoadTrust([]string{filepath.Join(dir, "c.yaml")})
		if got := problemsOf(t, err); !strings.Contains(got, "c.yaml:1:44: key_file: read ") {
			t.Errorf("got %s", got)
		}
	})
}

// A trusted root is read beside the file that names it, and an expression is taken for one; the thresholds are those of the public
// instance unless they are written.
func TestLoadKeyless(t *testing.T) {
	root, err := os.ReadFile("../configs/trusted_root.json")
	if err != nil {
		t.Fatal(err)
	}
	dir := writeFiles(t, t.TempDir(), map[string]string{
		"roots/public.json": string(root),
		"trust.yaml": `authorities:
  - {name: a, keyless: {issuer: "https://i.example", subject_regexp: "(?i)s@.+", trusted_root_file: roots/public.json}}
  - {name: b, keyless: {issuer_regexp: "https://i\\..+", subject: "s@i.example", trusted_root_file: roots/public.json, tlog: 0, sct: 0, tsa: 1}}
`,
	})
	got, files, err := loadTrust([]string{filepath.Join(dir, "trust.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	digest := oci.FromBytes(root)
	want := []gate.Authority{
		{Name: "a", Keyless: &gate.Keyless{
			Issuer: gate.Wording{Text: "https://i.example"}, Subject: gate.Wording{Text: "(?i)s@.+", Regexp: true},
			TrustedRoot: root, RootDigest: digest, Tlog: 1, SCT: 1,
		}},
		{Name: "b", Keyless: &gate.Keyless{
			Issuer: gate.Wording{Text: `https://i\..+`, Regexp: true}, Subject: gate.Wording{Text: "s@i.example"},
			TrustedRoot: root, RootDigest: digest, TSA: 1,
		}},
	}
	if diff := cmp.Diff(want, got.Authorities); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if path := filepath.Join(dir, "roots/public.json"); !slices.Contains(files, path) {
		t.Errorf("got files %v, want %s among them, to be watched", files, path)
	}
}

// leafCertificate returns a certificate that is neither an authority's nor signed by itself.
func leafCertificate(t testing.TB) []byte {
	t.Helper()
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: testNow, NotAfter: testNow.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ed25519Key(7), private)
	if err != nil {
		t.Fatal(err)
	}
	return block("CERTIFICATE", der)
}

// Certificates are read from several files, and identities attribute by attribute.
func TestLoadNotation(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"corp-ca.pem", "corp-tsa.pem"} {
		data, err := os.ReadFile("../configs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		writeFiles(t, dir, map[string]string{name: string(data), "both.pem": string(data) + "\n" + string(data)})
	}
	writeFiles(t, dir, map[string]string{"trust.yaml": `authorities:
  - {name: a, notation: {ca_files: [corp-ca.pem, both.pem], tsa_ca_files: [corp-tsa.pem], identities: ['x509.subject: CN=Re\,lease=1, o = Acme\\ Inc']}}
`})
	got, _, err := loadTrust([]string{filepath.Join(dir, "trust.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	n := got.Authorities[0].Notation
	if len(n.Roots) != 2 || len(n.TSARoots) != 1 {
		t.Errorf("got %d and %d certificates, want 2 and 1", len(n.Roots), len(n.TSARoots))
	}
	want := []gate.Name{{{Type: "CN", Value: "Re,lease=1"}, {Type: "O", Value: "Acme\\ Inc"}}}
	if diff := cmp.Diff(want, n.Identities); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
