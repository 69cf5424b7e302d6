package access_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// guarded is a registry behind a Control, as the proxy stands in front of what it guards.
type guarded struct {
	control *access.Control
	next    http.Handler
}

func (g guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" && g.control.HasTokens() {
		g.control.ServeHTTP(w, r)
		return
	}
	action, repo, err := g.pass(r)
	if err != nil {
		if status(err) == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", g.control.Challenge(r, action, repo))
		}
		oci.WriteError(w, err)
		return
	}
	r.Header.Del("Authorization")
	g.next.ServeHTTP(w, r)
}

// pass returns nil if r may go on, and what it wants to do to what.
func (g guarded) pass(r *http.Request) (access.Action, oci.Repository, error) {
	q, err := oci.ParseRequest(r.Method, r.URL)
	if err != nil {
		return "", oci.Repository{}, err
	}
	caller, identifyErr := g.control.Identify(r)
	if q.Kind == oci.KindPing {
		if identifyErr == nil {
			identifyErr = g.control.Welcome(caller)
		}
		return access.Pull, oci.Repository{}, identifyErr
	}
	repo, err := hosted(q.Name)
	if err != nil {
		return "", oci.Repository{}, err
	}
	action := access.Pull
	switch {
	case r.Method == http.MethodDelete:
		action = access.Delete
	case q.Pushes():
		action = access.Push
	}
	if identifyErr != nil {
		return action, repo, identifyErr
	}
	return action, repo, g.control.Allow(r.Context(), caller, action, repo)
}

// behind starts a registry with an image in apps/web:1 and public/web:1 behind a Control, and returns its host and the Control.
func behind(t *testing.T, options func(*place, *access.Options)) (string, *place) {
	t.Helper()
	registry, err := ocitest.StartRegistry(ocitest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	for _, name := range []string{"apps/web", "public/web"} {
		if _, err := registry.PushImage(name, "1", ocitest.Image{Layers: []ocitest.LayerSpec{{Files: []ocitest.File{{Path: "a", Body: []byte("b")}}}}}); err != nil {
			t.Fatal(err)
		}
	}
	p := newPlace(t, options)
	to, err := url.Parse(registry.URL())
	if err != nil {
		t.Fatal(err)
	}
	next := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host }}
	server := httptest.NewServer(guarded{p.Control, next})
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), p
}

// client is a program with a home of its own, in which it keeps its credentials.
type client struct{ home string }

func newClient(t *testing.T, name string) client {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the client %s is missing", name)
		}
		t.Skipf("the client %s is missing", name)
	}
	return client{t.TempDir()}
}

// run runs the program, with input on its standard input, and returns what it says and whether it succeeded.
func (c client) run(t *testing.T, input, name string, args ...string) (string, bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "HOME="+c.home, "XDG_RUNTIME_DIR="+c.home, "REGISTRY_AUTH_FILE="+filepath.Join(c.home, "auth.json"), "DOCKER_CONFIG="+c.home)
	cmd.Dir = c.home
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// step is one call of a client.
type step struct {
	law   string
	input string
	args  []string
	ok    bool
	says  string // in its output
}

func (c client) steps(t *testing.T, name string, steps []step) {
	t.Helper()
	for _, s := range steps {
		out, ok := c.run(t, s.input, name, s.args...)
		if ok != s.ok || !strings.Contains(out, s.says) {
			t.Errorf("%s: %s %s: success %t, want %t and %q\n%s", s.law, name, strings.Join(s.args, " "), ok, s.ok, s.says, out)
		}
	}
}

