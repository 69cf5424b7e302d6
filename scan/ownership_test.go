package scan

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
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
		{"with its checksum", metadata, []entry{status(installedStatus, pythonTeam), list("/" + metadata + "\n"), regular("var/lib/dpkg/info/python3-jinja2.md5sums", dpkgSum(wheelMetadata, metadata))}, false},
		{"another file in its place", metadata, []entry{status(installedStatus, pythonTeam), list("/" + metadata + "\n"), regular("var/lib/dpkg/info/python3-jinja2.md5sums", dpkgSum("other", metadata))}, true},
		{"a list before /usr took in /lib", "usr/lib/jinja/package.json", []entry{status(installedStatus, pythonTeam), list("/lib/jinja/package.json\n")}, false},
		{"a package of a stranger's", metadata, []entry{status(installedStatus, "Mallory <m@example.test>"), list("/" + metadata + "\n")}, true},
		{"a stranger who nearly is not", metadata, []entry{status(installedStatus, "Mallory <m@notdebian.org>"), list("/" + metadata + "\n")}, true},
		{"a package that was removed", metadata, []entry{status("deinstall ok config-files", pythonTeam), list("/" + metadata + "\n")}, true},
		{"a list of a package that is not there", metadata, []entry{list("/" + metadata + "\n")}, true},
		{"a place no distribution installs to", "app/package.json", []entry{status(installedStatus, pythonTeam), list("/app/package.json\n")}, true},
		{"nor this", "usr/local/lib/package.json", []entry{status(installedStatus, pythonTeam), list("/usr/local/lib/package.json\n")}, true},
		{
			"a distroless image's", metadata,
			[]entry{regular("var/lib/dpkg/status.d/python3", dpkgStatusOf("python3-jinja2", installedStatus, pythonTeam)), regular("var/lib/dpkg/status.d/python3.md5sums", dpkgSum(wheelMetadata, metadata))},
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

// dpkgSum returns the line of a package's checksums about a file at p.
func dpkgSum(content, p string) string {
	return fmt.Sprintf("%x  %s\n", md5.Sum([]byte(content)), strings.TrimPrefix(p, "/"))
}

// TestFilesPutInThePlaceOfADistributions has an executable that a distribution's package owns, and one that somebody put there in the
// same layer: its bytes are not those the package states.
func TestFilesPutInThePlaceOfADistributions(t *testing.T) {
	const at = "usr/sbin/runc"
	goBinary := func(version string) string { return elfWith(t, ".rodata", nil, goInformation(version, "")) }
	theirs, other := goBinary("go1.19.8"), goBinary("go1.15")
	broken := elfWith(t, ".rodata", nil, goInformation("", ""))
	status := regular("var/lib/dpkg/status", dpkgStatusOf("runc", installedStatus, "Debian Go Team <team+go@tracker.debian.org>"))
	list := regular("var/lib/dpkg/info/runc.list", "/.\n/usr/sbin/runc\n")
	md5sums := func(content string) entry { return regular("var/lib/dpkg/info/runc.md5sums", dpkgSum(content, at)) }
	apk := func(digest string) entry {
		return regular("lib/apk/db/installed", "P:runc\nV:1-r0\nF:usr/sbin\nR:other\nZ:Q1AAAA\nR:runc\na:0:0:755\n"+digest+"\n\n")
	}
	base64Of := base64.StdEncoding.EncodeToString
	sha1Sum, sha256Sum := sha1.Sum([]byte(theirs)), sha256.Sum256([]byte(theirs))
	unreadable := []gate.GapKind{gate.GapUnreadablePackage}
	for _, tt := range []struct {
		name     string
		entries  []entry
		want     bool
		wantGaps []gate.GapKind
	}{
		{"dpkg's own", []entry{executable(at, theirs), status, list, md5sums(theirs)}, false, nil},
		{"dpkg's own, whichever comes first", []entry{md5sums(theirs), list, status, executable(at, theirs)}, false, nil},
		{"another than dpkg's", []entry{executable(at, other), status, list, md5sums(theirs)}, true, nil},
		{"another than dpkg's, whichever comes first", []entry{md5sums(theirs), list, status, executable(at, theirs), executable(at, other)}, true, nil},
		{"a checksum that is none", []entry{executable(at, theirs), status, list, regular("var/lib/dpkg/info/runc.md5sums", "x  usr/sbin/runc\n")}, true, nil},
		{"a package without checksums", []entry{executable(at, theirs), status, list}, false, nil},
		{"checksums of a package that has no list", []entry{executable(at, theirs), status, md5sums(theirs)}, true, nil},
		{"a checksum a stranger states", []entry{
			executable(at, other), status, list, md5sums(theirs), regular("var/lib/dpkg/info/mallory.md5sums", dpkgSum(other, at)),
		}, true, nil},
		{"a package for several architectures", []entry{
			executable(at, other), status, regular("var/lib/dpkg/info/runc:amd64.list", "/usr/sbin/runc\n"), regular("var/lib/dpkg/info/runc:amd64.md5sums", dpkgSum(theirs, at)),
		}, true, nil},
		{"a distroless image's own", []entry{executable(at, theirs), regular("var/lib/dpkg/status.d/runc", status.data), regular("var/lib/dpkg/status.d/runc.md5sums", dpkgSum(theirs, at))}, false, nil},
		{"another than a distroless image's", []entry{executable(at, other), regular("var/lib/dpkg/status.d/runc", status.data), regular("var/lib/dpkg/status.d/runc.md5sums", dpkgSum(theirs, at))}, true, nil},
		{"apk's own", []entry{apk("Z:Q1" + base64Of(sha1Sum[:])), executable(at, theirs)}, false, nil},
		{"apk's own, of version 3", []entry{apk("Z:Q2" + base64Of(sha256Sum[:sha1.Size])), executable(at, theirs)}, false, nil},
		{"another than apk's", []entry{apk("Z:Q1" + base64Of(sha1Sum[:])), executable(at, other)}, true, nil},
		{"a digest of apk's that is none", []entry{apk("Z:Q1*"), executable(at, theirs)}, true, nil},
		{"a file without a digest of apk's", []entry{apk("C:x"), executable(at, theirs)}, false, nil},
		{"another name for dpkg's own", []entry{executable("opt/runc", theirs), hardLink(at, "opt/runc"), status, list, md5sums(theirs)}, true, nil},
		{"another name for what was put there", []entry{executable("usr/lib/x", other), hardLink(at, "usr/lib/x"), status, list, md5sums(theirs)}, true, nil},
		{"dpkg's own that cannot be read", []entry{executable(at, broken), status, list, md5sums(broken)}, false, nil},
		{"another that cannot be read", []entry{executable(at, broken), status, list, md5sums(theirs)}, false, unreadable},
		{"one that cannot be read, of which no checksum is stated", []entry{executable(at, broken), status, list}, false, unreadable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, tt.entries...)
			reported := slices.ContainsFunc(got.Files, func(f gate.FileInventory) bool {
				return slices.ContainsFunc(f.Packages, func(p gate.Package) bool { return p.Type == "golang" })
			})
			if reported != tt.want {
				t.Errorf("reported %t, want %t: %v", reported, tt.want, got.Files)
			}
			if diff := cmp.Diff(tt.wantGaps, gapKinds(got.Gaps)); diff != "" {
				t.Errorf("gaps (-want +got):\n%s\n%v", diff, got.Gaps)
			}
		})
	}
}

