package oracle

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/aquasecurity/trivy/pkg/fanal/types"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// system is a distribution as both sides know it.
type system struct {
	name   string
	os     gate.OS
	family types.OSType
	// release is what the other side takes for the distribution's version.
	release string
	// channels are where packages are from, and repository the same for Alpine on the other side.
	channels   []string
	repository string
	// packages is the type of its packages, bucket where its advisories are filed, source who states them.
	packages, bucket, source string
	// bySource files advisories under source packages.
	bySource bool
	// unfixed has advisories without a fix, rated ones with a rating of their own, arches ones for some architectures only.
	unfixed, rated, arches bool
	// modules has packages of module streams.
	modules bool
	// cpe is the product of the advisories, and repositories what stands for it.
	cpe          string
	repositories []string
}

var systems = []system{
	{name: "debian", os: gate.OS{ID: "debian", Version: "12"}, family: types.Debian, release: "12.5", packages: "deb", bucket: "debian 12", source: "debian", bySource: true, unfixed: true, rated: true},
	{name: "ubuntu", os: gate.OS{ID: "ubuntu", Version: "22.04"}, family: types.Ubuntu, release: "22.04", packages: "deb", bucket: "ubuntu 22.04", source: "ubuntu", bySource: true, unfixed: true},
	{name: "ubuntu esm", os: gate.OS{ID: "ubuntu", Version: "18.04"}, family: types.Ubuntu, release: "18.04-ESM", channels: []string{"esm-infra"}, packages: "deb", bucket: "ubuntu 18.04-ESM", source: "ubuntu", bySource: true, unfixed: true},
	{name: "echo", os: gate.OS{ID: "echo", Version: "12"}, family: types.Echo, release: "12", packages: "deb", bucket: "echo", source: "echo", bySource: true},
	{name: "alpine", os: gate.OS{ID: "alpine", Version: "3.19.1"}, family: types.Alpine, release: "3.19.1", packages: "apk", bucket: "alpine 3.19", source: "alpine", bySource: true},
	{name: "alpine edge", os: gate.OS{ID: "alpine", Version: "3.20.0"}, family: types.Alpine, release: "3.20.0", channels: []string{"alpine 3.20", "alpine edge"}, repository: "edge", packages: "apk", bucket: "alpine edge", source: "alpine", bySource: true},
	{name: "wolfi", os: gate.OS{ID: "wolfi", Version: "20230201"}, family: types.Wolfi, release: "20230201", packages: "apk", bucket: "wolfi", source: "wolfi", bySource: true},
	{name: "chainguard", os: gate.OS{ID: "chainguard", Version: "20230214"}, family: types.Chainguard, release: "20230214", packages: "apk", bucket: "chainguard", source: "chainguard", bySource: true},
	{name: "minimos", os: gate.OS{ID: "minimos", Version: "20230214"}, family: types.MinimOS, release: "20230214", packages: "apk", bucket: "minimos", source: "minimos", bySource: true},
	{name: "rhel 9", os: gate.OS{ID: "rhel", Version: "9.4"}, family: types.RedHat, release: "9.4", packages: "rpm", bucket: "Red Hat", source: "redhat-oval", unfixed: true, rated: true, arches: true, modules: true, cpe: "cpe:/o:redhat:enterprise_linux:9::baseos", repositories: []string{"rhel-9-for-x86_64-baseos-rpms"}},
	{name: "rhel 8 of a content set", os: gate.OS{ID: "rhel", Version: "8.6"}, family: types.RedHat, release: "8.6", channels: []string{"rhel-8-for-x86_64-baseos-eus-rpms__8"}, packages: "rpm", bucket: "Red Hat", source: "redhat-oval", unfixed: true, rated: true, cpe: "cpe:/o:redhat:rhel_eus:8.6::baseos", repositories: []string{"rhel-8-for-x86_64-baseos-eus-rpms"}},
	{name: "centos 7", os: gate.OS{ID: "centos", Version: "7"}, family: types.CentOS, release: "7", packages: "rpm", bucket: "Red Hat", source: "redhat-oval", unfixed: true, rated: true, cpe: "cpe:/o:redhat:enterprise_linux:7::server", repositories: []string{"rhel-7-server-rpms"}},
	{name: "rocky", os: gate.OS{ID: "rocky", Version: "9.3"}, family: types.Rocky, release: "9.3", packages: "rpm", bucket: "rocky 9", source: "rocky", arches: true, modules: true},
	{name: "alma", os: gate.OS{ID: "almalinux", Version: "9.3"}, family: types.Alma, release: "9.3", packages: "rpm", bucket: "alma 9", source: "alma", modules: true},
	{name: "oracle", os: gate.OS{ID: "ol", Version: "8.9"}, family: types.Oracle, release: "8.9", packages: "rpm", bucket: "Oracle Linux 8", source: "oracle-oval", arches: true},
	{name: "amazon 1", os: gate.OS{ID: "amzn", Version: "2018.03"}, family: types.Amazon, release: "2018.03", packages: "rpm", bucket: "amazon linux 1", source: "amazon"},
	{name: "amazon 2", os: gate.OS{ID: "amzn", Version: "2"}, family: types.Amazon, release: "2 (Karoo)", packages: "rpm", bucket: "amazon linux 2", source: "amazon"},
	{name: "amazon 2023", os: gate.OS{ID: "amzn", Version: "2023"}, family: types.Amazon, release: "2023", packages: "rpm", bucket: "amazon linux 2023", source: "amazon"},
	{name: "photon", os: gate.OS{ID: "photon", Version: "5.0"}, family: types.Photon, release: "5.0", packages: "rpm", bucket: "Photon OS 5.0", source: "photon", bySource: true},
	{name: "azure linux", os: gate.OS{ID: "azurelinux", Version: "3.0"}, family: types.Azure, release: "3.0", packages: "rpm", bucket: "Azure Linux 3.0", source: "azure", bySource: true, unfixed: true},
	{name: "mariner", os: gate.OS{ID: "mariner", Version: "2.0.20240101"}, family: types.CBLMariner, release: "2.0.20240101", packages: "rpm", bucket: "CBL-Mariner 2.0", source: "cbl-mariner", bySource: true, unfixed: true},
	{name: "suse", os: gate.OS{ID: "sles", Version: "15.6"}, family: types.SLES, release: "15.6", packages: "rpm", bucket: "SUSE Linux Enterprise 15.6", source: "suse-cvrf"},
	{name: "suse micro", os: gate.OS{ID: "sle-micro", Version: "5.5"}, family: types.SLEMicro, release: "5.5", packages: "rpm", bucket: "SUSE Linux Enterprise Micro 5.5", source: "suse-cvrf"},
	{name: "leap", os: gate.OS{ID: "opensuse-leap", Version: "15.6"}, family: types.OpenSUSELeap, release: "15.6", packages: "rpm", bucket: "openSUSE Leap 15.6", source: "suse-cvrf"},
	{name: "tumbleweed", os: gate.OS{ID: "opensuse-tumbleweed", Version: "20240101"}, family: types.OpenSUSETumbleweed, release: "20240101", packages: "rpm", bucket: "openSUSE Tumbleweed", source: "suse-cvrf"},
}

