package console_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/audit"
	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/review"
	"github.com/tidewaiter/tidewaiter/trail"
)

// document is the description of the API, as far as the tests look into it.
type document struct {
	OpenAPI    string
	Info       struct{ Title, Version string }
	Security   []map[string][]string
	Paths      map[string]map[string]json.RawMessage
	Components struct {
		Schemas         map[string]schema
		SecuritySchemes map[string]struct{ Type string }
	}
}

type parameter struct {
	Name, In    string
	Required    bool
	Description string
	Schema      *schema
}

type media map[string]struct{ Schema *schema }

type operation struct {
	OperationID, Summary string
	Parameters           []parameter
	RequestBody          *struct{ Content media }
	Responses            map[string]struct {
		Description string
		Content     media
	}
}

// schema is as much of JSON Schema as the document uses; a keyword that is not here fails the tests.
type schema struct {
	Ref                  string `json:"$ref"`
	Type                 any
	Format, Description  string
	Enum                 []any
	Properties           map[string]schema
	Required             []string
	Items                *schema
	AllOf, AnyOf         []schema
	AdditionalProperties *schema
	Minimum, Maximum     *float64
	MinItems             *int
	Default              any
}

func readDocument(t *testing.T, c *console.Console) (d document) {
	t.Helper()
	w := send(c, "", "GET", "/api/v1/openapi.json", "")
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%v: %.100s", err, w.Body)
	}
	return d
}

// operations returns those of the document by "get /path", with the parameters of their path.
func (d document) operations(t *testing.T) map[string]operation {
	t.Helper()
	all := map[string]operation{}
	for path, item := range d.Paths {
		var shared []parameter
		for method, raw := range item {
			var o operation
			var into any = &o
			if method == "parameters" {
				into = &shared
			}
			decoder := json.NewDecoder(strings.NewReader(string(raw)))
			if err := decoder.Decode(into); err != nil {
				t.Fatalf("%s %s: %v", method, path, err)
			}
			if method != "parameters" {
				all[method+" "+path] = o
			}
		}
		for method := range item {
			if o, ok := all[method+" "+path]; ok {
				o.Parameters = append(o.Parameters, shared...)
				all[method+" "+path] = o
			}
		}
	}
	return all
}

// TestOpenAPIHasEveryRoute compares the document with what is served.
func TestOpenAPIHasEveryRoute(t *testing.T) {
	c := console.New(wholeOptions(t))
	var served []string
	for _, pattern := range c.Routes() {
		if method, path, ok := strings.Cut(pattern, " /api/v1/"); ok {
			served = append(served, strings.ToLower(method)+" /api/v1/"+strings.ReplaceAll(path, "...}", "}"))
		}
	}
	slices.Sort(served)
	described := slices.Sorted(maps.Keys(readDocument(t, c).operations(t)))
	if diff := cmp.Diff(described, served); diff != "" {
		t.Errorf("the document describes other routes (-described +served):\n%s", diff)
	}
}

// TestOpenAPIIsOpenAPI checks what OpenAPI 3.1 asks of a document, as far as this one uses it.
func TestOpenAPIIsOpenAPI(t *testing.T) {
	d := readDocument(t, console.New(wholeOptions(t)))
	if !regexp.MustCompile(`^3\.1\.\d+$`).MatchString(d.OpenAPI) || d.Info.Title == "" || d.Info.Version == "" || len(d.Paths) == 0 {
		t.Errorf("got OpenAPI %q, %+v", d.OpenAPI, d.Info)
	}
	for _, alternative := range d.Security {
		for name := range alternative {
			if d.Components.SecuritySchemes[name].Type == "" {
				t.Errorf("security: there is no %s", name)
			}
		}
	}
	for name, s := range d.Components.Schemas {
		d.checkSchema(t, name, s)
	}
	ids := map[string]string{}
	for route, o := range d.operations(t) {
		if other, ok := ids[o.OperationID]; ok || o.OperationID == "" || o.Summary == "" {
			t.Errorf("%s has the id %q, as has %q, and the summary %q", route, o.OperationID, other, o.Summary)
		}
		ids[o.OperationID] = route
		d.checkParameters(t, route, o)
		if post := !strings.HasPrefix(route, "get "); post != (o.RequestBody != nil) {
			t.Errorf("%s: a body: %t", route, !post)
		} else if post {
			d.checkMedia(t, route, o.RequestBody.Content)
		}
		good := 0
		for status, r := range o.Responses {
			if !regexp.MustCompile(`^[1-5]\d\d$`).MatchString(status) || r.Description == "" {
				t.Errorf("%s: the response %s says %q", route, status, r.Description)
			}
			if status[0] == '2' {
				good++
			}
			d.checkMedia(t, route+" "+status, r.Content)
		}
		if good != 1 {
			t.Errorf("%s has %d good responses", route, good)
		}
	}
}