// withTokens are options with everybody's pulls, a user who may push, one who may pull, a robot, and a token service. It puts the
// robot's secret where secret says.
func withTokens(t *testing.T, secret *string) func(*place, *access.Options) {
	return func(p *place, o *access.Options) {
		o.Now = time.Now // clients have no other
		o.HtpasswdFile = p.write(t, "htpasswd", hash(t, "ci", "secret")+hash(t, "viewer", "secret"))
		o.RobotsFile = filepath.Join(p.dir, "robots.yaml")
		o.KeyFile = p.write(t, "token.pem", newKey(t))
		o.Anonymous = []access.Rule{rule("pull", "public/**")}
		o.Grants = []access.Grant{grant("user:ci", "push", "apps/**"), grant("user:viewer", "pull", "apps/**"), grant("robot:ci", "push", "apps/**")}
		var err error
		if *secret, err = access.AddRobot(o.RobotsFile, access.Robot{Name: "ci", Until: time.Now().Add(time.Hour)}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCrane(t *testing.T) {
	c, secret := newClient(t, "crane"), ""
	host, _ := behind(t, withTokens(t, &secret))
	c.steps(t, "crane", []step{
		{"everybody pulls what everybody may", "", []string{"digest", host + "/public/web:1"}, true, "sha256:"},
		{"and not more", "", []string{"digest", "--full-ref", host + "/apps/web:1"}, false, "UNAUTHORIZED"},
		{"a robot logs in", secret, []string{"auth", "login", host, "-u", "robot+ci", "--password-stdin"}, true, ""},
		{"pulls", "", []string{"manifest", host + "/apps/web:1"}, true, "layers"},
		{"and pushes", "", []string{"copy", host + "/apps/web:1", host + "/apps/copy:1"}, true, ""},
		{"but not elsewhere", "", []string{"copy", host + "/apps/web:1", host + "/other/copy:1"}, false, "403"},
		{"nor does it delete", "", []string{"delete", host + "/apps/copy:1"}, false, "DENIED"},
		{"one who may pull logs in", "secret", []string{"auth", "login", host, "-u", "viewer", "--password-stdin"}, true, ""},
		{"and does not push", "", []string{"copy", host + "/apps/web:1", host + "/apps/other:1"}, false, "DENIED"},
	})
}

func TestSkopeo(t *testing.T) {
	c, secret := newClient(t, "skopeo"), ""
	host, _ := behind(t, withTokens(t, &secret))
	from, to := "docker://"+host+"/apps/web:1", "docker://"+host+"/apps/copy:1"
	c.steps(t, "skopeo", []step{
		{"everybody pulls what everybody may", "", []string{"inspect", "--tls-verify=false", "docker://" + host + "/public/web:1"}, true, "sha256:"},
		{"and not more", "", []string{"inspect", "--tls-verify=false", from}, false, "authentication"},
		{"credentials on the command line", "", []string{"inspect", "--tls-verify=false", "--creds", "robot+ci:" + secret, from}, true, "sha256:"},
		{"wrong ones are wrong", "", []string{"login", "--tls-verify=false", "-u", "ci", "-p", "wrong", host}, false, "invalid username/password"},
		{"a user logs in", "secret", []string{"login", "--tls-verify=false", "-u", "ci", "--password-stdin", host}, true, "Login Succeeded"},
		{"and pushes", "", []string{"copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", from, to}, true, ""},
		{"but not elsewhere", "", []string{"copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", from, "docker://" + host + "/other/copy:1"}, false, "403"},
	})
}

func TestPodmanLogin(t *testing.T) {
	c, secret := newClient(t, "podman"), ""
	host, _ := behind(t, withTokens(t, &secret))
	c.steps(t, "podman", []step{
		{"a robot logs in", secret, []string{"login", "--tls-verify=false", "-u", "robot+ci", "--password-stdin", host}, true, "Login Succeeded"},
		{"with its secret only", "x", []string{"login", "--tls-verify=false", "-u", "robot+ci", "--password-stdin", host}, false, "invalid username/password"},
	})
}

// It tries a refused push again for a quarter of a minute, so there is none here.
func TestRegctl(t *testing.T) {
	c, secret := newClient(t, "regctl"), ""
	host, _ := behind(t, withTokens(t, &secret))
	c.steps(t, "regctl", []step{
		{"it is told that there is no TLS", "", []string{"registry", "set", "--tls", "disabled", host}, true, ""},
		{"everybody pulls what everybody may", "", []string{"image", "digest", host + "/public/web:1"}, true, "sha256:"},
		{"and not more", "", []string{"image", "digest", host + "/apps/web:1"}, false, "unauthorized"},
		{"a robot logs in", secret, []string{"registry", "login", host, "-u", "robot+ci", "--pass-stdin"}, true, ""},
		{"and pushes", "", []string{"image", "copy", host + "/apps/web:1", host + "/apps/copy:1"}, true, ""},
	})
}

func TestClientsWithPasswordsAlone(t *testing.T) {
	c := newClient(t, "crane")
	host, p := behind(t, func(p *place, o *access.Options) {
		o.HtpasswdFile = p.write(t, "htpasswd", hash(t, "ci", "secret"))
		o.Grants = []access.Grant{grant("user:ci", "push", "apps/**")}
	})
	c.steps(t, "crane", []step{
		{"nobody pulls without a name", "", []string{"digest", "--full-ref", host + "/apps/web:1"}, false, "UNAUTHORIZED"},
		{"a user logs in", "secret", []string{"auth", "login", host, "-u", "ci", "--password-stdin"}, true, ""},
		{"and pushes", "", []string{"copy", host + "/apps/web:1", host + "/apps/copy:1"}, true, ""},
	})
	pushes := 0
	for _, a := range p.ledger.take() {
		if a.Event == access.EventAllowed && a.Action == access.Push && a.Caller == "user:ci" && a.Repository == "apps/copy" && a.Address == "127.0.0.1" {
			pushes++
		}
	}
	if pushes == 0 {
		t.Error("the push is not on record")
	}
}

func TestClientsWithTokensOfAnIssuer(t *testing.T) {
	c := newClient(t, "crane")
	ci, key := newIssuer(t, ""), newJWK(t, "k", jose.RS256)
	ci.set(func() { ci.keys = []jose.JSONWebKey{key} })
	host, _ := behind(t, func(p *place, o *access.Options) {
		o.Now = time.Now
		o.KeyFile = p.write(t, "token.pem", newKey(t))
		o.Issuers = []access.Issuer{{Issuer: ci.URL, Audience: "https://registry.test", Subject: "repo:acme/*:ref:refs/heads/main", CAFile: p.write(t, "ca.crt", ci.ca())}}
		o.Grants = []access.Grant{grant("oidc:"+ci.URL+":repo:acme/*:**", "push", "apps/**")}
	})
	token := func(subject string) string {
		return signed(t, key, map[string]any{"iss": ci.URL, "sub": subject, "aud": "https://registry.test", "exp": time.Now().Add(5 * time.Minute).Unix()})
	}
	c.steps(t, "crane", []step{
		{"a workflow logs in by its token", token("repo:acme/app:ref:refs/heads/main"), []string{"auth", "login", host, "-u", "oidc", "--password-stdin"}, true, ""},
		{"and pushes", "", []string{"copy", host + "/apps/web:1", host + "/apps/copy:1"}, true, ""},
		{"one of another branch logs in", token("repo:acme/app:ref:refs/heads/pr"), []string{"auth", "login", host, "-u", "oidc", "--password-stdin"}, true, ""},
		{"to no avail", "", []string{"digest", "--full-ref", host + "/apps/web:1"}, false, "UNAUTHORIZED"},
	})
}
