package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestBoundedConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		b := newBounded(l, 2, slog.New(slog.DiscardHandler))
		s := newServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), slog.New(slog.DiscardHandler))
		s.ConnState = b.changed
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(b) }()
		first, second := l.dial(), l.dial()
		third := make(chan net.Conn, 1)
		go func() { third <- l.dial() }()
		synctest.Wait()
		if len(third) > 0 {
			t.Error("a third connection was accepted")
		}
		_ = first.Close()
		synctest.Wait()
		if len(third) == 0 {
			t.Fatal("the third connection waits although there is room")
		}
		// While it waits for a slot again, it can be ended.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, c := range []net.Conn{second, <-third} {
			if _, err := io.WriteString(c, "GET /"); err != nil {
				t.Fatal(err)
			}
		}
		_ = s.Shutdown(ctx) // which waits in vain for the two
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
