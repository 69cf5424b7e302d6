// Package formats holds the tests that what package report writes is what the formats' own schemas and other people's readers expect.
package formats

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/openvex/go-vex/pkg/vex"
	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/spdx/tools-golang/json"
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

func TestSPDX(t *testing.T) {
	for name, text := range documents(t, "spdx") {
		t.Run(name, func(t *testing.T) {
			var doc spdx.Document
			if err := json.ReadInto(bytes.NewReader(text), &doc); err != nil {
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

func TestOpenVEX(t *testing.T) {
	for name, text := range documents(t, "openvex") {
		t.Run(name, func(t *testing.T) {
			doc, err := vex.Parse(text)
			if err != nil {
				t.Fatal(err)
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
			if found := doc.Matches("CVE-2021-44228", product.Identifiers[vex.PURL], []string{"pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1"}); len(found) != 1 || found[0].Status != vex.StatusAffected {
				t.Errorf("another reader finds %+v", found)
			}
		})
	}
}
