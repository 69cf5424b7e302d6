package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// readBlob reads the blob whose content should be want, as a caller would: verified.
func readBlob(t *testing.T, rs *Registries, want []byte) ([]byte, error) {
	t.Helper()
	desc := oci.Descriptor{Digest: oci.FromBytes(want), Size: int64(len(want))}
	body, err := rs.Blob(t.Context(), app, desc)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}()
	return io.ReadAll(oci.NewVerifier(body, desc))
}

// content is some bytes that differ from one place to the next.
func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	return b
}

// sendPart announces the whole of body from a byte on, sends n bytes of it and hangs up if that is not all.
func sendPart(w http.ResponseWriter, body []byte, from, n int) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write(body[from:min(len(body), from+n)])
	if from+n < len(body) {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

func rangeStart(r *http.Request) int {
	n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"))
	return n
}

func TestBlob(t *testing.T) {
	body := content(300_000)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { sendPart(w, body, 0, len(body)) })
	seen := &events{}
	got, err := readBlob(t, open(t, Options{Observe: seen.observe}, configFor(s)), body)
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("got %d bytes, %v, want %d", len(got), err, len(body))
	}
	if diff := cmp.Diff(s.asked(), []string{"GET " + appBlob + oci.FromBytes(body).String()}); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
	if diff := cmp.Diff(s.headers("Range"), []string{""}); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
	if diff := cmp.Diff(seen.seen(), []Event{{app.Upstream, KindBlob, OutcomeOK, int64(len(body))}}); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
}

func TestEmptyBlob(t *testing.T) {
	s := serve(t, func(http.ResponseWriter, *http.Request) {})
	if got, err := readBlob(t, open(t, Options{}, configFor(s)), nil); err != nil || len(got) != 0 {
		t.Errorf("got %q, %v, want nothing", got, err)
	}
}

func TestBlobIsResumed(t *testing.T) {
	const part = 100_000
	body := content(3*part + 1)
	tests := map[string]struct {
		handler http.HandlerFunc
		want    []string // the Range of each request
	}{
		"where it was cut": {
			func(w http.ResponseWriter, r *http.Request) { sendPart(w, body, rangeStart(r), part) },
			[]string{"", "bytes=100000-", "bytes=200000-", "bytes=300000-"},
		},
		"from the beginning, by a server that ignores Range": {
			func() http.HandlerFunc {
				var sent atomic.Int32
				return func(w http.ResponseWriter, _ *http.Request) { sendPart(w, body, 0, int(sent.Add(2))*part) }
			}(),
			[]string{"", "bytes=200000-"},
		},
		"by parts a server chooses": {
			func(w http.ResponseWriter, r *http.Request) {
				from := rangeStart(r)
				if from == 0 {
					sendPart(w, body, 0, part)
					return
				}
				to := min(from+part, len(body))
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", from, to-1))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(body[from:to])
			},
			[]string{"", "bytes=100000-", "bytes=200000-", "bytes=300000-"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tc.handler)
			got, err := readBlob(t, open(t, Options{}, configFor(s)), body)
			if err != nil || !bytes.Equal(got, body) {
				t.Fatalf("got %d bytes, %v, want %d", len(got), err, len(body))
			}
			if diff := cmp.Diff(s.headers("Range"), tc.want); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
		})
	}
}

func TestBlobThatCannotBeResumed(t *testing.T) {
	const part = 10_000
	body := content(10 * part)
	// cutThen sends one part, and leaves what comes after it to next.
	cutThen := func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				sendPart(w, body, 0, part)
				return
			}
			next(w, r)
		}
	}
	contentRange := func(value string) http.HandlerFunc {
		return cutThen(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", value)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(body[part:])
		})
	}
	status := func(code int) http.HandlerFunc {
		return cutThen(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
	}
	tests := map[string]struct {
		handler  http.HandlerFunc
		want     error
		outcome  Outcome
		requests int
	}{
		"another first byte":      {contentRange("bytes 0-99999/100000"), oci.ErrMismatch, OutcomeRefused, 2},
		"another size":            {contentRange("bytes 10000-99999/200000"), oci.ErrMismatch, OutcomeRefused, 2},
		"no Content-Range":        {contentRange(""), oci.ErrMismatch, OutcomeRefused, 2},
		"a malformed one":         {contentRange("bytes x"), oci.ErrMismatch, OutcomeRefused, 2},
		"the range is refused":    {status(http.StatusRequestedRangeNotSatisfiable), oci.ErrMismatch, OutcomeRefused, 2},
		"the blob is gone":        {status(http.StatusNotFound), oci.ErrBlobUnknown, OutcomeMissing, 2},
		"the rate is limited":     {status(http.StatusTooManyRequests), oci.ErrRateLimited, OutcomeLimited, 2},
		"nothing comes the first": {func(w http.ResponseWriter, r *http.Request) { sendPart(w, body, 0, 0) }, oci.ErrUnavailable, OutcomeCut, 1},
		"nothing comes again": {
			func(w http.ResponseWriter, r *http.Request) {
				if from := rangeStart(r); from > 0 {
					sendPart(w, body, from, 0)
				}
				sendPart(w, body, 0, part)
			}, oci.ErrUnavailable, OutcomeCut, 2,
		},
		"a byte at a time": {func(w http.ResponseWriter, r *http.Request) { sendPart(w, body, rangeStart(r), 1) }, oci.ErrUnavailable, OutcomeCut, 1 + maxResumes},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tc.handler)
			seen := &events{}
			_, err := readBlob(t, open(t, Options{Observe: seen.observe}, configFor(s)), body)
			if _, isAnswer := errors.AsType[*oci.Error](err); !errors.Is(err, tc.want) || !isAnswer {
				t.Errorf("got %v, want %v as an answer", err, tc.want)
			}
			if got := len(s.asked()); got != tc.requests {
				t.Errorf("got %d requests, want %d", got, tc.requests)
			}
			if got := seen.seen(); len(got) != 1 || got[0].Outcome != tc.outcome {
				t.Errorf("got events %v, want one with outcome %s", got, tc.outcome)
			}
		})
	}
}

