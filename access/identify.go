package access

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"unicode"

	"github.com/tidewaiter/tidewaiter/oci"
)

// maxAuthorizationBytes bounds the header: a token of the largest kind as the password of a user, in base64.
const maxAuthorizationBytes = 24 << 10

// Identify returns who sends r: by its Authorization if it has one, else by the certificate the TLS layer has verified, else
// anonymous. Credentials that do not hold are an error whatever else there is, never a lesser caller.
//
// Errors: an *oci.Error. UNAUTHORIZED: the credentials do not hold; the answer needs a [Control.Challenge]. TOOMANYREQUESTS, a 429:
// the client has to wait before it may try a password again. UNAVAILABLE: nobody can tell now.
func (c *Control) Identify(r *http.Request) (Caller, error) {
	from := address(r)
	caller, claimed, err := c.identify(r, from)
	return c.identified(r.Context(), caller, claimed, from, err)
}

// identified gives caller its address, or turns err into what the client may see.
func (c *Control) identified(ctx context.Context, caller Caller, claimed string, from netip.Addr, err error) (Caller, error) {
	at := ""
	if from.IsValid() {
		at = from.String()
	}
	if err == nil {
		caller.Address = at
		return caller, nil
	}
	if why, ok := errors.AsType[*badCredentials](err); ok {
		c.o.Log.DebugContext(ctx, "credentials refused", "client", at, "claimed", claimed, "err", why)
		c.note(ctx, Attempt{Event: EventBadCredentials, Caller: claimed, Address: at, Reason: why.reason}, c.existing(ctx, claimed))
		return Caller{}, errCredentials
	}
	if refusal, ok := errors.AsType[*oci.Error](err); ok {
		return Caller{}, refusal
	}
	c.o.Log.DebugContext(ctx, "credentials were not checked to the end", "client", at, "err", err)
	return Caller{}, errTooManyTries
}

// existing returns user, the name in a login, if there is an account of that name, else nothing.
func (c *Control) existing(ctx context.Context, user string) string {
	robot, isRobot := strings.CutPrefix(user, robotPrefix)
	if isRobot && c.robots.get(ctx).account(robot, c.o.Now()) != "" || c.passwords.get(ctx).account(user) != "" {
		return user
	}
	return ""
}

// identify is Identify with who the client says it is, and with errors that say why.
func (c *Control) identify(r *http.Request, from netip.Addr) (caller Caller, claimed string, err error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
			caller, err = certified(r.TLS.VerifiedChains[0][0])
			if err == nil && !c.o.Now().Before(caller.until) { // connections may outlive it
				err = bad("the certificate has expired")
			}
			return caller, "", err
		}
		return Caller{Name: anonymous}, "", nil
	}
	if len(headers) > 1 {
		return Caller{}, "", bad("more than one Authorization")
	}
	shown, err := parseAuthorization(headers[0])
	if err != nil {
		return Caller{}, "", err
	}
	if shown.token != "" {
		caller, err = c.checkBearer(r.Context(), shown.token)
		return caller, "", err
	}
	caller, err = c.checkBasic(r.Context(), shown.user, shown.password, from)
	return caller, shown.user, err
}

// shown is what an Authorization shows: a bearer token, or a user and password.
type shown struct{ token, user, password string }

// parseAuthorization reads an Authorization (RFC 7617, RFC 6750).
//
// Errors: *badCredentials.
func parseAuthorization(header string) (shown, error) {
	if len(header) > maxAuthorizationBytes {
		return shown{}, bad("an Authorization of more than %d bytes", maxAuthorizationBytes)
	}
	scheme, value, _ := strings.Cut(header, " ")
	value = strings.Trim(value, " ")
	switch {
	case strings.EqualFold(scheme, "bearer"):
		if value == "" || len(value) > maxTokenBytes || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return shown{}, bad("not a bearer token")
		}
		return shown{token: value}, nil
	case strings.EqualFold(scheme, "basic"):
		raw, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return shown{}, bad("not base64")
		}
		user, password, ok := strings.Cut(string(raw), ":")
		if !ok || !validUser(user) || strings.ContainsFunc(password, unicode.IsControl) {
			return shown{}, bad("not a user and a password")
		}
		return shown{user: user, password: password}, nil
	}
	return shown{}, bad("neither Basic nor Bearer")
}

