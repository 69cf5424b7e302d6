package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/upstream"
)

func TestCredentialsThatCannotBeUsed(t *testing.T) {
	for name, tt := range map[string]struct {
		credentials string
		want        []string
	}{
		"helpers nobody knows":         {"{helper: keychain}", []string{"upstreams[0] a.test: credentials: helper:", `"keychain"`}},
		"programs by a relative path":  {"{helper: exec, exec: {command: [vault]}}", []string{"credentials: exec:"}},
		"programs nobody asks for":     {"{exec: {command: [/bin/sh]}}", []string{"credentials: exec goes with helper: exec"}},
		"docker configurations gone":   {"{docker_config: /nowhere/config.json}", []string{"credentials: docker_config:"}},
		"two ways at once":             {"{username: u, password_file: f, helper: exec, exec: {command: [/bin/sh]}}", []string{"credentials:", "exclude"}},
		"variables that are none":      {"{helper: exec, exec: {command: [/bin/sh]}, environment: [hunter2]}", []string{"environment"}},
		"variables for nobody":         {"{environment: [A=b]}", []string{"helper:"}},
		"Amazon's, for somebody else":  {"{helper: ecr}", []string{"ecr"}},
		"Google's, for somebody else":  {"{helper: gcr}", []string{"gcr"}},
		"Microsoft's, for others, too": {"{helper: acr}", []string{"acr"}},
	} {
		t.Run(name+" are refused", func(t *testing.T) {
			c, err := load(t, "upstreams: [{host: a.test, credentials: "+tt.credentials+"}]")
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, problem := range c.installationProblems() {
				all = append(all, problem.Error())
			}
			for _, want := range tt.want {
				if !strings.Contains(strings.Join(all, "\n"), want) {
					t.Errorf("%q is not named in:\n%s", want, strings.Join(all, "\n"))
				}
			}
			if strings.Contains(fmt.Sprint(all), "hunter2") {
				t.Errorf("it shows what may be a secret: %v", all)
			}
		})
	}
}

// What a configuration names is what the upstream gets.
func TestCredentialsOfAProgramReachTheUpstream(t *testing.T) {
	var got []string
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if username, password, ok := r.BasicAuth(); ok {
			got = append(got, username+":"+password)
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer registry.Close()
	c, err := load(t, fmt.Sprintf(`upstreams:
  - host: a.test
    url: %s
    unsafe_private_addresses: true
    credentials:
      helper: exec
      exec: {command: [/bin/sh, -c, 'read host; echo "{\"Username\":\"$NAME\",\"Secret\":\"$host\"}"']}
      environment: [NAME=robot]
`, registry.URL))
	if err != nil {
		t.Fatal(err)
	}
	configs, err := c.dialled()
	if err != nil {
		t.Fatal(err)
	}
	upstreams, err := upstream.New(configs, upstream.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer upstreams.Close()
	_, err = upstreams.Manifest(t.Context(), oci.Repository{Upstream: "a.test", Path: "app"}, "latest")
	if !oci.IsMissing(err) || fmt.Sprint(got) != "[robot:a.test]" {
		t.Errorf("got %v and credentials %q, want robot:a.test", err, got)
	}
}

// The recipes are configurations as they stand, and no key of an upstream goes without a word.
func TestPageOnUpstreams(t *testing.T) {
	page := string(readFile(t, "../../docs/upstreams.md"))
	recipes := 0
	for i, block := range strings.Split(page, "```") {
		recipe, ok := strings.CutPrefix(block, "yaml\n")
		if i%2 == 0 || !ok {
			continue
		}
		recipes++
		c, err := load(t, "upstreams:\n"+recipe)
		if err != nil {
			t.Errorf("%s: %v", recipe, err)
			continue
		}
		if u := c.upstreams()[0]; u.Host == "" || c.Upstreams[0].Credentials.Username == "" && !c.Upstreams[0].Credentials.fetched() {
			t.Errorf("%s: got %+v, want an upstream with credentials", recipe, u)
		}
	}
	if recipes < 5 {
		t.Errorf("got %d recipes", recipes)
	}
	for _, key := range keysOf(reflect.TypeFor[upstreamConfig](), "") {
		name := key[strings.LastIndexByte(key, '.')+1:]
		if !strings.Contains(page, "`"+name) && !strings.Contains(page, name+":") && !strings.Contains(page, "."+name+"`") {
			t.Errorf("the page has no word about %s", key)
		}
	}
}
