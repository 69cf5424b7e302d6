package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// maxFormBytes bounds what is posted to the token service: a token as a password, and scopes.
const maxFormBytes = 64 << 10

// hostPattern is what a Host may be to be repeated in a challenge.
var hostPattern = regexp.MustCompile(`^[A-Za-z0-9._-]+(?::[0-9]{1,5})?$|^\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?$`)

// realm returns where clients reach the token service; empty when r does not say.
func (c *Control) realm(r *http.Request) string {
	if c.o.Realm != "" {
		return c.o.Realm
	}
	if !hostPattern.MatchString(r.Host) {
		return ""
	}
	if r.TLS != nil {
		return "https://" + r.Host + "/token"
	}
	return "http://" + r.Host + "/token"
}

// ServeHTTP is the token service, at /token: GET with credentials in the header (distribution token specification), and POST with
// them in a form (its OAuth2 form, grant_type=password). Who may not do what the token is asked for gets one that is good for less.
func (c *Control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	answer, err := c.serveToken(w, r)
	if err != nil {
		c.writeFailure(w, r, err)
		return
	}
	body, err := json.Marshal(answer)
	if err != nil {
		c.writeFailure(w, r, err)
		return
	}
	h.Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n')) // the client may have gone; there is nobody left to tell
}

// issued is the answer of the token service. Clients read one or the other token.
type issued struct {
	Token       string `json:"token"`
	AccessToken string `json:"access_token"`
	ExpiresIn   int    `json:"expires_in"` // seconds
	IssuedAt    string `json:"issued_at"`  // RFC 3339
	// Scope and TokenType are of the OAuth2 form.
	Scope     string `json:"scope,omitempty"`
	TokenType string `json:"token_type,omitempty"`
}

// malformed is a request for a token that is none. Its text is for the client.
type malformed struct{ message string }

func (e *malformed) Error() string { return e.message }

// serveToken returns the token r asks for.
//
// Errors: *malformed; as [Control.Identify].
func (c *Control) serveToken(w http.ResponseWriter, r *http.Request) (issued, error) {
	var caller Caller
	var asked url.Values
	var err error
	switch r.Method {
	case http.MethodGet:
		asked = r.URL.Query()
		caller, err = c.Identify(r)
	case http.MethodPost:
		if asked, err = parseForm(w, r); err != nil {
			return issued{}, err
		}
		caller, err = c.identifyForm(r, asked)
	default:
		return issued{}, &oci.Error{Code: oci.CodeUnsupported, Message: "tokens are asked for by GET or POST"}
	}
	if err != nil {
		return issued{}, err
	}
	if caller.narrow != nil { // it could be had anew for ever, and outlive what it was given for
		return issued{}, errCredentials
	}
	if service := asked.Get("service"); service != "" && service != c.o.Service {
		return issued{}, &malformed{"tokens for other services are not given here"}
	}
	keys := c.keys.get(r.Context())
	if keys == nil {
		return issued{}, &oci.Error{Code: oci.CodeNameUnknown, Message: "there is no token service here"}
	}
	given := c.given(caller, parseScopes(asked["scope"]))
	token, at, lasts, err := c.mint(keys, caller, given)
	if err != nil {
		return issued{}, err
	}
	if err := c.recordToken(r.Context(), caller, given); err != nil {
		return issued{}, err
	}
	c.o.Observe(EventTokenIssued)
	answer := issued{Token: token, AccessToken: token, ExpiresIn: int(lasts / time.Second), IssuedAt: at.UTC().Format(time.RFC3339)}
	if r.Method == http.MethodPost {
		answer.Scope, answer.TokenType = written(given), "Bearer"
	}
	return answer, nil
}

// recordToken puts on record that caller logged in and gets a token. Tokens for nobody, which everybody gets who pulls without a name, are
// on record once a minute of each place.
//
// Errors: an *oci.Error of code UNAVAILABLE: the token must not be given.
func (c *Control) recordToken(ctx context.Context, caller Caller, given []accessClaim) error {
	attempt := Attempt{Event: EventTokenIssued, Caller: caller.Name, Address: caller.Address, Reason: written(given)}
	if caller.Anonymous() && !c.noted.first(notedKey{EventTokenIssued, caller.Address, "", ""}) {
		return nil
	}
	if err := c.record(ctx, attempt); err != nil {
		return errNotRecorded
	}
	return nil
}

// parseForm reads a posted form.
func parseForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, &malformed{"what is posted must be a form"}
	}
	body, err := oci.ReadBounded(http.MaxBytesReader(w, r.Body, maxFormBytes), maxFormBytes)
	if err != nil {
		return nil, &malformed{"the form cannot be read, or is too large"}
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, &malformed{"the form is malformed"}
	}
	return form, nil
}

// identifyForm is Identify for a posted form.
func (c *Control) identifyForm(r *http.Request, form url.Values) (Caller, error) {
	if grant := form.Get("grant_type"); grant != "password" {
		return Caller{}, &malformed{"the only grant_type there is is password"}
	}
	user, from := form.Get("username"), address(r)
	if !validUser(user) {
		return c.identified(r.Context(), Caller{}, "", from, bad("not a user and a password"))
	}
	caller, err := c.checkBasic(r.Context(), user, form.Get("password"), from)
	return c.identified(r.Context(), caller, user, from, err)
}

// given returns what caller gets of what it asks for.
func (c *Control) given(caller Caller, asked []scope) []accessClaim {
	var all []accessClaim
	for _, s := range asked {
		if s.name == "" {
			all = append(all, accessClaim{Type: "registry", Name: "catalog", Actions: []string{"*"}})
			continue
		}
		repo, err := c.o.Repository(s.name)
		if err != nil {
			continue // there is nothing to be done to it
		}
		name := repo.String()
		if may := s.asked & c.rights(&caller, name); may != 0 {
			all = append(all, accessClaim{Type: "repository", Name: name, Actions: may.names()})
		}
	}
	return all
}

// written returns what was given as a scope.
func written(given []accessClaim) string {
	var scopes []string
	for _, a := range given {
		scopes = append(scopes, fmt.Sprintf("%s:%s:%s", a.Type, a.Name, strings.Join(a.Actions, ",")))
	}
	return strings.Join(scopes, " ")
}

// writeFailure answers with err.
func (c *Control) writeFailure(w http.ResponseWriter, r *http.Request, err error) {
	if bad, ok := errors.AsType[*malformed](err); ok {
		body := (&oci.Error{Code: oci.CodeUnsupported, Message: bad.message}).Body()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(body) // the client may have gone
		return
	}
	refusal, ok := errors.AsType[*oci.Error](err)
	if !ok {
		c.o.Log.ErrorContext(r.Context(), "giving a token", "err", err)
	} else if refusal.Code == oci.CodeUnauthorized {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Basic realm=%q", c.o.Service))
	} else if refusal.Code == oci.CodeUnsupported {
		w.Header().Set("Allow", "GET, POST")
	}
	oci.WriteError(w, err)
}
