package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func decode(t *testing.T, raw []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatalf("decoding %.200q: %v", raw, err)
	}
}

func TestEndpoints(t *testing.T) {
	digest := oci.FromBytes(nil).String()
	const readOnly = "docker.io/library/app belongs to an upstream and can only be read here; push to docker.io itself"
	for _, tt := range []struct {
		law, method, target string
		wantStatus          int
		wantBody            string
	}{
		{"the API is here", "GET", "/v2/", 200, "{}"},
		{"the API is here, without the slash", "GET", "/v2", 200, "{}"},
		{"the API is here, HEAD", "HEAD", "/v2/", 200, ""},
		{"nothing else is", "GET", "/", 404, errorBody("NAME_UNKNOWN", "the distribution API has no such endpoint")},
		{"no catalog", "GET", "/v2/_catalog", 404, errorBody("NAME_UNKNOWN", "there is no catalog here: ask the upstream, or see the console")},
		{"no push of a manifest", "PUT", "/v2/docker.io/library/app/manifests/v1", 405, errorBody("UNSUPPORTED", readOnly)},
		{"no push to the default upstream", "PUT", "/v2/library/app/manifests/v1", 405, errorBody("UNSUPPORTED", readOnly)},
		{"no push by ns", "PUT", "/v2/library/app/manifests/v1?ns=docker.io", 405, errorBody("UNSUPPORTED", readOnly)},
		{"no upload", "POST", "/v2/docker.io/library/app/blobs/uploads/", 405, errorBody("UNSUPPORTED", readOnly)},
		{"no part of an upload", "PATCH", "/v2/docker.io/library/app/blobs/uploads/s", 405, errorBody("UNSUPPORTED", readOnly)},
		{"no asking after an upload", "GET", "/v2/docker.io/library/app/blobs/uploads/s", 405, errorBody("UNSUPPORTED", readOnly)},
		{"no delete of a manifest", "DELETE", "/v2/docker.io/library/app/manifests/v1", 405, errorBody("UNSUPPORTED", readOnly)},
		{"no delete of a blob", "DELETE", "/v2/docker.io/library/app/blobs/" + digest, 405, errorBody("UNSUPPORTED", readOnly)},
		{"an upstream nobody configured", "GET", "/v2/evil.example/app/manifests/v1", 403,
			errorBody("DENIED", "evil.example/app is not on the allowlist: its upstream is not configured")},
		{"its tags", "GET", "/v2/evil.example/app/tags/list", 403,
			errorBody("DENIED", "evil.example/app is not on the allowlist: its upstream is not configured")},
		{"its blobs", "GET", "/v2/evil.example/app/blobs/" + digest, 403,
			errorBody("DENIED", "evil.example/app is not on the allowlist: its upstream is not configured")},
		{"its referrers", "GET", "/v2/evil.example/app/referrers/" + digest, 403,
			errorBody("DENIED", "evil.example/app is not on the allowlist: its upstream is not configured")},
		{"a host that is none", "GET", "/v2/a.b_1_2/app/manifests/v1", 400, errorBody("NAME_INVALID", "the repository name is malformed")},
		{"sha512", "GET", "/v2/docker.io/library/app/manifests/sha512:" + strings.Repeat("a", 128), 400,
			errorBody("DIGEST_INVALID", `the digest algorithm "sha512" is not supported, only sha256`)},
		{"a method of another endpoint", "POST", "/v2/docker.io/library/app/tags/list", 405, errorBody("UNSUPPORTED", "the method is not one of GET, HEAD")},
		{"tags", "GET", "/v2/docker.io/library/app/tags/list", 200, `{"name":"docker.io/library/app","tags":["v1","v2","v3"]}`},
		{"no tags asked for, none given", "GET", "/v2/docker.io/library/app/tags/list?n=0", 200, `{"name":"docker.io/library/app","tags":[]}`},
		{"tags after the last", "GET", "/v2/docker.io/library/app/tags/list?last=v3", 200, `{"name":"docker.io/library/app","tags":[]}`},
		{"tags that cannot be listed", "GET", "/v2/docker.io/library/broken/tags/list", 503, errorBody("UNAVAILABLE", "could not list the tags")},
		{"a repository that cannot be looked up", "GET", "/v2/docker.io/library/locked/tags/list", 503,
			errorBody("UNAVAILABLE", "looking up whether the repository is allowed")},
		{"referrers that cannot be listed", "GET", "/v2/docker.io/library/broken/referrers/" + digest, 503, errorBody("UNAVAILABLE", "could not list the referrers")},
		{"referrers of an upstream that knows none", "GET", "/v2/docker.io/library/bare/referrers/" + digest, 200,
			`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`},
	} {
		t.Run(tt.law, func(t *testing.T) {
			f := newFixture(t)
			f.shelf.failures["tags docker.io/library/broken"] = errInternal
			f.shelf.failures["allowed docker.io/library/locked"] = errInternal
			f.shelf.failures["referrers docker.io/library/broken"] = errInternal
			f.shelf.failures["referrers docker.io/library/bare"] = oci.ErrNotFound
			w := f.do(tt.method, tt.target)
			if w.Code != tt.wantStatus {
				t.Errorf("status: got %d, want %d", w.Code, tt.wantStatus)
			}
			if diff := cmp.Diff(tt.wantBody, w.Body.String()); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			h := checkedHeaders(t, w)
			if got, want := h["Allow"] != "", w.Code == 405; got != want {
				t.Errorf("Allow: got %q with status %d", h["Allow"], w.Code)
			}
			if len(f.judged)+len(f.started)+len(f.opened) > 0 {
				t.Errorf("it judged %v, started %v, opened %v", f.judged, f.started, f.opened)
			}
		})
	}
}

