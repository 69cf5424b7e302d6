package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// load loads a configuration of the given text.
func load(t *testing.T, text string) (*config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tidewaiter.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return loadConfig(file)
}

func TestNoConfiguration(t *testing.T) {
	c, err := loadConfig("")
	if err != nil {
		t.Fatal(err)
	}
	if !isLoopback(c.Listen.Registry) || !isLoopback(c.Listen.Admin) || len(c.unsafe()) != 0 || c.Redis.URL != "" {
		t.Errorf("got %+v, want loopback, nothing unsafe and no Redis", c)
	}
	var hosts []string
	for _, u := range c.upstreams() {
		hosts = append(hosts, u.Host)
		if u.UnsafePrivateAddresses {
			t.Errorf("%s may dial private addresses", u.Host)
		}
	}
	if got, want := strings.Join(hosts, " "), "docker.io ghcr.io quay.io registry.k8s.io gcr.io public.ecr.aws mcr.microsoft.com"; got != want {
		t.Errorf("upstreams: got %s, want %s", got, want)
	}
	if c.Gate.Hold != 55*time.Second || int64(c.Gate.MaxImageBytes) != 20<<30 || c.Gate.Workers < 1 {
		t.Errorf("gate: got %+v", c.Gate)
	}
}

func TestConfigurationIsReadStrictly(t *testing.T) {
	tests := map[string]struct {
		text string
		want []string // all of them, in one error
	}{
		"unknown keys, at any depth":    {"lisen: {registry: x}\ngate: {hodl: 5s}\nupstreams: [{host: a.test, ulr: x}]", []string{"lisen", "hodl", "ulr"}},
		"values of another type":        {"gate: {hold: soon}", []string{"Gate.Hold"}},
		"sizes that are none":           {"gate: {max_image_bytes: 20 gigs}", []string{"20 gigs"}},
		"addresses that are none":       {"listen: {registry: nowhere, admin: also}", []string{"listen.registry", "listen.admin"}},
		"plain text off loopback":       {"listen: {registry: \"0.0.0.0:5000\"}\naccess: {anonymous: [{repositories: [\"**\"], actions: [pull]}]}", []string{"unsafe_plaintext"}},
		"an admin address off loopback": {"listen: {admin: \"0.0.0.0:5001\"}", []string{"listen.admin"}},
		"nobody named off loopback":     {"listen: {registry: \"0.0.0.0:5000\", unsafe_plaintext: true}", []string{"access.anonymous"}},
		"malware by no address":         {"malware: {clamd: \"http://clamd.test\", max_age: 0s, max_file_bytes: 4GiB}", []string{"malware.clamd", "malware.max_age", "malware.max_file_bytes"}},
		"an idle time that is none":     {"storage: {min_idle: -1s}", []string{"storage.min_idle"}},
		"half a certificate":            {"listen: {tls: {cert: a.pem}}", []string{"cert and key"}},
		"Redis without a seal key":      {"redis: {url: \"redis://127.0.0.1/0\"}", []string{"seal_key_file"}},
		"what this version cannot do":   {"storage: {gcs: {bucket: x}}", []string{"storage.gcs"}},
		"hosted repositories that cannot be": {
			"hosted: [{tags: frozen}, {repositories: [\"docker.io/**\", \"A\"], forward_to: \"nowhere.test/x\", pending: -1s}]",
			[]string{"hosted[0]: repositories names none", `hosted[0]: tags: "frozen"`, "docker.io/**", `"A"`, `forward_to: "nowhere.test"`, "pending must be positive"},
		},
		"levels and formats of no log":     {"log: {level: loud, format: xml}", []string{"log.level", "log.format"}},
		"platforms without architecture":   {"gate: {platforms: [linux]}", []string{"gate.platforms"}},
		"platforms with empty parts":       {"gate: {platforms: [\"linux/\", \"/\", linux/arm64/v8]}", []string{`"linux/"`, `"/"`, `"linux/arm64/v8"`}},
		"YAML that is none":                {"listen: [", []string{"yaml"}},
		"ports that are none":              {"listen: {registry: \"127.0.0.1:65536\", admin: \"127.0.0.1:http\"}", []string{`listen.registry: "65536"`, `listen.admin: "http"`}},
		"addresses without a port":         {"listen: {registry: \"127.0.0.1:\"}", []string{"listen.registry"}},
		"links that lead nowhere":          {"listen: {admin_url: \"admin.test:5001\"}", []string{"listen.admin_url"}},
		"links of another kind":            {"listen: {admin_url: \"javascript://admin.test/\"}", []string{"listen.admin_url"}},
		"sources without a registry":       {"advisories: {source: \"trivy-db:2\"}", []string{"advisories.source"}},
		"trails shorter than a day":        {"trail: {keep: 23h}", []string{"trail.keep"}},
		"negative times":                   {"advisories: {refresh: -1s, max_age: -1s}", []string{"advisories.refresh", "advisories.max_age"}},
		"negative keeping":                 {"gate: {recheck_signatures: -1s}\nledger: {keep_repeated: -1s}", []string{"gate.recheck_signatures", "ledger.keep_repeated"}},
		"negative rejudging":               {"rejudge: {workers: -1, per_second: -1}", []string{"rejudge.workers", "rejudge.per_second"}},
		"upstreams that are none":          {"upstreams: []", []string{"upstreams is written and names none"}},
		"URLs that are not of Redis":       {"redis: {url: \"http://user:hunter2@127.0.0.1\", seal_key_file: k}", []string{"redis.url"}},
		"keys unknown and values wrong":    {"surprise: true\nlog: {level: loud}", []string{"surprise", "log.level"}},
		"two people nobody can tell apart": {"review: {second_approver: true, warn_before: -1h}", []string{"review.second_approver", "review.warn_before"}},
		"webhooks that cannot be": {
			"webhooks: [{url: \"https://u:hunter2@a.test\", types: [verdict.maybe], repositories: [\"A\"]}, {url: \"http://a.test/hunter2\", secret_file: x, timeout: 1h, color: red}]",
			[]string{"webhooks[0]: repositories", "webhooks[0]: url has a user", `"verdict.maybe"`, "webhooks[0]: secret_file", "webhooks[1]: url is plain http", "webhooks[1]: timeout", "webhooks[1]: there is another one", "color"},
		},
	}
	for name, tt := range tests {
		t.Run(name+" are refused", func(t *testing.T) {
			_, err := load(t, tt.text)
			var exit *exitError
			if !errors.As(err, &exit) || exit.code != exitUsage {
				t.Fatalf("got %v, want the exit code of a configuration error", err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("it shows a password: %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not named in:\n%v", want, err)
				}
			}
		})
	}
	t.Run("what is not there to be read is refused", func(t *testing.T) {
		if _, err := loadConfig(filepath.Join(t.TempDir(), "none.yaml")); err == nil {
			t.Error("a missing file was taken for no file")
		}
	})
	t.Run("empty values of keys this version cannot act on are not", func(t *testing.T) {
		if _, err := load(t, "hosted: []\nwebhooks: []\naudit: {path: \"\"}\naccess: {basic: {htpasswd_file: \"\"}, oidc: [], grants: []}\nstorage: {max_bytes: 0}"); err != nil {
			t.Error(err)
		}
	})
}

