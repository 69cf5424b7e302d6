package e2e_test

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// hookSecret is what the tests' webhook shares with its receiver.
const hookSecret = "0123456789abcdef0123456789abcdef"

// receiver is the other end of a webhook. It checks signatures by itself, from what the specification says.
type receiver struct {
	url string
	// arrived has a value for each event that was taken.
	arrived chan notice

	mu   sync.Mutex
	down bool            // guarded by mu
	seen map[string]bool // guarded by mu; ids of events that were taken
}

// notice is an event as a webhook or a stream tells it.
type notice struct {
	SpecVersion, ID, Source, Type, Subject string
	Time                                   time.Time
	Data                                   json.RawMessage
}

// kind is the type without whose it is.
func (e notice) kind() string { return strings.TrimPrefix(e.Type, "com.github.tidewaiter.") }

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{arrived: make(chan notice, 100), seen: map[string]bool{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Errorf("reading an event: %v", err)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h := req.Header
		mac := hmac.New(sha256.New, []byte(hookSecret))
		mac.Write([]byte(h.Get("webhook-id") + "." + h.Get("webhook-timestamp") + "." + string(body)))
		want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
		seconds, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64)
		if age := time.Since(time.Unix(seconds, 0)); err != nil || age > 5*time.Minute || age < -5*time.Minute || h.Get("webhook-signature") != want {
			t.Errorf("signature %q at %q, want %q: %v", h.Get("webhook-signature"), h.Get("webhook-timestamp"), want, err)
		}
		var e notice
		if err := json.Unmarshal(body, &e); err != nil || e.SpecVersion != "1.0" || e.ID == "" || e.ID != h.Get("webhook-id") || e.Source == "" {
			t.Errorf("%v in %s", err, body)
		}
		if r.seen[e.ID] {
			return // at least once
		}
		r.seen[e.ID] = true
		r.arrived <- e
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *receiver) setDown(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

// next returns the next event.
func (r *receiver) next(t *testing.T) notice {
	t.Helper()
	return arrival(t, r.arrived)
}

// arrival returns what comes next from c.
func arrival[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case e, ok := <-c:
		if !ok {
			t.Fatal("no event arrives any more")
		}
		return e
	case <-time.After(patience):
		t.Fatal("no event arrives")
		panic("not reached")
	}
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// tell has the site tell r of verdicts.
func (s *site) tell(t *testing.T, r *receiver) {
	t.Helper()
	writeFile(t, s.path("webhook.secret"), []byte("whsec_"+base64.StdEncoding.EncodeToString([]byte(hookSecret))+"\n"))
	s.config["webhooks"] = []any{keys{
		"name": "ops", "url": r.url + "/events", "secret_file": s.path("webhook.secret"), "unsafe_private_addresses": true,
		"types": []string{"verdict.allowed", "verdict.denied", "policy.changed", "policy.rejected"},
	}}
}

// follow reads the stream of events and returns their ids and types.
func (s *server) follow(t *testing.T) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+"/api/v1/events?types=verdict.allowed,verdict.denied", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v", resp, err)
	}
	events := make(chan string, 100)
	go func() {
		defer close(events)
		defer func() { _ = resp.Body.Close() }() // read to its end
		id := ""
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if v, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				id = v
			}
			if v, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				events <- id + " " + v
			}
		}
	}()
	return events
}

// judged asks p for a manifest and returns the status.
func judged(t *testing.T, p *server, repo string, d oci.Descriptor) int {
	t.Helper()
	return p.get(t, "/v2/"+host+"/"+repo+"/manifests/"+d.Digest.String()).status
}

