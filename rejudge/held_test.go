package rejudge_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"

	"github.com/tidewaiter/tidewaiter/cache"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/quarantine"
	"github.com/tidewaiter/tidewaiter/rejudge"
	"github.com/tidewaiter/tidewaiter/scan"
	"github.com/tidewaiter/tidewaiter/seal"
)

// Of what is held in these tests: layers are shared, as those of base images are.
const (
	heldRepositories = 200
	heldLayers       = 60 // of which an image has three
	heldPackages     = 120
)

// holding is a real gate over a real ledger and quarantine in a folder, with images that were admitted, all signed. Everything it asks
// anybody else for is counted.
type holding struct {
	dir        string
	images     map[string][]byte // manifests and blobs of the upstream, by digest
	candidates []gate.Candidate
	advisories *scan.Advisories
	gate       *gate.Gate
	policies   policies
	ledger     *ledger.Ledger
	quarantine *quarantine.Quarantine

	asked, verified, layersRead atomic.Int64
}

// Manifest implements quarantine.Source.
func (h *holding) Manifest(_ context.Context, _ oci.Repository, reference string) (oci.Content, error) {
	h.asked.Add(1)
	raw, ok := h.images[reference]
	if !ok {
		return oci.Content{}, oci.ErrNotFound
	}
	return oci.Content{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes(raw), Raw: raw}, nil
}

// Blob implements quarantine.Source.
func (h *holding) Blob(_ context.Context, _ oci.Repository, desc oci.Descriptor) (io.ReadCloser, error) {
	h.asked.Add(1)
	raw, ok := h.images[desc.Digest.String()]
	if !ok {
		return nil, oci.ErrBlobUnknown
	}
	return io.NopCloser(bytes.NewReader(raw)), nil
}

// BlobExists implements quarantine.Source.
func (h *holding) BlobExists(context.Context, oci.Repository, oci.Descriptor) error {
	h.asked.Add(1)
	return nil
}

// Open implements gate.Bytes, and counts layers.
func (h *holding) Open(ctx context.Context, c gate.Candidate, desc oci.Descriptor) (io.ReadCloser, error) {
	if desc.MediaType != oci.MediaTypeConfig {
		h.layersRead.Add(1)
	}
	return h.quarantine.Open(ctx, c, desc)
}

// Hold implements gate.Bytes.
func (h *holding) Hold(ctx context.Context, c gate.Candidate) (gate.Held, error) {
	return h.quarantine.Hold(ctx, c)
}

// ReadLayer implements gate.Scanner: layers hold Debian packages that follow from their digest.
func (h *holding) ReadLayer(_ context.Context, layer oci.Descriptor, r io.Reader, _ gate.Look) (gate.LayerInventory, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return gate.LayerInventory{}, err
	}
	inv := gate.LayerInventory{
		Compression: gate.CompressionGzip, DiffID: diffOf(layer.Digest),
		OSRelease: map[string]gate.OS{"etc/os-release": {ID: "debian", Version: "12"}},
	}
	var packages []gate.Package
	for i := range heldPackages {
		packages = append(packages, gate.Package{Type: "deb", Name: fmt.Sprintf("%s-%d", raw, i), Version: "1.2.3-1", Source: fmt.Sprintf("%s-%d", raw, i)})
	}
	inv.Files = []gate.FileInventory{{Path: "var/lib/dpkg/status.d/" + string(raw), Packages: packages}}
	return inv, nil
}

func diffOf(layer oci.Digest) oci.Digest { return oci.FromBytes([]byte("uncompressed " + layer)) }

// Revision implements gate.Signatures.
func (h *holding) Revision() string { return "roots" }

// Verify implements gate.Signatures: everything is signed.
func (h *holding) Verify(context.Context, gate.Candidate, gate.Wanted) (gate.SignatureEvidence, error) {
	h.verified.Add(1)
	return gate.SignatureEvidence{Signatures: []gate.Signature{{Authority: "release", Format: "sigstore-bundle", Signer: "k1", Manifest: oci.FromBytes(nil)}}}, nil
}

// policies is one that never changes.
type policies struct{ set *gate.PolicySet }

// Current implements gate.Policies.
func (p policies) Current() *gate.PolicySet { return p.set }

// again is the gate as a Rejudger asks it, standings the ledger.
type again struct{ *gate.Gate }

type standings struct{ *ledger.Ledger }

func (s standings) Standings(ctx context.Context, repo oci.Repository) ([]rejudge.Standing, error) {
	found, err := s.Ledger.Standings(ctx, repo)
	var all []rejudge.Standing
	for _, f := range found {
		all = append(all, rejudge.Standing{Candidate: f.Candidate, Decision: f.Decision, Key: f.Key, JudgedAt: f.JudgedAt, Until: f.Until})
	}
	return all, err
}

