package signing

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestReadOpenVEX(t *testing.T) {
	d := oci.FromBytes([]byte("image"))
	document := `{"@context":"https://openvex.dev/ns/v0.2.0","statements":[
	 {"vulnerability":{"name":"GHSA-1","aliases":["CVE-1"]},"status":"not_affected","justification":"vulnerable_code_not_present","impact_statement":"gone\u0007",
	  "products":[{"@id":"pkg:oci/app@` + strings.Replace(d.String(), ":", "%3A", 1) + `?repository_url=ghcr.io/acme/app","subcomponents":[{"@id":"pkg:npm/%40acme/lib@1"}]}]},
	 {"vulnerability":"CVE-2","status":"affected","products":["pkg:deb/debian/openssl@3"]},
	 {"vulnerability":{"name":"CVE-3"},"status":"not_affected"},
	 {"vulnerability":{"name":"CVE-4"},"status":"not_affected","products":[{"@id":"ghcr.io/acme/app@` + d.String() + `"},{"@id":"pkg:oci/app@1.0?repository_url=ghcr.io/acme/app"},{"@id":"https://acme.example/app"}]},
	 {"vulnerability":{},"status":"fixed"}]}`
	got, err := ReadOpenVEX([]byte(document))
	want := []VEXStatement{
		{Vulnerabilities: []string{"GHSA-1", "CVE-1"}, Status: gate.VEXNotAffected, Justification: "vulnerable_code_not_present", Impact: plain("gone\a"),
			Products: []VEXProduct{{Repository: "ghcr.io/acme/app", Digest: d, Packages: []gate.VEXPackage{{Type: "npm", Name: "@acme/lib", Version: "1"}}}}},
		{Vulnerabilities: []string{"CVE-2"}, Status: gate.VEXAffected, Products: []VEXProduct{{Packages: []gate.VEXPackage{{Type: "deb", Name: "openssl", Version: "3"}}}}},
		{Vulnerabilities: []string{"CVE-3"}, Status: gate.VEXNotAffected},
		// A tag names no manifest for long, and an address is no repository.
		{Vulnerabilities: []string{"CVE-4"}, Status: gate.VEXNotAffected, Products: []VEXProduct{{Repository: "ghcr.io/acme/app", Digest: d}, {}, {}}},
	}
	if diff := cmp.Diff(got, want); err != nil || diff != "" {
		t.Errorf("%v (-got +want):\n%s", err, diff)
	}
	for law, document := range map[string]string{
		"what is no JSON is refused":      "statements:",
		"more than are read are refused":  `{"statements":[` + strings.Repeat(`{"vulnerability":"a"},`, maxVEX) + `{"vulnerability":"a"}]}`,
		"statements of another shape too": `{"statements":{}}`,
	} {
		if got, err := ReadOpenVEX([]byte(document)); err == nil {
			t.Errorf("%s: got %d statements", law, len(got))
		}
	}
}

func FuzzReadOpenVEX(f *testing.F) {
	f.Add([]byte(`{"statements":[{"vulnerability":{"name":"CVE-1"},"status":"not_affected","products":[{"@id":"pkg:oci/app?repository_url=a/b"}]}]}`))
	f.Add([]byte(`{"statements":[{"vulnerability":"CVE-1","products":["pkg:npm/a@1",{"hashes":{"sha-256":"00"},"subcomponents":["x"]}]}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		statements, err := ReadOpenVEX(document)
		if err != nil {
			return
		}
		for _, s := range statements {
			if len(s.Vulnerabilities) == 0 {
				t.Fatal("a statement is about nothing")
			}
			for _, p := range s.Products {
				if _, err := oci.ParseDigest(p.Digest.String()); p.Digest != "" && err != nil {
					t.Fatalf("a product has the digest %q", p.Digest)
				}
			}
		}
	})
}
