package advisories

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// layerMediaType is that of the one layer a published database has.
const layerMediaType = "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"

// updateTimeout bounds one update: 100 MiB over a line of 1 Mbit/s, and checking what is in it.
const updateTimeout = 30 * time.Minute

// Names of files while something comes in.
const (
	layerFile  = "incoming.tar.gz"
	importFile = "incoming.file"
)

// Registry reads from the registry a source lies in. What it returns is verified here. Implementations are safe for concurrent use.
type Registry interface {
	// Manifest returns the manifest that reference, a tag or a digest, names in repo. Errors: those of package oci.
	Manifest(ctx context.Context, repo oci.Repository, reference string) (oci.Content, error)
	// Blob streams a blob. Errors: as Manifest.
	Blob(ctx context.Context, repo oci.Repository, desc oci.Descriptor) (io.ReadCloser, error)
}

// ParseSource reads the reference of an artifact, with its registry's host: "ghcr.io/aquasecurity/trivy-db:2". One with a digest is
// never another database than that.
//
// Errors: those of [oci.ParseReference]; no host.
func ParseSource(s string) (oci.Reference, error) {
	if host, _ := oci.SplitUpstream(s); host == "" {
		return oci.Reference{}, fmt.Errorf("source %.200q does not begin with the host of a registry", s)
	}
	return oci.ParseReference(s, "", nil)
}

// Update brings what source names at registry into use, unless it is in use already or was rolled back from. changed says whether
// there is another database in use now. What came of it is recorded.
//
// Errors: ErrBusy, ErrOlder (only for a tag), ErrFormat; those of registry, of the digest and of checking the database.
func (f *Folder) Update(ctx context.Context, registry Registry, source oci.Reference) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	changed, err = f.update(ctx, registry, source)
	if errors.Is(err, ErrBusy) {
		return false, err // who is busy records what comes of that
	}
	now := f.now().UTC()
	noteErr := f.note(func(a *Attempts) {
		if err == nil {
			a.SucceededAt = now
			return
		}
		a.fail(now, err)
	})
	if noteErr != nil {
		err = errors.Join(err, fmt.Errorf("recording the attempt: %w", noteErr))
	}
	return changed, err
}

func (f *Folder) update(ctx context.Context, registry Registry, source oci.Reference) (changed bool, err error) {
	reference, pinned := source.Tag, source.Digest != ""
	if pinned {
		reference = source.Digest.String()
	}
	content, err := registry.Manifest(ctx, source.Repository, reference)
	if err != nil {
		return false, err
	}
	if pinned && content.Digest != source.Digest {
		return false, fmt.Errorf("the manifest has digest %s: %w", content.Digest, oci.ErrMismatch)
	}
	if f.has(content.Digest, pinned) {
		return false, nil
	}
	layer, err := databaseLayer(content)
	if err != nil {
		return false, err
	}
	_, err = f.install(ctx, pinned, func(dir string, o *Origin) error {
		o.From, o.Digest = source.String(), content.Digest
		if pinned {
			o.Verified = "digest"
		}
		blob, err := registry.Blob(ctx, source.Repository, layer)
		if err != nil {
			return err
		}
		err = unpackLayer(ctx, blob, layer, dir)
		return errors.Join(err, blob.Close())
	})
	return err == nil, err
}

// has reports whether an artifact need not be fetched: it is in use, and as far verified as is asked for, or a tag leads to the one that
// was rolled back from.
func (f *Folder) has(digest oci.Digest, pinned bool) bool {
	if o, ok := f.generation(currentName); ok && o.Digest == digest && (!pinned || o.Verified != "") {
		return true
	}
	var left rolledBack
	err := readRecord(filepath.Join(f.path, rolledBackName), &left)
	return err == nil && !pinned && left.Digest == digest
}

// databaseLayer returns the layer a manifest keeps its database in. A manifest of another form is refused: what else it may hold is
// nobody's business here.
func databaseLayer(content oci.Content) (oci.Descriptor, error) {
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		return oci.Descriptor{}, err
	}
	if m.IsIndex() || len(m.Layers) != 1 || m.Layers[0].MediaType != layerMediaType {
		return oci.Descriptor{}, fmt.Errorf("the manifest is not one of a single layer of type %s: %w", layerMediaType, ErrFormat)
	}
	if m.Layers[0].Size > maxLayerBytes {
		return oci.Descriptor{}, fmt.Errorf("the layer is %d bytes, at most %d are read: %w", m.Layers[0].Size, int64(maxLayerBytes), ErrFormat)
	}
	return m.Layers[0], nil
}

// unpackLayer writes the database in a layer into dir. The layer is stored and compared with its digest before any of it is unpacked.
func unpackLayer(ctx context.Context, blob io.Reader, layer oci.Descriptor, dir string) error {
	path := filepath.Join(dir, layerFile)
	if err := write(ctx, path, oci.NewVerifier(blob, layer), maxLayerBytes, time.Time{}); err != nil {
		return fmt.Errorf("reading layer %s: %w", layer.Digest, err)
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	err = unpackGzip(ctx, file, dir)
	return errors.Join(err, file.Close(), os.Remove(path))
}
