package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/scan"
)

// TestMain lets the test's own binary be the worker that reads layers, as main does.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == scan.ChildArg {
		os.Exit(scan.Child(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// lab is an upstream and a configuration in front of it, for commands that are run in process.
type lab struct {
	dir, config string
	upstream    *ocitest.Registry
}

// lenient lets every image through; labSigned asks for a signature, and to keep and examine what has none.
const (
	lenient   = "policies:\n  - {name: all, match: {repositories: [\"**\"]}}\n"
	labSigned = `policies:
  - name: signed
    match: {repositories: ["**"]}
    on_fail: quarantine
    require: {signatures: {any_of: [release]}}
    vulnerabilities: {deny_at: high}
`
)

func newLab(t *testing.T, policy string) *lab {
	t.Helper()
	upstream, err := ocitest.StartRegistry(ocitest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	l := &lab{dir: t.TempDir(), upstream: upstream}
	key, err := ocitest.NewKey(ocitest.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	l.write(t, "policy.yaml", policy)
	l.write(t, "release.pub", string(key.PublicPEM()))
	l.write(t, "trust.yaml", demoTrust)
	if err := os.Mkdir(l.path("advisories"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ocitest.WriteAdvisories(l.path("advisories"), time.Now().UTC(), demoAdvisories()); err != nil {
		t.Fatal(err)
	}
	l.config = l.write(t, "tidewaiter.yaml", fmt.Sprintf(demoConfig, l.path("data"), upstream.URL(), l.path("policy.yaml"), l.path("trust.yaml"), l.path("advisories")))
	return l
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) write(t *testing.T, name, content string) string {
	t.Helper()
	if err := os.WriteFile(l.path(name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return l.path(name)
}

// push stores an image of one layer with one package for a platform, which is that of its child in an index too.
func (l *lab) push(t *testing.T, tag string, p oci.Platform) oci.Descriptor {
	t.Helper()
	desc, err := l.upstream.PushImage("app", tag, ocitest.Image{
		Layers: []ocitest.LayerSpec{{Files: ocitest.NPM("left-pad", "1.3.0")}}, Platform: p,
	})
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func (l *lab) pushIndex(t *testing.T, tag string, children ...oci.Descriptor) oci.Descriptor {
	t.Helper()
	desc, err := l.upstream.PushIndex("app", tag, children...)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// said is what a command came to.
type said struct {
	code           int
	stdout, stderr string
}

// command runs a command line in process.
func command(t *testing.T, args ...string) said {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, &stdout, &stderr)
	return said{code, stdout.String(), stderr.String()}
}
