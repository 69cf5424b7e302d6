package policy

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"

	"github.com/tidewaiter/tidewaiter/gate"
)

// maxImageExpressionCost bounds one evaluation, in the units of the CEL specification: about ten looks at each package of an image of
// 10,000. It is the only bound, so that the same image always gets the same answer.
const maxImageExpressionCost = 1_000_000

// The types below are what expressions see of an image. Their fields' names are part of what policies say.

type imageFacts struct {
	User         string            `cel:"user"`
	Labels       map[string]string `cel:"labels"`
	Env          []string          `cel:"env"`
	Entrypoint   []string          `cel:"entrypoint"`
	Cmd          []string          `cel:"cmd"`
	WorkingDir   string            `cel:"working_dir"`
	Ports        []string          `cel:"ports"`
	Volumes      []string          `cel:"volumes"`
	Created      time.Time         `cel:"created"`
	OS           string            `cel:"os"`
	Architecture string            `cel:"architecture"`
	Size         int64             `cel:"size"`
	Layers       int64             `cel:"layers"`
}

type packageFacts struct {
	Type     string   `cel:"type"`
	Name     string   `cel:"name"`
	Version  string   `cel:"version"`
	Source   string   `cel:"source"`
	Licenses []string `cel:"licenses"`
	Path     string   `cel:"path"`
}

type findingFacts struct {
	ID           string       `cel:"id"`
	Severity     string       `cel:"severity"`
	Score        float64      `cel:"score"`
	Package      packageFacts `cel:"package"`
	FixedVersion string       `cel:"fixed_version"`
	Status       string       `cel:"status"`
	Published    time.Time    `cel:"published"`
}

type signatureFacts struct {
	Authority     string    `cel:"authority"`
	Signer        string    `cel:"signer"`
	Issuer        string    `cel:"issuer"`
	SignedAt      time.Time `cel:"signed_at"`
	PredicateType string    `cel:"predicate_type"`
}

type gapFacts struct {
	Kind string `cel:"kind"`
	Why  string `cel:"why"`
	Path string `cel:"path"`
}

type osFacts struct {
	ID      string `cel:"id"`
	Version string `cel:"version"`
	Name    string `cel:"name"`
}

// imageExpression is a compiled CEL expression over an image. It implements [gate.Expression], and is safe for concurrent use.
type imageExpression struct {
	text  string
	reads gate.Reads
	// looksAt are the names of the variables in it.
	looksAt map[string]bool
	program cel.Program
}

// imageVariables are what an expression can look at, with what has to be known for it and how it is told.
var imageVariables = []struct {
	name  string
	kind  *cel.Type
	reads gate.Reads
	of    func(gate.Subject) any
}{
	{"repository", cel.StringType, gate.Reads{}, func(s gate.Subject) any { return s.Candidate.Repository.String() }},
	{"upstream", cel.StringType, gate.Reads{}, func(s gate.Subject) any { return s.Candidate.Repository.Upstream }},
	{"digest", cel.StringType, gate.Reads{}, func(s gate.Subject) any { return s.Candidate.Digest.String() }},
	{"media_type", cel.StringType, gate.Reads{}, func(s gate.Subject) any { return s.Manifest.MediaType }},
	{"tag", cel.StringType, gate.Reads{Tag: true}, func(s gate.Subject) any { return s.Tag }},
	{"image", typeOf[imageFacts](), gate.Reads{Image: true}, imageOf},
	{"packages", cel.ListType(typeOf[packageFacts]()), gate.Reads{Layers: true}, packagesOf},
	{"os", typeOf[osFacts](), gate.Reads{Layers: true}, func(s gate.Subject) any { return osFacts(s.Inventory.OS) }},
	{"gaps", cel.ListType(typeOf[gapFacts]()), gate.Reads{Layers: true}, gapsOf},
	{"findings", cel.ListType(typeOf[findingFacts]()), gate.Reads{Findings: true}, findingsOf},
	{"signatures", cel.ListType(typeOf[signatureFacts]()), gate.Reads{}, signaturesOf},
	{"attestations", cel.ListType(typeOf[signatureFacts]()), gate.Reads{}, attestationsOf},
}

// besideTag are the variables that may stand beside the tag: what is decided of a tag is decided of no image.
var besideTag = map[string]bool{"tag": true, "repository": true, "upstream": true}

func typeOf[T any]() *cel.Type { return cel.ObjectType(reflect.TypeFor[T]().String()) }

