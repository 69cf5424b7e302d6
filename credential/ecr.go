package credential

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
)

// ecrHost matches the hosts of private registries of Amazon ECR and finds their region: in all partitions, by IPv4 alone and with both
// address families, and by FIPS endpoints (Amazon ECR User Guide, Private registry).
var ecrHost = regexp.MustCompile(`^[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu|on\.aws|on\.amazonwebservices\.com\.cn)$`)

// elastic is the password an Amazon identity is given for the registries of a region, which counts for twelve hours.
type elastic struct{ client *ecr.Client }

func newElastic(c Config) (*elastic, error) {
	host, err := c.cloudHost(ecrHost.MatchString)
	if err != nil {
		return nil, fmt.Errorf("%w; those of Amazon are named 123456789012.dkr.ecr.<region>.amazonaws.com", err)
	}
	region := ecrHost.FindStringSubmatch(host)[1]
	// With a region given nothing is asked of the network yet: identities are looked for when one is needed.
	settings, err := config.LoadDefaultConfig(context.Background(), config.WithRegion(region))
	if err != nil {
		return nil, fmt.Errorf("helper ecr: %w", err)
	}
	return &elastic{ecr.NewFromConfig(settings)}, nil
}

// Credential implements [Source].
func (e *elastic) Credential(ctx context.Context) (Credential, error) {
	given, err := e.client.GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		return Credential{}, fmt.Errorf("asking Amazon ECR: %w", err)
	}
	if len(given.AuthorizationData) == 0 || given.AuthorizationData[0].AuthorizationToken == nil {
		return Credential{}, errors.New("asking Amazon ECR: it gives no token")
	}
	data := given.AuthorizationData[0]
	text, err := base64.StdEncoding.DecodeString(*data.AuthorizationToken)
	username, password, ok := strings.Cut(string(text), ":")
	if err != nil || !ok {
		return Credential{}, errors.New("asking Amazon ECR: its token is not a user name and a password") // which the decoder would quote
	}
	found := Credential{Username: username, Password: password}
	if data.ExpiresAt != nil {
		found.Until = data.ExpiresAt.UTC()
	}
	return found, nil
}
