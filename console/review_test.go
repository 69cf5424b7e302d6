package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/review"
)

// counter is a desk that writes down what it is asked to do.
type counter struct {
	did  []string
	fail error // of everything it is asked to do
	page review.Page
}

func (c *counter) did1(by review.Person, what string) ([]review.Standing, error) {
	c.did = append(c.did, by.Name+" "+what)
	return []review.Standing{standing("wone")}, c.fail
}

func standing(id string) review.Standing {
	return review.Standing{State: review.Live, Source: "granted", Waiver: review.Waiver{
		ID: id, Vulnerability: "CVE-1", Repositories: []string{app.String()}, Until: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), Reason: "<script>", By: "user:kim",
	}}
}

func (c *counter) List() []review.Standing {
	other := standing("wother")
	other.Repositories = []string{"docker.io/**"}
	return []review.Standing{standing("wone"), other}
}

func (c *counter) Named(id string) (found []review.Standing) {
	for _, s := range c.List() {
		if s.ID == id {
			found = append(found, s)
		}
	}
	return found
}

func (c *counter) Grant(_ context.Context, by review.Person, asked ...review.Request) ([]review.Standing, error) {
	return c.did1(by, "grants "+asked[0].Vulnerability+" for "+asked[0].For.String())
}

func (c *counter) Approve(_ context.Context, by review.Person, id, reason string) ([]review.Standing, error) {
	return c.did1(by, "approves "+id+": "+reason)
}

func (c *counter) Revoke(_ context.Context, by review.Person, id, reason string) ([]review.Standing, error) {
	return c.did1(by, "revokes "+id+": "+reason)
}

// queue is the counter's other half, whose List is that of the quarantine.
type queue struct{ *counter }

func (q queue) List(_ context.Context, f review.Filter) (review.Page, error) {
	if q.fail != nil {
		return review.Page{}, q.fail
	}
	page := review.Page{Images: []review.Item{}, Next: q.page.Next}
	for _, i := range q.page.Images {
		if f.May(oci.Repository{Upstream: "registry.example:5000", Path: strings.TrimPrefix(i.Repository, "registry.example:5000/")}) {
			page.Images = append(page.Images, i)
		}
	}
	return page, nil
}

func (q queue) Show(_ context.Context, c gate.Candidate) (review.Detail, error) {
	item := review.Item{Repository: c.Repository.String(), Digest: c.Digest, Rules: []gate.Rule{}, Findings: map[string]int{}, Signatures: []string{}}
	return review.Detail{Item: item, Verdict: denied, Waivers: q.counter.List()}, q.fail
}

func (q queue) Release(_ context.Context, by review.Person, c gate.Candidate, r review.ReleaseRequest) (review.Released, error) {
	waivers, err := q.did1(by, "releases "+c.Repository.Path+" for "+r.For.String()+": "+r.Reason)
	return review.Released{Waivers: waivers}, err
}

func (q queue) Drop(_ context.Context, by review.Person, c gate.Candidate, reason string) error {
	_, err := q.did1(by, "drops "+c.Repository.Path+": "+reason)
	return err
}

func (q queue) Read(_ context.Context, by review.Person, c gate.Candidate, blob oci.Digest) error {
	_, err := q.did1(by, "reads "+c.Repository.Path+" "+string(blob))
	return err
}

// shelf holds one manifest and one blob that turns out short.
type shelf struct{}

var (
	rawManifest = []byte(`{"schemaVersion":2}`)
	short       = oci.FromBytes([]byte("short"))
)

func (shelf) Manifest(context.Context, gate.Candidate) (oci.Content, error) {
	return oci.Content{Raw: rawManifest}, nil
}

func (shelf) Blob(_ context.Context, _ gate.Candidate, d oci.Digest) (io.ReadCloser, int64, error) {
	switch d {
	case digest:
		return io.NopCloser(strings.NewReader("app")), 3, nil
	case short:
		return io.NopCloser(strings.NewReader("sh")), 5, nil
	}
	return nil, 0, oci.ErrBlobUnknown
}

