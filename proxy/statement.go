package proxy

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Statements are our own words about manifests, which nobody judges. They are served like anything else that refers to a manifest, to
// those who may pull it, and only while the verdict they state is in force. Implementations are safe for concurrent use.
type Statements interface {
	// Current returns the statement of v, which is in force. ok is false when nothing is stated of v. What it returns has v's manifest for
	// its subject. Errors mean that there should be one and cannot be had.
	Current(ctx context.Context, v gate.Verdict) (made oci.Artifact, ok bool, err error)
	// Subject returns the manifest of repo that a manifest or blob of ours with digest d is about; superseded ones are ours too. With anew
	// set what other replicas stated until now counts.
	Subject(ctx context.Context, repo oci.Repository, d oci.Digest, anew bool) (subject oci.Digest, ok bool, err error)
}

// standing returns the verdict in force on a manifest, as far as it can be had soon. What was deleted from a hosted repository has none.
func (p *Proxy) standing(ctx context.Context, c gate.Candidate) (gate.Verdict, error) {
	if c.Repository.Upstream == "" {
		if _, err := p.o.Hosted.Contents.Stat(ctx, c.Repository, c.Digest); err != nil {
			return gate.Verdict{}, failure("could not look up the manifest", err)
		}
	}
	hold, cancel := context.WithTimeout(ctx, evidenceHold)
	defer cancel()
	return p.verdict(hold, c)
}

// isOurs reports whether a manifest or blob of repo is of a statement of ours, superseded or not.
func (p *Proxy) isOurs(ctx context.Context, repo oci.Repository, d oci.Digest, anew bool) (bool, error) {
	if p.o.Statements == nil || d == "" {
		return false, nil
	}
	_, ours, err := p.o.Statements.Subject(ctx, repo, d, anew)
	return ours, failure("could not look up what was stated", err)
}

// withOurs returns the referrers of a manifest with our statement about it, if there is one, in front. Whoever else lists a statement of
// ours, an upstream or somebody who pushed it, lists nothing. As long as there is no verdict nothing is stated.
func (p *Proxy) withOurs(ctx context.Context, c gate.Candidate, artifactType string, listed []oci.Descriptor) ([]oci.Descriptor, error) {
	if p.o.Statements == nil {
		return listed, nil
	}
	var all []oci.Descriptor
	if artifactType == "" || artifactType == oci.MediaTypeSigstoreBundle {
		if v, err := p.standing(ctx, c); err == nil {
			made, ok, err := p.o.Statements.Current(ctx, v)
			if err != nil {
				return nil, unavailable("could not state the verdict", err)
			}
			if ok {
				all = append(all, referrer(made.Manifest))
			}
		}
	}
	for _, d := range listed {
		ours, err := p.isOurs(ctx, c.Repository, d.Digest, false)
		if err != nil {
			return nil, err
		}
		if !ours {
			all = append(all, d)
		}
	}
	return all, nil
}

// referrer returns the descriptor under which a manifest is listed (distribution-spec, Listing Referrers).
func referrer(content oci.Content) oci.Descriptor {
	desc := content.Descriptor()
	if m, err := oci.ParseManifest(content.MediaType, content.Raw); err == nil {
		desc.ArtifactType, desc.Annotations = m.ArtifactType, m.Annotations
	}
	return desc
}

// stated returns the statement of ours that a manifest or blob with digest d belongs to.
//
// Errors: oci.ErrNotFound when it is not ours, or does not count any more; why it could not be told whether it does.
func (p *Proxy) stated(ctx context.Context, repo oci.Repository, d oci.Digest, anew bool) (oci.Artifact, error) {
	if p.o.Statements == nil || d == "" {
		return oci.Artifact{}, oci.ErrNotFound
	}
	subject, ours, err := p.o.Statements.Subject(ctx, repo, d, anew)
	if err != nil {
		return oci.Artifact{}, unavailable("could not look up what was stated", err)
	}
	if !ours {
		return oci.Artifact{}, oci.ErrNotFound
	}
	v, err := p.standing(ctx, gate.Candidate{Repository: repo, Digest: subject})
	if err != nil {
		return oci.Artifact{}, err
	}
	made, ok, err := p.o.Statements.Current(ctx, v)
	if err != nil {
		return oci.Artifact{}, unavailable("could not state the verdict", err)
	}
	if !ok {
		return oci.Artifact{}, oci.ErrNotFound
	}
	return made, nil
}

// serveStated answers end-3 with a statement of ours.
//
// Errors: as stated. Nothing has been written then.
func (p *Proxy) serveStated(x *exchange, r *http.Request, d oci.Digest, anew bool) error {
	made, err := p.stated(r.Context(), x.repo, d, anew)
	if err != nil {
		return err
	}
	if made.Manifest.Digest != d {
		return oci.ErrNotFound
	}
	return writeManifest(x.answer, r, manifest{desc: made.Manifest.Descriptor(), raw: made.Manifest.Raw})
}

// openStated opens a blob of a statement of ours. Those who push are not told by HEAD that there is one: it is how their clients find out
// what they need not upload, and what they push must not rest on something that is taken back.
//
// Errors: oci.ErrBlobUnknown, and as stated.
func (p *Proxy) openStated(x *exchange, r *http.Request, d oci.Digest) (io.ReadCloser, int64, error) {
	if r.Method == http.MethodHead && p.seesPending(x) {
		return nil, 0, oci.ErrBlobUnknown
	}
	if d == oci.FromBytes([]byte(oci.EmptyJSON)) { // the config of every statement, whatever has become of any one's subject
		stated, err := p.isOurs(r.Context(), x.repo, d, true)
		if err != nil || !stated {
			return nil, 0, cmp.Or(err, error(oci.ErrBlobUnknown))
		}
		return readSeekCloser{strings.NewReader(oci.EmptyJSON)}, int64(len(oci.EmptyJSON)), nil
	}
	made, err := p.stated(r.Context(), x.repo, d, true)
	if err != nil && !oci.IsMissing(err) {
		return nil, 0, err
	}
	for _, blob := range made.Blobs {
		if oci.FromBytes(blob) == d {
			return readSeekCloser{bytes.NewReader(blob)}, int64(len(blob)), nil
		}
	}
	return nil, 0, oci.ErrBlobUnknown
}

// readSeekCloser is content in memory.
type readSeekCloser struct{ io.ReadSeeker }

// Close implements io.Closer.
func (readSeekCloser) Close() error { return nil }

// putStated answers end-7 for a manifest that is a statement of ours already: there is nothing to store, and it changes nothing. done is
// false when it is none.
func (p *Proxy) putStated(x *exchange, r *http.Request, q oci.Request, m oci.Manifest, d oci.Digest) (done bool, err error) {
	ours, err := p.isOurs(r.Context(), x.repo, d, false)
	if err != nil || !ours {
		return err != nil, err
	}
	if q.Tag != "" {
		return true, &oci.Error{Code: oci.CodeDenied, Message: "this is what this registry states itself, and takes no tag"}
	}
	if m.Subject != nil {
		x.answer.Header().Set("OCI-Subject", m.Subject.Digest.String())
	}
	return true, created(x.answer, oci.Request{Kind: oci.KindManifest, Name: q.Name, Digest: d}, d)
}
