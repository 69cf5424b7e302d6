package scan

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// TestLinksGoWithTheirDirectory has a link removed with the directory it lies in: what is put in its place then lies there, and not where
// the link led to.
func TestLinksGoWithTheirDirectory(t *testing.T) {
	manifest := func(at, version string) entry {
		return regular(at+"/node_modules/a/package.json", `{"name":"a","version":"`+version+`"}`)
	}
	got := readTar(t, directory("d"), symlink("d/x", "../e"), regular("d", ""), directory("d"), manifest("d/x", "1"), manifest("e", "2"))
	want := []gate.FileInventory{
		{Path: "d/x/node_modules/a/package.json", Packages: []gate.Package{{Type: "npm", Name: "a", Version: "1"}}},
		{Path: "e/node_modules/a/package.json", Packages: []gate.Package{{Type: "npm", Name: "a", Version: "2"}}},
	}
	if diff := cmp.Diff(want, got.Files); diff != "" || got.Gaps != nil {
		t.Errorf("gaps %v, files (-want +got):\n%s", got.Gaps, diff)
	}
}

func TestReplacingDirectoriesWithLinksEnds(t *testing.T) {
	l := links{steps: maxLinkSteps}
	if err := errors.Join(l.add("d/x", "e"), l.removeBelow("e")); err != nil {
		t.Fatal(err)
	}
	if err := l.removeBelow("d"); kindOf(err, "") != gate.GapLimit {
		t.Errorf("%v, want a limit", err)
	}
}
