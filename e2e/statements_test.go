package e2e_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

const summaryType = "https://slsa.dev/verification_summary/v1"

// states has the site state its verdicts, and returns the public half of its key.
func (s *site) states(t *testing.T, more keys) (public []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, s.path("own.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	s.config["statements"] = keys{"key_file": s.path("own.key"), "verifier": "https://gate.example/tidewaiter"}
	for key, value := range more {
		s.config["statements"].(keys)[key] = value
	}
	if der, err = x509.MarshalPKIXPublicKey(private.Public()); err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// TestStatements has clients check, with nothing but our key, that images passed here, and not any more once one does not.
func TestStatements(t *testing.T) {
	t.Parallel()
	cosign, oras, crane, regctl := program(t, "cosign"), program(t, "oras"), program(t, "crane"), program(t, "regctl")
	s := newSite(t, ocitest.Options{})
	public := s.states(t, nil)
	good := s.pushSigned(t, "shop/good", shop(goodLodash))
	s.pushSigned(t, "shop/vulnerable", shop(badLodash))
	p := s.serve(t)
	u := newUser(t)
	u.write(t, "own.pub", string(public))
	verify := func(repo string) (string, bool) {
		return u.run(cosign, "verify-attestation", "--key", "own.pub", "--insecure-ignore-tlog=true", "--allow-http-registry", "--type", summaryType, p.ref(repo))
	}
	referrers := "/v2/" + host + "/shop/good/referrers/" + good.Digest.String()
	ours := func() (all []oci.Descriptor) {
		t.Helper()
		r := p.get(t, referrers)
		if r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.body)
		}
		m, err := oci.ParseManifest(oci.MediaTypeIndex, r.body)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range m.Manifests {
			if d.Annotations["dev.sigstore.bundle.predicateType"] == summaryType {
				all = append(all, d)
			}
		}
		return all
	}
	p.mustPull(t, "shop/good")
	t.Run("cosign accepts the statement about an admitted image", func(t *testing.T) {
		if out, ok := verify("shop/good"); !ok || !strings.Contains(out, "payload") {
			t.Errorf("got %s", out)
		}
	})
	t.Run("cosign is refused a denied image", func(t *testing.T) {
		if out, ok := verify("shop/vulnerable"); ok {
			t.Errorf("got %s", out)
		}
	})
	first := ours()
	if len(first) != 1 {
		t.Fatalf("got %d statements, want one", len(first))
	}
	manifest := "/v2/" + host + "/shop/good/manifests/" + first[0].Digest.String()
	t.Run("other clients list and fetch it", func(t *testing.T) {
		for _, args := range [][]string{
			{oras, "discover", "--plain-http", "--format", "json", p.ref("shop/good")},
			{regctl, "artifact", "list", "--host", "reg=" + p.registry + ",tls=disabled", p.ref("shop/good")},
		} {
			if out := u.mustRun(t, args[0], args[1:]...); !strings.Contains(out, first[0].Digest.String()) {
				t.Errorf("%v: got %s", args, out)
			}
		}
		if out := u.mustRun(t, crane, "manifest", "--insecure", p.registry+"/"+host+"/shop/good@"+first[0].Digest.String()); !strings.Contains(out, good.Digest.String()) {
			t.Errorf("crane: got %s", out)
		}
		u.mustRun(t, oras, "copy", "--from-plain-http", "--recursive", "--to-oci-layout", p.ref("shop/good"), "layout:1.0")
	})
	t.Run("a verdict that is remembered is stated once", func(t *testing.T) {
		for range 3 {
			p.mustPull(t, "shop/good")
		}
		if again := ours(); len(again) != 1 || again[0].Digest != first[0].Digest {
			t.Errorf("got %v, want %s", again, first[0].Digest)
		}
		if n := p.metric(t, "tidewaiter_statements_total", `outcome="passed"`); n != 1 {
			t.Errorf("stated %v times, want once", n)
		}
	})
	p.kill()
	p = s.serve(t)
	t.Run("a process that is killed takes nothing with it", func(t *testing.T) {
		if again := ours(); len(again) != 1 || again[0].Digest != first[0].Digest {
			t.Errorf("got %v, want %s", again, first[0].Digest)
		}
	})
	t.Run("it is superseded when the verdict changes", func(t *testing.T) {
		s.replaceAdvisories(t, p, append(advisories(), ocitest.Advisory{
			Bucket: "npm::GitHub Security Advisory npm", Source: "ghsa", Package: "lodash", ID: "CVE-2026-0001", Severity: "critical",
			Vulnerable: []string{"<4.17.22"}, Patched: []string{"4.17.22"}, Title: "Another one",
		}))
		if r := p.get(t, manifest); r.status != http.StatusNotFound { // though nobody has asked for the image since
			t.Errorf("the statement: got %d %s", r.status, r.body)
		}
		if got := ours(); len(got) != 0 {
			t.Errorf("listed: %v", got)
		}
		if out, ok := verify("shop/good"); ok {
			t.Errorf("cosign: got %s", out)
		}
	})
	t.Run("and made again when it passes again", func(t *testing.T) {
		s.replaceAdvisories(t, p, append(advisories(), ocitest.Advisory{
			Bucket: "npm::GitHub Security Advisory npm", Source: "ghsa", Package: "left-pad", ID: "CVE-2026-0002", Severity: "low",
			Vulnerable: []string{"<1.0.0"}, Patched: []string{"1.0.0"}, Title: "Something else",
		}))
		if out, ok := verify("shop/good"); !ok {
			t.Errorf("cosign: got %s", out)
		}
		if got := ours(); len(got) != 1 || got[0].Digest == first[0].Digest {
			t.Errorf("listed: %v", got)
		}
	})
}

