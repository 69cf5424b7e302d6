package quarantine_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"

	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/quarantine"
)

// web and api are repositories hosted here.
var (
	web = oci.Repository{Path: "apps/web"}
	api = oci.Repository{Path: "apps/api"}
)

// maxUpload is how large a blob may be in these tests.
const maxUpload = 1 << 20

var (
	errGone = errors.New("the client has gone")
	errFull = errors.New("no space left on device")
)

func (w world) uploads() *quarantine.Uploads { return w.Uploads(maxUpload, time.Now) }

// later returns a clock that shows how late it is d from now. What lies in storage is as old as the storage says.
func later(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(d) } }

func begin(t *testing.T, u *quarantine.Uploads, repo oci.Repository) string {
	t.Helper()
	session, err := u.Start(t.Context(), repo)
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// upload uploads content to repo, in one go.
func upload(t *testing.T, u *quarantine.Uploads, repo oci.Repository, content string) oci.Descriptor {
	t.Helper()
	d := oci.FromBytes([]byte(content))
	size, err := u.Finish(t.Context(), repo, begin(t, u, repo), 0, strings.NewReader(content), d)
	if err != nil || size != int64(len(content)) {
		t.Fatalf("Finish: got %d, %v, want %d", size, err, len(content))
	}
	return oci.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: d, Size: size}
}

func code(err error) oci.Code {
	if e, ok := errors.AsType[*oci.Error](err); ok {
		return e.Code
	}
	if err != nil {
		return "none"
	}
	return ""
}

func wantCode(t *testing.T, what string, err error, want oci.Code) {
	t.Helper()
	if got := code(err); got != want {
		t.Errorf("%s: got %v, want code %q", what, err, want)
	}
}

func (w world) wantPushed(t *testing.T, repo oci.Repository, content string) {
	t.Helper()
	r, size, err := w.Pushed().Blob(t.Context(), repo, oci.FromBytes([]byte(content)))
	if err != nil {
		t.Errorf("Blob in %s: %v", repo, err)
		return
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || string(got) != content || size != int64(len(content)) {
		t.Errorf("Blob in %s: got %.40q, size %d, %v, want %.40q", repo, got, size, err, content)
	}
}

func (w world) wantNotPushed(t *testing.T, repo oci.Repository, content string) {
	t.Helper()
	_, _, err := w.Pushed().Blob(t.Context(), repo, oci.FromBytes([]byte(content)))
	wantCode(t, "Blob in "+repo.String(), err, oci.CodeBlobUnknown)
}

func eachStorage(t *testing.T, do func(t *testing.T, w world)) {
	t.Run("files", func(t *testing.T) { do(t, onFiles(t)) })
	t.Run("no files", func(t *testing.T) { do(t, inMemory(t)) })
}

func TestUploads(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		u := w.uploads()
		t.Run("in one go", func(t *testing.T) {
			upload(t, u, web, "in one go")
			w.wantPushed(t, web, "in one go")
			w.wantNotPushed(t, api, "in one go")
		})
		t.Run("in chunks", func(t *testing.T) {
			session := begin(t, u, web)
			for i, chunk := range []string{"in ", "chu", "", "nks"} {
				end, err := u.Append(t.Context(), web, session, []int64{0, quarantine.Anywhere, 6, 6}[i], strings.NewReader(chunk))
				if want := []int64{3, 6, 6, 9}[i]; end != want || err != nil {
					t.Fatalf("Append: got %d, %v, want %d", end, err, want)
				}
				if got, err := u.Progress(t.Context(), web, session); got != end || err != nil {
					t.Errorf("Progress: got %d, %v, want %d", got, err, end)
				}
			}
			size, err := u.Finish(t.Context(), web, session, quarantine.Anywhere, strings.NewReader(""), oci.FromBytes([]byte("in chunks")))
			if size != 9 || err != nil {
				t.Errorf("Finish: got %d, %v, want 9", size, err)
			}
			w.wantPushed(t, web, "in chunks")
			t.Run("which are finished once", func(t *testing.T) {
				_, err := u.Append(t.Context(), web, session, quarantine.Anywhere, strings.NewReader("more"))
				wantCode(t, "Append", err, oci.CodeBlobUploadUnknown)
				_, err = u.Progress(t.Context(), web, session)
				wantCode(t, "Progress", err, oci.CodeBlobUploadUnknown)
				wantCode(t, "Cancel", u.Cancel(t.Context(), web, session), oci.CodeBlobUploadUnknown)
				_, err = u.Finish(t.Context(), web, session, 0, strings.NewReader(""), oci.FromBytes(nil))
				wantCode(t, "Finish as another", err, oci.CodeBlobUploadUnknown)
			})
			t.Run("or again, by who had no answer", func(t *testing.T) {
				size, err := u.Finish(t.Context(), web, session, 9, strings.NewReader(""), oci.FromBytes([]byte("in chunks")))
				if size != 9 || err != nil {
					t.Errorf("Finish: got %d, %v, want 9", size, err)
				}
			})
		})
		t.Run("of nothing", func(t *testing.T) {
			upload(t, u, web, "")
			w.wantPushed(t, web, "")
		})
		t.Run("of what is there already", func(t *testing.T) {
			upload(t, u, api, "in one go")
			w.wantPushed(t, api, "in one go")
			w.wantPushed(t, web, "in one go")
		})
	})
}

