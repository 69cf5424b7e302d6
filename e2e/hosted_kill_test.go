package e2e_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// builder is CI that pushes to a proxy which may be killed at any moment. Whatever it was told was done, it notes.
type builder struct {
	*site
	p *server
	// tags are what it was told tags stand for, empty for nothing; signed and unsigned the images whose signature it was told is there, or
	// gone.
	tags             map[string]oci.Digest
	signed, unsigned map[oci.Digest]bool
	// unsure are tags and images something was done to that was not answered.
	unsure map[string]bool
	sent   func(n int)
}

// do sends a request, and returns the status of the answer, 0 for none.
func (b *builder) do(t *testing.T, method, path string, body []byte, mediaType string) (status int, location string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+b.p.registry+path, &told{strings.NewReader(string(body)), b.sent})
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(body))
	req.Header.Set("Content-Type", mediaType)
	req.SetBasicAuth("ci", everybodysPassword)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, ""
	}
	_ = resp.Body.Close() // nothing in it is of interest
	return resp.StatusCode, resp.Header.Get("Location")
}

// told is a body that tells how much of it is read.
type told struct {
	io.Reader
	read func(n int)
}

func (b *told) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p[:min(len(p), chunkBytes)])
	b.read(n)
	return n, err
}

// push copies an image of the upstream, and reports whether it was told that all of it is there.
func (b *builder) push(t *testing.T, source string, d oci.Digest, reference string) bool {
	t.Helper()
	content, _ := b.upstream.Manifest(source, d.String())
	for _, desc := range b.parsed(t, source, d).Blobs() {
		blob, _ := b.upstream.Blob(source, desc.Digest)
		status, at := b.do(t, "POST", uploads("apps/web"), nil, "")
		if status != 202 {
			return false
		}
		if status, _ := b.do(t, "PUT", at+"?digest="+desc.Digest.String(), blob, ""); status != 201 {
			return false
		}
	}
	status, _ := b.do(t, "PUT", "/v2/apps/web/manifests/"+reference, content.Raw, content.MediaType)
	return status == 201
}

// build pushes an image, signs it, moves a tag that others deploy, and takes away what was there before, until it gets no answer.
func (b *builder) build(t *testing.T, round int, image, signature oci.Digest, source string) {
	t.Helper()
	own := fmt.Sprint("v", round)
	b.unsure[own], b.unsure["latest"] = true, true
	if !b.push(t, source, image, own) {
		return
	}
	b.tags[own] = image
	delete(b.unsure, own)
	if !b.push(t, source, signature, signature.String()) {
		return
	}
	b.signed[image] = true
	if !b.push(t, source, image, "latest") {
		return
	}
	b.tags["latest"] = image
	delete(b.unsure, "latest")
	before := fmt.Sprint("v", round-1)
	if b.tags[before] == "" {
		return
	}
	b.unsure[before] = true
	if status, _ := b.do(t, "DELETE", "/v2/apps/web/manifests/"+before, nil, ""); status == 202 {
		b.tags[before] = ""
		delete(b.unsure, before)
	}
	if round%3 == 0 {
		b.unsure[image.String()] = true
		delete(b.signed, image)
		if status, _ := b.do(t, "DELETE", "/v2/apps/web/manifests/"+signature.String(), nil, ""); status == 202 {
			b.unsigned[image] = true
		}
	}
}

// check compares what there is with what the builder was told.
func (b *builder) check(t *testing.T, p *server) {
	t.Helper()
	ci, nobody := pusher{t, p, "ci"}, pusher{t, p, ""}
	for tag, want := range b.tags {
		if b.unsure[tag] {
			continue
		}
		r := ci.send("HEAD", "/v2/apps/web/manifests/"+tag, nil)
		if got := oci.Digest(r.header.Get("Docker-Content-Digest")); want == "" && r.status != 404 || want != "" && got != want {
			t.Errorf("%s: got %d %s, want %q", tag, r.status, got, want)
		}
	}
	for _, images := range []struct {
		of   map[oci.Digest]bool
		want int
	}{{b.signed, 200}, {b.unsigned, 403}} {
		for image := range images.of {
			r := nobody.must(images.want, "GET", "/v2/apps/web/manifests/"+image.String(), nil)
			if images.want != 200 {
				continue
			}
			m, err := oci.ParseManifest(oci.BaseMediaType(r.header.Get("Content-Type")), r.body)
			if err != nil {
				t.Fatal(err)
			}
			for _, desc := range m.Blobs() {
				if got := oci.FromBytes(nobody.must(200, "GET", "/v2/apps/web/blobs/"+desc.Digest.String(), nil).body); got != desc.Digest {
					t.Errorf("a blob has the digest %s, want %s", got, desc.Digest)
				}
			}
		}
	}
	if r := nobody.send("GET", "/v2/apps/web/manifests/latest", nil); r.status >= 500 {
		t.Errorf("latest: got %d %s", r.status, r.body)
	}
}

// TestPushingIsKilled kills the proxy in the middle of pushes, signatures and deletions, wherever a number of bytes sent or lines logged
// has come to. What was acknowledged is there in the next process, and what is there is whole.
func TestPushingIsKilled(t *testing.T) {
	rounds := 16
	if testing.Short() {
		rounds = 4
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	config := s.write(t)
	b := &builder{
		site: s, tags: map[string]oci.Digest{}, signed: map[oci.Digest]bool{}, unsigned: map[oci.Digest]bool{}, unsure: map[string]bool{},
	}
	killed := 0
	for round := range rounds {
		source := fmt.Sprintf("shop/%d", round)
		image := s.push(t, source, shop(goodLodash, noise(20<<10, random.Uint64())))
		signature, err := s.upstream.SignBundle(source, image.Digest, s.release, ocitest.Statement{}, ocitest.Mint{})
		if err != nil {
			t.Fatal(err)
		}
		var left atomic.Int64
		var victim atomic.Pointer[process]
		step := func(n int) {
			if p := victim.Load(); p != nil && left.Add(-int64(n)) <= 0 {
				_ = p.cmd.Process.Kill() // dead already is as good
			}
		}
		b.sent = func(int) {}
		lines := func(line) {}
		if round%2 == 0 {
			left.Store(1 + random.Int64N(80<<10))
			b.sent = step
		} else {
			left.Store(1 + random.Int64N(50))
			lines = func(line) { step(1) }
		}
		b.p = serveWatched(t, config, lines)
		victim.Store(b.p.process)
		b.build(t, round, image.Digest, signature.Digest, source)
		if left.Load() <= 0 {
			killed++
		}
		b.p.kill()
		p := serve(t, config)
		b.check(t, p)
		p.stop(t)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	if killed < rounds/4 {
		t.Errorf("%d of %d builds were killed on the way, want more", killed, rounds)
	}
}
