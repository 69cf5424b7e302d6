package access_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/oci"
)

// newKey returns a token key as a file holds it.
func newKey(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token.pem")
	if err := access.CreateTokenKey(path); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// tokenPlace returns a place with users ci and viewer, a robot, and a token service.
func tokenPlace(t testing.TB, more func(*place, *access.Options)) (*place, string) {
	t.Helper()
	secret := ""
	p := newPlace(t, func(p *place, o *access.Options) {
		o.HtpasswdFile = p.write(t, "htpasswd", hash(t, "ci", "secret")+hash(t, "viewer", "secret"))
		o.RobotsFile = filepath.Join(p.dir, "robots.yaml")
		o.KeyFile = p.write(t, "token.pem", newKey(t))
		o.Anonymous = []access.Rule{rule("pull", "public/**")}
		o.Grants = []access.Grant{
			grant("user:ci", "push", "apps/**"), grant("user:viewer", "pull", "apps/**"), grant("robot:signer", "sign", "apps/**"),
			grant("user:ci", "delete", "tmp/**"),
		}
		var err error
		if secret, err = access.AddRobot(o.RobotsFile, access.Robot{Name: "signer", Until: p.clock.now().Add(5 * time.Minute)}, p.clock.now()); err != nil {
			t.Fatal(err)
		}
		if more != nil {
			more(p, o)
		}
	})
	return p, secret
}

func TestTokensNarrow(t *testing.T) {
	p, robotSecret := tokenPlace(t, nil)
	for _, tt := range []struct {
		law    string
		from   *http.Request
		scopes []string
		repo   string
		want   string
		name   string
	}{
		{"a token is good for what it was asked for", basic("ci", "secret"), []string{"repository:apps/web:pull"}, "apps/web", "pull", "user:ci"},
		{"pull and push is what docker asks for", basic("ci", "secret"), []string{"repository:apps/web:pull,push"}, "apps/web", "pull,push,sign", "user:ci"},
		{"and no other repository", basic("ci", "secret"), []string{"repository:apps/web:pull,push"}, "apps/other", "", "user:ci"},
		{"not even what everybody may", basic("ci", "secret"), []string{"repository:apps/web:pull"}, "public/x", "", "user:ci"},
		{"a star is all one may", basic("ci", "secret"), []string{"repository:tmp/x:*"}, "tmp/x", "pull,delete", "user:ci"},
		{"what one may not is left out", basic("viewer", "secret"), []string{"repository:apps/web:pull,push,delete"}, "apps/web", "pull", "user:viewer"},
		{"repositories one may not, too", basic("viewer", "secret"), []string{"repository:tmp/x:pull", "repository:apps/web:pull"}, "tmp/x", "", "user:viewer"},
		{"several scopes in one parameter", basic("ci", "secret"), []string{"repository:apps/a:pull repository:apps/b:push"}, "apps/b", "pull,push,sign", "user:ci"},
		{"with a class", basic("ci", "secret"), []string{"repository(plugin):apps/web:pull"}, "apps/web", "pull", "user:ci"},
		{"no scope is good for nothing", basic("ci", "secret"), nil, "apps/web", "", "user:ci"},
		{"nor what is no scope", basic("ci", "secret"), []string{"apps/web:pull", "repository::pull", "repository:apps/web", "repository:apps/web:fly", ""}, "apps/web", "", "user:ci"},
		{"nor what is no repository", basic("ci", "secret"), []string{"repository:APPS//x:pull"}, "apps/web", "", "user:ci"},
		{"who may only sign asks for a push and gets that", basic("robot+signer", robotSecret), []string{"repository:apps/web:pull,push"}, "apps/web", "pull,sign", "robot:signer"},
		{"everybody has a token for what everybody may", asking(nil), []string{"repository:public/x:pull,push"}, "public/x", "pull", "anonymous"},
	} {
		caller := p.must(t, bearer(p.token(t, tt.from, tt.scopes...)))
		if got := p.may(t, caller, tt.repo); got != tt.want || caller.Name != tt.name || caller.Address != "192.0.2.7" {
			t.Errorf("%s: %+v may %q in %s, want %q", tt.law, caller, got, tt.repo, tt.want)
		}
	}
}

func TestATokenThatLacksSomethingIsAskedForAnother(t *testing.T) {
	p, _ := tokenPlace(t, nil)
	caller := p.must(t, bearer(p.token(t, basic("ci", "secret"), "repository:apps/web:pull")))
	if err := p.Allow(t.Context(), caller, access.Push, repo(t, "apps/web")); status(err) != 401 {
		t.Errorf("what a wider token allows: got %v, want 401", err)
	}
	if err := p.Allow(t.Context(), caller, access.Push, repo(t, "other/web")); status(err) != 403 {
		t.Errorf("what none does: got %v, want 403", err)
	}
	if err := p.Allow(t.Context(), caller, access.Pull, repo(t, "apps/web")); err != nil {
		t.Errorf("what it was given for: got %v", err)
	}
}

func TestTokensGoByTodaysRights(t *testing.T) {
	p, robotSecret := tokenPlace(t, nil)
	user := p.token(t, basic("ci", "secret"), "repository:apps/web:pull")
	robot := p.token(t, basic("robot+signer", robotSecret), "repository:apps/web:pull")
	p.must(t, bearer(user))
	p.must(t, bearer(robot))
	t.Run("a revoked robot's end at once", func(t *testing.T) {
		if err := access.RevokeRobot(filepath.Join(p.dir, "robots.yaml"), "signer"); err != nil {
			t.Fatal(err)
		}
		p.clock.pass(time.Second)
		if _, err := p.Identify(bearer(robot)); status(err) != 401 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a changed password ends them", func(t *testing.T) {
		p.write(t, "htpasswd", hash(t, "ci", "new"))
		p.clock.pass(time.Second)
		if _, err := p.Identify(bearer(user)); status(err) != 401 {
			t.Errorf("got %v", err)
		}
	})
}

func TestTokensEnd(t *testing.T) {
	p, robotSecret := tokenPlace(t, nil)
	user, robot := p.token(t, basic("ci", "secret")), p.token(t, basic("robot+signer", robotSecret))
	p.clock.pass(5 * time.Minute)
	if _, err := p.Identify(bearer(robot)); status(err) != 401 {
		t.Errorf("a robot's, with the robot: got %v", err)
	}
	p.must(t, bearer(user))
	p.clock.pass(10 * time.Minute)
	if _, err := p.Identify(bearer(user)); status(err) != 401 {
		t.Errorf("after a quarter of an hour: got %v", err)
	}
}

func TestTokensOfAClockThatRanAheadDoNotCountYet(t *testing.T) {
	const day = 24 * time.Hour
	p, _ := tokenPlace(t, nil)
	before := p.token(t, basic("ci", "secret"), "repository:apps/web:pull")
	p.clock.pass(day)
	ahead := p.token(t, basic("ci", "secret"), "repository:apps/web:pull")
	p.clock.pass(-day)
	if _, err := p.Identify(bearer(ahead)); status(err) != 401 {
		t.Errorf("of a day to come: got %v, want it refused", err)
	}
	p.must(t, bearer(before))
	p.must(t, basic("ci", "secret"))
}

func TestTokensOfOthersAndForgedOnesAreRefused(t *testing.T) {
	p, _ := tokenPlace(t, nil)
	other, _ := tokenPlace(t, nil)
	elsewhere, _ := tokenPlace(t, func(_ *place, o *access.Options) { o.Service = "elsewhere" })
	mine := p.token(t, basic("ci", "secret"), "repository:apps/web:pull")
	parts := strings.Split(mine, ".")
	encode := base64.RawURLEncoding.EncodeToString
	wide := strings.Replace(decoded(t, parts[1]), `"pull"`, `"pull","admin"`, 1)
	for law, token := range map[string]string{
		"another key":         other.token(t, basic("ci", "secret")),
		"another service":     elsewhere.token(t, asking(func(r *http.Request) { r.SetBasicAuth("ci", "secret") }), "x"),
		"a changed claim":     parts[0] + "." + encode([]byte(wide)) + "." + parts[2],
		"no signature":        parts[0] + "." + parts[1] + ".",
		"alg none":            encode([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + ".",
		"alg HS256":           encode([]byte(strings.Replace(decoded(t, parts[0]), "EdDSA", "HS256", 1))) + "." + parts[1] + "." + parts[2],
		"no JWT":              "abc",
		"parts that are none": "a.b.c",
		"more parts":          mine + ".x",
	} {
		if caller, err := p.Identify(bearer(token)); status(err) != 401 {
			t.Errorf("%s: got %+v, %v", law, caller, err)
		}
	}
	p.must(t, bearer(mine))
}

func decoded(t *testing.T, part string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestKeysAreChangedWithoutATokenEnding(t *testing.T) {
	p, _ := tokenPlace(t, nil)
	old := p.write(t, "old.pem", "") // for its name
	content, err := os.ReadFile(filepath.Join(p.dir, "token.pem"))
	if err != nil {
		t.Fatal(err)
	}
	before, next := string(content), newKey(t)
	first := p.token(t, basic("ci", "secret"))
	p.write(t, "token.pem", next+before)
	p.clock.pass(time.Second)
	second := p.token(t, basic("ci", "secret"))
	p.must(t, bearer(first))
	p.must(t, bearer(second))
	p.write(t, "token.pem", next)
	p.clock.pass(time.Second)
	p.must(t, bearer(second))
	if _, err := p.Identify(bearer(first)); status(err) != 401 {
		t.Errorf("the old key's, when the old key is gone: got %v", err)
	}
	p.write(t, "token.pem", "")
	p.clock.pass(time.Second)
	p.must(t, bearer(second))
	if err := access.CreateTokenKey(old); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file that is there is replaced: %v", err)
	}
}

func TestKeysThatAreNoneAreRefused(t *testing.T) {
	encoded := func(kind string, key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"nothing": "", "no PEM": "key", "a key and a rest": newKey(t) + "x", "another block": encoded("EC PRIVATE KEY", p256), "another curve": encoded("PRIVATE KEY", p384),
		"a broken key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "too many": strings.Repeat(newKey(t), 1) + manyKeys(t, 8),
	} {
		if _, err := tryPlace(t, func(p *place, o *access.Options) { o.KeyFile = p.write(t, "token.pem", content) }); err == nil {
			t.Errorf("%s is taken for a key", name)
		}
	}
	p := newPlace(t, func(p *place, o *access.Options) {
		o.KeyFile = p.write(t, "token.pem", encoded("PRIVATE KEY", p256))
		o.Anonymous = []access.Rule{rule("pull", "**")}
	})
	p.must(t, bearer(p.token(t, asking(nil))))
}

func manyKeys(t *testing.T, n int) string {
	var all strings.Builder
	for range n {
		all.WriteString(newKey(t))
	}
	return all.String()
}

func TestTokenService(t *testing.T) {
	p, _ := tokenPlace(t, nil)
	post := func(form url.Values) *http.Request {
		r := httptest.NewRequest("POST", "/token", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return r
	}
	get := func(query string, fill func(*http.Request)) *http.Request {
		r := httptest.NewRequest("GET", "/token?"+query, nil)
		if fill != nil {
			fill(r)
		}
		return r
	}
	own := p.token(t, basic("ci", "secret"), "repository:apps/web:pull")
	for _, tt := range []struct {
		law    string
		r      *http.Request
		status int
	}{
		{"a form with user and password", post(url.Values{"grant_type": {"password"}, "username": {"ci"}, "password": {"secret"}, "scope": {"repository:apps/web:pull,push"}, "service": {"tidewaiter"}, "client_id": {"docker"}}), 200},
		{"a wrong password", post(url.Values{"grant_type": {"password"}, "username": {"ci"}, "password": {"x"}}), 401},
		{"no user", post(url.Values{"grant_type": {"password"}, "password": {"secret"}}), 401},
		{"a kind of grant there is not", post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}}), 400},
		{"what is no form", httptest.NewRequest("POST", "/token", strings.NewReader("{}")), 400},
		{"a form that is too large", post(url.Values{"grant_type": {"password"}, "password": {strings.Repeat("x", 70<<10)}}), 400},
		{"no credentials", get("scope=repository:public/x:pull", nil), 200},
		{"wrong credentials are not none", get("scope=repository:public/x:pull", func(r *http.Request) { r.SetBasicAuth("ci", "x") }), 401},
		{"docker's account is of no matter", get("account=ci&client_id=docker&offline_token=true&service=tidewaiter", func(r *http.Request) { r.SetBasicAuth("ci", "secret") }), 200},
		{"another service", get("service=elsewhere", nil), 400},
		{"a token is not good for another", get("", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+own) }), 401},
		{"another method", httptest.NewRequest("PUT", "/token", nil), 405},
	} {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, tt.r)
		if w.Code != tt.status || !json.Valid(w.Body.Bytes()) || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: got %d, %v %s", tt.law, w.Code, w.Header(), w.Body)
		}
		if w.Code == 401 && w.Header().Get("WWW-Authenticate") != `Basic realm="tidewaiter"` {
			t.Errorf("%s: got the challenge %q", tt.law, w.Header().Get("WWW-Authenticate"))
		}
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, post(url.Values{"grant_type": {"password"}, "username": {"ci"}, "password": {"secret"}, "scope": {"repository:apps/web:pull,push repository:other:pull"}}))
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got["token"] != got["access_token"] || got["token"] == "" {
		t.Errorf("got %v", got)
	}
	delete(got, "token")
	delete(got, "access_token")
	want := map[string]any{"expires_in": 900.0, "issued_at": "2026-05-04T03:02:01Z", "token_type": "Bearer", "scope": "repository:apps/web:pull,push,sign"}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("answer (-got +want):\n%s", diff)
	}
}

