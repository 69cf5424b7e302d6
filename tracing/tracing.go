// Package tracing owns spans: what took how long on the way of a pull, sent to a collector by OTLP over HTTP.
//
// It promises that tracing is off unless a collector is named, that no pull waits for one or fails for want of it, and that what a client
// says of its own traces is noted and not followed, unless an operator trusts it. Attributes are the names of what is pulled, and never a
// credential, a header or a body. It must not know what is traced.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Bounds of what is kept and sent.
const (
	maxQueuedSpans    = 8192 // some megabytes; what is beyond while a collector is away is dropped
	maxAttributeBytes = 512  // names of repositories have 255, digests 71
	maxLinks          = 64   // of one judging to the requests that wait for it
	exportTimeout     = 10 * time.Second
	closeTimeout      = 5 * time.Second
)

// Options are what a Tracer is made from. Log is needed.
type Options struct {
	// Endpoint is the collector's URL, below which traces are posted to v1/traces; empty: nothing is traced.
	Endpoint string
	// SampleRatio is the part of requests that are traced, from 0 to 1.
	SampleRatio float64
	// FollowClients makes requests part of the traces that clients say they belong to, and of their decision whether to trace. Without it
	// those traces are linked to.
	FollowClients bool
	// Version and Instance say who traces.
	Version, Instance string
	Log               *slog.Logger
}

// Check returns what is wrong with o.
func Check(o Options) error {
	if o.SampleRatio < 0 || o.SampleRatio > 1 {
		return fmt.Errorf("sample_ratio: %v is not from 0 to 1", o.SampleRatio)
	}
	if o.Endpoint == "" {
		return nil
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return fmt.Errorf("endpoint is not an http or https URL without a user in it")
	}
	return nil
}

// Tracer begins spans. The zero Tracer traces nothing. It is safe for concurrent use.
type Tracer struct {
	tracer   trace.Tracer // nil when nothing is traced
	provider *sdktrace.TracerProvider
	follow   bool
}

// Open returns a Tracer. It connects to nothing yet. Headers and certificates for the collector are taken from the environment, where
// OpenTelemetry has them: OTEL_EXPORTER_OTLP_HEADERS and the like.
func Open(ctx context.Context, o Options) (*Tracer, error) {
	if err := Check(o); err != nil || o.Endpoint == "" {
		return &Tracer{}, err
	}
	exporter, err := otlptracehttp.New(ctx,
		otlptracehttp.WithEndpointURL(strings.TrimSuffix(o.Endpoint, "/")+"/v1/traces"), otlptracehttp.WithTimeout(exportTimeout))
	if err != nil {
		return nil, fmt.Errorf("opening the way to the collector: %w", err)
	}
	// The library tells of failures in the background by a handler of its own, which would write to standard error past the log.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { o.Log.Warn("traces are not sent", "err", err) }))
	limits := sdktrace.NewSpanLimits()
	limits.AttributeValueLengthLimit, limits.LinkCountLimit = maxAttributeBytes, maxLinks
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter, sdktrace.WithMaxQueueSize(maxQueuedSpans), sdktrace.WithExportTimeout(exportTimeout)),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(o.SampleRatio))), sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "tidewaiter"), attribute.String("service.version", o.Version),
			attribute.String("service.instance.id", o.Instance))),
	)
	return &Tracer{tracer: provider.Tracer("github.com/tidewaiter/tidewaiter"), provider: provider, follow: o.FollowClients}, nil
}

// On reports whether anything is traced.
func (t *Tracer) On() bool { return t.tracer != nil }

// Close sends what was not sent yet, for a while.
func (t *Tracer) Close() error {
	if !t.On() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("sending the last traces: %w", err)
	}
	return nil
}

// Attr is a fact about what is traced.
type Attr struct{ Key, Value string }

// Start begins a span called name below that of ctx, and returns it in a context. end ends it, with the error it ended with or nil; the
// error's text goes along.
func (t *Tracer) Start(ctx context.Context, name string, attrs ...Attr) (_ context.Context, end func(error)) {
	if !t.On() {
		return ctx, func(error) {}
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithAttributes(attributes(attrs)...))
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, shortened(err.Error()))
		}
		span.End()
	}
}

// Follow returns ctx with the span of from, so that what is begun in it is seen below that, whenever ctx ends.
func (t *Tracer) Follow(ctx, from context.Context) context.Context {
	if !t.On() {
		return ctx
	}
	return trace.ContextWithSpan(ctx, trace.SpanFromContext(from))
}

// Link notes at the span of ctx that it waits for that of other. Of what is itself or its parent it notes nothing new.
func (t *Tracer) Link(ctx, other context.Context) {
	if !t.On() {
		return
	}
	span, to := trace.SpanFromContext(ctx), trace.SpanContextFromContext(other)
	if to.IsValid() && !to.Equal(span.SpanContext()) {
		span.AddLink(trace.Link{SpanContext: to})
	}
}

func attributes(attrs []Attr) []attribute.KeyValue {
	var all []attribute.KeyValue
	for _, a := range attrs {
		if a.Value != "" {
			all = append(all, attribute.String(a.Key, strings.ToValidUTF8(a.Value, "�")))
		}
	}
	return all
}

func shortened(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxAttributeBytes)], "�")
}

// traceContext reads what a client says of its trace (W3C Trace Context).
var traceContext = propagation.TraceContext{}
