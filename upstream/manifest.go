package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Manifest reads the manifest reference, a tag or a digest, stands for in repo. When it is a digest the content has it. A tag is
// read as the upstream answers now, whatever [Registries.Resolve] said: whoever needs both to agree reads by digest.
//
// Errors: as [Registries.Resolve]; with [oci.ErrMismatch] for content that does not have the digest asked for and
// [oci.ErrTooLarge] for more than [oci.MaxManifestBytes].
func (rs *Registries) Manifest(ctx context.Context, repo oci.Repository, reference string) (oci.Content, error) {
	r, want, err := rs.locate(repo, reference)
	if err != nil {
		return oci.Content{}, err
	}
	var content oci.Content
	err = r.ask(ctx, KindManifest, func(ctx context.Context, e *endpoint) (int64, error) {
		var err error
		content, err = e.getManifest(ctx, repo, reference, want)
		return int64(len(content.Raw)), err
	})
	if err != nil {
		return oci.Content{}, fmt.Errorf("reading manifest %.140s of %s: %w", reference, repo, err)
	}
	return content, nil
}

// getManifest reads a manifest from e; want is empty for a tag.
func (e *endpoint) getManifest(ctx context.Context, repo oci.Repository, reference string, want oci.Digest) (oci.Content, error) {
	body, header, err := e.get(ctx, manifestRequest(http.MethodGet, repo, reference), oci.MaxManifestBytes)
	if err != nil {
		return oci.Content{}, err
	}
	digest := oci.FromBytes(body)
	if want != "" && digest != want {
		return oci.Content{}, refused(e.host, "sends other content than its digest says", oci.ErrMismatch)
	}
	mediaType := oci.BaseMediaType(header.Get("Content-Type"))
	if isGeneric(mediaType) {
		mediaType = ownMediaType(body)
	}
	return oci.Content{MediaType: mediaType, Digest: digest, Raw: body}, nil
}

func manifestRequest(method string, repo oci.Repository, reference string) request {
	return request{kind: KindManifest, method: method, repo: repo.Path, path: "manifests/" + reference, accept: oci.ManifestMediaTypes()}
}

// isGeneric reports whether a Content-Type says nothing of what a manifest is, as static file servers and object stores answer.
func isGeneric(mediaType string) bool {
	switch mediaType {
	case "", "application/json", "application/octet-stream", "binary/octet-stream", "text/plain":
		return true
	}
	return false
}

// ownMediaType returns what a manifest calls itself; empty when it does not, which nobody accepts as a manifest.
func ownMediaType(raw []byte) string {
	var self struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(raw, &self) != nil {
		return ""
	}
	return oci.BaseMediaType(self.MediaType)
}
