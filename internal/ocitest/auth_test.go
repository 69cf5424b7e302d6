package ocitest

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func basic(username, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(username+":"+password))
}

// token asks the token service by GET.
func token(t *testing.T, r *Registry, scope string, header ...string) string {
	t.Helper()
	a := ask(t, "GET", r.TokenURL()+"?service=ocitest&scope="+url.QueryEscape(scope), nil, header...).want(t, 200)
	var body struct{ Token string }
	if err := json.Unmarshal(a.body, &body); err != nil || body.Token == "" {
		t.Fatalf("token answer %s: %v", a.body, err)
	}
	return body.Token
}

func TestChallenge(t *testing.T) {
	for _, tt := range []struct {
		name         string
		auth         Auth
		method, path string
		want         string // TOKEN stands for the token service's address
	}{
		{"a pull", Auth{}, "GET", "team/app/manifests/v1", `Bearer realm="TOKEN",service="ocitest",scope="repository:team/app:pull"`},
		{"a push", Auth{}, "POST", "team/app/blobs/uploads/", `Bearer realm="TOKEN",service="ocitest",scope="repository:team/app:pull,push"`},
		{"a delete", Auth{}, "DELETE", "app/manifests/v1", `Bearer realm="TOKEN",service="ocitest",scope="repository:app:delete"`},
		{"the catalog", Auth{}, "GET", "_catalog", `Bearer realm="TOKEN",service="ocitest",scope="registry:catalog:*"`},
		{"a ping", Auth{}, "GET", "", `Bearer realm="TOKEN",service="ocitest"`},
		{"a service of its own", Auth{SeparateRealm: true}, "GET", "", `Bearer realm="TOKEN",service="ocitest"`},
		{"a hostile realm", Auth{Realm: "http://thief.example/"}, "GET", "", `Bearer realm="http://thief.example/",service="ocitest"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, Options{BearerAuth: &tt.auth})
			got := ask(t, tt.method, r.URL()+"/v2/"+tt.path, nil).want(t, 401)
			want := strings.Replace(tt.want, "TOKEN", r.TokenURL(), 1)
			if diff := cmp.Diff(got.header.Get("WWW-Authenticate"), want); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
			separate := !strings.HasPrefix(r.TokenURL(), r.URL())
			if separate != tt.auth.SeparateRealm {
				t.Errorf("the token service is at %s, the registry at %s", r.TokenURL(), r.URL())
			}
		})
	}
}

func TestTokens(t *testing.T) {
	r := start(t, Options{BearerAuth: &Auth{Username: "ci", Password: "secret", SeparateRealm: true}})
	push(t, r, "app", "v1", Image{})
	pull := token(t, r, "repository:app:pull", basic("ci", "secret"))
	both := token(t, r, "repository:app:pull,push repository:other:pull", basic("ci", "secret"))
	for _, tt := range []struct {
		name, method, path, header string
		want                       int
	}{
		{"no token", "GET", "app/manifests/v1", "X-None: 1", 401},
		{"credentials in place of a token", "GET", "app/manifests/v1", basic("ci", "secret"), 401},
		{"an invented token", "GET", "app/manifests/v1", "Authorization: Bearer token-99", 401},
		{"a token under another scheme", "GET", "app/manifests/v1", "Authorization: Token " + pull, 401},
		{"a token to pull", "GET", "app/manifests/v1", "Authorization: Bearer " + pull, 200},
		{"a token to pull another repository", "GET", "other/manifests/v1", "Authorization: Bearer " + pull, 401},
		{"a push with a token to pull", "POST", "app/blobs/uploads/", "Authorization: Bearer " + pull, 401},
		{"a token to push", "POST", "app/blobs/uploads/", "Authorization: Bearer " + both, 202},
		{"one token for two repositories", "GET", "other/manifests/v1", "Authorization: Bearer " + both, 404},
		{"a delete with a token to push", "DELETE", "app/manifests/v1", "Authorization: Bearer " + both, 401},
		{"any token pings", "GET", "", "Authorization: Bearer " + pull, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ask(t, tt.method, r.URL()+"/v2/"+tt.path, nil, tt.header).want(t, tt.want)
		})
	}
	t.Run("revoked tokens are worthless", func(t *testing.T) {
		r.RevokeTokens()
		ask(t, "GET", r.URL()+"/v2/app/manifests/v1", nil, "Authorization: Bearer "+pull).want(t, 401)
	})
}

func TestTokenService(t *testing.T) {
	t.Run("wrong credentials are refused", func(t *testing.T) {
		r := start(t, Options{BearerAuth: &Auth{Username: "ci", Password: "secret"}})
		for _, header := range []string{"X-None: 1", basic("ci", "wrong"), basic("", ""), basic("ci\x00secret", "")} {
			ask(t, "GET", r.TokenURL()+"?scope=repository:app:pull", nil, header).want(t, 401)
		}
	})
	t.Run("the OAuth2 form gives tokens too", func(t *testing.T) {
		r := start(t, Options{BearerAuth: &Auth{Username: "ci", Password: "secret"}})
		form := url.Values{"grant_type": {"password"}, "username": {"ci"}, "password": {"secret"}, "scope": {"repository:app:pull"}}
		a := ask(t, "POST", r.TokenURL(), []byte(form.Encode()), "Content-Type: application/x-www-form-urlencoded").want(t, 200)
		var body struct {
			Token string `json:"access_token"`
		}
		if err := json.Unmarshal(a.body, &body); err != nil {
			t.Fatal(err)
		}
		ask(t, "GET", r.URL()+"/v2/app/manifests/v1", nil, "Authorization: Bearer "+body.Token).want(t, 404)
	})
	t.Run("anybody gets a token where no user is named", func(t *testing.T) {
		r := start(t, Options{BearerAuth: &Auth{}})
		ask(t, "GET", r.URL()+"/v2/", nil, "Authorization: Bearer "+token(t, r, "")).want(t, 200)
	})
	t.Run("requests for tokens are recorded", func(t *testing.T) {
		r := start(t, Options{BearerAuth: &Auth{SeparateRealm: true}})
		token(t, r, "repository:app:pull")
		c := r.Requests()[0]
		if c.Kind != KindToken || c.Listener != "token" || c.Query != "service=ocitest&scope=repository%3Aapp%3Apull" || c.Status != 200 {
			t.Errorf("recorded as %+v", c)
		}
	})
	t.Run("without authorization there is no token service", func(t *testing.T) {
		r := start(t, Options{})
		if got := r.TokenURL(); got != "" {
			t.Errorf("token service at %q", got)
		}
		ask(t, "GET", r.URL()+"/token", nil).want(t, 404)
	})
}
