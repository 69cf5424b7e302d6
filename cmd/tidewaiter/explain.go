package main

import (
	"strings"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
)

// explainedVerdict is a verdict as JSON, with its reasons explained.
type explainedVerdict struct {
	gate.Verdict
	Explained []console.Explanation `json:"explained,omitempty"`
}

func explained(verdicts []gate.Verdict) []explainedVerdict {
	all := make([]explainedVerdict, len(verdicts))
	for i, v := range verdicts {
		all[i] = explainedVerdict{v, console.Explain(v)}
	}
	return all
}

// maxExplained is how many reasons of a verdict are explained to a person. Beyond that another image is wanted, and JSON has all.
const maxExplained = 10

// writeExplanation writes what explanations say of one reason, if they do.
func writeExplanation(b *strings.Builder, explanations []console.Explanation, r gate.Reason) {
	for _, e := range explanations[:min(len(explanations), maxExplained)] {
		if e.Rule != r.Rule || e.Message != r.Message {
			continue
		}
		if e.Place != "" {
			writeLine(b, "            asked for by %s", e.Place)
		}
		for _, remedy := range e.Remedies {
			writeLine(b, "            to pass: %s", remedy)
		}
		if e.Waive != "" {
			writeLine(b, "            or: %s", e.Waive)
		}
		return
	}
}