func (v *reviewers) MayThroughout(caller access.Caller, action access.Action, scope oci.Pattern) bool {
	return caller.Name == "user:sam" && action == access.Review && scope.String() == app.String()
}

func (v *reviewers) AllowThroughout(ctx context.Context, caller access.Caller, action access.Action, scopes []oci.Pattern) error {
	if len(scopes) > 0 && !slices.ContainsFunc(scopes, func(s oci.Pattern) bool { return !v.MayThroughout(caller, action, s) }) {
		return nil
	}
	return v.Allow(ctx, caller, action, oci.Repository{})
}

func (v *reviewers) AllowSomewhere(ctx context.Context, caller access.Caller, action access.Action) error {
	if caller.Name == "user:sam" {
		return nil
	}
	return v.Allow(ctx, caller, action, oci.Repository{})
}

// allows has sam decide about app.
type allows struct{ *reviewers }

func (a allows) Allow(ctx context.Context, caller access.Caller, action access.Action, repo oci.Repository) error {
	if a.May(caller, action, repo) {
		return nil
	}
	return a.reviewers.Allow(ctx, caller, action, repo)
}

func reviewConsole(c *counter, v console.Access, scopes console.Scopes, anybody bool) *console.Console {
	c.page = review.Page{Next: "1.x", Images: []review.Item{
		{Repository: app.String(), Digest: digest, Why: "unsigned: <script>", Rules: []gate.Rule{gate.RuleSignatures}},
		{Repository: "registry.example:5000/acme/other", Digest: digest, Why: "unsigned"},
	}}
	return console.New(console.Options{
		Access: v, History: known{}, Resolver: known{}, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), DefaultUpstream: "docker.io",
		Advisories: func(context.Context) (any, error) { return nil, nil },
		Review: &console.Review{
			Waivers: c, WaiverDesk: c, Quarantine: queue{c}, QuarantineDesk: queue{c}, Forensics: shelf{}, Scopes: scopes, AnybodyDecides: anybody,
		},
	})
}

