package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Anywhere is where an upload goes on when the client does not say: at its end.
const Anywhere = -1

// mountHold is how long the verdict that a mount needs is waited for. A client that gets none uploads the blob instead.
const mountHold = 5 * time.Second

// Uploads receives blobs of hosted repositories. Implementations are safe for concurrent use; an upload is written to by one request
// at a time.
type Uploads interface {
	// Start begins an upload and returns what names it.
	Start(ctx context.Context, repo oci.Repository) (session string, err error)
	// Append adds body at offset at, or [Anywhere], and returns where the upload ends. What has arrived stays, also when body fails.
	// Errors: an oci.Error: BLOB_UPLOAD_UNKNOWN; RANGE_INVALID when it does not end at at, and then end is where it does; SIZE_INVALID
	// when it is too large; UNAVAILABLE while another request writes to it.
	Append(ctx context.Context, repo oci.Repository, session string, at int64, body io.Reader) (end int64, err error)
	// Finish is Append, and ends the upload as the blob d. Errors: as Append; DIGEST_INVALID when it is another one: nothing is kept.
	Finish(ctx context.Context, repo oci.Repository, session string, at int64, body io.Reader, d oci.Digest) (size int64, err error)
}

// Sessions knows uploads that have begun. Implementations are safe for concurrent use.
type Sessions interface {
	// Progress returns where an upload ends. Errors: an oci.Error of code BLOB_UPLOAD_UNKNOWN; UNAVAILABLE while it is written to.
	Progress(ctx context.Context, repo oci.Repository, session string) (end int64, err error)
	// Cancel gives up an upload. Errors: an oci.Error of code BLOB_UPLOAD_UNKNOWN.
	Cancel(ctx context.Context, repo oci.Repository, session string) error
}

// mayUpload returns nil if the caller may upload blobs: whoever pushes, or signs. Its parts are not worth a record, the manifest that
// makes something of them is; a refusal is.
func (p *Proxy) mayUpload(ctx context.Context, x *exchange) error {
	if p.o.Rights.May(x.caller, access.Push, x.repo) || p.o.Rights.May(x.caller, access.Sign, x.repo) {
		return nil
	}
	return p.allow(ctx, x, access.Push)
}

// startUpload answers end-4a, end-4b and end-11.
func (p *Proxy) startUpload(x *exchange, r *http.Request, q oci.Request) error {
	if q.Mount != "" {
		mounted, err := p.mount(r.Context(), x, q)
		if err != nil {
			return err
		}
		if mounted {
			return created(x.answer, oci.Request{Kind: oci.KindBlob, Name: q.Name, Digest: q.Mount}, q.Mount)
		}
	}
	session, err := p.o.Hosted.Uploads.Start(r.Context(), x.repo)
	if err != nil {
		return failure("could not begin the upload", err)
	}
	upload := oci.Request{Kind: oci.KindUpload, Name: q.Name, Session: session}
	if q.Digest == "" || q.Mount != "" {
		return p.accepted(x.answer, upload, 0)
	}
	upload.Digest = q.Digest
	err = p.finishUpload(x, r, upload, Anywhere)
	if err != nil { // the client was never told its name; one that cannot be removed now, or was already, is purged later
		_ = p.o.Hosted.Sessions.Cancel(context.WithoutCancel(r.Context()), x.repo, session)
	}
	return err
}

// mount gives the repository a blob of another one, if the caller may pull there and it is among what is admitted there. If not, for
// whatever reason, the client is to upload it: that says nothing about the other repository.
func (p *Proxy) mount(ctx context.Context, x *exchange, q oci.Request) (bool, error) {
	if q.From == "" {
		return false, nil
	}
	from, err := (oci.Request{Name: q.From}).Repository(p.o.DefaultUpstream, p.hosts)
	if err != nil || !p.o.Rights.May(x.caller, access.Pull, from) || from.Upstream != "" && p.o.Resolver.Allowed(from) != nil {
		return false, nil // there is nothing to mount, as far as the caller is concerned
	}
	hold, cancel := context.WithTimeout(ctx, mountHold)
	defer cancel()
	err = p.holder(ctx, hold, from, q.Mount, func(c gate.Candidate) error {
		return p.o.Hosted.Blobs.Mount(ctx, x.repo, c, q.Mount)
	})
	if err != nil {
		x.answer.err = fmt.Errorf("mounting %s from %s: %w", q.Mount, from, err) // for the log
		return false, ctx.Err()
	}
	return true, nil
}

