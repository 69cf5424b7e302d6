package quarantine_test

import (
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/quarantine"
)

var _ hosted.Bytes = (*quarantine.Quarantine)(nil)

// imageOf returns an image of layers, whose config is uploaded.
func (w world) imageOf(t *testing.T, repo oci.Repository, layers ...oci.Descriptor) oci.Content {
	t.Helper()
	const config = `{"rootfs":{}}`
	if err := w.PutBlob(t.Context(), repo, []byte(config)); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "layers": layers,
		"config": oci.Descriptor{MediaType: oci.MediaTypeConfig, Digest: oci.FromBytes([]byte(config)), Size: int64(len(config))},
	})
	if err != nil {
		t.Fatal(err)
	}
	return oci.Content{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes(raw), Raw: raw}
}

// push pushes an image of layers.
func (w world) push(t *testing.T, repo oci.Repository, layers ...oci.Descriptor) gate.Candidate {
	t.Helper()
	content := w.imageOf(t, repo, layers...)
	c := gate.Candidate{Repository: repo, Digest: content.Digest}
	if err := w.PutManifest(t.Context(), c, content); err != nil {
		t.Fatal(err)
	}
	return c
}

// release lets out c and layers.
func (w world) release(t *testing.T, c gate.Candidate, layers ...oci.Descriptor) {
	t.Helper()
	v := gate.Verdict{Decision: gate.Allow, Repository: c.Repository, Digest: c.Digest}
	for _, l := range layers {
		v.Blobs = append(v.Blobs, l.Digest)
	}
	if err := w.Release(t.Context(), v); err != nil {
		t.Fatal(err)
	}
}

// wantNobodyAsked checks that nothing was looked for anywhere else.
func (w world) wantNobodyAsked(t *testing.T) {
	t.Helper()
	w.source.mu.Lock()
	defer w.source.mu.Unlock()
	if diff := cmp.Diff(w.source.asked, map[string]int{}); diff != "" {
		t.Errorf("asked (-got +want):\n%s", diff)
	}
}

func TestWhatIsPushedIsHeldAndNotServed(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		layer := upload(t, w.uploads(), web, "layer")
		content := w.imageOf(t, web, layer)
		c := gate.Candidate{Repository: web, Digest: content.Digest}
		if err := w.PutManifest(t.Context(), c, content); err != nil {
			t.Fatal(err)
		}
		got, err := w.Pushed().Manifest(t.Context(), c)
		if diff := cmp.Diff(got, content); diff != "" || err != nil {
			t.Errorf("Manifest for who pushes: %v (-got +want):\n%s", err, diff)
		}
		w.wantPushed(t, web, "layer")
		if _, err := w.Released().Manifest(t.Context(), c); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("Manifest for others: got %v, want oci.ErrNotFound", err)
		}
		if b, err := w.readAll(t, c, layer); string(b) != "layer" || err != nil {
			t.Errorf("Open, for the gate: got %q, %v", b, err)
		}
		w.release(t, c, layer)
		r, _, err := w.Released().Blob(t.Context(), c, layer.Digest)
		if b := mustRead(t, r, err); string(b) != "layer" {
			t.Errorf("Blob for others, released: got %q", b)
		}
		w.wantNobodyAsked(t)
	})
}

func TestNobodyIsAskedAboutAHostedRepository(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		// An upstream that claims to have everything, and has it: under the name of a hosted repository, if anybody asked.
		w.source.boasts = web
		layer := w.source.put(web, []byte("layer"))
		absent := w.source.image(t, web, layer)
		if _, err := w.Hold(t.Context(), absent); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("Hold: got %v, want oci.ErrNotFound", err)
		}
		c := w.push(t, web, upload(t, w.uploads(), web, "mine"))
		if _, err := w.Open(t.Context(), c, layer); !errors.Is(err, oci.ErrBlobUnknown) {
			t.Errorf("Open of what is not stored: got %v, want oci.ErrBlobUnknown", err)
		}
		upload(t, w.uploads(), api, "layer")
		if _, err := w.Open(t.Context(), c, layer); !errors.Is(err, oci.ErrBlobUnknown) {
			t.Errorf("Open of what another hosted repository has: got %v, want oci.ErrBlobUnknown", err)
		}
		w.wantNobodyAsked(t)
	})
}

