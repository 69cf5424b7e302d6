package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestVerdictAsksForWhatWasTyped(t *testing.T) {
	digest := oci.FromBytes([]byte("app"))
	const app = "registry.example:5000/acme/app"
	for law, tt := range map[string]struct {
		args []string
		base string
		want string
	}{
		"an image by tag":               {[]string{app + ":1.0"}, "", "/api/v1/images/" + app + ":1.0?history=0"},
		"an image by digest":            {[]string{app + "@" + digest.String()}, "", "/api/v1/images/" + app + "@" + digest.String() + "?history=0"},
		"an image of the default":       {[]string{"nginx"}, "", "/api/v1/images/nginx?history=0"},
		"its history":                   {[]string{app + ":1.0", "--history"}, "", "/api/v1/images/" + app + ":1.0?history=1000"},
		"a proxy behind a path":         {[]string{app + ":1.0"}, "/tide/", "/tide/api/v1/images/" + app + ":1.0?history=0"},
		"a proxy of which more is said": {[]string{app + ":1.0"}, "/tide?a=b#c", "/tide/api/v1/images/" + app + ":1.0?history=0"},
	} {
		t.Run(law, func(t *testing.T) {
			asked := make(chan string, 1)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked <- r.RequestURI
				older := gate.Verdict{Policy: "older"}
				_ = json.NewEncoder(w).Encode(console.Image{Verdict: gate.Verdict{Policy: "newest"}, History: []gate.Verdict{older}})
			}))
			defer server.Close()
			got := command(t, append([]string{"verdict", "-o", "json", "--server", server.URL + tt.base}, tt.args...)...)
			if got.code != exitDenied {
				t.Fatalf("code %d: %s", got.code, got.stderr)
			}
			if got := <-asked; got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if newest, older := strings.Index(got.stdout, "newest"), strings.Index(got.stdout, "older"); newest < 0 || older < newest {
				t.Errorf("it prints %s", got.stdout)
			}
		})
	}
}

func TestVerdictRefusesWhatIsNoReference(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s was asked", r.RequestURI) }))
	defer server.Close()
	for _, reference := range []string{"", "UPPER/case", "a b", "app:", "app@sha256:1", "../../readyz", "app?history=1", "app#part", "app%2f..", "/metrics", "a//b"} {
		if got := command(t, "verdict", "--server", server.URL, reference); got.code != exitUsage || got.stdout != "" || got.stderr == "" {
			t.Errorf("%q: code %d, want %d: %s%s", reference, got.code, exitUsage, got.stdout, got.stderr)
		}
	}
}

func TestWhatAServerSaysIsPrintable(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = fmt.Fprint(w, `{"error": "gone\u001b[2J\r"}`)
	}))
	defer server.Close()
	got := command(t, "verdict", "--server", server.URL, "registry.test/app:1.0")
	if got.code != exitFailure || !strings.Contains(got.stderr, "gone\uFFFD[2J\uFFFD") || strings.ContainsAny(got.stderr, "\x1b\r") {
		t.Errorf("code %d: %q", got.code, got.stderr)
	}
}
