package hosted

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// signers is how many sign at once.
const signers = 8

// stored returns what a tag stands for, parsed.
func (w *world) stored(t *testing.T, tag string) (oci.Content, oci.Manifest) {
	t.Helper()
	found, err := w.Resolve(t.Context(), web, tag)
	if errors.Is(err, oci.ErrNotFound) {
		return oci.Content{}, oci.Manifest{}
	}
	if err != nil {
		t.Fatal(err)
	}
	content, err := w.storage.Manifest(t.Context(), gate.Candidate{Repository: web, Digest: found.Pushed.Digest})
	if err != nil {
		t.Fatal(err)
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		t.Fatal(err)
	}
	return content, m
}

// signedUnder returns the signatures a tag stands for, sorted, and checks that the image they lie in is in order.
func (w *world) signedUnder(t *testing.T, tag string) []string {
	t.Helper()
	_, m := w.stored(t, tag)
	var signed []string
	for _, layer := range m.Layers {
		signed = append(signed, layer.Annotations["dev.cosignproject.cosign/signature"])
	}
	if len(m.Layers) == 0 {
		return nil
	}
	raw, err := w.storage.ReadBlob(t.Context(), web, m.Config, maxConfigBytes)
	if err != nil || int64(len(raw)) != m.Config.Size {
		t.Fatalf("the config of %s: %d bytes, %v, want %d", tag, len(raw), err, m.Config.Size)
	}
	var config struct {
		History []struct {
			CreatedBy string `json:"created_by"`
		} `json:"history"`
		RootFS struct {
			Type    string       `json:"type"`
			DiffIDs []oci.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	var diffIDs []oci.Digest
	var history []string
	for i, layer := range m.Layers {
		diffIDs = append(diffIDs, layer.Digest)
		history = append(history, config.History[i].CreatedBy)
	}
	if diff := cmp.Diff(config.RootFS.DiffIDs, diffIDs); diff != "" || config.RootFS.Type != "layers" {
		t.Errorf("the diffIDs of %s, type %q (-got +want):\n%s", tag, config.RootFS.Type, diff)
	}
	if diff := cmp.Diff(history, signed); diff != "" {
		t.Errorf("the history of %s (-got +want):\n%s", tag, diff)
	}
	slices.Sort(signed)
	return signed
}

// listedUnder returns the manifests a list of referrers has, sorted.
func (w *world) listedUnder(t *testing.T, tag string) []oci.Digest {
	t.Helper()
	_, m := w.stored(t, tag)
	var listed []oci.Digest
	for _, d := range m.Manifests {
		listed = append(listed, d.Digest)
	}
	slices.Sort(listed)
	return listed
}

// TestOfSignersAtTheSameTimeNoneIsLost has each write back what it read, as clients do, all having read the same.
func TestOfSignersAtTheSameTimeNoneIsLost(t *testing.T) {
	for name, skew := range map[string]time.Duration{"replicas that agree on the time": 0, "and that do not": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			s, c := newStorage(), &clock{}
			replicas := []*world{start(t, s, c, rule(t, Immutable, "apps/**")), startSkewed(t, s, c, skew, rule(t, Immutable, "apps/**"))}
			first := replicas[0]
			image := first.push(t, "v1", first.image(t, "image"))
			tags := evidenceTags(image.Digest)
			first.push(t, tags[1], first.signatures(t, "before"))
			wantSigned, wantListed := []string{"before"}, []oci.Digest(nil)
			var all sync.WaitGroup
			for n := range signers {
				w := replicas[n%2]
				signed := w.signatures(t, "before", fmt.Sprint(n))
				bundle := w.referrer(t, image.Digest, fmt.Sprint(n))
				wantSigned, wantListed = append(wantSigned, fmt.Sprint(n)), append(wantListed, bundle.Digest)
				all.Go(func() { w.push(t, tags[1], signed) })
				all.Go(func() {
					w.push(t, "", bundle)
					w.push(t, tags[0], index(t, bundle.Descriptor()))
				})
			}
			all.Wait()
			slices.Sort(wantSigned)
			slices.Sort(wantListed)
			for _, w := range append(replicas, start(t, s, c)) {
				c.pass(maxAge)
				if diff := cmp.Diff(w.signedUnder(t, tags[1]), wantSigned); diff != "" {
					t.Errorf("signatures (-got +want):\n%s", diff)
				}
				if diff := cmp.Diff(w.listedUnder(t, tags[0]), wantListed); diff != "" {
					t.Errorf("referrers by tag (-got +want):\n%s", diff)
				}
				referrers, err := w.Referrers(t.Context(), web, image.Digest)
				if len(referrers) != signers || err != nil {
					t.Errorf("Referrers: got %d, %v, want %d", len(referrers), err, signers)
				}
			}
		})
	}
}

