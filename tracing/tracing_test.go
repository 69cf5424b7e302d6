package tracing

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	wire "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// sink is a collector in process.
type sink struct {
	url string
	mu  sync.Mutex
	// spans are what came, guarded by mu; header is that of the last request.
	spans  []*wire.Span
	header http.Header
}

func newSink(t *testing.T) *sink {
	t.Helper()
	s := &sink{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			unpacked, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = unpacked
		}
		raw, err := io.ReadAll(body)
		var sent collector.ExportTraceServiceRequest
		if err := errors.Join(err, proto.Unmarshal(raw, &sent)); err != nil || r.URL.Path != "/otlp/v1/traces" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.header = r.Header
		for _, resource := range sent.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				s.spans = append(s.spans, scope.Spans...)
			}
		}
	}))
	t.Cleanup(server.Close)
	s.url = server.URL + "/otlp/"
	return s
}

// byName returns the spans that came, by their names.
func (s *sink) byName() map[string][]*wire.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string][]*wire.Span{}
	for _, span := range s.spans {
		all[span.Name] = append(all[span.Name], span)
	}
	return all
}

func open(t *testing.T, o Options) *Tracer {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	tracer, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return tracer
}

func finish(t *testing.T, tracer *Tracer) {
	t.Helper()
	if err := tracer.Close(); err != nil {
		t.Fatal(err)
	}
}

func attrsOf(s *wire.Span) map[string]string {
	all := map[string]string{}
	for _, a := range s.Attributes {
		all[a.Key] = cmp.Or(a.Value.GetStringValue(), a.Value.String())
	}
	return all
}

func TestSpansLieBelowOneAnother(t *testing.T) {
	s := newSink(t)
	tracer := open(t, Options{Endpoint: s.url, SampleRatio: 1, Version: "1.2.3"})
	ctx, endRequest := tracer.Start(t.Context(), "request", Attr{"repo", "library/nginx\xff"}, Attr{"tag", ""})
	detached, endJudging := tracer.Start(tracer.Follow(context.Background(), ctx), "judging")
	_, endStep := tracer.Start(detached, "holding")
	endStep(errors.New("disk: " + strings.Repeat("x", 2*maxAttributeBytes)))
	other, endOther := tracer.Start(t.Context(), "another request")
	tracer.Link(other, detached)
	tracer.Link(other, other)
	tracer.Link(other, context.Background())
	endOther(nil)
	endRequest(nil)
	endJudging(nil)
	finish(t, tracer)
	spans := s.byName()
	request, judging, step, another := spans["request"][0], spans["judging"][0], spans["holding"][0], spans["another request"][0]
	if !bytes.Equal(judging.ParentSpanId, request.SpanId) || !bytes.Equal(step.ParentSpanId, judging.SpanId) || !bytes.Equal(step.TraceId, request.TraceId) {
		t.Error("they do not lie below one another")
	}
	if len(another.Links) != 1 || !bytes.Equal(another.Links[0].SpanId, judging.SpanId) || bytes.Equal(another.TraceId, request.TraceId) {
		t.Errorf("who waits for the judging has the links %v", another.Links)
	}
	if got := step.Status; got.Code != wire.Status_STATUS_CODE_ERROR || !strings.HasPrefix(got.Message, "disk: ") || len(got.Message) > maxAttributeBytes {
		t.Errorf("the step that failed says %v", got)
	}
	if diff := gocmp.Diff(attrsOf(request), map[string]string{"repo": "library/nginx�"}); diff != "" {
		t.Error(diff)
	}
}

const (
	clientTrace  = "0af7651916cd43dd8448eb211c80319c"
	clientParent = "00-" + clientTrace + "-b7ad6b7169203331-01"
)

