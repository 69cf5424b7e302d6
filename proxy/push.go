package proxy

import (
	"context"
	"errors"
	"net/http"
	"regexp"

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
	content, m, err := readManifest(r)
	if err != nil {
		return err
	}
	if err := p.mayPut(r.Context(), x, q, m); err != nil {
		return err
	}
	stored, err := p.o.Hosted.Changes.Put(r.Context(), x.repo, hosted.Reference{Tag: q.Tag, Digest: q.Digest}, content, x.caller.Name)
	if err != nil {
		return changeFailure("could not store the manifest", err)
	}
	if stored.Subject != "" {
		x.answer.Header().Set("OCI-Subject", stored.Subject.String())
	}
	return created(x.answer, oci.Request{Kind: oci.KindManifest, Name: q.Name, Digest: content.Digest}, content.Digest)
}

// readManifest reads the manifest a request carries.
//
// Errors: an oci.Error of code MANIFEST_INVALID; UNAVAILABLE when the body breaks off.
func readManifest(r *http.Request) (oci.Content, oci.Manifest, error) {
	raw, err := oci.ReadBounded(r.Body, oci.MaxManifestBytes)
	if errors.Is(err, oci.ErrTooLarge) {
		return oci.Content{}, oci.Manifest{}, oci.ErrManifestTooLarge
	}
	if err != nil {
		return oci.Content{}, oci.Manifest{}, unavailable("the manifest did not arrive", err)
	}
	mediaType := oci.BaseMediaType(r.Header.Get("Content-Type"))
	m, err := oci.ParseManifest(mediaType, raw)
	return oci.Content{MediaType: mediaType, Digest: oci.FromBytes(raw), Raw: raw}, m, err
}

// evidenceTag matches the tags under which clients keep what belongs to a manifest (distribution-spec, Referrers Tag Schema; cosign
// appends a suffix).
var evidenceTag = regexp.MustCompile(`^sha256-([0-9a-f]{64})(?:\.(?:sig|att|sbom))?$`)

// mayPut returns nil if the caller may store m where q says. Whoever may only sign adds to what is there, and moves no tag that
// somebody deploys.
func (p *Proxy) mayPut(ctx context.Context, x *exchange, q oci.Request, m oci.Manifest) error {
	attaches := m.Subject != nil && q.Tag == "" || evidenceTag.MatchString(q.Tag)
	if !attaches || p.o.Rights.May(x.caller, access.Push, x.repo) {
		return p.allow(ctx, x, access.Push)
	}
	if err := p.allow(ctx, x, access.Sign); err != nil {
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
	if named := evidenceTag.FindStringSubmatch(q.Tag); named != nil {
		about = append(about, oci.Digest("sha256:"+named[1]))
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
