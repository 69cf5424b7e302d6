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

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/simulation"
)

var policyNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// tried is a Simulator that notes what it was asked.
type tried struct {
	asked  []simulation.Request
	drafts [][]console.DraftFile
	err    error
}

func (s *tried) Simulate(_ context.Context, r simulation.Request) (simulation.Page, error) {
	s.asked = append(s.asked, r)
	return simulation.Page{Images: 3, Changes: []simulation.Change{}}, s.err
}

func (s *tried) parse(files []console.DraftFile) (*gate.PolicySet, error) {
	s.drafts = append(s.drafts, files)
	if strings.Contains(files[0].Content, "wrong") {
		return nil, errors.New(files[0].Name + ":1:1: unknown key")
	}
	return &gate.PolicySet{Revision: "p2"}, nil
}

func (s *tried) Current() *gate.PolicySet {
	pattern, err := oci.ParseFullPattern("apps/**")
	if err != nil {
		panic(err)
	}
	return &gate.PolicySet{
		Revision: "p1", WaiverRevision: "w1",
		Policies: []gate.Policy{{
			Name: "production", File: "policy.yaml", Line: 3, Match: []oci.Pattern{pattern}, Mode: gate.Warn, OnFail: gate.Quarantine,
			Lines: map[gate.Rule]int{gate.RuleSize: 9, gate.RuleSignatures: 5},
		}},
		Waivers: []gate.Waiver{{Rule: gate.RuleSize, Repositories: []oci.Pattern{pattern}, Until: policyNow, Reason: "<b>TICKET</b>", By: "alice"}},
	}
}

// administrators lets ada administer app, and sam review it.
type administrators struct{ reviewers }

func (a *administrators) May(caller access.Caller, action access.Action, repo oci.Repository) bool {
	return caller.Name == "user:ada" && repo == app || a.reviewers.May(caller, action, repo)
}

func (a *administrators) AllowSomewhere(ctx context.Context, caller access.Caller, action access.Action) error {
	if caller.Name == "user:ada" || caller.Name == "user:sam" && action == access.Review {
		return nil
	}
	return a.Allow(ctx, caller, action, oci.Repository{})
}

func policyConsole(s *tried, who *administrators) *console.Console {
	o := console.Options{
		History: known{}, Resolver: known{}, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
		Policy: &console.Policy{
			InForce: s, Files: []string{"policy.yaml"}, Roots: func() string { return "r1" }, Parse: s.parse, Simulator: s,
			Now: func() time.Time { return policyNow },
		},
	}
	if who != nil {
		o.Access, o.Policy.Rights = who, who
	}
	return console.New(o)
}

// post sends a draft as somebody; "" for nobody.
func post(c *console.Console, user, mediaType, query, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/api/v1/policy/simulate"+query, strings.NewReader(body))
	if user != "" {
		r.SetBasicAuth(user, "right")
	}
	if mediaType != "" {
		r.Header.Set("Content-Type", mediaType)
	}
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	return w
}

