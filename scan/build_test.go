package scan

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Media types of layers as images name them.
const (
	typeTar  = "application/vnd.oci.image.layer.v1.tar"
	typeGzip = "application/vnd.oci.image.layer.v1.tar+gzip"
	typeZstd = "application/vnd.oci.image.layer.v1.tar+zstd"
)

// entry returns a tar entry. The content of a regular file is data.
type entry struct {
	header tar.Header
	data   string
}

func regular(name, data string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data}
}

func executable(name, data string) entry {
	e := regular(name, data)
	e.header.Mode = 0o755
	return e
}

func directory(name string) entry {
	return entry{header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

func symlink(name, target string) entry {
	return entry{header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}}
}

func hardLink(name, target string) entry {
	return entry{header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}
}

// tarball returns entries as a tar stream.
func tarball(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// readTar returns the inventory of a plain tar, in this process.
func readTar(t testing.TB, entries ...entry) gate.LayerInventory {
	t.Helper()
	return takeInventory(t.Context(), bytes.NewReader(tarball(t, entries...)), order{encoding: encodingPlain}, t.TempDir())
}

// descriptor returns the descriptor of a layer.
func descriptor(mediaType string, layer []byte) oci.Descriptor {
	return oci.Descriptor{MediaType: mediaType, Digest: oci.FromBytes(layer), Size: int64(len(layer))}
}

// startLayers returns Layers that are closed with the test.
func startLayers(t testing.TB, o Options) *Layers {
	t.Helper()
	l, err := NewLayers(o)
	needsSandbox(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// gapKinds returns the kinds of gaps, in order, or nil.
func gapKinds(gaps []gate.Gap) []gate.GapKind {
	var kinds []gate.GapKind
	for _, g := range gaps {
		kinds = append(kinds, g.Kind)
	}
	return kinds
}
