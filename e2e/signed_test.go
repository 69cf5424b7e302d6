package e2e_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// bundleType is what cosign calls its bundles by.
const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// signers are the programs of both generations of cosign and the forms they sign in.
var signers = []struct {
	name, program string
	// sign are the options that make it sign in that form, without anybody else's services.
	sign []string
	// verify are those it verifies its own signature with.
	verify []string
	// shows says that it lists and hands out what is stored in that form: cosign 2 knows no bundles there.
	shows bool
	// row is the line in docs/clients.md that says how it shows a refusal; empty if another of these does.
	row string
}{
	{"cosign 3, bundle", "cosign", []string{"--use-signing-config=false", "--tlog-upload=false"}, nil, true, "cosign 3 sign"},
	{"cosign 3, tag form", "cosign", []string{"--use-signing-config=false", "--tlog-upload=false", "--new-bundle-format=false"}, nil, true, ""},
	{"cosign 2, tag form", "cosign2", []string{"--tlog-upload=false"}, nil, true, "cosign 2 sign"},
	{"cosign 2, bundle", "cosign2", []string{"--tlog-upload=false", "--new-bundle-format"}, []string{"--new-bundle-format", "--trusted-root", "root.json"}, false, ""},
}

// TestSigning follows an image that has to be signed: it is served once somebody has signed it who may do nothing else.
func TestSigning(t *testing.T) {
	t.Parallel()
	for i, c := range signers {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cosign, crane := program(t, c.program), program(t, "crane")
			s := hostedSite(t)
			s.fixAddress(t, i)
			image := s.push(t, "shop/web", shop(goodLodash))
			keyOwner := newUser(t)
			keyOwner.mustRun(t, cosign, "generate-key-pair", "--output-key-prefix", "release")
			keyOwner.write(t, "sbom.json", `{"spdxVersion": "SPDX-2.3"}`)
			s.trust(t, keyOwner.path("release.pub"))
			p := s.serve(t)
			const repo = "apps/signed/web"
			ref := p.registry + "/" + repo + "@" + image.Digest.String()
			sign := func(u *user, key, verb string, options ...string) (out string, ok bool) {
				args := []string{verb, "--key", keyOwner.path(key), "--allow-http-registry", "--yes"}
				return u.run(cosign, slices.Concat(args, c.sign, options, []string{ref})...)
			}
			for _, step := range []struct {
				law string
				do  func() (out string, ok bool)
				// want is how anybody's request for the image is answered then.
				want int
			}{
				{"pushed", func() (string, bool) {
					return p.member(t, "ci").run(crane, "copy", "--insecure", s.upstream.Host()+"/shop/web:1.0", p.hosted(repo))
				}, http.StatusForbidden},
				{"signed", func() (string, bool) { return sign(p.member(t, "signer"), "release.key", "sign") }, http.StatusOK},
				{"attested", func() (string, bool) {
					return sign(p.member(t, "signer"), "release.key", "attest", "--predicate", keyOwner.path("sbom.json"), "--type", "spdxjson")
				}, http.StatusOK},
			} {
				if out, ok := step.do(); !ok {
					t.Fatalf("%s: %s", step.law, out)
				}
				if got := p.status(t, repo, "1.0"); got != step.want {
					t.Errorf("%s: status %d, want %d", step.law, got, step.want)
				}
			}
			if got := p.checkServed(t, repo, "1.0"); got != image.Digest {
				t.Errorf("served is %s, want %s", got, image.Digest)
			}
			public := slices.Concat(c.verify, []string{"--key", keyOwner.path("release.pub"), "--insecure-ignore-tlog=true"})
			checkEvidence(t, cosign, ref, public, c.shows)
			keyOwner.mustRun(t, cosign, "generate-key-pair", "--output-key-prefix", "other") // with the same one there would be nothing to push
			if out, ok := sign(p.member(t, "reader"), "other.key", "sign"); c.row != "" {
				checkRefused(t, c.row, versionIn(t, newUser(t).mustRun(t, cosign, "version")), out, ok, p.registry, "PROXY")
			}
		})
	}
}

