package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// waivingPolicy denies what is critical, but for one vulnerability that somebody lives with.
const waivingPolicy = `policies:
  - name: vulnerabilities
    match: {repositories: ["**"]}
    on_fail: quarantine
    vulnerabilities: {deny_at: high}
waivers:
  - {vulnerability: CVE-2021-44228, repositories: ["**"], until: 2100-01-01T00:00:00Z, reason: "not reachable; TICKET-12", by: alice}
waiver_max: 1000000h
`

func TestReports(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1777896000")
	l := newLab(t, waivingPolicy)
	files := append(ocitest.NPM("lodash", "4.17.4"), ocitest.Jar("org.apache.logging.log4j", "log4j-core", "2.14.1")...)
	image, err := l.upstream.PushImage("app", "1.0", ocitest.Image{
		Layers:   []ocitest.LayerSpec{{Files: ocitest.Debian("12", ocitest.DebPackage{Name: "bash", Version: "5.2.15-2"})}, {Files: files}},
		Platform: oci.Platform{OS: "linux", Architecture: "amd64"},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.pushIndex(t, "index", image)
	for tag, files := range map[string][]ocitest.File{"clean": ocitest.NPM("left-pad", "1.3.0"), "broken": {{Path: "app/broken.jar", Body: []byte("PK")}}} {
		if _, err := l.upstream.PushImage("app", tag, ocitest.Image{Layers: []ocitest.LayerSpec{{Files: files}}}); err != nil {
			t.Fatal(err)
		}
	}
	const bash, lodash, log4j = "pkg:deb/debian/bash@5.2.15-2?arch=amd64&distro=debian-12", "pkg:npm/lodash@4.17.4", "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1"
	for law, tt := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"an inventory as CycloneDX":    {[]string{"inventory", "-o", "cyclonedx", "registry.demo/app:1.0"}, exitDone, []string{`"specVersion": "1.6"`, bash, lodash, log4j}},
		"an inventory as SPDX":         {[]string{"inventory", "-o", "spdx", "registry.demo/app:1.0"}, exitDone, []string{"SPDX-2.3", bash, lodash, log4j, `"name": "registry.demo/app:1.0"`}},
		"an inventory of an index":     {[]string{"inventory", "-o", "cyclonedx", "registry.demo/app:index"}, exitDone, []string{image.Digest.String(), lodash}},
		"a check as SARIF":             {[]string{"check", "-o", "sarif", "registry.demo/app:1.0"}, exitDenied, []string{`"version": "2.1.0"`, "CVE-2019-10744", "CVE-2021-44228", `"justification": "waived by alice`, "TICKET-12", lodash}},
		"a check as CycloneDX":         {[]string{"check", "-o", "cyclonedx", "registry.demo/app:1.0"}, exitDenied, []string{bash, lodash, log4j, `"vulnerabilities"`, "CVE-2019-10744", "will_not_fix"}},
		"a check as OpenVEX":           {[]string{"check", "-o", "openvex", "registry.demo/app:1.0"}, exitDenied, []string{"https://openvex.dev/ns/v0.2.0", "CVE-2019-10744", "update lodash to 4.17.12", "TICKET-12"}},
		"an inventory as SARIF":        {[]string{"inventory", "-o", "sarif", "registry.demo/app:broken"}, exitDone, []string{`"version": "2.1.0"`, "tidewaiter/gap", "app/broken.jar"}},
		"a check as SPDX":              {[]string{"check", "-o", "spdx", "registry.demo/app:1.0"}, exitDenied, []string{"SPDX-2.3", bash, `"SECURITY"`, "https://nvd.nist.gov/vuln/detail/CVE-2019-10744", "waived: alice", "deny"}},
		"a check of an index as SARIF": {[]string{"check", "-o", "sarif", "registry.demo/app:index"}, exitDenied, []string{"CVE-2019-10744", image.Digest.String()}},
	} {
		t.Run(law, func(t *testing.T) {
			args := append(tt.args, "--quiet", "--config", l.config)
			got := command(t, args...)
			if got.code != tt.code || got.stderr != "" || !json.Valid([]byte(got.stdout)) {
				t.Fatalf("code %d, want %d: %s\n%s", got.code, tt.code, got.stderr, got.stdout)
			}
			for _, want := range tt.want {
				if !strings.Contains(got.stdout, want) {
					t.Errorf("it does not have %q but\n%s", want, got.stdout)
				}
			}
			if again := command(t, args...); again.stdout != got.stdout {
				t.Error("a second time it is another document")
			}
			if !strings.Contains(got.stdout, "2026-05-04T12:00:00Z") {
				t.Error("its time is not the environment's")
			}
		})
	}
	for law, args := range map[string][]string{
		"an inventory has no findings":     {"inventory", "-o", "openvex", "registry.demo/app:1.0"},
		"there is no such format":          {"check", "-o", "xml", "registry.demo/app:1.0"},
		"commands without reports refuse":  {"policy", "check", "-o", "sarif", l.path("policy.yaml")},
		"the environment has another time": {"inventory", "-o", "spdx", "--config", l.config, "registry.demo/app:1.0"},
	} {
		t.Run(law, func(t *testing.T) {
			t.Setenv("SOURCE_DATE_EPOCH", "today")
			if got := command(t, args...); got.code != exitUsage || got.stdout != "" {
				t.Errorf("got %+v", got)
			}
		})
	}
	t.Run("without a finding there is nothing to state", func(t *testing.T) {
		got := command(t, "check", "--config", l.config, "-o", "openvex", "registry.demo/app:clean")
		if got.code != exitDone || got.stdout != "" || !strings.Contains(got.stderr, "no document is written") {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("no layer is read for a report that was read for the verdict", func(t *testing.T) {
		l.upstream.ResetRequests()
		if got := command(t, "check", "--quiet", "--config", l.config, "-o", "cyclonedx", "registry.demo/app:1.0"); got.code != exitDenied {
			t.Fatalf("got %+v", got)
		}
		if got := l.upstream.Count("GET", ocitest.KindBlob); got != 0 {
			t.Errorf("%d blobs were fetched", got)
		}
	})
}