// send sends a request as somebody; "" for nobody.
func send(c *console.Console, user, method, path, body string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:5001"+path, strings.NewReader(body))
	if user != "" {
		r.SetBasicAuth(user, "right")
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	return w
}

func TestDecisionsAreForReviewersAlone(t *testing.T) {
	image := "/api/v1/quarantine/" + app.String() + "@" + digest.String()
	other := "/api/v1/quarantine/registry.example:5000/acme/other@" + digest.String()
	const grant = `{"vulnerability":"CVE-1","repositories":["registry.example:5000/acme/app"],"for":"1h","reason":"x"}`
	for _, tt := range []struct {
		method, path, body string
		want               int
		did                string // what sam does thereby; nothing for a look
	}{
		{"GET", "/api/v1/quarantine", "", 200, ""},
		{"GET", "/quarantine", "", 200, ""},
		{"GET", "/api/v1/waivers", "", 200, ""},
		{"GET", "/waivers", "", 200, ""},
		{"GET", image, "", 200, ""},
		{"GET", "/quarantine/" + app.String() + "@" + digest.String(), "", 200, ""},
		{"GET", image + "/manifest", "", 200, "user:sam reads acme/app "},
		{"GET", image + "/blobs/" + digest.String(), "", 200, "user:sam reads acme/app " + digest.String()},
		{"POST", image + "/release", `{"reason":"r","for":"2h"}`, 200, "user:sam releases acme/app for 2h0m0s: r"},
		{"POST", image + "/drop", `{"reason":"r"}`, 200, "user:sam drops acme/app: r"},
		{"POST", "/api/v1/waivers", grant, 201, "user:sam grants CVE-1 for 1h0m0s"},
		{"GET", "/api/v1/waivers/wone", "", 200, ""},
		{"POST", "/api/v1/waivers/wone/approve", `{"reason":""}`, 200, "user:sam approves wone: "},
		{"DELETE", "/api/v1/waivers/wone", `{"reason":"r"}`, 200, "user:sam revokes wone: r"},

		{"GET", image + "/blobs/" + short.String()[:20], "", 400, ""},
		{"GET", image + "/blobs/" + oci.FromBytes([]byte("none")).String(), "", 404, ""},
		{"GET", image + "/config", "", 404, ""},
		{"POST", image + "/admit", `{}`, 404, ""},
		{"POST", image + "/release", `{"reason":"r","for":"long"}`, 400, ""},
		{"POST", image + "/release", `{"reason":"r","for":"1h","sure":true}`, 400, ""},
		{"POST", image + "/release", `{"reason":"r"} {}`, 400, ""},
		{"POST", image + "/release", `{"reason":"` + strings.Repeat("x", 70_000) + `"}`, 413, ""},
		{"POST", other + "/release", `{"reason":"r","for":"2h"}`, 403, ""},
		{"GET", other + "/manifest", "", 403, ""},
		{"GET", "/api/v1/waivers/wother", "", 404, ""},
		{"DELETE", "/api/v1/waivers/wother", `{"reason":"r"}`, 404, ""},
		{"POST", "/api/v1/waivers", strings.Replace(grant, "acme/app", "**", 1), 403, ""},
		{"POST", "/api/v1/waivers", strings.Replace(grant, `"repositories":["registry.example:5000/acme/app"],`, "", 1), 403, ""},
		{"GET", "/api/v1/quarantine?n=x", "", 400, ""},
		{"GET", "/api/v1/quarantine?severity=terrible", "", 400, ""},
		{"GET", "/api/v1/quarantine?rule=none", "", 400, ""},
		{"GET", "/api/v1/quarantine?repository=[", "", 400, ""},
		{"GET", "/api/v1/waivers?state=dead", "", 400, ""},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			c, v := &counter{}, &reviewers{}
			w := send(reviewConsole(c, allows{v}, v, true), "sam", tt.method, tt.path, tt.body)
			if w.Code != tt.want || strings.Join(c.did, "; ") != tt.did {
				t.Errorf("sam: got %d %.200s, did %q, want %d and %q", w.Code, w.Body, c.did, tt.want, tt.did)
			}
			if strings.Contains(w.Body.String(), "<script>") && !strings.HasPrefix(tt.path, "/api/") {
				t.Errorf("what others wrote is not text: %s", w.Body)
			}
			for user, want := range map[string]int{"kim": 403, "": 401} {
				c, v := &counter{}, &reviewers{}
				w := send(reviewConsole(c, allows{v}, v, true), user, tt.method, tt.path, tt.body)
				if tt.want < 300 && w.Code != want || w.Code < 300 || len(c.did) > 0 || strings.Contains(w.Body.String(), "unsigned") {
					t.Errorf("%q: got %d %s, did %q", user, w.Code, w.Body, c.did)
				}
			}
		})
	}
	t.Run("everybody sees his own", func(t *testing.T) {
		c, v := &counter{}, &reviewers{}
		for _, path := range []string{"/api/v1/quarantine", "/quarantine", "/api/v1/waivers", "/waivers"} {
			body := send(reviewConsole(c, allows{v}, v, false), "sam", "GET", path, "").Body.String()
			if !strings.Contains(body, "acme/app") || strings.Contains(body, "acme/other") || strings.Contains(body, "docker.io/") {
				t.Errorf("%s: %s", path, body)
			}
		}
	})
}

func TestWhatIsReadIsOpenedByNothing(t *testing.T) {
	c, v := &counter{}, &reviewers{}
	path := "/api/v1/quarantine/" + app.String() + "@" + digest.String() + "/blobs/"
	w := send(reviewConsole(c, allows{v}, v, false), "sam", "GET", path+digest.String(), "")
	h := w.Header()
	got := []string{h.Get("Content-Type"), h.Get("X-Content-Type-Options"), h.Get("Content-Length"), w.Body.String()}
	if diff := cmp.Diff(got, []string{"application/octet-stream", "nosniff", "3", "app"}); diff != "" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment;") {
		t.Errorf("%v (-got +want):\n%s", h, diff)
	}
	t.Run("what ends early is broken off", func(t *testing.T) {
		defer func() {
			if fault, _ := recover().(error); !errors.Is(fault, http.ErrAbortHandler) {
				t.Errorf("got %v", fault)
			}
		}()
		send(reviewConsole(c, allows{v}, v, false), "sam", "GET", path+short.String(), "")
	})
	t.Run("what cannot be put on record is not sent", func(t *testing.T) {
		c := &counter{fail: errors.New("the disk is full")}
		if w := send(reviewConsole(c, allows{v}, v, false), "sam", "GET", path+digest.String(), ""); w.Code != 500 || strings.Contains(w.Body.String(), "disk") || strings.Contains(w.Body.String(), "app") {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	})
}

