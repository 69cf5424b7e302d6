package e2e_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// openPolicy asks for nothing: what it lets through is not looked into.
const openPolicy = `policies:
  - name: open
    match: {repositories: ["**"]}
`

// download pulls an image below base as containerd does, HEAD of the tag, GET of the manifest, then all blobs at the same time, and keeps
// nothing of it. Anything but the bytes asked for is an error.
func (n node) download(ctx context.Context, base, tag string) error {
	head, err := n.fetch(ctx, http.MethodHead, base+"/manifests/"+tag)
	if err != nil {
		return err
	}
	answer, err := n.fetch(ctx, http.MethodGet, base+"/manifests/"+head.header.Get("Docker-Content-Digest"))
	if err != nil {
		return err
	}
	if answer.status != http.StatusOK {
		return fmt.Errorf("the manifest: status %d: %s", answer.status, answer.failure().Message)
	}
	m, err := oci.ParseManifest(oci.BaseMediaType(answer.header.Get("Content-Type")), answer.body)
	if err != nil {
		return err
	}
	failures := make([]error, len(m.Blobs()))
	var downloads sync.WaitGroup
	for i, d := range m.Blobs() {
		downloads.Go(func() { failures[i] = n.downloadBlob(ctx, base, d.Digest) })
	}
	downloads.Wait()
	return errors.Join(failures...)
}