// checkParameters sees that those of a path are exactly those in it, and that each is described.
func (d document) checkParameters(t *testing.T, route string, o operation) {
	t.Helper()
	var inPath, declared []string
	for _, found := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(route, -1) {
		inPath = append(inPath, found[1])
	}
	for _, p := range o.Parameters {
		if p.Schema == nil || p.Description == "" || p.In != "path" && p.In != "query" && p.In != "header" || p.In == "path" && !p.Required {
			t.Errorf("%s: the parameter %+v", route, p)
			continue
		}
		if p.In == "path" {
			declared = append(declared, p.Name)
		}
		d.checkSchema(t, route+" "+p.Name, *p.Schema)
	}
	slices.Sort(inPath)
	slices.Sort(declared)
	if diff := cmp.Diff(declared, inPath); diff != "" {
		t.Errorf("%s: parameters of the path (-declared +there):\n%s", route, diff)
	}
}

func (d document) checkMedia(t *testing.T, where string, content media) {
	t.Helper()
	for kind, m := range content {
		if m.Schema == nil || !strings.Contains(kind, "/") {
			t.Errorf("%s: %s has no schema", where, kind)
			continue
		}
		d.checkSchema(t, where, *m.Schema)
	}
}

// checkSchema sees that references lead somewhere, types are types, and what is required is described.
func (d document) checkSchema(t *testing.T, where string, s schema) {
	t.Helper()
	if _, ok := d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]; s.Ref != "" && !ok {
		t.Errorf("%s: %s leads nowhere", where, s.Ref)
	}
	for _, kind := range s.types() {
		if !slices.Contains([]string{"object", "array", "string", "integer", "number", "boolean", "null"}, kind) {
			t.Errorf("%s: %s is no type", where, kind)
		}
	}
	if s.Ref == "" && s.Type == nil && s.AllOf == nil && s.AnyOf == nil {
		t.Errorf("%s: it says nothing", where)
	}
	if slices.Contains(s.types(), "array") != (s.Items != nil) {
		t.Errorf("%s: an array has items, and nothing else has", where)
	}
	for _, name := range s.Required {
		if _, ok := s.Properties[name]; !ok {
			t.Errorf("%s: %s is required and not described", where, name)
		}
	}
	for name, p := range s.Properties {
		d.checkSchema(t, where+"."+name, p)
	}
	for _, some := range [][]schema{s.AllOf, s.AnyOf, deref(s.Items), deref(s.AdditionalProperties)} {
		for _, inner := range some {
			d.checkSchema(t, where, inner)
		}
	}
}

func deref(s *schema) []schema {
	if s == nil {
		return nil
	}
	return []schema{*s}
}

func (s schema) types() (kinds []string) {
	switch t := s.Type.(type) {
	case string:
		kinds = []string{t}
	case []any:
		for _, kind := range t {
			kinds = append(kinds, fmt.Sprint(kind))
		}
	}
	return kinds
}

// TestOpenAPIHasEveryField compares what is described with the types that are answered with.
func TestOpenAPIHasEveryField(t *testing.T) {
	d := readDocument(t, console.New(wholeOptions(t)))
	for name, answer := range map[string]any{
		"Repository": oci.Repository{}, "Verdict": gate.Verdict{}, "Reason": gate.Reason{}, "Signature": gate.Signature{}, "Attestation": gate.Attestation{},
		"VEX": gate.VEX{}, "Excuse": gate.Excuse{}, "Rejection": gate.Rejection{}, "Finding": gate.Finding{}, "Image": console.Image{}, "Statement": console.Statement{},
		"ImageList": console.ImageList{}, "Standing": console.Standing{}, "Waiver": review.Standing{}, "WaiverList": console.WaiverList{},
		"Grant": console.Grant{}, "Reasoned": console.Reasoned{}, "Release": console.Release{}, "Released": review.Released{}, "Asker": review.Asker{},
		"QuarantinedItem": review.Item{}, "QuarantinePage": review.Page{}, "QuarantinedImage": review.Detail{}, "Pull": trail.Pull{},
		"Pullers": trail.Pullers{}, "Recall": trail.Recall{}, "Recalled": trail.Recalled{}, "RecallList": console.RecallList{}, "Tagged": trail.Tagged{},
		"TagList": console.TagList{}, "Seen": console.Seen{}, "Eligible": console.Eligible{}, "DeadLetter": console.DeadLetter{},
		"DeadLetters": console.DeadLetters{}, "LetterAction": console.LetterAction{}, "LetterActions": console.LetterActions{},
		"AuditEntry": audit.Entry{}, "AuditReport": audit.Report{}, "AuditPage": console.AuditPage{},
	} {
		described := slices.Sorted(maps.Keys(d.properties(d.Components.Schemas[name])))
		if diff := cmp.Diff(described, fieldsOf(reflect.TypeOf(answer))); diff != "" {
			t.Errorf("%s (-described +answered):\n%s", name, diff)
		}
	}
}

