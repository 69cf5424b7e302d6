package credential

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// microsoft stands in for the service that gives this machine's identity its tokens, which is found by the environment alone.
func microsoft(t *testing.T) {
	t.Helper()
	identity := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Identity-Header") != "here" || r.URL.Query().Get("resource") != "https://containerregistry.azure.net" || r.URL.Query().Get("client_id") != "robot" {
			t.Errorf("got %s", r.URL)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":"identity","expires_on":"%d","resource":"x","token_type":"Bearer"}`, time.Now().Add(time.Hour).Unix())
	}))
	t.Cleanup(identity.Close)
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
	t.Setenv("IDENTITY_ENDPOINT", identity.URL)
	t.Setenv("IDENTITY_HEADER", "here")
	t.Setenv("AZURE_CLIENT_ID", "robot") // set and empty it would be an identity without a name
}

func jwt(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".sig"
}

func TestACR(t *testing.T) {
	microsoft(t)
	until := time.Now().Add(3 * time.Hour).Truncate(time.Second).UTC()
	token := jwt(fmt.Sprintf(`{"exp":%d}`, until.Unix()))
	for name, tc := range map[string]struct {
		status  int
		body    string
		want    Credential
		wantErr string
	}{
		"a token":               {200, `{"refresh_token":"` + token + `"}`, Credential{azureUser, token, until}, ""},
		"one without an end":    {200, `{"refresh_token":"opaque"}`, Credential{azureUser, "opaque", time.Time{}}, ""},
		"none":                  {200, `{}`, Credential{}, "gives no token"},
		"no JSON":               {200, `secret`, Credential{}, "gives no token"},
		"one that is too large": {200, `{"refresh_token":"` + strings.Repeat("x", maxExchangeBytes) + `"}`, Credential{}, "gives no token"},
		"not permitted":         {401, `secret`, Credential{}, "status 401"},
		"a redirect":            {307, ``, Credential{}, "status 307"},
	} {
		t.Run(name, func(t *testing.T) {
			registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/oauth2/exchange" {
					t.Errorf("got request for %s", r.URL)
				}
				got := r.PostFormValue("grant_type") + " " + r.PostFormValue("service") + " " + r.PostFormValue("access_token")
				if want := "access_token acme.azurecr.io identity"; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.body))
			}))
			defer registry.Close()
			source, err := Config{Registry: "acme.azurecr.io", URL: registry.URL, Helper: "acr"}.source()
			if err != nil {
				t.Fatal(err)
			}
			got, err := source.Credential(t.Context())
			if got != tc.want || (err == nil) != (tc.wantErr == "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("got %v, %v, want %v, %q", got, err, tc.want, tc.wantErr)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, which repeats what may be a secret", err)
			}
		})
	}
}

func TestExpiryOf(t *testing.T) {
	for name, tc := range map[string]struct {
		token string
		want  time.Time
	}{
		"an end":         {jwt(`{"exp":1700000000}`), time.Unix(1700000000, 0).UTC()},
		"none":           {jwt(`{}`), time.Time{}},
		"a negative one": {jwt(`{"exp":-1}`), time.Time{}},
		"no JSON":        {jwt(`x`), time.Time{}},
		"no base64":      {"a.!.c", time.Time{}},
		"two parts":      {"a.b", time.Time{}},
		"nothing":        {"", time.Time{}},
	} {
		if got := expiryOf(tc.token); got != tc.want {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
	}
}

func TestAzureHost(t *testing.T) {
	for host, want := range map[string]bool{
		"acme.azurecr.io": true, "acme.azurecr.cn": true, "acme.azurecr.us": true,
		".azurecr.io": false, "azurecr.io": false, "acme.azurecr.io.evil.test": false, "acmeazurecr.io": false,
	} {
		if got := azureHost(host); got != want {
			t.Errorf("%s: got %t, want %t", host, got, want)
		}
	}
}
