package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// decode reads what a command printed as JSON.
func decode[T any](t *testing.T, out string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	return v
}

// invocation is a run of the program and what it must come to.
type invocation struct {
	law    string
	args   []string
	code   int
	stdout []string // parts; stdout must be empty when there are none
	stderr []string
}

func (i invocation) run(t *testing.T) {
	t.Run(i.law, func(t *testing.T) {
		got := tidewaiter(t, i.args...)
		if got.code != i.code {
			t.Errorf("%q exits with %d, want %d", i.args, got.code, i.code)
		}
		if len(i.stdout) == 0 && got.stdout != "" {
			t.Errorf("%q prints\n%s", i.args, got.stdout)
		}
		for _, part := range i.stdout {
			if !strings.Contains(got.stdout, part) {
				t.Errorf("%q does not print %q but\n%s", i.args, part, got.stdout)
			}
		}
		for _, part := range i.stderr {
			if !strings.Contains(got.stderr, part) {
				t.Errorf("%q does not say %q but\n%s", i.args, part, got.stderr)
			}
		}
		if strings.Contains(got.stderr, "goroutine ") {
			t.Errorf("it panicked: %s", got.stderr)
		}
	})
}

func TestUsage(t *testing.T) {
	for _, i := range []invocation{
		{"no command prints the help", nil, 0, []string{"serve", "demo", "check", "verdict", "inventory", "policy", "version"}, nil},
		{"version tells what this is", []string{"version"}, 0, []string{"tidewaiter 0.", "commit ", "go1.", "inventory format"}, nil},
		{"an unknown command", []string{"conjure"}, 2, nil, []string{`unknown command "conjure"`}},
		{"an unknown command below another", []string{"policy", "conjure"}, 2, nil, []string{`unknown command "conjure"`}},
		{"an unknown flag", []string{"serve", "--conjure"}, 2, nil, []string{"conjure"}},
		{"an unknown form of output", []string{"version", "-o", "xml"}, 2, nil, []string{"xml"}},
		{"a missing argument", []string{"check"}, 2, nil, []string{"1 arg"}},
		{"a command of the library's", []string{"completion", "bash"}, 2, nil, []string{`unknown command "completion"`}},
		{"a reference that is none", []string{"verdict", "--server", "http://127.0.0.1:1", "a b"}, 2, nil, []string{"a b"}},
		{"a platform that is none", []string{"check", "--platform", "linux", "registry.test/a:1"}, 2, nil, []string{"os/architecture"}},
		{"a server that is no URL", []string{"verdict", "--server", "nowhere", "registry.test/a:1"}, 2, nil, []string{"nowhere"}},
		{"a server nobody is", []string{"verdict", "--server", "http://127.0.0.1:1", "registry.test/a:1"}, 1, nil, []string{"127.0.0.1:1"}},
		{"a release without a reason", []string{"quarantine", "release", "registry.test/a:1", "--for", "1h"}, 2, nil, []string{"--reason"}},
		{"a release for ever", []string{"quarantine", "release", "registry.test/a:1", "--reason", "x"}, 2, nil, []string{"--for"}},
		{"a waiver of everything", []string{"waiver", "grant", "--vulnerability", "CVE-1", "--reason", "x", "--for", "1h"}, 2, nil, []string{"--repository"}},
		{"an id that is none", []string{"waiver", "revoke", "../x", "--reason", "x"}, 2, nil, []string{"no id"}},
		{"a canary without a registry", []string{"doctor", "--canary", "canary:1"}, 2, nil, []string{"host of its registry"}},
		{"a canary before nobody", []string{"doctor", "--canary", "127.0.0.1:1/canary:1", "--server", "http://127.0.0.1:1"}, 1, []string{"neither served nor refused"}, []string{"checks failed"}},
		{"a list of a server nobody is", []string{"quarantine", "list", "--server", "http://127.0.0.1:1"}, 1, nil, []string{"127.0.0.1:1"}},
	} {
		i.run(t)
	}
	t.Run("every command's help has an example", func(t *testing.T) {
		var walked []string
		var walk func(command []string)
		walk = func(command []string) {
			walked = append(walked, strings.Join(command, " "))
			got := tidewaiter(t, append(slices.Clone(command), "--help")...)
			if got.code != 0 || !strings.Contains(got.stdout, "Examples:") {
				t.Errorf("%q: code %d:\n%s", command, got.code, got.stdout)
			}
			for _, name := range commandsIn(got.stdout) {
				if name != "help" { // which needs no help
					walk(append(slices.Clone(command), name))
				}
			}
		}
		walk(nil)
		want := []string{
			"", "advisories", "advisories import", "advisories rollback", "advisories status", "advisories update", "audit", "audit verify", "check",
			"clients", "demo", "doctor", "eligible", "inventory", "policy", "policy check", "policy simulate", "quarantine", "quarantine drop", "quarantine list", "quarantine read",
			"quarantine release", "quarantine show", "recalls", "robot", "robot add", "robot list", "robot revoke", "serve", "token-key", "verdict",
			"version", "waiver", "waiver approve", "waiver export", "waiver grant", "waiver import", "waiver list", "waiver revoke",
			"webhook", "webhook drop", "webhook list", "webhook retry",
		}
		if diff := cmp.Diff(walked, want); diff != "" {
			t.Errorf("there are other commands (-got +want):\n%s", diff)
		}
	})
	t.Run("version as JSON", func(t *testing.T) {
		got := decode[struct {
			Version, Commit, Go string
			Formats             map[string]int
		}](t, tidewaiter(t, "version", "-o", "json").stdout)
		if got.Version == "" || got.Commit == "" || !strings.HasPrefix(got.Go, "go1.") || got.Formats["inventory"] == 0 {
			t.Errorf("got %+v", got)
		}
	})
}

