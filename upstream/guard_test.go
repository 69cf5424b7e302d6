package upstream

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestRealmCovers(t *testing.T) {
	tests := map[string]struct {
		realm, url string
		want       bool
	}{
		"the same":                  {"https://auth.test/token", "https://auth.test/token?service=x", true},
		"below":                     {"https://auth.test/token", "https://auth.test/token/more", true},
		"with a slash at the end":   {"https://auth.test/token", "https://auth.test/token/", true},
		"configured with a slash":   {"https://auth.test/token/", "https://auth.test/token", true},
		"anything at an origin":     {"https://auth.test", "https://auth.test/any/thing", true},
		"the default port":          {"https://auth.test", "https://auth.test:443/token", true},
		"upper case":                {"https://auth.test", "HTTPS://AUTH.test/token", true},
		"another host":              {"https://auth.test", "https://evil.test/token", false},
		"a longer host":             {"https://auth.test", "https://auth.test.evil.test/token", false},
		"a host below":              {"https://auth.test", "https://x.auth.test/token", false},
		"another port":              {"https://auth.test", "https://auth.test:8443/token", false},
		"another scheme":            {"https://auth.test", "http://auth.test/token", false},
		"plain http at port 443":    {"https://auth.test", "http://auth.test:443/token", false},
		"another path":              {"https://auth.test/token", "https://auth.test/other", false},
		"a longer component":        {"https://auth.test/token", "https://auth.test/token2", false},
		"dots":                      {"https://auth.test/token", "https://auth.test/token/../other", false},
		"encoded dots":              {"https://auth.test/token", "https://auth.test/token/%2e%2e/other", false},
		"an encoded slash":          {"https://auth.test/token", "https://auth.test/token%2fother", false},
		"a host in front of an '@'": {"https://auth.test", "https://auth.test@evil.test/token", false},
		"credentials":               {"https://auth.test", "https://u:p@auth.test/token", false},
		"no scheme":                 {"https://auth.test", "//auth.test/token", false},
		"nothing":                   {"https://auth.test", "", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := Config{}.parseRealm(tc.realm)
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(tc.url)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.covers(u); got != tc.want {
				t.Errorf("got %t, want %t", got, tc.want)
			}
		})
	}
}

// carried is a transport that keeps what it is given.
type carried struct {
	sent   []*http.Request
	status int
	header http.Header
}

