// Package formats holds the tests that what package report writes is what the formats' own schemas and other people's readers expect.
package formats

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/openvex/go-vex/pkg/vex"
	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"
	"github.com/santhosh-tekuri/jsonschema/v6"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdxlib"
)

// documents returns the documents of one format, by name.
func documents(t *testing.T, format string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "report", "testdata", "*."+format+".json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	found := map[string][]byte{}
	for _, file := range files {
		if found[filepath.Base(file)], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// moduleDir returns where the source of a module lies. Schemas are not ours to keep: they come with modules that check against them.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// downloaded returns where the source of a module lies that nothing here is built from, and so is none of what go.mod asks for. sum is its
// checksum, as go.sum would have it. It is not fetched by a test: where it was not downloaded the test is skipped, but in CI.
func downloaded(t *testing.T, module, sum string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module)
	cmd.Dir = t.TempDir() // elsewhere it would be noted in go.sum
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GONOSUMDB=*")
	out, err := cmd.Output()
	if err != nil && os.Getenv("CI") != "true" {
		t.Skipf("%s is not there; outside of any module: go mod download %[1]s", module)
	}
	if err != nil {
		t.Fatalf("%s, which CI downloads: %v\n%s", module, err, out)
	}
	var found struct{ Dir, Sum string }
	if err := json.Unmarshal(out, &found); err != nil || found.Sum != sum {
		t.Fatalf("%s has the checksum %s, not %s, %v", module, found.Sum, sum, err)
	}
	return found.Dir
}

// compile returns the schema at url, those of resources being known.
func compile(t *testing.T, url string, resources map[string][]byte) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for at, text := range resources {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(at, document); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := c.Compile(url)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// validate checks a document, and that the schema would have minded had a word of it been another.
func validate(t *testing.T, schema *jsonschema.Schema, text []byte, word string) {
	t.Helper()
	broken := bytes.Replace(text, []byte(word), []byte(`"nonsense"`), 1)
	for wantErr, text := range map[bool][]byte{false: text, true: broken} {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(document); (err != nil) != wantErr {
			t.Errorf("got %v, want an error: %t", err, wantErr)
		}
	}
}

func TestCycloneDX(t *testing.T) {
	dir := filepath.Join(moduleDir(t, "github.com/CycloneDX/cyclonedx-go"), "schema")
	resources := map[string][]byte{}
	for name, file := range map[string]string{"bom-1.6.schema.json": "bom-1.6.schema.json", "spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		resources["http://cyclonedx.org/schema/"+name] = text
	}
	schema := compile(t, "http://cyclonedx.org/schema/bom-1.6.schema.json", resources)
	for name, text := range documents(t, "cdx") {
		t.Run(name, func(t *testing.T) {
			validate(t, schema, text, `"container"`)
			var bom cdx.BOM
			if err := cdx.NewBOMDecoder(bytes.NewReader(text), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
				t.Fatal(err)
			}
			if bom.SpecVersion != cdx.SpecVersion1_6 || bom.Metadata.Component.PackageURL == "" {
				t.Errorf("another reader finds %+v", bom.Metadata)
			}
			if bom.Vulnerabilities == nil && strings.HasPrefix(name, "image") {
				t.Error("another reader finds no vulnerabilities")
			}
		})
	}
}

// The schema is the one of SPDX 2.3's branch of corrections, which asks for a namespace too. No module of SPDX's own has it; syft keeps a copy
// to check itself by.
func TestSPDX(t *testing.T) {
	dir := downloaded(t, "github.com/anchore/syft@v1.18.1", "h1:JZ7CLbeWrWolCZa4f6SJBLJ9qGBLFCzHrFd8c4bsm94=")
	text, err := os.ReadFile(filepath.Join(dir, "schema", "spdx-json", "spdx-schema-2.3.json"))
	if err != nil {
		t.Fatal(err)
	}
	const url = "http://spdx.org/rdf/terms/2.3"
	schema := compile(t, url, map[string][]byte{url: text})
	for name, text := range documents(t, "spdx") {
		t.Run(name, func(t *testing.T) {
			validate(t, schema, text, `"PACKAGE-MANAGER"`)
			var doc spdx.Document
			if err := spdxjson.ReadInto(bytes.NewReader(text), &doc); err != nil {
				t.Fatal(err)
			}
			if err := spdxlib.ValidateDocument(&doc); err != nil {
				t.Error(err)
			}
			described, err := spdxlib.GetDescribedPackageIDs(&doc)
			if err != nil || len(described) != 1 {
				t.Errorf("it describes %v, %v", described, err)
			}
			if doc.SPDXVersion != "SPDX-2.3" || doc.DataLicense != "CC0-1.0" || doc.CreationInfo.Created == "" {
				t.Errorf("another reader finds %+v", doc)
			}
			if advisories := bytes.Count(text, []byte(`"SECURITY"`)); (advisories > 0) != (strings.HasPrefix(name, "image") || strings.HasPrefix(name, "index")) {
				t.Errorf("it refers to %d advisories", advisories)
			}
			known := map[string]bool{"NOASSERTION": true}
			for _, l := range doc.OtherLicenses {
				known[l.LicenseIdentifier] = true
			}
			for _, p := range doc.Packages {
				for word := range strings.FieldsSeq(strings.NewReplacer("(", " ", ")", " ").Replace(p.PackageLicenseDeclared)) {
					if strings.HasPrefix(word, "LicenseRef-") && !known[word] {
						t.Errorf("%s has license %s, which is not there", p.PackageName, word)
					}
				}
			}
		})
	}
}

func TestSARIF(t *testing.T) {
	source, err := os.ReadFile(filepath.Join(moduleDir(t, "github.com/owenrumney/go-sarif/v3"), "pkg", "report", "v210", "sarif", "schema.go"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := bytes.Cut(source, []byte("`")) // it is the one string of its file
	text, _, _ = bytes.Cut(text, []byte("`"))
	const url = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
	schema := compile(t, url, map[string][]byte{url: text})
	for name, text := range documents(t, "sarif") {
		t.Run(name, func(t *testing.T) {
			validate(t, schema, text, `"unicodeCodePoints"`)
			log, err := sarif.FromBytes(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, run := range log.Runs {
				for _, r := range run.Results {
					if rule := run.Tool.Driver.Rules[r.RuleIndex]; *rule.ID != *r.RuleID {
						t.Errorf("result of %s names the rule %s", *r.RuleID, *rule.ID)
					}
				}
			}
		})
	}
}

// No module or package has the schema of OpenVEX. What it asks for beyond what its library checks is that every name is one of the
// specification, and that a document has a statement.
func TestOpenVEX(t *testing.T) {
	for name, text := range documents(t, "openvex") {
		t.Run(name, func(t *testing.T) {
			doc, err := vex.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			strict := json.NewDecoder(bytes.NewReader(text))
			strict.DisallowUnknownFields()
			if err := strict.Decode(&vex.VEX{}); err != nil {
				t.Error(err)
			}
			if doc.Context != vex.ContextLocator() || doc.ID == "" || doc.Author == "" || doc.Timestamp == nil || doc.Version < 1 || len(doc.Statements) == 0 {
				t.Errorf("another reader finds %+v", doc.Metadata)
			}
			for _, s := range doc.Statements {
				if err := s.Validate(); err != nil {
					t.Error(err)
				}
			}
			if !strings.HasPrefix(name, "image") {
				return
			}
			product := doc.Statements[0].Products[0]
			const log4j, lodash, openssl = "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1", "pkg:npm/lodash@4.17.4", "pkg:deb/debian/libssl3@3.0.11-1~deb12u1?arch=amd64&distro=debian-12"
			for _, want := range []struct {
				id, purl      string
				status        vex.Status
				justification vex.Justification
			}{
				{"CVE-2021-44228", log4j, vex.StatusAffected, ""}, // which is waived
				{"CVE-2020-8203", lodash, vex.StatusNotAffected, vex.VulnerableCodeNotInExecutePath},
				{"CVE-2021-23337", lodash, vex.StatusNotAffected, ""},
				{"CVE-2024-4741", openssl, vex.StatusFixed, ""},
			} {
				found := doc.Matches(want.id, product.Identifiers[vex.PURL], []string{want.purl})
				if len(found) != 1 || found[0].Status != want.status || found[0].Justification != want.justification {
					t.Errorf("%s: another reader finds %+v", want.id, found)
				}
			}
		})
	}
}
