package credential

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeFile(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return name
}

// helpers puts programs by the names of credential helpers where they are looked up.
func helpers(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		writeFile(t, filepath.Join(dir, "docker-credential-"+name), "#!/bin/sh\n"+script+"\n", 0o755)
	}
	t.Setenv("PATH", dir)
}

func TestDockerConfig(t *testing.T) {
	helpers(t, map[string]string{
		"vault":  `read server; echo "{\"Username\":\"vault\",\"Secret\":\"$server\"}"`,
		"empty":  `echo "credentials not found in native keychain"; exit 1`,
		"broken": `echo "the keychain is locked"; exit 1`,
	})
	auth := base64.StdEncoding.EncodeToString([]byte("u:p:q"))
	for name, tc := range map[string]struct {
		registry, text string
		want           string // user name and password, with a colon between
		wantErr        string
	}{
		"by its name":             {"a.test", `{"auths":{"a.test":{"auth":"` + auth + `"}}}`, "u:p:q", ""},
		"by its URL":              {"a.test:5000", `{"auths":{"https://a.test:5000/v1/":{"auth":"` + auth + `"}}}`, "u:p:q", ""},
		"in two fields":           {"a.test", `{"auths":{"a.test":{"username":"u","password":"p"}}}`, "u:p", ""},
		"an identity token":       {"a.test", `{"auths":{"a.test":{"auth":"` + auth + `","identitytoken":"t"}}}`, Token + ":t", ""},
		"Docker Hub":              {"docker.io", `{"auths":{"https://index.docker.io/v1/":{"auth":"` + auth + `"}}}`, "u:p:q", ""},
		"its name before its URL": {"a.test", `{"auths":{"https://a.test":{"username":"x","password":"x"},"a.test":{"username":"u","password":"p"}}}`, "u:p", ""},
		"a helper":                {"a.test", `{"credHelpers":{"a.test":"vault"},"auths":{"a.test":{"auth":"` + auth + `"}}}`, "vault:a.test", ""},
		"a helper for Docker Hub": {"docker.io", `{"credHelpers":{"docker.io":"vault"}}`, "vault:https://index.docker.io/v1/", ""},
		"a store":                 {"a.test", `{"credsStore":"vault"}`, "vault:a.test", ""},
		"a helper before a store": {"a.test", `{"credsStore":"broken","credHelpers":{"a.test":"vault"}}`, "vault:a.test", ""},
		"a store that has none":   {"a.test", `{"credsStore":"empty","auths":{"a.test":{"auth":"` + auth + `"}}}`, "u:p:q", ""},
		"and neither the file":    {"a.test", `{"credsStore":"empty"}`, "", "no credential for a.test"},
		"a helper that fails":     {"a.test", `{"credHelpers":{"a.test":"broken"},"auths":{"a.test":{"auth":"` + auth + `"}}}`, "", "the keychain is locked"},
	} {
		t.Run(name, func(t *testing.T) {
			file := writeFile(t, filepath.Join(t.TempDir(), "config.json"), tc.text, 0o600)
			username, password, err := ask(t, Config{Registry: tc.registry, DockerConfig: file})
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Errorf("got %v, want %q", err, tc.wantErr)
				}
				return
			}
			if got := username + ":" + password; err != nil || got != tc.want {
				t.Errorf("got %s, %v, want %s", got, err, tc.want)
			}
		})
	}
}

func TestDockerConfigProblems(t *testing.T) {
	helpers(t, nil)
	for name, tc := range map[string]struct{ text, want string }{
		"no JSON":               {`secret`, "is not a docker configuration"},
		"too large":             {strings.Repeat(" ", maxConfigBytes+1), "larger than"},
		"another registry":      {`{"auths":{"b.test":{"auth":"dTpw"}}}`, "no credential for a.test"},
		"a part of a registry":  {`{"auths":{"a.test/team":{"auth":"dTpw"}}}`, "no credential for a.test"},
		"an empty entry":        {`{"auths":{"a.test":{}}}`, "no credential for a.test"},
		"no base64":             {`{"auths":{"a.test":{"auth":"secret!"}}}`, "not a user name and a password"},
		"no password":           {`{"auths":{"a.test":{"auth":"dTo="}}}`, "not a user name and a password"},
		"a registry token":      {`{"auths":{"a.test":{"registrytoken":"secret"}}}`, "not supported"},
		"a helper that is none": {`{"credHelpers":{"a.test":"nowhere"}}`, "docker-credential-nowhere"},
		"a helper with a path":  {`{"credHelpers":{"a.test":"../../bin/sh"}}`, "not the name of a credential helper"},
		"a store with a path":   {`{"credsStore":"x/y"}`, "not the name of a credential helper"},
	} {
		t.Run(name, func(t *testing.T) {
			file := writeFile(t, filepath.Join(t.TempDir(), "config.json"), tc.text, 0o600)
			_, err := New(Config{Registry: "a.test", DockerConfig: file}, nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, which repeats what may be a secret", err)
			}
		})
	}
}

// A configuration may be replaced, with whatever there is of it then.
func TestDockerConfigIsReadAnew(t *testing.T) {
	name := writeFile(t, filepath.Join(t.TempDir(), "config.json"), `{"auths":{"a.test":{"username":"u","password":"one"}}}`, 0o600)
	c := newClock()
	cache, err := New(Config{Registry: "a.test", DockerConfig: name}, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ text, want string }{
		{`{"auths":{"a.test":{"username":"u","password":"one"}}}`, "one"},
		{`{"auths":{"a.test":{"username":"u","password":"two"}}}`, "two"},
		{`{}`, ""},
	} {
		writeFile(t, name, step.text, 0o600)
		_, got, err := cache.Credential(t.Context())
		if got != step.want || (err == nil) != (step.want != "") {
			t.Errorf("got %q, %v, want %q", got, err, step.want)
		}
		c.advance(unsaidLifetime)
	}
}

// Whatever a configuration holds, reading it ends in a credential or an error that repeats nothing of it.
func FuzzDockerConfig(f *testing.F) {
	f.Add(`{"auths":{"a.test":{"auth":"dTpw"}}}`)
	f.Add(`{"auths":{"a.test":{"identitytoken":"t"}},"credHelpers":{"a.test":"x"}}`)
	f.Add(`{"auths":{"a.test":{"auth":"!"}}}`)
	file := filepath.Join(f.TempDir(), "config.json")
	f.Fuzz(func(t *testing.T, text string) {
		writeFile(t, file, text, 0o600)
		d := &dockerConfig{file: file, registry: "a.test"}
		said, err := d.read()
		if err != nil {
			return
		}
		if found, err := said.entry("a.test"); err == nil && (found.Username == "" || found.Password == "") {
			t.Errorf("got %v without an error", found)
		}
	})
}
