package hosted

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestWhatIsPushedIsThere(t *testing.T) {
	s, c := newStorage(), &clock{}
	w := start(t, s, c)
	one, two := w.image(t, "one"), w.image(t, "two")
	w.push(t, "latest", one)
	w.push(t, "", two)
	check := func(t *testing.T, w *world) {
		w.wantTag(t, "latest", one.Digest, "")
		w.wantTag(t, "never", "", "")
		for _, content := range []oci.Content{one, two} {
			got, err := w.Stat(t.Context(), web, content.Digest)
			if diff := cmp.Diff(got, content.Descriptor()); diff != "" || err != nil {
				t.Errorf("Stat: %v (-got +want):\n%s", err, diff)
			}
		}
		if _, err := w.Stat(t.Context(), web, oci.FromBytes(nil)); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("Stat of another: got %v, want oci.ErrNotFound", err)
		}
		repos, err := w.Repositories.Repositories(t.Context())
		if diff := cmp.Diff(repos, []oci.Repository{web}); diff != "" || err != nil {
			t.Errorf("Repositories: %v (-got +want):\n%s", err, diff)
		}
	}
	t.Run("to who pushed it", func(t *testing.T) { check(t, w) })
	t.Run("after a restart", func(t *testing.T) { check(t, start(t, s, c)) })
	t.Run("after it was forgotten", func(t *testing.T) {
		w.limits.folded = 0
		if _, err := w.Stat(t.Context(), oci.Repository{Path: "apps/other"}, one.Digest); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("Stat elsewhere: got %v, want oci.ErrNotFound", err)
		}
		if got := len(w.repositories); got != 0 {
			t.Errorf("got %d repositories in memory, want none", got)
		}
		check(t, w)
	})
}

func TestWhatIsRefused(t *testing.T) {
	w := start(t, newStorage(), &clock{}, rule(t, ImmutableSemver, "apps/**"))
	one, two := w.image(t, "one"), w.image(t, "two")
	w.push(t, "v1.2.3", one)
	w.push(t, "1.2", one)
	here := one.Descriptor()
	larger := here
	larger.Size++
	foreign := contentOf(t, oci.MediaTypeImage, wire{"config": oci.Descriptor{MediaType: oci.MediaTypeConfig, Digest: digestOf(1), Size: 1}})
	confused := two
	confused.MediaType = oci.MediaTypeIndex
	verbose := contentOf(t, oci.MediaTypeIndex, wire{
		"manifests": []any{}, "subject": here, "annotations": map[string]string{"long": strings.Repeat("x", maxAnnotationBytes)},
	})
	for _, tt := range []struct {
		name    string
		repo    oci.Repository
		ref     Reference
		content oci.Content
		want    oci.Code
	}{
		{"nothing, of an image", web, Reference{Tag: "latest"}, two, ""},
		{"a repository that is not hosted", oci.Repository{Path: "other/web"}, Reference{Tag: "latest"}, two, oci.CodeNameUnknown},
		{"a repository of an upstream", oci.Repository{Upstream: "docker.io", Path: "apps/web"}, Reference{Tag: "latest"}, two, oci.CodeNameUnknown},
		{"a digest that is another's", web, Reference{Digest: one.Digest}, two, oci.CodeDigestInvalid},
		{"a tag that is none", web, Reference{Tag: "../latest"}, two, oci.CodeTagInvalid},
		{"a digest that is right and a tag that is none", web, Reference{Digest: two.Digest, Tag: "../latest"}, two, oci.CodeTagInvalid},
		{"nothing, of a digest that is right and a tag", web, Reference{Digest: two.Digest, Tag: "both"}, two, ""},
		{"no reference", web, Reference{}, two, oci.CodeTagInvalid},
		{"what is no manifest", web, Reference{Tag: "latest"}, oci.Content{MediaType: oci.MediaTypeImage, Raw: []byte("{}")}, oci.CodeManifestInvalid},
		{"an image called an index", web, Reference{Tag: "latest"}, confused, oci.CodeManifestInvalid},
		{"schema 1", web, Reference{Tag: "latest"}, oci.Content{
			MediaType: "application/vnd.docker.distribution.manifest.v1+json", Raw: []byte(`{"schemaVersion":1,"fsLayers":[]}`),
		}, oci.CodeManifestInvalid},
		{"too many annotations", web, Reference{Tag: "latest"}, verbose, oci.CodeManifestInvalid},
		{"blobs that are not there", web, Reference{Tag: "latest"}, foreign, oci.CodeManifestBlobUnknown},
		{"an index whose child is not there", web, Reference{Tag: "latest"}, index(t, oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: digestOf(1), Size: 1}), oci.CodeManifestBlobUnknown},
		{"an index whose child is smaller", web, Reference{Tag: "latest"}, index(t, larger), oci.CodeManifestBlobUnknown},
		{"nothing, of an index", web, Reference{Tag: "latest"}, index(t, here), ""},
		{"nothing, of a list of referrers", web, Reference{Tag: evidenceTags(one.Digest)[0]}, index(t, oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: digestOf(1), Size: 1}), ""},
		{"an immutable tag that stands for another", web, Reference{Tag: "v1.2.3"}, two, oci.CodeDenied},
		{"nothing, of an immutable tag again", web, Reference{Tag: "v1.2.3"}, one, ""},
		{"nothing, of a tag that is no full version", web, Reference{Tag: "1.2"}, two, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(w.storage.events[web])
			_, err := w.Put(t.Context(), tt.repo, tt.ref, tt.content, "user:ci")
			if got := code(err); got != tt.want {
				t.Errorf("Put: got %v (%v), want code %q", got, err, tt.want)
			}
			if after := len(w.storage.events[web]); tt.want != "" && after != before {
				t.Errorf("got %d events of it, want none", after-before)
			}
		})
	}
}

