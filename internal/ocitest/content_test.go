package ocitest

import (
	"archive/zip"
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// find returns the body of the file at path.
func find(t *testing.T, files []File, path string) string {
	t.Helper()
	for _, f := range files {
		if f.Path == path {
			return string(f.Body)
		}
	}
	t.Fatalf("there is no %s", path)
	return ""
}

func TestDebianIsWhatDpkgReads(t *testing.T) {
	query := client(t, "dpkg-query")
	files := Debian("12",
		DebPackage{Name: "libssl3", Version: "3.0.11-1~deb12u2", Source: "openssl"},
		DebPackage{Name: "libc6", Version: "2.36-9+deb12u4", Source: "glibc", SourceVersion: "2.36-9"},
		DebPackage{Name: "zlib1g", Version: "1:1.2.13.dfsg-1", Arch: "all"},
		DebPackage{Name: "removed", Version: "1", Status: "deinstall ok config-files"},
	)
	root := t.TempDir()
	for _, f := range files {
		path := filepath.Join(root, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	format := "${Package} ${Version} ${Architecture} ${source:Package} ${source:Version} ${db:Status-Status}\n"
	out, err := exec.CommandContext(t.Context(), query, "--admindir", filepath.Join(root, "var/lib/dpkg"), "-W", "-f", format).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := `libc6 2.36-9+deb12u4 amd64 glibc 2.36-9 installed
libssl3 3.0.11-1~deb12u2 amd64 openssl 3.0.11-1~deb12u2 installed
removed 1 amd64 removed 1 config-files
zlib1g 1:1.2.13.dfsg-1 all zlib1g 1:1.2.13.dfsg-1 installed
`
	if diff := cmp.Diff(string(out), want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
}

func TestReleases(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []File
		want  string
	}{
		{"debian", Debian("12"), `PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=debian
`},
		{"distroless", Distroless("11"), `PRETTY_NAME="Debian GNU/Linux 11 (bullseye)"
NAME="Debian GNU/Linux"
VERSION_ID="11"
VERSION="11 (bullseye)"
VERSION_CODENAME=bullseye
ID=debian
`},
		{"alpine", Alpine("3.19.1"), `NAME="Alpine Linux"
ID=alpine
VERSION_ID=3.19.1
PRETTY_NAME="Alpine Linux v3.19"
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(find(t, tt.files, "usr/lib/os-release"), tt.want); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
			for _, f := range tt.files {
				if f.Path == "etc/os-release" && f.Symlink != "../usr/lib/os-release" {
					t.Errorf("etc/os-release is no link: %+v", f)
				}
			}
		})
	}
}

func TestDistroless(t *testing.T) {
	files := Distroless("12", DebPackage{Name: "libssl3", Version: "3.0.11-1", Source: "openssl"})
	got := find(t, files, "var/lib/dpkg/status.d/libssl3")
	want := `Package: libssl3
Priority: optional
Section: libs
Installed-Size: 1024
Maintainer: Package Maintainers <maintainers@example.org>
Architecture: amd64
Source: openssl
Version: 3.0.11-1
Description: the package libssl3
 It has a longer description,
 .
 in two paragraphs.
`
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	find(t, files, "var/lib/dpkg/status.d/libssl3.md5sums")
}

func TestAlpine(t *testing.T) {
	files := Alpine("3.19.1", ApkPackage{Name: "libcrypto3", Version: "3.1.4-r2", Origin: "openssl", License: "Apache-2.0"}, ApkPackage{Name: "musl", Version: "1.2.4-r2"})
	got := find(t, files, "lib/apk/db/installed")
	want := `C:Q1t2BS1zPi8/EOYKXqAtSC4/HHhfM=
P:libcrypto3
V:3.1.4-r2
A:x86_64
S:4096
I:8192
T:the package libcrypto3
U:https://example.org/libcrypto3
L:Apache-2.0
o:openssl
m:Package Maintainers <maintainers@example.org>
t:1704164645
c:0123456789abcdef0123456789abcdef01234567
F:usr/share/libcrypto3
R:README
a:0:0:644
Z:Q1t2BS1zPi8/EOYKXqAtSC4/HHhfM=

C:Q1`
	if diff := cmp.Diff(got[:min(len(want), len(got))], want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	if !strings.HasSuffix(got, "\n\n") || !strings.Contains(got, "\nP:musl\nV:1.2.4-r2\n") || !strings.Contains(got, "\no:musl\n") {
		t.Errorf("the second package is not recorded:\n%s", got)
	}
	if diff := cmp.Diff(find(t, files, "etc/apk/world"), "libcrypto3\nmusl\n"); diff != "" {
		t.Errorf("world (-got +want)\n%s", diff)
	}
}

func TestLanguagePackages(t *testing.T) {
	t.Run("npm", func(t *testing.T) {
		var got map[string]string
		if err := json.Unmarshal([]byte(find(t, NPM("@acme/left", "1.2.3"), "app/node_modules/@acme/left/package.json")), &got); err != nil {
			t.Fatal(err)
		}
		if got["name"] != "@acme/left" || got["version"] != "1.2.3" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("wheel", func(t *testing.T) {
		files := Wheel("ruamel-yaml", "0.18.6")
		dir := "usr/local/lib/python3.12/site-packages/ruamel_yaml-0.18.6.dist-info/"
		got := find(t, files, dir+"METADATA")
		if !strings.Contains(got, "\nName: ruamel-yaml\nVersion: 0.18.6\n") {
			t.Errorf("metadata %q", got)
		}
		if got, want := find(t, files, dir+"RECORD"), "ruamel_yaml-0.18.6.dist-info/METADATA,,\n"; !strings.HasPrefix(got, want) {
			t.Errorf("record %q, want it to begin with %q", got, want)
		}
	})
	t.Run("jar, with one inside", func(t *testing.T) {
		inner := Jar("org.apache.logging.log4j", "log4j-core", "2.14.1")
		outer := Jar("com.acme", "app", "1.0", inner...)
		entries := unzip(t, find(t, outer, "app/lib/app-1.0.jar"))
		if got, want := entries["META-INF/maven/com.acme/app/pom.properties"], "groupId=com.acme\nartifactId=app\nversion=1.0\n"; got != want {
			t.Errorf("properties %q, want %q", got, want)
		}
		nested := unzip(t, entries["BOOT-INF/lib/log4j-core-2.14.1.jar"])
		if got := nested["META-INF/MANIFEST.MF"]; !strings.Contains(got, "Implementation-Version: 2.14.1\r\n") {
			t.Errorf("manifest %q", got)
		}
		if again := Jar("com.acme", "app", "1.0", inner...); !bytes.Equal(again[0].Body, outer[0].Body) {
			t.Error("the same archive has other bytes")
		}
	})
}

func unzip(t *testing.T, body string) map[string]string {
	t.Helper()
	r, err := zip.NewReader(strings.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]string{}
	for _, f := range r.File {
		entry, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(entry)
		if err != nil {
			t.Fatal(err)
		}
		entries[f.Name] = string(b)
	}
	return entries
}

func TestGoBinary(t *testing.T) {
	want := &debug.BuildInfo{
		GoVersion: "go1.21.0", Path: "example.org/app/cmd", Main: debug.Module{Path: "example.org/app", Version: "v1.0.0"},
		Deps: []*debug.Module{
			{Path: "golang.org/x/net", Version: "v0.16.0", Sum: "h1:x"},
			{Path: "example.org/old", Version: "v1.0.0", Replace: &debug.Module{Path: "example.org/new", Version: "v1.1.0"}},
		},
		Settings: []debug.BuildSetting{{Key: "CGO_ENABLED", Value: "0"}},
	}
	f := GoBinary("usr/bin/app", *want)
	got, err := buildinfo.Read(bytes.NewReader(f.Body))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	file, err := elf.NewFile(bytes.NewReader(f.Body))
	if err != nil {
		t.Fatal(err)
	}
	if s := file.Section(".go.buildinfo"); s == nil || file.Section(".shstrtab") == nil {
		t.Errorf("sections %v", file.Sections)
	}
	if f.Mode != 0o755 {
		t.Errorf("mode %v", f.Mode)
	}
}

func TestExecutable(t *testing.T) {
	f, err := Executable("usr/bin/self")
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.Read(bytes.NewReader(f.Body))
	if err != nil || !strings.Contains(info.Path, "ocitest") {
		t.Errorf("build information %+v: %v", info, err)
	}
}

func TestRandom(t *testing.T) {
	a, again, b := Random(10_000, 1), Random(10_000, 1), Random(10_000, 1<<40)
	if !bytes.Equal(a, again) || bytes.Equal(a, b) {
		t.Error("bytes do not depend on the seed alone")
	}
	packed, err := compress(Zstd, a)
	if err != nil || len(packed) < len(a) {
		t.Errorf("%d bytes compress to %d: %v", len(a), len(packed), err)
	}
}
