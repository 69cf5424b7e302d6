package quarantine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/quarantine"
)

// rounds is how often each of those does what it does that run at once.
const rounds = 30

// layerOf returns the content of a layer: few enough that images share them, large enough that reading takes several steps.
func layerOf(n int) string { return strings.Repeat(fmt.Sprintf("layer %d;", n%7), 5000) }

// TestEvictionIsNotNoticed pulls, pushes, deletes and sweeps up while everything that can be is evicted all the time, in use or not. It does
// so on files alone: the driver that keeps everything in memory changes an object below those who read it, as no store does.
func TestEvictionIsNotNoticed(t *testing.T) {
	t.Run("files", func(t *testing.T) {
		w := onFiles(t)
		r := w.room(t)
		images := make([]gate.Candidate, 8)
		for i := range images {
			repo := []oci.Repository{repoA, repoB}[i%2]
			images[i] = w.source.image(t, repo, w.source.put(repo, []byte(layerOf(i))), w.source.put(repo, []byte(layerOf(i+1))))
			w.release(t, images[i], w.source.put(repo, []byte(layerOf(i))), w.source.put(repo, []byte(layerOf(i+1))))
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var evicting, working sync.WaitGroup
		var evicted, pulls atomic.Int64
		evicting.Go(func() {
			for ctx.Err() == nil {
				for _, c := range images {
					_, done, err := r.Evict(t.Context(), c, ever)
					if err != nil {
						t.Errorf("Evict: %v", err)
					}
					if done {
						evicted.Add(1)
					}
				}
				err := r.Count(t.Context())
				_, sweepErr := r.Sweep(t.Context(), never) // what is being written now is not from long ago
				if err := errors.Join(err, sweepErr); err != nil {
					t.Errorf("counting and sweeping: %v", err)
				}
			}
		})
		for i := range 4 {
			working.Go(func() { // pulls
				for n := range rounds {
					if err := w.pullOne(t.Context(), images[(i*3+n)%len(images)], layerOf); err != nil {
						t.Error(err)
					}
					pulls.Add(1)
				}
			})
			working.Go(func() { // pushes, of the same layers
				u, repo := w.uploads(), oci.Repository{Path: fmt.Sprintf("apps/team%d", i)}
				for n := range rounds {
					if err := w.pushOne(t.Context(), u, repo, n); err != nil {
						t.Error(err)
					}
				}
			})
		}
		working.Wait()
		stop()
		evicting.Wait()
		if evicted.Load() == 0 {
			t.Error("nothing was evicted")
		}
		for i := range 4 {
			for n := range 7 {
				w.wantPushed(t, oci.Repository{Path: fmt.Sprintf("apps/team%d", i)}, layerOf(n))
			}
		}
		wantCounted(t, r, w)
		t.Logf("%d pulls, %d evictions", pulls.Load(), evicted.Load())
	})
}

// pullOne pulls the manifest and every layer of c, which was released, and returns what is wrong with what it gets.
func (w world) pullOne(ctx context.Context, c gate.Candidate, layer func(int) string) error {
	content, err := w.Released().Manifest(ctx, c)
	if err != nil {
		return fmt.Errorf("the manifest: %w", err)
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil || oci.FromBytes(content.Raw) != c.Digest {
		return fmt.Errorf("another manifest: %w", err)
	}
	for _, desc := range m.Layers {
		r, size, err := w.Released().Blob(ctx, c, desc.Digest)
		if err != nil {
			return fmt.Errorf("opening a layer: %w", err)
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || size != desc.Size || oci.FromBytes(got) != desc.Digest {
			return fmt.Errorf("got %d of %d bytes: %w", len(got), desc.Size, err)
		}
	}
	return nil
}

// pushOne uploads a layer, pushes an image of it, reads it back, and deletes the image again every third time.
func (w world) pushOne(ctx context.Context, u *quarantine.Uploads, repo oci.Repository, n int) error {
	content := layerOf(n)
	session, err := u.Start(ctx, repo)
	if err != nil {
		return err
	}
	if _, err := u.Finish(ctx, repo, session, 0, strings.NewReader(content), oci.FromBytes([]byte(content))); err != nil {
		return fmt.Errorf("uploading: %w", err)
	}
	const config = `{"rootfs":{}}`
	if err := w.PutBlob(ctx, repo, []byte(config)); err != nil {
		return fmt.Errorf("putting the config: %w", err)
	}
	raw := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}],"annotations":{"n":"%d"}}`,
		oci.MediaTypeImage, oci.MediaTypeConfig, oci.FromBytes([]byte(config)), len(config), oci.FromBytes([]byte(content)), len(content), n)
	c := gate.Candidate{Repository: repo, Digest: oci.FromBytes(raw)}
	if err := w.PutManifest(ctx, c, oci.Content{MediaType: oci.MediaTypeImage, Digest: c.Digest, Raw: raw}); err != nil {
		return fmt.Errorf("pushing: %w", err)
	}
	r, size, err := w.Pushed().Blob(ctx, repo, oci.FromBytes([]byte(content)))
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || string(got) != content || size != int64(len(content)) {
		return fmt.Errorf("reading back: got %d of %d bytes: %w", len(got), len(content), err)
	}
	if n%3 == 0 {
		return w.RemoveManifest(ctx, c)
	}
	return nil
}
