package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// listening is how Docker's registry says where it came to listen.
var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:[0-9]+)`)

// startDockerRegistry starts a registry nobody here has written and returns its address.
func startDockerRegistry(t testing.TB) string {
	t.Helper()
	path := program(t, "docker-registry")
	config := filepath.Join(t.TempDir(), "config.yml")
	writeFile(t, config, fmt.Appendf(nil, "version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: \"127.0.0.1:0\"}\n", t.TempDir()))
	l := start(t, command(t, path, "serve", config), newJournal()).log.await(t, "starting docker-registry", func(l line) bool { return listening.MatchString(l.text) })
	return listening.FindStringSubmatch(l.text)[1]
}

// TestIndependentParts has none of our own test aids between the images and the node: Docker's registry as the upstream, images pushed
// by crane, keys and signatures by cosign. Only what the layers hold is made here.
func TestIndependentParts(t *testing.T) {
	crane, cosign := program(t, "crane"), program(t, "cosign")
	registry := startDockerRegistry(t)
	s := newSite(t, ocitest.Options{})
	s.upstreamKeys()["url"] = "http://" + registry
	key := s.path("cosign")
	mustRun(t, cosign, "generate-key-pair", "--output-key-prefix", key)
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, s.path("release.pub"), public)
	images := []struct {
		repo, lodash string
		sign         []string
		says         string
	}{
		{"shop/bundle", goodLodash, []string{"--new-bundle-format=true"}, ""},
		{"shop/legacy", goodLodash, []string{"--new-bundle-format=false"}, ""},
		{"shop/unsigned", goodLodash, nil, "unsigned: no signature by release"},
		{"shop/vulnerable", badLodash, []string{"--new-bundle-format=false"}, "CVE-2019-10744"},
	}
	for i, image := range images {
		desc := s.push(t, image.repo, shop(image.lodash, noise(200_000, uint64(i))))
		mustRun(t, crane, "copy", "--insecure", s.upstream.Host()+"/"+image.repo+":1.0", registry+"/"+image.repo+":1.0")
		if image.sign != nil {
			args := []string{"sign", "--yes", "--key", key + ".key", "--use-signing-config=false", "--tlog-upload=false", "--allow-http-registry", "--allow-insecure-registry"}
			mustRun(t, cosign, append(append(args, image.sign...), registry+"/"+image.repo+"@"+desc.Digest.String())...)
		}
	}
	s.upstream.Close() // it only built the images
	p := s.serve(t)
	for _, image := range images {
		t.Run(image.repo, func(t *testing.T) {
			want := http.StatusOK
			if image.says != "" {
				want = http.StatusForbidden
			}
			got := p.pull(t, image.repo)
			if got.status != want || !strings.Contains(got.message, image.says) {
				t.Errorf("got %+v, want status %d and %q", got, want, image.says)
			}
		})
	}
}
