package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// tokenService answers with a token per scope; basic, when not empty, is the Authorization it demands.
func tokenService(t *testing.T, basic string) *server {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if basic != "" && r.Header.Get("Authorization") != basic {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		scopes := slices.Sorted(slices.Values(r.URL.Query()["scope"]))
		_ = json.NewEncoder(w).Encode(map[string]string{"token": "token for " + strings.Join(scopes, " ")})
	})
}

// bearerRegistry serves image to whoever has the token for scope, and sends everybody else to realm.
func bearerRegistry(t *testing.T, realm, scope string) *server {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer token for "+scope {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry.test",scope=%q`, realm, scope))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		writeManifest(w, image)
	})
}

const appScope = "repository:team/app:pull"

func password(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestTokenIsFetchedOnceAndUsedAgain(t *testing.T) {
	realm := tokenService(t, "")
	reg := bearerRegistry(t, realm.URL+"/token", appScope)
	c := configFor(reg)
	c.Realms = []string{realm.URL + "/token"}
	seen := &events{}
	rs := open(t, Options{Observe: seen.observe}, c)
	for range 3 {
		if _, err := rs.Manifest(t.Context(), app, "latest"); err != nil {
			t.Fatal(err)
		}
	}
	wantReg := []string{"GET " + appManifest + "latest", "GET " + appManifest + "latest", "GET " + appManifest + "latest", "GET " + appManifest + "latest"}
	if diff := cmp.Diff(reg.asked(), wantReg); diff != "" { // one refused, three answered
		t.Errorf("got, want:\n%s", diff)
	}
	if diff := cmp.Diff(realm.asked(), []string{"GET /token"}); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
	size := int64(len(image))
	wantEvents := []Event{
		{"registry.test", KindToken, OutcomeOK, 0},
		{"registry.test", KindManifest, OutcomeOK, size}, {"registry.test", KindManifest, OutcomeOK, size}, {"registry.test", KindManifest, OutcomeOK, size},
	}
	if diff := cmp.Diff(seen.seen(), wantEvents); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
	for _, agent := range append(reg.headers("User-Agent"), realm.headers("User-Agent")...) {
		if agent != "tidewaiter/test" {
			t.Errorf("got user agent %q, want tidewaiter/test", agent)
		}
	}
}

// A registry that demands another scope than is usual is not refused again at every request.
func TestTokenOfAnUnusualScopeIsUsedAgain(t *testing.T) {
	realm := tokenService(t, "")
	reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer token for aws") {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,scope="aws"`, realm.URL))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		writeManifest(w, image)
	})
	c := configFor(reg)
	c.Realms = []string{realm.URL}
	rs := open(t, Options{}, c)
	for range 3 {
		if _, err := rs.Manifest(t.Context(), app, "latest"); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(reg.asked()); got != 4 {
		t.Errorf("got %d requests, want 4", got)
	}
	if got := len(realm.asked()); got != 1 {
		t.Errorf("got %d tokens, want 1", got)
	}
}

