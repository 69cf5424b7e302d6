package access_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/access"
)

// issuer is an OpenID Connect issuer in process: a certificate nobody knows, and, like a Kubernetes cluster, a token it asks for.
type issuer struct {
	*httptest.Server
	bearer string // asked for, unless empty

	mu      sync.Mutex
	keys    []jose.JSONWebKey // guarded by mu, as everything below
	down    bool
	claimed string // the issuer its configuration names
	jwksURL string
	body    string         // in place of the keys, unless empty
	asked   map[string]int // by path
}

func newIssuer(t testing.TB, bearer string) *issuer {
	t.Helper()
	i := &issuer{bearer: bearer, asked: map[string]int{}}
	i.Server = httptest.NewUnstartedServer(i)
	i.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug) // clients that do not trust it
	i.StartTLS()
	t.Cleanup(i.Close)
	i.claimed, i.jwksURL = i.URL, i.URL+"/keys"
	return i
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked[r.URL.Path]++
	switch {
	case i.down:
		w.WriteHeader(http.StatusBadGateway)
	case i.bearer != "" && r.Header.Get("Authorization") != "Bearer "+i.bearer:
		w.WriteHeader(http.StatusForbidden)
	case r.URL.Path == "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": i.claimed, "jwks_uri": i.jwksURL})
	case r.URL.Path == "/keys" && i.body != "":
		_, _ = w.Write([]byte(i.body))
	case r.URL.Path == "/keys":
		set := jose.JSONWebKeySet{}
		for _, k := range i.keys {
			set.Keys = append(set.Keys, k.Public())
		}
		_ = json.NewEncoder(w).Encode(set)
	case r.URL.Path == "/moved":
		http.Redirect(w, r, i.URL+"/keys", http.StatusFound)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// set changes the issuer while it serves.
func (i *issuer) set(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

func (i *issuer) count(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked[path]
}

// ca returns the certificate it is to be known by, as PEM.
func (i *issuer) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}))
}

func newJWK(t testing.TB, id string, algorithm jose.SignatureAlgorithm) jose.JSONWebKey {
	t.Helper()
	var key crypto.Signer
	var err error
	switch algorithm {
	case jose.RS256:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key, KeyID: id, Algorithm: string(algorithm), Use: "sig"}
}