func TestTokensAreOnRecord(t *testing.T) {
	p, _ := tokenPlace(t, nil)
	ask := func(user string) int {
		r := httptest.NewRequest("GET", "/token?scope=repository:apps/web:pull,push&scope=repository:public/x:pull", nil)
		r.RemoteAddr = "192.0.2.7:1"
		if user != "" {
			r.SetBasicAuth(user, "secret")
		}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		return w.Code
	}
	issued := func(caller, scope string) access.Attempt {
		return access.Attempt{Event: access.EventTokenIssued, Caller: caller, Address: "192.0.2.7", Reason: scope}
	}
	for range 2 {
		for _, user := range []string{"ci", ""} {
			if got := ask(user); got != 200 {
				t.Fatalf("%q: got %d", user, got)
			}
		}
	}
	ci := issued("user:ci", "repository:apps/web:pull,push,sign repository:public/x:pull")
	want := []access.Attempt{ci, issued("anonymous", "repository:public/x:pull"), ci} // of those for nobody one a minute
	if diff := cmp.Diff(p.ledger.take(), want); diff != "" {
		t.Errorf("on record (-got +want):\n%s", diff)
	}
	p.ledger.err = errors.New("no space left")
	before := p.count(access.EventTokenIssued)
	if got := ask("ci"); got != 503 || p.count(access.EventTokenIssued) != before {
		t.Errorf("what cannot be put on record: got %d", got)
	}
}