func TestTagsPages(t *testing.T) {
	f := newFixture(t)
	var got []string
	target := "/v2/library/app/tags/list?n=2&ns=docker.io"
	for target != "" {
		w := f.do("GET", target)
		var page struct{ Tags []string }
		decode(t, w.Body.Bytes(), &page)
		got = append(got, strings.Join(page.Tags, " "))
		link := w.Header().Get("Link")
		target, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
		if link != "" && link != "<"+target+`>; rel="next"` {
			t.Fatalf("Link: got %q", link)
		}
	}
	if diff := cmp.Diff([]string{"v1 v2", "v3"}, got); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
	t.Run("no page is larger than the largest", func(t *testing.T) {
		f := newFixture(t)
		f.listed = nil
		for i := range maxPage + 1 {
			f.listed = append(f.listed, fmt.Sprint("v", i))
		}
		for _, query := range []string{"", "?n=5000"} {
			w := f.do("GET", "/v2/library/app/tags/list"+query)
			var page struct{ Tags []string }
			decode(t, w.Body.Bytes(), &page)
			if len(page.Tags) != maxPage || w.Header().Get("Link") == "" {
				t.Errorf("%q: %d tags, Link %q", query, len(page.Tags), w.Header().Get("Link"))
			}
		}
	})
}

func TestReferrers(t *testing.T) {
	f := newFixture(t)
	f.referrers = []oci.Descriptor{
		{MediaType: oci.MediaTypeImage, ArtifactType: "application/spdx+json", Digest: oci.FromBytes([]byte("a")), Size: 1, Data: []byte("a"), URLs: []string{"https://elsewhere.test/"}},
		{MediaType: oci.MediaTypeImage, ArtifactType: "application/other", Digest: oci.FromBytes([]byte("b")), Size: 2},
	}
	const all, spdx = `"application/spdx+json" "application/other"`, `"application/spdx+json"`
	for _, tt := range []struct{ query, want, wantFilter string }{
		{"", all, ""},
		{"?artifactType=application/spdx%2Bjson", spdx, "artifactType"},
		{"?artifactType=nothing", "", "artifactType"},
	} {
		w := f.do("GET", "/v2/docker.io/library/app/referrers/"+oci.FromBytes(nil).String()+tt.query)
		var index struct {
			SchemaVersion int
			MediaType     string
			Manifests     []oci.Descriptor
		}
		decode(t, w.Body.Bytes(), &index)
		var types []string
		for _, d := range index.Manifests {
			types = append(types, fmt.Sprintf("%q", d.ArtifactType))
			if d.Data != nil || d.URLs != nil {
				t.Errorf("%q: %s comes with content, or with a place to get some, that nobody judged", tt.query, d.Digest)
			}
		}
		if got := strings.Join(types, " "); got != tt.want || index.SchemaVersion != 2 || index.MediaType != oci.MediaTypeIndex {
			t.Errorf("%q: got %s in %+v, want %s", tt.query, got, index, tt.want)
		}
		if got := w.Header().Get("OCI-Filters-Applied"); got != tt.wantFilter || w.Header().Get("Content-Type") != oci.MediaTypeIndex {
			t.Errorf("%q: got filter %q and type %q", tt.query, got, w.Header().Get("Content-Type"))
		}
	}
	if len(f.referrers) != 2 || f.referrers[1].ArtifactType != "application/other" {
		t.Error("the filter changed the list it was given")
	}
}

