package upstream

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseChallenge(t *testing.T) {
	type params = map[string]string
	tests := map[string]struct {
		header     string
		wantScheme string
		want       params
	}{
		"as registries send it": {
			`Bearer realm="https://auth.test/token",service="registry.test",scope="repository:a/b:pull"`,
			"bearer", params{"realm": "https://auth.test/token", "service": "registry.test", "scope": "repository:a/b:pull"},
		},
		"with spaces":                  {`bearer  realm = "https://auth.test" , service = x`, "bearer", params{"realm": "https://auth.test", "service": "x"}},
		"keys in any case":             {`BEARER Realm="https://auth.test"`, "bearer", params{"realm": "https://auth.test"}},
		"a comma in quotes":            {`Bearer scope="a,b",realm="r"`, "bearer", params{"scope": "a,b", "realm": "r"}},
		"escapes":                      {`Bearer realm="a\"b\\c"`, "bearer", params{"realm": `a"b\c`}},
		"the first of two realms":      {`Bearer realm="https://a.test",realm="https://b.test"`, "bearer", params{"realm": "https://a.test"}},
		"the first of two challenges":  {`Basic realm="x", Bearer realm="https://b.test"`, "basic", params{"realm": "x"}},
		"an open quote":                {`Bearer realm="https://auth.test`, "bearer", params{}},
		"an open escape":               {`Bearer realm="https://auth.test\`, "bearer", params{}},
		"a control character":          {"Bearer realm=\"https://auth\x00.test\"", "bearer", params{}},
		"a character outside of ASCII": {`Bearer realm="https://aüth.test"`, "bearer", params{}},
		"no parameters":                {"Bearer", "bearer", params{}},
		"nothing":                      {"", "", params{}},
		"a leading space":              {` Bearer realm="x"`, "", params{}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := parseChallenge(tc.header)
			if diff := cmp.Diff(got.params, tc.want); got.scheme != tc.wantScheme || diff != "" {
				t.Errorf("got scheme %q, want %q; got, want:\n%s", got.scheme, tc.wantScheme, diff)
			}
		})
	}
}

// What is written for the auth library reads back as what was checked, whatever a registry sent.
func FuzzChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://auth.test/token",service="registry.test",scope="repository:a/b:pull"`)
	f.Add(`Bearer realm="a\"b\\c",realm=x`)
	f.Fuzz(func(t *testing.T, header string) {
		c := parseChallenge(header)
		again := parseChallenge(bearerHeader(c.params["realm"], c.params["service"], c.params["scope"]))
		for _, key := range []string{"realm", "service", "scope"} {
			if got, want := again.params[key], c.params[key]; got != want {
				t.Errorf("%s: got %q, want %q", key, got, want)
			}
		}
	})
}
