package notify

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"syscall"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// DefaultTimeout is how long a receiver may take over one event. It should take it in and do its work afterwards.
const DefaultTimeout = 10 * time.Second

// maxTimeout bounds what can be asked for: whatever takes longer holds up what comes after it.
const maxTimeout = time.Minute

// Webhook is somebody who is told of events by HTTP.
type Webhook struct {
	// Name is what it is called in logs, metrics and dead letters: letters, digits, '.', '-' and '_'. Empty: the host of URL.
	Name string
	// URL is where events are posted. It may be a secret itself, so it is never shown.
	URL string
	// SecretFile holds what events are signed with: "whsec_" and base64 of 24 to 64 bytes; of several lines, each signs. It is read for
	// every attempt.
	SecretFile string
	// Types are those it is told of; empty for all.
	Types []Type
	// Repositories are patterns over full names; empty for all, and events about none.
	Repositories []oci.Pattern
	// CAFile holds PEM certificates that are trusted for it beside the system's.
	CAFile string
	// UnsafePrivateAddresses lets it be inside the operator's network, and be reached by plain http.
	UnsafePrivateAddresses bool
	// Timeout bounds one attempt; 0 for DefaultTimeout.
	Timeout time.Duration
	// Control is asked about each address before it is dialled, as net.Dialer's; it refuses what is not public. Needed unless
	// UnsafePrivateAddresses is set.
	Control func(network, address string, c syscall.RawConn) error
}

// namePattern is what names may be: they are labels of metrics.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// name returns what the webhook is called.
func (w Webhook) name() string {
	if w.Name != "" {
		return w.Name
	}
	if u, err := url.Parse(w.URL); err == nil {
		return u.Hostname()
	}
	return ""
}

// wants reports whether the webhook is told of p.
func (w Webhook) wants(p Published) bool {
	if len(w.Types) > 0 && !slices.Contains(w.Types, p.Type) {
		return false
	}
	name := p.Repository.String()
	return len(w.Repositories) == 0 || slices.ContainsFunc(w.Repositories, func(r oci.Pattern) bool { return r.Match(name) })
}

// Check returns everything that is wrong with webhooks, joined, as far as they alone can tell.
func Check(webhooks []Webhook) error {
	var problems []error
	seen := map[string]bool{}
	for i, w := range webhooks {
		for _, err := range w.problems() {
			problems = append(problems, fmt.Errorf("webhooks[%d]: %w", i, err))
		}
		if seen[w.name()] {
			problems = append(problems, fmt.Errorf("webhooks[%d]: there is another one called %q; give it a name", i, w.name()))
		}
		seen[w.name()] = true
	}
	return errors.Join(problems...)
}

// problems returns what is wrong with w. The URL is not repeated: it may hold a secret.
func (w Webhook) problems() (found []error) {
	u, err := url.Parse(w.URL)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return append(found, errors.New("url is not an https or http URL"))
	case u.User != nil:
		found = append(found, errors.New("url has a user or a password in it, which are sent to nobody"))
	case u.Scheme == "http" && !w.UnsafePrivateAddresses:
		found = append(found, errors.New("url is plain http, which needs unsafe_private_addresses"))
	}
	if !namePattern.MatchString(w.name()) {
		found = append(found, fmt.Errorf("name %.80q is not of letters, digits, '.', '-' and '_', 63 at most", w.name()))
	}
	if w.SecretFile == "" {
		found = append(found, errors.New("secret_file is missing; \"openssl rand -base64 32\" makes a secret, to be written behind whsec_"))
	}
	for _, t := range w.Types {
		if !t.Known() {
			found = append(found, fmt.Errorf("types: there are no events %.80q", t))
		}
	}
	if w.Timeout < 0 || w.Timeout > maxTimeout {
		found = append(found, fmt.Errorf("timeout is not from 0s to %s", maxTimeout))
	}
	if !w.UnsafePrivateAddresses && w.Control == nil {
		found = append(found, errors.New("nothing keeps it out of the network behind us"))
	}
	return found
}

// CheckFiles returns what is wrong with the files webhooks name, joined.
func CheckFiles(webhooks []Webhook) error {
	var problems []error
	for i, w := range webhooks {
		if _, err := readSecrets(w.SecretFile); err != nil {
			problems = append(problems, fmt.Errorf("webhooks[%d]: secret_file: %w", i, err))
		}
		if _, err := loadRoots(w.CAFile); err != nil {
			problems = append(problems, fmt.Errorf("webhooks[%d]: ca_file: %w", i, err))
		}
	}
	return errors.Join(problems...)
}
