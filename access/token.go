package access

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// maxTokenBytes bounds a token, ours or another's: the largest seen, with hundreds of groups, are 16 KiB.
const maxTokenBytes = 16 << 10

// maxSkew is how far the clocks of two replicas may be apart.
const maxSkew = time.Minute

// claims is what a token of ours says (distribution token specification, JWT: the standard claims and "access").
type claims struct {
	Issuer    string        `json:"iss"`
	Subject   string        `json:"sub"`
	Audience  string        `json:"aud"`
	Expires   int64         `json:"exp"` // seconds since 1970
	NotBefore int64         `json:"nbf"`
	IssuedAt  int64         `json:"iat"`
	ID        string        `json:"jti"`
	Access    []accessClaim `json:"access"`
	Groups    []string      `json:"groups,omitempty"`
	// Account is the mark of the account the token was given to, see [Control.account].
	Account string `json:"account,omitempty"`
}

// accessClaim is something a token was given for.
type accessClaim struct {
	Type    string   `json:"type"` // repository, or registry for the catalog
	Name    string   `json:"name"` // full, upstream first
	Actions []string `json:"actions"`
}

// mint returns a token for caller that is good for what is in given, and how long.
func (c *Control) mint(keys *tokenKeys, caller Caller, given []accessClaim) (token string, issued time.Time, lasts time.Duration, err error) {
	now := c.o.Now()
	until := now.Add(c.o.TokenTTL)
	if !caller.until.IsZero() && caller.until.Before(until) {
		until = caller.until
	}
	if given == nil {
		given = []accessClaim{} // which is written as a list
	}
	payload, err := json.Marshal(claims{
		Issuer: c.o.Service, Subject: caller.Name, Audience: c.o.Service, ID: rand.Text(),
		Expires: until.Unix(), NotBefore: now.Unix(), IssuedAt: now.Unix(), Access: given, Groups: caller.Groups, Account: caller.account,
	})
	if err != nil {
		return "", now, 0, err
	}
	signed, err := keys.signer.Sign(payload)
	if err != nil {
		return "", now, 0, fmt.Errorf("signing a token: %w", err)
	}
	token, err = signed.CompactSerialize()
	if len(token) > maxTokenBytes {
		err = errors.Join(err, errors.New("signing a token: it became too large"))
	}
	return token, now, until.Sub(now), err
}

// accounts is what tokens of ours are checked against, as it is at one time. It is comparable.
type accounts struct {
	keys      *tokenKeys
	passwords *passwords
	robots    *robots
}

func (c *Control) accounts(ctx context.Context) accounts {
	return accounts{c.keys.get(ctx), c.passwords.get(ctx), c.robots.get(ctx)}
}

// checkToken returns the caller a token of ours was given to, narrowed to what it was given for.
//
// Errors: *badCredentials.
func (c *Control) checkToken(now accounts, token string) (Caller, error) {
	if now.keys == nil {
		return Caller{}, bad("there are no tokens of ours")
	}
	said, err := c.openToken(now.keys, token)
	if err != nil {
		return Caller{}, err
	}
	if said.Account != c.account(said.Subject, now) {
		return Caller{}, bad("the token's account is no more, or another")
	}
	return Caller{Name: said.Subject, Groups: said.Groups, until: time.Unix(said.Expires, 0), account: said.Account, narrow: narrowed(said.Access)}, nil
}

// account returns the mark of the account behind a caller's name as it is now: another once its password has changed, and empty once
// it is gone. Callers whose account is not kept here have none.
func (c *Control) account(name string, now accounts) string {
	if user, ok := strings.CutPrefix(name, "user:"); ok {
		if mark := now.passwords.account(user); mark != "" {
			return mark
		}
		return "none"
	}
	if robot, ok := strings.CutPrefix(name, "robot:"); ok {
		if mark := now.robots.account(robot, c.o.Now()); mark != "" {
			return mark
		}
		return "none"
	}
	return ""
}

// openToken checks signature, audience and time.
func (c *Control) openToken(keys *tokenKeys, token string) (claims, error) {
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256})
	if err != nil {
		return claims{}, bad("not a token: %v", err)
	}
	header := signed.Signatures[0].Protected // a compact one has exactly one
	key, ok := keys.byID[header.KeyID]
	if !ok || string(key.algorithm) != header.Algorithm {
		return claims{}, bad("signed by a key that is not ours, or no more")
	}
	payload, err := signed.Verify(key.public)
	if err != nil {
		return claims{}, bad("not signed by the key it names")
	}
	var said claims
	if err := json.Unmarshal(payload, &said); err != nil {
		return claims{}, bad("claims that are none of ours: %v", err)
	}
	now := c.o.Now()
	switch {
	case said.Issuer != c.o.Service || said.Audience != c.o.Service:
		return claims{}, bad("a token for another service")
	case !now.Before(time.Unix(said.Expires, 0)):
		return claims{}, bad("the token has expired")
	case now.Add(maxSkew).Before(time.Unix(said.NotBefore, 0)):
		return claims{}, bad("the token does not count yet")
	case said.Subject == "":
		return claims{}, bad("the token names nobody")
	}
	return said, nil
}

// narrowed returns what is left of somebody's rights by a token that was given for these things.
func narrowed(given []accessClaim) *narrowing {
	n := &narrowing{granted: map[string]actionSet{}}
	for _, a := range given {
		if a.Type == "registry" {
			n.catalog = true
			continue
		}
		for _, action := range a.Actions {
			n.granted[a.Name] |= Action(action).set()
		}
	}
	return n
}

// claimedIssuer returns the iss of what looks like a JWT, unchecked; ok is false for what does not look like one. It is good for
// choosing whom to ask about the token, and for nothing else.
func claimedIssuer(token string) (issuer string, ok bool) {
	if len(token) > maxTokenBytes || strings.Count(token, ".") != 2 {
		return "", false
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return "", false
	}
	var said struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		return "", false
	}
	return said.Issuer, said.Issuer != ""
}
