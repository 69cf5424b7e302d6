package credential

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

const (
	// googleScope is the scope under which Artifact Registry lets an account read and write what its roles allow.
	googleScope = "https://www.googleapis.com/auth/cloud-platform"
	// googleUser is the user name under which Google's registries take an access token for a password.
	googleUser = "oauth2accesstoken"
	// notOnGoogle is in the error that says that this machine was not found to be one of Google's, which the library looks at once and
	// for ever.
	notOnGoogle = "could not find default credentials"
)

// googleHost reports whether host is a registry of Google: Container Registry or Artifact Registry.
func googleHost(host string) bool {
	return host == "gcr.io" || strings.HasSuffix(host, ".gcr.io") || strings.HasSuffix(host, "-docker.pkg.dev")
}

// googler is the access token of the account this machine has at Google: of a service account's key, of a workload identity, or of
// the metadata server.
type googler struct{}

func newGoogler(c Config) (googler, error) {
	if _, err := c.cloudHost(googleHost); err != nil {
		return googler{}, fmt.Errorf("%w; those of Google are named gcr.io or <location>-docker.pkg.dev", err)
	}
	return googler{}, nil
}

// Credential implements [Source].
func (googler) Credential(ctx context.Context) (Credential, error) {
	// The library takes its client from the context, and its own knows no limits.
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Timeout: fetchTimeout})
	var source oauth2.TokenSource
	switch account, err := google.FindDefaultCredentials(ctx, googleScope); {
	case err == nil:
		source = account.TokenSource
	case strings.Contains(err.Error(), notOnGoogle):
		source = google.ComputeTokenSource("", googleScope) // the metadata server of a node that just started comes late
	default:
		return Credential{}, fmt.Errorf("finding the account at Google: %w", err)
	}
	token, err := source.Token()
	if err != nil {
		return Credential{}, fmt.Errorf("asking Google: %w", err)
	}
	return Credential{Username: googleUser, Password: token.AccessToken, Until: token.Expiry.UTC()}, nil
}