// TestRawRequests sends what no client library would to a server on a socket.
func TestRawRequests(t *testing.T) {
	f := newFixture(t)
	f.allow(f.image(app, "clean", "clean"))
	server := httptest.NewServer(f.proxy)
	defer server.Close()
	for _, tt := range []struct {
		law, request string
		want         int
	}{
		{"a plain request", "GET /v2/docker.io/library/app/manifests/clean HTTP/1.1\r\nHost: x\r\n\r\n", 200},
		{"a path that climbs", "GET /v2/docker.io/library/x/../app/manifests/clean HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"a path that climbs, escaped", "GET /v2/docker.io/library/x/%2e%2e/app/manifests/clean HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"an escaped slash", "GET /v2/docker.io/library%2Fapp/manifests/clean HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"two slashes", "GET /v2//docker.io/library/app/manifests/clean HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"two slashes in front", "GET //v2/docker.io/library/app/manifests/clean HTTP/1.1\r\nHost: x\r\n\r\n", 404},
		{"an absolute target", "GET http://other/v2/docker.io/library/app/manifests/clean HTTP/1.1\r\nHost: x\r\n\r\n", 200},
		{"an opaque target", "GET x:v2/docker.io/library/app/manifests/clean HTTP/1.1\r\nHost: x\r\n\r\n", 404},
		{"the server as a whole", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 200}, // net/http answers this one itself
		{"a method by header", "POST /v2/docker.io/library/app/manifests/clean HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: GET\r\nContent-Length: 0\r\n\r\n", 405},
		{"a path by header", "GET /v2/docker.io/library/app/manifests/nothing HTTP/1.1\r\nHost: x\r\nX-Original-URL: /v2/docker.io/library/app/manifests/clean\r\n\r\n", 404},
		{"two lengths", "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
		{"a connection to somewhere else", "CONNECT docker.io:443 HTTP/1.1\r\nHost: docker.io\r\n\r\n", 404},
	} {
		t.Run(tt.law, func(t *testing.T) {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := io.WriteString(conn, tt.request); err != nil {
				t.Fatal(err)
			}
			got, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got.StatusCode != tt.want {
				t.Errorf("got %d, want %d", got.StatusCode, tt.want)
			}
		})
	}
}

func TestRequestIDIsOurs(t *testing.T) {
	f := newFixture(t)
	ids := map[string]bool{}
	for range 3 {
		w := f.do("GET", "/v2/docker.io/library/app/manifests/none", "X-Request-Id", "forged")
		ids[w.Header().Get("X-Request-Id")] = true
		if !strings.Contains(f.log.String(), w.Header().Get("X-Request-Id")) {
			t.Error("the log does not name the request")
		}
	}
	if len(ids) != 3 || ids["forged"] || strings.Contains(f.log.String(), "forged") {
		t.Errorf("ids %v; log %s", ids, f.log)
	}
	if got := RequestID(t.Context()); got != "" {
		t.Errorf("a context of no request has the id %q", got)
	}
}

func TestLogSaysWhatTheClientIsNotTold(t *testing.T) {
	f, _ := everyCase(t)
	f.proxy.o.Judge = idChecker{f.judge, t}
	for _, tt := range []struct{ target, wantLevel, wantErr string }{
		{"/v2/docker.io/library/app/manifests/upstream-fails", "WARN", "secret detail"},
		{"/v2/docker.io/library/app/manifests/denied", "DEBUG", "production: unsigned"},
		{"/v2/docker.io/library/app/manifests/clean", "DEBUG", ""},
		{"/v2/docker.io/library/../manifests/x", "DEBUG", "malformed"},
	} {
		f.log.Reset()
		w := f.do("GET", tt.target)
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: the client is told %s", tt.target, w.Body)
		}
		var line struct {
			Level, Msg, Kind, Repo, Err, Client string
			Status                              int
			Bytes                               int64
		}
		decode(t, f.log.Bytes(), &line) // exactly one line
		if line.Level != tt.wantLevel || line.Msg != "answered" || line.Status != w.Code || line.Bytes != int64(w.Body.Len()) ||
			line.Client != "192.0.2.1" || !strings.Contains(line.Err, tt.wantErr) || (line.Err == "") != (tt.wantErr == "") {
			t.Errorf("%s: logged %s", tt.target, f.log)
		}
	}
}

// idChecker fails the test when it is not asked on behalf of a request.
type idChecker struct {
	*judge
	t *testing.T
}

func (j idChecker) Judge(ctx context.Context, c gate.Candidate) (gate.Verdict, error) {
	if RequestID(ctx) == "" {
		j.t.Error("the context does not say which request it belongs to")
	}
	return j.judge.Judge(ctx, c)
}

func TestPanicIsAnsweredOnce(t *testing.T) {
	f := newFixture(t)
	f.proxy.o.Resolver = nil // the next request of a repository panics
	w := f.do("GET", "/v2/docker.io/library/app/tags/list")
	if want := errorBody("UNKNOWN", "internal error"); w.Code != 500 || w.Body.String() != want {
		t.Errorf("got %d %s, want 500 %s", w.Code, w.Body, want)
	}
	if !strings.Contains(f.log.String(), `"stack":"goroutine`) || !strings.Contains(f.log.String(), `"level":"ERROR"`) {
		t.Errorf("logged %s", f.log)
	}
}

func TestMetrics(t *testing.T) {
	f, _ := everyCase(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(f.proxy.Metrics()...)
	body := f.do("GET", "/v2/docker.io/library/app/manifests/clean").Body.Len()
	f.do("HEAD", "/v2/docker.io/library/app/manifests/clean")
	f.do("GET", "/v2/docker.io/library/app/manifests/clean", "If-None-Match", "*")
	f.do("GET", "/v2/docker.io/library/app/manifests/denied")
	f.do("GET", "/v2/docker.io/library/app/manifests/odd")
	f.do("HEAD", "/v2/library/app/manifests/denied?ns=docker.io")
	f.do("GET", "/nonsense")
	got := gather(t, registry)
	for name, want := range map[string]float64{
		"tidewaiter_requests_total class=2xx kind=manifest": 3, "tidewaiter_requests_total class=3xx kind=manifest": 1,
		"tidewaiter_requests_total class=4xx kind=manifest": 1, "tidewaiter_requests_total class=5xx kind=manifest": 1,
		"tidewaiter_requests_total class=4xx kind=unknown": 1, "tidewaiter_tombstones_total": 1,
		"tidewaiter_request_duration_seconds kind=manifest": 6,
	} {
		if got[name] != want {
			t.Errorf("%s: got %v, want %v", name, got[name], want)
		}
	}
	if got := got["tidewaiter_served_bytes_total kind=manifest"]; got < float64(body) {
		t.Errorf("%v bytes served, want at least the manifest's %d", got, body)
	}
}

func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}

func TestNewRefusesToBeIncomplete(t *testing.T) {
	f := newFixture(t)
	for name, forget := range map[string]func(*Options){
		"Callers": func(o *Options) { o.Callers = nil }, "Rights": func(o *Options) { o.Rights = nil },
		"Judge": func(o *Options) { o.Judge = nil }, "Released": func(o *Options) { o.Released = nil },
		"Resolver": func(o *Options) { o.Resolver = nil }, "Referrers": func(o *Options) { o.Referrers = nil },
		"History": func(o *Options) { o.History = nil }, "Log": func(o *Options) { o.Log = nil },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if got, want := recover(), "proxy: option "+name+" is missing"; got != want {
					t.Errorf("got %v, want %v", got, want)
				}
			}()
			o := f.proxy.o
			forget(&o)
			New(o)
		})
	}
}