func TestBlobOfAnotherSize(t *testing.T) {
	body := content(50_000)
	chunked := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			_ = http.NewResponseController(w).Flush() // no Content-Length from here on
			_, _ = w.Write(b)
		}
	}
	whole := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { sendPart(w, b, 0, len(b)) }
	}
	tests := map[string]http.HandlerFunc{
		"more than announced":      whole(append(bytes.Clone(body), 0)),
		"less than announced":      whole(body[:len(body)-1]),
		"more, of unknown length":  chunked(append(bytes.Clone(body), 0)),
		"far more, without length": chunked(append(bytes.Clone(body), content(1<<20)...)),
		"less, of unknown length":  chunked(body[:len(body)-1]),
		"nothing":                  chunked(nil),
		"a part nobody asked for":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusPartialContent) },
	}
	for name, handler := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, handler)
			got, err := readBlob(t, open(t, Options{}, configFor(s)), body)
			if err == nil || !errors.Is(err, oci.ErrUnavailable) {
				t.Errorf("got %d bytes, %v, want an error that is an answer", len(got), err)
			}
			if len(got) > len(body) {
				t.Errorf("got %d bytes, want at most the %d of the blob", len(got), len(body))
			}
		})
	}
}

// The digest is for the reader to check, and it does.
func TestCorruptBlobIsForTheReaderToFind(t *testing.T) {
	body := content(1000)
	corrupt := bytes.Clone(body)
	corrupt[500]++
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { sendPart(w, corrupt, 0, len(corrupt)) })
	if _, err := readBlob(t, open(t, Options{}, configFor(s)), body); !errors.Is(err, oci.ErrMismatch) {
		t.Errorf("got %v, want %v", err, oci.ErrMismatch)
	}
}

// Bytes are what was sent: a blob that is sent as if it had been compressed on the way is not unpacked.
func TestContentEncodingIsNotUndone(t *testing.T) {
	body := append([]byte{0x1f, 0x8b}, content(1000)...)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		sendPart(w, body, 0, len(body))
	})
	got, err := readBlob(t, open(t, Options{}, configFor(s)), body)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("got %d bytes, %v, want %d as they were", len(got), err, len(body))
	}
	if diff := cmp.Diff(s.headers("Accept-Encoding"), []string{"identity"}); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
}

func TestBlobFromAMirrorThatBreaksDown(t *testing.T) {
	body := content(100_000)
	mirror := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		sendPart(w, body, 0, 40_000)
	})
	reg := serve(t, func(w http.ResponseWriter, r *http.Request) { sendPart(w, body, rangeStart(r), len(body)) })
	c := configFor(reg)
	c.Mirrors = []string{mirror.URL}
	got, err := readBlob(t, open(t, Options{}, c), body)
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("got %d bytes, %v, want %d", len(got), err, len(body))
	}
	if diff := cmp.Diff(reg.headers("Range"), []string{"bytes=40000-"}); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
}

func TestBlobIsClosedEarly(t *testing.T) {
	body := content(200_000)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { sendPart(w, body, 0, len(body)) })
	tests := map[string]struct {
		read int
		want Outcome
	}{
		"in the middle":               {10, OutcomeAbandoned},
		"at the end, before its mark": {len(body), OutcomeOK},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			seen := &events{}
			rs := open(t, Options{Observe: seen.observe}, configFor(s))
			blob, err := rs.Blob(t.Context(), app, oci.Descriptor{Digest: oci.FromBytes(body), Size: int64(len(body))})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(blob, make([]byte, tc.read)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := blob.Close(); err != nil {
					t.Error(err)
				}
			}
			if n, err := blob.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("got %d bytes, %v after Close, want an error", n, err)
			}
			if diff := cmp.Diff(seen.seen(), []Event{{app.Upstream, KindBlob, tc.want, int64(tc.read)}}); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
		})
	}
}