func TestSimulate(t *testing.T) {
	const yaml, files = "policies: []", `{"files": [{"name": "a.yaml", "content": "policies: []"}, {"name": "b.yaml", "content": "waivers: []"}]}`
	large := strings.Repeat(" ", 5<<20)
	for _, tt := range []struct {
		law, mediaType, query, body string
		want                        int
		says                        string
	}{
		{"a file as it is", "application/yaml", "", yaml, 200, `"images":3`},
		{"several files", "application/json", "", files, 200, `"images":3`},
		{"no type", "", "", yaml, 415, "application/yaml"},
		{"what a form of another site can send", "text/plain", "", yaml, 415, "application/yaml"},
		{"JSON that is none", "application/json", "", "{", 400, "the body"},
		{"no files", "application/json", "", "{}", 400, "want 1 to 64 files"},
		{"a body that is too large", "application/yaml", "", large, 413, "more than"},
		{"a draft that is wrong", "application/yaml", "", "wrong", 400, "draft.yaml:1:1: unknown key"},
		{"a time that is none", "application/yaml", "?since=yesterday", yaml, 400, "since"},
		{"a time to come", "application/yaml", "?since=-1h", yaml, 400, "since"},
		{"a pattern that is none", "application/yaml", "?repository=%5B", yaml, 400, "repository"},
		{"a flag that is none", "application/yaml", "?fetch=perhaps", yaml, 400, "fetch"},
		{"too many at once", "application/yaml", "?limit=1001", yaml, 400, "limit"},
		{"all that can be asked for", "application/yaml", "?since=1h&repository=" + app.String() + "&fetch=true&limit=5&after=a@b", yaml, 200, `"images":3`},
	} {
		t.Run(tt.law, func(t *testing.T) {
			s := &tried{}
			w := post(policyConsole(s, nil), "", tt.mediaType, tt.query, tt.body)
			if w.Code != tt.want || !strings.Contains(w.Body.String(), tt.says) || (w.Code == 200) != (len(s.asked) == 1) {
				t.Errorf("got %d, asked %d times: %s", w.Code, len(s.asked), w.Body)
			}
		})
	}
	t.Run("asks for what was asked for", func(t *testing.T) {
		s := &tried{}
		post(policyConsole(s, nil), "", "application/yaml", "?since=1h&repository="+app.String()+"&fetch=true&limit=5&after=a@b", yaml)
		r := s.asked[0]
		if !r.Since.Equal(policyNow.Add(-time.Hour)) || !r.Fetch || r.Limit != 5 || r.After != "a@b" || r.Draft.Revision != "p2" ||
			!r.Wanted(app) || r.Wanted(oci.Repository{Upstream: "docker.io", Path: "library/nginx"}) {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("one at a time", func(t *testing.T) {
		w := post(policyConsole(&tried{err: simulation.ErrBusy}, nil), "", "application/yaml", "", yaml)
		if w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "another simulation") {
			t.Errorf("got %d: %s", w.Code, w.Body)
		}
	})
	t.Run("is for administrators, of what they administer", func(t *testing.T) {
		for user, want := range map[string]int{"": 401, "sam": 403, "kim": 403, "ada": 200} {
			s := &tried{}
			w := post(policyConsole(s, &administrators{}), user, "application/yaml", "", yaml)
			if w.Code != want || (want != 200 && len(s.drafts) > 0) {
				t.Errorf("%q: got %d, %d drafts read: %s", user, w.Code, len(s.drafts), w.Body)
			}
			if want == 200 && (!s.asked[0].Wanted(app) || s.asked[0].Wanted(oci.Repository{Upstream: "docker.io", Path: "library/nginx"})) {
				t.Error("it tells of another repository")
			}
		}
	})
}

func TestPoliciesInForce(t *testing.T) {
	c := policyConsole(&tried{}, nil)
	w := httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/policy", nil))
	var got console.PolicyFacts
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
		t.Fatalf("got %d, %v: %s", w.Code, err, w.Body)
	}
	want := console.PolicyFacts{
		Revision: "p1", WaiverRevision: "w1", RootsRevision: "r1", Files: []string{"policy.yaml"},
		Policies: []console.PolicyFact{{
			Name: "production", File: "policy.yaml", Line: 3, Mode: "warn", OnFail: "quarantine", Match: []string{"apps/**"},
			Rules: []console.RuleFact{{Rule: gate.RuleSignatures, Line: 5}, {Rule: gate.RuleSize, Line: 9}},
		}},
		Waivers: []console.WaiverFact{{Rule: gate.RuleSize, Repositories: []string{"apps/**"}, Until: policyNow, Reason: "<b>TICKET</b>", By: "alice", Lapsed: true}},
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("got -, want +:\n%s", diff)
	}
	w = httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/policy", nil))
	if body := w.Body.String(); w.Code != 200 || strings.Contains(body, "<b>") || !strings.Contains(body, "policy.yaml:3") || !strings.Contains(body, "signatures (line 5)") {
		t.Errorf("got %d: %s", w.Code, body)
	}
	for user, want := range map[string]int{"": 401, "kim": 403, "sam": 200} {
		for _, path := range []string{"/policy", "/api/v1/policy"} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			if user != "" {
				r.SetBasicAuth(user, "right")
			}
			w := httptest.NewRecorder()
			policyConsole(&tried{}, &administrators{}).ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("%s as %q: got %d, want %d", path, user, w.Code, want)
			}
		}
	}
}
