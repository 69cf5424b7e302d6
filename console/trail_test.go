package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/trail"
)

var (
	noon   = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	older  = oci.FromBytes([]byte("older"))
	oldest = oci.FromBytes([]byte("oldest"))
	node   = trail.Client{Name: "user:<b>", Address: "10.0.0.7", Agent: "containerd/2.1"}
	recall = trail.Recall{Digest: digest, At: noon, Policy: "production", Reasons: []string{"CVE-2026-0001"}}
	pulled = trail.Pullers{Clients: []trail.Pull{{Digest: digest, Client: node, First: noon, Last: noon, Count: 3}}, Others: 17}
)

// seen is a trail of one image that was recalled. Its tag stood for two others before.
type seen struct{ err error }

func (s seen) PulledBy(_ context.Context, c gate.Candidate) (trail.Pullers, error) {
	if c != denied.Candidate() {
		return trail.Pullers{Clients: []trail.Pull{}}, s.err
	}
	return pulled, s.err
}

func (s seen) RecallOf(_ context.Context, c gate.Candidate) (trail.Recall, bool, error) {
	return recall, c == denied.Candidate(), s.err
}

func (s seen) Recalls(_ context.Context, wanted func(oci.Repository) bool) ([]trail.Recalled, error) {
	var all []trail.Recalled
	for _, repo := range []oci.Repository{app, {Path: "apps/web"}} {
		if wanted(repo) {
			all = append(all, trail.Recalled{Repository: repo, Recall: recall, Pulls: pulled})
		}
	}
	return all, s.err
}

func (s seen) Tags(context.Context, oci.Repository) ([]trail.Tagged, error) {
	var all []trail.Tagged
	for i := range 1001 {
		all = append(all, trail.Tagged{Tag: fmt.Sprintf("t%04d", i), Digest: digest, At: noon, By: node})
	}
	return all, s.err
}

func (s seen) History(_ context.Context, repo oci.Repository, tag string) ([]trail.Tagged, error) {
	if repo != app || tag != "1.0" {
		return nil, s.err
	}
	var all []trail.Tagged
	for i, d := range []oci.Digest{older, oldest, older} {
		all = append(all, trail.Tagged{Tag: tag, Digest: d, At: noon.Add(-time.Duration(i) * time.Hour), By: node})
	}
	return all, s.err
}

// judged are verdicts by digest; of others there is none to be had.
type judged map[oci.Digest]gate.Decision

func (j judged) Judge(_ context.Context, c gate.Candidate) (gate.Verdict, error) {
	decision, ok := j[c.Digest]
	if !ok {
		return gate.Verdict{}, &gate.NoVerdict{Step: gate.StepInventory, Err: errors.New("secret detail")}
	}
	v := gate.Verdict{Decision: decision, Repository: c.Repository, Digest: c.Digest, Policy: "production", Until: noon.Add(time.Hour)}
	if decision == gate.Deny {
		v.Reasons = []gate.Reason{{Rule: gate.RuleMinAge, Message: "too young"}}
	}
	return v, nil
}

func getJSON[T any](t *testing.T, o console.Options, path string) (got T) {
	t.Helper()
	w := get(t, o, path)
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%s: got %d, %v: %s", path, w.Code, err, w.Body)
	}
	return got
}

func TestWhatWasSeenOfAnImage(t *testing.T) {
	const byTag = "images/registry.example:5000/acme/app:1.0"
	got := getJSON[console.Image](t, console.Options{Trail: seen{}}, "/api/v1/"+byTag)
	if diff := cmp.Diff(got.Pulls, pulled); diff != "" {
		t.Errorf("pulls (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(got.Recalled, &recall); diff != "" {
		t.Errorf("recalled (-got +want):\n%s", diff)
	}
	if len(got.Tagged) != 3 || got.Tagged[0].Digest != older {
		t.Errorf("the tag stood for %+v", got.Tagged)
	}
	if by := getJSON[console.Image](t, console.Options{Trail: seen{}}, "/api/v1/images/registry.example:5000/acme/app@"+digest.String()); by.Tagged != nil {
		t.Errorf("a digest stood for %+v", by.Tagged)
	}
	page := get(t, console.Options{Trail: seen{}}, "/"+byTag).Body.String()
	for _, want := range []string{"Withdrawn 2026-11-22", "10.0.0.7", "user:&lt;b&gt;", "too many to tell apart", oldest.String()} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not show %q:\n%s", want, page)
		}
	}
	if w := get(t, console.Options{Trail: seen{errors.New("/var/lib: denied")}}, "/api/v1/"+byTag); w.Code != 500 || strings.Contains(w.Body.String(), "/var") {
		t.Errorf("a trail that cannot be read: got %d %s", w.Code, w.Body)
	}
}

