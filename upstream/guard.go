package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// errForeignRealm says that a registry named a token service it is not configured with.
var errForeignRealm = errors.New("the token realm is not configured")

// realm is where tokens may be asked for.
type realm struct {
	origin string
	// path is a prefix of whole components without a slash at its end; empty for everything at the origin.
	path string
}

func (r realm) covers(u *url.URL) bool {
	if originOf(u) != r.origin || u.User != nil || u.RawPath != "" {
		return false
	}
	if u.Path != "" && u.Path != "/" && path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") {
		return false // dots that one reader resolves and another does not
	}
	return r.path == "" || u.Path == r.path || strings.HasPrefix(u.Path, r.path+"/")
}

// originOf returns scheme, host and port of u in one form: lower case, the port always written.
func originOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[strings.ToLower(u.Scheme)]
	}
	return strings.ToLower(u.Scheme + "://" + u.Hostname() + ":" + port)
}

// guard stands below everything that may add credentials to a request of one endpoint. It lets through requests to that endpoint
// and to its realms, and nothing else; and of the endpoint's challenges only those that lead to its realms. Redirects never come
// this way: whoever follows one does so without credentials.
type guard struct {
	next     http.RoundTripper
	upstream string
	origin   *url.URL
	realms   []realm
	// pushes says that the endpoint is pushed to. Otherwise nothing but reading gets through.
	pushes bool
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	asked := req
	req = unmask(req)
	reads := req.Method == http.MethodGet || req.Method == http.MethodHead
	if !reads && !g.isTokenForm(req) && !g.isPush(asked) {
		return nil, g.stray(fmt.Errorf("%s: nothing is ever written there: %w", req.Method, errLeak))
	}
	if originOf(req.URL) != originOf(g.origin) && !g.isRealm(req.URL) {
		return nil, g.stray(fmt.Errorf("%.200q is neither upstream %s nor among its realms: %w", originOf(req.URL), g.upstream, errLeak))
	}
	resp, err := g.next.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	if err := g.checkChallenge(resp); err != nil {
		drain(resp.Body)
		return nil, err
	}
	return resp, nil
}

// isTokenForm reports whether req asks a realm to exchange an identity token, which is done by a form (distribution, OAuth2 token
// authentication). No request of the distribution API is one.
func (g *guard) isTokenForm(req *http.Request) bool {
	return req.Method == http.MethodPost && req.Header.Get("Content-Type") == "application/x-www-form-urlencoded" && g.isRealm(req.URL)
}

// isPush reports whether req pushes to the endpoint, and to nothing that only looks like it.
func (g *guard) isPush(req *http.Request) bool {
	return g.pushes && (req.Method == http.MethodPost || req.Method == http.MethodPut) &&
		originOf(req.URL) == originOf(g.origin) && !strings.HasPrefix(req.URL.Path, maskPath)
}

func (g *guard) stray(err error) error { return &refusal{"leads requests astray", err} }

func (g *guard) isRealm(u *url.URL) bool {
	return slices.ContainsFunc(g.realms, func(r realm) bool { return r.covers(u) })
}

// checkChallenge refuses a bearer challenge whose realm is not configured, and writes one whose realm is so that there is only one
// way to read it.
func (g *guard) checkChallenge(resp *http.Response) error {
	c := parseChallenge(resp.Header.Get("WWW-Authenticate"))
	if c.scheme != "bearer" {
		return nil // basic credentials go to the endpoint itself, and nobody acts on anything else
	}
	u, err := url.Parse(c.params["realm"])
	if err != nil || !g.isRealm(u) {
		return &refusal{"names a token realm it is not configured with",
			fmt.Errorf("token realm %.200q is not among the realms of upstream %s: %w", c.params["realm"], g.upstream, errForeignRealm)}
	}
	resp.Header.Set("WWW-Authenticate", bearerHeader(g.mask(u), c.params["service"], g.scopes(resp.Request, c.params["scope"])))
	return nil
}

// scopes returns those of the scopes a registry names that tokens are asked for. With them it must not get tokens out of the
// operator's credentials that could change anything else than what is being pushed.
func (g *guard) scopes(req *http.Request, scopes string) string {
	if g.pushes && req != nil {
		return pushOnly(scopes, req.URL.Path)
	}
	return pullOnly(scopes)
}

// pushOnly returns the scopes that let a token pull, and push to the repository at the path of a request.
func pushOnly(scopes, path string) string {
	kept := strings.Fields(scopes)
	kept = slices.DeleteFunc(kept, func(s string) bool {
		name, actions, ok := cutActions(s)
		switch {
		case !ok || actions == "pull":
			return false
		case actions == "push", actions == "pull,push", actions == "push,pull":
			return !strings.HasPrefix(path, "/v2/"+name+"/")
		}
		return true
	})
	return strings.Join(kept, " ")
}

// cutActions reads "repository:team/app:pull,push". ok is false for a scope without actions.
func cutActions(scope string) (name, actions string, ok bool) {
	_, rest, ok := strings.Cut(scope, ":")
	i := strings.LastIndexByte(rest, ':')
	if !ok || i < 0 {
		return "", "", ok
	}
	return rest[:i], rest[i+1:], true
}

// pullOnly returns the scopes that let a token do no more than pull, those without actions among them. A registry names the scopes
// it wants; it must not get tokens out of the operator's credentials that could change something.
func pullOnly(scopes string) string {
	kept := strings.Fields(scopes)
	kept = slices.DeleteFunc(kept, func(s string) bool { return strings.Contains(s, ":") && !strings.HasSuffix(s, ":pull") })
	return strings.Join(kept, " ")
}

// maskPath is the path of a realm that stands under the endpoint's own name for a while. No registry answers there.
const maskPath = "/.tidewaiter-realm/"

// mask returns the name under which the auth library is told of a configured realm. Of a realm at another host the library looks
// up the addresses itself, before ours are dialled and by rules of its own, and cannot be told that the operator allowed private
// ones, as many must who run a registry and a token service. So such a realm is named as if it lay at the endpoint, and unmask
// turns the request back before it is checked and sent; which addresses may be dialled is decided where they are dialled.
func (g *guard) mask(u *url.URL) string {
	if strings.EqualFold(u.Hostname(), g.origin.Hostname()) {
		return u.String()
	}
	masked := url.URL{Scheme: g.origin.Scheme, Host: g.origin.Host, Path: maskPath + u.Scheme + "/" + u.Host + u.Path, RawQuery: u.RawQuery}
	return masked.String()
}

func unmask(req *http.Request) *http.Request {
	rest, masked := strings.CutPrefix(req.URL.Path, maskPath)
	if !masked {
		return req
	}
	scheme, rest, _ := strings.Cut(rest, "/")
	host, rest, slash := strings.Cut(rest, "/")
	u := url.URL{Scheme: scheme, Host: host, RawQuery: req.URL.RawQuery}
	if slash {
		u.Path = "/" + rest
	}
	unmasked := req.Clone(req.Context())
	unmasked.URL, unmasked.Host = &u, u.Host
	return unmasked
}
