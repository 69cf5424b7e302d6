package oci

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestPatternCovers(t *testing.T) {
	for _, tt := range []struct {
		p, q string
		want bool
	}{
		{"**", "**", true},
		{"**", "docker.io/library/nginx", true},
		{"docker.io/**", "docker.io/library/*", true},
		{"docker.io/**", "docker.io/**", true},
		{"docker.io/library/*", "docker.io/library/nginx", true},
		{"docker.io/library/*", "docker.io/library/ngi*", true},
		{"docker.io/library/ngi*", "docker.io/library/*", false},
		{"docker.io/library/*", "docker.io/**", false},
		{"docker.io/*", "docker.io/**", false},
		{"*", "**", false},
		{"**/nginx", "docker.io/**/nginx", true},
		{"**/nginx", "docker.io/**", false},
		{"docker.io/**", "quay.io/**", false},
		{"apps/web", "apps/web", true},
		{"apps/web", "apps/webs", false},
	} {
		p, q := parsed(t, tt.p), parsed(t, tt.q)
		if got := p.Covers(q); got != tt.want {
			t.Errorf("%q covers %q: got %t, want %t", tt.p, tt.q, got, tt.want)
		}
	}
	if (Pattern{}).Covers(parsed(t, "a")) || parsed(t, "**").Covers(Pattern{}) {
		t.Error("the zero value covers something, or is covered")
	}
}

func parsed(t *testing.T, s string) Pattern {
	t.Helper()
	p, err := ParsePattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestWhatIsCoveredIsMatched draws patterns and names over few letters, so that they meet.
func TestWhatIsCoveredIsMatched(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	draw := func(of ...string) string {
		parts := make([]string, 1+r.IntN(3))
		for i := range parts {
			parts[i] = of[r.IntN(len(of))]
		}
		return strings.Join(parts, "/")
	}
	covered, met := 0, 0
	for range 200_000 {
		p, q := parsed(t, draw("a", "b", "ab", "*", "a*", "*b", "**")), parsed(t, draw("a", "b", "ab", "*", "a*", "*b", "**"))
		name := draw("a", "b", "ab", "aab", "abb")
		if !p.Covers(q) {
			continue
		}
		covered++
		if q.Match(name) {
			met++
			if !p.Match(name) {
				t.Fatalf("%q is said to cover %q, which matches %q, and does not match that", p, q, name)
			}
		}
	}
	if covered < 1000 || met < 1000 {
		t.Errorf("%d pairs cover, %d names met: the law was hardly tried", covered, met)
	}
}
