package scan

import (
	"strings"
	"testing"
)

// apkStates are states of apk that are written in unusual ways, as dpkgStates are.
var apkStates = []struct {
	name, state string
	want        []string
	gap         bool
}{
	{"two", "P:a\nV:1\nA:x86_64\n\nP:b\nV:2\n\n", []string{"a 1", "b 2"}, false},
	{"no final newline", "P:a\nV:1\n\nV:2\nP:b", []string{"a 1", "b 2"}, false},
	{"files, the names of which say nothing", "P:a\nV:1\nF:P\nR:V:2\nF:\nM:0:0:1777\n\n", []string{"a 1"}, false},
	{"no version", "P:a\nA:x86_64\n\nP:b\nV:2\n\n", []string{"b 2"}, true},
	{"an empty version", "P:a\nV:\n\n", nil, true},
	{"no name", "V:1\n\nP:b\nV:2\n", []string{"b 2"}, true},
	{"an empty name", "P:\nV:1\n\n", nil, true},
	{"a name twice", "P:a\nP:b\nV:1\n\n", []string{"a 1"}, true},
	{"a version twice", "P:a\nV:1\nV:2\n\n", []string{"a 1"}, true},
	{"lines of other systems", "P:a\r\nV:1\r\n\r\nP:b\r\nV:2\r\n", []string{"a 1", "b 2"}, false},
	{"an empty line with a space", "P:a\nV:1\n \nP:b\nV:2\n", []string{"a 1", "b 2"}, false},
	{"a space before the name", "P: a\nV:1\n\n", nil, true},
	{"a NUL in a name", "P:a\x00b\nV:1\n\n", nil, true},
	{"a longer field", "PX:a\nV:1\n\n", nil, true},
	{"a line without a colon", "P:a\nV:1\nnonsense\n\nP:b\nV:2\n\n", []string{"a 1", "b 2"}, true},
	{"a long line", "P:a\nV:1\np:" + strings.Repeat("so:b ", 100_000) + "\n\nP:b\nV:2\n", []string{"a 1", "b 2"}, false},
	{"fields in small letters", "p:a\nv:1\n\n", nil, true},
}

func TestAPKState(t *testing.T) {
	for _, tt := range apkStates {
		t.Run(tt.name, func(t *testing.T) {
			wantState(t, readTar(t, regular("lib/apk/db/installed", tt.state)), tt.want, tt.gap)
		})
	}
}

// FuzzAPKState reads a state that is anything: what is read without an error is a package of a name and a version each.
func FuzzAPKState(f *testing.F) {
	for _, tt := range apkStates {
		if len(tt.state) < 1<<10 {
			f.Add([]byte(tt.state))
		}
	}
	f.Fuzz(func(t *testing.T, state []byte) {
		packages, _ := readAPK(t.Context(), file{path: "lib/apk/db/installed", data: state})
		for _, p := range packages {
			if p.Name == "" || p.Version == "" || strings.ContainsAny(p.Name+p.Version, " \n\x00") {
				t.Errorf("package %+v", p)
			}
		}
	})
}
