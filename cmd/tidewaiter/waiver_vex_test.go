package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/review"
)

const vendorVEX = `{"@context":"https://openvex.dev/ns/v0.2.0","statements":[
 {"vulnerability":{"name":"GHSA-1","aliases":["CVE-1"]},"status":"not_affected","justification":"component_not_present",
  "products":[{"@id":"pkg:oci/app?repository_url=ghcr.io/acme/app","subcomponents":[{"@id":"pkg:deb/debian/openssl@3"},{"@id":"pkg:npm/left-pad"}]}]},
 {"vulnerability":{"name":"CVE-2"},"status":"not_affected"},
 {"vulnerability":{"name":"CVE-2"},"status":"not_affected"},
 {"vulnerability":{"name":"CVE-3"},"status":"affected","products":[{"@id":"pkg:oci/app?repository_url=ghcr.io/acme/app"}]},
 {"vulnerability":{"name":"CVE-4"},"status":"fixed"}]}`

func TestImportGrantsWhatIsNotAffected(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var g console.Grant
		if err := json.NewDecoder(r.Body).Decode(&g); err != nil || r.Method != http.MethodPost || r.URL.Path != "/api/v1/waivers" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		mu.Lock()
		asked = append(asked, strings.Join([]string{g.Vulnerability, g.Package, strings.Join(g.Repositories, " "), g.For, g.Reason}, "|"))
		mu.Unlock()
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(console.WaiverList{Waivers: []review.Standing{{State: review.Live}}})
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "vendor.json")
	if err := os.WriteFile(file, []byte(vendorVEX), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		law   string
		flags []string
		want  []string
		left  string
	}{
		{"of what it names", nil, []string{
			"CVE-1|deb/openssl|ghcr.io/acme/app|1h0m0s|component_not_present: they say so", "CVE-1|npm/left-pad|ghcr.io/acme/app|1h0m0s|component_not_present: they say so",
		}, "4 statements"},
		{"and of what is named for it", []string{"--repository", "docker.io/vendor/*"}, []string{
			"CVE-1|deb/openssl|ghcr.io/acme/app|1h0m0s|component_not_present: they say so", "CVE-1|npm/left-pad|ghcr.io/acme/app|1h0m0s|component_not_present: they say so",
			"CVE-2||docker.io/vendor/*|1h0m0s|they say so",
		}, "3 statements"},
	} {
		t.Run(tt.law, func(t *testing.T) {
			asked = nil
			got := command(t, append([]string{"waiver", "import", file, "--server", server.URL, "--for", "1h", "--reason", "they say so"}, tt.flags...)...)
			if diff := cmp.Diff(asked, tt.want); diff != "" || got.code != exitDone || !strings.Contains(got.stderr, tt.left) {
				t.Errorf("code %d: %s (-got +want):\n%s", got.code, got.stderr, diff)
			}
		})
	}
	for law, args := range map[string][]string{
		"a file that is not there": {file + ".none", "--for", "1h", "--reason", "x"}, "no reason": {file, "--for", "1h"}, "for ever": {file, "--reason", "x"},
		"until no time": {file, "--reason", "x", "--until", "tomorrow"},
	} {
		if got := command(t, append([]string{"waiver", "import", "--server", server.URL}, args...)...); got.code != exitUsage {
			t.Errorf("%s: code %d: %s", law, got.code, got.stderr)
		}
	}
}

func TestWhatAServerRefusesIsSaid(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"error":"not granted\u001b[2J"}`))
	}))
	defer server.Close()
	named := strings.Replace(server.URL, "http://", "http://sam:secret@", 1)
	for _, args := range [][]string{
		{"quarantine", "list"}, {"quarantine", "show", "registry.test/a:1"}, {"quarantine", "release", "registry.test/a:1", "--for", "1h", "--reason", "x"},
		{"quarantine", "drop", "registry.test/a:1", "--reason", "x"}, {"quarantine", "read", "registry.test/a@sha256:" + strings.Repeat("0", 64)},
		{"waiver", "list"}, {"waiver", "revoke", "w1", "--reason", "x"}, {"waiver", "approve", "w1"}, {"waiver", "export"},
		{"waiver", "grant", "--rule", "size", "--digest", "sha256:1", "--for", "1h", "--reason", "x"},
	} {
		got := command(t, append(args, "--server", named)...)
		if got.code != exitFailure || !strings.Contains(got.stderr, "not granted") || strings.Contains(got.stderr, "secret") || strings.Contains(got.stderr, "\x1b") || got.stdout != "" {
			t.Errorf("%q: code %d: %s%s", args, got.code, got.stdout, got.stderr)
		}
	}
}
