package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// printedFile is a file "tidewaiter clients" prints.
type printedFile struct{ Path, Content string }

// printed returns what the program prints as the configuration of a client that pulls everything called upstream through p.
func printed(t *testing.T, client string, p *server, upstream string) []printedFile {
	t.Helper()
	var files []printedFile
	out := mustRun(t, binary, "clients", client, "--proxy", "http://"+p.registry, "--upstream", upstream, "-o", "json")
	if err := json.Unmarshal([]byte(out), &files); err != nil || len(files) == 0 {
		t.Fatalf("%v: %s", err, out)
	}
	return files
}

// openOrigin returns a registry that serves every image of the site to everybody, without a look: what a node would ask if it were not
// kept from it. Its name is what the images are called by.
func openOrigin(t *testing.T) (*site, *ocitest.Registry) {
	t.Helper()
	origin := startRegistry(t, ocitest.Options{})
	s := clientsSite(t, origin.Host())
	for _, fate := range fates {
		content, _ := s.upstream.Manifest(fate.repo, "1.0")
		if !strings.Contains(content.MediaType, "index") {
			copyImage(t, s.upstream, origin, fate.repo, content)
		}
	}
	return s, origin
}

// checkFates pulls every image by its own name, and compares what becomes of it with its fate.
func checkFates(t *testing.T, c puller, registry string) {
	t.Helper()
	for _, fate := range fates {
		out, ok := c.pull(registry + "/" + fate.repo + ":1.0")
		if ok != (fate.says == "") || !strings.Contains(out, fate.says) {
			t.Errorf("%s: pulled: %t, want %t, and to be shown %q:\n%s", fate.repo, ok, fate.says == "", fate.says, out)
		}
	}
}

// checkUnasked checks that nobody asked the origin for anything.
func checkUnasked(t *testing.T, origin *ocitest.Registry) {
	t.Helper()
	if got := origin.Requests(); len(got) > 0 {
		t.Errorf("the origin was asked %d times, the first time %s %s %s", len(got), got[0].Method, got[0].Repo, got[0].Reference)
	}
}

// checkUnserved checks that the origin gave nobody a manifest or a blob.
func checkUnserved(t *testing.T, origin *ocitest.Registry) {
	t.Helper()
	for _, q := range origin.Requests() {
		if q.Status == http.StatusOK && q.Kind != ocitest.KindPing {
			t.Errorf("the origin served %s %s %s", q.Method, q.Repo, q.Reference)
		}
	}
}

// TestPrintedContainerd pulls as nodes do: by the image's own name, while the origin is up and would gladly serve every image.
func TestPrintedContainerd(t *testing.T) {
	t.Parallel()
	for _, kind := range []containerdKind{containerd1, containerd2} {
		t.Run(kind.daemon, func(t *testing.T) {
			t.Parallel()
			s, origin := openOrigin(t)
			p := s.serve(t)
			c := startContainerd(t, kind)
			file := printed(t, "containerd", p, origin.Host())[0]
			if want := "/etc/containerd/certs.d/" + origin.Host() + "/hosts.toml"; file.Path != want {
				t.Errorf("the file is %s, want %s", file.Path, want)
			}
			for way, client := range c.pullers(t) {
				t.Run(way+" asks nobody but the proxy", func(t *testing.T) {
					c.configure(t, origin.Host(), file.Content)
					origin.ResetRequests()
					checkFates(t, client, origin.Host())
					checkUnasked(t, origin)
				})
				t.Run(way+" that may fall back on the origin gets a tombstone for a tag", func(t *testing.T) {
					c.configure(t, origin.Host(), fmt.Sprintf("server = %q\n%s", origin.URL(), onlyHost(p)))
					origin.ResetRequests()
					for _, fate := range fates {
						if fate.says == "" {
							continue
						}
						out, ok := client.pull(origin.Host() + "/" + fate.repo + ":1.0")
						if ok || !strings.Contains(out, fate.says) {
							t.Errorf("%s: pulled: %t, want false, and to be shown %q:\n%s", fate.repo, ok, fate.says, out)
						}
					}
					checkUnserved(t, origin)
				})
			}
			// What follows pulls what is denied, so nothing may be pulled by tag after it.
			for way, client := range c.pullers(t) {
				t.Run(way+" falls through to the origin by a file that names no server", func(t *testing.T) {
					c.configure(t, origin.Host(), onlyHost(p))
					content, _ := s.upstream.Manifest("shop/vulnerable", "1.0")
					if out, ok := client.pull(origin.Host() + "/shop/vulnerable@" + content.Digest.String()); !ok {
						t.Errorf("it does not, so the printed file need not name the proxy twice:\n%s", out)
					}
				})
			}
		})
	}
}

// onlyHost is a hosts.toml with the proxy as a host and no word of a server.
func onlyHost(p *server) string {
	return fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+p.registry)
}

