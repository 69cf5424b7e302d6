package hosted_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/quarantine"
)

// registry answers clients that push, each request by another of the processes. It is not the proxy: it knows nothing of who asks.
type registry struct {
	processes atomic.Pointer[[]process]
	next      atomic.Uint64
	// old has no referrers API, so that clients keep lists of referrers under tags.
	old bool
}

func (g *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	processes := *g.processes.Load()
	p := processes[g.next.Add(1)%uint64(len(processes))]
	q, err := oci.ParseRequest(req.Method, req.URL)
	if err == nil {
		err = g.serve(p, q, w, req)
	}
	if err != nil {
		oci.WriteError(w, err)
	}
}

func (g *registry) serve(p process, q oci.Request, w http.ResponseWriter, req *http.Request) error {
	repo := oci.Repository{Path: q.Name}
	switch q.Kind {
	case oci.KindPing:
		return nil
	case oci.KindManifest:
		return g.manifest(p, q, repo, w, req)
	case oci.KindBlob:
		content, size, err := p.held.Pushed().Blob(req.Context(), repo, q.Digest)
		if err != nil {
			return err
		}
		defer func() { _ = content.Close() }()
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		_, err = io.Copy(w, content)
		return err
	case oci.KindStartUpload:
		session, err := p.uploads.Start(req.Context(), repo)
		return accept(w, repo, session, 0, err)
	case oci.KindUpload:
		if q.Method == http.MethodPut {
			_, err := p.uploads.Finish(req.Context(), repo, q.Session, quarantine.Anywhere, req.Body, q.Digest)
			if err == nil {
				w.Header().Set("Location", "/v2/"+q.Name+"/blobs/"+q.Digest.String())
				w.WriteHeader(http.StatusCreated)
			}
			return err
		}
		end, err := p.uploads.Append(req.Context(), repo, q.Session, quarantine.Anywhere, req.Body)
		return accept(w, repo, q.Session, end, err)
	case oci.KindReferrers:
		if g.old {
			return &oci.Error{Code: oci.CodeNameUnknown}
		}
		list, err := p.Referrers(req.Context(), repo, q.Digest)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", oci.MediaTypeIndex)
		return json.NewEncoder(w).Encode(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": append([]oci.Descriptor{}, list...)})
	}
	return &oci.Error{Code: oci.CodeUnsupported}
}

func accept(w http.ResponseWriter, repo oci.Repository, session string, end int64, err error) error {
	if err == nil {
		w.Header().Set("Location", "/v2/"+repo.Path+"/blobs/uploads/"+session)
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(end-1, 0)))
		w.WriteHeader(http.StatusAccepted)
	}
	return err
}

func (g *registry) manifest(p process, q oci.Request, repo oci.Repository, w http.ResponseWriter, req *http.Request) error {
	if q.Method == http.MethodPut {
		raw, err := oci.ReadBounded(req.Body, oci.MaxManifestBytes)
		if err != nil {
			return err
		}
		content := oci.Content{MediaType: oci.BaseMediaType(req.Header.Get("Content-Type")), Raw: raw}
		stored, err := p.Put(req.Context(), repo, hosted.Reference{Tag: q.Tag, Digest: q.Digest}, content, "user:ci")
		if err != nil {
			return err
		}
		if stored.Subject != "" && !g.old {
			w.Header().Set("OCI-Subject", stored.Subject.String())
		}
		w.Header().Set("Docker-Content-Digest", stored.Descriptor.Digest.String())
		w.WriteHeader(http.StatusCreated)
		return nil
	}
	if q.Tag != "" {
		tag, err := p.Resolve(req.Context(), repo, q.Tag)
		if err != nil {
			return err
		}
		q.Digest = tag.Pushed.Digest
	}
	content, err := p.held.Pushed().Manifest(req.Context(), gate.Candidate{Repository: repo, Digest: q.Digest})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", content.MediaType)
	w.Header().Set("Docker-Content-Digest", content.Digest.String())
	w.Header().Set("Content-Length", strconv.Itoa(len(content.Raw)))
	_, err = w.Write(content.Raw)
	return err
}

// cosign runs the real client in dir, with an empty home and no way out.
func cosign(t *testing.T, dir string, args ...string) error {
	t.Helper()
	path, err := exec.LookPath("cosign")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("cosign is not in PATH, and CI has to have it")
	}
	if err != nil {
		t.Skip("cosign is not in PATH; that it keeps its signatures is not tried")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"HOME=" + dir, "COSIGN_PASSWORD=", "PATH=" + dir,
		"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1",
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cosign %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// TestRealCosignLosesNoSignature has eight of them sign at once, in each of the ways signatures are kept, through two processes over
// one storage; then another one adds to that, and all are verified.
func TestRealCosignLosesNoSignature(t *testing.T) {
	if testing.Short() {
		t.Skip("half a minute")
	}
	const signers = 8
	dir := t.TempDir()
	run := func(t *testing.T, args ...string) {
		t.Helper()
		if err := cosign(t, dir, args...); err != nil {
			t.Error(err)
		}
	}
	for n := range signers + 1 {
		run(t, "generate-key-pair", "--output-key-prefix", fmt.Sprint("key", n))
	}
	for name, tt := range map[string]struct {
		old   bool
		flags []string
	}{
		"layers of an image": {false, []string{"--new-bundle-format=false"}},
		"referrers":          {false, []string{"--new-bundle-format=true"}},
		"a list under a tag": {true, []string{"--new-bundle-format=true"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			p := startProcess(t, root)
			serving := &registry{old: tt.old}
			serving.processes.Store(&[]process{p, startProcess(t, root)})
			server := httptest.NewServer(serving)
			t.Cleanup(server.Close)
			image := p.image(t, "the image", "")
			p.push(t, "v1", image)
			ref := strings.TrimPrefix(server.URL, "http://") + "/" + web.Path + "@" + image.Digest.String()
			plain := []string{"--allow-http-registry", "--allow-insecure-registry"}
			sign := func(n int) {
				args := append([]string{"sign", "--yes", "--key", fmt.Sprintf("key%d.key", n), "--use-signing-config=false", "--tlog-upload=false"}, plain...)
				run(t, append(append(args, tt.flags...), ref)...)
			}
			var all sync.WaitGroup
			for n := range signers {
				all.Go(func() { sign(n) })
			}
			all.Wait()
			serving.processes.Store(&[]process{startProcess(t, root)})
			sign(signers)
			for n := range signers + 1 {
				args := append([]string{"verify", "--key", fmt.Sprintf("key%d.pub", n), "--insecure-ignore-tlog=true"}, plain...)
				run(t, append(append(args, tt.flags...), ref)...)
			}
		})
	}
}
