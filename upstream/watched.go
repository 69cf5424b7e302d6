package upstream

import (
	"context"
	"io"
	"time"
)

// watched is a body that breaks off when it sends nothing for too long. The time its reader takes does not count.
type watched struct {
	body   io.ReadCloser // nil until there is one
	limit  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// watch returns a context for a request, and the watch over it, which has begun: until the first pause the request has limit to
// be answered. The context ends with the cause errTooSlow, or when the watched body is closed.
func watch(ctx context.Context, limit time.Duration) (context.Context, *watched) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(limit, func() { cancel(errTooSlow) })
	return ctx, &watched{limit: limit, timer: timer, cancel: cancel}
}

// pause stops the clock until the next Read.
func (w *watched) pause() { w.timer.Stop() }

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.limit)
	defer w.pause()
	return w.body.Read(p)
}

// close gives up what is left of the body.
func (w *watched) close() {
	w.pause()
	w.cancel(nil)
	_ = w.body.Close() // it was only read
}
