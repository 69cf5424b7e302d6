package scan

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidewaiter/tidewaiter/gate"
)

// elfWith returns an executable of one section called name, or none when it is empty, with text at its end.
func elfWith(t testing.TB, name string, content []byte, text string) string {
	t.Helper()
	const headerBytes, sectionBytes = 64, 64
	names := "\x00.shstrtab\x00" + name + "\x00"
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
				t.Fatal(err)
			}
		}
	}
	at := uint64(headerBytes + 3*sectionBytes)
	put([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9), uint16(2), uint16(62), uint32(1), uint64(0), uint64(0), uint64(headerBytes),
		uint32(0), uint16(headerBytes), uint16(0), uint16(0), uint16(sectionBytes), uint16(3), uint16(1))
	section := func(name, kind uint32, offset, size uint64) {
		put(name, kind, uint64(0), uint64(0), offset, size, uint32(0), uint32(0), uint64(1), uint64(0))
	}
	section(0, 0, 0, 0)
	section(1, 3, at, uint64(len(names)))
	section(11, 1, at+uint64(len(names)), uint64(len(content)))
	b.WriteString(names)
	b.Write(content)
	b.WriteString(text)
	return b.String()
}

// withSegment returns an executable of elfWith's that says to load size bytes from its begin on.
func withSegment(t testing.TB, program string, flags elf.ProgFlag, size uint64) string {
	t.Helper()
	var b bytes.Buffer
	segment := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(flags), Filesz: size, Memsz: size}
	if err := binary.Write(&b, binary.LittleEndian, segment); err != nil {
		t.Fatal(err)
	}
	at := binary.LittleEndian.AppendUint64(nil, uint64(len(program)))
	sizes := binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, uint16(b.Len())), 1)
	return overwritten([]byte(overwritten([]byte(program), elfSegmentsOffset, at...)), elfSegmentBytes, sizes...) + b.String()
}