// TestAHigherLayerReplacesAFileOfADistribution puts another program in the place of a package's in a layer above it, the package's
// database being there again where it always is as a whole.
func TestAHigherLayerReplacesAFileOfADistribution(t *testing.T) {
	const at = "usr/sbin/runc"
	theirs, other := elfWith(t, ".rodata", nil, goInformation("go1.19.8", "")), elfWith(t, ".rodata", nil, goInformation("go1.15", ""))
	sum := sha1.Sum([]byte(theirs))
	apk := regular("lib/apk/db/installed", "P:runc\nV:1-r0\nF:usr/sbin\nR:runc\nZ:Q1"+base64.StdEncoding.EncodeToString(sum[:])+"\n\n")
	status := regular("var/lib/dpkg/status", dpkgStatusOf("runc", installedStatus, "Debian Go Team <team+go@tracker.debian.org>"))
	dpkg := []entry{status, regular("var/lib/dpkg/info/runc.list", "/usr/sbin/runc\n"), regular("var/lib/dpkg/info/runc.md5sums", dpkgSum(theirs, at))}
	for _, tt := range []struct {
		name         string
		lower, upper []entry
		want         []string
	}{
		{"dpkg's, as it is", append(dpkg, executable(at, theirs)), nil, nil},
		{"dpkg's, without its database", append(dpkg, executable(at, theirs)), []entry{executable(at, other)}, []string{"stdlib 1.15"}},
		{"dpkg's, with the state of all", append(dpkg, executable(at, theirs)), []entry{executable(at, other), status}, []string{"stdlib 1.15"}},
		{"apk's, as it is", []entry{apk, executable(at, theirs)}, []entry{apk}, nil},
		{"apk's, without its database", []entry{apk, executable(at, theirs)}, []entry{executable(at, other)}, []string{"stdlib 1.15"}},
		{"apk's, with the state of all", []entry{apk, executable(at, theirs)}, []entry{apk, executable(at, other)}, []string{"stdlib 1.15"}},
		{"apk's, by a hard link", []entry{apk, executable(at, theirs)}, []entry{apk, executable("opt/x", other), hardLink(at, "opt/x")}, []string{"stdlib 1.15", "stdlib 1.15"}},
		{"apk's, put there before", []entry{executable(at, other)}, []entry{apk, executable(at, theirs)}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := gate.Merge([]gate.LayerInventory{readTar(t, tt.lower...), readTar(t, tt.upper...)})
			var found []string
			for _, p := range got.Packages {
				if p.Type == "golang" {
					found = append(found, p.Name+" "+p.Version)
				}
			}
			if diff := cmp.Diff(tt.want, found); diff != "" || len(got.Gaps) > 0 {
				t.Errorf("packages (-want +got):\n%s\ngaps: %v", diff, got.Gaps)
			}
		})
	}
}

