package proxy

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/trail"
)

// copyBufferBytes is how much is copied at a time where the connection cannot take a file itself: large enough to amortise the
// calls, small enough that hundreds of pulls fit in tens of MiB.
const copyBufferBytes = 64 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyBufferBytes]byte) }}

// answer is an http.ResponseWriter that knows what was written. It passes files on to the connection untouched. Like every
// ResponseWriter it belongs to one goroutine.
type answer struct {
	http.ResponseWriter
	// status is 0 until the header is written, bytes counts what of the body was accepted.
	status int
	bytes  int64
	// guarded makes a status of 400 or more, 412 apart, end up in refused instead of going out: http.ServeContent would write a
	// body of its own, and ours is an OCI error.
	guarded bool
	refused int
	// head discards every body: what answers a HEAD has none.
	head bool
	// err is why the answer is what it is, or ends where it does. It is for the log.
	err error
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.guarded && status >= http.StatusBadRequest && status != http.StatusPreconditionFailed {
		a.refused = status
		return
	}
	if a.status == 0 {
		a.status = status
		a.ResponseWriter.WriteHeader(status)
	}
}

// Write implements io.Writer.
func (a *answer) Write(b []byte) (int, error) {
	if a.refused != 0 && a.guarded {
		return len(b), nil
	}
	a.WriteHeader(http.StatusOK)
	if a.head {
		return len(b), nil
	}
	n, err := a.ResponseWriter.Write(b)
	a.wrote(int64(n), err)
	return n, err
}

// ReadFrom implements io.ReaderFrom. The reader goes on as it came: only then does the kernel copy an *os.File by itself.
func (a *answer) ReadFrom(r io.Reader) (n int64, err error) {
	a.WriteHeader(http.StatusOK)
	if to, ok := a.ResponseWriter.(io.ReaderFrom); ok {
		n, err = to.ReadFrom(r)
	} else {
		buffer := copyBuffers.Get().(*[copyBufferBytes]byte)
		defer copyBuffers.Put(buffer)
		n, err = io.CopyBuffer(struct{ io.Writer }{a.ResponseWriter}, r, buffer[:])
	}
	a.wrote(n, err)
	return n, err
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) wrote(n int64, err error) {
	a.bytes += n
	if err != nil && a.err == nil {
		a.err = fmt.Errorf("after %d bytes: %w", a.bytes, err)
	}
}

// cut reports whether less was written than announced.
func (a *answer) cut() bool {
	if a.status != http.StatusOK && a.status != http.StatusPartialContent {
		return false
	}
	announced, err := strconv.ParseInt(a.Header().Get("Content-Length"), 10, 64)
	return err != nil || a.bytes != announced
}

// exchange is a request and what becomes of it.
type exchange struct {
	answer  *answer
	id      string
	began   time.Time
	request oci.Request
	repo    oci.Repository
	caller  access.Caller
	// by is the caller as the trail has it.
	by  trail.Client
	err error
}

// finish counts and logs the exchange. A panic is answered with a 500 that says nothing, or, when it is too late for that, by
// breaking off the connection; so is [http.ErrAbortHandler], which is not a fault of ours.
func (p *Proxy) finish(r *http.Request, x *exchange) {
	fault := recover()
	if err, _ := fault.(error); fault != nil && !errors.Is(err, http.ErrAbortHandler) {
		x.err = fmt.Errorf("panic: %v", fault)
		p.o.Log.ErrorContext(r.Context(), "panic", "request_id", x.id, "err", x.err, "stack", string(debug.Stack()))
		if x.answer.status == 0 {
			x.answer.guarded = false
			writeError(x.answer, x.err)
			fault = nil
		}
	}
	took := p.o.Now().Sub(x.began)
	p.metrics.count(x.request.Kind, x.answer, took, fault != nil)
	p.log(r, x, took, fault != nil)
	if fault != nil {
		panic(http.ErrAbortHandler)
	}
}

// log writes the one line about the exchange: a client's fault is for whoever debugs, ours is a warning. What a client that has
// gone would have been told is nobody's fault.
func (p *Proxy) log(r *http.Request, x *exchange, took time.Duration, broken bool) {
	level, err := slog.LevelDebug, x.err
	if err == nil {
		err = x.answer.err
	}
	if (x.answer.status >= http.StatusInternalServerError || broken) && r.Context().Err() == nil {
		level = slog.LevelWarn
	}
	if !p.o.Log.Enabled(r.Context(), level) {
		return
	}
	client, _, splitErr := net.SplitHostPort(r.RemoteAddr)
	if splitErr != nil {
		client = r.RemoteAddr
	}
	attrs := []slog.Attr{
		slog.String("request_id", x.id), slog.String("client", client), slog.String("caller", x.caller.Name), slog.String("method", r.Method),
		slog.String("kind", x.request.Kind.String()), slog.String("upstream", x.repo.Upstream), slog.String("repo", x.repo.Path),
		slog.String("tag", x.request.Tag), slog.String("digest", x.request.Digest.String()),
		slog.Int("status", x.answer.status), slog.Int64("bytes", x.answer.bytes), slog.Duration("dur", took),
	}
	if broken {
		attrs = append(attrs, slog.Bool("broken_off", true))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
	}
	p.o.Log.LogAttrs(r.Context(), level, "answered", attrs...)
}