func TestUploadsThatAreRefused(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		u := w.uploads()
		t.Run("of another repository", func(t *testing.T) {
			session := begin(t, u, web)
			for _, bad := range []string{session, "", "../../" + session, "AAAAAAAAAAAAAAAAAAAAAAAAAA"} {
				_, err := u.Append(t.Context(), api, bad, 0, strings.NewReader("x"))
				wantCode(t, "Append", err, oci.CodeBlobUploadUnknown)
				_, err = u.Finish(t.Context(), api, bad, 0, strings.NewReader("x"), oci.FromBytes([]byte("x")))
				wantCode(t, "Finish", err, oci.CodeBlobUploadUnknown)
				wantCode(t, "Cancel", u.Cancel(t.Context(), api, bad), oci.CodeBlobUploadUnknown)
			}
			w.wantNotPushed(t, api, "x")
		})
		t.Run("out of order", func(t *testing.T) {
			session := begin(t, u, web)
			if _, err := u.Append(t.Context(), web, session, 0, strings.NewReader("abc")); err != nil {
				t.Fatal(err)
			}
			for _, at := range []int64{0, 2, 4} {
				end, err := u.Append(t.Context(), web, session, at, strings.NewReader("def"))
				wantCode(t, "Append", err, oci.CodeRangeInvalid)
				if end != 3 {
					t.Errorf("Append: got %d, want 3", end)
				}
				_, err = u.Finish(t.Context(), web, session, at, strings.NewReader(""), oci.FromBytes([]byte("abc")))
				wantCode(t, "Finish", err, oci.CodeRangeInvalid)
			}
			if _, err := u.Finish(t.Context(), web, session, 3, strings.NewReader("def"), oci.FromBytes([]byte("abcdef"))); err != nil {
				t.Errorf("Finish: %v", err)
			}
		})
		t.Run("with another digest", func(t *testing.T) {
			session := begin(t, u, web)
			_, err := u.Finish(t.Context(), web, session, 0, strings.NewReader("other"), oci.FromBytes([]byte("this")))
			wantCode(t, "Finish", err, oci.CodeDigestInvalid)
			_, err = u.Progress(t.Context(), web, session)
			wantCode(t, "Progress", err, oci.CodeBlobUploadUnknown)
			w.wantNotPushed(t, web, "other")
			w.wantNotPushed(t, web, "this")
		})
		t.Run("too large", func(t *testing.T) {
			session := begin(t, u, web)
			half := strings.Repeat("x", maxUpload/2)
			for range 2 {
				if _, err := u.Append(t.Context(), web, session, quarantine.Anywhere, strings.NewReader(half)); err != nil {
					t.Fatal(err)
				}
			}
			_, err := u.Append(t.Context(), web, session, quarantine.Anywhere, strings.NewReader("x"))
			wantCode(t, "Append", err, oci.CodeSizeInvalid)
			_, err = u.Progress(t.Context(), web, session)
			wantCode(t, "Progress", err, oci.CodeBlobUploadUnknown)
		})
		t.Run("cancelled", func(t *testing.T) {
			session := begin(t, u, web)
			if _, err := u.Append(t.Context(), web, session, 0, strings.NewReader("abc")); err != nil {
				t.Fatal(err)
			}
			wantCode(t, "Cancel", u.Cancel(t.Context(), web, session), "")
			_, err := u.Progress(t.Context(), web, session)
			wantCode(t, "Progress", err, oci.CodeBlobUploadUnknown)
		})
		t.Run("by two at once", func(t *testing.T) {
			session := begin(t, u, web)
			body, client := io.Pipe()
			var first sync.WaitGroup
			first.Go(func() {
				if end, err := u.Append(t.Context(), web, session, 0, body); end != 2 || err != nil {
					t.Errorf("Append: got %d, %v, want 2", end, err)
				}
			})
			_, _ = client.Write([]byte("a")) // read, so the first is at it
			_, err := u.Append(t.Context(), web, session, quarantine.Anywhere, strings.NewReader("b"))
			wantCode(t, "Append", err, oci.CodeUnavailable)
			_, _ = client.Write([]byte("b"))
			_ = client.Close()
			first.Wait()
		})
	})
}

