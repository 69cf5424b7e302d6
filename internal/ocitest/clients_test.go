package ocitest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/oci"
)

// client returns the path of a real client. A test without it is skipped, except where CI promises that all of them are there.
func client(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("the client %s is missing", name)
	}
	if err != nil {
		t.Skipf("the client %s is missing", name)
	}
	return path
}

// run runs a client with a home of its own and returns what it says. ok tells whether it succeeded.
func run(t *testing.T, name string, args ...string) (out string, ok bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), client(t, name), args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "COSIGN_PASSWORD=")
	cmd.Dir = t.TempDir()
	b, err := cmd.CombinedOutput()
	return string(b), err == nil
}

func mustRun(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, ok := run(t, name, args...)
	if !ok {
		t.Fatalf("%s %s: %s", name, strings.Join(args, " "), out)
	}
	return out
}

// everyForm pushes an index with an image in each format and compression.
func everyForm(t *testing.T, r *Registry, repo string) oci.Descriptor {
	t.Helper()
	files := Debian("12", DebPackage{Name: "zlib1g", Version: "1:1.2.13.dfsg-1"})
	var children []oci.Descriptor
	for i, c := range []Compression{Gzip, Zstd, Plain} {
		children = append(children, push(t, r, repo, string(c), Image{
			Layers:   []LayerSpec{{Compression: c, Files: files}, {Compression: c, Files: []File{{Path: "big", Body: Random(300_000, uint64(i))}}}},
			Platform: oci.Platform{OS: "linux", Architecture: []string{"amd64", "arm64", "s390x"}[i]},
		}))
	}
	push(t, r, repo, "docker", Image{Docker: true, Layers: []LayerSpec{{Files: files}}})
	desc, err := r.PushIndex(repo, "multi", children...)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func TestCrane(t *testing.T) {
	r := start(t, Options{RedirectBlobs: true})
	index := everyForm(t, r, "app")
	for _, tag := range []string{"gzip", "docker"} { // it takes every layer for gzip
		t.Run("validates "+tag, func(t *testing.T) { mustRun(t, "crane", "validate", "--insecure", "--remote", r.Host()+"/app:"+tag) })
	}
	t.Run("copies to another repository", func(t *testing.T) {
		mustRun(t, "crane", "copy", "--insecure", r.Host()+"/app:multi", r.Host()+"/copy/of/app:v1")
		if got := strings.TrimSpace(mustRun(t, "crane", "digest", "--insecure", r.Host()+"/copy/of/app:v1")); got != index.Digest.String() {
			t.Errorf("copied as %s, want %s", got, index.Digest)
		}
	})
	t.Run("lists and deletes", func(t *testing.T) {
		mustRun(t, "crane", "delete", "--insecure", r.Host()+"/app:docker")
		if got, want := mustRun(t, "crane", "ls", "--insecure", r.Host()+"/app"), "gzip\nmulti\nplain\nzstd\n"; got != want {
			t.Errorf("tags %q, want %q", got, want)
		}
	})
}

func TestCraneWithToken(t *testing.T) {
	r := start(t, Options{BearerAuth: &Auth{}}) // it refuses a realm on loopback unless it is the registry's own
	everyForm(t, r, "app")
	mustRun(t, "crane", "copy", "--insecure", r.Host()+"/app:multi", r.Host()+"/other:v1")
	if r.Count("GET", KindToken) == 0 {
		t.Error("no token was asked for")
	}
}

func TestSkopeo(t *testing.T) {
	r := start(t, Options{BearerAuth: &Auth{Username: "ci", Password: "secret"}, NoReferrers: true})
	index := everyForm(t, r, "app")
	args := []string{"copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"}
	source, target := "docker://"+r.Host()+"/app:multi", "docker://"+r.Host()+"/skopeo:v1"
	if out, ok := run(t, "skopeo", append(args, source, target)...); ok {
		t.Fatalf("copied without credentials: %s", out)
	}
	mustRun(t, "skopeo", append(args, "--src-creds=ci:secret", "--dest-creds=ci:secret", source, target)...)
	if got, ok := r.Manifest("skopeo", "v1"); !ok || got.Digest != index.Digest {
		t.Errorf("copied as %s, want %s", got.Digest, index.Digest)
	}
}

func TestPodman(t *testing.T) {
	r := start(t, Options{})
	everyForm(t, r, "app")
	root := t.TempDir()
	storage := []string{"--root", filepath.Join(root, "root"), "--runroot", filepath.Join(root, "run"), "--storage-driver", "vfs"}
	for _, tag := range []string{"gzip", "zstd", "plain", "docker"} {
		t.Run(tag, func(t *testing.T) {
			mustRun(t, "podman", append(storage, "pull", "--tls-verify=false", r.Host()+"/app:"+tag)...)
			mustRun(t, "podman", append(storage, "push", "--tls-verify=false", r.Host()+"/app:"+tag, r.Host()+"/podman:"+tag)...)
			if _, ok := r.Manifest("podman", tag); !ok {
				t.Error("nothing was pushed")
			}
		})
	}
}

// cosignVerify asks cosign about an image, offline.
func cosignVerify(t *testing.T, public []byte, args ...string) (string, bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cosign.pub")
	if err := os.WriteFile(path, public, 0o600); err != nil {
		t.Fatal(err)
	}
	return run(t, "cosign", append(args, "--key", path, "--insecure-ignore-tlog=true", "--allow-http-registry")...)
}

func TestCosignVerifiesWhatWeSign(t *testing.T) {
	for _, tt := range []struct {
		name        string
		kind        KeyKind
		bundle      bool
		noReferrers bool
	}{
		{"legacy P-256", ECDSAP256, false, false},
		{"legacy RSA", RSA2048, false, false},
		{"legacy Ed25519", Ed25519, false, false},
		{"bundle P-256", ECDSAP256, true, false},
		{"bundle RSA", RSA2048, true, false},
		{"bundle P-256 under the fallback tag", ECDSAP256, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, Options{NoReferrers: tt.noReferrers})
			img, k := push(t, r, "app", "v1", Image{}), newKey(t, tt.kind)
			ref := r.Host() + "/app@" + img.Digest.String()
			if out, ok := cosignVerify(t, k.PublicPEM(), "verify", ref); ok {
				t.Fatalf("an unsigned image verifies: %s", out)
			}
			var err error
			if tt.bundle {
				_, err = r.SignBundle("app", img.Digest, k, Statement{}, Mint{})
			} else {
				_, err = r.SignLegacy("app", img.Digest, k, r.Host()+"/app", Mint{})
			}
			if err != nil {
				t.Fatal(err)
			}
			if out, ok := cosignVerify(t, k.PublicPEM(), "verify", ref); !ok {
				t.Errorf("the signature does not verify: %s", out)
			}
			if out, ok := cosignVerify(t, newKey(t, tt.kind).PublicPEM(), "verify", ref); ok {
				t.Errorf("it verifies with a stranger's key: %s", out)
			}
		})
	}
}