// peWith returns an executable for Windows of one section called name.
func peWith(t testing.TB, name string, content []byte) string {
	t.Helper()
	const dosBytes = 64
	var b bytes.Buffer
	section := pe.SectionHeader32{SizeOfRawData: uint32(len(content))}
	copy(section.Name[:], name)
	section.PointerToRawData = uint32(dosBytes + 4 + binary.Size(pe.FileHeader{}) + binary.Size(section))
	dos := binary.LittleEndian.AppendUint32(append([]byte(peMagic), make([]byte, dosBytes-len(peMagic)-4)...), dosBytes)
	for _, part := range []any{dos, []byte("PE\x00\x00"), pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1}, section, content} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func zlibbed(t testing.TB, data string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	if _, err := w.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const crates = `{"packages":[{"name":"tide","version":"0.1.0","source":"local","root":true},
	{"name":"openssl","version":"0.10.30","source":"crates.io"},{"name":"cc","version":"1.0.0","source":"crates.io","kind":"build"}]}`

func TestRustBinaries(t *testing.T) {
	auditable := elfWith(t, auditableSection, zlibbed(t, crates), "")
	spoken := elfWith(t, ".text", []byte("\x00"+auditableSection+"\x00"), "")
	asNoBits := 64 + 2*64 + 4 // the type of elfWith's own section
	windows := peWith(t, auditableSection, zlibbed(t, crates))
	unreadable := []gate.GapKind{gate.GapUnreadablePackage}
	want := []gate.Package{{Type: "cargo", Name: "tide", Version: "0.1.0"}, {Type: "cargo", Name: "openssl", Version: "0.10.30"}}
	for _, tt := range []struct {
		name     string
		binary   string
		want     []gate.Package
		wantGaps []gate.GapKind
	}{
		{"auditable", auditable, want, nil},
		{"auditable, for Windows", windows, want, nil},
		{"not auditable, for Windows", peWith(t, ".text", []byte(auditableSection)), nil, nil},
		{"for Windows, symbols that lie nowhere", overwritten([]byte(windows), 64+4+8, 0xff, 0xff, 0xff, 0x7f), nil, unreadable},
		{"sections that lie nowhere", overwritten([]byte(auditable), elfSectionsOffset, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), nil, unreadable},
		{"a class there is not", overwritten([]byte(auditable), elfClass, 9), nil, unreadable},
		{"no sections but their names", overwritten([]byte(overwritten([]byte(auditable), elfSectionsOffset, make([]byte, 8)...)), elfSectionBytes, make([]byte, 6)...), nil, unreadable},
		{"another section for names", withSegment(t, overwritten([]byte(auditable), elfNamesIndex, 0, 0), elf.PF_R, 64), nil, unreadable},
		{"a list that is said to be nowhere", withSegment(t, overwritten([]byte(auditable), asNoBits, 8), elf.PF_R|elf.PF_X, 64), nil, unreadable},
		{"what debuggers need of one", withSegment(t, overwritten([]byte(auditable), asNoBits, 8), elf.PF_R|elf.PF_X, 0), nil, nil},
		{"one that has the section's name in its code", withSegment(t, spoken, elf.PF_R|elf.PF_X, uint64(len(spoken))), nil, nil},
		{"not auditable", elfWith(t, ".text", []byte("code"), ""), nil, nil},
		{"one that speaks of the section", elfWith(t, ".text", []byte(auditableSection), ""), nil, nil},
		{"damaged", elfWith(t, auditableSection, []byte("x\x9cnothing"), ""), nil, []gate.GapKind{gate.GapUnreadablePackage}},
		{"not JSON", elfWith(t, auditableSection, zlibbed(t, "crates"), ""), nil, []gate.GapKind{gate.GapUnreadablePackage}},
		{"a nameless crate", elfWith(t, auditableSection, zlibbed(t, `{"packages":[{"version":"1"}]}`), ""), nil, []gate.GapKind{gate.GapUnreadablePackage}},
		{
			"a bomb", elfWith(t, auditableSection, zlibbed(t, strings.Repeat(" ", maxAuditableBytes+1)), ""),
			nil, []gate.GapKind{gate.GapLimit},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, executable("usr/bin/tide", tt.binary))
			if diff := cmp.Diff([]gate.FileInventory{{Path: "usr/bin/tide", Packages: tt.want}}, got.Files); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.wantGaps, gapKinds(got.Gaps)); diff != "" {
				t.Errorf("gaps (-want +got):\n%s\n%v", diff, got.Gaps)
			}
		})
	}
}

