package quarantine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/quarantine"
)

// fakeSource is a registry in memory: what a repository has, and how often it was asked.
type fakeSource struct {
	mu    sync.Mutex
	blobs map[string][]byte // guarded by mu; "repo@digest"
	asked map[string]int    // guarded by mu; "blob repo@digest", "head …", "manifest …"
	types map[string]string // guarded by mu; media types of manifests
	// hold, when not nil, is received from before every chunk of a blob.
	hold chan struct{}
	// boasts is a repository that says it has every blob.
	boasts oci.Repository
	// slow is hold for single repositories.
	slow map[oci.Repository]chan struct{}
}

func newFakeSource() *fakeSource {
	return &fakeSource{blobs: map[string][]byte{}, asked: map[string]int{}, types: map[string]string{}}
}

func (s *fakeSource) count(kind string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for k, v := range s.asked {
		if strings.HasPrefix(k, kind+" ") {
			n += v
		}
	}
	return n
}

func (s *fakeSource) get(kind string, repo oci.Repository, reference string) ([]byte, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := repo.String() + "@" + reference
	s.asked[kind+" "+name]++
	b, ok := s.blobs[name]
	if !ok {
		return nil, "", oci.ErrBlobUnknown
	}
	return b, s.types[name], nil
}

func (s *fakeSource) Manifest(_ context.Context, repo oci.Repository, reference string) (oci.Content, error) {
	b, mediaType, err := s.get("manifest", repo, reference)
	if err != nil {
		return oci.Content{}, oci.ErrNotFound
	}
	return oci.Content{MediaType: mediaType, Raw: b, Digest: oci.FromBytes(b)}, nil
}

func (s *fakeSource) Blob(_ context.Context, repo oci.Repository, desc oci.Descriptor) (io.ReadCloser, error) {
	b, _, err := s.get("blob", repo, desc.Digest.String())
	if err != nil {
		return nil, err
	}
	if slow := s.slow[repo]; slow != nil {
		return io.NopCloser(&steppedReader{b: b, hold: slow}), nil
	}
	if s.hold == nil {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return io.NopCloser(&steppedReader{b: b, hold: s.hold}), nil
}

func (s *fakeSource) BlobExists(_ context.Context, repo oci.Repository, desc oci.Descriptor) error {
	if s.boasts != (oci.Repository{}) && repo == s.boasts {
		return nil
	}
	_, _, err := s.get("head", repo, desc.Digest.String())
	return err
}

// steppedReader gives one byte for each value received from hold, and all the rest once hold is closed.
type steppedReader struct {
	b    []byte
	hold chan struct{}
}

func (r *steppedReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	if _, open := <-r.hold; open {
		p = p[:1]
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

func (s *fakeSource) put(repo oci.Repository, b []byte) oci.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := oci.FromBytes(b)
	s.blobs[repo.String()+"@"+d.String()] = b
	return oci.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: d, Size: int64(len(b))}
}

// image puts an image of the given layers into repo and returns it as a candidate and its manifest.
func (s *fakeSource) image(t testing.TB, repo oci.Repository, layers ...oci.Descriptor) gate.Candidate {
	t.Helper()
	config := s.put(repo, []byte(`{"rootfs":{}}`))
	config.MediaType = oci.MediaTypeConfig
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "config": config, "layers": layers})
	if err != nil {
		t.Fatal(err)
	}
	desc := s.put(repo, raw)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.types[repo.String()+"@"+desc.Digest.String()] = oci.MediaTypeImage
	return gate.Candidate{Repository: repo, Digest: desc.Digest}
}

var (
	repoA = oci.Repository{Upstream: "a.test", Path: "app"}
	repoB = oci.Repository{Upstream: "b.test", Path: "app"}
)

// world is a quarantine over one kind of storage.
type world struct {
	*quarantine.Quarantine
	source *fakeSource
	driver storagedriver.StorageDriver
	root   string
}

func onFiles(t *testing.T) world { return reopen(t, newFakeSource(), t.TempDir()) }

func reopen(t *testing.T, source *fakeSource, root string) world {
	t.Helper()
	driver := filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 32})
	return open(t, world{source: source, driver: driver, root: root}, filepath.Join(root, "tidewaiter", "spool"))
}

