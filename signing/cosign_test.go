package signing_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// overHTTP returns a registry on loopback as an upstream.
func overHTTP(t *testing.T, r *ocitest.Registry) signing.Registry {
	t.Helper()
	registries, err := upstream.New([]upstream.Config{{Host: r.Host(), URL: r.URL(), UnsafePrivateAddresses: true}}, upstream.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registries.Close)
	return registries
}

// findCosign returns the path of the real client. Where it has to be there, that it is not is a failure.
func findCosign(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("cosign")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("cosign is not in PATH, and CI has to have it")
	}
	if err != nil {
		t.Skip("cosign is not in PATH; signatures of the real client are not tried")
	}
	return path
}

// cosign runs the real client in dir, with an empty home and no way out.
func cosign(t *testing.T, path, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"HOME=" + dir, "COSIGN_PASSWORD=", "COSIGN_EXPERIMENTAL=1", "PATH=" + dir,
		"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1",
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cosign %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// writeKey stores s as a PEM file and returns its path.
func writeKey(t *testing.T, dir string, s signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(s.private)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "plain.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// offline makes cosign write to a plain registry and to nothing else.
func offline(command string, flags ...string) []string {
	return append([]string{
		command, "--allow-http-registry", "--allow-insecure-registry", "--key", "import-cosign.key", "--use-signing-config=false",
		"--tlog-upload=false", "--yes",
	}, flags...)
}

// What the real cosign writes is what is read: in both formats, by every kind of key it can sign with, in registries with and
// without the referrers API. What it calls an attestation is none.
func TestRealCosign(t *testing.T) {
	client := findCosign(t)
	p256, p384, ed := newP256(t), newECDSA(t, elliptic.P384(), crypto.SHA384), newEd25519(t, 0)
	bundle, legacy := offline("sign"), offline("sign", "--new-bundle-format=false")
	attest := offline("attest", "--predicate", "sbom.json", "--type", "spdxjson")
	for name, tc := range map[string]struct {
		key     signer
		noAPI   bool
		command []string
		onTag   bool   // stored under the .sig tag
		format  string // of the signature; empty when it is none
		why     string
	}{
		"bundle":                     {p256, false, bundle, false, "sigstore-bundle", ""},
		"bundle by fallback tag":     {p256, true, bundle, false, "sigstore-bundle", ""},
		"bundle by P-384":            {p384, false, bundle, false, "sigstore-bundle", ""},
		"bundle by P-521":            {newECDSA(t, elliptic.P521(), crypto.SHA512), false, bundle, false, "sigstore-bundle", ""},
		"bundle by RSA":              {newRSA(t, 2048), false, bundle, false, "sigstore-bundle", ""},
		"legacy":                     {p256, false, legacy, true, "cosign-legacy", ""},
		"legacy by P-384":            {p384, true, legacy, true, "cosign-legacy", ""},
		"legacy by Ed25519":          {ed, true, legacy, true, "cosign-legacy", ""},
		"legacy by RSA":              {newRSA(t, 3072), false, legacy, true, "cosign-legacy", ""},
		"legacy as a referrer":       {p256, false, slices.Concat(legacy, []string{"--registry-referrers-mode=oci-1-1"}), false, "cosign-legacy", ""},
		"attestation is none":        {p256, false, attest, false, "", `attestation of type "https://spdx.dev/Document"`},
		"by fallback tag is none":    {p256, true, attest, false, "", `attestation of type "https://spdx.dev/Document"`},
		"legacy attestation is none": {p256, false, slices.Concat(attest, []string{"--new-bundle-format=false"}), false, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "sbom.json"), []byte(`{"spdxVersion":"SPDX-2.3"}`), 0o600); err != nil {
				t.Fatal(err)
			}
			cosign(t, client, dir, "import-key-pair", "--key", writeKey(t, dir, tc.key))
			remote, err := ocitest.StartRegistry(ocitest.Options{NoReferrers: tc.noAPI})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(remote.Close)
			image, err := remote.PushImage("acme/app", "v1", ocitest.Image{})
			if err != nil {
				t.Fatal(err)
			}
			cosign(t, client, dir, slices.Concat(tc.command, []string{remote.Host() + "/acme/app@" + image.Digest.String()})...)

			v, err := signing.New(signing.Options{
				Registry: overHTTP(t, remote),
				Roots: func() *gate.TrustRoots {
					return &gate.TrustRoots{Authorities: []gate.Authority{authorityOf(t, "release", tc.key), authorityOf(t, "stranger", newP256(t))}}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			c := gate.Candidate{Repository: oci.Repository{Upstream: remote.Host(), Path: "acme/app"}, Digest: image.Digest}
			got, err := v.Verify(t.Context(), c, gate.Wanted{Signatures: []string{"release", "stranger"}})
			if err != nil {
				t.Fatal(err)
			}
			if tc.format == "" {
				if len(got.Signatures) != 0 || !strings.Contains(whysOf(got), tc.why) {
					t.Errorf("got %v, want a rejection about %q", got, tc.why)
				}
				return
			}
			if _, onTag := remote.Manifest("acme/app", "sha256-"+image.Digest.Encoded()+".sig"); onTag != tc.onTag {
				t.Fatalf("a .sig tag: got %v, want %v; the client stored the signature in another way than was to be tried", onTag, tc.onTag)
			}
			if len(got.Signatures) != 1 || got.Signatures[0].Format != tc.format || got.Signatures[0].Authority != "release" || len(got.Rejections) != 0 {
				t.Errorf("got %v, want one signature by release as %s", got, tc.format)
			}
		})
	}
}

// What the real cosign attests is read as an attestation of its type, in both formats and both kinds of registries.
func TestRealCosignAttestations(t *testing.T) {
	client := findCosign(t)
	attest := offline("attest", "--predicate", "sbom.json", "--type", "spdxjson")
	legacy := slices.Concat(attest, []string{"--new-bundle-format=false"})
	vex := offline("attest", "--predicate", "vex.json", "--type", "openvex")
	for name, tc := range map[string]struct {
		noAPI   bool
		command []string
		format  string
	}{
		"bundle":                 {false, attest, "sigstore-bundle"},
		"bundle by fallback tag": {true, attest, "sigstore-bundle"},
		"legacy":                 {false, legacy, "dsse-envelope"},
		"VEX":                    {false, vex, "sigstore-bundle"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range map[string]string{"sbom.json": `{"spdxVersion":"SPDX-2.3"}`, "vex.json": stating(`[]`)} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			key := newP256(t)
			cosign(t, client, dir, "import-key-pair", "--key", writeKey(t, dir, key))
			remote, err := ocitest.StartRegistry(ocitest.Options{NoReferrers: tc.noAPI})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(remote.Close)
			image, err := remote.PushImage("acme/app", "v1", ocitest.Image{})
			if err != nil {
				t.Fatal(err)
			}
			cosign(t, client, dir, slices.Concat(tc.command, []string{remote.Host() + "/acme/app@" + image.Digest.String()})...)
			v, err := signing.New(signing.Options{
				Registry: overHTTP(t, remote),
				Roots: func() *gate.TrustRoots {
					return &gate.TrustRoots{Authorities: []gate.Authority{authorityOf(t, "release", key)}}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			c := gate.Candidate{Repository: oci.Repository{Upstream: remote.Host(), Path: "acme/app"}, Digest: image.Digest}
			wanted := sboms("release")
			wanted.Signatures, wanted.VEX = []string{"release"}, []string{"release"}
			got, err := v.Verify(t.Context(), c, wanted)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Signatures) != 0 || len(got.Rejections) != 0 {
				t.Errorf("got %v", got)
			}
			if name == "VEX" {
				if len(got.VEX) != 1 || got.VEX[0].Status != gate.VEXNotAffected {
					t.Errorf("got %v, want one statement", got.VEX)
				}
				return
			}
			if len(got.Attestations) != 1 || got.Attestations[0].By.Format != tc.format || !strings.Contains(string(got.Attestations[0].Predicate), "SPDX-2.3") {
				t.Errorf("got %v, want one as %s", got.Attestations, tc.format)
			}
		})
	}
}
