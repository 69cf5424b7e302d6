package gate_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// TestMergeLicences has packages told of by one layer, and their licences by others.
func TestMergeLicences(t *testing.T) {
	const docs = "usr/share/doc/"
	status := gate.FileInventory{Path: "var/lib/dpkg/status"}
	for _, name := range []string{"bash", "circle", "gcc-12-base", "libgcc-s1", "removed"} {
		status.Packages = append(status.Packages, gate.Package{Type: "deb", Name: name, Version: "1"})
	}
	status.Packages = append(status.Packages, gate.Package{Type: "deb", Name: "own", Version: "1", Licenses: []string{"MIT"}})
	deps := gate.FileInventory{Path: "app/app.deps.json", Packages: []gate.Package{{Type: "nuget", Name: "Newtonsoft.Json", Version: "13.0.1"}, {Type: "nuget", Name: "Newtonsoft.Json", Version: "12.0.0"}}}
	deb := func(name string, licenses ...string) gate.LicenseFile {
		return gate.LicenseFile{Type: "deb", Name: name, Licenses: licenses}
	}
	base := gate.LayerInventory{Layer: digestOf("base"), LicenseFiles: map[string]gate.LicenseFile{
		docs + "bash/copyright": deb("bash", "GPL-2+"), docs + "gcc-12-base/copyright": deb("gcc-12-base", "GPL-3+"),
		docs + "libgcc-s1": {Type: "deb", Name: "libgcc-s1", Like: "gcc-12-base"}, docs + "removed/copyright": deb("removed", "X"),
		docs + "circle": {Type: "deb", Name: "circle", Like: "circle"}, docs + "own/copyright": deb("own", "X"),
		"root/.nuget/newtonsoft.json.nuspec": {Type: "nuget", Name: "newtonsoft.json", Version: "13.0.1", Licenses: []string{"MIT"}},
	}}
	top := gate.LayerInventory{
		Layer: digestOf("top"), Files: []gate.FileInventory{deps, status}, Whiteouts: []string{docs + "removed"},
		LicenseFiles: map[string]gate.LicenseFile{docs + "bash/copyright": deb("bash", "GPL-3+")},
	}
	got := map[string][]string{}
	for _, p := range gate.Merge([]gate.LayerInventory{base, top}).Packages {
		got[p.Name+" "+p.Version] = p.Licenses
	}
	want := map[string][]string{
		"bash 1": {"GPL-3+"}, "gcc-12-base 1": {"GPL-3+"}, "libgcc-s1 1": {"GPL-3+"}, "removed 1": nil, "circle 1": nil, "own 1": {"MIT"},
		"Newtonsoft.Json 13.0.1": {"MIT"}, "Newtonsoft.Json 12.0.0": nil,
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("got -, want +:\n%s", diff)
	}
}
