package report

import (
	"testing"

	"github.com/package-url/packageurl-go"

	"github.com/tidewaiter/tidewaiter/gate"
)

func TestPackageURL(t *testing.T) {
	debian, alpine := gate.OS{ID: "debian", Version: "12"}, gate.OS{ID: "alpine", Version: "3.19.1"}
	for _, tt := range []struct {
		p    gate.Package
		os   gate.OS
		want string
	}{
		{gate.Package{Type: "deb", Name: "libstdc++6", Version: "1:12.2.0-14+b1", Arch: "amd64"}, debian, "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bb1?arch=amd64&distro=debian-12"},
		{gate.Package{Type: "deb", Name: "tzdata", Version: "2024a", Arch: "all"}, gate.OS{ID: "ubuntu", Version: "24.04"}, "pkg:deb/ubuntu/tzdata@2024a?arch=all&distro=ubuntu-24.04"},
		{gate.Package{Type: "apk", Name: "musl", Version: "1.2.4-r2", Arch: "x86_64"}, alpine, "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.19.1"},
		{gate.Package{Type: "apk", Name: "glibc", Version: "2.40-r1"}, gate.OS{ID: "wolfi"}, "pkg:apk/wolfi/glibc@2.40-r1?distro=wolfi"},
		{gate.Package{Type: "rpm", Name: "OpenSSL", Version: "1:3.0.7-27.el9", Arch: "x86_64"}, gate.OS{ID: "rhel", Version: "9.4"}, "pkg:rpm/redhat/OpenSSL@3.0.7-27.el9?arch=x86_64&distro=rhel-9.4&epoch=1"},
		{gate.Package{Type: "rpm", Name: "bash", Version: "5.2-4"}, gate.OS{ID: "opensuse-leap", Version: "15.6"}, "pkg:rpm/opensuse/bash@5.2-4?distro=opensuse-leap-15.6"},
		{gate.Package{Type: "rpm", Name: "bash", Version: "5.2-4"}, gate.OS{}, "pkg:rpm/bash@5.2-4"},
		{gate.Package{Type: "npm", Name: "@babel/core", Version: "7.0.0"}, debian, "pkg:npm/%40babel/core@7.0.0"},
		{gate.Package{Type: "npm", Name: "lodash", Version: "4.17.21"}, debian, "pkg:npm/lodash@4.17.21"},
		{gate.Package{Type: "pypi", Name: "Typing_Extensions", Version: "4.1"}, debian, "pkg:pypi/typing-extensions@4.1"},
		{gate.Package{Type: "golang", Name: "golang.org/x/net", Version: "0.17.0"}, debian, "pkg:golang/golang.org/x/net@v0.17.0"},
		{gate.Package{Type: "golang", Name: "golang.org/x/net", Version: "v0.17.0"}, debian, "pkg:golang/golang.org/x/net@v0.17.0"},
		{gate.Package{Type: "golang", Name: "example.com/App", Version: "(devel)"}, debian, "pkg:golang/example.com/app@%28devel%29"},
		{gate.Package{Type: "golang", Name: "stdlib", Version: "1.26.3"}, debian, "pkg:golang/stdlib@1.26.3"},
		{gate.Package{Type: "maven", Name: "org.apache.logging.log4j:log4j-core", Version: "2.14.1"}, debian, "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1"},
		{gate.Package{Type: "gem", Name: "rails", Version: "7.1.0"}, debian, "pkg:gem/rails@7.1.0"},
		{gate.Package{Type: "cargo", Name: "rand", Version: "0.8.5"}, debian, "pkg:cargo/rand@0.8.5"},
		{gate.Package{Type: "nuget", Name: "Newtonsoft.Json", Version: "13.0.1"}, debian, "pkg:nuget/Newtonsoft.Json@13.0.1"},
		{gate.Package{Type: "composer", Name: "Symfony/Console", Version: "v6.4.0"}, debian, "pkg:composer/symfony/console@v6.4.0"},
		{gate.Package{Type: "conan", Name: "zlib", Version: "1.3"}, debian, "pkg:conan/zlib@1.3"},
		{gate.Package{Type: "generic", Name: "node", Version: "22.1.0"}, debian, "pkg:generic/node@22.1.0"},
		{gate.Package{Type: "npm", Name: "evil?x=1#y/../z", Version: "1@2 3"}, debian, "pkg:npm/evil%3Fx%3D1%23y/../z@1%402%203"},
	} {
		got := packageURL(tt.p, tt.os)
		if got != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.p, got, tt.want)
		}
		// Another reader takes it for the same, and would write it so.
		parsed, err := packageurl.FromString(got)
		if err != nil {
			t.Errorf("%s: %v", got, err)
			continue
		}
		if err := parsed.Normalize(); err != nil || parsed.ToString() != got {
			t.Errorf("another reader makes %s of %s, %v", parsed.ToString(), got, err)
		}
	}
}

func TestImageURL(t *testing.T) {
	c := candidate("library/nginx", "x")
	want := "pkg:oci/nginx@" + c.Digest.String() + "?repository_url=registry.test%2Flibrary%2Fnginx"
	got := imageURL(c)
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if parsed, err := packageurl.FromString(got); err != nil || parsed.ToString() != got || parsed.Qualifiers.Map()["repository_url"] != "registry.test/library/nginx" {
		t.Errorf("another reader makes %+v of it, %v", parsed, err)
	}
}

func TestPathURL(t *testing.T) {
	for path, want := range map[string]string{
		"var/lib/dpkg/status": "var/lib/dpkg/status", "a b/c#d?e%f": "a%20b/c%23d%3Fe%25f", "c:strange/x": "./c:strange/x", "a/c:strange": "a/c:strange", "ü": "%C3%BC",
	} {
		if got := pathURL(path); got != want {
			t.Errorf("%q: got %s, want %s", path, got, want)
		}
	}
}

func FuzzPackageURL(f *testing.F) {
	f.Add("npm", "@scope/name", "1.0", "amd64", "debian")
	f.Add("rpm", "a", "1:2-3", "", "rhel")
	f.Fuzz(func(t *testing.T, kind, name, version, arch, os string) {
		if name == "" || kind == "" {
			t.Skip()
		}
		got := packageURL(gate.Package{Type: kind, Name: name, Version: version, Arch: arch}, gate.OS{ID: os})
		for _, c := range got {
			if c <= ' ' || c > '~' {
				t.Fatalf("%q holds %q", got, c)
			}
		}
	})
}
