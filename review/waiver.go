package review

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Waiver is an exception somebody granted, as it was granted: what became of it is said by [Standing]. It names one risk.
type Waiver struct {
	// ID names the waiver: "w" and twelve letters and digits. Release is what those of one release share, "r" and twelve; it names all
	// of them, and is empty for a waiver of its own.
	ID      string `json:"id,omitempty"`
	Release string `json:"release,omitempty"`
	// The scope is that of [gate.Waiver]. Repositories are patterns as written.
	Vulnerability string     `json:"vulnerability,omitempty"`
	Package       string     `json:"package,omitempty"`
	Rule          gate.Rule  `json:"rule,omitempty"`
	Says          string     `json:"says,omitempty"`
	Repositories  []string   `json:"repositories,omitempty"`
	Digest        oci.Digest `json:"digest,omitempty"`
	// Until is when it lapses, UTC, exclusive, whole seconds.
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
	Ticket string    `json:"ticket,omitempty"`
	// By is who granted it, or asked for it to be granted.
	By        string    `json:"by"`
	GrantedAt time.Time `json:"granted_at,omitzero"`
}

// Scopes returns the patterns the waiver reaches: whoever grants it, or takes it back, must be let review all of that. A digest alone
// reaches everywhere. They parse: the waiver was checked.
func (w Waiver) Scopes() []oci.Pattern { return scopesOf(w.Repositories) }

func scopesOf(repositories []string) []oci.Pattern {
	if len(repositories) == 0 {
		repositories = []string{"**"}
	}
	var scopes []oci.Pattern
	for _, s := range repositories {
		p, err := oci.ParseFullPattern(s)
		if err != nil { // the zero pattern matches nothing, and nothing covers it
			p = oci.Pattern{}
		}
		scopes = append(scopes, p)
	}
	return scopes
}

// reaches reports whether the waiver could be about c.
func (w Waiver) reaches(c gate.Candidate) bool {
	name := c.Repository.String()
	return (w.Digest == "" || w.Digest == c.Digest) && slices.ContainsFunc(w.Scopes(), func(p oci.Pattern) bool { return p.Match(name) })
}

// inForce returns the waiver as the gate knows it. approvedBy may be empty.
func (w Waiver) inForce(approvedBy string) gate.Waiver {
	by := w.By
	if approvedBy != "" {
		by += " and " + approvedBy
	}
	reason := w.Reason
	if w.Ticket != "" {
		reason += " (" + w.Ticket + ")"
	}
	g := gate.Waiver{
		Vulnerability: w.Vulnerability, Package: w.Package, Rule: w.Rule, Says: w.Says, Digest: w.Digest, Until: w.Until,
		Reason: reason, By: by + " [" + w.ID + "]",
	}
	if len(w.Repositories) > 0 {
		g.Repositories = w.Scopes()
	}
	return g
}

// Request is what somebody asks to have waived. Exactly one of Vulnerability and Rule, and of Until and For.
type Request struct {
	Vulnerability string        `json:"vulnerability,omitempty"`
	Package       string        `json:"package,omitempty"`
	Rule          gate.Rule     `json:"rule,omitempty"`
	Says          string        `json:"says,omitempty"`
	Repositories  []string      `json:"repositories,omitempty"`
	Digest        oci.Digest    `json:"digest,omitempty"`
	Until         time.Time     `json:"until,omitzero"`
	For           time.Duration `json:"-"`
	Reason        string        `json:"reason"`
	Ticket        string        `json:"ticket,omitempty"`
}

// Scopes returns the patterns that what is asked for would reach.
// Errors: [Refusal].
func (r Request) Scopes() ([]oci.Pattern, error) {
	if len(r.Repositories) > maxRepositories {
		return nil, refuse(Invalid, "more than %d repositories", maxRepositories)
	}
	for _, s := range r.Repositories {
		if _, err := oci.ParseFullPattern(s); err != nil {
			return nil, refuse(Invalid, "repositories: %.300s", err)
		}
	}
	return scopesOf(r.Repositories), nil
}

// waiver returns what r asks for, checked, as by asks for it at now. limit is the policy files' waiver_max.
// Errors: [Refusal].
func (r Request) waiver(by Person, now time.Time, limit time.Duration) (Waiver, error) {
	w := Waiver{
		ID: newID("w"), Rule: r.Rule, Says: r.Says, Repositories: slices.Clone(r.Repositories), Digest: r.Digest, By: by.Name, GrantedAt: now.UTC(),
	}
	if len(r.Says) > maxSaysBytes || !utf8.ValidString(r.Says) { // it is compared to the letter, and the log holds text
		return Waiver{}, refuse(Invalid, "says is not text of at most %d bytes", maxSaysBytes)
	}
	var errs [5]error
	w.Vulnerability, errs[0] = sentence("vulnerability", r.Vulnerability, maxNameBytes)
	w.Package, errs[1] = sentence("package", r.Package, maxNameBytes)
	w.Reason, errs[2] = required("reason", r.Reason, maxReasonBytes)
	w.Ticket, errs[3] = sentence("ticket", r.Ticket, maxTicketBytes)
	w.Until, errs[4] = until(now, r.Until, r.For, limit)
	for _, err := range errs {
		if err != nil {
			return Waiver{}, err
		}
	}
	if err := w.check(); err != nil {
		return Waiver{}, refuse(Invalid, "%s", err)
	}
	return w, nil
}

// check returns what is wrong with a waiver, as it is granted and as it is read from the log.
func (w Waiver) check() error {
	switch {
	case w.ID == "" || w.By == "" || w.Reason == "" || w.Until.IsZero() || w.GrantedAt.IsZero():
		return errors.New("a waiver has an id, an author, a reason, an end and a beginning")
	case (w.Vulnerability == "") == (w.Rule == ""):
		return errors.New("want exactly one of vulnerability and rule")
	case w.Rule != "" && !slices.Contains(gate.WaivableRules(), w.Rule):
		return fmt.Errorf("%.60q is no rule that can be waived", w.Rule)
	case w.Package != "" && w.Vulnerability == "":
		return errors.New("package narrows a vulnerability, not a rule")
	case w.Says != "" && w.Rule == "":
		return errors.New("says narrows a rule, not a vulnerability")
	case w.Digest == "" && len(w.Repositories) == 0:
		return errors.New("want repositories, digest or both: no waiver holds everywhere")
	case len(w.Repositories) > maxRepositories:
		return fmt.Errorf("more than %d repositories", maxRepositories)
	case strings.ContainsAny(w.Vulnerability, " \t"):
		return fmt.Errorf("%.60q is no advisory", w.Vulnerability)
	}
	if kind, name, _ := strings.Cut(w.Package, "/"); w.Package != "" && (kind == "" || name == "") {
		return fmt.Errorf("%.60q is no package: want type/name, such as deb/openssl", w.Package)
	}
	if w.Digest != "" {
		if _, err := oci.ParseDigest(w.Digest.String()); err != nil {
			return err
		}
	}
	for _, s := range w.Repositories {
		if _, err := oci.ParseFullPattern(s); err != nil {
			return err
		}
	}
	return nil
}

// newID returns a name nothing else has: 60 random bits behind a letter that says of what.
func newID(of string) string { return of + strings.ToLower(rand.Text()[:12]) }
