package gate_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

func file(path string, names ...string) gate.FileInventory {
	f := gate.FileInventory{Path: path}
	for _, n := range names {
		f.Packages = append(f.Packages, gate.Package{Type: "npm", Name: n, Version: "1"})
	}
	return f
}

func TestMerge(t *testing.T) {
	base := gate.LayerInventory{Layer: digestOf("base"), Files: []gate.FileInventory{file("app/a/package.json", "a"), file("app/b/package.json", "b"), file("lib/c", "c")}}
	tests := map[string]struct {
		upper gate.LayerInventory
		want  []string
	}{
		"layers add up":                               {gate.LayerInventory{Files: []gate.FileInventory{file("x", "x")}}, []string{"a", "b", "c", "x"}},
		"a file replaces the one below":               {gate.LayerInventory{Files: []gate.FileInventory{file("lib/c", "c2")}}, []string{"a", "b", "c2"}},
		"a file without packages hides the one below": {gate.LayerInventory{Files: []gate.FileInventory{file("lib/c")}}, []string{"a", "b"}},
		"a whiteout removes a file":                   {gate.LayerInventory{Whiteouts: []string{"lib/c"}}, []string{"a", "b"}},
		"a whiteout removes a directory":              {gate.LayerInventory{Whiteouts: []string{"app"}}, []string{"c"}},
		"a whiteout is not a prefix":                  {gate.LayerInventory{Whiteouts: []string{"ap", "lib/c2"}}, []string{"a", "b", "c"}},
		"an opaque directory hides what is below it":  {gate.LayerInventory{Opaque: []string{"app"}}, []string{"c"}},
		"an opaque root hides nothing":                {gate.LayerInventory{Opaque: []string{"."}}, []string{"a", "b", "c"}},
		"removals spare their own layer":              {gate.LayerInventory{Opaque: []string{"lib"}, Whiteouts: []string{"app"}, Files: []gate.FileInventory{file("app/n", "n")}}, []string{"n"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range gate.Merge([]gate.LayerInventory{base, tt.upper}).Packages {
				got = append(got, p.Name)
			}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("packages, got/want:\n%s", diff)
			}
		})
	}
}

func TestMergeTakesOSReleaseByPrecedence(t *testing.T) {
	usr := gate.LayerInventory{OSRelease: map[string]gate.OS{"usr/lib/os-release": {ID: "debian", Version: "12"}}}
	etc := gate.LayerInventory{OSRelease: map[string]gate.OS{"etc/os-release": {ID: "ubuntu", Version: "24.04"}}}
	removed := gate.LayerInventory{Whiteouts: []string{"etc/os-release"}}
	for name, tt := range map[string]struct {
		layers []gate.LayerInventory
		want   string
	}{
		"etc before usr/lib":     {[]gate.LayerInventory{etc, usr}, "ubuntu"},
		"usr/lib without etc":    {[]gate.LayerInventory{usr}, "debian"},
		"usr/lib, etc removed":   {[]gate.LayerInventory{usr, etc, removed}, "debian"},
		"nothing is known of it": {nil, ""},
	} {
		if got := gate.Merge(tt.layers).OS.ID; got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}

func TestMergeKeepsSecretsThatAreRemovedAbove(t *testing.T) {
	lower := gate.LayerInventory{Layer: digestOf("lower"), Secrets: []gate.Secret{{Kind: "private key", Path: "key.pem"}}}
	upper := gate.LayerInventory{Whiteouts: []string{"key.pem"}}
	if got := gate.Merge([]gate.LayerInventory{lower, upper}).Secrets; len(got) != 1 || got[0].Layer != digestOf("lower") {
		t.Errorf("got %v: everybody can still read the lower layer", got)
	}
}

func TestMergeKeepsEveryGap(t *testing.T) {
	hidden := gate.LayerInventory{Gaps: []gate.Gap{unreadable}}
	opaque := gate.LayerInventory{Opaque: []string{"app"}}
	if got := gate.Merge([]gate.LayerInventory{hidden, opaque}).Gaps; len(got) != 1 {
		t.Errorf("got %v: what could not be read may hold anything, hidden or not", got)
	}
}

func TestMergeKeepsChannelsOfFilesThatAreStillThere(t *testing.T) {
	lower := gate.LayerInventory{Channels: map[string][]string{"etc/apk/repositories": {"alpine 3.19"}, "root/buildinfo/content_manifests/a.json": {"b", "c"}}}
	middle := gate.LayerInventory{Channels: map[string][]string{"root/buildinfo/content_manifests/b.json": {"a", "b"}}}
	upper := gate.LayerInventory{Whiteouts: []string{"etc/apk"}}
	if got, want := gate.Merge([]gate.LayerInventory{lower, middle, upper}).Channels, []string{"a", "b", "c"}; !slices.Equal(got, want) {
		t.Errorf("channels %v, want %v", got, want)
	}
}
