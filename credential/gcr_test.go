package credential

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const googleRegistry = "europe-west1-docker.pkg.dev"

func googleSource(t *testing.T) Source {
	t.Helper()
	t.Setenv("HOME", t.TempDir()) // where the gcloud command leaves an account
	source, err := Config{Registry: googleRegistry, URL: "https://" + googleRegistry, Helper: "gcr"}.source()
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// checkGoogle expects an access token that counts for an hour.
func checkGoogle(t *testing.T, source Source) {
	t.Helper()
	got, err := source.Credential(t.Context())
	if left := time.Until(got.Until); err != nil || got.Username != googleUser || got.Password != "ya29.token" || left < 50*time.Minute || left > time.Hour {
		t.Errorf("got %v, %v, want a token for an hour", got, err)
	}
}

func sendGoogleToken(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"access_token":"ya29.token","expires_in":3599,"token_type":"Bearer"}`))
}

func TestGoogleByTheMetadataServer(t *testing.T) {
	var down bool // requests come one after the other
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		switch {
		case r.Header.Get("Metadata-Flavor") != "Google":
			w.WriteHeader(http.StatusForbidden)
		case down || !strings.HasSuffix(r.URL.Path, "/instance/service-accounts/default/token"):
			w.WriteHeader(http.StatusNotFound)
		case !strings.Contains(r.URL.RawQuery, "scopes="):
			t.Errorf("got query %s, want the scope in it", r.URL.RawQuery)
		default:
			sendGoogleToken(w)
		}
	}))
	defer metadata.Close()
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(metadata.URL, "http://"))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	source := googleSource(t)
	checkGoogle(t, source)
	down = true
	if got, err := source.Credential(t.Context()); err == nil {
		t.Errorf("got %v from a metadata server without the account, want an error", got)
	}
}

func TestGoogleByTheKeyOfAServiceAccount(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || strings.Count(r.PostFormValue("assertion"), ".") != 2 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		sendGoogleToken(w)
	}))
	defer service.Close()
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "robot@project.test", "private_key_id": "1", "token_uri": service.URL,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, filepath.Join(t.TempDir(), "key.json"), string(text), 0o600)
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	source := googleSource(t)
	checkGoogle(t, source)
	writeFile(t, file, "{", 0o600) // another account is not taken in its place
	if got, err := source.Credential(t.Context()); err == nil {
		t.Errorf("got %v from a broken key, want an error", got)
	}
}

func TestGoogleHost(t *testing.T) {
	for host, want := range map[string]bool{
		"gcr.io": true, "eu.gcr.io": true, "europe-west1-docker.pkg.dev": true, "us-docker.pkg.dev": true,
		"notgcr.io": false, "gcr.io.evil.test": false, "docker.pkg.dev.evil.test": false, "x.pkg.dev": false, "registry.test": false,
	} {
		if got := googleHost(host); got != want {
			t.Errorf("%s: got %t, want %t", host, got, want)
		}
	}
}
