package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// canaryBody is what a proxy answers that denies by a verdict, and grave its digest.
const canaryBody = `{"errors":[{"code":"DENIED","message":"canaries: packages","detail":[{"rule":"packages"}]}]}`

var grave = oci.FromBytes([]byte(canaryBody))

// gatekeeper is a proxy that denies the canary as it should, but for what slip answers. It keeps what it is asked.
type gatekeeper struct {
	*httptest.Server
	digest oci.Digest // of the canary
	slip   func(w http.ResponseWriter, r *http.Request) bool

	mu    sync.Mutex
	asked []string // guarded by mu
}

func newGatekeeper(t *testing.T, digest oci.Digest, slip func(http.ResponseWriter, *http.Request) bool) *gatekeeper {
	t.Helper()
	g := &gatekeeper{digest: digest, slip: slip}
	g.Server = httptest.NewServer(g)
	t.Cleanup(g.Close)
	return g
}

func (g *gatekeeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.asked = append(g.asked, r.Method+" "+r.URL.RequestURI())
	g.mu.Unlock()
	if g.slip(w, r) {
		return
	}
	switch {
	case strings.Contains(r.URL.Path, "/blobs/"):
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodHead && r.URL.Query().Has("ns") && !strings.Contains(r.URL.Path, "sha256:"):
		w.Header().Set("Docker-Content-Digest", grave.String())
	case r.Method == http.MethodHead:
		w.Header().Set("Docker-Content-Digest", g.digest.String())
	default:
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(canaryBody))
	}
}

