// Package credential owns credentials that expire and come from elsewhere: from a docker configuration, from a program, from the
// identity a cloud gives this machine.
//
// It promises that what it hands out still counts, that it is fetched once however many want it, and that a failure to fetch it is
// an error and never the absence of credentials. What it runs is a program named by the configuration, by an absolute path or a name
// that was looked up at start, with an environment that holds nothing of ours, bounded in time and output.
//
// It must not send a credential to the registry it is for: whoever asks for one does that, and sees to where it goes. Nothing it
// returns as an error holds a credential.
package credential

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// fetchTimeout bounds fetching one credential. A cloud answers within a second, a program that asks a vault within a few; whoever
	// waits for a token gives up after 30 s.
	fetchTimeout = 20 * time.Second
	// refreshBefore is how long before its end a credential is fetched anew: long enough for a request that takes it along to arrive.
	refreshBefore = time.Minute
	// failureWait is how long a failure stands. Everybody who pulls asks, and each asking may start a program.
	failureWait = 5 * time.Second
	// unsaidLifetime is how long a credential counts that nobody said an end of, as programs and files do not.
	unsaidLifetime = 5 * time.Minute
)

// Token is the user name of a credential whose password is an identity token: it is not presented but exchanged for access tokens
// (distribution, OAuth2 token authentication). Credential helpers use the same word.
const Token = "<token>"

// Credential is what a registry knows us by.
type Credential struct {
	Username, Password string
	// Until is when it stops counting, UTC, exclusive; zero if nobody knows.
	Until time.Time
}

// Source is where a credential comes from. Implementations are called by one goroutine at a time.
type Source interface {
	// Credential fetches a credential with a user name and a password.
	// Errors: any means that there is none now; it holds no secret.
	Credential(ctx context.Context) (Credential, error)
}

// Config says where the credential for one registry comes from: exactly one of DockerConfig and Helper.
type Config struct {
	// Registry is the registry's name, with a port if it has one: "123456789012.dkr.ecr.eu-west-1.amazonaws.com".
	Registry string
	// URL is where it answers.
	URL string
	// DockerConfig is the path of a docker configuration (config.json). It is read whenever a credential is fetched, so that it can be
	// replaced.
	DockerConfig string
	// Helper is one of [Helpers].
	Helper string
	// Command is the program of the helper "exec" with its arguments, by an absolute path. It is started with one argument more, "get",
	// and the registry's name on its standard input.
	Command []string
	// Environment is the environment of programs, "NAME=value", and beside it they have a PATH alone.
	Environment []string
}

// Helpers are the names of ways to get credentials, sorted.
func Helpers() []string { return []string{"acr", "ecr", "exec", "gcr"} }

// New returns the credential c describes, which is fetched when it is first asked for. now is the clock; nil for time.Now.
//
// Errors: everything that is wrong with c as far as can be told without fetching.
func New(c Config, now func() time.Time) (*Cache, error) {
	source, err := c.source()
	if err != nil {
		return nil, err
	}
	return NewCache(source, now), nil
}

func (c Config) source() (Source, error) {
	for _, variable := range c.Environment {
		if name, _, ok := strings.Cut(variable, "="); !ok || name == "" || strings.ContainsRune(variable, 0) {
			return nil, errors.New("environment: an entry is not NAME=value") // not shown: it may hold a secret
		}
	}
	switch {
	case c.DockerConfig != "" && c.Helper != "":
		return nil, errors.New("docker_config and helper exclude one another")
	case len(c.Command) > 0 && c.Helper != "exec":
		return nil, errors.New("exec goes with helper: exec alone")
	case c.DockerConfig != "":
		return newDockerConfig(c)
	}
	switch c.Helper {
	case "acr":
		return newAzure(c)
	case "ecr":
		return newElastic(c)
	case "exec":
		return newProgram(c.Command, serverName(c.Registry), c.Environment)
	case "gcr":
		return newGoogler(c)
	}
	return nil, fmt.Errorf("helper: %.40q is none of %s", c.Helper, strings.Join(Helpers(), ", "))
}

// cloudHost returns the host by which a cloud knows the registry. What a cloud gives this machine opens more than one registry, so it is
// only fetched for a host of that cloud's, or for this machine, which stands in for one.
func (c Config) cloudHost(matches func(host string) bool) (string, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return "", fmt.Errorf("helper %s: the URL is malformed", c.Helper)
	}
	host := u.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil && addr.IsLoopback() {
		host = c.Registry
	}
	if !matches(host) {
		return "", fmt.Errorf("helper %s: %.200q is not a registry of that cloud", c.Helper, host)
	}
	return host, nil
}

// Cache is a credential kept for as long as it counts. It is safe for concurrent use.
type Cache struct {
	source Source
	now    func() time.Time
	flight singleflight.Group

	mu sync.Mutex // guards everything below
	// known is the last credential fetched, with an Until that is never zero; the zero Credential at first.
	known Credential
	// failure is why the last fetch gave none, until failedUntil; nil since the last success.
	failure     error
	failedUntil time.Time
}

// NewCache returns source's credential. now is the clock; nil for time.Now.
func NewCache(source Source, now func() time.Time) *Cache {
	if now == nil {
		now = time.Now
	}
	return &Cache{source: source, now: now}
}

// Credential returns a credential that counts now. It is fetched once however many ask; the fetch goes on when one of them leaves.
// While a new one cannot be had, the one before stands until its end.
//
// Errors: the source's, and ctx's own.
func (c *Cache) Credential(ctx context.Context) (username, password string, err error) {
	if found, err, ok := c.settled(); ok {
		return found.Username, found.Password, err
	}
	flight := c.flight.DoChan("", func() (any, error) {
		if found, err, ok := c.settled(); ok {
			return found, err // another flight landed between our look and our start
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		return c.fetch(ctx)
	})
	select {
	case <-ctx.Done():
		return "", "", ctx.Err()
	case r := <-flight:
		found, _ := r.Val.(Credential)
		return found.Username, found.Password, r.Err
	}
}

// settled returns what needs no fetching.
func (c *Cache) settled() (Credential, error, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	switch {
	case now.Before(c.known.Until.Add(-refreshBefore)):
		return c.known, nil, true
	case c.failure == nil || !now.Before(c.failedUntil):
		return Credential{}, nil, false
	case now.Before(c.known.Until):
		return c.known, nil, true
	}
	return Credential{}, c.failure, true
}

func (c *Cache) fetch(ctx context.Context) (Credential, error) {
	found, err := c.source.Credential(ctx)
	if err == nil && (found.Username == "" || found.Password == "") {
		err = errors.New("what came is not a user name and a password")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if found.Until.IsZero() {
		found.Until = now.Add(unsaidLifetime)
	}
	if err == nil && !now.Before(found.Until) {
		err = fmt.Errorf("what came has ended at %s", found.Until.UTC().Format(time.RFC3339))
	}
	if err != nil {
		c.failure, c.failedUntil = fmt.Errorf("fetching the credential: %w", err), now.Add(failureWait)
		if now.Before(c.known.Until) {
			return c.known, nil
		}
		return Credential{}, c.failure
	}
	c.known, c.failure = found, nil
	return found, nil
}
