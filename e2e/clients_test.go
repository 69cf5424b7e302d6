package e2e_test

import (
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

// puller is a client that is told to pull by the proxy's own name.
type puller struct {
	// version is what the client says it is.
	version string
	// pull pulls an image and returns all that its user is shown.
	pull func(ref string) (out string, ok bool)
	// says returns what the client says it has, once it has pulled an image: text with digests. nil for one that has files.
	says func(t *testing.T, ref string) string
	// files is the folder where it keeps what it pulled, byte for byte; empty for one that unpacks it.
	files string
}

// pullers are the clients, by their names in docs/clients.md.
var pullers = []struct {
	name  string
	start func(t *testing.T, p *server) puller
}{
	{"skopeo copy", skopeoCopy},
	{"skopeo sync", skopeoSync},
	{"podman pull", podmanPull},
	{"buildah pull", buildahPull},
	{"buildah from", buildahFrom},
	{"docker pull", dockerPull},
	{"containerd 1.6, ctr", func(t *testing.T, _ *server) puller { return startContainerd(t, containerd1).ctrPuller(t) }},
	{"containerd 1.6, CRI", func(t *testing.T, _ *server) puller { return startContainerd(t, containerd1).criPuller(t) }},
	{"containerd 2.4, ctr", func(t *testing.T, _ *server) puller { return startContainerd(t, containerd2).ctrPuller(t) }},
	{"containerd 2.4, CRI", func(t *testing.T, _ *server) puller { return startContainerd(t, containerd2).criPuller(t) }},
	{"crane pull", cranePull},
	{"regctl image copy", regctlCopy},
	{"oras copy", orasCopy},
}

// TestClients pulls with the programs people use. Each must get what is let through, byte for byte, and show its user why the rest is
// not.
func TestClients(t *testing.T) {
	t.Parallel()
	s := clientsSite(t, host)
	p := s.serve(t)
	for _, c := range pullers {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			client := c.start(t, p)
			outs := map[string]string{}
			for _, fate := range fates {
				t.Run(fate.repo, func(t *testing.T) {
					out, ok := client.pull(p.ref(fate.repo))
					outs[fate.repo] = out
					if ok != (fate.says == "") || !strings.Contains(out, fate.says) {
						t.Errorf("pulled: %t, want %t, and to be shown %q:\n%s", ok, fate.says == "", fate.says, out)
					}
				})
			}
			t.Run("what it has is what the upstream has", func(t *testing.T) { client.checkHas(t, s, p.ref("shop/bundle"), "shop/bundle") })
			t.Run("its user is shown what docs/clients.md says", func(t *testing.T) {
				message := p.get(t, "/v2/"+host+"/shop/vulnerable/manifests/1.0").failure().Message
				checkRow(t, pullTable, c.name, client.version, shown(outs["shop/vulnerable"], message, p.registry, "PROXY"))
			})
		})
	}
}

// ref is how an image is called by the proxy's own name.
func (s *server) ref(repo string) string { return s.registry + "/" + host + "/" + repo + ":1.0" }

// checkHas checks that the client has the manifest, config and layers of an image of the upstream. A client that unpacks layers has
// compared them with a manifest whose digest it tells.
func (c puller) checkHas(t *testing.T, s *site, ref, repo string) {
	t.Helper()
	content, _ := s.upstream.Manifest(repo, "1.0")
	m := s.parsed(t, repo, content.Digest)
	if c.files == "" {
		if out := c.says(t, ref); !strings.Contains(out, content.Digest.String()) && !strings.Contains(out, m.Config.Digest.Encoded()) {
			t.Errorf("it says it has %s, want %s or the config %s", out, content.Digest, m.Config.Digest)
		}
		return
	}
	has := filesIn(t, c.files)
	for _, d := range append(m.Blobs(), oci.Descriptor{Digest: content.Digest}) {
		if !has[d.Digest] {
			t.Errorf("it has no file with digest %s", d.Digest)
		}
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