// TestPendingTombstone pulls a tag that is still being judged, with the origin as fallback: "not yet" must not send a node there.
func TestPendingTombstone(t *testing.T) {
	t.Parallel()
	for _, kind := range []containerdKind{containerd1, containerd2} {
		t.Run(kind.daemon, func(t *testing.T) {
			t.Parallel()
			s, origin := openOrigin(t)
			s.config["gate"] = keys{"hold": "300ms"}
			content, _ := s.upstream.Manifest("shop/bundle", "1.0")
			layers := s.parsed(t, "shop/bundle", content.Digest).Layers
			released, release := context.WithCancel(t.Context())
			defer release()
			s.upstream.SetIntercept(ocitest.When(ocitest.Gets(ocitest.KindBlob).Of(layers[len(layers)-1].Digest.String()), ocitest.Stall(released, nil)))
			p := s.serve(t)
			c := startContainerd(t, kind)
			c.configure(t, origin.Host(), fmt.Sprintf("server = %q\n%s", origin.URL(), onlyHost(p)))
			for way, client := range c.pullers(t) {
				t.Run(way, func(t *testing.T) {
					out, ok := client.pull(origin.Host() + "/shop/bundle:1.0")
					if ok || !strings.Contains(out, "judging in progress: reading layers") {
						t.Errorf("pulled: %t, want false, and to be shown that judging is in progress:\n%s", ok, out)
					}
					checkUnserved(t, origin)
				})
			}
			t.Run("once it is judged it is pulled, from the proxy", func(t *testing.T) {
				release()
				p.log.await(t, "the verdict", verdicts(content.Digest.String()))
				for way, client := range c.pullers(t) {
					if out, ok := client.pull(origin.Host() + "/shop/bundle:1.0"); !ok {
						t.Errorf("%s: %s", way, out)
					}
				}
				checkUnserved(t, origin)
			})
		})
	}
}

// TestPrintedRegistriesConf pulls by the images' own names with the clients of containers/image.
func TestPrintedRegistriesConf(t *testing.T) {
	t.Parallel()
	s, origin := openOrigin(t)
	p := s.serve(t)
	file := printed(t, "podman", p, origin.Host())[0]
	const folder = "/etc/containers/" // a user's own is ~/.config/containers, read the same way
	inHome := filepath.Join(".config/containers", strings.TrimPrefix(file.Path, folder))
	if !strings.HasPrefix(file.Path, folder) {
		t.Errorf("the file is %s, want one in %s", file.Path, folder)
	}
	t.Run("podman", func(t *testing.T) {
		u := newUser(t)
		u.write(t, inHome, file.Content)
		podman := u.podman(t)
		checkFates(t, puller{pull: func(ref string) (string, bool) { return podman("pull", ref) }}, origin.Host())
	})
	t.Run("buildah", func(t *testing.T) {
		u := newUser(t)
		u.write(t, inHome, file.Content)
		buildah := u.buildah(t)
		checkFates(t, puller{pull: func(ref string) (string, bool) { return buildah("pull", ref) }}, origin.Host())
	})
	t.Run("skopeo", func(t *testing.T) {
		u, skopeo := newUser(t), program(t, "skopeo")
		u.write(t, inHome, file.Content)
		checkFates(t, puller{pull: func(ref string) (string, bool) {
			return u.run(skopeo, "copy", "docker://"+ref, "dir:"+u.path(filepath.Base(ref)))
		}}, origin.Host())
	})
	checkUnasked(t, origin)
	t.Run("cri-o reads the same file", func(t *testing.T) {
		if got := printed(t, "cri-o", p, origin.Host())[0]; got != file {
			t.Errorf("got %+v, want %+v", got, file)
		}
	})
}

// TestPrintedTalos has a node read what Talos makes of the printed patch: of the mirrors of a registry with skipFallback, the last
// becomes the server of its hosts.toml and the others its hosts. Talos itself is not run. Its nodes have containerd 2.
func TestPrintedTalos(t *testing.T) {
	t.Parallel()
	s, origin := openOrigin(t)
	p := s.serve(t)
	var patch struct {
		Machine struct {
			Registries struct {
				Mirrors map[string]struct {
					Endpoints    []string `yaml:"endpoints"`
					SkipFallback bool     `yaml:"skipFallback"`
				} `yaml:"mirrors"`
			} `yaml:"registries"`
		} `yaml:"machine"`
	}
	decodeYAML(t, printed(t, "talos", p, origin.Host())[0].Content, &patch)
	mirror := patch.Machine.Registries.Mirrors[origin.Host()]
	if len(mirror.Endpoints) != 1 || !mirror.SkipFallback {
		t.Fatalf("got %+v, want one endpoint and no fallback", mirror)
	}
	c := startContainerd(t, containerd2)
	c.configure(t, origin.Host(), fmt.Sprintf("server = '%s'\ncapabilities = ['pull', 'resolve']\n", mirror.Endpoints[0]))
	checkFates(t, c.criPuller(t), origin.Host())
	checkUnasked(t, origin)
}

// TestPrintedK3s reads what is printed for k3s. Neither k3s nor the containerd it brings is run: that its setting closes the way to the
// origin is what its documentation says, and all there is to go by.
func TestPrintedK3s(t *testing.T) {
	t.Parallel()
	s := newSite(t, ocitest.Options{})
	p := s.serve(t)
	files := printed(t, "k3s", p, host)
	var registries struct {
		Mirrors map[string]struct {
			Endpoint []string `yaml:"endpoint"`
		} `yaml:"mirrors"`
	}
	var config struct {
		NoDefaultEndpoint bool `yaml:"disable-default-registry-endpoint"`
	}
	decodeYAML(t, files[0].Content, &registries)
	decodeYAML(t, files[1].Content, &config)
	if got := registries.Mirrors[host].Endpoint; len(got) != 1 || got[0] != "http://"+p.registry {
		t.Errorf("the endpoints are %q, want the proxy alone", got)
	}
	if !config.NoDefaultEndpoint {
		t.Errorf("%s leaves the origin in place:\n%s", files[1].Path, files[1].Content)
	}
}

// decodeYAML reads YAML into v, which must have a place for everything in it.
func decodeYAML(t *testing.T, content string, v any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(content))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil {
		t.Fatalf("%v:\n%s", err, content)
	}
}
