package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestPlatformsOfAnIndex(t *testing.T) {
	l := newLab(t, lenient)
	amd := l.push(t, "", oci.Platform{OS: "linux", Architecture: "amd64"})
	arm := l.push(t, "image", oci.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"})
	s390x := l.push(t, "", oci.Platform{OS: "linux", Architecture: "s390x"})
	silent := l.push(t, "", oci.Platform{OS: "linux", Architecture: "riscv64"})
	silent.Platform = nil
	both := l.pushIndex(t, "both", amd, arm)
	odd := l.pushIndex(t, "odd", s390x)
	quiet := l.pushIndex(t, "quiet", s390x, silent)
	names := map[oci.Digest]string{
		amd.Digest: "amd64", arm.Digest: "arm64", s390x.Digest: "s390x", silent.Digest: "silent",
		both.Digest: "both", odd.Digest: "odd", quiet.Digest: "quiet",
	}
	for law, tt := range map[string]struct {
		tag, platform string
		code          int
		judged        string
		stderr        string
	}{
		"those that are usual":                      {"both", "", exitDone, "both amd64 arm64", ""},
		"one, without its variant":                  {"both", "linux/arm64", exitDone, "both arm64", ""},
		"one, with its variant":                     {"both", "linux/arm64/v8", exitDone, "both arm64", ""},
		"one of another variant":                    {"both", "linux/arm64/v7", exitUsage, "", "no image for linux/arm64/v7"},
		"one that is there and one that is not":     {"both", "linux/amd64,linux/s390x", exitUsage, "", "no image for linux/s390x"},
		"none of the usual ones":                    {"odd", "", exitFailure, "", "no image for linux/amd64, linux/arm64"},
		"an unusual one":                            {"odd", "linux/s390x", exitDone, "odd s390x", ""},
		"a child that says nothing is for everyone": {"quiet", "", exitDone, "quiet silent", ""},
		"of an image there is no choice":            {"image", "linux/s390x", exitDone, "arm64", ""},
		"half a platform":                           {"both", "linux/", exitUsage, "", "linux/"},
		"no architecture":                           {"both", "linux", exitUsage, "", "os/architecture"},
	} {
		t.Run("check judges "+law, func(t *testing.T) {
			args := []string{"check", "--config", l.config, "-o", "json", "registry.demo/app:" + tt.tag}
			if tt.platform != "" {
				args = append(args, "--platform", tt.platform)
			}
			got := command(t, args...)
			if got.code != tt.code || !strings.Contains(got.stderr, tt.stderr) {
				t.Fatalf("code %d, want %d: %s", got.code, tt.code, got.stderr)
			}
			if tt.judged == "" {
				if got.stdout != "" {
					t.Errorf("it prints %s", got.stdout)
				}
				return
			}
			var verdicts []gate.Verdict
			if err := json.Unmarshal([]byte(got.stdout), &verdicts); err != nil {
				t.Fatal(err)
			}
			var judged []string
			for _, v := range verdicts {
				judged = append(judged, names[v.Digest])
			}
			if diff := cmp.Diff(strings.Join(judged, " "), tt.judged); diff != "" {
				t.Error(diff)
			}
		})
	}
	for law, tt := range map[string]struct {
		tag, platform string
		code          int
		of            oci.Digest
	}{
		"of the usual platform":            {"both", "linux/amd64", exitDone, amd.Digest},
		"of one without its variant":       {"both", "linux/arm64", exitDone, arm.Digest},
		"of one that is not there":         {"both", "linux/s390x", exitUsage, ""},
		"of one that is none":              {"both", "linux", exitUsage, ""},
		"of what says nothing of platform": {"quiet", "linux/amd64", exitDone, silent.Digest},
	} {
		t.Run("an inventory is "+law, func(t *testing.T) {
			got := command(t, "inventory", "--config", l.config, "-o", "json", "--platform", tt.platform, "registry.demo/app:"+tt.tag)
			if got.code != tt.code {
				t.Fatalf("code %d, want %d: %s", got.code, tt.code, got.stderr)
			}
			var inventory imageInventory
			if tt.of != "" && (json.Unmarshal([]byte(got.stdout), &inventory) != nil || inventory.Digest != tt.of || len(inventory.Packages) != 1) {
				t.Errorf("got %s", got.stdout)
			}
		})
	}
}

func TestCheckExaminesWhatIsRefusedEarly(t *testing.T) {
	l := newLab(t, labSigned)
	if _, err := l.upstream.PushImage("app", "1.0", ocitest.Image{Layers: []ocitest.LayerSpec{{Files: ocitest.NPM("lodash", "4.17.4")}}}); err != nil {
		t.Fatal(err)
	}
	got := command(t, "check", "--config", l.config, "registry.demo/app:1.0")
	if got.code != exitDenied || strings.Contains(got.stderr, "canceled") {
		t.Errorf("code %d, want %d, and it says %q", got.code, exitDenied, got.stderr)
	}
	for _, part := range []string{"unsigned", "CVE-2019-10744", "findings  1 in 1 packages\n"} {
		if !strings.Contains(got.stdout, part) {
			t.Errorf("it does not print %q but\n%s", part, got.stdout)
		}
	}
}