// TestNothingAcknowledgedIsLost kills a process, by failing the storage, at each step of a push and of a removal.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	for _, before := range []bool{true, false} {
		for n := range 12 {
			t.Run(fmt.Sprintf("step %d, before it %t", n, before), func(t *testing.T) {
				s, c := newStorage(), &clock{}
				w := start(t, s, c)
				one, two := w.image(t, "one"), w.image(t, "two")
				sigs := []oci.Content{w.signatures(t, "a"), w.signatures(t, "b")}
				tag := evidenceTags(one.Digest)[1]
				w.push(t, "latest", one)
				w.push(t, "old", one)
				s.changes = 0
				s.step = func(_ string, at int) (bool, error) {
					if at > n {
						return before || at > n+1, errDisk // everything fails from here on, the first perhaps after it was done
					}
					return false, nil
				}
				var done []string
				try := func(what string, err error) {
					if err == nil {
						done = append(done, what)
					}
				}
				put := func(tag string, content oci.Content) error {
					_, err := w.Put(t.Context(), web, reference(tag, content), content, "user:ci")
					return err
				}
				try("moved", put("latest", two))
				try("signed a", put(tag, sigs[0]))
				try("signed b", put(tag, sigs[1]))
				try("untagged", w.DeleteTag(t.Context(), web, "old", "user:ci"))
				try("deleted", w.DeleteManifest(t.Context(), web, one.Digest, "user:ci"))
				s.step = nil
				restarted := start(t, s, c)
				holds := restarted.whatHolds(t, one, two, tag)
				for _, what := range done {
					if !slices.Contains(holds, what) {
						t.Errorf("%q was acknowledged, and is not so after a restart: %v", what, holds)
					}
				}
				restarted.wantWhole(t)
			})
		}
	}
}

// whatHolds returns which of the steps of [TestNothingAcknowledgedIsLost] have left their mark.
func (w *world) whatHolds(t *testing.T, one, two oci.Content, tag string) []string {
	t.Helper()
	var holds []string
	note := func(what string, holds0 bool) {
		if holds0 {
			holds = append(holds, what)
		}
	}
	latest, _ := w.Resolve(t.Context(), web, "latest")
	note("moved", latest.Pushed.Digest == two.Digest)
	signed := w.signedUnder(t, tag)
	note("signed a", slices.Contains(signed, "a"))
	note("signed b", slices.Contains(signed, "b"))
	_, err := w.Resolve(t.Context(), web, "old")
	note("untagged", errors.Is(err, oci.ErrNotFound))
	_, err = w.Stat(t.Context(), web, one.Digest)
	note("deleted", errors.Is(err, oci.ErrNotFound))
	return holds
}

// wantWhole checks that the bytes are there of whatever is said to be.
func (w *world) wantWhole(t *testing.T) {
	t.Helper()
	for name, e := range w.storage.events[web] {
		if e.Kind != Pushed {
			continue
		}
		if _, err := w.Stat(t.Context(), web, e.Descriptor.Digest); err != nil {
			continue
		}
		if _, err := w.storage.Manifest(t.Context(), gate.Candidate{Repository: web, Digest: e.Descriptor.Digest}); err != nil {
			t.Errorf("%s, of %s, is said to be there: %v", e.Descriptor.Digest, name, err)
		}
	}
}

