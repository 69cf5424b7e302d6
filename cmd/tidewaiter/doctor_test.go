package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// Secrets of the installations that are checked. None of them may be told.
const (
	hushedKey      = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	hushedPassword = "correct-horse-battery"
)

// toldDiagnosis is a diagnosis as JSON has it.
type toldDiagnosis struct{ Check, Status, Found, Do string }

// with writes the lab's configuration with other values of some keys, each in one line.
func (l *lab) with(t *testing.T, changed map[string]string) {
	t.Helper()
	values := map[string]string{
		"listen":           `{registry: "127.0.0.1:0", admin: "127.0.0.1:0"}`,
		"storage":          fmt.Sprintf("{filesystem: {root: %q}}", l.path("data")),
		"upstreams":        fmt.Sprintf("[{host: registry.demo, url: %q, unsafe_private_addresses: true}]", l.upstream.URL()),
		"default_upstream": "registry.demo",
		"policy_files":     fmt.Sprintf("[%q]", l.path("policy.yaml")),
		"trust_files":      fmt.Sprintf("[%q]", l.path("trust.yaml")),
		"advisories":       fmt.Sprintf("{path: %q}", l.path("advisories")),
		"redis":            fmt.Sprintf("{seal_key_file: %q}", l.path("seal.key")),
	}
	maps.Copy(values, changed)
	var b strings.Builder
	for key, value := range values {
		fmt.Fprintf(&b, "%s: %s\n", key, value)
	}
	l.write(t, "tidewaiter.yaml", b.String())
}

// doctor runs the command and returns what it found, but for what is well, as "status check: found".
func (l *lab) doctor(t *testing.T, args ...string) (code int, found []string) {
	t.Helper()
	got := command(t, append([]string{"doctor", "--config", l.config, "-o", "json"}, args...)...)
	for _, secret := range []string{hushedKey, hushedPassword} {
		if strings.Contains(got.stdout+got.stderr, secret) {
			t.Errorf("it tells %q:\n%s%s", secret, got.stdout, got.stderr)
		}
	}
	var all []toldDiagnosis
	if err := json.Unmarshal([]byte(got.stdout), &all); err != nil && got.stdout != "" {
		t.Fatalf("%v in\n%s", err, got.stdout)
	}
	for _, d := range all {
		if strings.HasPrefix(d.Found, "unsafe_private_addresses") {
			continue // every upstream of these tests is inside its network
		}
		if d.Status != "ok" {
			found = append(found, d.Status+" "+d.Check+": "+d.Found)
		}
		if (d.Status == "ok") != (d.Do == "") {
			t.Errorf("%+v: want something to do where, and only where, something is wrong", d)
		}
	}
	return got.code, found
}

// newDoctorLab is a lab with which nothing is wrong.
func newDoctorLab(t *testing.T) *lab {
	t.Helper()
	l := newLab(t, labSigned)
	l.write(t, "seal.key", hushedKey)
	if err := os.Mkdir(l.path("data"), 0o700); err != nil {
		t.Fatal(err)
	}
	l.with(t, nil)
	return l
}

func TestDoctorFindsNothingWrong(t *testing.T) {
	l := newDoctorLab(t)
	if code, found := l.doctor(t); code != exitDone || len(found) > 0 {
		t.Errorf("code %d: %q", code, found)
	}
	if left, err := os.ReadDir(l.path("data")); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v behind, %v", left, err)
	}
	text := command(t, "doctor", "--config", l.config)
	for _, part := range []string{"ok  ", "storage  ", l.path("data"), "upstream registry.demo", "landlock"} {
		if !strings.Contains(text.stdout, part) {
			t.Errorf("it does not print %q but\n%s", part, text.stdout)
		}
	}
	t.Run("beside a proxy that serves", func(t *testing.T) {
		s := l.serve(t)
		defer s.end(t)
		if code, found := l.doctor(t); code != exitDone || len(found) > 0 {
			t.Errorf("code %d: %q", code, found)
		}
	})
}

// pairUntil returns a certificate for a name that counts from half a day before now to until, and its key.
func pairUntil(t *testing.T, name string, until time.Time) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-12 * time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// tlsWith is listen with that certificate.
func (l *lab) tlsWith(t *testing.T, name string, until time.Time) map[string]string {
	t.Helper()
	cert, key := pairUntil(t, name, until)
	return map[string]string{"listen": fmt.Sprintf(`{registry: "127.0.0.1:0", admin: "127.0.0.1:0", names: ["proxy.test:5000"], tls: {cert: %q, key: %q}}`,
		l.write(t, "tls.crt", string(cert)), l.write(t, "tls.key", string(key)))}
}

