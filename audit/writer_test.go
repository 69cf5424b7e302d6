package audit

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// broken opens a log whose file, or head, can then no longer be written.
func broken(t *testing.T, which func(*writer) **os.File) *Log {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := Open(Options{Path: path, Key: testKey(t), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Record(t.Context(), Event{Event: "access.allowed"}); err != nil { // the goroutine now waits for the next
		t.Fatal(err)
	}
	file := which(l.writer)
	if err := (*file).Close(); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWhatCannotBeWrittenIsNotRecorded(t *testing.T) {
	for name, which := range map[string]func(*writer) **os.File{
		"the file": func(w *writer) **os.File { return &w.file }, "the head": func(w *writer) **os.File { return &w.headFile },
	} {
		l := broken(t, which)
		for range 2 { // and not from then on
			if err := l.Record(t.Context(), Event{Event: "access.allowed"}); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		if err := l.Close(); err == nil {
			t.Errorf("%s: it ends as if nothing had been", name)
		}
	}
}

func TestAWaiterHonoursItsContext(t *testing.T) {
	l := &Log{writer: &writer{pending: make(chan pending), closing: make(chan struct{}), done: make(chan struct{})}} // nobody writes
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Record(ctx, Event{Event: "access.allowed"}); err == nil {
		t.Error("it was recorded by nobody")
	}
}