func TestChallenges(t *testing.T) {
	p, _ := tokenPlace(t, nil)
	behind, _ := tokenPlace(t, func(_ *place, o *access.Options) { o.Realm = "https://registry.example/token" })
	plain := passwordPlace(t)
	web, none := repo(t, "apps/web"), oci.Repository{}
	over := func(host string, secure bool) *http.Request {
		return asking(func(r *http.Request) {
			r.Host = host
			if secure {
				r.TLS = &tls.ConnectionState{}
			}
			r.Header.Set("X-Forwarded-Host", "evil.test")
			r.Header.Set("X-Forwarded-Proto", "https")
		})
	}
	for _, tt := range []struct {
		law    string
		from   *place
		r      *http.Request
		action access.Action
		repo   oci.Repository
		want   string
	}{
		{"without tokens it is Basic", plain, over("r.test", true), access.Pull, web, `Basic realm="tidewaiter"`},
		{"over TLS", p, over("r.test:5000", true), access.Pull, web, `Bearer realm="https://r.test:5000/token",service="tidewaiter",scope="repository:apps/web:pull"`},
		{"in plain text", p, over("127.0.0.1:5000", false), access.Push, web, `Bearer realm="http://127.0.0.1:5000/token",service="tidewaiter",scope="repository:apps/web:pull,push"`},
		{"IPv6", p, over("[::1]:5000", false), access.Sign, web, `Bearer realm="http://[::1]:5000/token",service="tidewaiter",scope="repository:apps/web:pull,push"`},
		{"a port in a name", p, over("r.test", true), access.Delete, repo(t, "up.test:5000/a"), `Bearer realm="https://r.test/token",service="tidewaiter",scope="repository:up.test_5000/a:pull,delete"`},
		{"for no repository", p, over("r.test", true), access.Pull, none, `Bearer realm="https://r.test/token",service="tidewaiter"`},
		{"a configured realm", behind, over("r.test", false), access.Admin, web, `Bearer realm="https://registry.example/token",service="tidewaiter",scope="repository:apps/web:*"`},
		{"a host that would end the quotes", p, over(`r.test",x="`, true), access.Pull, web, `Basic realm="tidewaiter"`},
	} {
		if got := tt.from.Challenge(tt.r, tt.action, tt.repo); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.law, got, tt.want)
		}
	}
}