// signed returns a token of those claims.
func signed(t testing.TB, key jose.JSONWebKey, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	object, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := object.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// clusterPlace is a place that believes the service accounts of a Kubernetes cluster.
type clusterPlace struct {
	*place
	cluster *issuer
	key     jose.JSONWebKey
}

func newCluster(t testing.TB, more func(*place, *access.Issuer)) *clusterPlace {
	t.Helper()
	c := &clusterPlace{cluster: newIssuer(t, "pod-token"), key: newJWK(t, "first", jose.ES256)}
	c.cluster.set(func() { c.cluster.keys = []jose.JSONWebKey{c.key} })
	c.place = newPlace(t, func(p *place, o *access.Options) {
		of := access.Issuer{
			Issuer: c.cluster.URL, Audience: "tidewaiter", Subject: "system:serviceaccount:ci:*",
			CAFile: p.write(t, "ca.crt", c.cluster.ca()), TokenFile: p.write(t, "token", "pod-token\n"),
		}
		if more != nil {
			more(p, &of)
		}
		o.Issuers = []access.Issuer{of}
		o.Grants = []access.Grant{grant("oidc:"+c.cluster.URL+":system:serviceaccount:ci:*", "push", "apps/**"), grant("group:builders", "sign", "signed/**")}
	})
	return c
}

// claims returns those of a good token, with changes; a nil value takes the claim away.
func (c *clusterPlace) claims(changes map[string]any) map[string]any {
	now := c.clock.now()
	all := map[string]any{
		"iss": c.cluster.URL, "sub": "system:serviceaccount:ci:builder", "aud": []string{"other", "tidewaiter"},
		"exp": now.Add(time.Hour).Unix(), "iat": now.Unix(), "nbf": now.Unix(),
	}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return all
}

func TestServiceAccountTokens(t *testing.T) {
	c := newCluster(t, nil)
	name := "oidc:" + c.cluster.URL + ":system:serviceaccount:ci:builder"
	good := signed(t, c.key, c.claims(nil))
	for law, r := range map[string]*http.Request{
		"as a bearer token": bearer(good), "as a password": basic("oidc", good), "of whatever user": basic("_", good),
	} {
		caller := c.must(t, r)
		if caller.Name != name || c.may(t, caller, "apps/web") != "pull,push,sign" {
			t.Errorf("%s: got %+v", law, caller)
		}
	}
	if c.cluster.count("/keys") != 1 || c.cluster.count("/.well-known/openid-configuration") != 1 {
		t.Errorf("asked %v, want once each", c.cluster.asked)
	}
	t.Run("one is as good as another for a while", func(t *testing.T) {
		c.must(t, bearer(signed(t, c.key, c.claims(map[string]any{"jti": "2"}))))
		if c.cluster.count("/keys") != 1 {
			t.Errorf("keys were fetched %d times", c.cluster.count("/keys"))
		}
	})
}

func TestTokensThatDoNotHold(t *testing.T) {
	c := newCluster(t, func(_ *place, i *access.Issuer) { i.RequiredClaims = []access.Claim{{Claim: "env", Value: "prod*"}} })
	now := c.clock.now()
	other := newJWK(t, "first", jose.ES256) // the name of the right key
	encode := base64.RawURLEncoding.EncodeToString
	claims := func(changes map[string]any) map[string]any {
		all := map[string]any{"env": "prod-eu"}
		maps.Copy(all, changes)
		return c.claims(all)
	}
	sign := func(changes map[string]any) string { return signed(t, c.key, claims(changes)) }
	payload, err := json.Marshal(claims(nil))
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(c.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for law, tt := range map[string]struct {
		token  string
		status int
	}{
		"a good one":                  {sign(nil), 200},
		"alg none":                    {encode([]byte(`{"alg":"none"}`)) + "." + encode(payload) + ".", 401},
		"alg HS256 by the public key": {signed(t, jose.JSONWebKey{Key: public, KeyID: "first", Algorithm: "HS256"}, claims(nil)), 401},
		"another key":                 {signed(t, other, claims(nil)), 401},
		"a key nobody knows":          {signed(t, newJWK(t, "unheard", jose.ES256), claims(nil)), 401},
		"no audience":                 {sign(map[string]any{"aud": nil}), 401},
		"another audience":            {sign(map[string]any{"aud": "https://kubernetes.default.svc"}), 401},
		"another issuer":              {sign(map[string]any{"iss": "https://kubernetes.default.svc"}), 401},
		"one that begins alike":       {sign(map[string]any{"iss": c.cluster.URL + "/"}), 401},
		"no issuer":                   {sign(map[string]any{"iss": nil}), 401},
		"expired":                     {sign(map[string]any{"exp": now.Add(-time.Second).Unix()}), 401},
		"without an end":              {sign(map[string]any{"exp": nil}), 401},
		"not yet":                     {sign(map[string]any{"nbf": now.Add(10 * time.Minute).Unix()}), 401},
		"another namespace":           {sign(map[string]any{"sub": "system:serviceaccount:dev:builder"}), 401},
		"a subject with more parts":   {sign(map[string]any{"sub": "system:serviceaccount:ci:a:b"}), 401},
		"no subject":                  {sign(map[string]any{"sub": nil}), 401},
		"a line end in the subject":   {sign(map[string]any{"sub": "system:serviceaccount:ci:a\nb"}), 401},
		"a claim that is required":    {sign(map[string]any{"env": nil}), 401},
		"another value of it":         {sign(map[string]any{"env": "dev"}), 401},
		"a list that holds it":        {sign(map[string]any{"env": []string{"dev", "prod"}}), 200},
		"a huge one":                  {sign(map[string]any{"x": strings.Repeat("x", 20<<10)}), 401},
		"half a one":                  {sign(nil)[:100], 401},
	} {
		caller, err := c.Identify(bearer(tt.token))
		if status(err) != tt.status || (tt.status == 200) == caller.IsZero() {
			t.Errorf("%s: got %+v, %v, want %d", law, caller, err, tt.status)
		}
	}
	if got := c.cluster.count("/keys"); got > 2 {
		t.Errorf("keys were fetched %d times for tokens that do not hold", got)
	}
}

func TestEveryAlgorithmOfIssuers(t *testing.T) {
	for _, algorithm := range []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA} {
		c := newCluster(t, nil)
		key := newJWK(t, "k", algorithm)
		c.cluster.set(func() { c.cluster.keys = []jose.JSONWebKey{key} })
		c.must(t, bearer(signed(t, key, c.claims(nil))))
	}
}

func TestRotatedKeys(t *testing.T) {
	c := newCluster(t, nil)
	c.must(t, bearer(signed(t, c.key, c.claims(nil))))
	next := newJWK(t, "second", jose.ES256)
	c.cluster.set(func() { c.cluster.keys = []jose.JSONWebKey{next} })
	c.clock.pass(time.Minute)
	c.must(t, bearer(signed(t, next, c.claims(nil))))
	if got := c.cluster.count("/keys"); got != 2 {
		t.Errorf("keys were fetched %d times, want twice", got)
	}
	c.clock.pass(5 * time.Minute) // what is remembered is forgotten
	if _, err := c.Identify(bearer(signed(t, c.key, c.claims(nil)))); status(err) != 401 {
		t.Errorf("the key that is gone: got %v", err)
	}
	before := c.cluster.count("/keys")
	for n := range 20 { // anybody can send these
		if _, err := c.Identify(bearer(signed(t, newJWK(t, "x", jose.ES256), c.claims(map[string]any{"n": n})))); status(err) != 401 {
			t.Fatalf("got %v", err)
		}
	}
	if got := c.cluster.count("/keys") - before; got > 1 {
		t.Errorf("keys were fetched %d times for keys nobody knows", got)
	}
}

func TestAnIssuerThatIsDownRefusesNobody(t *testing.T) {
	c := newCluster(t, nil)
	c.cluster.set(func() { c.cluster.down = true })
	token := signed(t, c.key, c.claims(nil))
	for range 5 {
		if _, err := c.Identify(bearer(token)); status(err) != 503 {
			t.Fatalf("got %v, want 503", err)
		}
	}
	if got := c.cluster.count("/.well-known/openid-configuration"); got != 1 {
		t.Errorf("it was asked %d times, want once", got)
	}
	c.cluster.set(func() { c.cluster.down = false })
	c.clock.pass(10 * time.Second)
	c.must(t, bearer(token))

	c.cluster.set(func() { c.cluster.down = true })
	c.clock.pass(2 * time.Hour)
	c.must(t, bearer(signed(t, c.key, c.claims(nil)))) // by the keys there were
	c.clock.pass(time.Minute)
	if _, err := c.Identify(bearer(signed(t, newJWK(t, "new", jose.ES256), c.claims(nil)))); status(err) != 503 {
		t.Errorf("a key that may be new: got %v, want 503", err)
	}
	c.clock.pass(24 * time.Hour)
	if _, err := c.Identify(bearer(signed(t, c.key, c.claims(nil)))); status(err) != 503 {
		t.Errorf("keys of the day before: got %v, want 503", err)
	}
	if c.count(access.EventUnreachable) == 0 {
		t.Error("nobody was told")
	}
}

func TestWhatAnIssuerSaysIsBounded(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("this Go makes no keys as small") // nor would it check by them
	}
	weak := jose.JSONWebKey{Key: small, KeyID: "first", Algorithm: "RS256"}
	for law, change := range map[string]func(*clusterPlace){
		"another issuer's configuration": func(c *clusterPlace) { c.cluster.claimed = "https://else.test" },
		"keys in plain text":             func(c *clusterPlace) { c.cluster.jwksURL = "http://else.test/keys" },
		"keys at another host get no token": func(c *clusterPlace) {
			c.cluster.jwksURL = strings.Replace(c.cluster.URL, "127.0.0.1", "localhost", 1) + "/keys"
		},
		"keys that have moved": func(c *clusterPlace) { c.cluster.jwksURL = c.cluster.URL + "/moved" },
		"endless keys":         func(c *clusterPlace) { c.cluster.body = `{"keys":[` + strings.Repeat(" ", 2<<20) + `]}` },
		"no keys":              func(c *clusterPlace) { c.cluster.body = `{"keys":[]}` },
		"symmetric keys":       func(c *clusterPlace) { c.cluster.body = `{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"first"}]}` },
		"no JSON":              func(c *clusterPlace) { c.cluster.body = `<html>` },
		"a weak key":           func(c *clusterPlace) { c.cluster.keys = []jose.JSONWebKey{weak} },
	} {
		c := newCluster(t, nil)
		c.cluster.set(func() { change(c) })
		if _, err := c.Identify(bearer(signed(t, c.key, c.claims(nil)))); status(err) != 503 {
			t.Errorf("%s: got %v, want 503", law, err)
		}
	}
}

