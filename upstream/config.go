package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// DefaultTagTTL is how long a tag's digest is answered from memory unless the configuration says otherwise. Tags that matter move
// a few times a day, and Docker Hub counts requests by the six hours.
const DefaultTagTTL = 5 * time.Minute

// identityToken is the user name of credentials whose password is exchanged for access tokens instead of being presented.
const identityToken = "<token>"

// Credentials tell what an upstream knows us by. Implementations are safe for concurrent use.
type Credentials interface {
	// Credential returns a user name and a password that count now, neither empty. It is called for every request that presents them,
	// so it answers from memory. The user name "<token>" says that the password is an identity token, which only goes to a realm.
	// Errors: any means that they cannot be had now; the upstream is then not asked, least of all without them.
	Credential(ctx context.Context) (username, password string, err error)
}

// Config is one upstream as the operator writes it.
type Config struct {
	// Host is the name clients use, lower case, with a port if it has one: "docker.io".
	Host string
	// URL is where the registry answers, without a path: "https://registry-1.docker.io". Empty means https at Host, except for
	// the hosts of [Defaults]. Plain http is refused unless the host is loopback or UnsafePrivateAddresses is set.
	URL string
	// Realms are the token services that may be asked for tokens and given the credentials: scheme and host, and a path when
	// only what lies under it counts. Empty means whatever lies on the same scheme and host as the URL (a mirror: as the mirror).
	Realms []string
	// Username and PasswordFile are the credentials; both or neither. The file is read whenever they are needed, so that it can
	// be rotated. They are offered to the URL's host and the Realms; mirrors are asked without.
	Username     string
	PasswordFile string
	// Credentials tell the credentials in place of Username and PasswordFile; nil for none.
	Credentials Credentials
	// CAFile holds PEM certificates that are trusted for this upstream beside those of the system. Empty for none.
	CAFile string
	// Allow lists the repositories clients may ask for, as patterns over the names at the upstream: "library/*". Nil means all;
	// empty, but not nil, means none.
	Allow []string
	// Deny lists repositories that are refused although Allow has them.
	Deny []string
	// TagTTL is how long a tag's digest may be answered without asking. 0 asks every time.
	TagTTL time.Duration
	// StaleTagsFor is how much longer than TagTTL a tag's last known digest may be answered while the upstream is down or limits
	// our rate. 0 never does.
	StaleTagsFor time.Duration
	// Mirrors are URLs, like URL, asked in this order before it. A mirror's answer counts, its failures and absences do not: only
	// the URL itself can say that something does not exist.
	Mirrors []string
	// UnsafePrivateAddresses allows connections to loopback, private and link-local addresses. Without it a redirect or a DNS
	// answer could lead a request anywhere in the operator's network.
	UnsafePrivateAddresses bool
	// SignaturesIn is the repository that holds the signatures of all repositories here, with its upstream in front unless it is
	// this one. Empty means that each repository holds its own.
	SignaturesIn string
}

// wellKnown are the registries that answer elsewhere, or hand out tokens elsewhere, than their name says, and those that serve
// everybody.
var wellKnown = []Config{
	{Host: "docker.io", URL: "https://registry-1.docker.io", Realms: []string{"https://auth.docker.io"}},
	{Host: "ghcr.io", URL: "https://ghcr.io", Realms: []string{"https://ghcr.io/token"}},
	{Host: "quay.io", URL: "https://quay.io", Realms: []string{"https://quay.io/v2/auth"}},
	{Host: "registry.k8s.io", URL: "https://registry.k8s.io"},
	{Host: "gcr.io", URL: "https://gcr.io", Realms: []string{"https://gcr.io/v2/token"}},
	{Host: "public.ecr.aws", URL: "https://public.ecr.aws", Realms: []string{"https://public.ecr.aws/token"}},
	{Host: "mcr.microsoft.com", URL: "https://mcr.microsoft.com"},
}

// Defaults returns the public registries that are used when no upstreams are configured, each with everything allowed.
func Defaults() []Config {
	configs := make([]Config, len(wellKnown))
	for i, c := range wellKnown {
		configs[i] = c
		configs[i].Realms = append([]string(nil), c.Realms...)
		configs[i].TagTTL = DefaultTagTTL
	}
	return configs
}

// Address returns where the registry answers: the URL, or what stands for it when it is empty.
func (c Config) Address() string { return c.withDefaults().URL }

// withDefaults fills in where the registry answers. Realms that were configured for another URL are never mixed with ours.
func (c Config) withDefaults() Config {
	if c.URL != "" {
		return c
	}
	c.URL = "https://" + c.Host
	for _, known := range wellKnown {
		if known.Host == c.Host {
			c.URL = known.URL
			if len(c.Realms) == 0 {
				c.Realms = known.Realms
			}
		}
	}
	return c
}

