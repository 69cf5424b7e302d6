package e2e_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// publishDatabase makes an advisory database built so long ago what trivy-db:2 leads to, and returns its layer. With it come bytes that do
// not compress, so that it takes a while.
func publishDatabase(t *testing.T, r *ocitest.Registry, age time.Duration) (manifest oci.Digest, layer oci.Descriptor) {
	t.Helper()
	dir := t.TempDir()
	if err := ocitest.WriteAdvisories(dir, time.Now().Add(-age), []ocitest.Advisory{{Bucket: "debian 12", Package: "bash", ID: "CVE-2026-0001", Source: "debian", Severity: "low"}}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := tar.NewWriter(zip)
	add := func(name string, content []byte) {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})
		if _, writeErr := w.Write(content); errors.Join(err, writeErr) != nil {
			t.Fatal(err, writeErr)
		}
	}
	for _, name := range []string{"trivy.db", "metadata.json"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		add(name, content)
	}
	add("noise", ocitest.Random(freshBytes, uint64(age)))
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	desc, err := r.PushImage("trivy-db", "2", ocitest.Image{
		Layers:     []ocitest.LayerSpec{{Blob: b.Bytes(), MediaType: "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"}},
		ConfigBlob: []byte("{}"), ConfigMediaType: "application/vnd.aquasec.trivy.config.v1+json",
	})
	if err != nil {
		t.Fatal(err)
	}
	return desc.Digest, oci.Descriptor{Digest: oci.FromBytes(b.Bytes()), Size: int64(b.Len())}
}

// Whenever an update is killed, what is in use afterwards is a whole database, the old one or the new one, and the next update works.
func TestUpdatesKilled(t *testing.T) {
	r, err := ocitest.StartRegistry(ocitest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dir := t.TempDir()
	folder, config := filepath.Join(dir, "advisories"), filepath.Join(dir, "tidewaiter.yaml")
	writeFile(t, config, fmt.Appendf(nil, "upstreams: [{host: registry.test, url: %q, unsafe_private_addresses: true}]\nadvisories: {source: \"registry.test/trivy-db:2\", path: %q}\n", r.URL(), folder))
	inUse := func() (oci.Digest, bool) {
		t.Helper()
		got := tidewaiter(t, "advisories", "status", "--config", config, "-o", "json")
		var status struct {
			Snapshot string
			InUse    struct{ Digest oci.Digest } `json:"in_use"`
		}
		if err := json.Unmarshal([]byte(got.stdout), &status); err != nil {
			t.Fatalf("%v: %+v", err, got)
		}
		return status.InUse.Digest, got.code == 0 && status.Snapshot != ""
	}
	const rounds = 12
	age := time.Duration(rounds+1) * time.Hour
	before, _ := publishDatabase(t, r, age)
	if got := tidewaiter(t, "advisories", "update", "--config", config); got.code != 0 {
		t.Fatalf("the first: %+v", got)
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	killed := 0
	for round := range rounds {
		age -= time.Hour
		after, layer := publishDatabase(t, r, age)
		tr := &trap{on: upstreamBytes}
		tr.left.Store(random.Int64N(layer.Size + layer.Size/4)) // now and then beyond the end, when it has all that was sent
		if tr.left.Load() > layer.Size {
			tr.left.Store(layer.Size)
		}
		r.SetIntercept(tr.upstream(r))
		cmd := command(t, binary, "advisories", "update", "--config", config, "--quiet")
		p := start(t, cmd, newJournal())
		tr.victim.Store(p)
		<-p.gone
		r.SetIntercept(nil)
		if tr.sprung.Load() {
			killed++
		}
		got, whole := inUse()
		if !whole || got != before && got != after {
			t.Fatalf("seed %d, round %d: in use is %s, whole: %t; before was %s, after would be %s", seed, round, got, whole, before, after)
		}
		if again := tidewaiter(t, "advisories", "update", "--config", config); again.code != 0 {
			t.Fatalf("seed %d, round %d: the next update: %+v", seed, round, again)
		}
		if got, whole := inUse(); !whole || got != after {
			t.Fatalf("seed %d, round %d: after the next update in use is %s, whole: %t, want %s", seed, round, got, whole, after)
		}
		before = after
	}
	if killed == 0 {
		t.Error("no update was killed")
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	generations := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "incoming-") {
			t.Errorf("%s was left behind", e.Name())
		}
		if strings.HasPrefix(e.Name(), "generation-") {
			generations++
		}
	}
	if generations != 2 {
		t.Errorf("%d generations are kept, want the one in use and the one before", generations)
	}
}

// What the manual says about air gaps, done with the tools it names and one more.
func TestAirGap(t *testing.T) {
	r, err := ocitest.StartRegistry(ocitest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	manifest, _ := publishDatabase(t, r, time.Hour)
	for name, carry := range map[string]func(t *testing.T, dir string) (file string){
		"crane": func(t *testing.T, dir string) string {
			layout := filepath.Join(dir, "layout")
			mustRun(t, program(t, "crane"), "pull", "--insecure", "--format=oci", r.Host()+"/trivy-db:2", layout)
			return layout
		},
		"skopeo": func(t *testing.T, dir string) string {
			archive := filepath.Join(dir, "layout.tar")
			mustRun(t, program(t, "skopeo"), "copy", "--src-tls-verify=false", "docker://"+r.Host()+"/trivy-db:2", "oci-archive:"+archive)
			return archive
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			config := filepath.Join(dir, "tidewaiter.yaml")
			writeFile(t, config, fmt.Appendf(nil, "storage: {filesystem: {root: %q}}\n", filepath.Join(dir, "data")))
			file := carry(t, dir)
			if got := tidewaiter(t, "advisories", "import", file, "--config", config, "--digest", manifest.String()); got.code != 0 || !strings.Contains(got.stdout, "verified by digest") {
				t.Errorf("by its digest: %+v", got)
			}
			if got := tidewaiter(t, "advisories", "import", file, "--config", config, "--digest", oci.FromBytes(nil).String()); got.code != 1 {
				t.Errorf("by another digest: %+v", got)
			}
			if got := tidewaiter(t, "advisories", "status", "--config", config); got.code != 0 || !strings.Contains(got.stdout, manifest.String()) {
				t.Errorf("its status: %+v", got)
			}
		})
	}
}

// TestAdvisoriesInTheConsole serves a proxy that fetches its advisory data, and asks it what it has.
func TestAdvisoriesInTheConsole(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	manifest, _ := publishDatabase(t, s.upstream, time.Hour)
	s.config["advisories"] = keys{"source": host + "/trivy-db:2"}
	p := s.serve(t)
	p.log.await(t, "the data to come into use", func(l line) bool { return l.Msg == "advisories replaced" })
	var got struct {
		Source, Snapshot string
		Stale            bool
		InUse            struct{ Digest oci.Digest } `json:"in_use"`
		SucceededAt      time.Time                   `json:"succeeded_at"`
	}
	answer := request(t, http.MethodGet, "http://"+p.admin+"/api/v1/advisories")
	if err := json.Unmarshal(answer.body, &got); err != nil || answer.status != http.StatusOK {
		t.Fatalf("got %d, %v: %s", answer.status, err, answer.body)
	}
	if got.Source != host+"/trivy-db:2" || got.Snapshot == "" || got.Stale || got.InUse.Digest != manifest || got.SucceededAt.IsZero() {
		t.Errorf("got %+v, want what %s leads to, %s", got, "trivy-db:2", manifest)
	}
	if strings.Contains(string(answer.body), s.dir) {
		t.Errorf("a path of the machine is told: %s", answer.body)
	}
}