// TestRuntimes has the texts by which runtimes tell their versions, as the real ones have them.
func TestRuntimes(t *testing.T) {
	for _, tt := range []struct{ name, path, text, want string }{
		{"node", "usr/local/bin/node", "https://nodejs.org/download/release/v20.11.1/node-v20.11.1.tar.gz\x00", "node 20.11.1"},
		{"node's library", "usr/local/lib/libnode.so.108", "https://nodejs.org/download/release/v18.20.4/node-v18.20.4.tar.gz\x00", "node 18.20.4"},
		{"node of a night", "usr/local/bin/node", "https://nodejs.org/download/nightly/v21.0.0-nightly2023/x\x00", ""},
		{"python's library", "usr/local/lib/libpython3.12.so.1.0", "pymalloc\x003.12.1\x00strict\x00", "python 3.12.1"},
		{"python, a release candidate", "usr/local/bin/python3.13", "\x003.13.0rc2\x00", "python 3.13.0rc2"},
		{"python where the linker merged texts", "opt/libpython2.7.so.1.0", "Lib\x00/opt/pythons/2.7.18\x00lib", "python 2.7.18"},
		{"python after a path to another", "usr/local/bin/python3.12", "/lib/python3.12.zip\x00x3.12.9\x00\x003.12.1+\x00", "python 3.12.1"},
		{"python at the end of the file", "usr/local/bin/python3.12", "/opt/3.12.", ""},
		{"python's launcher", "usr/local/bin/python3.12", "libpython3.12.so.1.0\x00", ""},
		{"openjdk", "opt/java/openjdk/lib/server/libjvm.so", "OpenJDK 64-Bit Server VM (17.0.9+9-LTS) for linux-amd64 JRE (17.0.9+9-LTS), built on", "java 17.0.9"},
		{"openjdk 8", "opt/jre/lib/amd64/server/libjvm.so", "OpenJDK 64-Bit Server VM (25.392-b08) for linux-amd64 JRE (1.8.0_392-b08), built on", "java 1.8.392"},
		{"redis", "usr/local/bin/redis-server", "\x007.2.4buildkitsandbox-1704884532000000000\x00", "redis 7.2.4"},
		{"redis as old ones are built", "usr/local/bin/redis-server", "\x006.2.6b61f37314a089f19-1642000000\x00", "redis 6.2.6"},
		{"redis without a machine's name", "usr/bin/redis-check-rdb", "\x007.0.151790282056000000000\x00", "redis 7.0.15"},
		{"redis without an identifier", "usr/local/bin/redis-server", "\x007.2.4\x00123\x001704884532\x00", ""},
		{"nginx", "usr/sbin/nginx", "\x00nginx version: nginx/1.25.3\x00", "nginx 1.25.3"},
		{"postgres", "usr/local/bin/postgres", "postgres (PostgreSQL) 16.1\n\x00", "postgresql 16.1"},
		{"php", "usr/local/bin/php", "X-Powered-By: PHP/8.2.14\x00", "php 8.2.14"},
		{"php for a web server", "usr/local/sbin/php-fpm", "X-Powered-By: PHP/8.2.14\x00", "php 8.2.14"},
		{"ruby", "usr/local/lib/libruby.so.3.3.0", "\x00ruby 3.3.0 (2023-12-25 revision 5124f9ac75) [x86_64-linux]\x00", "ruby 3.3.0"},
		{"ruby with a patch level", "usr/local/bin/ruby", "\x00ruby 2.7.8p225 (2023-03-30 revision 1f4d455848) [x86_64-linux]\x00", "ruby 2.7.8"},
		{"busybox", "bin/busybox", "BusyBox v1.36.1 (2023-11-07 18:53:09 UTC)\x00", "busybox 1.36.1"},
		{"busybox under one of its names", "bin/[", "BusyBox v1.36.1 (2023-11-07 18:53:09 UTC)\x00", "busybox 1.36.1"},
		{"another program that speaks of one", "usr/bin/scanner", "X-Powered-By: PHP/8.2.14\x00\x00nginx version: nginx/1.25.3\x00", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, executable(tt.path, elfWith(t, ".rodata", nil, tt.text)))
			var want []gate.Package
			if name, version, ok := strings.Cut(tt.want, " "); ok {
				want = []gate.Package{{Type: "generic", Name: name, Version: version}}
			}
			if diff := cmp.Diff([]gate.FileInventory{{Path: tt.path, Packages: want}}, got.Files); diff != "" || len(got.Gaps) > 0 {
				t.Errorf("files (-want +got):\n%s\ngaps: %v", diff, got.Gaps)
			}
		})
	}
}

func TestOneOfBusyBoxsNamesIsEnough(t *testing.T) {
	program := elfWith(t, ".rodata", nil, "BusyBox v1.36.1 (2023-11-07 18:53:09 UTC)\x00")
	found := []gate.Package{{Type: "generic", Name: "busybox", Version: "1.36.1"}}
	got := readTar(t, executable("bin/[", program), hardLink("bin/[[", "bin/["), hardLink("bin/busybox", "bin/["))
	want := []gate.FileInventory{{Path: "bin/[", Packages: found}, {Path: "bin/[[", Packages: []gate.Package{}}, {Path: "bin/busybox", Packages: found}}
	if diff := cmp.Diff(want, got.Files); diff != "" || len(got.Gaps) > 0 {
		t.Errorf("files (-want +got):\n%s\ngaps: %v", diff, got.Gaps)
	}
}

