package signing_test

import (
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
)

// program returns the path of a real client. Where it has to be there, that it is not is a failure.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("%s is not in PATH, and CI has to have it", name)
	}
	if err != nil {
		t.Skipf("%s is not in PATH; what it signs is not tried", name)
	}
	return path
}

// pushed returns a registry with one image.
func pushed(t *testing.T, noAPI bool) (*ocitest.Registry, oci.Descriptor) {
	t.Helper()
	remote, err := ocitest.StartRegistry(ocitest.Options{NoReferrers: noAPI})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remote.Close)
	image, err := remote.PushImage("acme/app", "v1", ocitest.Image{})
	if err != nil {
		t.Fatal(err)
	}
	return remote, image
}

// lookIn verifies what is wanted of an image in a registry.
func lookIn(t *testing.T, remote *ocitest.Registry, image oci.Descriptor, a gate.Authority, wanted gate.Wanted) gate.SignatureEvidence {
	t.Helper()
	v, err := signing.New(signing.Options{
		Registry: overHTTP(t, remote), Roots: func() *gate.TrustRoots { return &gate.TrustRoots{Authorities: []gate.Authority{a}} },
	})
	if err != nil {
		t.Fatal(err)
	}
	wanted.MediaType, wanted.SizeBytes = image.MediaType, image.Size
	got, err := v.Verify(t.Context(), gate.Candidate{Repository: oci.Repository{Upstream: remote.Host(), Path: "acme/app"}, Digest: image.Digest}, wanted)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// What the real notation signs counts, in both envelopes and both kinds of registries, for who signed and nobody else.
func TestRealNotation(t *testing.T) {
	client := program(t, "notation")
	for name, tc := range map[string]struct {
		noAPI bool
		flags []string
	}{
		"JWS":                    {false, []string{"--signature-format", "jws", "--force-referrers-tag=false"}},
		"COSE":                   {false, []string{"--signature-format", "cose", "--force-referrers-tag=false"}},
		"JWS, by fallback tag":   {true, []string{"--signature-format", "jws"}},
		"COSE, tag beside API":   {false, []string{"--signature-format", "cose"}},
		"JWS that expires later": {false, []string{"--signature-format", "jws", "--expiry", "24h"}},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			run := func(args ...string) {
				cmd := exec.CommandContext(t.Context(), client, args...)
				cmd.Env = []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, "PATH=" + home, "HTTP_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1"}
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("notation %s: %v\n%s", strings.Join(args, " "), err, out)
				}
			}
			run("cert", "generate-test", "--default", "release.test")
			encoded, err := os.ReadFile(filepath.Join(home, "notation", "localkeys", "release.test.crt"))
			if err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode(encoded)
			remote, image := pushed(t, tc.noAPI)
			run(slices.Concat([]string{"sign", "--insecure-registry"}, tc.flags, []string{remote.Host() + "/acme/app@" + image.Digest.String()})...)

			trust := gate.Notation{Roots: [][]byte{block.Bytes}, Identities: []gate.Name{{{Type: "CN", Value: "release.test"}, {Type: "O", Value: "Notary"}}}}
			wanted := gate.Wanted{Signatures: []string{"corp"}}
			got := lookIn(t, remote, image, gate.Authority{Name: "corp", Notation: &trust}, wanted)
			if len(got.Signatures) != 1 || got.Signatures[0].Format != "notation" || len(got.Rejections) != 0 {
				t.Errorf("got %v, want one signature", got)
			}
			trust.Identities = []gate.Name{{{Type: "CN", Value: "other.test"}}}
			if got := lookIn(t, remote, image, gate.Authority{Name: "corp", Notation: &trust}, wanted); len(got.Signatures) != 0 || !strings.Contains(whysOf(got), "which is not corp") {
				t.Errorf("for somebody else: got %v", got)
			}
		})
	}
}

// What the real cosign 2 signs and attests counts.
func TestRealCosign2(t *testing.T) {
	client := program(t, "cosign2")
	flags := []string{"--allow-http-registry", "--allow-insecure-registry", "--key", "import-cosign.key", "--tlog-upload=false", "--yes"}
	for name, noAPI := range map[string]bool{"with the API": false, "without the API": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "sbom.json"), []byte(`{"spdxVersion":"SPDX-2.3"}`), 0o600); err != nil {
				t.Fatal(err)
			}
			key := newP256(t)
			cosign(t, client, dir, "import-key-pair", "--key", writeKey(t, dir, key))
			remote, image := pushed(t, noAPI)
			ref := remote.Host() + "/acme/app@" + image.Digest.String()
			cosign(t, client, dir, slices.Concat([]string{"sign"}, flags, []string{ref})...)
			cosign(t, client, dir, slices.Concat([]string{"attest", "--predicate", "sbom.json", "--type", "spdxjson"}, flags, []string{ref})...)
			wanted := sboms("release")
			wanted.Signatures = []string{"release"}
			got := lookIn(t, remote, image, authorityOf(t, "release", key), wanted)
			if len(got.Signatures) != 1 || len(got.Attestations) != 1 || len(got.Rejections) != 0 {
				t.Errorf("got %v, want one signature and one attestation", got)
			}
		})
	}
}
