package signing_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidewaiter/tidewaiter/gate"
)

const openVEX = "https://openvex.dev/ns/v0.2.0"

// stating returns an OpenVEX document of one statement; IMAGE and HEX stand for the image's digest.
func stating(products string) string {
	return `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"x","author":"a","timestamp":"2026-01-02T00:00:00Z","version":1,"statements":[` +
		`{"vulnerability":{"name":"CVE-1","aliases":["GHSA-1",""]},"products":` + products + `,"status":"not_affected","justification":"vulnerable_code_not_present","impact_statement":"\u001b[2Jnot\nbuilt in"}]}`
}

func csafStating(purl, status string) string {
	return fmt.Sprintf(`{"document":{"category":"csaf_vex","tracking":{"current_release_date":"2026-01-02T00:00:00Z"}},"product_tree":{"branches":[{"branches":[{"product":{"product_id":"P","name":"p","product_identification_helper":{"purl":%q}}}]}]},"vulnerabilities":[{"cve":"CVE-1","product_status":{%q:["P"]},"flags":[{"label":"component_not_present","product_ids":["P"]}]}]}`, purl, status)
}

// A statement is about the image it names, or the packages, and about no others.
func TestVEXProducts(t *testing.T) {
	const csafType = "https://docs.oasis-open.org/csaf/csaf/v2.0/csaf_json_schema.json"
	pkg := func(kind, name, version string) []gate.VEXPackage {
		return []gate.VEXPackage{{Type: kind, Name: name, Version: version}}
	}
	type want struct {
		about    bool
		packages []gate.VEXPackage
	}
	for name, tc := range map[string]struct {
		predicateType, document string
		want                    want
	}{
		"the image by digest":             {openVEX, stating(`[{"@id":"pkg:oci/app@IMAGE?repository_url=registry.example/acme/app"}]`), want{true, nil}},
		"by an escaped digest":            {openVEX, stating(`[{"@id":"pkg:oci/app@sha256%3AHEX"}]`), want{true, nil}},
		"by hash":                         {openVEX, stating(`[{"@id":"anything","hashes":{"sha-256":"HEX"}}]`), want{true, nil}},
		"by another hash":                 {openVEX, stating(`[{"@id":"pkg:oci/app@IMAGE","hashes":{"sha-256":"00"}}]`), want{}},
		"by reference":                    {openVEX, stating(`[{"@id":"registry.example/acme/app@IMAGE"}]`), want{true, nil}},
		"by identifier":                   {openVEX, stating(`[{"@id":"x","identifiers":{"purl":"pkg:oci/app@IMAGE"}}]`), want{true, nil}},
		"by repository":                   {openVEX, stating(`[{"@id":"pkg:oci/app?repository_url=registry.example/acme/app"}]`), want{true, nil}},
		"by name":                         {openVEX, stating(`[{"@id":"pkg:oci/app"}]`), want{true, nil}},
		"another image":                   {openVEX, stating(`[{"@id":"pkg:oci/app@sha256:00"}]`), want{}},
		"another repository":              {openVEX, stating(`[{"@id":"pkg:oci/app?repository_url=registry.evil/acme/app"}]`), want{}},
		"another name":                    {openVEX, stating(`[{"@id":"pkg:oci/ap"}]`), want{}},
		"no product":                      {openVEX, stating(`[]`), want{true, nil}},
		"product null":                    {openVEX, stating(`null`), want{true, nil}},
		"an unknown product":              {openVEX, stating(`[{"@id":"the app"}]`), want{}},
		"a product without a name":        {openVEX, stating(`[{}]`), want{}},
		"a package in the image":          {openVEX, stating(`[{"@id":"pkg:oci/app@IMAGE","subcomponents":[{"@id":"pkg:deb/debian/openssl@3.0.11-1~deb12u2?arch=amd64&distro=debian-12"}]}]`), want{true, pkg("deb", "openssl", "3.0.11-1~deb12u2")}},
		"of any version":                  {openVEX, stating(`[{"@id":"pkg:oci/app@IMAGE","subcomponents":[{"@id":"pkg:npm/%40acme/ui"}]}]`), want{true, pkg("npm", "@acme/ui", "")}},
		"a Go module":                     {openVEX, stating(`[{"@id":"pkg:oci/app@IMAGE","subcomponents":["pkg:golang/golang.org/x/net@v0.1.0"]}]`), want{true, pkg("golang", "golang.org/x/net", "0.1.0")}},
		"a Maven artifact":                {openVEX, stating(`[{"@id":"pkg:oci/app@IMAGE","subcomponents":[{"@id":"pkg:maven/org.x/y@1"}]}]`), want{true, pkg("maven", "org.x:y", "1")}},
		"an RPM with an epoch":            {openVEX, stating(`[{"@id":"pkg:oci/app@IMAGE","subcomponents":[{"@id":"pkg:rpm/redhat/dbus@1.12-5?epoch=1"}]}]`), want{true, pkg("rpm", "dbus", "1:1.12-5")}},
		"an unknown part of the image":    {openVEX, stating(`[{"@id":"pkg:oci/app@IMAGE","subcomponents":[{"@id":"the parser"}]}]`), want{}},
		"a part of another image":         {openVEX, stating(`[{"@id":"pkg:oci/app@sha256:00","subcomponents":[{"@id":"pkg:npm/x"}]}]`), want{}},
		"a package alone":                 {openVEX, stating(`[{"@id":"pkg:npm/x@1"}]`), want{true, pkg("npm", "x", "1")}},
		"products as text":                {openVEX, stating(`["pkg:oci/app@IMAGE"]`), want{true, nil}},
		"the old namespace":               {"https://openvex.dev/ns", stating(`["pkg:oci/app@IMAGE"]`), want{true, nil}},
		"CSAF: the image":                 {csafType, csafStating("pkg:oci/app@IMAGE", "known_not_affected"), want{true, nil}},
		"CSAF: a package":                 {csafType, csafStating("pkg:npm/x@1", "known_not_affected"), want{true, pkg("npm", "x", "1")}},
		"CSAF: another image":             {csafType, csafStating("pkg:oci/app@sha256:00", "known_not_affected"), want{}},
		"CSAF: a product nobody knows":    {csafType, csafStating("", "known_not_affected"), want{}},
		"CSAF: a status that is no VEX's": {csafType, csafStating("pkg:oci/app@IMAGE", "recommended"), want{}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			document := strings.NewReplacer("IMAGE", b.digest.String(), "HEX", b.digest.Encoded()).Replace(tc.document)
			b.bundle(t, signedBundle(t, b.release, saying(tc.predicateType, document, b.digest)))
			got := b.attest(t, gate.Wanted{VEX: []string{"release"}})
			if len(got.Rejections) > 0 || len(got.Attestations) > 0 {
				t.Errorf("got %v", got)
			}
			if (len(got.VEX) == 1) != tc.want.about {
				t.Fatalf("got %v, want about the image: %v", got.VEX, tc.want.about)
			}
			if tc.want.about {
				if diff := cmp.Diff(got.VEX[0].Packages, tc.want.packages, cmpopts.EquateEmpty()); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// What is excused, by whom, why and when is told as it was signed, in plain text.
func TestVEXEvidence(t *testing.T) {
	b := newBench(t)
	manifest := b.bundle(t, signedBundle(t, b.release, saying(openVEX, strings.ReplaceAll(stating(`["pkg:oci/app@IMAGE"]`), "IMAGE", b.digest.String()), b.digest)))
	b.bundle(t, signedBundle(t, newP256(t), saying(openVEX, stating(`[]`), b.digest)))
	b.bundle(t, signedBundle(t, b.release, saying(openVEX, stating(`[]`), digestOf("other"))))
	b.bundle(t, signedBundle(t, b.release, saying(openVEX, `{"statements":{}}`, b.digest)))
	got := b.attest(t, gate.Wanted{VEX: []string{"release"}, Attestations: map[string][]string{openVEX: {"release"}}})
	want := []gate.VEX{{
		By:              gate.Signature{Authority: "release", Format: "sigstore-bundle", Signer: b.release.trusted(t).Fingerprint, Manifest: manifest},
		Vulnerabilities: []string{"CVE-1", "GHSA-1"}, Status: gate.VEXNotAffected, Justification: "vulnerable_code_not_present", Why: "?[2Jnot built in",
		At: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC),
	}}
	if diff := cmp.Diff(got.VEX, want); diff != "" {
		t.Error(diff)
	}
	if len(got.Attestations) != 2 {
		t.Errorf("got %d attestations, want the two by release about the image", len(got.Attestations))
	}
	for _, why := range []string{"not signed with a key of release", "other artifacts", "no OpenVEX that can be read"} {
		if !strings.Contains(whysOf(got), why) {
			t.Errorf("got rejections %q, want %q among them", whysOf(got), why)
		}
	}
}

// A statement's own time goes before its document's, and the later of each counts.
func TestVEXTimes(t *testing.T) {
	document := func(doc, statement string) string {
		return `{` + doc + `"statements":[{` + statement + `"vulnerability":"CVE-1","status":"affected"}]}`
	}
	for name, tc := range map[string]struct{ document, want string }{
		"the document's":            {document(`"timestamp":"2026-01-01T00:00:00Z",`, ""), "2026-01-01"},
		"as it was updated":         {document(`"timestamp":"2026-01-01T00:00:00Z","last_updated":"2026-02-01T00:00:00Z",`, ""), "2026-02-01"},
		"the statement's":           {document(`"timestamp":"2026-03-01T00:00:00Z",`, `"timestamp":"2026-01-05T00:00:00Z",`), "2026-01-05"},
		"the statement was updated": {document(``, `"timestamp":"2026-01-05T00:00:00Z","last_updated":"2026-01-06T01:00:00+02:00",`), "2026-01-05"},
		"none":                      {document(``, ``), "0001-01-01"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.bundle(t, signedBundle(t, b.release, saying(openVEX, tc.document, b.digest)))
			got := b.attest(t, gate.Wanted{VEX: []string{"release"}})
			if len(got.VEX) != 1 || got.VEX[0].At.Format(time.DateOnly) != tc.want {
				t.Errorf("got %v, want %s", got.VEX, tc.want)
			}
		})
	}
}
