package hosted

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
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

func TestFixes(t *testing.T) {
	evidence := evidenceTags(digestOf(1))
	for _, tt := range []struct {
		rule TagRule
		tags []string
		want bool
	}{
		{Mutable, []string{"latest", "v1.0.0"}, false},
		{Immutable, []string{"latest", "v1.0.0"}, true},
		{ImmutableSemver, []string{"1.0.0", "v1.0.0", "v1.0.0-rc.1", "1.2.3-4_build.5"}, true},
		{ImmutableSemver, []string{"latest", "v1", "1.0", "01.0.0", "v1.0.0.0", "x1.0.0", "1.0.0-"}, false},
		{Immutable, evidence, false},
		{Immutable, []string{evidence[0] + ".other", strings.ToUpper(evidence[0]), "sha256-00"}, true},
	} {
		for _, tag := range tt.tags {
			if got := (Rule{Tags: tt.rule}).fixes(tag); got != tt.want {
				t.Errorf("fixes(%s) of rule %d: got %t, want %t", tag, tt.rule, got, tt.want)
			}
		}
	}
}

func TestTagsHaveTwoPointers(t *testing.T) {
	w := start(t, newStorage(), &clock{})
	one, two := w.image(t, "one"), w.image(t, "two")
	w.push(t, "latest", one)
	w.push(t, "pending", two)
	w.wantTag(t, "latest", one.Digest, "")
	w.admit(t, one.Digest)
	w.wantTag(t, "latest", one.Digest, one.Digest)
	w.push(t, "latest", two)
	w.wantTag(t, "latest", two.Digest, one.Digest)
	w.admit(t, one.Digest) // it is not what the tag stands for any more
	w.wantTag(t, "latest", two.Digest, one.Digest)
	w.wantTags(t, false, "latest")
	w.wantTags(t, true, "latest", "pending")
	w.admit(t, two.Digest)
	w.wantTag(t, "latest", two.Digest, two.Digest)
	w.wantTag(t, "pending", two.Digest, two.Digest)
	t.Run("what is admitted again writes nothing", func(t *testing.T) {
		clear(w.storage.calls)
		w.admit(t, two.Digest)
		if diff := cmp.Diff(w.storage.calls, map[string]int{}); diff != "" {
			t.Errorf("calls (-got +want):\n%s", diff)
		}
	})
	t.Run("a tag made later is served once that is said", func(t *testing.T) {
		w.push(t, "new", two)
		w.wantTag(t, "new", two.Digest, "")
		w.admit(t, two.Digest)
		w.wantTag(t, "new", two.Digest, two.Digest)
	})
	t.Run("a denial is no admission", func(t *testing.T) {
		if err := w.Admitted(t.Context(), gate.Verdict{Repository: web, Digest: one.Digest}); !errors.Is(err, errNotAllowed) {
			t.Errorf("Admitted: got %v, want errNotAllowed", err)
		}
	})
	t.Run("one of another repository is no concern", func(t *testing.T) {
		v := gate.Verdict{Decision: gate.Allow, Repository: oci.Repository{Upstream: "docker.io", Path: "apps/web"}, Digest: one.Digest}
		if err := w.Admitted(t.Context(), v); err != nil {
			t.Errorf("Admitted: %v", err)
		}
	})
}

// TestMoreTagsThanAnEventHolds are all served.
func TestMoreTagsThanAnEventHolds(t *testing.T) {
	s, c := newStorage(), &clock{}
	w := start(t, s, c)
	w.limits.eventTags = 2
	one := w.image(t, "one")
	for _, tag := range []string{"a", "b", "c", "d", "e"} {
		w.push(t, tag, one)
	}
	w.admit(t, one.Digest)
	start(t, s, c).wantTags(t, false, "a", "b", "c", "d", "e")
}

func (w *world) wantTags(t *testing.T, pending bool, want ...string) {
	t.Helper()
	got, more, err := w.Tags(t.Context(), web, oci.NoLimit, "", pending)
	if diff := cmp.Diff(got, want); diff != "" || more || err != nil {
		t.Errorf("Tags: more %t, %v (-got +want):\n%s", more, err, diff)
	}
}

