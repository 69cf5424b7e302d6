package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// fates are what becomes of the images every client asks for. says is what its user must be shown; empty for an image that is let
// through.
var fates = []struct{ repo, says string }{
	{"shop/bundle", ""},
	{"shop/legacy", ""},
	{"shop/multi", ""},
	{"shop/unsigned", "unsigned: no signature by release"},
	{"shop/stranger", "not signed by release (1 offered"},
	{"shop/vulnerable", "CVE-2019-10744 (critical) in lodash 4.17.4, fixed in 4.17.12"},
}

// clientsSite is an installation with an image of each of [fates], each with a layer of its own. name is the registry they are called
// by, which is what some signatures are about.
func clientsSite(t *testing.T, name string) *site {
	t.Helper()
	s := newSite(t, ocitest.Options{})
	s.upstreamKeys()["host"], s.config["default_upstream"] = name, name
	s.pushSigned(t, "shop/bundle", shop(goodLodash, noise(1000, 1)))
	legacy := s.push(t, "shop/legacy", shop(goodLodash, noise(1000, 2)))
	if _, err := s.upstream.SignLegacy("shop/legacy", legacy.Digest, s.release, name+"/shop/legacy", ocitest.Mint{}); err != nil {
		t.Fatal(err)
	}
	s.push(t, "shop/unsigned", shop(goodLodash, noise(1000, 3)))
	s.sign(t, "shop/stranger", s.push(t, "shop/stranger", shop(goodLodash, noise(1000, 4))).Digest, s.stranger)
	s.pushSigned(t, "shop/vulnerable", shop(badLodash, noise(1000, 5)))
	s.pushMulti(t)
	return s
}

// pushMulti puts an index into the upstream of which only the index is signed.
func (s *site) pushMulti(t *testing.T) {
	t.Helper()
	var children []oci.Descriptor
	for i, arch := range []string{"amd64", "arm64"} {
		child, err := s.upstream.PushImage("shop/multi", "", ocitest.Image{
			Layers: shop(goodLodash, noise(1000, uint64(10+i))), Platform: oci.Platform{OS: "linux", Architecture: arch},
		})
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, child)
	}
	index, err := s.upstream.PushIndex("shop/multi", "1.0", children...)
	if err != nil {
		t.Fatal(err)
	}
	s.sign(t, "shop/multi", index.Digest, s.release)
}

// TestClients pulls with the programs people use. Each must get what is let through, and show its user why the rest is not.
func TestClients(t *testing.T) {
	s := clientsSite(t, host)
	p := s.serve(t)
	ref := func(repo string) string { return p.registry + "/" + host + "/" + repo + ":1.0" }
	dir := t.TempDir()
	for name, args := range map[string]func(repo string) []string{
		"skopeo": func(repo string) []string {
			return []string{"copy", "--src-tls-verify=false", "docker://" + ref(repo), "dir:" + filepath.Join(dir, "skopeo-"+filepath.Base(repo))}
		},
		"crane": func(repo string) []string {
			return []string{"pull", "--insecure", ref(repo), filepath.Join(dir, "crane-"+filepath.Base(repo))}
		},
		"podman": func(repo string) []string {
			return []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs", "pull", "--tls-verify=false", ref(repo)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := program(t, name)
			for _, fate := range fates {
				t.Run(fate.repo, func(t *testing.T) {
					out, ok := run(t, path, args(fate.repo)...)
					if ok != (fate.says == "") || !strings.Contains(out, fate.says) {
						t.Errorf("pulled: %t, want %t, and to be shown %q:\n%s", ok, fate.says == "", fate.says, out)
					}
				})
			}
		})
	}
	t.Run("skopeo has the very blobs of the upstream", func(t *testing.T) {
		program(t, "skopeo")
		content, _ := s.upstream.Manifest("shop/bundle", "1.0")
		for _, d := range s.parsed(t, "shop/bundle", content.Digest).Blobs() {
			got, err := os.ReadFile(filepath.Join(dir, "skopeo-bundle", d.Digest.Encoded()))
			if err != nil || oci.FromBytes(got) != d.Digest {
				t.Errorf("%s: %d bytes, %v", d.Digest, len(got), err)
			}
		}
	})
}

// TestCosignThroughTheProxy checks that whoever verifies for himself still can.
func TestCosignThroughTheProxy(t *testing.T) {
	cosign := program(t, "cosign")
	s := clientsSite(t, host)
	p := s.serve(t)
	for _, repo := range []string{"shop/bundle", "shop/legacy"} {
		t.Run(repo, func(t *testing.T) {
			mustRun(t, cosign, "verify", "--key", s.path("release.pub"), "--insecure-ignore-tlog=true", "--allow-http-registry", p.registry+"/"+host+"/"+repo+":1.0")
		})
	}
}

// containerd is a running containerd of the test's own.
type containerd struct{ ctr, socket, dir string }

