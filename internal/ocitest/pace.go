package ocitest

import (
	"context"
	"net/http"
	"time"
)

// paceStep is the time between two chunks of a paced body.
const paceStep = 100 * time.Millisecond

// pacer sends a body no faster than a rate. It is not safe for concurrent use.
type pacer struct {
	http.ResponseWriter
	ctx    context.Context // of the request the pacer belongs to, and ends with
	chunk  int             // bytes a step may send
	budget int             // bytes left of this step
}

func newPacer(ctx context.Context, w http.ResponseWriter, bytesPerSecond int64) *pacer {
	return &pacer{ResponseWriter: w, ctx: ctx, chunk: int(max(1, bytesPerSecond*int64(paceStep)/int64(time.Second)))}
}

// Write sends p in chunks, each after a pause, and stops when the client has gone.
func (p *pacer) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		if p.budget == 0 {
			if err := p.pause(); err != nil {
				return sent, err
			}
		}
		n, err := p.ResponseWriter.Write(b[sent:min(sent+p.budget, len(b))])
		sent += n
		p.budget -= n
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// pause hands the client what has been written, waits one step and opens the next budget.
func (p *pacer) pause() error {
	if err := http.NewResponseController(p.ResponseWriter).Flush(); err != nil {
		return err
	}
	timer := time.NewTimer(paceStep)
	defer timer.Stop()
	select {
	case <-timer.C:
		p.budget = p.chunk
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}
