package upstream

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/oci"
)

// serveCrane starts the registry that crane has in it, which nobody here wrote. A test without it is skipped, except where CI promises
// that it is there.
func serveCrane(t *testing.T) (url string) {
	t.Helper()
	path, err := exec.LookPath("crane")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("the client crane is missing")
	}
	if err != nil {
		t.Skip("the client crane is missing")
	}
	cmd := exec.CommandContext(t.Context(), path, "registry", "serve", "--address", "127.0.0.1:0")
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // its context has ended it by then
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		if _, port, ok := strings.Cut(lines.Text(), "serving on port "); ok {
			return "http://127.0.0.1:" + port
		}
	}
	t.Fatalf("crane does not serve: %v", lines.Err())
	return ""
}

// An image and its signature, pushed to a registry of somebody else's, are there for somebody else's client.
func TestPushToAnotherRegistry(t *testing.T) {
	url := serveCrane(t)
	rs := open(t, Options{}, Config{Host: app.Upstream, URL: url, UnsafePrivateAddresses: true})
	for _, body := range [][]byte{[]byte("{}"), content(5 << 20), nil} {
		kept, desc := keep(t, body)
		for range 2 {
			if err := rs.PushBlob(t.Context(), app, desc, kept.Open); err != nil {
				t.Fatal(err)
			}
		}
		if err := rs.HasBlob(t.Context(), app, desc); err != nil || kept.opened.Load() != 1 {
			t.Errorf("got %v after opening %d bytes %d times, want none after one", err, len(body), kept.opened.Load())
		}
	}
	image := contentOf(t, map[string]any{"layers": []oci.Descriptor{{
		MediaType: "application/octet-stream", Digest: oci.FromBytes(content(5 << 20)), Size: 5 << 20,
	}}})
	if err := rs.PushManifest(t.Context(), app, "v1", image); err != nil {
		t.Fatal(err)
	}
	if err := rs.HasManifest(t.Context(), app, image.Digest); err != nil {
		t.Error(err)
	}
	signature := contentOf(t, map[string]any{"artifactType": oci.MediaTypeSigstoreBundle, "subject": image.Descriptor()})
	if err := rs.PushManifest(t.Context(), app, signature.Digest.String(), signature); err != nil {
		t.Fatal(err)
	}
	listed, err := rs.Referrers(t.Context(), app, image.Digest)
	if err != nil || len(listed) != 1 || listed[0].Digest != signature.Digest || listed[0].ArtifactType != oci.MediaTypeSigstoreBundle {
		t.Errorf("got referrers %v, %v, want %s", listed, err, signature.Digest)
	}
	at := strings.TrimPrefix(url, "http://") + "/" + app.Path
	for what, want := range map[string][]byte{"manifest " + at + ":v1": image.Raw, "blob " + at + "@" + oci.FromBytes(content(5<<20)).String(): content(5 << 20)} {
		got, err := exec.CommandContext(t.Context(), "crane", append(strings.Fields(what), "--insecure")...).Output()
		if err != nil || !bytes.Equal(bytes.TrimRight(got, "\n"), bytes.TrimRight(want, "\n")) {
			t.Errorf("crane %s: got %d bytes, %v, want %d", what, len(got), err, len(want))
		}
	}
}