func TestPushedOpensNothingOfAnUpstream(t *testing.T) {
	w := onFiles(t)
	layer := w.source.put(repoA, []byte("layer"))
	c := w.source.image(t, repoA, layer)
	if _, err := w.readAll(t, c, layer); err != nil {
		t.Fatal(err)
	}
	w.release(t, c, layer)
	_, err := w.Pushed().Manifest(t.Context(), c)
	wantCode(t, "Manifest", err, oci.CodeManifestUnknown)
	w.wantNotPushed(t, repoA, "layer")
	w.wantNotPushed(t, web, "layer")
	wantCode(t, "DeleteBlob", w.DeleteBlob(t.Context(), repoA, layer.Digest), oci.CodeBlobUnknown)
	wantCode(t, "PutBlob", w.PutBlob(t.Context(), repoA, []byte("x")), oci.CodeBlobUnknown)
	if err := w.PutManifest(t.Context(), c, w.imageOf(t, web)); !errors.Is(err, oci.ErrMismatch) {
		t.Errorf("PutManifest: got %v, want oci.ErrMismatch", err)
	}
}

func TestAManifestNeedsItsBlobs(t *testing.T) {
	w := onFiles(t)
	mine, theirs := upload(t, w.uploads(), web, "mine"), upload(t, w.uploads(), api, "theirs")
	larger := mine
	larger.Size++
	itself := w.push(t, web, mine)
	manifest := oci.Descriptor{MediaType: mine.MediaType, Digest: itself.Digest, Size: int64(len(w.imageOf(t, web, mine).Raw))}
	absent := oci.Descriptor{MediaType: mine.MediaType, Digest: oci.FromBytes([]byte("absent")), Size: 6}
	for name, tt := range map[string]struct {
		layers []oci.Descriptor
		want   []oci.Digest
	}{
		"none":                              {nil, nil},
		"what is there":                     {[]oci.Descriptor{mine, mine}, nil},
		"what is not there":                 {[]oci.Descriptor{mine, absent, absent}, []oci.Digest{absent.Digest}},
		"what is in another repository":     {[]oci.Descriptor{theirs}, []oci.Digest{theirs.Digest}},
		"what is there with another size":   {[]oci.Descriptor{larger}, []oci.Digest{mine.Digest}},
		"a manifest, which is not uploaded": {[]oci.Descriptor{manifest}, []oci.Digest{manifest.Digest}},
	} {
		t.Run(name, func(t *testing.T) {
			content := w.imageOf(t, web, tt.layers...)
			c := gate.Candidate{Repository: web, Digest: content.Digest}
			err := w.PutManifest(t.Context(), c, content)
			if tt.want == nil {
				wantCode(t, "PutManifest", err, "")
				return
			}
			wantCode(t, "PutManifest", err, oci.CodeManifestBlobUnknown)
			if e, ok := errors.AsType[*oci.Error](err); ok {
				if diff := cmp.Diff(e.Detail, any(map[string][]oci.Digest{"digests": tt.want})); diff != "" {
					t.Errorf("detail (-got +want):\n%s", diff)
				}
			}
			if _, err := w.Manifest(t.Context(), c); !errors.Is(err, oci.ErrNotFound) {
				t.Errorf("Manifest: got %v, want oci.ErrNotFound", err)
			}
		})
	}
	t.Run("none is another's", func(t *testing.T) {
		content := w.imageOf(t, web, mine)
		if err := w.PutManifest(t.Context(), gate.Candidate{Repository: web, Digest: absent.Digest}, content); !errors.Is(err, oci.ErrMismatch) {
			t.Errorf("PutManifest: got %v, want oci.ErrMismatch", err)
		}
	})
}

