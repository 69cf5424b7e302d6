package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/access"
)

func TestRobotCommands(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "robots.yaml")
	added := command(t, "robot", "add", "ci", "--for", "720h", "--file", file, "--description", "builds")
	if added.code != exitDone || !regexp.MustCompile(`^twr_[0-9a-f]{64}\n$`).MatchString(added.stdout) || !strings.Contains(added.stderr, "robot+ci") {
		t.Fatalf("add: got %+v", added)
	}
	asJSON := command(t, "robot", "add", "cd", "--file", file, "-o", "json", "-q")
	var made newAccount
	if err := json.Unmarshal([]byte(asJSON.stdout), &made); err != nil || made.User != "robot+cd" || made.Secret == "" || asJSON.stderr != "" {
		t.Errorf("add as JSON: got %+v, %v", asJSON, err)
	}
	list := command(t, "robot", "list", "--file", file)
	if list.code != exitDone || !strings.Contains(list.stdout, "ci ") || !strings.Contains(list.stdout, "builds") || strings.Contains(list.stdout, "secret") {
		t.Errorf("list: got %+v", list)
	}
	config := filepath.Join(dir, "tidewaiter.yaml")
	if err := os.WriteFile(config, []byte("access: {tokens: {robots_file: "+file+"}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	var accounts []account
	configured := command(t, "robot", "list", "--config", config, "-o", "json")
	if err := json.Unmarshal([]byte(configured.stdout), &accounts); err != nil || len(accounts) != 2 || accounts[0].Expired || strings.Contains(configured.stdout, "sha256") {
		t.Errorf("list by the configuration: got %+v, %v", configured, err)
	}
	for _, tt := range []struct {
		law  string
		args []string
		code int
	}{
		{"a name twice", []string{"robot", "add", "ci", "--file", file}, exitFailure},
		{"a name that is none", []string{"robot", "add", "a b", "--file", file}, exitFailure},
		{"no time", []string{"robot", "add", "x", "--for", "0s", "--file", file}, exitUsage},
		{"too much of it", []string{"robot", "add", "x", "--for", "100000h", "--file", file}, exitUsage},
		{"no file", []string{"robot", "list"}, exitUsage},
		{"no name", []string{"robot", "add", "--file", file}, exitUsage},
		{"a robot there is", []string{"robot", "revoke", "ci", "--file", file}, exitDone},
		{"a robot there is not", []string{"robot", "revoke", "nobody", "--file", file}, exitFailure},
		{"a folder that is not there", []string{"robot", "add", "x", "--file", filepath.Join(dir, "none", "robots.yaml")}, exitFailure},
	} {
		if got := command(t, tt.args...); got.code != tt.code || got.stdout != "" {
			t.Errorf("%s: got %+v, want code %d", tt.law, got, tt.code)
		}
	}
	left, err := access.ReadRobots(file)
	if err != nil || len(left) != 1 || left[0].Name != "cd" {
		t.Errorf("got %+v, %v", left, err)
	}
}

func TestTokenKeyCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token.pem")
	if got := command(t, "token-key", file); got.code != exitDone || got.stdout != "" {
		t.Fatalf("got %+v", got)
	}
	if err := access.CheckFiles(access.Options{KeyFile: file}); err != nil {
		t.Error(err)
	}
	if got := command(t, "token-key", file); got.code != exitFailure {
		t.Errorf("a key is replaced: %+v", got)
	}
}