func TestWhatClientsSayOfTheirTraces(t *testing.T) {
	serve := func(tracer *Tracer, header, method string) {
		h := tracer.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }),
			func(*http.Request) (string, []Attr) { return "manifest", []Attr{{"repo", "library/nginx"}} })
		r := httptest.NewRequest(method, "/v2/", nil)
		r.Header.Set("traceparent", header)
		r.Header.Set("Authorization", "Basic c2VjcmV0")
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	for law, tt := range map[string]struct {
		ratio        float64
		follow       bool
		parent       string
		spans, links int
		ours         bool
	}{
		"they are linked to":                             {1, false, clientParent, 1, 1, true},
		"and followed where that is configured":          {1, true, clientParent, 1, 0, false},
		"they do not decide that something is traced":    {0, false, clientParent, 0, 0, true},
		"but where that is configured":                   {0, true, clientParent, 1, 0, false},
		"nonsense is nothing":                            {1, false, "00-nonsense", 1, 0, true},
		"nor does their decision against it go for ours": {1, false, strings.TrimSuffix(clientParent, "1") + "0", 1, 1, true},
	} {
		t.Run(law, func(t *testing.T) {
			s := newSink(t)
			tracer := open(t, Options{Endpoint: s.url, SampleRatio: tt.ratio, FollowClients: tt.follow})
			serve(tracer, tt.parent, "GET")
			finish(t, tracer)
			spans := s.byName()["manifest"]
			if len(spans) != tt.spans {
				t.Fatalf("there are %d spans", len(spans))
			}
			for _, span := range spans {
				if ours := hex.EncodeToString(span.TraceId) != clientTrace; len(span.Links) != tt.links || ours != tt.ours {
					t.Errorf("it has %d links, and is in a trace of ours: %t", len(span.Links), ours)
				}
			}
		})
	}
	t.Run("what a request says beyond its path is not passed on", func(t *testing.T) {
		s := newSink(t)
		tracer := open(t, Options{Endpoint: s.url, SampleRatio: 1})
		serve(tracer, "", "CONJURE")
		finish(t, tracer)
		span := s.byName()["manifest"][0]
		want := map[string]string{"repo": "library/nginx", "http.request.method": "_OTHER", "http.response.status_code": "int_value:503"}
		if diff := gocmp.Diff(attrsOf(span), want); diff != "" || span.Status.Code != wire.Status_STATUS_CODE_ERROR {
			t.Errorf("%v: %s", span.Status, diff)
		}
	})
}

func TestNothingIsTracedUnlessSomebodyAsks(t *testing.T) {
	for law, tracer := range map[string]*Tracer{"the zero Tracer": {}, "without an endpoint": open(t, Options{SampleRatio: 1})} {
		next := http.NotFoundHandler()
		if tracer.On() {
			t.Errorf("%s: it is on", law)
		}
		ctx, end := tracer.Start(t.Context(), "x")
		end(nil)
		tracer.Link(ctx, ctx)
		if ctx != t.Context() || tracer.Follow(ctx, t.Context()) != ctx {
			t.Errorf("%s: contexts change", law)
		}
		w := httptest.NewRecorder()
		tracer.Handler(next, nil).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: got %d", law, w.Code)
		}
		finish(t, tracer)
	}
}

func TestAFileGoesOnAsOne(t *testing.T) {
	s := newSink(t)
	tracer := open(t, Options{Endpoint: s.url, SampleRatio: 1})
	name := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(name, []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &filed{ResponseRecorder: httptest.NewRecorder()}
	tracer.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, name) }),
		func(*http.Request) (string, []Attr) { return "blob", nil }).ServeHTTP(w, httptest.NewRequest("GET", "/blob", nil))
	finish(t, tracer)
	if !w.asFile || w.Body.String() != "bytes" {
		t.Errorf("the connection got a file: %t, %q", w.asFile, w.Body)
	}
}

// filed is a connection that takes files.
type filed struct {
	*httptest.ResponseRecorder
	asFile bool
}

func (f *filed) ReadFrom(r io.Reader) (int64, error) {
	limited, _ := r.(*io.LimitedReader)
	if limited != nil {
		_, f.asFile = limited.R.(*os.File)
	}
	return io.Copy(f.ResponseRecorder, r)
}

func TestOptionsThatCannotBe(t *testing.T) {
	for law, o := range map[string]Options{
		"more than all":          {SampleRatio: 1.1},
		"less than none":         {SampleRatio: -1},
		"no URL":                 {Endpoint: "collector:4318"},
		"another scheme":         {Endpoint: "grpc://collector:4317"},
		"a password in the URL":  {Endpoint: "https://u:hunter2@collector"},
		"nothing but the scheme": {Endpoint: "https://"},
	} {
		if err := Check(o); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", law, err)
		}
		if _, err := Open(t.Context(), o); err == nil {
			t.Errorf("%s: it is open", law)
		}
	}
	if err := Check(Options{Endpoint: "http://127.0.0.1:4318", SampleRatio: .5}); err != nil {
		t.Error(err)
	}
}
