package advisories

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"

	"github.com/tidewaiter/tidewaiter/oci"
)

// layoutIndex is the file of an OCI layout that names its manifests (image-spec, image-layout.md).
const layoutIndex = "index.json"

// maxLayoutEntries bounds the entries of an OCI layout in an archive, and maxLayoutBytes all they say they hold. A layout of one
// database has six.
const (
	maxLayoutEntries = 1024
	maxLayoutBytes   = 2*maxLayerBytes + maxSkippedBytes
)

// opener opens a file of a layout by its name in it. Errors: fs.ErrNotExist.
type opener func(ctx context.Context, name string) (io.ReadCloser, error)

// takeLayout writes the database in an OCI layout into dir. The layout has one manifest, or the one that proof names.
func takeLayout(ctx context.Context, open opener, dir string, proof Proof, o *Origin) error {
	raw, err := readFile(ctx, open, layoutIndex)
	if err != nil {
		return err
	}
	index, err := oci.ParseManifest(oci.MediaTypeIndex, raw)
	if err != nil {
		return fmt.Errorf("reading %s: %w", layoutIndex, err)
	}
	manifests := index.Manifests
	if proof.Digest != "" {
		manifests = slices.DeleteFunc(slices.Clone(manifests), func(d oci.Descriptor) bool { return d.Digest != proof.Digest })
		if len(manifests) == 0 {
			return fmt.Errorf("the layout has no manifest %s: %w", proof.Digest, ErrUnverified)
		}
	}
	if len(manifests) != 1 {
		return fmt.Errorf("the layout has %d manifests, of which none was asked for: %w", len(manifests), ErrFormat)
	}
	desc := manifests[0]
	content, err := readManifest(ctx, open, desc)
	if err != nil {
		return err
	}
	if err := proof.matches(desc.Digest, o); err != nil {
		return err
	}
	layer, err := databaseLayer(content)
	if err != nil {
		return err
	}
	blob, err := open(ctx, blobName(layer.Digest))
	if err != nil {
		return err
	}
	return errors.Join(unpackLayer(ctx, blob, layer, dir), blob.Close())
}

func readManifest(ctx context.Context, open opener, desc oci.Descriptor) (oci.Content, error) {
	file, err := open(ctx, blobName(desc.Digest))
	if err != nil {
		return oci.Content{}, err
	}
	raw, err := oci.ReadVerified(file, desc, oci.MaxManifestBytes)
	if err := errors.Join(err, file.Close()); err != nil {
		return oci.Content{}, fmt.Errorf("reading manifest %s: %w", desc.Digest, err)
	}
	return oci.Content{MediaType: desc.MediaType, Digest: desc.Digest, Raw: raw}, nil
}

func readFile(ctx context.Context, open opener, name string) ([]byte, error) {
	file, err := open(ctx, name)
	if err != nil {
		return nil, err
	}
	raw, err := oci.ReadBounded(file, oci.MaxManifestBytes)
	return raw, errors.Join(err, file.Close())
}

// blobName returns where a layout keeps a blob.
func blobName(d oci.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// find advances entries to the regular file called name.
func find(ctx context.Context, entries *tar.Reader, name string) (io.Reader, error) {
	total := int64(0)
	for range maxLayoutEntries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		if err != nil {
			return nil, fmt.Errorf("reading the archive: %w", err)
		}
		if path.Clean(header.Name) == name && header.Typeflag == tar.TypeReg {
			return entries, nil
		}
		if total += header.Size; total > maxLayoutBytes {
			return nil, fmt.Errorf("the archive has more than %d bytes before %s: %w", int64(maxLayoutBytes), name, ErrFormat)
		}
	}
	return nil, fmt.Errorf("the archive has more than %d entries: %w", maxLayoutEntries, ErrFormat)
}
