package proxy

import (
	"net/http"
	"slices"

	"github.com/tidewaiter/tidewaiter/oci"
)

// maxTagsPage bounds the tags of one answer; Link leads to the rest. It is the page size the largest registries end at.
const maxTagsPage = 1000

// serveTags answers end-8a and end-8b with what the upstream lists. A tag in it says nothing of what the gate will say.
func (p *Proxy) serveTags(w *answer, r *http.Request, q oci.Request, repo oci.Repository) error {
	if err := p.allowed(repo); err != nil {
		return err
	}
	n := q.N
	if n == oci.NoLimit || n > maxTagsPage {
		n = maxTagsPage
	}
	tags := []string{}
	if n > 0 {
		found, more, err := p.o.Resolver.Tags(r.Context(), repo, n, q.Last)
		if err != nil {
			return failure("could not list the tags", err)
		}
		tags = append(tags, found...)
		if more && len(tags) > 0 {
			next := q
			next.N, next.Last = n, tags[len(tags)-1]
			w.Header().Set("Link", "<"+next.URLPath()+"?"+next.RawQuery()+`>; rel="next"`)
		}
	}
	return writeJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{q.Name, tags})
}

// serveReferrers answers end-12a and end-12b, with what the upstream lists in every place where it or its clients keep such a list.
// That there are none is an empty index and never a 404, which would send clients to the older way of naming signatures by tags.
func (p *Proxy) serveReferrers(w *answer, r *http.Request, q oci.Request, repo oci.Repository) error {
	if err := p.allowed(repo); err != nil {
		return err
	}
	found, err := p.o.Referrers.Referrers(r.Context(), repo, q.Digest)
	if err != nil && !oci.IsMissing(err) {
		return failure("could not list the referrers", err)
	}
	manifests := []oci.Descriptor{}
	for _, d := range found { // content an upstream put into its list, and places to fetch some from, would go past every verdict
		d.Data, d.URLs = nil, nil
		manifests = append(manifests, d)
	}
	if q.ArtifactType != "" {
		manifests = slices.DeleteFunc(manifests, func(d oci.Descriptor) bool { return d.ArtifactType != q.ArtifactType })
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, oci.MediaTypeIndex, struct {
		SchemaVersion int              `json:"schemaVersion"`
		MediaType     string           `json:"mediaType"`
		Manifests     []oci.Descriptor `json:"manifests"`
	}{2, oci.MediaTypeIndex, manifests})
}
