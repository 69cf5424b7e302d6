package scan

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// whole returns an inventory with something in every field.
func whole() gate.LayerInventory {
	inv := empty
	inv.Entries, inv.UncompressedBytes = 3, 2048
	inv.Files = []gate.FileInventory{{Path: "a"}, {Path: "b/c", Packages: packagesTwo}}
	inv.Whiteouts, inv.Opaque = []string{"w", "x/y"}, []string{"."}
	inv.OSRelease = map[string]gate.OS{"etc/os-release": {ID: "debian", Version: "12"}}
	inv.Channels = map[string][]string{"etc/apk/repositories": {"alpine 3.19", "alpine edge"}}
	inv.Gaps = []gate.Gap{{Kind: gate.GapLimit, Path: "p", Why: "too large"}}
	return inv
}

func TestDecodeInventory(t *testing.T) {
	layer := oci.FromBytes([]byte("layer"))
	answer, err := json.Marshal(whole())
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeInventory(answer, layer)
	if err != nil {
		t.Fatal(err)
	}
	want := whole()
	want.Layer, want.Gaps[0].Layer = layer, layer
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
}

func TestDecodeInventoryRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		lie  func(*gate.LayerInventory)
	}{
		{"another format", func(inv *gate.LayerInventory) { inv.Format++ }},
		{"negative sizes", func(inv *gate.LayerInventory) { inv.Entries = -1 }},
		{"no diff id, and no gap to say why", func(inv *gate.LayerInventory) { inv.DiffID, inv.Gaps = "", nil }},
		{"a diff id that is none", func(inv *gate.LayerInventory) { inv.DiffID = "sha256:../.." }},
		{"that there is no malware", func(inv *gate.LayerInventory) { inv.Malware = &gate.LayerMalware{Database: "mine"} }},
		{"a path that climbs", func(inv *gate.LayerInventory) { inv.Files[0].Path = "../a" }},
		{"an absolute path", func(inv *gate.LayerInventory) { inv.Files[0].Path = "/a" }},
		{"an empty path", func(inv *gate.LayerInventory) { inv.Whiteouts[0] = "" }},
		{"files out of order", func(inv *gate.LayerInventory) { inv.Files[0].Path = "z" }},
		{"a file twice", func(inv *gate.LayerInventory) { inv.Files[0].Path = "b/c" }},
		{"whiteouts that climb", func(inv *gate.LayerInventory) { inv.Whiteouts[0] = "a/../../b" }},
		{"opaque directories that climb", func(inv *gate.LayerInventory) { inv.Opaque[0] = ".." }},
		{"a package of an unknown type", func(inv *gate.LayerInventory) { inv.Files[0].Packages = []gate.Package{{Type: "exe", Name: "a"}} }},
		{"a package without a name", func(inv *gate.LayerInventory) { inv.Files[0].Packages = []gate.Package{{Type: "npm"}} }},
		{"an os-release elsewhere", func(inv *gate.LayerInventory) { inv.OSRelease = map[string]gate.OS{"opt/os-release": {}} }},
		{"channels elsewhere", func(inv *gate.LayerInventory) { inv.Channels = map[string][]string{"opt/repositories": nil} }},
		{"channels out of order", func(inv *gate.LayerInventory) { inv.Channels["etc/apk/repositories"] = []string{"b", "a"} }},
		{"a channel too long", func(inv *gate.LayerInventory) {
			inv.Channels["etc/apk/repositories"] = []string{strings.Repeat("a", maxWireQuote+1)}
		}},
		{"a gap of an unknown kind", func(inv *gate.LayerInventory) { inv.Gaps[0].Kind = "harmless" }},
		{"a gap with much to say", func(inv *gate.LayerInventory) { inv.Gaps[0].Why = strings.Repeat("a", 1<<16) }},
		{"more gaps than are told", func(inv *gate.LayerInventory) { inv.Gaps = make([]gate.Gap, maxGaps+2) }},
		{"more packages than are kept", func(inv *gate.LayerInventory) {
			for range maxPackages + 1 {
				inv.Files[0].Packages = append(inv.Files[0].Packages, gate.Package{Type: "npm", Name: "a"})
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inv := whole()
			tt.lie(&inv)
			answer, err := json.Marshal(inv)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := decodeInventory(answer, ""); err == nil {
				t.Errorf("believed: %+v", got)
			}
		})
	}
	for _, tt := range []struct{ name, answer, want string }{
		{"nothing", "", "EOF"},
		{"half an answer", `{"format":1,`, "EOF"},
		{"two answers", `{"format":1,"gaps":[{"kind":"limit","why":""}]}{}`, "follows"},
		{"a field nobody knows", `{"format":1,"gaps":[{"kind":"limit","why":""}],"verdict":"allow"}`, "unknown field"},
		{"few bytes that become many", `{"format":1,"files":[` + strings.Repeat("{},", maxOutputValues) + `{}]}`, "values"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := decodeInventory([]byte(tt.answer), ""); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q; believed: %+v", err, tt.want, got)
			}
		})
	}
}

func FuzzDecodeInventory(f *testing.F) {
	answer, err := json.Marshal(whole())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(answer)
	f.Add([]byte(`{"format":1,"gaps":[{"kind":"limit","why":""}]}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		inv, err := decodeInventory(answer, "sha256:x")
		if err == nil && (inv.Layer != "sha256:x" || inv.DiffID == "" && len(inv.Gaps) == 0) {
			t.Errorf("believed: %+v", inv)
		}
	})
}

func TestPrintable(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"usr/lib/a b", "usr/lib/a b"},
		{`"quoted" \ and 'so'`, `"quoted" \\ and 'so'`},
		{"\x1b[2J\x00\n", `\x1b[2J\x00\n`},
		{"caf\xe9", `caf\xe9`},
		{"café", `caf\u00e9`},
		{"a\u202eb", `a\u202eb`},
		{strings.Repeat("a", maxQuoteBytes), strings.Repeat("a", maxQuoteBytes)},
		{strings.Repeat("a", maxQuoteBytes+1), strings.Repeat("a", maxQuoteBytes) + "…"},
	} {
		t.Run(fmt.Sprintf("%.20q", tt.in), func(t *testing.T) {
			if got := printable(tt.in); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	if got := len(printable(strings.Repeat("\xff", 1000))); got > maxWireQuote {
		t.Errorf("%d bytes, want at most %d", got, maxWireQuote)
	}
}