func TestMount(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		layer := upload(t, w.uploads(), api, "layer")
		from := w.push(t, api, layer)
		upstream := w.source.put(repoA, []byte("of an upstream"))
		fromUpstream := w.source.image(t, repoA, upstream)
		if _, err := w.readAll(t, fromUpstream, upstream); err != nil {
			t.Fatal(err)
		}
		unread := w.source.image(t, repoA, w.source.put(repoA, []byte("unread")))
		if _, err := w.Hold(t.Context(), unread); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name string
			repo oci.Repository
			from gate.Candidate
			blob string
			want oci.Code
		}{
			{"of a hosted repository", web, from, "layer", ""},
			{"of an upstream", web, fromUpstream, "of an upstream", ""},
			{"what it does not refer to", web, fromUpstream, "layer", oci.CodeBlobUnknown},
			{"what was never fetched", web, unread, "unread", oci.CodeBlobUnknown},
			{"of what is not held", web, gate.Candidate{Repository: api, Digest: layer.Digest}, "layer", oci.CodeBlobUnknown},
			{"into an upstream's", repoB, from, "layer", oci.CodeBlobUnknown},
		} {
			wantCode(t, tt.name, w.Mount(t.Context(), tt.repo, tt.from, oci.FromBytes([]byte(tt.blob))), tt.want)
			if tt.want == "" {
				w.wantPushed(t, tt.repo, tt.blob)
			}
		}
		w.wantNotPushed(t, web, "unread")
		t.Run("stays when it is gone where it came from", func(t *testing.T) {
			if err := w.RemoveManifest(t.Context(), from); err != nil {
				t.Fatal(err)
			}
			wantCode(t, "DeleteBlob", w.DeleteBlob(t.Context(), api, layer.Digest), "")
			w.wantNotPushed(t, api, "layer")
			w.wantPushed(t, web, "layer")
		})
	})
}

func TestDeletingABlob(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		layer := upload(t, w.uploads(), web, "layer")
		c := w.push(t, web, layer)
		w.release(t, c, layer)
		wantCode(t, "DeleteBlob of a manifest", w.DeleteBlob(t.Context(), web, c.Digest), oci.CodeBlobUnknown)
		wantCode(t, "DeleteBlob elsewhere", w.DeleteBlob(t.Context(), api, layer.Digest), oci.CodeBlobUnknown)
		upload(t, w.uploads(), api, "layer")
		wantCode(t, "DeleteBlob", w.DeleteBlob(t.Context(), web, layer.Digest), "")
		wantCode(t, "DeleteBlob again", w.DeleteBlob(t.Context(), web, layer.Digest), oci.CodeBlobUnknown)
		_, err := w.HasBlob(t.Context(), web, layer.Digest)
		wantCode(t, "HasBlob", err, oci.CodeBlobUnknown)
		_, _, err = w.Released().Blob(t.Context(), c, layer.Digest)
		wantCode(t, "Blob of what was released", err, oci.CodeBlobUnknown)
		w.wantPushed(t, api, "layer")
		wantCode(t, "DeleteBlob of the last", w.DeleteBlob(t.Context(), api, layer.Digest), "")
		if _, err := w.driver.Stat(t.Context(), blobPath(layer.Digest)); err == nil {
			t.Error("the bytes are still there")
		}
		t.Run("which may be uploaded again", func(t *testing.T) {
			upload(t, w.uploads(), web, "layer")
			r, _, err := w.Released().Blob(t.Context(), c, layer.Digest)
			if b := mustRead(t, r, err); string(b) != "layer" {
				t.Errorf("Blob: got %q", b)
			}
		})
	})
}

func blobPath(d oci.Digest) string {
	return "/docker/registry/v2/blobs/sha256/" + d.Encoded()[:2] + "/" + d.Encoded() + "/data"
}

func TestRemovingAManifest(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		layer := upload(t, w.uploads(), web, "layer")
		one, two := w.push(t, web, layer), w.push(t, web, layer, layer)
		w.release(t, one, layer)
		for range 2 {
			if err := w.RemoveManifest(t.Context(), one); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Hold(t.Context(), one); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("Hold: got %v, want oci.ErrNotFound", err)
		}
		_, _, err := w.Released().Blob(t.Context(), one, layer.Digest)
		wantCode(t, "Blob of what was released", err, oci.CodeBlobUnknown)
		if b, err := w.readAll(t, two, layer); string(b) != "layer" || err != nil {
			t.Errorf("Open by the other: got %q, %v", b, err)
		}
	})
}

