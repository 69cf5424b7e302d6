package ocitest

import (
	"net/http"
	"strings"
	"sync"
)

// Kind is what a request asks for.
type Kind string

// The kinds of requests. Every request has one.
const (
	KindPing      Kind = "ping"
	KindManifest  Kind = "manifest"
	KindBlob      Kind = "blob"
	KindUpload    Kind = "upload"
	KindTags      Kind = "tags"
	KindReferrers Kind = "referrers"
	KindCatalog   Kind = "catalog"
	// KindStorage is a blob fetched from the second listener after a redirect.
	KindStorage Kind = "storage"
	KindToken   Kind = "token"
	// KindOther is a path the distribution API does not have.
	KindOther Kind = "other"
)

// Request is one request the registry received.
type Request struct {
	Method string
	Kind   Kind
	// Repo is empty for the kinds ping, catalog, token and other.
	Repo string
	// Reference is the tag or digest of a manifest, the digest of a blob or of a referrers' subject, the id of an upload.
	Reference string
	// Listener is which address was asked: "registry", "storage" or "token".
	Listener string
	// Status is 0 until the answer's header is written, and for an answer that was broken off before.
	Status int
	// Range is the Range header.
	Range string
	// Query is the raw query: ns of mirrors, n and last of lists, scope of tokens.
	Query string
	// Header is what the client sent, all of it, credentials included. It must not be modified.
	Header http.Header
}

// record is the list of requests, in the order they arrived.
type record struct {
	mu       sync.Mutex
	requests []*Request // guarded by mu, the values too
}

// begin appends a request and returns it for its status to be filled in.
func (l *record) begin(listener string, r *http.Request) *Request {
	entry := Classify(r)
	entry.Listener = listener
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, &entry)
	return &entry
}

// Requests returns what has been asked so far, in order of arrival, on all listeners.
func (r *Registry) Requests() []Request {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	list := make([]Request, len(r.log.requests))
	for i, entry := range r.log.requests {
		list[i] = *entry
	}
	return list
}

// Count returns how many requests of a method and kind have arrived; an empty method or kind counts all of them.
func (r *Registry) Count(method string, kind Kind) int {
	n := 0
	for _, entry := range r.Requests() {
		if (method == "" || entry.Method == method) && (kind == "" || entry.Kind == kind) {
			n++
		}
	}
	return n
}

// ResetRequests forgets the requests recorded so far.
func (r *Registry) ResetRequests() {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.log.requests = nil
}

// recorder notes the status before the client can see it, so that whoever has read an answer finds it recorded.
type recorder struct {
	http.ResponseWriter
	log   *record
	entry *Request
	wrote bool
}

func (w *recorder) WriteHeader(status int) {
	if !w.wrote && status >= http.StatusOK {
		w.wrote = true
		w.log.mu.Lock()
		w.entry.Status = status
		w.log.mu.Unlock()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach flushing and hijacking.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Paths beside the distribution API.
const (
	tokenPath   = "/token"
	storagePath = "/storage/"
)

// Classify tells what a request asks for. Listener and Status are left empty.
func Classify(r *http.Request) Request {
	c := Request{Method: r.Method, Kind: KindOther, Range: r.Header.Get("Range"), Query: r.URL.RawQuery, Header: r.Header}
	switch path := r.URL.Path; {
	case path == tokenPath:
		c.Kind = KindToken
	case path == "/v2" || path == "/v2/":
		c.Kind = KindPing
	case path == "/v2/_catalog":
		c.Kind = KindCatalog
	case strings.HasPrefix(path, storagePath):
		if i := strings.LastIndexByte(path, '/'); i > len(storagePath) {
			c.Kind, c.Repo, c.Reference = KindStorage, path[len(storagePath):i], path[i+1:]
		}
	case strings.HasPrefix(path, "/v2/"):
		c.Kind, c.Repo, c.Reference = splitPath(strings.TrimPrefix(path, "/v2/"))
	}
	return c
}

// splitPath cuts what follows /v2/ at the last word of the API, because a repository's name may hold such words too.
func splitPath(path string) (kind Kind, repo, reference string) {
	if repo, ok := strings.CutSuffix(path, "/tags/list"); ok && repo != "" {
		return KindTags, repo, ""
	}
	for _, route := range []struct {
		word string
		kind Kind
	}{{"/blobs/uploads/", KindUpload}, {"/manifests/", KindManifest}, {"/blobs/", KindBlob}, {"/referrers/", KindReferrers}} {
		i := strings.LastIndex(path, route.word)
		if i <= 0 {
			continue
		}
		reference := path[i+len(route.word):]
		if !strings.Contains(reference, "/") && (reference != "" || route.kind == KindUpload) {
			return route.kind, path[:i], reference
		}
	}
	if repo, ok := strings.CutSuffix(path, "/blobs/uploads"); ok && repo != "" {
		return KindUpload, repo, "" // some clients leave the last slash out
	}
	return KindOther, "", ""
}