func TestKeysWhereTheyAreSaidToBe(t *testing.T) {
	c := newCluster(t, nil)
	elsewhere := newCluster(t, func(_ *place, i *access.Issuer) { i.JWKSURL = i.Issuer + "/keys" })
	elsewhere.must(t, bearer(signed(t, elsewhere.key, elsewhere.claims(nil))))
	if got := elsewhere.cluster.count("/.well-known/openid-configuration"); got != 0 {
		t.Errorf("the configuration was read %d times although the keys' place is known", got)
	}
	t.Run("a token that changes on disk is the one that is sent", func(t *testing.T) {
		c.cluster.set(func() { c.cluster.bearer = "next" })
		c.write(t, "token", "next")
		c.must(t, bearer(signed(t, c.key, c.claims(nil))))
	})
	t.Run("without the certificate nothing is believed", func(t *testing.T) {
		c := newCluster(t, nil)
		c.write(t, "ca.crt", otherCA(t))
		if _, err := c.Identify(bearer(signed(t, c.key, c.claims(nil)))); status(err) != 503 {
			t.Errorf("got %v, want 503", err)
		}
	})
}

func TestGroupsOfClaims(t *testing.T) {
	c := newCluster(t, func(_ *place, i *access.Issuer) {
		i.GroupsClaim, i.GroupsPrefix = "groups", "idp/"
		i.Groups = []access.ClaimGroup{{Claim: "repository_owner", Value: "acme", Group: "builders"}, {Claim: "protected", Value: "true", Group: "protected"}, {Claim: "owner_id", Value: "12345678901", Group: "numbered"}}
	})
	for law, tt := range map[string]struct {
		claims map[string]any
		want   []string
	}{
		"none":                       {nil, nil},
		"a list":                     {map[string]any{"groups": []string{"a", "b"}}, []string{"idp/a", "idp/b"}},
		"one word":                   {map[string]any{"groups": "a"}, []string{"idp/a"}},
		"what is no word":            {map[string]any{"groups": map[string]any{"a": "b"}}, nil},
		"a number, as it is written": {map[string]any{"owner_id": 12345678901}, []string{"numbered"}},
		"a claim that is mapped":     {map[string]any{"repository_owner": "acme", "protected": true}, []string{"builders", "protected"}},
		"another value of it":        {map[string]any{"repository_owner": "acme2", "protected": "yes"}, nil},
		"no way into mapped ones":    {map[string]any{"groups": []string{"builders"}}, []string{"idp/builders"}},
		"lists in lists are none":    {map[string]any{"groups": []any{[]string{"a"}, "b"}}, []string{"idp/b"}},
	} {
		caller := c.must(t, bearer(signed(t, c.key, c.claims(tt.claims))))
		if diff := cmp.Diff(caller.Groups, tt.want); diff != "" {
			t.Errorf("%s (-got +want):\n%s", law, diff)
		}
	}
	caller := c.must(t, bearer(signed(t, c.key, c.claims(map[string]any{"repository_owner": "acme"}))))
	if got := c.may(t, caller, "signed/app"); got != "pull,sign" {
		t.Errorf("a group's member may %q", got)
	}
	many := slices.Repeat([]string{"g"}, 501)
	if _, err := c.Identify(bearer(signed(t, c.key, c.claims(map[string]any{"groups": many})))); status(err) != 401 {
		t.Errorf("endless groups: got %v", err)
	}
}

