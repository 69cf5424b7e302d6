package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// inputsPolicy has a policy for each rule about what an image is, for a repository of the rule's name, and one of all that only warns.
const inputsPolicy = `policies:
  - {name: packages, match: {repositories: ["**/packages"]}, packages: {deny: ["npm/lodash@4.17.4", "deb/openssl@3.0.15*"]}}
  - {name: licenses, match: {repositories: ["**/licenses"]}, licenses: {deny: [AGPL-3.0-only]}}
  - {name: end-of-life, match: {repositories: ["**/end-of-life"]}, os: {deny_end_of_life: true}}
  - {name: os, match: {repositories: ["**/os"]}, os: {allow: ["alpine 3.*"]}}
  - {name: scratch, match: {repositories: ["**/scratch"]}, os: {allow: [debian 12]}}
  - {name: root-user, match: {repositories: ["**/root-user"]}, image: {deny_root_user: true}}
  - {name: labels, match: {repositories: ["**/labels"]}, image: {require_labels: [org.opencontainers.image.source]}}
  - {name: base-age, match: {repositories: ["**/base-age"]}, image: {max_base_age: 24h}}
  - {name: hostile-config, match: {repositories: ["**/hostile-config"]}}
  - {name: secrets, match: {repositories: ["**/secrets"]}, secrets: deny}
  - {name: cel, match: {repositories: ["**/cel"]}, cel: [{name: no-tools, deny_if: "packages.exists(p, p.name == 'lodash') && image.user == ''", message: build without them}]}
  - {name: tag, match: {repositories: ["**/tag"]}, cel: [{name: no-1.0, deny_if: "tag == '1.0'", message: pin a version}]}
  - name: all
    match: {repositories: ["**"]}
    mode: warn
    packages: {deny: [npm/lodash]}
    licenses: {deny: [AGPL-3.0-only]}
    os: {deny_end_of_life: true, allow: [none]}
    image: {deny_root_user: true, require_labels: [org.opencontainers.image.source], max_base_age: 24h}
    secrets: deny
    cel: [{name: any, deny_if: "true"}, {name: tagged, deny_if: "tag != ''"}]
`

