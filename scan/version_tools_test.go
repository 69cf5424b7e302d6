package scan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// ask has a program that reads JSON and writes JSON answer a question. Where the program or what it needs is missing the test is skipped,
// but never where tests are run for good.
func ask(t *testing.T, question, answer any, program string, args ...string) {
	t.Helper()
	at := need(t, program)
	in, err := json.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	var complaint bytes.Buffer
	cmd := exec.CommandContext(t.Context(), at, args...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &complaint
	out, err := cmd.Output()
	if err != nil {
		missing(t, fmt.Errorf("%s does not have what is needed: %w: %.300s", program, err, complaint.String()))
	}
	if err := json.Unmarshal(out, answer); err != nil {
		t.Fatal(err)
	}
}

// withSemver is how a program for node begins: the library npm compares versions with, as Debian packages it or as npm brings it along.
const withSemver = `const path = require("path"), fs = require("fs");
	const from = p => { try { return require(p) } catch { return null } };
	const brought = path.join(path.dirname(fs.realpathSync(process.execPath)), "../lib/node_modules/npm/node_modules/semver");
	const s = from("/usr/share/nodejs/semver") || from(brought) || require("semver");
	`

func TestNPMOrderIsNodeSemvers(t *testing.T) {
	strict := regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(0|[1-9]\d*|\d*[a-z-][0-9a-z-]*)(\.(0|[1-9]\d*|\d*[a-z-][0-9a-z-]*))*)?$`)
	valid := func(v string) bool { return strict.MatchString(v) && !misreadIdentifier.MatchString(v) }
	pairs := versionPairs(1000, valid, []string{"0", "1", "9", "10", ".0", ".1", ".2.3", "-alpha", "-rc", ".1", "-1", "beta"})
	var want []int
	ask(t, pairs, &want, "node", "-e", withSemver+`console.log(JSON.stringify(JSON.parse(fs.readFileSync(0)).map(p=>s.compare(p[0],p[1]))))`)
	for i, p := range pairs {
		if got, err := compareVersions(orderNPM, p[0], p[1]); err != nil || sign(got) != want[i] {
			t.Errorf("%s against %s is %d, %v; node-semver says %d", p[0], p[1], got, err, want[i])
		}
	}
}

// TestNPMSetsAreNodeSemvers compares the sets advisories are made of with node-semver's, which is told to let candidates of a release
// in wherever they lie, as advisories mean it.
func TestNPMSetsAreNodeSemvers(t *testing.T) {
	sets := []string{
		"<1.2.3", "<=1.2.3", ">1.2.3", ">=1.2.3", "=1.2.3", "1.2.3", ">=1.0.0 <1.2.3", ">=1.0.0, <1.2.3 || >=2.0.0, <2.1.0", "^1.2.3", "^0.2.3", "^0.0.3",
		"~1.2.3", "~1.2", "1.x", "1.2.x", "*", ">=1.2.x", "<1.2.x", "1.2.3 - 1.4.0", ">=2.0.0-0 <2.1.0", "<2.0.0-rc.1",
	}
	versions := []string{
		"0.0.3", "0.0.4", "0.2.2", "0.2.3", "0.2.9", "0.3.0", "1.0.0", "1.1.9", "1.2.0", "1.2.2", "1.2.3", "1.2.4", "1.2.9", "1.3.0", "1.3.9", "1.4.0", "1.4.1", "1.9.9",
		"2.0.0-alpha", "2.0.0-rc.1", "2.0.0-rc.2", "2.0.0", "2.0.9", "2.1.0", "3.0.0",
	}
	spaced := make([]string, len(sets))
	for i, set := range sets {
		spaced[i] = strings.ReplaceAll(set, ",", "")
	}
	var want [][]bool
	ask(t, map[string][]string{"sets": spaced, "versions": versions}, &want, "node", "-e", withSemver+`const q=JSON.parse(fs.readFileSync(0));
		console.log(JSON.stringify(q.sets.map(r=>q.versions.map(v=>s.satisfies(v,r,{includePrerelease:true})))))`)
	for i, text := range sets {
		set, err := parseVersionSet(orderNPM, text)
		if err != nil {
			t.Fatal(err)
		}
		for j, version := range versions {
			if got, err := set.contains(newInstalledVersion(orderNPM, version)); err != nil || got != want[i][j] {
				t.Errorf("%s in %s is %t, %v; node-semver says %t", version, text, got, err, want[i][j])
			}
		}
	}
}

func TestPyPIOrderIsPackagings(t *testing.T) {
	valid := func(v string) bool { return versionForms[orderPyPI].MatchString(v) && !strings.Contains(v, "+") }
	pairs := versionPairs(600, valid, []string{"0", "1", "9", "10", ".0", ".1", "a1", "b2", "rc1", ".dev1", ".post1", "-1", "!1"})
	var want []int
	ask(t, pairs, &want, "python3", "-c", `import json,sys
try:
    from packaging.version import Version as V
except ImportError:
    from pip._vendor.packaging.version import Version as V
print(json.dumps([(V(a)>V(b))-(V(a)<V(b)) for a,b in json.load(sys.stdin)]))`)
	for i, p := range pairs {
		if got, err := compareVersions(orderPyPI, p[0], p[1]); err != nil || sign(got) != want[i] {
			t.Errorf("%s against %s is %d, %v; packaging says %d", p[0], p[1], got, err, want[i])
		}
	}
}

func TestBitnamiOrder(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"20.11.1", "20.11.2", -1}, {"20.9.0", "20.11.0", -1}, {"3.13.0-rc2", "3.13.0", -1}, {"15.5", "15.10", -1}, {"15.5", "15.5.0", 0},
		{"17.0.9", "17.0.21", -1}, {"1.8.392", "1.8.402", -1}, {"17.0.21", "17.0.22", -1},
	} {
		if got, err := compareVersions(orderBitnami, tt.a, tt.b); err != nil || sign(got) != tt.want {
			t.Errorf("%s against %s is %d, %v, want %d", tt.a, tt.b, got, err, tt.want)
		}
	}
}
