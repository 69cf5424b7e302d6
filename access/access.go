// Package access owns who is asking, and whether they may.
//
// It promises that a caller is known only by credentials that were checked, that credentials which do not hold are refused and never
// count as none, that whatever is not granted is refused, and that an action other than a pull goes ahead only once it is on record.
// A refusal says the same whether or not what was asked for exists. It must not believe what a client says of where it comes from,
// keep a secret in any form that could be used again, or know what it guards beyond the names of repositories.
package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// anonymous is the name of whoever showed no credentials.
const anonymous = "anonymous"

// defaultService names this proxy in its tokens.
const defaultService = "tidewaiter"

// Bounds of how long our own tokens count. Docker takes everything below a minute for a minute; above a day a token is a password.
const (
	DefaultTokenTTL = 15 * time.Minute
	MinTokenTTL     = time.Minute
	MaxTokenTTL     = 24 * time.Hour
)

// Event is something that happened here, for a counter. The set is closed.
type Event string

// The events.
const (
	EventAllowed        Event = "allowed"            // an action was allowed
	EventRefused        Event = "refused"            // a known caller was refused an action
	EventChallenged     Event = "challenged"         // somebody was asked for credentials, or for a token with more in it
	EventBadCredentials Event = "bad_credentials"    // credentials did not hold
	EventSlowed         Event = "slowed"             // a client has to wait before it may try a password again
	EventBusy           Event = "busy"               // too many passwords were being compared
	EventUnreachable    Event = "issuer_unreachable" // an issuer's keys could not be had
	EventTokenIssued    Event = "token_issued"       // the token service gave a token
	EventReloaded       Event = "reloaded"           // a changed file is in force
	EventReloadFailed   Event = "reload_failed"      // a changed file is bad
	EventAuditFailed    Event = "audit_failed"       // something could not be put on record
)

// Events returns the closed set.
func Events() []Event {
	return []Event{
		EventAllowed, EventRefused, EventChallenged, EventBadCredentials, EventSlowed, EventBusy, EventUnreachable, EventTokenIssued,
		EventReloaded, EventReloadFailed, EventAuditFailed,
	}
}

// Attempt is what goes on record: that somebody did something, or was kept from it.
type Attempt struct {
	// Event is EventAllowed, EventRefused, EventChallenged, EventBadCredentials or EventTokenIssued.
	Event Event
	// Caller is the name of who it was, or with EventBadCredentials who it was said to be. The client may have written it.
	Caller  string
	Address string
	// Action and Repository are empty with EventBadCredentials and EventTokenIssued, Tag and Digest also when it is about all of the repository.
	Action     Action
	Repository string
	Tag        string
	Digest     oci.Digest
	// Reason is why not, in our words; empty for EventAllowed. With EventTokenIssued it is what the token is good for.
	Reason string
}

// Audit keeps the record. Implementations are safe for concurrent use.
type Audit interface {
	// Record returns once the attempt is on record, as durably as there can be. After an error it may or may not be.
	Record(ctx context.Context, a Attempt) error
}

// AuditFunc is a function as an [Audit].
type AuditFunc func(ctx context.Context, a Attempt) error

// Record implements [Audit].
func (f AuditFunc) Record(ctx context.Context, a Attempt) error { return f(ctx, a) }

