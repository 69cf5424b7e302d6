package scan

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// goProgram returns a program that Go builds, of a module with one dependency.
func goProgram(t *testing.T, system string) []byte {
	t.Helper()
	if testing.Short() {
		t.Skip("it builds a program")
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":       "module example.test/tide\n\ngo 1.21\n\nrequire example.test/buoy v1.2.3\n\nreplace example.test/buoy => ./buoy\n",
		"main.go":      "package main\n\nimport \"example.test/buoy\"\n\nfunc main() { println(buoy.Light) }\n",
		"buoy/go.mod":  "module example.test/buoy\n\ngo 1.21\n",
		"buoy/buoy.go": "// Package buoy is a dependency.\npackage buoy\n\n// Light is what it shows.\nconst Light = \"green\"\n",
	} {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "tide")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOOS="+system, "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building a program: %v\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Where a 64-bit ELF header has what is overwritten below (ELF-64 object file format, 3), and the first program header.
const (
	elfClass          = 4
	elfByteOrder      = 5
	elfVersion        = 6
	elfSegmentsOffset = 0x20
	elfSectionsOffset = 0x28
	elfSegmentBytes   = 0x36
	elfSectionBytes   = 0x3a
	elfSectionCount   = 0x3c
	elfNamesIndex     = 0x3e
)

// overwritten returns program with bytes at an offset.
func overwritten(program []byte, at int, bytes ...byte) string {
	changed := append([]byte(nil), program...)
	copy(changed[at:], bytes)
	return string(changed)
}

// sectionHeader returns where the header of the section called name lies.
func sectionHeader(t *testing.T, program []byte, name string) int {
	t.Helper()
	parsed, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range parsed.Sections {
		if s.Name == name {
			return int(binary.LittleEndian.Uint64(program[elfSectionsOffset:])) + i*64
		}
	}
	t.Fatalf("no section %q", name)
	return 0
}

// TestGoBinariesAreFoundWhateverTheirHeadersSay changes what Linux and Windows do not look at when they start a program.
func TestGoBinariesAreFoundWhateverTheirHeadersSay(t *testing.T) {
	linux := goProgram(t, "linux")
	windows := goProgram(t, "windows")
	coff := int(binary.LittleEndian.Uint32(windows[0x3c:])) + 4
	all := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	information := sectionHeader(t, linux, ".go.buildinfo")
	stripped := overwritten(linux, elfSectionsOffset, make([]byte, 8)...)
	for _, tt := range []struct{ name, program string }{
		{"as it was built", string(linux)},
		{"sections that lie nowhere", overwritten(linux, elfSectionsOffset, all...)},
		{"no sections", overwritten(linux, elfSectionsOffset, make([]byte, 8)...)},
		{"sections in the middle of something else", overwritten(linux, elfSectionsOffset, 0x40, 0, 0, 0, 0, 0, 0, 0)},
		{"more sections than there are", overwritten(linux, elfSectionCount, 0xfe, 0xfe)},
		{"sections of another size", overwritten(linux, elfSectionBytes, 1, 0)},
		{"names of sections that lie nowhere", overwritten(linux, elfNamesIndex, 0xfe, 0xfe)},
		{"another section for names", overwritten(linux, elfNamesIndex, 1, 0)},
		{"stripped of its sections", overwritten([]byte(stripped), elfSectionBytes, make([]byte, 6)...)},
		{"another class", overwritten(linux, elfClass, 9)},
		{"another byte order", overwritten(linux, elfByteOrder, 2)},
		{"another version", overwritten(linux, elfVersion, 0)},
		{"information that lies elsewhere", overwritten(linux, information+0x10, all...)},
		{"information of no size", overwritten(linux, information+0x20, make([]byte, 8)...)},
		{"a note that lies nowhere", overwritten(linux, 0x40+56+8, all...)},
		{"for Windows", string(windows)},
		{"symbols that lie nowhere", overwritten(windows, coff+8, 0xff, 0xff, 0xff, 0x7f)},
		{"more symbols than there are", overwritten(windows, coff+12, 0xff, 0xff, 0xff, 0x7f)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, executable("usr/bin/tide", tt.program))
			var names []string
			for _, f := range got.Files {
				for _, p := range f.Packages {
					names = append(names, p.Type+" "+p.Name)
				}
			}
			want := []string{"golang stdlib", "golang ./buoy", "golang example.test/tide"}
			if diff := cmp.Diff(want, names); diff != "" || len(got.Gaps) > 0 {
				t.Errorf("packages (-want +got):\n%s\ngaps: %v", diff, got.Gaps)
			}
		})
	}
}

