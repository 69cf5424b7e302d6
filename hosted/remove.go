package hosted

import (
	"context"
	"fmt"
	"slices"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// DeleteTag takes a tag away; the manifest it stood for stays. Errors: oci.ErrNotFound; DENIED when the tag must stay.
func (r *Repositories) DeleteTag(ctx context.Context, repo oci.Repository, name, by string) error {
	rule, err := r.rule(repo)
	if err != nil {
		return err
	}
	return r.change(ctx, repo, func(rp *repository) error {
		var pushed oci.Digest
		rp.view(func(s *state) {
			if t, ok := s.tags[name]; ok {
				pushed = t.pushed.desc.Digest
			}
		})
		if pushed == "" {
			return oci.ErrNotFound
		}
		if rule.fixes(name) {
			return errImmutable(name, pushed)
		}
		e := Event{By: by, Kind: TagDeleted, Tag: name}
		if err := r.record(ctx, rp, e); err != nil {
			return fmt.Errorf("deleting the tag %s of %s: %w", name, repo, err)
		}
		r.judgeFor(rp, e)
		return nil
	})
}

// DeleteManifest removes a manifest, the tags that stand for it, and its bytes as far as nothing else holds them. A tag under which
// another one is still served stands for that again. It may be pushed again. Errors: oci.ErrNotFound; DENIED when one of the tags must stay.
func (r *Repositories) DeleteManifest(ctx context.Context, repo oci.Repository, d oci.Digest, by string) error {
	rule, err := r.rule(repo)
	if err != nil {
		return err
	}
	return r.change(ctx, repo, func(rp *repository) error {
		var tags []string
		found, gone := false, false
		rp.view(func(s *state) {
			var m *manifest
			if m, found = s.manifests[d]; found {
				tags = s.tagsOf(m)
			}
			gone = s.gone[d]
		})
		for _, name := range tags {
			if rule.fixes(name) {
				return errImmutable(name, d)
			}
		}
		switch {
		case found:
			return r.remove(ctx, rp, d, by)
		case gone: // its bytes may still be there, if that failed
			if err := r.removeBytes(ctx, rp, d); err != nil {
				return err
			}
		}
		return oci.ErrNotFound
	})
}

// BlobDeleted notes that a blob was taken out of repo. It may have been part of a signature, so that whatever hangs on manifests there
// counts as changed.
func (r *Repositories) BlobDeleted(ctx context.Context, repo oci.Repository, d oci.Digest) error {
	return r.change(ctx, repo, func(rp *repository) error {
		e := Event{By: itself, Kind: BlobDeleted, Descriptor: oci.Descriptor{Digest: d}}
		if err := r.record(ctx, rp, e); err != nil {
			return fmt.Errorf("noting that %s was deleted from %s: %w", d, repo, err)
		}
		return nil
	})
}

// remove records that a manifest is gone, then removes its bytes: dying between leaves some that nobody can be served.
func (r *Repositories) remove(ctx context.Context, rp *repository, d oci.Digest, by string) error {
	e := Event{By: by, Kind: ManifestDeleted, Descriptor: oci.Descriptor{Digest: d}}
	rp.view(func(s *state) {
		if m, ok := s.manifests[d]; ok {
			e.Subject = m.subject
		}
	})
	if err := r.record(ctx, rp, e); err != nil {
		return fmt.Errorf("deleting %s from %s: %w", d, rp.name, err)
	}
	r.judgeFor(rp, e)
	return r.removeBytes(ctx, rp, d)
}

// removeBytes removes the bytes of a manifest that is gone, unless another replica has taken it again.
func (r *Repositories) removeBytes(ctx context.Context, rp *repository, d oci.Digest) error {
	if err := r.refreshNow(ctx, rp); err != nil {
		return err
	}
	here := false
	rp.view(func(s *state) { _, here = s.manifests[d] })
	if here {
		return nil
	}
	if err := r.o.Bytes.RemoveManifest(ctx, gate.Candidate{Repository: rp.name, Digest: d}); err != nil {
		return fmt.Errorf("removing the bytes of %s from %s: %w", d, rp.name, err)
	}
	return nil
}

// tagsOf returns the tags that stand for m, sorted.
func (s *state) tagsOf(m *manifest) []string {
	var tags []string
	for name := range m.tags {
		tags = append(tags, name)
	}
	slices.Sort(tags)
	return tags
}

// Droppable reports whether the bytes of a denied candidate may go: always, of a repository that is not hosted here; else when it was
// never admitted and its time is up, also that of what it hangs on and of the indexes that list it.
func (r *Repositories) Droppable(ctx context.Context, c gate.Candidate) (bool, error) {
	if c.Repository.Upstream != "" {
		return true, nil
	}
	rule, err := r.rule(c.Repository)
	if err != nil {
		return false, err
	}
	expired := r.o.Now().Add(-rule.Pending)
	droppable, _, err := ask(ctx, r, c.Repository, func(s *state) (bool, bool) {
		m, ok := s.manifests[c.Digest]
		if !ok { // it is being pushed at this moment, or its bytes have gone already
			return false, false
		}
		needs := append(slices.Clone(s.byChild[c.Digest]), m)
		for _, d := range m.subjects() {
			if subject, ok := s.manifests[d]; ok {
				needs = append(needs, subject)
			}
		}
		needed := slices.ContainsFunc(needs, func(m *manifest) bool { return m.admitted || m.pushedAt.After(expired) })
		return !needed, true
	})
	return droppable, err
}

// subjects returns what m says something about, by itself or by the evidence tags that stand for it.
func (m *manifest) subjects() []oci.Digest {
	subjects := []oci.Digest{m.subject}
	for name := range m.tags {
		if evidence, ok := oci.ParseEvidenceTag(name); ok {
			subjects = append(subjects, evidence.Subject)
		}
	}
	return subjects
}

// Expire removes a denied candidate whose bytes may go, see [Repositories.Droppable], so that nothing stands for what is not there. It
// returns whether it has. That a tag is immutable does not keep what was never admitted.
func (r *Repositories) Expire(ctx context.Context, c gate.Candidate) (bool, error) {
	expired := false
	err := r.change(ctx, c.Repository, func(rp *repository) error {
		droppable, err := r.Droppable(ctx, c)
		if err != nil || !droppable {
			return err
		}
		expired = true
		return r.remove(ctx, rp, c.Digest, itself)
	})
	return expired, err
}
