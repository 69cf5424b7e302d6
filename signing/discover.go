package signing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tidewaiter/tidewaiter/oci"
)

const mediaTypeEmpty = oci.MediaTypeEmpty

// offer is a layer that is offered as a signature of the image.
type offer struct {
	repository oci.Repository
	// manifest is the manifest that lists the layer.
	manifest oci.Digest
	layer    oci.Descriptor
	format   format
}

// discover returns everything that is offered as a signature of the image, in every way and in every repository where one may be,
// in an order that depends on the image alone: what hangs on a tag first, because there are few of those. That one way leads to
// something never keeps the others from being tried.
func (s *search) discover(ctx context.Context) ([]offer, error) {
	var ways []func(context.Context) ([]offer, error)
	for _, place := range s.places {
		if len(s.signers) > 0 {
			ways = append(ways, func(ctx context.Context) ([]offer, error) { return s.onTag(ctx, place, ".sig") })
		}
	}
	onTags := len(ways)
	for _, place := range s.places {
		if len(s.attesters) > 0 || len(s.excusers) > 0 {
			ways = append(ways, func(ctx context.Context) ([]offer, error) { return s.onTag(ctx, place, ".att") })
		}
		ways = append(ways, func(ctx context.Context) ([]offer, error) { return s.onReferrers(ctx, place) })
	}
	found := make([][]offer, len(ways))
	err := each(ctx, len(ways), func(ctx context.Context, i int) (err error) {
		found[i], err = ways[i](ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	// Attestations can be large, wherever they are kept: the smallest first, so that a few large ones crowd out nothing.
	others := slices.Concat(found[onTags:]...)
	slices.SortStableFunc(others, func(a, b offer) int { return cmp.Compare(a.layer.Size, b.layer.Size) })
	return s.affordable(append(slices.Concat(found[:onTags]...), others...)), nil
}

// onTag returns what is kept in place under the image's tag with a suffix: legacy signatures under ".sig", legacy attestations under
// ".att". That there is no such tag is a fact.
func (s *search) onTag(ctx context.Context, place oci.Repository, suffix string) ([]offer, error) {
	tag := oci.EvidenceTag{Subject: s.Digest, Suffix: suffix}.String()
	content, err := s.registry.Manifest(ctx, place, tag)
	switch {
	case oci.IsMissing(err):
		return nil, nil
	case isMalformed(err):
		s.reject("", "", fmt.Errorf("the tag %s: %w", tag, err))
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading the tag %s of %s: %w", tag, place, err)
	}
	digest := oci.FromBytes(content.Raw)
	m, err := parseHolder(content)
	if err == nil && m.Subject != nil && m.Subject.Digest != s.Digest {
		err = errors.New("it refers to another image")
	}
	if err != nil {
		s.reject(digest, "", fmt.Errorf("the tag %s: %w", tag, err))
		return nil, nil
	}
	return s.layersOf(place, digest, m), nil
}

// onReferrers returns the signatures in manifests of place that refer to the image.
func (s *search) onReferrers(ctx context.Context, place oci.Repository) ([]offer, error) {
	listed, err := s.registry.Referrers(ctx, place, s.Digest)
	if err != nil { // even that there is nothing there: it would be a list
		return nil, fmt.Errorf("listing what refers to the image in %s: %w", place, err)
	}
	opened := s.worthOpening(listed)
	found := make([][]offer, len(opened))
	err = each(ctx, len(opened), func(ctx context.Context, i int) (err error) {
		found[i], err = s.open(ctx, place, opened[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	return slices.Concat(found...), nil
}

// worthOpening returns the listed manifests that may hold signatures, each once, as many and as large as are read. The smallest come
// first: signatures are small, and a few large things cannot crowd them out.
func (s *search) worthOpening(listed []oci.Descriptor) []oci.Descriptor {
	var candidates []oci.Descriptor
	for _, d := range listed {
		if !artifactTypes[d.ArtifactType] {
			continue
		}
		if _, err := oci.ParseDigest(d.Digest.String()); err != nil {
			s.reject("", "", errors.New("a referrer is listed under an unusable digest"))
			continue
		}
		candidates = append(candidates, d)
	}
	slices.SortFunc(candidates, func(a, b oci.Descriptor) int {
		return cmp.Or(cmp.Compare(a.Size, b.Size), cmp.Compare(a.Digest, b.Digest))
	})
	candidates = slices.CompactFunc(candidates, func(a, b oci.Descriptor) bool { return a.Digest == b.Digest && a.Size == b.Size })
	if n := len(candidates); n > maxReferrers {
		s.reject(candidates[maxReferrers].Digest, "", fmt.Errorf("this is one of %d referrers too many, only %d are opened", n-maxReferrers, maxReferrers))
		candidates = candidates[:maxReferrers]
	}
	left := budget(maxManifestsBytes)
	return slices.DeleteFunc(candidates, func(d oci.Descriptor) bool {
		if d.Size <= oci.MaxManifestBytes && left.take(d.Size) {
			return false
		}
		s.reject(d.Digest, "", fmt.Errorf("a referrer of %d bytes is more than is read", d.Size))
		return true
	})
}

// open returns the signatures of a manifest that is listed as referring to the image. Who wrote the list decides nothing: the
// manifest is what its digest says, it says itself that it refers to the image, and of what type it is.
func (s *search) open(ctx context.Context, place oci.Repository, desc oci.Descriptor) ([]offer, error) {
	content, err := s.registry.Manifest(ctx, place, desc.Digest.String())
	if err != nil && !isFact(err) {
		return nil, fmt.Errorf("reading the referrer %s in %s: %w", desc.Digest, place, err)
	}
	var m oci.Manifest
	if err == nil {
		m, err = s.checkReferrer(desc, content)
	}
	if err != nil {
		s.reject(desc.Digest, "", fmt.Errorf("the referrer: %w", err))
		return nil, nil
	}
	if !artifactTypes[cmp.Or(m.ArtifactType, m.Config.MediaType)] {
		return nil, nil
	}
	return s.layersOf(place, desc.Digest, m), nil
}

func (s *search) checkReferrer(desc oci.Descriptor, content oci.Content) (oci.Manifest, error) {
	if got := oci.FromBytes(content.Raw); got != desc.Digest || int64(len(content.Raw)) != desc.Size {
		return oci.Manifest{}, fmt.Errorf("listed with %d bytes, came as %s with %d: %w", desc.Size, got, len(content.Raw), oci.ErrMismatch)
	}
	m, err := parseHolder(content)
	if err != nil {
		return oci.Manifest{}, err
	}
	if m.Subject == nil || m.Subject.Digest != s.Digest {
		return oci.Manifest{}, errors.New("it does not refer to this image")
	}
	return m, nil
}

// parseHolder reads a manifest whose layers may be signatures.
func parseHolder(content oci.Content) (oci.Manifest, error) {
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err == nil && m.IsIndex() {
		err = errors.New("it is an index, whose layers it does not list")
	}
	return m, err
}

// layersOf returns the layers of m that are signatures by their media types.
func (s *search) layersOf(place oci.Repository, digest oci.Digest, m oci.Manifest) []offer {
	layers := m.Layers
	if n := len(layers); n > maxLayers {
		s.reject(digest, "", fmt.Errorf("it has %d layers, only the first %d are read", n, maxLayers))
		layers = layers[:maxLayers]
	}
	var offers []offer
	for _, layer := range layers {
		f, ok := formats[layer.MediaType]
		if !ok {
			s.reject(digest, "", fmt.Errorf("a layer of type %.120q is no signature", layer.MediaType))
			continue
		}
		offers = append(offers, offer{repository: place, manifest: digest, layer: layer, format: f})
	}
	return offers
}

// affordable returns the offers that are read, of as many bytes as are read for one image. It keeps their order.
func (s *search) affordable(offers []offer) []offer {
	if n := len(offers); n > maxOffers {
		s.reject(offers[maxOffers].manifest, "", fmt.Errorf("this is one of %d signatures too many, only %d are read", n-maxOffers, maxOffers))
		offers = offers[:maxOffers]
	}
	left := budget(maxLayersBytes)
	return slices.DeleteFunc(offers, func(o offer) bool {
		if o.layer.Size <= o.format.maxBytes() && left.take(o.layer.Size) {
			return false
		}
		s.reject(o.manifest, o.format.name(), fmt.Errorf("a layer of %d bytes is more than is read", o.layer.Size))
		return true
	})
}

// isFact reports whether err says something of what was to be read (that it is not there, or is not what its descriptor says)
// rather than of the reading. Whoever attached it to the image can have caused it, and must not keep other signatures from counting.
func isFact(err error) bool { return oci.IsMissing(err) || isMalformed(err) }

// isMalformed reports whether err says that content is not what it was announced as.
func isMalformed(err error) bool {
	facts := []error{oci.ErrMismatch, oci.ErrTooLarge, oci.ErrManifestInvalid, oci.ErrDigestInvalid}
	return slices.ContainsFunc(facts, func(fact error) bool { return errors.Is(err, fact) })
}

// placesOf returns the repositories in which signatures of images in r may lie.
func placesOf(r oci.Repository, elsewhere func(oci.Repository) oci.Repository) []oci.Repository {
	places := []oci.Repository{r}
	if elsewhere == nil {
		return places
	}
	if other := elsewhere(r); other != r && other != (oci.Repository{}) {
		places = append(places, other)
	}
	return places
}
