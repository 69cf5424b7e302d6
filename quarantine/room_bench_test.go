package quarantine_test

import (
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/quarantine"
)

// BenchmarkRoom measures, on plain files, what it takes to look through a thousand images of two layers, and to evict one.
func BenchmarkRoom(b *testing.B) {
	const images = 1000
	root, source := b.TempDir(), newFakeSource()
	q, err := quarantine.New(source, filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 32}), root,
		filepath.Join(root, "tidewaiter", "spool"), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = q.Close() })
	r := q.Room(time.Now)
	fill := func(n int) gate.Candidate {
		c := source.image(b, repoA, source.put(repoA, fmt.Appendf(nil, "first %d", n)), source.put(repoA, fmt.Appendf(nil, "second %d", n)))
		held, err := q.Hold(b.Context(), c)
		if err != nil {
			b.Fatal(err)
		}
		for _, desc := range held.Manifest.Blobs() {
			read(b, q, c, desc)
		}
		return c
	}
	for n := range images {
		fill(n)
	}
	for name, do := range map[string]func() error{
		"count": func() error { return r.Count(b.Context()) },
		"sweep": func() error { _, err := r.Sweep(b.Context(), never); return err },
		"list":  func() error { return r.Images(b.Context(), func(gate.Candidate, time.Time) error { return nil }) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("evict", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			c := fill(images)
			b.StartTimer()
			if _, done, err := r.Evict(b.Context(), c, ever); err != nil || !done {
				b.Fatal(done, err)
			}
		}
	})
}

func read(b *testing.B, q *quarantine.Quarantine, c gate.Candidate, desc oci.Descriptor) {
	b.Helper()
	r, err := q.Open(b.Context(), c, desc)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = r.Close() }() // it was only read
	if _, err := io.Copy(io.Discard, r); err != nil {
		b.Fatal(err)
	}
}
