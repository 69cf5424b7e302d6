package e2e_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

func cranePull(t *testing.T, _ *server) puller {
	u, crane := newUser(t), program(t, "crane")
	return puller{
		version: versionIn(t, u.mustRun(t, crane, "version")),
		pull: func(ref string) (string, bool) {
			return u.run(crane, "pull", "--insecure", "--format", "oci", ref, u.path(filepath.Base(ref)))
		},
		files: u.home,
	}
}

func regctlCopy(t *testing.T, p *server) puller {
	u, regctl := newUser(t), program(t, "regctl")
	u.mustRun(t, regctl, "registry", "set", "--tls", "disabled", p.registry)
	return puller{
		version: versionIn(t, u.mustRun(t, regctl, "version")),
		pull: func(ref string) (string, bool) {
			return u.run(regctl, "image", "copy", ref, "ocidir://"+u.path(filepath.Base(ref)))
		},
		files: u.home,
	}
}

func orasCopy(t *testing.T, _ *server) puller {
	u, oras := newUser(t), program(t, "oras")
	return puller{
		version: versionIn(t, u.mustRun(t, oras, "version")),
		pull: func(ref string) (string, bool) {
			return u.run(oras, "copy", "--from-plain-http", "--to-oci-layout", ref, u.path(filepath.Base(ref)))
		},
		files: u.home,
	}
}

// artifactsPolicy lets anything out below artifacts/, whatever it is, and below signed/ what is signed. Neither looks into layers, which
// are not what an image has.
const artifactsPolicy = `policies:
  - name: artifacts
    match: {repositories: ["registry.test/artifacts/**"]}
    image: {max_bytes: 1MiB}
  - name: signed artifacts
    match: {repositories: ["registry.test/signed/**"]}
    require: {signatures: {any_of: [release]}}
`

// artifactsSite is an installation with [artifactsPolicy].
func artifactsSite(t *testing.T) (*site, *server) {
	t.Helper()
	s := newSite(t, ocitest.Options{})
	writeFile(t, s.path("policy.yaml"), []byte(artifactsPolicy))
	return s, s.serve(t)
}

// checkDenied compares what a client shows of a denied artifact with docs/clients.md.
func checkDenied(t *testing.T, client, version string, p *server, repo, tag, out string, ok bool) {
	t.Helper()
	message := p.get(t, "/v2/"+host+"/"+repo+"/manifests/"+tag).failure().Message
	reason, _, _ := strings.Cut(message, " — ")
	if ok || reason == "" || !strings.Contains(out, reason) {
		t.Errorf("pulled: %t, want false, and to be shown %q:\n%s", ok, reason, out)
	}
	checkRow(t, pullTable, client, version, shown(out, message, p.registry, "PROXY"))
}

// TestHelm pulls charts that helm itself put into the upstream.
func TestHelm(t *testing.T) {
	t.Parallel()
	helm := program(t, "helm")
	s, p := artifactsSite(t)
	u := newUser(t)
	version := builtVersion(t, helm)
	u.write(t, "shop/Chart.yaml", "apiVersion: v2\nname: shop\nversion: 1.0.0\n")
	u.write(t, "shop/templates/config.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\n")
	u.mustRun(t, helm, "package", "shop", "--destination", "packed")
	for _, folder := range []string{"artifacts", "signed"} {
		u.mustRun(t, helm, "push", "packed/shop-1.0.0.tgz", "oci://"+s.upstream.Host()+"/"+folder, "--plain-http")
	}
	u.mustRun(t, helm, "pull", "oci://"+p.registry+"/"+host+"/artifacts/shop", "--version", "1.0.0", "--plain-http")
	checkSameFile(t, u.path("shop-1.0.0.tgz"), u.path("packed/shop-1.0.0.tgz"))
	if out := u.mustRun(t, helm, "show", "chart", "oci://"+p.registry+"/"+host+"/artifacts/shop", "--plain-http"); !strings.Contains(out, "name: shop") {
		t.Errorf("the latest version is not found:\n%s", out)
	}
	out, ok := u.run(helm, "pull", "oci://"+p.registry+"/"+host+"/signed/shop", "--version", "1.0.0", "--plain-http")
	checkDenied(t, "helm pull", version, p, "signed/shop", "1.0.0", out, ok)
}