// Options are what a Control is built from. Audit, Log and, with KeyFile, Repository are needed; the zero value of everything else
// lets nobody do anything.
type Options struct {
	// Anonymous is what everybody may do, with or without a name.
	Anonymous []Rule
	Grants    []Grant
	// HtpasswdFile holds users and bcrypt hashes; RobotsFile robots, see [Robot]; KeyFile what tokens of ours are signed with, see
	// [CreateTokenKey]. Empty for none. They are read again when they change; one that turns bad leaves what was in force.
	HtpasswdFile, RobotsFile, KeyFile string
	// TokenTTL is how long a token of ours counts, from MinTokenTTL to MaxTokenTTL; 0 for DefaultTokenTTL.
	TokenTTL time.Duration
	// Realm is the URL of the token service as clients reach it. Empty: /token at the host and scheme of the request, which is wrong
	// behind something that ends TLS.
	Realm string
	// Issuers are those whose tokens count.
	Issuers []Issuer
	// Service names this proxy in challenges and tokens; empty for "tidewaiter". A token for another does not count.
	Service string
	// Repository returns the repository clients mean by the name in a path, for the scopes of tokens.
	// Errors: whatever says that there can be none of that name.
	Repository func(name string) (oci.Repository, error)
	Audit      Audit
	// Observe is told what happens; it must not block. Nil for nobody.
	Observe func(Event)
	Log     *slog.Logger
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// Control knows callers and what they may do. It is safe for concurrent use.
type Control struct {
	o         Options
	everyone  []rule
	grants    []grant
	issuers   map[string]*issuer // by their URL
	passwords *file[passwords]
	robots    *file[robots]
	keys      *file[tokenKeys]
	guesses   *guesses
	// Apart from each other, since anybody can have tokens and so push everything else out of one memory.
	knownPasswords, knownTokens *remembered
	noted                       *noted
}

// New returns a Control, or everything that is wrong with o, joined: what is granted, the files, the issuers. It asks no issuer yet.
func New(o Options) (*Control, error) {
	c := prepare(o)
	if c.o.Audit == nil || c.o.Log == nil || o.KeyFile != "" && o.Repository == nil {
		return nil, errors.New("access: an option is missing")
	}
	if err := errors.Join(errors.Join(c.read()...), errors.Join(c.openFiles()...)); err != nil {
		return nil, err
	}
	return c, nil
}

// Check returns what is wrong with o as far as o alone can tell, nothing if nothing is; of o only rules, issuers, TokenTTL and Realm are
// needed.
func Check(o Options) []error { return prepare(o).read() }

// CheckFiles returns what is wrong with the files o names, joined.
func CheckFiles(o Options) error {
	c := prepare(o)
	_ = c.read() // which is for Check to tell
	return errors.Join(c.openFiles()...)
}

// prepare returns a Control of o in which nothing has been read.
func prepare(o Options) *Control {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Observe == nil {
		o.Observe = func(Event) {}
	}
	if o.TokenTTL == 0 {
		o.TokenTTL = DefaultTokenTTL
	}
	if o.Service == "" {
		o.Service = defaultService
	}
	return &Control{o: o, issuers: map[string]*issuer{}, guesses: newGuesses(o.Now), knownPasswords: newRemembered(o.Now), knownTokens: newRemembered(o.Now), noted: newNoted(o.Now)}
}

// read takes over what the options say, and returns what is wrong with it.
func (c *Control) read() []error {
	everyone, grants, problems := parseRules(c.o)
	c.everyone, c.grants = everyone, grants
	problems = append(problems, c.readIssuers()...)
	if ttl := c.o.TokenTTL; ttl < MinTokenTTL || ttl > MaxTokenTTL {
		problems = append(problems, fmt.Errorf("access.tokens.ttl: %s is not from %s to %s", ttl, MinTokenTTL, MaxTokenTTL))
	}
	if c.o.Realm != "" && !realmPattern.MatchString(c.o.Realm) {
		problems = append(problems, fmt.Errorf("access.tokens.realm: %.200q is not an http or https URL", c.o.Realm))
	}
	return problems
}

// realmPattern keeps what would end the quotes of a challenge out of it.
var realmPattern = regexp.MustCompile(`^https?://[^\s"\\/]+(?:/[^\s"\\]*)?$`)

// openFiles reads the files there are and returns what is wrong with them.
func (c *Control) openFiles() []error {
	o := c.o
	var passwordErr, robotErr, keyErr error
	c.passwords, passwordErr = openFile(&file[passwords]{
		path: o.HtpasswdFile, what: "htpasswd file", maxBytes: maxHtpasswdBytes, parse: parseHtpasswd, now: o.Now, log: o.Log, observe: o.Observe,
	})
	c.robots, robotErr = openFile(&file[robots]{
		path: o.RobotsFile, what: "robots file", maxBytes: maxRobotsBytes, parse: parseRobots, now: o.Now, log: o.Log, observe: o.Observe,
	})
	c.keys, keyErr = openFile(&file[tokenKeys]{
		path: o.KeyFile, what: "token key file", maxBytes: maxKeyFileBytes, parse: parseTokenKeys, now: o.Now, log: o.Log, observe: o.Observe,
	})
	problems := []error{passwordErr, robotErr, keyErr}
	for i, configured := range o.Issuers {
		if from := c.issuers[configured.Issuer]; from != nil {
			problems = append(problems, at(fmt.Sprintf("access.oidc[%d]", i), from.keys.check())...)
		}
	}
	return problems
}

// Reload reads every file again, changed or not. What is wrong is logged, and leaves what was in force.
func (c *Control) Reload(ctx context.Context) {
	if c.passwords != nil {
		c.passwords.again(ctx, true)
	}
	if c.robots != nil {
		c.robots.again(ctx, true)
	}
	if c.keys != nil {
		c.keys.again(ctx, true)
	}
}

// HasTokens reports whether there is a token service, which is then to be served at /token of every address clients reach.
func (c *Control) HasTokens() bool { return c.keys != nil }

// takesCredentials reports whether anybody who is asked for credentials could have some that a challenge brings out. Certificates
// are shown without being asked for here.
func (c *Control) takesCredentials() bool {
	return c.passwords != nil || c.robots != nil || len(c.issuers) > 0
}
