package ocitest

import (
	"crypto/subtle"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/tidewaiter/tidewaiter/oci"
)

// tokenServiceName is what challenges call the token service.
const tokenServiceName = "ocitest"

// Auth says how a registry demands tokens (distribution, token authentication specification).
type Auth struct {
	// Username and Password are what the token service asks for. With an empty Username it gives tokens to anybody, as public
	// registries do for pulls.
	Username, Password string
	// SeparateRealm puts the token service on a listener of its own, as public registries do, instead of at the registry's /token.
	SeparateRealm bool
	// Realm, when not empty, is what challenges name in place of the token service: a hostile registry names an address that
	// shall see the credentials.
	Realm string
}

// tokenService gives tokens and knows what each allows.
type tokenService struct {
	auth Auth

	mu     sync.Mutex
	issued int                 // guarded by mu
	scopes map[string][]string // by token, "<repository>:<action>"; guarded by mu
}

func newTokenService(auth Auth) *tokenService {
	return &tokenService{auth: auth, scopes: map[string][]string{}}
}

// RevokeTokens makes every token given so far worthless, as its expiry would.
func (r *Registry) RevokeTokens() {
	if r.tokens == nil {
		return
	}
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	clear(r.tokens.scopes)
}

// ServeHTTP gives a token for the scopes that were asked for, by GET with basic credentials or by the OAuth2 form that
// containerd tries first.
func (t *tokenService) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	username, password, _ := req.BasicAuth()
	scopes := req.URL.Query()["scope"]
	if req.Method == http.MethodPost {
		username, password = req.PostFormValue("username"), req.PostFormValue("password")
		scopes = req.PostForm["scope"]
	}
	right := subtle.ConstantTimeCompare([]byte(username+"\x00"+password), []byte(t.auth.Username+"\x00"+t.auth.Password)) == 1
	if t.auth.Username != "" && !right {
		w.Header().Set("WWW-Authenticate", `Basic realm="ocitest"`)
		oci.WriteError(w, &oci.Error{Code: oci.CodeUnauthorized, Message: "these are not the credentials"})
		return
	}
	token := t.issue(scopes)
	body := map[string]any{"token": token, "access_token": token, "expires_in": 300}
	if err := writeJSON(w, "application/json", body); err != nil {
		oci.WriteError(w, err)
	}
}

// issue makes a token for scopes of the form "repository:<name>:<action>,<action>", several in one string allowed.
func (t *tokenService) issue(scopes []string) string {
	var granted []string
	for scope := range strings.FieldsSeq(strings.Join(scopes, " ")) {
		kind, rest, _ := strings.Cut(scope, ":")
		i := strings.LastIndexByte(rest, ':')
		if kind != "repository" && kind != "registry" || i < 0 {
			continue
		}
		for action := range strings.SplitSeq(rest[i+1:], ",") {
			granted = append(granted, rest[:i]+":"+action)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.issued++
	token := fmt.Sprintf("token-%d", t.issued)
	t.scopes[token] = granted
	return token
}

// allow reports whether the request's token allows what it asks for, and otherwise answers with the challenge.
func (t *tokenService) allow(w http.ResponseWriter, realm string, req *http.Request, c Request) bool {
	name, action := neededScope(c)
	token, isBearer := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	t.mu.Lock()
	granted, known := t.scopes[token]
	t.mu.Unlock()
	if isBearer && known && (name == "" || slices.Contains(granted, name+":"+action) || slices.Contains(granted, name+":*")) {
		return true
	}
	if t.auth.Realm != "" {
		realm = t.auth.Realm
	}
	challenge := fmt.Sprintf(`Bearer realm=%q,service=%q`, realm, tokenServiceName)
	if name != "" {
		actions := action
		if action == "push" {
			actions = "pull,push"
		}
		challenge += fmt.Sprintf(`,scope="%s:%s:%s"`, scopeType(c), name, actions)
	}
	w.Header().Set("WWW-Authenticate", challenge)
	oci.WriteError(w, &oci.Error{Code: oci.CodeUnauthorized, Message: "authentication is needed"})
	return false
}

// neededScope returns what a token must allow; an empty name means any token will do.
func neededScope(c Request) (name, action string) {
	switch {
	case c.Kind == KindCatalog:
		return "catalog", "*"
	case c.Repo == "":
		return "", ""
	case c.Method == http.MethodGet || c.Method == http.MethodHead:
		if c.Kind == KindUpload {
			return c.Repo, "push"
		}
		return c.Repo, "pull"
	case c.Method == http.MethodDelete && c.Kind != KindUpload:
		return c.Repo, "delete"
	}
	return c.Repo, "push"
}

func scopeType(c Request) string {
	if c.Kind == KindCatalog {
		return "registry"
	}
	return "repository"
}