// TestStatementsOfHostedImages states verdicts on what is pushed here. Saying something about an image has it not judged anew, and whoever
// pushes what was said changes nothing.
func TestStatementsOfHostedImages(t *testing.T) {
	t.Parallel()
	cosign := program(t, "cosign")
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	public := s.states(t, nil)
	image := s.push(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	ci, nobody := pusher{t, p, "ci"}, pusher{t, p, ""}
	ci.image(s.upstream, "shop/web", image.Digest, "apps/web", "1.0")
	u := newUser(t)
	u.write(t, "own.pub", string(public))
	verify := func() (string, bool) {
		return u.run(cosign, "verify-attestation", "--key", "own.pub", "--insecure-ignore-tlog=true", "--allow-http-registry", "--type", summaryType, p.registry+"/apps/web@"+image.Digest.String())
	}
	if out, ok := verify(); ok {
		t.Errorf("nobody has signed it yet: got %s", out)
	}
	ci.signed(s, "shop/web", image.Digest, "apps/web", s.release)
	nobody.must(200, "GET", "/v2/apps/web/manifests/1.0", nil)
	if out, ok := verify(); !ok {
		t.Errorf("got %s", out)
	}
	all := referrersOf(nobody, "apps/web", image.Digest)
	if len(all) != 2 {
		t.Fatalf("got %v, want the signature and what we say", all)
	}
	own := nobody.must(200, "GET", "/v2/apps/web/manifests/"+all[0], nil)
	p.settle(t)
	judged := p.log.count(verdicts(image.Digest.String()))
	content := oci.Content{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes(own.body), Raw: own.body}
	ci.manifest("apps/web", content.Digest.String(), content)
	for range 3 {
		nobody.must(200, "GET", "/v2/apps/web/manifests/1.0", nil)
		if again := referrersOf(nobody, "apps/web", image.Digest); len(again) != 2 || again[0] != all[0] {
			t.Errorf("got %v, want %v", again, all)
		}
	}
	p.settle(t)
	if again := p.log.count(verdicts(image.Digest.String())); again != judged {
		t.Errorf("judged %d times, want %d", again, judged)
	}
	ci.must(202, "DELETE", "/v2/apps/web/manifests/"+all[1], nil)
	nobody.must(403, "GET", "/v2/apps/web/manifests/1.0", nil)
	nobody.must(404, "GET", "/v2/apps/web/manifests/"+all[0], nil)
	if r := ci.send("PUT", "/v2/apps/web/manifests/"+content.Digest.String(), bytes.NewReader(content.Raw), "Content-Type", content.MediaType); r.status != 201 {
		t.Errorf("pushing what was taken back: got %d %s", r.status, r.body)
	}
	nobody.must(404, "GET", "/v2/apps/web/manifests/"+all[0], nil)
	if out, ok := verify(); ok {
		t.Errorf("the signature is gone: got %s", out)
	}
}

// TestWhatDidNotPass has cosign look at an image that is let through with a warning. It takes a statement that the image failed for a good
// one, unless it is told to look at the result; where failures are not stated it finds nothing.
func TestWhatDidNotPass(t *testing.T) {
	t.Parallel()
	cosign := program(t, "cosign")
	for name, failures := range map[string]bool{"failures stated": true, "failures not stated": false} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, ocitest.Options{})
			public := s.states(t, keys{"failures": failures})
			replaceFile(t, s.path("policy.yaml"), []byte(strings.Replace(strictPolicy, "on_fail: quarantine", "mode: warn", 1)))
			s.pushSigned(t, "shop/good", shop(goodLodash))
			s.pushSigned(t, "shop/vulnerable", shop(badLodash))
			p := s.serve(t)
			u := newUser(t)
			u.write(t, "own.pub", string(public))
			u.write(t, "passed.cue", `predicate: verificationResult: "PASSED"`)
			for _, tt := range []struct {
				repo   string
				policy []string
				want   bool
			}{
				{"shop/good", nil, true}, {"shop/good", []string{"--policy", "passed.cue"}, true},
				{"shop/vulnerable", nil, failures}, {"shop/vulnerable", []string{"--policy", "passed.cue"}, false},
			} {
				args := []string{"verify-attestation", "--key", "own.pub", "--insecure-ignore-tlog=true", "--allow-http-registry", "--type", summaryType, p.ref(tt.repo)}
				if out, ok := u.run(cosign, append(args, tt.policy...)...); ok != tt.want {
					t.Errorf("%s, %v: got %t, want %t:\n%s", tt.repo, tt.policy, ok, tt.want, out)
				}
			}
		})
	}
}