// properties returns those of s and of what it is made of.
func (d document) properties(s schema) map[string]schema {
	all := maps.Clone(s.Properties)
	if s.Ref != "" {
		return d.properties(d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")])
	}
	for _, part := range s.AllOf {
		if all == nil {
			all = map[string]schema{}
		}
		maps.Copy(all, d.properties(part))
	}
	return all
}

// fieldsOf returns the names a type has in JSON, sorted.
func fieldsOf(kind reflect.Type) (names []string) {
	for i := range kind.NumField() {
		f := kind.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			names = append(names, fieldsOf(f.Type)...)
		case name != "-":
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TestAnswersAreAsDescribed holds what is really answered against the document.
func TestAnswersAreAsDescribed(t *testing.T) {
	image := app.String() + "@" + digest.String()
	for _, tt := range []struct{ method, path, route, body, status string }{
		{"GET", "images?n=1", "images", "", "200"},
		{"GET", "images?n=x", "images", "", "400"},
		{"GET", "images/" + app.String() + ":1.0", "images/{reference}", "", "200"},
		{"GET", "images/UPPER/case", "images/{reference}", "", "400"},
		{"GET", "images/registry.example:5000/acme/app:none", "images/{reference}", "", "404"},
		{"GET", "advisories", "advisories", "", "200"},
		{"GET", "waivers", "waivers", "", "200"},
		{"GET", "waivers/wone", "waivers/{id}", "", "200"},
		{"POST", "waivers", "waivers", `{"vulnerability":"CVE-1","repositories":["apps/web"],"for":"1h","reason":"x"}`, "201"},
		{"DELETE", "waivers/wone", "waivers/{id}", `{"reason":"x"}`, "200"},
		{"GET", "quarantine", "quarantine", "", "200"},
		{"GET", "quarantine/" + image, "quarantine/{reference}", "", "200"},
		{"POST", "quarantine/" + image + "/release", "quarantine/{reference}/release", `{"reason":"x","for":"1h"}`, "200"},
		{"POST", "quarantine/" + image + "/drop", "quarantine/{reference}/drop", `{"reason":"x"}`, "200"},
		{"GET", "tags/" + app.String() + "?tag=1.0", "tags/{repository}", "", "200"},
		{"GET", "recalls", "recalls", "", "200"},
		{"GET", "eligible?ref=" + app.String() + ":1.0", "eligible", "", "200"},
		{"GET", "webhooks/dead-letters", "webhooks/dead-letters", "", "200"},
		{"POST", "webhooks/dead-letters", "webhooks/dead-letters", `{"action":"drop","names":["1"]}`, "200"},
		{"GET", "audit?verify=true", "audit", "", "200"},
		{"GET", "audit?n=0", "audit", "", "400"},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			c := console.New(wholeOptions(t))
			d := readDocument(t, c)
			w := send(c, "", tt.method, "/api/v1/"+tt.path, tt.body)
			if fmt.Sprint(w.Code) != tt.status {
				t.Fatalf("got %d: %.300s", w.Code, w.Body)
			}
			response := d.operations(t)[strings.ToLower(tt.method)+" /api/v1/"+tt.route].Responses[tt.status]
			s := response.Content["application/json"].Schema
			if s == nil {
				t.Fatalf("%s is not described", tt.status)
			}
			var answer any
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
				t.Fatal(err)
			}
			d.checkAnswer(t, "answer", *s, answer)
		})
	}
}

// checkAnswer sees that a value is what s says, and has nothing that s does not describe.
func (d document) checkAnswer(t *testing.T, where string, s schema, value any) {
	t.Helper()
	if s.Ref != "" {
		s = d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	if len(s.AnyOf) > 0 {
		if value != nil {
			d.checkAnswer(t, where, s.AnyOf[0], value)
		}
		return
	}
	if kinds := s.types(); s.AllOf == nil && !slices.ContainsFunc(kinds, func(kind string) bool { return isOf(kind, value) }) {
		t.Errorf("%s is %v, not of %v", where, value, kinds)
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, value) {
		t.Errorf("%s is %v, not one of %v", where, value, s.Enum)
	}
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			d.checkAnswer(t, where+"[]", *s.Items, item)
		}
	case map[string]any:
		properties := d.properties(s)
		for _, name := range s.Required {
			if _, ok := v[name]; !ok {
				t.Errorf("%s has no %s", where, name)
			}
		}
		for name, inner := range v {
			p, ok := properties[name]
			switch {
			case ok:
				d.checkAnswer(t, where+"."+name, p, inner)
			case s.AdditionalProperties != nil:
				d.checkAnswer(t, where+"."+name, *s.AdditionalProperties, inner)
			case properties != nil:
				t.Errorf("%s.%s is not described", where, name)
			}
		}
	}
}

func isOf(kind string, value any) bool {
	switch v := value.(type) {
	case nil:
		return kind == "null"
	case bool:
		return kind == "boolean"
	case string:
		return kind == "string"
	case float64:
		return kind == "number" || kind == "integer" && v == float64(int64(v))
	case []any:
		return kind == "array"
	}
	return kind == "object"
}
