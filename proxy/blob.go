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
func (p *Proxy) serveBlob(w *answer, r *http.Request, q oci.Request, repo oci.Repository) error {
	content, size, err := p.openBlob(r.Context(), repo, q.Digest)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }() // it was only read
	seeker, ok := content.(io.ReadSeeker)
	if !ok {
		seeker = &forward{r: content, size: size}
	}
	return writeContent(w, r, oci.Descriptor{MediaType: blobMediaType, Digest: q.Digest, Size: size}, seeker)
}

// openBlob opens a blob by possession: because a manifest of repo refers to it, and the verdict on that manifest allows it now.
// Nothing else in this package opens a blob.
func (p *Proxy) openBlob(ctx context.Context, repo oci.Repository, d oci.Digest) (io.ReadCloser, int64, error) {
	if err := p.allowed(repo); err != nil {
		return nil, 0, err
	}
	holders, err := p.o.History.Holders(ctx, repo, d)
	if err != nil {
		return nil, 0, unavailable("could not look up which images hold the blob", err)
	}
	hold, cancel := context.WithTimeout(ctx, p.o.Hold)
	defer cancel()
	var untold error // why a holder that could have allowed it did not tell
	for _, c := range holders {
		if c.Repository != repo {
			continue
		}
		content, size, err := p.openHeld(ctx, hold, c, d)
		switch {
		case err == nil:
			return content, size, nil
		case !isDenial(err) && !oci.IsMissing(err) && untold == nil:
			untold = err
		}
	}
	if untold != nil {
		return nil, 0, untold
	}
	return nil, 0, oci.ErrBlobUnknown
}

// openHeld opens a blob of c under a verdict that allows c.
func (p *Proxy) openHeld(ctx, hold context.Context, c gate.Candidate, d oci.Digest) (io.ReadCloser, int64, error) {
	v, err := p.verdict(hold, c)
	if err != nil {
		return nil, 0, err
	}
	if !v.Allowed() {
		return nil, 0, p.denial(c, v, "")
	}
	content, size, err := p.o.Released.Blob(ctx, c, d)
	if err != nil && !oci.IsMissing(err) {
		err = failure("could not read the blob", err)
	}
	return content, size, err
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
