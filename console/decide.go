package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/review"
)

// Waivers tells of exceptions. Implementations are safe for concurrent use.
type Waivers interface {
	// List returns every waiver as it stands, those of the policy files first and then those granted, newest first.
	List() []review.Standing
	// Named returns the waiver called id, or those of the release called so; none if there is none.
	Named(id string) []review.Standing
}

// WaiverDesk decides about exceptions, for somebody who was seen to have a right to. Implementations are safe for concurrent use.
// Errors: *review.Refusal, which whoever asks may see; anything else is a failure, and nothing was decided.
type WaiverDesk interface {
	Grant(ctx context.Context, by review.Person, asked ...review.Request) ([]review.Standing, error)
	Approve(ctx context.Context, by review.Person, id, reason string) ([]review.Standing, error)
	Revoke(ctx context.Context, by review.Person, id, reason string) ([]review.Standing, error)
}

// Quarantine tells of images that are denied. Implementations are safe for concurrent use. Errors: as [WaiverDesk].
type Quarantine interface {
	List(ctx context.Context, f review.Filter) (review.Page, error)
	Show(ctx context.Context, c gate.Candidate) (review.Detail, error)
}

// QuarantineDesk decides about images that are denied. Implementations are safe for concurrent use. Errors: as [WaiverDesk];
// *gate.NoVerdict.
type QuarantineDesk interface {
	Release(ctx context.Context, by review.Person, c gate.Candidate, r review.ReleaseRequest) (review.Released, error)
	Drop(ctx context.Context, by review.Person, c gate.Candidate, reason string) error
	// Read puts on record that by reads bytes of c, before any are sent.
	Read(ctx context.Context, by review.Person, c gate.Candidate, blob oci.Digest) error
}

// Forensics opens what lies in quarantine, for people who are to decide about it. Implementations are safe for concurrent use.
type Forensics interface {
	// Manifest returns a manifest that is held. Errors: oci.ErrNotFound.
	Manifest(ctx context.Context, c gate.Candidate) (oci.Content, error)
	// Blob opens a blob that the manifest of c, which is held, refers to. Errors: oci.ErrNotFound, oci.ErrBlobUnknown.
	Blob(ctx context.Context, c gate.Candidate, d oci.Digest) (content io.ReadCloser, size int64, err error)
}

// Scopes knows what somebody may do in more than one repository. Implementations are safe for concurrent use. Errors: as [Access].
type Scopes interface {
	MayThroughout(caller access.Caller, action access.Action, scope oci.Pattern) bool
	// AllowThroughout is on record, AllowSomewhere only where it refuses.
	AllowThroughout(ctx context.Context, caller access.Caller, action access.Action, scopes []oci.Pattern) error
	AllowSomewhere(ctx context.Context, caller access.Caller, action access.Action) error
}

// Review is what a console needs for people to decide. All but Scopes are needed, and Scopes where there is an [Access].
type Review struct {
	Waivers        Waivers
	WaiverDesk     WaiverDesk
	Quarantine     Quarantine
	QuarantineDesk QuarantineDesk
	Forensics      Forensics
	Scopes         Scopes
	// AnybodyDecides lets whoever reaches the console decide where there is no [Access]. It is for one that only this machine reaches, and
	// then only its own names are answered, and nothing that was passed on.
	AnybodyDecides bool
}

// maxBodyBytes bounds what is sent to decide something: a waiver has a few kilobytes.
const maxBodyBytes = 64 << 10

// errNobodyDecides says that whoever asks is not asked who it is, so nothing can be decided.
var errNobodyDecides = &oci.Error{
	Code: oci.CodeDenied, Message: "nobody is granted review, so nothing is decided and nothing in quarantine is read from elsewhere than this machine itself",
}

// decider returns who sends r. Without an [Access] that is nobody in particular.
func (c *Console) decider(r *http.Request) (access.Caller, review.Person, error) {
	if c.o.Access != nil {
		caller, err := c.o.Access.Identify(r)
		known := err == nil && !caller.IsZero() && !caller.Anonymous()
		return caller, review.Person{Name: caller.Name, Address: caller.Address, Known: known}, err
	}
	if !c.o.Review.AnybodyDecides || !isOwnName(r.Host) || passedOn(r) {
		return access.Caller{}, review.Person{}, errNobodyDecides
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = ""
	}
	return access.Caller{}, review.Person{Name: "anonymous", Address: host}, nil
}

