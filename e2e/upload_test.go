package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// pattern is a long blob that needs no memory: the same block again and again, each time numbered. It implements io.ReaderAt.
type pattern struct {
	block []byte
	size  int64
}

const patternBlock = 1 << 16

func newPattern(size int64) pattern { return pattern{ocitest.Random(patternBlock, 7), size} }

func (p pattern) ReadAt(b []byte, at int64) (n int, err error) {
	for n < len(b) && at < p.size {
		offset := at % patternBlock
		copied := copy(b[n:], p.block[offset:min(patternBlock, offset+p.size-at)])
		for i := range copied { // numbered, so that a block in another's place is noticed
			if offset+int64(i) == 0 {
				b[n] ^= byte(at/patternBlock) + 1
			}
		}
		n, at = n+copied, at+int64(copied)
	}
	if n < len(b) {
		err = io.EOF
	}
	return n, err
}

func (p pattern) digest(t *testing.T) oci.Digest {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(p, 0, p.size)); err != nil {
		t.Fatal(err)
	}
	return oci.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil)))
}

// cutAfter breaks off after n bytes.
type cutAfter struct {
	r io.Reader
	n int64
}

var errCut = errors.New("the line is cut")

func (c *cutAfter) Read(p []byte) (int, error) {
	if c.n == 0 {
		return 0, errCut
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.n)])
	c.n -= int64(n)
	return n, err
}

// peakMemory returns the most memory a process has had, in bytes: all of it, and what of it was not the program's own file, whose pages
// the kernel can drop at any time.
func peakMemory(t *testing.T, p *server) (all, own int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	read := func(key string) int64 {
		for row := range strings.Lines(string(status)) {
			if kib, ok := strings.CutPrefix(row, key+":"); ok {
				n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return n << 10
			}
		}
		t.Fatalf("the kernel does not tell %s", key)
		return 0
	}
	all = read("VmHWM")
	return all, all - read("RssFile")
}

// TestInterruptedUpload uploads a layer of 1 GiB over a line that is cut five times, once with the process.
func TestInterruptedUpload(t *testing.T) {
	const maxMemory = 64 << 20
	layer := newPattern(1 << 30)
	if testing.Short() {
		layer.size = 64 << 20
	}
	digest := layer.digest(t)
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	config := s.write(t)
	p := serve(t, config)
	at := pusher{t, p, "ci"}.must(202, "POST", "/v2/apps/web/blobs/uploads/", nil).header.Get("Location")
	offset := int64(0)
	for i, part := range []float64{0.1, 0.3, 0.35, 0.7, 0.95} {
		until := int64(part * float64(layer.size))
		body := &cutAfter{io.NewSectionReader(layer, offset, layer.size-offset), until - offset}
		req, err := http.NewRequestWithContext(t.Context(), "PATCH", "http://"+p.registry+at, body)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("ci", everybodysPassword)
		req.ContentLength = layer.size - offset
		req.Header.Set("Content-Range", fmt.Sprintf("%d-%d", offset, layer.size-1))
		if resp, err := http.DefaultClient.Do(req); !errors.Is(err, errCut) {
			t.Fatalf("cut %d: got %v, %v", i, resp, err)
		}
		if i == 2 { // the next process goes on
			if _, own := peakMemory(t, p); own > maxMemory {
				t.Errorf("the first process had %d MiB of memory, want at most %d", own>>20, maxMemory>>20)
			}
			p.kill()
			p = serve(t, config)
		}
		var r reply
		eventually(t, "the proxy notices that the line is cut", func() bool {
			r = pusher{t, p, "ci"}.send("GET", at, nil)
			return r.status == 204
		})
		var last int64
		if _, err := fmt.Sscanf(r.header.Get("Range"), "0-%d", &last); err != nil || last >= until || last+1 < offset {
			t.Fatalf("cut %d: got range %q, want one that ends from %d to %d", i, r.header.Get("Range"), offset, until)
		}
		offset = last + 1
	}
	ci := pusher{t, p, "ci"}
	rest := io.NewSectionReader(layer, offset, layer.size-offset)
	ci.must(416, "PATCH", at, bytes.NewReader([]byte("x")), "Content-Range", fmt.Sprintf("%d-%d", offset+5, offset+5))
	ci.must(201, "PUT", at+"?digest="+digest.String(), rest, "Content-Range", fmt.Sprintf("%d-%d", offset, layer.size-1))
	all, own := peakMemory(t, p)
	if own > maxMemory {
		t.Errorf("the proxy had %d MiB of memory, want at most %d", own>>20, maxMemory>>20)
	}
	t.Logf("%d MiB over five cuts, at most %d MiB of memory, %d with the program itself", layer.size>>20, own>>20, all>>20)
	if r := ci.must(200, "HEAD", "/v2/apps/web/blobs/"+digest.String(), nil); r.header.Get("Content-Length") != strconv.FormatInt(layer.size, 10) {
		t.Errorf("the blob has %s bytes, want %d", r.header.Get("Content-Length"), layer.size)
	}
	p.stop(t)
}

// TestUploadsThatAreWrong: nothing is kept of a blob that is another one than announced.
func TestUploadsThatAreWrong(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	p := s.serve(t)
	ci := pusher{t, p, "ci"}
	content := []byte("what arrives")
	arrives, announced := oci.FromBytes(content), oci.FromBytes([]byte("what was announced"))
	at := ci.must(202, "POST", "/v2/apps/web/blobs/uploads/", nil).header.Get("Location")
	ci.must(400, "PUT", at+"?digest="+announced.String(), bytes.NewReader(content))
	for _, d := range []oci.Digest{arrives, announced} {
		ci.must(404, "HEAD", "/v2/apps/web/blobs/"+d.String(), nil)
	}
	ci.must(404, "GET", at, nil)
	t.Run("another repository's upload is not known", func(t *testing.T) {
		at := ci.must(202, "POST", "/v2/apps/web/blobs/uploads/", nil).header.Get("Location")
		ci.must(404, "GET", strings.Replace(at, "apps/web", "apps/api", 1), nil)
	})
}