// upstreamAt is upstreams with that URL and more keys.
func upstreamAt(url, more string) map[string]string {
	return map[string]string{"upstreams": fmt.Sprintf("[{host: registry.demo, url: %q, unsafe_private_addresses: true%s}]", url, more)}
}

// refusingUpstream refuses all passwords.
func refusingUpstream(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// tlsUpstream has a certificate nobody knows the CA of.
func tlsUpstream(t *testing.T) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // failed handshakes are the point
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// closedPort is a URL nobody listens at.
func closedPort() string {
	s := httptest.NewServer(nil)
	s.Close()
	return s.URL
}

// clamdSaying returns the address of a clamd of that version.
func clamdSaying(t *testing.T, version string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(conn).ReadString(0)
			_, _ = io.WriteString(conn, version+"\x00")
			_ = conn.Close()
		}
	}()
	return "tcp://" + l.Addr().String()
}

func TestDoctorFinds(t *testing.T) {
	const inUse = "failure upstream registry.demo: "
	tests := []struct {
		law  string
		make func(t *testing.T, l *lab) map[string]string // what is configured otherwise
		code int
		want []string // the beginnings of what is found
	}{
		{"a CA that is another", func(t *testing.T, l *lab) map[string]string {
			cert, _ := newPair(t, 1)
			return upstreamAt(tlsUpstream(t), fmt.Sprintf(", ca_file: %q", l.write(t, "ca.pem", string(cert))))
		}, 1, []string{inUse, "warning clock"}},
		{"an upstream that is down", func(*testing.T, *lab) map[string]string { return upstreamAt(closedPort(), "") }, 1, []string{inUse, "warning clock: nobody told"}},
		{"a mirror that is down", func(_ *testing.T, l *lab) map[string]string {
			return upstreamAt(l.upstream.URL(), fmt.Sprintf(", mirrors: [%q]", closedPort()))
		}, 0, []string{"warning upstream registry.demo: mirror http"}},
		{"a password that is wrong", func(t *testing.T, l *lab) map[string]string {
			return upstreamAt(refusingUpstream(t), fmt.Sprintf(", credentials: {username: me, password_file: %q}", l.write(t, "password", hushedPassword)))
		}, 1, []string{inUse}},
		{"credentials that are missing", func(t *testing.T, _ *lab) map[string]string { return upstreamAt(refusingUpstream(t), "") }, 1, []string{inUse, "warning clock"}},
		{"a source of advisories that is down", func(_ *testing.T, l *lab) map[string]string {
			return map[string]string{"advisories": fmt.Sprintf("{path: %q, source: \"localhost:1/db:2\"}", l.path("advisories"))}
		}, 1, []string{"failure advisories.source localhost:1: "}},
		{"a certificate that has expired", func(t *testing.T, l *lab) map[string]string {
			return l.tlsWith(t, "proxy.test", time.Now().Add(-time.Hour))
		},
			1, []string{"failure listeners: the certificate for proxy.test has expired at "}},
		{"a certificate that is about to", func(t *testing.T, l *lab) map[string]string {
			return l.tlsWith(t, "proxy.test", time.Now().Add(time.Hour))
		},
			0, []string{"warning listeners: the certificate for proxy.test expires in "}},
		{"a certificate for another name", func(t *testing.T, l *lab) map[string]string {
			return l.tlsWith(t, "other.test", time.Now().Add(1000*time.Hour))
		},
			1, []string{"failure listeners: clients that ask for proxy.test refuse it: it is for other.test"}},
		{"a certificate that is not there", func(_ *testing.T, l *lab) map[string]string {
			return map[string]string{"listen": fmt.Sprintf(`{registry: "127.0.0.1:0", admin: "127.0.0.1:0", tls: {cert: %q, key: %q}}`, l.path("none"), l.path("none"))}
		}, 2, []string{"failure keys: listen.tls.key: ", "failure listeners: open "}},
		{"advisories that are too old", func(t *testing.T, l *lab) map[string]string {
			if err := ocitest.WriteAdvisories(l.path("advisories"), time.Now().Add(-73*time.Hour), demoAdvisories()); err != nil {
				t.Fatal(err)
			}
			return nil
		}, 1, []string{"failure advisories: built 73h"}},
		{"advisories that soon are", func(t *testing.T, l *lab) map[string]string {
			if err := ocitest.WriteAdvisories(l.path("advisories"), time.Now().Add(-60*time.Hour), demoAdvisories()); err != nil {
				t.Fatal(err)
			}
			return nil
		}, 0, []string{"warning advisories: built 60h"}},
		{"advisories that are damaged", func(t *testing.T, l *lab) map[string]string { l.write(t, "advisories/trivy.db", "damaged"); return nil }, 1, []string{"failure advisories: "}},
		{"no advisories", func(_ *testing.T, l *lab) map[string]string {
			return map[string]string{"advisories": fmt.Sprintf("{path: %q}", l.path("none"))}
		}, 1, []string{"failure advisories: there is no data in "}},
		{"no advisories that anybody asks for", func(t *testing.T, l *lab) map[string]string {
			l.write(t, "policy.yaml", lenient)
			return map[string]string{"advisories": fmt.Sprintf("{path: %q}", l.path("none"))}
		}, 0, []string{"warning advisories: there is no data in "}},
		{"Redis that is down", func(_ *testing.T, l *lab) map[string]string {
			return map[string]string{"redis": fmt.Sprintf("{url: \"redis://:%s@127.0.0.1:1\", seal_key_file: %q}", hushedPassword, l.path("seal.key"))}
		}, 1, []string{"failure redis: connecting: dial tcp 127.0.0.1:1: "}},
		{"storage that takes no writes", func(*testing.T, *lab) map[string]string {
			return map[string]string{"storage": `{filesystem: {root: "/proc"}}`}
		}, 1, []string{"failure storage: /proc: writing: "}},
		{"storage that is not there", func(_ *testing.T, l *lab) map[string]string {
			return map[string]string{"storage": fmt.Sprintf("{filesystem: {root: %q}}", l.path("none"))}
		}, 0, []string{"warning storage: "}},
		{"a bad policy", func(t *testing.T, l *lab) map[string]string {
			l.write(t, "policy.yaml", "policies:\n  - {name: x, surprise: 1}\n")
			return nil
		}, 2, []string{"failure policies: "}},
		{"bad trust", func(t *testing.T, l *lab) map[string]string { l.write(t, "trust.yaml", "surprise: 1\n"); return nil }, 2, []string{"failure trust: "}},
		{"a policy that names somebody unknown", func(t *testing.T, l *lab) map[string]string {
			l.write(t, "trust.yaml", "authorities: []\n")
			return nil
		}, 2, []string{"failure policies: "}},
		{"an unknown key", func(*testing.T, *lab) map[string]string { return map[string]string{"surprise": "1"} }, 2, []string{"failure configuration: "}},
		{"an unsafe option", func(*testing.T, *lab) map[string]string {
			return map[string]string{"gate": "{unsafe_unsandboxed_scan: true}"}
		}, 0, []string{"warning configuration: gate.unsafe_unsandboxed_scan is on"}},
		{"a seal key others may write", func(t *testing.T, l *lab) map[string]string { l.mode(t, "seal.key", 0o622); return nil }, 2, []string{"failure keys: loading the seal key", "warning keys: redis.seal_key_file: "}},
		{"a seal key others may read", func(t *testing.T, l *lab) map[string]string { l.mode(t, "seal.key", 0o604); return nil }, 0, []string{"warning keys: redis.seal_key_file: "}},
		{"a seal key in the storage", func(*testing.T, *lab) map[string]string { return map[string]string{"redis": "{}"} }, 0, []string{"warning keys: the seal key lies in the storage"}},
		{"a password file that is gone", func(_ *testing.T, l *lab) map[string]string {
			return upstreamAt(l.upstream.URL(), fmt.Sprintf(", credentials: {username: me, password_file: %q}", l.path("none")))
		}, 1, []string{"failure keys: the password of registry.demo: "}},
		{"a statement key that is none", func(t *testing.T, l *lab) map[string]string {
			return map[string]string{"statements": fmt.Sprintf("{key_file: %q, verifier: \"https://proxy.test\"}", l.write(t, "statements.key", hushedPassword))}
		}, 2, []string{"failure statements: "}},
		{"clamd that is down", func(*testing.T, *lab) map[string]string {
			return map[string]string{"malware": `{clamd: "tcp://127.0.0.1:1"}`}
		}, 1, []string{"failure clamd: "}},
		{"clamd with old signatures", func(t *testing.T, _ *lab) map[string]string {
			return map[string]string{"malware": fmt.Sprintf("{clamd: %q}", clamdSaying(t, "ClamAV 1.4.6/27500/Tue Sep  2 08:00:00 2025"))}
		}, 0, []string{"warning clamd: ClamAV 1.4.6/27500"}},
		{"clamd without official signatures", func(t *testing.T, _ *lab) map[string]string {
			return map[string]string{"malware": fmt.Sprintf("{clamd: %q}", clamdSaying(t, "ClamAV 1.4.6"))}
		}, 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.law, func(t *testing.T) {
			l := newDoctorLab(t)
			l.with(t, tt.make(t, l))
			code, found := l.doctor(t)
			if code != tt.code {
				t.Errorf("code %d, want %d", code, tt.code)
			}
			if len(found) != len(tt.want) {
				t.Fatalf("got %q, want %q", found, tt.want)
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(found[i], want) {
					t.Errorf("got %q, want %q", found[i], want)
				}
			}
		})
	}
}

