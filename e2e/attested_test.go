package e2e_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// attestedPolicy asks for a provenance besides what [strictPolicy] asks for, and lets the signer's VEX excuse findings.
const attestedPolicy = `policies:
  - name: production
    match: {repositories: ["**"]}
    on_fail: quarantine
    require:
      signatures: {any_of: [release]}
      attestations:
        - {any_of: [release], slsa: {builder: "https://builder.example", source: "https://git.example/shop"}, cel: "has(predicate.runDetails.metadata)"}
    vulnerabilities: {deny_at: high, only_fixable: true}
    vex: {any_of: [release]}
`

// provenanceFrom returns a SLSA provenance, version 1, of a build from a source.
func provenanceFrom(source string) ocitest.Statement {
	return ocitest.Statement{PredicateType: "https://slsa.dev/provenance/v1", Predicate: keys{
		"buildDefinition": keys{"buildType": "https://builder.example/type", "externalParameters": keys{"source": "git+" + source + "@refs/tags/v1"}},
		"runDetails":      keys{"builder": keys{"id": "https://builder.example"}, "metadata": keys{"invocationId": "1"}},
	}}
}

// An image needs the provenance a policy asks for, in either form, and is excused by a signed statement from exactly the finding that
// statement names. Whoever is not trusted for either changes nothing.
func TestAttestedAndExcused(t *testing.T) {
	t.Parallel()
	s := newSite(t, ocitest.Options{})
	replaceFile(t, s.path("policy.yaml"), []byte(attestedPolicy))
	attest := func(repo string, image oci.Descriptor, key *ocitest.Key, st ocitest.Statement, legacy bool) {
		t.Helper()
		var err error
		if legacy {
			_, err = s.upstream.AttestLegacy(repo, image.Digest, key, st, ocitest.Mint{})
		} else {
			_, err = s.upstream.SignBundle(repo, image.Digest, key, st, ocitest.Mint{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	vex := ocitest.Statement{PredicateType: "https://openvex.dev/ns/v0.2.0", Predicate: keys{
		"@context": "https://openvex.dev/ns/v0.2.0", "timestamp": "2026-01-01T00:00:00Z",
		"statements": []any{keys{
			"vulnerability": keys{"name": "CVE-2019-10744"}, "status": "not_affected", "justification": "vulnerable_code_not_in_execute_path",
			"products": []any{keys{"@id": "pkg:npm/lodash@" + badLodash}},
		}},
	}}
	const source = "https://git.example/shop"
	image := func(repo string, seed uint64, lodash string) oci.Descriptor {
		return s.pushSigned(t, repo, shop(lodash, noise(1000, seed)))
	}
	image("shop/bare", 1, goodLodash)
	bundled := image("shop/bundled", 2, goodLodash)
	attest("shop/bundled", bundled, s.release, provenanceFrom(source), false)
	legacy := image("shop/legacy", 3, goodLodash)
	attest("shop/legacy", legacy, s.release, provenanceFrom(source), true)
	elsewhere := image("shop/elsewhere", 4, goodLodash)
	attest("shop/elsewhere", elsewhere, s.release, provenanceFrom("https://git.example/evil"), false)
	strange := image("shop/strange", 5, goodLodash)
	attest("shop/strange", strange, s.stranger, provenanceFrom(source), false)
	excused := image("shop/excused", 6, badLodash)
	attest("shop/excused", excused, s.release, provenanceFrom(source), false)
	attest("shop/excused", excused, s.release, vex, false)
	unexcused := image("shop/unexcused", 7, badLodash)
	attest("shop/unexcused", unexcused, s.release, provenanceFrom(source), false)
	attest("shop/unexcused", unexcused, s.stranger, vex, false)

	p := s.serve(t)
	for repo, why := range map[string]string{
		"shop/bundled": "", "shop/legacy": "", "shop/excused": "",
		"shop/bare":      "no attestation of type",
		"shop/elsewhere": "names the source",
		"shop/strange":   "no attestation of type",
		"shop/unexcused": "CVE-2019-10744",
	} {
		if why == "" {
			p.mustPull(t, repo)
			continue
		}
		if got := p.pull(t, repo); got.status != http.StatusForbidden || !strings.Contains(got.message, why) {
			t.Errorf("%s: got %+v, want a refusal for %q", repo, got, why)
		}
	}
	got := tidewaiter(t, "verdict", "--server", "http://"+p.admin, host+"/shop/excused:1.0")
	if got.code != 0 || !strings.Contains(got.stdout, "release states not_affected") {
		t.Errorf("the verdict, code %d, does not say who excused it:\n%s", got.code, got.stdout)
	}

	// What was excused is exported as it was stated, and excuses the same where its exporter's word counts.
	exported := tidewaiter(t, "check", "--quiet", "--config", s.write(t), "-o", "openvex", host+"/shop/excused:1.0")
	var document any
	if err := json.Unmarshal([]byte(exported.stdout), &document); exported.code != 0 || err != nil || strings.Contains(exported.stdout, "waive") {
		t.Fatalf("code %d: %v: %s\n%s", exported.code, err, exported.stderr, exported.stdout)
	}
	again := image("shop/excused-again", 6, badLodash)
	attest("shop/excused-again", again, s.release, provenanceFrom(source), false)
	attest("shop/excused-again", again, s.release, ocitest.Statement{PredicateType: "https://openvex.dev/ns/v0.2.0", Predicate: document}, false)
	if again.Digest != excused.Digest {
		t.Fatalf("it is another image: %s", again.Digest)
	}
	p.mustPull(t, "shop/excused-again")
}
