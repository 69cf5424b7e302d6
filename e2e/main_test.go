// Package e2e_test runs the program as operators do and pulls through it as clients do. It promises that what is tested is the binary:
// every proxy here is a process of its own, with files for its configuration, in front of upstreams that are servers on loopback.
// Nothing in it reaches into the program.
package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience is how long anything is waited for that should happen at once. It only ends tests that hang.
const patience = 90 * time.Second

// binary is the program, built once for all tests. Nothing writes it after TestMain.
var binary string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "tidewaiter-e2e-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary = filepath.Join(dir, "tidewaiter")
	build := exec.Command("go", "build", "-o", binary, "../cmd/tidewaiter")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("building the program: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// program returns the path of a program that is not ours. A test without it is skipped, except where CI promises that all are there.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: %v", name, err)
	}
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

// command returns a command of somebody who runs nothing else.
func command(t testing.TB, path string, args ...string) *exec.Cmd {
	t.Helper()
	return newUser(t).command(path, args...)
}

// mustRun runs a program that is not ours and returns all it says.
func mustRun(t testing.TB, path string, args ...string) string {
	t.Helper()
	return newUser(t).mustRun(t, path, args...)
}

// said is what a run of our program left behind.
type said struct {
	stdout, stderr string
	code           int
}

// tidewaiter runs our program to its end.
func tidewaiter(t testing.TB, args ...string) said {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd := command(t, binary, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return said{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// replaceFile puts another file where one was, at once, as configuration management does.
func replaceFile(t testing.TB, path string, content []byte) {
	t.Helper()
	writeFile(t, path+".new", content)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
