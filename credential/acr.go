package credential

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

const (
	// azureScope is what the identity's token is for: registries, in every cloud of Microsoft's.
	azureScope = "https://containerregistry.azure.net/.default"
	// azureUser is the user name under which a registry takes what it gave for the identity's token (Azure Container Registry,
	// authentication with a token exposed by az acr login).
	azureUser = "00000000-0000-0000-0000-000000000000"
	// maxExchangeBytes bounds a registry's answer. Its token is 2 KiB.
	maxExchangeBytes = 64 << 10
)

// azureSuffixes end the names of registries of Azure Container Registry, by cloud.
var azureSuffixes = []string{".azurecr.io", ".azurecr.cn", ".azurecr.us"}

func azureHost(host string) bool {
	return slices.ContainsFunc(azureSuffixes, func(suffix string) bool { return strings.HasSuffix(host, suffix) && len(host) > len(suffix) })
}

// azure is the token a registry gives for that of the identity this machine has at Microsoft.
type azure struct {
	identity *azidentity.DefaultAzureCredential
	client   *http.Client
	// exchange is where the registry gives it, service what it calls itself there.
	exchange, service string
}

func newAzure(c Config) (*azure, error) {
	host, err := c.cloudHost(azureHost)
	if err != nil {
		return nil, fmt.Errorf("%w; those of Microsoft are named <name>.azurecr.io", err)
	}
	identity, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, fmt.Errorf("helper acr: %w", err)
	}
	return &azure{
		identity: identity, exchange: strings.TrimSuffix(c.URL, "/") + "/oauth2/exchange", service: host,
		client: &http.Client{
			Timeout:       fetchTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the identity's token goes nowhere else
		},
	}, nil
}

// Credential implements [Source].
func (a *azure) Credential(ctx context.Context) (Credential, error) {
	token, err := a.identity.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{azureScope}})
	if err != nil {
		return Credential{}, fmt.Errorf("asking Microsoft for the identity's token: %w", err)
	}
	given, err := a.trade(ctx, token.Token)
	if err != nil {
		return Credential{}, fmt.Errorf("exchanging the identity's token at %s: %w", a.service, err)
	}
	return Credential{Username: azureUser, Password: given, Until: expiryOf(given)}, nil
}

func (a *azure) trade(ctx context.Context, token string) (string, error) {
	form := url.Values{"grant_type": {"access_token"}, "service": {a.service}, "access_token": {token}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.exchange, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := a.client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("it answers with status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxExchangeBytes))
	if err != nil {
		return "", err
	}
	var answer struct {
		RefreshToken string `json:"refresh_token"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.RefreshToken == "" {
		return "", errors.New("it gives no token") // the parser would quote what it cannot read
	}
	return answer.RefreshToken, nil
}

// expiryOf returns when a JSON web token says that it ends; zero if it does not. Nobody checks its signature: it is what the registry
// gave us, and believing it wrong costs another exchange.
func expiryOf(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}
	}
	var claims struct{ Exp int64 }
	if json.Unmarshal(text, &claims) != nil || claims.Exp <= 0 {
		return time.Time{}
	}
	return time.Unix(claims.Exp, 0).UTC()
}