func TestVerdictsAreTold(t *testing.T) {
	s, r := newSite(t, ocitest.Options{}), newReceiver(t)
	s.tell(t, r)
	s.config["audit"] = keys{"path": s.path("audit.jsonl")}
	denied, allowed := s.push(t, "shop/unsigned", shop(goodLodash)), s.pushSigned(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	stream := p.follow(t)
	if got := judged(t, p, "shop/unsigned", denied); got != 403 {
		t.Fatalf("the unsigned image: got %d", got)
	}
	if got := judged(t, p, "shop/web", allowed); got != 200 {
		t.Fatalf("the signed image: got %d", got)
	}
	var got, streamed []string
	verdicts := map[string]string{}
	for len(verdicts) < 2 {
		e := r.next(t)
		got = append(got, e.ID+" "+e.kind())
		verdicts[e.Subject] = e.kind()
		var data struct{ Decision, Digest, Summary string }
		if err := json.Unmarshal(e.Data, &data); err != nil || !strings.HasSuffix(e.Subject, data.Digest) || (e.kind() == "verdict.denied") != (data.Decision == "deny") {
			t.Errorf("%v in %s of %s", err, e.Data, e.Subject)
		}
	}
	name := func(repo string, d oci.Descriptor) string { return host + "/" + repo + "@" + d.Digest.String() }
	want := map[string]string{name("shop/unsigned", denied): "verdict.denied", name("shop/web", allowed): "verdict.allowed"}
	if diff := cmp.Diff(verdicts, want); diff != "" {
		t.Errorf("the webhook is told otherwise (-got +want):\n%s", diff)
	}
	for range got {
		streamed = append(streamed, arrival(t, stream))
	}
	slices.Sort(got)
	slices.Sort(streamed)
	if diff := cmp.Diff(streamed, got); diff != "" {
		t.Errorf("the stream tells otherwise than the webhook (-stream +webhook):\n%s", diff)
	}

	t.Run("and remembered ones are not", func(t *testing.T) {
		for range 3 {
			judged(t, p, "shop/web", allowed)
		}
		writeFile(t, s.path("policy.yaml"), []byte("nonsense"))
		for e := r.next(t); e.kind() != "policy.rejected"; e = r.next(t) {
			if e.Subject == name("shop/web", allowed) {
				t.Errorf("%s was told again", e.kind())
			}
		}
	})
	t.Run("a changed policy is", func(t *testing.T) {
		replaceFile(t, s.path("policy.yaml"), []byte(strings.ReplaceAll(strictPolicy, "production", "stricter")))
		e := r.next(t)
		for ; e.kind() == "policy.rejected"; e = r.next(t) { // as often as it was looked at
		}
		var data struct{ Before, After struct{ Policies string } }
		if err := json.Unmarshal(e.Data, &data); err != nil || e.kind() != "policy.changed" || data.Before == data.After {
			t.Errorf("got %s, %v: %s", e.kind(), err, e.Data)
		}
	})
	t.Run("and all of it is on record", func(t *testing.T) {
		p.stop(t)
		s.verified(t)
		events := map[string]bool{}
		for row := range strings.Lines(string(mustRead(t, s.path("audit.jsonl")))) {
			var l struct{ Event, Repository, Inputs string }
			if err := json.Unmarshal([]byte(row), &l); err != nil {
				t.Fatal(err)
			}
			events[strings.TrimSpace(l.Event+" "+l.Repository)] = l.Inputs != ""
		}
		for _, want := range []string{
			"process.started", "verdict.denied " + host + "/shop/unsigned", "verdict.allowed " + host + "/shop/web", "policy.rejected", "policy.changed",
		} {
			if !events[want] {
				t.Errorf("%s is not on record, with what it was made from: %v", want, events)
			}
		}
	})
}

func TestAReceiverThatIsDownIsToldLater(t *testing.T) {
	s, r := newSite(t, ocitest.Options{}), newReceiver(t)
	s.tell(t, r)
	first, second := s.push(t, "shop/first", shop(goodLodash)), s.push(t, "shop/second", shop(goodLodash))
	p := serve(t, s.write(t))
	failed := func(l line) bool { return strings.Contains(l.Msg, "a webhook does not take events") }
	judge := func(repo string, d oci.Descriptor) func() {
		return func() { judged(t, p, repo, d) }
	}
	r.setDown(true)
	p.log.awaitMore(t, "the attempt that failed", failed, judge("shop/first", first))
	r.setDown(false)
	if e := r.next(t); !strings.HasSuffix(e.Subject, first.Digest.String()) {
		t.Errorf("it is told of %s", e.Subject)
	}
	p.log.await(t, "the attempt that did not", says("a webhook answers again"))

	// What was not taken is kept before the log has it.
	r.setDown(true)
	p.log.awaitMore(t, "the attempt that failed", failed, judge("shop/second", second))
	p.kill()
	r.setDown(false)
	p = serve(t, s.path("tidewaiter.yaml"))
	if e := r.next(t); !strings.HasSuffix(e.Subject, second.Digest.String()) {
		t.Errorf("after a restart it is told of %s", e.Subject)
	}
	p.stop(t)
}
