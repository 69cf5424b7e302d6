package e2e_test

import (
	"strings"
	"testing"
)

// TestLogin has clients log in with a password and push. None of them has more than that to begin with; tokens they get for it.
func TestLogin(t *testing.T) {
	t.Parallel()
	s := hostedSite(t)
	s.push(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	from := s.upstream.Host() + "/shop/web:1.0"
	for _, c := range []struct {
		name  string
		login []string
		push  func(t *testing.T, u *user, to string) (string, bool)
	}{
		{"skopeo", []string{"login", "--tls-verify=false"}, func(t *testing.T, u *user, to string) (string, bool) {
			return u.run(program(t, "skopeo"), "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+from, "docker://"+to)
		}},
		{"crane", []string{"auth", "login", "--insecure"}, func(t *testing.T, u *user, to string) (string, bool) {
			return u.run(program(t, "crane"), "copy", "--insecure", from, to)
		}},
		{"oras", []string{"login", "--plain-http"}, func(t *testing.T, u *user, to string) (string, bool) {
			return u.run(program(t, "oras"), "copy", "--from-plain-http", "--to-plain-http", from, to)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			u, path := newUser(t), program(t, c.name)
			if out, ok := u.login(path, "wrong", append(c.login, "--username", "ci", "--password-stdin", p.registry)...); ok && c.name != "crane" { // which does not ask
				t.Errorf("with a wrong password: %s", out)
			}
			if out, ok := u.login(path, everybodysPassword, append(c.login, "--username", "ci", "--password-stdin", p.registry)...); !ok {
				t.Fatalf("with the right one: %s", out)
			}
			if out, ok := c.push(t, u, p.hosted("apps/open/"+c.name)); !ok {
				t.Error(out)
			}
			p.checkServed(t, "apps/open/"+c.name, "1.0")
		})
	}
	t.Run("podman", func(t *testing.T) {
		u := newUser(t)
		podman := u.podman(t)
		for _, args := range [][]string{
			{"login", "--tls-verify=false", "--username", "ci", "--password", everybodysPassword, p.registry},
			{"pull", "--tls-verify=false", from},
			{"push", "--tls-verify=false", from, p.hosted("apps/open/podman")},
		} {
			if out, ok := podman(args...); !ok {
				t.Fatalf("%s: %s", args[0], out)
			}
		}
		p.checkServed(t, "apps/open/podman", "1.0")
	})
	t.Run("docker", func(t *testing.T) {
		d := startDockerd(t, printed(t, "docker", p, host)[0].Content)
		if out, ok := d.login(d.docker, "wrong", "login", "--username", "ci", "--password-stdin", p.registry); ok {
			t.Errorf("with a wrong password: %s", out)
		}
		if out, ok := d.login(d.docker, everybodysPassword, "login", "--username", "ci", "--password-stdin", p.registry); !ok {
			t.Fatalf("with the right one: %s", out)
		}
		d.mustRun(t, d.docker, "pull", from)
		d.mustRun(t, d.docker, "tag", from, p.hosted("apps/open/docker"))
		d.mustRun(t, d.docker, "push", p.hosted("apps/open/docker"))
		p.checkServed(t, "apps/open/docker", "1.0")
	})
	t.Run("helm and regctl", func(t *testing.T) {
		u := newUser(t)
		u.mustRun(t, program(t, "regctl"), "registry", "set", "--tls", "disabled", p.registry)
		for path, args := range map[string][]string{
			program(t, "helm"):   {"registry", "login", "--plain-http", "--username", "ci", "--password-stdin", p.registry},
			program(t, "regctl"): {"registry", "login", "--user", "ci", "--pass-stdin", p.registry},
		} {
			if out, ok := u.login(path, everybodysPassword, args...); !ok {
				t.Errorf("%s: %s", path, out)
			}
		}
	})
}

// login runs a program that reads a password.
func (u *user) login(path, password string, args ...string) (out string, ok bool) {
	cmd := u.command(path, args...)
	cmd.Stdin = strings.NewReader(password)
	b, err := cmd.CombinedOutput()
	return string(b), err == nil
}
