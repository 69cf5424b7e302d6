package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// stored reports whether the bytes of a blob lie in the storage.
func (s *site) stored(d oci.Digest) bool {
	_, err := os.Stat(filepath.Join(s.path("data/docker/registry/v2/blobs/sha256"), d.Encoded()[:2], d.Encoded(), "data"))
	return err == nil
}

// blockPolicy keeps nothing of what it denies.
const blockPolicy = `policies:
  - name: content
    match: {repositories: ["**"]}
    on_fail: block
    vulnerabilities: {deny_at: high, only_fixable: true}
`

func TestBlockedBytesAreDropped(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	writeFile(t, s.path("policy.yaml"), []byte(blockPolicy))
	bad := s.parsed(t, "shop/bad", s.push(t, "shop/bad", shop(badLodash)).Digest)
	good := s.parsed(t, "shop/good", s.push(t, "shop/good", shop(goodLodash)).Digest)
	p := s.serve(t)
	if got := p.pull(t, "shop/bad"); got.status != http.StatusForbidden {
		t.Fatalf("got %+v", got)
	}
	for _, d := range bad.Blobs() {
		if s.stored(d.Digest) {
			t.Errorf("%s is still stored", d.Digest)
		}
	}
	if got := tidewaiter(t, "verdict", "--server", "http://"+p.admin, host+"/shop/bad:1.0"); got.code != 3 || !strings.Contains(got.stdout, "CVE-2019-10744") {
		t.Errorf("the record of what was dropped, code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	if got := quarantined(t, p, ""); len(got) != 0 {
		t.Errorf("what is not kept is in quarantine: %+v", got)
	}
	p.mustPull(t, "shop/good") // its layers were known before, two of them by the image that was dropped
	if got := p.pull(t, "shop/bad"); got.status != http.StatusForbidden {
		t.Errorf("got %+v", got)
	}
	for _, d := range good.Blobs() {
		if !s.stored(d.Digest) {
			t.Errorf("%s is not stored", d.Digest)
		}
	}
}

// TestBlockingBesideServing pulls images that share layers, some of which are dropped as the others are served.
func TestBlockingBesideServing(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	writeFile(t, s.path("policy.yaml"), []byte(blockPolicy))
	p := s.serve(t)
	for i := range uint64(10) {
		shared := noise(100_000, i)
		good, bad := fmt.Sprintf("shop/good-%d", i), fmt.Sprintf("shop/bad-%d", i)
		s.push(t, good, shop(goodLodash, shared))
		s.push(t, bad, shop(badLodash, shared))
		var clients sync.WaitGroup
		for range 4 {
			for repo, want := range map[string]int{good: http.StatusOK, bad: http.StatusForbidden} {
				clients.Go(func() {
					if got, err := client.pull(t.Context(), p.registry, repo, "1.0"); err != nil || got.status != want {
						t.Errorf("%s: %+v, %v, want status %d", repo, got, err, want)
					}
				})
			}
		}
		clients.Wait()
	}
}

func TestCopiesAreJudgedWhereTheyAre(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	image := s.pushSigned(t, "shop/web", shop(goodLodash))
	if again := s.push(t, "copies/web", shop(goodLodash)); again.Digest != image.Digest {
		t.Fatalf("the copy is %s, want %s", again.Digest, image.Digest)
	}
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	if got := p.pull(t, "copies/web"); got.status != http.StatusForbidden || !strings.Contains(got.message, "unsigned") {
		t.Errorf("an unsigned copy: %+v, want a refusal", got)
	}
	for _, d := range s.parsed(t, "shop/web", image.Digest).Blobs() {
		if got := p.blob(t, "copies/web", d.Digest); got.status != 404 {
			t.Errorf("blob %s of the copy: status %d, want 404", d.Digest, got.status)
		}
	}
	p.mustPull(t, "shop/web")
}

func TestWaiver(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.pushSigned(t, "shop/legacy", shop(badLodash))
	s.pushSigned(t, "shop/other", shop(badLodash, noise(1000, 1)))
	p := s.serve(t)
	if got := p.pull(t, "shop/legacy"); got.status != http.StatusForbidden {
		t.Fatalf("got %+v", got)
	}
	waived := strictPolicy + fmt.Sprintf(`waivers:
  - vulnerability: CVE-2019-10744
    package: npm/lodash
    repositories: ["registry.test/shop/legacy"]
    until: %s
    reason: input never reaches it
    by: alice
`, time.Now().UTC().Add(24*time.Hour).Format(time.RFC3339))
	p.log.awaitMore(t, "the waiver", func(l line) bool { return l.Msg == "policy in force" }, func() {
		replaceFile(t, s.path("policy.yaml"), []byte(waived))
	})
	p.mustPull(t, "shop/legacy")
	if got := p.pull(t, "shop/other"); got.status != http.StatusForbidden {
		t.Errorf("the repository beside it: %+v, want a refusal", got)
	}
	got := tidewaiter(t, "verdict", "--server", "http://"+p.admin, host+"/shop/legacy:1.0")
	if got.code != 0 || !strings.Contains(got.stdout, "waived") || !strings.Contains(got.stdout, "alice") {
		t.Errorf("the verdict, code %d, does not say who waived:\n%s", got.code, got.stdout)
	}
}

func TestAnonymousAccess(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.config["access"] = keys{"anonymous": []any{keys{"repositories": []string{host + "/shop/**"}, "actions": []string{"pull"}}}}
	s.pushSigned(t, "shop/web", shop(goodLodash))
	image := s.pushSigned(t, "secret/app", shop(goodLodash))
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	for _, path := range []string{"manifests/1.0", "manifests/" + image.Digest.String(), "tags/list", "referrers/" + image.Digest.String(), "blobs/" + image.Digest.String()} {
		if got := p.get(t, "/v2/"+host+"/secret/app/"+path); got.status != 403 || got.failure().Code != "DENIED" {
			t.Errorf("%s: status %d: %s, want 403 DENIED", path, got.status, got.body)
		}
	}
}

// TestAdvisoriesReplacedWhileJudging replaces the advisories while a layer is still arriving. The verdict must rest on the new ones.
func TestAdvisoriesReplacedWhileJudging(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	image := s.pushSigned(t, "shop/web", shop(goodLodash, noise(100_000, 1)))
	layer := s.parsed(t, "shop/web", image.Digest).Layers[3]
	content, _ := s.upstream.Blob("shop/web", layer.Digest)
	released, release := context.WithCancel(t.Context())
	defer release()
	asked := make(chan struct{})
	s.upstream.SetIntercept(ocitest.When(ocitest.Gets(ocitest.KindBlob).Of(layer.Digest.String()), partly(content, 50_000, released, sync.OnceFunc(func() { close(asked) }))))
	p := s.serve(t)
	var waiting sync.WaitGroup
	var first reply
	var err error
	waiting.Go(func() {
		first, err = client.fetch(t.Context(), http.MethodGet, "http://"+p.registry+"/v2/"+host+"/shop/web/manifests/1.0")
	})
	<-asked
	rows := advisories()
	rows[2].Severity = "critical" // the zlib of every image
	s.replaceAdvisories(t, p, rows)
	release()
	waiting.Wait()
	if err != nil || first.status == http.StatusOK {
		t.Errorf("whoever waited got status %d, %v, want a refusal or to be told to come back", first.status, err)
	}
	if got := p.pull(t, "shop/web"); got.status != http.StatusForbidden || !strings.Contains(got.message, "CVE-2023-45853") {
		t.Errorf("whoever came back got %+v, want a refusal for CVE-2023-45853", got)
	}
	p.settle(t)
	if got := p.log.count(func(l line) bool { return l.Msg == "verdict" && l.Decision == "allow" }); got > 0 {
		t.Errorf("%d verdicts rest on what was replaced", got)
	}
}
