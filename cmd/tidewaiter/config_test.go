package main

import (
	"errors"
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
		"unknown keys, at any depth":     {"lisen: {registry: x}\ngate: {hodl: 5s}\nupstreams: [{host: a.test, ulr: x}]", []string{"lisen", "hodl", "ulr"}},
		"values of another type":         {"gate: {hold: soon}", []string{"Gate.Hold"}},
		"sizes that are none":            {"gate: {max_image_bytes: 20 gigs}", []string{"20 gigs"}},
		"addresses that are none":        {"listen: {registry: nowhere, admin: also}", []string{"listen.registry", "listen.admin"}},
		"plain text off loopback":        {"listen: {registry: \"0.0.0.0:5000\"}\naccess: {anonymous: [{repositories: [\"**\"], actions: [pull]}]}", []string{"unsafe_plaintext"}},
		"an admin address off loopback":  {"listen: {admin: \"0.0.0.0:5001\"}", []string{"listen.admin"}},
		"nobody named off loopback":      {"listen: {registry: \"0.0.0.0:5000\", unsafe_plaintext: true}", []string{"access.anonymous"}},
		"anonymous pushes":               {"access: {anonymous: [{repositories: [\"**\"], actions: [pull, push]}]}", []string{"access.anonymous"}},
		"half a certificate":             {"listen: {tls: {cert: a.pem}}", []string{"cert and key"}},
		"Redis without a seal key":       {"redis: {url: \"redis://127.0.0.1/0\"}", []string{"seal_key_file"}},
		"what this version cannot do":    {"hosted: [{repositories: [\"apps/**\"]}]\naudit: {path: a.log}\nstorage: {max_bytes: 1GiB}", []string{"hosted", "audit.path", "storage.max_bytes"}},
		"levels and formats of no log":   {"log: {level: loud, format: xml}", []string{"log.level", "log.format"}},
		"platforms without architecture": {"gate: {platforms: [linux]}", []string{"gate.platforms"}},
		"YAML that is none":              {"listen: [", []string{"yaml"}},
	}
	for name, tt := range tests {
		t.Run(name+" are refused", func(t *testing.T) {
			_, err := load(t, tt.text)
			var exit *exitError
			if !errors.As(err, &exit) || exit.code != exitUsage {
				t.Fatalf("got %v, want the exit code of a configuration error", err)
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
