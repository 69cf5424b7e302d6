package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// pipes is a listener whose connections are pipes, in which a bubble's time passes.
type pipes struct {
	dialled chan net.Conn
	closed  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) dial() net.Conn {
	near, far := net.Pipe()
	p.dialled <- far
	return near
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.dialled:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { close(p.closed); return nil }
func (*pipes) Addr() net.Addr { return &net.TCPAddr{} }

// inBubble runs test against a server of h, in a bubble.
func inBubble(t *testing.T, h http.HandlerFunc, test func(t *testing.T, dial func() net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		s := newServer(h, slog.New(slog.DiscardHandler))
		ended := make(chan error)
		go func() { ended <- s.Serve(l) }()
		test(t, l.dial)
		if err := errors.Join(s.Close(), <-ended); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// pass lets time pass in a bubble.
func pass(d time.Duration) { <-time.After(d) }

// status reads an answer and returns its status line and whether the connection is closed after it.
func status(t *testing.T, r *bufio.Reader) (string, bool) {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.Status, resp.Close
}

// upload answers how much of a body came, and what ended it.
func upload(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	w.Header().Set("X-Bytes", fmt.Sprint(n))
	if err != nil {
		oci.WriteError(w, err)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func TestSlowBodies(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		law        string
		step       int           // bytes sent at a time
		every      time.Duration // between two of them
		total      int           // announced
		wantStatus string
		within     time.Duration
	}{
		{"a fast one is taken", 1 << 15, 0, 8 * mib, "201 Created", 0},
		{"one that takes an hour is taken", mib, time.Minute, 60 * mib, "201 Created", time.Hour},
		{"one at the speed of a modem is taken", 1000, time.Second, 4 * mib, "201 Created", 4200 * time.Second},
		{"one that pauses for less than its time is taken", 1 << 16, bodyWait - time.Second, 10 << 16, "201 Created", 10 * bodyWait},
		{"a small one that comes slowly is taken", 1, time.Second, 100, "201 Created", 100 * time.Second},
		{"one that comes byte by byte is not", 1, time.Minute, mib, "400 Bad Request", bodyWait},
		{"one that stops is not", mib, 24 * time.Hour, 2 * mib, "400 Bad Request", bodyWait},
		{"one that never begins is not", 0, 24 * time.Hour, mib, "400 Bad Request", bodyWait},
		{"one that becomes slow is not", 1 << 16, bodyWait + time.Second, mib, "400 Bad Request", bodyWait},
	} {
		t.Run(tt.law, func(t *testing.T) {
			inBubble(t, upload, func(t *testing.T, dial func() net.Conn) {
				c := dial()
				defer func() { _ = c.Close() }() // by the server already, perhaps
				began := time.Now()
				go func() {
					_, err := fmt.Fprintf(c, "PUT /v2/ HTTP/1.1\r\nHost: proxy\r\nContent-Length: %d\r\n\r\n", tt.total)
					for sent := 0; sent < tt.total && err == nil; {
						var n int
						n, err = c.Write(make([]byte, min(tt.step, tt.total-sent)))
						sent += n
						pass(tt.every)
					}
				}()
				got, _ := status(t, bufio.NewReader(c))
				if took := time.Since(began); got != tt.wantStatus || took > tt.within {
					t.Errorf("got %s after %s, want %s within %s", got, took, tt.wantStatus, tt.within)
				}
				pass(48 * time.Hour) // for the client to end
			})
		})
	}

	t.Run("our own slowness is not the client's", func(t *testing.T) {
		slow := func(w http.ResponseWriter, r *http.Request) {
			for range 10 {
				if _, err := io.CopyN(io.Discard, r.Body, 1000); err != nil {
					oci.WriteError(w, err)
					return
				}
				pass(bodyWait + time.Second) // storage that is busy
			}
			upload(w, r)
		}
		inBubble(t, slow, func(t *testing.T, dial func() net.Conn) {
			c := dial()
			defer func() { _ = c.Close() }() // as above
			go func() {
				_, _ = io.WriteString(c, "PUT /v2/ HTTP/1.1\r\nHost: proxy\r\nContent-Length: 20000\r\n\r\n"+strings.Repeat("a", 20000)) // as above
			}()
			if got, _ := status(t, bufio.NewReader(c)); got != "201 Created" {
				t.Errorf("got %s, want 201 Created", got)
			}
		})
	})

	t.Run("an answer that does not need the body does not wait for it", func(t *testing.T) {
		refuse := func(w http.ResponseWriter, _ *http.Request) { oci.WriteError(w, oci.ErrNotFound) }
		for _, body := range []string{"Content-Length: 1000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"} {
			inBubble(t, refuse, func(t *testing.T, dial func() net.Conn) {
				c := dial()
				defer func() { _ = c.Close() }() // as above
				began := time.Now()
				if _, err := io.WriteString(c, "PUT /v2/ HTTP/1.1\r\nHost: proxy\r\n"+body); err != nil {
					t.Fatal(err)
				}
				got, closes := status(t, bufio.NewReader(c))
				if took := time.Since(began); got != "404 Not Found" || !closes || took > bodyWait {
					t.Errorf("%q: got %s after %s, closed %t; want 404 Not Found within %s, closed", body, got, took, closes, bodyWait)
				}
			})
		}
	})

	t.Run("a body that has come leaves its request all the time it wants", func(t *testing.T) {
		judge := func(w http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			_, again := r.Body.Read(make([]byte, 1)) // after its end, as decoders do to be sure of it
			pass(24 * time.Hour)
			if err := errors.Join(err, r.Context().Err()); err != nil || !errors.Is(again, io.EOF) {
				oci.WriteError(w, err)
			}
		}
		inBubble(t, judge, func(t *testing.T, dial func() net.Conn) {
			c := dial()
			defer func() { _ = c.Close() }() // as above
			r := bufio.NewReader(c)
			for range 2 { // on one connection
				if _, err := io.WriteString(c, "PUT /v2/ HTTP/1.1\r\nHost: proxy\r\nContent-Length: 1\r\n\r\na"); err != nil {
					t.Fatal(err)
				}
				if got, closes := status(t, r); got != "200 OK" || closes {
					t.Errorf("got %s, closed %t, want 200 OK, open", got, closes)
				}
			}
		})
	})

	t.Run("a connection whose request was chunked is closed", func(t *testing.T) {
		inBubble(t, upload, func(t *testing.T, dial func() net.Conn) {
			c := dial()
			defer func() { _ = c.Close() }() // as above
			go func() {
				_, _ = io.WriteString(c, "PUT /v2/ HTTP/1.1\r\nHost: proxy\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: proxy\r\n\r\n") // as above
			}()
			r := bufio.NewReader(c)
			if got, closes := status(t, r); got != "201 Created" || !closes {
				t.Errorf("got %s, closed %t, want 201 Created, closed", got, closes)
			}
			if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
				t.Errorf("then %q, %v, want nothing", rest, err)
			}
		})
	})
}

func TestSlowAnswers(t *testing.T) {
	const total = 64 * answerStep
	file := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(file, make([]byte, total), 0o600); err != nil {
		t.Fatal(err)
	}
	answers := map[string]func(w http.ResponseWriter){
		"a file": func(w http.ResponseWriter) {
			f, err := os.Open(file)
			if err != nil {
				panic(err)
			}
			defer func() { _ = f.Close() }() // it was only read
			_, _ = io.CopyN(w, f, total)     // the client sees what became of it
		},
		"bytes": func(w http.ResponseWriter) {
			_, _ = w.Write(make([]byte, total)) // as above
		},
		"what comes slowly itself": func(w http.ResponseWriter) {
			_, _ = io.CopyN(w, &slowly{every: answerWait + time.Minute}, total/2) // as above
			_, _ = io.CopyN(w, &slowly{}, total/2)                                // as above
		},
	}
	for _, tt := range []struct {
		law   string
		step  int
		every time.Duration
		whole bool
	}{
		{"a fast client gets it", 1 << 15, 0, true},
		{"a slow client gets it", answerStep, answerWait - time.Second, true},
		{"a client that takes single bytes does not", 1, time.Minute, false},
		{"a client that stops does not", answerStep, 24 * time.Hour, false},
	} {
		for kind, write := range answers {
			t.Run(tt.law+", "+kind, func(t *testing.T) {
				var ended chan struct{} // of the bubble
				handler := func(w http.ResponseWriter, _ *http.Request) {
					defer close(ended)
					w.Header().Set("Content-Length", fmt.Sprint(total))
					write(w)
				}
				synctest.Test(t, func(t *testing.T) {
					l := newPipes()
					s := newServer(http.HandlerFunc(handler), slog.New(slog.DiscardHandler))
					go func() { _ = s.Serve(l) }() // until it is closed
					ended = make(chan struct{})
					c := l.dial()
					if _, err := io.WriteString(c, "GET /v2/ HTTP/1.1\r\nHost: proxy\r\n\r\n"); err != nil {
						t.Fatal(err)
					}
					got, b := 0, make([]byte, tt.step)
					for err := error(nil); err == nil && got < total; {
						select {
						case <-ended:
							if !tt.whole {
								err = io.EOF
								continue
							}
						default:
						}
						var n int
						n, err = io.ReadFull(c, b)
						got += n
						pass(tt.every)
					}
					if whole := got >= total; whole != tt.whole {
						t.Errorf("got %d of %d bytes, want the whole: %t", got, total, tt.whole)
					}
					_ = c.Close() // the server may have
					<-ended
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// slowly is content of zeros that comes a step of answers at a time.
type slowly struct {
	every time.Duration
	n     int
}

func (s *slowly) Read(b []byte) (int, error) {
	if s.n%(16*answerStep) == 0 && s.every > 0 {
		pass(s.every)
	}
	n := min(len(b), answerStep-s.n%answerStep)
	clear(b[:n])
	s.n += n
	return n, nil
}

// sink is a connection that takes files.
type sink struct {
	http.ResponseWriter
	took []string
}

func (s *sink) ReadFrom(r io.Reader) (int64, error) {
	if limited, ok := r.(*io.LimitedReader); ok {
		s.took = append(s.took, fmt.Sprintf("%d of %T", limited.N, limited.R))
	} else {
		s.took = append(s.took, "something")
	}
	return io.Copy(io.Discard, r)
}

func TestFilesGoOnAsFiles(t *testing.T) {
	open := func(size int) *os.File {
		name := filepath.Join(t.TempDir(), "layer")
		if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() }) // it was only read
		return f
	}
	whole, part := fmt.Sprintf("%d of *os.File", answerStep), "100 of *os.File"
	for _, tt := range []struct {
		law  string
		from io.Reader
		n    int64
		want []string
	}{
		{"a part of a file", io.LimitReader(open(3*answerStep), 2*answerStep+100), 2*answerStep + 100, []string{whole, whole, part}},
		{"a file to its end", open(answerStep + 100), answerStep + 100, []string{whole, whole}},
		{"a file that is shorter than announced", io.LimitReader(open(100), 3*answerStep), 100, []string{whole}},
		{"nothing of a file", io.LimitReader(open(100), 0), 0, nil},
		{"anything else", io.LimitReader(bytes.NewReader(make([]byte, 100)), 90), 90, []string{"something"}},
	} {
		s := &sink{}
		n, err := (&pacedAnswer{ResponseWriter: s, control: http.NewResponseController(s)}).ReadFrom(tt.from)
		if n != tt.n || err != nil {
			t.Errorf("%s: got %d, %v, want %d", tt.law, n, err, tt.n)
		}
		if diff := cmp.Diff(tt.want, s.took); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.law, diff)
		}
	}
}