// compileImageExpression reads an expression over an image, and checks the types of all that it looks at.
func compileImageExpression(text string) (*imageExpression, error) {
	if len(text) > maxExpressionBytes {
		return nil, fmt.Errorf("larger than %d bytes", maxExpressionBytes)
	}
	options := []cel.EnvOption{ext.Strings(), ext.Sets(), ext.NativeTypes(
		ext.ParseStructTags(true), reflect.TypeFor[imageFacts](), reflect.TypeFor[packageFacts](), reflect.TypeFor[findingFacts](),
		reflect.TypeFor[signatureFacts](), reflect.TypeFor[gapFacts](), reflect.TypeFor[osFacts](),
	)}
	for _, v := range imageVariables {
		options = append(options, cel.Variable(v.name, v.kind))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		var whys []string
		for _, e := range issues.Errors() {
			whys = append(whys, fmt.Sprintf("line %d, column %d of it: %s", e.Location.Line(), e.Location.Column()+1, e.Message))
		}
		return nil, errors.New(strings.Join(whys, "; "))
	}
	if out := ast.OutputType(); !out.IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("it yields %s: want true or false", out)
	}
	x := &imageExpression{text: text, looksAt: map[string]bool{}}
	for _, ref := range ast.NativeRep().ReferenceMap() {
		x.looksAt[ref.Name] = true
	}
	var others []string
	for _, v := range imageVariables {
		if !x.looksAt[v.name] {
			continue
		}
		x.reads = gate.Reads{
			Tag: x.reads.Tag || v.reads.Tag, Image: x.reads.Image || v.reads.Image,
			Layers: x.reads.Layers || v.reads.Layers || v.reads.Findings, Findings: x.reads.Findings || v.reads.Findings,
		}
		if !besideTag[v.name] {
			others = append(others, v.name)
		}
	}
	if x.reads.Tag && len(others) > 0 {
		return nil, fmt.Errorf("it looks at tag and at %s: an image is the same by any tag, so beside tag there is only repository and upstream", strings.Join(others, ", "))
	}
	x.program, err = env.Program(ast, cel.CostLimit(maxImageExpressionCost), cel.EvalOptions(cel.OptOptimize))
	return x, err
}

// String implements [gate.Expression].
func (x *imageExpression) String() string { return "cel: " + x.text }

// Reads implements [gate.Expression].
func (x *imageExpression) Reads() gate.Reads { return x.reads }

// Holds implements [gate.Expression].
func (x *imageExpression) Holds(about gate.Subject) (bool, error) {
	variables := map[string]any{}
	for _, v := range imageVariables {
		variables[v.name] = func() any { return v.of(about) } // told only if it is looked at
	}
	value, _, err := x.program.Eval(variables)
	if err != nil {
		return false, fmt.Errorf("cannot be told, evaluating it: %v", err)
	}
	holds, ok := value.Value().(bool)
	if !ok {
		return false, errors.New("cannot be told: it is neither true nor false")
	}
	return holds, nil
}

func imageOf(s gate.Subject) any {
	f := imageFacts{Layers: int64(len(s.Manifest.Layers))}
	for _, d := range s.Manifest.Blobs() {
		f.Size += d.Size // descriptors are bounded, so that the sum is too
	}
	if c := s.Config; c != nil {
		f.User, f.Labels, f.Entrypoint, f.Cmd, f.WorkingDir = c.User, c.Labels, c.Entrypoint, c.Cmd, c.WorkingDir
		f.Ports, f.Volumes, f.Created, f.OS, f.Architecture = c.ExposedPorts, c.Volumes, c.Created, c.OS, c.Architecture
		for _, variable := range c.Env {
			name, _, _ := strings.Cut(variable, "=")
			f.Env = append(f.Env, name)
		}
	}
	return f
}

func packageOf(p gate.Package, path string) packageFacts {
	return packageFacts{p.Type, p.Name, p.Version, p.Source, p.Licenses, path}
}

func packagesOf(s gate.Subject) any {
	facts := make([]packageFacts, len(s.Inventory.Packages))
	for i, p := range s.Inventory.Packages {
		facts[i] = packageOf(p.Package, p.Path)
	}
	return facts
}

func findingsOf(s gate.Subject) any {
	facts := make([]findingFacts, len(s.Findings))
	for i, f := range s.Findings {
		facts[i] = findingFacts{f.ID, f.Severity.String(), f.Score, packageOf(f.Package, f.Path), f.FixedVersion, f.Status, f.Published}
	}
	return facts
}

func gapsOf(s gate.Subject) any {
	facts := make([]gapFacts, len(s.Gaps))
	for i, g := range s.Gaps {
		facts[i] = gapFacts{string(g.Kind), g.Why, g.Path}
	}
	return facts
}

func signaturesOf(s gate.Subject) any {
	facts := make([]signatureFacts, len(s.Signatures))
	for i, g := range s.Signatures {
		facts[i] = signatureFacts{Authority: g.Authority, Signer: g.Signer, Issuer: g.Issuer, SignedAt: g.SignedAt}
	}
	return facts
}

func attestationsOf(s gate.Subject) any {
	facts := make([]signatureFacts, len(s.Attestations))
	for i, a := range s.Attestations {
		facts[i] = signatureFacts{a.By.Authority, a.By.Signer, a.By.Issuer, a.By.SignedAt, a.PredicateType}
	}
	return facts
}
