package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"

	"github.com/tidewaiter/tidewaiter/gate"
)

// What one expression may cost. Statements were written by whoever is trusted to attest, about whatever they were given to build, so a
// costly one is not malice, but it is no reason to keep others waiting either.
const (
	// maxExpressionBytes bounds an expression in a policy file; parsing takes many times its size.
	maxExpressionBytes = 8 << 10
	// maxExpressionCost bounds one evaluation, in the units of the CEL specification: about a pass over an SBOM of 100,000 packages.
	maxExpressionCost = 5_000_000
	// expressionTimeout bounds one evaluation where its cost was estimated too low.
	expressionTimeout = 3 * time.Second
	// interruptEvery is how many steps of a comprehension are taken before the time is looked at.
	interruptEvery = 256
	// maxPredicateBytes bounds what expressions are evaluated over: reading it takes twenty times its size.
	maxPredicateBytes = 8 << 20
)

// expression is a compiled CEL expression over an attestation. It implements [gate.Condition], and is safe for concurrent use.
type expression struct {
	text    string
	program cel.Program
}

// compileExpression reads an expression over an attestation: predicate and statement are the JSON that was signed, signer is who did.
func compileExpression(text string) (expression, error) {
	if len(text) > maxExpressionBytes {
		return expression{}, fmt.Errorf("larger than %d bytes", maxExpressionBytes)
	}
	env, err := cel.NewEnv(
		cel.Variable("predicate", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("statement", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("signer", cel.MapType(cel.StringType, cel.DynType)),
		ext.Strings(), ext.Sets(),
	)
	if err != nil {
		return expression{}, err
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		first := issues.Errors()[0]
		return expression{}, fmt.Errorf("line %d, column %d of it: %s", first.Location.Line(), first.Location.Column()+1, first.Message)
	}
	if out := ast.OutputType(); !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
		return expression{}, fmt.Errorf("it yields %s: want true or false", out)
	}
	program, err := env.Program(ast, cel.CostLimit(maxExpressionCost), cel.InterruptCheckFrequency(interruptEvery), cel.EvalOptions(cel.OptOptimize))
	return expression{text, program}, err
}

// String implements [gate.Condition].
func (e expression) String() string { return "cel: " + e.text }

// Check implements [gate.Condition]. Only true is true: whatever the expression fails with, a member that is missing among them, is a
// reason not to take it for true.
func (e expression) Check(ctx context.Context, a gate.Attestation) error {
	if len(a.Statement) > maxPredicateBytes {
		return fmt.Errorf("has %d bytes, at most %d are evaluated", len(a.Statement), maxPredicateBytes)
	}
	var statement, predicate map[string]any
	if json.Unmarshal(a.Statement, &statement) != nil || json.Unmarshal(a.Predicate, &predicate) != nil {
		return errors.New("is no JSON object")
	}
	signer := map[string]any{"authority": a.By.Authority, "subject": a.By.Signer, "issuer": a.By.Issuer}
	if !a.By.SignedAt.IsZero() {
		signer["signed_at"] = a.By.SignedAt
	}
	ctx, cancel := context.WithTimeout(ctx, expressionTimeout)
	defer cancel()
	value, _, err := e.program.ContextEval(ctx, map[string]any{"predicate": predicate, "statement": statement, "signer": signer})
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("took too long to evaluate by %s", e.text)
	case err != nil:
		return fmt.Errorf("cannot be evaluated by %s: %v", e.text, err)
	}
	if holds, ok := value.Value().(bool); !ok || !holds {
		return fmt.Errorf("does not fulfil %s", e.text)
	}
	return nil
}