// summed returns the account of a file with content that told of a package.
func summed(o *ownership, p, content string) account {
	told := account{packages: make([]gate.Package, 1)}
	o.sum(&told, p, []byte(content))
	return told
}

// TestWhatIsSummed has the files whose digests are made: others are not worth the time.
func TestWhatIsSummed(t *testing.T) {
	large := strings.Repeat("x", maxSummedBytes+1)
	for _, tt := range []struct {
		name, path, content               string
		told                              account
		wantSums, wantUnsummed, wantOwned bool
	}{
		{"an executable with packages", "usr/bin/a", elfMagic + large, account{packages: make([]gate.Package, 1)}, true, false, false},
		{"one that cannot be read", "usr/bin/a", elfMagic + large, account{gaps: make([]gate.Gap, 1)}, true, false, false},
		{"one without anything", "usr/bin/a", elfMagic + large, account{}, false, false, false},
		{"where nothing is owned", "usr/local/bin/a", elfMagic + large, account{packages: make([]gate.Package, 1)}, false, false, false},
		{"a manifest", "usr/lib/a/package.json", "{}", account{packages: make([]gate.Package, 1)}, true, false, false},
		{"an archive", "usr/share/java/a.jar", large, account{packages: make([]gate.Package, 1)}, false, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOwnership()
			o.addRPM("CentOS", []fileDigest{{"/" + tt.path, fmt.Sprintf("%x", sha256.Sum256([]byte("other")))}})
			o.sum(&tt.told, tt.path, []byte(tt.content))
			owned, verified := o.owns(tt.path, tt.told)
			if got := tt.told.sums != nil; got != tt.wantSums || tt.told.unsummed != tt.wantUnsummed || owned != tt.wantOwned || verified {
				t.Errorf("summed %t, too large %t, owned %t, verified %t", got, tt.told.unsummed, owned, verified)
			}
		})
	}
}

func TestFilesOfRPMs(t *testing.T) {
	const content = "content"
	sum := func(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content))) }
	for _, tt := range []struct {
		name, vendor, path, digest string
		wantOwned, wantVerified    bool
	}{
		{"without a digest", "Red Hat, Inc.", "usr/lib/node_modules/npm/package.json", "", true, false},
		{"with its digest", "Red Hat, Inc.", "usr/bin/podman", sum(content), true, true},
		{"with its digest in an old rpm", "CentOS", "usr/bin/podman", fmt.Sprintf("%x", md5.Sum([]byte(content))), true, true},
		{"with another digest", "Red Hat, Inc.", "usr/bin/podman", sum("other"), false, false},
		{"with a digest of another kind", "Red Hat, Inc.", "usr/bin/podman", strings.Repeat("0", 128), false, false},
		{"with a digest that is none", "Red Hat, Inc.", "usr/bin/podman", "x", false, false},
		{"another vendor's", "CentOS", "usr/lib64/libpython3.9.so.1.0", "", true, false},
		{"a vendor advisories do not know", "Fedora Project", "usr/lib/node_modules/npm/package.json", sum(content), false, false},
		{"nobody's", "", "usr/lib/node_modules/npm/package.json", "", false, false},
		{"where no distribution installs", "Red Hat, Inc.", "opt/app/package.json", sum(content), false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOwnership()
			o.addRPM(tt.vendor, []fileDigest{{"/" + tt.path, tt.digest}})
			owned, verified := o.owns(tt.path, summed(o, tt.path, content))
			if owned != tt.wantOwned || verified != tt.wantVerified {
				t.Errorf("owned %t, verified %t, want %t, %t", owned, verified, tt.wantOwned, tt.wantVerified)
			}
		})
	}
	twice := newOwnership() // by packages for two architectures, of which rpm installs one's
	for _, digest := range []string{sum(content), sum("other")} {
		twice.addRPM("CentOS", []fileDigest{{"/usr/bin/podman", digest}})
	}
	if owned, verified := twice.owns("usr/bin/podman", summed(twice, "usr/bin/podman", content)); !owned || !verified {
		t.Errorf("a file of two packages: owned %t, verified %t", owned, verified)
	}
}

func TestOwnedPathsAreBounded(t *testing.T) {
	o := newOwnership()
	for i := range maxOwnedPaths {
		o.owners[uint64(i)] = 0
	}
	o.trusted["apk"] = true
	o.add(o.begin("apk"), "/usr/bin/one-more")
	if owned, _ := o.owns("usr/bin/one-more", account{}); owned {
		t.Errorf("a path past the limit was taken in")
	}
	o = newOwnership()
	o.trusted["apk"] = true
	o.add(o.begin("apk"), "/usr/bin/one-more")
	for i := range 2 * maxOwnedPaths {
		o.stated[uint64(i)] = 0
	}
	o.state(0, "/usr/bin/one-more", "digest")
	if owned, _ := o.owns("usr/bin/one-more", account{sums: &sums{"digest"}}); owned {
		t.Errorf("a file counts as owned whose digest found no room")
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