func (c *carried) RoundTrip(r *http.Request) (*http.Response, error) {
	c.sent = append(c.sent, r)
	return &http.Response{StatusCode: c.status, Header: c.header.Clone(), Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
}

func parsed(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newGuard(t *testing.T, next http.RoundTripper) *guard {
	t.Helper()
	return &guard{
		next: next, upstream: "registry.test", origin: parsed(t, "https://registry.test"),
		realms: []realm{{origin: "https://auth.test:443", path: "/token"}},
	}
}

func TestGuardLetsThrough(t *testing.T) {
	tests := map[string]struct{ method, url, want string }{
		"the upstream":               {"GET", "https://registry.test/v2/a/manifests/1", "https://registry.test/v2/a/manifests/1"},
		"a realm":                    {"GET", "https://auth.test/token?x=1", "https://auth.test/token?x=1"},
		"a realm behind a mask":      {"GET", "https://registry.test/.tidewaiter-realm/https/auth.test/token?x=1", "https://auth.test/token?x=1"},
		"another host":               {"GET", "https://evil.test/v2/", ""},
		"another path of a realm":    {"GET", "https://auth.test/other", ""},
		"another host behind a mask": {"GET", "https://registry.test/.tidewaiter-realm/https/evil.test/token", ""},
		"another scheme by a mask":   {"GET", "https://registry.test/.tidewaiter-realm/http/auth.test/token", ""},
		"dots behind a mask":         {"GET", "https://registry.test/.tidewaiter-realm/https/auth.test/token/../x", ""},
		"an empty mask":              {"GET", "https://registry.test/.tidewaiter-realm/", ""},
		"plain http":                 {"GET", "http://registry.test/v2/", ""},
		"a write":                    {"POST", "https://registry.test/v2/", ""},
		"a write to a realm":         {"POST", "https://auth.test/token", ""},
		"a form to a realm":          {"POST form", "https://auth.test/token", "https://auth.test/token"},
		"a form to a realm's mask":   {"POST form", "https://registry.test/.tidewaiter-realm/https/auth.test/token", "https://auth.test/token"},
		"a form to the upstream":     {"POST form", "https://registry.test/v2/a/blobs/uploads/", ""},
		"a form to another host":     {"POST form", "https://evil.test/token", ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := &carried{status: http.StatusOK}
			method, form, _ := strings.Cut(tc.method, " ")
			req, err := http.NewRequestWithContext(t.Context(), method, tc.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer secret")
			if form != "" {
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			_, err = newGuard(t, next).RoundTrip(req)
			if tc.want == "" {
				if !errors.Is(err, errLeak) || len(next.sent) != 0 {
					t.Fatalf("got %v and %d requests, want errLeak and none", err, len(next.sent))
				}
				return
			}
			if err != nil || len(next.sent) != 1 {
				t.Fatalf("got %v and %d requests, want one", err, len(next.sent))
			}
			if got := next.sent[0].URL.String(); got != tc.want || next.sent[0].Host != parsed(t, tc.want).Host {
				t.Errorf("got %s for host %s, want %s", got, next.sent[0].Host, tc.want)
			}
		})
	}
}

// Where something is pushed, it is pushed to the upstream and nowhere else.
func TestGuardOfPushes(t *testing.T) {
	for name, tc := range map[string]struct {
		method, url string
		want        bool
	}{
		"a blob":                     {"PUT", "https://registry.test/v2/a/blobs/uploads/1?digest=x", true},
		"an upload outside the API":  {"PUT", "https://registry.test/uploads/1", true},
		"a session":                  {"POST", "https://registry.test/v2/a/blobs/uploads/", true},
		"a read":                     {"GET", "https://registry.test/v2/", true},
		"a delete":                   {"DELETE", "https://registry.test/v2/a/manifests/1", false},
		"a part":                     {"PATCH", "https://registry.test/v2/a/blobs/uploads/1", false},
		"another host":               {"PUT", "https://evil.test/v2/a/blobs/uploads/1", false},
		"another port":               {"PUT", "https://registry.test:8443/v2/a/blobs/uploads/1", false},
		"plain http":                 {"PUT", "http://registry.test/v2/a/blobs/uploads/1", false},
		"a realm":                    {"PUT", "https://auth.test/token", false},
		"a realm behind a mask":      {"PUT", "https://registry.test/.tidewaiter-realm/https/auth.test/token", false},
		"what is next to a mask":     {"POST", "https://registry.test/.tidewaiter-realm/", false},
		"another host behind a mask": {"POST", "https://registry.test/.tidewaiter-realm/https/evil.test/x", false},
	} {
		t.Run(name, func(t *testing.T) {
			next := &carried{status: http.StatusOK}
			req, err := http.NewRequestWithContext(t.Context(), tc.method, tc.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			g := newGuard(t, next)
			g.pushes = true
			_, err = g.RoundTrip(req)
			if (err == nil) != tc.want || (len(next.sent) == 1) != tc.want || err != nil && !errors.Is(err, errLeak) {
				t.Errorf("got %v and %d requests, want it through: %t", err, len(next.sent), tc.want)
			}
		})
	}
}

func TestGuardChecksChallenges(t *testing.T) {
	tests := map[string]struct{ challenge, want string }{
		"a configured realm": {`Bearer realm="https://auth.test/token",service="s"`, `Bearer realm="https://registry.test/.tidewaiter-realm/https/auth.test/token",service="s"`},
		"more than pull": {
			`Bearer realm="https://auth.test/token",scope="repository:a:pull repository:a:pull,push registry:catalog:* repository:b:delete aws"`,
			`Bearer realm="https://registry.test/.tidewaiter-realm/https/auth.test/token",scope="repository:a:pull aws"`,
		},
		"basic":                     {`Basic realm="x"`, `Basic realm="x"`},
		"a foreign realm":           {`Bearer realm="https://evil.test/token"`, ""},
		"a realm that is no URL":    {`Bearer realm="https://%zz"`, ""},
		"no realm":                  {`Bearer service="s"`, ""},
		"a realm of another parser": {`Bearer realm="https://evil.test",realm="https://auth.test/token"`, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := &carried{status: http.StatusUnauthorized, header: http.Header{"Www-Authenticate": {tc.challenge}}}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://registry.test/v2/", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := newGuard(t, next).RoundTrip(req)
			if tc.want == "" {
				if !errors.Is(err, errForeignRealm) || !strings.Contains(err.Error(), "is not among the realms of upstream registry.test") {
					t.Errorf("got %v, want errForeignRealm that says so", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := resp.Header.Get("WWW-Authenticate"); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}