func startContainerd(t *testing.T) *containerd {
	t.Helper()
	daemon := program(t, "containerd")
	if os.Getuid() != 0 {
		t.Skip("containerd runs as root only")
	}
	// The client that came with it: others may be in the path too, and it is the client that pulls.
	c := &containerd{ctr: program(t, filepath.Join(filepath.Dir(daemon), "ctr")), dir: t.TempDir()}
	socketDir, err := os.MkdirTemp("", "ctd") // t's own would be too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(socketDir) })
	c.socket = filepath.Join(socketDir, "s")
	config := filepath.Join(c.dir, "config.toml")
	writeFile(t, config, fmt.Appendf(nil, `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, filepath.Join(c.dir, "root"), filepath.Join(c.dir, "state"), c.socket, c.socket+"t"))
	start(t, command(t, daemon, "--config", config), newJournal()).log.await(t, "starting containerd", says("containerd successfully booted"))
	return c
}

// pull pulls as a node whose certs.d has that hosts.toml for the registry of ref.
func (c *containerd) pull(t *testing.T, hostsTOML, ref string) (out string, ok bool) {
	t.Helper()
	registry, _, _ := strings.Cut(ref, "/")
	certs := t.TempDir()
	if err := os.Mkdir(filepath.Join(certs, registry), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(certs, registry, "hosts.toml"), []byte(hostsTOML))
	return run(t, c.ctr, "--address", c.socket, "images", "pull", "--snapshotter", "native", "--hosts-dir", certs, ref)
}

// TestContainerd pulls as nodes do: by the image's own name, with the proxy configured as its mirror, while the origin is up and would
// gladly serve every image without a look.
func TestContainerd(t *testing.T) {
	origin := startRegistry(t, ocitest.Options{})
	s := clientsSite(t, origin.Host()) // what the images are called; where they come from is the upstream
	for _, fate := range fates {       // whatever the fate, the origin has it
		content, _ := s.upstream.Manifest(fate.repo, "1.0")
		if !strings.Contains(content.MediaType, "index") {
			copyImage(t, s.upstream, origin, fate.repo, content)
		}
	}
	p := s.serve(t)
	c := startContainerd(t)
	proxied := fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+p.registry)

	t.Run("configured to ask nobody else", func(t *testing.T) {
		hosts := clientFile(t, "containerd", p, origin.Host())
		for _, fate := range fates {
			t.Run(fate.repo, func(t *testing.T) {
				out, ok := c.pull(t, hosts, origin.Host()+"/"+fate.repo+":1.0")
				if ok != (fate.says == "") || !strings.Contains(out, fate.says) {
					t.Errorf("pulled: %t, want %t, and to be shown %q:\n%s", ok, fate.says == "", fate.says, out)
				}
			})
		}
		if got := origin.Requests(); len(got) > 0 {
			t.Errorf("the origin was asked %d times, the first time %s %s", len(got), got[0].Method, got[0].Reference)
		}
	})

	t.Run("left to fall back on the origin", func(t *testing.T) {
		hosts := fmt.Sprintf("server = %q\n%s", origin.URL(), proxied)
		for _, fate := range fates {
			if fate.says == "" {
				continue
			}
			t.Run(fate.repo, func(t *testing.T) {
				out, ok := c.pull(t, hosts, origin.Host()+"/"+fate.repo+":1.0")
				if ok || !strings.Contains(out, fate.says) {
					t.Errorf("pulled: %t, want false, and to be shown %q:\n%s", ok, fate.says, out)
				}
			})
		}
		for _, q := range origin.Requests() {
			if q.Status == http.StatusOK {
				t.Errorf("the origin served %s %s %s", q.Method, q.Repo, q.Reference)
			}
		}
	})
}

// clientFile returns what the program prints as the configuration of a client that pulls everything called upstream through p.
func clientFile(t *testing.T, client string, p *server, upstream string) string {
	t.Helper()
	var files []struct{ Content string }
	out := mustRun(t, binary, "clients", client, "--proxy", "http://"+p.registry, "--upstream", upstream, "-o", "json")
	if err := json.Unmarshal([]byte(out), &files); err != nil || len(files) == 0 {
		t.Fatalf("%v: %s", err, out)
	}
	return files[0].Content
}

// TestPodman pulls by the images' own names, with the printed registries.conf, while the origin is up and would serve every image.
func TestPodman(t *testing.T) {
	podman := program(t, "podman")
	origin := startRegistry(t, ocitest.Options{})
	s := clientsSite(t, origin.Host())
	p := s.serve(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "registries.conf")
	writeFile(t, conf, []byte(clientFile(t, "podman", p, origin.Host())))
	for _, fate := range fates {
		t.Run(fate.repo, func(t *testing.T) {
			cmd := command(t, podman, "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs",
				"pull", origin.Host()+"/"+fate.repo+":1.0")
			cmd.Env = append(cmd.Env, "CONTAINERS_REGISTRIES_CONF="+conf)
			out, err := cmd.CombinedOutput()
			if (err == nil) != (fate.says == "") || !strings.Contains(string(out), fate.says) {
				t.Errorf("%v, want to be shown %q:\n%s", err, fate.says, out)
			}
		})
	}
	if got := origin.Requests(); len(got) > 0 {
		t.Errorf("the origin was asked %d times, the first time %s %s", len(got), got[0].Method, got[0].Reference)
	}
}

// copyImage puts an image of one registry into another, past HTTP.
func copyImage(t *testing.T, from, to *ocitest.Registry, repo string, content oci.Content) {
	t.Helper()
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Blobs() {
		b, ok := from.Blob(repo, d.Digest)
		if !ok {
			t.Fatalf("there is no blob %s", d.Digest)
		}
		to.PutBlob(repo, b)
	}
	to.PutManifest(repo, "1.0", content.MediaType, content.Raw)
}