func TestWhatAnEvidenceTagKeeps(t *testing.T) {
	w := start(t, newStorage(), &clock{})
	image := w.push(t, "latest", w.image(t, "image"))
	tags := evidenceTags(image.Digest)
	bundles := map[string]oci.Descriptor{}
	for _, name := range []string{"a", "b", "c"} {
		bundles[name] = w.push(t, "", w.referrer(t, image.Digest, name))
	}
	list := func(names ...string) oci.Content {
		var ds []oci.Descriptor
		for _, name := range names {
			ds = append(ds, bundles[name])
		}
		return index(t, ds...)
	}
	wantListed := func(t *testing.T, names ...string) {
		t.Helper()
		var want []oci.Digest
		for _, name := range names {
			want = append(want, bundles[name].Digest)
		}
		slices.Sort(want)
		if diff := cmp.Diff(w.listedUnder(t, tags[0]), want); diff != "" {
			t.Errorf("referrers by tag (-got +want):\n%s", diff)
		}
	}
	t.Run("what is pushed as it is, when that has everything", func(t *testing.T) {
		w.push(t, tags[0], list("a"))
		w.push(t, tags[0], list("a", "b"))
		w.wantTag(t, tags[0], list("a", "b").Digest, "")
		w.push(t, tags[1], w.signatures(t, "a"))
		both := w.signatures(t, "a", "b")
		w.push(t, tags[1], both)
		w.wantTag(t, tags[1], both.Digest, "")
	})
	t.Run("what was there, when it does not", func(t *testing.T) {
		w.push(t, tags[0], list("c"))
		wantListed(t, "a", "b", "c")
		w.push(t, tags[1], w.signatures(t, "c"))
		if diff := cmp.Diff(w.signedUnder(t, tags[1]), []string{"a", "b", "c"}); diff != "" {
			t.Errorf("signatures (-got +want):\n%s", diff)
		}
	})
	t.Run("the same, when the same is pushed again", func(t *testing.T) {
		before, _ := w.stored(t, tags[0])
		w.push(t, tags[0], list("c"))
		w.wantTag(t, tags[0], before.Digest, "")
	})
	t.Run("nothing that was deleted", func(t *testing.T) {
		if err := w.DeleteManifest(t.Context(), web, bundles["b"].Digest, "user:ci"); err != nil {
			t.Fatal(err)
		}
		w.push(t, tags[0], list("a"))
		wantListed(t, "a", "c")
	})
	t.Run("what a deleted list held, if another holds it", func(t *testing.T) { // as notation leaves it
		before, _ := w.stored(t, tags[0])
		w.push(t, tags[0], list("a"))
		after, _ := w.stored(t, tags[0])
		if err := w.DeleteManifest(t.Context(), web, list("a").Digest, "user:ci"); err != nil {
			t.Fatal(err)
		}
		if before.Digest != after.Digest {
			t.Errorf("got another union, %s, want %s", after.Digest, before.Digest)
		}
		wantListed(t, "a", "c")
	})
	t.Run("nothing from before it was deleted", func(t *testing.T) {
		for _, tag := range tags[:2] {
			if err := w.DeleteTag(t.Context(), web, tag, "user:ci"); err != nil {
				t.Fatal(err)
			}
		}
		w.push(t, tags[0], list("c"))
		wantListed(t, "c")
		w.push(t, tags[1], w.signatures(t, "c"))
		if diff := cmp.Diff(w.signedUnder(t, tags[1]), []string{"c"}); diff != "" {
			t.Errorf("signatures (-got +want):\n%s", diff)
		}
	})
	t.Run("its form", func(t *testing.T) { // or whoever signs could take away what others have signed
		for _, tt := range []struct {
			tag string
			odd oci.Content
		}{{tags[0], w.image(t, "odd")}, {tags[1], index(t, image)}, {tags[1], w.signatures(t)}} {
			before, _ := w.stored(t, tt.tag)
			if _, err := w.Put(t.Context(), web, Reference{Tag: tt.tag}, tt.odd, "user:signer"); code(err) != oci.CodeDenied {
				t.Errorf("%s: got %v, want it denied", tt.tag, err)
			}
			w.wantTag(t, tt.tag, before.Digest, "")
		}
		wantListed(t, "c")
	})
	t.Run("whatever it is first given", func(t *testing.T) {
		odd := w.image(t, "odd")
		w.push(t, tags[3], odd)
		w.push(t, tags[3], w.image(t, "another"))
		if err := w.DeleteTag(t.Context(), web, tags[0], "user:ci"); err != nil {
			t.Fatal(err)
		}
		w.push(t, tags[0], odd)
		w.wantTag(t, tags[0], odd.Digest, "")
		w.push(t, tags[0], list("a"))
		wantListed(t, "a")
	})
}