func (n node) downloadBlob(ctx context.Context, base string, d oci.Digest) error {
	resp, err := n.open(ctx, http.MethodGet, base+"/blobs/"+d.String())
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.Copy(sum, resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if got := fmt.Sprintf("sha256:%x", sum.Sum(nil)); resp.StatusCode != http.StatusOK || got != d.String() {
		return fmt.Errorf("blob %s: %w: status %d, got %s", d, oci.ErrMismatch, resp.StatusCode, got)
	}
	return nil
}

// code returns bytes that compress about as programs do, to a third, unlike any of another seed.
func code(size int, seed uint64) []byte {
	const block, fresh = 24 << 10, 8 << 10 // what repeats lies within the window of gzip
	source := ocitest.Random((size/block+1)*fresh, seed)
	var out bytes.Buffer
	out.Grow(size + block)
	for out.Len() < size {
		part := source[:fresh]
		source = source[fresh:]
		for range block / fresh {
			out.Write(part)
		}
	}
	return out.Bytes()[:size]
}

// startDockerProxy starts Docker's registry as a pull-through cache of an upstream, and returns its address.
func startDockerProxy(t testing.TB, upstream string) string {
	t.Helper()
	path := program(t, "docker-registry")
	config := filepath.Join(t.TempDir(), "config.yml")
	writeFile(t, config, fmt.Appendf(nil,
		"version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: \"127.0.0.1:0\"}\nproxy: {remoteurl: %q}\n", t.TempDir(), upstream))
	l := start(t, command(t, path, "serve", config), newJournal()).log.await(t, "starting docker-registry", func(l line) bool { return listening.MatchString(l.text) })
	return listening.FindStringSubmatch(l.text)[1]
}

// BenchmarkColdPull pulls images of six layers of 30 MiB that nobody has pulled before, each through three proxies in turn: this one with
// its layers looked into and matched, this one with a policy that asks for nothing, and Docker's registry as a pull-through cache. ns/op
// is that of all three; x-ungated and x-distribution are what gating takes for each of what the other takes, the median over the images.
func BenchmarkColdPull(b *testing.B) {
	s := newSite(b, ocitest.Options{})
	writeFile(b, s.path("policy.yaml"), []byte(contentPolicy))
	gated := s.serve(b)
	s.config["storage"] = keys{"filesystem": keys{"root": s.path("ungated")}}
	s.config["policy_files"] = []string{s.path("open.yaml")}
	writeFile(b, s.path("open.yaml"), []byte(openPolicy))
	ungated := s.serve(b)
	bases := []string{
		"http://" + gated.registry + "/v2/" + host + "/shop/web",
		"http://" + ungated.registry + "/v2/" + host + "/shop/web",
		"http://" + startDockerProxy(b, s.upstream.URL()) + "/v2/shop/web",
	}
	const layers, layerBytes = 6, 90 << 20 // 30 MiB packed
	took := make([][]time.Duration, len(bases))
	seed, image := uint64(0), 0
	for b.Loop() {
		b.StopTimer()
		var specs []ocitest.LayerSpec
		for i := range layers {
			seed++
			specs = append(specs, ocitest.LayerSpec{Files: []ocitest.File{{Path: fmt.Sprintf("opt/app/part-%d", i), Body: code(layerBytes, seed)}}})
		}
		image++
		tag := strconv.Itoa(image)
		if _, err := s.upstream.PushImage("shop/web", tag, ocitest.Image{Layers: specs}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		for i := range bases {
			which := (i + image) % len(bases) // none of them is always the first
			began := time.Now()
			if err := client.download(b.Context(), bases[which], tag); err != nil {
				b.Fatal(err)
			}
			took[which] = append(took[which], time.Since(began))
		}
	}
	ratios := func(other int) (x []float64) {
		for i := range took[0] {
			x = append(x, took[0][i].Seconds()/took[other][i].Seconds())
		}
		slices.Sort(x)
		return x
	}
	b.ReportMetric(ratios(1)[len(took[1])/2], "x-ungated")
	b.ReportMetric(ratios(2)[len(took[2])/2], "x-distribution")
}

// largestTogether bounds the memory of the proxy and of the process that reads a layer, at their largest, together.
const largestTogether = 200 << 20

// TestMemoryOfALargeLayer pulls an image with a layer of a gigabyte, which is looked into, and watches what is resident of the proxy and
// of each process it starts.
func TestMemoryOfALargeLayer(t *testing.T) {
	if testing.Short() {
		t.Skip("it packs a gigabyte")
	}
	s := newSite(t, ocitest.Options{})
	// The config does not know what the layer is unpacked, which nobody here works out.
	writeFile(t, s.path("policy.yaml"), []byte(contentPolicy+"    gaps: {tolerate: [config]}\n"))
	const files, fileBytes = 64, 16 << 20
	image := s.push(t, "shop/large", []ocitest.LayerSpec{{Blob: manyFiles(t, files, code(fileBytes, 1)), MediaType: "application/vnd.oci.image.layer.v1.tar+gzip"}})
	p := s.serve(t)
	pulled := make(chan error, 1)
	go func() {
		pulled <- client.download(t.Context(), "http://"+p.registry+"/v2/"+host+"/shop/large", image.Digest.String())
	}()
	children := map[int]int64{} // by process, the most that was resident when it was last seen
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for done := false; !done; {
		select {
		case err := <-pulled:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		case <-look.C:
			for _, pid := range childrenOf(p.cmd.Process.Pid) {
				if high := highWater(pid); high > 0 {
					children[pid] = high
				}
			}
		}
	}
	proxy, child := highWater(p.cmd.Process.Pid), int64(0)
	for _, high := range children {
		child = max(child, high)
	}
	if proxy == 0 || child == 0 {
		t.Fatalf("nothing was seen of the processes: proxy %d, children %v", proxy, children)
	}
	t.Logf("a layer of %d bytes: %d MiB of the proxy, %d MiB of the process that reads it", int64(files*fileBytes), proxy>>20, child>>20)
	if proxy+child > largestTogether {
		t.Errorf("together %d MiB, want at most %d", (proxy+child)>>20, largestTogether>>20)
	}
}

// manyFiles returns a layer of n files that all hold body. Packing takes as long as for one of them: gzip's parts follow one another, and
// that of the body is packed once (RFC 1952, section 2.2).
func manyFiles(t testing.TB, n int, body []byte) []byte {
	t.Helper()
	pack := func(plain []byte) []byte {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, err := w.Write(plain)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return packed.Bytes()
	}
	packedBody := pack(body) // a whole number of blocks
	var layer bytes.Buffer
	for i := range n {
		var header bytes.Buffer
		if err := tar.NewWriter(&header).WriteHeader(&tar.Header{Name: fmt.Sprintf("opt/app/part-%d", i), Mode: 0o644, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		layer.Write(pack(header.Bytes()))
		layer.Write(packedBody)
	}
	layer.Write(pack(make([]byte, 1024))) // the end of the archive
	return layer.Bytes()
}

// childrenOf returns the processes that pid started and that have not ended.
func childrenOf(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		raw, _ := os.ReadFile(task) // of a thread that may have ended
		for _, field := range strings.Fields(string(raw)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// highWater returns the most bytes that were ever resident of a process; 0 when it has ended.
func highWater(pid int) int64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // empty when it has ended
	for row := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(row, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}