// A token that is no longer taken is fetched again.
func TestExpiredTokenIsRenewed(t *testing.T) {
	var issued, valid atomic.Int32
	realm := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		valid.Store(issued.Add(1))
		_, _ = fmt.Fprintf(w, `{"token":"%d"}`, issued.Load())
	})
	reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != fmt.Sprintf("Bearer %d", valid.Load()) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,scope=%q`, realm.URL, appScope))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		writeManifest(w, image)
	})
	c := configFor(reg)
	c.Realms = []string{realm.URL}
	rs := open(t, Options{}, c)
	for range 2 {
		if _, err := rs.Manifest(t.Context(), app, "latest"); err != nil {
			t.Fatal(err)
		}
		valid.Store(-1)
	}
	if got := issued.Load(); got != 2 {
		t.Errorf("got %d tokens, want 2", got)
	}
}

// The credentials go to the configured realm and nowhere else, not even to the registry that asks for the token.
func TestCredentialsGoToTheRealmAlone(t *testing.T) {
	const basic = "Basic dXNlcjpzZWNyZXQ=" // user:secret
	realm := tokenService(t, basic)
	reg := bearerRegistry(t, realm.URL+"/token", appScope)
	c := configFor(reg)
	c.Realms = []string{realm.URL}
	c.Username, c.PasswordFile = "user", password(t, " secret\n")
	rs := open(t, Options{}, c)
	if _, err := rs.Manifest(t.Context(), app, "latest"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(realm.headers("Authorization"), []string{basic}); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
	if diff := cmp.Diff(reg.headers("Authorization"), []string{"", "Bearer token for " + appScope}); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
}

func TestForeignRealmGetsNothing(t *testing.T) {
	foreign := tokenService(t, "")
	tests := map[string]struct {
		realms []string
		user   bool
	}{
		"no realm configured":            {nil, false},
		"no realm, with credentials":     {nil, true},
		"another path of the same realm": {[]string{foreign.URL + "/other"}, true},
		"another realm":                  {[]string{"https://auth.test"}, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			reg := bearerRegistry(t, foreign.URL+"/token", appScope)
			c := configFor(reg)
			c.Realms = tc.realms
			if tc.user {
				c.Username, c.PasswordFile = "user", password(t, "secret")
			}
			_, err := open(t, Options{}, c).Manifest(t.Context(), app, "latest")
			code, _ := answerOf(err)
			if !errors.Is(err, errForeignRealm) || code != oci.CodeUnavailable {
				t.Errorf("got %v, want errForeignRealm and %s", err, oci.CodeUnavailable)
			}
			wantText := fmt.Sprintf("token realm %q is not among the realms of upstream registry.test", foreign.URL+"/token")
			if err == nil || !strings.Contains(err.Error(), wantText) {
				t.Errorf("got %v, want %s", err, wantText)
			}
			if answer, _ := errors.AsType[*oci.Error](err); answer != nil && strings.Contains(answer.Message, foreign.URL) {
				t.Errorf("got answer %q, which repeats what the upstream wrote", answer.Message)
			}
			if got := reg.headers("Authorization"); !slices.Equal(got, []string{""}) {
				t.Errorf("got %q sent to the registry, want one request without credentials", got)
			}
		})
	}
	if got := foreign.asked(); got != nil {
		t.Errorf("got requests %q at the foreign realm, want none", got)
	}
}

// A realm under another host name may lie on a private address if the operator says so. The auth library would refuse it.
func TestRealmAtAnotherHostName(t *testing.T) {
	realm := tokenService(t, "")
	named := strings.Replace(realm.URL, "127.0.0.1", "localhost", 1)
	reg := bearerRegistry(t, named+"/token", appScope)
	c := configFor(reg)
	c.Realms = []string{named}
	if _, err := open(t, Options{}, c).Manifest(t.Context(), app, "latest"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(realm.asked(), []string{"GET /token"}); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
	for _, path := range reg.asked() {
		if strings.Contains(path, "tidewaiter-realm") {
			t.Errorf("got %s at the registry, which is a name of ours alone", path)
		}
	}
}

// A realm that redirects is a realm that does not answer: where it leads was never configured.
func TestTokenRedirectIsNotFollowed(t *testing.T) {
	elsewhere := tokenService(t, "")
	realm := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+"/token", http.StatusTemporaryRedirect)
	})
	reg := bearerRegistry(t, realm.URL, appScope)
	c := configFor(reg)
	c.Realms = []string{realm.URL}
	c.Username, c.PasswordFile = "user", password(t, "secret")
	_, err := open(t, Options{}, c).Manifest(t.Context(), app, "latest")
	if code, _ := answerOf(err); code != oci.CodeUnavailable {
		t.Errorf("got %v, want code %s", err, oci.CodeUnavailable)
	}
	if got := elsewhere.asked(); got != nil {
		t.Errorf("got requests %q where the realm led, want none", got)
	}
}

func TestTokenFailures(t *testing.T) {
	tests := map[string]struct {
		status int
		body   string
		want   oci.Code
	}{
		"the credentials are wrong":  {http.StatusUnauthorized, "", oci.CodeUnauthorized},
		"the repository is not ours": {http.StatusForbidden, "", oci.CodeUnauthorized},
		"the realm limits the rate":  {http.StatusTooManyRequests, "", oci.CodeTooManyRequests},
		"the realm is down":          {http.StatusInternalServerError, "", oci.CodeUnavailable},
		"the realm is not there":     {http.StatusNotFound, "", oci.CodeUnavailable},
		"an odd status":              {http.StatusPartialContent, `{"token":"x"}`, oci.CodeUnavailable},
		"no token":                   {http.StatusOK, `{}`, oci.CodeUnavailable},
		"no JSON":                    {http.StatusOK, `<html>`, oci.CodeUnavailable},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			realm := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.body))
			})
			reg := bearerRegistry(t, realm.URL, appScope)
			c := configFor(reg)
			c.Realms = []string{realm.URL}
			_, err := open(t, Options{}, c).Manifest(t.Context(), app, "latest")
			if code, _ := answerOf(err); code != tc.want {
				t.Errorf("got %v, want code %s", err, tc.want)
			}
		})
	}
}

func TestBasicCredentials(t *testing.T) {
	name := password(t, "one")
	var wantPassword atomic.Value
	wantPassword.Store("one")
	reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, given, _ := r.BasicAuth(); given != wantPassword.Load() {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		writeManifest(w, image)
	})
	c := configFor(reg)
	c.Username, c.PasswordFile = "user", name
	rs := open(t, Options{}, c)
	read := func() error {
		_, err := rs.Manifest(t.Context(), app, "latest")
		return err
	}
	if err := read(); err != nil {
		t.Fatalf("with the first password: %v", err)
	}
	wantPassword.Store("two")
	if err := os.WriteFile(name, []byte("two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := read(); err != nil {
		t.Fatalf("with the second password: %v", err)
	}
	wantPassword.Store("three")
	if err := read(); !errors.Is(err, oci.ErrUnauthorized) {
		t.Errorf("with a password that was not rotated: got %v, want %v", err, oci.ErrUnauthorized)
	}
	for what, spoil := range map[string]func() error{
		"empty":   func() error { return os.WriteFile(name, []byte("\n"), 0o600) },
		"endless": func() error { return os.WriteFile(name, make([]byte, maxPasswordBytes+1), 0o600) },
		"gone":    func() error { return os.Remove(name) },
	} {
		if err := spoil(); err != nil && what != "gone" {
			t.Fatal(err)
		}
		if err := read(); !errors.Is(err, oci.ErrUnavailable) {
			t.Errorf("with a password file that is %s: got %v, want %v", what, err, oci.ErrUnavailable)
		}
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoCredentialsForBasic(t *testing.T) {
	reg := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	_, err := open(t, Options{}, configFor(reg)).Manifest(t.Context(), app, "latest")
	if !errors.Is(err, oci.ErrUnauthorized) {
		t.Errorf("got %v, want %v", err, oci.ErrUnauthorized)
	}
}

// A mirror is run by somebody else than who issued the credentials.
func TestMirrorsNeverGetTheCredentials(t *testing.T) {
	mirror := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		writeManifest(w, image)
	})
	c := configFor(reg)
	c.Mirrors = []string{mirror.URL}
	c.Username, c.PasswordFile = "user", password(t, "secret")
	if _, err := open(t, Options{}, c).Manifest(t.Context(), app, "latest"); err != nil {
		t.Fatal(err)
	}
	if got := mirror.headers("Authorization"); !slices.Equal(got, []string{""}) {
		t.Errorf("got %q at the mirror, want one request without credentials", got)
	}
}
