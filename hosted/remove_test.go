package hosted

import (
	"errors"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

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
	t.Run("what is kept under the evidence tag of an image that was admitted", func(t *testing.T) { // cosign names no subject there
		tag := evidenceTags(admitted.Digest)[1]
		first, second := w.signatures(t, "a"), w.signatures(t, "b")
		w.push(t, tag, first)
		w.push(t, tag, second)
		stray := w.push(t, evidenceTags(digestOf(1))[1], w.signatures(t, "c"))
		c.pass(DefaultPending)
		united, err := w.Resolve(t.Context(), web, tag)
		if err != nil || united.Pushed.Digest == second.Digest {
			t.Fatalf("Resolve: got %s, %v, want what unites both", united.Pushed.Digest, err)
		}
		want("it", web, united.Pushed.Digest, false)
		want("what it was before", web, first.Digest, true)
		want("of an image that is not here", web, stray.Digest, true)
	})
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

// TestWhatIsTakenAwayLeavesWhatIsServed removes what was pushed over an image that is served, in each way there is.
func TestWhatIsTakenAwayLeavesWhatIsServed(t *testing.T) {
	for name, remove := range map[string]func(w *world, d oci.Digest) error{
		"because its time is over": func(w *world, d oci.Digest) error {
			w.clock.pass(DefaultPending)
			_, err := w.Expire(t.Context(), gate.Candidate{Repository: web, Digest: d})
			return err
		},
		"because somebody deletes it": func(w *world, d oci.Digest) error { return w.DeleteManifest(t.Context(), web, d, "user:ci") },
	} {
		t.Run(name, func(t *testing.T) {
			s, c := newStorage(), &clock{}
			w := start(t, s, c)
			good, bad := w.image(t, "good"), w.image(t, "bad")
			w.push(t, "latest", good)
			w.admit(t, good.Digest)
			w.push(t, "latest", bad)
			w.push(t, "bad", bad)
			w.wantTag(t, "latest", bad.Digest, good.Digest)
			if err := remove(w, bad.Digest); err != nil {
				t.Fatal(err)
			}
			for _, w := range []*world{w, start(t, s, c)} {
				w.wantTag(t, "latest", good.Digest, good.Digest)
				w.wantTag(t, "bad", "", "")
			}
			if err := w.DeleteManifest(t.Context(), web, good.Digest, "user:ci"); err != nil {
				t.Fatal(err)
			}
			w.wantTag(t, "latest", "", "")
		})
	}
	t.Run("but an evidence tag goes with what it stands for", func(t *testing.T) { // or what was deleted from it would be back
		w := start(t, newStorage(), &clock{})
		tag := evidenceTags(w.push(t, "", w.image(t, "image")).Digest)[1]
		one, both := w.signatures(t, "a"), w.signatures(t, "a", "b")
		w.push(t, tag, one)
		w.admit(t, one.Digest)
		w.push(t, tag, both)
		if err := w.DeleteManifest(t.Context(), web, both.Digest, "user:ci"); err != nil {
			t.Fatal(err)
		}
		w.wantTag(t, tag, "", "")
	})
}