// TestATagIsWholeAfterAReplicaDied has two replicas push at the same time, and the later one die before it can unite.
func TestATagIsWholeAfterAReplicaDied(t *testing.T) {
	s, c := newStorage(), &clock{}
	w := start(t, s, c)
	tag := evidenceTags(digestOf(1))[1]
	for _, signed := range []string{"a", "b"} {
		content := w.signatures(t, signed)
		if err := s.PutManifest(t.Context(), gate.Candidate{Repository: web, Digest: content.Digest}, content); err != nil {
			t.Fatal(err)
		}
		m, err := oci.ParseManifest(content.MediaType, content.Raw)
		if err != nil {
			t.Fatal(err)
		}
		e := pushEvent(content, m, Reference{Tag: tag}, "user:ci")
		e.At = c.now()
		if _, err := (&replica{storage: s, last: int64(len(s.events[web]))}).Append(t.Context(), web, e); err != nil {
			t.Fatal(err)
		}
		c.pass(time.Second)
	}
	if diff := cmp.Diff(w.signedUnder(t, tag), []string{"a", "b"}); diff != "" {
		t.Errorf("signatures (-got +want):\n%s", diff)
	}
	t.Run("and stays as it is if it cannot be", func(t *testing.T) {
		w := start(t, s, c)
		for name, e := range s.events[web] {
			if e.By == itself {
				delete(s.events[web], name)
			}
		}
		delete(s.blobs[web], oci.FromBytes([]byte("payload")))
		for range 3 {
			if diff := cmp.Diff(w.signedUnder(t, tag), []string{"b"}); diff != "" {
				t.Errorf("signatures (-got +want):\n%s", diff)
			}
		}
		if got := s.calls["PutBlob"]; got > 2 { // one that worked, one that did not
			t.Errorf("it was tried %d times", got-1)
		}
	})
}

// TestATagThatIsFullTakesNoMore pushes more layers than a manifest may have, in two parts.
func TestATagThatIsFullTakesNoMore(t *testing.T) {
	w := start(t, newStorage(), &clock{})
	tag := evidenceTags(digestOf(1))[1]
	var first, second []string
	for n := range 1000 {
		first, second = append(first, fmt.Sprint("first ", n)), append(second, fmt.Sprint("second ", n))
	}
	full := w.push(t, tag, w.signatures(t, first...))
	events := len(w.storage.events[web])
	_, err := w.Put(t.Context(), web, Reference{Tag: tag}, w.signatures(t, second...), "user:ci")
	if code(err) != oci.CodeDenied || len(w.storage.events[web]) != events {
		t.Errorf("Put: got %v, %d events, want it denied and none", err, len(w.storage.events[web])-events)
	}
	w.wantTag(t, tag, full.Digest, "")
}