func TestTagsInPages(t *testing.T) {
	w := start(t, newStorage(), &clock{})
	one := w.image(t, "one")
	for _, tag := range []string{"b", "A", "c", "a"} {
		w.push(t, tag, one)
	}
	for _, tt := range []struct {
		n        int
		last     string
		want     []string
		wantMore bool
	}{
		{oci.NoLimit, "", []string{"A", "a", "b", "c"}, false},
		{2, "", []string{"A", "a"}, true},
		{2, "a", []string{"b", "c"}, false},
		{2, "aa", []string{"b", "c"}, false},
		{1, "a", []string{"b"}, true},
		{5, "c", nil, false},
		{0, "", []string{}, false},
	} {
		got, more, err := w.Tags(t.Context(), web, tt.n, tt.last, true)
		if diff := cmp.Diff(got, tt.want); diff != "" || more != tt.wantMore || err != nil {
			t.Errorf("Tags(%d, %q): more %t, %v (-got +want):\n%s", tt.n, tt.last, more, err, diff)
		}
	}
	if _, _, err := w.Tags(t.Context(), oci.Repository{Path: "apps/never"}, oci.NoLimit, "", true); code(err) != oci.CodeNameUnknown {
		t.Errorf("Tags of a repository nothing was pushed to: got %v, want NAME_UNKNOWN", err)
	}
}

