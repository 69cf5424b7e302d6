package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Kind is what was asked for.
type Kind string

// The kinds of exchanges.
const (
	KindManifest  Kind = "manifest"
	KindBlob      Kind = "blob"
	KindTags      Kind = "tags"
	KindReferrers Kind = "referrers"
	KindToken     Kind = "token"
	KindPush      Kind = "push"
)

// Outcome is how an exchange ended.
type Outcome string

// The outcomes of exchanges.
const (
	OutcomeOK           Outcome = "ok"
	OutcomeMissing      Outcome = "missing"
	OutcomeUnauthorized Outcome = "unauthorized"
	OutcomeLimited      Outcome = "limited"
	OutcomeDown         Outcome = "down"      // no answer, an error of its own, or an answer nobody understands
	OutcomeCut          Outcome = "cut"       // a blob that broke off and could not be resumed
	OutcomeRefused      Outcome = "refused"   // by us: a foreign realm, a private address, content that is not its digest's
	OutcomeAbandoned    Outcome = "abandoned" // by whoever asked
)

// Event is an exchange that is over. Its labels are of closed sets.
type Event struct {
	// Upstream is the host of a configured upstream.
	Upstream string
	Kind     Kind
	Outcome  Outcome
	// Bytes of content that were read. Answers without content count 0.
	Bytes int64
}

const (
	// downRetryAfter is when a client may ask again for what an upstream could not answer.
	downRetryAfter = 10 * time.Second
	// limitRetryAfter is the same when an upstream limits our rate and does not say for how long.
	limitRetryAfter = 30 * time.Second
	// maxRetryAfter bounds what an upstream may ask for: it must not be able to shut itself out for a day by one header.
	maxRetryAfter = 15 * time.Minute
)

var (
	// errTooSlow is the cause of a context that ended because an upstream took too long.
	errTooSlow = errors.New("the upstream takes too long")
	// errLeak says that a request or what may be known of us was led where it must not go.
	errLeak = errors.New("led astray")
)

// refusal is why we did not send a request, or did not follow where one was led.
type refusal struct {
	// what is for clients, and completes "upstream docker.io …".
	what string
	// err is for the log: it may quote what the upstream wrote.
	err error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// failure is why an exchange did not give what was asked for. It wraps the answer a client may see and the reason, if there is one
// to tell. Only the answer is free of what an upstream wrote.
type failure struct {
	outcome Outcome
	answer  *oci.Error
	cause   error
}

func (f *failure) Error() string {
	if f.cause != nil {
		return f.answer.Message + ": " + f.cause.Error()
	}
	return f.answer.Message
}

// Unwrap implements the interface of errors.Is and errors.As.
func (f *failure) Unwrap() []error {
	if f.cause != nil {
		return []error{f.answer, f.cause}
	}
	return []error{f.answer}
}

// outcomeOf returns how an exchange that returned err ended.
func outcomeOf(err error) Outcome {
	if err == nil {
		return OutcomeOK
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.outcome
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return OutcomeAbandoned
	}
	return OutcomeRefused
}

// refused returns the failure of an answer that we do not accept. what completes "upstream docker.io …".
func refused(host, what string, cause error) *failure {
	return &failure{OutcomeRefused, &oci.Error{
		Code: oci.CodeUnavailable, Message: fmt.Sprintf("upstream %s %s", host, what), RetryAfter: downRetryAfter,
	}, cause}
}

func down(host string, wait time.Duration) *failure {
	return &failure{OutcomeDown, &oci.Error{
		Code: oci.CodeUnavailable, Message: fmt.Sprintf("upstream %s does not answer", host), RetryAfter: wait,
	}, nil}
}

func limited(host string, wait time.Duration) *failure {
	return &failure{OutcomeLimited, &oci.Error{
		Code: oci.CodeTooManyRequests, Message: fmt.Sprintf("upstream %s limits the rate of requests", host), RetryAfter: wait,
	}, nil}
}

func unauthorized(host string) *failure {
	return &failure{OutcomeUnauthorized, &oci.Error{
		Code:    oci.CodeUnauthorized,
		Message: fmt.Sprintf("upstream %s has no such repository, or does not let Tidewaiter read it", host),
	}, nil}
}

func missing(host string, kind Kind) *failure {
	answer := &oci.Error{Code: oci.CodeManifestUnknown, Message: fmt.Sprintf("upstream %s does not know the manifest", host)}
	switch kind {
	case KindBlob:
		answer = &oci.Error{Code: oci.CodeBlobUnknown, Message: fmt.Sprintf("upstream %s does not know the blob", host)}
	case KindTags, KindPush:
		answer = &oci.Error{Code: oci.CodeNameUnknown, Message: fmt.Sprintf("upstream %s does not know the repository", host)}
	}
	return &failure{OutcomeMissing, answer, nil}
}

// statusFailure returns what the status of an answer means that is not the content asked for.
func statusFailure(host string, kind Kind, status int, header http.Header, now time.Time) *failure {
	switch {
	case status == http.StatusNotFound:
		return missing(host, kind)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return unauthorized(host)
	case status == http.StatusTooManyRequests:
		return limited(host, retryAfter(header, now, limitRetryAfter))
	case status >= http.StatusInternalServerError:
		return down(host, retryAfter(header, now, downRetryAfter))
	case status == http.StatusRequestedRangeNotSatisfiable:
		return refused(host, "has a blob of another size", oci.ErrMismatch)
	default:
		return refused(host, fmt.Sprintf("answers with the unexpected status %d", status), nil)
	}
}

// exchangeFailure returns what it means that no answer came. A caller who gave up gets the context's error back.
func exchangeFailure(ctx context.Context, host string, kind Kind, now time.Time, err error) error {
	if r, ok := errors.AsType[*refusal](err); ok {
		return refused(host, r.what, r.err)
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f // of fetching a token, for which it was found out there
	}
	if e, ok := errors.AsType[*errcode.ErrorResponse](err); ok { // a realm's
		if f := statusFailure(host, kind, e.StatusCode, nil, now); f.outcome != OutcomeMissing {
			return f
		}
		return refused(host, "names a token realm that does not exist", nil)
	}
	switch {
	case errors.Is(context.Cause(ctx), errTooSlow):
		return down(host, downRetryAfter)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return unauthorized(host)
	default:
		return down(host, downRetryAfter)
	}
}

// retryAfter reads a Retry-After header, seconds or a date (RFC 9110, section 10.2.3), within bounds.
func retryAfter(header http.Header, now time.Time, otherwise time.Duration) time.Duration {
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return bounded(time.Duration(seconds) * time.Second)
	}
	if date, err := http.ParseTime(text); err == nil {
		return bounded(date.Sub(now))
	}
	return otherwise
}

func bounded(d time.Duration) time.Duration { return min(max(d, time.Second), maxRetryAfter) }

// withoutURL takes the URL off an error of net/http: a redirect's holds a signature that lets anybody read.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
