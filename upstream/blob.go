package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	// stallTimeout is how long a blob may send nothing before it counts as cut. Load balancers give up after 60 s themselves.
	stallTimeout = 60 * time.Second
	// maxResumes bounds how often one blob is continued. Each must bring at least one byte, so a connection that breaks every
	// 2 GiB still gives 20.
	maxResumes = 10
)

// Blob returns the bytes of desc as repo's upstream sends them, never more than desc.Size. A transfer that breaks off is continued
// where it was. There is no limit to how long it takes as long as bytes come; ctx ends it.
//
// The digest is not checked: whoever reads does so through [oci.NewVerifier]. The reader is for one goroutine.
//
// Errors, of the call and of Read: DENIED, [oci.ErrDigestInvalid], [oci.ErrBlobUnknown], [oci.ErrUnauthorized],
// [oci.ErrRateLimited], [oci.ErrUnavailable], with [oci.ErrMismatch] for another size than desc has.
func (rs *Registries) Blob(ctx context.Context, repo oci.Repository, desc oci.Descriptor) (io.ReadCloser, error) {
	r, err := rs.locateBlob(repo, desc)
	if err != nil {
		return nil, err
	}
	b := &blob{registry: r, desc: desc}
	ctx, b.end = r.trace(ctx, KindBlob, r.Host)
	b.open = func(from int64) error { return b.openFrom(ctx, repo, from) }
	b.broken = func(cause error) error {
		r.log.DebugContext(ctx, "blob was cut", "digest", desc.Digest, "bytes", b.offset, "err", fmt.Sprintf("%.200q", cause.Error()))
		return ctx.Err()
	}
	if err := b.open(0); err != nil {
		_ = b.finish(err) // it returns err as Read will, and this is not Read
		return nil, fmt.Errorf("reading blob %s of %s: %w", desc.Digest, repo, err)
	}
	return b, nil
}

// BlobExists returns nil if repo's upstream says that it has desc, which it may be wrong about.
//
// Errors: as [Registries.Blob].
func (rs *Registries) BlobExists(ctx context.Context, repo oci.Repository, desc oci.Descriptor) error {
	r, err := rs.locateBlob(repo, desc)
	if err != nil {
		return err
	}
	err = r.ask(ctx, KindBlob, func(ctx context.Context, e *endpoint) (int64, error) {
		resp, err := e.do(ctx, blobRequest(http.MethodHead, repo, desc, 0))
		if err != nil {
			return 0, err
		}
		drain(resp.Body)
		if resp.ContentLength >= 0 && resp.ContentLength != desc.Size {
			return 0, refused(e.host, "has a blob of another size", oci.ErrMismatch)
		}
		return 0, nil
	})
	if err != nil {
		return fmt.Errorf("looking for blob %s in %s: %w", desc.Digest, repo, err)
	}
	return nil
}

func (rs *Registries) locateBlob(repo oci.Repository, desc oci.Descriptor) (*registry, error) {
	r, err := rs.readable(repo)
	if err != nil {
		return nil, err
	}
	return r, checkBlob(desc)
}

func checkBlob(desc oci.Descriptor) error {
	if _, err := oci.ParseDigest(desc.Digest.String()); err != nil {
		return err
	}
	if desc.Size < 0 {
		return fmt.Errorf("blob %s has a negative size: %w", desc.Digest, oci.ErrManifestInvalid)
	}
	return nil
}

func blobRequest(method string, repo oci.Repository, desc oci.Descriptor, from int64) request {
	return request{kind: KindBlob, method: method, repo: repo.Path, path: "blobs/" + desc.Digest.String(), accept: []string{"*/*"}, from: from}
}

// blob is a blob on its way.
type blob struct {
	registry *registry
	desc     oci.Descriptor
	// open makes body the rest of the blob from a byte on. broken is told why a body broke off, and returns an error if that is
	// because the caller is gone.
	open   func(from int64) error
	broken func(cause error) error
	// end ends the blob's span.
	end func(Outcome)

	body *watched
	// offset is how many bytes were handed out, resumedAt how many when the present body was opened.
	offset, resumedAt int64
	resumes           int
	// err is what ended it, once something has.
	err error
}

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.offset == b.desc.Size {
		return 0, b.finish(b.expectEnd())
	}
	for {
		n, err := b.body.Read(p[:min(int64(len(p)), b.desc.Size-b.offset)])
		b.offset += int64(n)
		if n > 0 || err == nil {
			return n, nil // an error along with bytes comes back by itself
		}
		if err := b.resume(err); err != nil {
			return 0, b.finish(err)
		}
	}
}