// language is an ecosystem as both sides know it.
type language struct {
	kind           string
	other          types.LangType
	bucket, source string
	// names are what its packages are called, filed the spellings of advisories.
	names, filed []string
	// pieces are put behind numbers to make versions. candidates are forms of two numbers that versions of installed packages alone have.
	pieces, candidates []string
	// sets are forms of sets of versions, with versions for %s.
	sets []string
}

var plainSets = []string{"<%s", "<=%s", ">=%s, <%s", ">%s, <=%s", "=%s", "<%s || >=%s, <%s"}

var languages = []language{
	{kind: "npm", other: types.NodePkg, bucket: "npm::GitHub Security Advisory npm", source: "ghsa", names: []string{"lodash", "@tide/waiter"}, pieces: []string{"-alpha.1", "-rc.2"}, candidates: []string{"%d.%d.0-alpha.1"}, sets: append([]string{"^%s", "~%s"}, plainSets...)},
	{kind: "pypi", other: types.PythonPkg, bucket: "pip::GitHub Security Advisory pip", source: "ghsa", names: []string{"Tide_Waiter", "jinja2"}, filed: []string{"tide-waiter", "jinja2"}, pieces: []string{"a1", "rc2", ".post1", ".dev3"}, sets: plainSets},
	{kind: "golang", other: types.GoBinary, bucket: "go::GitHub Security Advisory Go", source: "ghsa", names: []string{"example.test/Tide", "example.test/quay"}, pieces: []string{"-beta.1", "-rc.2", "-0.20220722155237-a158d28d115b"}, sets: plainSets},
	{kind: "maven", other: types.Jar, bucket: "maven::GitHub Security Advisory Maven", source: "ghsa", names: []string{"org.tide:waiter-core", "org.tide:quay"}, pieces: []string{"-beta9", "-SNAPSHOT", ".Final", "-jre"}, sets: plainSets},
	{kind: "gem", other: types.GemSpec, bucket: "rubygems::Ruby Advisory Database", source: "ruby-advisory-db", names: []string{"rack", "tide-gem"}, pieces: []string{".pre", ".rc1", ".beta2"}, sets: append([]string{"~> %s", "~> %s, >= %s"}, plainSets...)},
	{kind: "cargo", other: types.RustBinary, bucket: "cargo::GitHub Security Advisory Rust", source: "ghsa", names: []string{"openssl", "tide"}, pieces: []string{"-alpha.1", "-rc.2"}, sets: plainSets},
	{kind: "nuget", other: types.DotNetCore, bucket: "nuget::GitHub Security Advisory NuGet", source: "ghsa", names: []string{"Newtonsoft.Json", "Tide.Waiter"}, filed: []string{"newtonsoft.json", "tide.waiter"}, pieces: []string{"-beta1", "-rc.2"}, sets: plainSets},
	{kind: "composer", other: types.ComposerVendor, bucket: "composer::GitHub Security Advisory Composer", source: "ghsa", names: []string{"symfony/http-kernel", "tide/waiter"}, pieces: []string{"-beta1", "-rc2"}, sets: plainSets},
	{kind: "conan", other: types.Conan, bucket: "conan::GitLab Advisory Database Community", source: "glad", names: []string{"zlib", "openssl"}, pieces: nil, sets: plainSets},
	{kind: "generic", other: types.Bitnami, bucket: "bitnami::Bitnami Vulnerability Database", source: "bitnami", names: []string{"node", "nginx"}, candidates: []string{"%d.%d.0-rc1", "%d.%d.1-rc1", "%d.%d.2-rc1"}, sets: plainSets},
}

