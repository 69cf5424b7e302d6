package quarantine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/quarantine"
)

// room returns the room of w. Everything was last used before ever.
func (w world) room(t *testing.T) *quarantine.Room {
	t.Helper()
	r := w.Room(time.Now)
	if err := r.Count(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// ever is later than anything was used, never earlier.
var (
	ever  = time.Now().Add(100 * 365 * 24 * time.Hour)
	never = time.Time{}
)

func evict(t *testing.T, r *quarantine.Room, c gate.Candidate) int64 {
	t.Helper()
	freed, done, err := r.Evict(t.Context(), c, ever)
	if err != nil || !done {
		t.Fatalf("Evict: %t, %v", done, err)
	}
	return freed
}

// wantCounted compares how much r believes to be held with a count by somebody else.
func wantCounted(t *testing.T, r *quarantine.Room, w world) {
	t.Helper()
	got, _ := r.HeldBytes()
	fresh := open(t, world{source: w.source, driver: w.driver, root: w.root}, t.TempDir())
	want, counted := fresh.room(t).HeldBytes()
	if got != want || !counted {
		t.Errorf("%d bytes are held, a fresh count finds %d, %t", got, want, counted)
	}
}

// pulled puts an image of upstream repo with these layers into w, as a pull does.
func (w world) pulled(t *testing.T, repo oci.Repository, layers ...string) gate.Candidate {
	t.Helper()
	var descs []oci.Descriptor
	for _, l := range layers {
		descs = append(descs, w.source.put(repo, []byte(l)))
	}
	c := w.source.image(t, repo, descs...)
	held, err := w.Hold(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, desc := range held.Manifest.Blobs() {
		if _, err := w.readAll(t, c, desc); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (w world) wantStored(t *testing.T, content string, want bool) {
	t.Helper()
	_, err := w.driver.Stat(t.Context(), "/docker"+blobFile("", oci.FromBytes([]byte(content)))[len("docker"):])
	if got := err == nil; got != want {
		t.Errorf("%.20q is stored: %t (%v), want %t", content, got, err, want)
	}
}

func TestEvict(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		r := w.Room(time.Now)
		first := w.pulled(t, repoA, "only the first has it", "shared")
		second := w.pulled(t, repoA, "shared", "only the second has it")
		if err := r.Count(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.release(t, first, w.source.put(repoA, []byte("only the first has it")), w.source.put(repoA, []byte("shared")))
		t.Run("an image goes with what nothing else needs", func(t *testing.T) {
			before, _ := r.HeldBytes()
			freed := evict(t, r, first)
			after, _ := r.HeldBytes()
			manifest := int64(len(w.source.blobs[repoA.String()+"@"+first.Digest.String()]))
			if want := manifest + int64(len("only the first has it")); freed != want || before-after != want {
				t.Errorf("freed %d, and %d less are held, want %d", freed, before-after, want)
			}
			w.wantStored(t, "only the first has it", false)
			w.wantStored(t, "shared", true)
			w.wantStored(t, "only the second has it", true)
			wantCounted(t, r, w)
		})
		t.Run("and is fetched again, by nobody else's leave, when it is asked for", func(t *testing.T) {
			asked := w.source.count("blob")
			for _, content := range []string{"only the first has it", "shared"} {
				got, size, err := w.Released().Blob(t.Context(), first, oci.FromBytes([]byte(content)))
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(got)
				if err != nil || got.Close() != nil || string(b) != content || size != int64(len(content)) {
					t.Errorf("got %q, %v, want %q", b, err, content)
				}
			}
			if got := w.source.count("blob") - asked; got != 1 {
				t.Errorf("%d blobs were fetched, want the one that had gone", got)
			}
			wantCounted(t, r, w)
		})
		t.Run("twice is as good as once", func(t *testing.T) {
			evict(t, r, second)
			if freed := evict(t, r, second); freed != 0 {
				t.Errorf("freed %d of nothing", freed)
			}
		})
		t.Run("the last to need it takes the shared one along", func(t *testing.T) {
			evict(t, r, first)
			w.wantStored(t, "shared", false)
			if held, _ := r.HeldBytes(); held != 0 {
				t.Errorf("%d bytes are held, want none", held)
			}
			wantCounted(t, r, w)
		})
	})
}

func TestWhatIsInUseIsNotEvicted(t *testing.T) {
	t.Run("being fetched", func(t *testing.T) {
		w := onFiles(t)
		r := w.Room(time.Now)
		w.source.hold = make(chan struct{})
		layer := w.source.put(repoA, []byte("a layer that takes its time"))
		c := w.source.image(t, repoA, layer)
		reader := w.follow(t, c, layer)
		if _, done, err := r.Evict(t.Context(), c, ever); done || err != nil {
			t.Errorf("Evict: %t, %v, want it to be in use", done, err)
		}
		close(w.source.hold)
		if got, err := io.ReadAll(reader); err != nil || oci.FromBytes(got) != layer.Digest {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("an object being read", func(t *testing.T) {
		w := inMemory(t)
		r := w.Room(time.Now)
		c := w.pulled(t, repoA, "layer")
		layer := w.source.put(repoA, []byte("layer"))
		reader := w.follow(t, c, layer)
		if _, done, err := r.Evict(t.Context(), c, ever); done || err != nil {
			t.Errorf("Evict: %t, %v, want it to be in use", done, err)
		}
		if err := reader.Close(); err != nil {
			t.Fatal(err)
		}
		evict(t, r, c)
	})
	t.Run("wanted a moment ago", func(t *testing.T) {
		w := onFiles(t)
		r := w.Room(time.Now)
		c := w.pulled(t, repoA, "layer")
		if _, done, err := r.Evict(t.Context(), c, never); done || err != nil {
			t.Errorf("Evict: %t, %v, want it to be in use", done, err)
		}
		w.wantStored(t, "layer", true)
	})
	t.Run("but a file is read to its end", func(t *testing.T) {
		w := onFiles(t)
		r := w.Room(time.Now)
		content := string(bytes.Repeat([]byte("layer"), 100_000))
		c := w.pulled(t, repoA, content)
		reader := w.follow(t, c, w.source.put(repoA, []byte(content)))
		evict(t, r, c)
		if got, err := io.ReadAll(reader); err != nil || string(got) != content {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(content))
		}
	})
}

func TestEvictionLeavesWhatWasPushed(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		r := w.Room(time.Now)
		pushed := w.push(t, web, upload(t, w.uploads(), web, "layer"))
		w.unclaimed(t)
		if freed, done, err := r.Evict(t.Context(), pushed, ever); freed != 0 || done || err == nil {
			t.Errorf("Evict: got %d, %t, %v, want a refusal", freed, done, err)
		}
		evict(t, r, w.pulled(t, repoA, "layer"))
		w.wantPushed(t, web, "layer")
		seen := 0
		if err := r.Images(t.Context(), func(gate.Candidate, time.Time) error { seen++; return nil }); err != nil || seen != 0 {
			t.Errorf("Images: %d, %v, want none", seen, err)
		}
		t.Run("which its upstream proves again, now that nothing of it is claimed", func(t *testing.T) {
			asked := w.source.count("blob")
			w.pulled(t, repoA, "layer")
			if got := w.source.count("blob") - asked; got != 2 { // its config too
				t.Errorf("%d blobs were fetched, want 2", got)
			}
		})
	})
}

// TestAnImageThatAnotherProcessEvicted is pulled by one that remembers its manifest.
func TestAnImageThatAnotherProcessEvicted(t *testing.T) {
	a, b, _ := replicas(t)
	c := a.pulled(t, repoA, "layer")
	b.source.put(repoA, []byte("layer"))
	evict(t, b.room(t), c)
	layer := a.source.put(repoA, []byte("layer"))
	if _, err := a.readAll(t, c, layer); err != nil {
		t.Fatal(err)
	}
	found := 0
	err := b.room(t).Images(t.Context(), func(held gate.Candidate, _ time.Time) error {
		if held == c {
			found++
		}
		return nil
	})
	if err != nil || found != 1 {
		t.Errorf("it is held %d times, %v, want once, to be evicted again", found, err)
	}
}

func TestSweep(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		r := w.Room(time.Now)
		kept, lost := w.pulled(t, repoA, "kept"), w.pulled(t, repoB, "lost")
		w.push(t, web, upload(t, w.uploads(), web, "pushed"))
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		d := oci.FromBytes([]byte("nobody's"))
		nobodys := path.Join("/docker/registry/v2/blobs/sha256", d.Encoded()[:2], d.Encoded())
		must(w.driver.PutContent(t.Context(), nobodys+"/data", []byte("nobody's")))
		must(w.driver.PutContent(t.Context(), nobodys+"/data.x.tmp", []byte("torn")))
		must(w.driver.Delete(t.Context(), "/tidewaiter/manifests/"+repoB.Escaped()+"/_manifests/"+lost.Digest.Encoded()))
		must(r.Count(t.Context()))
		t.Run("takes at once what nobody claims, and leaves what may be somebody's yet", func(t *testing.T) {
			freed, err := r.Sweep(t.Context(), never)
			if err != nil || freed != int64(len("nobody's")) {
				t.Errorf("Sweep: freed %d, %v, want %d", freed, err, len("nobody's"))
			}
			w.wantStored(t, "nobody's", false)
			w.wantStored(t, "lost", true)
		})
		t.Run("takes what is claimed for what is not there, when that was long ago", func(t *testing.T) {
			if freed, err := r.Sweep(t.Context(), ever); err != nil || freed == 0 {
				t.Errorf("Sweep: freed %d, %v", freed, err)
			}
			w.wantStored(t, "lost", false)
			if _, err := w.driver.Stat(t.Context(), nobodys+"/data.x.tmp"); err == nil {
				t.Error("what a write left is there")
			}
		})
		t.Run("and nothing else", func(t *testing.T) {
			w.wantStored(t, "kept", true)
			w.wantPushed(t, web, "pushed")
			if _, err := w.readAll(t, kept, w.source.put(repoA, []byte("kept"))); err != nil {
				t.Error(err)
			}
			wantCounted(t, r, w)
		})
	})
}

// TestCountSeesWhatIsUploaded counts uploads that have not ended, and those that have once.
func TestCountSeesWhatIsUploaded(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		r, u := w.Room(time.Now), w.uploads()
		if err := r.Count(t.Context()); err != nil {
			t.Fatal(err)
		}
		session := begin(t, u, web)
		if _, err := u.Append(t.Context(), web, session, 0, bytes.NewReader([]byte("12345"))); err != nil {
			t.Fatal(err)
		}
		upload(t, u, web, "123")
		if held, counted := r.HeldBytes(); held != 8 || !counted {
			t.Errorf("%d bytes are held, want 8", held)
		}
		if _, err := u.Finish(t.Context(), web, session, 5, bytes.NewReader([]byte("6")), oci.FromBytes([]byte("other"))); err == nil {
			t.Error("another blob was taken")
		}
		if held, _ := r.HeldBytes(); held != 3 {
			t.Errorf("%d bytes are held, want 3", held)
		}
		select {
		case <-r.Grown():
		default:
			t.Error("nobody was told that more is held")
		}
	})
}

