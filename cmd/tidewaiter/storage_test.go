package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
)

func TestBucketsAreRefused(t *testing.T) {
	const rest = "\nredis: {seal_key_file: k}"
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"without what is needed": {"storage: {s3: {accesskey: a}}", []string{"a bucket", "a region", "secretkey_file", "storage.local", "redis.seal_key_file"}},
		"with keys that are none or unsafe": {
			"storage: {local: l, s3: {bucket: b, region: r, skipverify: true, v4auth: false, loglevel: debug, buckte: x, objectacl: public-read}}" + rest,
			[]string{"s3.skipverify", "s3.v4auth", "s3.loglevel", "s3.buckte", "objectacl"},
		},
		"over plain http":           {"storage: {local: l, s3: {bucket: b, region: r, regionendpoint: \"http://10.0.0.1:9000\"}}" + rest, []string{"unsafe_plaintext"}},
		"over plain http otherwise": {"storage: {local: l, s3: {bucket: b, region: r, secure: false}}" + rest, []string{"unsafe_plaintext"}},
		"with two secrets":          {"storage: {local: l, s3: {bucket: b, region: r, accesskey: a, secretkey: hunter2, secretkey_file: f}}" + rest, []string{"secretkey and secretkey_file"}},
		"beside a folder":           {"storage: {local: l, filesystem: {root: x}, s3: {bucket: b, region: r}}" + rest, []string{"filesystem and s3"}},
		"where callers log in without a key for tokens": {
			"storage: {local: l, s3: {bucket: b, region: r}}\naccess: {basic: {htpasswd_file: h}}" + rest, []string{"access.tokens.key_file"},
		},
		"in part, beside a folder": {"storage: {local: l, unsafe_plaintext: true}", []string{"storage.local is for", "storage.unsafe_plaintext is for"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, tt.text)
			if err == nil {
				t.Fatal("got no error")
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("it shows a secret: %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not named in:\n%v", want, err)
				}
			}
		})
	}
	t.Run("but not over plain http to this machine, or when that is said to be meant", func(t *testing.T) {
		for endpoint, more := range map[string]string{"http://127.0.0.1:9000": "", "http://[::1]:9000": "", "https://s3.test": "", "http://s3.test": ", unsafe_plaintext: true"} {
			c, err := load(t, fmt.Sprintf("storage: {local: l, s3: {bucket: b, region: r, regionendpoint: %q}%s}%s", endpoint, more, rest))
			if err != nil {
				t.Error(err)
			} else if got := len(c.unsafe()) > 0; got != (more != "") {
				t.Errorf("%s: unsafe %v", endpoint, c.unsafe())
			}
		}
	})
}

func TestSecretKeysAreReadFromFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	for content, want := range map[string]string{"hunter2\n": "hunter2", "\n": ""} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		c := &config{Storage: storageConfig{S3: map[string]any{"secretkey_file": file}}}
		got, err := c.s3Parameters()
		if (err != nil) != (want == "") || err == nil && got["secretkey"] != want {
			t.Errorf("%q: got %v, %v, want %q", content, got["secretkey"], err, want)
		}
		if _, ok := got["secretkey_file"]; ok {
			t.Error("the driver is told of the file")
		}
	}
}

// stuck is a driver that never answers and says so when it is asked.
type stuck struct{ storagedriver.StorageDriver }

func (stuck) PutContent(ctx context.Context, _ string, _ []byte) error { return wait(ctx) }

func (stuck) List(ctx context.Context, _ string) ([]string, error) { return nil, wait(ctx) }

func (stuck) Reader(ctx context.Context, _ string, _ int64) (io.ReadCloser, error) {
	return stuckReader{ctx}, nil
}

func wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

type stuckReader struct{ ctx context.Context }

func (r stuckReader) Read([]byte) (int, error) { return 0, wait(r.ctx) }
func (stuckReader) Close() error               { return nil }

func TestObjectStoresAreNotWaitedForWithoutEnd(t *testing.T) {
	s := &objectStore{driver: stuck{}, patience: time.Millisecond}
	for name, do := range map[string]func() error{
		"writing": func() error { return s.PutContent(t.Context(), "/a", nil) },
		"listing": func() error {
			_, err := s.List(t.Context(), "/a")
			return err
		},
		"reading": func() error {
			r, err := s.Reader(t.Context(), "/a", 0)
			if err != nil {
				return err
			}
			_, err = io.ReadAll(r)
			return errors.Join(err, r.Close())
		},
	} {
		if err := do(); !errors.Is(err, errStalled) {
			t.Errorf("%s: got %v, want errStalled", name, err)
		}
	}
}

func TestObjectStoresKeepWhatIsWritten(t *testing.T) {
	s := &objectStore{driver: inmemory.New(), patience: time.Minute}
	w, err := s.Writer(t.Context(), "/a/b", false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write([]byte("content"))
	if err := errors.Join(err, w.Commit(t.Context()), w.Close()); err != nil || w.Size() != 7 {
		t.Fatalf("%d bytes, %v", w.Size(), err)
	}
	if err := s.Move(t.Context(), "/a/b", "/a/c"); err != nil {
		t.Fatal(err)
	}
	r, err := s.Reader(t.Context(), "/a/c", 3)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || string(got) != "tent" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := s.Stat(t.Context(), "/a/b"); err == nil {
		t.Error("what was moved is still there")
	}
	if _, err := s.Reader(t.Context(), "/none", 0); !errors.As(err, new(storagedriver.PathNotFoundError)) {
		t.Errorf("got %v, want that there is no such path", err)
	}
}

func TestABucketIsTriedNowAndThen(t *testing.T) {
	at, driver := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), &counting{StorageDriver: inmemory.New()}
	var w writability
	for _, after := range []time.Duration{0, time.Second, tryEvery - 1, tryEvery, tryEvery + 1} {
		if err := w.try(t.Context(), storage{driver: driver}, at.Add(after)); err != nil {
			t.Error(err)
		}
	}
	if driver.puts != 2 {
		t.Errorf("it was tried %d times, want 2", driver.puts)
	}
}

// counting counts what is written through it.
type counting struct {
	storagedriver.StorageDriver
	puts int
}

func (c *counting) PutContent(ctx context.Context, path string, content []byte) error {
	c.puts++
	return c.StorageDriver.PutContent(ctx, path, content)
}