func TestWelcome(t *testing.T) {
	tokens, _ := tokenPlace(t, nil)
	open := newPlace(t, func(_ *place, o *access.Options) { o.Anonymous = []access.Rule{rule("pull", "**")} })
	mixed := newPlace(t, func(p *place, o *access.Options) {
		o.HtpasswdFile = p.write(t, "htpasswd", hash(t, "ci", "secret"))
		o.Anonymous = []access.Rule{rule("pull", "**")}
	})
	for _, tt := range []struct {
		law    string
		place  *place
		r      *http.Request
		status int
	}{
		{"where there is nothing to log in with, everybody is let in", open, asking(nil), 200},
		{"with tokens a client without credentials is sent for one", tokens, asking(nil), 401},
		{"with a token of anonymous it is let in", tokens, bearer(tokens.token(t, asking(nil))), 200},
		{"and so is a user", tokens, basic("ci", "secret"), 200},
		{"with passwords alone a client that has none is asked for it", passwordPlace(t), asking(nil), 401},
		{"unless everybody may do something", mixed, asking(nil), 200},
	} {
		if err := tt.place.Welcome(tt.place.must(t, tt.r)); status(err) != tt.status {
			t.Errorf("%s: got %v", tt.law, err)
		}
	}
	if err := open.Welcome(access.Caller{}); status(err) != 403 {
		t.Errorf("nobody is let in: %v", err)
	}
}

