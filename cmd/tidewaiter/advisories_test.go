package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// packedAdvisories returns a database built so long ago as publishers pack it. It knows of the vulnerability in lodash.
func packedAdvisories(t *testing.T, age time.Duration) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := ocitest.WriteAdvisories(dir, time.Now().Add(-age).UTC(), demoAdvisories()); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := tar.NewWriter(zip)
	for _, name := range []string{"trivy.db", "metadata.json"} {
		content := readFile(t, filepath.Join(dir, name))
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})
		if _, writeErr := w.Write(content); errors.Join(err, writeErr) != nil {
			t.Fatal(err, writeErr)
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// publish makes a database what a tag leads to, as publishers lay it out.
func (l *lab) publish(t *testing.T, repo string, packed []byte) oci.Digest {
	t.Helper()
	desc, err := l.upstream.PushImage(repo, "2", ocitest.Image{
		Layers:     []ocitest.LayerSpec{{Blob: packed, MediaType: "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"}},
		ConfigBlob: []byte("{}"), ConfigMediaType: "application/vnd.aquasec.trivy.config.v1+json",
	})
	if err != nil {
		t.Fatal(err)
	}
	return desc.Digest
}

const (
	noFinding = "policies:\n  - {name: vulnerabilities, match: {repositories: [\"**\"]}, vulnerabilities: {deny_at: high}}\n"
	// fetchingConfig has an upstream that lets clients have app and nothing else.
	fetchingConfig = `listen: {registry: "127.0.0.1:0", admin: "127.0.0.1:0"}
storage: {filesystem: {root: %q}}
upstreams: [{host: registry.demo, url: %q, unsafe_private_addresses: true, allow: [app]}]
default_upstream: registry.demo
policy_files: [%q]
advisories: {source: %q}
`
)

// newFetchingLab is a lab that fetches its advisories from source, and has none.
func newFetchingLab(t *testing.T, source string) *lab {
	t.Helper()
	l := newLab(t, noFinding)
	l.config = l.write(t, "tidewaiter.yaml", fmt.Sprintf(fetchingConfig, l.path("data"), l.upstream.URL(), l.path("policy.yaml"), source))
	return l
}

// status returns what the command says, and how it ended.
func (l *lab) status(t *testing.T) (facts, int) {
	t.Helper()
	got := command(t, "advisories", "status", "--config", l.config, "-o", "json")
	var f facts
	if err := json.Unmarshal([]byte(got.stdout), &f); err != nil {
		t.Fatalf("%v: %+v", err, got)
	}
	return f, got.code
}

func TestAdvisoriesCommands(t *testing.T) {
	l := newFetchingLab(t, "registry.demo/trivy-db:2")
	update := func(args ...string) said {
		return command(t, append([]string{"advisories", "update", "--config", l.config}, args...)...)
	}
	if f, code := l.status(t); code != exitFailure || f.Snapshot != "" || f.Problem != "" || f.InUse != nil {
		t.Errorf("with nothing: code %d, %+v", code, f)
	}
	if got := update(); got.code != exitFailure || got.stdout != "" || !strings.Contains(got.stderr, "registry.demo/trivy-db:2") {
		t.Errorf("from a source that has none: %+v", got)
	}
	if f, _ := l.status(t); f.FailedAt.IsZero() || f.Failure == "" {
		t.Errorf("after a failure: %+v", f)
	}

	first := l.publish(t, "trivy-db", packedAdvisories(t, 100*time.Hour))
	if got := update(); got.code != exitDone || !strings.HasPrefix(got.stdout, "in use    from registry.demo/trivy-db:2 "+first.String()) {
		t.Errorf("first: %+v", got)
	}
	if f, code := l.status(t); code != exitDone || !f.Stale || f.Snapshot == "" || f.InUse.Digest != first || f.AgeSeconds < 100*3600 || f.SucceededAt.IsZero() {
		t.Errorf("with an old one: code %d, %+v", code, f)
	}
	second := l.publish(t, "trivy-db", packedAdvisories(t, time.Hour))
	for _, want := range []string{"in use", "unchanged"} {
		if got := update(); got.code != exitDone || !strings.HasPrefix(got.stdout, want) || !strings.Contains(got.stdout, "before    from registry.demo/trivy-db:2 "+first.String()) {
			t.Errorf("second, %s: %+v", want, got)
		}
	}
	if f, code := l.status(t); code != exitDone || f.Stale || f.InUse.Digest != second || f.Previous.Digest != first || f.InUse.NextUpdate.IsZero() {
		t.Errorf("with a new one: code %d, %+v", code, f)
	}
	text := command(t, "advisories", "status", "--config", l.config)
	for _, part := range []string{"source    registry.demo/trivy-db:2", "snapshot  sha256:", "built     ", "counts    until", "failed    ", "the next is due"} {
		if !strings.Contains(text.stdout, part) {
			t.Errorf("it does not print %q but\n%s", part, text.stdout)
		}
	}

	l.upstream.Tag("trivy-db", "2", first)
	if got := update(); got.code != exitFailure || !strings.Contains(got.stderr, "older") {
		t.Errorf("an older one: %+v", got)
	}
	if got := update("--digest", first.String()); got.code != exitDone || !strings.Contains(got.stdout, "verified by digest") {
		t.Errorf("an older one by digest: %+v", got)
	}
	if got := command(t, "advisories", "rollback", "--config", l.config, "-o", "json"); got.code != exitDone || !strings.Contains(got.stdout, second.String()) {
		t.Errorf("rolling back: %+v", got)
	}
	if f, _ := l.status(t); f.InUse.Digest != second {
		t.Errorf("rolled back: %+v", f)
	}
	// The layer is what the upstream has, and clients get none of it.
	if got := command(t, "check", "--config", l.config, "registry.demo/trivy-db:2"); got.code != exitDenied {
		t.Errorf("a client may have the database: %+v", got)
	}
}

func TestAdvisoriesImport(t *testing.T) {
	l := newLab(t, noFinding)
	l.config = l.write(t, "tidewaiter.yaml", fmt.Sprintf("storage: {filesystem: {root: %q}}\n", l.path("data")))
	packed := packedAdvisories(t, time.Hour)
	archive := l.write(t, "db.tar.gz", string(packed))
	key, err := ocitest.NewKey(ocitest.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := ocitest.NewKey(ocitest.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign(packed)
	if err != nil {
		t.Fatal(err)
	}
	l.write(t, "db.tar.gz.sig", base64.StdEncoding.EncodeToString(signature))
	elsewhere := l.write(t, "elsewhere", base64.StdEncoding.EncodeToString(signature))
	public, theirs := l.write(t, "key.pub", string(key.PublicPEM())), l.write(t, "stranger.pub", string(stranger.PublicPEM()))
	unsigned := l.write(t, "unsigned.tar.gz", string(packed))
	bad := l.write(t, "bad", "no database")
	digest, another := oci.FromBytes(packed).String(), oci.FromBytes(nil).String()
	for law, tt := range map[string]struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		"an archive":                     {[]string{archive}, exitDone, "not verified", ""},
		"an archive by its digest":       {[]string{archive, "--digest", digest}, exitDone, "verified by digest", ""},
		"by another digest":              {[]string{archive, "--digest", another}, exitFailure, "", "not what was asked for"},
		"by no digest":                   {[]string{archive, "--digest", "sha256:1"}, exitUsage, "", "malformed"},
		"signed by the key":              {[]string{archive, "--key", public}, exitDone, "verified by signature by key", ""},
		"signed, the signature is named": {[]string{archive, "--key", public, "--signature", elsewhere}, exitDone, "verified by signature", ""},
		"signed by a stranger":           {[]string{archive, "--key", theirs}, exitFailure, "", "not what was asked for"},
		"unsigned where it must be":      {[]string{unsigned, "--key", public}, exitFailure, "", "no signature beside"},
		"a signature without a key":      {[]string{archive, "--signature", elsewhere}, exitUsage, "", "--key"},
		"a key that is none":             {[]string{archive, "--key", bad}, exitUsage, "", "bad"},
		"a signature that is not there":  {[]string{archive, "--key", public, "--signature", bad + "2"}, exitUsage, "", "bad2"},
		"what is no database":            {[]string{bad}, exitFailure, "", "no advisory database"},
		"what is not there":              {[]string{bad + "2"}, exitUsage, "", "bad2"},
		"nothing":                        {nil, exitUsage, "", "arg"},
		"two files":                      {[]string{archive, archive}, exitUsage, "", "arg"},
	} {
		t.Run(law, func(t *testing.T) {
			got := command(t, append([]string{"advisories", "import", "--config", l.config}, tt.args...)...)
			if got.code != tt.code || !strings.Contains(got.stdout, tt.stdout) || !strings.Contains(got.stderr, tt.stderr) || (got.code == exitDone) == (got.stdout == "") {
				t.Errorf("got %+v, want code %d, %q and %q", got, tt.code, tt.stdout, tt.stderr)
			}
		})
	}
	t.Run("a file whose operator replaces it is left to him", func(t *testing.T) {
		l.write(t, "tidewaiter.yaml", fmt.Sprintf("advisories: {path: %q}\n", filepath.Join(l.path("advisories"), "trivy.db")))
		for _, args := range [][]string{{"import", archive}, {"update"}, {"rollback"}} {
			if got := command(t, append(append([]string{"advisories"}, args...), "--config", l.config)...); got.code != exitUsage || !strings.Contains(got.stderr, "is a file") {
				t.Errorf("%v: %+v", args, got)
			}
		}
		if f, code := l.status(t); code != exitDone || f.Snapshot == "" || f.InUse != nil {
			t.Errorf("its status: code %d, %+v", code, f)
		}
	})
	t.Run("without a source there is nothing to fetch", func(t *testing.T) {
		l.write(t, "tidewaiter.yaml", fmt.Sprintf("storage: {filesystem: {root: %q}}\n", l.path("data")))
		if got := command(t, "advisories", "update", "--config", l.config); got.code != exitUsage || !strings.Contains(got.stderr, "advisories.source") {
			t.Errorf("got %+v", got)
		}
	})
}

// told is a log that tells of the messages it gets.
type told struct {
	slog.Handler
	messages chan string
}

func newTold() told { return told{slog.DiscardHandler, make(chan string, 1024)} }

func (told) Enabled(context.Context, slog.Level) bool { return true }
func (h told) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h told) WithGroup(string) slog.Handler          { return h }
func (h told) Handle(_ context.Context, r slog.Record) error {
	h.messages <- r.Message
	return nil
}

func (h told) await(t *testing.T, message string) {
	t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case got := <-h.messages:
			if got == message {
				return
			}
		case <-deadline:
			t.Fatalf("waited in vain for %q", message)
		}
	}
}

