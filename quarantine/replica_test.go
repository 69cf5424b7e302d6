package quarantine_test

import (
	"context"
	"strings"
	"testing"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// interposed is a driver that lets somebody else do something, once, in the middle of what is done through it.
type interposed struct {
	storagedriver.StorageDriver
	// listed is called when there proved to be no claims on of, and claiming before one on it is written.
	of               oci.Digest
	listed, claiming func()
}

func (d *interposed) about(path string) bool {
	return strings.Contains(path, "/claims/") && strings.Contains(path, strings.TrimPrefix(d.of.String(), "sha256:"))
}

func once(do *func()) {
	if f := *do; f != nil {
		*do = nil
		f()
	}
}

func (d *interposed) List(ctx context.Context, path string) ([]string, error) {
	names, err := d.StorageDriver.List(ctx, path)
	if d.about(path) && len(names) == 0 {
		once(&d.listed)
	}
	return names, err
}

func (d *interposed) PutContent(ctx context.Context, path string, content []byte) error {
	if d.about(path) {
		once(&d.claiming)
	}
	return d.StorageDriver.PutContent(ctx, path, content)
}

// replicas returns two processes over one storage, and what the first of them reaches it through.
func replicas(t *testing.T) (a, b world, through *interposed) {
	t.Helper()
	shared, source := inmemory.New(), newFakeSource()
	through = &interposed{StorageDriver: shared}
	return open(t, world{source: source, driver: through}, t.TempDir()), open(t, world{source: source, driver: shared}, t.TempDir()), through
}

// unclaimed gives up what uploads claim, so that blobs hang on manifests alone.
func (w world) unclaimed(t *testing.T) {
	t.Helper()
	if _, err := w.Uploads(maxUpload, later(1)).Purge(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// TestWhatIsDroppedWasNotTakenMeanwhile has one process remove a manifest, and another take its layer in the middle of that.
func TestWhatIsDroppedWasNotTakenMeanwhile(t *testing.T) {
	for law, take := range map[string]func(t *testing.T, b world){
		"by an upload": func(t *testing.T, b world) { upload(t, b.uploads(), web, "layer") },
		"as a small blob": func(t *testing.T, b world) {
			if err := b.PutBlob(t.Context(), web, []byte("layer")); err != nil {
				t.Error(err)
			}
		},
		"by an upstream's image": func(t *testing.T, b world) {
			layer := b.source.put(repoA, []byte("layer"))
			if _, err := b.readAll(t, b.source.image(t, repoA, layer), layer); err != nil {
				t.Error(err)
			}
			if err := b.PutBlob(t.Context(), web, []byte("layer")); err != nil { // to look at it by
				t.Error(err)
			}
		},
	} {
		t.Run(law, func(t *testing.T) {
			a, b, through := replicas(t)
			removed := a.push(t, api, upload(t, a.uploads(), api, "layer"))
			a.unclaimed(t)
			through.of, through.listed = oci.FromBytes([]byte("layer")), func() { take(t, b) }
			if err := a.RemoveManifest(t.Context(), removed); err != nil {
				t.Fatal(err)
			}
			if through.listed != nil {
				t.Fatal("nothing was taken meanwhile")
			}
			b.wantPushed(t, web, "layer")
			a.wantNotPushed(t, api, "layer")
		})
	}
}

// TestWhatWasDroppedIsNotAcknowledged has one process find a layer in its repository and another drop it before the first has claimed it.
func TestWhatWasDroppedIsNotAcknowledged(t *testing.T) {
	a, b, through := replicas(t)
	layer := upload(t, b.uploads(), web, "layer")
	removed := b.push(t, web, layer)
	other := a.imageOf(t, web, layer, upload(t, a.uploads(), web, "another"))
	b.unclaimed(t)
	upload(t, b.uploads(), web, `{"rootfs":{}}`)
	upload(t, b.uploads(), web, "another")
	through.of, through.claiming = layer.Digest, func() {
		if err := b.RemoveManifest(t.Context(), removed); err != nil {
			t.Error(err)
		}
	}
	err := a.PutManifest(t.Context(), gate.Candidate{Repository: web, Digest: other.Digest}, other)
	wantCode(t, "PutManifest", err, oci.CodeManifestBlobUnknown)
	upload(t, b.uploads(), web, "layer")
	if err := a.PutManifest(t.Context(), gate.Candidate{Repository: web, Digest: other.Digest}, other); err != nil {
		t.Errorf("PutManifest, once the layer is there again: %v", err)
	}
}

// TestAManifestThatIsDroppedElsewhereStaysHere pushes, to another repository, a manifest whose bytes are dropped at that moment.
func TestAManifestThatIsDroppedElsewhereStaysHere(t *testing.T) {
	a, b, through := replicas(t)
	removed := a.push(t, api, upload(t, a.uploads(), api, "layer"))
	layer := upload(t, b.uploads(), web, "layer")
	content := b.imageOf(t, web, layer)
	c := gate.Candidate{Repository: web, Digest: content.Digest}
	if content.Digest != removed.Digest {
		t.Fatalf("got another manifest, %s, want %s", content.Digest, removed.Digest)
	}
	through.of, through.listed = c.Digest, func() {
		if err := b.PutManifest(t.Context(), c, content); err != nil {
			t.Error(err)
		}
	}
	if err := a.RemoveManifest(t.Context(), removed); err != nil {
		t.Fatal(err)
	}
	if through.listed != nil {
		t.Fatal("nothing was pushed meanwhile")
	}
	fresh := open(t, world{source: b.source, driver: b.driver}, t.TempDir())
	if _, err := fresh.Pushed().Manifest(t.Context(), c); err != nil {
		t.Errorf("Manifest: %v", err)
	}
	fresh.wantPushed(t, web, "layer")
}

// TestADropThatWasCutShortIsEnded leaves behind what a process does that dies while it drops blobs.
func TestADropThatWasCutShortIsEnded(t *testing.T) {
	w := inMemory(t)
	needed, unneeded := upload(t, w.uploads(), web, "needed"), oci.FromBytes([]byte("unneeded"))
	path := func(d oci.Digest) string {
		return "/docker/registry/v2/blobs/sha256/" + d.Encoded()[:2] + "/" + d.Encoded() + "/data"
	}
	const dropped = "/tidewaiter/dropped/"
	if err := w.driver.Move(t.Context(), path(needed.Digest), dropped+needed.Digest.Encoded()+"-X"); err != nil {
		t.Fatal(err)
	}
	if err := w.driver.PutContent(t.Context(), dropped+unneeded.Encoded()+"-X", []byte("unneeded")); err != nil {
		t.Fatal(err)
	}
	fresh := open(t, world{source: w.source, driver: w.driver}, t.TempDir())
	fresh.wantPushed(t, web, "needed")
	if left, err := w.driver.List(t.Context(), strings.TrimSuffix(dropped, "/")); len(left) > 0 {
		t.Errorf("got %v, %v, want nothing left", left, err)
	}
}
