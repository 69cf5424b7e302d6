package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifestBytes bounds a manifest. The distribution specification asks registries to accept 4 MiB and clients not to send more.
const MaxManifestBytes = 4 << 20

// maxManifestEntries bounds the layers of an image and the children of an index. Overlay file systems stop near 500 layers, and
// the largest public indexes list some dozens of platforms.
const maxManifestEntries = 1024

// maxBlobBytes bounds the size a descriptor may announce. Registries end at some ten GiB; here it keeps the sum over a manifest
// from overflowing, which would turn a huge image into a small one.
const maxBlobBytes = 1 << 40

// maxManifestDepth bounds the nesting of a manifest's JSON; the specifications need six levels.
const maxManifestDepth = 32

// Media types of manifests (image-spec, media-types.md; Docker image manifest version 2, schema 2).
const (
	MediaTypeImage       = ocispec.MediaTypeImageManifest
	MediaTypeIndex       = ocispec.MediaTypeImageIndex
	MediaTypeDockerImage = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerIndex = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeConfig      = ocispec.MediaTypeImageConfig
	MediaTypeDockerConf  = "application/vnd.docker.container.image.v1+json"
	MediaTypeEmpty       = ocispec.MediaTypeEmptyJSON
)

// EmptyJSON is the content of [MediaTypeEmpty]: the config of a manifest that needs none (image-spec, manifest.md, guidance for an empty
// descriptor).
const EmptyJSON = "{}"

// Media types of signatures and attestations, as cosign and the sigstore bundle specification write them.
const (
	MediaTypeSimpleSigning  = "application/vnd.dev.cosign.simplesigning.v1+json"
	MediaTypeDSSE           = "application/vnd.dsse.envelope.v1+json"
	MediaTypeSigstoreBundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
	MediaTypeBundle01       = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	MediaTypeBundle02       = "application/vnd.dev.sigstore.bundle+json;version=0.2"
	MediaTypeJWS            = "application/jose+json"
	MediaTypeCOSE           = "application/cose"
)

// ManifestMediaTypes are the types of manifests Tidewaiter understands, in the order it asks for them.
func ManifestMediaTypes() []string {
	return []string{MediaTypeImage, MediaTypeIndex, MediaTypeDockerImage, MediaTypeDockerIndex}
}

// Manifest is a parsed image manifest or index. It is a view for reading: what is stored, hashed and served is the raw content.
type Manifest struct {
	// MediaType is one of [ManifestMediaTypes], and says whether Config and Layers or Manifests count.
	MediaType    string
	ArtifactType string
	// Config is the zero Descriptor in an index.
	Config Descriptor
	// Layers are in the order they are applied, lowest first. Empty in an index.
	Layers []Descriptor
	// Manifests are the children of an index. Empty in an image.
	Manifests []Descriptor
	// Subject is nil unless the manifest refers to another one.
	Subject     *Descriptor
	Annotations map[string]string
}

// IsIndex reports whether m lists other manifests.
func (m Manifest) IsIndex() bool { return isIndexType(m.MediaType) }

// Blobs returns the blobs an image refers to, its config first, then its layers. Nil for an index.
func (m Manifest) Blobs() []Descriptor {
	if m.IsIndex() {
		return nil
	}
	return append([]Descriptor{m.Config}, m.Layers...)
}

// IsEvidence reports whether every layer claims to be a signature or attestation, which is a claim about the layers' types only:
// whoever acts on it reads the layers and sees that they are JSON or CBOR, which no runtime unpacks.
func (m Manifest) IsEvidence() bool {
	for _, l := range m.Layers {
		switch l.MediaType {
		case MediaTypeSimpleSigning, MediaTypeDSSE, MediaTypeSigstoreBundle, MediaTypeBundle01, MediaTypeBundle02, MediaTypeJWS, MediaTypeCOSE:
		default:
			return false
		}
	}
	return len(m.Layers) > 0
}

// BaseMediaType returns a Content-Type without its parameters, lower case; empty when it is malformed.
func BaseMediaType(contentType string) string {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	return mediaType
}

func isIndexType(mediaType string) bool {
	return mediaType == MediaTypeIndex || mediaType == MediaTypeDockerIndex
}

// ParseManifest reads a manifest that was announced as mediaType. It refuses what two readers could understand differently:
// a body that names another type than the announcement, an image that also lists manifests or an index that also lists layers
// (CVE-2021-41190), duplicate keys, keys that differ from a known one only by case, and anything after the end. Schema 1 is
// refused: its layers are not named by digests of the bytes that are served.
//
// Errors: [ErrManifestInvalid].
func ParseManifest(mediaType string, raw []byte) (Manifest, error) {
	m, err := parseManifest(mediaType, raw)
	if err != nil {
		return Manifest{}, &Error{Code: CodeManifestInvalid, Message: "the manifest is refused: " + err.Error()}
	}
	return m, nil
}

