package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// contentPolicy asks for layers without known vulnerabilities, and for nothing that costs other requests.
const contentPolicy = `policies:
  - name: content
    match: {repositories: ["**"]}
    vulnerabilities: {deny_at: high, only_fixable: true}
`

// asked returns what the upstream was asked for, sorted, with words in place of the digests of named content.
func asked(r *ocitest.Registry, names map[oci.Digest]string) []string {
	var all []string
	for _, q := range r.Requests() {
		reference := q.Reference
		if name, ok := names[oci.Digest(reference)]; ok {
			reference = name
		}
		all = append(all, fmt.Sprintf("%s %s %s", q.Method, q.Kind, reference))
	}
	slices.Sort(all)
	return all
}

// sixLayers are three that are looked into and three of a few megabytes, the last one of them by seed.
func sixLayers(seed uint64) []ocitest.LayerSpec {
	return shop(goodLodash, noise(2<<20, 1), noise(3<<20, 2), noise(2<<20, seed))
}

// names says what the content of an image is, for people.
func names(image oci.Descriptor, m oci.Manifest) map[oci.Digest]string {
	all := map[oci.Digest]string{image.Digest: "image", m.Config.Digest: "config"}
	for i, l := range m.Layers {
		all[l.Digest] = fmt.Sprintf("layer %d", i)
	}
	return all
}