// generator makes databases and inventories, the same ones each time.
type generator struct {
	*rand.Rand
	rows []ocitest.Advisory
	ids  int
}

func (g *generator) pick(from ...string) string { return from[g.IntN(len(from))] }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

// number is small, so that versions meet; sometimes it has more digits, so that it matters that they are numbers.
func (g *generator) number() int {
	if g.chance(20) {
		return 9 + g.IntN(4)
	}
	return g.IntN(4)
}

// systemVersion returns a version of a package of kind.
func (g *generator) systemVersion(kind string) string {
	upstream := fmt.Sprintf("%d.%d", g.number(), g.number())
	switch kind {
	case "deb":
		upstream += g.pick("", "", "~rc1", "+dfsg", ".1")
		return g.pick("", "", "1:") + upstream + "-" + fmt.Sprint(g.number()) + g.pick("", "", "+deb12u1", "+deb12u2", "ubuntu1", "~bpo12+1", "+esm1")
	case "apk":
		return upstream + g.pick("", "", "_rc1", "_p1", "b", ".1") + "-r" + fmt.Sprint(g.number())
	default:
		return g.pick("", "", "1:") + upstream + g.pick("", "", "~rc1", "^git1", ".1") + "-" + fmt.Sprint(g.number()) + g.pick("", ".el9", ".el9_1", ".amzn2", "_fips", ".ksplice1.el8")
	}
}

func (g *generator) languageVersion(l language) string {
	version := fmt.Sprintf("%d.%d.%d", g.number(), g.number(), g.number())
	if g.chance(20) && len(l.pieces) > 0 {
		version += g.pick(l.pieces...)
	}
	return version
}

func (g *generator) id() string {
	g.ids++
	return fmt.Sprintf("CVE-2024-%05d", g.ids)
}

// unfixedStatuses are the database's numbers for what becomes of a vulnerability without a fix.
var unfixedStatuses = []int{2, 4, 5, 6, 7}

var words = []string{"low", "medium", "high", "critical"}

// advisory begins an advisory: with ratings of none, some or all of those who rate.
func (g *generator) advisory(bucket, pkg, source string) ocitest.Advisory {
	a := ocitest.Advisory{Bucket: bucket, Package: pkg, Source: source, ID: g.id(), Title: "a fault", Ratings: map[string]string{}}
	if g.chance(50) {
		a.Severity = g.pick(words...)
	}
	for _, other := range []string{"nvd", "ghsa", "redhat"} {
		if g.chance(40) {
			a.Ratings[other] = g.pick(words...)
		}
	}
	return a
}

