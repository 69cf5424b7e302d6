package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// TestCosign has an image signed and attested in the upstream by cosign itself, in both forms, and verifies it through the proxy: who
// checks signatures for himself still can. The policy asks for the signature too.
func TestCosign(t *testing.T) {
	t.Parallel()
	cosign, cosign2 := program(t, "cosign"), program(t, "cosign2")
	s := newSite(t, ocitest.Options{})
	u := newUser(t)
	u.mustRun(t, cosign, "generate-key-pair", "--output-key-prefix", "release")
	s.trust(t, u.path("release.pub"))
	u.write(t, "sbom.json", `{"spdxVersion": "SPDX-2.3"}`)
	u.write(t, "root.json", emptyTrustedRoot)
	bundle, legacy := s.push(t, "shop/bundle", shop(goodLodash)), s.push(t, "shop/legacy", shop(goodLodash, noise(1000, 1)))
	vulnerable := s.push(t, "shop/vulnerable", shop(badLodash))
	upstream := s.upstream.Host() + "/shop/"
	sign := []string{"--key", "release.key", "--tlog-upload=false", "--yes", "--allow-http-registry"}
	sign3 := append(sign, "--use-signing-config=false")
	attest := []string{"--predicate", "sbom.json", "--type", "spdxjson"}
	for _, run := range [][]string{
		join([]string{cosign, "sign"}, sign3, upstream+"bundle@"+bundle.Digest.String()),
		join([]string{cosign, "sign"}, sign3, upstream+"vulnerable@"+vulnerable.Digest.String()),
		join([]string{cosign, "attest"}, append(sign3, attest...), upstream+"bundle@"+bundle.Digest.String()),
		join([]string{cosign2, "sign"}, sign, upstream+"legacy@"+legacy.Digest.String()),
		join([]string{cosign2, "attest"}, append(sign, attest...), upstream+"legacy@"+legacy.Digest.String()),
	} {
		u.mustRun(t, run[0], run[1:]...)
	}
	p := s.serve(t)
	verify := []string{"--key", "release.pub", "--insecure-ignore-tlog=true", "--allow-http-registry"}
	plain := []string{"--allow-http-registry"}
	for _, tt := range []struct {
		law  string
		args []string
		want string
	}{
		{"cosign 3 verifies a bundle", join([]string{cosign, "verify"}, verify, p.ref("shop/bundle")), bundle.Digest.String()},
		{"cosign 3 verifies a signature in the tag form", join([]string{cosign, "verify"}, verify, p.ref("shop/legacy")), legacy.Digest.String()},
		{"cosign 3 verifies an attestation in a bundle", join([]string{cosign, "verify-attestation", "--type", "spdxjson"}, verify, p.ref("shop/bundle")), "payload"},
		{"cosign 3 verifies an attestation in the tag form", join([]string{cosign, "verify-attestation", "--type", "spdxjson"}, verify, p.ref("shop/legacy")), "payload"},
		{"cosign 3 downloads a signature", join([]string{cosign, "download", "signature"}, plain, p.ref("shop/legacy")), "Payload"},
		{"cosign 3 downloads an attestation", join([]string{cosign, "download", "attestation"}, plain, p.ref("shop/legacy")), "payload"},
		{"cosign 3 shows what belongs to an image", join([]string{cosign, "tree"}, plain, p.ref("shop/legacy")), "Signatures for an image"},
		{"cosign 2 verifies a signature in the tag form", join([]string{cosign2, "verify"}, verify, p.ref("shop/legacy")), legacy.Digest.String()},
		{"cosign 2 verifies an attestation in the tag form", join([]string{cosign2, "verify-attestation", "--type", "spdxjson"}, verify, p.ref("shop/legacy")), "payload"},
		{"cosign 2 verifies a bundle", join([]string{cosign2, "verify", "--new-bundle-format", "--trusted-root", "root.json"}, verify, p.ref("shop/bundle")), bundle.Digest.String()},
	} {
		t.Run(tt.law, func(t *testing.T) {
			if out := u.mustRun(t, tt.args[0], tt.args[1:]...); !strings.Contains(out, tt.want) {
				t.Errorf("got %q, want %q in it", out, tt.want)
			}
		})
	}
	for name, path := range map[string]string{"cosign 3 verify": cosign, "cosign 2 verify": cosign2} {
		t.Run(name+" of a denied image", func(t *testing.T) {
			args := join([]string{path, "verify"}, verify, p.ref("shop/vulnerable"))
			out, ok := u.run(args[0], args[1:]...)
			checkDenied(t, name, versionIn(t, u.mustRun(t, path, "version")), p, "shop/vulnerable", "1.0", out, ok)
		})
	}
}

// trust makes the site take the key of that file for a release key, beside its own.
func (s *site) trust(t *testing.T, publicKey string) {
	t.Helper()
	writeFile(t, s.path("trust.yaml"), fmt.Appendf(nil, "authorities:\n  - {name: release, cosign: {key_file: %q}}\n", publicKey))
}

// join returns a command line.
func join(command, options []string, args ...string) []string {
	return append(append(append([]string(nil), command...), options...), args...)
}

// TestNotation has an artifact signed in the upstream by notation and verifies it through the proxy.
func TestNotation(t *testing.T) {
	t.Parallel()
	notation := program(t, "notation")
	s, p := artifactsSite(t)
	u := newUser(t)
	version := versionIn(t, u.mustRun(t, notation, "version"))
	u.trustNotation(t, notation)
	for _, repo := range []string{"artifacts/app", "signed/app"} {
		image := s.push(t, repo, shop(goodLodash))
		u.mustRun(t, notation, "sign", "--insecure-registry", s.upstream.Host()+"/"+repo+"@"+image.Digest.String())
	}
	image, _ := s.upstream.Manifest("artifacts/app", "1.0")
	ref := p.registry + "/" + host + "/artifacts/app@" + image.Digest.String()
	if out := u.mustRun(t, notation, "verify", "--insecure-registry", ref); !strings.Contains(out, "Successfully verified signature") {
		t.Errorf("verify: %s", out)
	}
	if out := u.mustRun(t, notation, "list", "--insecure-registry", ref); !strings.Contains(out, "application/vnd.cncf.notary.signature") {
		t.Errorf("list: %s", out)
	}
	t.Run("of what is denied it learns who signed it, and nothing else", func(t *testing.T) {
		denied, _ := s.upstream.Manifest("signed/app", "1.0")
		if got := p.get(t, "/v2/"+host+"/signed/app/manifests/1.0"); got.status != 403 {
			t.Fatalf("the image is not denied: %d %s", got.status, got.body)
		}
		out := u.mustRun(t, notation, "verify", "--insecure-registry", p.registry+"/"+host+"/signed/app@"+denied.Digest.String())
		checkRow(t, pullTable, "notation verify", version, shown(out, "Successfully verified", p.registry, "PROXY"))
	})
}
