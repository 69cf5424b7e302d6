package scan

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

const statusTwoPackages = `Package: bash
Essential: yes
Status: install ok installed
Priority: required
Section: shells
Installed-Size: 7164
Maintainer: Matthias Klose <doko@debian.org>
Architecture: amd64
Multi-Arch: foreign
Version: 5.2.15-2+b8
Source: bash (5.2.15-2)
Depends: base-files (>= 2.1.12), debianutils (>= 5.6-0.1)
Conffiles:
 /etc/bash.bashrc 89269e1298235f1b12b4c16e4065ad0d
Description: GNU Bourne Again SHell

Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.2.13.dfsg-1
Source: zlib
Description: compression library - runtime
`

var packagesTwo = []gate.Package{
	{Type: "deb", Name: "bash", Version: "5.2.15-2+b8", Arch: "amd64", Source: "bash", SourceVersion: "5.2.15-2"},
	{Type: "deb", Name: "zlib1g", Version: "1:1.2.13.dfsg-1", Arch: "amd64", Source: "zlib", SourceVersion: "1:1.2.13.dfsg-1"},
}

func TestReadLayerOfEveryEncoding(t *testing.T) {
	l := startLayers(t, Options{Workers: 2})
	plain := tarball(t, regular("var/lib/dpkg/status", statusTwoPackages))
	for _, tt := range []struct {
		compression, mediaType string
		layer                  []byte
	}{
		{gate.CompressionNone, typeTar, plain},
		{gate.CompressionGzip, typeGzip, gzipped(t, plain)},
		{gate.CompressionZstd, typeZstd, zstded(t, plain)},
	} {
		t.Run(tt.compression, func(t *testing.T) {
			desc := descriptor(tt.mediaType, tt.layer)
			got, err := l.ReadLayer(t.Context(), desc, bytes.NewReader(tt.layer), gate.Look{})
			if err != nil {
				t.Fatal(err)
			}
			want := gate.LayerInventory{
				Format: gate.InventoryFormat, Layer: desc.Digest, Compression: tt.compression, DiffID: oci.FromBytes(plain), UncompressedBytes: int64(len(plain)), Entries: 1,
				Files: []gate.FileInventory{{Path: "var/lib/dpkg/status", Packages: packagesTwo}},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("inventory (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadLayerGoesByTheBytes(t *testing.T) {
	l := startLayers(t, Options{Workers: 2})
	plain := tarball(t, regular("package.json", lodash))
	for name, tt := range map[string]struct {
		layer       []byte
		compression string
		want        []gate.GapKind
	}{
		"a plain tar": {plain, gate.CompressionNone, nil},
		"gzip":        {gzipped(t, plain), gate.CompressionGzip, nil},
		"zstd":        {zstded(t, plain), gate.CompressionZstd, nil},
		"xz":          {append([]byte("\xfd7zXZ\x00"), plain...), "", []gate.GapKind{gate.GapUnreadableLayer}},
		"bzip2":       {append([]byte("BZh91AY"), plain...), "", []gate.GapKind{gate.GapUnreadableLayer}},
		"nothing":     {nil, gate.CompressionNone, []gate.GapKind{}},
	} {
		for _, mediaType := range []string{typeTar, typeGzip, typeZstd, "application/vnd.wasm.content.layer.v1+wasm", ""} {
			t.Run(name+" called "+mediaType, func(t *testing.T) {
				r := &countedReader{r: bytes.NewReader(tt.layer)}
				got, err := l.ReadLayer(t.Context(), descriptor(mediaType, tt.layer), r, gate.Look{})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(gapKinds(got.Gaps), tt.want, cmpopts.EquateEmpty()); diff != "" || got.Compression != tt.compression {
					t.Errorf("compression %q, want %q; gaps, got/want:\n%s\n%v", got.Compression, tt.compression, diff, got.Gaps)
				}
				if (len(got.Files) == 1) != (len(tt.want) == 0 && len(tt.layer) > 0) {
					t.Errorf("files %v beside gaps %v", got.Files, got.Gaps)
				}
				for _, g := range got.Gaps {
					if g.Layer != oci.FromBytes(tt.layer) {
						t.Errorf("a gap of layer %q", g.Layer)
					}
				}
				if !r.ended {
					t.Error("the layer was not read to its end")
				}
			})
		}
	}
}

// countedReader reads r and remembers whether it was read to its end.
type countedReader struct {
	r     io.Reader
	ended bool
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.ended = c.ended || errors.Is(err, io.EOF)
	return n, err
}

// spinSeconds is the processor time of a child that takes all it is given.
const spinSeconds = 1

// impostorLayers returns Layers whose children are impostors.
func impostorLayers(t *testing.T, arg string) *Layers {
	t.Helper()
	busy := time.Hour
	if arg == "impostor-hanging" { // which takes any time it is given
		busy = 100 * time.Millisecond
	}
	cpuSeconds := uint64(maxCPUSeconds)
	if strings.HasPrefix(arg, "impostor-spinning") { // which takes as much as it is given
		cpuSeconds = spinSeconds
	}
	dir := t.TempDir()
	l, err := newLayers(Options{Workers: 1}, settings{arg: arg, tempDir: dir, outputBytes: 1 << 20, busy: busy, cpuSeconds: cpuSeconds})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	return l
}

func TestChildThatFailsIsAGap(t *testing.T) {
	large := tarball(t, regular("noise", strings.Repeat("x", 2<<20))) // more than a pipe holds
	for _, tt := range []struct {
		arg  string
		want gate.GapKind
	}{
		{"impostor-dying", gate.GapScanner},
		{"impostor-dying-late", gate.GapScanner},
		{"impostor-refusing", gate.GapScanner},
		{"impostor-lying", gate.GapScanner},
		{"impostor-hanging", gate.GapScanner},
		{"impostor-flooding", gate.GapLimit},
		{"impostor-hungry", gate.GapLimit},
	} {
		t.Run(tt.arg, func(t *testing.T) {
			l := impostorLayers(t, tt.arg)
			desc, r := descriptor(typeTar, large), &countedReader{r: bytes.NewReader(large)}
			got, err := l.ReadLayer(t.Context(), desc, r, gate.Look{})
			if err != nil {
				t.Fatal(err)
			}
			if kinds := gapKinds(got.Gaps); !slices.Equal(kinds, []gate.GapKind{tt.want}) {
				t.Fatalf("gaps %v, want one of kind %s", got.Gaps, tt.want)
			}
			want := gate.LayerInventory{
				Format: gate.InventoryFormat, Layer: desc.Digest, Gaps: []gate.Gap{{Kind: tt.want, Layer: desc.Digest, Why: got.Gaps[0].Why}},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("inventory (-want +got):\n%s", diff)
			}
			if !r.ended {
				t.Error("the layer was not read to its end")
			}
		})
	}
}

// A whole answer is checked for what it says. That whoever gave it ends well adds nothing: in somebody's hands it would.
func TestAnAnswerDoesNotWaitForTheChildToEnd(t *testing.T) {
	l := impostorLayers(t, "impostor-lingering") // whose end its Close waits for
	layer := tarball(t, regular("noise", "x"))
	got, err := l.ReadLayer(t.Context(), descriptor(typeTar, layer), bytes.NewReader(layer), gate.Look{})
	if err != nil || len(got.Gaps) > 0 || got.DiffID == "" {
		t.Errorf("got %+v, %v, want the answer it gave", got, err)
	}
}

func TestLayerIsReadToItsEndWhenTheChildAnswersEarly(t *testing.T) {
	l := impostorLayers(t, "impostor-early")
	large := tarball(t, regular("noise", strings.Repeat("x", 2<<20)))
	r := &countedReader{r: bytes.NewReader(large)}
	got, err := l.ReadLayer(t.Context(), descriptor(typeTar, large), r, gate.Look{})
	if err != nil || got.Gaps != nil || !r.ended {
		t.Errorf("gaps %v, error %v, read to its end %t", got.Gaps, err, r.ended)
	}
}

func TestChildThatCannotStart(t *testing.T) {
	for _, tt := range []struct {
		arg    string
		unsafe bool
		want   string // in the error; empty for none
	}{
		{"impostor-silent", false, "EOF"},
		{"impostor-rude", true, "invalid character"},
		{"impostor-unconfined", false, "UnsafeUnsandboxed"},
		{"impostor-unconfined", true, ""},
	} {
		t.Run(tt.arg, func(t *testing.T) {
			dir := t.TempDir()
			l, err := newLayers(Options{Workers: 1, UnsafeUnsandboxed: tt.unsafe}, settings{arg: tt.arg, tempDir: dir, outputBytes: 1 << 20, busy: time.Minute, cpuSeconds: maxCPUSeconds})
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if got, want := l.Sandbox(), "seccomp"; got != want || l.Confined() {
					t.Errorf("sandbox %q, want %q, which is not all of one", got, want)
				}
				err = l.Close()
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

var errCut = errors.New("upstream hung up")

func TestSourceThatFailsIsAnError(t *testing.T) {
	l := startLayers(t, Options{Workers: 1})
	layer := gzipped(t, tarball(t, regular("var/lib/dpkg/status", statusTwoPackages)))
	for _, tt := range []struct {
		name, mediaType string
		source          io.Reader
		want            error
	}{
		{"in the middle", typeGzip, io.MultiReader(bytes.NewReader(layer[:100]), failing{errCut}), errCut},
		{"in place of its end", typeGzip, io.MultiReader(bytes.NewReader(layer), failing{oci.ErrMismatch}), oci.ErrMismatch},
		{"of a type that is not looked into", "application/octet-stream", io.MultiReader(bytes.NewReader(layer), failing{oci.ErrMismatch}), oci.ErrMismatch},
		{"after the child has seen enough", typeGzip, io.MultiReader(strings.NewReader(strings.Repeat("no gzip", 1<<18)), failing{errCut}), errCut},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := l.ReadLayer(t.Context(), descriptor(tt.mediaType, layer), tt.source, gate.Look{})
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if diff := cmp.Diff(gate.LayerInventory{}, got); diff != "" {
				t.Errorf("an inventory beside an error:\n%s", diff)
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestCancelledReadingIsAnError(t *testing.T) {
	l := impostorLayers(t, "impostor-waiting")
	for _, tt := range []struct {
		name string
		r    func(cancel context.CancelFunc) io.Reader
	}{
		{"before it begins", func(cancel context.CancelFunc) io.Reader { cancel(); return strings.NewReader("x") }},
		{"while the layer comes", func(cancel context.CancelFunc) io.Reader {
			return io.MultiReader(strings.NewReader("x"), calling{cancel}, zeros{})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, err := l.ReadLayer(ctx, descriptor(typeTar, nil), tt.r(cancel), gate.Look{})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want %v", err, context.Canceled)
			}
		})
	}
}

// calling calls a function and is at its end.
type calling struct{ call func() }

func (c calling) Read([]byte) (int, error) {
	c.call()
	return 0, io.EOF
}

func TestClosedLayersReadNothing(t *testing.T) {
	l, err := NewLayers(Options{Workers: 1})
	needsSandbox(t, err)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if _, err := l.ReadLayer(t.Context(), descriptor(typeTar, nil), strings.NewReader(""), gate.Look{}); !errors.Is(err, ErrClosed) {
		t.Errorf("error %v, want %v", err, ErrClosed)
	}
}

func TestManyLayersAtOnce(t *testing.T) {
	l := startLayers(t, Options{Workers: 2})
	layer := gzipped(t, tarball(t, regular("package.json", lodash)))
	want, err := l.ReadLayer(t.Context(), descriptor(typeGzip, layer), bytes.NewReader(layer), gate.Look{})
	if err != nil {
		t.Fatal(err)
	}
	const readings = 12
	results := make(chan gate.LayerInventory, readings)
	for range readings {
		go func() {
			got, err := l.ReadLayer(t.Context(), descriptor(typeGzip, layer), bytes.NewReader(layer), gate.Look{})
			if err != nil {
				t.Error(err)
			}
			results <- got
		}()
	}
	for range readings {
		if diff := cmp.Diff(want, <-results); diff != "" {
			t.Errorf("inventory (-want +got):\n%s", diff)
		}
	}
}

func TestNegativeWorkersAreRefused(t *testing.T) {
	if _, err := NewLayers(Options{Workers: -1}); err == nil {
		t.Error("no error")
	}
}
