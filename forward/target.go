package forward

import (
	"fmt"
	"strings"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Target returns the repository that a hosted one is copied to. to is the host of an upstream, perhaps followed by what the names of
// the repositories there begin with; nothing is taken off the hosted name, so that no two repositories meet in one:
//
//	registry.example          apps/web  →  registry.example/apps/web
//	registry.example/mirror   apps/web  →  registry.example/mirror/apps/web
//
// Errors: [oci.ErrNameInvalid].
func Target(to string, repo oci.Repository) (oci.Repository, error) {
	if repo.Upstream != "" {
		return oci.Repository{}, fmt.Errorf("%s is not hosted here: %w", repo, oci.ErrNameInvalid)
	}
	host, path, _ := strings.Cut(to, "/")
	if path != "" {
		path += "/"
	} else if strings.HasSuffix(to, "/") {
		return oci.Repository{}, fmt.Errorf("%.100q ends in a slash: %w", to, oci.ErrNameInvalid)
	}
	target, err := oci.NewRepository(host, path+repo.Path)
	if err == nil && host == "" {
		err = fmt.Errorf("it names no upstream: %w", oci.ErrNameInvalid)
	}
	if err != nil {
		return oci.Repository{}, fmt.Errorf("forwarding %s to %.100q: %w", repo, to, err)
	}
	return target, nil
}
