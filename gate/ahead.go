package gate

import (
	"slices"

	"github.com/tidewaiter/tidewaiter/oci"
)

// startChildren judges, ahead of the client that is about to ask, the children of an index for the usual platforms.
func (g *Gate) startChildren(index Candidate, m oci.Manifest) {
	for _, child := range m.Manifests {
		if child.Platform != nil && slices.Contains(g.o.Platforms, child.Platform.OS+"/"+child.Platform.Architecture) {
			g.Start(Candidate{Repository: index.Repository, Digest: child.Digest})
		}
	}
}
