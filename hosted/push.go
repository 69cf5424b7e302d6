package hosted

import (
	"context"
	"fmt"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// itself is who did what follows from what others did.
const itself = "tidewaiter"

// maxAnnotationBytes bounds the annotations of a manifest with a subject: they are held in memory and written into each list of
// referrers. Real ones have some hundred bytes.
const maxAnnotationBytes = 64 << 10

// Reference names a manifest in a repository by tag or by digest. With both, the digest must be right and the tag is moved to it.
type Reference struct {
	Tag    string
	Digest oci.Digest
}

// Stored is what was pushed.
type Stored struct {
	// Descriptor is of what was pushed, also where the tag has come to stand for more than that.
	Descriptor oci.Descriptor
	// Subject is what the manifest refers to; empty for nothing.
	Subject oci.Digest
}

// Put takes a manifest, pushed by whoever by says, under a tag or its own digest. When it returns nil a restart does not lose it.
//
// Under an evidence tag, what was pushed there before stays part of what the tag stands for.
//
// Errors, each an oci.Error: NAME_UNKNOWN when repo is not hosted here; TAG_INVALID; MANIFEST_INVALID; DIGEST_INVALID when content has
// another digest than it is pushed by; MANIFEST_BLOB_UNKNOWN when blobs or children are not in repo, listed in the detail; DENIED when
// the tag must not move, or the repository is full; UNAVAILABLE when another replica is pushing the tag.
func (r *Repositories) Put(ctx context.Context, repo oci.Repository, ref Reference, content oci.Content, by string) (Stored, error) {
	rule, err := r.rule(repo)
	if err != nil {
		return Stored{}, err
	}
	content.Digest = oci.FromBytes(content.Raw)
	if ref.Digest != "" && ref.Digest != content.Digest {
		return Stored{}, refuse(oci.CodeDigestInvalid, "the manifest has the digest %s, not %s", content.Digest, ref.Digest)
	}
	if (ref.Tag != "" || ref.Digest == "") && !oci.ValidTag(ref.Tag) {
		return Stored{}, oci.ErrTagInvalid
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		return Stored{}, err
	}
	e := pushEvent(content, m, ref, by)
	if annotationBytes(e.Descriptor) > maxAnnotationBytes {
		return Stored{}, refuse(oci.CodeManifestInvalid, "the annotations of a manifest with a subject may have %d bytes", maxAnnotationBytes)
	}
	err = r.change(ctx, repo, func(rp *repository) error {
		err := r.put(ctx, rp, rule, content, m.Manifests, e)
		if err == nil {
			r.judgeFor(rp, e)
		}
		return err
	})
	if err != nil {
		return Stored{}, fmt.Errorf("pushing %s to %s: %w", content.Digest, repo, err)
	}
	return Stored{Descriptor: content.Descriptor(), Subject: e.Subject}, nil
}

// put checks what is pushed, an index with these children, against what is there, and records it. It runs alone in its repository.
// Bytes come first: dying after them leaves some that nobody can be served, and that another push of the same takes up.
func (r *Repositories) put(ctx context.Context, rp *repository, rule Rule, content oci.Content, children []oci.Descriptor, e Event) error {
	evidence, isEvidence := oci.ParseEvidenceTag(e.Tag)
	if evidence.Lists() { // clients list what they are about to push, or what has gone
		children = nil
	}
	e.Immutable = e.Tag != "" && rule.fixes(e.Tag)
	var refusal error
	var parts []part
	tagged := false
	rp.view(func(s *state) {
		_, tagged = s.tags[e.Tag]
		if refusal = r.refusal(s, e, children); refusal == nil && isEvidence {
			parts = s.lackingIn(e)
		}
	})
	if refusal != nil {
		return refusal
	}
	if len(parts) > 0 {
		return r.putPart(ctx, rp, content, parts, e)
	}
	if e.Immutable && !tagged {
		return r.putFixed(ctx, rp, content, e)
	}
	if err := r.store(ctx, rp, content, e); err != nil {
		return err
	}
	if isEvidence {
		return r.unite(ctx, rp, e.Tag)
	}
	if e.Immutable {
		return r.checkMoved(ctx, rp, e)
	}
	return nil
}

// store stores content and records e, unless that would change nothing.
func (r *Repositories) store(ctx context.Context, rp *repository, content oci.Content, e Event) error {
	if err := r.o.Bytes.PutManifest(ctx, gate.Candidate{Repository: rp.name, Digest: content.Digest}, content); err != nil {
		return err
	}
	changes := true
	rp.view(func(s *state) {
		m, ok := s.manifests[content.Digest]
		changes = !ok || !m.admitted || e.Tag != "" && !e.Part && !m.tags[e.Tag] // one that is pending is pending for longer
	})
	if !changes {
		return nil
	}
	return r.record(ctx, rp, e)
}

// refusal returns why e cannot be pushed; nil when it can.
func (r *Repositories) refusal(s *state, e Event, children []oci.Descriptor) error {
	m, known := s.manifests[e.Descriptor.Digest]
	t, tagged := s.tags[e.Tag]
	switch {
	case e.Immutable && tagged && t.pushed != m:
		return errImmutable(e.Tag, t.pushed.desc.Digest)
	case tagged && t.displaces(e):
		return refuse(oci.CodeDenied, "the tag %s holds what others have said about a manifest, to which this cannot be added; delete it first", e.Tag)
	case s.bytes >= r.limits.bytes:
		return refuse(oci.CodeDenied, "so much has happened in the repository, %d events, that it takes no more", s.order)
	case !known && len(s.manifests) >= r.limits.manifests:
		return refuse(oci.CodeDenied, "the repository has %d manifests, and may not have more", len(s.manifests))
	case e.Tag != "" && !tagged && len(s.tags) >= r.limits.tags:
		return refuse(oci.CodeDenied, "the repository has %d tags, and may not have more", len(s.tags))
	case !known && e.Subject != "" && len(s.bySubject[e.Subject]) >= r.limits.referrers:
		return refuse(oci.CodeDenied, "%s has %d referrers, and may not have more", e.Subject, len(s.bySubject[e.Subject]))
	}
	var missing []oci.Digest
	for _, child := range children {
		if m, ok := s.manifests[child.Digest]; !ok || m.desc.Size != child.Size {
			missing = append(missing, child.Digest)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &oci.Error{
		Code:    oci.CodeManifestBlobUnknown,
		Message: fmt.Sprintf("the repository does not have the manifest %s with the announced size (%d are missing)", missing[0], len(missing)),
		Detail:  map[string][]oci.Digest{"digests": missing},
	}
}

// checkMoved sees whether a tag that must not move stands for what was just pushed: another replica may have been a moment earlier.
func (r *Repositories) checkMoved(ctx context.Context, rp *repository, e Event) error {
	if err := r.refreshNow(ctx, rp); err != nil {
		return err
	}
	var err error
	rp.view(func(s *state) {
		if t, ok := s.tags[e.Tag]; ok && t.pushed.desc.Digest != e.Descriptor.Digest {
			err = errImmutable(e.Tag, t.pushed.desc.Digest)
		}
	})
	return err
}

func errImmutable(tag string, d oci.Digest) error {
	return refuse(oci.CodeDenied, "the tag %s is immutable and stands for %s", tag, d)
}

func refuse(code oci.Code, format string, args ...any) error {
	return &oci.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// pushEvent returns the event of a push.
func pushEvent(content oci.Content, m oci.Manifest, ref Reference, by string) Event {
	e := Event{By: by, Kind: Pushed, Tag: ref.Tag, Descriptor: content.Descriptor()}
	if m.Subject != nil {
		e.Subject = m.Subject.Digest
		e.Descriptor.ArtifactType, e.Descriptor.Annotations = m.ArtifactType, m.Annotations
		if m.ArtifactType == "" && !m.IsIndex() {
			e.Descriptor.ArtifactType = m.Config.MediaType
		}
	}
	seen := map[oci.Digest]bool{}
	for _, child := range m.Manifests {
		if !seen[child.Digest] {
			seen[child.Digest] = true
			e.Children = append(e.Children, child.Digest)
		}
	}
	if evidence, ok := oci.ParseEvidenceTag(ref.Tag); ok && !evidence.Lists() && !m.IsIndex() {
		for _, layer := range m.Layers {
			e.Entries = append(e.Entries, entryName(layer))
		}
	}
	return e
}

func annotationBytes(d oci.Descriptor) int {
	n := len(d.ArtifactType)
	for k, v := range d.Annotations {
		n += len(k) + len(v)
	}
	return n
}