// checkEvidence has somebody without a name look, with cosign, at a signature and an attestation. public are the options that check
// them.
func checkEvidence(t *testing.T, cosign, ref string, public []string, shows bool) {
	t.Helper()
	anybody := newUser(t)
	anybody.write(t, "root.json", emptyTrustedRoot)
	type look struct {
		args []string
		want string
	}
	looks := []look{
		{slices.Concat([]string{"verify"}, public), `"critical"`},
		{slices.Concat([]string{"verify-attestation", "--type", "spdxjson"}, public), `"payload"`},
	}
	if shows {
		looks = append(looks, look{[]string{"tree"}, "🍒"}, look{[]string{"download", "signature"}, "ayload"}, look{[]string{"download", "attestation"}, "payload"})
	}
	for _, l := range looks {
		if out, ok := anybody.run(cosign, append(l.args, "--allow-http-registry", ref)...); !ok || !strings.Contains(out, l.want) {
			t.Errorf("cosign %s: want %q in\n%s", strings.Join(l.args, " "), l.want, out)
		}
	}
}

// emptyTrustedRoot is what cosign 2 asks for with a bundle, whatever verifies it.
const emptyTrustedRoot = `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`

// TestSignedName has an image signed in the form that says what the registry was called. It counts if that is one of listen.names.
func TestSignedName(t *testing.T) {
	t.Parallel()
	s := hostedSite(t)
	s.config["listen"].(keys)["names"] = []string{"registry.corp"}
	image := s.push(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	ci := pusher{t, p, "ci"}
	ci.image(s.upstream, "shop/web", image.Digest, "apps/signed/web", "1.0")
	for _, tt := range []struct { // one after the other: signatures add up
		signed string
		want   int
	}{
		{"registry.corp/apps/signed/other", http.StatusForbidden},
		{"registry.corp:5000/apps/signed/web", http.StatusForbidden},
		{"elsewhere.corp/apps/signed/web", http.StatusForbidden},
		{"registry.corp/apps/signed/web", http.StatusOK},
	} {
		t.Run(tt.signed, func(t *testing.T) {
			signature, err := s.upstream.SignLegacy("shop/web", image.Digest, s.release, tt.signed, ocitest.Mint{})
			if err != nil {
				t.Fatal(err)
			}
			ci.image(s.upstream, "shop/web", signature.Digest, "apps/signed/web", "sha256-"+image.Digest.Encoded()+".sig")
			if got := p.status(t, "apps/signed/web", "1.0"); got != tt.want {
				t.Errorf("status %d, want %d", got, tt.want)
			}
		})
	}
}

// TestParallelSigners has eight people sign an image at once, each with a key of his own. No signature is lost, whichever form it has:
// as many are listed as were made, cosign hands out as many, and accepts each. To those who sign that is so at once, to everybody else
// when what the tag has come to stand for was admitted.
func TestParallelSigners(t *testing.T) {
	t.Parallel()
	const people = 8
	crane := program(t, "crane")
	s := hostedSite(t)
	image := s.push(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	ci, signer := p.member(t, "ci"), p.member(t, "signer")
	for i := range people {
		signer.mustRun(t, program(t, "cosign"), "generate-key-pair", "--output-key-prefix", fmt.Sprint("key", i))
	}
	bundles := func(_ pusher, repo string) int { return len(p.referrers(t, repo, image.Digest, bundleType)) }
	layersOf := func(suffix string) func(u pusher, repo string) int {
		return func(u pusher, repo string) int {
			answer := u.must(http.StatusOK, "GET", "/v2/"+repo+"/manifests/sha256-"+image.Digest.Encoded()+suffix, nil)
			m, err := oci.ParseManifest(oci.MediaTypeImage, answer.body)
			if err != nil {
				t.Fatal(err)
			}
			return len(m.Layers)
		}
	}
	cosign3 := []string{"--use-signing-config=false", "--tlog-upload=false"}
	cosign3Tag := append(cosign3[:2:2], "--new-bundle-format=false")
	attest := []string{"--predicate", "sbom.json", "--type", "spdxjson"}
	signer.write(t, "sbom.json", `{"spdxVersion": "SPDX-2.3"}`)
	for _, tt := range []struct {
		name, program, verb string
		options             []string
		count               func(u pusher, repo string) int
		verify, download    []string
	}{
		{"bundles", "cosign", "sign", cosign3, bundles, []string{"verify"}, []string{"download", "signature"}},
		{"signatures-in-a-tag", "cosign", "sign", cosign3Tag, layersOf(".sig"), []string{"verify"}, []string{"download", "signature"}},
		{"signatures-in-a-tag-by-cosign-2", "cosign2", "sign", cosign3[1:], layersOf(".sig"), []string{"verify"}, []string{"download", "signature"}},
		{"attestations-in-a-tag", "cosign", "attest", slices.Concat(cosign3Tag, attest), layersOf(".att"), []string{"verify-attestation", "--type", "spdxjson"}, []string{"download", "attestation"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cosign, repo := program(t, tt.program), "apps/open/"+tt.name
			ref := p.registry + "/" + repo + "@" + image.Digest.String()
			ci.mustRun(t, crane, "copy", "--insecure", s.upstream.Host()+"/shop/web:1.0", p.hosted(repo))
			var signing sync.WaitGroup
			for i := range people {
				signing.Go(func() {
					args := slices.Concat([]string{tt.verb, "--key", fmt.Sprintf("key%d.key", i), "--allow-http-registry", "--yes"}, tt.options, []string{ref})
					if out, ok := signer.run(cosign, args...); !ok {
						t.Errorf("signer %d: %s", i, out)
					}
				})
			}
			signing.Wait()
			if got := tt.count(pusher{t, p, "signer"}, repo); got != people {
				t.Errorf("%d are listed, want %d", got, people)
			}
			eventually(t, "everybody is shown all of them", func() bool { return tt.count(pusher{t, p, ""}, repo) == people })
			out := signer.mustRun(t, cosign, append(tt.download, "--allow-http-registry", ref)...)
			if got := strings.Count(out, "ayload\":"); got != people {
				t.Errorf("cosign hands out %d, want %d:\n%s", got, people, out)
			}
			for i := range people {
				key := []string{"--key", fmt.Sprintf("key%d.pub", i), "--insecure-ignore-tlog=true", "--allow-http-registry", ref}
				if out, ok := signer.run(cosign, append(tt.verify, key...)...); !ok {
					t.Errorf("of signer %d: %s", i, out)
				}
			}
		})
	}
}

// TestNotationSigns signs an image where it is hosted, by the API of referrers and by the tag that stands in for it.
func TestNotationSigns(t *testing.T) {
	t.Parallel()
	notation, crane := program(t, "notation"), program(t, "crane")
	s := hostedSite(t)
	image := s.push(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	ci, signer := p.member(t, "ci"), p.member(t, "signer")
	signer.trustNotation(t, notation)
	for _, way := range []string{"true", "false"} {
		t.Run("--force-referrers-tag="+way, func(t *testing.T) {
			repo := "apps/open/notation-" + way
			ref := p.registry + "/" + repo + "@" + image.Digest.String()
			ci.mustRun(t, crane, "copy", "--insecure", s.upstream.Host()+"/shop/web:1.0", p.hosted(repo))
			for range 2 { // the second time notation takes away the list the first one left
				signer.mustRun(t, notation, "sign", "--insecure-registry", "--force-referrers-tag="+way, ref)
			}
			if out := signer.mustRun(t, notation, "verify", "--insecure-registry", ref); !strings.Contains(out, "Successfully verified signature") {
				t.Errorf("verify: %s", out)
			}
			if out := signer.mustRun(t, notation, "list", "--insecure-registry", ref); strings.Count(out, "sha256:") != 3 {
				t.Errorf("it lists other than the image and two signatures:\n%s", out)
			}
		})
	}
	reader := p.member(t, "reader")
	reader.trustNotation(t, notation)
	out, ok := reader.run(notation, "sign", "--insecure-registry", p.registry+"/apps/open/notation-true@"+image.Digest.String())
	checkRefused(t, "notation sign", versionIn(t, reader.mustRun(t, notation, "version")), out, ok, p.registry, "PROXY", "open/notation-true", "web")
}

// trustNotation gives the user a key of his own for notation, and has him trust it.
func (u *user) trustNotation(t *testing.T, notation string) {
	t.Helper()
	u.mustRun(t, notation, "cert", "generate-test", "--default", "release.test")
	u.write(t, ".config/notation/trustpolicy.json", `{"version": "1.0", "trustPolicies": [{"name": "all", "registryScopes": ["*"],
		"signatureVerification": {"level": "strict"}, "trustStores": ["ca:release.test"], "trustedIdentities": ["*"]}]}`)
}
