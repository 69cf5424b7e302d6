package scan

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

const installedOK = "Status: install ok installed\nMaintainer: a\nArchitecture: amd64\nDescription: x\n"

// dpkgStates are states of dpkg that are written in unusual ways. want are the packages read, "name version"; gap is whether there is
// something that could not be.
var dpkgStates = []struct {
	name, state string
	want        []string
	gap         bool
}{
	{"two", "Package: a1\nVersion: 1\n" + installedOK + "\nPackage: b1\nVersion: 2\n" + installedOK, []string{"a1 1", "b1 2"}, false},
	{"empty lines in between", "\n\nPackage: a1\nVersion: 1\n" + installedOK + "\n\n\nPackage: b1\nVersion: 2\n" + installedOK + "\n\n", []string{"a1 1", "b1 2"}, false},
	{"no final newline", "Package: a1\nVersion: 1\n" + installedOK + "\nPackage: b1\nVersion: 2\nStatus: install ok installed", []string{"a1 1", "b1 2"}, false},
	{"one letter of the last line", "Package: a1\nVersion: 1\n" + installedOK + "\nP", []string{"a1 1"}, true},
	{"version last, without newline", "Package: a1\n" + installedOK + "Version: 1", []string{"a1 1"}, false},
	{"no version", "Package: a1\n" + installedOK + "\nPackage: b1\nVersion: 2\n" + installedOK, []string{"b1 2"}, true},
	{"an empty version", "Package: a1\nVersion:\n" + installedOK, nil, true},
	{"no version, half installed", "Package: a1\nStatus: install ok half-installed\n", nil, true},
	{"no version, removed", "Package: a1\nStatus: deinstall ok config-files\n\nPackage: b1\nStatus: unknown ok not-installed\n", nil, false},
	{"no state", "Package: a1\nVersion: 1\nMaintainer: a\n", []string{"a1 1"}, false},
	{"a state dpkg does not read", "Package: a1\nVersion: 1\nStatus: deinstall ok not-installed x\n", []string{"a1 1"}, false},
	{"no name", "Version: 1\n" + installedOK + "\nPackage: b1\nVersion: 2\n" + installedOK, []string{"b1 2"}, true},
	{"an empty name", "Package: \nVersion: 1\n" + installedOK, nil, true},
	{"a name that is none", "Package: a1 b1\nVersion: 1\n" + installedOK, nil, true},
	{"a name in capitals", "Package: OpenSSL\nVersion: 1\n" + installedOK, []string{"openssl 1"}, false},
	{"fields in capitals", "PACKAGE: a1\nversion: 1\nSTATUS: install ok installed\n", []string{"a1 1"}, false},
	{"space before colons", "Package : a1\nVersion\t: 1\n" + installedOK, []string{"a1 1"}, false},
	{"space around values", "Package:\ta1 \nVersion:1\t\n" + installedOK, []string{"a1 1"}, false},
	{"name and version on lines of their own", "Package:\n a1\nVersion:\n 1\n" + installedOK, []string{"a1 1"}, false},
	{"a name on two lines", "Package: a1\n b1\nVersion: 1\n" + installedOK, nil, true},
	{"a state on two lines", "Package: a1\nVersion: 1\nStatus: deinstall ok\n not-installed\n", nil, false},
	{"a name twice", "Package: a1\nPackage: b1\nVersion: 1\n" + installedOK, []string{"a1 1"}, true},
	{"a version twice", "Package: a1\nVersion: 1\nVersion: 2\n" + installedOK, []string{"a1 1"}, true},
	{"a state twice", "Package: a1\nVersion: 1\nStatus: deinstall ok not-installed\n" + installedOK, nil, true},
	{"a package twice", "Package: a1\nVersion: 1\n" + installedOK + "\nPackage: a1\nVersion: 2\n" + installedOK, []string{"a1 1", "a1 2"}, false},
	{"a revision apart", "Package: a1\nVersion: 1\nRevision: 2\n" + installedOK, []string{"a1 1"}, true},
	{"lines of other systems", "Package: a1\r\nVersion: 1\r\nStatus: install ok installed\r\n\r\nPackage: b1\r\nVersion: 2\r\nStatus: install ok installed\r\n", []string{"a1 1", "b1 2"}, false},
	{"an empty line with a space", "Package: a1\nVersion: 1\n" + installedOK + " \nPackage: b1\nVersion: 2\n" + installedOK, []string{"a1 1"}, true},
	{"a form feed", "Package: a1\nVersion: 1\n" + installedOK + "\n\fPackage: b1\nVersion: 2\n" + installedOK, []string{"a1 1"}, true},
	{"what ends files elsewhere", "Package: a1\nVersion: 1\n" + installedOK + "\x1aPackage: b1\nVersion: 2\n" + installedOK, []string{"a1 1"}, true},
	{"the same in a line", "Package: a1\nVersion: 1\x1aStatus: install ok installed\n", nil, true},
	{"a NUL in a name", "Package: openssl\x00x\nVersion: 1\n" + installedOK, nil, true},
	{"a comment", "# a1\nPackage: a1\nVersion: 1\n" + installedOK, []string{"a1 1"}, true},
	{"a line without a colon", "Package: a1\nVersion: 1\nnonsense\n" + installedOK, []string{"a1 1"}, true},
	{"a long line", "Package: a1\nVersion: 1\nDepends: " + strings.Repeat("b1, ", 100_000) + "\n" + installedOK + "\nPackage: b1\nVersion: 2\n" + installedOK, []string{"a1 1", "b1 2"}, false},
	{"a version of many lines", "Package: a1\nVersion: 1\n" + strings.Repeat(" \n", 2) + strings.Repeat(" 2\n", 10_000) + installedOK, nil, true},
	{"a source without a space", "Package: a1\nVersion: 1\nSource: b1(2)\n" + installedOK, []string{"a1 1 of b1 2"}, false},
	{"a source of which nothing is known", "Package: a1\nVersion: 1\nSource: b1 c1\n" + installedOK, []string{"a1 1"}, true},
}