// expectEnd returns io.EOF unless more bytes come. Those that were announced are all there, so it does not matter how the
// connection ends.
func (b *blob) expectEnd() error {
	var more [1]byte
	if n, _ := io.ReadFull(b.body, more[:]); n > 0 {
		return refused(b.registry.Host, fmt.Sprintf("sends more than the %d bytes of the blob", b.desc.Size), oci.ErrMismatch)
	}
	return io.EOF
}

// resume continues the blob after cause broke it off.
func (b *blob) resume(cause error) error {
	b.body.close()
	if err := b.broken(cause); err != nil {
		return fmt.Errorf("reading blob %s: %w", b.desc.Digest, err)
	}
	if b.resumes == maxResumes || b.offset == b.resumedAt {
		f := down(b.registry.Host, downRetryAfter)
		f.outcome, f.answer.Message = OutcomeCut, fmt.Sprintf("upstream %s breaks off in the middle of a blob", b.registry.Host)
		return fmt.Errorf("reading blob %s: %d of %d bytes: %w", b.desc.Digest, b.offset, b.desc.Size, f)
	}
	b.resumes++
	b.resumedAt = b.offset
	if err := b.open(b.offset); err != nil {
		return fmt.Errorf("resuming blob %s at byte %d: %w", b.desc.Digest, b.offset, err)
	}
	return nil
}

// finish ends the blob with err, which it returns, once.
func (b *blob) finish(err error) error {
	if b.err != nil {
		return b.err
	}
	b.err = err
	outcome := OutcomeOK
	if !errors.Is(err, io.EOF) {
		outcome = outcomeOf(err)
	}
	b.end(outcome)
	b.registry.observe(Event{Upstream: b.registry.Host, Kind: KindBlob, Outcome: outcome, Bytes: b.offset})
	return err
}

// Close implements io.Closer.
func (b *blob) Close() error {
	if b.body != nil {
		b.body.close()
	}
	if b.offset < b.desc.Size {
		_ = b.finish(fmt.Errorf("the blob was closed: %w", context.Canceled)) // counts only if nothing else ended it before
	} else {
		_ = b.finish(io.EOF)
	}
	return nil
}

// openFrom makes b.body the rest of the blob, from whichever endpoint has it.
func (b *blob) openFrom(ctx context.Context, repo oci.Repository, from int64) (err error) {
	for _, e := range b.registry.endpoints {
		if b.body, err = e.openBlob(ctx, repo, b.desc, from); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return err
}

// openBlob returns desc's bytes from a byte on, having checked that the answer is about them.
func (e *endpoint) openBlob(ctx context.Context, repo oci.Repository, desc oci.Descriptor, from int64) (*watched, error) {
	ctx, w := watch(ctx, stallTimeout)
	resp, err := e.do(ctx, blobRequest(http.MethodGet, repo, desc, from))
	w.pause()
	if err != nil {
		w.cancel(nil)
		return nil, err
	}
	w.body = resp.Body
	if err := e.alignBlob(ctx, w, resp, desc, from); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// alignBlob brings an answer to the byte that was asked for.
func (e *endpoint) alignBlob(ctx context.Context, w *watched, resp *http.Response, desc oci.Descriptor, from int64) error {
	if resp.StatusCode == http.StatusPartialContent {
		if first, total, ok := parseContentRange(resp.Header.Get("Content-Range")); !ok || first != from || total >= 0 && total != desc.Size {
			return refused(e.host, "sends another part of the blob than was asked for", oci.ErrMismatch)
		}
		return nil
	}
	if resp.ContentLength >= 0 && resp.ContentLength != desc.Size {
		return refused(e.host, "sends a blob of another size", oci.ErrMismatch)
	}
	if _, err := io.CopyN(io.Discard, w, from); err != nil { // it does not know Range: what we have comes again
		e.debug(ctx, KindBlob, err)
		return exchangeFailure(ctx, e.host, KindBlob, e.now(), err)
	}
	return nil
}

// parseContentRange reads "bytes 5-9/10" (RFC 9110, section 14.4). total is -1 when it is given as "*".
func parseContentRange(header string) (first, total int64, ok bool) {
	rest, found := strings.CutPrefix(header, "bytes ")
	span, size, slash := strings.Cut(rest, "/")
	from, to, dash := strings.Cut(span, "-")
	if !found || !slash || !dash {
		return 0, 0, false
	}
	start, err1 := strconv.ParseUint(from, 10, 63)
	end, err2 := strconv.ParseUint(to, 10, 63)
	if err1 != nil || err2 != nil || end < start {
		return 0, 0, false
	}
	if size == "*" {
		return int64(start), -1, true
	}
	all, err := strconv.ParseUint(size, 10, 63)
	if err != nil || end >= all {
		return 0, 0, false
	}
	return int64(start), int64(all), true
}
