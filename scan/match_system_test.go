package scan

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

const (
	rhel9Base = "cpe:/o:redhat:enterprise_linux:9::baseos"
	rhel9App  = "cpe:/a:redhat:enterprise_linux:9::appstream"
	rhel8Base = "cpe:/o:redhat:enterprise_linux:8::baseos"
)

// systemRows has, for each family of distributions, a row whose fix lies between two versions of a package.
var systemRows = []ocitest.Advisory{
	{Bucket: "minimos", Package: "curl", ID: "CVE-2023-38545", Source: "minimos", Fixed: "8.4.0-r0"},
	{Bucket: "echo", Package: "curl", ID: "CVE-2023-38545", Source: "echo", Fixed: "7.88.1-10+deb12u4+e1"},
	{Bucket: "SUSE Linux Enterprise Micro 5.5", Package: "curl", ID: "SUSE-SU-2023:4044-1", Source: "suse-cvrf", Fixed: "8.0.1-150400.5.32.1"},
	{Bucket: "debian 12", Package: "curl", ID: "CVE-2023-38545", Source: "debian", Fixed: "7.88.1-10+deb12u4"},
	{Bucket: "ubuntu 22.04", Package: "openssl", ID: "CVE-2022-3602", Source: "ubuntu", Severity: "high", Fixed: "3.0.2-0ubuntu1.7"},
	{Bucket: "alpine 3.19", Package: "openssl", ID: "CVE-2024-0727", Source: "alpine", Fixed: "3.1.4-r5"},
	{Bucket: "alpine 3.19", Package: "busybox", ID: "CVE-2018-20679", Source: "alpine", Fixed: "0"},
	{Bucket: "alpine edge", Package: "openssl", ID: "CVE-2024-0727", Source: "alpine", Fixed: "3.2.1-r0"},
	{Bucket: "wolfi", Package: "curl", ID: "CVE-2023-38545", Source: "wolfi", Fixed: "8.4.0-r0"},
	{Bucket: "chainguard", Package: "curl", ID: "CVE-2023-38545", Source: "chainguard", Fixed: "8.4.0-r0"},
	{Bucket: "Red Hat", Package: "openssl", ID: "CVE-2023-0286", Erratum: "RHSA-2023:0946", Source: "redhat-csaf-vex", RowSeverity: "high", Fixed: "1:3.0.1-47.el9_1", CPEs: []string{rhel9Base, rhel9App}},
	{Bucket: "Red Hat", Package: "openssl", ID: "CVE-2023-0286", Erratum: "RHSA-2023:1405", Source: "redhat-csaf-vex", RowSeverity: "high", Fixed: "1:1.1.1k-9.el8_7", CPEs: []string{rhel8Base}},
	{Bucket: "Red Hat", Package: "openssl", ID: "CVE-2024-41996", Source: "redhat-csaf-vex", RowSeverity: "low", Status: 2, CPEs: []string{rhel9Base}},
	{Bucket: "Red Hat", Package: "openssl", ID: "CVE-2000-0001", Source: "redhat-csaf-vex", RowSeverity: "critical", Fixed: "9:9-9", CPEs: []string{"cpe:/o:redhat:rhel_eus:9.0::baseos", "cpe:/a:redhat:openshift:4::el9"}},
	{Bucket: "Red Hat", Package: "nodejs:18::nodejs", ID: "CVE-2023-44487", Erratum: "RHSA-2023:5849", Source: "redhat-csaf-vex", RowSeverity: "high", Fixed: "1:18.18.2-2.module+el9.2.0", CPEs: []string{rhel9App}},
	{Bucket: "rocky 9", Package: "openssl", ID: "CVE-2023-0286", Source: "rocky", Fixed: "1:3.0.1-47.el9_1", Arches: []string{"x86_64"}},
	{Bucket: "rocky 9", Package: "openssl", ID: "CVE-2023-0286", Source: "rocky", Fixed: "1:3.0.1-48.el9_1", Arches: []string{"aarch64"}},
	{Bucket: "rocky 9", Package: "nodejs:18::nodejs", ID: "CVE-2023-44487", Source: "rocky", Fixed: "1:18.18.2-2.module+el9", Arches: []string{"x86_64"}},
	{Bucket: "alma 9", Package: "openssl", ID: "CVE-2023-0286", Source: "alma", Fixed: "1:3.0.1-47.el9_1"},
	{Bucket: "Oracle Linux 9", Package: "openssl", ID: "CVE-2023-0286", Source: "oracle-oval", Fixed: "1:3.0.1-47.0.1.el9_1", Arches: []string{"x86_64"}},
	{Bucket: "Oracle Linux 9", Package: "openssl", ID: "CVE-2023-0286", Source: "oracle-oval", Fixed: "10:3.0.1-47.0.1.el9_1_fips", Arches: []string{"x86_64"}},
	{Bucket: "amazon linux 2023", Package: "openssl-libs", ID: "CVE-2023-0286", Source: "amazon", Fixed: "1:3.0.8-1.amzn2023.0.1"},
	{Bucket: "amazon linux 1", Package: "bash", ID: "CVE-2014-6271", Source: "amazon", Fixed: "4.1.2-15.19.amzn1"},
	{Bucket: "Photon OS 5.0", Package: "openssl", ID: "CVE-2023-0286", Source: "photon", Fixed: "3.0.8-1.ph5"},
	{Bucket: "Azure Linux 3.0", Package: "openssl", ID: "CVE-2024-5535", Source: "azure", Fixed: "3.3.0-2.azl3"},
	{Bucket: "CBL-Mariner 2.0", Package: "openssl", ID: "CVE-2023-0286", Source: "cbl-mariner", Fixed: "1.1.1k-22.cm2"},
	{Bucket: "SUSE Linux Enterprise 15.5", Package: "libopenssl1_1", ID: "SUSE-SU-2023:2622-1", Source: "suse-cvrf", Fixed: "1.1.1l-150500.17.3.1"},
	{Bucket: "openSUSE Leap 15.5", Package: "libopenssl1_1", ID: "openSUSE-SU-2023:2622-1", Source: "suse-cvrf", Fixed: "1.1.1l-150500.17.3.1"},
	{Bucket: "openSUSE Tumbleweed", Package: "libopenssl3", ID: "openSUSE-SU-2024:1-1", Source: "suse-cvrf", Fixed: "3.1.4-5.1"},
}

