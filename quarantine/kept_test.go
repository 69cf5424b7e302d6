package quarantine_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestKept(t *testing.T) {
	nginx := oci.Repository{Upstream: "docker.io", Path: "library/nginx"}
	eachStorage(t, func(t *testing.T, w world) {
		layer := w.source.put(nginx, []byte("a layer"))
		unread := w.source.put(nginx, []byte("a layer nobody has read"))
		image := w.source.image(t, nginx, layer, unread)
		stranger := oci.Repository{Upstream: "docker.io", Path: "evil/copy"}
		copied := w.source.image(t, stranger, layer) // its manifest names a layer its repository never showed to have
		for _, c := range []gate.Candidate{image, copied} {
			if _, err := w.Hold(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.readAll(t, image, layer); err != nil {
			t.Fatal(err)
		}
		asked := w.source.count("manifest") + w.source.count("blob")
		kept := w.Kept()
		t.Run("what is held can be read, and is not released by it", func(t *testing.T) {
			content, err := kept.Manifest(t.Context(), image)
			if err != nil || oci.FromBytes(content.Raw) != image.Digest {
				t.Errorf("the manifest: %s, %v", content.Raw, err)
			}
			r, size, err := kept.Blob(t.Context(), image, layer.Digest)
			if got := mustRead(t, r, err); !bytes.Equal(got, []byte("a layer")) || size != layer.Size {
				t.Errorf("the layer: %q of %d bytes", got, size)
			}
			if _, err := w.Released().Manifest(t.Context(), image); !errors.Is(err, oci.ErrNotFound) {
				t.Errorf("the manifest is released: %v", err)
			}
			if _, _, err := w.Released().Blob(t.Context(), image, layer.Digest); !errors.Is(err, oci.ErrBlobUnknown) {
				t.Errorf("the layer is released: %v", err)
			}
		})
		for law, c := range map[string]struct {
			image gate.Candidate
			blob  oci.Digest
			want  error
		}{
			"a blob the manifest does not name is not known":        {image, oci.FromBytes([]byte("other")), oci.ErrBlobUnknown},
			"a name in a manifest shows nobody's blob":              {copied, layer.Digest, oci.ErrBlobUnknown},
			"a manifest that is not held is not known, nor fetched": {gate.Candidate{Repository: nginx, Digest: layer.Digest}, layer.Digest, oci.ErrNotFound},
			"of another repository there is nothing":                {gate.Candidate{Repository: oci.Repository{Path: "apps/web"}, Digest: image.Digest}, layer.Digest, oci.ErrNotFound},
		} {
			t.Run(law, func(t *testing.T) {
				if _, _, err := kept.Blob(t.Context(), c.image, c.blob); !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
			})
		}
		if again := w.source.count("manifest") + w.source.count("blob"); again != asked {
			t.Errorf("the upstream sent %d times what is not shown", again-asked)
		}
		t.Run("a layer that was not read is fetched, for it is part of the image", func(t *testing.T) {
			r, _, err := kept.Blob(t.Context(), image, unread.Digest)
			if got := mustRead(t, r, err); !bytes.Equal(got, []byte("a layer nobody has read")) {
				t.Errorf("got %q", got)
			}
			if _, _, err := w.Released().Blob(t.Context(), image, unread.Digest); !errors.Is(err, oci.ErrBlobUnknown) {
				t.Errorf("it is released: %v", err)
			}
		})
		t.Run("what was dropped is gone", func(t *testing.T) {
			if err := w.Withdraw(t.Context(), image, true); err != nil {
				t.Fatal(err)
			}
			if _, err := kept.Manifest(t.Context(), image); !errors.Is(err, oci.ErrNotFound) {
				t.Errorf("got %v", err)
			}
		})
	})
}