// hold has n images judged and admitted.
func hold(tb testing.TB, n int) *holding {
	tb.Helper()
	h := &holding{dir: tb.TempDir(), images: map[string][]byte{}}
	h.publish(tb, 0)
	var err error
	if h.advisories, err = scan.OpenAdvisories(tb.Context(), filepath.Join(h.dir, "advisories"), 0, time.Now); err != nil {
		tb.Fatal(err)
	}
	root := filepath.Join(h.dir, "data")
	driver := filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 100})
	log := slog.New(slog.DiscardHandler)
	key, err := seal.CreateKey(filepath.Join(h.dir, "seal.key"))
	if err != nil {
		tb.Fatal(err)
	}
	h.ledger = ledger.New(driver, key, log, time.Now)
	if h.quarantine, err = quarantine.New(h, driver, root, filepath.Join(h.dir, "spool"), log); err != nil {
		tb.Fatal(err)
	}
	verdicts, err := cache.New(cache.Options{Key: key, Logger: log})
	if err != nil {
		tb.Fatal(err)
	}
	everything, err := oci.ParsePattern("**")
	if err != nil {
		tb.Fatal(err)
	}
	high := gate.High
	h.policies = policies{&gate.PolicySet{Revision: "p", Policies: []gate.Policy{{
		Name: "production", Match: []oci.Pattern{everything}, OnFail: gate.Quarantine, Signatures: gate.SignatureRule{AnyOf: []string{"release"}},
		Vulnerabilities: &gate.VulnerabilityRule{DenyAt: &high},
	}}}}
	h.gate = gate.New(gate.Options{
		Bytes: h, Releases: h.quarantine, Scanner: h, Advisories: h.advisories, Signatures: h, Verdicts: verdicts, Inventories: h.ledger, Records: h.ledger,
		Policies: h.policies,
		Kept:     gate.Keeping{Records: h.ledger, For: time.Hour}, Overturns: h.ledger, Changed: func(gate.Verdict, gate.Verdict) {},
		Stored: h.quarantine, Past: h.ledger,
		Now: time.Now, Log: log, Workers: 2,
	})
	tb.Cleanup(func() {
		h.gate.Close()
		_ = verdicts.Close()
		_ = h.quarantine.Close()
		_ = h.advisories.Close()
	})
	h.fill(tb, n)
	return h
}

// put stores something at the upstream.
func (h *holding) put(mediaType string, raw []byte) oci.Descriptor {
	d := oci.FromBytes(raw)
	h.images[d.String()] = raw
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}
}

// fill pulls n images, a few at a time.
func (h *holding) fill(tb testing.TB, n int) {
	tb.Helper()
	var layers []oci.Descriptor
	for i := range heldLayers {
		layers = append(layers, h.put("application/vnd.oci.image.layer.v1.tar+gzip", fmt.Appendf(nil, "layer-%d", i)))
	}
	marshal := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			tb.Fatal(err)
		}
		return raw
	}
	for i := range n {
		three := []oci.Descriptor{layers[i%heldLayers], layers[(i/7+20)%heldLayers], layers[(i/11+40)%heldLayers]}
		var diffs []oci.Digest
		for _, l := range three {
			diffs = append(diffs, diffOf(l.Digest))
		}
		config := h.put(oci.MediaTypeConfig, marshal(map[string]any{"n": i % 50, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}}))
		manifest := h.put(oci.MediaTypeImage, marshal(map[string]any{
			"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "config": config, "layers": three, "annotations": map[string]string{"n": fmt.Sprint(i)},
		}))
		h.candidates = append(h.candidates, gate.Candidate{
			Repository: oci.Repository{Upstream: "docker.io", Path: fmt.Sprintf("library/app-%d", i%heldRepositories)}, Digest: manifest.Digest,
		})
	}
	const pulls = 16
	failed := make(chan error, pulls)
	for w := range pulls {
		go func() {
			for i := w; i < n; i += pulls {
				if v, err := h.gate.Judge(tb.Context(), h.candidates[i]); err != nil || !v.Allowed() {
					failed <- fmt.Errorf("image %d: %s %w", i, v.Summary(), err)
					return
				}
			}
			failed <- nil
		}()
	}
	for range pulls {
		if err := <-failed; err != nil {
			tb.Fatal(err)
		}
	}
}