// TestPolicyInputs has a person pull an image that each of the rules denies, and read why.
func TestPolicyInputs(t *testing.T) {
	const copyright = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: MIT or AGPL-3, and AGPL-3+\n"
	token := "dop_v1_" + strings.Repeat("0123456789abcdef", 4) // the form of one, and opens nothing
	old := time.Date(2019, 1, 2, 0, 0, 0, 0, time.UTC)
	licensed := append(ocitest.Debian("12", ocitest.DebPackage{Name: "bash", Version: "5.2"}), ocitest.File{Path: "usr/share/doc/bash/copyright", Body: []byte(copyright)})
	sound := ocispec.ImageConfig{User: "1000", Env: []string{"PATH=/bin"}, Labels: map[string]string{"org.opencontainers.image.source": "https://github.com/acme/app"}}
	hostile, leaking := sound, sound
	hostile.WorkingDir, leaking.Env = "/proc/self/fd/7", []string{"API_TOKEN=" + token}
	layers := func(files ...ocitest.File) []ocitest.LayerSpec { return []ocitest.LayerSpec{{Files: files}} }
	images := []struct {
		repo  string
		image ocitest.Image
		want  string // what is read of the refusal
	}{
		{"packages", ocitest.Image{Layers: shop(badLodash), Config: sound}, "packages: package deb/libssl3 3.0.15-1~deb12u1 (of openssl 3.0.15-1~deb12u1) in var/lib/dpkg/status is denied by deb/openssl@3.0.15*; package npm/lodash 4.17.4 in "},
		{"licenses", ocitest.Image{Layers: layers(licensed...), Config: sound}, `licenses: licence "MIT or AGPL-3 AND AGPL-3+" of package deb/bash 5.2 in var/lib/dpkg/status is not allowed`},
		{"end-of-life", ocitest.Image{Layers: layers(ocitest.Debian("7")...), Config: sound}, "end-of-life: debian 7 is no longer mended since 2018-06-01"},
		{"os", ocitest.Image{Layers: layers(ocitest.Debian("12")...), Config: sound}, "os: debian 12 is no distribution the policy allows"},
		{"scratch", ocitest.Image{Layers: layers(ocitest.File{Path: "app"}), Config: sound}, "scratch: it has no distribution, and the policy allows some only"},
		{"root-user", ocitest.Image{Layers: shop(goodLodash)}, "root-user: it runs as root: its config names no user"},
		{"labels", ocitest.Image{Layers: shop(goodLodash)}, "labels: it has no label org.opencontainers.image.source"},
		{"base-age", ocitest.Image{Layers: shop(goodLodash), Config: sound, Created: old}, "base-age: what it is built upon is from 2019-01-02, more than 24h0m0s ago"},
		{"hostile-config", ocitest.Image{Layers: shop(goodLodash), Config: hostile}, `hostile-config: hostile config: the working directory "/proc/self/fd/7" lies among the handles of the runtime (CVE-2024-21626)`},
		{"secrets", ocitest.Image{Layers: layers(ocitest.File{Path: "app"}), Config: leaking}, `secrets: a secret, DigitalOcean key, in the environment variable "API_TOKEN" of the config`},
		{"cel", ocitest.Image{Layers: shop(goodLodash)}, "cel: no-tools: build without them"},
		{"tag", ocitest.Image{Layers: shop(goodLodash), Config: sound}, "tag: no-1.0: pin a version"},
	}
	s := newSite(t, ocitest.Options{})
	writeFile(t, s.path("policy.yaml"), []byte(inputsPolicy))
	digests := map[string]oci.Digest{}
	push := func(repo string, image ocitest.Image) {
		desc, err := s.upstream.PushImage(repo, "1.0", image)
		if err != nil {
			t.Fatal(err)
		}
		digests[repo] = desc.Digest
	}
	for _, i := range images {
		push("denied/"+i.repo, i.image)
	}
	fine := ocitest.Image{Layers: layers(ocitest.File{Path: "bin/app"}), Config: sound, Created: time.Now()}
	for _, repo := range []string{"packages", "licenses", "end-of-life", "root-user", "labels", "base-age", "hostile-config", "secrets", "cel"} {
		push("fine/"+repo, fine)
	}
	push("shop/warned", ocitest.Image{Layers: append(shop(badLodash), layers(licensed...)...), Created: old})
	p := s.serve(t)

	for _, i := range images {
		t.Run(i.repo, func(t *testing.T) {
			got := p.pull(t, "denied/"+i.repo)
			if i.repo == "tag" && got.status == http.StatusForbidden { // who asks for the tag by HEAD first is told by GET
				answer := p.get(t, "/v2/"+host+"/denied/tag/manifests/1.0")
				got = pulled{status: answer.status, message: answer.failure().Message}
			}
			if got.status != http.StatusForbidden || !strings.HasPrefix(got.message, i.want) {
				t.Errorf("got %d %q, want %q", got.status, got.message, i.want)
			}
		})
	}
	t.Run("what keeps to the rules is served", func(t *testing.T) {
		for repo := range digests {
			if strings.HasPrefix(repo, "fine/") {
				p.mustPull(t, repo)
			}
		}
	})
	t.Run("by digest there is no tag", func(t *testing.T) {
		if got := p.get(t, "/v2/"+host+"/denied/tag/manifests/"+digests["denied/tag"].String()); got.status != http.StatusOK {
			t.Errorf("got %d %s", got.status, got.body)
		}
	})
	t.Run("rules about the config have no layer fetched", func(t *testing.T) {
		for _, repo := range []string{"denied/root-user", "denied/labels", "denied/base-age", "denied/hostile-config"} {
			for _, l := range s.parsed(t, repo, digests[repo]).Layers {
				for _, q := range s.upstream.Requests() {
					if q.Repo == repo && q.Reference == l.Digest.String() {
						t.Errorf("%s: layer %s was fetched", repo, l.Digest)
					}
				}
			}
		}
	})
	t.Run("what warns admits, and says it", func(t *testing.T) {
		p.mustPull(t, "shop/warned")
		var warned struct{ Warnings []struct{ Rule string } }
		out := tidewaiter(t, "check", "--quiet", "--config", s.path("tidewaiter.yaml"), "-o", "json", host+"/shop/warned:1.0")
		var all []json.RawMessage
		if err := json.Unmarshal([]byte(out.stdout), &all); err != nil || len(all) != 1 || out.code != 0 {
			t.Fatalf("%v: %+v", err, out)
		}
		if err := json.Unmarshal(all[0], &warned); err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, w := range warned.Warnings {
			got[w.Rule] = true
		}
		for _, rule := range []string{"packages", "licenses", "os", "root-user", "labels", "base-age", "cel"} {
			if !got[rule] {
				t.Errorf("nothing is said of %s: %v", rule, got)
			}
		}
	})
	t.Run("check says what the proxy does", func(t *testing.T) {
		for _, repo := range []string{"denied/tag", "denied/cel"} {
			out := tidewaiter(t, "check", "--quiet", "--config", s.path("tidewaiter.yaml"), fmt.Sprintf("%s/%s:1.0", host, repo))
			if out.code != 3 || !strings.Contains(out.stdout, "denied    cel: no-") {
				t.Errorf("%s: %+v", repo, out)
			}
		}
		if out := tidewaiter(t, "check", "--quiet", "--config", s.path("tidewaiter.yaml"), fmt.Sprintf("%s/denied/tag@%s", host, digests["denied/tag"])); out.code != 0 {
			t.Errorf("by digest: %+v", out)
		}
	})
}