// commandsIn returns the commands a help text lists.
func commandsIn(help string) []string {
	_, rest, found := strings.Cut(help, "Available Commands:\n")
	if !found {
		return nil
	}
	list, _, _ := strings.Cut(rest, "\n\n")
	var names []string
	for row := range strings.Lines(list) {
		names = append(names, strings.Fields(row)[0])
	}
	return names
}

// The demo runs beside an installation whose configuration is in the environment, as in a container of it.
func TestDemo(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "production")
	t.Setenv("TIDEWAITER_STORAGE_FILESYSTEM_ROOT", elsewhere)
	t.Setenv("TIDEWAITER_POLICY_FILES", "/none/policy.yaml")
	said := tidewaiter(t, "demo", "--quiet", "-o", "json")
	if said.code != 0 || said.stderr != "" {
		t.Fatalf("code %d:\n%s%s", said.code, said.stdout, said.stderr)
	}
	var got []string
	for _, p := range decode[[]struct {
		Image, Verdict, Why string
		Expected            bool
	}](t, said.stdout) {
		got = append(got, p.Image+" "+p.Verdict)
		if !p.Expected || p.Why == "" {
			t.Errorf("got %+v", p)
		}
	}
	want := []string{
		"registry.demo/shop/web:1.0 allowed",
		"registry.demo/shop/api:1.0 allowed",
		"registry.demo/shop/multi:1.0 allowed",
		"registry.demo/shop/unsigned:1.0 denied",
		"registry.demo/shop/stranger:1.0 denied",
		"registry.demo/shop/vulnerable:1.0 denied",
		"registry.demo/shop/java:1.0 denied",
		"registry.demo/shop/leaky:1.0 denied",
		"registry.demo/shop/torn:1.0 denied",
		"registry.demo/shop/foreign:1.0 denied",
		"registry.demo/shop/legacy:1.0 allowed",
		"registry.demo/lab/experiment:1.0 allowed",
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("the demo shows other images or verdicts (-got +want):\n%s", diff)
	}
	if _, err := os.Stat(elsewhere); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it wrote into the storage of the environment: %v", err)
	}
}

func TestPolicyCheck(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		writeFile(t, path, []byte(content))
		return path
	}
	good := file("good.yaml", strictPolicy)
	bad := file("bad.yaml", `policies:
  - name: production
    match: {repositories: ["**"]}
    vulnerabilities: {deny_at: enormous}
    surprise: true
  - name: production
    match: {repositories: ["registry.test/[a-z]"]}
    vulnerabilities: {deny_at: high}
`)
	trust := file("trust.yaml", "authorities: []\n")
	for _, i := range []invocation{
		{"a good policy", []string{"policy", "check", good}, 0, []string{"1 policies, 0 waivers, revision sha256:"}, nil},
		{"all problems of a bad one at once, each with its line", []string{"policy", "check", bad}, 2, nil,
			[]string{"bad.yaml:4", "enormous", "bad.yaml:5", "surprise", "bad.yaml:6", "bad.yaml:7"}},
		{"an authority no trust file has", []string{"policy", "check", good, "--trust", trust}, 2, nil, []string{"good.yaml:2", "release"}},
		{"a file that is not there", []string{"policy", "check", filepath.Join(dir, "none.yaml")}, 2, nil, []string{"none.yaml"}},
	} {
		i.run(t)
	}
}

