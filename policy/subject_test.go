package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// subject has something of everything expressions look at.
func subject() gate.Subject {
	pkg := gate.Package{Type: "npm", Name: "lodash", Version: "4.17.4", Licenses: []string{"MIT"}}
	signed := gate.Signature{Authority: "ci", Signer: "build@acme.example", Issuer: "https://i.example", SignedAt: testNow}
	return gate.Subject{
		Tag: "latest",
		Evidence: gate.Evidence{
			Candidate: gate.Candidate{Repository: oci.Repository{Upstream: "ghcr.io", Path: "acme/app"}, Digest: oci.FromBytes([]byte("x"))},
			Manifest:  oci.Manifest{MediaType: oci.MediaTypeImage, Config: oci.Descriptor{Size: 1}, Layers: []oci.Descriptor{{Size: 10}, {Size: 20}}},
			SignatureEvidence: gate.SignatureEvidence{
				Signatures: []gate.Signature{signed}, Attestations: []gate.Attestation{{By: signed, PredicateType: "t:x"}},
			},
			Config: &gate.ImageConfig{
				User: "1000", Labels: map[string]string{"team": "shop"}, Env: []string{"PATH=/bin", "DEBUG=1"}, Created: testNow, OS: "linux",
				Architecture: "arm64", Cmd: []string{"serve"}, WorkingDir: "/srv", ExposedPorts: []string{"80/tcp"}, Volumes: []string{"/v"},
			},
			Inventory: gate.Inventory{OS: gate.OS{ID: "debian", Version: "12"}, Packages: []gate.Found{{Package: pkg, Path: "a/package.json"}}},
			Findings:  []gate.Finding{{ID: "CVE-1", Severity: gate.High, Package: pkg, Path: "a/package.json", Score: 7.5, Published: testNow}},
			Gaps:      []gate.Gap{{Kind: gate.GapLimit, Why: "large", Path: "b"}},
		},
	}
}

func TestImageExpressions(t *testing.T) {
	layers, findings := gate.Reads{Layers: true}, gate.Reads{Layers: true, Findings: true}
	for expression, tt := range map[string]struct {
		reads   gate.Reads
		want    bool
		wantErr string
	}{
		`repository == "ghcr.io/acme/app" && upstream == "ghcr.io"`:               {want: true},
		`digest.startsWith("sha256:") && media_type.endsWith("manifest.v1+json")`: {want: true},
		`tag == "latest"`: {reads: gate.Reads{Tag: true}, want: true},
		`tag == "latest" && repository.startsWith("ghcr.io/other/")`:                   {reads: gate.Reads{Tag: true}},
		`!tag.matches("^v[0-9]")`:                                                      {reads: gate.Reads{Tag: true}, want: true},
		`image.user == "1000" && image.os == "linux" && image.architecture != "amd64"`: {reads: gate.Reads{Image: true}, want: true},
		`"team" in image.labels && image.labels["team"] == "shop"`:                     {reads: gate.Reads{Image: true}, want: true},
		`image.labels["missing"] == "x"`:                                               {reads: gate.Reads{Image: true}, wantErr: "no such key"},
		`"DEBUG" in image.env && image.size == 31 && image.layers == 2`:                {reads: gate.Reads{Image: true}, want: true},
		`image.created > timestamp("2030-01-01T00:00:00Z")`:                            {reads: gate.Reads{Image: true}},
		`image.entrypoint.size() == 0 && image.cmd == ["serve"] && image.working_dir == "/srv" && "80/tcp" in image.ports && "/v" in image.volumes`:                                             {reads: gate.Reads{Image: true}, want: true},
		`packages.exists(p, p.type == "npm" && p.name.startsWith("lod") && p.version == "4.17.4" && "MIT" in p.licenses && p.source == "" && p.path != "")`:                                     {reads: layers, want: true},
		`os.id == "debian" && os.version != "13" && os.name == ""`:                                                                                                                              {reads: layers, want: true},
		`gaps.exists(g, g.kind == "limit" && g.why == "large" && g.path == "b")`:                                                                                                                {reads: layers, want: true},
		`findings.exists(f, f.severity == "high" && f.score > 7.0 && f.package.name == "lodash" && f.fixed_version == "" && f.status == "" && f.published > timestamp("2020-01-01T00:00:00Z"))`: {reads: findings, want: true},
		`findings.filter(f, f.severity in ["critical", "high"]).size() > 3`:                                                                                                                     {reads: findings},
		`signatures.all(s, s.authority == "ci" && s.issuer != "" && s.signer.endsWith("acme.example")) && signatures[0].signed_at > timestamp("2020-01-01T00:00:00Z")`:                          {want: true},
		`attestations.exists(a, a.predicate_type == "t:x" && a.authority == "ci")`:                                                                                                              {want: true},
		`signatures[7].authority == "ci"`: {wantErr: "index out of bounds"},
	} {
		t.Run(expression, func(t *testing.T) {
			x, err := compileImageExpression(expression)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(x.Reads(), tt.reads); diff != "" {
				t.Errorf("reads, got -, want +:\n%s", diff)
			}
			got, err := x.Holds(subject())
			if got != tt.want || (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("got %t, %v, want %t, %q", got, err, tt.want, tt.wantErr)
			}
			if _, err := x.Holds(gate.Subject{}); err != nil && tt.wantErr == "" && !strings.Contains(expression, "[0]") {
				t.Errorf("of nothing: %v", err)
			}
		})
	}
}

func TestCostlyExpressionsCannotBeTold(t *testing.T) {
	x, err := compileImageExpression(`packages.all(p, packages.all(q, packages.all(r, p.name + q.name + r.name != "x")))`)
	if err != nil {
		t.Fatal(err)
	}
	s := subject()
	for range 10_000 {
		s.Inventory.Packages = append(s.Inventory.Packages, s.Inventory.Packages[0])
	}
	began := time.Now()
	if holds, err := x.Holds(s); holds || err == nil || !strings.Contains(err.Error(), "cost limit") {
		t.Errorf("got %t, %v", holds, err)
	}
	t.Logf("took %s", time.Since(began))
	if many, err := compileImageExpression(`packages.exists(p, p.type == "npm" && p.name.startsWith("event-") && p.version.matches("^3[.]"))`); err != nil {
		t.Error(err)
	} else if _, err := many.Holds(s); err != nil {
		t.Errorf("an image of 10,000 packages: %v", err)
	}
}
