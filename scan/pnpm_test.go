package scan

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// TestHardLinksToPnpmsStore has layers as pnpm makes them where its store comes before the application.
func TestHardLinksToPnpmsStore(t *testing.T) {
	const store = "root/.local/share/pnpm/store/v10/files/"
	stored := func(first, rest string) string { return store + first + "/" + strings.Repeat(rest, 63) }
	const place = "usr/src/app/node_modules/.pnpm/lodash@4.17.20/node_modules/lodash/"
	lodash := []gate.Package{{Type: "npm", Name: "lodash", Version: "4.17.20"}}
	manifest := regular(stored("00", "a"), `{"name":"lodash","version":"4.17.20"}`)
	for _, tt := range []struct {
		name    string
		entries []entry
		want    []gate.Package
		gaps    []gate.GapKind
	}{
		{"a package", []entry{manifest, hardLink(place+"package.json", manifest.header.Name)}, lodash, nil},
		{"a manifest of none", []entry{regular(stored("00", "a"), `{"type":"module"}`), hardLink(place+"esm/package.json", stored("00", "a"))}, nil, nil},
		{"no manifest at all", []entry{manifest, hardLink(place+"README.md", manifest.header.Name)}, nil, nil},
		{
			"one that is damaged", []entry{regular(stored("00", "a"), `{"name":`), hardLink(place+"package.json", stored("00", "a"))}, nil,
			[]gate.GapKind{gate.GapUnreadablePackage},
		},
		{
			"one that is too large", []entry{regular(stored("00", "a"), `{`+strings.Repeat(" ", maxStoredManifestBytes)+`}`), hardLink(place+"package.json", stored("00", "a"))}, nil,
			[]gate.GapKind{gate.GapUnresolvedLink},
		},
		{
			"one that was replaced", []entry{manifest, regular(stored("00", "a"), "text"), hardLink(place+"package.json", stored("00", "a"))}, nil,
			[]gate.GapKind{gate.GapUnresolvedLink},
		},
		{
			"another kind of file", []entry{manifest, hardLink(place+"lodash.jar", manifest.header.Name)}, nil,
			[]gate.GapKind{gate.GapUnresolvedLink},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, tt.entries...)
			var packages []gate.Package
			for _, f := range got.Files {
				packages = append(packages, f.Packages...)
			}
			if diff := cmp.Diff(tt.want, packages); diff != "" {
				t.Errorf("packages (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.gaps, gapKinds(got.Gaps)); diff != "" {
				t.Errorf("gaps (-want +got):\n%s\n%v", diff, got.Gaps)
			}
		})
	}
}

func TestPnpmsStoreIsBounded(t *testing.T) {
	s := pnpmStore{files: map[string][]byte{}}
	data := []byte("{" + strings.Repeat(" ", maxStoredManifestBytes-1))
	for i := range maxStoreBytes / maxStoredManifestBytes * 2 {
		s.add(strings.Repeat("a", i), data)
	}
	if n := len(s.files); n >= maxStoreBytes/maxStoredManifestBytes {
		t.Errorf("%d files of %d bytes are held", n, len(data))
	}
	s = pnpmStore{files: map[string][]byte{}}
	s.add("a", []byte(`{"version":3,"mappings":""}`))
	s.add("b", []byte("text"))
	if len(s.files) > 0 {
		t.Errorf("held: %q", s.files)
	}
}
