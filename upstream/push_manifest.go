package upstream

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/tidewaiter/tidewaiter/oci"
)

// maxListings is how often a referrer is added to the index under a fallback tag when others, writing at the same time, lose it again.
const maxListings = 3

// HasManifest returns nil if repo's registry itself says that it has a manifest by that digest.
//
// Errors: as [Registries.PushManifest]; [oci.ErrNotFound] only if the registry says that it does not.
func (rs *Registries) HasManifest(ctx context.Context, repo oci.Repository, digest oci.Digest) error {
	r, err := rs.writable(repo)
	if err != nil {
		return err
	}
	if _, err := oci.ParseDigest(digest.String()); err != nil {
		return err
	}
	_, err = readWithin(ctx, requestTimeout, r.target, func(ctx context.Context, e *endpoint) (int64, error) {
		_, n, err := e.headManifest(ctx, repo, digest.String(), digest, answer{})
		return n, err
	})
	if err != nil {
		return fmt.Errorf("looking for manifest %s in %s: %w", digest, repo, err)
	}
	return nil
}

// PushManifest puts content into repo's registry under reference, a tag or its digest. What it refers to must be there, but for its
// subject. If it has one, and the registry does not keep account of what refers to what, it is also added to the index under the
// subject's fallback tag, as clients do (distribution-spec, Pushing Manifests with Subject). It may be called again, whatever it returned.
//
// Errors: as [Registries.PushBlob]; [oci.ErrTagInvalid], [oci.ErrDigestInvalid], [oci.ErrManifestInvalid], and [oci.ErrMismatch] for
// content that is not its digest's, or if the registry took it for something else. Code NAME_UNKNOWN may also mean that something it
// refers to is missing there.
func (rs *Registries) PushManifest(ctx context.Context, repo oci.Repository, reference string, content oci.Content) (err error) {
	r, err := rs.writable(repo)
	if err != nil {
		return err
	}
	m, err := checkPushed(reference, content)
	if err != nil {
		return fmt.Errorf("pushing manifest %.140s to %s: %w", reference, repo, err)
	}
	defer func() { r.observe(Event{Upstream: r.Host, Kind: KindPush, Outcome: outcomeOf(err)}) }()
	header, err := r.target.putManifest(ctx, repo, reference, content)
	if err != nil {
		return fmt.Errorf("pushing manifest %.140s to %s: %w", reference, repo, err)
	}
	r.tags.forget(repo.Path + ":" + reference) // what it stood for before
	if m.Subject == nil || header.Get("OCI-Subject") == m.Subject.Digest.String() {
		return nil
	}
	desc := content.Descriptor()
	desc.ArtifactType, desc.Annotations = cmp.Or(m.ArtifactType, m.Config.MediaType), m.Annotations
	if err := r.listReferrer(ctx, repo, m.Subject.Digest, desc); err != nil {
		return fmt.Errorf("listing %s as a referrer of %s in %s: %w", desc.Digest, m.Subject.Digest, repo, err)
	}
	return nil
}

// checkPushed returns content as it is understood, if it may be pushed under reference.
func checkPushed(reference string, content oci.Content) (oci.Manifest, error) {
	digest := oci.FromBytes(content.Raw)
	if content.Digest != digest {
		return oci.Manifest{}, fmt.Errorf("content of %s has digest %s: %w", content.Digest, digest, oci.ErrMismatch)
	}
	if strings.Contains(reference, ":") {
		if named, err := oci.ParseDigest(reference); err != nil {
			return oci.Manifest{}, err
		} else if named != digest {
			return oci.Manifest{}, fmt.Errorf("content has digest %s: %w", digest, oci.ErrMismatch)
		}
	} else if !oci.ValidTag(reference) {
		return oci.Manifest{}, fmt.Errorf("tag %.140q: %w", reference, oci.ErrTagInvalid)
	}
	return oci.ParseManifest(content.MediaType, content.Raw)
}

