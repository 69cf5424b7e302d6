package oci

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Kind says which endpoint of the distribution API a request is for (distribution-spec, Endpoints). The zero value is none.
type Kind int

// The endpoints.
const (
	KindUnknown     Kind = iota
	KindPing             // end-1: /v2/
	KindManifest         // end-3, end-7, end-9: /v2/<name>/manifests/<reference>
	KindBlob             // end-2, end-10: /v2/<name>/blobs/<digest>
	KindTags             // end-8a, end-8b: /v2/<name>/tags/list
	KindReferrers        // end-12a, end-12b: /v2/<name>/referrers/<digest>
	KindStartUpload      // end-4a, end-4b, end-11: /v2/<name>/blobs/uploads/
	KindUpload           // end-5, end-6, end-13: /v2/<name>/blobs/uploads/<session>
	KindCatalog          // /v2/_catalog, older than the specification and not part of it
)

var kindNames = [...]string{"unknown", "ping", "manifest", "blob", "tags", "referrers", "start-upload", "upload", "catalog"}

// String returns the kind's name in lower case, from a closed set.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return kindNames[KindUnknown]
	}
	return kindNames[k]
}

// kindMethods are the methods each endpoint defines. HEAD goes wherever GET does (RFC 9110, 9.1). Cancelling an upload by DELETE is
// not in the specification, but clients of Docker do it.
var kindMethods = map[Kind][]string{
	KindPing:        {http.MethodGet, http.MethodHead},
	KindManifest:    {http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete},
	KindBlob:        {http.MethodGet, http.MethodHead, http.MethodDelete},
	KindTags:        {http.MethodGet, http.MethodHead},
	KindReferrers:   {http.MethodGet, http.MethodHead},
	KindStartUpload: {http.MethodPost},
	KindUpload:      {http.MethodGet, http.MethodPatch, http.MethodPut, http.MethodDelete},
	KindCatalog:     {http.MethodGet, http.MethodHead},
}

// NoLimit is a page size the client did not state.
const NoLimit = -1

// maxPathBytes bounds a request's path: the longest name with the longest endpoint has some 530.
const maxPathBytes = 1024

// maxQueryBytes bounds a request's query. The longest known is the signed state of an upload, some 600 bytes.
const maxQueryBytes = 4096