func TestTags(t *testing.T) {
	o := console.Options{Trail: seen{}}
	const path = "/api/v1/tags/registry.example:5000/acme/app"
	all := getJSON[console.TagList](t, o, path)
	if len(all.Tags) != 1000 || !all.More || all.Repository != app.String() {
		t.Errorf("got %d tags of %s, more: %t", len(all.Tags), all.Repository, all.More)
	}
	if rest := getJSON[console.TagList](t, o, path+"?last="+all.Tags[999].Tag); len(rest.Tags) != 1 || rest.More {
		t.Errorf("after the last: %d tags, more: %t", len(rest.Tags), rest.More)
	}
	if one := getJSON[console.TagList](t, o, path+"?tag=1.0"); len(one.Tags) != 3 || one.Tags[1].Digest != oldest {
		t.Errorf("of one tag: %+v", one.Tags)
	}
	if w := get(t, o, "/api/v1/tags/UPPER/case"); w.Code != http.StatusBadRequest {
		t.Errorf("a name that is none: got %d", w.Code)
	}
	if w := get(t, console.Options{}, path); w.Code != http.StatusNotFound {
		t.Errorf("without a trail: got %d", w.Code)
	}
}

func TestEligible(t *testing.T) {
	const allow, deny = gate.Allow, gate.Deny
	path := "/api/v1/eligible?ref=registry.example:5000/acme/app:1.0"
	for law, tt := range map[string]struct {
		judged judged
		want   oci.Digest
		newer  []string // decisions, newest first
	}{
		"what the tag stands for now":             {judged{digest: allow, older: allow, oldest: allow}, digest, nil},
		"the newest of those before":              {judged{digest: deny, older: allow, oldest: allow}, older, []string{"deny"}},
		"what comes after one without a verdict":  {judged{digest: deny, oldest: allow}, oldest, []string{"deny", "none"}},
		"none when none passes":                   {judged{digest: deny, older: deny, oldest: deny}, "", []string{"deny", "deny", "deny"}},
		"none when nothing can be judged, and so": {judged{}, "", []string{"none", "none", "none"}},
	} {
		t.Run(law, func(t *testing.T) {
			got := getJSON[console.Eligible](t, console.Options{Trail: seen{}, Judge: tt.judged}, path)
			var found oci.Digest
			if got.Eligible != nil {
				found = got.Eligible.Digest
			}
			if found != tt.want {
				t.Errorf("got %s, want %s", found, tt.want)
			}
			var newer []string
			for _, s := range got.Newer {
				newer = append(newer, s.Decision)
				if s.Why == "" || strings.Contains(s.Why, "secret") {
					t.Errorf("%s is left out because %q", s.Digest, s.Why)
				}
			}
			if diff := cmp.Diff(newer, tt.newer); diff != "" {
				t.Errorf("newer (-got +want):\n%s", diff)
			}
		})
	}
	for law, tt := range map[string]struct {
		ref  string
		want int
	}{
		"a digest":              {"registry.example:5000/acme/app@" + digest.String(), 400},
		"no reference":          {"UPPER/case", 400},
		"nothing":               {"", 400},
		"a tag nobody knows":    {"registry.example:5000/acme/app:9", 404},
		"an upstream's silence": {"registry.example:5000/acme/other:1.0", 404},
	} {
		if w := get(t, console.Options{Trail: seen{}, Judge: judged{}}, "/api/v1/eligible?ref="+tt.ref); w.Code != tt.want {
			t.Errorf("%s: got %d %s, want %d", law, w.Code, w.Body, tt.want)
		}
	}
}

func TestRecallsAreForReviewers(t *testing.T) {
	for _, tt := range []struct {
		law, user, password string
		want                int
		repositories        []oci.Repository
	}{
		{"whoever reviews sees what he reviews", "sam", "right", 200, []oci.Repository{app}},
		{"others see none", "kim", "right", 200, nil},
		{"whoever shows nothing is asked", "", "", 401, nil},
		{"whoever shows what is wrong is asked", "sam", "wrong", 401, nil},
	} {
		t.Run(tt.law, func(t *testing.T) {
			c := console.New(console.Options{
				History: known{}, Resolver: known{}, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), Access: &reviewers{}, Trail: seen{}, Judge: judged{},
			})
			ask := func(path string) *httptest.ResponseRecorder {
				r, w := httptest.NewRequest(http.MethodGet, path, nil), httptest.NewRecorder()
				if tt.user != "" {
					r.SetBasicAuth(tt.user, tt.password)
				}
				c.ServeHTTP(w, r)
				return w
			}
			w := ask("/api/v1/recalls")
			if w.Code != tt.want {
				t.Fatalf("got %d %s, want %d", w.Code, w.Body, tt.want)
			}
			var list console.RecallList
			if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
				t.Fatal(err)
			}
			var repositories []oci.Repository
			for _, r := range list.Recalls {
				repositories = append(repositories, r.Repository)
			}
			if diff := cmp.Diff(repositories, tt.repositories); diff != "" {
				t.Errorf("-got +want:\n%s", diff)
			}
			for _, path := range []string{"/api/v1/tags/registry.example:5000/acme/app", "/api/v1/eligible?ref=registry.example:5000/acme/app:1.0"} {
				if w := ask(path); (w.Code == 200) != (tt.repositories != nil) {
					t.Errorf("%s: got %d", path, w.Code)
				}
			}
		})
	}
	if all := getJSON[console.RecallList](t, console.Options{Trail: seen{}}, "/api/v1/recalls"); len(all.Recalls) != 2 || all.More != 0 {
		t.Errorf("without access: %+v", all)
	}
}
