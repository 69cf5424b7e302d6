package scan

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// installedRuntimes are the runtimes that are installed where tests are run for good. Go's own is in TestGoToolchain.
var installedRuntimes = []struct {
	name    string // as advisories have it
	program string // a path, as of [filepath.Glob], where it is not among those one can start by name
	// version are arguments with which it says its version before any other number with a dot.
	version []string
	// where are arguments with which it says the path of itself; nil where what is started is the program.
	where []string
	// beside are files, relative to the program, that it loads as it runs.
	beside []string
}{
	{name: "node", program: "node", version: []string{"--version"}, where: []string{"-p", "process.execPath"}},
	{name: "python", program: "python3", version: []string{"--version"}, where: []string{"-c", "import sys; print(sys.executable)"}},
	{name: "java", program: "java", version: []string{"-version"}, beside: []string{"../lib/server/libjvm.so"}},
	{name: "nginx", program: "nginx", version: []string{"-v"}},
	{name: "postgresql", program: "/usr/lib/postgresql/*/bin/postgres", version: []string{"--version"}},
	{name: "php", program: "php", version: []string{"--version"}},
	{name: "ruby", program: "ruby", version: []string{"--version"}, where: []string{"-rrbconfig", "-e", "print RbConfig.ruby"}},
	{name: "redis", program: "redis-server", version: []string{"--version"}},
	{name: "busybox", program: "busybox"},
}

// TestInstalledRuntimes compares what real runtimes say of themselves with what is read in their executable and the libraries it loads.
func TestInstalledRuntimes(t *testing.T) {
	digits := regexp.MustCompile(`\d+(?:\.\d+)+`)
	for _, tt := range installedRuntimes {
		t.Run(tt.name, func(t *testing.T) {
			program := tt.program
			if found, _ := filepath.Glob(program); len(found) > 0 {
				program = found[0]
			}
			at := need(t, program)
			said, _ := exec.CommandContext(t.Context(), at, tt.version...).CombinedOutput() // busybox exits as it likes
			want := []gate.Package{{Type: "generic", Name: tt.name, Version: digits.FindString(string(said))}}
			if tt.where != nil {
				out, err := exec.CommandContext(t.Context(), at, tt.where...).Output()
				if err != nil {
					t.Fatal(err)
				}
				at = string(bytes.TrimSpace(out))
			}
			at, err := filepath.EvalSymlinks(at)
			if err != nil {
				t.Fatal(err)
			}
			files := append(loaded(t, at), at)
			for _, name := range tt.beside {
				files = append(files, filepath.Join(filepath.Dir(at), name))
			}
			found := 0
			for _, name := range files {
				data, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				got := readTar(t, executable(filepath.Join("opt/runtime", filepath.Base(name)), string(data)))
				packages := got.Files[0].Packages
				if !slices.ContainsFunc(packages, func(p gate.Package) bool { return p.Type == "generic" }) {
					continue
				}
				found++
				if diff := cmp.Diff(want, packages); diff != "" || len(got.Gaps) > 0 {
					t.Errorf("%s (-want +got):\n%s\ngaps: %v", name, diff, got.Gaps)
				}
			}
			if found == 0 {
				t.Errorf("%s is not found in %q", want, files)
			}
		})
	}
}

// loaded returns the libraries a program is linked with, by their own names.
func loaded(t *testing.T, program string) []string {
	t.Helper()
	out, _ := exec.CommandContext(t.Context(), "ldd", program).Output() // it fails for what is linked with none
	var files []string
	for line := range strings.Lines(string(out)) {
		if _, at, ok := strings.Cut(line, " => /"); ok {
			at, _, _ = strings.Cut(at, " (")
			files = append(files, "/"+at)
		}
	}
	return files
}