func TestDeleting(t *testing.T) {
	s, c := newStorage(), &clock{}
	w := start(t, s, c, rule(t, ImmutableSemver, "apps/**"))
	one, two, fixed := w.image(t, "one"), w.image(t, "two"), w.image(t, "fixed")
	w.push(t, "latest", one)
	w.push(t, "also", one)
	w.push(t, "other", two)
	w.push(t, "v1.0.0", fixed)
	w.admit(t, one.Digest)
	want := func(err error, code0 oci.Code) {
		t.Helper()
		if got := code(err); got != code0 {
			t.Errorf("got %v, want code %q", err, code0)
		}
	}
	want(w.DeleteTag(t.Context(), web, "never", "user:ci"), oci.CodeManifestUnknown)
	want(w.DeleteTag(t.Context(), web, "also", "user:ci"), "")
	w.wantTag(t, "also", "", "")
	w.wantTag(t, "latest", one.Digest, one.Digest)
	want(w.DeleteTag(t.Context(), web, "v1.0.0", "user:ci"), oci.CodeDenied)
	want(w.DeleteManifest(t.Context(), web, fixed.Digest, "user:ci"), oci.CodeDenied)
	want(w.DeleteManifest(t.Context(), web, digestOf(1), "user:ci"), oci.CodeManifestUnknown)
	w.push(t, "latest", two)
	want(w.DeleteManifest(t.Context(), web, one.Digest, "user:ci"), "")
	w.wantTag(t, "latest", two.Digest, "")
	want(w.DeleteManifest(t.Context(), web, one.Digest, "user:ci"), oci.CodeManifestUnknown)
	if _, ok := s.manifests[gate.Candidate{Repository: web, Digest: one.Digest}]; ok {
		t.Error("the bytes are still there")
	}
	want(w.DeleteManifest(t.Context(), web, two.Digest, "user:ci"), "")
	w.wantTag(t, "latest", "", "")
	w.wantTag(t, "other", "", "")
	t.Run("what is pushed again is there again, and pending", func(t *testing.T) {
		w.push(t, "latest", one)
		for _, w := range []*world{w, start(t, s, c)} {
			w.wantTag(t, "latest", one.Digest, "")
		}
	})
	t.Run("bytes that could not be removed are, when it is tried again", func(t *testing.T) {
		s.step = func(method string, _ int) (bool, error) {
			if method == "RemoveManifest" {
				return true, errDisk
			}
			return false, nil
		}
		if err := w.DeleteManifest(t.Context(), web, one.Digest, "user:ci"); !errors.Is(err, errDisk) {
			t.Errorf("DeleteManifest: got %v, want errDisk", err)
		}
		w.wantTag(t, "latest", "", "")
		s.step = nil
		want(w.DeleteManifest(t.Context(), web, one.Digest, "user:ci"), oci.CodeManifestUnknown)
		if _, ok := s.manifests[gate.Candidate{Repository: web, Digest: one.Digest}]; ok {
			t.Error("the bytes are still there")
		}
	})
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
		"events":    {func(l *limits) { l.events = 3 }, func(t *testing.T, w *world, n int) (string, oci.Content) { return "latest", w.image(t, fmt.Sprint(n)) }},
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

func TestParents(t *testing.T) {
	w := start(t, newStorage(), &clock{})
	child := w.push(t, "", w.image(t, "child"))
	first := w.push(t, "nightly", index(t, child))
	second := w.push(t, "nightly", index(t, child, w.push(t, "", w.image(t, "other"))))
	w.push(t, evidenceTags(digestOf(1))[0], index(t, child, second)) // a list of referrers
	want := func(ds ...oci.Digest) {
		t.Helper()
		var want []gate.Candidate
		for _, d := range ds {
			want = append(want, gate.Candidate{Repository: web, Digest: d})
		}
		got, err := w.Parents(t.Context(), gate.Candidate{Repository: web, Digest: child.Digest})
		if diff := cmp.Diff(got, want); diff != "" || err != nil {
			t.Errorf("Parents: %v (-got +want):\n%s", err, diff)
		}
	}
	want(second.Digest, first.Digest)
	w.push(t, "nightly", index(t, child))
	want(first.Digest, second.Digest)
	if err := w.DeleteManifest(t.Context(), web, first.Digest, "user:ci"); err != nil {
		t.Fatal(err)
	}
	want(second.Digest)
}

func TestReferrers(t *testing.T) {
	w := start(t, newStorage(), &clock{})
	subject := digestOf(1)
	a := w.referrer(t, subject, "a")
	plain := contentOf(t, oci.MediaTypeImage, wire{
		"config": func() oci.Descriptor {
			d := w.storage.blob("{}")
			d.MediaType = "application/vnd.example.config"
			return d
		}(),
		"subject": oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: subject, Size: 1},
	})
	w.push(t, "", a)
	w.push(t, "", plain)
	w.push(t, "", w.referrer(t, digestOf(2), "of another"))
	listed := oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: digestOf(3), Size: 1}
	w.push(t, evidenceTags(subject)[0], index(t, listed, a.Descriptor())) // one that is not here, and one that is
	wantA, wantPlain := a.Descriptor(), plain.Descriptor()
	wantA.ArtifactType, wantA.Annotations = oci.MediaTypeSigstoreBundle, map[string]string{"says": "a"}
	wantPlain.ArtifactType = "application/vnd.example.config"
	want := []oci.Descriptor{wantA, wantPlain}
	slices.SortFunc(want, func(a, b oci.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	got, err := w.Referrers(t.Context(), web, subject)
	if diff := cmp.Diff(got, want); diff != "" || err != nil {
		t.Errorf("Referrers: %v (-got +want):\n%s", err, diff)
	}
}

func TestWhatIsJudgedAfterAPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newStorage(), &clock{})
		names := map[oci.Digest]string{}
		named := func(name string, content oci.Content) oci.Content {
			names[content.Digest] = name
			return content
		}
		image, child := named("image", w.image(t, "image")), named("child", w.image(t, "child"))
		idx := named("index", index(t, child.Descriptor()))
		sig := named("signatures", w.signatures(t, "a"))
		list := named("list", index(t, image.Descriptor()))
		for _, step := range []struct {
			name string
			do   func()
			want []string
		}{
			{"by digest, nothing", func() { w.push(t, "", image); w.push(t, "", child) }, nil},
			{"about what is not here, nothing", func() { w.push(t, "", w.referrer(t, digestOf(1), "a")) }, nil},
			{"by tag, once", func() { w.push(t, "latest", image); w.push(t, "again", image) }, []string{"image"}},
			{"an index and its children", func() { w.push(t, "", idx) }, []string{"child", "index"}},
			{"a referrer, its subject", func() { w.push(t, "", w.referrer(t, image.Digest, "a")) }, []string{"image"}},
			{"a signature of an index, also its children", func() { w.push(t, "", w.referrer(t, idx.Digest, "a")) }, []string{"child", "index"}},
			{"signatures under a tag", func() { w.push(t, evidenceTags(image.Digest)[1], sig) }, []string{"image", "signatures"}},
			{"a list of referrers", func() { w.push(t, evidenceTags(child.Digest)[0], list) }, []string{"child", "list"}},
			{"a signature that has gone", func() { _ = w.DeleteTag(t.Context(), web, evidenceTags(image.Digest)[1], "user:ci") }, []string{"image"}},
		} {
			step.do()
			<-time.After(settling - 1)
			synctest.Wait()
			if n := len(w.judged); n != 0 {
				t.Errorf("%s: %d are judged at once", step.name, n)
			}
			<-time.After(1)
			synctest.Wait()
			var got []string
			for len(w.judged) > 0 {
				got = append(got, names[(<-w.judged).Digest])
			}
			slices.Sort(got)
			if diff := cmp.Diff(got, step.want); diff != "" {
				t.Errorf("%s (-got +want):\n%s", step.name, diff)
			}
		}
		w.push(t, "last", image)
		w.Close()
		<-time.After(2 * settling)
		if n := len(w.judged); n != 0 {
			t.Errorf("%d are judged after Close", n)
		}
	})
}