func TestRequestBudget(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	writeFile(t, s.path("policy.yaml"), []byte(contentPolicy))
	image := s.push(t, "shop/web", sixLayers(3))
	known := names(image, s.parsed(t, "shop/web", image.Digest))
	p := s.serve(t)

	t.Run("sixteen clients pulling a cold image cause one fetch of each of its seven blobs, and one judging", func(t *testing.T) {
		got := make([]pulled, 16)
		failures := make([]error, 16)
		var clients sync.WaitGroup
		for i := range got {
			clients.Go(func() { got[i], failures[i] = client.pull(t.Context(), p.registry, "shop/web", "1.0") })
		}
		clients.Wait()
		want := pulled{digest: image.Digest, status: http.StatusOK, blobs: 7}
		for i := range got {
			if got[i] != want || failures[i] != nil {
				t.Errorf("client %d got %+v, %v, want %+v", i, got[i], failures[i], want)
			}
		}
		wantAsked := []string{
			"GET blob config", "GET blob layer 0", "GET blob layer 1", "GET blob layer 2", "GET blob layer 3", "GET blob layer 4", "GET blob layer 5",
			"GET manifest image", "HEAD manifest 1.0",
		}
		if diff := cmp.Diff(asked(s.upstream, known), wantAsked); diff != "" {
			t.Errorf("asked of the upstream, got -, want +:\n%s", diff)
		}
		p.settle(t)
		if got := p.log.count(verdicts(image.Digest.String())); got != 1 {
			t.Errorf("judged %d times, want once", got)
		}
	})

	t.Run("a warm pull asks the upstream nothing", func(t *testing.T) {
		s.upstream.ResetRequests()
		p.mustPull(t, "shop/web")
		if got := asked(s.upstream, known); len(got) > 0 {
			t.Errorf("asked of the upstream: %q, want nothing", got)
		}
	})

	t.Run("a manifest asked for again by HEAD is told from memory", func(t *testing.T) {
		s.upstream.ResetRequests()
		if got := p.ask(t, http.MethodHead, "/v2/"+host+"/shop/web/manifests/1.0").status; got != http.StatusOK {
			t.Errorf("status %d, want 200", got)
		}
		if got := asked(s.upstream, known); len(got) > 0 {
			t.Errorf("asked of the upstream: %q, want nothing", got)
		}
	})

	for _, tt := range []struct {
		law, repo string
		want      []string
	}{
		{"another image of the repository with five of the six layers costs one layer and one config", "shop/web", []string{
			"GET blob config", "GET blob layer 5", "GET manifest image", "HEAD manifest 2.0",
		}},
		{"an image of another repository proves by HEAD that its upstream has the shared layers, and fetches none of them", "shop/other", []string{
			"GET manifest image", "HEAD blob config", "HEAD blob layer 0", "HEAD blob layer 1", "HEAD blob layer 2", "HEAD blob layer 3",
			"HEAD blob layer 4", "HEAD blob layer 5", "HEAD manifest 2.0",
		}},
	} {
		t.Run(tt.law, func(t *testing.T) {
			other, err := s.upstream.PushImage(tt.repo, "2.0", ocitest.Image{Layers: sixLayers(4)})
			if err != nil {
				t.Fatal(err)
			}
			s.upstream.ResetRequests()
			got, err := client.pull(t.Context(), p.registry, tt.repo, "2.0")
			if want := (pulled{digest: other.Digest, status: http.StatusOK, blobs: 7}); got != want || err != nil {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
			if diff := cmp.Diff(asked(s.upstream, names(other, s.parsed(t, tt.repo, other.Digest))), tt.want); diff != "" {
				t.Errorf("asked of the upstream, got -, want +:\n%s", diff)
			}
		})
	}

	t.Run("a new snapshot of advisories makes a new verdict and asks the upstream nothing", func(t *testing.T) {
		s.upstream.ResetRequests()
		s.replaceAdvisories(t, p, append(advisories(), ocitest.Advisory{
			Bucket: "debian 12", Source: "debian", Package: "bash", ID: "CVE-2025-0001", Fixed: "6", Severity: "critical",
		}))
		p.mustPull(t, "shop/web")
		p.settle(t)
		if got := p.log.count(verdicts(image.Digest.String())); got != 2 {
			t.Errorf("judged %d times in all, want 2", got)
		}
		if got := asked(s.upstream, known); len(got) > 0 {
			t.Errorf("asked of the upstream: %q, want nothing", got)
		}
	})

	t.Run("a new snapshot that knows of a vulnerability withdraws the image, and asks the upstream nothing", func(t *testing.T) {
		s.upstream.ResetRequests()
		rows := advisories()
		rows[2].Severity = "critical"
		s.replaceAdvisories(t, p, rows)
		if got := p.pull(t, "shop/web"); got.status != http.StatusForbidden {
			t.Errorf("got %+v, want a refusal", got)
		}
		if got := asked(s.upstream, known); len(got) > 0 {
			t.Errorf("asked of the upstream: %q, want nothing", got)
		}
	})
}

// TestWhatATagCostsTheUpstream counts the requests a tag leads to: when it is cold, while it counts, and when it has to be asked for anew.
func TestWhatATagCostsTheUpstream(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	image := s.push(t, "shop/web", shop(goodLodash))
	known := names(image, s.parsed(t, "shop/web", image.Digest))
	signature, err := s.upstream.SignBundle("shop/web", image.Digest, s.release, ocitest.Statement{}, ocitest.Mint{})
	if err != nil {
		t.Fatal(err)
	}
	known[signature.Digest], known[s.parsed(t, "shop/web", signature.Digest).Layers[0].Digest] = "signature", "bundle"
	const tag = "/v2/" + host + "/shop/web/manifests/1.0"
	fallback := strings.Replace(image.Digest.String(), ":", "-", 1)
	p := s.serve(t)
	ask := func(t *testing.T, method string, want ...string) {
		t.Helper()
		s.upstream.ResetRequests()
		if r := p.ask(t, method, tag); r.status != http.StatusOK || r.header.Get("Docker-Content-Digest") != image.Digest.String() {
			t.Errorf("%s: got %d %s, want %s", method, r.status, r.header.Get("Docker-Content-Digest"), image.Digest)
		}
		p.settle(t)
		if diff := cmp.Diff(asked(s.upstream, known), want); diff != "" {
			t.Errorf("%s: asked of the upstream, got -, want +:\n%s", method, diff)
		}
	}
	t.Run("cold", func(t *testing.T) {
		ask(t, "GET",
			"GET blob bundle", "GET blob config", "GET blob layer 0", "GET blob layer 1", "GET blob layer 2", "GET manifest image",
			"GET manifest "+fallback, "GET manifest "+fallback+".sig", "GET manifest signature", "GET referrers image", "HEAD manifest 1.0")
	})
	t.Run("warm, within tag_ttl: nothing", func(t *testing.T) {
		for _, method := range []string{"HEAD", "GET", "HEAD", "GET"} {
			ask(t, method)
		}
	})
	p.stop(t)
	s.upstreamKeys()["tag_ttl"] = "0s"
	p = s.serve(t)
	t.Run("after tag_ttl: one HEAD, and it is conditional", func(t *testing.T) {
		ask(t, "HEAD", "HEAD manifest 1.0") // this process has asked for nothing yet
		for _, method := range []string{"HEAD", "GET", "HEAD"} {
			ask(t, method, "HEAD manifest 1.0")
			last := s.upstream.Requests()[0]
			if last.Header.Get("If-None-Match") == "" || last.Status != http.StatusNotModified {
				t.Errorf("%s: asked with %q and answered %d, want it conditional, and 304", method, last.Header.Get("If-None-Match"), last.Status)
			}
		}
	})
	t.Run("a tag that has moved is seen by that HEAD", func(t *testing.T) {
		moved := s.pushSigned(t, "shop/web", shop(goodLodash, noise(100, 5)))
		s.upstream.ResetRequests()
		r := p.ask(t, "HEAD", tag)
		if got := r.header.Get("Docker-Content-Digest"); got != moved.Digest.String() {
			t.Errorf("got %s, want %s", got, moved.Digest)
		}
	})
}

// replaceAdvisories puts other advisories in the place of those in use, as a sidecar does: a folder by renaming, and a signal.
func (s *site) replaceAdvisories(t *testing.T, p *server, rows []ocitest.Advisory) {
	t.Helper()
	next := s.path("advisories.next")
	writeAdvisories(t, next, rows)
	if err := os.RemoveAll(s.path("advisories.old")); err != nil {
		t.Fatal(err)
	}
	p.log.awaitMore(t, "replacing the advisories", says("advisories replaced"), func() {
		for _, step := range [][2]string{{s.path("advisories"), s.path("advisories.old")}, {next, s.path("advisories")}} {
			if err := os.Rename(step[0], step[1]); err != nil {
				t.Fatal(err)
			}
		}
		p.signal(t, syscall.SIGHUP)
	})
}