// putManifest puts content under reference, and returns the header of the answer.
func (e *endpoint) putManifest(ctx context.Context, repo oci.Repository, reference string, content oci.Content) (http.Header, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errTooSlow)
	defer cancel()
	header, err := e.write(ctx, change{
		method: http.MethodPut, repo: repo.Path, at: e.url(request{repo: repo.Path, path: "manifests/" + reference}),
		contentType: content.MediaType, body: bytes.NewReader(content.Raw), size: int64(len(content.Raw)), status: http.StatusCreated,
	})
	if err != nil {
		return nil, err
	}
	return header, e.checkTaken(header, content.Digest)
}

// listReferrer adds desc to the index under the fallback tag of subject. There is no way to say "unless somebody else has written
// meanwhile", so it looks afterwards whether desc is still listed; and in this process one does it at a time.
func (r *registry) listReferrer(ctx context.Context, repo oci.Repository, subject oci.Digest, desc oci.Descriptor) error {
	select {
	case r.listing <- struct{}{}:
		defer func() { <-r.listing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for attempt := 0; ; attempt++ {
		listed, err := r.target.fallbackIndex(ctx, repo, subject)
		if err != nil {
			return err
		}
		if listed.has(desc.Digest) {
			return nil
		}
		if attempt == maxListings {
			return refused(r.Host, "loses what is listed under a fallback tag", nil)
		}
		next, err := listed.with(desc)
		if err != nil {
			return err
		}
		if len(next.Raw) > oci.MaxManifestBytes {
			return refused(r.Host, "lists more under a fallback tag than fits", oci.ErrTooLarge)
		}
		if _, err := r.target.putManifest(ctx, repo, fallbackTag(subject), next); err != nil {
			return err
		}
	}
}

// fallbackList is the index under a fallback tag. What it says of itself and of others is kept as it was written.
type fallbackList struct {
	index   map[string]json.RawMessage
	entries []json.RawMessage
}

// fallbackIndex reads the index under the fallback tag of subject; one that is not there is empty.
func (e *endpoint) fallbackIndex(ctx context.Context, repo oci.Repository, subject oci.Digest) (fallbackList, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errTooSlow)
	defer cancel()
	content, err := e.getManifest(ctx, repo, fallbackTag(subject), "")
	if oci.IsMissing(err) {
		return fallbackList{index: map[string]json.RawMessage{}}, nil
	}
	if err != nil {
		return fallbackList{}, err
	}
	var l fallbackList
	if content.MediaType != oci.MediaTypeIndex || json.Unmarshal(content.Raw, &l.index) != nil || l.index == nil {
		return fallbackList{}, refused(e.host, "has something else than a list of referrers under a fallback tag", nil)
	}
	if entries, ok := l.index["manifests"]; ok && json.Unmarshal(entries, &l.entries) != nil {
		return fallbackList{}, refused(e.host, "has a malformed list of referrers under a fallback tag", nil)
	}
	return l, nil
}

func (l fallbackList) has(digest oci.Digest) bool {
	for _, entry := range l.entries {
		var listed struct{ Digest oci.Digest }
		if json.Unmarshal(entry, &listed) == nil && listed.Digest == digest {
			return true
		}
	}
	return false
}

// with returns the index with desc behind what it lists.
func (l fallbackList) with(desc oci.Descriptor) (oci.Content, error) {
	entry, err := json.Marshal(desc)
	if err != nil {
		return oci.Content{}, err
	}
	entries, err := json.Marshal(append(l.entries[:len(l.entries):len(l.entries)], entry))
	if err != nil {
		return oci.Content{}, err
	}
	l.index["schemaVersion"], l.index["manifests"] = json.RawMessage("2"), entries
	l.index["mediaType"] = json.RawMessage(`"` + oci.MediaTypeIndex + `"`)
	raw, err := json.Marshal(l.index)
	if err != nil {
		return oci.Content{}, errors.New("the index cannot be written") // it was read as it is
	}
	return oci.Content{MediaType: oci.MediaTypeIndex, Digest: oci.FromBytes(raw), Raw: raw}, nil
}