func TestCosignVerifiesWhatWeAttest(t *testing.T) {
	says := Statement{PredicateType: "https://example.org/built/v1", Predicate: map[string]any{"by": "ci"}}
	for _, tt := range []struct {
		name   string
		bundle bool
	}{{"legacy", false}, {"bundle", true}} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, Options{})
			img, k := push(t, r, "app", "v1", Image{}), newKey(t, ECDSAP256)
			attest := r.AttestLegacy
			if tt.bundle {
				attest = r.SignBundle
			}
			if _, err := attest("app", img.Digest, k, says, Mint{}); err != nil {
				t.Fatal(err)
			}
			ref := r.Host() + "/app@" + img.Digest.String()
			if out, ok := cosignVerify(t, k.PublicPEM(), "verify-attestation", "--type", says.PredicateType, ref); !ok {
				t.Errorf("the attestation does not verify: %s", out)
			}
		})
	}
}

func TestCosignSigns(t *testing.T) {
	for _, tt := range []struct {
		name        string
		noReferrers bool
		args        []string
		suffix      string // of the tag the signature is found under; "-" for none
	}{
		{"legacy", false, []string{"--new-bundle-format=false"}, ".sig"},
		{"bundle", false, nil, "-"},
		{"bundle under the fallback tag", true, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, Options{NoReferrers: tt.noReferrers})
			img := push(t, r, "app", "v1", Image{})
			ref, prefix := r.Host()+"/app@"+img.Digest.String(), filepath.Join(t.TempDir(), "k")
			mustRun(t, "cosign", "generate-key-pair", "--output-key-prefix", prefix)
			sign := []string{"sign", "--yes", "--key", prefix + ".key", "--use-signing-config=false", "--tlog-upload=false",
				"--allow-http-registry", "--allow-insecure-registry"}
			mustRun(t, "cosign", append(append(sign, tt.args...), ref)...)
			public, err := os.ReadFile(prefix + ".pub")
			if err != nil {
				t.Fatal(err)
			}
			if out, ok := cosignVerify(t, public, "verify", ref); !ok {
				t.Errorf("cosign does not find its own signature: %s", out)
			}
			if _, ok := r.Manifest("app", TagOf(img.Digest, tt.suffix)); ok != (tt.suffix != "-") {
				t.Errorf("stored under the tag with %q: %v", tt.suffix, ok)
			}
		})
	}
}