func TestNoOtherSitesPageDecides(t *testing.T) {
	path := "/api/v1/quarantine/" + app.String() + "@" + digest.String() + "/release"
	for law, tt := range map[string]struct {
		change  func(*http.Request)
		anybody bool
		want    int
	}{
		"the machine itself":              {func(*http.Request) {}, true, 200},
		"by its other name":               {func(r *http.Request) { r.Host = "localhost:5001" }, true, 200},
		"and its other address":           {func(r *http.Request) { r.Host = "[::1]:5001" }, true, 200},
		"a name somebody led here":        {func(r *http.Request) { r.Host = "evil.example:5001" }, true, 403},
		"a name that looks like ours":     {func(r *http.Request) { r.Host = "localhost.evil.example" }, true, 403},
		"an address of the network":       {func(r *http.Request) { r.Host = "192.0.2.1:5001" }, true, 403},
		"no name":                         {func(r *http.Request) { r.Host = "" }, true, 403},
		"through somebody in between":     {func(r *http.Request) { r.Header.Set("Forwarded", "for=192.0.2.1") }, true, 403},
		"where others reach it":           {func(*http.Request) {}, false, 403},
		"a form":                          {func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, true, 415},
		"text, which needs no leave":      {func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, true, 415},
		"text that says it is JSON later": {func(r *http.Request) { r.Header.Set("Content-Type", "text/plain; application/json") }, true, 415},
		"with a charset":                  {func(r *http.Request) { r.Header.Set("Content-Type", "application/json; charset=utf-8") }, true, 200},
	} {
		c := &counter{}
		if w := send(reviewConsole(c, nil, nil, tt.anybody), "", "POST", path, `{"reason":"r","for":"1h"}`, tt.change); w.Code != tt.want || (len(c.did) == 1) != (tt.want == 200) {
			t.Errorf("%s: got %d %s, did %q, want %d", law, w.Code, w.Body, c.did, tt.want)
		}
	}
}

func TestRefusalsAreStatuses(t *testing.T) {
	path := "/api/v1/quarantine/" + app.String() + "@" + digest.String() + "/release"
	for why, want := range map[error]int{
		&review.Refusal{Why: review.Invalid, Message: "m"}:                                               400,
		&review.Refusal{Why: review.Unknown, Message: "m"}:                                               404,
		&review.Refusal{Why: review.Conflict, Message: "m"}:                                              409,
		&review.Refusal{Why: review.Forbidden, Message: "m"}:                                             403,
		&review.Refusal{Why: review.Full, Message: "m"}:                                                  507,
		&gate.NoVerdict{Step: gate.StepHold, Err: oci.ErrNotFound}:                                       404,
		&gate.NoVerdict{Step: gate.StepHold, Err: errors.New("secret detail")}:                           503,
		errors.New("secret detail"):                                                                      500,
		&oci.Error{Code: oci.CodeDenied, Message: "the tag is immutable"}:                                403,
		&oci.Error{Code: oci.CodeUnavailable, Message: "the audit log cannot be written, so nothing..."}: 503,
	} {
		w := send(reviewConsole(&counter{fail: why}, nil, nil, true), "", "POST", path, `{"reason":"r","for":"1h"}`)
		var got struct{ Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != want || got.Error == "" || strings.Contains(got.Error, "secret") {
			t.Errorf("%v: got %d %s, want %d", why, w.Code, w.Body, want)
		}
	}
}
