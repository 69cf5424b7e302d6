// Package review owns what people decide about what the gate denies: waivers they grant and take back, and what becomes of images in
// quarantine.
//
// A decision is an event in a log that is only added to; what counts now is a fold over it, joined with the policy files into the one
// set the gate goes by. The package promises that a waiver counts for what it names and no longer than it says, that one which was
// taken back on another replica stops counting here within [Unread], that where two people are asked for one alone changes nothing,
// and that a decision is on record before it has an effect. When the log cannot be read, or holds what is not believed, waivers stop
// counting; they never start to. It must not judge: it grants waivers, and the gate decides by them.
package review

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Bounds of what people write. What they say is shown with every verdict that leans on it.
const (
	maxReasonBytes   = 1000
	maxTicketBytes   = 200
	maxNameBytes     = 300 // an advisory, a package, a caller: the longest npm names have 214
	maxRepositories  = 50
	maxSaysBytes     = 4096 // a gate's message about a layer with a long path
	maxReleaseRisks  = 2000 // reasons of one release; images with more are waived by rule, or not at all
	maxLive          = 20_000
	maxEventsWaivers = maxReleaseRisks
)

// Person is who decides something.
type Person struct {
	// Name is as access names callers: "user:sam". It was checked, unless Known is false.
	Name string `json:"name"`
	// Address is the IP address the request came from; may be empty.
	Address string `json:"address,omitempty"`
	// Known says that the name is somebody's who showed credentials. Whoever is not known can be anybody, twice.
	Known bool `json:"known,omitempty"`
}

// Kind says what was decided, or has come about. The set is closed.
type Kind string

// The kinds. Those of the log come first.
const (
	KindRequested Kind = "requested" // waivers that wait for a second person
	KindGranted   Kind = "granted"   // waivers that count
	KindApproved  Kind = "approved"  // requested ones that count from now on
	KindRevoked   Kind = "revoked"   // waivers that count no more
	KindDropped   Kind = "dropped"   // an image whose bytes were deleted
	KindReleased  Kind = "released"  // a denied image whose reasons were waived; in the log it is requested or granted
	KindExpiring  Kind = "expiring"  // a waiver that will lapse soon
	KindExpired   Kind = "expired"   // a waiver that has lapsed
	KindRead      Kind = "read"      // bytes in quarantine were read by a reviewer
)

// Kinds returns the closed set, for whoever counts.
func Kinds() []Kind {
	return []Kind{KindRequested, KindGranted, KindApproved, KindRevoked, KindDropped, KindReleased, KindExpiring, KindExpired, KindRead}
}

// Act is something somebody did, or for [KindExpiring] and [KindExpired] something time did.
type Act struct {
	Kind Kind
	By   Person
	// Waivers are those concerned; may be nil.
	Waivers []Waiver
	// Candidate is the image concerned; zero for none.
	Candidate gate.Candidate
	// Blob is what was read, when it is not the manifest.
	Blob   oci.Digest
	Reason string
	// Pending says that it takes a second person to have an effect.
	Pending bool
	// Failed says that it was put on record, and then could not be done.
	Failed bool
}

// Audit puts acts on record. Implementations are safe for concurrent use.
type Audit interface {
	// Record returns once a is on record. After an error it may or may not be, and nothing is done.
	Record(ctx context.Context, a Act) error
}

// Why says in which way something was refused. The set is closed.
type Why string

// The ways.
const (
	Invalid   Why = "invalid"   // what was asked for makes no sense
	Unknown   Why = "unknown"   // there is no such waiver or image
	Conflict  Why = "conflict"  // not as things stand
	Forbidden Why = "forbidden" // not by this person
	Full      Why = "full"      // there are too many already
)

// Refusal is an answer whoever asked may see: nothing was done.
type Refusal struct {
	Why     Why
	Message string
}

func (r *Refusal) Error() string { return r.Message }

func refuse(why Why, format string, args ...any) error {
	return &Refusal{why, fmt.Sprintf(format, args...)}
}

// sentence returns text without space around it, or why it cannot be the value called what.
func sentence(what, text string, maxBytes int) (string, error) {
	text = strings.TrimSpace(text)
	switch {
	case len(text) > maxBytes:
		return "", refuse(Invalid, "%s has more than %d bytes", what, maxBytes)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", refuse(Invalid, "%s has what cannot be printed; it is one line of text", what)
	}
	return text, nil
}

// required is sentence for what must be there.
func required(what, text string, maxBytes int) (string, error) {
	text, err := sentence(what, text, maxBytes)
	if err == nil && text == "" {
		err = refuse(Invalid, "%s is required", what)
	}
	return text, err
}

// until returns when something that is asked for lapses: at, or life after now. limit is how far ahead that may be.
func until(now, at time.Time, life, limit time.Duration) (time.Time, error) {
	switch {
	case at.IsZero() == (life == 0):
		return time.Time{}, refuse(Invalid, "want exactly one of until and for: every waiver lapses")
	case life < 0:
		return time.Time{}, refuse(Invalid, "for is negative")
	case life > limit:
		return time.Time{}, refuse(Invalid, "for %s is longer than waiver_max allows, %s", life, limit)
	case life > 0:
		at = now.Add(life)
	}
	at = at.UTC().Truncate(time.Second)
	switch {
	case !at.After(now):
		return time.Time{}, refuse(Invalid, "until %s is not in the future", at.Format(time.RFC3339))
	case at.After(now.Add(limit)):
		return time.Time{}, refuse(Invalid, "until %s is later than waiver_max (%s) from now allows, %s", at.Format(time.RFC3339), limit,
			now.Add(limit).UTC().Format(time.RFC3339))
	}
	return at, nil
}