func TestEnvironmentOverridesTheFile(t *testing.T) {
	t.Setenv("TIDEWAITER_GATE_HOLD", "7s")
	t.Setenv("TIDEWAITER_LISTEN_REGISTRY", "127.0.0.1:7000")
	t.Setenv("TIDEWAITER_POLICY_FILES", "a.yaml,b.yaml")
	c, err := load(t, "gate: {hold: 5s}")
	if err != nil {
		t.Fatal(err)
	}
	if c.Gate.Hold != 7*time.Second || c.Listen.Registry != "127.0.0.1:7000" || strings.Join(c.PolicyFiles, " ") != "a.yaml b.yaml" {
		t.Errorf("got %+v %+v %v", c.Gate, c.Listen, c.PolicyFiles)
	}
}

func TestConfigurationWithoutTheEnvironment(t *testing.T) {
	t.Setenv("TIDEWAITER_STORAGE_FILESYSTEM_ROOT", "/elsewhere")
	t.Setenv("TIDEWAITER_GATE_HOLD", "soon")
	file := filepath.Join(t.TempDir(), "tidewaiter.yaml")
	if err := os.WriteFile(file, []byte("storage: {filesystem: {root: here}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := loadConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if c.Storage.Filesystem.Root != "here" || c.Gate.Hold != 55*time.Second {
		t.Errorf("got %+v %+v", c.Storage, c.Gate)
	}
}

// Every file this configuration names is bad, and so is what it says itself.
func TestAllThatIsWrongIsSaidAtOnce(t *testing.T) {
	dir := t.TempDir()
	in := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root := filepath.Join(dir, "data")
	file := in("tidewaiter.yaml", fmt.Sprintf(`
surprise: true
log: {level: loud}
storage: {filesystem: {root: %q}}
policy_files: [%q]
trust_files: [%q]
upstreams: [{host: a.test, url: "ftp://a.test"}]
redis: {url: "redis://127.0.0.1:1/0", seal_key_file: %q}
advisories: {path: %q}
`, root, in("policy.yaml", "policies: [{name: p, match: {repositories: [\"**\"]}, mode: maybe}]"), in("trust.yaml", "authorities: [{name: a}]"),
		in("seal.key", "short"), filepath.Join(dir, "none")))
	for _, args := range [][]string{{"serve"}, {"check", "a.test/app:1"}, {"inventory", "a.test/app:1"}} {
		got := command(t, append(args, "--config", file)...)
		if got.code != exitUsage || got.stdout != "" {
			t.Errorf("%q: code %d, want %d: %s", args, got.code, exitUsage, got.stdout)
		}
		for _, want := range []string{"surprise", "log.level", "policy.yaml:1", "maybe", "trust.yaml:1", "ftp://a.test", "seal.key", filepath.Join(dir, "none")} {
			if !strings.Contains(got.stderr, want) {
				t.Errorf("%q does not say %q but\n%s", args, want, got.stderr)
			}
		}
	}
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("storage was opened: %v", err)
	}
}