// newCanary is the canary of a lab's upstream, before a proxy at server.
func (l *lab) newCanary(t *testing.T, server, reference string) *canary {
	t.Helper()
	ref, err := oci.ParseReference(reference, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := newNode(server, "")
	if err != nil {
		t.Fatal(err)
	}
	n.after = func(time.Duration) <-chan time.Time { c := make(chan time.Time); close(c); return c }
	origin, err := upstream.New([]upstream.Config{{Host: "registry.demo", URL: l.upstream.URL(), UnsafePrivateAddresses: true}}, upstream.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &canary{ref: ref, node: n, origin: origin, configured: true}
}

func TestCanary(t *testing.T) {
	l := newLab(t, lenient)
	child := l.push(t, "child", oci.Platform{OS: "linux", Architecture: "amd64"})
	index := l.pushIndex(t, "canary", child)
	isMirror := func(r *http.Request) bool { return r.URL.Query().Has("ns") }
	never := func(http.ResponseWriter, *http.Request) bool { return false }
	answers := func(status int, when func(*http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if when(r) {
				w.WriteHeader(status)
			}
			return when(r)
		}
	}
	get := func(part string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Method == http.MethodGet && strings.Contains(r.URL.Path, part) }
	}
	busy := 2 // answers that ask for patience
	for _, tt := range []struct {
		law      string
		slip     func(http.ResponseWriter, *http.Request) bool
		path, ns string // how the two ways are diagnosed
		code     int    // the worst of both
	}{
		{"is refused", never, "ok none of 10 requests was answered with content: canaries: packages", "ok none of 11 requests was answered with content: canaries: packages", 0},
		{"is served by tag", answers(200, get("/manifests/canary")), "failure SERVED, 1 of ", "failure SERVED, 1 of ", exitDenied},
		{"has a child that is served to mirrors", answers(200, func(r *http.Request) bool { return isMirror(r) && get(child.Digest.String())(r) }),
			"ok", "failure SERVED, 1 of ", exitDenied},
		{"has blobs that are served", answers(200, get("/blobs/")), "failure SERVED, 2 of 10", "failure SERVED, 2 of 11", exitDenied},
		{"has blobs that are served in part", answers(206, get("/blobs/")), "failure SERVED, 2 of 10", "failure SERVED, 2 of 11", exitDenied},
		{"is sent elsewhere for", answers(307, get("/blobs/")), "failure SERVED, 2 of 10 requests: GET of blobs/", "failure SERVED", exitDenied},
		{"is known by its digest to mirrors", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodHead || !isMirror(r) || !strings.HasSuffix(r.URL.Path, "/canary") {
				return false
			}
			w.Header().Set("Docker-Content-Digest", index.Digest.String())
			return true
		}, "ok", "failure HEAD of the tag tells its digest", 0},
		{"is refused to mirrors too early", answers(404, func(r *http.Request) bool { return r.Method == http.MethodHead && isMirror(r) }), "ok", "failure HEAD of the tag is refused with 404", 0},
		{"is nothing anybody knows", answers(404, func(*http.Request) bool { return true }), "failure nothing of it is served, but", "failure HEAD of the tag is refused with 404", 0},
		{"is for those alone who say who they are", answers(401, func(*http.Request) bool { return true }), "failure 10 of 10 requests were neither", "failure 10 of 10 requests were neither", 0},
		{"is at a proxy at fault", answers(500, get("/blobs/")), "failure 2 of 10 requests were neither served nor refused: GET of blobs/", "failure 2 of 11", 0},
		{"is refused without having been judged", func(w http.ResponseWriter, r *http.Request) bool {
			if !get("/manifests/")(r) {
				return false
			}
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"errors":[{"code":"DENIED","message":"not on the allowlist"}]}`))
			return true
		}, "warning none of 10 requests was answered with content, but not for a policy: not on the allowlist", "warning none of 11", 0},
		{"is being judged", func(w http.ResponseWriter, r *http.Request) bool {
			if busy == 0 || !get("/manifests/canary")(r) {
				return false
			}
			busy--
			w.Header().Set("Retry-After", "5")
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}, "ok", "ok", 0},
	} {
		t.Run(tt.law, func(t *testing.T) {
			g := newGatekeeper(t, index.Digest, tt.slip)
			found := l.newCanary(t, g.URL, "registry.demo/app:canary").check(t.Context())
			if len(found) != 3 || found[0].Found != "registry.demo has it: 2 manifests and 2 blobs to ask for" {
				t.Fatalf("got %+v", found)
			}
			worst := 0
			for i, want := range []string{tt.path, tt.ns} {
				if got := found[i+1].Status.String() + " " + found[i+1].Found; !strings.HasPrefix(got, want) {
					t.Errorf("%s: got %q, want %q", found[i+1].Check, got, want)
				}
				worst = max(worst, found[i+1].code)
			}
			if worst != tt.code {
				t.Errorf("it would exit with %d, want %d", worst, tt.code)
			}
		})
	}
}

// TestCanaryAsksAsNodesDo has the whole list of what is asked for, when the origin does not answer and when the proxy lets slip a manifest.
func TestCanaryAsksAsNodesDo(t *testing.T) {
	l := newLab(t, lenient)
	image := l.push(t, "canary", oci.Platform{})
	raw, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "layers": []any{},
		"config": map[string]any{"mediaType": oci.MediaTypeConfig, "digest": image.Digest, "size": 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.upstream.Close()
	g := newGatekeeper(t, image.Digest, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/canary") || r.URL.Query().Has("ns") {
			return false
		}
		w.Header().Set("Content-Type", oci.MediaTypeImage)
		_, _ = w.Write(raw)
		return true
	})
	c := l.newCanary(t, g.URL, "registry.demo/team/app:canary")
	c.configured = false
	found := c.check(t.Context())
	if found[0].Status != sound || found[1].code != exitDenied {
		t.Errorf("got %+v", found)
	}
	served := oci.FromBytes(raw)
	var want []string
	for _, at := range []struct{ base, query string }{{"/v2/registry.demo/team/app/", ""}, {"/v2/team/app/", "?ns=registry.demo"}} {
		want = append(want, "HEAD "+at.base+"manifests/canary"+at.query)
		if at.query != "" {
			want = append(want, fmt.Sprintf("GET %smanifests/%s%s", at.base, grave, at.query))
		}
		want = append(want, "GET "+at.base+"manifests/canary"+at.query)
		for _, d := range []oci.Digest{image.Digest, served} {
			want = append(want, fmt.Sprintf("HEAD %smanifests/%s%s", at.base, d, at.query), fmt.Sprintf("GET %smanifests/%s%s", at.base, d, at.query))
		}
		want = append(want, fmt.Sprintf("HEAD %sblobs/%s%s", at.base, image.Digest, at.query), fmt.Sprintf("GET %sblobs/%s%s", at.base, image.Digest, at.query))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Equal(g.asked, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(g.asked, "\n"), strings.Join(want, "\n"))
	}
}

func TestCanarysOriginShouldBeOutOfReach(t *testing.T) {
	l := newLab(t, lenient)
	l.push(t, "canary", oci.Platform{})
	g := newGatekeeper(t, grave, func(http.ResponseWriter, *http.Request) bool { return false })
	c := l.newCanary(t, g.URL, "registry.demo/app:canary")
	c.configured = false
	if found := c.check(t.Context()); found[0].Status != doubtful || !strings.Contains(found[0].Found, "answers from here") {
		t.Errorf("got %+v", found)
	}
}

func TestCanaryShowsItsPassword(t *testing.T) {
	g := newGatekeeper(t, oci.FromBytes(nil), func(w http.ResponseWriter, r *http.Request) bool {
		if name, password, _ := r.BasicAuth(); name == "node" && password == hushedPassword {
			return false
		}
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	for userinfo, want := range map[string]int{"node:" + hushedPassword: exitDone, "node:wrong": exitFailure} {
		server := strings.Replace(g.URL, "://", "://"+userinfo+"@", 1)
		got := command(t, "doctor", "--canary", "localhost:1/app:canary", "--server", server)
		if got.code != want || strings.Contains(got.stdout+got.stderr, hushedPassword) {
			t.Errorf("%s: %+v", userinfo, got)
		}
	}
}

// TestCanaryBeforeTheProxy has a real one deny it, and then let it through.
func TestCanaryBeforeTheProxy(t *testing.T) {
	const denying = "policies:\n  - {name: canaries, match: {repositories: [\"registry.demo/app\"]}, packages: {deny: [npm/left-pad]}}\n"
	for _, tt := range []struct {
		name, policy string
		code         int
		want         string
		index        int // code for an index of it
		ofIndex      string
	}{
		{"denied", denying, exitDone, "left-pad", exitFailure, "the index is served, and none of the images in it"},
		{"let through", lenient, exitDenied, "SERVED", exitDenied, "SERVED"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, tt.policy)
			image := l.push(t, "canary", oci.Platform{OS: "linux", Architecture: "amd64"})
			l.pushIndex(t, "index", image)
			s := l.serve(t)
			defer s.end(t)
			for reference, want := range map[string]struct {
				code int
				said string
			}{
				"app:canary":                   {tt.code, tt.want},
				"app@" + image.Digest.String(): {tt.code, tt.want},
				"app:index":                    {tt.index, tt.ofIndex},
			} {
				got := command(t, "doctor", "--config", l.config, "--canary", "registry.demo/"+reference, "--server", "http://"+s.registry)
				if got.code != want.code || !strings.Contains(got.stdout, want.said) {
					t.Errorf("%s: code %d:\n%s%s", reference, got.code, got.stdout, got.stderr)
				}
			}
		})
	}
}

func TestCanaryTrustsWhatItIsTold(t *testing.T) {
	l := newLab(t, lenient)
	g := &gatekeeper{digest: oci.FromBytes(nil), slip: func(http.ResponseWriter, *http.Request) bool { return false }}
	g.Server = httptest.NewUnstartedServer(g)
	g.Config.ErrorLog = log.New(io.Discard, "", 0) // a failed handshake is the point
	g.StartTLS()
	t.Cleanup(g.Close)
	ca := l.write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.Certificate().Raw})))
	for _, tt := range []struct {
		more []string
		want int
	}{{nil, exitFailure}, {[]string{"--ca-file", ca}, exitDone}} {
		got := command(t, append([]string{"doctor", "--canary", "localhost:1/app:canary", "--server", g.URL}, tt.more...)...)
		if got.code != tt.want {
			t.Errorf("%q: code %d:\n%s%s", tt.more, got.code, got.stdout, got.stderr)
		}
	}
}
