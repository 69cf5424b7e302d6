package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// vault are credentials that a test changes. It is used by one goroutine at a time.
type vault struct {
	username, password string
	err                error
	asked              int
}

func (v *vault) Credential(context.Context) (username, password string, err error) {
	v.asked++
	return v.username, v.password, v.err
}

// basicRegistry serves image to whoever has the present password of v, and answers any other with refusal.
func basicRegistry(t *testing.T, v *vault, refusal int) *server {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		username, password, ok := r.BasicAuth()
		switch {
		case !ok:
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case username != v.username || password != v.password:
			w.WriteHeader(refusal)
		default:
			writeManifest(w, image)
		}
	})
}

// A password that has ended is not presented again, whatever the registry would say to it.
func TestCredentialsThatEndAreAskedForAnew(t *testing.T) {
	v := &vault{username: "AWS", password: "one"}
	reg := basicRegistry(t, v, http.StatusForbidden)
	c := configFor(reg)
	c.Credentials = v
	rs := open(t, Options{}, c)
	for _, password := range []string{"one", "two", "three"} {
		v.password = password
		if _, err := rs.Manifest(t.Context(), app, "latest"); err != nil {
			t.Fatalf("with password %s: %v", password, err)
		}
	}
	if got := len(reg.asked()); got != 4 {
		t.Errorf("got %d requests, want 4: one was challenged", got)
	}
}

// Credentials that cannot be had are no reason to go on without.
func TestCredentialsThatCannotBeHad(t *testing.T) {
	for name, v := range map[string]*vault{
		"an error":       {err: errors.New("secret: the vault is closed")},
		"no password":    {username: "u"},
		"no user name":   {password: "p"},
		"neither of two": {},
	} {
		t.Run(name, func(t *testing.T) {
			realm := tokenService(t, "")
			for kind, reg := range map[string]*server{
				"basic":  serve(t, func(w http.ResponseWriter, _ *http.Request) { challengeBasic(w) }),
				"bearer": bearerRegistry(t, realm.URL+"/token", appScope),
			} {
				c := configFor(reg)
				c.Realms = []string{realm.URL}
				c.Credentials = v
				_, err := open(t, Options{}, c).Manifest(t.Context(), app, "latest")
				code, _ := answerOf(err)
				if code != oci.CodeUnavailable {
					t.Errorf("%s: got %v, want %s", kind, err, oci.CodeUnavailable)
				}
				if answer, _ := errors.AsType[*oci.Error](err); answer != nil && strings.Contains(answer.Message, "secret") {
					t.Errorf("%s: got %q, which repeats what is for the log", kind, answer.Message)
				}
				if got := reg.headers("Authorization"); !slices.Equal(got, []string{""}) {
					t.Errorf("%s: got %q at the registry, want one request", kind, got)
				}
			}
			if got := realm.asked(); got != nil {
				t.Errorf("got %q at the realm, want nothing", got)
			}
		})
	}
}

func challengeBasic(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
	w.WriteHeader(http.StatusUnauthorized)
}

// However credentials come, they go to the realm and nowhere else: not to the registry that asks for a token, a mirror, where a
// redirect leads, or a realm that was not configured, for which nobody is even asked for them.
func TestCredentialsOfEveryKindGoToTheRealmAlone(t *testing.T) {
	for name, tc := range map[string]struct {
		vault vault
		want  string // what the realm gets
	}{
		"a user and a password": {vault{username: "user", password: "secret"}, "Basic dXNlcjpzZWNyZXQ="},
		"an identity token":     {vault{username: "<token>", password: "secret"}, "refresh_token secret"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			realm := serve(t, func(w http.ResponseWriter, r *http.Request) {
				given := r.Header.Get("Authorization")
				if r.Method == http.MethodPost {
					given = r.PostFormValue("grant_type") + " " + r.PostFormValue("refresh_token")
				}
				got = append(got, given)
				_ = json.NewEncoder(w).Encode(map[string]string{"access_token": "token for " + appScope})
			})
			elsewhere := serve(t, func(w http.ResponseWriter, _ *http.Request) { writeManifest(w, image) })
			mirror := bearerRegistry(t, elsewhere.URL, appScope)
			reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "Bearer token for "+appScope {
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,scope=%q`, realm.URL+"/token", appScope))
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				http.Redirect(w, r, elsewhere.URL+"/storage", http.StatusTemporaryRedirect)
			})
			c := configFor(reg)
			c.Realms, c.Mirrors, c.Credentials = []string{realm.URL + "/token"}, []string{mirror.URL}, &tc.vault
			if _, err := open(t, Options{}, c).Manifest(t.Context(), app, "latest"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, []string{tc.want}); diff != "" {
				t.Errorf("the realm got, want:\n%s", diff)
			}
			if diff := cmp.Diff(reg.headers("Authorization"), []string{"", "Bearer token for " + appScope}); diff != "" {
				t.Errorf("the registry got, want:\n%s", diff)
			}
			if diff := cmp.Diff(slices.Concat(mirror.headers("Authorization"), elsewhere.headers("Authorization")), []string{"", ""}); diff != "" {
				t.Errorf("the mirror and the storage got, want:\n%s", diff)
			}
		})
	}
	t.Run("a foreign realm", func(t *testing.T) {
		foreign, v := tokenService(t, ""), &vault{username: "<token>", password: "secret"}
		c := configFor(bearerRegistry(t, foreign.URL, appScope))
		c.Credentials = v
		if _, err := open(t, Options{}, c).Manifest(t.Context(), app, "latest"); !errors.Is(err, errForeignRealm) {
			t.Errorf("got %v, want %v", err, errForeignRealm)
		}
		if got := foreign.asked(); got != nil || v.asked != 0 {
			t.Errorf("got %q at the foreign realm and the credentials asked for %d times, want neither", got, v.asked)
		}
	})
}
