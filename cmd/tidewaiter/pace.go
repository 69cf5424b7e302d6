package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// How slowly a body may come or go. A node may take an hour over a layer, but each step of it has its time, so that whoever does not
// move, or moves by single bytes, does not keep a connection, and what hangs on it, for ever.
const (
	// A body that is sent to us must bring bodyStep bytes, or its end, within bodyWait: 546 bytes a second. Only the time we spend
	// waiting for it counts.
	bodyStep = 64 << 10
	bodyWait = 2 * time.Minute
	// An answer must be taken by answerStep bytes within answerWait: 873 bytes a second. It is longer than bodyWait because the kernel
	// reports room for more only when a third of what it keeps for the client is gone, up to 1.3 MiB: for a client that was fast and
	// became slow that means 4.5 KiB a second.
	answerStep = 256 << 10
	answerWait = 5 * time.Minute // longer than a connection can be idle and a header can take, see paced
)

// errSlowBody is the answer to a body that comes too slowly. It wraps a deadline's error where it is returned.
var errSlowBody = &oci.Error{Code: oci.CodeBlobUploadInvalid, Message: "the body of the request comes too slowly"}

// paced returns a handler that does what next does, at the pace of whoever it talks to, as long as that moves at all.
//
// The deadlines it leaves behind bound what net/http does by itself: reading, before an answer is sent and after, some of a body that
// next did not read, and sending what is left in its buffers. Those of reading it sets anew for each request; that of writing is still
// in force when the next request's header is read, which is why answerWait is longer than that may take.
//
// The connection of a request with a chunked body is closed after the answer. Such a request may also have had a Content-Length, which
// net/http drops without a word; whoever is in front of us and went by it has another idea of where the next request begins (RFC 9112,
// 6.1).
func paced(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &pacedAnswer{ResponseWriter: w, control: http.NewResponseController(w)}
		a.extend()
		defer a.extend() // for what is sent when next has returned
		if r.ContentLength != 0 {
			body := &pacedBody{ReadCloser: r.Body, control: a.control, left: bodyWait}
			body.until(time.Now().Add(bodyWait))
			r = r.WithContext(r.Context()) // net/http wants its own request to keep its own body
			r.Body = body
		}
		if len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(a, r)
	})
}

// pacedBody is the body of a request. The deadline of reading is in force until its end has come, and not any longer, be it read from
// again: it would end the request's context.
type pacedBody struct {
	io.ReadCloser
	control *http.ResponseController
	// left is how much longer may be waited for the rest of the present step, of which got bytes have come.
	left time.Duration
	got  int64
}

// Read implements io.Reader. Errors: errSlowBody.
func (b *pacedBody) Read(p []byte) (int, error) {
	began := time.Now()
	b.until(began.Add(b.left))
	n, err := b.ReadCloser.Read(p)
	b.left -= time.Since(began)
	if b.got += int64(n); b.got >= bodyStep {
		b.got, b.left = 0, bodyWait
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, fmt.Errorf("%w: %w", errSlowBody, err)
	case errors.Is(err, io.EOF):
		b.until(time.Time{})
	}
	return n, err
}

func (b *pacedBody) until(t time.Time) {
	_ = b.control.SetReadDeadline(t) // only the connection of a test has no deadlines
}

// pacedAnswer is a ResponseWriter that has a new deadline for each step of an answer. Files go on to the connection step by step, each
// copied by the kernel.
type pacedAnswer struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (a *pacedAnswer) extend() {
	_ = a.control.SetWriteDeadline(time.Now().Add(answerWait)) // as in pacedBody.until
}

// Write implements io.Writer.
func (a *pacedAnswer) Write(b []byte) (n int, err error) {
	for {
		a.extend()
		step := min(len(b)-n, answerStep)
		m, err := a.ResponseWriter.Write(b[n : n+step])
		n += m
		if err != nil || n == len(b) {
			return n, err
		}
	}
}

// ReadFrom implements io.ReaderFrom.
func (a *pacedAnswer) ReadFrom(r io.Reader) (n int64, err error) {
	to, ok := a.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{a}, r)
	}
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: r, N: math.MaxInt64}
	}
	if _, ok := limited.R.(*os.File); !ok {
		return to.ReadFrom(extending{r, a})
	}
	for limited.N > 0 {
		a.extend()
		step := &io.LimitedReader{R: limited.R, N: min(limited.N, answerStep)}
		asked := step.N
		m, err := to.ReadFrom(step)
		n += m
		limited.N -= asked - step.N
		if err != nil || step.N > 0 { // the file ended before its limit
			return n, err
		}
	}
	return n, nil
}

// extending is content that may itself take its time to come: each piece has a deadline from when it has.
type extending struct {
	io.Reader
	answer *pacedAnswer
}

// Read implements io.Reader.
func (e extending) Read(b []byte) (int, error) {
	n, err := e.Reader.Read(b)
	e.answer.extend()
	return n, err
}

// FlushError is for http.ResponseController.
func (a *pacedAnswer) FlushError() error {
	a.extend()
	return a.control.Flush()
}

// Unwrap is for http.ResponseController.
func (a *pacedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