func TestMatchSystemPackages(t *testing.T) {
	a := openTestAdvisories(t, systemRows, nil)
	type pkg = gate.Package
	for _, test := range []struct {
		name string
		os   gate.OS
		pkg  pkg
		want []string
	}{
		{"debian, by the source's version", gate.OS{ID: "debian", Version: "12"}, pkg{Type: "deb", Name: "libcurl4", Version: "8.0-1", Source: "curl", SourceVersion: "7.88.1-10+deb12u3"}, []string{"CVE-2023-38545 unrated deb/libcurl4@8.0-1 fixed 7.88.1-10+deb12u4"}},
		{"debian, fixed", gate.OS{ID: "debian", Version: "12.4"}, pkg{Type: "deb", Name: "libcurl4", Version: "7.88.1-10+deb12u4", Source: "curl"}, nil},
		{"debian, not by the binary's name when there is a source", gate.OS{ID: "debian", Version: "12"}, pkg{Type: "deb", Name: "curl", Version: "1", Source: "other"}, nil},
		{"ubuntu", gate.OS{ID: "ubuntu", Version: "22.04"}, pkg{Type: "deb", Name: "libssl3", Version: "3.0.2-0ubuntu1.6", Source: "openssl"}, []string{"CVE-2022-3602 high deb/libssl3@3.0.2-0ubuntu1.6 fixed 3.0.2-0ubuntu1.7"}},
		{"ubuntu, fixed", gate.OS{ID: "ubuntu", Version: "22.04"}, pkg{Type: "deb", Name: "libssl3", Version: "3.0.2-0ubuntu1.10", Source: "openssl"}, nil},
		{"alpine, by origin", gate.OS{ID: "alpine", Version: "3.19.1"}, pkg{Type: "apk", Name: "libssl3", Version: "3.1.4-r4", Source: "openssl"}, []string{"CVE-2024-0727 unrated apk/libssl3@3.1.4-r4 fixed 3.1.4-r5"}},
		{"alpine, fixed", gate.OS{ID: "alpine", Version: "3.19.1"}, pkg{Type: "apk", Name: "libssl3", Version: "3.1.4-r5", Source: "openssl"}, nil},
		{"alpine, never affected", gate.OS{ID: "alpine", Version: "3.19.1"}, pkg{Type: "apk", Name: "busybox", Version: "odd"}, nil},
		{"alpine, a version that is none", gate.OS{ID: "alpine", Version: "3.19.1"}, pkg{Type: "apk", Name: "openssl", Version: "3.1.4-r4-dirty"}, []string{"unknown-version"}},
		{"alpine edge", gate.OS{ID: "alpine", Version: "3.20_alpha20240329"}, pkg{Type: "apk", Name: "openssl", Version: "3.1.4-r5"}, []string{"CVE-2024-0727 unrated apk/openssl@3.1.4-r5 fixed 3.2.1-r0"}},
		{"wolfi", gate.OS{ID: "wolfi", Version: "20230201"}, pkg{Type: "apk", Name: "libcurl-openssl4", Version: "8.3.0-r0", Source: "curl"}, []string{"CVE-2023-38545 unrated apk/libcurl-openssl4@8.3.0-r0 fixed 8.4.0-r0"}},
		{"wolfi, fixed", gate.OS{ID: "wolfi"}, pkg{Type: "apk", Name: "curl", Version: "8.4.0-r0"}, nil},
		{"chainguard", gate.OS{ID: "chainguard", Version: "20230214"}, pkg{Type: "apk", Name: "curl", Version: "8.3.0-r9"}, []string{"CVE-2023-38545 unrated apk/curl@8.3.0-r9 fixed 8.4.0-r0"}},
		{"chainguard, fixed", gate.OS{ID: "chainguard"}, pkg{Type: "apk", Name: "curl", Version: "8.10.0-r0"}, nil},
		{"rhel, an erratum and what is unfixed", gate.OS{ID: "rhel", Version: "9.1"}, pkg{Type: "rpm", Name: "openssl", Version: "1:3.0.1-46.el9_1"}, []string{"CVE-2023-0286 high rpm/openssl@1:3.0.1-46.el9_1 fixed 1:3.0.1-47.el9_1", "CVE-2024-41996 low rpm/openssl@1:3.0.1-46.el9_1 affected"}},
		{"rhel, fixed but for what is unfixed", gate.OS{ID: "rhel", Version: "9.4"}, pkg{Type: "rpm", Name: "openssl", Version: "1:3.0.1-47.el9_1"}, []string{"CVE-2024-41996 low rpm/openssl@1:3.0.1-47.el9_1 affected"}},
		{"rhel 8, by its own products", gate.OS{ID: "rhel", Version: "8.7"}, pkg{Type: "rpm", Name: "openssl", Version: "1:1.1.1k-8.el8"}, []string{"CVE-2023-0286 high rpm/openssl@1:1.1.1k-8.el8 fixed 1:1.1.1k-9.el8_7"}},
		{"centos", gate.OS{ID: "centos", Version: "8"}, pkg{Type: "rpm", Name: "openssl", Version: "1:1.1.1k-9.el8_7"}, nil},
		{"rhel 7, whose products nobody named", gate.OS{ID: "rhel", Version: "7.9"}, pkg{Type: "rpm", Name: "openssl", Version: "1:1.0.2k-1"}, []string{"no-advisories"}},
		{"rhel, in a module stream", gate.OS{ID: "rhel", Version: "9.2"}, pkg{Type: "rpm", Name: "nodejs", Version: "1:18.17.1-1.module+el9.2.0", Modularity: "nodejs:18:9020020230825081254:rhel9"}, []string{"CVE-2023-44487 high rpm/nodejs@1:18.17.1-1.module+el9.2.0 fixed 1:18.18.2-2.module+el9.2.0"}},
		{"rhel, in another module stream", gate.OS{ID: "rhel", Version: "9.2"}, pkg{Type: "rpm", Name: "nodejs", Version: "1:16.20.2-1", Modularity: "nodejs:16:1:rhel9"}, nil},
		{"rhel, outside of modules", gate.OS{ID: "rhel", Version: "9.2"}, pkg{Type: "rpm", Name: "nodejs", Version: "1:16.20.2-1"}, nil},
		{"rocky", gate.OS{ID: "rocky", Version: "9.1"}, pkg{Type: "rpm", Name: "openssl", Version: "1:3.0.1-46.el9_1", Arch: "x86_64"}, []string{"CVE-2023-0286 unrated rpm/openssl@1:3.0.1-46.el9_1 fixed 1:3.0.1-47.el9_1"}},
		{"rocky, fixed for this architecture", gate.OS{ID: "rocky", Version: "9.1"}, pkg{Type: "rpm", Name: "openssl", Version: "1:3.0.1-47.el9_1", Arch: "x86_64"}, nil},
		{"rocky, not fixed for this architecture", gate.OS{ID: "rocky", Version: "9.1"}, pkg{Type: "rpm", Name: "openssl", Version: "1:3.0.1-47.el9_1", Arch: "aarch64"}, []string{"CVE-2023-0286 unrated rpm/openssl@1:3.0.1-47.el9_1 fixed 1:3.0.1-48.el9_1"}},
		{"rocky, of unknown architecture", gate.OS{ID: "rocky", Version: "9.1"}, pkg{Type: "rpm", Name: "openssl", Version: "1:3.0.1-46.el9_1"}, []string{"CVE-2023-0286 unrated rpm/openssl@1:3.0.1-46.el9_1 fixed 1:3.0.1-48.el9_1"}},
		{"rocky, in a module stream", gate.OS{ID: "rocky", Version: "9"}, pkg{Type: "rpm", Name: "nodejs", Version: "1:18.1.0-1", Modularity: "nodejs:18:1:c", Arch: "x86_64"}, []string{"CVE-2023-44487 unrated rpm/nodejs@1:18.1.0-1 fixed 1:18.18.2-2.module+el9"}},
		{"alma", gate.OS{ID: "almalinux", Version: "9.1"}, pkg{Type: "rpm", Name: "openssl", Version: "1:3.0.1-43.el9_0"}, []string{"CVE-2023-0286 unrated rpm/openssl@1:3.0.1-43.el9_0 fixed 1:3.0.1-47.el9_1"}},
		{"alma, fixed", gate.OS{ID: "almalinux", Version: "9.1"}, pkg{Type: "rpm", Name: "openssl", Version: "1:3.0.7-1.el9"}, nil},
		{"oracle", gate.OS{ID: "ol", Version: "9.1"}, pkg{Type: "rpm", Name: "openssl", Version: "1:3.0.1-46.el9_1", Arch: "x86_64"}, []string{"CVE-2023-0286 unrated rpm/openssl@1:3.0.1-46.el9_1 fixed 1:3.0.1-47.0.1.el9_1"}},
		{"oracle, fixed, whatever the fix of the FIPS build", gate.OS{ID: "ol", Version: "9.1"}, pkg{Type: "rpm", Name: "openssl", Version: "1:3.0.7-1.el9", Arch: "x86_64"}, nil},
		{"oracle, the FIPS build", gate.OS{ID: "ol", Version: "9.1"}, pkg{Type: "rpm", Name: "openssl", Version: "10:3.0.1-46.el9_1_fips", Arch: "x86_64"}, []string{"CVE-2023-0286 unrated rpm/openssl@10:3.0.1-46.el9_1_fips fixed 10:3.0.1-47.0.1.el9_1_fips"}},
		{"amazon", gate.OS{ID: "amzn", Version: "2023"}, pkg{Type: "rpm", Name: "openssl-libs", Version: "1:3.0.5-1.amzn2023.0.1"}, []string{"CVE-2023-0286 unrated rpm/openssl-libs@1:3.0.5-1.amzn2023.0.1 fixed 1:3.0.8-1.amzn2023.0.1"}},
		{"amazon, fixed", gate.OS{ID: "amzn", Version: "2023"}, pkg{Type: "rpm", Name: "openssl-libs", Version: "1:3.0.8-1.amzn2023.0.1"}, nil},
		{"amazon of the first kind", gate.OS{ID: "amzn", Version: "2018.03"}, pkg{Type: "rpm", Name: "bash", Version: "4.1.2-15.18.amzn1"}, []string{"CVE-2014-6271 unrated rpm/bash@4.1.2-15.18.amzn1 fixed 4.1.2-15.19.amzn1"}},
		{"photon, by the source", gate.OS{ID: "photon", Version: "5.0"}, pkg{Type: "rpm", Name: "openssl-devel", Version: "3.0.7-1.ph5", Source: "openssl"}, []string{"CVE-2023-0286 unrated rpm/openssl-devel@3.0.7-1.ph5 fixed 3.0.8-1.ph5"}},
		{"photon, fixed", gate.OS{ID: "photon", Version: "5.0"}, pkg{Type: "rpm", Name: "openssl", Version: "3.0.8-1.ph5"}, nil},
		{"azure linux", gate.OS{ID: "azurelinux", Version: "3.0"}, pkg{Type: "rpm", Name: "openssl-libs", Version: "3.3.0-1.azl3", Source: "openssl"}, []string{"CVE-2024-5535 unrated rpm/openssl-libs@3.3.0-1.azl3 fixed 3.3.0-2.azl3"}},
		{"azure linux, fixed", gate.OS{ID: "azurelinux", Version: "3.0"}, pkg{Type: "rpm", Name: "openssl-libs", Version: "3.3.0-2.azl3", Source: "openssl"}, nil},
		{"mariner", gate.OS{ID: "mariner", Version: "2.0"}, pkg{Type: "rpm", Name: "openssl", Version: "1.1.1k-21.cm2"}, []string{"CVE-2023-0286 unrated rpm/openssl@1.1.1k-21.cm2 fixed 1.1.1k-22.cm2"}},
		{"mariner, fixed", gate.OS{ID: "mariner", Version: "2.0.20230101"}, pkg{Type: "rpm", Name: "openssl", Version: "1.1.1k-22.cm2"}, nil},
		{"suse", gate.OS{ID: "sles", Version: "15.5"}, pkg{Type: "rpm", Name: "libopenssl1_1", Version: "1.1.1l-150500.15.4"}, []string{"SUSE-SU-2023:2622-1 unrated rpm/libopenssl1_1@1.1.1l-150500.15.4 fixed 1.1.1l-150500.17.3.1"}},
		{"suse, fixed", gate.OS{ID: "sles", Version: "15.5"}, pkg{Type: "rpm", Name: "libopenssl1_1", Version: "1.1.1l-150500.17.3.1"}, nil},
		{"suse, another service pack", gate.OS{ID: "sles", Version: "15.6"}, pkg{Type: "rpm", Name: "libopenssl1_1", Version: "1.1.1l-150500.15.4"}, []string{"no-advisories"}},
		{"suse micro", gate.OS{ID: "sle-micro", Version: "5.5"}, pkg{Type: "rpm", Name: "curl", Version: "8.0.1-150400.5.23.1"}, []string{"SUSE-SU-2023:4044-1 unrated rpm/curl@8.0.1-150400.5.23.1 fixed 8.0.1-150400.5.32.1"}},
		{"suse micro, fixed", gate.OS{ID: "sl-micro", Version: "5.5"}, pkg{Type: "rpm", Name: "curl", Version: "8.0.1-150400.5.32.1"}, nil},
		{"minimos", gate.OS{ID: "minimos", Version: "20240101"}, pkg{Type: "apk", Name: "libcurl", Version: "8.3.0-r0", Source: "curl"}, []string{"CVE-2023-38545 unrated apk/libcurl@8.3.0-r0 fixed 8.4.0-r0"}},
		{"echo", gate.OS{ID: "echo", Version: "12"}, pkg{Type: "deb", Name: "libcurl4", Version: "7.88.1-10+deb12u4", Source: "curl"}, []string{"CVE-2023-38545 unrated deb/libcurl4@7.88.1-10+deb12u4 fixed 7.88.1-10+deb12u4+e1"}},
		{"leap", gate.OS{ID: "opensuse-leap", Version: "15.5"}, pkg{Type: "rpm", Name: "libopenssl1_1", Version: "1.1.1l-150500.15.4"}, []string{"openSUSE-SU-2023:2622-1 unrated rpm/libopenssl1_1@1.1.1l-150500.15.4 fixed 1.1.1l-150500.17.3.1"}},
		{"tumbleweed", gate.OS{ID: "opensuse-tumbleweed", Version: "20240101"}, pkg{Type: "rpm", Name: "libopenssl3", Version: "3.1.4-4.1"}, []string{"openSUSE-SU-2024:1-1 unrated rpm/libopenssl3@3.1.4-4.1 fixed 3.1.4-5.1"}},
		{"tumbleweed, fixed", gate.OS{ID: "opensuse-tumbleweed", Version: "20240101"}, pkg{Type: "rpm", Name: "libopenssl3", Version: "3.1.4-5.1"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := brief(matchAll(t, a, gate.Inventory{OS: test.os, Packages: []gate.Found{{Package: test.pkg}}}))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMatchTakesTheNewestFixOfOneVulnerability(t *testing.T) {
	first := ocitest.Advisory{Bucket: "Red Hat", Package: "bind", ID: "CVE-1", Erratum: "RHSA-2024:1", Source: "redhat-oval", Fixed: "9.10-2", CPEs: []string{rhel9Base}}
	second := first
	second.Erratum, second.Fixed = "RHSA-2024:2", "9.10-10"
	unfixed := first
	unfixed.Erratum, unfixed.Fixed, unfixed.Status = "", "", 2
	a := openTestAdvisories(t, []ocitest.Advisory{second, unfixed, first}, nil)
	for version, want := range map[string][]string{
		"9.10-1":  {"CVE-1 unrated rpm/bind@9.10-1 fixed 9.10-10"},
		"9.10-9":  {"CVE-1 unrated rpm/bind@9.10-9 fixed 9.10-10"},
		"9.10-11": nil, // what is unfixed in another product of the release is fixed in this one
	} {
		got := brief(matchAll(t, a, inventory(gate.OS{ID: "rhel", Version: "9"}, "rpm/bind@"+version)))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", version, diff)
		}
	}
}

func TestMatchHonoursWhereAnAdvisoryBegins(t *testing.T) {
	a := openTestAdvisories(t, []ocitest.Advisory{
		{Bucket: "alpine 3.19", Package: "x", ID: "CVE-1", Affected: "2.0-r0", Fixed: "2.0-r5"},
		{Bucket: "alpine 3.19", Package: "y", ID: "CVE-2", Affected: "2.0-r0"},
		{Bucket: "alpine 3.19", Package: "z", ID: "CVE-3", Status: 1},
	}, nil)
	inv := inventory(gate.OS{ID: "alpine", Version: "3.19"}, "apk/x@1.9-r9", "apk/x@2.0-r0", "apk/x@2.0-r5", "apk/y@1.9-r0", "apk/y@3.0-r0", "apk/z@1-r0")
	want := []string{"CVE-1 unrated apk/x@2.0-r0 fixed 2.0-r5", "CVE-2 unrated apk/y@3.0-r0"}
	if diff := cmp.Diff(want, brief(matchAll(t, a, inv))); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestReleases(t *testing.T) {
	for _, test := range []struct {
		os   gate.OS
		want string
	}{
		{gate.OS{ID: "alpine", Version: "3.19.1"}, "alpine 3.19"},
		{gate.OS{ID: "alpine", Version: "3.22_alpha20250108"}, "alpine edge"},
		{gate.OS{ID: "alpine", Version: "3"}, ""},
		{gate.OS{ID: "debian", Version: "12.5"}, "debian 12"},
		{gate.OS{ID: "debian", Version: "trixie"}, ""},
		{gate.OS{ID: "ubuntu", Version: "22.04"}, "ubuntu 22.04"},
		{gate.OS{ID: "ubuntu", Version: "22"}, ""},
		{gate.OS{ID: "amzn", Version: "2"}, "amazon linux 2"},
		{gate.OS{ID: "amzn", Version: "2023"}, "amazon linux 2023"},
		{gate.OS{ID: "amzn", Version: "2018.03"}, "amazon linux 1"},
		{gate.OS{ID: "amzn", Version: "2023.1"}, "amazon linux 2023"},
		{gate.OS{ID: "ol", Version: "8.10"}, "Oracle Linux 8"},
		{gate.OS{ID: "sles", Version: "15"}, "SUSE Linux Enterprise 15"},
		{gate.OS{ID: "rhel", Version: "9.4"}, "Red Hat"},
	} {
		d := distributions[test.os.ID]
		release, ok := d.release(test.os.Version)
		got := ""
		if ok {
			got = d.bucket + release
		}
		if got != test.want {
			t.Errorf("%v is %q, want %q", test.os, got, test.want)
		}
	}
}

func TestIsRedHatRelease(t *testing.T) {
	for cpe, want := range map[string]bool{
		"cpe:/o:redhat:enterprise_linux:9":            true,
		"cpe:/a:redhat:enterprise_linux:9::appstream": true,
		"cpe:/o:redhat:enterprise_linux:9.4":          true,
		"cpe:/a:redhat:rhel_extras:9":                 true,
		"cpe:/o:redhat:enterprise_linux:90":           false,
		"cpe:/o:redhat:rhel_eus:9.0::baseos":          false,
		"cpe:/a:redhat:openshift:4::el9":              false,
		"cpe:/o:someone:enterprise_linux:9":           false,
		"":                                            false,
	} {
		if got := isRedHatRelease(cpe, "9"); got != want {
			t.Errorf("isRedHatRelease(%q) = %t, want %t", cpe, got, want)
		}
	}
}

// openRewritten opens a database of rows that change has written into.
func openRewritten(t *testing.T, rows []ocitest.Advisory, change func(tx *bolt.Tx) error) *Advisories {
	t.Helper()
	dir := t.TempDir()
	writeTestAdvisories(t, dir, rows, nil)
	db, err := bolt.Open(filepath.Join(dir, databaseName), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(change), db.Close()); err != nil {
		t.Fatal(err)
	}
	a, err := OpenAdvisories(t.Context(), dir, 0, func() time.Time { return advisoryTime })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func TestMatchByChannels(t *testing.T) {
	const (
		eus  = "cpe:/a:redhat:rhel_eus:9.4::appstream"
		plus = "cpe:/a:redhat:tide_plus:1"
	)
	row := func(bucket, pkg, id, fixed, source string, cpes ...string) ocitest.Advisory {
		return ocitest.Advisory{Bucket: bucket, Package: pkg, ID: id, Fixed: fixed, Source: source, CPEs: cpes}
	}
	rows := []ocitest.Advisory{
		row("ubuntu 18.04", "curl", "CVE-1", "7.58.0-2ubuntu3.24", "ubuntu"), row("ubuntu 18.04-ESM", "curl", "CVE-2", "7.58.0-2ubuntu3.24+esm5", "ubuntu"),
		row("ubuntu 22.04", "curl", "CVE-3", "7.81.0-1ubuntu1.20", "ubuntu"),
		row("alpine 3.19", "curl", "CVE-4", "8.5.0-r0", "alpine"), row("alpine 3.20", "curl", "CVE-5", "8.9.0-r0", "alpine"), row("alpine edge", "curl", "CVE-6", "8.11.0-r0", "alpine"),
		row("Red Hat", "bash", "CVE-7", "5.1-7", "redhat-oval", rhel9Base), row("Red Hat", "bash", "CVE-8", "5.1-9", "redhat-oval", eus), row("Red Hat", "bash", "CVE-9", "5.1-9", "redhat-oval", plus),
	}
	rows[len(rows)-2].Repositories = []string{"rhel-9-for-x86_64-appstream-eus-rpms"}
	rows[len(rows)-1].Builds = []string{"tide-container-1.0-1-x86_64"}
	a := openTestAdvisories(t, rows, nil)
	for _, tt := range []struct {
		name     string
		os       gate.OS
		channels []string
		pkg      string
		want     []string
	}{
		{"ubuntu", gate.OS{ID: "ubuntu", Version: "18.04"}, nil, "deb/curl@7.58.0-2ubuntu3", []string{"CVE-1"}},
		{"ubuntu with extended maintenance", gate.OS{ID: "ubuntu", Version: "18.04"}, []string{"esm-apps", "esm-infra"}, "deb/curl@7.58.0-2ubuntu3", []string{"CVE-2"}},
		{"ubuntu with extended maintenance that has not begun", gate.OS{ID: "ubuntu", Version: "22.04"}, []string{"esm-infra"}, "deb/curl@7.81.0-1ubuntu1", []string{"CVE-3"}},
		{"alpine", gate.OS{ID: "alpine", Version: "3.19.1"}, []string{"alpine 3.19"}, "apk/curl@8.4.0-r0", []string{"CVE-4"}},
		{"alpine with packages of a later release", gate.OS{ID: "alpine", Version: "3.19.1"}, []string{"alpine 3.19", "alpine 3.20"}, "apk/curl@8.4.0-r0", []string{"CVE-5"}},
		{"alpine with packages of edge", gate.OS{ID: "alpine", Version: "3.19.1"}, []string{"alpine 3.20", "alpine edge"}, "apk/curl@8.4.0-r0", []string{"CVE-6"}},
		{"alpine with packages of a release nobody knows", gate.OS{ID: "alpine", Version: "3.19.1"}, []string{"alpine 3.99"}, "apk/curl@8.4.0-r0", []string{"CVE-4"}},
		{"red hat", gate.OS{ID: "rhel", Version: "9.4"}, nil, "rpm/bash@5.1-6", []string{"CVE-7"}},
		{"red hat of a content set", gate.OS{ID: "rhel", Version: "9.4"}, []string{"rhel-9-for-x86_64-appstream-eus-rpms__9"}, "rpm/bash@5.1-6", []string{"CVE-8"}},
		{"red hat of a build", gate.OS{ID: "rhel", Version: "9.4"}, []string{"nvr:tide-container-1.0-1-x86_64"}, "rpm/bash@5.1-6", []string{"CVE-9"}},
		{"red hat of content sets nobody knows", gate.OS{ID: "rhel", Version: "9.4"}, []string{"internal-rpms", "nvr:a-1-1-x86_64"}, "rpm/bash@5.1-6", []string{"CVE-7"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inv := inventory(tt.os, tt.pkg)
			inv.Channels = tt.channels
			findings, gaps := matchAll(t, a, inv)
			var got []string
			for _, f := range findings {
				got = append(got, f.ID)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || len(gaps) > 0 {
				t.Errorf("findings (-want +got):\n%s\ngaps: %v", diff, gaps)
			}
		})
	}
}

func TestMatchCarriesTheRatingOfTheBestSource(t *testing.T) {
	row := ocitest.Advisory{Bucket: "debian 12", Package: "tar", ID: "CVE-1", Source: "debian"}
	const nvd, own = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "CVSS:3.1/AV:L/AC:L/PR:N/UI:N/S:U/C:L/I:N/A:N"
	for _, tt := range []struct {
		name, stored, want string
		score              float64
	}{
		{"none", `{}`, "", 0},
		{"NVD's", `{"nvd":{"V2Vector":"AV:N","V2Score":5,"V3Vector":"` + nvd + `","V3Score":9.8}}`, nvd, 9.8},
		{"the distribution's before others'", `{"debian":{"V3Vector":"` + own + `","V3Score":4},"ghsa":{"V3Vector":"` + nvd + `","V3Score":9.8}}`, own, 4},
		{"the newer version where it is alone", `{"ghsa":{"V40Vector":"CVSS:4.0/AV:N","V40Score":8.7}}`, "CVSS:4.0/AV:N", 8.7},
		{"one that is no vector", `{"nvd":{"V3Vector":"` + strings.Repeat("x", 1000) + `"}}`, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := openRewritten(t, []ocitest.Advisory{row}, func(tx *bolt.Tx) error {
				return tx.Bucket([]byte("vulnerability")).Put([]byte("CVE-1"), []byte(`{"CVSS":`+tt.stored+`}`))
			})
			findings, _ := matchAll(t, a, inventory(gate.OS{ID: "debian", Version: "12"}, "deb/tar@1"))
			if len(findings) != 1 || findings[0].CVSS != tt.want || findings[0].Score != tt.score {
				t.Errorf("findings %+v, want one of %q, %v", findings, tt.want, tt.score)
			}
		})
	}
}
