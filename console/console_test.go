package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
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
			if got.Verdict.Allowed() || got.Verdict.Summary() != denied.Summary() || len(got.History) != 0 {
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

func TestAdvisories(t *testing.T) {
	const path = "/api/v1/advisories"
	know := func(err error) func(context.Context) (any, error) {
		return func(context.Context) (any, error) { return map[string]string{"snapshot": "sha256:1"}, err }
	}
	for law, tt := range map[string]struct {
		options console.Options
		status  int
		body    string
	}{
		"what is known of them is told":   {console.Options{Advisories: know(nil)}, http.StatusOK, `{"snapshot":"sha256:1"}`},
		"why it is not stays in the log":  {console.Options{Advisories: know(errors.New("/var/lib: gone"))}, http.StatusInternalServerError, `{"error":"internal error"}`},
		"where nobody knows is no answer": {console.Options{}, http.StatusNotFound, "404 page not found"},
	} {
		w := get(t, tt.options, path)
		if body := strings.TrimSpace(w.Body.String()); w.Code != tt.status || body != tt.body {
			t.Errorf("%s: got %d %s, want %d %s", law, w.Code, body, tt.status, tt.body)
		}
	}
}

// judgedOften is an image that was judged n times; the last is the newest, and the policies are numbered.
type judgedOften struct {
	known
	n int
}

func (j judgedOften) History(context.Context, gate.Candidate) ([]gate.Verdict, error) {
	var all []gate.Verdict
	for i := range j.n {
		v := denied
		v.Policy = strconv.Itoa(j.n - i)
		all = append(all, v)
	}
	return all, nil
}

func TestHistory(t *testing.T) {
	const path = "/api/v1/images/registry.example:5000/acme/app:1.0"
	for law, tt := range map[string]struct {
		query       string
		made        int
		count       int
		first, last string
	}{
		"the first verdict has nothing before it":      {"", 1, 0, "", ""},
		"the newest is told once":                      {"", 3, 2, "2", "1"},
		"no more than a page unless asked":             {"", 100, 20, "99", "80"},
		"as many as asked for":                         {"?history=50", 100, 50, "99", "50"},
		"none":                                         {"?history=0", 100, 0, "", ""},
		"no more than there are":                       {"?history=1000", 5, 4, "4", "1"},
		"an empty number is none given":                {"?history=", 100, 20, "99", "80"},
		"other parameters are not ours to be upset by": {"?verbose=1", 2, 1, "1", "1"},
	} {
		t.Run(law, func(t *testing.T) {
			w := get(t, console.Options{History: judgedOften{n: tt.made}, Resolver: known{}}, path+tt.query)
			var got console.Image
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK || got.History == nil {
				t.Fatalf("got %d, %v: %.300s", w.Code, err, w.Body)
			}
			if got.Verdict.Policy != strconv.Itoa(tt.made) || len(got.History) != tt.count {
				t.Fatalf("got the verdict of %s and %d before it, want %d and %d", got.Verdict.Policy, len(got.History), tt.made, tt.count)
			}
			if tt.count > 0 && (got.History[0].Policy != tt.first || got.History[tt.count-1].Policy != tt.last) {
				t.Errorf("got %s to %s, want %s to %s", got.History[0].Policy, got.History[tt.count-1].Policy, tt.first, tt.last)
			}
		})
	}
	for _, asked := range []string{"-1", "1001", "many", "1e2", "99999999999999999999"} {
		t.Run("a history of "+asked+" is refused", func(t *testing.T) {
			if w := get(t, console.Options{}, path+"?history="+asked); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "history") {
				t.Errorf("got %d: %s", w.Code, w.Body)
			}
		})
	}
	t.Run("a page shows the newest, and those before it", func(t *testing.T) {
		body := get(t, console.Options{History: judgedOften{n: 3}, Resolver: known{}}, strings.TrimPrefix(path, "/api/v1")).Body.String()
		if !strings.Contains(body, "<strong>3</strong>") || strings.Count(body, "<td class=\"deny\">") != 2 {
			t.Errorf("got %s", body)
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
