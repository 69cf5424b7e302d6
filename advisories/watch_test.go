package advisories

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWatch(t *testing.T) {
	f := newTestFolder(t)
	if _, err := f.Import(t.Context(), writeTest(t, filepath.Join(t.TempDir(), "a"), packed(t, 2*time.Hour, "CVE-2026-0001")), Proof{}); err != nil {
		t.Fatal(err)
	}
	for law, change := range map[string]func(t *testing.T){
		"an import is noticed": func(t *testing.T) {
			if _, err := f.Import(t.Context(), writeTest(t, filepath.Join(t.TempDir(), "a"), packed(t, time.Hour, "CVE-2026-0002")), Proof{}); err != nil {
				t.Error(err)
			}
		},
		"a record in a new directory is noticed": func(t *testing.T) { writeTest(t, filepath.Join(f.Path(), overlayName, "a.json"), []byte("{}")) },
		"another directory is noticed": func(t *testing.T) {
			next := filepath.Join(t.TempDir(), "next")
			if err := errors.Join(os.Mkdir(next, 0o755), os.Rename(f.Path(), f.Path()+".old"), os.Rename(next, f.Path())); err != nil {
				t.Error(err)
			}
		},
		"a file laid there is noticed": func(t *testing.T) { writeTest(t, filepath.Join(f.Path(), databaseName), []byte("db")) },
	} {
		t.Run(law, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it only ends a test that hangs
			defer cancel()
			told := make(chan struct{}, 16)
			ended := make(chan error, 1)
			go func() { ended <- Watch(ctx, f.Path(), func(context.Context) { told <- struct{}{} }) }()
			await := func(what string) {
				select {
				case <-told:
				case <-ctx.Done():
					t.Fatalf("%s was not told", what)
				}
			}
			await("the beginning")
			change(t)
			await("the change")
			if law == "another directory is noticed" {
				writeTest(t, filepath.Join(f.Path(), metadataName), []byte("{}"))
				await("a change in the other directory")
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("what is not there cannot be watched", func(t *testing.T) {
		if err := Watch(t.Context(), filepath.Join(t.TempDir(), "none"), func(context.Context) {}); err == nil {
			t.Error("it is watched")
		}
	})
}
