package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// retryAfter is when a client that got no verdict may ask again. Most judgings that outlast the hold end soon after it.
const retryAfter = 5 * time.Second

// maxMessageBytes bounds the sentence a denial or warning consists of: a terminal's screen, and a quarter of what the specification
// gives a Warning header.
const maxMessageBytes = 1024

// maxDetailBytes bounds the reasons in an error's body. containerd parses no more than 64,000 bytes of one, and shows nothing of a
// body it cannot parse; the console has them all.
const maxDetailBytes = 32 << 10

// verdict returns the verdict on c, which may be a denial, waiting for it as long as hold lasts.
func (p *Proxy) verdict(hold context.Context, c gate.Candidate) (gate.Verdict, error) {
	v, err := p.o.Judge.Judge(hold, c)
	switch {
	case err != nil:
		return gate.Verdict{}, noVerdict(hold, err)
	case v.Allowed() && v.Candidate() != c:
		return gate.Verdict{}, fmt.Errorf("judging %s: the verdict is on %s", c, v.Candidate())
	}
	return v, nil
}

// noVerdict returns what is answered when there is no verdict: never 403 and never 200.
func noVerdict(hold context.Context, err error) error {
	step := "waiting"
	if nv, ok := errors.AsType[*gate.NoVerdict](err); ok {
		step = nv.Step
	}
	if hold.Err() != nil && errors.Is(err, hold.Err()) {
		return unavailable("judging in progress: "+step, err)
	}
	return failure("could not judge: "+step, err)
}

// failure returns what is answered when something the proxy depends on failed: what an upstream said, if it means the same to our
// client, else 503 with the name of what was being done and nothing else. Nil stays nil.
func failure(doing string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*oci.Error](err); ok {
		switch e.Code {
		case oci.CodeManifestUnknown, oci.CodeNameUnknown, oci.CodeManifestInvalid,
			oci.CodeUnauthorized, oci.CodeTooManyRequests, oci.CodeUnavailable:
			return err
		}
	}
	return unavailable(doing, err)
}

// unavailable is a 503 that says message, and to the log cause. The answer comes first, so it is found before any in cause.
func unavailable(message string, cause error) error {
	return fmt.Errorf("%w: %w", &oci.Error{Code: oci.CodeUnavailable, Message: message, RetryAfter: retryAfter}, cause)
}

// isDenial reports whether err is answered as a denial, and not merely caused by one.
func isDenial(err error) bool { return err != nil && answerTo(err).Code == oci.CodeDenied }

// denied is a refusal by a verdict. What is answered is the [oci.Error] it wraps.
type denied struct {
	candidate gate.Candidate
	answer    *oci.Error
}

func (d *denied) Error() string { return d.answer.Error() }

// Unwrap returns the answer.
func (d *denied) Unwrap() error { return d.answer }

// denial returns the answer to whoever asks for what v denies. The same verdict always gives the same answer, byte for byte: its
// digest stands for it in a tombstone. platform says which child of an index it is about; empty when it is about c itself.
func (p *Proxy) denial(c gate.Candidate, v gate.Verdict, platform string) *oci.Error {
	message := cmp.Or(v.Summary(), "denied")
	if platform != "" {
		message = platform + ": " + message
	}
	message = oneLine(message)
	if p.o.AdminURL != "" {
		message += " — " + p.o.AdminURL + "/images/" + c.String()
	}
	e := &oci.Error{Code: oci.CodeDenied, Message: message}
	if reasons := detail(v.Reasons); len(reasons) > 0 {
		e.Detail = reasons
	}
	return e
}

// detail encodes the reasons that fit, in their order.
func detail(reasons []gate.Reason) []json.RawMessage {
	var all []json.RawMessage
	size := 0
	for _, r := range reasons {
		one, err := json.Marshal(r)
		if size += len(one); err != nil || size > maxDetailBytes {
			break
		}
		all = append(all, one)
	}
	return all
}

// oneLine returns the start of s that fits a message, with a space for everything a terminal would act on: parts of it may have been
// written by whoever built the image.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) <= maxMessageBytes {
		return s
	}
	cut := maxMessageBytes
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// addWarning adds a Warning header (RFC 7234, 5.5; distribution-spec, Warnings).
func addWarning(h http.Header, code int, text string) {
	text = strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII {
			return '?'
		}
		return r
	}, oneLine(text))
	text = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)
	h.Add("Warning", strconv.Itoa(code)+` - "`+text+`"`)
}

// answerTo returns what a client is told of err: err itself if it is, or first wraps, an [oci.Error]; else that something failed
// here, without a word of what. A 503 always says when to come back.
func answerTo(err error) *oci.Error {
	e, ok := errors.AsType[*oci.Error](err)
	if !ok {
		return &oci.Error{Code: oci.CodeUnknown, Message: "internal error"}
	}
	if e.Status() == http.StatusServiceUnavailable && e.RetryAfter == 0 {
		later := *e
		later.RetryAfter = retryAfter
		return &later
	}
	return e
}

// writeError is the one place where errors are rendered.
func writeError(w http.ResponseWriter, err error) {
	e := answerTo(err)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Del("Warning") // it was about content that is not sent
	if e.Status() == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", "GET, HEAD")
	}
	oci.WriteError(w, e)
}

// writeJSON answers with v. It fails only before anything was written.
func writeJSON(w http.ResponseWriter, mediaType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body) // the client may have gone; there is nobody left to tell
	return nil
}
