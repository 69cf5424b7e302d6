package hosted

import (
	"encoding/json"
	"fmt"

	"github.com/tidewaiter/tidewaiter/oci"
)

// document is a manifest that others are added to. Whoever pushed it wrote it; it was parsed before it was stored. What is not looked
// at is kept as it was written.
type document struct {
	manifest oci.Manifest
	fields   map[string]json.RawMessage
	// entries are the manifests of an index or the layers of an image.
	entries []json.RawMessage
	// config is the config of an image as it was read, nil when it could not be; diffIDs and history what is in it for each layer.
	config           []byte
	diffIDs, history []json.RawMessage
	// added says that the config no longer is what the manifest refers to.
	added bool
}

// field is where the entries are.
func (d *document) field() string {
	if d.manifest.IsIndex() {
		return "manifests"
	}
	return "layers"
}

// descriptors are the entries, parsed.
func (d *document) descriptors() []oci.Descriptor {
	if d.manifest.IsIndex() {
		return d.manifest.Manifests
	}
	return d.manifest.Layers
}

func (d *document) name(i int) oci.Digest {
	if d.manifest.IsIndex() {
		return d.manifest.Manifests[i].Digest
	}
	return entryName(d.manifest.Layers[i])
}

// parseDocument reads a manifest. Errors: oci.ErrManifestInvalid.
func parseDocument(content oci.Content) (*document, error) {
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		return nil, err
	}
	d := &document{manifest: m}
	if err := json.Unmarshal(content.Raw, &d.fields); err != nil {
		return nil, fmt.Errorf("%v: %w", err, oci.ErrManifestInvalid)
	}
	if raw, ok := d.fields[d.field()]; ok {
		if err := json.Unmarshal(raw, &d.entries); err != nil {
			return nil, fmt.Errorf("%v: %w", err, oci.ErrManifestInvalid)
		}
	}
	if len(d.entries) != len(d.descriptors()) { // both were read from the same list
		return nil, oci.ErrManifestInvalid
	}
	return d, nil
}

// add adds those entries of other that are wanted.
func (d *document) add(other *document, wanted map[oci.Digest]bool) {
	if d.manifest.IsIndex() != other.manifest.IsIndex() {
		return
	}
	mine, theirs := d.imageConfig(), other.imageConfig()
	for i := range other.entries {
		if !wanted[other.name(i)] {
			continue
		}
		delete(wanted, other.name(i)) // one that is listed twice is added once
		d.entries = append(d.entries, other.entries[i])
		if mine != nil {
			d.diffIDs = append(d.diffIDs, theirs.diffID(other.manifest, i))
			d.history = append(d.history, theirs.step(i))
			d.added = true
		}
	}
}

// marshal returns d as a manifest, and its config when that is an image's and was added to; nil otherwise.
func (d *document) marshal() (raw, config []byte, err error) {
	if d.added {
		if config, err = d.marshalConfig(); err != nil {
			return nil, nil, err
		}
		var desc map[string]json.RawMessage
		if err := json.Unmarshal(d.fields["config"], &desc); err != nil {
			return nil, nil, err
		}
		delete(desc, "data")
		set(desc, "digest", oci.FromBytes(config))
		set(desc, "size", len(config))
		set(d.fields, "config", desc)
	}
	set(d.fields, d.field(), d.entries)
	raw, err = json.Marshal(d.fields)
	return raw, config, err
}

// set writes v, which always marshals: it is made of what was unmarshalled.
func set(fields map[string]json.RawMessage, key string, v any) {
	b, err := json.Marshal(v)
	if err == nil {
		fields[key] = b
	}
}

// imageConfig is a config with something to say for each layer (image-spec, config.md).
type imageConfig struct {
	fields, rootFS map[string]json.RawMessage
	diffIDs        []json.RawMessage
	// history is nil when the config has none, or not one step for each layer.
	history []json.RawMessage
}

// imageConfig returns d's config; nil when it is not that of an image with as many layers. A config that says nothing of layers needs no
// uniting, and one that is wrong about them is not made right.
func (d *document) imageConfig() *imageConfig {
	var c imageConfig
	if json.Unmarshal(d.config, &c.fields) != nil || json.Unmarshal(c.fields["rootfs"], &c.rootFS) != nil {
		return nil
	}
	if json.Unmarshal(c.rootFS["diff_ids"], &c.diffIDs) != nil || len(c.diffIDs) != len(d.manifest.Layers) {
		return nil
	}
	if json.Unmarshal(c.fields["history"], &c.history) != nil || len(c.history) != len(c.diffIDs) {
		c.history = nil
	}
	return &c
}

// diffID returns what the config says layer i unpacks to. Signatures are not compressed: they are what they unpack to, if it says nothing.
func (c *imageConfig) diffID(m oci.Manifest, i int) json.RawMessage {
	if c != nil {
		return c.diffIDs[i]
	}
	return json.RawMessage(`"` + m.Layers[i].Digest.String() + `"`)
}

// step returns what the config says of how layer i came about.
func (c *imageConfig) step(i int) json.RawMessage {
	if c != nil && c.history != nil {
		return c.history[i]
	}
	return json.RawMessage(`{}`)
}

// marshalConfig returns d's config with what was added.
func (d *document) marshalConfig() ([]byte, error) {
	c := d.imageConfig()
	set(c.rootFS, "diff_ids", append(c.diffIDs, d.diffIDs...))
	set(c.fields, "rootfs", c.rootFS)
	if c.history != nil {
		set(c.fields, "history", append(c.history, d.history...))
	}
	return json.Marshal(c.fields)
}