func TestFullIsTold(t *testing.T) {
	for law, tt := range map[string]struct {
		err  error
		want bool
	}{
		"by a disk without room":                 {&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, true},
		"by a driver over one":                   {fmt.Errorf("storing: %w", storagedriver.Error{DriverName: "filesystem", Detail: &os.PathError{Op: "write", Err: syscall.ENOSPC}}), true},
		"by a quota":                             {syscall.EDQUOT, true},
		"not by whatever else is the matter":     {syscall.EIO, false},
		"not by nothing":                         {nil, false},
		"not by an object store that says as if": {storagedriver.Error{DriverName: "s3", Detail: io.ErrShortWrite}, false},
	} {
		t.Run(law, func(t *testing.T) {
			r := inMemory(t).Room(time.Now)
			r.Notice(tt.err)
			r.Notice(tt.err)
			got := false
			select {
			case <-r.Full():
				got = true
			default:
			}
			if got != tt.want {
				t.Errorf("told: %t, want %t", got, tt.want)
			}
		})
	}
}

// TestEvictionCutShort leaves behind what a process does that dies after any step of an eviction: the next one holds part of an image,
// serves all of it, and can evict it.
func TestEvictionCutShort(t *testing.T) {
	for steps := range 14 { // three for each blob and the manifest, and one for its note
		w := onFiles(t)
		c := w.pulled(t, repoA, "first", "second")
		layer := w.source.put(repoA, []byte("second"))
		dying := &mortal{StorageDriver: w.driver, left: steps}
		q := open(t, world{source: w.source, driver: dying, root: w.root}, filepath.Join(t.TempDir(), "spool"))
		_, _, _ = q.Room(time.Now).Evict(t.Context(), c, ever)

		next := reopen(t, w.source, w.root)
		r := next.room(t)
		if _, err := r.Sweep(t.Context(), never); err != nil {
			t.Fatal(err)
		}
		if _, err := next.readAll(t, c, layer); err != nil {
			t.Errorf("after %d steps: %v", steps, err)
		}
		wantCounted(t, r, next)
		evict(t, r, c)
		if held, _ := r.HeldBytes(); held != 0 {
			t.Errorf("after %d steps: %d bytes are left", steps, held)
		}
	}
}

// mortal is a driver that does so many changes and then none any more.
type mortal struct {
	storagedriver.StorageDriver
	left int
}

var errDead = errors.New("the process is dead")

func (m *mortal) do(change func() error) error {
	if m.left--; m.left < 0 {
		return errDead
	}
	return change()
}

func (m *mortal) Delete(ctx context.Context, path string) error {
	return m.do(func() error { return m.StorageDriver.Delete(ctx, path) })
}

func (m *mortal) Move(ctx context.Context, from, to string) error {
	return m.do(func() error { return m.StorageDriver.Move(ctx, from, to) })
}
