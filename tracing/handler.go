package tracing

import (
	"io"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Handler returns a handler that does what next does in a span of its own. about returns the span's name and what is known of a request;
// names must be of a small set.
func (t *Tracer) Handler(next http.Handler, about func(*http.Request) (name string, attrs []Attr)) http.Handler {
	if !t.On() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, attrs := about(r)
		ctx, client := r.Context(), trace.SpanContextFromContext(traceContext.Extract(r.Context(), propagation.HeaderCarrier(r.Header)))
		options := []trace.SpanStartOption{
			trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attributes(attrs)...),
			trace.WithAttributes(attribute.String("http.request.method", method(r))),
		}
		switch {
		case client.IsValid() && t.follow:
			ctx = trace.ContextWithRemoteSpanContext(ctx, client)
		case client.IsValid():
			options = append(options, trace.WithLinks(trace.Link{SpanContext: client}))
		}
		ctx, span := t.tracer.Start(ctx, name, options...)
		a := &answer{ResponseWriter: w}
		defer func() { // also when next panics to break the answer off
			span.SetAttributes(attribute.Int("http.response.status_code", a.status))
			if a.status >= http.StatusInternalServerError {
				span.SetStatus(codes.Error, "")
			}
			span.End()
		}()
		next.ServeHTTP(a, r.WithContext(ctx))
	})
}

// method returns the method of r if it is one there is.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return r.Method
	}
	return "_OTHER"
}

// answer is a ResponseWriter that knows the status. It passes files on to the connection untouched.
type answer struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

// ReadFrom implements io.ReaderFrom. The reader goes on as it came: only then does the kernel copy an *os.File by itself.
func (a *answer) ReadFrom(r io.Reader) (int64, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	if to, ok := a.ResponseWriter.(io.ReaderFrom); ok {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{a.ResponseWriter}, r)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
