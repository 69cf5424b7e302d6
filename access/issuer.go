package access

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Issuer is somebody whose tokens count: an OpenID Connect provider, a CI system, a Kubernetes cluster. Issuer, Audience and Subject
// are needed.
type Issuer struct {
	// Issuer is its URL, exactly as in the iss of its tokens. https, but on loopback.
	Issuer string
	// Audience is what the aud of its tokens must hold. An audience that others use too lets them use the tokens they are sent.
	Audience string
	// Subject is a pattern that sub must match: '*' for a run of characters without '/' and ':', '**' for any run.
	Subject string
	// GroupsClaim is the claim that lists the groups of the caller, as a list or one word; empty for none. The issuer may then put
	// its callers into any group. GroupsPrefix is put in front of each, which keeps the groups of two issuers apart.
	GroupsClaim, GroupsPrefix string
	// Groups are groups that callers are put into for what a claim says.
	Groups []ClaimGroup
	// RequiredClaims must all be there.
	RequiredClaims []Claim
	// DiscoveryURL is where its configuration is; empty for the place below Issuer that OpenID Connect Discovery names. JWKSURL is
	// where its keys are; empty for where the configuration says.
	DiscoveryURL, JWKSURL string
	// CAFile holds the certificates, PEM, that its server's is signed by; empty for those of the system.
	CAFile string
	// TokenFile holds a bearer token the server asks for, as that of a Kubernetes cluster does. It is sent to the host that is named
	// here and to no other. Both files are read whenever keys are fetched.
	TokenFile string
}

// Claim is a claim and the value it must have, or, where it is a list, hold: a pattern as of [Issuer.Subject].
type Claim struct{ Claim, Value string }

// ClaimGroup is a group for those of whom a claim holds.
type ClaimGroup struct {
	Claim, Value string
	Group        string
}

// Limits of what is believed of a token's claims.
const (
	maxSubjectBytes = 255 // OpenID Connect Core, section 2
	maxGroups       = 500 // more than a directory puts into a token before it refers to itself
	maxGroupBytes   = 255
)

// algorithms are those an issuer may sign with: all there are but "none" and those by which whoever can check can also sign.
var algorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

// issuer is an Issuer, checked, and its keys.
type issuer struct {
	Issuer
	subject  glob
	required []claimGlob
	groups   []claimGlob
	keys     *issuerKeys
}

type claimGlob struct {
	claim string
	value glob
	group string
}

// readIssuers takes over the issuers and returns what is wrong with them.
func (c *Control) readIssuers() []error {
	var problems []error
	for i, configured := range c.o.Issuers {
		where := fmt.Sprintf("access.oidc[%d]", i)
		read, wrong := c.readIssuer(configured)
		problems = append(problems, at(where, wrong)...)
		if c.issuers[configured.Issuer] != nil {
			problems = append(problems, fmt.Errorf("%s: issuer %q is there twice", where, configured.Issuer))
		}
		for other := range c.issuers {
			// The callers of one could otherwise have the names of the other's.
			if configured.Issuer != other && configured.Issuer != "" && (strings.HasPrefix(other+":", configured.Issuer+":") || strings.HasPrefix(configured.Issuer+":", other+":")) {
				problems = append(problems, fmt.Errorf("%s: issuer %q begins like another, %q", where, configured.Issuer, other))
			}
		}
		if configured.Issuer == c.o.Service {
			problems = append(problems, fmt.Errorf("%s: %q is the name of this service", where, configured.Issuer))
		}
		c.issuers[configured.Issuer] = read
	}
	return problems
}

// readIssuer takes over an issuer and returns what is wrong with it; some of that may be nil.
func (c *Control) readIssuer(configured Issuer) (read *issuer, problems []error) {
	read = &issuer{Issuer: configured}
	problem := func(err error) { problems = append(problems, err) }
	for name, link := range map[string]string{"issuer": configured.Issuer, "discovery_url": configured.DiscoveryURL, "jwks_url": configured.JWKSURL} {
		if link != "" || name == "issuer" {
			problem(secureURL(name, link))
		}
	}
	if configured.Audience == "" {
		problem(errors.New("audience is missing: tokens meant for others would count here"))
	}
	var err error
	if read.subject, err = parseGlob(configured.Subject); err != nil {
		problem(fmt.Errorf("subject: %w", err))
	}
	for _, required := range configured.RequiredClaims {
		value, err := parseGlob(required.Value)
		if err != nil || required.Claim == "" {
			problem(fmt.Errorf("required_claims: claim %q, value %q: %w", required.Claim, required.Value, errors.Join(err, needed(required.Claim))))
		}
		read.required = append(read.required, claimGlob{claim: required.Claim, value: value})
	}
	for _, g := range configured.Groups {
		value, err := parseGlob(g.Value)
		if err != nil || g.Claim == "" || g.Group == "" {
			problem(fmt.Errorf("groups: claim %q, value %q, group %q: %w", g.Claim, g.Value, g.Group, errors.Join(err, needed(g.Claim), needed(g.Group))))
		}
		read.groups = append(read.groups, claimGlob{g.Claim, value, g.Group})
	}
	read.keys = newIssuerKeys(configured, c.o.Now, c.o.Log)
	return read, problems
}

