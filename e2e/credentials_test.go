package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// shows is an Authorization header.
type shows string

func basicAuth(name, password string) shows {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(name, password)
	return shows(r.Header.Get("Authorization"))
}

func bearerOf(token string) shows { return shows("Bearer " + token) }

// ask sends a request with these credentials, and returns what it is answered with.
func (a shows) ask(t *testing.T, p *server, method, path, body string, header ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.registry+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for pair := range slices.Chunk(header, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	if a != "" {
		req.Header.Set("Authorization", string(a))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // read whole
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{status: resp.StatusCode, header: resp.Header, body: raw}
}

// push copies an image of the upstream to a tag, each blob in one request.
func (a shows) push(t *testing.T, s *site, p *server, source string, d oci.Digest, repo, tag string) {
	t.Helper()
	content, ok := s.upstream.Manifest(source, d.String())
	if !ok {
		t.Fatalf("there is no %s@%s", source, d)
	}
	for _, desc := range s.parsed(t, source, d).Blobs() {
		blob, _ := s.upstream.Blob(source, desc.Digest)
		if r := a.ask(t, p, "POST", uploads(repo)+"?digest="+desc.Digest.String(), string(blob)); r.status != 201 {
			t.Fatalf("pushing a blob: got %d %s", r.status, r.body)
		}
	}
	r := a.ask(t, p, "PUT", "/v2/"+repo+"/manifests/"+tag, string(content.Raw), "Content-Type", content.MediaType)
	if r.status != 201 {
		t.Fatalf("pushing a manifest: got %d %s", r.status, r.body)
	}
}

// token asks the token service as docker does: where a refusal says, with these credentials, for what the refusal names.
func (a shows) token(t *testing.T, p *server, challenge string) (token string, status int) {
	t.Helper()
	parameters, ok := strings.CutPrefix(challenge, "Bearer ")
	if !ok {
		t.Fatalf("got the challenge %q, want one for a token", challenge)
	}
	asked, realm := url.Values{}, ""
	for pair := range strings.SplitSeq(parameters, `",`) {
		key, value, _ := strings.Cut(pair, `="`)
		if value = strings.TrimSuffix(value, `"`); key == "realm" {
			realm = value
		} else {
			asked.Set(key, value)
		}
	}
	if want := "http://" + p.registry + "/token"; realm != want {
		t.Fatalf("tokens are said to be at %q, want %q", realm, want)
	}
	r := a.ask(t, p, http.MethodGet, "/token?"+asked.Encode(), "")
	var issued struct{ Token string }
	if err := json.Unmarshal(r.body, &issued); r.status == http.StatusOK && (err != nil || issued.Token == "") {
		t.Fatalf("no token in %s: %v", r.body, err)
	}
	return issued.Token, r.status
}

// uploads is what begins a push.
func uploads(repo string) string { return "/v2/" + repo + "/blobs/uploads/" }

// hostForMachines has the site host apps/** for machines, with robots and a token service, and no users.
func (s *site) hostForMachines(t *testing.T, grants ...any) {
	t.Helper()
	s.hostApps(t)
	s.config["access"] = keys{"tokens": keys{"robots_file": s.path("robots.yaml"), "ttl": "1h"}, "grants": grants}
}

// addRobot makes a robot and returns its secret.
func (s *site) addRobot(t *testing.T, name string) (secret string) {
	t.Helper()
	got := tidewaiter(t, "robot", "add", name, "--for", "1h", "--file", s.path("robots.yaml"), "--quiet")
	if got.code != 0 {
		t.Fatalf("robot add exits with %d: %s", got.code, got.stderr)
	}
	return strings.TrimSpace(got.stdout)
}

// TestRobots goes the way of docker login and push: a refusal that says where tokens are, a token for what is to be done, and that done.
func TestRobots(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.hostForMachines(t,
		keys{"who": "robot:ci", "repositories": []string{"apps/**"}, "actions": []string{"push"}},
		keys{"who": "robot:node", "repositories": []string{"apps/web", host + "/**"}, "actions": []string{"pull"}},
	)
	ci, node := basicAuth("robot+ci", s.addRobot(t, "ci")), basicAuth("robot+node", s.addRobot(t, "node"))
	p := s.serve(t)
	nobody := shows("")
	expect := func(t *testing.T, law string, a shows, method, path string, want int) reply {
		t.Helper()
		r := a.ask(t, p, method, path, "")
		if r.status != want {
			t.Errorf("%s: got %d %s, want %d", law, r.status, r.body, want)
		}
		return r
	}
	refused := expect(t, "nobody is told where tokens are", nobody, "POST", uploads("apps/web"), 401)
	token, _ := ci.token(t, p, refused.header.Get("Www-Authenticate"))
	expect(t, "a token does what it was asked for", bearerOf(token), "POST", uploads("apps/web"), 202)
	again := expect(t, "in no other repository, for which another is to be asked", bearerOf(token), "POST", uploads("apps/api"), 401)
	other, _ := ci.token(t, p, again.header.Get("Www-Authenticate"))
	expect(t, "as it then is", bearerOf(other), "POST", uploads("apps/api"), 202)
	expect(t, "a token is not good for a token", bearerOf(token), "GET", "/token?scope=repository:apps/api:push", 401)
	expect(t, "nor is one that was altered", bearerOf(token[:len(token)-8]+"AAAAAAAA"), "POST", uploads("apps/web"), 401)
	expect(t, "the secret itself will do", ci, "POST", uploads("apps/web"), 202)
	expect(t, "another secret will not, and not make nobody of a robot", basicAuth("robot+ci", "twr_wrong"), "GET", "/v2/", 401)
	token, _ = node.token(t, p, refused.header.Get("Www-Authenticate"))
	expect(t, "a token is good for no more than is granted", bearerOf(token), "POST", uploads("apps/web"), 403)
	t.Run("the names a repository goes by are one", func(t *testing.T) {
		s.pushSigned(t, "library/app", shop(goodLodash))
		short := expect(t, "by its short name", nobody, "GET", "/v2/library/app/manifests/1.0", 401)
		token, _ := node.token(t, p, short.header.Get("Www-Authenticate"))
		for _, path := range []string{"/v2/library/app/manifests/1.0", "/v2/" + host + "/library/app/manifests/1.0", "/v2/library/app/manifests/1.0?ns=" + host} {
			expect(t, path, bearerOf(token), "GET", path, 200)
		}
		expect(t, "and no others'", bearerOf(token), "GET", "/v2/"+host+"/library/other/manifests/1.0", 401)
		expect(t, "nor what is hosted here", bearerOf(token), "GET", "/v2/apps/web/manifests/1.0", 401)
	})
	t.Run("a robot that is revoked is gone within a second, and so are its tokens", func(t *testing.T) {
		token, _ := ci.token(t, p, refused.header.Get("Www-Authenticate"))
		if got := tidewaiter(t, "robot", "revoke", "ci", "--file", s.path("robots.yaml")); got.code != 0 {
			t.Fatalf("robot revoke exits with %d: %s", got.code, got.stderr)
		}
		eventually(t, "the secret does not count", func() bool { return ci.ask(t, p, "GET", "/v2/", "").status == 401 })
		expect(t, "nor does a token", bearerOf(token), "POST", uploads("apps/web"), 401)
		if _, status := ci.token(t, p, refused.header.Get("Www-Authenticate")); status != 401 {
			t.Errorf("it is given another: %d", status)
		}
	})
}

// issuer is an OpenID Connect issuer, with a certificate of its own that nobody knows.
type issuer struct {
	*httptest.Server
	key jose.JSONWebKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: jose.JSONWebKey{Key: private, KeyID: "1", Algorithm: string(jose.ES256), Use: "sig"}}
	documents := map[string]func() any{
		"/.well-known/openid-configuration": func() any { return keys{"issuer": i.URL, "jwks_uri": i.URL + "/keys"} },
		"/keys":                             func() any { return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{i.key.Public()}} },
	}
	i.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		document, ok := documents[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(document()) // whoever asked may have gone
	}))
	i.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug) // of clients that do not trust it
	i.StartTLS()
	t.Cleanup(i.Close)
	return i
}

