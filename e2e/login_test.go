package e2e_test

import (
	"slices"
	"strings"
	"testing"
)

// logins are how the users of [pushClients] log in: the program, and what it is told before the user's name and the registry's. It reads
// the password.
var logins = []struct {
	client, program string
	args            []string
	user            string
}{
	{"skopeo copy", "skopeo", []string{"login", "--tls-verify=false", "--password-stdin"}, "--username"},
	{"podman push", "podman", []string{"login", "--tls-verify=false", "--password-stdin"}, "--username"},
	{"buildah push", "buildah", []string{"login", "--tls-verify=false", "--password-stdin"}, "--username"},
	{"docker push", "docker", []string{"login", "--password-stdin"}, "--username"},
	{"crane copy", "crane", []string{"auth", "login", "--insecure", "--password-stdin"}, "--username"},
	{"regctl image copy", "regctl", []string{"registry", "login", "--pass-stdin"}, "--user"},
	{"oras copy", "oras", []string{"login", "--plain-http", "--password-stdin"}, "--username"},
}

// TestLogin has people and machines log in, and push with what they are given for their password.
func TestLogin(t *testing.T) {
	t.Parallel()
	s := hostedSite(t)
	s.push(t, "shop/web", shop(goodLodash))
	secret := s.pushingRobot(t, "builder")
	p := s.serve(t)
	for _, account := range []struct{ name, password string }{{"ci", everybodysPassword}, {"robot+builder", secret}} {
		for _, l := range logins {
			t.Run(account.name+" with "+l.client, func(t *testing.T) {
				t.Parallel()
				u, path := newUser(t), program(t, l.program)
				client := pushClients[slices.IndexFunc(pushClients, func(c pushClient) bool { return c.name == l.client })].start(t, u, p)
				if l.program == "regctl" {
					u.mustRun(t, path, "registry", "set", "--tls", "disabled", p.registry)
				}
				args := slices.Concat(l.args, []string{l.user, account.name, p.registry})
				repo := "apps/open/" + l.program + strings.ReplaceAll(account.name, "+", "-")
				from := s.upstream.Host() + "/shop/web:1.0"
				if out, ok := u.login(path, "wrong", args...); ok && l.program != "crane" { // which does not ask
					t.Errorf("logged in with a wrong password: %s", out)
				}
				if out, ok := client.copy(from, p.hosted(repo)); ok {
					t.Errorf("pushed without a password: %s", out)
				}
				if out, ok := u.login(path, account.password, args...); !ok {
					t.Fatalf("not logged in: %s", out)
				}
				if out, ok := client.copy(from, p.hosted(repo)); !ok {
					t.Fatal(out)
				}
				p.checkServed(t, repo, "1.0")
			})
		}
	}
}

// pushingRobot gives the site a robot that may push, and returns its secret.
func (s *site) pushingRobot(t *testing.T, name string) (secret string) {
	t.Helper()
	rights := s.config["access"].(keys)
	rights["tokens"] = keys{"robots_file": s.path("robots.yaml")}
	rights["grants"] = append(rights["grants"].([]any), keys{"who": "robot:" + name, "repositories": []string{"apps/**"}, "actions": []string{"push"}})
	return s.addRobot(t, name)
}

// login runs a program that reads a password.
func (u *user) login(path, password string, args ...string) (out string, ok bool) {
	cmd := u.command(path, args...)
	cmd.Stdin = strings.NewReader(password)
	b, err := cmd.CombinedOutput()
	return string(b), err == nil
}
