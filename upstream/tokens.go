package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// maxTokens bounds the tokens kept per endpoint: one for each repository in use. A registry hands out tokens for repositories that
// do not exist, so their number is the client's choice.
const maxTokens = 4096

// tokenTimeout bounds asking a realm for a token, retries included.
const tokenTimeout = 30 * time.Second

// errNoToken says that there is no token yet; the auth library only looks at its presence.
var errNoToken = errors.New("no token")

// tokens are the tokens of one endpoint. It implements auth.Cache; the library's own never forgets and ties a fetch to whoever
// happened to be first. A token that the registry no longer takes is fetched again, so its lifetime needs no watching.
type tokens struct {
	schemes *memory[auth.Scheme]
	byScope *memory[string]
	flights singleflight.Group
	// basic returns what a basic challenge is answered with now; nil to use again what it was last answered with. Credentials that end
	// must not be kept here: some registries answer those that have ended with 403, after which nobody would fetch new ones.
	basic func(context.Context) (string, error)
	// ended is told how a fetch ended, and returns what that means.
	ended func(ctx context.Context, scheme auth.Scheme, err error) error
}

func newTokens(ended func(context.Context, auth.Scheme, error) error) *tokens {
	return &tokens{schemes: newMemory[auth.Scheme](1), byScope: newMemory[string](maxTokens), ended: ended}
}

// GetScheme implements auth.Cache.
func (t *tokens) GetScheme(_ context.Context, host string) (auth.Scheme, error) {
	if scheme, ok := t.schemes.get(host); ok {
		return scheme, nil
	}
	return auth.SchemeUnknown, errNoToken
}

// GetToken implements auth.Cache.
func (t *tokens) GetToken(ctx context.Context, host string, scheme auth.Scheme, scope string) (string, error) {
	if scheme == auth.SchemeBasic && t.basic != nil {
		return t.basic(ctx)
	}
	if token, ok := t.byScope.get(tokenKey(host, scheme, scope)); ok {
		return token, nil
	}
	return "", errNoToken
}

// Set implements auth.Cache: one fetch per scope however many ask, none of whom can call it off for the others.
func (t *tokens) Set(ctx context.Context, host string, scheme auth.Scheme, scope string, fetch func(context.Context) (string, error)) (string, error) {
	flight := t.flights.DoChan(tokenKey(host, scheme, scope), func() (any, error) {
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), tokenTimeout, errTooSlow)
		defer cancel()
		token, err := fetch(ctx)
		if err = t.ended(ctx, scheme, err); err != nil {
			return "", fmt.Errorf("getting a token: %w", err)
		}
		t.remember(ctx, host, scheme, scope, token)
		return token, nil
	})
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case r := <-flight:
		token, _ := r.Val.(string)
		return token, r.Err
	}
}

// remember keeps token under the scope it was fetched for, and under the one that was asked for at first: a registry may demand
// more than we guessed, and the next request, which guesses the same, would otherwise be refused once before finding it.
func (t *tokens) remember(ctx context.Context, host string, scheme auth.Scheme, scope, token string) {
	t.schemes.put(host, scheme)
	t.byScope.put(tokenKey(host, scheme, scope), token)
	if scheme == auth.SchemeBearer {
		guessed := strings.Join(auth.GetAllScopesForHost(ctx, host), " ")
		t.byScope.put(tokenKey(host, scheme, guessed), token)
	}
}

func tokenKey(host string, scheme auth.Scheme, scope string) string {
	return host + " " + scheme.String() + " " + scope
}
