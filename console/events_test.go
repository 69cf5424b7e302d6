package console_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/notify"
	"github.com/tidewaiter/tidewaiter/oci"
)

// roles lets root operate everything and sam review app.
type roles struct {
	reviewers
	revoked atomic.Bool
	doing   []string
}

func (r *roles) Identify(req *http.Request) (access.Caller, error) {
	if r.revoked.Load() {
		return access.Caller{}, &oci.Error{Code: oci.CodeUnauthorized, Message: "the credentials are not valid"}
	}
	return r.reviewers.Identify(req)
}

func (r *roles) Operates(c access.Caller) bool { return c.Name == "user:root" }
func (r *roles) Reviews(c access.Caller) bool  { return c.Name == "user:root" || c.Name == "user:sam" }

func (r *roles) Operate(ctx context.Context, c access.Caller, doing string) error {
	if r.Operates(c) {
		r.doing = append(r.doing, doing)
		return nil
	}
	return r.Allow(ctx, c, access.Admin, oci.Repository{})
}

func newHub(t *testing.T) *notify.Hub {
	t.Helper()
	h, err := notify.New(notify.Options{Source: "urn:test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func newConsole(o console.Options) *console.Console {
	o.History, o.Resolver, o.Metrics, o.Log = known{}, known{}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	return console.New(o)
}

// listen opens a stream at a server in front of c and returns its lines, and what ends it.
func listen(t *testing.T, c http.Handler, user, path string, header ...string) (lines *bufio.Scanner, status int) {
	t.Helper()
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel) // before the server's
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, "right")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() }) // cut off
	if resp.StatusCode == http.StatusOK && resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("its type is %s", resp.Header.Get("Content-Type"))
	}
	return bufio.NewScanner(resp.Body), resp.StatusCode
}

// upTo returns the values of field in a stream, up to the one that is last.
func upTo(t *testing.T, lines *bufio.Scanner, field, last string) (all []string) {
	t.Helper()
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), field+": "); ok {
			if all = append(all, value); value == last {
				return all
			}
		}
	}
	t.Fatalf("the stream ends after %q: %v", all, lines.Err())
	return nil
}

func TestEventsAreStreamedToWhoMaySeeThem(t *testing.T) {
	other := oci.Repository{Upstream: "docker.io", Path: "library/nginx"}
	publish := func(h *notify.Hub) {
		ctx := context.Background()
		h.Publish(ctx, notify.Verdict(denied))
		h.Publish(ctx, notify.Event{Type: notify.TagMoved, Repository: other})
		h.Publish(ctx, notify.Event{Type: notify.PolicyChanged})
		h.Publish(ctx, notify.Event{Type: notify.Recall, Repository: app})
	}
	for _, tt := range []struct {
		law, user, query string
		access           bool
		want             []string
	}{
		{"an operator sees all", "root", "", true, []string{"verdict.denied", "tag.moved", "policy.changed", "recall"}},
		{"a reviewer sees what is about what he reviews", "sam", "", true, []string{"verdict.denied", "recall"}},
		{"where nobody is asked, everybody sees all", "", "", false, []string{"verdict.denied", "tag.moved", "policy.changed", "recall"}},
		{"and what was asked for", "", "?types=recall,tag.moved", false, []string{"tag.moved", "recall"}},
	} {
		t.Run(tt.law, func(t *testing.T) {
			h, o := newHub(t), console.Options{}
			if tt.access {
				r := &roles{}
				o.Access, o.Operators = r, r
			}
			o.Events = h
			lines, status := listen(t, newConsole(o), tt.user, "/api/v1/events"+tt.query)
			if status != 200 {
				t.Fatalf("got %d", status)
			}
			publish(h)
			if diff := cmp.Diff(upTo(t, lines, "event", "recall"), tt.want); diff != "" {
				t.Errorf("got other events (-got +want):\n%s", diff)
			}
		})
	}
	t.Run("others get nothing", func(t *testing.T) {
		for user, want := range map[string]int{"kim": 403, "": 401} {
			r := &roles{}
			if _, status := listen(t, newConsole(console.Options{Access: r, Operators: r, Events: newHub(t)}), user, "/api/v1/events"); status != want || r.recorded != 1 {
				t.Errorf("%q: got %d, %d on record, want %d", user, status, r.recorded, want)
			}
		}
	})
	t.Run("events there are not", func(t *testing.T) {
		if _, status := listen(t, newConsole(console.Options{Events: newHub(t)}), "", "/api/v1/events?types=none"); status != 400 {
			t.Errorf("got %d", status)
		}
	})
}