// TestOras pulls files, and what is attached to them, that oras itself put into the upstream.
func TestOras(t *testing.T) {
	t.Parallel()
	oras := program(t, "oras")
	s, p := artifactsSite(t)
	u := newUser(t)
	version := versionIn(t, u.mustRun(t, oras, "version"))
	u.write(t, "report.txt", "all is well\n")
	u.write(t, "sbom.json", `{"spdxVersion": "SPDX-2.3"}`)
	for _, repo := range []string{"artifacts/report", "signed/report"} {
		ref := s.upstream.Host() + "/" + repo + ":1.0"
		u.mustRun(t, oras, "push", "--plain-http", ref, "report.txt:text/plain")
		u.mustRun(t, oras, "attach", "--plain-http", "--artifact-type", "application/spdx+json", ref, "sbom.json:application/spdx+json")
	}
	u.mustRun(t, oras, "pull", "--plain-http", "--output", "pulled", p.ref("artifacts/report"))
	checkSameFile(t, u.path("pulled/report.txt"), u.path("report.txt"))
	var found struct {
		Referrers []struct{ Reference, ArtifactType string }
	}
	if err := json.Unmarshal([]byte(u.mustRun(t, oras, "discover", "--plain-http", "--format", "json", p.ref("artifacts/report"))), &found); err != nil || len(found.Referrers) != 1 {
		t.Fatalf("%v: found %+v, want one referrer", err, found)
	}
	u.mustRun(t, oras, "pull", "--plain-http", "--output", "attached", found.Referrers[0].Reference)
	checkSameFile(t, u.path("attached/sbom.json"), u.path("sbom.json"))
	if out := u.mustRun(t, oras, "repo", "tags", "--plain-http", p.registry+"/"+host+"/artifacts/report"); out != "1.0\n" {
		t.Errorf("the tags are %q", out)
	}
	out, ok := u.run(oras, "pull", "--plain-http", "--output", "denied", p.ref("signed/report"))
	checkDenied(t, "oras pull", version, p, "signed/report", "1.0", out, ok)
}

// TestLookingWithoutPulling asks for what clients ask for when they do not want the image.
func TestLookingWithoutPulling(t *testing.T) {
	t.Parallel()
	crane, regctl, skopeo := program(t, "crane"), program(t, "regctl"), program(t, "skopeo")
	s := clientsSite(t, host)
	p := s.serve(t)
	u := newUser(t)
	u.mustRun(t, regctl, "registry", "set", "--tls", "disabled", p.registry)
	content, _ := s.upstream.Manifest("shop/bundle", "1.0")
	denied, _ := s.upstream.Manifest("shop/vulnerable", "1.0")
	repo := p.registry + "/" + host + "/shop/bundle"
	for _, tt := range []struct {
		law     string
		program string
		args    []string
		want    string
	}{
		{"crane tells the digest of a tag", crane, []string{"digest", "--insecure", repo + ":1.0"}, content.Digest.String()},
		{"crane tells the digest of a denied image", crane, []string{"digest", "--insecure", p.ref("shop/vulnerable")}, denied.Digest.String()},
		{"crane prints a manifest", crane, []string{"manifest", "--insecure", repo + ":1.0"}, string(content.Raw)},
		{"crane lists tags", crane, []string{"ls", "--insecure", repo}, "1.0"},
		{"regctl tells the digest of a tag", regctl, []string{"image", "digest", repo + ":1.0"}, content.Digest.String()},
		{"regctl tells the digest of a denied image", regctl, []string{"image", "digest", p.ref("shop/vulnerable")}, denied.Digest.String()},
		{"regctl prints a manifest", regctl, []string{"manifest", "get", "--format", "raw-body", repo + ":1.0"}, string(content.Raw)},
		{"regctl lists tags", regctl, []string{"tag", "ls", repo}, "1.0"},
		{"regctl lists what refers to an image", regctl, []string{"artifact", "list", repo + ":1.0"}, "application/vnd.dev.sigstore.bundle.v0.3+json"},
		{"skopeo prints a manifest", skopeo, []string{"inspect", "--raw", "--tls-verify=false", "docker://" + repo + ":1.0"}, string(content.Raw)},
		{"skopeo lists tags", skopeo, []string{"list-tags", "--tls-verify=false", "docker://" + repo}, `"1.0"`},
	} {
		t.Run(tt.law, func(t *testing.T) {
			if out := u.mustRun(t, tt.program, tt.args...); !strings.Contains(out, tt.want) {
				t.Errorf("got %q, want %q in it", out, tt.want)
			}
		})
	}
}

func checkSameFile(t *testing.T, got, want string) {
	t.Helper()
	g, gotErr := os.ReadFile(got)
	w, wantErr := os.ReadFile(want)
	if gotErr != nil || wantErr != nil || !bytes.Equal(g, w) {
		t.Errorf("%s has %d bytes (%v), %s has %d (%v)", got, len(g), gotErr, want, len(w), wantErr)
	}
}
