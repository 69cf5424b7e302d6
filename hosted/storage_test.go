package hosted_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/quarantine"
	"github.com/tidewaiter/tidewaiter/seal"
)

var web = oci.Repository{Path: "apps/web"}

// process is a process with everything of its own but the storage.
type process struct {
	*hosted.Repositories
	held    *quarantine.Quarantine
	uploads *quarantine.Uploads
}

func startProcess(t *testing.T, root string) process {
	t.Helper()
	driver := filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 100})
	key, err := seal.NewKey([]byte("the seal key of the tests of hosted repositories"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	held, err := quarantine.New(nil, driver, root, filepath.Join(root, "spool"), log) // no source: whoever asks one panics
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Close() })
	pattern, err := oci.ParsePattern("apps/**")
	if err != nil {
		t.Fatal(err)
	}
	repositories, err := hosted.New(hosted.Options{
		Rules:   []hosted.Rule{{Repositories: []oci.Pattern{pattern}}},
		Journal: ledger.New(driver, key, log, time.Now).Journal(), Bytes: held, Now: time.Now, Log: log, Judge: func(gate.Candidate) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(repositories.Close)
	return process{repositories, held, held.Uploads(1<<20, time.Now)}
}

func (p process) upload(t *testing.T, content string) oci.Descriptor {
	t.Helper()
	session, err := p.uploads.Start(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	d := oci.FromBytes([]byte(content))
	size, err := p.uploads.Finish(t.Context(), web, session, 0, strings.NewReader(content), d)
	if err != nil {
		t.Fatal(err)
	}
	return oci.Descriptor{MediaType: oci.MediaTypeSimpleSigning, Digest: d, Size: size}
}

// image uploads and returns an image of one layer, signed as said.
func (p process) image(t *testing.T, layer, signature string) oci.Content {
	t.Helper()
	l := p.upload(t, layer)
	l.Annotations = map[string]string{"dev.cosignproject.cosign/signature": signature}
	config := p.upload(t, fmt.Sprintf(`{"rootfs":{"type":"layers","diff_ids":[%q]}}`, l.Digest))
	config.MediaType = oci.MediaTypeConfig
	raw, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "config": config, "layers": []oci.Descriptor{l},
	})
	if err != nil {
		t.Fatal(err)
	}
	return oci.Content{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes(raw), Raw: raw}
}

func (p process) push(t *testing.T, tag string, content oci.Content) {
	t.Helper()
	if _, err := p.Put(t.Context(), web, hosted.Reference{Tag: tag}, content, "user:ci"); err != nil {
		t.Errorf("Put: %v", err)
	}
}

// TestEightSignersOverOneStorage is the whole way, in two processes, with what is used in practice.
func TestEightSignersOverOneStorage(t *testing.T) {
	root := t.TempDir()
	processes := []process{startProcess(t, root), startProcess(t, root)}
	image := processes[0].image(t, "the image", "")
	processes[0].push(t, "v1", image)
	tag := "sha256-" + image.Digest.Encoded() + ".sig"
	const signers = 8
	var all sync.WaitGroup
	for n := range signers {
		p := processes[n%2]
		signed := p.image(t, "the payload", fmt.Sprint(n))
		all.Go(func() { p.push(t, tag, signed) })
	}
	all.Wait()
	after := startProcess(t, root)
	found, err := after.Resolve(t.Context(), web, tag)
	if err != nil {
		t.Fatal(err)
	}
	c := gate.Candidate{Repository: web, Digest: found.Pushed.Digest}
	held, err := after.held.Hold(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	signed := map[string]bool{}
	for _, layer := range held.Manifest.Layers {
		signed[layer.Annotations["dev.cosignproject.cosign/signature"]] = true
		r, err := after.held.Open(t.Context(), c, layer)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
	}
	if len(signed) != signers || len(held.Manifest.Layers) != signers {
		t.Errorf("got %d signatures in %d layers, want %d", len(signed), len(held.Manifest.Layers), signers)
	}
	raw, err := after.held.ReadBlob(t.Context(), web, held.Manifest.Config, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		RootFS struct {
			DiffIDs []oci.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(raw, &config); err != nil || len(config.RootFS.DiffIDs) != signers {
		t.Errorf("got %d diffIDs, %v, want %d", len(config.RootFS.DiffIDs), err, signers)
	}
}

func TestWhatIsDeletedIsGoneFromStorage(t *testing.T) {
	root := t.TempDir()
	p := startProcess(t, root)
	image := p.image(t, "the image", "")
	p.push(t, "sha256-"+image.Digest.Encoded()+".sbom", image) // which may be deleted
	c := gate.Candidate{Repository: web, Digest: image.Digest}
	if err := p.DeleteManifest(t.Context(), web, image.Digest, "user:ci"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []process{p, startProcess(t, root)} {
		if _, err := p.held.Hold(t.Context(), c); !oci.IsMissing(err) {
			t.Errorf("Hold: got %v, want it missing", err)
		}
		if _, err := p.Stat(t.Context(), web, image.Digest); !oci.IsMissing(err) {
			t.Errorf("Stat: got %v, want it missing", err)
		}
	}
}
