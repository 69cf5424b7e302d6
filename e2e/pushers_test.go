package e2e_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/oci"
)

// pushClient is a client that copies an image of the upstream into a hosted repository.
type pushClient struct {
	name string
	// keeps says that the copy has the digest of the original: docker, podman and buildah pack layers anew.
	keeps bool
	// start gives the client to a user of the proxy.
	start func(t *testing.T, u *user, p *server) copier
}

// copier is a client in the hands of a user.
type copier struct {
	// version is what the client says it is.
	version string
	// copy copies an image and returns all that the user is shown.
	copy func(from, to string) (out string, ok bool)
}

// pushClients are those CI pushes with, by their names in docs/clients.md.
var pushClients = []pushClient{
	{"skopeo copy", true, skopeoCopies},
	{"skopeo sync", true, skopeoSyncs},
	{"podman push", false, podmanPushes},
	{"buildah push", false, buildahPushes},
	{"docker push", false, dockerPushes},
	{"containerd 1.6, ctr", true, func(t *testing.T, u *user, _ *server) copier { return startContainerd(t, containerd1).copier(u) }},
	{"containerd 2.4, ctr", true, func(t *testing.T, u *user, _ *server) copier { return startContainerd(t, containerd2).copier(u) }},
	{"crane copy", true, craneCopies},
	{"regctl image copy", true, regctlCopies},
	{"oras copy", true, orasCopies},
}