func TestAStreamGoesOnWhereItWasCutOff(t *testing.T) {
	h := newHub(t)
	c := newConsole(console.Options{Events: h})
	lines, _ := listen(t, c, "", "/api/v1/events")
	h.Publish(t.Context(), notify.Event{Type: notify.Recall, Subject: "first"})
	upTo(t, lines, "event", "recall")
	id := ""
	for range 2 { // the id comes before the event
		again, _ := listen(t, c, "", "/api/v1/events", "Last-Event-ID", "OTHER-1")
		if got := upTo(t, again, "event", "recall"); !cmp.Equal(got, []string{"missed", "recall"}) {
			t.Errorf("who was elsewhere gets %q", got)
		}
	}
	ids, _ := listen(t, c, "", "/api/v1/events", "Last-Event-ID", "OTHER-1")
	for ids.Scan() {
		if found, ok := strings.CutPrefix(ids.Text(), "id: "); ok {
			id = found
			break
		}
	}
	h.Publish(t.Context(), notify.Event{Type: notify.TagMoved, Subject: "second"})
	again, _ := listen(t, c, "", "/api/v1/events", "Last-Event-ID", id)
	if got := upTo(t, again, "event", "tag.moved"); !cmp.Equal(got, []string{"tag.moved"}) {
		t.Errorf("who comes back gets %q", got)
	}
}

// answering is a writer that keeps what it is sent.
type answering struct {
	*httptest.ResponseRecorder
	written atomic.Int64
}

func (a *answering) Write(b []byte) (int, error) {
	a.written.Add(int64(len(b)))
	return a.ResponseRecorder.Write(b)
}

func TestAStreamSaysThatItIsThereAndEnds(t *testing.T) {
	for law, end := range map[string]func(r *roles, stop func()){
		"when who reads may not any more": func(r *roles, _ func()) { r.revoked.Store(true) },
		"when the process is to end":      func(_ *roles, stop func()) { stop() },
	} {
		t.Run(law, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &roles{}
				until, stop := context.WithCancel(t.Context())
				defer stop()
				c := newConsole(console.Options{Access: r, Operators: r, Events: newHub(t), Until: until})
				req := httptest.NewRequest(http.MethodGet, "/api/v1/events", nil)
				req.SetBasicAuth("sam", "right")
				w, ended := &answering{ResponseRecorder: httptest.NewRecorder()}, make(chan struct{})
				go func() {
					defer close(ended)
					c.ServeHTTP(w, req)
				}()
				synctest.Wait()
				hello := w.written.Load()
				<-time.After(time.Minute)
				synctest.Wait()
				if got := w.written.Load() - hello; hello == 0 || got < 3*int64(len(": \n\n")) {
					t.Errorf("it said %d bytes, and then %d in a minute", hello, got)
				}
				end(r, stop)
				select {
				case <-ended:
				case <-time.After(time.Minute):
					t.Error("it does not end")
				}
			})
		})
	}
}

// drawer has two dead letters.
type drawer struct {
	letters []notify.Stored
	err     error
}

func newDrawer() *drawer {
	letter := func(name string) notify.Stored {
		return notify.Stored{Name: name, Delivery: notify.Delivery{Webhook: "ops", EventID: "E-" + name, Type: notify.Recall, Body: json.RawMessage(`{"id":"E"}`), Problem: "down", Dead: true}}
	}
	return &drawer{letters: []notify.Stored{letter("1"), letter("2")}}
}

func (d *drawer) DeadLetters(context.Context) ([]notify.Stored, error) { return d.letters, d.err }

func (d *drawer) take(name string) error {
	for i, l := range d.letters {
		if l.Name == name {
			d.letters = append(d.letters[:i:i], d.letters[i+1:]...)
			return d.err
		}
	}
	return notify.ErrNoLetter
}

func (d *drawer) Redeliver(_ context.Context, name string) error { return d.take(name) }
func (d *drawer) Drop(_ context.Context, name string) error      { return d.take(name) }

