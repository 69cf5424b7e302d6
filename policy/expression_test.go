package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// attested returns an attestation that says predicate.
func attested(predicateType, predicate string) gate.Attestation {
	return gate.Attestation{
		By:            gate.Signature{Authority: "ci", Signer: "build@acme.example", Issuer: "https://i.example", SignedAt: testNow},
		PredicateType: predicateType, Predicate: []byte(predicate),
		Statement: fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":%q,"predicate":%s}`, predicateType, predicate),
	}
}

// Only what is true is true: everything else an expression comes to, or fails with, is a refusal.
func TestExpressions(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200)
	list := "[" + strings.Repeat("1,", 20000) + "1]"
	for name, tt := range map[string]struct {
		expression, predicate string
		want                  string // what the refusal says; empty when it holds
	}{
		"true":                          {`true`, `{}`, ""},
		"a member":                      {`predicate.a.b == "c"`, `{"a":{"b":"c"}}`, ""},
		"a number":                      {`predicate.n == 1 && predicate.n < 1.5`, `{"n":1}`, ""},
		"a list":                        {`predicate.l.exists(x, x.startsWith("a"))`, `{"l":["b","ab"]}`, ""},
		"has":                           {`!has(predicate.b)`, `{"a":1}`, ""},
		"the statement":                 {`statement.predicateType == "t:x"`, `{}`, ""},
		"the signer":                    {`signer.authority == "ci" && signer.subject.endsWith("@acme.example") && signer.issuer == "https://i.example"`, `{}`, ""},
		"when it was signed":            {`signer.signed_at > timestamp("2026-01-01T00:00:00Z")`, `{}`, ""},
		"sets":                          {`sets.contains(predicate.l, ["a"])`, `{"l":["a","b"]}`, ""},
		"deep":                          {`has(predicate.a)`, deep, ""},
		"false":                         {`predicate.a.b == "d"`, `{"a":{"b":"c"}}`, "does not fulfil"},
		"a member that is not there":    {`predicate.b == "c"`, `{}`, "cannot be evaluated"},
		"of which anything is not true": {`predicate.b != "c"`, `{}`, "cannot be evaluated"},
		"another type":                  {`predicate.a > 1`, `{"a":"x"}`, "cannot be evaluated"},
		"an error beside what is true":  {`predicate.b == 1 || true`, `{}`, ""},
		"an error beside what is false": {`predicate.b == 1 || false`, `{}`, "cannot be evaluated"},
		"not a truth value":             {`predicate.a`, `{"a":"true"}`, "does not fulfil"},
		"null":                          {`predicate.a`, `{"a":null}`, "does not fulfil"},
		"a predicate that is a list":    {`true`, `[]`, "no JSON object"},
		"not JSON":                      {`true`, `{`, "no JSON object"},
		"too costly":                    {`predicate.l.all(x, predicate.l.all(y, predicate.l.all(z, x + y + z > 0)))`, `{"l":` + list + `}`, "evaluate"}, // its cost or its time runs out, whichever is first
		"larger than is evaluated":      {`true`, `{"a":"` + strings.Repeat("x", maxPredicateBytes) + `"}`, "at most 8388608"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := compileExpression(tt.expression)
			if err != nil {
				t.Fatal(err)
			}
			err = e.Check(t.Context(), attested("t:x", tt.predicate))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Time that has run out is a refusal too, and an age nobody vouches for has no value.
func TestExpressionsOutOfTime(t *testing.T) {
	e, err := compileExpression(`predicate.l.all(x, x < 10)`)
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if err := e.Check(over, attested("t:x", `{"l":[1,2,3]}`)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("got %v", err)
	}
	e, err = compileExpression(`signer.signed_at > timestamp("2020-01-01T00:00:00Z")`)
	if err != nil {
		t.Fatal(err)
	}
	timeless := attested("t:x", `{}`)
	timeless.By.SignedAt = time.Time{}
	if err := e.Check(t.Context(), timeless); err == nil {
		t.Error("what nobody vouches for was compared")
	}
	if _, err := compileExpression(`true || "` + strings.Repeat("x", maxExpressionBytes) + `" == ""`); err == nil {
		t.Error("an expression of any size was compiled")
	}
}

const (
	github1 = `{"buildDefinition":{"buildType":"https://actions.github.io/buildtypes/workflow/v1","externalParameters":{"workflow":{"ref":"refs/tags/v1","repository":"https://github.com/acme/app","path":".github/workflows/r.yml"}},"resolvedDependencies":[{"uri":"git+https://github.com/acme/app@refs/tags/v1"}]},"runDetails":{"builder":{"id":"https://github.com/actions/runner/github-hosted"}}}`
	slsa02  = `{"builder":{"id":"https://b.example"},"buildType":"https://t.example","invocation":{"configSource":{"uri":"git+https://github.com/acme/app.git@refs/heads/main"}},"materials":[{"uri":"git+https://github.com/other/dependency"}]}`
)

func TestProvenance(t *testing.T) {
	exactly := func(s string) wording { return wording{Wording: gate.Wording{Text: s}} }
	for name, tt := range map[string]struct {
		rule                     slsa
		predicateType, predicate string
		want                     string
	}{
		"1: all of it": {slsa{
			exactly("https://github.com/actions/runner/github-hosted"), exactly("https://github.com/acme/app"), exactly("https://actions.github.io/buildtypes/workflow/v1"),
		}, provenance1, github1, ""},
		"0.2: all of it":                     {slsa{exactly("https://b.example"), exactly("https://github.com/acme/app"), exactly("https://t.example")}, provenance02, slsa02, ""},
		"1: another builder":                 {slsa{builder: exactly("https://b.example")}, provenance1, github1, "names the builder"},
		"1: another source":                  {slsa{source: exactly("https://github.com/acme/ap")}, provenance1, github1, "names the source"},
		"1: another build type":              {slsa{buildType: exactly("x:y")}, provenance1, github1, "names the build type"},
		"0.2: a dependency is no source":     {slsa{source: exactly("https://github.com/other/dependency")}, provenance02, slsa02, "names the source"},
		"0.2 read as 1":                      {slsa{builder: exactly("https://b.example")}, provenance1, slsa02, `names the builder ""`},
		"1 read as 0.2":                      {slsa{builder: exactly("https://github.com/actions/runner/github-hosted")}, provenance02, github1, `names the builder ""`},
		"1: source as text":                  {slsa{source: exactly("https://g.example/a")}, provenance1, `{"buildDefinition":{"externalParameters":{"source":"git+https://g.example/a@refs/heads/m"}}}`, ""},
		"1: source as object":                {slsa{source: exactly("https://g.example/a")}, provenance1, `{"buildDefinition":{"externalParameters":{"source":{"uri":"git+https://g.example/a"}}}}`, ""},
		"1: source of another form":          {slsa{source: exactly("https://g.example/a")}, provenance1, `{"buildDefinition":{"externalParameters":{"source":["https://g.example/a"]},"resolvedDependencies":[{"uri":"https://g.example/a"}]}}`, "names the source"},
		"1: first thing fetched":             {slsa{source: exactly("https://g.example/a")}, provenance1, `{"buildDefinition":{"resolvedDependencies":[{"uri":"git+https://g.example/a@v1"},{"uri":"https://g.example/b"}]}}`, ""},
		"1: second thing fetched":            {slsa{source: exactly("https://g.example/b")}, provenance1, `{"buildDefinition":{"resolvedDependencies":[{"uri":"git+https://g.example/a@v1"},{"uri":"https://g.example/b"}]}}`, "names the source"},
		"1: fetched beside what was told":    {slsa{source: exactly("https://g.example/b")}, provenance1, `{"buildDefinition":{"externalParameters":{"workflow":{"repository":"https://g.example/a"}},"resolvedDependencies":[{"uri":"https://g.example/b"}]}}`, "names the source"},
		"user at a host is no revision":      {slsa{source: exactly("ssh://git@g.example/a")}, provenance1, `{"buildDefinition":{"externalParameters":{"source":"git+ssh://git@g.example/a@v1"}}}`, ""},
		"nothing":                            {slsa{builder: exactly("b")}, provenance1, `{}`, "names the builder"},
		"not a provenance":                   {slsa{builder: exactly("b")}, provenance1, `{"runDetails":[]}`, "can be read"},
		"a builder that only starts like it": {slsa{builder: exactly("https://github.com/actions/runner")}, provenance1, github1, "names the builder"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.rule.Check(t.Context(), attested(tt.predicateType, tt.predicate))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// A summary counts only when it says PASSED, whether a policy says more of it or nothing at all.
func TestSummaries(t *testing.T) {
	policyOf := func(rule string) gate.AttestationRule {
		t.Helper()
		set, err := Parse("p", []byte(`policies: [{name: p, match: {repositories: ["**"]}, require: {attestations: [`+rule+`]}}]`), testNow)
		if err != nil {
			t.Fatal(err)
		}
		return set.Policies[0].Attestations[0]
	}
	const passed = `{"verifier":{"id":"https://v.example"},"verificationResult":"PASSED","verifiedLevels":["SLSA_BUILD_LEVEL_2","X"]}`
	for name, tt := range map[string]struct{ rule, predicate, want string }{
		"bare":            {`{predicate_type: "https://slsa.dev/verification_summary/v1", any_of: [a]}`, passed, ""},
		"24 bare, failed": {`{predicate_type: "https://slsa.dev/verification_summary/v1", any_of: [a]}`, `{"verificationResult":"FAILED"}`, `says "FAILED"`},
		"no result":       {`{any_of: [a], vsa: {}}`, `{}`, `says ""`},
		"in lower case":   {`{any_of: [a], vsa: {}}`, `{"verificationResult":"passed"}`, `says "passed"`},
		"all of it":       {`{any_of: [a], vsa: {verifier: "https://v.example", levels: [X, SLSA_BUILD_LEVEL_2]}}`, passed, ""},
		"a level more":    {`{any_of: [a], vsa: {levels: [SLSA_BUILD_LEVEL_3]}}`, passed, "does not say SLSA_BUILD_LEVEL_3"},
		"by another":      {`{any_of: [a], vsa: {verifier: "https://w.example"}}`, passed, "names the verifier"},
		"by one of many":  {`{any_of: [a], vsa: {verifier_regexp: "https://v\\.example(/.*)?"}}`, passed, ""},
		"not a summary":   {`{any_of: [a], vsa: {}}`, `{"verifier":1}`, "can be read"},
	} {
		t.Run(name, func(t *testing.T) {
			r := policyOf(tt.rule)
			if len(r.Conditions) != 1 {
				t.Fatalf("got %d conditions, want 1", len(r.Conditions))
			}
			err := r.Conditions[0].Check(t.Context(), attested(summary1, tt.predicate))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