func TestWhatIsNamedWronglyIsAConfigurationError(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "seal.key")
	if err := os.WriteFile(key, []byte(strings.Repeat("0123456789abcdef", 4)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"a seal key that is not there":         {"redis: {seal_key_file: " + dir + "/none.key}", "none.key"},
		"a Redis database that is none":        {"redis: {url: \"redis://:hunter2@127.0.0.1:1/first\", seal_key_file: " + key + "}", "redis url"},
		"advisories that are not there":        {"advisories: {path: " + dir + "/none}", "/none"},
		"a folder without advisories":          {"advisories: {path: " + dir + "}", "trivy.db"},
		"an authority no trust file has":       {"policy_files: [" + filepath.Join(dir, "p.yaml") + "]", "nobody"},
		"a certificate that is not there":      {"listen: {tls: {cert: " + dir + "/none.crt, key: " + dir + "/none.key}}", "none.crt"},
		"an upstream that is configured twice": {"upstreams: [{host: a.test}, {host: a.test}]", "twice"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte("policies: [{name: p, match: {repositories: [\"**\"]}, require: {signatures: {any_of: [nobody]}}}]"), 0o600); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "tidewaiter.yaml")
		text := tt.text + "\nstorage: {filesystem: {root: " + dir + "/data}}\n"
		if !strings.HasPrefix(tt.text, "listen") {
			text += "listen: {registry: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"}\n"
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got := command(t, "serve", "--config", file)
		if got.code != exitUsage || !strings.Contains(got.stderr, tt.want) || strings.Contains(got.stderr, "hunter2") {
			t.Errorf("%s: code %d, want %d and %q: %s", name, got.code, exitUsage, tt.want, got.stderr)
		}
	}
}

func TestAnEmptyAllowlistAllowsNothing(t *testing.T) {
	c, err := load(t, "upstreams: [{host: a.test, allow: []}, {host: b.test}]")
	if err != nil {
		t.Fatal(err)
	}
	if u := c.upstreams(); u[0].Allow == nil || u[1].Allow != nil {
		t.Errorf("got %#v and %#v, want an empty list and none", u[0].Allow, u[1].Allow)
	}
}

func TestTagTTLOfZeroIsNotTheDefault(t *testing.T) {
	c, err := load(t, "upstreams: [{host: a.test, tag_ttl: 0s}, {host: b.test}]")
	if err != nil {
		t.Fatal(err)
	}
	if u := c.upstreams(); u[0].TagTTL != 0 || u[1].TagTTL != 5*time.Minute {
		t.Errorf("got %s and %s", u[0].TagTTL, u[1].TagTTL)
	}
}
