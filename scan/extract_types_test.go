package scan

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// TestPackageTypes: policies can name every type of package that is found, and no other.
func TestPackageTypes(t *testing.T) {
	if diff := cmp.Diff(slices.Sorted(maps.Keys(packageTypes)), slices.Sorted(slices.Values(gate.PackageTypes()))); diff != "" {
		t.Errorf("found -, nameable +:\n%s", diff)
	}
}
