package hosted

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

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

// TestAttachmentsFollowTheJournal is about what another replica pushed; what they are made of is a matter of the state.
func TestAttachmentsFollowTheJournal(t *testing.T) {
	s, c := newStorage(), &clock{}
	w, other := start(t, s, c), start(t, s, c)
	image := w.push(t, "latest", w.image(t, "image"))
	of := func(w *world) string {
		t.Helper()
		revision, err := w.Attachments(t.Context(), gate.Candidate{Repository: web, Digest: image.Digest})
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	if got := of(other); got != "" {
		t.Errorf("Attachments of what nothing hangs on: got %q", got)
	}
	w.push(t, "", w.referrer(t, image.Digest, "a"))
	for name, learn := range map[string]func(){
		"in time": func() { c.pass(maxAge) }, "when it is said": func() { other.Outdate(web) }, "when anything may have happened": other.OutdateAll,
	} {
		w.push(t, "", w.referrer(t, image.Digest, name))
		if got, before := of(other), of(w); got == before {
			t.Errorf("%s: the other knows at once, so this shows nothing", name)
		}
		learn()
		if got, want := of(other), of(w); got != want || got == "" {
			t.Errorf("Attachments elsewhere, %s: got %q, want %q", name, got, want)
		}
	}
}
