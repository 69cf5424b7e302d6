package upstream

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	// maxTags and maxDigests bound what one upstream's answers are remembered of. An entry is about 500 bytes.
	maxTags    = 1 << 16
	maxDigests = 1 << 16
	// maxETagBytes bounds what is kept of an entity tag. Registries use the digest, in quotes.
	maxETagBytes = 128
)

// Resolution is what a reference stands for by the upstream's word.
type Resolution struct {
	// Descriptor is of the manifest. It is a hint, even where the reference was a digest, until the manifest was read: then the
	// bytes say what is true.
	Descriptor oci.Descriptor
	// AskedAt is when the upstream said so, UTC. Zero for a digest, for which that does not matter.
	AskedAt time.Time
	// Stale says that the upstream was asked, did not answer, and was right at AskedAt. Whoever serves it says so (RFC 9111,
	// Warning 110).
	Stale bool
}

// answer is what an upstream said a tag stands for.
type answer struct {
	desc oci.Descriptor
	at   time.Time
	// etag is what the endpoint at origin calls that answer (RFC 9110, section 8.8.3); empty for nothing.
	etag   string
	origin string
}

// Resolve returns what reference, a tag or a digest, stands for in repo. A tag is answered from memory for as long as the upstream's
// TagTTL, and then asked for by one HEAD, which an upstream that names its answers by entity tags can answer with 304. It is asked for once
// however many callers want it at the same time; the request goes on when one of them leaves. While the upstream is down or limits our rate
// an old answer stands for StaleTagsFor more.
//
// Errors: DENIED, [oci.ErrTagInvalid], [oci.ErrDigestInvalid], [oci.ErrNotFound], [oci.ErrUnauthorized], [oci.ErrRateLimited],
// [oci.ErrUnavailable], with [oci.ErrMismatch] when the upstream answers a digest with another.
func (rs *Registries) Resolve(ctx context.Context, repo oci.Repository, reference string) (Resolution, error) {
	r, want, err := rs.locate(repo, reference)
	if err != nil {
		return Resolution{}, err
	}
	var res Resolution
	if want == "" {
		res, err = r.resolveTag(ctx, repo, reference)
	} else {
		res, err = r.resolveDigest(ctx, repo, want)
	}
	if err != nil {
		return Resolution{}, fmt.Errorf("resolving %.140s in %s: %w", reference, repo, err)
	}
	return res, nil
}

// locate returns the upstream of repo, and reference as a digest if it is one.
func (rs *Registries) locate(repo oci.Repository, reference string) (*registry, oci.Digest, error) {
	r, err := rs.readable(repo)
	if err != nil {
		return nil, "", err
	}
	if strings.Contains(reference, ":") {
		want, err := oci.ParseDigest(reference)
		return r, want, err
	}
	if !oci.ValidTag(reference) {
		return nil, "", fmt.Errorf("tag %.140q: %w", reference, oci.ErrTagInvalid)
	}
	return r, "", nil
}

func (r *registry) resolveDigest(ctx context.Context, repo oci.Repository, want oci.Digest) (Resolution, error) {
	key := repo.Path + "@" + want.String()
	if desc, ok := r.digests.get(key); ok {
		return Resolution{Descriptor: desc}, nil
	}
	said, err := r.head(ctx, repo, want.String(), want, answer{})
	if err != nil {
		return Resolution{}, err
	}
	r.digests.put(key, said.desc)
	return Resolution{Descriptor: said.desc}, nil
}

func (r *registry) resolveTag(ctx context.Context, repo oci.Repository, tag string) (Resolution, error) {
	key := repo.Path + ":" + tag
	if known, ok := r.tags.get(key); ok && r.now().Sub(known.at) < r.TagTTL {
		return known.fresh(), nil
	}
	flight := r.flights.DoChan(key, func() (any, error) {
		return r.askTag(context.WithoutCancel(ctx), repo, tag, key)
	})
	select {
	case <-ctx.Done():
		return Resolution{}, ctx.Err()
	case result := <-flight:
		res, _ := result.Val.(Resolution)
		return res, result.Err
	}
}