func TestSignaturesWhoseBlobsAreGoneKeepNobodyFromSigning(t *testing.T) {
	w := start(t, newStorage(), &clock{})
	tag := evidenceTags(digestOf(1))[1]
	layer := w.storage.blob("another payload")
	layer.MediaType = oci.MediaTypeSimpleSigning
	config := w.storage.blob("{}")
	config.MediaType = oci.MediaTypeConfig
	w.push(t, tag, contentOf(t, oci.MediaTypeImage, wire{"config": config, "layers": []oci.Descriptor{layer}}))
	delete(w.storage.blobs[web], layer.Digest)
	w.push(t, tag, w.signatures(t, "b"))
	if diff := cmp.Diff(w.signedUnder(t, tag), []string{"b"}); diff != "" {
		t.Errorf("signatures (-got +want):\n%s", diff)
	}
}

func TestUniting(t *testing.T) {
	for _, tt := range []struct {
		name                    string
		mine, theirs            string
		mineConfig, theirConfig string
		wantLayers, wantConfig  string
	}{
		{
			"what is not known is kept",
			`{"schemaVersion":2,"config":{"mediaType":"c","digest":"D","size":2,"x":1},"layers":[{"mediaType":"m","digest":"A","size":1,"x":[1]}],"y":{"z":null}}`,
			`{"schemaVersion":2,"config":{"mediaType":"c","digest":"D","size":2},"layers":[{"mediaType":"m","digest":"B","size":1,"w":"<"}]}`,
			`{"os":"","rootfs":{"type":"layers","diff_ids":["A"],"q":1},"r":2}`, `{"rootfs":{"diff_ids":["other"]}}`,
			`[{"mediaType":"m","digest":"A","size":1,"x":[1]},{"mediaType":"m","digest":"B","size":1,"w":"\u003c"}]`,
			`{"os":"","r":2,"rootfs":{"diff_ids":["A","other"],"q":1,"type":"layers"}}`,
		},
		{
			"a config that says nothing of layers stays",
			`{"schemaVersion":2,"config":{"mediaType":"c","digest":"D","size":2},"layers":[{"mediaType":"m","digest":"A","size":1}]}`,
			`{"schemaVersion":2,"config":{"mediaType":"c","digest":"D","size":2},"layers":[{"mediaType":"m","digest":"B","size":1}]}`,
			`{}`, `{"rootfs":{"diff_ids":["B"]}}`,
			`[{"mediaType":"m","digest":"A","size":1},{"mediaType":"m","digest":"B","size":1}]`, ``,
		},
		{
			"what a config does not say follows from the layer",
			`{"schemaVersion":2,"config":{"mediaType":"c","digest":"D","size":2},"layers":[{"mediaType":"m","digest":"A","size":1}]}`,
			`{"schemaVersion":2,"config":{"mediaType":"c","digest":"D","size":2},"layers":[{"mediaType":"m","digest":"A","size":1},{"mediaType":"m","digest":"B","size":1},{"mediaType":"m","digest":"B","size":1}]}`,
			`{"history":[{"created_by":"a"}],"rootfs":{"diff_ids":["A"]}}`, `not JSON`,
			`[{"mediaType":"m","digest":"A","size":1},{"mediaType":"m","digest":"B","size":1}]`,
			`{"history":[{"created_by":"a"},{}],"rootfs":{"diff_ids":["A","B"]}}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			named := func(s string) []byte { // digests are long
				for _, letter := range []string{"A", "B", "D"} {
					s = replaceQuoted(s, letter, oci.FromBytes([]byte(letter)).String())
				}
				return []byte(s)
			}
			mine, err := parseDocument(oci.Content{MediaType: oci.MediaTypeImage, Raw: named(tt.mine)})
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := parseDocument(oci.Content{MediaType: oci.MediaTypeImage, Raw: named(tt.theirs)})
			if err != nil {
				t.Fatal(err)
			}
			mine.config, theirs.config = named(tt.mineConfig), named(tt.theirConfig)
			wanted := map[oci.Digest]bool{entryName(oci.Descriptor{Digest: oci.FromBytes([]byte("B"))}): true}
			mine.add(theirs, wanted)
			raw, config, err := mine.marshal()
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				Layers json.RawMessage
				Config oci.Descriptor
				Y      json.RawMessage
			}
			if err := json.Unmarshal(raw, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(got.Layers), string(named(tt.wantLayers))); diff != "" {
				t.Errorf("layers (-got +want):\n%s", diff)
			}
			if diff := cmp.Diff(string(config), string(named(tt.wantConfig))); diff != "" {
				t.Errorf("config (-got +want):\n%s", diff)
			}
			if want := oci.FromBytes(config); config != nil && (got.Config.Digest != want || got.Config.Size != int64(len(config))) {
				t.Errorf("the manifest refers to the config %s of %d bytes, want %s of %d", got.Config.Digest, got.Config.Size, want, len(config))
			}
		})
	}
}

func replaceQuoted(s, old, with string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if i+2 < len(s) && s[i:i+3] == `"`+old+`"` {
			out = append(out, `"`+with+`"`...)
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

// FuzzUniting unites hostile manifests: what comes out is a manifest, with everything that was in either, and the same each time.
func FuzzUniting(f *testing.F) {
	digest := oci.FromBytes(nil).String()
	layer := func(annotation string) string {
		return `{"mediaType":"m","digest":"` + digest + `","size":0,"annotations":{"a":"` + annotation + `"}}`
	}
	image := func(layers string) []byte {
		return []byte(`{"schemaVersion":2,"config":{"mediaType":"c","digest":"` + digest + `","size":0},"layers":[` + layers + `]}`)
	}
	config := []byte(`{"rootfs":{"type":"layers","diff_ids":["` + digest + `"]},"history":[{}]}`)
	f.Add(false, image(layer("1")), image(layer("2")), config, config)
	f.Add(false, image(layer("1")+","+layer("1")), image(""), []byte(`{"rootfs":{"diff_ids":null}}`), []byte(`[]`))
	f.Add(false, image(""), image(layer("<")), []byte(`{"rootfs":{"diff_ids":[]}}`), []byte(`{"rootfs":{"diff_ids":[{"a":1}]}}`))
	f.Add(true, []byte(`{"schemaVersion":2,"manifests":[]}`),
		[]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"`+digest+`","size":0}]}`), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, isIndex bool, one, two, oneConfig, twoConfig []byte) {
		mediaType := oci.MediaTypeImage
		if isIndex {
			mediaType = oci.MediaTypeIndex
		}
		unite := func() (raw, config []byte, names map[oci.Digest]bool) {
			mine, err := parseDocument(oci.Content{MediaType: mediaType, Raw: one})
			if err != nil {
				t.Skip()
			}
			theirs, err := parseDocument(oci.Content{MediaType: mediaType, Raw: two})
			if err != nil {
				t.Skip()
			}
			mine.config, theirs.config = oneConfig, twoConfig
			names, wanted := map[oci.Digest]bool{}, map[oci.Digest]bool{}
			for i := range theirs.entries {
				names[theirs.name(i)], wanted[theirs.name(i)] = true, true
			}
			for i := range mine.entries {
				names[mine.name(i)] = true
				delete(wanted, mine.name(i))
			}
			mine.add(theirs, wanted)
			raw, config, err = mine.marshal()
			if err != nil {
				t.Fatalf("marshal: %v", err)
			}
			return raw, config, names
		}
		raw, config, names := unite()
		again, _, _ := unite()
		if string(raw) != string(again) {
			t.Errorf("got two manifests:\n%s\n%s", raw, again)
		}
		united, err := parseDocument(oci.Content{MediaType: mediaType, Raw: raw})
		if len(raw) > oci.MaxManifestBytes || len(names) > 1024 { // refused as too large
			t.Skip()
		}
		if err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
		for i := range united.entries {
			delete(names, united.name(i))
		}
		if len(names) > 0 {
			t.Errorf("%d entries are lost: %s", len(names), raw)
		}
		if united.config = config; config != nil && united.imageConfig() == nil {
			t.Errorf("the config is none: %s", config)
		}
	})
}
