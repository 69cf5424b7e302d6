package scan

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// dpkgStatusOf returns a paragraph of dpkg's status.
func dpkgStatusOf(name, status, maintainer string) string {
	return fmt.Sprintf("Package: %s\nStatus: %s\nMaintainer: %s\nArchitecture: all\nVersion: 1.0-1\nDescription: a package\n\n", name, status, maintainer)
}

const (
	installedStatus = "install ok installed"
	pythonTeam      = "Debian Python Team <team+python@tracker.debian.org>"
)

func TestFilesOfADistributionAreReportedOnce(t *testing.T) {
	const metadata = "usr/lib/python3/dist-packages/Jinja2-2.11.2.dist-info/METADATA"
	list := func(paths string) entry { return regular("var/lib/dpkg/info/python3-jinja2.list", paths) }
	status := func(status, maintainer string) entry {
		return regular("var/lib/dpkg/status", dpkgStatusOf("python3-jinja2", status, maintainer))
	}
	for _, tt := range []struct {
		name    string
		path    string
		entries []entry
		want    bool
	}{
		{"a file of nobody's", metadata, nil, true},
		{"a file of a package of the distribution's", metadata, []entry{status(installedStatus, pythonTeam), list("/.\n/usr\n/" + metadata + "\n")}, false},
		{"whichever comes first", metadata, []entry{list("/" + metadata + "\n"), status(installedStatus, pythonTeam)}, false},
		{"a list before /usr took in /lib", "usr/lib/jinja/package.json", []entry{status(installedStatus, pythonTeam), list("/lib/jinja/package.json\n")}, false},
		{"a package of a stranger's", metadata, []entry{status(installedStatus, "Mallory <m@example.test>"), list("/" + metadata + "\n")}, true},
		{"a stranger who nearly is not", metadata, []entry{status(installedStatus, "Mallory <m@notdebian.org>"), list("/" + metadata + "\n")}, true},
		{"a package that was removed", metadata, []entry{status("deinstall ok config-files", pythonTeam), list("/" + metadata + "\n")}, true},
		{"a list of a package that is not there", metadata, []entry{list("/" + metadata + "\n")}, true},
		{"a place no distribution installs to", "app/package.json", []entry{status(installedStatus, pythonTeam), list("/app/package.json\n")}, true},
		{"nor this", "usr/local/lib/package.json", []entry{status(installedStatus, pythonTeam), list("/usr/local/lib/package.json\n")}, true},
		{
			"a distroless image's", metadata,
			[]entry{regular("var/lib/dpkg/status.d/python3", dpkgStatusOf("python3-jinja2", installedStatus, pythonTeam)), regular("var/lib/dpkg/status.d/python3.md5sums", "d41d8cd98f00b204e9800998ecf8427e  "+metadata+"\n")},
			false,
		},
		{"apk's", "usr/lib/python3.11/site-packages/a-1.dist-info/METADATA", []entry{
			regular("lib/apk/db/installed", "P:py3-a\nV:1-r0\nF:usr/lib/python3.11/site-packages/a-1.dist-info\nR:METADATA\n\n"),
		}, false},
		{"not apk's", "usr/lib/python3.11/site-packages/a-1.dist-info/METADATA", []entry{
			regular("lib/apk/db/installed", "P:py3-a\nV:1-r0\nF:usr/lib/python3.11/site-packages/b-1.dist-info\nR:METADATA\n\n"),
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			content := wheelMetadata
			if packageJSON.matches(file{path: tt.path}) {
				content = lodash
			}
			got := readTar(t, append([]entry{regular(tt.path, content)}, tt.entries...)...)
			reported, kept := false, false
			for _, f := range got.Files {
				if f.Path == tt.path {
					kept, reported = true, len(f.Packages) > 0
				}
			}
			if reported != tt.want || !kept || len(got.Gaps) > 0 {
				t.Errorf("reported %t, want %t; kept %t, gaps %v", reported, tt.want, kept, got.Gaps)
			}
		})
	}
}

