package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

var errCut = errors.New("the disk broke")

const layerText = "layer of clean"

var layerDigest = oci.FromBytes([]byte(layerText))

func blobTarget(repo oci.Repository, d oci.Digest) string {
	return "/v2/" + repo.Escaped() + "/blobs/" + d.String()
}

// stream is content that can only be read on.
func stream(r io.Reader, size int64) func() (io.ReadCloser, int64, error) {
	return func() (io.ReadCloser, int64, error) { return io.NopCloser(struct{ io.Reader }{r}), size, nil }
}

func TestPossession(t *testing.T) {
	const inProgress = "judging in progress: reading layers"
	unknown := errorBody("BLOB_UNKNOWN", "the blob is not known")
	for _, tt := range []struct {
		law        string
		holders    []string
		repo       oci.Repository
		wantStatus int
		wantBody   string
	}{
		{"of an allowed manifest", []string{"clean"}, app, 200, layerText},
		{"of a denied manifest", []string{"denied"}, app, 404, unknown},
		{"of a withdrawn manifest", []string{"withdrawn"}, app, 404, unknown},
		{"of no manifest", nil, app, 404, unknown},
		{"of an allowed manifest among others", []string{"denied", "upstream-fails", "clean"}, app, 200, layerText},
		{"of a manifest of another repository", []string{"clean"}, other, 404, unknown},
		{"of a manifest that no longer exists", []string{"gone"}, app, 404, unknown},
		{"of a manifest nobody can judge", []string{"denied", "upstream-fails"}, app, 503, errorBody("UNAVAILABLE", "could not judge: recording")},
		{"of a manifest that is being judged", []string{"slow"}, app, 503, errorBody("UNAVAILABLE", inProgress)},
		{"of a manifest whose failure wraps a denial", []string{"denied-inside"}, app, 503, errorBody("UNAVAILABLE", "could not judge: verifying signatures")},
		{"of a manifest whose verdict is on another one", []string{"moved"}, app, 500, errorBody("UNKNOWN", "internal error")},
	} {
		t.Run(tt.law, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, c := everyCase(t)
				f.holders[layerDigest] = nil
				for _, tag := range tt.holders {
					f.holders[layerDigest] = append(f.holders[layerDigest], c[tag])
				}
				w := f.do("GET", blobTarget(tt.repo, layerDigest))
				if w.Code != tt.wantStatus || w.Body.String() != tt.wantBody {
					t.Errorf("got %d %s, want %d %s", w.Code, w.Body, tt.wantStatus, tt.wantBody)
				}
				if opened := len(f.opened) > 0; opened != (tt.wantStatus == 200) {
					t.Errorf("opened %v", f.opened)
				}
			})
		})
	}
}

func TestBlobFailures(t *testing.T) {
	for _, tt := range []struct {
		law      string
		spoil    func(*fixture)
		want     int
		wantBody string
	}{
		{"the history cannot be read", func(f *fixture) { f.shelf.failures["holders "+app.String()] = errInternal }, 503,
			errorBody("UNAVAILABLE", "could not look up which images hold the blob")},
		{"the storage cannot be read", func(f *fixture) {
			f.blobs[layerDigest] = func() (io.ReadCloser, int64, error) { return nil, 0, errInternal }
		}, 503, errorBody("UNAVAILABLE", "could not read the blob")},
		{"the blob was evicted", func(f *fixture) { delete(f.blobs, layerDigest) }, 404, errorBody("BLOB_UNKNOWN", "the blob is not known")},
		{"the file is shorter than the blob", func(f *fixture) {
			f.blobs[layerDigest] = func() (io.ReadCloser, int64, error) {
				return struct {
					io.ReadSeeker
					io.Closer
				}{strings.NewReader("lay"), io.NopCloser(nil)}, 14, nil
			}
		}, 503, errorBody("UNAVAILABLE", "could not read the content")},
	} {
		t.Run(tt.law, func(t *testing.T) {
			f, _ := everyCase(t)
			tt.spoil(f)
			w := f.do("GET", blobTarget(app, layerDigest))
			if w.Code != tt.want || w.Body.String() != tt.wantBody {
				t.Errorf("got %d %s, want %d %s", w.Code, w.Body, tt.want, tt.wantBody)
			}
			h := checkedHeaders(t, w)
			if h["Docker-Content-Digest"] != "" || h["Etag"] != "" || h["Cache-Control"] != "no-store" || strings.Contains(w.Body.String(), "secret") {
				t.Errorf("a failure says %v %s", h, w.Body)
			}
		})
	}
}