func TestABrokenBlobOfAHostedRepositoryIsGone(t *testing.T) {
	w := onFiles(t)
	layer := upload(t, w.uploads(), web, "layer")
	c := w.push(t, web, layer)
	if err := w.driver.PutContent(t.Context(), blobPath(layer.Digest), []byte("other")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Open(t.Context(), c, layer); !errors.Is(err, oci.ErrBlobUnknown) {
		t.Errorf("Open: got %v, want oci.ErrBlobUnknown", err)
	}
	w.wantNobodyAsked(t)
	upload(t, w.uploads(), web, "layer")
	if b, err := w.readAll(t, c, layer); string(b) != "layer" || err != nil {
		t.Errorf("Open of what was uploaded again: got %q, %v", b, err)
	}
}

func TestReadBlob(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		small := upload(t, w.uploads(), web, "small")
		lying := small
		lying.Size--
		for _, tt := range []struct {
			name string
			repo oci.Repository
			desc oci.Descriptor
			max  int64
			want error
		}{
			{"as it is", web, small, 5, nil},
			{"larger than is read", web, small, 4, oci.ErrTooLarge},
			{"with another size", web, lying, 5, oci.ErrMismatch},
			{"of another repository", api, small, 5, oci.ErrBlobUnknown},
		} {
			got, err := w.ReadBlob(t.Context(), tt.repo, tt.desc, tt.max)
			if !errors.Is(err, tt.want) || tt.want == nil && string(got) != "small" {
				t.Errorf("%s: got %q, %v, want %v", tt.name, got, err, tt.want)
			}
		}
	})
}

func TestPushedBlobsCanBeReadInPart(t *testing.T) {
	w := onFiles(t)
	layer := upload(t, w.uploads(), web, "layer")
	r, size, err := w.Pushed().Blob(t.Context(), web, layer.Digest)
	if err != nil {
		t.Fatal(err)
	}
	seeker, ok := r.(io.ReadSeeker)
	if !ok || size != layer.Size {
		t.Fatalf("Blob: got a %T of %d bytes, want an io.Seeker of %d", r, size, layer.Size)
	}
	if _, err := seeker.Seek(2, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if b := mustRead(t, r, nil); string(b) != "yer" {
		t.Errorf("got %q, want %q", b, "yer")
	}
}

// TestAForeignLayerIsNobodys: an image may name layers that clients fetch from elsewhere, and by naming one gets no hold of bytes that
// somebody else has brought here.
func TestAForeignLayerIsNobodys(t *testing.T) {
	eachStorage(t, func(t *testing.T, w world) {
		theirs := upload(t, w.uploads(), api, "somebody else's layer")
		theirs.MediaType, theirs.URLs = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", []string{"https://elsewhere.test/layer"}
		c := w.push(t, web, theirs)
		if r, _, err := w.Pushed().Blob(t.Context(), web, theirs.Digest); !errors.Is(err, oci.ErrBlobUnknown) {
			t.Errorf("for who pushes: got %v, %v, want BLOB_UNKNOWN", r, err)
		}
		w.release(t, c, theirs)
		if r, _, err := w.Released().Blob(t.Context(), c, theirs.Digest); !errors.Is(err, oci.ErrBlobUnknown) {
			t.Errorf("released: got %v, %v, want BLOB_UNKNOWN", r, err)
		}
		theirs.MediaType = "application/vnd.oci.image.layer.v1.tar+gzip"
		content := w.imageOf(t, web, theirs)
		err := w.PutManifest(t.Context(), gate.Candidate{Repository: web, Digest: content.Digest}, content)
		if e, ok := errors.AsType[*oci.Error](err); !ok || e.Code != oci.CodeManifestBlobUnknown {
			t.Errorf("a layer of the usual type, with a place to fetch it from: got %v, want MANIFEST_BLOB_UNKNOWN", err)
		}
	})
}
