package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// scene is one image of the demo and what should become of it.
type scene struct {
	what      string // in a few words
	reference string
	allowed   bool
	// says is part of the reason or warning a client must be shown; empty for none.
	says string
}

// met reports whether a pull went as it should.
func (s scene) met(p pulled) bool {
	return p.allowed == s.allowed && strings.Contains(p.message, s.says) && (s.says != "") == (p.message != "")
}

// shopLayers are the layers of a small web shop on Debian, with the given version of lodash: a dpkg status file, an npm tree, and a Go
// binary with its build information.
func shopLayers(lodash string) []ocitest.LayerSpec {
	debian := ocitest.Debian("12",
		ocitest.DebPackage{Name: "libc6", Version: "2.36-9+deb12u9", Source: "glibc"},
		ocitest.DebPackage{Name: "libssl3", Version: "3.0.15-1~deb12u1", Source: "openssl"},
		ocitest.DebPackage{Name: "zlib1g", Version: "1:1.2.13.dfsg-1", Source: "zlib"},
		ocitest.DebPackage{Name: "tar", Version: "1.34+dfsg-1.2+deb12u1"},
	)
	app := slices.Concat(ocitest.NPM("lodash", lodash), ocitest.NPM("express", "4.21.2"))
	worker := ocitest.GoBinary("usr/local/bin/worker", debug.BuildInfo{
		GoVersion: "go1.26.3", Path: "example.com/shop/worker", Main: debug.Module{Path: "example.com/shop", Version: "v1.0.0"},
		Deps: []*debug.Module{{Path: "golang.org/x/text", Version: "v0.30.0"}},
	})
	return []ocitest.LayerSpec{
		{Files: append(debian, ocitest.File{Path: "var/cache/noise", Body: ocitest.Random(8<<20, 1)})},
		{Files: app, Compression: ocitest.Zstd},
		{Files: []ocitest.File{worker}},
	}
}

// demoAdvisories are real advisories for some of what the images hold.
func demoAdvisories() []ocitest.Advisory {
	return []ocitest.Advisory{
		{
			Bucket: "npm::GitHub Security Advisory npm", Source: "ghsa", Package: "lodash", ID: "CVE-2019-10744", Severity: "critical",
			Vulnerable: []string{"<4.17.12"}, Patched: []string{"4.17.12"}, Title: "Prototype pollution in lodash",
			Published: time.Date(2019, 7, 10, 0, 0, 0, 0, time.UTC),
		},
		{
			Bucket: "maven::GitHub Security Advisory Maven", Source: "ghsa", Package: "org.apache.logging.log4j:log4j-core", ID: "CVE-2021-44228",
			Severity: "critical", Vulnerable: []string{">=2.13.0, <2.15.0"}, Patched: []string{"2.15.0"}, Title: "Remote code injection in Log4j",
			Published: time.Date(2021, 12, 10, 0, 0, 0, 0, time.UTC),
		},
		{
			Bucket: "pip::GitHub Security Advisory pip", Source: "ghsa", Package: "jinja2", ID: "CVE-2020-28493", Severity: "medium",
			Vulnerable: []string{"<2.11.3"}, Patched: []string{"2.11.3"}, Title: "Regular expression denial of service in Jinja2",
			Published: time.Date(2021, 2, 1, 0, 0, 0, 0, time.UTC),
		},
		{
			Bucket: "go::GitHub Security Advisory Go", Source: "ghsa", Package: "golang.org/x/text", ID: "CVE-2022-32149", Severity: "high",
			Vulnerable: []string{"<0.3.8"}, Patched: []string{"0.3.8"}, Title: "Denial of service in golang.org/x/text/language",
			Published: time.Date(2022, 10, 14, 0, 0, 0, 0, time.UTC),
		},
		{
			Bucket: "debian 12", Source: "debian", Package: "openssl", ID: "CVE-2024-5535", Fixed: "3.0.15-1~deb12u1", Severity: "low",
			Title: "SSL_select_next_proto buffer overread", Published: time.Date(2024, 6, 27, 0, 0, 0, 0, time.UTC),
		},
		{
			Bucket: "debian 12", Source: "debian", Package: "tar", ID: "CVE-2005-2541", Status: 2, Severity: "low",
			Title: "tar does not warn when extracting setuid files", Published: time.Date(2005, 8, 10, 0, 0, 0, 0, time.UTC),
		},
	}
}