func TestARepositoryThatIsFullTakesNoMore(t *testing.T) {
	for name, tt := range map[string]struct {
		limit func(*limits)
		push  func(t *testing.T, w *world, n int) (string, oci.Content)
	}{
		"bytes":     {func(l *limits) { l.bytes = 3 * eventBytes }, func(t *testing.T, w *world, n int) (string, oci.Content) { return "latest", w.image(t, fmt.Sprint(n)) }},
		"manifests": {func(l *limits) { l.manifests = 3 }, func(t *testing.T, w *world, n int) (string, oci.Content) { return "", w.image(t, fmt.Sprint(n)) }},
		"tags":      {func(l *limits) { l.tags = 3 }, func(t *testing.T, w *world, n int) (string, oci.Content) { return fmt.Sprint(n), w.image(t, "one") }},
		"referrers": {func(l *limits) { l.referrers = 3 }, func(t *testing.T, w *world, n int) (string, oci.Content) {
			return "", w.referrer(t, digestOf(1), fmt.Sprint(n))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, newStorage(), &clock{})
			tt.limit(&w.limits)
			var got []oci.Code
			for n := range 4 {
				tag, content := tt.push(t, w, n)
				_, err := w.Put(t.Context(), web, reference(tag, content), content, "user:ci")
				got = append(got, code(err))
			}
			if diff := cmp.Diff(got, []oci.Code{"", "", "", oci.CodeDenied}); diff != "" {
				t.Errorf("Put (-got +want):\n%s", diff)
			}
		})
	}
}

func TestReplicasConverge(t *testing.T) {
	s, c := newStorage(), &clock{}
	immutable := rule(t, Immutable, "apps/**")
	a, b := startSkewed(t, s, c, 0, immutable), startSkewed(t, s, c, -time.Hour, immutable)
	one, two := a.image(t, "one"), a.image(t, "two")
	a.push(t, "v1", one)
	t.Run("what another pushed is seen at once where nothing was known", func(t *testing.T) { b.wantTag(t, "v1", one.Digest, "") })
	t.Run("and holds, whatever the clock says", func(t *testing.T) {
		_, err := b.Put(t.Context(), web, Reference{Tag: "v1"}, two, "user:ci")
		if code(err) != oci.CodeDenied {
			t.Errorf("Put: got %v, want it denied", err)
		}
	})
	a.admit(t, one.Digest)
	b.wantTag(t, "v1", one.Digest, "")
	c.pass(maxAge)
	b.wantTag(t, "v1", one.Digest, one.Digest)
}

// TestOfTwoPushesOfAnImmutableTagOneCounts has another replica push between the check and the record.
func TestOfTwoPushesOfAnImmutableTagOneCounts(t *testing.T) {
	s, c := newStorage(), &clock{}
	immutable := rule(t, Immutable, "apps/**")
	a, b := start(t, s, c, immutable), start(t, s, c, immutable)
	one, two := a.image(t, "one"), a.image(t, "two")
	other := &replica{storage: s, skew: -time.Minute}
	s.step = func(method string, _ int) (bool, error) {
		s.step = nil
		s.mu.Unlock()
		defer s.mu.Lock()
		if err := s.PutManifest(t.Context(), gate.Candidate{Repository: web, Digest: two.Digest}, two); err != nil {
			return true, err
		}
		_, err := other.Append(t.Context(), web, Event{At: epoch, By: "user:ci", Kind: Pushed, Tag: "v1", Immutable: true, Descriptor: two.Descriptor()})
		return true, err
	}
	if _, err := a.Put(t.Context(), web, Reference{Tag: "v1"}, one, "user:ci"); code(err) != oci.CodeDenied {
		t.Errorf("Put: got %v, want it denied", err)
	}
	for _, w := range []*world{a, b} {
		w.wantTag(t, "v1", two.Digest, "")
	}
}

// TestOneEventMayFillARepository: what is held is counted by its size, and not by how often something was pushed.
func TestOneEventMayFillARepository(t *testing.T) {
	const limit = 20 * eventBytes
	var strangers []oci.Descriptor
	for n := range 100 {
		strangers = append(strangers, oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: digestOf(n), Size: 1})
	}
	subject := oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: digestOf(1), Size: 1}
	for name, large := range map[string]oci.Content{
		"with all it lists":   index(t, strangers...),
		"with its annotation": contentOf(t, oci.MediaTypeIndex, wire{"manifests": []any{}, "subject": subject, "annotations": wire{"a": strings.Repeat("x", limit)}}),
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, newStorage(), &clock{})
			w.limits.bytes = limit
			tag := evidenceTags(digestOf(1))[0]
			w.push(t, tag, large)
			if w.folded < limit {
				t.Errorf("%d bytes are counted, want at least %d", w.folded, limit)
			}
			if _, err := w.Put(t.Context(), web, Reference{Tag: "next"}, w.image(t, "next"), "user:ci"); code(err) != oci.CodeDenied {
				t.Errorf("one more: got %v, want it denied", err)
			}
			if err := w.DeleteTag(t.Context(), web, tag, "user:ci"); err != nil {
				t.Errorf("deleting: %v", err)
			}
		})
	}
}
