package ocitest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// serveRegistry answers the requests of the first listener.
func (r *Registry) serveRegistry(w http.ResponseWriter, req *http.Request) {
	c := Classify(req)
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0") // docker asks for it before it believes in a registry
	if c.Kind == KindToken && r.tokens != nil && r.hosts[roleToken] == "" {
		r.tokens.ServeHTTP(w, req)
		return
	}
	if r.tokens != nil && !r.tokens.allow(w, r.TokenURL(), req, c) {
		return
	}
	if err := r.answer(w, req, c); err != nil {
		oci.WriteError(w, err)
	}
}

// serveStorage answers the second listener: blobs for whoever knows their address, as signed URLs of object storage are.
func (r *Registry) serveStorage(w http.ResponseWriter, req *http.Request) {
	c := Classify(req)
	b, ok := r.store.blob(c.Repo, oci.Digest(c.Reference))
	if c.Kind != KindStorage || !ok {
		http.NotFound(w, req)
		return
	}
	r.serveBytes(w, req, b)
}

var (
	errUnsupported     = &oci.Error{Code: oci.CodeUnsupported, Message: "this registry does not do that"}
	errNameUnknown     = &oci.Error{Code: oci.CodeNameUnknown, Message: "the repository is not known"}
	errUploadUnknown   = &oci.Error{Code: oci.CodeBlobUploadUnknown, Message: "the upload is not known"}
	errPagination      = &oci.Error{Code: oci.CodePaginationInvalid, Message: "n is not a number of entries"}
	errManifestUnknown = &oci.Error{Code: oci.CodeManifestUnknown, Message: "the manifest is not known"}
	errBlobUnknown     = &oci.Error{Code: oci.CodeBlobUnknown, Message: "the blob is not known"}
)

// answer writes the answer to a request, or returns the error to answer with.
func (r *Registry) answer(w http.ResponseWriter, req *http.Request, c Request) error {
	if c.Repo != "" && !oci.ValidPath(c.Repo) {
		return oci.ErrNameInvalid
	}
	read := c.Method == http.MethodGet || c.Method == http.MethodHead
	switch {
	case c.Kind == KindPing && read:
		w.Header().Set("Content-Length", "2")
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}"))
		return nil
	case c.Kind == KindCatalog && read:
		return r.list(w, req, "repositories", "", r.store.names())
	case c.Kind == KindTags && read:
		return r.listTags(w, req, c)
	case c.Kind == KindReferrers && read:
		return r.listReferrers(w, req, c)
	case c.Kind == KindManifest && read:
		return r.readManifest(w, req, c)
	case c.Kind == KindBlob && read:
		return r.readBlob(w, req, c)
	case c.Kind == KindManifest && c.Method == http.MethodPut:
		return r.putManifest(w, req, c)
	case c.Kind == KindManifest && c.Method == http.MethodDelete && r.store.remove(c.Repo, c.Reference):
		w.WriteHeader(http.StatusAccepted)
		return nil
	case c.Kind == KindManifest && c.Method == http.MethodDelete:
		return errManifestUnknown
	case c.Kind == KindBlob && c.Method == http.MethodDelete && r.store.removeBlob(c.Repo, oci.Digest(c.Reference)):
		w.WriteHeader(http.StatusAccepted)
		return nil
	case c.Kind == KindBlob && c.Method == http.MethodDelete:
		return errBlobUnknown
	case c.Kind == KindUpload:
		return r.upload(w, req, c)
	case c.Kind == KindOther || c.Kind == KindToken || c.Kind == KindStorage:
		return &oci.Error{Code: oci.CodeNameUnknown, Message: "there is nothing here"}
	}
	return errUnsupported
}

func (r *Registry) readManifest(w http.ResponseWriter, req *http.Request, c Request) error {
	m, dgst, ok := r.store.manifest(c.Repo, c.Reference)
	if !ok {
		return errManifestUnknown
	}
	r.writeManifest(w, req, m, dgst)
	return nil
}

func (r *Registry) writeManifest(w http.ResponseWriter, req *http.Request, m manifest, dgst oci.Digest) {
	w.Header().Set("Content-Type", m.mediaType)
	r.writeDigest(w, dgst)
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(m.raw))
}

