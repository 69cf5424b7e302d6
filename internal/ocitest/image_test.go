package ocitest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidewaiter/tidewaiter/oci"
)

// unpack undoes a compression.
func unpack(t *testing.T, c Compression, b []byte) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(b)
	var err error
	switch c {
	case Gzip, "":
		r, err = gzip.NewReader(r)
	case Zstd:
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLayer(t *testing.T) {
	for _, tt := range []struct {
		name        string
		compression Compression
		docker      bool
		want        string
	}{
		{"the zero compression is gzip", "", false, "application/vnd.oci.image.layer.v1.tar+gzip"},
		{"OCI gzip", Gzip, false, "application/vnd.oci.image.layer.v1.tar+gzip"},
		{"OCI zstd", Zstd, false, "application/vnd.oci.image.layer.v1.tar+zstd"},
		{"OCI plain", Plain, false, "application/vnd.oci.image.layer.v1.tar"},
		{"Docker gzip", Gzip, true, "application/vnd.docker.image.rootfs.diff.tar.gzip"},
		{"Docker zstd", Zstd, true, "application/vnd.docker.image.rootfs.diff.tar.zstd"},
		{"Docker plain", Plain, true, "application/vnd.docker.image.rootfs.diff.tar"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := LayerSpec{Compression: tt.compression, Files: []File{text("etc/motd", "hello")}}
			l, err := spec.Build(tt.docker)
			if err != nil {
				t.Fatal(err)
			}
			archive := unpack(t, tt.compression, l.Blob)
			want := Layer{Blob: l.Blob, DiffID: oci.FromBytes(archive), Descriptor: oci.Descriptor{
				MediaType: tt.want, Digest: oci.FromBytes(l.Blob), Size: int64(len(l.Blob)),
			}}
			if diff := cmp.Diff(l, want); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
			again, err := spec.Build(tt.docker)
			if err != nil || again.Descriptor.Digest != l.Descriptor.Digest {
				t.Errorf("the same files give %s, then %s: %v", l.Descriptor.Digest, again.Descriptor.Digest, err)
			}
		})
	}
	t.Run("an unknown compression is refused", func(t *testing.T) {
		if l, err := (LayerSpec{Compression: "xz"}).Build(false); err == nil {
			t.Errorf("built %v", l.Descriptor)
		}
	})
	t.Run("a raw blob is taken as it is", func(t *testing.T) {
		l, err := LayerSpec{Blob: []byte("junk"), MediaType: "text/plain", URLs: []string{"https://example.org/layer"}}.Build(false)
		want := Layer{Blob: []byte("junk"), DiffID: oci.FromBytes([]byte("junk")), Descriptor: oci.Descriptor{
			MediaType: "text/plain", Digest: oci.FromBytes([]byte("junk")), Size: 4, URLs: []string{"https://example.org/layer"},
		}}
		if diff := cmp.Diff(l, want); err != nil || diff != "" {
			t.Errorf("%v (-got +want)\n%s", err, diff)
		}
	})
	t.Run("a file tar cannot hold is an error", func(t *testing.T) {
		spec := LayerSpec{Files: []File{{Path: "x", Header: func(h *tar.Header) { h.Size = -1 }}}}
		if _, err := spec.Build(false); err == nil || !strings.Contains(err.Error(), "packing x") {
			t.Errorf("got %v", err)
		}
	})
}

func TestFiles(t *testing.T) {
	type entry struct {
		Name, Link, Body string
		Type             byte
		Mode             int64
	}
	for _, tt := range []struct {
		name string
		file File
		want entry
	}{
		{"a file", File{Path: "etc/motd", Body: []byte("hi")}, entry{"etc/motd", "", "hi", tar.TypeReg, 0o644}},
		{"a directory", File{Path: "etc/"}, entry{"etc/", "", "", tar.TypeDir, 0o755}},
		{"a program anybody runs as root", File{Path: "bin/su", Mode: 0o755 | fs.ModeSetuid}, entry{"bin/su", "", "", tar.TypeReg, 0o4755}},
		{"a symbolic link", File{Path: "a", Symlink: "../b"}, entry{"a", "../b", "", tar.TypeSymlink, 0o644}},
		{"a hard link", File{Path: "a", Hardlink: "etc/b"}, entry{"a", "etc/b", "", tar.TypeLink, 0o644}},
		{"a path that climbs out", File{Path: "../../etc/passwd"}, entry{"../../etc/passwd", "", "", tar.TypeReg, 0o644}},
		{"a removal", Whiteout("etc/motd"), entry{"etc/.wh.motd", "", "", tar.TypeReg, 0o644}},
		{"a removal at the root", Whiteout("motd"), entry{".wh.motd", "", "", tar.TypeReg, 0o644}},
		{"a device", File{Path: "dev/null", Header: func(h *tar.Header) { h.Typeflag = tar.TypeChar }}, entry{"dev/null", "", "", tar.TypeChar, 0o644}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			archive, err := packTar([]File{tt.file})
			if err != nil {
				t.Fatal(err)
			}
			r := tar.NewReader(bytes.NewReader(archive))
			h, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			got := entry{h.Name, h.Linkname, string(body), h.Typeflag, h.Mode}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
		})
	}
}