func TestServeRefusesABadConfiguration(t *testing.T) {
	dir := t.TempDir()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	for i, tt := range []struct {
		law, config string
		code        int
		stderr      []string
	}{
		{"all problems at once", "listen: {registry: \"0.0.0.0:0\", admin: nowhere}\nredis: {url: \"redis://127.0.0.1:1\"}\nlog: {level: loud}\nhosted: [{repositories: [\"A\"]}]\ndefault_upstream: \"Not A Host\"\n", 2,
			[]string{"listen.registry", "listen.tls", "listen.admin", "access.anonymous", "redis.seal_key_file", "log.level", "hosted[0]", "default_upstream"}},
		{"an unknown key", "listen: {registry: \"127.0.0.1:0\"}\nsurprise: true\n", 2, []string{"surprise"}},
		{"what is not YAML", "listen: [", 2, []string{"reading the configuration"}},
		{"a policy file that is not there", "policy_files: [/none/policy.yaml]\n", 2, []string{"/none/policy.yaml"}},
		{"upstreams that make no sense", "upstreams:\n  - {host: a.test, url: \"ftp://a.test\"}\n  - {host: \"B B\", allow: [\"[\"]}\n", 2, []string{"ftp://a.test", "B B", "allow"}},
		{"an address that is taken", fmt.Sprintf("listen: {registry: %q, admin: \"127.0.0.1:0\"}\n", busy.Addr()), 1, []string{busy.Addr().String()}},
		{"advisories that are not there", "advisories: {path: /none/advisories}\n", 2, []string{"/none/advisories"}},
		{"a port there cannot be", "listen: {registry: \"127.0.0.1:99999\"}\n", 2, []string{"listen.registry", "99999"}},
		{"files and keys at once", "listen: {registry: \"127.0.0.1:99999\"}\npolicy_files: [/none/policy.yaml]\nredis: {seal_key_file: /none/seal.key}\n", 2,
			[]string{"listen.registry", "/none/policy.yaml", "/none/seal.key"}},
	} {
		path := filepath.Join(dir, fmt.Sprintf("%d.yaml", i))
		writeFile(t, path, []byte(tt.config))
		invocation{tt.law, []string{"serve", "--config", path}, tt.code, nil, tt.stderr}.run(t)
	}
	invocation{"a file that is not there", []string{"serve", "--config", filepath.Join(dir, "none.yaml")}, 2, nil, []string{"none.yaml"}}.run(t)
}

func TestServeWithoutAConfiguration(t *testing.T) {
	cmd := command(t, binary, "serve")
	cmd.Env = append(cmd.Env, "TIDEWAITER_LISTEN_REGISTRY=127.0.0.1:0", "TIDEWAITER_LISTEN_ADMIN=127.0.0.1:0") // the only keys a test cannot leave alone
	p := start(t, cmd, newJournal())
	at := p.log.await(t, "starting to serve", func(l line) bool { return l.Msg == "serving" })
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/"} {
		if got := request(t, http.MethodGet, "http://"+at.Admin+path); got.status != 200 {
			t.Errorf("%s: status %d: %s", path, got.status, got.body)
		}
	}
	if got := request(t, http.MethodGet, "http://"+at.Registry+"/v2/nobody.test/app/manifests/1.0"); got.status != 403 {
		t.Errorf("an upstream that is not a default: status %d, want 403", got.status)
	}
	if p.log.count(says("there is no advisory data")) == 0 {
		t.Error("it does not say that every image will be denied for want of advisories")
	}
	if info, err := os.Stat(filepath.Join(cmd.Dir, "tidewaiter-data")); err != nil || !info.IsDir() {
		t.Errorf("./tidewaiter-data: %v", err)
	}
	if code := p.terminate(t); code != 0 {
		t.Errorf("ended with code %d, want 0", code)
	}
}

// verdict is what commands print of one.
type verdict struct {
	Decision   string
	Repository json.RawMessage
	Digest     oci.Digest
	Policy     string
	Reasons    []struct{ Rule, Message string }
}

