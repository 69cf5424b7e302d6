package proxy

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Hosted is everything about the repositories that are pushed to here. Every field is needed.
type Hosted struct {
	// Hosts reports whether the repository at path is hosted here.
	Hosts    func(path string) bool
	Contents Contents
	Catalog  Catalog
	Changes  Changes
	Pushed   Pushed
	Uploads  Uploads
	Sessions Sessions
	Blobs    HostedBlobs
	// Lists reports whether the catalog may name a repository to a caller.
	Lists func(caller access.Caller, repo oci.Repository) bool
}

// Contents knows what hosted repositories hold, admitted or not. Implementations are safe for concurrent use.
type Contents interface {
	// Resolve returns what a tag stands for. Errors: oci.ErrNotFound.
	Resolve(ctx context.Context, repo oci.Repository, tag string) (hosted.Tag, error)
	// Stat returns the descriptor of a manifest repo has. Errors: oci.ErrNotFound.
	Stat(ctx context.Context, repo oci.Repository, d oci.Digest) (oci.Descriptor, error)
	// Tags returns at most n tags that follow last, sorted, and whether others follow; those of pending manifests only if pending.
	// Errors: an oci.Error of code NAME_UNKNOWN when there is no such repository.
	Tags(ctx context.Context, repo oci.Repository, n int, last string, pending bool) (tags []string, more bool, err error)
}

// Catalog lists the repositories that were pushed to.
type Catalog interface {
	// Repositories returns all of them, sorted by name.
	Repositories(ctx context.Context) ([]oci.Repository, error)
}

// Changes takes manifests and removes them. Implementations are safe for concurrent use. What they return success for, a restart does
// not lose.
type Changes interface {
	// Put stores a manifest under a tag or its digest. Nobody but those who push there can have it before it is admitted.
	// Errors: an oci.Error: MANIFEST_INVALID, DIGEST_INVALID, MANIFEST_BLOB_UNKNOWN, DENIED for a tag that must not move.
	Put(ctx context.Context, repo oci.Repository, reference hosted.Reference, content oci.Content, by string) (hosted.Stored, error)
	// DeleteTag removes a tag and DeleteManifest a manifest with all its tags. Errors: oci.ErrNotFound, DENIED as Put.
	DeleteTag(ctx context.Context, repo oci.Repository, tag, by string) error
	DeleteManifest(ctx context.Context, repo oci.Repository, d oci.Digest, by string) error
}

// Pushed opens what was pushed to hosted repositories, admitted or not. It has nothing of any upstream.
type Pushed interface {
	// Manifest returns a manifest. Errors: oci.ErrNotFound.
	Manifest(ctx context.Context, c gate.Candidate) (oci.Content, error)
	// Blob opens a blob as [Released] does. Errors: oci.ErrBlobUnknown.
	Blob(ctx context.Context, repo oci.Repository, d oci.Digest) (content io.ReadCloser, size int64, err error)
}

// HostedBlobs gives blobs to hosted repositories and takes them away.
type HostedBlobs interface {
	// Mount gives repo a blob that the manifest of from refers to. Errors: oci.ErrBlobUnknown.
	Mount(ctx context.Context, repo oci.Repository, from gate.Candidate, d oci.Digest) error
	// DeleteBlob takes a blob away from repo. Errors: oci.ErrBlobUnknown.
	DeleteBlob(ctx context.Context, repo oci.Repository, d oci.Digest) error
}

// hosts reports whether the repository at path is hosted here.
func (p *Proxy) hosts(path string) bool { return p.o.Hosted != nil && p.o.Hosted.Hosts(path) }

// isHosted reports whether the exchange is about a hosted repository.
func (x *exchange) isHosted() bool { return x.repo.Upstream == "" }

// resolveHosted returns the manifest of a hosted repository that q asks for: to those who push there what was pushed last, to others
// what was admitted last, if anything was. They never learn of a manifest that is not there, whatever was decided about it once.
func (p *Proxy) resolveHosted(ctx context.Context, x *exchange, q oci.Request) (oci.Descriptor, error) {
	if q.Digest != "" {
		desc, err := p.o.Hosted.Contents.Stat(ctx, x.repo, q.Digest)
		return desc, failure("could not look up the manifest", err)
	}
	tag, err := p.o.Hosted.Contents.Resolve(ctx, x.repo, q.Tag)
	if err != nil {
		return oci.Descriptor{}, failure("could not resolve the tag", err)
	}
	p.resolved(ctx, x, q.Tag, tag.Pushed.Digest)
	if tag.Served.Digest == "" || p.seesPending(x) {
		return tag.Pushed, nil
	}
	if tag.Served.Digest == tag.Pushed.Digest {
		return tag.Served, nil
	}
	pushed := gate.Candidate{Repository: x.repo, Digest: tag.Pushed.Digest}
	if _, ok := oci.ParseEvidenceTag(q.Tag); ok && p.admittedSoon(ctx, pushed) {
		return tag.Pushed, nil
	}
	p.o.Judge.Start(pushed) // whoever comes later may get it
	return tag.Served, nil
}

// evidenceHold is how long the verdict on pushed signatures is waited for by whoever asks for those of an image: it takes milliseconds.
const evidenceHold = 5 * time.Second

// admittedSoon reports whether c is allowed by a verdict that does not take long. Signatures are looked for right after they were pushed,
// and the ones before them are no answer to that.
func (p *Proxy) admittedSoon(ctx context.Context, c gate.Candidate) bool {
	hold, cancel := context.WithTimeout(ctx, evidenceHold)
	defer cancel()
	v, err := p.verdict(hold, c)
	return err == nil && v.Allowed()
}

// servePending answers end-3 to those who push to the repository, whom no verdict keeps from what is theirs.
func (p *Proxy) servePending(x *exchange, r *http.Request, q oci.Request) error {
	desc, err := p.resolveHosted(r.Context(), x, q)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		return p.sendManifest(x, r, manifest{desc: desc})
	}
	content, err := p.o.Hosted.Pushed.Manifest(r.Context(), gate.Candidate{Repository: x.repo, Digest: desc.Digest})
	if err != nil {
		return failure("could not read the manifest", err)
	}
	return p.sendManifest(x, r, manifest{desc: content.Descriptor(), raw: content.Raw})
}

// openPending opens a blob for those who push to the repository.
func (p *Proxy) openPending(ctx context.Context, x *exchange, d oci.Digest) (io.ReadCloser, int64, error) {
	content, size, err := p.o.Hosted.Pushed.Blob(ctx, x.repo, d)
	if err != nil && !oci.IsMissing(err) {
		err = failure("could not read the blob", err)
	}
	return content, size, err
}