func TestATokenOfOursEndsWithTheOneItWasGivenFor(t *testing.T) {
	cluster, key := newIssuer(t, ""), newJWK(t, "k", jose.ES256)
	cluster.set(func() { cluster.keys = []jose.JSONWebKey{key} })
	p := newPlace(t, func(p *place, o *access.Options) {
		o.KeyFile = p.write(t, "token.pem", newKey(t))
		o.Issuers = []access.Issuer{{Issuer: cluster.URL, Audience: "us", Subject: "**", CAFile: p.write(t, "ca.crt", cluster.ca()), GroupsClaim: "groups"}}
		o.Grants = []access.Grant{grant("group:dev", "push", "apps/**")}
	})
	theirs := signed(t, key, map[string]any{"iss": cluster.URL, "sub": "alice", "aud": "us", "exp": p.clock.now().Add(2 * time.Minute).Unix(), "groups": []string{"dev"}})
	ours := p.token(t, basic("oidc", theirs), "repository:apps/web:push")
	if got := p.may(t, p.must(t, bearer(ours)), "apps/web"); got != "pull,push,sign" {
		t.Errorf("its groups give %q", got)
	}
	p.clock.pass(2 * time.Minute)
	for law, token := range map[string]string{"ours": ours, "theirs": theirs} {
		if _, err := p.Identify(bearer(token)); status(err) != 401 {
			t.Errorf("%s, remembered and expired: got %v", law, err)
		}
	}
}

func TestFilesOfIssuersAreReadAtStart(t *testing.T) {
	_, err := tryPlace(t, func(p *place, o *access.Options) {
		o.Issuers = []access.Issuer{{Issuer: "https://a.test", Audience: "us", Subject: "**", CAFile: p.write(t, "ca.crt", "x"), TokenFile: filepath.Join(p.dir, "none")}}
	})
	if err == nil || !strings.Contains(err.Error(), "ca_file") || !strings.Contains(err.Error(), "token_file") {
		t.Errorf("got %v", err)
	}
}

// otherCA returns a certificate that signed nothing here.
func otherCA(t *testing.T) string {
	t.Helper()
	return string(newCA(t).pem)
}
