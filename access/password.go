package access

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/singleflight"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Limits of a htpasswd file. A line is a name of up to 255 bytes and a hash of 60, so a MiB is some thousands of people, for whom an
// issuer would serve better. Each step of the cost doubles the time: 15 is two to four seconds, and 31 would be days.
const (
	maxHtpasswdBytes = 1 << 20
	maxUserBytes     = 255
	maxBcryptCost    = 15
)

// maxPasswordBytes is what bcrypt looks at: it would take two longer ones that begin alike for the same.
const maxPasswordBytes = 72

// compareTimeout is how long somebody waits for his turn to have a password compared.
const compareTimeout = 10 * time.Second

// passwords is what a htpasswd file says. It is never modified.
type passwords struct {
	hashes map[string]string // bcrypt, by user
	// decoy is a hash of nothing, as costly as the costliest there is: it is compared for users there are not, who would otherwise be
	// known by how quickly they are refused.
	decoy string

	// comparing has a place for each comparison under way: bcrypt is all processor, and there are pulls to serve.
	comparing chan struct{}
	// asking lets the many requests of one pull share one comparison.
	asking singleflight.Group
}

// parseHtpasswd reads lines of "user:hash". Empty ones and those that begin with '#' count for nothing. Hashes other than bcrypt are
// refused: whoever reads the file could guess against them at leisure. Everything wrong is one error, with line numbers.
func parseHtpasswd(content []byte) (*passwords, error) {
	p := &passwords{hashes: map[string]string{}, comparing: make(chan struct{}, runtime.GOMAXPROCS(0))}
	var problems []error
	highest := bcrypt.MinCost
	scanner := bufio.NewScanner(bytes.NewReader(content))
	scanner.Buffer(nil, maxHtpasswdBytes+1)
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimSuffix(scanner.Text(), "\r")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, found := strings.Cut(line, ":")
		cost, err := bcryptCost(hash)
		switch _, twice := p.hashes[user]; {
		case !found:
			err = errors.New("not user:hash")
		case !validUser(user):
			err = errors.New("a name that is empty, long, or has spaces, '*' or what cannot be printed")
		case strings.HasPrefix(user, robotPrefix):
			err = fmt.Errorf("names that begin with %q are robots'", robotPrefix)
		case twice:
			err = fmt.Errorf("%q is there twice", user)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		highest = max(highest, cost)
		p.hashes[user] = hash
	}
	problems = append(problems, scanner.Err())
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	// Salt and hash of no password in particular: 22 and 31 characters of bcrypt's alphabet.
	p.decoy = fmt.Sprintf("$2a$%02d$%s", highest, strings.Repeat("O", 22)+strings.Repeat("u", 31))
	return p, nil
}

// bcryptCost returns the cost of a bcrypt hash. The hash is not in its errors.
func bcryptCost(hash string) (int, error) {
	kind, _, _ := strings.Cut(strings.TrimPrefix(hash, "$"), "$")
	if kind != "2a" && kind != "2b" && kind != "2y" {
		return 0, errors.New("not a bcrypt hash; htpasswd -B makes one")
	}
	cost, err := bcrypt.Cost([]byte(hash))
	if err != nil || len(hash) != 60 {
		return 0, errors.New("a broken bcrypt hash")
	}
	if cost > maxBcryptCost {
		return 0, fmt.Errorf("a cost of %d takes too long to compare; at most %d", cost, maxBcryptCost)
	}
	return cost, nil
}

// validUser reports whether name may be that of a user or a robot: what can be printed in one piece, and is no pattern.
func validUser(name string) bool {
	return name != "" && len(name) <= maxUserBytes && !strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsPrint(r) || unicode.IsSpace(r) || r == '*' || r == unicode.ReplacementChar
	})
}

// account returns the mark of a user's account as it is now, empty if there is none.
func (p *passwords) account(user string) string {
	if p == nil || p.hashes[user] == "" {
		return ""
	}
	return accountMark(p.hashes[user])
}

// accountMark shortens what an account is checked against to what tells it from what it is replaced by.
func accountMark(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:8])
}

// checkPassword returns the caller of that name and password.
//
// Errors: *badCredentials; an *oci.Error TOOMANYREQUESTS when to wait, UNAVAILABLE when others are first.
func (c *Control) checkPassword(ctx context.Context, user, password string, from netip.Addr) (Caller, error) {
	p := c.passwords.get(ctx)
	if p == nil {
		return Caller{}, bad("there are no users")
	}
	key := c.knownPasswords.mark("password", user, password)
	if caller, ok := c.knownPasswords.find(key, func(by any) bool { return by == p }); ok {
		return caller, nil
	}
	// By place too: what one client is told to wait for is no answer to another.
	place := network(from)
	ch := p.asking.DoChan(string(key[:])+place.String(), func() (any, error) {
		caller, err := c.comparePassword(p, user, password, place)
		if err == nil {
			c.knownPasswords.put(key, caller, p)
		}
		return caller, err
	})
	select {
	case done := <-ch:
		if done.Err != nil {
			return Caller{}, done.Err
		}
		return done.Val.(Caller), nil
	case <-ctx.Done():
		return Caller{}, fmt.Errorf("comparing a password: %w", ctx.Err())
	}
}

// comparePassword is checkPassword from nothing.
func (c *Control) comparePassword(p *passwords, user, password string, place netip.Prefix) (Caller, error) {
	end, wait := c.guesses.begin(user, place)
	if wait > 0 {
		c.o.Observe(EventSlowed)
		return Caller{}, &oci.Error{
			Code: oci.CodeTooManyRequests, HTTPStatus: http.StatusTooManyRequests, RetryAfter: wait,
			Message: "too many wrong passwords from this address; wait before trying again",
		}
	}
	turn := time.NewTimer(compareTimeout)
	defer turn.Stop()
	select {
	case p.comparing <- struct{}{}:
		defer func() { <-p.comparing }()
	case <-turn.C:
		end(false)
		c.o.Observe(EventBusy)
		return Caller{}, errTooManyTries
	}
	hash, found := p.hashes[user]
	if !found {
		hash = p.decoy
	}
	err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password[:min(len(password), maxPasswordBytes)]))
	switch {
	case !found:
		return Caller{}, bad("no such user")
	case err != nil || len(password) > maxPasswordBytes:
		return Caller{}, bad("wrong password")
	}
	end(true)
	return Caller{Name: "user:" + user, account: accountMark(hash)}, nil
}
