package scan

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/tidewaiter/tidewaiter/gate"
)

// mib is as many zeros as the unit of bombs.
var mib = make([]byte, 1<<20)

// deflated returns data and n times more, deflated. It deflates more once, which takes no time.
func deflated(t testing.TB, data, more []byte, n int) []byte {
	t.Helper()
	block := func(data []byte) []byte {
		var b bytes.Buffer
		w, err := flate.NewWriter(&b, flate.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	const end = "\x01\x00\x00\xff\xff" // an empty stored block, the last
	return slices.Concat(block(data), bytes.Repeat(block(more), n), []byte(end))
}

// gzipBomb returns a gzip of data and n MiB of zeros. Its checksum is wrong: nobody gets that far.
func gzipBomb(t testing.TB, data []byte, n int) []byte {
	t.Helper()
	return slices.Concat([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"), deflated(t, data, mib, n), make([]byte, 8))
}

// zipBomb returns a zip archive of one file, deflated already, that says it has so many bytes.
func zipBomb(t testing.TB, name string, packed []byte, says uint64) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.CreateRaw(&zip.FileHeader{Name: name, Method: zip.Deflate, CompressedSize64: uint64(len(packed)), UncompressedSize64: says})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(packed); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// sparseFile returns the tar entry of a file in GNU's old sparse format: data, and a hole up to size.
func sparseFile(t testing.TB, name, data string, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data)), Format: tar.FormatGNU}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	entry := b.Bytes()
	number := func(at int, n int64) { copy(entry[at:at+12], fmt.Sprintf("%011o\x00", n)) }
	entry[156] = tar.TypeGNUSparse
	number(386, 0)
	number(398, int64(len(data)))
	number(410, size)
	number(422, 0)
	copy(entry[483:495], fmt.Sprintf("%011o\x00", size))
	copy(entry[148:156], "        ")
	sum := int64(0)
	for _, c := range entry[:512] {
		sum += int64(c)
	}
	copy(entry[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return entry
}

// emptyEntries returns a mebibyte of tar entries of empty files, all of one name.
func emptyEntries(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "f", Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	return bytes.Repeat(b.Bytes(), 1<<20/b.Len())
}

func TestBombs(t *testing.T) {
	l := startLayers(t, Options{Workers: 1})
	const gib = 1 << 10 // MiB
	var large bytes.Buffer
	if err := tar.NewWriter(&large).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Size: 8 << 30}); err != nil {
		t.Fatal(err)
	}
	inner := deflated(t, nil, mib, 3*gib)
	needy := deflated(t, []byte("Name: a\nVersion: 1\n"), bytes.Repeat([]byte("Requires-Dist: tidewaiter-tidewaiter-tidewaiter\n"), 1<<15), 4*gib)
	var window bytes.Buffer // of a harmless layer, in a frame that asks for twice the memory we give
	w, err := zstd.NewWriter(&window, zstd.WithWindowSize(2*maxWindowBytes), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	harmless := io.MultiReader(bytes.NewReader(tarball(t, regular("package.json", lodash))), io.LimitReader(zeros{}, 1<<20))
	if _, err := io.Copy(w, struct{ io.Reader }{harmless}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, mediaType string
		layer           []byte
		heavy           bool           // takes seconds
		want            []gate.GapKind // one of; nil for no gap
	}{
		{"zeros for ever", typeGzip, gzipBomb(t, nil, 8*gib), true, []gate.GapKind{gate.GapLimit}},
		{"a file of zeros", typeGzip, gzipBomb(t, large.Bytes(), 8*gib), true, []gate.GapKind{gate.GapLimit}},
		{"zeros for ever, in zstd", typeZstd, bytes.Repeat(zstded(t, bytes.Repeat(mib, 64)), 64), true, []gate.GapKind{gate.GapLimit}},
		{"ten million entries", typeGzip, slices.Concat([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"), deflated(t, nil, emptyEntries(t), 10_000_000/2048), make([]byte, 8)), true, []gate.GapKind{gate.GapLimit}},
		{"an executable that is a hole", typeTar, sparseFile(t, "huge", elfMagic, 7<<30), true, nil},
		{"many that are holes", typeTar, bytes.Repeat(sparseFile(t, "usr/bin/e", elfMagic, maxFileBytes), 1000), true, []gate.GapKind{gate.GapLimit}},
		{"a package database that is a hole", typeTar, sparseFile(t, "var/lib/dpkg/status", "Package: a\n", 7<<30), false, []gate.GapKind{gate.GapLimit}},
		{"a jar in a jar", typeTar, tarball(t, regular("a.jar", zipBomb(t, "b.jar", inner, 3<<30))), false, []gate.GapKind{gate.GapLimit}},
		{"a jar in a jar that lies about it", typeTar, tarball(t, regular("a.jar", zipBomb(t, "b.jar", inner, 1000))), false, []gate.GapKind{gate.GapUnreadablePackage}},
		// Who notices that there is no memory left, the runtime or the race detector, is not ours to say.
		{"a wheel that needs everything", typeTar, tarball(t, regular("a.whl", zipBomb(t, "a.dist-info/METADATA", needy, 4<<30))), true, []gate.GapKind{gate.GapLimit, gate.GapScanner}},
		{"a zstd window larger than memory", typeZstd, window.Bytes(), false, []gate.GapKind{gate.GapUnreadableLayer}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.heavy && testing.Short() {
				t.Skip("it unpacks some gigabytes")
			}
			got, err := l.ReadLayer(t.Context(), descriptor(tt.mediaType, tt.layer), bytes.NewReader(tt.layer), gate.Look{})
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Gaps) != min(1, len(tt.want)) || len(tt.want) > 0 && !slices.Contains(tt.want, got.Gaps[0].Kind) {
				t.Errorf("gaps %v, want one of kind %v", got.Gaps, tt.want)
			}
		})
	}
}
