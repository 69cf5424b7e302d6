package main

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	wire "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tidewaiter/tidewaiter/oci"
)

// A pull is one trace: its requests, and below the one that found no verdict all that was done to come to one.
func TestAPullIsTraced(t *testing.T) {
	var mu sync.Mutex
	var spans []*wire.Span // guarded by mu
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			var err error
			if body, err = gzip.NewReader(r.Body); err != nil {
				t.Error(err)
				return
			}
		}
		raw, err := io.ReadAll(body)
		var sent collector.ExportTraceServiceRequest
		if err := errors.Join(err, proto.Unmarshal(raw, &sent)); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, resource := range sent.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				spans = append(spans, scope.Spans...)
			}
		}
	}))
	defer sink.Close()
	l := newLab(t, lenient)
	if config, err := os.OpenFile(l.config, os.O_APPEND|os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	} else if _, err := fmt.Fprintf(config, "\ntracing: {endpoint: %q}\n", sink.URL); errors.Join(err, config.Close()) != nil {
		t.Fatal(err)
	}
	desc := l.push(t, "1.0", oci.Platform{})
	s := l.serve(t)
	if got := ask(t.Context(), "http://"+s.registry+"/v2/registry.demo/app/manifests/1.0"); got.status != http.StatusOK {
		t.Fatalf("got %+v", got)
	}
	s.stop() // which sends what is left
	if err := await(t, "the end", s.ended); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	byID := map[string]*wire.Span{}
	for _, span := range spans {
		byID[string(span.SpanId)] = span
	}
	var got []string
	for _, span := range spans {
		path := span.Name
		for above := byID[string(span.ParentSpanId)]; above != nil; above = byID[string(above.ParentSpanId)] {
			path = above.Name + " > " + path
		}
		if !slices.Contains(got, path) {
			got = append(got, path)
		}
		for _, a := range span.Attributes {
			if a.Key == "tidewaiter.digest" && a.Value.GetStringValue() != desc.Digest.String() {
				t.Errorf("%s is about %s", path, a.Value)
			}
		}
	}
	slices.Sort(got)
	const judging = "request manifest > verdict > judging"
	want := []string{
		"request manifest", "request manifest > resolving", "request manifest > resolving > upstream manifest", "request manifest > verdict", judging,
		judging + " > reading the config", judging + " > upstream blob", judging + " > holding", judging + " > recording", judging + " > verifying signatures", judging + " > upstream manifest",
	}
	slices.Sort(want)
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("spans (-got +want):\n%s\n%s", diff, strings.Join(got, "\n"))
	}
}