// token returns a token about subject, and whatever claims say otherwise.
func (i *issuer) token(t *testing.T, key jose.JSONWebKey, subject string, claims keys) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := keys{
		"iss": i.URL, "aud": "https://registry.test", "sub": subject, "iat": time.Now().Unix(), "nbf": time.Now().Unix(),
		"exp": time.Now().Add(5 * time.Minute).Unix(),
	}
	for k, v := range claims {
		all[k] = v
	}
	payload, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestTokensOfAnIssuer pushes with what an issuer gave a build, in each way clients can show it.
func TestTokensOfAnIssuer(t *testing.T) {
	builds, stranger := newIssuer(t), newIssuer(t)
	s := newSite(t, ocitest.Options{})
	s.hostForMachines(t,
		keys{"who": "oidc:" + builds.URL + ":repo:acme/shop:**", "repositories": []string{"apps/**"}, "actions": []string{"push"}},
		keys{"who": "group:watchers", "repositories": []string{"apps/**"}, "actions": []string{"pull"}},
	)
	writeFile(t, s.path("issuer.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: builds.Certificate().Raw}))
	s.config["access"].(keys)["tokens"] = keys{}
	s.config["access"].(keys)["oidc"] = []any{keys{
		"issuer": builds.URL, "audience": "https://registry.test", "subject": "repo:acme/*:ref:refs/heads/main", "ca_file": s.path("issuer.pem"),
		"groups_claim": "groups", "required_claims": []any{keys{"claim": "owner", "value": "1234"}},
	}}
	const main = "repo:acme/shop:ref:refs/heads/main"
	owned := keys{"owner": "1234"}
	p := s.serve(t)
	good := builds.token(t, builds.key, main, owned)
	challenge := shows("").ask(t, p, "POST", uploads("apps/web"), "").header.Get("Www-Authenticate")
	ours, _ := basicAuth("oidc", good).token(t, p, challenge)
	for _, tt := range []struct {
		law  string
		a    shows
		want int
	}{
		{"as a bearer token", bearerOf(good), 202},
		{"as a password, whatever the user is called", basicAuth("anybody", good), 202},
		{"as a token of ours it was shown for", bearerOf(ours), 202},
		{"not of another branch", bearerOf(builds.token(t, builds.key, "repo:acme/shop:ref:refs/heads/mine", owned)), 401},
		{"not of a repository that may not push", bearerOf(builds.token(t, builds.key, "repo:acme/docs:ref:refs/heads/main", owned)), 403},
		{"not with a group that only pulls", bearerOf(builds.token(t, builds.key, "repo:acme/docs:ref:refs/heads/main", keys{"owner": "1234", "groups": []string{"watchers"}})), 403},
		{"not of another owner", bearerOf(builds.token(t, builds.key, main, keys{"owner": "4321"})), 401},
		{"not meant for another", bearerOf(builds.token(t, builds.key, main, keys{"owner": "1234", "aud": "https://other.test"})), 401},
		{"not for ever", bearerOf(builds.token(t, builds.key, main, keys{"owner": "1234", "exp": time.Now().Add(-time.Hour).Unix()})), 401},
		{"not signed by another", bearerOf(builds.token(t, stranger.key, main, owned)), 401},
		{"not of another issuer", bearerOf(stranger.token(t, stranger.key, main, owned)), 401},
	} {
		if r := tt.a.ask(t, p, "POST", uploads("apps/web"), ""); r.status != tt.want {
			t.Errorf("%s: got %d %s, want %d", tt.law, r.status, r.body, tt.want)
		}
	}
	t.Run("and what is pushed is there, and pending", func(t *testing.T) {
		image := s.push(t, "shop/web", shop(goodLodash))
		bearerOf(good).push(t, s, p, "shop/web", image.Digest, "apps/web", "1.0")
		watcher := bearerOf(builds.token(t, builds.key, "repo:acme/docs:ref:refs/heads/main", keys{"owner": "1234", "groups": []string{"watchers"}}))
		if r := watcher.ask(t, p, "GET", "/v2/apps/web/manifests/1.0", ""); r.status != 403 || !strings.Contains(string(r.body), "unsigned") {
			t.Errorf("whoever pulls gets %d %s, want the refusal", r.status, r.body)
		}
	})
	t.Run("what is known of the keys outlasts the issuer", func(t *testing.T) {
		builds.Close()
		if r := bearerOf(builds.token(t, builds.key, main, owned)).ask(t, p, "GET", "/v2/", ""); r.status != 200 {
			t.Errorf("got %d %s, want 200", r.status, r.body)
		}
	})
	t.Run("but nothing is known after a restart, which refuses nobody", func(t *testing.T) {
		p.stop(t)
		p := s.serve(t)
		r := bearerOf(builds.token(t, builds.key, main, owned)).ask(t, p, "GET", "/v2/", "")
		if r.status != 503 || r.header.Get("Retry-After") == "" {
			t.Errorf("got %d %s, want 503", r.status, r.body)
		}
	})
}