func (r *Registry) readBlob(w http.ResponseWriter, req *http.Request, c Request) error {
	dgst, err := oci.ParseDigest(c.Reference)
	if err != nil {
		return err
	}
	b, ok := r.store.blob(c.Repo, dgst)
	if !ok {
		return errBlobUnknown
	}
	if r.opts.RedirectBlobs && c.Method == http.MethodGet {
		http.Redirect(w, req, "http://"+r.StorageHost()+storagePath+c.Repo+"/"+dgst.String(), http.StatusTemporaryRedirect)
		return nil
	}
	r.writeDigest(w, dgst)
	r.serveBytes(w, req, b)
	return nil
}

// serveBytes serves a blob, whole or in part, at the rate the options ask for.
func (r *Registry) serveBytes(w http.ResponseWriter, req *http.Request, b []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	if r.opts.BytesPerSecond > 0 {
		w = newPacer(req.Context(), w, r.opts.BytesPerSecond)
	}
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(b))
}

func (r *Registry) writeDigest(w http.ResponseWriter, dgst oci.Digest) {
	w.Header().Set("ETag", `"`+dgst.String()+`"`)
	if !r.opts.OmitDigestHeader {
		w.Header().Set("Docker-Content-Digest", dgst.String())
	}
}

func (r *Registry) listTags(w http.ResponseWriter, req *http.Request, c Request) error {
	tags, ok := r.store.tags(c.Repo)
	if !ok {
		return errNameUnknown
	}
	return r.list(w, req, "tags", c.Repo, tags)
}

// list answers one page of a sorted list: the entries after last, at most n of them (distribution-spec, Listing Tags).
func (r *Registry) list(w http.ResponseWriter, req *http.Request, key, name string, entries []string) error {
	query := req.URL.Query()
	limit, err := r.pageLimit(query)
	if err != nil {
		return err
	}
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(entries, last)
		if found {
			i++
		}
		entries = entries[i:]
	}
	if limit >= 0 && limit < len(entries) {
		entries = entries[:limit]
		if limit > 0 {
			linkNext(w, req, entries[limit-1])
		}
	}
	body := map[string]any{key: append([]string{}, entries...)}
	if name != "" {
		body["name"] = name
	}
	return writeJSON(w, "application/json", body)
}

// pageLimit returns how many entries the next page may hold, -1 for any number.
func (r *Registry) pageLimit(query url.Values) (int, error) {
	limit := -1
	if s := query.Get("n"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return 0, errPagination
		}
		limit = n
	}
	if r.opts.PageSize > 0 && (limit < 0 || limit > r.opts.PageSize) {
		limit = r.opts.PageSize
	}
	return limit, nil
}

// linkNext points at the page after last, by a reference without a host, as the specification's own example does.
func linkNext(w http.ResponseWriter, req *http.Request, last string) {
	query := req.URL.Query()
	query.Set("last", last)
	w.Header().Set("Link", "<"+req.URL.Path+"?"+query.Encode()+`>; rel="next"`)
}

func (r *Registry) listReferrers(w http.ResponseWriter, req *http.Request, c Request) error {
	if r.opts.NoReferrers {
		return &oci.Error{Code: oci.CodeNameUnknown, Message: "there is nothing here"}
	}
	dgst, err := oci.ParseDigest(c.Reference)
	if err != nil {
		return err
	}
	query := req.URL.Query()
	list := r.store.referrers(c.Repo, dgst)
	if artifactType := query.Get("artifactType"); artifactType != "" {
		list = slices.DeleteFunc(list, func(d oci.Descriptor) bool { return d.ArtifactType != artifactType })
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if i := slices.IndexFunc(list, func(d oci.Descriptor) bool { return d.Digest.String() == query.Get("last") }); i >= 0 {
		list = list[i+1:]
	}
	if size := r.opts.PageSize; size > 0 && size < len(list) {
		list = list[:size]
		linkNext(w, req, list[size-1].Digest.String())
	}
	return writeJSON(w, oci.MediaTypeIndex, map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": list})
}

func writeJSON(w http.ResponseWriter, contentType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client may have gone
	return nil
}
