package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestClientsNameTheProxyAndNoOrigin(t *testing.T) {
	for _, name := range clientNames() {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := []string{"clients", name, "--proxy", "http://proxy.test:5000", "--upstream", "docker.io", "--upstream", "registry.test:8443", "-o", "json"}
			if code := run(t.Context(), args, &stdout, &stderr); code != exitDone {
				t.Fatalf("exit %d: %s", code, stderr.String())
			}
			var files []clientFile
			if err := json.Unmarshal(stdout.Bytes(), &files); err != nil || len(files) == 0 {
				t.Fatalf("%v: %s", err, stdout.String())
			}
			for _, f := range files {
				for _, origin := range []string{"://docker.io", "://registry-1.docker.io", "://registry.test"} {
					if strings.Contains(f.Content, origin) {
						t.Errorf("%s leaves a way to %s:\n%s", f.Path, origin, f.Content)
					}
				}
			}
			if !strings.Contains(files[0].Content, "proxy.test:5000") {
				t.Errorf("%s does not name the proxy:\n%s", files[0].Path, files[0].Content)
			}
		})
	}
}

func TestClientsRefuseWhatTheyCannotWrite(t *testing.T) {
	for name, args := range map[string][]string{
		"an unknown client":        {"clients", "rkt"},
		"no client":                {"clients"},
		"a proxy with a path":      {"clients", "podman", "--proxy", "https://proxy.test/v2"},
		"a proxy that is no URL":   {"clients", "podman", "--proxy", "proxy.test:5000"},
		"an upstream that is none": {"clients", "podman", "--upstream", "docker.io\"]"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, &stdout, &stderr); code != exitUsage || stdout.Len() > 0 {
			t.Errorf("%s: exit %d, %q", name, code, stdout.String())
		}
	}
}