// serveUpload answers end-5, end-6 and end-13, and the cancelling of an upload.
func (p *Proxy) serveUpload(x *exchange, r *http.Request, q oci.Request) error {
	switch r.Method {
	case http.MethodDelete:
		if err := p.o.Hosted.Sessions.Cancel(r.Context(), x.repo, q.Session); err != nil {
			return uploadFailure("could not give up the upload", err)
		}
		x.answer.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodGet:
		end, err := p.o.Hosted.Sessions.Progress(r.Context(), x.repo, q.Session)
		if err != nil {
			return uploadFailure("could not look up the upload", err)
		}
		x.answer.describeUpload(q, end)
		x.answer.WriteHeader(http.StatusNoContent)
		return nil
	}
	at, err := chunkStart(r)
	if err != nil {
		return err
	}
	if r.Method == http.MethodPut {
		return p.finishUpload(x, r, q, at)
	}
	end, err := p.o.Hosted.Uploads.Append(r.Context(), x.repo, q.Session, at, r.Body)
	if err != nil {
		return p.uploadRefused(x.answer, q, end, err)
	}
	return p.accepted(x.answer, q, end)
}

// finishUpload ends an upload with what the request carries.
func (p *Proxy) finishUpload(x *exchange, r *http.Request, q oci.Request, at int64) error {
	if end, err := p.o.Hosted.Uploads.Finish(r.Context(), x.repo, q.Session, at, r.Body, q.Digest); err != nil {
		return p.uploadRefused(x.answer, q, end, err)
	}
	return created(x.answer, oci.Request{Kind: oci.KindBlob, Name: q.Name, Digest: q.Digest}, q.Digest)
}

// uploadRefused returns what is answered when a part of an upload was not taken. One that is out of order learns where to go on.
func (p *Proxy) uploadRefused(w *answer, q oci.Request, end int64, err error) error {
	if e, ok := errors.AsType[*oci.Error](err); ok && e.Code == oci.CodeRangeInvalid {
		w.describeUpload(q, end)
	}
	return uploadFailure("could not take the upload", err)
}

// uploadFailure is [failure] for what only uploads fail with.
func uploadFailure(doing string, err error) error {
	if e, ok := errors.AsType[*oci.Error](err); ok {
		switch e.Code {
		case oci.CodeBlobUploadUnknown, oci.CodeBlobUploadInvalid, oci.CodeRangeInvalid, oci.CodeSizeInvalid, oci.CodeDigestInvalid:
			return err
		}
	}
	return failure(doing, err)
}

// accepted answers with where an upload goes on.
func (p *Proxy) accepted(w *answer, upload oci.Request, end int64) error {
	w.describeUpload(upload, end)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// describeUpload says where an upload goes on and what of it there is. Of nothing, "0-0" is said: clients know no other way.
func (a *answer) describeUpload(upload oci.Request, end int64) {
	upload.Digest, upload.NS = "", ""
	a.Header().Set("Location", upload.URLPath())
	a.Header().Set("Range", "0-"+strconv.FormatInt(max(end-1, 0), 10))
	a.Header().Set("Docker-Upload-Uuid", upload.Session)
}

// created answers that content can now be found at the place of found.
func created(w *answer, found oci.Request, d oci.Digest) error {
	h := w.Header()
	h.Set("Location", found.URLPath())
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// chunkStart returns the offset at which the request's part of an upload begins, by its Content-Range, which here has neither a unit
// nor a total (distribution-spec, Pushing a blob in chunks); [Anywhere] when it does not say.
func chunkStart(r *http.Request) (int64, error) {
	values := r.Header.Values("Content-Range")
	if len(values) == 0 {
		return Anywhere, nil
	}
	first, last, ok := strings.Cut(values[0], "-")
	start, errStart := strconv.ParseUint(first, 10, 62)
	end, errEnd := strconv.ParseUint(last, 10, 62)
	if len(values) > 1 || !ok || errStart != nil || errEnd != nil || end < start {
		return 0, &oci.Error{Code: oci.CodeBlobUploadInvalid, Message: "the Content-Range is not the first and last offset of the chunk"}
	}
	if length := int64(end - start + 1); r.ContentLength >= 0 && r.ContentLength != length {
		return 0, &oci.Error{Code: oci.CodeSizeInvalid, Message: fmt.Sprintf("the Content-Range has %d bytes, the chunk %d", length, r.ContentLength)}
	}
	return int64(start), nil
}
