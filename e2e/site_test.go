package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// host is the name clients know the upstream by.
const host = "registry.test"

// keys is a part of the configuration file. JSON is YAML too.
type keys = map[string]any

// site is an installation: a folder of configuration and data, and the upstream it stands in front of.
type site struct {
	dir      string
	upstream *ocitest.Registry
	// release signs what may be let through; stranger signs, and nobody trusts it.
	release, stranger *ocitest.Key
	// config is the configuration file; tests change it before they serve.
	config keys
}

// strictPolicy asks for everything: a signature, and layers without known vulnerabilities.
const strictPolicy = `policies:
  - name: production
    match: {repositories: ["**"]}
    on_fail: quarantine
    require: {signatures: {any_of: [release]}}
    vulnerabilities: {deny_at: high, only_fixable: true}
`

// newSite returns an installation with [strictPolicy] and [advisories], in front of an upstream of its own.
func newSite(t testing.TB, o ocitest.Options) *site {
	t.Helper()
	upstream := startRegistry(t, o)
	s := &site{dir: t.TempDir(), upstream: upstream, release: newKey(t), stranger: newKey(t)}
	s.config = keys{
		"listen":  keys{"registry": "127.0.0.1:0", "admin": "127.0.0.1:0"},
		"storage": keys{"filesystem": keys{"root": s.path("data")}},
		"upstreams": []any{
			keys{"host": host, "url": upstream.URL(), "unsafe_private_addresses": true, "tag_ttl": "1h"},
		},
		"default_upstream": host,
		"policy_files":     []string{s.path("policy.yaml")},
		"trust_files":      []string{s.path("trust.yaml")},
		"advisories":       keys{"path": s.path("advisories")},
		"log":              keys{"level": "debug"},
	}
	writeFile(t, s.path("release.pub"), s.release.PublicPEM())
	writeFile(t, s.path("trust.yaml"), []byte("authorities:\n  - {name: release, cosign: {key_file: release.pub}}\n"))
	writeFile(t, s.path("policy.yaml"), []byte(strictPolicy))
	writeAdvisories(t, s.path("advisories"), advisories())
	return s
}

func startRegistry(t testing.TB, o ocitest.Options) *ocitest.Registry {
	t.Helper()
	r, err := ocitest.StartRegistry(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func newKey(t testing.TB) *ocitest.Key {
	t.Helper()
	k, err := ocitest.NewKey(ocitest.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func writeAdvisories(t testing.TB, dir string, rows []ocitest.Advisory) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ocitest.WriteAdvisories(dir, time.Now(), rows); err != nil {
		t.Fatal(err)
	}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// upstreamKeys is the configuration of the upstream, to be changed before the site is served.
func (s *site) upstreamKeys() keys { return s.config["upstreams"].([]any)[0].(keys) }

// write writes the configuration file and returns where it is.
func (s *site) write(t testing.TB) string {
	t.Helper()
	raw, err := json.MarshalIndent(s.config, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, s.path("tidewaiter.yaml"), raw)
	return s.path("tidewaiter.yaml")
}

// serve starts a proxy for the site. It must end well when the test ends, unless the test has killed it.
func (s *site) serve(t testing.TB) *server {
	t.Helper()
	p := serve(t, s.write(t))
	t.Cleanup(func() {
		select {
		case <-p.gone:
		default:
			p.stop(t)
		}
	})
	return p
}

// advisories are about the packages of [shop]: a critical one for lodash before 4.17.12, and a low one for its zlib. The others are about
// other versions, and make the data cover each kind of package there is.
func advisories() []ocitest.Advisory {
	long := time.Date(2019, 7, 10, 0, 0, 0, 0, time.UTC)
	return []ocitest.Advisory{
		{
			Bucket: "npm::GitHub Security Advisory npm", Source: "ghsa", Package: "lodash", ID: "CVE-2019-10744", Severity: "critical",
			Vulnerable: []string{"<4.17.12"}, Patched: []string{"4.17.12"}, Title: "Prototype pollution in lodash", Published: long,
		},
		{
			Bucket: "go::GitHub Security Advisory Go", Source: "ghsa", Package: "golang.org/x/text", ID: "CVE-2022-32149", Severity: "high",
			Vulnerable: []string{"<0.3.8"}, Patched: []string{"0.3.8"}, Title: "Denial of service", Published: long,
		},
		{
			Bucket: "debian 12", Source: "debian", Package: "zlib", ID: "CVE-2023-45853", Fixed: "1:1.3.1-1", Severity: "low",
			Title: "Integer overflow in MiniZip", Published: long,
		},
	}
}

// Versions of lodash: one without known vulnerabilities, and one with a critical one.
const (
	goodLodash = "4.17.21"
	badLodash  = "4.17.4"
)

// shop are the layers of a small web shop: Debian's package database, an npm tree with that version of lodash, and a Go program with its
// build information. more come on top.
func shop(lodash string, more ...ocitest.LayerSpec) []ocitest.LayerSpec {
	debian := ocitest.Debian("12",
		ocitest.DebPackage{Name: "libssl3", Version: "3.0.15-1~deb12u1", Source: "openssl"},
		ocitest.DebPackage{Name: "zlib1g", Version: "1:1.2.13.dfsg-1", Source: "zlib"},
	)
	worker := ocitest.GoBinary("usr/local/bin/worker", debug.BuildInfo{
		GoVersion: "go1.26.3", Path: "example.com/shop/worker", Main: debug.Module{Path: "example.com/shop", Version: "v1.0.0"},
		Deps: []*debug.Module{{Path: "golang.org/x/text", Version: "v0.30.0"}},
	})
	return append([]ocitest.LayerSpec{{Files: debian}, {Files: ocitest.NPM("lodash", lodash)}, {Files: []ocitest.File{worker}}}, more...)
}

// noise is a layer of some size that holds no package, unlike any of another seed.
func noise(size int, seed uint64) ocitest.LayerSpec {
	return ocitest.LayerSpec{Files: []ocitest.File{{Path: fmt.Sprintf("var/cache/noise-%d", seed), Body: ocitest.Random(size, seed)}}}
}

// push puts an image into the upstream, unsigned.
func (s *site) push(t testing.TB, repo string, layers []ocitest.LayerSpec) oci.Descriptor {
	t.Helper()
	desc, err := s.upstream.PushImage(repo, "1.0", ocitest.Image{Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// pushSigned puts an image and its signature, a bundle, into the upstream.
func (s *site) pushSigned(t testing.TB, repo string, layers []ocitest.LayerSpec) oci.Descriptor {
	t.Helper()
	desc := s.push(t, repo, layers)
	s.sign(t, repo, desc.Digest, s.release)
	return desc
}

func (s *site) sign(t testing.TB, repo string, d oci.Digest, key *ocitest.Key) {
	t.Helper()
	if _, err := s.upstream.SignBundle(repo, d, key, ocitest.Statement{}, ocitest.Mint{}); err != nil {
		t.Fatal(err)
	}
}

// parsed returns an image of the upstream.
func (s *site) parsed(t testing.TB, repo string, d oci.Digest) oci.Manifest {
	t.Helper()
	content, ok := s.upstream.Manifest(repo, d.String())
	if !ok {
		t.Fatalf("the upstream has no %s@%s", repo, d)
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
