package proxy

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// maxPage bounds the tags or repositories of one answer; Link leads to the rest. It is the page size the largest registries end at.
const maxPage = 1000

// maxReferrersPage and maxReferrersBytes bound the referrers of one answer, which is an index and no larger than one may be, with what
// is around them. Each usually has some kilobytes of annotations at most; but that is for whoever pushes it to say.
const (
	maxReferrersPage  = 500
	maxReferrersBytes = oci.MaxManifestBytes - 1<<10
)

// serveTags answers end-8a and end-8b. At an upstream it is what the upstream lists, and a tag in it says nothing of what the gate
// will say; of a hosted repository those who only pull are told what was admitted.
func (p *Proxy) serveTags(x *exchange, r *http.Request, q oci.Request) error {
	n := pageSize(q)
	tags := []string{}
	if n > 0 {
		found, more, err := p.tags(r.Context(), x, n, q.Last)
		if err != nil {
			return failure("could not list the tags", err)
		}
		tags = append(tags, found...)
		if more && len(tags) > 0 {
			linkNext(x.answer, q, n, tags[len(tags)-1])
		}
	}
	return writeJSON(x.answer, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{q.Name, tags})
}

func (p *Proxy) tags(ctx context.Context, x *exchange, n int, last string) ([]string, bool, error) {
	if x.isHosted() {
		return p.o.Hosted.Contents.Tags(ctx, x.repo, n, last, p.seesPending(x))
	}
	return p.o.Resolver.Tags(ctx, x.repo, n, last)
}

// serveCatalog lists the hosted repositories the caller may pull. It is no part of the specification, and what others pull from
// upstreams is none of a client's business.
func (p *Proxy) serveCatalog(x *exchange, r *http.Request, q oci.Request) error {
	if p.o.Hosted == nil {
		return &oci.Error{Code: oci.CodeNameUnknown, Message: "there is no catalog here: ask the upstream, or see the console"}
	}
	all, err := p.o.Hosted.Catalog.Repositories(r.Context())
	if err != nil {
		return failure("could not list the repositories", err)
	}
	n := pageSize(q)
	names := []string{}
	for _, repo := range all {
		if repo.Path <= q.Last || !p.o.Hosted.Lists(x.caller, repo) {
			continue
		}
		if len(names) == n {
			if n > 0 {
				linkNext(x.answer, q, n, names[n-1])
			}
			break
		}
		names = append(names, repo.Path)
	}
	return writeJSON(x.answer, "application/json", map[string][]string{"repositories": names})
}

// pageSize returns how many results of a list q gets.
func pageSize(q oci.Request) int {
	if q.N == oci.NoLimit || q.N > maxPage {
		return maxPage
	}
	return q.N
}

// linkNext says where the list that q asks for goes on (distribution-spec, Listing Tags; RFC 8288).
func linkNext(w *answer, q oci.Request, n int, last string) {
	q.N, q.Last = n, last
	w.Header().Set("Link", "<"+q.URLPath()+"?"+q.RawQuery()+`>; rel="next"`)
}

// serveReferrers answers end-12a and end-12b, with what the upstream lists in every place where it or its clients keep such a list.
// That there are none is an empty index and never a 404, which would send clients to the older way of naming signatures by tags.
func (p *Proxy) serveReferrers(x *exchange, r *http.Request, q oci.Request) error {
	found, err := p.o.Referrers.Referrers(r.Context(), x.repo, q.Digest)
	if err != nil && !oci.IsMissing(err) {
		return failure("could not list the referrers", err)
	}
	if found, err = p.withOurs(r.Context(), gate.Candidate{Repository: x.repo, Digest: q.Digest}, q.ArtifactType, found); err != nil {
		return err
	}
	manifests := []oci.Descriptor{}
	for _, d := range found { // content an upstream put into its list, and places to fetch some from, would go past every verdict
		d.Data, d.URLs = nil, nil
		if q.ArtifactType == "" || d.ArtifactType == q.ArtifactType {
			manifests = append(manifests, d)
		}
	}
	if q.ArtifactType != "" {
		x.answer.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if q.Last != "" {
		at := slices.IndexFunc(manifests, func(d oci.Descriptor) bool { return d.Digest.String() == q.Last })
		manifests = manifests[at+1:] // all of them, rather than too few, when the last one has gone
	}
	if n := fitting(manifests); n < len(manifests) {
		manifests = manifests[:n]
		linkNext(x.answer, q, oci.NoLimit, manifests[n-1].Digest.String())
	}
	return writeJSON(x.answer, oci.MediaTypeIndex, struct {
		SchemaVersion int              `json:"schemaVersion"`
		MediaType     string           `json:"mediaType"`
		Manifests     []oci.Descriptor `json:"manifests"`
	}{2, oci.MediaTypeIndex, manifests})
}

// fitting returns how many of the first referrers fit a page: at least one, if there is one.
func fitting(referrers []oci.Descriptor) int {
	size := 0
	for i, d := range referrers {
		one, err := json.Marshal(d)
		if size += len(one) + len(","); i > 0 && (err != nil || i == maxReferrersPage || size > maxReferrersBytes) {
			return i
		}
	}
	return len(referrers)
}
