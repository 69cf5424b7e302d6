package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/access"
)

const exposed = "listen: {registry: \"0.0.0.0:5000\", unsafe_plaintext: true}\n"

func TestAccessIsReadStrictly(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []string // all of them, in one error
	}{
		"anonymous pushes off loopback": {exposed + "access: {anonymous: [{repositories: [\"**\"], actions: [pull, push, delete]}]}",
			[]string{"off loopback push needs access.unsafe_anonymous_push", "delete needs"}},
		"anonymous reviews off loopback": {exposed + "access: {unsafe_anonymous_push: true, anonymous: [{repositories: [\"**\"], actions: [review, admin]}]}",
			[]string{"nobody may review", "nobody may admin"}},
		"anonymous pushes where only the admin address is exposed": {"listen: {admin: \"0.0.0.0:5001\", unsafe_plaintext: true}\naccess: {anonymous: [{repositories: [\"**\"], actions: [push]}]}",
			[]string{"unsafe_anonymous_push"}},
		"actions there are not":      {"access: {anonymous: [{repositories: [\"**\"], actions: [fly]}]}", []string{`access.anonymous[0]: action "fly"`}},
		"grants to nobody":           {"access: {grants: [{who: ci, repositories: [\"**\"], actions: [pull]}, {who: \"oidc:https://a.test:x\"}]}", []string{"access.grants[0]", "access.grants[1]: names no actions", "no configured issuer"}},
		"issuers that are none":      {"access: {oidc: [{issuer: \"http://a.test\", subject: \"*\"}]}", []string{"access.oidc[0]: issuer", "access.oidc[0]: audience"}},
		"tokens that last":           {"access: {tokens: {ttl: 720h, realm: registry.test}}", []string{"access.tokens.ttl", "access.tokens.realm"}},
		"groups among required ones": {"access: {oidc: [{issuer: \"https://a.test\", audience: us, subject: \"*\", required_claims: [{claim: a, value: b, group: c}]}]}", []string{"required_claims"}},
		"keys that are mistyped":     {"access: {basic: {htpasswd: x}, grants: [{whom: x}], oidc: [{isuer: x}]}", []string{"htpasswd", "whom", "isuer"}},
		"client CAs without TLS":     {"listen: {tls: {client_ca: ca.pem}}", []string{"listen.tls.client_ca"}},
	} {
		_, err := load(t, tt.text)
		if err == nil {
			t.Errorf("%s are taken", name)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is not in:\n%v", name, want, err)
			}
		}
	}
}

func TestWhatEverybodyMayByDefault(t *testing.T) {
	all := []access.Rule{{Repositories: []string{"**"}, Actions: []string{"pull"}}}
	for name, tt := range map[string]struct {
		text string
		want []access.Rule
	}{
		"all pulls on loopback":                {"{}", all},
		"nothing once there are grants":        {"access: {grants: [{who: authenticated, repositories: [\"**\"], actions: [pull]}]}", nil},
		"nothing off loopback":                 {exposed + "access: {grants: [{who: authenticated, repositories: [\"**\"], actions: [pull]}]}", nil},
		"what is written":                      {"access: {anonymous: [{repositories: [\"a/**\"], actions: [push]}]}", []access.Rule{{Repositories: []string{"a/**"}, Actions: []string{"push"}}}},
		"pushes off loopback, when it is said": {exposed + "access: {unsafe_anonymous_push: true, anonymous: [{repositories: [\"a/**\"], actions: [push]}]}", []access.Rule{{Repositories: []string{"a/**"}, Actions: []string{"push"}}}},
	} {
		c, err := load(t, tt.text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(c.access().Anonymous, tt.want); diff != "" {
			t.Errorf("%s (-got +want):\n%s", name, diff)
		}
		if got, want := strings.Join(c.unsafe(), " "), c.Access.UnsafeAnonymousPush; strings.Contains(got, "unsafe_anonymous_push") != want {
			t.Errorf("%s: unsafe options: got %q", name, got)
		}
	}
}

func TestAccessOptions(t *testing.T) {
	c, err := load(t, `
access:
  basic: {htpasswd_file: htpasswd}
  tokens: {key_file: token.pem, ttl: 5m, realm: "https://registry.test/token", robots_file: robots.yaml}
  oidc:
    - issuer: https://ci.test
      audience: us
      subject: "repo:acme/*"
      groups_claim: groups
      groups_prefix: "ci/"
      groups: [{claim: repositoryOwner, value: acme, group: builders}]
      required_claims: [{claim: projectPath, value: "acme/*"}]
      ca_file: ca.pem
      discovery_url: https://ci.test/discovery
      jwks_url: https://ci.test/keys
      token_file: token
  grants:
    - {who: "oidc:https://ci.test:repo:acme/*", repositories: ["apps/**"], actions: [push, delete]}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := access.Options{
		Grants:       []access.Grant{{Who: "oidc:https://ci.test:repo:acme/*", Rule: access.Rule{Repositories: []string{"apps/**"}, Actions: []string{"push", "delete"}}}},
		HtpasswdFile: "htpasswd", RobotsFile: "robots.yaml", KeyFile: "token.pem", TokenTTL: 5 * time.Minute, Realm: "https://registry.test/token",
		Issuers: []access.Issuer{{
			Issuer: "https://ci.test", Audience: "us", Subject: "repo:acme/*", GroupsClaim: "groups", GroupsPrefix: "ci/",
			Groups:         []access.ClaimGroup{{Claim: "repositoryOwner", Value: "acme", Group: "builders"}},
			RequiredClaims: []access.Claim{{Claim: "projectPath", Value: "acme/*"}},
			CAFile:         "ca.pem", DiscoveryURL: "https://ci.test/discovery", JWKSURL: "https://ci.test/keys", TokenFile: "token",
		}},
	}
	if diff := cmp.Diff(c.access(), want); diff != "" {
		t.Errorf("-got +want:\n%s", diff)
	}
}

func TestFilesOfAccessAreReadBeforeAnythingStarts(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tidewaiter.yaml")
	if err := os.WriteFile(filepath.Join(dir, "htpasswd"), []byte("a:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := "storage: {filesystem: {root: " + dir + "/data}}\nlisten: {tls: {client_ca: " + dir + "/none.ca, cert: " + dir + "/c, key: " + dir + "/k}}\n" +
		"access: {basic: {htpasswd_file: " + dir + "/htpasswd}, tokens: {key_file: " + dir + "/none.pem, robots_file: " + dir + "/none.yaml}, " +
		"oidc: [{issuer: \"https://a.test\", audience: us, subject: \"*\", ca_file: " + dir + "/none.crt}]}\nlog: {level: loud}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := command(t, "serve", "--config", file)
	for _, want := range []string{"htpasswd: line 1", "none.pem", "none.yaml", "none.crt", "none.ca", "log.level"} {
		if !strings.Contains(got.stderr, want) || got.code != exitUsage {
			t.Errorf("code %d, and %q is not in:\n%s", got.code, want, got.stderr)
		}
	}
}
