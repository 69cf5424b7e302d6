package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/tidewaiter/tidewaiter/oci"
)

// commitTimeout is how long a registry may take to answer once it has all of a blob. Some read it again from an object store and copy
// it there, at about 100 MB/s.
const commitTimeout = 10 * time.Minute

// HasBlob returns nil if repo's registry itself says that it has desc.
//
// Errors: as [Registries.PushBlob]; [oci.ErrBlobUnknown] only if the registry says that it does not.
func (rs *Registries) HasBlob(ctx context.Context, repo oci.Repository, desc oci.Descriptor) error {
	r, err := rs.writable(repo)
	if err != nil {
		return err
	}
	if err := checkBlob(desc); err != nil {
		return err
	}
	if err := r.target.hasBlob(ctx, repo, desc); err != nil {
		return fmt.Errorf("looking for blob %s in %s: %w", desc.Digest, repo, err)
	}
	return nil
}

// PushBlob sees to it that repo's registry has desc. open returns its bytes from the beginning each time it is called, which are sent as
// they come and must be those of desc; it is not called if the registry has them. There is no limit to how long it takes as long as bytes
// go; ctx ends it. An upload that breaks off is begun anew, after asking whether it arrived all the same.
//
// What clients may ask for (Allow, Deny) does not count here: where to push is the operator's word.
//
// Errors: DENIED for an upstream that is not configured, [oci.ErrUnauthorized], [oci.ErrRateLimited], [oci.ErrUnavailable],
// code NAME_UNKNOWN for a repository that has to be created first; those of open and of what it returns, and
// [oci.ErrMismatch] for bytes that are not those of desc.
func (rs *Registries) PushBlob(ctx context.Context, repo oci.Repository, desc oci.Descriptor, open func() (io.ReadCloser, error)) (err error) {
	r, err := rs.writable(repo)
	if err != nil {
		return err
	}
	if err := checkBlob(desc); err != nil {
		return err
	}
	defer func() { r.observe(Event{Upstream: r.Host, Kind: KindPush, Outcome: outcomeOf(err)}) }()
	for attempt := 0; ; attempt++ {
		sent, err := r.target.pushBlob(ctx, repo, desc, open)
		if err == nil {
			return nil
		}
		if !sent || attempt == maxRetries || outcomeOf(err) != OutcomeDown {
			return fmt.Errorf("pushing blob %s to %s: %w", desc.Digest, repo, err)
		}
		if err := wait(ctx, r.retryWait<<attempt); err != nil {
			return err
		}
	}
}

// writable returns the upstream repo is to be pushed to.
func (rs *Registries) writable(repo oci.Repository) (*registry, error) {
	r, ok := rs.byHost[repo.Upstream]
	if !ok {
		return nil, denied("%s cannot be pushed to: its upstream is not configured", repo)
	}
	if !oci.ValidPath(repo.Path) {
		return nil, fmt.Errorf("repository %.100q: %w", repo.Path, oci.ErrNameInvalid)
	}
	return r, nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (e *endpoint) hasBlob(ctx context.Context, repo oci.Repository, desc oci.Descriptor) error {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errTooSlow)
	defer cancel()
	resp, err := e.do(ctx, blobRequest(http.MethodHead, repo, desc, 0))
	if err != nil {
		return err
	}
	drain(resp.Body)
	if resp.ContentLength >= 0 && resp.ContentLength != desc.Size {
		return refused(e.host, "has a blob of another size", oci.ErrMismatch)
	}
	return nil
}

// pushBlob pushes desc unless it is there. sent says that it came to sending it.
func (e *endpoint) pushBlob(ctx context.Context, repo oci.Repository, desc oci.Descriptor, open func() (io.ReadCloser, error)) (sent bool, err error) {
	if err := e.hasBlob(ctx, repo, desc); !oci.IsMissing(err) {
		return false, err
	}
	at, err := e.beginUpload(ctx, repo)
	if err != nil {
		return false, err
	}
	at.RawQuery = strings.TrimPrefix(at.RawQuery+"&digest="+url.QueryEscape(desc.Digest.String()), "&") // what is there may be signed
	content, err := open()
	if err != nil {
		return false, fmt.Errorf("opening it: %w", err)
	}
	return true, e.upload(ctx, repo, desc, at, content)
}

// beginUpload returns where the registry wants a blob to be sent.
func (e *endpoint) beginUpload(ctx context.Context, repo oci.Repository) (*url.URL, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errTooSlow)
	defer cancel()
	begin := e.url(request{repo: repo.Path, path: "blobs/uploads/"})
	header, err := e.write(ctx, change{method: http.MethodPost, repo: repo.Path, at: begin, status: http.StatusAccepted})
	if err != nil {
		return nil, err
	}
	at, err := redirectTarget(begin, header.Get("Location"))
	if err != nil {
		return nil, refused(e.host, "wants a blob sent where Tidewaiter does not send it", err)
	}
	return at, nil
}

