package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/notify"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Events are what happens. Implementations are safe for concurrent use.
type Events interface {
	// Read returns a reader of what is published from now on, and before that of what came after the event with the id after, if that is
	// not empty. Whoever gets a reader calls leave. Errors: notify.ErrTooManyReaders.
	Read(after string) (r *notify.Reader, leave func(), err error)
}

// Operators knows who runs all of this. Implementations are safe for concurrent use.
type Operators interface {
	// Operates reports whether caller may see what is about no repository in particular.
	Operates(caller access.Caller) bool
	// Reviews reports whether there is any repository that caller may review.
	Reviews(caller access.Caller) bool
	// Operate is Operates, with what is done on record. Errors: an oci.Error that whoever asks may see.
	Operate(ctx context.Context, caller access.Caller, doing string) error
}

// heartbeat is how often a stream says that it is there: common load balancers cut connections that are silent for 60 s. With it is
// looked whether whoever reads may do so still.
const heartbeat = 15 * time.Second

// reconnectMillis is how long a reader that was cut off waits before it comes back.
const reconnectMillis = 3000

// Errors of asking for events.
var (
	errManyReaders = &oci.Error{Code: oci.CodeUnavailable, Message: "too many read the events already", RetryAfter: time.Minute}
	errTypes       = &malformed{"types names events there are not"}
)

func (c *Console) addEvents() {
	if c.o.Events != nil {
		c.mux.HandleFunc("GET /api/v1/events", c.serveEvents)
	}
	if c.o.Letters != nil {
		c.mux.HandleFunc("GET "+lettersPath, c.serveLetters)
		c.mux.HandleFunc("POST "+lettersPath, c.serveLetterActions)
	}
}

// reading is one stream of events.
type reading struct {
	c      *Console
	w      http.ResponseWriter
	r      *http.Request
	types  []notify.Type // empty for all
	caller access.Caller
}

// serveEvents streams what happens, as far as whoever asks may know of it (HTML standard, server-sent events). It goes on from the event
// that Last-Event-ID names.
func (c *Console) serveEvents(w http.ResponseWriter, r *http.Request) {
	s := &reading{c: c, w: w, r: r}
	if err := s.admit(); err != nil {
		c.writeJSON(w, r, nil, err)
		return
	}
	for _, t := range strings.FieldsFunc(strings.Join(r.URL.Query()["types"], ","), func(r rune) bool { return r == ',' }) {
		if !notify.Type(t).Known() {
			c.writeJSON(w, r, nil, errTypes)
			return
		}
		s.types = append(s.types, notify.Type(t))
	}
	reader, leave, err := c.o.Events.Read(r.Header.Get("Last-Event-ID"))
	if errors.Is(err, notify.ErrTooManyReaders) {
		err = errManyReaders
	}
	if err != nil {
		c.writeJSON(w, r, nil, err)
		return
	}
	defer leave()
	s.stream(reader)
}

// admit returns nil if whoever asks may read the events, or some of them. It is asked again and again.
func (s *reading) admit() error {
	if s.c.o.Access == nil {
		return nil
	}
	caller, err := s.c.o.Access.Identify(s.r)
	if err != nil {
		return err
	}
	if s.caller = caller; s.c.o.Operators.Reviews(caller) {
		return nil
	}
	return s.c.o.Access.Allow(s.r.Context(), caller, access.Review, oci.Repository{}) // which it is not, and that goes on record
}

// sees reports whether p is for the reader.
func (s *reading) sees(p notify.Published) bool {
	if len(s.types) > 0 && !slices.Contains(s.types, p.Type) {
		return false
	}
	if s.c.o.Access == nil || s.c.o.Operators.Operates(s.caller) {
		return true
	}
	return p.Repository != (oci.Repository{}) && s.c.o.Access.May(s.caller, access.Review, p.Repository)
}

// stream writes events until the reader goes, is too slow, may not read any more, or the process ends.
func (s *reading) stream(from *notify.Reader) {
	ctx, cancel := context.WithCancel(s.r.Context())
	defer cancel()
	if s.c.o.Until != nil {
		defer context.AfterFunc(s.c.o.Until, cancel)()
	}
	control := http.NewResponseController(s.w)
	go func() { // ends with ctx
		select {
		case <-from.Gone:
			_ = control.SetWriteDeadline(time.Now()) // which ends a write to somebody who does not read; only a test's writer has none
		case <-ctx.Done():
		}
	}()
	h := s.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // nginx would wait for more
	hello := fmt.Sprintf("retry: %d\n\n", reconnectMillis)
	if from.Missed {
		hello += "event: missed\ndata: {}\n\n"
	}
	beats := time.NewTicker(heartbeat)
	defer beats.Stop()
	for next := hello; ; {
		_, err := s.w.Write([]byte(next))
		if err != nil || control.Flush() != nil {
			return // whoever read has gone
		}
		var ok bool
		if next, ok = s.next(ctx, from, beats.C); !ok {
			return
		}
	}
}

// next returns what is to be written next. ok is false at the end.
func (s *reading) next(ctx context.Context, from *notify.Reader, beats <-chan time.Time) (text string, ok bool) {
	for {
		p, event, ok := from.Next(ctx, beats)
		switch {
		case !ok:
			return "", false
		case !event:
			return ": \n\n", s.admit() == nil
		case s.sees(p):
			return fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", p.ID, p.Type, p.Body), true
		}
	}
}