func TestFilesOfRPMs(t *testing.T) {
	for _, tt := range []struct {
		vendor, path string
		want         bool
	}{
		{"Red Hat, Inc.", "usr/lib/node_modules/npm/package.json", true},
		{"CentOS", "usr/lib64/libpython3.9.so.1.0", true},
		{"Fedora Project", "usr/lib/node_modules/npm/package.json", false},
		{"", "usr/lib/node_modules/npm/package.json", false},
		{"Red Hat, Inc.", "opt/app/package.json", false},
	} {
		o := newOwnership()
		o.addRPM(tt.vendor, []string{"/" + tt.path})
		if got := o.owns(tt.path); got != tt.want {
			t.Errorf("%s of %q: owned %t, want %t", tt.path, tt.vendor, got, tt.want)
		}
	}
}

func TestOwnedPathsAreBounded(t *testing.T) {
	o := newOwnership()
	for i := range maxOwnedPaths {
		o.owners[uint64(i)] = 0
	}
	o.trusted["apk"] = true
	o.add(o.begin("apk"), "/usr/bin/one-more")
	if o.owns("usr/bin/one-more") {
		t.Errorf("a path past the limit was taken in")
	}
}

func TestChannels(t *testing.T) {
	const dockerfile = `LABEL "com.redhat.component"="ubi9-container" "architecture"="x86_64" "release"="1214"`
	for _, tt := range []struct {
		name, path, data string
		want             []string
	}{
		{"content sets", "root/buildinfo/content_manifests/ubi9.json", `{"metadata":{},"content_sets":["rhel-9-for-x86_64-baseos-rpms","rhel-9-for-x86_64-appstream-rpms"]}`, []string{"rhel-9-for-x86_64-appstream-rpms", "rhel-9-for-x86_64-baseos-rpms"}},
		{"content sets where Red Hat puts them now", "usr/share/buildinfo/content-sets.json", `{"content_sets":["a"]}`, []string{"a"}},
		{"a build", "root/buildinfo/Dockerfile-ubi9-9.4-1214", dockerfile, []string{"nvr:ubi9-container-9.4-1214-x86_64"}},
		{"a Dockerfile of somebody else", "root/buildinfo/Dockerfile-tide", "FROM scratch\n", nil},
		{"ubuntu pro", "var/lib/ubuntu-advantage/status.json", `{"services":[{"name":"esm-infra","status":"enabled"},{"name":"esm-apps","status":"disabled"},{"name":7}]}`, []string{"esm-infra"}},
		{"apk's repositories", "etc/apk/repositories", "# a comment\nhttps://dl-cdn.alpinelinux.org/alpine/v3.19/main\nhttps://dl-cdn.alpinelinux.org/alpine/v3.19/community\n@edge http://mirror.example.test/pub/alpine/edge/testing\n/local\nhttps://example.test/other/v1/main\n", []string{"alpine 3.19", "alpine edge"}},
		{"malformed ones", "var/lib/ubuntu-advantage/status.json", `{"services":`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, regular("./"+tt.path, tt.data))
			if diff := cmp.Diff(map[string][]string{tt.path: tt.want}, got.Channels, cmp.Transformer("nil", func(s []string) string { return fmt.Sprint(s) })); diff != "" || len(got.Gaps) > 0 {
				t.Errorf("channels (-want +got):\n%s\ngaps: %v", diff, got.Gaps)
			}
		})
	}
	if got := readTar(t, regular("app/content_sets.json", `{"content_sets":["a"]}`)); got.Channels != nil {
		t.Errorf("a file elsewhere says %v", got.Channels)
	}
	if got := readTar(t, regular("usr/share/buildinfo/package.json", lodash)); len(got.Files) != 1 || len(got.Files[0].Packages) != 1 {
		t.Errorf("a package among manifests is passed over: %v", got.Files)
	}
	upper := readTar(t, regular("etc/apk/.wh.repositories", ""))
	lower := readTar(t, regular("etc/apk/repositories", "http://x/alpine/edge/main"))
	if got := gate.Merge([]gate.LayerInventory{lower, upper}).Channels; len(got) > 0 {
		t.Errorf("a file that was removed says %v", got)
	}
	if diff := cmp.Diff([]string{"alpine edge"}, gate.Merge([]gate.LayerInventory{lower}).Channels); diff != "" {
		t.Errorf("channels of an image (-want +got):\n%s", diff)
	}
}
