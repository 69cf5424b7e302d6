package oci

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func descriptorJSON(mediaType string, d Digest, size int64) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, d, size)
}

var (
	configJSON = descriptorJSON(MediaTypeConfig, digestA, 2)
	layerJSON  = descriptorJSON("application/vnd.oci.image.layer.v1.tar+gzip", digestB, 3)
	childJSON  = descriptorJSON(MediaTypeImage, digestA, 4)
)

// imageJSON is an image whose fields end with extra.
func imageJSON(extra string) string {
	return `{"schemaVersion":2,"config":` + configJSON + `,"layers":[` + layerJSON + `]` + extra + `}`
}

func indexJSON(extra string) string {
	return `{"schemaVersion":2,"manifests":[` + childJSON + `]` + extra + `}`
}

func TestParseManifest(t *testing.T) {
	config := Descriptor{MediaType: MediaTypeConfig, Digest: digestA, Size: 2}
	layer := Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: digestB, Size: 3}
	child := Descriptor{MediaType: MediaTypeImage, Digest: digestA, Size: 4}
	for _, tt := range []struct {
		law, mediaType, raw string
		want                Manifest
	}{
		{"an image", MediaTypeImage, imageJSON(""),
			Manifest{MediaType: MediaTypeImage, Config: config, Layers: []Descriptor{layer}}},
		{"an image that says what it is", MediaTypeDockerImage, imageJSON(`,"mediaType":"` + MediaTypeDockerImage + `"`),
			Manifest{MediaType: MediaTypeDockerImage, Config: config, Layers: []Descriptor{layer}}},
		{"an image with a subject", MediaTypeImage, imageJSON(`,"subject":` + childJSON + `,"artifactType":"a/b","annotations":{"k":"v"}`),
			Manifest{MediaType: MediaTypeImage, Config: config, Layers: []Descriptor{layer}, Subject: &child,
				ArtifactType: "a/b", Annotations: map[string]string{"k": "v"}}},
		{"an image without layers", MediaTypeImage, `{"schemaVersion":2,"config":` + configJSON + `}`,
			Manifest{MediaType: MediaTypeImage, Config: config}},
		{"an index", MediaTypeIndex, indexJSON(""), Manifest{MediaType: MediaTypeIndex, Manifests: []Descriptor{child}}},
		{"an index of nothing", MediaTypeDockerIndex, `{"schemaVersion":2,"manifests":[]}`,
			Manifest{MediaType: MediaTypeDockerIndex, Manifests: []Descriptor{}}},
		{"keys nobody knows", MediaTypeImage, imageJSON(`,"x":{"y":[1,null,true]}`),
			Manifest{MediaType: MediaTypeImage, Config: config, Layers: []Descriptor{layer}}},
		{"space around it", MediaTypeImage, " \n" + imageJSON("") + "\n",
			Manifest{MediaType: MediaTypeImage, Config: config, Layers: []Descriptor{layer}}},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got, err := ParseManifest(tt.mediaType, []byte(tt.raw))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseManifestRefuses(t *testing.T) {
	entries := strings.Repeat(layerJSON+",", maxManifestEntries) + layerJSON
	for _, tt := range []struct{ law, mediaType, raw, wantWhy string }{
		{"nothing", MediaTypeImage, ``, "it is not JSON"},
		{"null", MediaTypeImage, `null`, "its schemaVersion is not 2"},
		{"a number", MediaTypeImage, `2`, "it is not the JSON of a manifest"},
		{"an array", MediaTypeImage, `[]`, "it is not the JSON of a manifest"},
		{"an object cut short", MediaTypeImage, imageJSON("")[:40], "it is not JSON"},
		{"an object that ends after a value", MediaTypeImage, `{"a":[1`, "it is not JSON"},
		{"a key that is no string", MediaTypeImage, `{1:2}`, "it is not JSON"},
		{"two objects", MediaTypeImage, imageJSON("") + imageJSON(""), "something follows its end"},
		{"something behind it", MediaTypeImage, imageJSON("") + "x", "something follows its end"},
		{"schema 1", MediaTypeImage, `{"schemaVersion":1,"config":` + configJSON + `}`, "schema 1 is not supported"},
		{"schema 1 in the guise of schema 2", MediaTypeImage, imageJSON(`,"fsLayers":[]`), "schema 1 is not supported"},
		{"schema 3", MediaTypeImage, strings.Replace(imageJSON(""), "2", "3", 1), "its schemaVersion is not 2"},
		{"a type other than announced", MediaTypeImage, imageJSON(`,"mediaType":"` + MediaTypeIndex + `"`), "calls itself"},
		{"an index announced as an image", MediaTypeImage, indexJSON(""), "an image has a config and no manifests"},
		{"an image announced as an index", MediaTypeIndex, imageJSON(""), "an index has manifests"},
		{"an image that lists manifests", MediaTypeImage, imageJSON(`,"manifests":[]`), "an image has a config and no manifests"},
		{"an index that lists layers", MediaTypeIndex, indexJSON(`,"layers":[]`), "neither config nor layers"},
		{"an index with a config", MediaTypeIndex, indexJSON(`,"config":` + configJSON), "neither config nor layers"},
		{"a type nobody knows", "application/json", imageJSON(""), "is not supported"},
		{"no type", "", imageJSON(""), "is not supported"},
		{"a key twice", MediaTypeImage, imageJSON(`,"layers":[]`), `the key "layers" occurs twice`},
		{"a key twice by an escape", MediaTypeImage, imageJSON(`,"layer\u0073":[]`), `the key "layers" occurs twice`},
		{"a key twice, deep inside", MediaTypeImage, imageJSON(`,"x":[{"y":1,"y":2}]`), `the key "y" occurs twice`},
		{"a key in capitals", MediaTypeImage, imageJSON(`,"Layers":[]`), `the key "Layers" differs`},
		{"a key with a long s, which Go takes for one", MediaTypeImage, imageJSON(`,"layerſ":[]`), `the key "layerſ" differs`},
		{"a key with one capital", MediaTypeIndex, indexJSON(`,"conFig":null`), `the key "conFig" differs`},
		{"a descriptor's key in capitals", MediaTypeImage, imageJSON(`,"subject":{"Digest":"x"}`), `the key "Digest" differs`},
		{"a digest cut short", MediaTypeImage, strings.Replace(imageJSON(""), hexA, hexA[1:], 1), "is malformed"},
		{"a layer of sha512", MediaTypeImage, strings.Replace(imageJSON(""), string(digestA), "sha512:"+hexA+hexA, 1), "is not supported, only sha256"},
		{"a layer of nothing", MediaTypeImage, strings.Replace(imageJSON(""), layerJSON, "null", 1), "is malformed"},
		{"a layer without a type", MediaTypeImage, imageJSON(`,"subject":` + descriptorJSON("", digestA, 1)), "no media type"},
		{"a negative size", MediaTypeImage, strings.Replace(imageJSON(""), `"size":3`, `"size":-3`, 1), "impossible size"},
		{"a size whose sum overflows", MediaTypeImage, strings.Replace(imageJSON(""), `"size":3`, fmt.Sprintf(`"size":%d`, int64(math.MaxInt64)), 1), "impossible size"},
		{"a size that is no integer", MediaTypeImage, strings.Replace(imageJSON(""), `"size":3`, `"size":3.5`, 1), "it is not the JSON of a manifest"},
		{"a subject without a digest", MediaTypeImage, imageJSON(`,"subject":{}`), "is malformed"},
		{"a child that is a layer", MediaTypeIndex, strings.Replace(indexJSON(""), MediaTypeImage, "application/x-tar", 1), "unsupported media type"},
		{"too many layers", MediaTypeImage, strings.Replace(imageJSON(""), layerJSON, entries, 1), "more than 1024 entries"},
		{"too deep", MediaTypeImage, imageJSON(`,"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40)), "nested deeper"},
		{"too large", MediaTypeImage, imageJSON(`,"x":"` + strings.Repeat("x", MaxManifestBytes) + `"`), "it is larger"},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got, err := ParseManifest(tt.mediaType, []byte(tt.raw))
			if !errors.Is(err, ErrManifestInvalid) || !strings.Contains(err.Error(), tt.wantWhy) {
				t.Fatalf("got %v, want one that says %q", err, tt.wantWhy)
			}
			if diff := cmp.Diff(Manifest{}, got); diff != "" {
				t.Errorf("it refuses and returns (-want +got):\n%s", diff)
			}
		})
	}
}

func TestManifestViews(t *testing.T) {
	image, err := ParseManifest(MediaTypeImage, []byte(imageJSON("")))
	if err != nil {
		t.Fatal(err)
	}
	var got []Digest
	for _, d := range image.Blobs() {
		got = append(got, d.Digest)
	}
	if diff := cmp.Diff([]Digest{digestA, digestB}, got); diff != "" {
		t.Errorf("the config first, then the layers (-want +got):\n%s", diff)
	}
	if image.IsIndex() || !(Manifest{MediaType: MediaTypeDockerIndex}).IsIndex() {
		t.Error("the media type says which is an index")
	}
	if got := (Manifest{MediaType: MediaTypeIndex, Layers: []Descriptor{{}}}).Blobs(); got != nil {
		t.Errorf("an index has no blobs, got %v", got)
	}
	signature, layer := Descriptor{MediaType: MediaTypeSimpleSigning}, Descriptor{MediaType: "application/x-tar"}
	for _, tt := range []struct {
		law    string
		layers []Descriptor
		want   bool
	}{
		{"no layers are no evidence", nil, false},
		{"a signature is", []Descriptor{signature, signature}, true},
		{"a layer among signatures is not", []Descriptor{signature, layer}, false},
	} {
		if got := (Manifest{Layers: tt.layers}).IsEvidence(); got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.law, got, tt.want)
		}
	}
	for in, want := range map[string]string{
		"Application/JSON; charset=utf-8": "application/json", "": "", "a/b;": "a/b", "a b/c": "", "text/plain; =": "",
	} {
		if got := BaseMediaType(in); got != want {
			t.Errorf("BaseMediaType(%q) = %q, want %q", in, got, want)
		}
	}
}

// FuzzParseManifest holds that what is accepted is one thing or the other, bounded, and made of well-formed descriptors whose sizes
// can be added up.
func FuzzParseManifest(f *testing.F) {
	f.Add(uint8(0), []byte(imageJSON("")))
	f.Add(uint8(1), []byte(indexJSON("")))
	f.Add(uint8(2), []byte(imageJSON(`,"subject":`+childJSON)))
	f.Add(uint8(0), []byte(imageJSON(`,"layerſ":[]`)))
	f.Add(uint8(0), []byte(`{"schemaVersion":2,"schemaVersion":1}`))
	f.Fuzz(func(t *testing.T, kind uint8, raw []byte) {
		types := ManifestMediaTypes()
		mediaType := types[int(kind)%len(types)]
		m, err := ParseManifest(mediaType, raw)
		if err != nil {
			if !errors.Is(err, ErrManifestInvalid) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if m.MediaType != mediaType || m.IsIndex() == (m.Config.Digest != "") || m.IsIndex() && len(m.Layers) > 0 || !m.IsIndex() && m.Manifests != nil {
			t.Fatalf("%s is neither image nor index: %+v", raw, m)
		}
		sum := int64(0)
		for _, d := range append(m.Blobs(), m.Manifests...) {
			if _, err := ParseDigest(d.Digest.String()); err != nil || d.Size < 0 || d.MediaType == "" {
				t.Fatalf("%s has the descriptor %+v", raw, d)
			}
			if sum += d.Size; sum < 0 {
				t.Fatalf("the sizes of %s overflow", raw)
			}
		}
	})
}

func TestDescriptorsThatCarryContent(t *testing.T) {
	digest := FromBytes([]byte("x")).String()
	layer := `{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` + digest + `","size":1`
	config := `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":1}`
	empty := `{"mediaType":"application/vnd.oci.empty.v1+json","digest":"` + FromBytes([]byte("{}")).String() + `","size":2,"data":"`
	child := `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + digest + `","size":1`
	image := func(config, layer, more string) string {
		return `{"schemaVersion":2,"mediaType":"` + MediaTypeImage + `","config":` + config + `,"layers":[` + layer + `]` + more + `}`
	}
	for name, tt := range map[string]struct {
		mediaType, raw string
		ok             bool
	}{
		"none":             {MediaTypeImage, image(config, layer+`}`, ""), true},
		"the empty config": {MediaTypeImage, image(empty+`e30="}`, layer+`}`, ""), true},
		"another config":   {MediaTypeImage, image(empty+`eHg="}`, layer+`}`, ""), false},
		"a layer":          {MediaTypeImage, image(config, layer+`,"data":"eA=="}`, ""), true},
		"another layer":    {MediaTypeImage, image(config, layer+`,"data":"eQ=="}`, ""), false},
		"a longer layer":   {MediaTypeImage, image(config, layer+`,"data":"eHg="}`, ""), false},
		"a subject":        {MediaTypeImage, image(config, layer+`}`, `,"subject":`+child+`,"data":"eA=="}`), false},
		"a child":          {MediaTypeIndex, `{"schemaVersion":2,"mediaType":"` + MediaTypeIndex + `","manifests":[` + child + `,"data":"eA=="}]}`, false},
		"a child without":  {MediaTypeIndex, `{"schemaVersion":2,"mediaType":"` + MediaTypeIndex + `","manifests":[` + child + `}]}`, true},
	} {
		if _, err := ParseManifest(tt.mediaType, []byte(tt.raw)); (err == nil) != tt.ok {
			t.Errorf("%s: got %v, want accepted %t", name, err, tt.ok)
		}
	}
}