// publish writes advisories of which those of the first bad layers' first packages are critical.
func (h *holding) publish(tb testing.TB, bad int) {
	tb.Helper()
	var rows []ocitest.Advisory
	for i := range heldLayers {
		for j := 0; j < heldPackages; j += 4 {
			row := ocitest.Advisory{Bucket: "debian 12", Source: "debian", Package: fmt.Sprintf("layer-%d-%d", i, j), ID: fmt.Sprintf("CVE-2026-%d", 1000*i+j+10000), Severity: "low", Fixed: "9"}
			if i < bad && j == 0 {
				row.Severity = "critical"
			}
			rows = append(rows, row)
		}
	}
	dir := filepath.Join(h.dir, "advisories")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := ocitest.WriteAdvisories(dir, time.Now(), rows); err != nil {
		tb.Fatal(err)
	}
	if h.advisories == nil {
		return
	}
	if _, err := h.advisories.Reload(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

// rejudger starts one over h, which ends with the test.
func (h *holding) rejudger(tb testing.TB, workers int) *rejudge.Rejudger {
	r := rejudge.New(rejudge.Options{
		Judge: again{h.gate}, Standings: standings{h.ledger}, Holdings: h.quarantine, UnderWay: h.gate.UnderWay, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Workers: workers,
	})
	ctx, cancel := context.WithCancel(tb.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx) }()
	tb.Cleanup(func() { cancel(); <-ended })
	return r
}

// await waits until so many were judged again.
func await(tb testing.TB, r *rejudge.Rejudger, judged uint64) rejudge.Stats {
	tb.Helper()
	for deadline := time.After(10 * time.Minute); ; {
		s := r.Stats()
		if s.Withdrawn+s.Released+s.Unchanged+s.Failed >= judged && s.Pending == 0 {
			return s
		}
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			tb.Fatalf("after ten minutes: %+v", s)
		}
	}
}

func TestANewSnapshotReadsNoLayerAndAsksNoUpstream(t *testing.T) {
	const n = 100
	h := hold(t, n)
	asked, verified, read := h.asked.Load(), h.verified.Load(), h.layersRead.Load()
	if verified != n || read < heldLayers {
		t.Fatalf("before: %d verified and %d layers read, want every image and every layer", verified, read)
	}
	r := h.rejudger(t, 2)
	h.publish(t, heldLayers/2)
	r.Wake()
	s := await(t, r, n)
	if s.Withdrawn == 0 || s.Unchanged == 0 || s.Withdrawn+s.Unchanged != n {
		t.Errorf("got %+v, want some withdrawn, some not, and none else", s)
	}
	h.publish(t, 0)
	r.Wake()
	if again := await(t, r, 2*n); again.Released != s.Withdrawn || again.Failed != 0 {
		t.Errorf("then: got %+v, want as many released as were withdrawn", again)
	}
	if a, v, l := h.asked.Load()-asked, h.verified.Load()-verified, h.layersRead.Load()-read; a+v+l != 0 {
		t.Errorf("%d requests to the upstream, %d looks for signatures and %d layers opened, want none", a, v, l)
	}
}

// BenchmarkRejudge judges held images again after each change of the advisories. That of ten thousand takes minutes to be set up.
func BenchmarkRejudge(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmark(b, n) })
	}
}

// BenchmarkReplay has what a simulation asks of a gate: what another policy says of each image that is held.
func BenchmarkReplay(b *testing.B) {
	const n = 1000
	h := hold(b, n)
	draft := *h.policies.set
	draft.Revision, draft.Policies = "draft", slices.Clone(draft.Policies)
	draft.Policies[0].Image.MaxBytes = 10
	asked, read, replayed := h.asked.Load()+h.verified.Load(), h.layersRead.Load(), 0
	cpu := processorTime(b)
	for b.Loop() {
		for _, c := range h.candidates {
			got, err := h.gate.Replay(b.Context(), &draft, c, false)
			if err != nil || got.Unknown != "" || got.Verdict.Allowed() {
				b.Fatalf("of %s: %s, unknown %q, %v", c, got.Verdict.Decision, got.Unknown, err)
			}
			replayed++
		}
	}
	b.ReportMetric(float64(replayed)/(processorTime(b)-cpu).Seconds(), "images/s/core")
	b.ReportMetric(float64(h.layersRead.Load()-read), "layers-read")
	b.ReportMetric(float64(h.asked.Load()+h.verified.Load()-asked), "upstream-requests")
}

func benchmark(b *testing.B, n int) {
	h := hold(b, n)
	r := h.rejudger(b, 2)
	asked, read := h.asked.Load()+h.verified.Load(), h.layersRead.Load()
	var judged uint64
	cpu := processorTime(b)
	began := time.Now()
	for i := 0; b.Loop(); i++ {
		h.publish(b, 1+i%2)
		r.Wake()
		judged += uint64(n)
		await(b, r, judged)
	}
	took, used := time.Since(began), processorTime(b)-cpu
	b.ReportMetric(float64(judged)/took.Seconds(), "images/s")
	b.ReportMetric(float64(judged)/used.Seconds(), "images/s/core")
	b.ReportMetric(float64(h.layersRead.Load()-read), "layers-read")
	b.ReportMetric(float64(h.asked.Load()+h.verified.Load()-asked), "upstream-requests")
	b.ReportMetric(peakMiB(b), "peak-MiB")
}

func usage(tb testing.TB) (u syscall.Rusage) {
	tb.Helper()
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return u
}

func processorTime(tb testing.TB) time.Duration {
	u := usage(tb)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func peakMiB(tb testing.TB) float64 { return float64(usage(tb).Maxrss) / 1024 }