// stage writes keys and advisories into dir and fills the registry. It returns the scenes in the order to play them.
func stage(r *ocitest.Registry, dir string) ([]scene, error) {
	release, err := ocitest.NewKey(ocitest.ECDSAP256)
	if err != nil {
		return nil, err
	}
	stranger, err := ocitest.NewKey(ocitest.ECDSAP256)
	if err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(dir, "release.pub"), release.PublicPEM()); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, "advisories"), 0o700); err != nil {
		return nil, err
	}
	if err := ocitest.WriteAdvisories(filepath.Join(dir, "advisories"), time.Now().UTC(), demoAdvisories()); err != nil {
		return nil, err
	}
	s := &stagehand{r: r, release: release, stranger: stranger}
	good, bad := shopLayers("4.17.21"), shopLayers("4.17.4")
	jar := ocitest.LayerSpec{Files: ocitest.Jar("com.example", "shop", "1.0", ocitest.Jar("org.apache.logging.log4j", "log4j-core", "2.14.1")...)}
	secret, err := newPrivateKey()
	if err != nil {
		return nil, err
	}
	cut, err := good[0].Build(false)
	if err != nil {
		return nil, err
	}
	torn := append([]ocitest.LayerSpec{{Blob: cut.Blob[:len(cut.Blob)/2], MediaType: cut.Descriptor.MediaType}}, good[1:]...)
	foreign := slices.Clone(good)
	foreign[1].URLs = []string{"https://elsewhere.example/layer"}

	s.image("shop/web", good, signBundle, true, "", "clean, signed (bundle)")
	s.image("shop/api", append(slices.Clone(good), ocitest.LayerSpec{Files: ocitest.Wheel("requests", "2.32.3")}), signLegacy, true, "", "clean, signed (legacy tag), three layers known")
	s.index("shop/multi", good, "clean, only the index is signed")
	s.image("shop/unsigned", append(slices.Clone(good), ocitest.LayerSpec{Files: ocitest.NPM("left-pad", "1.3.0")}), signNot, false, "unsigned", "")
	s.image("shop/stranger", append(slices.Clone(good), ocitest.LayerSpec{Files: ocitest.NPM("is-odd", "3.0.1")}), signStranger, false, "not signed by release", "")
	s.image("shop/vulnerable", bad, signBundle, false, "CVE-2019-10744", "")
	s.image("shop/java", append(slices.Clone(good), jar), signBundle, false, "CVE-2021-44228", "")
	s.image("shop/leaky", append(slices.Clone(good), ocitest.LayerSpec{Files: []ocitest.File{{Path: "root/.ssh/id_ed25519", Body: secret, Mode: 0o600}}}),
		signBundle, false, "a secret, private key, in root/.ssh/id_ed25519", "")
	s.image("shop/torn", torn, signBundle, false, "unreadable-layer", "")
	s.image("shop/foreign", foreign, signBundle, false, "from elsewhere", "")
	s.image("shop/legacy", append(slices.Clone(bad), ocitest.LayerSpec{Files: ocitest.NPM("moment", "2.30.1")}), signBundle, true, "", "vulnerable, waived until next month")
	s.image("lab/experiment", append(slices.Clone(bad), ocitest.LayerSpec{Files: ocitest.NPM("is-even", "1.0.0")}), signNot, true, "unsigned", "")
	return s.scenes, s.err
}

// newPrivateKey returns a private key as somebody leaves one in an image. It is made for the demo and opens nothing.
func newPrivateKey() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// How an image of the demo is signed.
const (
	signNot = iota
	signBundle
	signLegacy
	signStranger
)

// stagehand pushes images until something goes wrong, and notes the scenes.
type stagehand struct {
	r                 *ocitest.Registry
	release, stranger *ocitest.Key
	scenes            []scene
	err               error
}

func (s *stagehand) image(repo string, layers []ocitest.LayerSpec, signed int, allowed bool, says, what string) {
	if s.err != nil {
		return
	}
	desc, err := s.r.PushImage(repo, "1.0", ocitest.Image{Layers: layers})
	if err != nil {
		s.err = err
		return
	}
	s.sign(repo, desc.Digest, signed)
	s.scenes = append(s.scenes, scene{what: what, reference: demoUpstream + "/" + repo + ":1.0", allowed: allowed, says: says})
}

func (s *stagehand) index(repo string, layers []ocitest.LayerSpec, what string) {
	if s.err != nil {
		return
	}
	var children []oci.Descriptor
	for _, arch := range []string{"amd64", "arm64"} {
		image := ocitest.Image{Layers: layers, Platform: oci.Platform{OS: "linux", Architecture: arch}}
		child, err := s.r.PushImage(repo, "", image)
		if err != nil {
			s.err = err
			return
		}
		children = append(children, child)
	}
	desc, err := s.r.PushIndex(repo, "1.0", children...)
	if err != nil {
		s.err = err
		return
	}
	s.sign(repo, desc.Digest, signBundle)
	s.scenes = append(s.scenes, scene{what: what, reference: demoUpstream + "/" + repo + ":1.0", allowed: true})
}

func (s *stagehand) sign(repo string, d oci.Digest, signed int) {
	switch signed {
	case signBundle:
		_, s.err = s.r.SignBundle(repo, d, s.release, ocitest.Statement{}, ocitest.Mint{})
	case signLegacy:
		_, s.err = s.r.SignLegacy(repo, d, s.release, demoUpstream+"/"+repo, ocitest.Mint{})
	case signStranger:
		_, s.err = s.r.SignBundle(repo, d, s.stranger, ocitest.Statement{}, ocitest.Mint{})
	}
}