func TestLists(t *testing.T) {
	p, _ := tokenPlace(t, nil)
	for _, tt := range []struct {
		law  string
		r    *http.Request
		want bool
	}{
		{"what one may pull", basic("ci", "secret"), true},
		{"what a token for the catalog opens", bearer(p.token(t, basic("ci", "secret"), "registry:catalog:*")), true},
		{"not what another token does not", bearer(p.token(t, basic("ci", "secret"), "repository:apps/web:pull")), false},
		{"not what one may not pull", asking(nil), false},
	} {
		caller := p.must(t, tt.r)
		if got := p.Lists(caller, repo(t, "apps/hidden")); got != tt.want {
			t.Errorf("%s: got %t", tt.law, got)
		}
		if p.May(caller, access.Push, repo(t, "apps/hidden")) && strings.HasPrefix(tt.r.Header.Get("Authorization"), "Bearer") {
			t.Errorf("%s: the token may push", tt.law)
		}
	}
}

func BenchmarkWarmToken(b *testing.B) {
	p, _ := tokenPlace(b, nil)
	r := bearer(p.token(b, basic("ci", "secret"), "repository:apps/web:pull"))
	p.must(b, r)
	web := repo(b, "apps/web")
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Allow(b.Context(), p.must(b, r), access.Pull, web); err != nil {
			b.Fatal(err)
		}
	}
}
