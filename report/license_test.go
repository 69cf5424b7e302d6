package report

import (
	"strings"
	"testing"
)

func TestIsExpression(t *testing.T) {
	for text, want := range map[string]bool{
		"MIT": true, "MIT AND Apache-2.0": true, "(MIT OR ISC) AND Zlib": true, "GPL-2.0-or-later WITH Classpath-exception-2.0": true, "LGPL-2.1-only+": true,
		"": false, "MIT License": false, "MIT AND": false, "AND MIT": false, "(MIT": false, "MIT)": false, "()": false, "MIT WITH Apache-2.0": false,
		"mit": false, "MIT and ISC": false, "MIT/ISC": false, "Classpath-exception-2.0": false, strings.Repeat("(", 1000) + "MIT": false,
		strings.Repeat("MIT AND ", 500) + "MIT": false,
	} {
		if got := isExpression(text); got != want {
			t.Errorf("%.40q: got %t, want %t", text, got, want)
		}
	}
}

func FuzzIsExpression(f *testing.F) {
	f.Add("(MIT OR ISC) AND Zlib")
	f.Fuzz(func(t *testing.T, text string) { isExpression(text) })
}