func TestCheckAndInventory(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.config["log"] = keys{"level": "info"}
	s.upstreamKeys()["allow"] = []string{"shop/**"}
	good := s.pushSigned(t, "shop/web", shop(goodLodash))
	s.pushSigned(t, "shop/vulnerable", shop(badLodash))
	gone := startRegistry(t, ocitest.Options{})
	gone.Close()
	s.config["upstreams"] = append(s.config["upstreams"].([]any), keys{"host": "gone.test", "url": gone.URL(), "unsafe_private_addresses": true})
	config := s.write(t)
	for _, i := range []invocation{
		{"an image that is allowed", []string{"check", "--config", config, host + "/shop/web:1.0"}, 0,
			[]string{"ALLOW  registry.test/shop/web@" + good.Digest.String(), "policy production", "signed    by release", "CVE-2023-45853"}, nil},
		{"the same by digest", []string{"check", "--config", config, host + "/shop/web@" + good.Digest.String()}, 0, []string{"ALLOW"}, nil},
		{"an image that is denied", []string{"check", "--config", config, host + "/shop/vulnerable:1.0"}, 3, []string{"DENY", "CVE-2019-10744", "fixed in 4.17.12"}, nil},
		{"an image that is not there", []string{"check", "--config", config, host + "/shop/none:1.0"}, 1, nil, []string{"shop/none"}},
		{"a repository that is not allowed", []string{"check", "--config", config, host + "/secret/app:1.0"}, 3, nil, []string{"secret/app"}},
		{"an upstream that does not answer", []string{"check", "--config", config, "gone.test/app:1.0"}, 1, nil, []string{"gone.test"}},
		{"a reference that is none", []string{"check", "--config", config, "a b"}, 2, nil, []string{"a b"}},
		{"an inventory", []string{"inventory", "--config", config, host + "/shop/vulnerable:1.0"}, 0, []string{"lodash", badLodash, "libssl3", "zlib1g", "golang.org/x/text", "debian 12"}, nil},
		{"an inventory of nothing", []string{"inventory", "--config", config, host + "/shop/none:1.0"}, 1, nil, []string{"shop/none"}},
	} {
		i.run(t)
	}
	t.Run("a verdict as JSON", func(t *testing.T) {
		got := decode[[]verdict](t, tidewaiter(t, "check", "--config", config, "-o", "json", host+"/shop/vulnerable:1.0").stdout)
		if len(got) != 1 || got[0].Decision != "deny" || got[0].Policy != "production" || len(got[0].Reasons) != 1 || !strings.Contains(got[0].Reasons[0].Message, "CVE-2019-10744") {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("an inventory as JSON", func(t *testing.T) {
		got := decode[struct {
			Repository string
			Digest     oci.Digest
			Packages   []struct{ Type, Name, Version string }
		}](t, tidewaiter(t, "inventory", "--config", config, "-o", "json", host+"/shop/web:1.0").stdout)
		var names []string
		for _, p := range got.Packages {
			names = append(names, p.Name+" "+p.Version)
		}
		slices.Sort(names)
		want := []string{"example.com/shop 1.0.0", "golang.org/x/text 0.30.0", "libssl3 3.0.15-1~deb12u1", "lodash 4.17.21", "stdlib 1.26.3", "zlib1g 1:1.2.13.dfsg-1"}
		if diff := cmp.Diff(names, want); diff != "" || got.Repository != host+"/shop/web" || got.Digest != good.Digest {
			t.Errorf("of %s@%s, got -, want +:\n%s", got.Repository, got.Digest, diff)
		}
	})
	t.Run("what a command has fetched and judged, the proxy need not", func(t *testing.T) {
		s.config["log"] = keys{"level": "debug"}
		s.upstream.ResetRequests()
		p := s.serve(t)
		p.mustPull(t, "shop/web")
		if got := asked(s.upstream, nil); !slices.Equal(got, []string{"HEAD manifest 1.0"}) {
			t.Errorf("asked of the upstream: %q, want the tag alone", got)
		}
	})
}

func TestVerdict(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.pushSigned(t, "shop/web", shop(goodLodash))
	s.pushSigned(t, "shop/vulnerable", shop(badLodash))
	s.push(t, "shop/unasked", shop(goodLodash, noise(1000, 1)))
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	p.pull(t, "shop/vulnerable")
	ask := func(args ...string) []string {
		return append([]string{"verdict", "--server", "http://" + p.admin}, args...)
	}
	for _, i := range []invocation{
		{"on an image that was allowed", ask(host + "/shop/web:1.0"), 0, []string{"ALLOW", "policy production", "signed    by release"}, nil},
		{"on an image that was denied", ask(host + "/shop/vulnerable:1.0"), 3, []string{"DENY", "CVE-2019-10744"}, nil},
		{"on an image nobody has asked for", ask(host + "/shop/unasked:1.0"), 1, nil, []string{"no verdict"}},
		{"on an image that does not exist", ask(host + "/shop/none:1.0"), 1, nil, []string{"shop/none"}},
	} {
		i.run(t)
	}
	t.Run("the history has the verdicts by every snapshot, newest first", func(t *testing.T) {
		rows := advisories()
		rows[2].Severity = "critical"
		s.replaceAdvisories(t, p, rows)
		if got := p.pull(t, "shop/web"); got.status != 403 {
			t.Fatalf("got %+v", got)
		}
		got := tidewaiter(t, ask("--history", "-o", "json", host+"/shop/web:1.0")...)
		var decisions []string
		for _, v := range decode[[]verdict](t, got.stdout) {
			decisions = append(decisions, v.Decision)
		}
		if want := []string{"deny", "allow"}; got.code != 3 || !slices.Equal(decisions, want) {
			t.Errorf("code %d, decisions %q, want 3 and %q", got.code, decisions, want)
		}
	})
}