// pull returns what a client is answered that asks for an image with a vulnerable lodash.
func (s *serving) pull(t *testing.T) answer {
	t.Helper()
	return ask(t.Context(), "http://"+s.registry+"/v2/registry.demo/app/manifests/1.0")
}

// metric returns the value of a gauge.
func (s *serving) metric(t *testing.T, name string) string {
	t.Helper()
	for line := range strings.Lines(ask(t.Context(), "http://"+s.admin+"/metrics").body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("there is no metric %s", name)
	return ""
}

func (l *lab) pushLodash(t *testing.T) {
	t.Helper()
	if _, err := l.upstream.PushImage("app", "1.0", ocitest.Image{Layers: []ocitest.LayerSpec{{Files: ocitest.NPM("lodash", "4.17.4")}}}); err != nil {
		t.Fatal(err)
	}
}

// The source is down when the proxy starts. It serves, says what it has, and uses what comes later: from somebody's hands, and from the
// source once it is there again.
func TestServeFetchesAdvisories(t *testing.T) {
	l := newFetchingLab(t, "registry.demo/trivy-db:2")
	l.pushLodash(t)
	log := newTold()
	s := l.serveLogging(t, slog.New(log))
	log.await(t, "advisories were not updated, what was in use stays in use")
	if got := s.pull(t); got.status != http.StatusForbidden || !strings.Contains(got.body, "there is no advisory data") {
		t.Errorf("without advisories: %+v", got)
	}
	if got := s.metric(t, "tidewaiter_advisories_last_failure_timestamp_seconds"); got == "0" {
		t.Error("the failure is not counted")
	}
	if got := command(t, "advisories", "import", "--config", l.config, l.write(t, "db", string(packedAdvisories(t, 2*time.Hour)))); got.code != exitDone {
		t.Fatalf("importing: %+v", got)
	}
	log.await(t, "advisories replaced")
	if got := s.pull(t); got.status != http.StatusForbidden || !strings.Contains(got.body, "CVE-2019-10744") {
		t.Errorf("with imported advisories: %+v", got)
	}
	if got := s.metric(t, "tidewaiter_advisories_updated_timestamp_seconds"); got == "0" {
		t.Error("there is no time of the advisories in use")
	}
	s.stop()
	if err := await(t, "the end", s.ended); err != nil {
		t.Error(err)
	}

	l.publish(t, "trivy-db", packedAdvisories(t, time.Hour))
	s = l.serveLogging(t, slog.New(log))
	log.await(t, "advisories replaced")
	if got := s.metric(t, "tidewaiter_advisories_last_success_timestamp_seconds"); got == "0" {
		t.Error("the success is not counted")
	}
	s.stop()
	if err := await(t, "the end", s.ended); err != nil {
		t.Error(err)
	}

	// A restart finds it, without the source.
	l.upstream.Close()
	s = l.serveLogging(t, slog.New(log))
	if got := s.metric(t, "tidewaiter_advisories_updated_timestamp_seconds"); got == "0" {
		t.Error("after a restart there are no advisories")
	}
	s.stop()
	if err := await(t, "the end", s.ended); err != nil {
		t.Error(err)
	}
}

// A database gone bad on disk gives way to the one before, and does not keep the proxy from starting.
func TestServeReturnsToTheAdvisoriesBefore(t *testing.T) {
	l := newLab(t, noFinding)
	l.pushLodash(t)
	l.config = l.write(t, "tidewaiter.yaml", fmt.Sprintf(fetchingConfig, l.path("data"), l.upstream.URL(), l.path("policy.yaml"), ""))
	spoil := func() {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(l.path("data"), "tidewaiter", "advisories", "current", "trivy.db"))
		if err != nil || len(found) != 1 {
			t.Fatalf("got %v, %v", found, err)
		}
		if err := os.WriteFile(found[0], []byte("gone bad"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, age := range []time.Duration{2 * time.Hour, time.Hour} {
		if got := command(t, "advisories", "import", "--config", l.config, l.write(t, "db", string(packedAdvisories(t, age)))); got.code != exitDone {
			t.Fatalf("importing: %+v", got)
		}
	}
	spoil()
	if f, code := l.status(t); code != exitFailure || f.Problem == "" || f.Previous == nil {
		t.Errorf("the status: code %d, %+v", code, f)
	}
	for _, want := range []string{"CVE-2019-10744", "there is no advisory data"} {
		s := l.serve(t)
		if got := s.pull(t); got.status != http.StatusForbidden || !strings.Contains(got.body, want) {
			t.Errorf("got %+v, want %q", got, want)
		}
		s.stop()
		if err := await(t, "the end", s.ended); err != nil {
			t.Error(err)
		}
		if want == "CVE-2019-10744" {
			spoil()
		}
	}
}

// A database can be had through another proxy of ours, which judges it as it does everything.
func TestAdvisoriesThroughAProxy(t *testing.T) {
	l := newLab(t, lenient)
	l.publish(t, "mirror/trivy-db", packedAdvisories(t, time.Hour))
	front := l.serve(t)
	defer func() { // what it writes as it ends goes with the folder
		front.stop()
		if err := await(t, "the end", front.ended); err != nil {
			t.Error(err)
		}
	}()
	behind := newLab(t, noFinding)
	behind.config = behind.write(t, "tidewaiter.yaml", fmt.Sprintf(
		"storage: {filesystem: {root: %q}}\nupstreams: [{host: front.test, url: \"http://%s\", unsafe_private_addresses: true}]\nadvisories: {source: \"front.test/registry.demo/mirror/trivy-db:2\"}\n",
		behind.path("data"), front.registry))
	if got := command(t, "advisories", "update", "--config", behind.config); got.code != exitDone {
		t.Errorf("got %+v", got)
	}
}

func TestAdvisorySourcesThatCannotBe(t *testing.T) {
	l := newLab(t, noFinding)
	for source, want := range map[string]string{"trivy-db:2": "host", "registry.demo/Trivy": "name", "registry.demo/db@sha256:1": "digest"} {
		file := l.write(t, "t.yaml", fmt.Sprintf("advisories: {source: %q}\n", source))
		for _, args := range [][]string{{"serve"}, {"advisories", "update"}, {"advisories", "status"}} {
			if got := command(t, append(args, "--config", file)...); got.code != exitUsage || !strings.Contains(got.stderr, "advisories.source") || !strings.Contains(got.stderr, want) {
				t.Errorf("%s, %v: %+v", source, args, got)
			}
		}
	}
}

// What the proxy fetches for itself is its own affair: clients may not pull more for it, and it may where they may not.
func TestAdvisorySourceIsNoUpstreamOfClients(t *testing.T) {
	for _, source := range []string{"ghcr.io/aquasecurity/trivy-db:2", "a.test/trivy-db:2"} {
		c, err := load(t, fmt.Sprintf("upstreams: [{host: a.test, allow: [app], deny: [trivy-db]}]\nadvisories: {source: %q}\n", source))
		if err != nil {
			t.Fatal(err)
		}
		registries, ref, err := c.advisorySource(upstream.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer registries.Close()
		if err := registries.Allowed(ref.Repository); err != nil {
			t.Errorf("%s: it may not be fetched: %v", source, err)
		}
		if err := registries.Allowed(oci.Repository{Upstream: ref.Repository.Upstream, Path: "app"}); err == nil {
			t.Errorf("%s: other repositories may be fetched for it", source)
		}
		clients, err := upstream.New(c.upstreams(), upstream.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer clients.Close()
		if err := clients.Allowed(ref.Repository); err == nil {
			t.Errorf("%s: clients may pull it", source)
		}
	}
}
