package e2e_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// diagnosed is what doctor prints as JSON.
type diagnosed []struct{ Check, Status, Found string }

// doctor runs the command, and returns what it found of each check: the last of several.
func doctor(t *testing.T, code int, args ...string) map[string]string {
	t.Helper()
	got := tidewaiter(t, append([]string{"doctor", "-o", "json"}, args...)...)
	if got.code != code {
		t.Errorf("%q exits with %d, want %d:\n%s%s", args, got.code, code, got.stdout, got.stderr)
	}
	found := map[string]string{}
	for _, d := range decode[diagnosed](t, got.stdout) {
		found[d.Check] = d.Status + " " + d.Found
	}
	return found
}

// wantFound checks what was found of some checks by how it begins.
func wantFound(t *testing.T, found, want map[string]string) {
	t.Helper()
	for check, begins := range want {
		if !strings.HasPrefix(found[check], begins) {
			t.Errorf("%s: got %q, want %q", check, found[check], begins)
		}
	}
}

// canaryPolicy is what docs/doctor.md says to deny a canary by.
func canaryPolicy(t *testing.T) string {
	t.Helper()
	paper, err := os.ReadFile(filepath.Join("..", "docs", "doctor.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(paper), "```yaml\n")
	block, _, found := strings.Cut(block, "```")
	if !found || !strings.HasPrefix(block, "policies:\n") {
		t.Fatalf("the paper has no policies but %q", block)
	}
	return block
}

// files are those below a folder, with their sizes and times.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		all = append(all, fmt.Sprintf("%s %d %v", path, info.Size(), info.ModTime()))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestDoctor has an installation checked while it serves, and pulls its canary, which it denies and then does not.
func TestDoctor(t *testing.T) {
	r := newRedis(t)
	r.start(t)
	s := redisSite(t, r)
	_, rest, _ := strings.Cut(strictPolicy, "policies:\n")
	writeFile(t, s.path("policy.yaml"), []byte(canaryPolicy(t)+rest))
	s.push(t, "canary/denied", shop(goodLodash, ocitest.LayerSpec{Files: ocitest.NPM("tidewaiter-canary", "1.0.0")}))
	const reference = host + "/canary/denied:1.0"
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	config := s.path("tidewaiter.yaml")
	atProxy := []string{"--canary", reference, "--server", "http://" + p.registry}

	t.Run("all is well beside a proxy that serves", func(t *testing.T) {
		wantFound(t, doctor(t, 0, "--config", config), map[string]string{
			"configuration": "warning unsafe_private_addresses", "policies": "ok 2 policies", "keys": "ok", "listeners": "ok", "storage": "ok " + s.path("data"),
			"redis": "ok it answers", "upstream " + host: "ok " + s.upstream.URL(), "advisories": "ok built", "sandbox": "ok", "clock": "ok within",
		})
		p.mustPull(t, "shop/web")
	})
	t.Run("from a node the canary cannot be pulled", func(t *testing.T) {
		wantFound(t, doctor(t, 0, atProxy...), map[string]string{
			"canary's origin": "ok " + host + " does not answer from here",
			"canary by path":  "ok none of 4 requests was answered with content: canaries: ", "canary by ns=": "ok none of 5 requests was answered with content: canaries: ",
		})
	})
	t.Run("nor any of its layers", func(t *testing.T) {
		wantFound(t, doctor(t, 0, append(atProxy, "--config", config)...), map[string]string{
			"canary's origin": "ok " + host + " has it: 1 manifests and 5 blobs to ask for",
			"canary by path":  "ok none of 14 requests", "canary by ns=": "ok none of 15 requests", "storage": "ok",
		})
	})
	t.Run("what is allowed is no canary", func(t *testing.T) {
		found := doctor(t, 3, "--canary", host+"/shop/web:1.0", "--server", "http://"+p.registry)
		wantFound(t, found, map[string]string{"canary by path": "failure SERVED, ", "canary by ns=": "failure SERVED, "})
	})
	t.Run("nor is what there is not", func(t *testing.T) {
		found := doctor(t, 1, "--canary", host+"/none:1.0", "--server", "http://"+p.registry)
		wantFound(t, found, map[string]string{"canary by path": "failure nothing of it is served, but"})
	})
	t.Run("another seal key is not that of the verdicts in Redis", func(t *testing.T) {
		other := newKeyedSite(t, s)
		wantFound(t, doctor(t, 0, "--config", other), map[string]string{"redis": "warning it answers, and "})
	})
	p.stop(t)
	t.Run("it changes nothing", func(t *testing.T) {
		before := files(t, s.dir)
		keys := r.do(t, "KEYS", "*")
		doctor(t, 0, "--config", config)
		if diff := cmp.Diff(files(t, s.dir), before); diff != "" {
			t.Errorf("files (-got +want):\n%s", diff)
		}
		if diff := cmp.Diff(len(r.do(t, "KEYS", "*")), len(keys)); diff != "" {
			t.Errorf("keys (-got +want):\n%s", diff)
		}
	})

	writeFile(t, s.path("policy.yaml"), []byte("policies:\n  - {name: all, match: {repositories: [\"**\"]}}\n"))
	p = s.serve(t)
	t.Run("a canary that is let through is told", func(t *testing.T) {
		found := doctor(t, 3, "--canary", reference, "--server", "http://"+p.registry)
		wantFound(t, found, map[string]string{"canary by path": "failure SERVED, ", "canary by ns=": "failure SERVED, "})
	})
	r.kill()
	t.Run("and so is that Redis is down", func(t *testing.T) {
		wantFound(t, doctor(t, 1, "--config", config), map[string]string{"redis": "failure connecting: ", "storage": "ok"})
	})
}

// TestDoctorOfABucket has a bucket checked, and then one that is gone.
func TestDoctorOfABucket(t *testing.T) {
	b := newBucket(t)
	s := newSite(t, ocitest.Options{})
	s.useBucket(t, b)
	config := s.write(t)
	wantFound(t, doctor(t, 0, "--config", config), map[string]string{"storage": "ok the bucket takes", "storage.local": "warning " + s.path("local") + " is not there yet"})
	if left := files(t, b.dir); len(left) > 0 {
		t.Errorf("it leaves %q behind", left)
	}
	b.kill()
	got := tidewaiter(t, "doctor", "--config", config)
	if got.code != 1 || !strings.Contains(got.stdout, "failure  storage ") || strings.Contains(got.stdout+got.stderr, bucketSecret) {
		t.Errorf("code %d:\n%s%s", got.code, got.stdout, got.stderr)
	}
}

// newKeyedSite writes the configuration of a site with another seal key, and returns where it is.
func newKeyedSite(t *testing.T, s *site) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "seal.key"), fmt.Appendf(nil, "%x", ocitest.Random(32, 2)))
	raw, err := os.ReadFile(s.path("tidewaiter.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tidewaiter.yaml")
	writeFile(t, path, []byte(strings.ReplaceAll(string(raw), s.path("seal.key"), filepath.Join(dir, "seal.key"))))
	return path
}
