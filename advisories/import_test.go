package advisories

import (
	"encoding/json"
	"errors"
	"os"
	"path"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// layout returns the files of an OCI layout of artifacts, by name, and the digests of their manifests.
func layout(t *testing.T, layers ...[]byte) (files map[string][]byte, manifests []oci.Digest) {
	t.Helper()
	s := newSource(t)
	files = map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	index := map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex}
	var listed []oci.Descriptor
	for _, layer := range layers {
		digest := s.publish(t, layer)
		content, _ := s.Manifest("trivy-db", digest.String())
		m, err := oci.ParseManifest(content.MediaType, content.Raw)
		if err != nil {
			t.Fatal(err)
		}
		files[blobName(digest)] = content.Raw
		for _, d := range m.Blobs() {
			blob, ok := s.Blob("trivy-db", d.Digest)
			if !ok {
				t.Fatal("no blob")
			}
			files[blobName(d.Digest)] = blob
		}
		listed, manifests = append(listed, content.Descriptor()), append(manifests, digest)
	}
	index["manifests"] = listed
	text, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	files[layoutIndex] = text
	return files, manifests
}

// packLayout returns a layout as an archive, with its index last, as some tools write it.
func packLayout(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var entries []entry
	for name, content := range files {
		if name != layoutIndex {
			entries = append(entries, file(name, content))
		}
	}
	return pack(t, append(entries, file(layoutIndex, files[layoutIndex]))...)
}

func TestImport(t *testing.T) {
	db, metadata := database(t, time.Hour, "CVE-2026-0001")
	plain := pack(t, file("./"+databaseName, db), file("./"+metadataName, metadata))
	files, manifests := layout(t, zipped(t, plain))
	archived := packLayout(t, files)
	dir := t.TempDir()
	write := func(name string, content []byte) string { return writeTest(t, filepath.Join(dir, name), content) }
	bare := write("bare/trivy.db", db)
	if err := os.Chtimes(bare, today.Add(-time.Hour), today.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		write(path.Join("layout", name), content)
	}
	beside := write("both/trivy.db", db)
	write("both/metadata.json", metadata)
	for name, tt := range map[string]struct {
		path   string
		digest oci.Digest // what it is known by
	}{
		"the database":                      {bare, oci.FromBytes(db)},
		"the database beside its metadata":  {beside, oci.FromBytes(db)},
		"an archive":                        {write("a.tar", plain), oci.FromBytes(plain)},
		"a compressed archive":              {write("a.tar.gz", zipped(t, plain)), oci.FromBytes(zipped(t, plain))},
		"a directory":                       {filepath.Join(dir, "both"), oci.FromBytes(db)},
		"an OCI layout":                     {filepath.Join(dir, "layout"), manifests[0]},
		"an archived OCI layout":            {write("l.tar", archived), manifests[0]},
		"a compressed archived OCI layout":  {write("l.tar.gz", zipped(t, archived)), manifests[0]},
		"a file whose name says otherwise":  {write("database.txt", zipped(t, plain)), oci.FromBytes(zipped(t, plain))},
		"a layout that has other files too": {write("m.tar", packLayout(t, with(files, "README", []byte("hello")))), manifests[0]},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTestFolder(t)
			o, err := f.Import(t.Context(), tt.path, Proof{})
			if err != nil {
				t.Fatal(err)
			}
			if o.Digest != tt.digest || o.From != tt.path || !o.BuiltAt.Equal(today.Add(-time.Hour)) || o.Verified != "" {
				t.Errorf("got %+v, want digest %s", o, tt.digest)
			}
			if got := inUse(t, f).InUse; got == nil || *got != o {
				t.Errorf("in use is %+v", got)
			}
			if snapshot, err := checkAsReader(t.Context(), f.Path()); err != nil || snapshot.ID != "sha256:"+oci.FromBytes(db).Encoded() {
				t.Errorf("its reader finds %+v, %v", snapshot, err)
			}
			if o, err := f.Import(t.Context(), tt.path, Proof{Digest: tt.digest}); err != nil || o.Verified != "digest" {
				t.Errorf("by digest: got %+v, %v", o, err)
			}
			before := inUse(t, f).InUse.InstalledAt
			if _, err := f.Import(t.Context(), tt.path, Proof{Digest: oci.FromBytes([]byte("another"))}); !errors.Is(err, ErrUnverified) {
				t.Errorf("by another digest: got %v", err)
			}
			if got := inUse(t, f).InUse; got == nil || !got.InstalledAt.Equal(before) {
				t.Errorf("in use is %+v", got)
			}
		})
	}
	t.Run("an archived OCI layout by the digest of the archive", func(t *testing.T) {
		own := oci.FromBytes(archived)
		o, err := newTestFolder(t).Import(t.Context(), write("n.tar", archived), Proof{Digest: own})
		if err != nil || o.Verified != "digest" || o.Digest != manifests[0] {
			t.Errorf("got %+v, %v", o, err)
		}
	})
}