// isOwnName reports whether a Host is a name of this machine that nobody else can give it: a page that has its own name lead here would
// have the browser send that.
func isOwnName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

// passedOn reports whether somebody in between sent r on for somebody else.
func passedOn(r *http.Request) bool {
	for _, name := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"} {
		if r.Header.Get(name) != "" {
			return true
		}
	}
	return false
}

// decides returns who sends r if it may decide about repo. That is on record.
func (c *Console) decides(r *http.Request, repo oci.Repository) (review.Person, error) {
	caller, by, err := c.decider(r)
	if err == nil && c.o.Access != nil {
		err = c.o.Access.Allow(r.Context(), caller, access.Review, repo)
	}
	return by, err
}

// decidesThroughout is decides for all that scopes match.
func (c *Console) decidesThroughout(r *http.Request, scopes []oci.Pattern) (review.Person, error) {
	caller, by, err := c.decider(r)
	if err == nil && c.o.Access != nil {
		err = c.o.Review.Scopes.AllowThroughout(r.Context(), caller, access.Review, scopes)
	}
	return by, err
}

// reviewer returns what tells which repositories and patterns whoever sends r may see, if there are any at all.
func (c *Console) reviewer(r *http.Request) (seen, error) {
	if c.o.Access == nil {
		return seen{everything: true}, nil
	}
	caller, err := c.o.Access.Identify(r)
	if err != nil {
		return seen{}, err
	}
	if err := c.o.Review.Scopes.AllowSomewhere(r.Context(), caller, access.Review); err != nil {
		return seen{}, err
	}
	return seen{c: c, caller: caller}, nil
}

// seen is what somebody may see. The zero value sees nothing.
type seen struct {
	everything bool
	c          *Console
	caller     access.Caller
}

func (s seen) repository(repo oci.Repository) bool {
	return s.everything || s.c != nil && s.c.o.Access.May(s.caller, access.Review, repo)
}

// waiver reports whether any of what the waiver reaches may be seen as a whole.
func (s seen) waiver(w review.Waiver) bool {
	if s.everything {
		return true
	}
	for _, scope := range w.Scopes() {
		if s.c != nil && s.c.o.Review.Scopes.MayThroughout(s.caller, access.Review, scope) {
			return true
		}
	}
	return false
}

// readBody reads what was sent as JSON into v. That it is said to be JSON is what keeps other sites' pages out: a browser sends theirs
// only after asking here whether it may.
func readBody(w http.ResponseWriter, r *http.Request, v any) error {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return &oci.Error{Code: oci.CodeUnsupported, HTTPStatus: http.StatusUnsupportedMediaType, Message: "want a body of Content-Type application/json"}
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return &oci.Error{Code: oci.CodeSizeInvalid, HTTPStatus: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("more than %d bytes", maxBodyBytes)}
		}
		return invalid("the body: %.200s", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return invalid("the body: something follows its end")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return &review.Refusal{Why: review.Invalid, Message: fmt.Sprintf(format, args...)}
}

// readFor reads a time as people write it: "72h"; empty for none.
func readFor(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, invalid("for: %.60q is no time such as 72h", s)
	}
	return d, nil
}

// refusals maps what people are refused to statuses.
var refusals = map[review.Why]int{
	review.Invalid: http.StatusBadRequest, review.Unknown: http.StatusNotFound, review.Conflict: http.StatusConflict,
	review.Forbidden: http.StatusForbidden, review.Full: http.StatusInsufficientStorage,
}

// told returns err as an answer, if it is one that is not an [oci.Error] already.
func told(err error) error {
	if refusal, ok := errors.AsType[*review.Refusal](err); ok {
		return &oci.Error{Code: oci.CodeUnknown, HTTPStatus: refusals[refusal.Why], Message: refusal.Message}
	}
	if none, ok := errors.AsType[*gate.NoVerdict](err); ok {
		if oci.IsMissing(err) {
			return &oci.Error{Code: oci.CodeManifestUnknown, Message: "there is no such image"}
		}
		return &oci.Error{Code: oci.CodeUnavailable, Message: "could not judge: " + none.Step}
	}
	return err
}
