package forward

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Outcome is how an attempt ended. It is a closed set: metrics are labelled with it.
type Outcome string

// The outcomes. The empty one is that of an item that has not been tried to the end yet.
const (
	OutcomeCopied      Outcome = "copied"      // and noted as done
	OutcomeDenied      Outcome = "denied"      // the verdict on it, or on a child of it, does not allow it any more
	OutcomeUnjudged    Outcome = "unjudged"    // there was no verdict to be had
	OutcomeUnreadable  Outcome = "unreadable"  // what is to be copied could not be read here
	OutcomeUnavailable Outcome = "unavailable" // the upstream did not answer, or said that it cannot
	OutcomeLimited     Outcome = "limited"     // the upstream limits the rate of requests
	OutcomeRefused     Outcome = "refused"     // the upstream will not have it until somebody changes something
	OutcomeUnnoted     Outcome = "unnoted"     // it was copied, but that could not be noted
)

// Outcomes returns every outcome of an attempt.
func Outcomes() []Outcome {
	return []Outcome{
		OutcomeCopied, OutcomeDenied, OutcomeUnjudged, OutcomeUnreadable, OutcomeUnavailable, OutcomeLimited, OutcomeRefused, OutcomeUnnoted,
	}
}

// Event is an attempt that is over.
type Event struct {
	Outcome Outcome
	Took    time.Duration
	// Bytes of blobs that were read in order to be sent.
	Bytes int64
}

// How long to wait before an item is tried again: firstWait at first, twice as long after each attempt, up to maxWait; a half of it is
// chance. So an item is tried at most fourteen times in its first hour, and eight times in every other.
const (
	firstWait = 10 * time.Second
	maxWait   = 15 * time.Minute
	rareWait  = 2 * time.Hour // for what an operator must mend, who has been told: requests that are refused do not hurry anybody
	// maxRetryAfter bounds what an upstream may ask for, which must not be able to stop forwarding for a day by one header.
	maxRetryAfter = time.Hour
)

// fault is why an attempt did not succeed.
type fault struct {
	outcome Outcome
	err     error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func faultf(outcome Outcome, format string, args ...any) error {
	return &fault{outcome, fmt.Errorf(format, args...)}
}

// outcomeOf returns how an attempt that returned err ended.
func outcomeOf(err error) Outcome {
	if err == nil {
		return OutcomeCopied
	}
	if f, ok := errors.AsType[*fault](err); ok {
		return f.outcome
	}
	return OutcomeUnreadable
}

// destinationOutcome returns what it means that the destination answered with err.
func destinationOutcome(err error) Outcome {
	if errors.Is(err, oci.ErrMismatch) {
		return OutcomeRefused // it stores something else than it is sent
	}
	e, ok := errors.AsType[*oci.Error](err)
	if !ok {
		return OutcomeUnavailable
	}
	switch e.Code {
	case oci.CodeTooManyRequests:
		return OutcomeLimited
	case oci.CodeManifestBlobUnknown, oci.CodeBlobUploadUnknown, oci.CodeBlobUploadInvalid, oci.CodeRangeInvalid:
		return OutcomeUnavailable // it lost what it was given, or will know of it soon: from the start it may go well
	}
	if status := e.Status(); status >= 400 && status < 500 {
		return OutcomeRefused
	}
	return OutcomeUnavailable
}

// wait returns when to try again what ended with err, after so many attempts. Chance keeps what failed together from being tried
// together.
func wait(attempts int, err error) time.Duration {
	d := min(firstWait<<min(attempts-1, 10), maxWait) // the shift stays far from overflowing
	switch outcomeOf(err) {
	case OutcomeRefused:
		d = rareWait
	case OutcomeDenied:
		d = maxWait
	}
	d = d/2 + rand.N(d/2+1)
	if e, ok := errors.AsType[*oci.Error](err); ok {
		d = max(d, min(e.RetryAfter, maxRetryAfter))
	}
	return d
}