// chainPolicy asks for nothing but the word of the other proxy.
const chainPolicy = `policies:
  - name: chained
    match: {repositories: ["**"]}
    require:
      attestations:
        - {any_of: [tidewaiter], vsa: {verifier: "https://gate.example/tidewaiter"}}
`

// TestChainedProxies has one proxy go by what another states, through which it pulls.
func TestChainedProxies(t *testing.T) {
	t.Parallel()
	for name, failures := range map[string]bool{"failures stated": true, "failures not stated": false} {
		t.Run(name, func(t *testing.T) {
			first := newSite(t, ocitest.Options{})
			public := first.states(t, keys{"failures": failures})
			replaceFile(t, first.path("policy.yaml"), []byte(strings.Replace(strictPolicy, "policies:\n", `policies:
  - name: lenient
    match: {repositories: ["*/shop/warned"]}
    mode: warn
    require: {signatures: {any_of: [release]}}
    vulnerabilities: {deny_at: high, only_fixable: true}
`, 1)))
			first.pushSigned(t, "shop/good", shop(goodLodash))
			first.pushSigned(t, "shop/warned", shop(badLodash))
			first.pushSigned(t, "shop/denied", shop(badLodash, noise(1000, 1)))
			a := first.serve(t)

			second := newSite(t, ocitest.Options{})
			second.upstreamKeys()["url"] = "http://" + a.registry
			replaceFile(t, second.path("policy.yaml"), []byte(chainPolicy))
			writeFile(t, second.path("own.pub"), public)
			replaceFile(t, second.path("trust.yaml"), []byte("authorities:\n  - {name: tidewaiter, cosign: {key_file: own.pub}}\n"))
			b := second.serve(t)

			b.mustPull(t, "shop/good")
			why := "no attestation of type"
			if failures {
				why = `says "FAILED"`
			}
			if got := b.pull(t, "shop/warned"); got.status != http.StatusForbidden || !strings.Contains(got.message, why) {
				t.Errorf("let through there with a warning: got %+v, want a refusal for %q", got, why)
			}
			if got := b.pull(t, "shop/denied"); got.status == http.StatusOK {
				t.Errorf("denied there: got %+v", got)
			}
		})
	}
}