func parseManifest(mediaType string, raw []byte) (Manifest, error) {
	if len(raw) > MaxManifestBytes {
		return Manifest{}, fmt.Errorf("it is larger than %d bytes", MaxManifestBytes)
	}
	if err := checkKeys(raw); err != nil {
		return Manifest{}, err
	}
	var wire struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        *Descriptor       `json:"config"`
		Layers        *[]Descriptor     `json:"layers"`
		Manifests     *[]Descriptor     `json:"manifests"`
		FSLayers      json.RawMessage   `json:"fsLayers"`
		Subject       *Descriptor       `json:"subject"`
		Annotations   map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(raw, &wire); err != nil {
		return Manifest{}, fmt.Errorf("it is not the JSON of a manifest")
	}
	switch {
	case wire.SchemaVersion == 1 || wire.FSLayers != nil:
		return Manifest{}, fmt.Errorf("schema 1 is not supported")
	case wire.SchemaVersion != 2:
		return Manifest{}, fmt.Errorf("its schemaVersion is not 2")
	case wire.MediaType != "" && wire.MediaType != mediaType:
		return Manifest{}, fmt.Errorf("it was announced as %.100q and calls itself %.100q", mediaType, wire.MediaType)
	}
	m := Manifest{MediaType: mediaType, ArtifactType: wire.ArtifactType, Subject: wire.Subject, Annotations: wire.Annotations}
	switch mediaType {
	case MediaTypeImage, MediaTypeDockerImage:
		if wire.Config == nil || wire.Manifests != nil {
			return Manifest{}, fmt.Errorf("an image has a config and no manifests")
		}
		m.Config = *wire.Config
		if wire.Layers != nil {
			m.Layers = *wire.Layers
		}
	case MediaTypeIndex, MediaTypeDockerIndex:
		if wire.Manifests == nil || wire.Config != nil || wire.Layers != nil {
			return Manifest{}, fmt.Errorf("an index has manifests and neither config nor layers")
		}
		m.Manifests = *wire.Manifests
	default:
		return Manifest{}, fmt.Errorf("its media type %.100q is not supported", mediaType)
	}
	return m, checkDescriptors(m)
}

func checkDescriptors(m Manifest) error {
	if len(m.Layers) > maxManifestEntries || len(m.Manifests) > maxManifestEntries {
		return fmt.Errorf("it lists more than %d entries", maxManifestEntries)
	}
	blobs, manifests := m.Blobs(), m.Manifests
	if m.Subject != nil {
		manifests = append(slices.Clone(manifests), *m.Subject)
	}
	for _, d := range blobs {
		// A client takes it for the content and never asks for that. It may be there only if it is what we would look into.
		if len(d.Data) > 0 && (int64(len(d.Data)) != d.Size || FromBytes(d.Data) != d.Digest) {
			return fmt.Errorf("the descriptor of %s carries other content", d.Digest)
		}
	}
	for _, d := range manifests {
		if len(d.Data) > 0 { // a client that has it does not ask for it, and would never learn of the verdict on it
			return fmt.Errorf("the descriptor of the manifest %s carries content", d.Digest)
		}
	}
	for _, d := range slices.Concat(blobs, manifests) {
		if _, err := ParseDigest(d.Digest.String()); err != nil {
			return err
		}
		if d.Size < 0 || d.Size > maxBlobBytes || d.MediaType == "" {
			return fmt.Errorf("the descriptor of %s has no media type or an impossible size", d.Digest)
		}
	}
	for _, d := range m.Manifests {
		if isIndexType(d.MediaType) || d.MediaType == MediaTypeImage || d.MediaType == MediaTypeDockerImage {
			continue
		}
		return fmt.Errorf("the child %s has the unsupported media type %.100q", d.Digest, d.MediaType)
	}
	return nil
}

// knownKeys are the keys whose meaning a reader must not be able to choose, as the specifications write them: Go takes "Layers",
// and even "layer\u017f", for "layers"; other readers do not.
var knownKeys = []string{
	"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "fsLayers", "subject", "annotations",
	"digest", "size", "urls", "data", "platform", "os", "os.version", "os.features", "architecture", "variant",
}

// checkKeys walks the JSON once and refuses duplicate keys, case variants of known ones, depth, and trailing data.
func checkKeys(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := walkValue(d, 0); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("something follows its end")
	}
	return nil
}

func walkValue(d *json.Decoder, depth int) error {
	if depth > maxManifestDepth {
		return fmt.Errorf("it is nested deeper than %d levels", maxManifestDepth)
	}
	token, err := d.Token()
	if err != nil {
		return fmt.Errorf("it is not JSON")
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if delim == '{' {
			if err := walkKey(d, seen); err != nil {
				return err
			}
		}
		if err := walkValue(d, depth+1); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("it is not JSON")
	}
	return nil
}

func walkKey(d *json.Decoder, seen map[string]bool) error {
	token, err := d.Token()
	if err != nil {
		return fmt.Errorf("it is not JSON")
	}
	key, _ := token.(string)
	if seen[key] {
		return fmt.Errorf("the key %.60q occurs twice", key)
	}
	seen[key] = true
	for _, known := range knownKeys {
		if key != known && strings.EqualFold(key, known) { // folds as encoding/json does
			return fmt.Errorf("the key %.60q differs from a known one only by case", key)
		}
	}
	return nil
}