// systemRows files advisories about packages of s.
func (g *generator) systemRows(s system, packages []string) {
	for _, pkg := range packages {
		for range 6 {
			a := g.advisory(s.bucket, pkg, s.source)
			a.Fixed = g.systemVersion(s.packages)
			if s.unfixed && g.chance(25) {
				a.Fixed, a.Status = "", unfixedStatuses[g.IntN(len(unfixedStatuses))]
			}
			if s.rated && g.chance(50) {
				a.RowSeverity = g.pick(words...)
			}
			if s.arches {
				a.Arches = []string{g.pick("x86_64", "aarch64")}
			}
			if s.cpe != "" {
				a.CPEs, a.Repositories = []string{s.cpe}, s.repositories
				if a.Fixed != "" {
					a.Erratum, a.Status = fmt.Sprintf("RHSA-2024:%04d", g.ids), 0
				}
			}
			g.rows = append(g.rows, a)
			if s.arches || s.cpe != "" { // the same vulnerability, fixed at another time elsewhere
				a.Fixed, a.Arches = g.systemVersion(s.packages), []string{"x86_64", "aarch64"}
				if s.cpe != "" {
					a.Erratum, a.Status = fmt.Sprintf("RHSA-2024:%04d", 5000+g.ids), 0
				}
				g.rows = append(g.rows, a)
			}
		}
	}
}

// systemPackages returns installed packages of s, of sources.
func (g *generator) systemPackages(s system, sources []string, n int) []gate.Found {
	var found []gate.Found
	for i := range n {
		p := gate.Package{Type: s.packages, Version: g.systemVersion(s.packages), Arch: "x86_64"}
		source := g.pick(sources...)
		p.Name = source
		if name, module, ok := cutModule(source); ok {
			p.Name, p.Modularity = name, module+":8090020240101:abcdef12"
		}
		if s.bySource && (s.packages == "rpm" || g.chance(50)) {
			p.Name, p.Source, p.SourceVersion = fmt.Sprintf("lib%s%d", source, i), source, p.Version
			if s.packages == "deb" && g.chance(30) { // whose binaries may count otherwise
				p.SourceVersion = g.systemVersion("deb")
			}
		}
		if s.packages == "rpm" && !s.bySource && g.chance(20) {
			p.Arch = g.pick("aarch64", "noarch")
		}
		found = append(found, gate.Found{Package: p, Path: fmt.Sprintf("db/%d", i)})
	}
	return found
}

// cutModule takes "nodejs:18::npm" apart into the package and its stream.
func cutModule(filed string) (name, module string, ok bool) {
	module, name, ok = strings.Cut(filed, "::")
	return name, module, ok
}

// languageRows files advisories about packages of l.
func (g *generator) languageRows(l language) {
	filed := l.filed
	if filed == nil {
		filed = l.names
	}
	set := func(forms []string) string {
		form := g.pick(forms...)
		versions := make([]any, strings.Count(form, "%s"))
		for i := range versions {
			versions[i] = g.languageVersion(l)
		}
		return fmt.Sprintf(form, versions...)
	}
	for _, pkg := range filed {
		for i := range 30 {
			a := g.advisory(l.bucket, pkg, l.source)
			switch i % 3 {
			case 0: // as GitHub states it
				fixed := g.languageVersion(l)
				a.Vulnerable, a.Patched = []string{"<" + fixed}, []string{fixed}
			case 1:
				a.Vulnerable = []string{set(l.sets), set(l.sets)}
			case 2: // as the database of Ruby's states it
				a.Patched = []string{">=" + g.languageVersion(l), set(l.sets)}
				if g.chance(50) {
					a.Unaffected = []string{"<" + g.languageVersion(l)}
				}
			}
			g.rows = append(g.rows, a)
		}
	}
}

func (g *generator) languagePackages(l language, n int) []gate.Found {
	var found []gate.Found
	for i := range n {
		p := gate.Package{Type: l.kind, Name: g.pick(l.names...), Version: g.languageVersion(l)}
		if len(l.candidates) > 0 && g.chance(10) {
			p.Version = fmt.Sprintf(g.pick(l.candidates...), g.number(), g.number())
		}
		found = append(found, gate.Found{Package: p, Path: fmt.Sprintf("app/%d", i)})
	}
	return found
}