func inMemory(t *testing.T) world {
	return open(t, world{source: newFakeSource(), driver: inmemory.New()}, t.TempDir())
}

func open(t *testing.T, w world, spool string) world {
	t.Helper()
	q, err := quarantine.New(w.source, w.driver, w.root, spool, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	w.Quarantine = q
	return w
}

func (w world) readAll(t *testing.T, c gate.Candidate, desc oci.Descriptor) ([]byte, error) {
	t.Helper()
	if _, err := w.Hold(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	r, err := w.Open(t.Context(), c, desc)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	return io.ReadAll(r)
}

// follow opens a blob of c, which may still be arriving. It is closed with the test.
func (w world) follow(t *testing.T, c gate.Candidate, desc oci.Descriptor) io.ReadCloser {
	t.Helper()
	if _, err := w.Hold(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	r, err := w.Open(t.Context(), c, desc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func allow(c gate.Candidate, blobs ...oci.Descriptor) gate.Verdict {
	v := gate.Verdict{Decision: gate.Allow, Repository: c.Repository, Digest: c.Digest}
	for _, b := range blobs {
		v.Blobs = append(v.Blobs, b.Digest)
	}
	return v
}

func blobFile(root string, d oci.Digest) string {
	return filepath.Join(root, "docker/registry/v2/blobs/sha256", d.Encoded()[:2], d.Encoded(), "data")
}

func TestOpen(t *testing.T) {
	for name, storage := range map[string]func(*testing.T) world{"files": onFiles, "objects": inMemory} {
		t.Run(name+": a blob is fetched once and then read from storage", func(t *testing.T) {
			w := storage(t)
			layer := w.source.put(repoA, bytes.Repeat([]byte("layer"), 100_000))
			c := w.source.image(t, repoA, layer)
			for range 3 {
				got, err := w.readAll(t, c, layer)
				if err != nil || oci.FromBytes(got) != layer.Digest {
					t.Fatalf("got %d bytes, %v", len(got), err)
				}
			}
			if got := w.source.count("blob"); got != 1 {
				t.Errorf("fetched %d times, want 1", got)
			}
		})
		t.Run(name+": sixteen readers at once cause one fetch", func(t *testing.T) {
			w := storage(t)
			w.source.hold = make(chan struct{})
			layer := w.source.put(repoA, bytes.Repeat([]byte("layer"), 1000))
			c := w.source.image(t, repoA, layer)
			if _, err := w.Hold(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			var readers sync.WaitGroup
			var opened sync.WaitGroup
			for range 16 {
				opened.Add(1)
				readers.Go(func() {
					r, err := w.Open(t.Context(), c, layer)
					opened.Done()
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(r)
					if err := errors.Join(err, r.Close()); err != nil || oci.FromBytes(got) != layer.Digest {
						t.Errorf("got %d bytes, %v", len(got), err)
					}
				})
			}
			opened.Wait()
			close(w.source.hold)
			readers.Wait()
			if got := w.source.count("blob"); got != 1 {
				t.Errorf("fetched %d times, want 1", got)
			}
		})
		t.Run(name+": content with another digest is never whole in anybody's hands", func(t *testing.T) {
			w := storage(t)
			layer := w.source.put(repoA, []byte("what the manifest names"))
			c := w.source.image(t, repoA, layer)
			forged := bytes.Repeat([]byte("x"), int(layer.Size))
			w.source.blobs[repoA.String()+"@"+layer.Digest.String()] = forged
			got, err := w.readAll(t, c, layer)
			if !errors.Is(err, oci.ErrMismatch) || len(got) >= int(layer.Size) {
				t.Errorf("got %d of %d bytes, %v, want ErrMismatch before the last", len(got), layer.Size, err)
			}
			w.source.put(repoA, []byte("what the manifest names"))
			if _, err := w.readAll(t, c, layer); err != nil {
				t.Errorf("the next fetch of the right content: %v", err)
			}
		})
		t.Run(name+": a repository gets no stored blob that its own upstream does not have", func(t *testing.T) {
			w := storage(t)
			secret := w.source.put(repoA, []byte("a private layer of a.test"))
			owner := w.source.image(t, repoA, secret)
			if _, err := w.readAll(t, owner, secret); err != nil {
				t.Fatal(err)
			}
			neighbour := oci.Repository{Upstream: repoA.Upstream, Path: "other"}
			for _, repo := range []oci.Repository{neighbour, repoB} {
				thief := w.source.image(t, repo, secret)
				if got, err := w.readAll(t, thief, secret); !errors.Is(err, oci.ErrBlobUnknown) {
					t.Errorf("%s: got %q, %v, want ErrBlobUnknown", repo, got, err)
				}
				w.source.put(repo, []byte("a private layer of a.test"))
				if _, err := w.readAll(t, thief, secret); err != nil {
					t.Errorf("%s, once its upstream has it: %v", repo, err)
				}
			}
		})
		t.Run(name+": another repository of the same upstream proves a blob with a HEAD", func(t *testing.T) {
			w := storage(t)
			layer := w.source.put(repoA, []byte("shared"))
			neighbour := oci.Repository{Upstream: repoA.Upstream, Path: "other"}
			w.source.put(neighbour, []byte("shared"))
			for _, repo := range []oci.Repository{repoA, neighbour} {
				if _, err := w.readAll(t, w.source.image(t, repo, layer), layer); err != nil {
					t.Fatal(err)
				}
			}
			if fetches, heads := w.source.count("blob"), w.source.count("head"); fetches != 1 || heads != 1 {
				t.Errorf("%d fetches and %d heads, want one of each", fetches, heads)
			}
		})
		t.Run(name+": another upstream proves a blob by sending it, whatever it says it has", func(t *testing.T) {
			w := storage(t)
			secret := w.source.put(repoA, []byte("a private layer of a.test"))
			if _, err := w.readAll(t, w.source.image(t, repoA, secret), secret); err != nil {
				t.Fatal(err)
			}
			w.source.boasts = repoB
			thief := w.source.image(t, repoB, secret)
			if got, err := w.readAll(t, thief, secret); err == nil {
				t.Errorf("got %q on an upstream's word", got)
			}
		})
	}

	t.Run("a repository cannot ride along with another's fetch", func(t *testing.T) {
		w := onFiles(t)
		w.source.hold = make(chan struct{})
		secret := w.source.put(repoA, []byte("a private layer of a.test"))
		owner := w.source.image(t, repoA, secret)
		w.follow(t, owner, secret)
		defer close(w.source.hold)
		for _, repo := range []oci.Repository{{Upstream: repoA.Upstream, Path: "other"}, repoB} {
			thief := w.source.image(t, repo, secret)
			if got, err := w.readAll(t, thief, secret); !errors.Is(err, oci.ErrBlobUnknown) || len(got) > 0 {
				t.Errorf("%s: got %q, %v, want ErrBlobUnknown", repo, got, err)
			}
		}
	})

	t.Run("an arriving blob is read as it grows, its last byte withheld, and can be sought in", func(t *testing.T) {
		w := onFiles(t)
		w.source.hold = make(chan struct{})
		layer := w.source.put(repoA, []byte("abc"))
		c := w.source.image(t, repoA, layer)
		r := w.follow(t, c, layer)
		w.source.hold <- struct{}{}
		buf := make([]byte, 8)
		if n, err := r.Read(buf); string(buf[:n]) != "a" || err != nil {
			t.Fatalf("got %q, %v, want the first byte before the second has come", buf[:n], err)
		}
		w.source.hold <- struct{}{}
		if n, err := r.Read(buf); string(buf[:n]) != "b" || err != nil {
			t.Fatalf("got %q, %v", buf[:n], err)
		}
		close(w.source.hold)
		if rest, err := io.ReadAll(r); string(rest) != "c" || err != nil {
			t.Fatalf("got %q, %v", rest, err)
		}
		if _, err := r.(io.Seeker).Seek(-2, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(r); string(rest) != "bc" || err != nil {
			t.Errorf("after seeking: %q, %v", rest, err)
		}
	})

	t.Run("a reader that leaves does not stop the fetch, and gets its own context's error", func(t *testing.T) {
		w := onFiles(t)
		w.source.hold = make(chan struct{})
		layer := w.source.put(repoA, []byte("abc"))
		c := w.source.image(t, repoA, layer)
		if _, err := w.Hold(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithCancel(t.Context())
		r, err := w.Open(ctx, c, layer)
		if err != nil {
			t.Fatal(err)
		}
		leave()
		if _, err := r.Read(make([]byte, 8)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		_ = r.Close()
		close(w.source.hold)
		if got, err := w.readAll(t, c, layer); string(got) != "abc" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if got := w.source.count("blob"); got != 1 {
			t.Errorf("fetched %d times, want 1", got)
		}
	})

	t.Run("a blob altered on disk is found out, before and after a restart, and fetched again", func(t *testing.T) {
		w := onFiles(t)
		layer := w.source.put(repoA, []byte("good"))
		c := w.source.image(t, repoA, layer)
		if _, err := w.readAll(t, c, layer); err != nil {
			t.Fatal(err)
		}
		for _, restart := range []bool{false, true} {
			if err := os.WriteFile(blobFile(w.root, layer.Digest), []byte("evil"), 0o644); err != nil {
				t.Fatal(err)
			}
			if restart {
				w = reopen(t, w.source, w.root)
			}
			if got, err := w.readAll(t, c, layer); string(got) != "good" || err != nil {
				t.Errorf("restart %t: got %q, %v", restart, got, err)
			}
		}
	})

	t.Run("another upstream that is slow with the same blob keeps nobody waiting", func(t *testing.T) {
		w := onFiles(t)
		slow := make(chan struct{})
		w.source.slow = map[oci.Repository]chan struct{}{repoB: slow}
		layer := w.source.put(repoA, []byte("shared by both"))
		w.source.put(repoB, []byte("shared by both"))
		r, err := w.Open(t.Context(), w.source.image(t, repoB, layer), layer)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		if got, err := w.readAll(t, w.source.image(t, repoA, layer), layer); string(got) != "shared by both" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		close(slow)
	})

	t.Run("a blob that arrives for what was dropped meanwhile is not stored", func(t *testing.T) {
		w := onFiles(t)
		w.source.hold = make(chan struct{})
		layer := w.source.put(repoA, []byte("layer"))
		c := w.source.image(t, repoA, layer)
		r := w.follow(t, c, layer)
		if err := w.Withdraw(t.Context(), c, true); err != nil {
			t.Fatal(err)
		}
		close(w.source.hold)
		if got, err := io.ReadAll(r); err == nil || len(got) >= int(layer.Size) {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := os.Stat(blobFile(w.root, layer.Digest)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v, want it gone", err)
		}
	})

	t.Run("a manifest that lies about the size of an intact blob does not cost the blob", func(t *testing.T) {
		w := onFiles(t)
		layer := w.source.put(repoA, []byte("good"))
		if _, err := w.readAll(t, w.source.image(t, repoA, layer), layer); err != nil {
			t.Fatal(err)
		}
		w = reopen(t, w.source, w.root)
		lie := layer
		lie.Size++
		if _, err := w.readAll(t, w.source.image(t, repoA, lie), lie); !errors.Is(err, oci.ErrMismatch) {
			t.Errorf("got %v, want ErrMismatch", err)
		}
		if _, err := os.Stat(blobFile(w.root, layer.Digest)); err != nil {
			t.Error(err)
		}
	})

	t.Run("stored files are handed out as files", func(t *testing.T) {
		w := onFiles(t)
		layer := w.source.put(repoA, []byte("good"))
		c := w.source.image(t, repoA, layer)
		if _, err := w.readAll(t, c, layer); err != nil {
			t.Fatal(err)
		}
		r, err := w.Open(t.Context(), c, layer)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		if _, ok := r.(*os.File); !ok {
			t.Errorf("got %T, want *os.File", r)
		}
	})
}

func TestObjectsAreVerifiedOnTheWayOut(t *testing.T) {
	w := inMemory(t)
	layer := w.source.put(repoA, bytes.Repeat([]byte("good"), 100_000))
	c := w.source.image(t, repoA, layer)
	if _, err := w.readAll(t, c, layer); err != nil {
		t.Fatal(err)
	}
	path := "/docker/registry/v2/blobs/sha256/" + layer.Digest.Encoded()[:2] + "/" + layer.Digest.Encoded() + "/data"
	if err := w.driver.PutContent(t.Context(), path, bytes.Repeat([]byte("evil"), 100_000)); err != nil {
		t.Fatal(err)
	}
	got, err := w.readAll(t, c, layer)
	if !errors.Is(err, oci.ErrMismatch) || len(got) >= int(layer.Size) {
		t.Errorf("got %d of %d bytes, %v, want ErrMismatch before the last", len(got), layer.Size, err)
	}
	t.Run("and what is wrong is removed, and fetched again", func(t *testing.T) {
		deadline := time.Now().Add(time.Minute)
		for err != nil && time.Now().Before(deadline) { // it is looked at with nobody waiting
			got, err = w.readAll(t, c, layer)
		}
		if err != nil || len(got) != int(layer.Size) {
			t.Errorf("got %d of %d bytes, %v, want all of them", len(got), layer.Size, err)
		}
	})
	t.Run("but not because a manifest lies about its size", func(t *testing.T) {
		lie := layer
		lie.Size++
		if _, err := w.readAll(t, w.source.image(t, repoA, lie), lie); !errors.Is(err, oci.ErrMismatch) {
			t.Errorf("got %v, want ErrMismatch", err)
		}
		if err := w.Close(); err != nil { // which waits for whoever looks at it
			t.Fatal(err)
		}
		if _, err := w.driver.Stat(t.Context(), path); err != nil {
			t.Errorf("the blob: %v, want it to be there", err)
		}
	})
}

func TestHold(t *testing.T) {
	t.Run("a manifest with another digest is not held", func(t *testing.T) {
		w := onFiles(t)
		c := w.source.image(t, repoA)
		name := repoA.String() + "@" + c.Digest.String()
		good := w.source.blobs[name]
		w.source.blobs[name] = append([]byte(" "), good...)
		if _, err := w.Hold(t.Context(), c); !errors.Is(err, oci.ErrMismatch) {
			t.Errorf("got %v, want ErrMismatch", err)
		}
		w.source.blobs[name] = good
		held, err := w.Hold(t.Context(), c)
		if err != nil || !bytes.Equal(held.Content.Raw, good) {
			t.Errorf("got %v, %v", held, err)
		}
	})
	t.Run("a held manifest needs no upstream, after a restart neither", func(t *testing.T) {
		w := onFiles(t)
		c := w.source.image(t, repoA)
		if _, err := w.Hold(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		w = reopen(t, w.source, w.root)
		if _, err := w.Hold(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if got := w.source.count("manifest"); got != 1 {
			t.Errorf("asked %d times, want 1", got)
		}
	})
	t.Run("a repository does not get a manifest another one holds", func(t *testing.T) {
		w := onFiles(t)
		c := w.source.image(t, repoA)
		if _, err := w.Hold(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Hold(t.Context(), gate.Candidate{Repository: repoB, Digest: c.Digest}); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	})
	t.Run("a manifest altered on disk is fetched again", func(t *testing.T) {
		w := onFiles(t)
		c := w.source.image(t, repoA)
		if _, err := w.Hold(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(blobFile(w.root, c.Digest), []byte(`{"schemaVersion":2}`), 0o644); err != nil {
			t.Fatal(err)
		}
		w = reopen(t, w.source, w.root)
		held, err := w.Hold(t.Context(), c)
		if err != nil || oci.FromBytes(held.Content.Raw) != c.Digest {
			t.Errorf("got %v", err)
		}
	})
}

func TestReleased(t *testing.T) {
	w := onFiles(t)
	layer, other := w.source.put(repoA, []byte("layer")), w.source.put(repoA, []byte("other"))
	c := w.source.image(t, repoA, layer)
	if _, err := w.readAll(t, c, layer); err != nil {
		t.Fatal(err)
	}
	released := w.Released()
	closed := func(t *testing.T) {
		t.Helper()
		if _, err := released.Manifest(t.Context(), c); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("manifest: got %v, want ErrNotFound", err)
		}
		if _, _, err := released.Blob(t.Context(), c, layer.Digest); !errors.Is(err, oci.ErrBlobUnknown) {
			t.Errorf("blob: got %v, want ErrBlobUnknown", err)
		}
	}
	t.Run("nothing held is open before its release", closed)
	t.Run("a denial releases nothing", func(t *testing.T) {
		v := allow(c, layer)
		v.Decision = gate.Deny
		if err := w.Release(t.Context(), v); err == nil {
			t.Error("a denial was released")
		}
		closed(t)
	})
	t.Run("a release opens the manifest and its blobs and no others", func(t *testing.T) {
		if err := w.Release(t.Context(), allow(c, layer)); err != nil {
			t.Fatal(err)
		}
		if _, err := released.Manifest(t.Context(), c); err != nil {
			t.Error(err)
		}
		r, size, err := released.Blob(t.Context(), c, layer.Digest)
		if err != nil || size != layer.Size {
			t.Fatalf("got size %d, %v", size, err)
		}
		_ = r.Close()
		if _, _, err := released.Blob(t.Context(), c, other.Digest); !errors.Is(err, oci.ErrBlobUnknown) {
			t.Errorf("a blob the manifest does not name: got %v, want ErrBlobUnknown", err)
		}
	})
	t.Run("a withdrawal closes them again", func(t *testing.T) {
		if err := w.Withdraw(t.Context(), c, false); err != nil {
			t.Fatal(err)
		}
		closed(t)
	})
}

func TestDropRemovesOnlyWhatNobodyElseClaims(t *testing.T) {
	w := onFiles(t)
	shared, own := w.source.put(repoA, []byte("shared")), w.source.put(repoA, []byte("own"))
	kept, dropped := w.source.image(t, repoA, shared), w.source.image(t, repoA, shared, own)
	for c, layers := range map[gate.Candidate][]oci.Descriptor{kept: {shared}, dropped: {shared, own}} {
		if _, err := w.Hold(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time from storage, which claims it
			for _, l := range layers {
				if _, err := w.readAll(t, c, l); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := w.Withdraw(t.Context(), dropped, true); err != nil {
		t.Fatal(err)
	}
	exists := func(d oci.Digest) bool {
		_, err := os.Stat(blobFile(w.root, d))
		return err == nil
	}
	if !exists(shared.Digest) || !exists(kept.Digest) {
		t.Error("dropping one candidate took what another needs")
	}
	if exists(own.Digest) || exists(dropped.Digest) {
		t.Error("dropped bytes are still there")
	}
	if _, err := w.readAll(t, dropped, own); err != nil {
		t.Errorf("a dropped candidate can be held again: %v", err)
	}
}

func TestSpoolOfTheDeadIsRemoved(t *testing.T) {
	w := onFiles(t)
	abandoned := filepath.Join(w.root, "tidewaiter", "spool", "arrivals-dead")
	if err := os.MkdirAll(abandoned, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(abandoned, "blob-1"), []byte("half a la"), 0o644); err != nil {
		t.Fatal(err)
	}
	reopen(t, w.source, w.root)
	if _, err := os.Stat(abandoned); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want it gone", err)
	}
	layer := w.source.put(repoA, []byte("layer"))
	if _, err := w.readAll(t, w.source.image(t, repoA, layer), layer); err != nil {
		t.Errorf("the first process, still alive, lost its spool: %v", err)
	}
}

func TestHolds(t *testing.T) {
	w := onFiles(t)
	layer := w.source.put(repoA, []byte("layer"))
	c := w.source.image(t, repoA, layer)
	holds := func(law string, c gate.Candidate, want bool) {
		t.Helper()
		if got, err := w.Holds(t.Context(), c); got != want || err != nil {
			t.Errorf("%s: got %v, %v, want %v", law, got, err, want)
		}
	}
	holds("what nobody asked for", c, false)
	if _, err := w.Hold(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	holds("what was fetched", c, true)
	holds("the same digest in another repository", gate.Candidate{Repository: repoB, Digest: c.Digest}, false)
	if n := w.source.count("manifest"); n != 1 {
		t.Errorf("the upstream was asked for manifests %d times, want once", n)
	}
	if err := w.Withdraw(t.Context(), c, false); err != nil {
		t.Fatal(err)
	}
	holds("what is withdrawn and kept", c, true)
	if err := w.Withdraw(t.Context(), c, true); err != nil {
		t.Fatal(err)
	}
	holds("what was dropped", c, false)
}