func TestDeadLetters(t *testing.T) {
	ask := func(c http.Handler, user, method, body, contentType string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/api/v1/webhooks/dead-letters", strings.NewReader(body))
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		if user != "" {
			r.SetBasicAuth(user, "right")
		}
		w := httptest.NewRecorder()
		c.ServeHTTP(w, r)
		return w
	}
	const asJSON = "application/json; charset=utf-8"
	for _, tt := range []struct {
		law, user, method, body, contentType string
		want                                 int
		answer                               string // part of it
		left                                 int
	}{
		{"an operator sees them", "root", "GET", "", "", 200, `"name":"2","webhook":"ops","type":"recall"`, 2},
		{"and has one delivered", "root", "POST", `{"action":"retry","names":["1","3"]}`, asJSON, 200, `{"done":["1"],"missing":["3"]}`, 1},
		{"or dropped", "root", "POST", `{"action":"drop","names":["1","2"]}`, asJSON, 200, `{"done":["1","2"],"missing":[]}`, 0},
		{"a reviewer does not see them", "sam", "GET", "", "", 403, "", 2},
		{"nor touch them", "sam", "POST", `{"action":"drop","names":["1"]}`, asJSON, 403, "", 2},
		{"whoever shows nothing is asked", "", "POST", `{"action":"drop","names":["1"]}`, asJSON, 401, "", 2},
		{"a form of another site", "root", "POST", `{"action":"drop","names":["1"]}`, "text/plain", 400, "", 2},
		{"nothing to do", "root", "POST", `{"action":"drop","names":[]}`, asJSON, 400, "", 2},
		{"something else to do", "root", "POST", `{"action":"burn","names":["1"]}`, asJSON, 400, "", 2},
		{"more than can be meant", "root", "POST", `{"action":"drop","names":["` + strings.Repeat("x", 1<<20) + `"]}`, asJSON, 400, "", 2},
		{"what is no JSON", "root", "POST", `{`, asJSON, 400, "", 2},
	} {
		t.Run(tt.law, func(t *testing.T) {
			r, d := &roles{}, newDrawer()
			w := ask(newConsole(console.Options{Access: r, Operators: r, Letters: d}), tt.user, tt.method, tt.body, tt.contentType)
			if w.Code != tt.want || !strings.Contains(w.Body.String(), tt.answer) || len(d.letters) != tt.left || !json.Valid(w.Body.Bytes()) {
				t.Errorf("got %d: %s, and %d letters are left; want %d: %s, %d", w.Code, w.Body, len(d.letters), tt.want, tt.answer, tt.left)
			}
			if changed := tt.left != 2; changed != (len(r.doing) == 1) {
				t.Errorf("on record: %q", r.doing)
			}
		})
	}
	t.Run("where nobody is asked, nothing is decided from elsewhere, nor by a page whose name leads here", func(t *testing.T) {
		for _, tt := range []struct {
			host    string
			anybody bool
			want    int
		}{{"localhost:5001", true, 200}, {"127.0.0.1:5001", true, 200}, {"rebound.example:5001", true, 403}, {"127.0.0.1:5001", false, 403}} {
			d := newDrawer()
			c := newConsole(console.Options{Letters: d, Review: &console.Review{AnybodyDecides: tt.anybody}})
			r := httptest.NewRequest("POST", "http://"+tt.host+"/api/v1/webhooks/dead-letters", strings.NewReader(`{"action":"drop","names":["1"]}`))
			r.Header.Set("Content-Type", asJSON)
			w := httptest.NewRecorder()
			c.ServeHTTP(w, r)
			if w.Code != tt.want || (len(d.letters) == 1) != (tt.want == 200) {
				t.Errorf("%s, anybody decides: %t: got %d: %s, and %d letters are left", tt.host, tt.anybody, w.Code, w.Body, len(d.letters))
			}
		}
	})
	t.Run("where nobody is asked", func(t *testing.T) {
		d := newDrawer()
		c := newConsole(console.Options{Letters: d})
		if w := ask(c, "", "POST", `{"action":"drop","names":["1"]}`, asJSON); w.Code != 200 || len(d.letters) != 1 {
			t.Errorf("got %d: %s", w.Code, w.Body)
		}
		d.err = errors.New("secret of the storage")
		if w := ask(c, "", "GET", "", ""); w.Code != 500 || bytes.Contains(w.Body.Bytes(), []byte("secret")) {
			t.Errorf("a storage that fails: got %d: %s", w.Code, w.Body)
		}
	})
}