// TestBlobParts asks for the same parts of content that seeks and of content that does not.
func TestBlobParts(t *testing.T) {
	whole := map[string]string{
		"Content-Type": "application/octet-stream", "Content-Length": "14", "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache",
		"Docker-Content-Digest": layerDigest.String(), "Etag": `"` + layerDigest.String() + `"`,
	}
	part := func(length, contentRange string) map[string]string {
		h := map[string]string{"Content-Range": contentRange}
		for name, value := range whole {
			h[name] = value
		}
		h["Content-Length"] = length
		return h
	}
	refused := errorBody("RANGE_INVALID", "the content has 14 bytes, and the range is not among them")
	for _, tt := range []struct {
		law, method string
		headers     []string
		wantStatus  int
		wantHeaders map[string]string
		wantBody    string
	}{
		{"all of it", "GET", nil, 200, whole, layerText},
		{"what it is", "HEAD", nil, 200, whole, ""},
		{"a range is not for HEAD", "HEAD", []string{"Range", "bytes=2-4"}, 200, whole, ""},
		{"a range", "GET", []string{"Range", "bytes=2-4"}, 206, part("3", "bytes 2-4/14"), layerText[2:5]},
		{"the rest", "GET", []string{"Range", "bytes=6-"}, 206, part("8", "bytes 6-13/14"), layerText[6:]},
		{"the end", "GET", []string{"Range", "bytes=-5"}, 206, part("5", "bytes 9-13/14"), layerText[9:]},
		{"more than there is", "GET", []string{"Range", "bytes=0-99"}, 206, part("14", "bytes 0-13/14"), layerText},
		{"several ranges are all of it", "GET", []string{"Range", "bytes=0-1,4-5"}, 200, whole, layerText},
		{"a range if it is still the same", "GET", []string{"Range", "bytes=6-", "If-Range", `"` + layerDigest.String() + `"`}, 206, part("8", "bytes 6-13/14"), layerText[6:]},
		{"a range of something else is all of this", "GET", []string{"Range", "bytes=6-", "If-Range", `"x"`}, 200, whole, layerText},
		{"a range behind the end", "GET", []string{"Range", "bytes=14-"}, 416, errorHeaders(refused, "Content-Range", "bytes */14"), refused},
		{"a range nobody understands", "GET", []string{"Range", "bytes=x"}, 416, errorHeaders(refused), refused},
		{"a range of another unit", "GET", []string{"Range", "lines=1-2"}, 200, whole, layerText},
		{"what the client has", "GET", []string{"If-None-Match", `"` + layerDigest.String() + `"`}, 304,
			map[string]string{"Cache-Control": "private, no-cache", "Docker-Content-Digest": layerDigest.String(), "Etag": `"` + layerDigest.String() + `"`}, ""},
		{"what the client wants only if it is another", "GET", []string{"If-Match", `"x"`}, 412, whole, ""},
	} {
		for _, kind := range []string{"seeking", "streaming"} {
			t.Run(tt.law+", "+kind, func(t *testing.T) {
				f, _ := everyCase(t)
				if kind == "streaming" {
					f.blobs[layerDigest] = stream(iotest.OneByteReader(strings.NewReader(layerText)), 14)
				}
				w := f.do(tt.method, blobTarget(app, layerDigest), tt.headers...)
				if w.Code != tt.wantStatus || w.Body.String() != tt.wantBody {
					t.Errorf("got %d %q, want %d %q", w.Code, w.Body, tt.wantStatus, tt.wantBody)
				}
				got := checkedHeaders(t, w)
				if w.Code == 416 {
					delete(got, "Accept-Ranges")
				}
				if w.Code == 412 {
					return // no more than the status is promised
				}
				if diff := cmp.Diff(tt.wantHeaders, got); diff != "" {
					t.Errorf("headers (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestRefusedPartOfAManifestSaysNothingOfIt(t *testing.T) {
	f, _ := everyCase(t)
	w := f.do("GET", "/v2/docker.io/library/app/manifests/warned", "Range", "bytes=99999-")
	h := checkedHeaders(t, w)
	if w.Code != 416 || h["Warning"] != "" || h["Docker-Content-Digest"] != "" || h["Cache-Control"] != "no-store" {
		t.Errorf("got %d %v", w.Code, h)
	}
}

func TestContentThatCannotSeekBackIsNotServed(t *testing.T) {
	f, _ := everyCase(t)
	f.blobs[layerDigest] = func() (io.ReadCloser, int64, error) {
		return struct {
			io.ReadSeeker
			io.Closer
		}{endOnly{strings.NewReader(layerText)}, io.NopCloser(nil)}, int64(len(layerText)), nil
	}
	w := f.do("GET", blobTarget(app, layerDigest))
	if want := errorBody("UNAVAILABLE", "could not read the content"); w.Code != 503 || w.Body.String() != want {
		t.Errorf("got %d %s, want 503 %s", w.Code, w.Body, want)
	}
}

// endOnly seeks to its end and nowhere else.
type endOnly struct{ io.ReadSeeker }

func (e endOnly) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekEnd {
		return 0, errCut
	}
	return e.ReadSeeker.Seek(offset, whence)
}

// TestCutBodiesBreakTheConnection asks over a real connection for content that turns bad after it was announced.
func TestCutBodiesBreakTheConnection(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	d := oci.FromBytes([]byte(long))
	for _, tt := range []struct {
		law  string
		open func() (io.ReadCloser, int64, error)
	}{
		{"a reader that fails", stream(io.MultiReader(strings.NewReader(long[:1<<19]), iotest.ErrReader(errCut)), 1<<20)},
		{"a reader that fails before its last byte", stream(io.MultiReader(strings.NewReader(long[1:]), iotest.ErrReader(oci.ErrMismatch)), 1<<20)},
		{"a reader that ends early", stream(strings.NewReader(long[1:]), 1<<20)},
		{"a reader that panics", stream(panicking{}, 1<<20)},
	} {
		t.Run(tt.law, func(t *testing.T) {
			f, c := everyCase(t)
			f.holders[d] = []gate.Candidate{c["clean"]}
			f.blobs[d] = tt.open
			server := httptest.NewServer(f.proxy)
			defer server.Close()
			if got, err := http.Get(server.URL + blobTarget(app, d)); err == nil { // else broken off before the header went out
				body, err := io.ReadAll(got.Body)
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("the client sees %d bytes and %v, want it to see the cut", len(body), err)
				}
				_ = got.Body.Close()
			}
			server.Close() // the log is complete once nothing is being answered
			if !strings.Contains(f.log.String(), `"broken_off":true`) {
				t.Errorf("logged %s", f.log)
			}
		})
	}
}

type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("a slip") }

// fileTaker is a ResponseWriter that takes files, as that of net/http does.
type fileTaker struct {
	*httptest.ResponseRecorder
	took []io.Reader
}

func (w *fileTaker) ReadFrom(r io.Reader) (int64, error) {
	w.took = append(w.took, r)
	return io.Copy(w.ResponseRecorder, r)
}

func TestFilesGoToTheConnectionAsTheyAre(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, []byte(layerText), 0o600); err != nil {
		t.Fatal(err)
	}
	f, _ := everyCase(t)
	var opened *os.File
	f.blobs[layerDigest] = func() (_ io.ReadCloser, _ int64, err error) {
		opened, err = os.Open(path)
		return opened, int64(len(layerText)), err
	}
	w := &fileTaker{ResponseRecorder: httptest.NewRecorder()}
	f.proxy.ServeHTTP(w, httptest.NewRequest("GET", blobTarget(app, layerDigest), nil))
	if w.Code != 200 || w.Body.String() != layerText || len(w.took) != 1 {
		t.Fatalf("got %d %q by %d copies, want one", w.Code, w.Body, len(w.took))
	}
	limited, ok := w.took[0].(*io.LimitedReader)
	if !ok || limited.R != io.Reader(opened) {
		t.Errorf("the connection was given %T, want the file, limited", w.took[0])
	}
	if _, err := opened.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file was left open: %v", err)
	}
}

func TestAnswerCopiesWhereTheConnectionTakesNoFiles(t *testing.T) {
	w := httptest.NewRecorder()
	a := &answer{ResponseWriter: w}
	n, err := a.ReadFrom(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(errCut)))
	if n != 3 || !errors.Is(err, errCut) || w.Body.String() != "abc" || a.bytes != 3 || a.status != 200 || !errors.Is(a.err, errCut) {
		t.Errorf("got %d, %v; wrote %q; %+v", n, err, w.Body, a)
	}
	if a.Unwrap() != http.ResponseWriter(w) {
		t.Error("what is underneath cannot be reached")
	}
}