// askTag asks the upstream, and falls back on what it said before as far as the configuration lets it.
func (r *registry) askTag(ctx context.Context, repo oci.Repository, tag, key string) (Resolution, error) {
	known, ok := r.tags.get(key)
	if ok && r.now().Sub(known.at) < r.TagTTL {
		return known.fresh(), nil // another flight landed between our look and our start
	}
	said, err := r.head(ctx, repo, tag, "", known)
	switch outcomeOf(err) {
	case OutcomeOK:
		said.at = r.now().UTC()
		r.tags.put(key, said)
		return said.fresh(), nil
	case OutcomeDown, OutcomeLimited:
		if ok && r.now().Sub(known.at) < r.TagTTL+r.StaleTagsFor && r.StaleTagsFor > 0 {
			r.log.WarnContext(ctx, "answering a tag from memory", "repo", repo.String(), "tag", tag, "err", err)
			return Resolution{Descriptor: known.desc, AskedAt: known.at, Stale: true}, nil
		}
	case OutcomeMissing, OutcomeUnauthorized:
		r.tags.forget(key) // it is gone: an outage later on must not bring it back
	}
	return Resolution{}, err
}

func (a answer) fresh() Resolution { return Resolution{Descriptor: a.desc, AskedAt: a.at} }

// head returns what the upstream says a reference stands for; want is empty for a tag. known is what it said before, if it has.
func (r *registry) head(ctx context.Context, repo oci.Repository, reference string, want oci.Digest, known answer) (answer, error) {
	var said answer
	err := r.ask(ctx, KindManifest, func(ctx context.Context, e *endpoint) (n int64, err error) {
		said, n, err = e.headManifest(ctx, repo, reference, want, known)
		return n, err
	})
	return said, err
}

// headManifest asks for the header alone, and for the manifest where the header does not say enough. n is how many bytes of
// content that took.
func (e *endpoint) headManifest(ctx context.Context, repo oci.Repository, reference string, want oci.Digest, known answer) (said answer, n int64, err error) {
	req := manifestRequest(http.MethodHead, repo, reference)
	if known.origin == originOf(e.origin) {
		req.unless = known.etag
	}
	resp, err := e.do(ctx, req)
	if err != nil {
		return answer{}, 0, err
	}
	drain(resp.Body)
	if resp.StatusCode == http.StatusNotModified {
		return known, 0, nil
	}
	digest := saidDigest(resp.Header)
	if want != "" && digest != "" && digest != want {
		return answer{}, 0, refused(e.host, "answers a digest with another", oci.ErrMismatch)
	}
	digest = cmp.Or(digest, want)
	desc := oci.Descriptor{MediaType: oci.BaseMediaType(resp.Header.Get("Content-Type")), Digest: digest, Size: resp.ContentLength}
	if digest != "" && desc.Size > 0 && !isGeneric(desc.MediaType) {
		return answer{desc: desc, etag: saidETag(resp.Header), origin: originOf(e.origin)}, 0, nil
	}
	// The entity tag is not kept: the manifest may be another one by now than the header was about.
	content, err := e.getManifest(ctx, repo, reference, want)
	return answer{desc: content.Descriptor()}, int64(len(content.Raw)), err
}

// saidETag returns what an answer is called; empty for nothing, or for more than is worth keeping.
func saidETag(header http.Header) string {
	if etag := header.Get("ETag"); len(etag) <= maxETagBytes {
		return etag
	}
	return ""
}

// saidDigest returns the digest an answer is announced with; empty for none, or one by an algorithm we do not use.
func saidDigest(header http.Header) oci.Digest {
	digest, err := oci.ParseDigest(header.Get("Docker-Content-Digest"))
	if err != nil {
		return ""
	}
	return digest
}
