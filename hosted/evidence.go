package hosted

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Clients read what is under an evidence tag, add to it, and write it back, with no means to notice that somebody else did so meanwhile. So
// whatever was pushed under such a tag stays part of what it stands for, until the tag is deleted: the entries of a list of referrers are
// the manifests of an index, those of other evidence the layers of an image.

// evidenceTags returns the evidence tags of d.
func evidenceTags(d oci.Digest) []string {
	tags := []string{oci.EvidenceTag{Subject: d}.String()}
	for _, suffix := range oci.EvidenceSuffixes() {
		tags = append(tags, oci.EvidenceTag{Subject: d, Suffix: suffix}.String())
	}
	return tags
}

// entriesUnder returns what m holds, and whether it is of the form the tag e is made for; others are not united with anything, and take
// nothing's place.
func entriesUnder(e oci.EvidenceTag, m *manifest) (entries []oci.Digest, unites bool) {
	if e.Lists() {
		return m.children, oci.Manifest{MediaType: m.desc.MediaType}.IsIndex()
	}
	return m.entries, m.entries != nil
}

// displaces reports whether what e pushes would take the place of what was pushed under the evidence tag t, and not hold it.
func (t *tag) displaces(e Event) bool {
	_, unites := entriesUnder(t.evidence, pushedBy(e))
	return t.isEvidence && len(t.union) > 0 && !unites
}

// pushedBy returns the manifest e pushes, as far as what it holds goes.
func pushedBy(e Event) *manifest {
	return &manifest{desc: e.Descriptor, children: e.Children, entries: e.Entries}
}

// entryName names a layer by its digest and annotations: the digest alone is that of the payload, which all signers share.
func entryName(layer oci.Descriptor) oci.Digest {
	annotations, _ := json.Marshal(layer.Annotations) // sorted; strings always marshal
	return oci.FromBytes(fmt.Appendf(nil, "%s %s", layer.Digest, annotations))
}

// maxUnions bounds how often a tag is united anew because another replica pushed to it meanwhile.
const maxUnions = 8

// errMoving answers a push to a tag that others push to faster than what they push can be united. What was pushed is recorded.
var errMoving = &oci.Error{
	Code: oci.CodeUnavailable, Message: "others push to this tag at the same time: push again", RetryAfter: retryMoving,
}

// retryMoving is when a push that met too many others may be tried again.
const retryMoving = maxAge

// putPart takes a manifest, pushed under an evidence tag, that lacks parts of what the tag stands for: the tag moves only to what holds
// both. Where there is no room for both, nothing is recorded.
func (r *Repositories) putPart(ctx context.Context, rp *repository, content oci.Content, parts []part, e Event) error {
	if _, err := r.union(ctx, rp.name, content, parts); err != nil {
		return err
	}
	e.Part = true
	if err := r.store(ctx, rp, content, e); err != nil {
		return err
	}
	err := r.storeUnion(ctx, rp, e.Tag, content, parts)
	if isBlobUnknown(err) { // of what was there: who deleted that keeps nobody from signing
		e.Part = false
		err = r.store(ctx, rp, content, e)
	}
	if err != nil {
		return err
	}
	return r.unite(ctx, rp, e.Tag)
}

// unite pushes under an evidence tag, as long as what it stands for lacks something, a manifest that holds all of it. It looks at the
// journal only after its own last event is there: of two replicas that push at the same time, the later one sees both.
func (r *Repositories) unite(ctx context.Context, rp *repository, name string) error {
	for range maxUnions {
		if err := r.refreshNow(ctx, rp); err != nil {
			return err
		}
		var last oci.Digest
		var parts []part
		rp.view(func(s *state) {
			if t, ok := s.tags[name]; ok {
				last, parts = t.pushed.desc.Digest, s.lacking(t)
			}
		})
		if len(parts) == 0 {
			return nil
		}
		content, err := r.o.Bytes.Manifest(ctx, gate.Candidate{Repository: rp.name, Digest: last})
		if err == nil {
			err = r.storeUnion(ctx, rp, name, content, parts)
		}
		if isBlobUnknown(err) {
			r.o.Log.WarnContext(ctx, "a tag is not united with what was pushed under it before, whose blobs were deleted",
				"repo", rp.name.String(), "tag", name, "digest", last.String())
			return nil
		}
		if err != nil {
			return fmt.Errorf("uniting what %s stands for: %w", name, err)
		}
	}
	return errMoving
}