// TestAnUploadCutAnywhereGoesOn breaks the connection after each byte, and goes on in another process.
func TestAnUploadCutAnywhereGoesOn(t *testing.T) {
	content := "what survives being cut"
	for cut := range len(content) + 1 {
		source, root := newFakeSource(), t.TempDir()
		w := reopen(t, source, root)
		session := begin(t, w.uploads(), web)
		ctx, cancel := context.WithCancel(t.Context())
		body := io.MultiReader(strings.NewReader(content[:cut]), iotest.ErrReader(errGone))
		cancel() // as a server does when the client has gone
		end, err := w.uploads().Append(ctx, web, session, 0, body)
		if end != int64(cut) && ctx.Err() == nil || !errors.Is(err, errGone) && cut > 0 && err == nil {
			t.Fatalf("Append, cut at %d: got %d, %v", cut, end, err)
		}
		w = reopen(t, source, root)
		u := w.uploads()
		end, err = u.Progress(t.Context(), web, session)
		if err != nil {
			t.Fatalf("Progress, cut at %d: %v", cut, err)
		}
		if _, err := u.Finish(t.Context(), web, session, end, strings.NewReader(content[end:]), oci.FromBytes([]byte(content))); err != nil {
			t.Errorf("Finish, cut at %d: %v", cut, err)
		}
		w.wantPushed(t, web, content)
	}
}

// TestAnUploadIsHashedAgainWhenNobodyKnowsItsHash spoils what is noted beside it.
func TestAnUploadIsHashedAgainWhenNobodyKnowsItsHash(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, w world, session string){
		"bytes were added after the note": func(t *testing.T, w world, session string) {
			f, err := w.driver.Writer(t.Context(), "/tidewaiter/uploads/"+session+"/data", true)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.Write([]byte("def"))
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
		},
		"the note has no hash": func(t *testing.T, w world, session string) {
			if _, err := w.uploads().Append(t.Context(), web, session, 3, strings.NewReader("def")); err != nil {
				t.Fatal(err)
			}
			if err := w.driver.PutContent(t.Context(), "/tidewaiter/uploads/"+session+"/state", []byte(`{"repository":"apps/web","offset":6,"hash":"AAAA"}`)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachStorage(t, func(t *testing.T, w world) {
				u := w.uploads()
				session := begin(t, u, web)
				if _, err := u.Append(t.Context(), web, session, 0, strings.NewReader("abc")); err != nil {
					t.Fatal(err)
				}
				spoil(t, w, session)
				if end, err := u.Append(t.Context(), web, session, 6, strings.NewReader("ghi")); end != 9 || err != nil {
					t.Fatalf("Append: got %d, %v, want 9", end, err)
				}
				if _, err := u.Finish(t.Context(), web, session, 9, strings.NewReader("j"), oci.FromBytes([]byte("abcdefghij"))); err != nil {
					t.Errorf("Finish: %v", err)
				}
				w.wantPushed(t, web, "abcdefghij")
			})
		})
	}
}

// failing is a driver that fails from its nth change on.
type failing struct {
	storagedriver.StorageDriver
	left int
}

func (f *failing) change() error {
	if f.left--; f.left < 0 {
		return errFull
	}
	return nil
}

func (f *failing) PutContent(ctx context.Context, path string, content []byte) error {
	if err := f.change(); err != nil {
		return err
	}
	return f.StorageDriver.PutContent(ctx, path, content)
}

func (f *failing) Move(ctx context.Context, from, to string) error {
	if err := f.change(); err != nil {
		return err
	}
	return f.StorageDriver.Move(ctx, from, to)
}

func (f *failing) Delete(ctx context.Context, path string) error {
	if err := f.change(); err != nil {
		return err
	}
	return f.StorageDriver.Delete(ctx, path)
}

func (f *failing) Writer(ctx context.Context, path string, add bool) (storagedriver.FileWriter, error) {
	if err := f.change(); err != nil {
		return nil, err
	}
	w, err := f.StorageDriver.Writer(ctx, path, add)
	return &failingWriter{w, f}, err
}

type failingWriter struct {
	storagedriver.FileWriter
	f *failing
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if err := w.f.change(); err != nil {
		return 0, err
	}
	return w.FileWriter.Write(p)
}

func (w *failingWriter) Commit(ctx context.Context) error {
	if err := w.f.change(); err != nil {
		return err
	}
	return w.FileWriter.Commit(ctx)
}

