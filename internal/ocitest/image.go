package ocitest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidewaiter/tidewaiter/oci"
)

// epoch is the time of everything built here, so that the same input has the same digest.
func epoch() time.Time { return time.Date(2024, time.January, 2, 3, 4, 5, 0, time.UTC) }

// File is one entry of a layer. Nothing about it is checked: a path may climb out of the root.
type File struct {
	// Path is relative to the root, with '/'. One that ends in '/' is a directory.
	Path string
	Body []byte
	// Mode is 0 for the usual one: 0755 for directories, 0644 for files.
	Mode fs.FileMode
	// Symlink and Hardlink name what the entry links to; at most one is set.
	Symlink, Hardlink string
	// Header, when not nil, has the last word on the tar header, for entries no honest builder writes.
	Header func(*tar.Header)
}

// Whiteout returns the entry that removes a path of the layers below (image-spec, layer.md, Whiteouts).
func Whiteout(path string) File {
	i := strings.LastIndexByte(path, '/') + 1
	return File{Path: path[:i] + ".wh." + path[i:]}
}

// Compression is how a layer is packed.
type Compression string

// The compressions of the image specification. The zero value means gzip.
const (
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
	Plain Compression = "plain"
)

// LayerSpec says what a layer holds.
type LayerSpec struct {
	Files       []File
	Compression Compression
	// Blob, when not nil, is the layer in place of Files: broken, bombs, or not a layer at all.
	Blob []byte
	// MediaType, when not empty, is written in place of the one that fits Compression.
	MediaType string
	// URLs make the layer a foreign one.
	URLs []string
}

// Layer is a layer built from its specification.
type Layer struct {
	Blob       []byte
	Descriptor oci.Descriptor
	// DiffID is the digest of the layer unpacked; of the blob itself when the specification gave that.
	DiffID oci.Digest
}

// Build packs the layer, with the media types of the OCI or the Docker format.
func (s LayerSpec) Build(docker bool) (Layer, error) {
	compression := cmp.Or(s.Compression, Gzip)
	l := Layer{Blob: s.Blob, DiffID: oci.FromBytes(s.Blob)}
	if s.Blob == nil {
		archive, err := packTar(s.Files)
		if err != nil {
			return Layer{}, err
		}
		if l.Blob, err = compress(compression, archive); err != nil {
			return Layer{}, err
		}
		l.DiffID = oci.FromBytes(archive)
	}
	types, format := layerTypes[compression], 0
	if docker {
		format = 1
	}
	l.Descriptor = oci.Descriptor{
		MediaType: cmp.Or(s.MediaType, types[format]), Digest: oci.FromBytes(l.Blob), Size: int64(len(l.Blob)), URLs: s.URLs,
	}
	return l, nil
}

// layerTypes are the media types of layers, OCI then Docker. Docker never named one for zstd; this is what BuildKit writes.
var layerTypes = map[Compression][2]string{
	Gzip:  {ocispec.MediaTypeImageLayerGzip, "application/vnd.docker.image.rootfs.diff.tar.gzip"},
	Zstd:  {ocispec.MediaTypeImageLayerZstd, "application/vnd.docker.image.rootfs.diff.tar.zstd"},
	Plain: {ocispec.MediaTypeImageLayer, "application/vnd.docker.image.rootfs.diff.tar"},
}

func packTar(files []File) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if err := w.WriteHeader(f.header()); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.Path, err)
		}
		if _, err := w.Write(f.Body); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("packing a layer: %w", err)
	}
	return buf.Bytes(), nil
}

func (f File) header() *tar.Header {
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: f.Path, Size: int64(len(f.Body)), ModTime: epoch(),
		Mode: int64(cmp.Or(f.Mode.Perm(), 0o644)),
	}
	switch {
	case f.Symlink != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Symlink
	case f.Hardlink != "":
		h.Typeflag, h.Linkname = tar.TypeLink, f.Hardlink
	case strings.HasSuffix(f.Path, "/"):
		h.Typeflag, h.Mode = tar.TypeDir, int64(cmp.Or(f.Mode.Perm(), 0o755))
	}
	if f.Mode&fs.ModeSetuid != 0 {
		h.Mode |= 0o4000
	}
	if f.Header != nil {
		f.Header(h)
	}
	return h
}

func compress(compression Compression, b []byte) ([]byte, error) {
	var buf bytes.Buffer
	var w io.WriteCloser
	switch compression {
	case Plain:
		return b, nil
	case Gzip:
		w = gzip.NewWriter(&buf)
	case Zstd:
		encoder, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1)) // one goroutine, so the same bytes each time
		if err != nil {
			return nil, fmt.Errorf("compressing a layer: %w", err)
		}
		w = encoder
	default:
		return nil, fmt.Errorf("compressing a layer: unknown compression %q", compression)
	}
	if _, err := w.Write(b); err != nil {
		return nil, fmt.Errorf("compressing a layer: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compressing a layer: %w", err)
	}
	return buf.Bytes(), nil
}

