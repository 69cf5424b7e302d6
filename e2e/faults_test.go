package e2e_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	namedTest    = regexp.MustCompile("`([a-z0-9]+)\\.(Test[A-Za-z0-9]+)`")
	declaredTest = regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(t \*testing\.T\)`)
)

// testsIn returns the tests that are declared in files, sorted.
func testsIn(t *testing.T, patterns ...string) (tests []string) {
	t.Helper()
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range declaredTest.FindAllSubmatch(source, -1) {
				tests = append(tests, string(found[1]))
			}
		}
	}
	slices.Sort(tests)
	return tests
}

// TestFaultsTable compares docs/faults.md with the tests there are: it names none that does not exist, and all that are about faults.
func TestFaultsTable(t *testing.T) {
	doc, err := os.ReadFile("../docs/faults.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string][]string{}
	for _, found := range namedTest.FindAllSubmatch(doc, -1) {
		named[string(found[1])] = append(named[string(found[1])], string(found[2]))
	}
	for of, tests := range named {
		there := testsIn(t, filepath.Join("..", of, "*_test.go"))
		for _, name := range tests {
			if !slices.Contains(there, name) {
				t.Errorf("there is no %s in %s", name, of)
			}
		}
	}
	faults := testsIn(t, "*_faults_test.go", "*kill_test.go", "clocks_test.go", "fleet_test.go", "redis_test.go", "storage_test.go", "hosted_storage_test.go", "restart_test.go")
	unnamed := slices.DeleteFunc(faults, func(name string) bool { return slices.Contains(named["e2e"], name) })
	if diff := cmp.Diff(unnamed, []string{}); diff != "" {
		t.Errorf("docs/faults.md does not name (-got +want):\n%s", diff)
	}
}
