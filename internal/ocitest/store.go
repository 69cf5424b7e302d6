package ocitest

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/tidewaiter/tidewaiter/oci"
)

// store is the content of a registry, by repository. Stored bytes are never modified.
type store struct {
	mu    sync.Mutex
	repos map[string]*repository // guarded by mu, the values too
}

type repository struct {
	blobs     map[oci.Digest][]byte
	manifests map[oci.Digest]manifest
	order     []oci.Digest // manifests in the order they came
	tags      map[string]oci.Digest
}

// manifest is a stored manifest. Only raw and mediaType are certain: the rest is what its JSON, if it is JSON, says.
type manifest struct {
	mediaType string
	raw       []byte
	claims    claims
}

// claims are the parts of a manifest a registry looks at.
type claims struct {
	ArtifactType string            `json:"artifactType"`
	Config       *oci.Descriptor   `json:"config"`
	Layers       []oci.Descriptor  `json:"layers"`
	Manifests    []oci.Descriptor  `json:"manifests"`
	Subject      *oci.Descriptor   `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

func newStore() *store { return &store{repos: map[string]*repository{}} }

// repo returns the repository called name, made if need be. The caller holds mu.
func (s *store) repo(name string) *repository {
	r, ok := s.repos[name]
	if !ok {
		r = &repository{blobs: map[oci.Digest][]byte{}, manifests: map[oci.Digest]manifest{}, tags: map[string]oci.Digest{}}
		s.repos[name] = r
	}
	return r
}

// PutBlob stores b in a repository; it must not be modified afterwards. The descriptor's media type is that of arbitrary bytes.
func (r *Registry) PutBlob(repo string, b []byte) oci.Descriptor {
	dgst := oci.FromBytes(b)
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	r.store.repo(repo).blobs[dgst] = b
	return oci.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: int64(len(b))}
}

// PutManifest stores raw under its digest and, unless reference is empty or a digest, under that tag. Nothing is checked: not
// that raw is a manifest, nor that what it refers to is here. raw must not be modified afterwards.
func (r *Registry) PutManifest(repo, reference, mediaType string, raw []byte) oci.Digest {
	dgst := oci.FromBytes(raw)
	m := manifest{mediaType: mediaType, raw: raw}
	if json.Unmarshal(raw, &m.claims) != nil {
		m.claims = claims{} // half of a decoded claim is none
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	rep := r.store.repo(repo)
	if _, known := rep.manifests[dgst]; !known {
		rep.order = append(rep.order, dgst)
	}
	rep.manifests[dgst] = m
	if reference != "" && !isDigest(reference) {
		rep.tags[reference] = dgst
	}
	return dgst
}

// Tag points a tag at a digest, which need not exist.
func (r *Registry) Tag(repo, tag string, dgst oci.Digest) {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	r.store.repo(repo).tags[tag] = dgst
}

// DeleteTag removes a tag and leaves its manifest.
func (r *Registry) DeleteTag(repo, tag string) {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	delete(r.store.repo(repo).tags, tag)
}

// Manifest returns the manifest a tag or digest names.
func (r *Registry) Manifest(repo, reference string) (oci.Content, bool) {
	m, dgst, ok := r.store.manifest(repo, reference)
	return oci.Content{MediaType: m.mediaType, Digest: dgst, Raw: m.raw}, ok
}

// Blob returns a blob of a repository. It must not be modified.
func (r *Registry) Blob(repo string, dgst oci.Digest) ([]byte, bool) { return r.store.blob(repo, dgst) }

func isDigest(reference string) bool {
	_, err := oci.ParseDigest(reference)
	return err == nil
}

func (s *store) manifest(repo, reference string) (manifest, oci.Digest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookup(repo, reference)
}

// lookup is manifest for callers that hold mu.
func (s *store) lookup(repo, reference string) (manifest, oci.Digest, bool) {
	rep, ok := s.repos[repo]
	if !ok {
		return manifest{}, "", false
	}
	dgst := oci.Digest(reference)
	if !isDigest(reference) {
		dgst = rep.tags[reference]
	}
	m, ok := rep.manifests[dgst]
	return m, dgst, ok
}

func (s *store) blob(repo string, dgst oci.Digest) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rep, ok := s.repos[repo]
	if !ok {
		return nil, false
	}
	b, ok := rep.blobs[dgst]
	return b, ok
}

// names returns the repositories that hold anything, sorted.
func (s *store) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.repos))
}

// tags returns the sorted tags of a repository, and false when there is no such repository.
func (s *store) tags(repo string) ([]string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rep, ok := s.repos[repo]
	if !ok {
		return nil, false
	}
	return slices.Sorted(maps.Keys(rep.tags)), true
}

// referrers returns descriptors of the manifests whose subject is dgst, in the order they came (distribution-spec, Listing
// Referrers). What a fallback tag lists is among them, because a manifest that was pushed is known here whoever listed it.
func (s *store) referrers(repo string, dgst oci.Digest) []oci.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []oci.Descriptor{}
	rep, ok := s.repos[repo]
	if !ok {
		return list
	}
	for _, d := range rep.order {
		if m := rep.manifests[d]; m.claims.Subject != nil && m.claims.Subject.Digest == dgst {
			list = append(list, m.descriptor(d))
		}
	}
	return list
}

// descriptor describes a manifest as the referrers API does: its artifact type is the config's media type when it names none.
func (m manifest) descriptor(dgst oci.Digest) oci.Descriptor {
	d := oci.Descriptor{
		MediaType: m.mediaType, Digest: dgst, Size: int64(len(m.raw)),
		ArtifactType: m.claims.ArtifactType, Annotations: m.claims.Annotations,
	}
	if d.ArtifactType == "" && m.claims.Config != nil {
		d.ArtifactType = m.claims.Config.MediaType
	}
	return d
}

// missing returns a digest that c refers to and the repository does not hold, if there is one.
func (s *store) missing(repo string, c claims) (oci.Digest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rep, ok := s.repos[repo]
	if !ok {
		rep = &repository{}
	}
	blobs := c.Layers
	if c.Config != nil {
		blobs = append([]oci.Descriptor{*c.Config}, blobs...)
	}
	for _, d := range blobs {
		if _, ok := rep.blobs[d.Digest]; !ok && len(d.URLs) == 0 {
			return d.Digest, true
		}
	}
	for _, d := range c.Manifests {
		if _, ok := rep.manifests[d.Digest]; !ok {
			return d.Digest, true
		}
	}
	return "", false
}

// remove deletes a tag, or a manifest with the tags that name it, and reports whether there was one.
func (s *store) remove(repo, reference string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, dgst, ok := s.lookup(repo, reference)
	if !ok {
		return false
	}
	rep := s.repos[repo]
	if !isDigest(reference) {
		delete(rep.tags, reference)
		return true
	}
	delete(rep.manifests, dgst)
	rep.order = slices.DeleteFunc(rep.order, func(d oci.Digest) bool { return d == dgst })
	maps.DeleteFunc(rep.tags, func(_ string, d oci.Digest) bool { return d == dgst })
	return true
}

// removeBlob deletes a blob and reports whether there was one.
func (s *store) removeBlob(repo string, dgst oci.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	rep, ok := s.repos[repo]
	if !ok {
		return false
	}
	_, ok = rep.blobs[dgst]
	delete(rep.blobs, dgst)
	return ok
}