func TestDroppable(t *testing.T) {
	c := &clock{}
	w := start(t, newStorage(), c)
	pending, admitted := w.image(t, "pending"), w.image(t, "admitted")
	child, subject := w.image(t, "child"), w.image(t, "subject")
	for _, content := range []oci.Content{pending, admitted, child, subject} {
		w.push(t, "", content)
	}
	w.push(t, "latest", pending)
	w.admit(t, admitted.Digest)
	sig := w.referrer(t, subject.Digest, "a")
	w.push(t, "", sig)
	want := func(name string, repo oci.Repository, d oci.Digest, want bool) {
		t.Helper()
		got, err := w.Droppable(t.Context(), gate.Candidate{Repository: repo, Digest: d})
		if got != want || err != nil {
			t.Errorf("%s: got %t, %v, want %t", name, got, err, want)
		}
	}
	want("of an upstream", oci.Repository{Upstream: "docker.io", Path: "apps/web"}, digestOf(1), true)
	want("just pushed", web, pending.Digest, false)
	c.pass(DefaultPending / 2)
	w.push(t, "", subject)
	w.push(t, "", index(t, child.Descriptor()))
	c.pass(DefaultPending / 2)
	want("a day later", web, pending.Digest, true)
	want("admitted once", web, admitted.Digest, false)
	want("not here", web, digestOf(1), false)
	want("the child of an index that is younger", web, child.Digest, false)
	want("what is about an image that is younger", web, sig.Digest, false)
	t.Run("what expires is gone with its tags", func(t *testing.T) {
		expired, err := w.Expire(t.Context(), gate.Candidate{Repository: web, Digest: pending.Digest})
		if !expired || err != nil {
			t.Errorf("Expire: got %t, %v, want true", expired, err)
		}
		w.wantTag(t, "latest", "", "")
		expired, err = w.Expire(t.Context(), gate.Candidate{Repository: web, Digest: admitted.Digest})
		if expired || err != nil {
			t.Errorf("Expire of what was admitted: got %t, %v, want false", expired, err)
		}
	})
}

func TestForwarding(t *testing.T) {
	s, c := newStorage(), &clock{}
	forwarding := rule(t, Mutable, "apps/**")
	forwarding.ForwardTo = "registry.example/mirror"
	w := start(t, s, c, forwarding)
	image := w.image(t, "image")
	w.push(t, "latest", image)
	want := func(name string, w *world, tags ...string) {
		t.Helper()
		got, err := w.Unforwarded(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var gotTags [][]string
		for _, f := range got {
			if f.Candidate.Digest != image.Digest || f.To != forwarding.ForwardTo {
				t.Errorf("%s: got %v", name, f)
			}
			gotTags = append(gotTags, f.Tags)
		}
		var wantTags [][]string
		if tags != nil {
			wantTags = [][]string{tags}
		}
		if diff := cmp.Diff(gotTags, wantTags); diff != "" {
			t.Errorf("%s (-got +want):\n%s", name, diff)
		}
	}
	arrive := func() {
		t.Helper()
		fs, err := w.Unforwarded(t.Context())
		for _, f := range fs {
			if err == nil {
				err = w.Forwarded(t.Context(), f)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want("before it is admitted", w)
	w.admit(t, image.Digest)
	want("then", w, "latest")
	want("after a restart", start(t, s, c, forwarding), "latest")
	want("where nothing is forwarded", start(t, s, c))
	arrive()
	want("once it has arrived", w)
	want("once it has arrived, after a restart", start(t, s, c, forwarding))
	w.push(t, "new", image)
	w.admit(t, image.Digest)
	want("with a new tag", w, "latest", "new")
	arrive()
	w.push(t, "", w.referrer(t, image.Digest, "a"))
	want("signed since", w, "latest", "new")
	arrive()
	want("and forwarded again", w)
	w.push(t, "new", w.image(t, "other")) // pending
	w.push(t, "new", image)
	w.admit(t, image.Digest)
	want("with a tag that has come back", w, "latest", "new")
	if err := w.DeleteManifest(t.Context(), web, image.Digest, "user:ci"); err != nil {
		t.Fatal(err)
	}
	want("deleted", w)
}
