package scan

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// asarOf returns an archive as Electron's packer writes it, of a header and the files' content.
func asarOf(header, content string) string {
	padded := header + strings.Repeat("\x00", (4-len(header)%4)%4)
	var b []byte
	for _, n := range []int{4, 8 + len(padded), 4 + len(padded), len(header)} {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	return string(b) + padded + content
}

// asarApplication returns an archive of an application that depends on lodash.
func asarApplication() string {
	const app, dependency = `{"name":"tide","version":"0.1.0"}`, `{"name":"lodash","version":"4.17.4"}`
	return asarOf(fmt.Sprintf(`{"files":{"main.js":{"size":1,"offset":"0"},"package.json":{"size":%d,"offset":"1"},
		"node_modules":{"files":{"lodash":{"files":{"package.json":{"size":%d,"offset":"%d","integrity":{"algorithm":"SHA256"}}}},
		".bin":{"files":{"x":{"link":"node_modules/lodash/package.json"}}},
		"native":{"files":{"package.json":{"size":10,"unpacked":true}}}}}}}`, len(app), len(dependency), 1+len(app)), ";"+app+dependency)
}

func TestBundledPackages(t *testing.T) {
	const name = ".yarn/cache/lodash-npm-4.17.4-6d4ae20a2f-1bbb4bb2c7.zip"
	lodashZip := zipped(t, "node_modules/", "", "node_modules/lodash/", "", "node_modules/lodash/package.json", lodash, "node_modules/lodash/lodash.js", ";")
	for _, tt := range []struct {
		name  string
		entry entry
		want  []gate.Package
	}{
		{"Yarn's cache in a project", regular("app/"+name, lodashZip), lodashPackage},
		{"Yarn's cache of a user", regular("root/.yarn/berry/cache/lodash-npm-4.17.4-6d4ae20a2f-10c0.zip", lodashZip), lodashPackage},
		{
			"a package that bundles another, with a name in two parts, and broken test data",
			regular(name, zipped(t, "node_modules/@a/b/package.json", `{"name":"@a/b","version":"1.0.0","license":"MIT"}`,
				"node_modules/@a/b/test/package.json", "{", "node_modules/@a/b/node_modules/lodash/package.json", lodash)),
			append([]gate.Package{{Type: "npm", Name: "@a/b", Version: "1.0.0", Licenses: []string{"MIT"}}}, lodashPackage...),
		},
		{"a cached package without packages", regular(name, zipped(t, "node_modules/a/index.js", ";")), nil},
		{
			"an application of Electron's", regular("opt/tide/resources/app.asar", asarApplication()),
			append(lodashPackage[:1:1], gate.Package{Type: "npm", Name: "tide", Version: "0.1.0"}),
		},
		{"something else called asar", regular("app.asar", "module.exports = 1\n"), nil},
		{"something shorter", regular("app.asar", asarBegin), nil},
		{"an empty one", regular("app.asar", ""), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, tt.entry)
			want := []gate.FileInventory{{Path: tt.entry.header.Name, Packages: tt.want}}
			if diff := cmp.Diff(want, got.Files); diff != "" || got.Gaps != nil {
				t.Errorf("files (-want +got):\n%s\ngaps: %v", diff, got.Gaps)
			}
		})
	}
	t.Run("archives elsewhere are none of Yarn's", func(t *testing.T) {
		if got := readTar(t, regular("app/cache/lodash.zip", lodashZip), regular(".yarn/cache/more/lodash.zip", lodashZip)); got.Files != nil {
			t.Errorf("files: %v", got.Files)
		}
	})
}

func TestUnreadableBundlesAreGaps(t *testing.T) {
	const yarn, electron = ".yarn/cache/a.zip", "app.asar"
	large := zipBomb(t, "node_modules/a/package.json", deflated(t, nil, []byte(strings.Repeat(" ", 1<<20)), maxBundledBytes>>20+1), maxBundledBytes+1)
	deep := strings.Repeat(`{"files":{"a":`, maxAsarDepth+1) + "{}" + strings.Repeat("}}", maxAsarDepth+1)
	twice := fmt.Sprintf(`{"files":{"a":{"files":{"package.json":{"size":%d,"offset":"0"}}},"b":{"files":{"package.json":{"size":%d,"offset":"0"}}}}}`,
		maxBundledBytes/2, maxBundledBytes/2+1)
	for _, tt := range []struct {
		name, file, data string
		want             gate.GapKind
	}{
		{"no archive", yarn, "PK\x03\x04", gate.GapUnreadablePackage},
		{"a manifest that is not JSON", yarn, zipped(t, "node_modules/a/package.json", "{"), gate.GapUnreadablePackage},
		{"a manifest of another size than it says", yarn, zipBomb(t, "node_modules/a/package.json", deflated(t, nil, mib, 1), 10), gate.GapUnreadablePackage},
		{"a manifest that is too large", yarn, large, gate.GapLimit},
		{"a header that is too large", electron, asarBegin + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", gate.GapLimit},
		{"a header longer than the archive", electron, asarBegin + "\x10\x00\x00\x00\x0c\x00\x00\x00\x08\x00\x00\x00{}", gate.GapUnreadablePackage},
		{"a header longer than it says", electron, asarBegin + "\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00{\"files\"", gate.GapUnreadablePackage},
		{"a header that is not JSON", electron, asarOf("files", ""), gate.GapUnreadablePackage},
		{"a header without files", electron, asarOf("{}", ""), gate.GapUnreadablePackage},
		{"a file that is none", electron, asarOf(`{"files":{"a":7}}`, ""), gate.GapUnreadablePackage},
		{"a manifest beyond the archive", electron, asarOf(`{"files":{"package.json":{"size":3,"offset":"0"}}}`, "{}"), gate.GapUnreadablePackage},
		{"a manifest before it", electron, asarOf(`{"files":{"package.json":{"size":1,"offset":"-1"}}}`, "{}"), gate.GapUnreadablePackage},
		{"a manifest far away", electron, asarOf(`{"files":{"package.json":{"size":1,"offset":"9223372036854775807"}}}`, "{}"), gate.GapUnreadablePackage},
		{"a manifest less than empty", electron, asarOf(`{"files":{"package.json":{"size":-1,"offset":"0"}}}`, "{}"), gate.GapLimit},
		{"a manifest nowhere", electron, asarOf(`{"files":{"package.json":{"size":1,"offset":"first"}}}`, "{}"), gate.GapUnreadablePackage},
		{"a manifest of no size", electron, asarOf(`{"files":{"package.json":{"offset":"0"}}}`, "{}"), gate.GapUnreadablePackage},
		{"directories without end", electron, asarOf(deep, ""), gate.GapLimit},
		{"the same content over and over", electron, asarOf(twice, strings.Repeat(" ", maxBundledBytes/2+1)), gate.GapLimit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, regular(tt.file, tt.data))
			if diff := cmp.Diff([]gate.GapKind{tt.want}, gapKinds(got.Gaps)); diff != "" {
				t.Errorf("gaps (-want +got):\n%s\n%v", diff, got.Gaps)
			}
		})
	}
}
