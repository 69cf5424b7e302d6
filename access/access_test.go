package access_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/oci"
)

// clock is a time that goes on when it is told to.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// ledger is an Audit in memory that can be told to fail.
type ledger struct {
	mu       sync.Mutex
	attempts []access.Attempt
	err      error
}

func (l *ledger) Record(_ context.Context, a access.Attempt) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.attempts = append(l.attempts, a)
	return nil
}

// take returns what was recorded since it was last called.
func (l *ledger) take() []access.Attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.attempts
	l.attempts = nil
	return taken
}

// place is a Control with everything around it.
type place struct {
	*access.Control
	clock  *clock
	ledger *ledger
	dir    string

	mu     sync.Mutex
	events map[access.Event]int // guarded by mu
}

func (p *place) count(e access.Event) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.events[e]
}

// write puts content into a file of the place, which then looks changed.
func (p *place) write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// hosted takes names without a host for hosted here, as a Control's Repository.
func hosted(name string) (oci.Repository, error) {
	upstream, path := oci.SplitUpstream(name)
	return oci.NewRepository(upstream, path)
}

// newPlace returns a Control of what options makes of the place.
func newPlace(t testing.TB, options func(p *place, o *access.Options)) *place {
	t.Helper()
	p, err := tryPlace(t, options)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryPlace(t testing.TB, options func(p *place, o *access.Options)) (*place, error) {
	t.Helper()
	p := &place{clock: newClock(), ledger: &ledger{}, dir: t.TempDir(), events: map[access.Event]int{}}
	o := access.Options{
		Audit: p.ledger, Log: slog.New(slog.DiscardHandler), Now: p.clock.now, Repository: hosted,
		Observe: func(e access.Event) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.events[e]++
		},
	}
	options(p, &o)
	var err error
	p.Control, err = access.New(o)
	return p, err
}

// hash returns a htpasswd line, as cheap as bcrypt can be.
func hash(t testing.TB, user, password string) string {
	t.Helper()
	sum, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return user + ":" + string(sum) + "\n"
}

func rule(actions string, repositories ...string) access.Rule {
	return access.Rule{Repositories: repositories, Actions: strings.Split(actions, ",")}
}

func grant(who, actions string, repositories ...string) access.Grant {
	return access.Grant{Who: who, Rule: rule(actions, repositories...)}
}

// asking is a request, as a server sees it, that fill adds to.
func asking(fill func(*http.Request)) *http.Request {
	r := httptest.NewRequest("GET", "http://registry.test/v2/", nil)
	r.RemoteAddr = "192.0.2.7:40000"
	if fill != nil {
		fill(r)
	}
	return r
}

func basic(user, password string) *http.Request {
	return asking(func(r *http.Request) { r.SetBasicAuth(user, password) })
}