func TestDpkgState(t *testing.T) {
	for _, tt := range dpkgStates {
		t.Run(tt.name, func(t *testing.T) {
			wantState(t, readTar(t, regular("var/lib/dpkg/status", tt.state)), tt.want, tt.gap)
		})
	}
}

// wantState fails unless got has the packages want, "name version", with the source if it is another, and a gap if there is to be one.
func wantState(t *testing.T, got gate.LayerInventory, want []string, gap bool) {
	t.Helper()
	var packages []string
	for _, f := range got.Files {
		for _, p := range f.Packages {
			s := p.Name + " " + p.Version
			if p.Source != "" {
				s += " of " + p.Source + " " + p.SourceVersion
			}
			packages = append(packages, s)
		}
	}
	if diff := gocmp.Diff(want, packages); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	var wantGaps []gate.GapKind
	if gap {
		wantGaps = []gate.GapKind{gate.GapUnreadablePackage}
	}
	if kinds := gapKinds(got.Gaps); !slices.Equal(kinds, wantGaps) {
		t.Errorf("gaps %v, want %v", got.Gaps, wantGaps)
	}
}

// TestDpkgStateIsWhatDpkgReads has dpkg itself read the same states: what it takes for a package is one here, or there is a gap.
func TestDpkgStateIsWhatDpkgReads(t *testing.T) {
	need(t, "dpkg-query")
	read := 0 // by dpkg, of all states
	for _, tt := range dpkgStates {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, sub := range []string{"updates", "info"} {
				if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "status"), []byte(tt.state), 0o600); err != nil {
				t.Fatal(err)
			}
			query := exec.CommandContext(t.Context(), "dpkg-query", "--admindir="+dir, "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n")
			out, _ := query.Output() // it fails where it reads nothing
			got, err := readDpkg(t.Context(), file{path: "var/lib/dpkg/status", data: []byte(tt.state)})
			for line := range strings.Lines(string(out)) {
				read++
				state, id, _ := strings.Cut(strings.TrimSpace(line), " ")
				found := slices.ContainsFunc(got, func(p gate.Package) bool { return p.Name+" "+p.Version == id })
				if state != "config-files" && !found && err == nil {
					t.Errorf("dpkg reads %s, which is not among %v, and there is no gap", line, got)
				}
			}
		})
	}
	if read == 0 {
		t.Error("dpkg reads no package of any state, so nothing is compared")
	}
}

func TestJournalIsAGap(t *testing.T) {
	for _, tt := range []struct {
		e    entry
		want []gate.GapKind
	}{
		{regular("var/lib/dpkg/updates/0001", "Package: a1\nVersion: 1\n"+installedOK), []gate.GapKind{gate.GapUnreadablePackage}},
		{regular("var/lib/dpkg/updates/0001", ""), nil},
		{regular("var/lib/dpkg/updates/tmp.i", strings.Repeat("#padding\n", 100)), nil}, // dpkg's reserve of disk space
		{regular("var/lib/rpm/rpmdb.sqlite-journal", "x"), []gate.GapKind{gate.GapUnreadablePackage}},
		{symlink("var/lib/dpkg/updates", "/elsewhere"), []gate.GapKind{gate.GapUnresolvedLink}},
	} {
		if kinds := gapKinds(readTar(t, tt.e).Gaps); !slices.Equal(kinds, tt.want) {
			t.Errorf("%s: gaps %v, want %v", tt.e.header.Name, kinds, tt.want)
		}
	}
}

// FuzzDpkgState reads a state that is anything: what is read without an error is a package of a name and a version each.
func FuzzDpkgState(f *testing.F) {
	for _, tt := range dpkgStates {
		if len(tt.state) < 1<<10 {
			f.Add([]byte(tt.state))
		}
	}
	f.Fuzz(func(t *testing.T, state []byte) {
		packages, _ := readDpkg(t.Context(), file{path: "var/lib/dpkg/status", data: state})
		for _, p := range packages {
			if !dpkgName.MatchString(p.Name) || p.Version == "" || strings.ContainsAny(p.Version, " \n\x00") {
				t.Errorf("package %+v", p)
			}
		}
	})
}
