package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/oci"
)

// servePush answers whatever changes a hosted repository, and asking how far an upload got.
func (p *Proxy) servePush(x *exchange, r *http.Request, q oci.Request) error {
	if q.Method == http.MethodDelete && q.Kind != oci.KindUpload {
		return p.serveDelete(x, r, q)
	}
	if err := p.mayUpload(r.Context(), x); err != nil {
		return err
	}
	switch q.Kind {
	case oci.KindStartUpload:
		return p.startUpload(x, r, q)
	case oci.KindUpload:
		return p.serveUpload(x, r, q)
	case oci.KindManifest:
		return p.putManifest(x, r, q)
	default:
		return &oci.Error{Code: oci.CodeUnsupported, Message: "the request is not supported"}
	}
}

// putManifest answers end-7. What it stores is nobody's but the pushers' until it is asked for and admitted.
func (p *Proxy) putManifest(x *exchange, r *http.Request, q oci.Request) error {
	content, m, done, err := p.readManifest(r)
	defer done()
	if err != nil {
		return err
	}
	if err := p.mayPut(r.Context(), x, q, m, content.Digest); err != nil {
		return err
	}
	if done, err := p.putStated(x, r, q, m, content.Digest); done {
		return err
	}
	stored, err := p.o.Hosted.Changes.Put(r.Context(), x.repo, hosted.Reference{Tag: q.Tag, Digest: q.Digest}, content, x.caller.Name)
	if err != nil {
		return changeFailure("could not store the manifest", err)
	}
	if q.Tag != "" {
		p.resolved(r.Context(), x, q.Tag, content.Digest)
	}
	if stored.Subject != "" {
		x.answer.Header().Set("OCI-Subject", stored.Subject.String())
	}
	return created(x.answer, oci.Request{Kind: oci.KindManifest, Name: q.Name, Digest: content.Digest}, content.Digest)
}

// How manifests are read, which unlike blobs have to be in memory. Nearly all are small; the others take turns, or whoever may sign could
// fill it with as many as there are connections.
const (
	smallManifestBytes = 64 << 10
	maxLargeManifests  = 8
	// largeManifestTime is how long a large one may take to arrive, or wait for its turn: 70 KiB/s.
	largeManifestTime = time.Minute
)

// readManifest reads the manifest a request carries. Whoever calls it calls done, whatever it returns, when the manifest is not needed any
// more.
//
// Errors: an oci.Error of code MANIFEST_INVALID; UNAVAILABLE when the body breaks off, comes too slowly, or cannot be taken now.
func (p *Proxy) readManifest(r *http.Request) (content oci.Content, m oci.Manifest, done func(), err error) {
	done = func() {}
	raw, err := io.ReadAll(io.LimitReader(r.Body, smallManifestBytes))
	if err == nil && len(raw) == smallManifestBytes {
		if err := p.takeTurn(r.Context()); err != nil {
			return content, m, done, err
		}
		done = func() { <-p.large }
		rest := &hurried{in: r.Body, now: p.o.Now, until: p.o.Now().Add(largeManifestTime)}
		raw, err = oci.ReadBounded(io.MultiReader(bytes.NewReader(raw), rest), oci.MaxManifestBytes)
	}
	if errors.Is(err, oci.ErrTooLarge) {
		return content, m, done, oci.ErrManifestTooLarge
	}
	if err != nil {
		return content, m, done, unavailable("the manifest did not arrive", err)
	}
	mediaType := oci.BaseMediaType(r.Header.Get("Content-Type"))
	m, err = oci.ParseManifest(mediaType, raw)
	return oci.Content{MediaType: mediaType, Digest: oci.FromBytes(raw), Raw: raw}, m, done, err
}

// takeTurn waits until one more large manifest may be read.
func (p *Proxy) takeTurn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, largeManifestTime)
	defer cancel()
	select {
	case p.large <- struct{}{}:
		return nil
	case <-ctx.Done():
		return unavailable("too many large manifests are arriving", ctx.Err())
	}
}

// hurried is a body that has to end in time.
type hurried struct {
	in    io.Reader
	now   func() time.Time
	until time.Time
}

var errTooSlow = errors.New("it takes too long")

// Read implements io.Reader.
func (h *hurried) Read(b []byte) (int, error) {
	if !h.now().Before(h.until) {
		return 0, errTooSlow
	}
	return h.in.Read(b)
}

// mayPut returns nil if the caller may store m, whose digest is d, where q says. Whoever may only sign adds to what is there, and moves no tag that
// somebody deploys.
func (p *Proxy) mayPut(ctx context.Context, x *exchange, q oci.Request, m oci.Manifest, d oci.Digest) error {
	_, isEvidence := oci.ParseEvidenceTag(q.Tag)
	attaches := isEvidence || m.Subject != nil && q.Tag == ""
	if !attaches || p.o.Rights.May(x.caller, access.Push, x.repo) {
		return p.allowOn(ctx, x, access.Push, d)
	}
	if err := p.allowOn(ctx, x, access.Sign, d); err != nil {
		return err
	}
	return p.attachable(ctx, x, q, m)
}

// attachable returns nil if what m refers to, by its subject or by the evidence tag q names, is in the repository. Otherwise whoever may
// sign could fill it with whatever refers to nothing.
func (p *Proxy) attachable(ctx context.Context, x *exchange, q oci.Request, m oci.Manifest) error {
	var about []oci.Digest
	if m.Subject != nil {
		about = append(about, m.Subject.Digest)
	}
	if named, ok := oci.ParseEvidenceTag(q.Tag); ok {
		about = append(about, named.Subject)
	}
	for _, d := range about {
		_, err := p.o.Hosted.Contents.Stat(ctx, x.repo, d)
		if oci.IsMissing(err) {
			return &oci.Error{Code: oci.CodeDenied, Message: "who may only sign adds to what is there, and the repository does not have " + d.String()}
		}
		if err != nil {
			return failure("could not look up what is signed", err)
		}
	}
	return nil
}

// serveDelete answers end-9 and end-10.
func (p *Proxy) serveDelete(x *exchange, r *http.Request, q oci.Request) error {
	if err := p.allow(r.Context(), x, access.Delete); err != nil {
		return err
	}
	var err error
	switch {
	case q.Kind == oci.KindBlob:
		err = p.o.Hosted.Blobs.DeleteBlob(r.Context(), x.repo, q.Digest)
	case q.Digest != "":
		err = p.o.Hosted.Changes.DeleteManifest(r.Context(), x.repo, q.Digest, x.caller.Name)
	default:
		err = p.o.Hosted.Changes.DeleteTag(r.Context(), x.repo, q.Tag, x.caller.Name)
	}
	if err != nil {
		return changeFailure("could not delete it", err)
	}
	x.answer.Header().Set("Content-Length", "0")
	x.answer.WriteHeader(http.StatusAccepted)
	return nil
}

// changeFailure is [failure] for what only changes fail with.
func changeFailure(doing string, err error) error {
	if e, ok := errors.AsType[*oci.Error](err); ok {
		switch e.Code {
		case oci.CodeDenied, oci.CodeDigestInvalid, oci.CodeManifestBlobUnknown, oci.CodeBlobUnknown:
			return err
		}
	}
	return failure(doing, err)
}