func needed(s string) error {
	if s == "" {
		return errors.New("one of them is empty")
	}
	return nil
}

// secureURL returns what is wrong with a URL that keys are to come from: whoever is on the way could put his own in their place.
func secureURL(name, link string) error {
	u, err := url.Parse(link)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%s: %.200q is not a URL of a host and path", name, link)
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return fmt.Errorf("%s: %.200q is not https", name, link)
	}
	return nil
}

// checkIssued returns the caller a token of the issuer is about.
//
// Errors: *badCredentials; an *oci.Error UNAVAILABLE when the issuer's keys cannot be had, which says nothing of the token.
func (c *Control) checkIssued(ctx context.Context, from *issuer, token string) (Caller, error) {
	keys := &checking{keys: from.keys}
	verifier := oidc.NewVerifier(from.Issuer.Issuer, keys, &oidc.Config{ClientID: from.Audience, SupportedSigningAlgs: algorithms, Now: c.o.Now})
	checked, err := verifier.Verify(ctx, token)
	if keys.unreachable != nil {
		c.o.Observe(EventUnreachable)
		c.o.Log.WarnContext(ctx, "a token cannot be checked: its issuer's keys cannot be had", "issuer", from.Issuer.Issuer, "err", keys.unreachable)
		return Caller{}, errIssuerDown
	}
	if err != nil {
		return Caller{}, bad("%v", err)
	}
	if !c.o.Now().Before(checked.Expiry) { // the end is no part of a token's time here
		return Caller{}, bad("the token has expired")
	}
	claims, err := readClaims(checked)
	if err != nil {
		return Caller{}, bad("claims: %v", err)
	}
	caller, err := from.caller(checked.Subject, claims)
	if err != nil {
		return Caller{}, err
	}
	caller.until = checked.Expiry
	return caller, nil
}

// readClaims returns what a token says, numbers as they are written.
func readClaims(token *oidc.IDToken) (map[string]any, error) {
	var raw json.RawMessage
	if err := token.Claims(&raw); err != nil {
		return nil, err
	}
	var claims map[string]any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	err := decoder.Decode(&claims)
	return claims, err
}

// caller returns who the claims of a token that was checked are about.
func (i *issuer) caller(subject string, claims map[string]any) (Caller, error) {
	switch {
	case subject == "" || len(subject) > maxSubjectBytes || strings.ContainsFunc(subject, func(r rune) bool { return !unicode.IsPrint(r) }):
		return Caller{}, bad("a subject that is empty, long or cannot be printed")
	case !i.subject.match(subject):
		return Caller{}, bad("the subject %q is not one that counts", subject)
	}
	for _, required := range i.required {
		if !slices.ContainsFunc(values(claims[required.claim]), required.value.match) {
			return Caller{}, bad("the claim %s is not what is required", required.claim)
		}
	}
	caller := Caller{Name: "oidc:" + i.Issuer.Issuer + ":" + subject}
	if i.GroupsClaim != "" {
		for _, g := range values(claims[i.GroupsClaim]) {
			if g == "" || len(g) > maxGroupBytes || len(caller.Groups) == maxGroups {
				return Caller{}, bad("more groups, or a longer one, than are believed")
			}
			caller.Groups = append(caller.Groups, i.GroupsPrefix+g)
		}
	}
	for _, g := range i.groups {
		if slices.ContainsFunc(values(claims[g.claim]), g.value.match) && !slices.Contains(caller.Groups, g.group) {
			caller.Groups = append(caller.Groups, g.group)
		}
	}
	return caller, nil
}

// values returns what a claim says as words: one, or those of a list. Numbers and truth values are as JSON writes them; what is in a
// mapping is no word.
func values(claim any) []string {
	switch v := claim.(type) {
	case string:
		return []string{v}
	case bool, json.Number:
		return []string{fmt.Sprint(v)}
	case []any:
		var all []string
		for _, item := range v {
			if _, nested := item.([]any); !nested {
				all = append(all, values(item)...)
			}
		}
		return all
	}
	return nil
}

// badCredentials says why credentials do not hold. That is for the log and the record; the client is told that they do not.
type badCredentials struct{ reason string }

func (e *badCredentials) Error() string { return e.reason }

// Unwrap returns what the client is told.
func (e *badCredentials) Unwrap() error { return errCredentials }

func bad(format string, args ...any) error {
	return &badCredentials{fmt.Sprintf(format, args...)}
}