// skopeoCopies says that digests are to stay: else skopeo may send another compression of a layer, which it knows from what podman and
// buildah have noted on this machine.
func skopeoCopies(t *testing.T, u *user, _ *server) copier {
	skopeo := program(t, "skopeo")
	return copier{versionIn(t, u.mustRun(t, skopeo, "--version")), func(from, to string) (string, bool) {
		return u.run(skopeo, "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+from, "docker://"+to)
	}}
}

// skopeoSyncs keeps the last component of the name, as it is in every test.
func skopeoSyncs(t *testing.T, u *user, _ *server) copier {
	skopeo := program(t, "skopeo")
	return copier{versionIn(t, u.mustRun(t, skopeo, "--version")), func(from, to string) (string, bool) {
		return u.run(skopeo, "sync", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", "--src", "docker", "--dest", "docker", from, filepath.Dir(to))
	}}
}

func podmanPushes(t *testing.T, u *user, _ *server) copier {
	podman := u.podman(t)
	version, _ := podman("--version")
	return copier{versionIn(t, version), func(from, to string) (string, bool) {
		if out, ok := podman("pull", "--tls-verify=false", from); !ok {
			return out, ok
		}
		return podman("push", "--tls-verify=false", from, to)
	}}
}

func buildahPushes(t *testing.T, u *user, _ *server) copier {
	buildah := u.buildah(t)
	version, _ := buildah("--version")
	return copier{versionIn(t, version), func(from, to string) (string, bool) {
		if out, ok := buildah("pull", "--tls-verify=false", from); !ok {
			return out, ok
		}
		return buildah("push", "--tls-verify=false", from, "docker://"+to)
	}}
}

func dockerPushes(t *testing.T, u *user, p *server) copier {
	d := startDockerd(t, printed(t, "docker", p, host)[0].Content)
	d.home, u.env = u.home, d.env
	return copier{d.version, func(from, to string) (string, bool) {
		if out, ok := d.pull(from); !ok {
			return out, ok
		}
		if out, ok := d.run(d.docker, "tag", from, to); !ok {
			return out, ok
		}
		return d.run(d.docker, "push", to)
	}}
}

func craneCopies(t *testing.T, u *user, _ *server) copier {
	crane := program(t, "crane")
	return copier{versionIn(t, u.mustRun(t, crane, "version")), func(from, to string) (string, bool) {
		return u.run(crane, "copy", "--insecure", from, to)
	}}
}

func regctlCopies(t *testing.T, u *user, p *server) copier {
	regctl := program(t, "regctl")
	return copier{versionIn(t, u.mustRun(t, regctl, "version")), func(from, to string) (string, bool) {
		registry, _, _ := strings.Cut(from, "/")
		for _, r := range []string{registry, p.registry} {
			if out, ok := u.run(regctl, "registry", "set", "--tls", "disabled", r); !ok {
				return out, ok
			}
		}
		return u.run(regctl, "image", "copy", from, to)
	}}
}

func orasCopies(t *testing.T, u *user, _ *server) copier {
	oras := program(t, "oras")
	return copier{versionIn(t, u.mustRun(t, oras, "version")), func(from, to string) (string, bool) {
		return u.run(oras, "copy", "--from-plain-http", "--to-plain-http", from, to)
	}}
}

// copier returns what copies with the client that came with containerd. It is told the password; it reads no file.
func (c *containerd) copier(u *user) copier {
	ctr := []string{"--address", c.socket, "images"}
	return copier{c.version, func(from, to string) (string, bool) {
		for _, args := range [][]string{
			{"pull", "--plain-http", "--snapshotter", "native", "--all-platforms", from},
			{"tag", "--force", from, to},
		} {
			if out, ok := c.run(c.ctr, append(ctr, args...)...); !ok {
				return out, ok
			}
		}
		return c.run(c.ctr, append(ctr, "push", "--plain-http", "--user", u.credentials, to)...)
	}}
}

// TestPush copies an image, and an index of two, into a hosted repository. Everybody gets them from there.
func TestPush(t *testing.T) {
	t.Parallel()
	s := hostedSite(t)
	image := s.push(t, "shop/web", shop(goodLodash, noise(300_000, 1)))
	s.pushMulti(t)
	index, _ := s.upstream.Manifest("shop/multi", "1.0")
	p := s.serve(t)
	for _, c := range pushClients {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			folder := "apps/open/" + strings.NewReplacer(" ", "-", ",", "", ".", "-").Replace(c.name)
			ci := p.member(t, "ci")
			client := c.start(t, ci, p)
			for repo, want := range map[string]oci.Digest{"web": image.Digest, "multi": index.Digest} {
				t.Run(repo, func(t *testing.T) {
					for range 2 { // the second time everything is there already
						if out, ok := client.copy(s.upstream.Host()+"/shop/"+repo+":1.0", p.hosted(folder+"/"+repo)); !ok {
							t.Fatal(out)
						}
					}
					if got := p.checkServed(t, folder+"/"+repo, "1.0"); c.keeps && got != want {
						t.Errorf("it is %s, want %s", got, want)
					}
				})
			}
			t.Run("nobody pushes who may not", func(t *testing.T) {
				client := c.start(t, p.member(t, "reader"), p)
				refused := folder + "/refused/web"
				out, ok := client.copy(s.upstream.Host()+"/shop/web:1.0", p.hosted(refused))
				checkRefused(t, c.name, client.version, out, ok, p.registry, "PROXY", s.upstream.Host(), "UPSTREAM", refused, "apps/web")
				if got := p.status(t, refused, "1.0"); got != http.StatusNotFound {
					t.Errorf("status %d, want 404", got)
				}
			})
		})
	}
}

// notGranted is what somebody is told who may not push.
const notGranted = "this is not granted, or there is no such repository"

// checkRefused checks that nothing was pushed, and compares what the client shows with docs/clients.md. Of a client that does not show
// what the proxy says, that is the last line.
func checkRefused(t *testing.T, client, version, out string, ok bool, names ...string) {
	t.Helper()
	if ok {
		t.Errorf("pushed:\n%s", out)
	}
	says := shown(out, notGranted, names...)
	if says == "" {
		lines := strings.Split(strings.TrimSpace(out), "\n")
		says = strings.NewReplacer(names...).Replace(strings.TrimSpace(lines[len(lines)-1]))
	}
	checkRow(t, pushTable, client, version, says)
}