func TestDoctorCountsTheSecretsItCanRead(t *testing.T) {
	l := newDoctorLab(t)
	l.with(t, upstreamAt(l.upstream.URL(), fmt.Sprintf(", credentials: {username: me, password_file: %q}", l.path("none"))))
	c, err := loadConfigFile(l.config)
	if err != nil {
		t.Fatal(err)
	}
	found := (&doctor{config: c, now: time.Now}).checkKeys(t.Context())
	if len(found) != 2 || found[0].Found != "1 files with secrets can be read" || found[1].Status != failing {
		t.Errorf("got %+v", found)
	}
}

func (l *lab) mode(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(l.path(name), mode); err != nil {
		t.Fatal(err)
	}
}

func TestDoctorUsage(t *testing.T) {
	l := newDoctorLab(t)
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("listen: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"a configuration that cannot be read": {"doctor", "--config", bad},
		"a server without a canary":           {"doctor", "--config", l.config, "--server", "http://127.0.0.1:1"},
		"a canary without a host":             {"doctor", "--canary", "canary:1"},
		"a canary that is none":               {"doctor", "--canary", "registry.test/A b"},
		"a server that is none":               {"doctor", "--canary", "registry.test/canary:1", "--server", "nowhere"},
		"a CA file that is none":              {"doctor", "--canary", "registry.test/canary:1", "--ca-file", bad},
	} {
		if got := command(t, args...); got.code != exitUsage || got.stdout != "" || got.stderr == "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// end stops the proxy and waits for its end.
func (s *serving) end(t *testing.T) {
	t.Helper()
	s.stop()
	if err := await(t, "the end", s.ended); err != nil {
		t.Error(err)
	}
}

// forgetful is a storage driver with faults.
type forgetful struct {
	storagedriver.StorageDriver
	writes, reads, removes error
	content                []byte // what is read, if not what was written
}

func (f *forgetful) PutContent(ctx context.Context, path string, content []byte) error {
	return errors.Join(f.writes, f.StorageDriver.PutContent(ctx, path, content))
}

func (f *forgetful) GetContent(ctx context.Context, path string) ([]byte, error) {
	if f.content != nil || f.reads != nil {
		return f.content, f.reads
	}
	return f.StorageDriver.GetContent(ctx, path)
}

func (f *forgetful) Delete(ctx context.Context, path string) error {
	return errors.Join(f.removes, f.StorageDriver.Delete(ctx, path))
}

func TestTryStorage(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		driver forgetful
		want   string // empty for no error
	}{
		"does all":                    {forgetful{}, ""},
		"takes nothing":               {forgetful{writes: broken}, "writing: broken"},
		"gives nothing back":          {forgetful{reads: broken}, "reading back: broken"},
		"gives something else back":   {forgetful{content: []byte("else")}, "reading back: it holds something else than was written"},
		"keeps what is to be removed": {forgetful{removes: broken}, "removing what was written: broken"},
	} {
		memory := inmemory.New()
		tt.driver.StorageDriver = memory
		err := tryStorage(t.Context(), &tt.driver, "/doctor")
		if got := fmt.Sprint(err); tt.want != "" && got != tt.want || tt.want == "" && err != nil {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
		if _, err := memory.Stat(t.Context(), "/doctor"); err == nil && tt.driver.writes == nil {
			t.Errorf("%s: it leaves what it wrote", name)
		}
	}
}

func TestDiagnoseSandbox(t *testing.T) {
	for _, tt := range []struct {
		confined, unsafe bool
		want             health
	}{{true, false, sound}, {true, true, sound}, {false, true, doubtful}, {false, false, failing}} {
		if got := diagnoseSandbox(tt.confined, "none", tt.unsafe); got.Status != tt.want {
			t.Errorf("%+v: got %+v", tt, got)
		}
	}
}

func TestDoctorComparesClocks(t *testing.T) {
	l := newDoctorLab(t)
	c, err := loadConfigFile(l.config)
	if err != nil {
		t.Fatal(err)
	}
	for off, want := range map[time.Duration]string{time.Hour: "ahead of", -time.Hour: "behind"} {
		d := &doctor{config: c, now: func() time.Time { return time.Now().Add(off) }}
		for _, made := range d.checkUpstreams() {
			made.look(t.Context())
		}
		found := d.checkClock(t.Context())
		if len(found) != 1 || found[0].Status != doubtful || !strings.HasSuffix(found[0].Found, want+" that of "+l.upstream.URL()) || strings.Contains(found[0].Found, "-") {
			t.Errorf("%v: got %+v", off, found)
		}
	}
}

func TestExamine(t *testing.T) {
	first := make(chan struct{})
	hangs := make(chan struct{})
	defer close(hangs)
	got := examine(t.Context(), [][]check{
		{
			{"hangs", time.Millisecond, func(context.Context) []diagnosis { <-hangs; return nil }},
			{"waits for another", time.Minute, func(context.Context) []diagnosis { <-first; return []diagnosis{well("both")} }},
			{"tells in time", time.Minute, func(context.Context) []diagnosis {
				close(first)
				return []diagnosis{{Check: "by another name", Status: sound}}
			}},
			{"looks at its context", time.Millisecond, func(ctx context.Context) []diagnosis { <-ctx.Done(); return []diagnosis{fail("do", "found")} }},
		},
		{{"after all of them", time.Minute, func(context.Context) []diagnosis { return []diagnosis{well("last")} }}},
	})
	var names []string
	for _, d := range got {
		names = append(names, d.Status.String()+" "+d.Check+": "+d.Found)
	}
	want := []string{
		"failure hangs: this takes longer than 1ms", "ok waits for another: both", "ok by another name: ", "failure looks at its context: found", "ok after all of them: last",
	}
	if diff := cmp.Diff(names, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestExamineIsInterrupted(t *testing.T) {
	hangs := make(chan struct{})
	defer close(hangs)
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	got := examine(ctx, [][]check{{{"hangs", time.Minute, func(context.Context) []diagnosis { <-hangs; return nil }}}})
	if len(got) != 1 || got[0].Status != failing || got[0].Found != "this was interrupted" {
		t.Errorf("got %+v", got)
	}
}

func TestInOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"one":                               "one",
		"one\ntwo":                          "one; two",
		"these errors:\n\n'x' has bad keys": "these errors: 'x' has bad keys",
	} {
		if got := inOneLine(errors.New(text)); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestDoctorExitsWithTheWorst(t *testing.T) {
	pulled := fail("", "")
	pulled.code = exitDenied
	for _, tt := range []struct {
		found []diagnosis
		want  int
	}{
		{[]diagnosis{well(""), doubt("", "")}, exitDone},
		{[]diagnosis{{}}, exitFailure}, // the zero value is no good health
		{[]diagnosis{well(""), fail("", "")}, exitFailure},
		{[]diagnosis{misconfigured("", ""), fail("", "")}, exitUsage},
		{[]diagnosis{pulled, misconfigured("", ""), fail("", "")}, exitDenied},
	} {
		inv := &invocation{stdout: io.Discard, stderr: io.Discard, output: "text"}
		code := exitDone
		if err, ok := errors.AsType[*exitError](inv.tell(tt.found)); ok {
			code = err.code
		}
		if code != tt.want {
			t.Errorf("%+v: got %d, want %d", tt.found, code, tt.want)
		}
	}
}
