package scan

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

func TestMatchLanguagePackages(t *testing.T) {
	rows := []ocitest.Advisory{
		{Bucket: pipRows, Package: "zope.interface", ID: "CVE-1", Source: "ghsa", Vulnerable: []string{"<5"}},
		{Bucket: pipRows, Package: "ruamel-yaml", ID: "CVE-2", Source: "ghsa", Vulnerable: []string{"<5"}},
		{Bucket: pipRows, Package: "django", ID: "CVE-3", Source: "ghsa", Vulnerable: []string{"<=3.2.1"}},
		{Bucket: "nuget::GitHub Security Advisory NuGet", Package: "newtonsoft.json", ID: "CVE-4", Source: "ghsa", Vulnerable: []string{"<13.0.1"}, Patched: []string{"13.0.1"}},
		{Bucket: "composer::PHP Security Advisories Database", Package: "symfony/http-kernel", ID: "CVE-5", Source: "php-security-advisories", Vulnerable: []string{">=4.4.0, <4.4.13", ">=5.0.0, <5.1.5"}},
		{Bucket: "cargo::GitHub Security Advisory Rust", Package: "time", ID: "CVE-6", Source: "ghsa", Vulnerable: []string{">=0.1.0, <0.2.23"}, Patched: []string{"0.2.23"}},
		{Bucket: goRows, Package: "golang.org/x/net", ID: "CVE-7", Source: "govulndb", Vulnerable: []string{"<0.23.0"}, Patched: []string{"0.23.0"}},
		{Bucket: goRows, Package: "github.com/Masterminds/x", ID: "CVE-8", Source: "govulndb", Vulnerable: []string{"<1.0.0"}},
		{Bucket: goRows, Package: "stdlib", ID: "CVE-9", Source: "govulndb", Vulnerable: []string{"<1.22.0"}, Patched: []string{"1.22.0"}},
		{Bucket: npmRows, Package: "everything", ID: "CVE-10", Source: "ghsa", Vulnerable: []string{""}},
		{Bucket: npmRows, Package: "nothing", ID: "CVE-11", Source: "ghsa"},
		{Bucket: npmRows, Package: "garbled", ID: "CVE-12", Source: "ghsa", Vulnerable: []string{"[1.0,2.0)"}},
		{Bucket: npmRows, Package: "half", ID: "CVE-13", Source: "ghsa", Vulnerable: []string{"<2.0.0"}, Patched: []string{"soon"}},
		{Bucket: npmRows, Package: "cleared", ID: "CVE-14", Source: "ghsa", Vulnerable: []string{"*"}, Unaffected: []string{"^1.2.0", ""}},
		{Bucket: npmRows, Package: "unfixed", ID: "CVE-15", Source: "ghsa", Vulnerable: []string{">=1.0.0, <=2.0.0"}},
		{Bucket: npmRows, Package: "patches", ID: "CVE-16", Source: "nodejs-security-wg", Vulnerable: []string{"<2.0.0"}, Patched: []string{">=1.5.0 <1.6.0", ">=2.0.0"}},
		{Bucket: gemRows, Package: "rack", ID: "CVE-2022-44571", Source: "ruby-advisory-db", Patched: []string{"~> 2.0.9, >= 2.0.9.2", ">= 2.2.6.2"}, Unaffected: []string{"< 2.0.0"}},
		{Bucket: gemRows, Package: "only-patched", ID: "CVE-17", Source: "ruby-advisory-db", Patched: []string{"no version"}},
		{Bucket: mvnRows, Package: "com.fasterxml.jackson.core:jackson-databind", ID: "CVE-18", Source: "ghsa", Vulnerable: []string{"<2.9.10.8"}, Patched: []string{"2.9.10.8"}},
	}
	a := openTestAdvisories(t, rows, nil)
	for _, test := range []struct {
		name, pkg string
		want      []string
	}{
		{"a PyPI name filed with a dot", "pypi/Zope.Interface@4.0", []string{"CVE-1 unrated pypi/Zope.Interface@4.0 fixed 5"}},
		{"a PyPI name filed with a dot, installed with a dash", "pypi/zope-interface@4.0", []string{"CVE-1 unrated pypi/zope-interface@4.0 fixed 5"}},
		{"a PyPI name filed with a dash", "pypi/ruamel.yaml@4.0", []string{"CVE-2 unrated pypi/ruamel.yaml@4.0 fixed 5"}},
		{"a local version of a vulnerable one", "pypi/Django@3.2.1+debian2", []string{"CVE-3 unrated pypi/Django@3.2.1+debian2"}},
		{"a version that is none of PyPI", "pypi/Django@master", []string{"unknown-version"}},
		{"NuGet, whatever the case", "nuget/Newtonsoft.Json@12.0.3", []string{"CVE-4 unrated nuget/Newtonsoft.Json@12.0.3 fixed 13.0.1"}},
		{"NuGet, fixed", "nuget/Newtonsoft.Json@13.0.1", nil},
		{"Composer", "composer/symfony/http-kernel@v5.1.4", []string{"CVE-5 unrated composer/symfony/http-kernel@v5.1.4 fixed 5.1.5"}},
		{"Composer, between two lines", "composer/symfony/http-kernel@v4.4.13", nil},
		{"Composer, a branch", "composer/symfony/http-kernel@dev-master", []string{"unknown-version"}},
		{"Cargo", "cargo/time@0.1.45", []string{"CVE-6 unrated cargo/time@0.1.45 fixed 0.2.23"}},
		{"Cargo, fixed", "cargo/time@0.3.0", nil},
		{"Go", "golang/golang.org/x/net@v0.22.0", []string{"CVE-7 unrated golang/golang.org/x/net@v0.22.0 fixed 0.23.0"}},
		{"Go, a pseudo-version", "golang/golang.org/x/net@v0.0.0-20220722155237-a158d28d115b", []string{"CVE-7 unrated golang/golang.org/x/net@v0.0.0-20220722155237-a158d28d115b fixed 0.23.0"}},
		{"Go, built in its own tree", "golang/golang.org/x/net@(devel)", []string{"unknown-version"}},
		{"Go names differ by case", "golang/github.com/masterminds/x@v0.1.0", nil},
		{"Go's library before its release", "golang/stdlib@go1.22rc1", []string{"CVE-9 unrated golang/stdlib@go1.22rc1 fixed 1.22.0"}},
		{"Go's library of a vendor", "golang/stdlib@1.22.0-fips", nil},
		{"an advisory for all versions", "npm/everything@?", []string{"CVE-10 unrated npm/everything@?"}},
		{"an advisory for no versions", "npm/nothing@1.0.0", []string{"unknown-version"}},
		{"an advisory nobody can read", "npm/garbled@1.0.0", []string{"unknown-version"}},
		{"a fix nobody can read clears nothing", "npm/half@1.0.0", []string{"CVE-13 unrated npm/half@1.0.0 fixed soon"}},
		{"unaffected", "npm/cleared@1.3.0", nil},
		{"not unaffected", "npm/cleared@1.1.0", []string{"CVE-14 unrated npm/cleared@1.1.0"}},
		{"every version, whatever is installed", "npm/cleared@latest", []string{"CVE-14 unrated npm/cleared@latest"}},
		{"no fix in an inclusive end", "npm/unfixed@1.5.0", []string{"CVE-15 unrated npm/unfixed@1.5.0"}},
		{"patched inside what is vulnerable", "npm/patches@1.5.5", nil},
		{"the first fix after", "npm/patches@1.0.0", []string{"CVE-16 unrated npm/patches@1.0.0 fixed 1.5.0"}},
		{"the first fix after the first", "npm/patches@1.7.0", []string{"CVE-16 unrated npm/patches@1.7.0 fixed 2.0.0"}},
		{"a fix behind two bounds", "gem/rack@2.0.5", []string{"CVE-2022-44571 unrated gem/rack@2.0.5 fixed 2.0.9.2"}},
		{"patched versions alone, unreadable", "gem/only-patched@1.0.0", []string{"unknown-version"}},
		{"Maven, four numbers", "maven/com.fasterxml.jackson.core:jackson-databind@2.9.10.7", []string{"CVE-18 unrated maven/com.fasterxml.jackson.core:jackson-databind@2.9.10.7 fixed 2.9.10.8"}},
		{"Maven, not filled in", "maven/com.fasterxml.jackson.core:jackson-databind@${version.jackson2}", []string{"unknown-version"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, brief(matchAll(t, a, inventory(gate.OS{}, test.pkg)))); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAdvisedVersion(t *testing.T) {
	for in, want := range map[string]string{
		"1.22.1": "1.22.1", "go1.22.1": "1.22.1", "v1.22.1": "1.22.1", "1.22": "1.22.0", "go1.22rc2": "1.22.0-rc.2", "1.21beta1": "1.21.0-beta.1",
		"1.22.0-rc.2": "1.22.0-rc.2", "go1.24.1 X:nocoverageredesign": "1.24.1", "1.22.1-google": "1.22.1", "devel +abc": "devel +abc", "": "",
	} {
		if got := advisedVersion(gate.Package{Type: "golang", Name: "stdlib", Version: in}); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
	if got := advisedVersion(gate.Package{Type: "golang", Name: "example.org/x", Version: "v1.22"}); got != "v1.22" {
		t.Errorf("a module's version becomes %q", got)
	}
	for _, tt := range []struct{ name, in, want string }{
		{"python", "3.13.0rc2", "3.13.0-rc2"}, {"python", "3.12.1", "3.12.1"}, {"java", "17.0.21.1", "17.0.21"}, {"java", "1.8.392", "1.8.392"}, {"nginx", "1.25.3", "1.25.3"},
	} {
		if got := advisedVersion(gate.Package{Type: "generic", Name: tt.name, Version: tt.in}); got != tt.want {
			t.Errorf("%s %s becomes %q, want %q", tt.name, tt.in, got, tt.want)
		}
	}
}
