package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// blobMediaType is what every blob is called: what a manifest calls it is that manifest's claim.
const blobMediaType = "application/octet-stream"

// serveBlob answers end-2.
func (p *Proxy) serveBlob(x *exchange, r *http.Request, q oci.Request) error {
	open := p.openBlob
	if p.seesPending(x) {
		open = p.openPending
	}
	content, size, err := open(r.Context(), x, q.Digest)
	if oci.IsMissing(err) && p.o.Statements != nil {
		content, size, err = p.openStated(x, r, q.Digest)
	}
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }() // it was only read
	seeker, ok := content.(io.ReadSeeker)
	if !ok {
		seeker = &forward{r: content, size: size}
	}
	return writeContent(x.answer, r, oci.Descriptor{MediaType: blobMediaType, Digest: q.Digest, Size: size}, seeker)
}

// openBlob opens a blob by possession: because a manifest of the repository refers to it, and the verdict on that manifest allows it
// now. Nothing else in this package opens a blob for those who only pull.
func (p *Proxy) openBlob(ctx context.Context, x *exchange, d oci.Digest) (content io.ReadCloser, size int64, err error) {
	hold, cancel := context.WithTimeout(ctx, p.o.Hold)
	defer cancel()
	err = p.holder(ctx, hold, x.repo, d, func(c gate.Candidate) (err error) {
		content, size, err = p.o.Released.Blob(ctx, c, d)
		if err != nil && !oci.IsMissing(err) {
			err = failure("could not read the blob", err)
		}
		return err
	})
	return content, size, err
}

// holder calls use with a manifest of repo that refers to the blob, under a verdict that allows it, and with the next one when use
// fails.
//
// Errors: oci.ErrBlobUnknown when there is none; why one that could have allowed it did not tell.
func (p *Proxy) holder(ctx, hold context.Context, repo oci.Repository, d oci.Digest, use func(gate.Candidate) error) error {
	holders, err := p.o.History.Holders(ctx, repo, d)
	if err != nil {
		return unavailable("could not look up which images hold the blob", err)
	}
	var untold error
	for _, c := range holders {
		if c.Repository != repo {
			continue
		}
		err := p.admittedHolder(ctx, hold, c)
		if err == nil {
			err = use(c)
		}
		switch {
		case err == nil:
			return nil
		case !isDenial(err) && !oci.IsMissing(err) && untold == nil:
			untold = err
		}
	}
	if untold != nil {
		return untold
	}
	return oci.ErrBlobUnknown
}

// admittedHolder returns nil if there is a verdict that allows c. What was deleted from a hosted repository holds nothing any more.
func (p *Proxy) admittedHolder(ctx, hold context.Context, c gate.Candidate) error {
	if c.Repository.Upstream == "" {
		if _, err := p.o.Hosted.Contents.Stat(ctx, c.Repository, c.Digest); err != nil {
			return failure("could not look up the manifest", err)
		}
	}
	v, err := p.verdict(hold, c)
	if err == nil && !v.Allowed() {
		return p.denial(c, v, "")
	}
	return err
}

// describe sets the headers that say what content is. It may be kept but not reused without asking: it may be withdrawn.
func describe(h http.Header, desc oci.Descriptor) {
	h.Set("Content-Type", desc.MediaType)
	h.Set("Docker-Content-Digest", desc.Digest.String())
	h.Set("ETag", `"`+desc.Digest.String()+`"`)
	h.Set("Cache-Control", "private, no-cache")
}

// writeContent renders content, whole or the one part the client asks for. Content that turns out shorter than announced, or cannot
// be read to its end, breaks the connection off: the client must not take what it has for all there is.
//
// Errors: an oci.Error of code RANGE_INVALID. Nothing has been written when it returns one.
func writeContent(w *answer, r *http.Request, desc oci.Descriptor, content io.ReadSeeker) error {
	end, err := content.Seek(0, io.SeekEnd)
	if err != nil || end != desc.Size {
		return unavailable("could not read the content", fmt.Errorf("%s: %d of %d bytes: %w", desc.Digest, end, desc.Size, errors.Join(errSize, err)))
	}
	describe(w.Header(), desc)
	// A range is defined for GET alone, and one in another unit must be ignored (RFC 9110, 14.2). Several in one answer would be
	// copied through a pipe, and no client of registries asks for them.
	asked := r.Header.Get("Range")
	if asked != "" && (r.Method != http.MethodGet || !strings.HasPrefix(asked, "bytes=") || strings.Contains(asked, ",")) {
		r = r.Clone(r.Context())
		r.Header.Del("Range")
	}
	w.guarded = true
	http.ServeContent(w, r, "", time.Time{}, content)
	w.guarded = false
	switch refused := w.refused; {
	case refused == http.StatusRequestedRangeNotSatisfiable:
		return &oci.Error{Code: oci.CodeRangeInvalid, Message: fmt.Sprintf("the content has %d bytes, and the range is not among them", desc.Size)}
	case refused != 0:
		return unavailable("could not read the content", errSize)
	case r.Method == http.MethodGet && w.cut():
		panic(http.ErrAbortHandler)
	}
	return nil
}

var errSize = errors.New("content is not of its size")

// forward lets content that can only be read on be served in part: http.ServeContent seeks to the end for the size, back to the
// start, and on to where the part begins.
type forward struct {
	r        io.Reader
	size     int64
	at, want int64 // how far r has been read, and where the next Read begins
}

// Seek implements io.Seeker. What lies behind cannot be read again, which Read will say.
func (f *forward) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.want
	case io.SeekEnd:
		offset += f.size
	}
	f.want = offset
	return offset, nil
}

// Read implements io.Reader.
func (f *forward) Read(b []byte) (int, error) {
	if f.want < f.at {
		return 0, errors.New("content can only be read forward")
	}
	skipped, err := io.CopyN(io.Discard, f.r, f.want-f.at)
	f.at += skipped
	if err != nil {
		return 0, err
	}
	n, err := f.r.Read(b)
	f.at += int64(n)
	f.want = f.at
	return n, err
}