func TestPushImage(t *testing.T) {
	arm := oci.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	for _, tt := range []struct {
		name             string
		img              Image
		wantType, config string
		wantPlatform     oci.Platform
	}{
		{"OCI", Image{}, oci.MediaTypeImage, oci.MediaTypeConfig, oci.Platform{OS: "linux", Architecture: "amd64"}},
		{"Docker, another platform", Image{Docker: true, Platform: arm}, oci.MediaTypeDockerImage, oci.MediaTypeDockerConf, arm},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, Options{})
			tt.img.Config = ocispec.ImageConfig{User: "1000", Env: []string{"A=b"}, Labels: map[string]string{"team": "x"}}
			tt.img.Layers = []LayerSpec{{Files: Debian("12")}, {Files: []File{text("app", "x")}}}
			desc := push(t, r, "app", "v1", tt.img)
			content, ok := r.Manifest("app", "v1")
			if !ok || content.Digest != desc.Digest || desc.MediaType != tt.wantType || content.MediaType != tt.wantType {
				t.Fatalf("stored %s %s, pushed %+v", content.MediaType, content.Digest, desc)
			}
			if diff := cmp.Diff(desc.Platform, &tt.wantPlatform); diff != "" {
				t.Errorf("platform (-got +want)\n%s", diff)
			}
			m, err := oci.ParseManifest(content.MediaType, content.Raw)
			if err != nil {
				t.Fatal(err)
			}
			if m.Config.MediaType != tt.config {
				t.Errorf("config type %q, want %q", m.Config.MediaType, tt.config)
			}
			raw, _ := r.Blob("app", m.Config.Digest)
			var config ocispec.Image
			if err := json.Unmarshal(raw, &config); err != nil {
				t.Fatal(err)
			}
			var diffIDs []oci.Digest
			for _, l := range m.Layers {
				blob, _ := r.Blob("app", l.Digest)
				diffIDs = append(diffIDs, oci.FromBytes(unpack(t, Gzip, blob)))
			}
			if diff := cmp.Diff(config.RootFS.DiffIDs, diffIDs); diff != "" {
				t.Errorf("diff ids (-got +want)\n%s", diff)
			}
			if diff := cmp.Diff(config.Config, tt.img.Config); diff != "" {
				t.Errorf("config (-got +want)\n%s", diff)
			}
			if again := push(t, r, "app", "v1", tt.img); again.Digest != desc.Digest {
				t.Errorf("the same image is %s, then %s", desc.Digest, again.Digest)
			}
			if n := len(r.Requests()); n != 0 {
				t.Errorf("%d requests recorded", n)
			}
		})
	}
	t.Run("a layer that cannot be built names the image", func(t *testing.T) {
		r := start(t, Options{})
		_, err := r.PushImage("app", "v1", Image{Layers: []LayerSpec{{}, {Compression: "xz"}}})
		if err == nil || !strings.Contains(err.Error(), "layer 1 of app") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an artifact has its own config and no platform", func(t *testing.T) {
		r := start(t, Options{})
		desc := push(t, r, "app", "chart", Image{ConfigMediaType: "application/x.chart", ConfigBlob: []byte("{}"), ArtifactType: "a/b"})
		content, _ := r.Manifest("app", "chart")
		m, err := oci.ParseManifest(content.MediaType, content.Raw)
		if err != nil || m.Config.MediaType != "application/x.chart" || m.Config.Size != 2 || m.ArtifactType != "a/b" || desc.Platform != nil {
			t.Errorf("pushed %+v as %+v: %v", m, desc, err)
		}
	})
}

func TestPushIndex(t *testing.T) {
	r := start(t, Options{})
	amd := push(t, r, "app", "", Image{})
	arm := push(t, r, "app", "", Image{Platform: oci.Platform{Architecture: "arm64"}})
	docker := push(t, r, "app", "", Image{Docker: true})
	for _, tt := range []struct {
		name     string
		children []oci.Descriptor
		want     string
	}{
		{"OCI", []oci.Descriptor{amd, arm}, oci.MediaTypeIndex},
		{"Docker", []oci.Descriptor{docker}, oci.MediaTypeDockerIndex},
		{"mixed", []oci.Descriptor{docker, arm}, oci.MediaTypeIndex},
		{"empty", nil, oci.MediaTypeIndex},
	} {
		t.Run(tt.name, func(t *testing.T) {
			desc, err := r.PushIndex("app", "multi", tt.children...)
			if err != nil {
				t.Fatal(err)
			}
			content, _ := r.Manifest("app", "multi")
			m, err := oci.ParseManifest(content.MediaType, content.Raw)
			if err != nil || desc.MediaType != tt.want || content.Digest != desc.Digest || len(m.Manifests) != len(tt.children) {
				t.Fatalf("stored %s as %+v: %v", content.Raw, desc, err)
			}
			for i, child := range m.Manifests {
				if diff := cmp.Diff(child, tt.children[i]); diff != "" {
					t.Errorf("child %d (-got +want)\n%s", i, diff)
				}
			}
		})
	}
}