func TestForwardReadsOnlyOn(t *testing.T) {
	f := &forward{r: strings.NewReader("0123456789"), size: 10}
	if end, err := f.Seek(0, io.SeekEnd); end != 10 || err != nil {
		t.Fatalf("the end is at %d, %v", end, err)
	}
	if _, err := f.Seek(3, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(1, io.SeekCurrent); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2)
	if _, err := io.ReadFull(f, b); err != nil || string(b) != "45" {
		t.Errorf("got %q, %v; want 45", b, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Read(b); n != 0 || err == nil {
		t.Errorf("it went back: %q, %v", b[:n], err)
	}
}

// FuzzRange holds that whatever range is asked for, the answer is a part of the content, the whole or a refusal, and that content
// that only streams gives the same answer as content that seeks.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-1", "bytes=-3", "bytes=5-", "bytes=14-", "bytes=0-1,3-4", "bytes=2-1", "x=1-2", "bytes=", "bytes=--1", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		ask := func(content io.ReadSeeker) *httptest.ResponseRecorder {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header["Range"] = []string{header}
			w := httptest.NewRecorder()
			a := &answer{ResponseWriter: w}
			if err := writeContent(a, r, oci.Descriptor{MediaType: blobMediaType, Digest: layerDigest, Size: 14}, content); err != nil {
				writeError(a, err)
			}
			return w
		}
		seeking := ask(strings.NewReader(layerText))
		streaming := ask(&forward{r: strings.NewReader(layerText), size: 14})
		if diff := cmp.Diff(seeking.Result().Header, streaming.Result().Header); diff != "" || seeking.Code != streaming.Code || !bytes.Equal(seeking.Body.Bytes(), streaming.Body.Bytes()) {
			t.Fatalf("%q: seeking gives %d %q, streaming %d %q\n%s", header, seeking.Code, seeking.Body, streaming.Code, streaming.Body, diff)
		}
		var from, to, size int
		switch seeking.Code {
		case 200:
			if seeking.Body.String() != layerText {
				t.Fatalf("%q gives %q", header, seeking.Body)
			}
		case 206:
			if _, err := fmt.Sscanf(seeking.Header().Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &size); err != nil || seeking.Body.String() != layerText[from:to+1] {
				t.Fatalf("%q gives %q as %q", header, seeking.Body, seeking.Header().Get("Content-Range"))
			}
		case 416:
		default:
			t.Fatalf("%q gives %d", header, seeking.Code)
		}
		if got := seeking.Header().Get("Content-Length"); got != strconv.Itoa(seeking.Body.Len()) {
			t.Fatalf("%q: %s bytes announced, %d sent", header, got, seeking.Body.Len())
		}
	})
}