func isBlobUnknown(err error) bool {
	e, ok := errors.AsType[*oci.Error](err)
	return ok && e.Code == oci.CodeManifestBlobUnknown
}

// heal unites an evidence tag that lacks something because a process died, or met an error, before it could. What cannot be united
// stays as it is, and is not tried again while the tag stands for it.
func (r *Repositories) heal(ctx context.Context, repo oci.Repository, name string) {
	err := r.change(ctx, repo, func(rp *repository) error {
		var tried bool
		rp.view(func(s *state) {
			if t, ok := s.tags[name]; ok {
				tried = rp.tried[name] == t.pushed.desc.Digest
			}
		})
		if tried {
			return nil
		}
		err := r.unite(ctx, rp, name)
		rp.mu.Lock()
		defer rp.mu.Unlock()
		if t, ok := rp.state.tags[name]; ok && (err == nil || errors.Is(err, errUnionFull)) {
			rp.tried[name] = t.pushed.desc.Digest
		}
		return err
	})
	if err != nil {
		r.o.Log.WarnContext(ctx, "uniting what a tag stands for", "repo", repo.String(), "tag", name, "err", err)
	}
}

// storeUnion pushes under a tag what content and parts hold together.
func (r *Repositories) storeUnion(ctx context.Context, rp *repository, name string, content oci.Content, parts []part) error {
	united, err := r.union(ctx, rp.name, content, parts)
	if err != nil {
		return err
	}
	if united.config != nil {
		if err := r.o.Bytes.PutBlob(ctx, rp.name, united.config); err != nil {
			return err
		}
	}
	return r.store(ctx, rp, united.Content, pushEvent(united.Content, united.manifest, Reference{Tag: name}, itself))
}

// union is a manifest that was made here.
type union struct {
	oci.Content
	manifest oci.Manifest
	// config is the config of an image, nil when it is one that is here.
	config []byte
}

// union returns content with what parts hold besides. Replicas that know the same make the same. Errors: errUnionFull.
func (r *Repositories) union(ctx context.Context, repo oci.Repository, content oci.Content, parts []part) (union, error) {
	base, err := r.document(ctx, repo, content)
	if err != nil {
		return union{}, err
	}
	for _, p := range parts {
		read, err := r.o.Bytes.Manifest(ctx, gate.Candidate{Repository: repo, Digest: p.digest})
		if errors.Is(err, oci.ErrNotFound) { // its bytes were dropped: there is nothing left to keep
			r.o.Log.WarnContext(ctx, "a manifest that was pushed under an evidence tag is not there", "repo", repo.String(), "digest", p.digest.String())
			continue
		}
		if err != nil {
			return union{}, err
		}
		other, err := r.document(ctx, repo, read)
		if err != nil {
			return union{}, err
		}
		base.add(other, p.entries)
	}
	raw, config, err := base.marshal()
	if err != nil {
		return union{}, err
	}
	m, err := oci.ParseManifest(content.MediaType, raw)
	if err != nil { // it has become too large: everything else about it was fine before
		return union{}, errUnionFull
	}
	made := oci.Content{MediaType: content.MediaType, Digest: oci.FromBytes(raw), Raw: raw}
	return union{Content: made, manifest: m, config: config}, nil
}

// errUnionFull answers a push that an evidence tag has no room for. Nothing is lost: it is refused before it is recorded, but for
// replicas that fill the tag at the same moment.
var errUnionFull = &oci.Error{Code: oci.CodeDenied, Message: "the tag has no room for more; delete it, or what it lists, to begin anew"}

// maxConfigBytes bounds the config of an image of signatures: some hundred bytes for each.
const maxConfigBytes = 1 << 20

// document reads a manifest for uniting. Of an image, the config is read too, if it is here and small enough to make sense.
func (r *Repositories) document(ctx context.Context, repo oci.Repository, content oci.Content) (*document, error) {
	d, err := parseDocument(content)
	if err != nil || d.manifest.IsIndex() {
		return d, err
	}
	d.config, err = r.o.Bytes.ReadBlob(ctx, repo, d.manifest.Config, maxConfigBytes)
	if errors.Is(err, oci.ErrBlobUnknown) || errors.Is(err, oci.ErrTooLarge) || errors.Is(err, oci.ErrMismatch) {
		return d, nil
	}
	return d, err
}
