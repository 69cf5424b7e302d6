package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
)

type accessConfig struct {
	Anonymous           []ruleConfig
	UnsafeAnonymousPush bool `mapstructure:"unsafe_anonymous_push"`
	Basic               struct {
		HtpasswdFile string `mapstructure:"htpasswd_file"`
	}
	Tokens struct {
		KeyFile    string `mapstructure:"key_file"`
		TTL        time.Duration
		Realm      string
		RobotsFile string `mapstructure:"robots_file"`
	}
	OIDC   []issuerConfig
	Grants []struct {
		Who        string
		ruleConfig `mapstructure:",squash"`
	}
}

type ruleConfig struct {
	Repositories []string
	Actions      []string
}

type issuerConfig struct {
	Issuer         string
	Audience       string
	Subject        string
	GroupsClaim    string        `mapstructure:"groups_claim"`
	GroupsPrefix   string        `mapstructure:"groups_prefix"`
	Groups         []claimConfig // those below too are lists: keys of a mapping would be read in lower case
	RequiredClaims []claimConfig `mapstructure:"required_claims"`
	CAFile         string        `mapstructure:"ca_file"`
	DiscoveryURL   string        `mapstructure:"discovery_url"`
	JWKSURL        string        `mapstructure:"jwks_url"`
	TokenFile      string        `mapstructure:"token_file"`
}

// claimConfig is a claim and its value, and, under groups, the group that makes.
type claimConfig struct{ Claim, Value, Group string }

// access returns what access is built from, but for what only the instance has: Audit, Observe, Log, Repository.
func (c *config) access() access.Options {
	a := &c.Access
	o := access.Options{
		Anonymous: c.anonymous(), HtpasswdFile: a.Basic.HtpasswdFile, RobotsFile: a.Tokens.RobotsFile, KeyFile: a.Tokens.KeyFile,
		TokenTTL: a.Tokens.TTL, Realm: a.Tokens.Realm,
	}
	for _, g := range a.Grants {
		o.Grants = append(o.Grants, access.Grant{Who: g.Who, Rule: access.Rule(g.ruleConfig)})
	}
	for _, i := range a.OIDC {
		issuer := access.Issuer{
			Issuer: i.Issuer, Audience: i.Audience, Subject: i.Subject, GroupsClaim: i.GroupsClaim, GroupsPrefix: i.GroupsPrefix,
			CAFile: i.CAFile, DiscoveryURL: i.DiscoveryURL, JWKSURL: i.JWKSURL, TokenFile: i.TokenFile,
		}
		for _, g := range i.Groups {
			issuer.Groups = append(issuer.Groups, access.ClaimGroup(g))
		}
		for _, r := range i.RequiredClaims {
			issuer.RequiredClaims = append(issuer.RequiredClaims, access.Claim{Claim: r.Claim, Value: r.Value})
		}
		o.Issuers = append(o.Issuers, issuer)
	}
	return o
}

// hasReviewers reports whether it is written who reviews. Then the admin address asks who they are.
func (c *config) hasReviewers() bool {
	for _, g := range c.Access.Grants {
		if slices.Contains(g.Actions, string(access.Review)) || slices.Contains(g.Actions, string(access.Admin)) {
			return true
		}
	}
	return false
}

// anonymous returns what everybody may do: what is written, or on loopback, where nothing is written about anybody, all pulls.
func (c *config) anonymous() []access.Rule {
	if len(c.Access.Anonymous) == 0 && len(c.Access.Grants) == 0 && isLoopback(c.Listen.Registry) {
		return []access.Rule{{Repositories: []string{"**"}, Actions: []string{string(access.Pull)}}}
	}
	var rules []access.Rule
	for _, a := range c.Access.Anonymous {
		rules = append(rules, access.Rule(a))
	}
	return rules
}

// accessProblems returns what is wrong with who may do what.
func (c *config) accessProblems() []error {
	found := access.Check(c.access())
	if !isLoopback(c.Listen.Registry) && len(c.Access.Anonymous) == 0 && len(c.Access.Grants) == 0 {
		found = append(found, errors.New("access.anonymous or access.grants must say who may pull, because listen.registry is not loopback"))
	}
	for _, i := range c.Access.OIDC {
		for _, r := range i.RequiredClaims {
			if r.Group != "" {
				found = append(found, fmt.Errorf("access.oidc: required_claims of %q have no group", i.Issuer))
			}
		}
	}
	if isLoopback(c.Listen.Registry) && isLoopback(c.Listen.Admin) {
		return found
	}
	for _, a := range c.Access.Anonymous {
		for _, action := range a.Actions {
			switch access.Action(action) {
			case access.Push, access.Sign, access.Delete:
				if !c.Access.UnsafeAnonymousPush {
					found = append(found, fmt.Errorf("access.anonymous: off loopback %s needs access.unsafe_anonymous_push: true", action))
				}
			case access.Review, access.Admin:
				found = append(found, fmt.Errorf("access.anonymous: off loopback nobody may %s without a name", action))
			}
		}
	}
	return found
}