// TestAnUploadSurvivesAFullDisk fails the storage at each step, and tries again once there is room.
func TestAnUploadSurvivesAFullDisk(t *testing.T) {
	const content = "abcdef"
	d := oci.FromBytes([]byte(content))
	for n := range 12 {
		root, source := t.TempDir(), newFakeSource()
		disk := filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 32})
		full := open(t, world{source: source, driver: &failing{StorageDriver: disk, left: n}, root: root}, filepath.Join(root, "spool"))
		u := full.uploads()
		var session string
		attempt := func() (err error) {
			if session, err = u.Start(t.Context(), web); err != nil {
				return err
			}
			if _, err = u.Append(t.Context(), web, session, 0, strings.NewReader(content[:3])); err != nil {
				return err
			}
			_, err = u.Finish(t.Context(), web, session, 3, strings.NewReader(content[3:]), d)
			return err
		}
		err := attempt()
		again := reopen(t, source, root)
		if err == nil {
			again.wantPushed(t, web, content)
			continue
		}
		if !errors.Is(err, errFull) || code(err) != "none" {
			t.Errorf("failing at %d: got %v, want it to be a failure", n, err)
		}
		if session == "" {
			continue
		}
		end, err := again.uploads().Progress(t.Context(), web, session)
		if code(err) == oci.CodeBlobUploadUnknown { // it got as far as being the blob
			end, err = int64(len(content)), nil
		}
		if err == nil {
			_, err = again.uploads().Finish(t.Context(), web, session, end, strings.NewReader(content[end:]), d)
		}
		if err != nil {
			t.Errorf("failing at %d: going on: %v", n, err)
		}
		again.wantPushed(t, web, content)
	}
}

func TestPurge(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		u := w.uploads()
		upload(t, u, web, "abandoned")
		upload(t, u, web, "twice")
		upload(t, u, api, "twice")
		c := w.push(t, web, upload(t, u, web, "referred to"))
		session := begin(t, u, web)
		if _, err := u.Append(t.Context(), web, session, 0, strings.NewReader("half")); err != nil {
			t.Fatal(err)
		}
		if n, err := u.Purge(t.Context(), time.Hour); n != 0 || err != nil {
			t.Errorf("Purge of what is young: got %d, %v, want 0", n, err)
		}
		w.wantPushed(t, web, "abandoned")
		tomorrow := w.Uploads(maxUpload, later(25*time.Hour))
		if n, err := tomorrow.Purge(t.Context(), 24*time.Hour); n != 6 || err != nil {
			t.Errorf("Purge: got %d, %v, want 6", n, err)
		}
		w.wantNotPushed(t, web, "abandoned")
		w.wantNotPushed(t, web, "twice")
		w.wantPushed(t, web, "referred to")
		_, err := u.Progress(t.Context(), web, session)
		wantCode(t, "Progress", err, oci.CodeBlobUploadUnknown)
		if err := w.RemoveManifest(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		w.wantNotPushed(t, web, "referred to")
		if paths, err := w.driver.List(t.Context(), "/tidewaiter/uploads"); len(paths) != 0 {
			t.Errorf("got %v, %v left, want nothing", paths, err)
		}
	})
}

// TestMemoryStaysFlat pushes much more than may be held.
func TestMemoryStaysFlat(t *testing.T) {
	if testing.Short() {
		t.Skip("128 MiB")
	}
	const size, limit = 128 << 20, 16 << 20
	w := onFiles(t)
	u := w.Uploads(size, time.Now)
	body := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), size) }
	d, err := oci.FromBytes(nil).Algorithm().FromReader(body())
	if err != nil {
		t.Fatal(err)
	}
	session := begin(t, u, web)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	whole, at := body(), int64(0)
	for range 5 { // it is interrupted
		part := io.MultiReader(io.LimitReader(whole, size/6), iotest.ErrReader(errGone))
		if at, err = u.Append(t.Context(), web, session, at, part); !errors.Is(err, errGone) {
			t.Fatal(err)
		}
	}
	if _, err := u.Finish(t.Context(), web, session, at, whole, d); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > limit {
		t.Errorf("got %d bytes allocated, want at most %d", got, limit)
	}
}

// TestManyUploadsAtOnce is about -race and about the locks.
func TestManyUploadsAtOnce(t *testing.T) {
	w := onFiles(t)
	u := w.uploads()
	var all sync.WaitGroup
	for n := range 8 {
		repo := slices.Repeat([]oci.Repository{web, api}, 4)[n]
		all.Go(func() {
			for range 5 {
				desc := upload(t, u, repo, "shared")
				c := w.push(t, repo, desc)
				w.wantPushed(t, repo, "shared")
				if n >= 6 {
					if err := w.RemoveManifest(t.Context(), c); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Go(func() {
		for range 5 {
			if _, err := u.Purge(t.Context(), time.Hour); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	w.wantPushed(t, web, "shared")
	w.wantPushed(t, api, "shared")
}

func mustRead(t *testing.T, r io.ReadCloser, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b)
}