// sessionPattern accepts what registries name an upload by: UUIDs and base64url.
var sessionPattern = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._=-]{0,255}$`)

// Request is a request of the distribution API, parsed and checked. Requests compare by ==. A field that is not named for a kind is
// the zero value in a request of that kind.
type Request struct {
	Kind Kind
	// Method is the HTTP method, one of those the endpoint defines.
	Method string
	// Name is the repository as the URL spells it: every kind but Ping and Catalog. [Request.Repository] says what it means.
	Name string
	// Tag, or else Digest, is the reference of a Manifest. Digest is also the blob, the subject of Referrers, and what an upload
	// is to have when it is complete.
	Tag    string
	Digest Digest
	// Session names an Upload.
	Session string
	// Mount is the blob a StartUpload would rather take from the repository From than receive; both may be empty.
	Mount Digest
	From  string
	// NS is the upstream host a mirror's client says it is really talking to, lower case; empty when it does not. Any kind.
	NS string
	// N is how many results Tags or Catalog may return: 0 for none, [NoLimit] when the client did not say.
	N int
	// Last is the tag, repository or digest after which the results of Tags, Catalog or Referrers begin; empty for the first.
	Last string
	// ArtifactType narrows Referrers. It is only ever compared, so it is taken as it came; empty for all.
	ArtifactType string
}

// Pushes reports whether the request is part of changing a repository, asking how far an upload got among them.
func (q Request) Pushes() bool {
	return q.Kind == KindStartUpload || q.Kind == KindUpload || q.Method != http.MethodGet && q.Method != http.MethodHead
}

// ParseRequest reads a request. It works on the path as it was sent and accepts one spelling only: an escape, an empty or dotted
// component or a slash too many is refused rather than cleaned away, so that nobody in front of us can have understood another
// path. A target that is a whole URL is taken for its path, as servers must (RFC 9112, 3.2.2), but not with a user in it or of another
// scheme than HTTP's. A parameter that occurs twice is refused for the same reason as an escape; parameters it does not know are ignored.
//
// Errors: an [*Error] of code NAME_INVALID, TAG_INVALID, MANIFEST_UNKNOWN for a manifest asked for by what is no tag, DIGEST_INVALID,
// BLOB_UPLOAD_UNKNOWN, PAGINATION_NUMBER_INVALID, of UNSUPPORTED when the endpoint does not define the method, or of NAME_UNKNOWN when
// there is no such endpoint.
func ParseRequest(method string, u *url.URL) (Request, error) {
	if u.User != nil || u.Host != "" && u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https" {
		return Request{}, refuse(CodeNameInvalid, "the target of the request is not one of HTTP, or names a user")
	}
	q, err := parsePath(u.EscapedPath())
	if errors.Is(err, ErrTagInvalid) && (method == http.MethodGet || method == http.MethodHead) {
		err = refuse(CodeManifestUnknown, "%v, so it is not there", err) // what cannot be asked for is not there (conformance suite 1.1)
	}
	if err != nil {
		return Request{}, err
	}
	if !slices.Contains(kindMethods[q.Kind], method) {
		return Request{}, refuse(CodeUnsupported, "the method is not one of %s", strings.Join(kindMethods[q.Kind], ", "))
	}
	q.Method = method
	if err := q.parseQuery(u.RawQuery); err != nil {
		return Request{}, err
	}
	return q, nil
}

func refuse(code Code, format string, args ...any) error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func noEndpoint() error {
	return refuse(CodeNameUnknown, "the distribution API has no such endpoint")
}

func parsePath(path string) (Request, error) {
	rest, under := strings.CutPrefix(path, "/v2/")
	switch {
	case path == "/v2" || path == "/v2/":
		return Request{Kind: KindPing}, nil
	case !under:
		return Request{}, noEndpoint()
	case rest == "_catalog":
		return Request{Kind: KindCatalog}, nil
	case len(path) > maxPathBytes:
		return Request{}, refuse(CodeNameInvalid, "the path is longer than %d bytes", maxPathBytes)
	case strings.Contains(rest, "%"):
		return Request{}, refuse(CodeNameInvalid, "the path must not be escaped")
	}
	q, err := parseEndpoint(rest)
	if err == nil && !ValidPath(q.Name) {
		return Request{}, refuse(CodeNameInvalid, "the repository name %.100q is malformed", q.Name)
	}
	return q, err
}

// parseEndpoint tells the endpoint by the last components, because a repository's name may hold any of the words before them. The
// name it returns is not checked yet.
func parseEndpoint(rest string) (Request, error) {
	if name, ok := strings.CutSuffix(rest, "/blobs/uploads/"); ok {
		return Request{Kind: KindStartUpload, Name: name}, nil
	}
	front, last := cutLast(rest)
	name, word := cutLast(front)
	q := Request{Name: name}
	var err error
	switch word {
	case "manifests":
		q.Kind = KindManifest
		if strings.Contains(last, ":") {
			q.Digest, err = ParseDigest(last)
		} else if q.Tag = last; !ValidTag(last) {
			err = refuse(CodeTagInvalid, "the tag %.140q is malformed", last)
		}
	case "blobs":
		q.Kind = KindBlob
		q.Digest, err = ParseDigest(last)
	case "referrers":
		q.Kind = KindReferrers
		q.Digest, err = ParseDigest(last)
	case "tags":
		q.Kind = KindTags
		if last != "list" {
			err = noEndpoint()
		}
	case "uploads":
		name, ok := strings.CutSuffix(name, "/blobs")
		if !ok {
			return Request{}, noEndpoint()
		}
		q.Kind, q.Name, q.Session = KindUpload, name, last
		if !sessionPattern.MatchString(last) {
			err = refuse(CodeBlobUploadUnknown, "the upload is not known")
		}
	default:
		err = noEndpoint()
	}
	return q, err
}

func cutLast(path string) (front, last string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

func (q *Request) parseQuery(raw string) error {
	if len(raw) > maxQueryBytes {
		return refuse(CodeNameInvalid, "the query is longer than %d bytes", maxQueryBytes)
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return refuse(CodeNameInvalid, "the query is malformed")
	}
	for key, all := range values {
		if len(all) > 1 && slices.Contains(queryKeys, key) {
			return refuse(CodeNameInvalid, "the parameter %s occurs twice", key)
		}
	}
	if values.Has("ns") {
		if q.NS = strings.ToLower(values.Get("ns")); !ValidHost(q.NS) {
			return refuse(CodeNameInvalid, "the parameter ns is not the host of a registry")
		}
	}
	switch q.Kind {
	case KindTags, KindCatalog:
		return q.parsePage(values)
	case KindReferrers:
		q.ArtifactType = values.Get("artifactType")
		if q.Last = values.Get("last"); q.Last != "" {
			_, err = ParseDigest(q.Last)
		}
		return err
	case KindStartUpload:
		return q.parseStart(values)
	case KindUpload:
		if q.Method == http.MethodPut { // end-6: only here is the digest asked for
			q.Digest, err = ParseDigest(values.Get("digest"))
			return err
		}
	}
	return nil
}

// queryKeys are the parameters that mean something to us.
var queryKeys = []string{"ns", "n", "last", "artifactType", "digest", "mount", "from"}

func (q *Request) parsePage(values url.Values) error {
	q.N = NoLimit
	if values.Has("n") {
		n, err := strconv.ParseUint(values.Get("n"), 10, 31)
		if err != nil {
			return refuse(CodePaginationInvalid, "the parameter n is not a number of results")
		}
		q.N = int(n)
	}
	q.Last = values.Get("last")
	switch {
	case q.Last == "":
	case q.Kind == KindTags && !ValidTag(q.Last):
		return refuse(CodeTagInvalid, "the parameter last is not a tag")
	case q.Kind == KindCatalog && !ValidPath(q.Last):
		return refuse(CodeNameInvalid, "the parameter last is not a repository name")
	}
	return nil
}

// parseStart reads the parameters of end-4b and end-11.
func (q *Request) parseStart(values url.Values) (err error) {
	if values.Has("digest") {
		if q.Digest, err = ParseDigest(values.Get("digest")); err != nil {
			return err
		}
	}
	if !values.Has("mount") {
		return nil
	}
	if q.Mount, err = ParseDigest(values.Get("mount")); err != nil {
		return err
	}
	if q.From = values.Get("from"); q.From != "" && !ValidPath(q.From) {
		return refuse(CodeNameInvalid, "the parameter from is not a repository name")
	}
	return nil
}

// URLPath returns the path that [ParseRequest] reads as q. It holds nothing that would have to be escaped.
func (q Request) URLPath() string {
	switch q.Kind {
	case KindPing:
		return "/v2/"
	case KindCatalog:
		return "/v2/_catalog"
	case KindManifest:
		if q.Digest != "" {
			return "/v2/" + q.Name + "/manifests/" + q.Digest.String()
		}
		return "/v2/" + q.Name + "/manifests/" + q.Tag
	case KindBlob:
		return "/v2/" + q.Name + "/blobs/" + q.Digest.String()
	case KindTags:
		return "/v2/" + q.Name + "/tags/list"
	case KindReferrers:
		return "/v2/" + q.Name + "/referrers/" + q.Digest.String()
	case KindStartUpload:
		return "/v2/" + q.Name + "/blobs/uploads/"
	case KindUpload:
		return "/v2/" + q.Name + "/blobs/uploads/" + q.Session
	default:
		return ""
	}
}

// RawQuery returns the query that goes with [Request.URLPath], without a question mark; empty when there is nothing to say.
func (q Request) RawQuery() string {
	values := url.Values{}
	set := func(key, value string) {
		if value != "" {
			values.Set(key, value)
		}
	}
	set("ns", q.NS)
	set("last", q.Last)
	set("artifactType", q.ArtifactType)
	set("mount", q.Mount.String())
	set("from", q.From)
	if q.Kind == KindStartUpload || q.Kind == KindUpload {
		set("digest", q.Digest.String())
	}
	if (q.Kind == KindTags || q.Kind == KindCatalog) && q.N != NoLimit {
		set("n", strconv.Itoa(q.N))
	}
	return values.Encode()
}

// Repository returns the repository q is about. With ns the name is a path at that upstream, whatever it looks like; else a host
// at its front decides; else it is hosted here if hosted says so, and belongs to defaultUpstream if not. A nil hosted hosts
// nothing.
//
// Errors: [ErrNameInvalid], or an [*Error] of code NAME_UNKNOWN when there is no default upstream.
func (q Request) Repository(defaultUpstream string, hosted func(path string) bool) (Repository, error) {
	if q.NS != "" {
		return NewRepository(q.NS, q.Name)
	}
	if upstream, path := SplitUpstream(q.Name); upstream != "" {
		return NewRepository(upstream, path)
	}
	if hosted != nil && hosted(q.Name) {
		return NewRepository("", q.Name)
	}
	if defaultUpstream == "" {
		return Repository{}, refuse(CodeNameUnknown, "the name says no upstream, and there is none by default")
	}
	return NewRepository(defaultUpstream, q.Name)
}
