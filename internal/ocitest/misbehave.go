package ocitest

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Match says which requests an intercept is for.
type Match func(Request) bool

// Gets matches GET requests of a kind.
func Gets(kind Kind) Match {
	return func(c Request) bool { return c.Method == http.MethodGet && c.Kind == kind }
}

// Reads matches GET and HEAD requests of a kind.
func Reads(kind Kind) Match {
	return func(c Request) bool {
		return (c.Method == http.MethodGet || c.Method == http.MethodHead) && c.Kind == kind
	}
}

// Of narrows a match to one tag or digest.
func (m Match) Of(reference string) Match {
	return func(c Request) bool { return m(c) && c.Reference == reference }
}

// When returns an intercept that asks f about the requests that match, and lets the others through.
func When(match Match, f Intercept) Intercept {
	return func(w http.ResponseWriter, r *http.Request) bool { return match(Classify(r)) && f(w, r) }
}

// First is [When] for the first n requests that match; later ones are let through.
func First(n int, match Match, f Intercept) Intercept {
	var seen atomic.Int64
	return When(match, func(w http.ResponseWriter, r *http.Request) bool { return seen.Add(1) <= int64(n) && f(w, r) })
}

// Chain returns an intercept that asks each of list in turn until one answers.
func Chain(list ...Intercept) Intercept {
	return func(w http.ResponseWriter, r *http.Request) bool {
		for _, f := range list {
			if f(w, r) {
				return true
			}
		}
		return false
	}
}

// errorCodes are what registries write beside a status.
var errorCodes = map[int]oci.Code{
	http.StatusUnauthorized:       oci.CodeUnauthorized,
	http.StatusForbidden:          oci.CodeDenied,
	http.StatusNotFound:           oci.CodeNameUnknown,
	http.StatusTooManyRequests:    oci.CodeTooManyRequests,
	http.StatusServiceUnavailable: oci.CodeUnavailable,
}

// Status returns an intercept that answers with a status and an error body with that message, which may be hostile text.
// A retryAfter of 0 leaves the header out.
func Status(status int, retryAfter time.Duration, message string) Intercept {
	return func(w http.ResponseWriter, r *http.Request) bool {
		code, ok := errorCodes[status]
		if !ok {
			code = oci.CodeUnknown
		}
		if retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
		}
		return answer(w, r, status, "application/json", (&oci.Error{Code: code, Message: message}).Body())
	}
}

// ShortBody returns an intercept that announces the whole of b, sends its first sent bytes, and breaks the connection.
func ShortBody(contentType string, b []byte, sent int) Intercept {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(b[:sent])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// Body returns an intercept that answers 200 with b, whatever was asked for, and no digest header: wrong bytes, too many, none.
func Body(contentType string, b []byte) Intercept {
	return func(w http.ResponseWriter, r *http.Request) bool { return answer(w, r, http.StatusOK, contentType, b) }
}

func answer(w http.ResponseWriter, r *http.Request, status int, contentType string, body []byte) bool {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may have gone
	}
	return true
}

// Redirect returns an intercept that answers 307 to another address, which may be one no client should follow.
func Redirect(url string) Intercept {
	return func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, url, http.StatusTemporaryRedirect)
		return true
	}
}

// Stall returns an intercept that holds requests until ctx is done or their client gives up, and then lets them through.
// arrived receives a value for each request that begins to wait; nil if nobody wants to know.
func Stall(ctx context.Context, arrived chan<- struct{}) Intercept {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		if arrived != nil {
			select {
			case arrived <- struct{}{}:
			case <-r.Context().Done():
				panic(http.ErrAbortHandler)
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// MoveTagAfterHead returns an intercept that points a tag at another digest once a HEAD for it has come: that HEAD still tells
// the old digest, and whatever its client asks afterwards sees the new one.
func (r *Registry) MoveTagAfterHead(repo, tag string, next oci.Digest) Intercept {
	return func(w http.ResponseWriter, req *http.Request) bool {
		c := Classify(req)
		if c.Method != http.MethodHead || c.Kind != KindManifest || c.Repo != repo || c.Reference != tag {
			return false
		}
		m, dgst, ok := r.store.manifest(repo, tag)
		if !ok {
			return false
		}
		r.Tag(repo, tag, next)
		r.writeManifest(w, req, m, dgst)
		return true
	}
}

// EndlessPages returns an intercept for lists: each page is empty and says that there is another one.
func EndlessPages(contentType, body string) Intercept {
	var page atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) bool {
		linkNext(w, r, fmt.Sprintf("page-%d", page.Add(1)))
		return Body(contentType, []byte(body))(w, r)
	}
}
