package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

func TestParsePlatform(t *testing.T) {
	for text, want := range map[string]platform{
		"linux/amd64":    {"linux", "amd64", ""},
		"linux/arm64/v8": {"linux", "arm64", "v8"},
	} {
		if got, err := parsePlatform(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "linux", "/", "linux/", "/amd64", "linux//v8", "linux/arm64/", "a/b/c/d"} {
		if got, err := parsePlatform(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func TestChildrenFor(t *testing.T) {
	// names stand for digests here.
	child := func(name string, p *oci.Platform) oci.Descriptor {
		return oci.Descriptor{Digest: oci.Digest(name), Platform: p}
	}
	amd := child("amd", &oci.Platform{OS: "linux", Architecture: "amd64"})
	armV8 := child("arm-v8", &oci.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"})
	armV9 := child("arm-v9", &oci.Platform{OS: "linux", Architecture: "arm64", Variant: "v9"})
	statement := child("statement", &oci.Platform{OS: "unknown", Architecture: "unknown"})
	silent, empty := child("silent", nil), child("empty", &oci.Platform{})
	for law, tt := range map[string]struct {
		children      []oci.Descriptor
		asked         string
		want, missing string
	}{
		"a platform":                              {[]oci.Descriptor{armV8, amd, statement}, "linux/amd64", "amd", ""},
		"no variant is any":                       {[]oci.Descriptor{amd, armV8, armV9}, "linux/arm64", "arm-v8 arm-v9", ""},
		"a variant is itself":                     {[]oci.Descriptor{amd, armV8, armV9}, "linux/arm64/v8", "arm-v8", ""},
		"a variant that is not there":             {[]oci.Descriptor{armV8}, "linux/arm64/v7", "", "linux/arm64/v7"},
		"each platform that is missing is told":   {[]oci.Descriptor{amd}, "linux/amd64 linux/s390x linux/riscv64", "amd", "linux/s390x linux/riscv64"},
		"a child without a platform is for any":   {[]oci.Descriptor{silent, amd, empty}, "linux/amd64 linux/s390x", "amd silent empty", ""},
		"an index without children has none":      {nil, "linux/amd64", "", "linux/amd64"},
		"an architecture of another system":       {[]oci.Descriptor{amd}, "windows/amd64", "", "windows/amd64"},
		"a child that two platforms want is once": {[]oci.Descriptor{armV8}, "linux/arm64 linux/arm64/v8", "arm-v8", ""},
	} {
		asked, err := parsePlatforms(strings.Fields(tt.asked))
		if err != nil {
			t.Fatal(err)
		}
		found, missing := childrenFor(tt.children, asked)
		var got []string
		for _, d := range found {
			got = append(got, d.String())
		}
		if diff := cmp.Diff(strings.Join(got, " "), tt.want); diff != "" {
			t.Errorf("%s: %s", law, diff)
		}
		var lacking []string
		for _, p := range missing {
			lacking = append(lacking, p.String())
		}
		if !slices.Equal(lacking, strings.Fields(tt.missing)) {
			t.Errorf("%s: got %q missing, want %q", law, lacking, tt.missing)
		}
	}
}