// Image says what an image, or another artifact that has the form of one, holds.
type Image struct {
	// Layers are in the order they are applied, lowest first.
	Layers []LayerSpec
	Config ocispec.ImageConfig
	// Platform is linux/amd64 when it is zero.
	Platform oci.Platform
	// Created is a fixed time when it is zero.
	Created time.Time
	// Docker writes the Docker formats in place of the OCI ones.
	Docker       bool
	Annotations  map[string]string
	Subject      *oci.Descriptor
	ArtifactType string
	// ConfigMediaType, when not empty, is written in place of an image config's.
	ConfigMediaType string
	// ConfigBlob, when not nil, is the config in place of the one made from Config, Platform and Layers.
	ConfigBlob []byte
}

// PushImage stores an image, under a tag unless that is empty, and returns its descriptor with its platform. It goes past HTTP,
// so no request is recorded.
func (r *Registry) PushImage(repo, tag string, img Image) (oci.Descriptor, error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: img.mediaType(), ArtifactType: img.ArtifactType,
		Layers: []oci.Descriptor{}, Subject: img.Subject, Annotations: img.Annotations,
	}
	var diffIDs []oci.Digest
	for i, spec := range img.Layers {
		l, err := spec.Build(img.Docker)
		if err != nil {
			return oci.Descriptor{}, fmt.Errorf("building layer %d of %s: %w", i, repo, err)
		}
		r.PutBlob(repo, l.Blob)
		m.Layers = append(m.Layers, l.Descriptor)
		diffIDs = append(diffIDs, l.DiffID)
	}
	config, err := img.config(diffIDs)
	if err != nil {
		return oci.Descriptor{}, fmt.Errorf("building the config of %s: %w", repo, err)
	}
	m.Config = r.PutBlob(repo, config)
	m.Config.MediaType = img.configMediaType()
	desc, err := r.putJSON(repo, tag, m.MediaType, m)
	if err == nil && img.isRunnable() {
		platform := img.platform()
		desc.Platform = &platform
	}
	return desc, err
}

// PushIndex stores an index of children, under a tag unless that is empty: a Docker manifest list when all children are Docker
// images, an OCI index otherwise.
func (r *Registry) PushIndex(repo, tag string, children ...oci.Descriptor) (oci.Descriptor, error) {
	mediaType := oci.MediaTypeDockerIndex
	for _, child := range children {
		if child.MediaType != oci.MediaTypeDockerImage {
			mediaType = oci.MediaTypeIndex
		}
	}
	if len(children) == 0 {
		mediaType, children = oci.MediaTypeIndex, []oci.Descriptor{}
	}
	return r.putJSON(repo, tag, mediaType, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType, Manifests: children,
	})
}

func (r *Registry) putJSON(repo, reference, mediaType string, v any) (oci.Descriptor, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return oci.Descriptor{}, fmt.Errorf("encoding a manifest of %s: %w", repo, err)
	}
	dgst := r.PutManifest(repo, reference, mediaType, raw)
	return oci.Descriptor{MediaType: mediaType, Digest: dgst, Size: int64(len(raw))}, nil
}

func (img Image) mediaType() string {
	if img.Docker {
		return oci.MediaTypeDockerImage
	}
	return oci.MediaTypeImage
}

func (img Image) configMediaType() string {
	if img.Docker {
		return cmp.Or(img.ConfigMediaType, oci.MediaTypeDockerConf)
	}
	return cmp.Or(img.ConfigMediaType, oci.MediaTypeConfig)
}

// isRunnable reports whether the config is an image's and so has a platform.
func (img Image) isRunnable() bool { return img.ConfigMediaType == "" && img.ConfigBlob == nil }

func (img Image) platform() oci.Platform {
	p := img.Platform
	p.OS, p.Architecture = cmp.Or(p.OS, "linux"), cmp.Or(p.Architecture, "amd64")
	return p
}

func (img Image) config(diffIDs []oci.Digest) ([]byte, error) {
	if img.ConfigBlob != nil {
		return img.ConfigBlob, nil
	}
	created := img.Created
	if created.IsZero() {
		created = epoch()
	}
	c := ocispec.Image{
		Created: &created, Platform: img.platform(), Config: img.Config,
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffIDs},
	}
	for range diffIDs {
		c.History = append(c.History, ocispec.History{Created: &created, CreatedBy: "ocitest"})
	}
	return json.Marshal(c)
}