// upload sends content to where the registry wants it.
func (e *endpoint) upload(ctx context.Context, repo oci.Repository, desc oci.Descriptor, at *url.URL, content io.ReadCloser) error {
	ctx, w := watch(ctx, stallTimeout)
	defer w.cancel(nil)
	defer w.pause()
	b := &sending{verified: oci.NewVerifier(content, desc), left: desc.Size, closer: content, watch: w}
	defer func() { _ = b.Close() }() // a request that was never sent does not close it
	header, err := e.write(ctx, change{
		method: http.MethodPut, repo: repo.Path, at: at, contentType: "application/octet-stream", body: b, size: desc.Size, status: http.StatusCreated,
	})
	if own := b.failure(); own != nil {
		return fmt.Errorf("reading it: %w", own) // whatever the registry made of it
	}
	if err != nil {
		return err
	}
	return e.checkTaken(header, desc.Digest)
}

// checkTaken refuses a registry that says it took something else than it was sent.
func (e *endpoint) checkTaken(header http.Header, want oci.Digest) error {
	if said := saidDigest(header); said != "" && said != want {
		return refused(e.host, "took what was pushed for something else", oci.ErrMismatch)
	}
	return nil
}

// change is a request that changes something.
type change struct {
	method string
	repo   string
	at     *url.URL
	// body, of size bytes, is sent once if it is a stream, and again when that is safe if it is in memory. Nil for none.
	body        io.Reader
	size        int64
	contentType string
	// status is that of an answer that says that it was done.
	status int
}

// write sends c, unless the endpoint is being left alone, and returns the header of an answer that says that it was done.
//
// Errors: a *failure, or ctx's own.
func (e *endpoint) write(ctx context.Context, c change) (http.Header, error) {
	resp, err := e.unlessClosed(func() (*http.Response, error) {
		resp, err := e.sendChange(ctx, c)
		if err != nil {
			e.debug(ctx, KindPush, err)
			return nil, exchangeFailure(ctx, e.host, KindPush, e.now(), err)
		}
		if resp.StatusCode != c.status {
			e.dismiss(ctx, KindPush, resp)
			return nil, e.notTaken(resp)
		}
		return resp, nil
	})
	if err != nil {
		return nil, err
	}
	drain(resp.Body)
	return resp.Header, nil
}

// sendChange sends c with credentials if it goes to the registry, and without any to wherever else the registry wants it.
func (e *endpoint) sendChange(ctx context.Context, c change) (*http.Response, error) {
	ctx = auth.WithScopes(ctx, auth.ScopeRepository(c.repo, e.actions...))
	body := c.body
	if c.size == 0 {
		body = nil // a stream of nothing would be sent as one of unknown length
	}
	r, err := http.NewRequestWithContext(ctx, c.method, c.at.String(), body)
	if err != nil {
		return nil, err
	}
	r.ContentLength = c.size
	if c.contentType != "" {
		r.Header.Set("Content-Type", c.contentType)
	}
	if originOf(c.at) == originOf(e.origin) {
		return e.signed.Do(r)
	}
	r.Header.Set("User-Agent", e.userAgent)
	return e.plain.Do(r)
}

// notTaken returns what the status of an answer means that does not say that a change was made.
func (e *endpoint) notTaken(resp *http.Response) *failure {
	f := statusFailure(e.host, KindPush, resp.StatusCode, resp.Header, e.now())
	switch f.outcome {
	case OutcomeUnauthorized:
		f.answer.Message = fmt.Sprintf("upstream %s has no such repository, or does not let Tidewaiter push to it", e.host)
	case OutcomeRefused:
		f.answer.Message = fmt.Sprintf("upstream %s does not take what is pushed to it: status %d", e.host, resp.StatusCode)
	}
	return f
}

// sending is content on its way to a registry. It breaks the request off when nothing of it is taken for too long, and remembers what
// went wrong on our side.
type sending struct {
	verified *oci.Verifier
	left     int64 // how many bytes are still to come
	closer   io.Closer
	watch    *watched

	mu     sync.Mutex // the transport reads in a goroutine of its own, which may outlive the answer
	err    error      // guarded by mu: why the content could not be read
	closed bool       // guarded by mu
}

// Read implements io.Reader. The last bytes are only given away once the whole is known to be right, so that a registry never has all of
// something wrong.
func (s *sending) Read(p []byte) (int, error) {
	s.watch.timer.Reset(stallTimeout)
	n, err := s.verified.Read(p)
	s.left -= int64(n)
	if err == nil && s.left == 0 {
		_, err = io.ReadFull(s.verified, make([]byte, 1)) // which is where it is compared with its digest
	}
	switch {
	case errors.Is(err, io.EOF):
		s.watch.timer.Reset(commitTimeout)
		return n, io.EOF
	case err != nil:
		s.fail(err)
		return 0, err
	}
	return n, nil
}

func (s *sending) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed { // a closed file cannot be read, which is nobody's fault
		s.err = err
	}
}

// Close implements io.Closer. The transport closes what it sends, too.
func (s *sending) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.closer.Close()
}

func (s *sending) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
