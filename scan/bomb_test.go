package scan

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
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

// gzipBomb returns a gzip of data and n times more. Its checksum is wrong: nobody gets that far.
func gzipBomb(t testing.TB, data, more []byte, n int) []byte {
	t.Helper()
	return slices.Concat([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"), deflated(t, data, more, n), make([]byte, 8))
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
	entry := entryOf(t, tar.Header{Name: "f", Mode: 0o644})
	return bytes.Repeat(entry, 1<<20/len(entry))
}

// wideWindow returns a zstd frame of a harmless layer that asks for twice the memory we give.
func wideWindow(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(2*maxWindowBytes), zstd.WithSingleSegment(false))
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
	return b.Bytes()
}

// noise returns n bytes that mean nothing, and that deflate makes fewer of: they repeat every few kilobytes.
func noise(n int) []byte {
	block := random(8 << 10)
	return bytes.Repeat(block, n/len(block)+1)[:n]
}

// random returns n bytes, always the same, that deflate makes no fewer.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{'n', 'o', 'i', 's', 'e'}).Read(b) // which never fails
	return b
}

// berkeleyRing returns an rpm database of Berkeley DB, in pages of 4 KiB: page 0 tells of the whole, page 1 has a package that begins on
// page 2, and goes on there when it has ended.
func berkeleyRing() string {
	const pageBytes = 4096
	pages := make([]byte, 3*pageBytes)
	word := func(page, at int, n uint32) { binary.LittleEndian.PutUint32(pages[page*pageBytes+at:], n) }
	half := func(page, at int, n uint16) { binary.LittleEndian.PutUint16(pages[page*pageBytes+at:], n) }
	word(0, 12, 0x061561) // the mark of a hash
	word(0, 16, 9)
	word(0, 20, pageBytes)
	pages[25] = 8  // page 0 is what it tells of itself,
	word(0, 32, 2) // and the last is page 2
	word(0, 88, 1)
	half(1, 20, 2)            // a key and a value,
	pages[pageBytes+25] = 13  // on a page of a hash,
	half(1, 28, 64)           // the value at 64
	pages[pageBytes+64] = 3   // and elsewhere:
	word(1, 64+4, 2)          // on page 2,
	word(1, 64+8, 1<<30)      // a gibibyte of it
	word(2, 16, 2)            // of which the next is page 2,
	pages[2*pageBytes+25] = 7 // all of it content
	return string(pages)
}

// ndbGreed returns an rpm database of rpm's own format, with a package that says it has four gibibytes.
func ndbGreed() string {
	const pageBytes = 4096
	file := make([]byte, 2*pageBytes)
	copy(file, "RpmP")
	file[12] = 1 // one page of slots
	for at := 32; at < pageBytes; at += 16 {
		copy(file[at:], "Slot")
	}
	file[36], file[40], file[41] = 1, 0, 1 // the first is of package 1, at block 256
	copy(file[pageBytes:], "BlbS\x01\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff")
	return string(file)
}

// longName returns the tar entry of an empty file with a name as long as is read of one.
func longName(t testing.TB) []byte {
	t.Helper()
	return entryOf(t, tar.Header{Name: strings.Repeat("n", 1<<20-4096), Mode: 0o644, Format: tar.FormatGNU})
}

// entryOf returns a tar entry without content, and no end.
func entryOf(t testing.TB, h tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// ladder returns tar entries of symbolic links, each to the next by a long way round, and a file behind all of them.
func ladder(t testing.TB) (links, file []byte) {
	t.Helper()
	const rungs = 200
	for i := range rungs {
		links = append(links, entryOf(t, tar.Header{
			Typeflag: tar.TypeSymlink, Name: fmt.Sprint("l", i), Linkname: strings.Repeat("d/../", 800) + fmt.Sprint("l", i+1), Format: tar.FormatGNU,
		})...)
	}
	// Two by turns, or the second would be known from the first.
	file = append(entryOf(t, tar.Header{Name: "l0/f", Mode: 0o644}), entryOf(t, tar.Header{Name: "l1/f", Mode: 0o644})...)
	return links, file
}