func TestBlobReaderLeaves(t *testing.T) {
	body := content(200_000)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:100])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	blob, err := open(t, Options{}, configFor(s)).Blob(ctx, app, oci.Descriptor{Digest: oci.FromBytes(body), Size: int64(len(body))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(blob, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(blob); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if err := blob.Close(); err != nil {
		t.Error(err)
	}
	if got := len(s.asked()); got != 1 {
		t.Errorf("got %d requests, want 1: nobody is left to resume for", got)
	}
}

// A body that sends nothing breaks off after a while; the time its reader takes does not count.
func TestStalledBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		ctx, watched := watch(t.Context(), time.Minute)
		watched.body = r
		context.AfterFunc(ctx, func() { _ = w.CloseWithError(context.Cause(ctx)) })
		defer watched.close()

		p := make([]byte, 1)
		go func() { _, _ = w.Write([]byte("ab")) }()
		for range 2 {
			if _, err := watched.Read(p); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Hour) // of the bubble: a reader that is slow
		}
		started := time.Now()
		if _, err := watched.Read(p); !errors.Is(err, errTooSlow) {
			t.Errorf("got %v, want %v", err, errTooSlow)
		}
		if got := time.Since(started); got != time.Minute {
			t.Errorf("got it after %s, want a minute", got)
		}
	})
}

func TestUnansweredRequestStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		ctx, watched := watch(t.Context(), time.Minute)
		<-ctx.Done()
		if got := time.Since(started); got != time.Minute || !errors.Is(context.Cause(ctx), errTooSlow) {
			t.Errorf("got %v after %s, want %v after a minute", context.Cause(ctx), got, errTooSlow)
		}
		if err := exchangeFailure(ctx, "a.test", KindBlob, time.Now(), ctx.Err()); !errors.Is(err, oci.ErrUnavailable) {
			t.Errorf("got %v, want %v", err, oci.ErrUnavailable)
		}
		watched.pause()
	})
}

func TestBlobExists(t *testing.T) {
	body := content(100)
	tests := map[string]struct {
		handler http.HandlerFunc
		want    error
	}{
		"it does":        {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "100") }, nil},
		"it does not":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, oci.ErrBlobUnknown},
		"another does":   {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "99") }, oci.ErrMismatch},
		"not for us":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, oci.ErrUnauthorized},
		"nobody can say": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, oci.ErrUnavailable},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tc.handler)
			err := open(t, Options{}, configFor(s)).BlobExists(t.Context(), app, oci.Descriptor{Digest: oci.FromBytes(body), Size: 100})
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if diff := cmp.Diff(s.asked(), []string{"HEAD " + appBlob + oci.FromBytes(body).String()}); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
		})
	}
}

func TestParseContentRange(t *testing.T) {
	tests := map[string]struct {
		header           string
		wantFirst, total int64
		wantOK           bool
	}{
		"a part":             {"bytes 5-9/10", 5, 10, true},
		"of unknown size":    {"bytes 5-9/*", 5, -1, true},
		"one byte":           {"bytes 0-0/1", 0, 1, true},
		"backwards":          {"bytes 9-5/10", 0, 0, false},
		"past the end":       {"bytes 5-10/10", 0, 0, false},
		"unsatisfied":        {"bytes */10", 0, 0, false},
		"another unit":       {"lines 5-9/10", 0, 0, false},
		"negative":           {"bytes -5-9/10", 0, 0, false},
		"larger than int64":  {"bytes 0-9223372036854775808/*", 0, 0, false},
		"nothing":            {"", 0, 0, false},
		"something after it": {"bytes 5-9/10 ", 0, 0, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			first, total, ok := parseContentRange(tc.header)
			if first != tc.wantFirst || total != tc.total || ok != tc.wantOK {
				t.Errorf("got %d, %d, %t, want %d, %d, %t", first, total, ok, tc.wantFirst, tc.total, tc.wantOK)
			}
		})
	}
}

// Whatever a server writes, what is understood of it is a first byte inside the whole.
func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Add("bytes 5-9/*")
	f.Fuzz(func(t *testing.T, header string) {
		first, total, ok := parseContentRange(header)
		if !ok && (first != 0 || total != 0) || first < 0 || ok && total >= 0 && first >= total {
			t.Errorf("got %d of %d, %t", first, total, ok)
		}
	})
}
