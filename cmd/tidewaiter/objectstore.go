package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
)

// storagePatience is how long an object store may take for one step: a small request, a part of an upload, the next bytes of a
// download. copyPatience is for a copy within it: the largest layer registries take, 10 GiB, at 12 MiB/s.
const (
	storagePatience = 2 * time.Minute
	copyPatience    = 15 * time.Minute
)

var errStalled = errors.New("the object store does not answer")

// objectStore is a driver of an object store that is not waited for without end: the driver itself waits for as long as its caller
// does, and a judging waits for half an hour. It is safe for concurrent use.
type objectStore struct {
	driver   storagedriver.StorageDriver
	patience time.Duration
}

var _ storagedriver.StorageDriver = (*objectStore)(nil)

// bounded runs do, which is a single step.
func (s *objectStore) bounded(ctx context.Context, do func(context.Context) error) error {
	return within(ctx, s.patience, do)
}

func within(ctx context.Context, patience time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errStalled)
	defer cancel()
	err := do(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// Name implements storagedriver.StorageDriver.
func (s *objectStore) Name() string { return s.driver.Name() }

// GetContent implements storagedriver.StorageDriver.
func (s *objectStore) GetContent(ctx context.Context, path string) (content []byte, err error) {
	err = s.bounded(ctx, func(ctx context.Context) (err error) {
		content, err = s.driver.GetContent(ctx, path)
		return err
	})
	return content, err
}

// PutContent implements storagedriver.StorageDriver.
func (s *objectStore) PutContent(ctx context.Context, path string, content []byte) error {
	return s.bounded(ctx, func(ctx context.Context) error { return s.driver.PutContent(ctx, path, content) })
}

// Stat implements storagedriver.StorageDriver.
func (s *objectStore) Stat(ctx context.Context, path string) (info storagedriver.FileInfo, err error) {
	err = s.bounded(ctx, func(ctx context.Context) (err error) {
		info, err = s.driver.Stat(ctx, path)
		return err
	})
	return info, err
}

// List implements storagedriver.StorageDriver.
func (s *objectStore) List(ctx context.Context, path string) (paths []string, err error) {
	err = s.bounded(ctx, func(ctx context.Context) (err error) {
		paths, err = s.driver.List(ctx, path)
		return err
	})
	return paths, err
}

// Move implements storagedriver.StorageDriver.
func (s *objectStore) Move(ctx context.Context, source, target string) error {
	return within(ctx, max(s.patience, copyPatience), func(ctx context.Context) error { return s.driver.Move(ctx, source, target) })
}

// Delete implements storagedriver.StorageDriver.
func (s *objectStore) Delete(ctx context.Context, path string) error {
	return s.bounded(ctx, func(ctx context.Context) error { return s.driver.Delete(ctx, path) })
}

// RedirectURL implements storagedriver.StorageDriver. Nobody is sent past us: what a bucket answers is not verified.
func (s *objectStore) RedirectURL(*http.Request, string) (string, error) { return "", nil }

// Walk implements storagedriver.StorageDriver. How long it takes is for its caller to say.
func (s *objectStore) Walk(ctx context.Context, path string, each storagedriver.WalkFn, options ...func(*storagedriver.WalkOptions)) error {
	return s.driver.Walk(ctx, path, each, options...)
}

// Reader implements storagedriver.StorageDriver.
func (s *objectStore) Reader(ctx context.Context, path string, offset int64) (io.ReadCloser, error) {
	w, ctx := s.watch(ctx)
	var r io.ReadCloser
	err := w.step(func() (err error) {
		r, err = s.driver.Reader(ctx, path, offset)
		return err
	})
	if err != nil {
		w.end()
		return nil, err
	}
	return &watchedReader{watch: w, r: r}, nil
}

// Writer implements storagedriver.StorageDriver.
func (s *objectStore) Writer(ctx context.Context, path string, add bool) (storagedriver.FileWriter, error) {
	w, ctx := s.watch(ctx)
	var to storagedriver.FileWriter
	err := w.step(func() (err error) {
		to, err = s.driver.Writer(ctx, path, add)
		return err
	})
	if err != nil {
		w.end()
		return nil, err
	}
	return &watchedWriter{watch: w, w: to}, nil
}

// watch ends a transfer one step of which takes too long. It is not safe for concurrent use.
type watch struct {
	patience time.Duration
	cancel   context.CancelCauseFunc
	ctx      context.Context // of the transfer, to learn why it ended
}

func (s *objectStore) watch(ctx context.Context) (*watch, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	return &watch{patience: s.patience, cancel: cancel, ctx: ctx}, ctx
}

func (w *watch) step(do func() error) error {
	timer := time.AfterFunc(w.patience, func() { w.cancel(errStalled) })
	defer timer.Stop()
	err := do()
	if err != nil && errors.Is(context.Cause(w.ctx), errStalled) {
		return errStalled
	}
	return err
}

func (w *watch) end() { w.cancel(context.Canceled) }

type watchedReader struct {
	*watch
	r io.ReadCloser
}

// Read implements io.Reader.
func (r *watchedReader) Read(p []byte) (n int, err error) {
	err = r.step(func() (err error) {
		n, err = r.r.Read(p)
		return err
	})
	return n, err
}

// Close implements io.Closer.
func (r *watchedReader) Close() error {
	defer r.end()
	return r.r.Close()
}

type watchedWriter struct {
	*watch
	w storagedriver.FileWriter
}

// Write implements io.Writer.
func (w *watchedWriter) Write(p []byte) (n int, err error) {
	err = w.step(func() (err error) {
		n, err = w.w.Write(p)
		return err
	})
	return n, err
}

// Close implements io.Closer.
func (w *watchedWriter) Close() error {
	defer w.end()
	return w.step(w.w.Close)
}

// Size implements storagedriver.FileWriter.
func (w *watchedWriter) Size() int64 { return w.w.Size() }

// Cancel implements storagedriver.FileWriter.
func (w *watchedWriter) Cancel(ctx context.Context) error {
	return w.step(func() error { return w.w.Cancel(ctx) })
}

// Commit implements storagedriver.FileWriter.
func (w *watchedWriter) Commit(ctx context.Context) error {
	return w.step(func() error { return w.w.Commit(ctx) })
}
