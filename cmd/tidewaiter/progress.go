package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/upstream"
)

const (
	// redrawEvery is how often the bar is drawn at most: what moves faster cannot be read.
	redrawEvery = 100 * time.Millisecond
	// barCells is how many cells the bar has. The whole line fits a terminal of 80 columns.
	barCells = 30
)

// eraseLine takes a terminal back to the start of an empty line (ECMA-48, EL).
const eraseLine = "\r\x1b[K"

// progress is a bar on a terminal that tells how much of the blobs that were begun has come. It is safe for concurrent use; nil shows
// nothing. Who writes to the same terminal does so through it.
type progress struct {
	out io.Writer
	now func() time.Time

	mu sync.Mutex
	// All below is guarded by mu.
	blobs           int // begun
	received, total int64
	drawnAt         time.Time
	drawn           bool
}

// newProgress returns a bar on w if that is a terminal, else nil.
func newProgress(w io.Writer) *progress {
	if f, ok := w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &progress{out: w, now: time.Now}
}

// begin counts a blob of so many bytes.
func (p *progress) begin(size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blobs++
	p.total += size
	p.draw()
}

// add counts bytes that came.
func (p *progress) add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.received += n
	p.draw()
}

// abandon takes back what will not come of a blob.
func (p *progress) abandon(missing int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total -= missing
	p.draw()
}

// draw draws the bar if it is time. It is called with mu held.
func (p *progress) draw() {
	now := p.now()
	if p.drawn && now.Sub(p.drawnAt) < redrawEvery && p.received < p.total {
		return
	}
	p.drawn, p.drawnAt = true, now
	full := barCells
	if p.total > 0 {
		full = int(int64(barCells) * min(p.received, p.total) / p.total)
	}
	bar := strings.Repeat("#", full) + strings.Repeat(".", barCells-full)
	noun := "blobs"
	if p.blobs == 1 {
		noun = "blob"
	}
	_, _ = fmt.Fprintf(p.out, eraseLine+"fetching %d %s [%s] %s of %s", p.blobs, noun, bar, mebibytes(p.received), mebibytes(p.total)) // as talk
}

// Write writes what others have to say, where the bar was.
func (p *progress) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	return p.out.Write(text)
}

// end takes the bar away.
func (p *progress) end() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

func (p *progress) erase() {
	if p.drawn {
		_, _ = io.WriteString(p.out, eraseLine) // as talk
		p.drawn = false
	}
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// shown is upstreams whose blobs are told of on a bar.
type shown struct {
	*upstream.Registries
	bar *progress
}

// Blob implements quarantine.Source and advisories.Registry.
func (s shown) Blob(ctx context.Context, repo oci.Repository, desc oci.Descriptor) (io.ReadCloser, error) {
	blob, err := s.Registries.Blob(ctx, repo, desc)
	if err != nil || s.bar == nil {
		return blob, err
	}
	s.bar.begin(desc.Size)
	return &shownBlob{ReadCloser: blob, bar: s.bar, missing: desc.Size}, nil
}

type shownBlob struct {
	io.ReadCloser
	bar     *progress
	missing int64
}

func (b *shownBlob) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.missing -= int64(n)
	b.bar.add(int64(n))
	return n, err
}

func (b *shownBlob) Close() error {
	if b.missing > 0 {
		b.bar.abandon(b.missing)
		b.missing = 0
	}
	return b.ReadCloser.Close()
}
