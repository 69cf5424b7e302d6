package access

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"
)

const someHash = "$2a$04$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZabcde"

func FuzzHtpasswd(f *testing.F) {
	f.Add([]byte("ci:" + someHash + "\n"))
	f.Add([]byte("# people\r\n\r\nci:" + someHash + "\r\n"))
	f.Add([]byte("ci:{SHA}x\nrobot+a:" + someHash + "\n:" + someHash))
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := parseHtpasswd(content)
		if err != nil {
			return
		}
		for user, hash := range p.hashes {
			if !validUser(user) || strings.Contains(user, ":") || strings.HasPrefix(user, robotPrefix) {
				t.Errorf("%q is a user", user)
			}
			if cost, err := bcryptCost(hash); err != nil || cost > maxBcryptCost || !strings.Contains(string(content), user+":"+hash) {
				t.Errorf("%q has the hash %q", user, hash)
			}
		}
		if _, err := bcryptCost(p.decoy); err != nil {
			t.Errorf("the decoy %q is no hash: %v", p.decoy, err)
		}
	})
}

func FuzzRobots(f *testing.F) {
	digits := strings.Repeat("0123456789abcdef", 4)
	f.Add([]byte("- {name: ci, secret_sha256: " + digits + ", until: 2030-01-01T00:00:00Z, description: builds}"))
	f.Add([]byte("[]"))
	f.Add([]byte("- &a {name: ci, secret_sha256: " + digits + ", until: 2030-01-01T00:00:00Z}\n- *a"))
	f.Fuzz(func(t *testing.T, content []byte) {
		r, err := parseRobots(content)
		if err != nil {
			return
		}
		for name, robot := range r.byName {
			if robot.problem() != nil || robot.Name != name || r.account(name, robot.Until) != "" || r.account(name, robot.Until.Add(-time.Second)) == "" {
				t.Errorf("%q is %+v", name, robot)
			}
		}
	})
}

func FuzzAuthorization(f *testing.F) {
	f.Add("Basic Y2k6c2VjcmV0")
	f.Add("bearer a.b.c")
	f.Add("Basic  Y2k6c2VjcmV0 ")
	f.Add("Bearer a b")
	f.Add("Basic Y2k=")
	f.Fuzz(func(t *testing.T, header string) {
		got, err := parseAuthorization(header)
		if err != nil {
			if got != (shown{}) {
				t.Errorf("refused, and shown %+v", got)
			}
			return
		}
		if (got.token == "") == (got.user == "") || len(got.token) > maxTokenBytes {
			t.Errorf("%q shows %+v", header, got)
		}
		if got.user != "" {
			r := &http.Request{Header: http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(got.user+":"+got.password))}}}
			if user, password, ok := r.BasicAuth(); !ok || user != got.user || password != got.password {
				t.Errorf("%q shows %+v, and Go reads %q %q", header, got, user, password)
			}
		}
		claimedIssuer(got.token)
	})
}

func FuzzScopes(f *testing.F) {
	f.Add("repository:apps/web:pull,push")
	f.Add("repository(plugin):registry.test:5000/app:* registry:catalog:*")
	f.Add("repository::pull")
	f.Fuzz(func(t *testing.T, param string) {
		for _, s := range parseScopes([]string{param}) {
			if s.asked == 0 || s.asked&^allActions() != 0 || s.name == "" && s.asked != Pull.set() {
				t.Errorf("%q asks for %+v", param, s)
			}
			if s.name != "" && !strings.Contains(param, ":"+s.name+":") {
				t.Errorf("%q asks for %q", param, s.name)
			}
		}
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("system:serviceaccount:ci:*", "system:serviceaccount:ci:builder")
	f.Add("repo:acme/*:ref:**", "repo:acme/app:ref:refs/heads/main")
	f.Add("**", "")
	f.Add("a.c", "abc")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		g, err := parseGlob(pattern)
		if err != nil || name == "" {
			return
		}
		if !strings.Contains(pattern, "*") && g.match(name) != (pattern == name) {
			t.Errorf("%q matches %q: %t", pattern, name, g.match(name))
		}
		first, _, _ := strings.Cut(pattern, "*")
		last := pattern[strings.LastIndexByte(pattern, '*')+1:]
		if g.match(name) && (!strings.HasPrefix(name, first) || !strings.HasSuffix(name, last)) {
			t.Errorf("%q matches %q, which begins or ends otherwise", pattern, name)
		}
	})
}

func TestRememberingIsBounded(t *testing.T) {
	r := newRecent[int, string](3)
	for i := range 5 {
		r.put(i, "x")
		r.get(0)
	}
	if _, ok := r.get(0); !ok {
		t.Error("what is used is forgotten")
	}
	if _, ok := r.get(2); ok || len(r.entries) != 3 || r.order.Len() != 3 {
		t.Errorf("got %d entries in %d", r.order.Len(), len(r.entries))
	}
	r.put(0, "y")
	r.remove(4)
	r.remove(4)
	if v, _ := r.get(0); v != "y" || r.order.Len() != 2 {
		t.Errorf("got %q in %d", v, r.order.Len())
	}
}

func TestPlaces(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:1": "192.0.2.7/32", "[::ffff:192.0.2.7]:1": "192.0.2.7/32", "[2001:db8:1:2:3::4]:1": "2001:db8:1:2::/64", "[fe80::1%eth0]:1": "fe80::/64", "@": "invalid Prefix",
	} {
		if got := network(address(&http.Request{RemoteAddr: remote})).String(); got != want {
			t.Errorf("%s: got %s, want %s", remote, got, want)
		}
	}
}

// What a challenge asks for must come back as a scope that covers the action, or clients would ask for ever.
func TestScopesOfChallengesCoverTheirActions(t *testing.T) {
	for _, a := range Actions() {
		scopes := parseScopes([]string{"repository:x:" + scopeActions(a)})
		if len(scopes) != 1 || scopes[0].asked&a.set() == 0 {
			t.Errorf("%s: %q asks for %+v", a, scopeActions(a), scopes)
		}
	}
}