// TestHardLinksOfRuntimes has an archive name a runtime by something else first: by then its bytes have passed.
func TestHardLinksOfRuntimes(t *testing.T) {
	node := elfWith(t, ".rodata", nil, "https://nodejs.org/download/release/v20.11.1/node-v20.11.1.tar.gz\x00")
	python := elfWith(t, ".rodata", nil, "\x003.12.1\x00")
	rust := elfWith(t, auditableSection, zlibbed(t, `{"packages":[{"name":"tide","version":"0.1.0"}]}`), "")
	redis := elfWith(t, ".rodata", nil, "\x007.0.151790282056000000000\x00")
	runtime := func(name, version string) []gate.Package {
		return []gate.Package{{Type: "generic", Name: name, Version: version}}
	}
	crate := []gate.Package{{Type: "cargo", Name: "tide", Version: "0.1.0"}}
	unresolved := []gate.GapKind{gate.GapUnresolvedLink}
	for _, tt := range []struct {
		name        string
		first, link string
		content     string
		wantFirst   []gate.Package
		wantLink    []gate.Package
		wantGaps    []gate.GapKind
	}{
		{"a runtime under a name that is not its own", "usr/local/bin/a", "usr/local/bin/node", node, nil, nil, unresolved},
		{"a runtime under another's name", "usr/local/bin/php", "usr/local/bin/node", node, nil, nil, unresolved},
		{"python without its version in the name", "usr/local/bin/python", "usr/local/bin/python3.12", python, nil, nil, unresolved},
		{"a library of python's", "opt/a", "opt/libpython3.12.so", python, nil, nil, unresolved},
		{"what else is in it is found under either name", "usr/local/bin/a", "usr/local/bin/node", rust, crate, crate, unresolved},
		{"the same name elsewhere", "opt/pkgs/node", "usr/local/bin/node", node, runtime("node", "20.11.1"), runtime("node", "20.11.1"), nil},
		{"another of a runtime's names", "usr/bin/redis-check-aof", "usr/bin/redis-server", redis, runtime("redis", "7.0.15"), runtime("redis", "7.0.15"), nil},
		{"the runtime's name first", "usr/local/bin/node", "usr/local/bin/a", node, runtime("node", "20.11.1"), runtime("node", "20.11.1"), nil},
		{"no runtime's name", "usr/bin/a", "usr/bin/b", node, nil, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, executable(tt.first, tt.content), hardLink(tt.link, tt.first))
			found := map[string][]gate.Package{}
			for _, f := range got.Files {
				found[f.Path] = f.Packages
			}
			want := map[string][]gate.Package{tt.first: tt.wantFirst, tt.link: tt.wantLink}
			if diff := cmp.Diff(want, found, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.wantGaps, gapKinds(got.Gaps)); diff != "" {
				t.Errorf("gaps (-want +got):\n%s\n%v", diff, got.Gaps)
			}
		})
	}
	script := readTar(t, executable("usr/local/bin/a", "#!/bin/sh\n"), hardLink("usr/local/bin/node", "usr/local/bin/a"))
	if len(script.Gaps) > 0 {
		t.Errorf("a script has gaps %v", script.Gaps)
	}
}

func TestGoToolchain(t *testing.T) {
	if testing.Short() {
		t.Skip("it reads the whole toolchain's program")
	}
	at := need(t, "go")
	data, err := os.ReadFile(at)
	if err != nil || !isExecutable(data) {
		missing(t, fmt.Errorf("%s is not a program itself: %w", at, err))
	}
	said, err := exec.CommandContext(t.Context(), at, "version").Output() // "go version go1.26.0 linux/amd64"
	if err != nil {
		t.Fatal(err)
	}
	want := gate.Package{Type: "golang", Name: "stdlib", Version: strings.TrimPrefix(strings.Fields(string(said))[2], "go")}
	got := readTar(t, executable("usr/local/go/bin/go", string(data)))
	isStdlib := func(p gate.Package) bool { return cmp.Equal(p, want) }
	if len(got.Files) != 1 || !slices.ContainsFunc(got.Files[0].Packages, isStdlib) || len(got.Gaps) > 0 {
		t.Errorf("%s, gaps %v, want %v", fmt.Sprint(got.Files), got.Gaps, want)
	}
}