// settings are a Config that was found sound.
type settings struct {
	Config
	url          *url.URL
	mirrors      []*url.URL
	realms       []realm
	allow, deny  []oci.Pattern
	signaturesIn oci.Repository
}

// parse returns c with its texts understood. The error names everything that is wrong with it.
func (c Config) parse() (settings, error) {
	s := settings{Config: c}
	var problems []error
	note := func(key string, err error) {
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", key, err))
		}
	}
	var err error
	if !oci.ValidHost(c.Host) {
		note("host", fmt.Errorf("%.100q is not a lower-case host name", c.Host))
	}
	s.url, err = c.parseOrigin(c.URL)
	note("url", err)
	for _, m := range c.Mirrors {
		u, err := c.parseOrigin(m)
		note("mirrors", err)
		s.mirrors = append(s.mirrors, u)
	}
	for _, r := range c.Realms {
		parsed, err := c.parseRealm(r)
		note("realms", err)
		s.realms = append(s.realms, parsed)
	}
	s.allow, err = parsePatterns(c.Allow)
	note("allow", err)
	s.deny, err = parsePatterns(c.Deny)
	note("deny", err)
	if c.SignaturesIn != "" {
		s.signaturesIn, err = oci.ParseRepository(c.SignaturesIn, c.Host)
		note("signatures_in", err)
	}
	note("credentials", c.checkCredentials(s.url))
	note("tag_ttl", notNegative(c.TagTTL))
	note("stale_tags_for", notNegative(c.StaleTagsFor))
	return s, errors.Join(problems...)
}

func notNegative(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("%s is negative", d)
	}
	return nil
}

func parsePatterns(texts []string) ([]oci.Pattern, error) {
	if texts == nil {
		return nil, nil
	}
	patterns := make([]oci.Pattern, 0, len(texts))
	var problems []error
	for _, text := range texts {
		p, err := oci.ParsePattern(text)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		patterns = append(patterns, p)
	}
	return patterns, errors.Join(problems...)
}

// parseOrigin reads a URL that names a registry: scheme, host and port, nothing else.
func (c Config) parseOrigin(text string) (*url.URL, error) {
	u, err := c.parseURL(text)
	if err != nil {
		return nil, err
	}
	if u.Path != "" && u.Path != "/" {
		return nil, fmt.Errorf("%.200q has a path", text)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

func (c Config) parseRealm(text string) (realm, error) {
	u, err := c.parseURL(text)
	if err != nil {
		return realm{}, err
	}
	if c.hasCredentials() && u.Scheme == "http" && !loopbackHost(u.Hostname()) {
		return realm{}, fmt.Errorf("%.200q would get the credentials unencrypted", text)
	}
	return realm{origin: originOf(u), path: strings.TrimSuffix(u.Path, "/")}, nil
}

func (c Config) parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Hostname() == "" {
		shown := text[strings.LastIndexByte(text, '@')+1:] // before it may be a password, and nobody can tell where that begins
		return nil, fmt.Errorf("%.200q is not a URL with a scheme and a host", shown)
	}
	switch {
	case u.User != nil: // first, as the others show the URL
		return nil, fmt.Errorf("the URL of host %.200q holds credentials, which belong in a file", u.Host)
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("%.200q is neither https nor http", text)
	case u.Scheme == "http" && !c.UnsafePrivateAddresses && !loopbackHost(u.Hostname()):
		return nil, fmt.Errorf("%.200q is plain http, which needs unsafe_private_addresses", text)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("%.200q has a query or a fragment", text)
	case u.RawPath != "" || u.Path != "" && path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") && u.Path != "/":
		return nil, fmt.Errorf("%.200q has a path that is not clean", text)
	}
	u.Host = strings.ToLower(u.Host)
	return u, nil
}

func (c Config) checkCredentials(u *url.URL) error {
	switch {
	case (c.Username == "") != (c.PasswordFile == ""):
		return errors.New("username and password_file go together")
	case c.Username != "" && c.Credentials != nil:
		return errors.New("username and password_file exclude every other way")
	case c.hasCredentials() && u != nil && u.Scheme == "http" && !loopbackHost(u.Hostname()):
		return errors.New("they would travel unencrypted")
	}
	return nil
}

func (c Config) hasCredentials() bool { return c.Username != "" || c.Credentials != nil }

// loopbackHost reports whether host, as written in a URL, can only be this machine.
func loopbackHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}
