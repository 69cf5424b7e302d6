package oci

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// Code is an error code of the distribution specification (distribution-spec, Error Codes).
type Code string

// The codes Tidewaiter answers with.
const (
	CodeBlobUnknown         Code = "BLOB_UNKNOWN"
	CodeBlobUploadInvalid   Code = "BLOB_UPLOAD_INVALID"
	CodeBlobUploadUnknown   Code = "BLOB_UPLOAD_UNKNOWN"
	CodeDigestInvalid       Code = "DIGEST_INVALID"
	CodeManifestBlobUnknown Code = "MANIFEST_BLOB_UNKNOWN"
	CodeManifestInvalid     Code = "MANIFEST_INVALID"
	CodeManifestUnknown     Code = "MANIFEST_UNKNOWN"
	CodeNameInvalid         Code = "NAME_INVALID"
	CodeNameUnknown         Code = "NAME_UNKNOWN"
	CodeRangeInvalid        Code = "RANGE_INVALID"
	CodeSizeInvalid         Code = "SIZE_INVALID"
	CodeTagInvalid          Code = "TAG_INVALID"
	CodeUnauthorized        Code = "UNAUTHORIZED"
	CodeDenied              Code = "DENIED"
	CodeUnsupported         Code = "UNSUPPORTED"
	CodeTooManyRequests     Code = "TOOMANYREQUESTS"
	CodeUnavailable         Code = "UNAVAILABLE"
	CodePaginationInvalid   Code = "PAGINATION_NUMBER_INVALID"
	CodeUnknown             Code = "UNKNOWN"
)

// statuses is the one table of codes and HTTP statuses. A rate-limited upstream is a 503 to our client: a 429 of ours would say
// that the client asked too often, and podman retries it twenty times. A client that did gets one all the same, by [Error.HTTPStatus].
var statuses = map[Code]int{
	CodeBlobUnknown:         http.StatusNotFound,
	CodeBlobUploadInvalid:   http.StatusBadRequest,
	CodeBlobUploadUnknown:   http.StatusNotFound,
	CodeDigestInvalid:       http.StatusBadRequest,
	CodeManifestBlobUnknown: http.StatusNotFound,
	CodeManifestInvalid:     http.StatusBadRequest,
	CodeManifestUnknown:     http.StatusNotFound,
	CodeNameInvalid:         http.StatusBadRequest,
	CodeNameUnknown:         http.StatusNotFound,
	CodeRangeInvalid:        http.StatusRequestedRangeNotSatisfiable,
	CodeSizeInvalid:         http.StatusBadRequest,
	CodeTagInvalid:          http.StatusBadRequest,
	CodeUnauthorized:        http.StatusUnauthorized,
	CodeDenied:              http.StatusForbidden,
	CodeUnsupported:         http.StatusMethodNotAllowed,
	CodeTooManyRequests:     http.StatusServiceUnavailable,
	CodeUnavailable:         http.StatusServiceUnavailable,
	CodePaginationInvalid:   http.StatusBadRequest,
	CodeUnknown:             http.StatusInternalServerError,
}

// Error is an answer a client may see. Everything in it is composed by us: what an upstream wrote is never repeated to a client.
type Error struct {
	Code    Code
	Message string
	// Detail is encoded as JSON beside the message; nil for none.
	Detail any
	// HTTPStatus is the status of the answer where it is not the code's own; 0 where it is.
	HTTPStatus int
	// RetryAfter asks the client to come back later; 0 for no such header.
	RetryAfter time.Duration
}

// The errors of this package and of whoever reads a registry. They compare by code, so an answer that carries a message of its
// own still matches: errors.Is(err, ErrNotFound).
var (
	ErrDigestInvalid   = &Error{Code: CodeDigestInvalid, Message: "the digest is malformed or of an unsupported algorithm"}
	ErrManifestInvalid = &Error{Code: CodeManifestInvalid, Message: "the manifest is malformed"}
	// ErrManifestTooLarge is an [ErrManifestInvalid] (distribution-spec, Pushing Manifests: 413).
	ErrManifestTooLarge = &Error{
		Code: CodeManifestInvalid, HTTPStatus: http.StatusRequestEntityTooLarge,
		Message: "the manifest is larger than " + strconv.Itoa(MaxManifestBytes) + " bytes",
	}
	ErrNameInvalid  = &Error{Code: CodeNameInvalid, Message: "the repository name is malformed"}
	ErrTagInvalid   = &Error{Code: CodeTagInvalid, Message: "the tag is malformed"}
	ErrNotFound     = &Error{Code: CodeManifestUnknown, Message: "the manifest is not known"}
	ErrBlobUnknown  = &Error{Code: CodeBlobUnknown, Message: "the blob is not known"}
	ErrUnauthorized = &Error{Code: CodeUnauthorized, Message: "the upstream refuses the credentials it was given"}
	ErrRateLimited  = &Error{Code: CodeTooManyRequests, Message: "the upstream limits the rate of requests"}
	ErrUnavailable  = &Error{Code: CodeUnavailable, Message: "the upstream does not answer"}
)

func (e *Error) Error() string { return e.Message }

// Is reports whether target is an Error of the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Status returns the HTTP status of e.
func (e *Error) Status() int {
	if e.HTTPStatus != 0 {
		return e.HTTPStatus
	}
	if status, ok := statuses[e.Code]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// IsMissing reports whether err says that a manifest, blob or repository does not exist, as opposed to not being reachable.
func IsMissing(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status() == http.StatusNotFound
}

// Body returns the error as the distribution specification writes it.
func (e *Error) Body() []byte {
	type wire struct {
		Code    Code   `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	body, err := json.Marshal(map[string][]wire{"errors": {{e.Code, e.Message, e.Detail}}})
	if err != nil { // a Detail that JSON cannot hold is a slip of ours; the code and message still stand
		body, _ = json.Marshal(map[string][]wire{"errors": {{e.Code, e.Message, nil}}})
	}
	return append(body, '\n')
}

// WriteError answers with err: as itself if it is or wraps an [Error], else as 500 UNKNOWN without a word of what went wrong,
// which stays in the log. It returns the status it wrote.
func WriteError(w http.ResponseWriter, err error) int {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Code: CodeUnknown, Message: "internal error"}
	}
	body := e.Body()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Del("Docker-Content-Digest")
	h.Del("ETag")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(e.Status())
	_, _ = w.Write(body) // the client may have gone; there is nobody left to tell
	return e.Status()
}
