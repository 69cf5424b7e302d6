package advisories

import (
	"archive/tar"
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestUpdate(t *testing.T) {
	s, f := newSource(t), newTestFolder(t)
	update := func(want bool) {
		t.Helper()
		if changed, err := f.Update(t.Context(), s.client, s.ref); err != nil || changed != want {
			t.Fatalf("got %t, %v, want %t", changed, err, want)
		}
	}
	first := s.publish(t, packed(t, 48*time.Hour, "CVE-2026-0001"))
	update(true)
	if got := inUse(t, f); got.InUse == nil || got.InUse.Digest != first || got.Previous != nil || !got.InUse.BuiltAt.Equal(today.Add(-48*time.Hour)) ||
		got.InUse.From != "registry.test/trivy-db:2" || !got.SucceededAt.Equal(today) || !got.InUse.NextUpdate.Equal(today.Add(-24*time.Hour)) {
		t.Errorf("after the first: got %+v", got)
	}
	if snapshot, err := checkAsReader(t.Context(), f.Path()); err != nil || snapshot.ID != inUse(t, f).InUse.Snapshot {
		t.Errorf("its reader finds %+v, %v", snapshot, err)
	}

	s.ResetRequests()
	update(false)
	if got := s.Count("GET", ocitest.KindBlob); got != 0 || len(s.Requests()) > 2 { // the manifest, and once asking who may
		t.Errorf("what is in use was fetched again: %v", s.Requests())
	}

	second := s.publish(t, packed(t, 24*time.Hour, "CVE-2026-0002"))
	update(true)
	third := s.publish(t, packed(t, time.Hour, "CVE-2026-0003"))
	update(true)
	if got := inUse(t, f); got.InUse.Digest != third || got.Previous.Digest != second {
		t.Errorf("after the third: got %+v", got)
	}
	if generations, err := filepath.Glob(filepath.Join(f.Path(), generationPrefix+"*")); err != nil || len(generations) != 2 {
		t.Errorf("%v are kept, want the one in use and the one before", generations)
	}

	// The tag is turned back, by mistake or to hide something.
	s.Tag("trivy-db", "2", first)
	if changed, err := f.Update(t.Context(), s.client, s.ref); changed || !errors.Is(err, ErrOlder) {
		t.Errorf("an older one: got %t, %v", changed, err)
	}
	if got := inUse(t, f); got.InUse.Digest != third || !got.FailedAt.Equal(today) || !strings.Contains(got.Failure, "older") {
		t.Errorf("after an older one: got %+v", got)
	}
	// Who names the digest has said what he wants.
	pinned := s.ref
	pinned.Digest = first
	if changed, err := f.Update(t.Context(), s.client, pinned); !changed || err != nil {
		t.Errorf("an older one by its digest: got %t, %v", changed, err)
	}
	if got := inUse(t, f).InUse; got.Digest != first || got.Verified != "digest" {
		t.Errorf("by digest: got %+v", got)
	}
	if changed, err := f.Update(t.Context(), s.client, pinned); changed || err != nil {
		t.Errorf("the same by its digest: got %t, %v", changed, err)
	}
}

func TestUpdateRefuses(t *testing.T) {
	db, metadata := database(t, time.Hour, "CVE-2026-0002")
	good := pack(t, file(databaseName, db), file(metadataName, metadata))
	broken := slices.Clone(db)
	for i := len(broken) / 2; i < len(broken); i++ {
		broken[i] ^= 0x5a
	}
	link := entry{tar.Header{Name: databaseName, Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, nil}
	var many []entry
	for range maxEntries + 1 {
		many = append(many, file("x", nil))
	}
	for name, layer := range map[string][]byte{
		"a layer that is no archive":          []byte("nothing of the kind"),
		"a compressed layer that is none":     zipped(t, []byte("nothing of the kind")),
		"an archive cut off":                  zipped(t, good)[:len(zipped(t, good))/2],
		"an archive without a database":       zipped(t, pack(t, file(metadataName, metadata))),
		"a database elsewhere in the archive": zipped(t, pack(t, file("sub/"+databaseName, db))),
		"a database that climbs":              zipped(t, pack(t, file("../"+databaseName, db))),
		"a link":                              zipped(t, pack(t, link, file(databaseName, db))),
		"two databases":                       zipped(t, pack(t, file(databaseName, db), file(databaseName, db))),
		"a database that is damaged":          zipped(t, pack(t, file(databaseName, broken), file(metadataName, metadata))),
		"a database that is something else":   zipped(t, pack(t, file(databaseName, []byte("hello")), file(metadataName, metadata))),
		"metadata that are none":              zipped(t, pack(t, file(databaseName, db), file(metadataName, []byte("{")))),
		"metadata that do not end":            zipped(t, pack(t, file(databaseName, db), file(metadataName, make([]byte, maxMetadataBytes+1)))),
		"another schema":                      zipped(t, pack(t, file(databaseName, db), file(metadataName, bytes.Replace(metadata, []byte(`"Version":2`), []byte(`"Version":3`), 1)))),
		"too many entries":                    zipped(t, pack(t, append(many, file(databaseName, db))...)),
	} {
		t.Run(name, func(t *testing.T) {
			s, f := newSource(t), newTestFolder(t)
			before := s.publish(t, packed(t, 2*time.Hour, "CVE-2026-0001"))
			if _, err := f.Update(t.Context(), s.client, s.ref); err != nil {
				t.Fatal(err)
			}
			s.publish(t, layer)
			if changed, err := f.Update(t.Context(), s.client, s.ref); changed || err == nil {
				t.Errorf("got %t, %v", changed, err)
			}
			if got := inUse(t, f); got.InUse.Digest != before || !got.FailedAt.Equal(today) || got.Failure == "" {
				t.Errorf("in use is %+v", got)
			}
			if _, err := checkAsReader(t.Context(), f.Path()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUpdateRefusesArtifactsOfAnotherForm(t *testing.T) {
	layer := packed(t, time.Hour, "CVE-2026-0001")
	two := artifact(layer)
	two.Layers = append(two.Layers, two.Layers[0])
	other := artifact(layer)
	other.Layers[0].MediaType = "application/vnd.oci.image.layer.v1.tar+gzip"
	for name, img := range map[string]ocitest.Image{"two layers": two, "a layer of another type": other, "none": {ConfigBlob: []byte("{}")}} {
		t.Run(name, func(t *testing.T) {
			s, f := newSource(t), newTestFolder(t)
			if _, err := s.PushImage("trivy-db", "2", img); err != nil {
				t.Fatal(err)
			}
			if changed, err := f.Update(t.Context(), s.client, s.ref); changed || !errors.Is(err, ErrFormat) {
				t.Errorf("got %t, %v", changed, err)
			}
		})
	}
	t.Run("an index", func(t *testing.T) {
		s, f := newSource(t), newTestFolder(t)
		child, err := s.PushImage("trivy-db", "", artifact(layer))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.PushIndex("trivy-db", "2", child); err != nil {
			t.Fatal(err)
		}
		if changed, err := f.Update(t.Context(), s.client, s.ref); changed || !errors.Is(err, ErrFormat) {
			t.Errorf("got %t, %v", changed, err)
		}
	})
}

func TestUpdateRefusesOtherBytes(t *testing.T) {
	s, f := newSource(t), newTestFolder(t)
	layer := packed(t, time.Hour, "CVE-2026-0001")
	s.publish(t, layer)
	forged := slices.Clone(layer)
	forged[len(forged)-1] ^= 1
	s.SetIntercept(ocitest.When(ocitest.Gets(ocitest.KindBlob), ocitest.Body("application/octet-stream", forged)))
	if changed, err := f.Update(t.Context(), s.client, s.ref); changed || !errors.Is(err, oci.ErrMismatch) {
		t.Errorf("got %t, %v", changed, err)
	}
	pinned := s.ref
	pinned.Digest = oci.FromBytes([]byte("another"))
	s.SetIntercept(nil)
	if changed, err := f.Update(t.Context(), s.client, pinned); changed || !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("a digest there is not: got %t, %v", changed, err)
	}
	if got := inUse(t, f); got.InUse != nil {
		t.Errorf("in use is %+v", got.InUse)
	}
}

func TestParseSource(t *testing.T) {
	for text, want := range map[string]string{
		"ghcr.io/aquasecurity/trivy-db:2":      "ghcr.io/aquasecurity/trivy-db:2",
		"registry.test:5000/db":                "registry.test:5000/db:latest",
		"aquasecurity/trivy-db:2":              "",
		"trivy-db":                             "",
		"ghcr.io/Aqua/db:2":                    "",
		"ghcr.io/aquasecurity/trivy-db@sha256": "",
	} {
		ref, err := ParseSource(text)
		if got := ref.String(); err == nil && got != want || err != nil && want != "" {
			t.Errorf("%s: got %s, %v, want %q", text, got, err, want)
		}
	}
}
