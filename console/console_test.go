package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

var (
	app    = oci.Repository{Upstream: "registry.example:5000", Path: "acme/app"}
	digest = oci.FromBytes([]byte("app"))
	denied = gate.Verdict{
		Repository: app, Digest: digest, Policy: "production", File: "policy.yaml", Line: 3,
		JudgedAt: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), Until: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		Reasons: []gate.Reason{{Rule: gate.RuleSignatures, Message: "unsigned: <script>alert(1)</script>"}},
	}
)

// known is a console's world with one judged image.
type known struct{ err error }

func (k known) History(_ context.Context, c gate.Candidate) ([]gate.Verdict, error) {
	if c != denied.Candidate() {
		return nil, k.err
	}
	return []gate.Verdict{denied}, k.err
}

func (k known) Resolve(_ context.Context, repo oci.Repository, reference string) (oci.Descriptor, bool, error) {
	if repo != app || reference != "1.0" {
		return oci.Descriptor{}, false, oci.ErrNotFound
	}
	return oci.Descriptor{Digest: digest}, false, nil
}

func get(t *testing.T, o console.Options, path string) *httptest.ResponseRecorder {
	t.Helper()
	if o.History == nil {
		o.History, o.Resolver = known{}, known{}
	}
	o.Metrics, o.Log, o.DefaultUpstream = prometheus.NewRegistry(), slog.New(slog.DiscardHandler), "docker.io"
	w := httptest.NewRecorder()
	console.New(o).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func TestImages(t *testing.T) {
	for name, reference := range map[string]string{
		"by digest":                   "registry.example:5000/acme/app@" + digest.String(),
		"by digest, the port escaped": "registry.example_5000/acme/app@" + digest.String(),
		"by tag":                      "registry.example:5000/acme/app:1.0",
	} {
		t.Run("the API shows the verdict "+name, func(t *testing.T) {
			w := get(t, console.Options{}, "/api/v1/images/"+reference)
			var got console.Image
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
				t.Fatalf("got %d, %v: %s", w.Code, err, w.Body)
			}
			if got.Verdict.Allowed() || got.Verdict.Summary() != denied.Summary() || len(got.History) != 1 {
				t.Errorf("got %+v", got)
			}
		})
		t.Run("the page shows the verdict "+name, func(t *testing.T) {
			w := get(t, console.Options{}, "/images/"+reference)
			if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Denied") || !strings.Contains(w.Body.String(), "policy.yaml:3") {
				t.Errorf("got %d: %s", w.Code, w.Body)
			}
		})
	}
	t.Run("what an image's author wrote is text", func(t *testing.T) {
		w := get(t, console.Options{}, "/images/registry.example:5000/acme/app:1.0")
		if strings.Contains(w.Body.String(), "<script>") || !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("got %s", w.Body)
		}
	})
	for name, tt := range map[string]struct {
		path   string
		status int
	}{
		"an image never judged": {"docker.io/library/nginx@" + digest.String(), http.StatusNotFound},
		"an unknown tag":        {"registry.example:5000/acme/app:2.0", http.StatusNotFound},
		"a malformed reference": {"UPPER/case", http.StatusBadRequest},
	} {
		t.Run(name+" is an answer with a sentence", func(t *testing.T) {
			w := get(t, console.Options{}, "/api/v1/images/"+tt.path)
			var got map[string]string
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != tt.status || got["error"] == "" {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, tt.status)
			}
		})
	}
	t.Run("internals stay in the log", func(t *testing.T) {
		k := known{err: errors.New("/var/lib: permission denied")}
		w := get(t, console.Options{History: k, Resolver: k}, "/api/v1/images/registry.example:5000/acme/app:1.0")
		if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "/var/lib") {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	})
}

func TestHealth(t *testing.T) {
	broken := func(context.Context) error { return errors.New("storage is read-only") }
	for name, tt := range map[string]struct {
		path   string
		ready  func(context.Context) error
		status int
	}{
		"alive":                {"/healthz", nil, http.StatusOK},
		"alive when not ready": {"/healthz", broken, http.StatusOK},
		"ready":                {"/readyz", nil, http.StatusOK},
		"not ready":            {"/readyz", broken, http.StatusServiceUnavailable},
		"metrics":              {"/metrics", nil, http.StatusOK},
		"home":                 {"/", nil, http.StatusOK},
		"nothing else":         {"/v2/", nil, http.StatusNotFound},
	} {
		if w := get(t, console.Options{Ready: tt.ready}, tt.path); w.Code != tt.status {
			t.Errorf("%s: got %d, want %d", name, w.Code, tt.status)
		}
	}
}

func TestUnsafeOptionsAreShownOnEveryPage(t *testing.T) {
	for _, path := range []string{"/", "/images/registry.example:5000/acme/app:1.0", "/images/nothing"} {
		w := get(t, console.Options{Unsafe: []string{"listen.unsafe_plaintext"}}, path)
		if !strings.Contains(w.Body.String(), "listen.unsafe_plaintext") {
			t.Errorf("%s does not show it", path)
		}
	}
}