// goInformation returns what Go's linker writes into a program, from its mark on (debug/buildinfo), with a module path and version.
func goInformation(version, modules string) string {
	text := func(s string) string { return string(binary.AppendUvarint(nil, uint64(len(s)))) + s }
	return goMark + "\x08\x02" + strings.Repeat("\x00", 16) + text(version) + text(modules)
}

// framed returns a list of modules between the marks the go command puts around it.
func framed(modules string) string {
	return strings.Repeat("<", goFrameBytes) + modules + strings.Repeat(">", goFrameBytes)
}

const goModules = "path\texample.test/tide\nmod\texample.test/tide\tv0.1.0\t\ndep\tgolang.org/x/net\tv0.1.0\t\n=>\tgolang.org/x/net\tv0.7.0\t\n"

func TestGoInformationWithoutHeaders(t *testing.T) {
	golang := func(name, version string) gate.Package {
		return gate.Package{Type: "golang", Name: name, Version: version}
	}
	unreadable := []gate.GapKind{gate.GapUnreadablePackage}
	for _, tt := range []struct {
		name, text string
		want       []gate.Package
		wantGaps   []gate.GapKind
	}{
		{"whole", goInformation("go1.22.1", framed(goModules)), []gate.Package{golang("stdlib", "1.22.1"), golang("golang.org/x/net", "0.7.0"), golang("example.test/tide", "0.1.0")}, nil},
		{"of a distribution's Go", goInformation("go1.22.5 (Red Hat 1.22.5-1.el9)", ""), []gate.Package{golang("stdlib", "1.22.5")}, nil},
		{"of a program in a program", goInformation("go1.22.1", "") + goInformation("go1.20", ""), []gate.Package{golang("stdlib", "1.22.1"), golang("stdlib", "1.20")}, nil},
		{"a program that speaks of the mark", goMark + "\x00.go.buildinfo\x00and so on", nil, nil},
		{"the mark at the end", goMark + "\x08", nil, nil},
		{"modules that cannot be read", goInformation("go1.22.1", framed("dep\tx\n")), []gate.Package{golang("stdlib", "1.22.1")}, unreadable},
		{"modules without their marks", goInformation("go1.22.1", goModules), []gate.Package{golang("stdlib", "1.22.1")}, unreadable},
		{"no version", goInformation("", framed(goModules)), nil, unreadable},
		{"a version that is none", goInformation("\x01\x02", framed(goModules)), nil, unreadable},
		{"cut short", goInformation("go1.22.1", framed(goModules))[:100], []gate.Package{golang("stdlib", "1.22.1")}, unreadable},
		{"cut shorter", goInformation("go1.22.1", framed(goModules))[:36], nil, unreadable},
		{"a length past any", goMark + "\x08\x02" + strings.Repeat("\x00", 16) + strings.Repeat("\xff", 20), nil, unreadable},
		{"where pointers lead to it, as before Go 1.18", goMark + "\x08\x00" + strings.Repeat("\x00", 16), nil, unreadable},
		{"more than any program has", strings.Repeat(goInformation("", ""), maxGoInformation+1), nil, []gate.GapKind{gate.GapLimit}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, executable("usr/bin/tide", elfMagic+tt.text))
			if diff := cmp.Diff([]gate.FileInventory{{Path: "usr/bin/tide", Packages: tt.want}}, got.Files); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.wantGaps, gapKinds(got.Gaps)); diff != "" {
				t.Errorf("gaps (-want +got):\n%s\n%v", diff, got.Gaps)
			}
		})
	}
}

func FuzzGoInformation(f *testing.F) {
	f.Add([]byte(goInformation("go1.22.1", framed(goModules))))
	f.Add([]byte(goInformation("go1.22.1", "") + goInformation("", "")))
	f.Add([]byte(goMark + "\x04\x01" + strings.Repeat("\xff", 30)))
	f.Fuzz(func(t *testing.T, data []byte) {
		packages, _ := goInformationIn(data)
		for _, p := range packages {
			if p.Name == "" {
				t.Errorf("a package without a name: %v", p)
			}
		}
	})
}