// checkBearer returns the caller a token is about: one of ours, or of the issuer it says it is of.
func (c *Control) checkBearer(ctx context.Context, token string) (Caller, error) {
	now := c.accounts(ctx)
	key := c.knownTokens.mark("token", token)
	caller, ok := c.knownTokens.find(key, func(by any) bool {
		_, isIssuer := by.(*issuer) // of those there are always the same
		return isIssuer || by == now
	})
	if ok {
		return caller, nil
	}
	claimed, ok := claimedIssuer(token)
	if !ok {
		return Caller{}, bad("not a JWT")
	}
	if claimed == c.o.Service {
		return c.remember(key, now)(c.checkToken(now, token))
	}
	if from, ok := c.issuers[claimed]; ok {
		return c.remember(key, from)(c.checkIssued(ctx, from, token))
	}
	return Caller{}, bad("a token of %.200q, who is not an issuer here", claimed)
}

// remember returns what passes the outcome of a check on, and remembers credentials that hold.
func (c *Control) remember(k mark, by any) func(Caller, error) (Caller, error) {
	return func(caller Caller, err error) (Caller, error) {
		if err == nil {
			c.knownTokens.put(k, caller, by)
		}
		return caller, err
	}
}

// checkBasic returns the caller of a user name and password. An issuer's token may be the password, whatever the user is called: many
// clients can send nothing else.
func (c *Control) checkBasic(ctx context.Context, user, password string, from netip.Addr) (Caller, error) {
	if robot, ok := strings.CutPrefix(user, robotPrefix); ok {
		return c.checkRobot(ctx, robot, password)
	}
	if claimed, ok := claimedIssuer(password); ok {
		if _, ok := c.issuers[claimed]; ok {
			return c.checkBearer(ctx, password)
		}
	}
	return c.checkPassword(ctx, user, password, from)
}

// maxCommonNameBytes bounds the name in a certificate (RFC 5280, ub-common-name: 64 characters).
const maxCommonNameBytes = 256

// certified returns the caller a certificate is of: by its common name, in the groups its organizations name, as Kubernetes has it.
func certified(cert *x509.Certificate) (Caller, error) {
	name := cert.Subject.CommonName
	if name == "" || len(name) > maxCommonNameBytes || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return Caller{}, bad("a certificate whose common name is empty, long or cannot be printed")
	}
	return Caller{Name: "cert:CN=" + name, Groups: cert.Subject.Organization, until: cert.NotAfter}, nil
}

// Welcome returns nil if GET /v2/ is to be answered to caller with 200, and otherwise what to answer instead, with a
// [Control.Challenge]. Docker learns nowhere else that it could log in: where it is let in without, it never does. A client without
// credentials of its own gets a token for anonymous from the token service; where there is none and everybody may do something, it
// is let in.
func (c *Control) Welcome(caller Caller) error {
	switch {
	case caller.IsZero():
		return errDenied
	case !caller.Anonymous() || caller.narrow != nil || !c.takesCredentials():
		return nil
	case c.HasTokens() || len(c.everyone) == 0:
		return errLogIn
	}
	return nil
}

// Challenge returns the WWW-Authenticate of an answer 401: the token service, and the scope that action on repo takes, if there is
// one, else Basic. A zero repo asks for no scope. It is a constant but for names whose grammar is checked.
func (c *Control) Challenge(r *http.Request, action Action, repo oci.Repository) string {
	if !c.HasTokens() {
		return fmt.Sprintf("Basic realm=%q", c.o.Service)
	}
	realm := c.realm(r)
	if realm == "" {
		return fmt.Sprintf("Basic realm=%q", c.o.Service)
	}
	challenge := fmt.Sprintf(`Bearer realm="%s",service="%s"`, realm, c.o.Service)
	if name := repo.Escaped(); name != "" {
		challenge += fmt.Sprintf(`,scope="repository:%s:%s"`, name, scopeActions(action))
	}
	return challenge
}

// scopeActions returns what a token for action is asked for, in the words clients know.
func scopeActions(action Action) string {
	switch action {
	case Pull:
		return "pull"
	case Push, Sign:
		return "pull,push"
	case Delete:
		return "pull,delete"
	}
	return "*"
}
