package scan

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
	want := []gate.Package{{Type: "cargo", Name: "tide", Version: "0.1.0"}, {Type: "cargo", Name: "openssl", Version: "0.10.30"}}
	for _, tt := range []struct {
		name     string
		binary   string
		want     []gate.Package
		wantGaps []gate.GapKind
	}{
		{"auditable", elfWith(t, auditableSection, zlibbed(t, crates), ""), want, nil},
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
