package oci

import (
	"regexp"
	"strings"
	"testing"
)

func TestPatternMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"**", "a", true},
		{"**", "a/b/c", true},
		{"*", "a", true},
		{"*", "a/b", false},
		{"library/*", "library/nginx", true},
		{"library/*", "library", false},
		{"library/*", "library/a/b", false},
		{"library/*", "xlibrary/nginx", false},
		{"library/*", "a/library/nginx", false},
		{"library/nginx", "library/nginx", true},
		{"library/nginx", "library/nginx2", false},
		{"library/nginx", "library", false},
		{"grafana/**", "grafana", true},
		{"grafana/**", "grafana/a/b", true},
		{"grafana/**", "grafana2/a", false},
		{"**/app", "app", true},
		{"**/app", "a/b/app", true},
		{"**/app", "a/b/app/c", false},
		{"a/**/b/**/c", "a/x/b/y/b/z/c", true},
		{"a/**/b/**/c", "a/x/y/c", false},
		{"**/a/*", "a/a/a", true},
		{"**/**", "a", true},
		{"my*app", "my-great-app", true},
		{"my*app", "myapp", true},
		{"my*app", "myap", false},
		{"a*a", "a", false},
		{"my*app", "your-app", false},
		{"a*b*c", "axc", false},
		{"a*b*c", "axbxbxc", true},
		{"a*b*c", "axcxb", false},
		{"*.io/**", "ghcr.io/a", true},
		{"*.io/**", "ghcr.iox/a", false},
	} {
		p, err := ParsePattern(tt.pattern)
		if err != nil {
			t.Fatalf("ParsePattern(%q): %v", tt.pattern, err)
		}
		if got := p.Match(tt.name); got != tt.want {
			t.Errorf("%q matches %q: got %t, want %t", tt.pattern, tt.name, got, tt.want)
		}
		if got := p.String(); got != tt.pattern {
			t.Errorf("String() = %q, want %q", got, tt.pattern)
		}
	}
}

func TestPatternRefusals(t *testing.T) {
	for pattern, want := range map[string]string{
		"":         `pattern "" has an empty component`,
		"a//b":     `pattern "a//b" has an empty component`,
		"/a":       `pattern "/a" has an empty component`,
		"a/":       `pattern "a/" has an empty component`,
		"a/b**":    `pattern "a/b**": ** must be a whole component`,
		"***":      `pattern "***": ** must be a whole component`,
		"A":        `pattern "A": 'A' never occurs in a repository name`,
		"a/ä":      `pattern "a/ä": 'ä' never occurs in a repository name`,
		"a?":       `pattern "a?": '?' never occurs in a repository name`,
		"a/[b]":    `pattern "a/[b]": '[' never occurs in a repository name`,
		"a/b\n":    `pattern "a/b\n": '\n' never occurs in a repository name`,
		"https://": `pattern "https://" has an empty component`,
	} {
		p, err := ParsePattern(pattern)
		if err == nil || err.Error() != want {
			t.Errorf("ParsePattern(%q) = %v, want %q", pattern, err, want)
		}
		if p.Match("a") || p.Match("") {
			t.Errorf("the refused pattern %q matches", pattern)
		}
	}
}

func TestZeroPatternMatchesNothing(t *testing.T) {
	for _, name := range []string{"", "a", "a/b"} {
		if (Pattern{}).Match(name) {
			t.Errorf("the zero Pattern matches %q", name)
		}
	}
}

func TestParseFullPatternTakesEitherFormOfAPort(t *testing.T) {
	for _, pattern := range []string{"registry.example_5000/**", "registry.example:5000/**"} {
		p, err := ParseFullPattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Match("registry.example:5000/a/b") || p.Match("registry.example_5000/a") {
			t.Errorf("%q does not match repositories by their names", pattern)
		}
	}
	p, err := ParseFullPattern("apps_1")
	if err != nil || !p.Match("apps_1") {
		t.Errorf("a lone component is taken for a host: %q, %v", p, err)
	}
	for _, pattern := range []string{"a//b", "docker.io/nginx", "docker.io/*"} {
		if _, err := ParseFullPattern(pattern); err == nil {
			t.Errorf("%q, which matches nothing, is accepted", pattern)
		}
	}
	if p, err := ParseFullPattern("docker.io/**"); err != nil || !p.Match("docker.io/library/nginx") {
		t.Errorf("all of docker.io: %v", err)
	}
}

// A client chooses the name, so no name may make a pattern slow. With backtracking into every '**' this one takes years.
func TestPatternCostIsBounded(t *testing.T) {
	p, err := ParsePattern(strings.Repeat("**/a/", 40) + "b")
	if err != nil {
		t.Fatal(err)
	}
	if p.Match(strings.Repeat("a/", 126) + "a") {
		t.Error("it matches a name that has no b")
	}
	if !p.Match(strings.Repeat("a/", 126) + "b") {
		t.Error("it does not match a name that ends in b")
	}
}

// FuzzPattern compares with a regular expression of the same meaning.
func FuzzPattern(f *testing.F) {
	f.Add("**/a/*", "a/b/a/c")
	f.Add("a/**/b*c/**", "a/bxc")
	f.Add("**/**", "a")
	f.Add("a*a*", "aba")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, err := ParsePattern(pattern)
		if err != nil || len(pattern) > 60 || len(name) > 100 || strings.Contains(name, "\n") {
			return
		}
		if got, want := p.Match(name), oracle(pattern).MatchString("/"+name); got != want {
			t.Fatalf("%q matches %q: got %t, want %t", pattern, name, got, want)
		}
	})
}

func oracle(pattern string) *regexp.Regexp {
	var b strings.Builder
	for part := range strings.SplitSeq(pattern, "/") {
		if part == "**" {
			b.WriteString("(?:/[^/]*)*")
			continue
		}
		b.WriteString("/" + strings.ReplaceAll(regexp.QuoteMeta(part), `\*`, "[^/]*"))
	}
	return regexp.MustCompile("^" + b.String() + "$")
}
