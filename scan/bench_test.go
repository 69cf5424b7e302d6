package scan

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
)

// largeLayer returns a gzipped layer such as an application's: text that packs well, executables that do not, a node_modules with
// many small files, a dpkg database. It is the same each time.
func largeLayer(tb testing.TB) []byte {
	tb.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("tide waiter cargo ashore harbour manifest customs officer vessel berth quay crane hold deck")
	text := func(n int) string {
		var b strings.Builder
		for b.Len() < n {
			b.WriteString(words[random.IntN(len(words))])
			b.WriteByte(" \n"[random.IntN(2)])
		}
		return b.String()
	}
	noise := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.IntN(64))
		}
		return string(b)
	}
	var status strings.Builder
	for i := range 400 {
		fmt.Fprintf(&status, "Package: p%d\nStatus: install ok installed\nVersion: 1.%d-1\nArchitecture: amd64\nDescription: %s\n\n", i, i, strings.ReplaceAll(text(300), "\n", " "))
	}
	entries := []entry{regular("var/lib/dpkg/status", status.String())}
	for i := range 800 {
		dir := fmt.Sprintf("app/node_modules/m%d/", i)
		entries = append(entries, regular(dir+"package.json", fmt.Sprintf(`{"name":"m%d","version":"1.0.%d","description":%q}`, i, i, text(200))))
		for j := range 20 {
			entries = append(entries, regular(fmt.Sprintf("%slib/f%d.js", dir, j), text(2000+random.IntN(4000))))
		}
		entries = append(entries, symlink(fmt.Sprintf("app/node_modules/.bin/m%d", i), fmt.Sprintf("../m%d/lib/f0.js", i)))
	}
	for i := range 12 {
		entries = append(entries, executable(fmt.Sprintf("usr/bin/e%d", i), elfMagic+noise(3<<20)))
	}
	return gzipped(tb, tarball(tb, entries...))
}

// BenchmarkDecompressOnly is the floor: what no reader of a layer can go below.
func BenchmarkDecompressOnly(b *testing.B) {
	layer := largeLayer(b)
	var n int64
	for b.Loop() {
		r, err := decoder(bytes.NewReader(layer), encodingGzip)
		if err != nil {
			b.Fatal(err)
		}
		if n, err = io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(n)
}

// BenchmarkInventoryLayer is the whole way: child, pipe, decompression, hash, walk, readers, answer.
func BenchmarkInventoryLayer(b *testing.B) {
	layer := largeLayer(b)
	l, err := NewLayers(Options{Workers: 2})
	needsSandbox(b, err)
	b.Cleanup(func() { _ = l.Close() })
	var n int64
	for b.Loop() {
		inv, err := l.ReadLayer(b.Context(), descriptor(typeGzip, layer), bytes.NewReader(layer), gate.Look{})
		if err != nil || len(inv.Gaps) > 0 || len(inv.Files) != 1+800+12 {
			b.Fatalf("%d files, gaps %v, %v", len(inv.Files), inv.Gaps, err)
		}
		n = inv.UncompressedBytes
	}
	b.SetBytes(n)
}

// BenchmarkSmallLayer is what reading a layer costs that has next to nothing in it.
func BenchmarkSmallLayer(b *testing.B) {
	layer := gzipped(b, tarball(b, regular("etc/hostname", "tide\n")))
	l, err := NewLayers(Options{Workers: 2})
	needsSandbox(b, err)
	b.Cleanup(func() { _ = l.Close() })
	for b.Loop() {
		if _, err := l.ReadLayer(b.Context(), descriptor(typeGzip, layer), bytes.NewReader(layer), gate.Look{}); err != nil {
			b.Fatal(err)
		}
	}
}
