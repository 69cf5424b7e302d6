package ocitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/tidewaiter/tidewaiter/oci"
)

// maxUploadBytes bounds one blob that is pushed: it is kept in memory, and no test needs more.
const maxUploadBytes = 1 << 30

// uploads are the blobs that are being pushed.
type uploads struct {
	mu   sync.Mutex
	next int                // guarded by mu
	open map[string]*upload // guarded by mu
}

// upload is one blob that is being pushed. Chunks of one upload do not run side by side: a second one waits for the first.
type upload struct {
	mu       sync.Mutex
	repo     string
	received []byte // guarded by mu
}

func newUploads() *uploads { return &uploads{open: map[string]*upload{}} }

// begin opens an upload and returns its id. Ids are counted: nothing here is secret.
func (u *uploads) begin(repo string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.next++
	id := fmt.Sprintf("upload-%d", u.next)
	u.open[id] = &upload{repo: repo}
	return id
}

func (u *uploads) get(repo, id string) (*upload, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	up, ok := u.open[id]
	return up, ok && up.repo == repo
}

func (u *uploads) end(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.open, id)
}

// upload answers the requests below blobs/uploads/ (distribution-spec, Pushing blobs).
func (r *Registry) upload(w http.ResponseWriter, req *http.Request, c Request) error {
	if c.Method == http.MethodPost && c.Reference == "" {
		return r.beginUpload(w, req, c)
	}
	up, ok := r.uploads.get(c.Repo, c.Reference)
	if !ok {
		return errUploadUnknown
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	switch c.Method {
	case http.MethodPatch:
		if err := up.append(req); err != nil {
			return err
		}
		writeUpload(w, c.Repo, c.Reference, len(up.received), http.StatusAccepted)
		return nil
	case http.MethodPut:
		return r.finishUpload(w, req, c, up)
	case http.MethodGet, http.MethodHead:
		writeUpload(w, c.Repo, c.Reference, len(up.received), http.StatusNoContent)
		return nil
	case http.MethodDelete:
		r.uploads.end(c.Reference)
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return errUnsupported
}

// beginUpload mounts a blob from another repository, takes a whole blob, or opens an upload.
func (r *Registry) beginUpload(w http.ResponseWriter, req *http.Request, c Request) error {
	query := req.URL.Query()
	if b, ok := r.store.blob(query.Get("from"), oci.Digest(query.Get("mount"))); ok {
		r.writeBlobCreated(w, c.Repo, r.PutBlob(c.Repo, b).Digest)
		return nil
	}
	if !query.Has("digest") {
		writeUpload(w, c.Repo, r.uploads.begin(c.Repo), 0, http.StatusAccepted)
		return nil
	}
	up := &upload{}
	if err := up.append(req); err != nil {
		return err
	}
	return r.storeUpload(w, req, c, up)
}

func (r *Registry) finishUpload(w http.ResponseWriter, req *http.Request, c Request, up *upload) error {
	if err := up.append(req); err != nil {
		return err
	}
	if err := r.storeUpload(w, req, c, up); err != nil {
		return err
	}
	r.uploads.end(c.Reference)
	return nil
}

func (r *Registry) storeUpload(w http.ResponseWriter, req *http.Request, c Request, up *upload) error {
	want, err := oci.ParseDigest(req.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	if oci.FromBytes(up.received) != want {
		return &oci.Error{Code: oci.CodeDigestInvalid, Message: "the blob has another digest"}
	}
	r.writeBlobCreated(w, c.Repo, r.PutBlob(c.Repo, up.received).Digest)
	return nil
}

func (r *Registry) writeBlobCreated(w http.ResponseWriter, repo string, dgst oci.Digest) {
	r.writeDigest(w, dgst)
	w.Header().Set("Location", "/v2/"+repo+"/blobs/"+dgst.String())
	w.WriteHeader(http.StatusCreated)
}

// writeUpload tells where an upload goes on, and how much of it is here. Range counts inclusively, so no bytes are "0-0" too.
func writeUpload(w http.ResponseWriter, repo, id string, size, status int) {
	w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+id)
	w.Header().Set("Docker-Upload-UUID", id)
	w.Header().Set("Range", "0-"+strconv.Itoa(max(size-1, 0)))
	w.WriteHeader(status)
}

// append adds the body of a request, which must begin where the last one ended.
func (up *upload) append(req *http.Request) error {
	if from, _, ok := strings.Cut(req.Header.Get("Content-Range"), "-"); ok {
		if start, err := strconv.Atoi(strings.TrimPrefix(from, "bytes ")); err != nil || start != len(up.received) {
			return &oci.Error{Code: oci.CodeRangeInvalid, Message: "the chunk does not begin where the last one ended"}
		}
	}
	b, err := readBody(req, maxUploadBytes-int64(len(up.received)))
	if err != nil {
		return err
	}
	up.received = append(up.received, b...)
	return nil
}

// readBody reads a body of at most limit bytes. A body that breaks off is nobody's fault but the client's, who is gone.
func readBody(req *http.Request, limit int64) ([]byte, error) {
	b, err := oci.ReadBounded(req.Body, limit)
	switch {
	case errors.Is(err, oci.ErrTooLarge):
		return nil, &oci.Error{Code: oci.CodeSizeInvalid, Message: "the body is too large"}
	case err != nil:
		return nil, &oci.Error{Code: oci.CodeSizeInvalid, Message: "the body ended early"}
	}
	return b, nil
}

// putManifest stores a manifest whose blobs and children are here; its subject need not be (distribution-spec, Pushing Manifests).
func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, c Request) error {
	raw, err := readBody(req, oci.MaxManifestBytes)
	if err != nil {
		return err
	}
	var refers claims
	if json.Unmarshal(raw, &refers) != nil {
		return oci.ErrManifestInvalid
	}
	dgst, mediaType := oci.FromBytes(raw), oci.BaseMediaType(req.Header.Get("Content-Type"))
	switch {
	case strings.Contains(c.Reference, ":") && c.Reference != dgst.String():
		return &oci.Error{Code: oci.CodeDigestInvalid, Message: "the manifest has another digest"}
	case !strings.Contains(c.Reference, ":") && !oci.ValidTag(c.Reference):
		return oci.ErrTagInvalid
	case mediaType == "":
		return &oci.Error{Code: oci.CodeManifestInvalid, Message: "the request does not name the manifest's media type"}
	}
	if d, missing := r.store.missing(c.Repo, refers); missing {
		return &oci.Error{Code: oci.CodeManifestBlobUnknown, Message: "the manifest refers to " + d.String() + ", which is not here"}
	}
	r.PutManifest(c.Repo, c.Reference, mediaType, raw)
	if refers.Subject != nil && !r.opts.NoReferrers {
		w.Header().Set("OCI-Subject", refers.Subject.Digest.String())
	}
	r.writeDigest(w, dgst)
	w.Header().Set("Location", "/v2/"+c.Repo+"/manifests/"+dgst.String())
	w.WriteHeader(http.StatusCreated)
	return nil
}
