package main

import (
	"log/slog"
	"net"
	"net/http"
	"sync"
)

// How many connections each listener has at a time; more wait in the kernel until one ends. Each costs some tens of KiB and a file.
const (
	maxConnections      = 10_000 // ten each of a thousand nodes
	maxAdminConnections = 1_000
)

// bounded is a listener with a bound on its connections, which it hands out as they are: wrapped in anything else, they could not take
// files. Its server tells it of the end of each by [bounded.changed].
type bounded struct {
	net.Listener
	slots chan struct{} // one value for each connection
	log   *slog.Logger
	full  bool // the last to be accepted had to wait for a slot; belongs to whoever accepts

	closing sync.Once
	closed  chan struct{}
}

func newBounded(l net.Listener, connections int, log *slog.Logger) *bounded {
	return &bounded{Listener: l, slots: make(chan struct{}, connections), log: log, closed: make(chan struct{})}
}

// Accept implements net.Listener. It is called by one goroutine at a time.
func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.slots <- struct{}{}:
		b.full = false
	default:
		if !b.full {
			b.log.Warn("there are as many connections as there may be; others wait", "address", b.Addr().String(), "connections", cap(b.slots))
		}
		b.full = true
		select {
		case b.slots <- struct{}{}:
		case <-b.closed:
			return nil, net.ErrClosed
		}
	}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.slots
	}
	return c, err
}

// Close implements net.Listener.
func (b *bounded) Close() error {
	b.closing.Do(func() { close(b.closed) })
	return b.Listener.Close()
}

// changed implements http.Server.ConnState, which is told once of the end of every connection that was accepted.
func (b *bounded) changed(_ net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		<-b.slots
	}
}