func with(files map[string][]byte, name string, content []byte) map[string][]byte {
	more := map[string][]byte{name: content}
	for name, content := range files {
		more[name] = content
	}
	return more
}

func TestImportRefuses(t *testing.T) {
	db, metadata := database(t, time.Hour, "CVE-2026-0001")
	layer := zipped(t, pack(t, file(databaseName, db), file(metadataName, metadata)))
	files, manifests := layout(t, layer)
	two, _ := layout(t, layer, packed(t, 2*time.Hour, "CVE-2026-0002"))
	forged := with(files, blobName(manifests[0]), []byte("{}"))
	forged[blobName(manifests[0])] = []byte("{}")
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		content []byte
		want    error
	}{
		"nothing":                      {nil, ErrFormat},
		"something else":               {[]byte("hello"), ErrFormat},
		"an archive of something else": {pack(t, file("hello", []byte("hello"))), ErrFormat},
		"a layout of two":              {packLayout(t, two), ErrFormat},
		"a layout with other bytes":    {packLayout(t, forged), oci.ErrMismatch},
	} {
		f := newTestFolder(t)
		if o, err := f.Import(t.Context(), writeTest(t, filepath.Join(dir, "file"), tt.content), Proof{}); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %+v, %v, want %v", name, o, err, tt.want)
		}
		if got := inUse(t, f); got.InUse != nil {
			t.Errorf("%s: in use is %+v", name, got.InUse)
		}
	}
	for name, path := range map[string]string{"what is not there": filepath.Join(dir, "none"), "a directory of something else": dir, "a device": os.DevNull} {
		if o, err := newTestFolder(t).Import(t.Context(), path, Proof{}); err == nil {
			t.Errorf("%s: got %+v", name, o)
		}
	}
}

func TestImportOfAnOlderOneIsMeant(t *testing.T) {
	f, dir := newTestFolder(t), t.TempDir()
	for _, age := range []time.Duration{time.Hour, 2 * time.Hour} {
		if _, err := f.Import(t.Context(), writeTest(t, filepath.Join(dir, "a"), packed(t, age, "CVE-2026-0001")), Proof{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := inUse(t, f).InUse.BuiltAt; !got.Equal(today.Add(-2 * time.Hour)) {
		t.Errorf("in use is one of %s", got)
	}
}

// A layout may be made of any file an operator can read, but not of one elsewhere.
func TestImportStaysInTheLayout(t *testing.T) {
	files, _ := layout(t, packed(t, time.Hour, "CVE-2026-0001"))
	dir := t.TempDir()
	outside := writeTest(t, filepath.Join(dir, "outside"), files[layoutIndex])
	for name, content := range files {
		if name != layoutIndex {
			writeTest(t, filepath.Join(dir, "layout", name), content)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "layout", layoutIndex)); err != nil {
		t.Fatal(err)
	}
	if o, err := newTestFolder(t).Import(t.Context(), filepath.Join(dir, "layout"), Proof{}); err == nil {
		t.Errorf("got %+v", o)
	}
}

func FuzzImport(f *testing.F) {
	f.Add([]byte("hello"))
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff})
	f.Fuzz(func(t *testing.T, content []byte) {
		folder := newTestFolder(t)
		// What is no database whose pages hang together is never in use, whatever it is packed in.
		if o, err := folder.Import(t.Context(), writeTest(t, filepath.Join(t.TempDir(), "file"), content), Proof{}); err == nil {
			if _, err := checkAsReader(t.Context(), folder.Path()); err != nil {
				t.Errorf("%+v is in use and cannot be read: %v", o, err)
			}
		} else if got := inUse(t, folder); got.InUse != nil {
			t.Errorf("refused with %v, and in use", err)
		}
	})
}