func bearer(token string) *http.Request {
	return asking(func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
}

func repo(t testing.TB, name string) oci.Repository {
	t.Helper()
	r, err := hosted(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// status returns the HTTP status err is answered with, 200 for none.
func status(err error) int {
	if err == nil {
		return http.StatusOK
	}
	if e, ok := errors.AsType[*oci.Error](err); ok {
		return e.Status()
	}
	return 0 // no answer at all
}

// token asks the token service as r does, for the scopes.
func (p *place) token(t testing.TB, r *http.Request, scopes ...string) string {
	t.Helper()
	r.URL = &url.URL{Path: "/token", RawQuery: url.Values{"scope": scopes}.Encode()}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("the token service answers %d: %s", w.Code, w.Body)
	}
	var answer struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Token == "" {
		t.Fatalf("no token in %s: %v", w.Body, err)
	}
	return answer.Token
}

func (p *place) must(t testing.TB, r *http.Request) access.Caller {
	t.Helper()
	caller, err := p.Identify(r)
	if err != nil {
		t.Fatal(err)
	}
	return caller
}

// may returns what caller may do to the repository, in one word.
func (p *place) may(t testing.TB, caller access.Caller, name string) string {
	t.Helper()
	var all []string
	for _, a := range access.Actions() {
		if p.May(caller, a, repo(t, name)) {
			all = append(all, string(a))
		}
	}
	return strings.Join(all, ",")
}

func TestTheZeroValuesMayDoNothing(t *testing.T) {
	p := newPlace(t, func(_ *place, o *access.Options) { o.Anonymous = []access.Rule{rule("admin", "**")} })
	if got := p.may(t, access.Caller{}, "apps/web"); got != "" {
		t.Errorf("nobody may %s", got)
	}
	if p.May(p.must(t, asking(nil)), "", repo(t, "apps/web")) || p.May(p.must(t, asking(nil)), access.Pull, oci.Repository{}) {
		t.Error("no action on something, or an action on nothing, is allowed")
	}
	if err := p.Allow(t.Context(), access.Caller{}, access.Pull, repo(t, "apps/web")); status(err) != 403 {
		t.Errorf("got %v, want 403", err)
	}
	none := newPlace(t, func(*place, *access.Options) {})
	if got := none.may(t, none.must(t, asking(nil)), "apps/web"); got != "" {
		t.Errorf("where nothing is granted, everybody may %s", got)
	}
}

func TestActionsIncludeOthers(t *testing.T) {
	for action, want := range map[string]string{
		"pull": "pull", "push": "pull,push,sign", "sign": "pull,sign", "delete": "pull,delete", "review": "pull,review",
		"admin": "pull,push,sign,delete,review,admin", "sign,delete": "pull,sign,delete",
	} {
		p := newPlace(t, func(_ *place, o *access.Options) { o.Anonymous = []access.Rule{rule(action, "apps/**")} })
		if got := p.may(t, p.must(t, asking(nil)), "apps/web"); got != want {
			t.Errorf("%s includes %q, want %q", action, got, want)
		}
	}
	for _, s := range []string{"", "Pull", "*", "pull ", "write"} {
		if a, err := access.ParseAction(s); err == nil || a != "" {
			t.Errorf("%q is taken for the action %q", s, a)
		}
	}
}

func TestGrantsGoByName(t *testing.T) {
	p := newPlace(t, func(_ *place, o *access.Options) {
		o.Issuers = []access.Issuer{{Issuer: "https://ci.test", Audience: "us", Subject: "**"}}
		o.Anonymous = []access.Rule{rule("pull", "docker.io/library/*")}
		o.Grants = []access.Grant{
			grant("user:ci", "push", "apps/**"), grant("robot:ci", "delete", "apps/web"), grant("group:sec*", "review", "**"),
			grant("cert:CN=node-*", "pull", "apps/**"), grant("oidc:https://ci.test:repo:acme/*:ref:refs/heads/main", "push", "apps/*"),
			grant("authenticated", "pull", "shared/**"), grant("user:ops", "admin", "registry.test:5000/**"),
		}
	})
	for _, tt := range []struct {
		law    string
		name   string
		groups []string
		repo   string
		want   string
	}{
		{"what everybody may, everybody may", "anonymous", nil, "docker.io/library/nginx", "pull"},
		{"and whoever is known", "user:ci", nil, "docker.io/library/nginx", "pull"},
		{"what nobody was granted is nobody's", "user:ci", nil, "docker.io/grafana/grafana", ""},
		{"a user has what his name is granted", "user:ci", nil, "apps/a/b", "pull,push,sign"},
		{"a robot of the same name does not", "robot:ci", nil, "apps/a/b", ""},
		{"but what is granted to it", "robot:ci", nil, "apps/web", "pull,delete"},
		{"names are compared whole", "user:ci2", nil, "apps/web", ""},
		{"and from their beginning", "robot:user:ci", nil, "apps/a", ""},
		{"groups count", "user:x", []string{"dev", "sec-leads"}, "apps/web", "pull,review"},
		{"a user called like a group is not in it", "group:sec", nil, "apps/web", ""},
		{"a group called like a user is not it", "cert:CN=x", []string{"user:ci"}, "apps/web", ""},
		{"a certificate's name may be a pattern", "cert:CN=node-7", nil, "apps/web", "pull"},
		{"a star ends at a slash", "cert:CN=node-7/x", nil, "apps/web", ""},
		{"an issuer's subject is a pattern", "oidc:https://ci.test:repo:acme/app:ref:refs/heads/main", nil, "apps/web", "pull,push,sign"},
		{"in which a star ends at a colon", "oidc:https://ci.test:repo:acme/app:evil:ref:refs/heads/main", nil, "apps/web", ""},
		{"that ends where it ends", "oidc:https://ci.test:repo:acme/app:ref:refs/heads/main2", nil, "apps/web", ""},
		{"an issuer that begins alike is another", "oidc:https://ci.test.evil:repo:acme/app:ref:refs/heads/main", nil, "apps/web", ""},
		{"whoever is known is authenticated", "cert:CN=x", nil, "shared/a/b", "pull"},
		{"everybody is not", "anonymous", nil, "shared/a/b", ""},
		{"repositories go by their full names, port and all", "user:ops", nil, "registry.test:5000/app", "pull,push,sign,delete,review,admin"},
		{"which another port is not part of", "user:ops", nil, "registry.test:5001/app", ""},
	} {
		if got := p.may(t, access.Caller{Name: tt.name, Groups: tt.groups}, tt.repo); got != tt.want {
			t.Errorf("%s: %s may %q in %s, want %q", tt.law, tt.name, got, tt.repo, tt.want)
		}
	}
}

func TestAllThatIsWrongWithOptionsIsSaidAtOnce(t *testing.T) {
	p, err := tryPlace(t, func(p *place, o *access.Options) {
		o.Anonymous = []access.Rule{rule("pull,fly", "docker.io/nginx"), {Actions: []string{"pull"}}}
		o.Grants = []access.Grant{
			grant("ci", "pull", "**"), grant("user:", "pull", "**"), grant("anonymous", "pull", "**"), grant("oidc:https://else.test:x", "pull", "**"),
			grant("user:a***", "pull", "**"), {Who: "user:x", Rule: access.Rule{Repositories: []string{"a//b"}}},
		}
		o.HtpasswdFile = p.write(t, "htpasswd", "a:{SHA}x\nb\n")
		o.RobotsFile = p.write(t, "robots.yaml", "- {name: a, secret: x}\n")
		o.KeyFile = filepath.Join(p.dir, "none.pem")
		o.TokenTTL = time.Second
		o.Realm = `https://x.test/to"ken`
		o.Issuers = []access.Issuer{
			{Issuer: "http://ci.test", Subject: "", CAFile: filepath.Join(p.dir, "none.crt")},
			{Issuer: "https://a.test", Audience: "us", Subject: "**"}, {Issuer: "https://a.test:8443", Audience: "us", Subject: "**"},
			{Issuer: "https://a.test", Audience: "them", Subject: "**"},
			{Issuer: "https://b.test", Audience: "us", Subject: "*", JWKSURL: "ftp://b.test/keys", RequiredClaims: []access.Claim{{Value: "x"}}, Groups: []access.ClaimGroup{{Claim: "a", Value: "b"}}},
		}
	})
	if err == nil {
		t.Fatalf("all of it is taken: %v", p)
	}
	for _, want := range []string{
		"access.anonymous[0]: action \"fly\"", "access.anonymous[0]: pattern \"docker.io/nginx\"", "access.anonymous[1]: names no repositories",
		"access.grants[0]", "access.grants[1]", "access.grants[2]", "access.grants[3]", "access.grants[4]", "access.grants[5]: names no actions", "access.grants[5]: pattern",
		"htpasswd: line 1", "line 2", "robots.yaml", "none.pem", "access.tokens.ttl", "access.tokens.realm",
		"access.oidc[0]: audience", "access.oidc[0]: subject", "access.oidc[0]: issuer", "none.crt", "access.oidc[2]: issuer \"https://a.test:8443\" begins like another",
		"access.oidc[3]: issuer \"https://a.test\" is there twice",
		"access.oidc[4]: jwks_url", "access.oidc[4]: required_claims", "access.oidc[4]: groups",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
	if _, err := access.New(access.Options{Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("a Control without an audit log was made")
	}
}

func TestAllow(t *testing.T) {
	p := newPlace(t, func(p *place, o *access.Options) {
		o.HtpasswdFile = p.write(t, "htpasswd", hash(t, "ci", "secret"))
		o.Anonymous = []access.Rule{rule("pull", "public/**")}
		o.Grants = []access.Grant{grant("user:ci", "push", "apps/**")}
	})
	for _, tt := range []struct {
		law    string
		caller string
		action access.Action
		repo   string
		status int
		want   []access.Attempt
	}{
		{"pulls that are allowed are not recorded", "anonymous", access.Pull, "public/a", 200, nil},
		{"every other action is", "user:ci", access.Push, "apps/web", 200,
			[]access.Attempt{{Event: access.EventAllowed, Caller: "user:ci", Action: access.Push, Repository: "apps/web"}}},
		{"every time", "user:ci", access.Push, "apps/web", 200,
			[]access.Attempt{{Event: access.EventAllowed, Caller: "user:ci", Action: access.Push, Repository: "apps/web"}}},
		{"who is known and refused is denied, on record", "user:ci", access.Delete, "apps/web", 403,
			[]access.Attempt{{Event: access.EventRefused, Caller: "user:ci", Action: access.Delete, Repository: "apps/web", Reason: "not granted"}}},
		{"pulls too", "user:ci", access.Pull, "other/web", 403,
			[]access.Attempt{{Event: access.EventRefused, Caller: "user:ci", Action: access.Pull, Repository: "other/web", Reason: "not granted"}}},
		{"everybody is asked to log in, on record", "anonymous", access.Pull, "apps/web", 401,
			[]access.Attempt{{Event: access.EventChallenged, Caller: "anonymous", Action: access.Pull, Repository: "apps/web", Reason: "not granted to everybody"}}},
		{"which is there once a minute", "anonymous", access.Pull, "apps/other", 401, nil},
		{"for each action", "anonymous", access.Push, "apps/other", 401,
			[]access.Attempt{{Event: access.EventChallenged, Caller: "anonymous", Action: access.Push, Repository: "apps/other", Reason: "not granted to everybody"}}},
		{"what is no action helps nobody", "user:ci", "fly", "apps/web", 403,
			[]access.Attempt{{Event: access.EventRefused, Caller: "user:ci", Action: "fly", Repository: "apps/web", Reason: "not granted"}}},
	} {
		err := p.Allow(t.Context(), access.Caller{Name: tt.caller}, tt.action, repo(t, tt.repo))
		if status(err) != tt.status {
			t.Errorf("%s: got %v, want %d", tt.law, err, tt.status)
		}
		if diff := cmp.Diff(p.ledger.take(), tt.want); diff != "" {
			t.Errorf("%s: record (-got +want):\n%s", tt.law, diff)
		}
	}
	t.Run("what it is about is on record too", func(t *testing.T) {
		on := oci.Reference{Repository: repo(t, "apps/web"), Tag: "v1", Digest: oci.FromBytes(nil)}
		want := []access.Attempt{
			{Event: access.EventAllowed, Caller: "user:ci", Action: access.Push, Repository: "apps/web", Tag: "v1", Digest: on.Digest},
			{Event: access.EventRefused, Caller: "user:ci", Action: access.Delete, Repository: "apps/web", Tag: "v1", Digest: on.Digest, Reason: "not granted"},
		}
		for i, wantStatus := range []int{200, 403} {
			if err := p.AllowOn(t.Context(), access.Caller{Name: "user:ci"}, want[i].Action, on); status(err) != wantStatus {
				t.Errorf("%s: got %v, want %d", want[i].Action, err, wantStatus)
			}
		}
		if diff := cmp.Diff(p.ledger.take(), want); diff != "" {
			t.Errorf("record (-got +want):\n%s", diff)
		}
	})
	p.clock.pass(time.Minute)
	if _ = p.Allow(t.Context(), access.Caller{Name: "anonymous"}, access.Pull, repo(t, "apps/web")); len(p.ledger.take()) != 1 {
		t.Error("a minute later it is not on record again")
	}
}

// TestAuthors: what is pending belongs to those a grant lets push or sign. What everybody may push is nobody's own, or everybody would
// get it without its being judged.
func TestAuthors(t *testing.T) {
	p := newPlace(t, func(p *place, o *access.Options) {
		o.HtpasswdFile = p.write(t, "htpasswd", hash(t, "ci", "secret")+hash(t, "signer", "secret")+hash(t, "node", "secret"))
		o.KeyFile = filepath.Join(p.dir, "token.key")
		if err := access.CreateTokenKey(o.KeyFile); err != nil {
			t.Fatal(err)
		}
		o.Anonymous = []access.Rule{rule("push", "open/**")}
		o.Grants = []access.Grant{grant("user:ci", "push", "apps/**", "open/ci"), grant("user:signer", "sign", "apps/**"), grant("user:node", "pull", "**")}
	})
	for _, tt := range []struct {
		law     string
		request *http.Request
		scope   string // of a token, if there is to be one
		repo    string
		want    bool
	}{
		{"who pushes", basic("ci", "secret"), "", "apps/web", true},
		{"who signs", basic("signer", "secret"), "", "apps/web", true},
		{"with a token for pulling", basic("ci", "secret"), "repository:apps/web:pull", "apps/web", true},
		{"with a token for another repository", basic("ci", "secret"), "repository:apps/api:pull,push", "apps/web", false},
		{"who pulls", basic("node", "secret"), "", "apps/web", false},
		{"nobody in particular, where everybody pushes", asking(nil), "", "open/web", false},
		{"who pulls, where everybody pushes", basic("node", "secret"), "", "open/web", false},
		{"with a token for pushing there", basic("node", "secret"), "repository:open/web:pull,push", "open/web", false},
		{"who is granted what everybody may", basic("ci", "secret"), "", "open/ci", true},
	} {
		t.Run(tt.law, func(t *testing.T) {
			r := tt.request
			if tt.scope != "" {
				r = bearer(p.token(t, r, tt.scope))
			}
			if got := p.Authors(p.must(t, r), repo(t, tt.repo)); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

func TestWhatCannotBeRecordedIsNotDone(t *testing.T) {
	p := newPlace(t, func(_ *place, o *access.Options) {
		o.Anonymous = []access.Rule{rule("pull", "**")}
		o.Grants = []access.Grant{grant("user:ci", "push", "**")}
	})
	p.ledger.err = errors.New("no space left")
	for _, tt := range []struct {
		law    string
		action access.Action
		status int
	}{{"a push", access.Push, 503}, {"a pull goes on", access.Pull, 200}, {"a refusal stays one", access.Delete, 403}} {
		err := p.Allow(t.Context(), access.Caller{Name: "user:ci"}, tt.action, repo(t, "apps/web"))
		if status(err) != tt.status {
			t.Errorf("%s: got %v, want %d", tt.law, err, tt.status)
		}
		if err != nil && strings.Contains(err.Error(), "space") {
			t.Errorf("%s: the client is told %q", tt.law, err)
		}
	}
	if got := p.count(access.EventAuditFailed); got != 2 {
		t.Errorf("%d failures were counted, want 2", got)
	}
}

func TestRefusalsDoNotDependOnWhatThereIs(t *testing.T) {
	p := newPlace(t, func(_ *place, o *access.Options) { o.Grants = []access.Grant{grant("user:ci", "push", "apps/**")} })
	var said []string
	for _, name := range []string{"tenant/secret", "nothing/here"} {
		err := p.Allow(t.Context(), access.Caller{Name: "user:ci"}, access.Pull, repo(t, name))
		said = append(said, err.Error())
	}
	if said[0] != said[1] || strings.Contains(said[0], "tenant") {
		t.Errorf("got %q", said)
	}
}

func TestWhereNobodyCanLogInNobodyIsAskedTo(t *testing.T) {
	p := newPlace(t, func(_ *place, o *access.Options) { o.Anonymous = []access.Rule{rule("pull", "public/**")} })
	if err := p.Allow(t.Context(), p.must(t, asking(nil)), access.Pull, repo(t, "apps/web")); status(err) != 403 {
		t.Errorf("got %v, want 403", err)
	}
}

func TestEventsAreAClosedSet(t *testing.T) {
	for _, e := range []access.Event{access.EventAllowed, access.EventRefused, access.EventChallenged, access.EventBadCredentials, access.EventSlowed} {
		if !slices.Contains(access.Events(), e) {
			t.Errorf("%s is not among them", e)
		}
	}
}

// newAnswer returns what a client gets for err.
func newAnswer(err error) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	if err != nil {
		oci.WriteError(w, err)
	}
	return w
}
