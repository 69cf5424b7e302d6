package e2e_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/oci"
)

// TestBuildahBuilds builds an image from nothing and pushes it.
func TestBuildahBuilds(t *testing.T) {
	t.Parallel()
	p := hostedSite(t).serve(t)
	ci := p.member(t, "ci")
	ci.write(t, "shop/hello.txt", "hello\n")
	ci.write(t, "shop/Containerfile", "FROM scratch\nCOPY hello.txt /\nCMD [\"/hello\"]\n")
	buildah := ci.buildah(t)
	for _, args := range [][]string{
		{"bud", "--isolation", "chroot", "--tag", p.hosted("apps/open/built"), "shop"},
		{"push", "--tls-verify=false", p.hosted("apps/open/built")},
	} {
		if out, ok := buildah(args...); !ok {
			t.Fatalf("buildah %s: %s", args[0], out)
		}
	}
	p.checkServed(t, "apps/open/built", "1.0")
}

// TestCraneChanges has crane change a hosted repository in every way it knows.
func TestCraneChanges(t *testing.T) {
	t.Parallel()
	path := program(t, "crane")
	s := hostedSite(t)
	image := s.push(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	ci := p.member(t, "ci")
	crane := func(args ...string) string { return ci.mustRun(t, path, append([]string{"--insecure"}, args...)...) }
	ci.write(t, "layer/hello.txt", "hello\n")
	ci.mustRun(t, "tar", "-cf", "layer.tar", "-C", "layer", ".")
	const repo = "apps/open/web"

	crane("copy", s.upstream.Host()+"/shop/web:1.0", p.hosted(repo))
	crane("tag", p.hosted(repo), "1.1")
	if got := p.checkServed(t, repo, "1.1"); got != image.Digest {
		t.Errorf("the new tag is %s, want %s", got, image.Digest)
	}
	crane("append", "--base", p.hosted(repo), "--new_layer", "layer.tar", "--new_tag", p.registry+"/"+repo+":2.0")
	if got := p.checkServed(t, repo, "2.0"); got == image.Digest {
		t.Error("the image with another layer is the same")
	}
	crane("mutate", "--label", "team=shop", "--tag", p.registry+"/"+repo+":2.1", p.registry+"/"+repo+":2.0")
	mutated := p.checkServed(t, repo, "2.1")
	crane("pull", "--format", "oci", p.hosted(repo), "layout")
	crane("push", "layout", p.registry+"/"+repo+":1.2")
	if got := p.checkServed(t, repo, "1.2"); got != image.Digest {
		t.Errorf("pulled and pushed again it is %s, want %s", got, image.Digest)
	}
	crane("copy", p.hosted(repo), p.hosted("apps/open/mounted")) // from one hosted repository to another
	p.checkServed(t, "apps/open/mounted", "1.0")
	if got := strings.Fields(crane("ls", p.registry+"/"+repo)); strings.Join(got, " ") != "1.0 1.1 1.2 2.0 2.1" {
		t.Errorf("the tags are %q", got)
	}
	if got := crane("catalog", p.registry); !strings.Contains(got, repo) {
		t.Errorf("the catalog is %q", got)
	}
	crane("delete", p.registry+"/"+repo+"@"+mutated.String())
	for _, reference := range []string{"2.1", mutated.String()} {
		if got := p.status(t, repo, reference); got != http.StatusNotFound {
			t.Errorf("%s after its end: status %d, want 404", reference, got)
		}
	}
	p.checkServed(t, repo, "2.0")
}

// TestRegctlChanges has regctl change a hosted repository.
func TestRegctlChanges(t *testing.T) {
	t.Parallel()
	path := program(t, "regctl")
	s := hostedSite(t)
	image := s.push(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	ci := p.member(t, "ci")
	regctl := func(args ...string) string { return ci.mustRun(t, path, args...) }
	for _, registry := range []string{s.upstream.Host(), p.registry} {
		regctl("registry", "set", "--tls", "disabled", registry)
	}
	ci.write(t, "report.txt", "all is well\n")
	const repo = "apps/open/web"

	regctl("image", "copy", s.upstream.Host()+"/shop/web:1.0", p.hosted(repo))
	regctl("image", "copy", p.hosted(repo), p.registry+"/"+repo+":1.1")
	regctl("artifact", "put", "--artifact-type", "application/vnd.test.report", "--file", "report.txt", "--subject", p.hosted(repo))
	if got := p.referrers(t, repo, image.Digest, "application/vnd.test.report"); len(got) != 1 {
		t.Errorf("%d reports refer to the image, want 1", len(got))
	}
	regctl("artifact", "put", "--artifact-type", "application/vnd.test.report", "--file", "report.txt", p.registry+"/"+repo+":report")
	if got := regctl("artifact", "get", p.registry+"/"+repo+":report"); !strings.HasSuffix(got, "all is well\n") { // after a warning that there is no TLS
		t.Errorf("the report says %q", got)
	}
	regctl("tag", "delete", p.registry+"/"+repo+":1.1")
	if got := p.status(t, repo, "1.1"); got != http.StatusNotFound {
		t.Errorf("a deleted tag: status %d, want 404", got)
	}
	p.checkServed(t, repo, "1.0")
	regctl("manifest", "delete", p.registry+"/"+repo+"@"+image.Digest.String())
	if got := p.status(t, repo, "1.0"); got != http.StatusNotFound {
		t.Errorf("a deleted manifest: status %d, want 404", got)
	}
}

// TestHelmPushes pushes a chart and pulls it again.
func TestHelmPushes(t *testing.T) {
	t.Parallel()
	helm := program(t, "helm")
	p := hostedSite(t).serve(t)
	ci := newUser(t)
	if out, ok := ci.login(helm, everybodysPassword, "registry", "login", "--plain-http", "--username", "ci", "--password-stdin", p.registry); !ok {
		t.Fatal(out)
	}
	ci.write(t, "shop/Chart.yaml", "apiVersion: v2\nname: shop\nversion: 1.0.0\n")
	ci.mustRun(t, helm, "package", "shop", "--destination", "packed")
	ci.mustRun(t, helm, "push", "packed/shop-1.0.0.tgz", "oci://"+p.registry+"/apps/open/charts", "--plain-http")
	ci.mustRun(t, helm, "pull", "oci://"+p.registry+"/apps/open/charts/shop", "--version", "1.0.0", "--plain-http")
	checkSameFile(t, ci.path("shop-1.0.0.tgz"), ci.path("packed/shop-1.0.0.tgz"))
	reader := p.member(t, "reader")
	out, ok := reader.run(helm, "push", ci.path("packed/shop-1.0.0.tgz"), "oci://"+p.registry+"/apps/other", "--plain-http")
	checkRefused(t, "helm push", builtVersion(t, helm), out, ok, p.registry, "PROXY", "apps/other", "apps")
}

// TestOrasPushes pushes files and attaches another to them.
func TestOrasPushes(t *testing.T) {
	t.Parallel()
	oras := program(t, "oras")
	p := hostedSite(t).serve(t)
	ci := p.member(t, "ci")
	ci.write(t, "report.txt", "all is well\n")
	ci.write(t, "sbom.json", `{"spdxVersion": "SPDX-2.3"}`)
	ref := p.hosted("apps/open/report")
	ci.mustRun(t, oras, "push", "--plain-http", ref, "report.txt:text/plain")
	for _, artifactType := range []string{"application/spdx+json", "application/vnd.test.review"} {
		ci.mustRun(t, oras, "attach", "--plain-http", "--artifact-type", artifactType, ref, "sbom.json:application/spdx+json")
	}
	ci.mustRun(t, oras, "pull", "--plain-http", "--output", "pulled", ref)
	checkSameFile(t, ci.path("pulled/report.txt"), ci.path("report.txt"))
	var found struct{ Referrers []struct{ Reference string } }
	if err := json.Unmarshal([]byte(ci.mustRun(t, oras, "discover", "--plain-http", "--format", "json", ref)), &found); err != nil || len(found.Referrers) != 2 {
		t.Fatalf("%v: found %+v, want the two that were attached", err, found)
	}
	ci.mustRun(t, oras, "pull", "--plain-http", "--output", "attached", found.Referrers[0].Reference)
	checkSameFile(t, ci.path("attached/sbom.json"), ci.path("sbom.json"))
	ci.mustRun(t, oras, "tag", "--plain-http", ref, "1.1")
	ci.mustRun(t, oras, "manifest", "delete", "--plain-http", "--force", p.registry+"/apps/open/report:1.1")
	if got := p.status(t, "apps/open/report", "1.1"); got != http.StatusNotFound {
		t.Errorf("a deleted tag: status %d, want 404", got)
	}
	reader := p.member(t, "reader")
	reader.write(t, "report.txt", "all is well\n")
	out, ok := reader.run(oras, "push", "--plain-http", p.hosted("apps/web"), "report.txt:text/plain")
	checkRefused(t, "oras push", versionIn(t, reader.mustRun(t, oras, "version")), out, ok, p.registry, "PROXY")
}

// TestPushOfWhatIsDenied pushes an image no policy lets through: whoever pushed it still sees it, nobody else does.
func TestPushOfWhatIsDenied(t *testing.T) {
	t.Parallel()
	crane := program(t, "crane")
	s := hostedSite(t)
	image := s.push(t, "shop/vulnerable", shop(badLodash))
	p := s.serve(t)
	ci, reader := p.member(t, "ci"), p.member(t, "reader")
	ref := p.hosted("apps/strict/web")
	ci.mustRun(t, crane, "copy", "--insecure", s.upstream.Host()+"/shop/vulnerable:1.0", ref)
	if got := ci.mustRun(t, crane, "manifest", "--insecure", ref); oci.FromBytes([]byte(strings.TrimSuffix(got, "\n"))) != image.Digest && oci.FromBytes([]byte(got)) != image.Digest {
		t.Errorf("whoever pushed it sees %q", got)
	}
	for name, u := range map[string]*user{"somebody else": reader, "anybody": newUser(t)} {
		if out, ok := u.run(crane, "pull", "--insecure", ref, "image.tar"); ok || !strings.Contains(out, "unsigned: no signature by release") {
			t.Errorf("%s pulls it: %t, want false, and to be shown why:\n%s", name, ok, out)
		}
	}
}

// TestPullOfWhatWasPushed has every client pull from hosted repositories without a name: it is asked for one, and gets a token for what
// everybody may do. What is denied shows it why.
func TestPullOfWhatWasPushed(t *testing.T) {
	t.Parallel()
	s := hostedSite(t)
	web := s.push(t, "shop/web", shop(goodLodash))
	vulnerable := s.push(t, "shop/vulnerable", shop(badLodash))
	p := s.serve(t)
	ci := pusher{t, p, "ci"}
	ci.image(s.upstream, "shop/web", web.Digest, "apps/open/web", "1.0")
	ci.image(s.upstream, "shop/vulnerable", vulnerable.Digest, "apps/strict/web", "1.0")
	for _, c := range pullers {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			client := c.start(t, p)
			if out, ok := client.pull(p.hosted("apps/open/web")); !ok {
				t.Fatal(out)
			}
			client.checkHas(t, s, p.hosted("apps/open/web"), "shop/web")
			if out, ok := client.pull(p.hosted("apps/strict/web")); ok || !strings.Contains(out, "unsigned: no signature by release") {
				t.Errorf("pulled: %t, want false, and to be shown why:\n%s", ok, out)
			}
		})
	}
}

// TestPushPastAnUpstream pushes to a repository of an upstream, through the proxy.
func TestPushPastAnUpstream(t *testing.T) {
	t.Parallel()
	crane := program(t, "crane")
	s := hostedSite(t)
	s.push(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	ci := p.member(t, "ci")
	out, ok := ci.run(crane, "copy", "--insecure", s.upstream.Host()+"/shop/web:1.0", p.ref("shop/new"))
	if ok || !strings.Contains(out, "UNSUPPORTED") && !strings.Contains(out, "DENIED") {
		t.Errorf("pushed: %t, want false, and to be shown where to push:\n%s", ok, out)
	}
}
