package hosted

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

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

// TestWhatCannotBeForwardedKeepsNothingElseBack: it is listed for as long as it is not, and a listing is no longer than it may be.
func TestWhatCannotBeForwardedKeepsNothingElseBack(t *testing.T) {
	forwarding := rule(t, Mutable, "apps/**")
	forwarding.ForwardTo = "mirror.test"
	w := start(t, newStorage(), &clock{}, forwarding)
	w.limits.forwards = 2
	var pushed []oci.Descriptor
	for n := range 4 {
		pushed = append(pushed, w.push(t, "", w.image(t, fmt.Sprint(n))))
		w.admit(t, pushed[n].Digest)
	}
	later := oci.Repository{Path: "apps/zebra"}
	w.storage.upload(later, []byte(`{"rootfs":{}}`))
	w.storage.upload(later, []byte("0"))
	other := w.image(t, "0")
	if _, err := w.Put(t.Context(), later, Reference{Digest: other.Digest}, other, "user:ci"); err != nil {
		t.Fatal(err)
	}
	if err := w.Admitted(t.Context(), gate.Verdict{Decision: gate.Allow, Repository: later, Digest: other.Digest}); err != nil {
		t.Fatal(err)
	}
	list := func() (all []gate.Candidate) {
		t.Helper()
		found, err := w.Unforwarded(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			all = append(all, f.Candidate)
		}
		return all
	}
	at := func(n int) gate.Candidate { return gate.Candidate{Repository: web, Digest: pushed[n].Digest} }
	want := []gate.Candidate{at(3), at(2), {Repository: later, Digest: other.Digest}}
	if diff := cmp.Diff(list(), want); diff != "" {
		t.Errorf("got -, want the newest of each repository +:\n%s", diff)
	}
	if err := w.Forwarded(t.Context(), Forward{Candidate: at(3)}); err != nil {
		t.Fatal(err)
	}
	want[0], want[1] = at(2), at(1)
	if diff := cmp.Diff(list(), want); diff != "" {
		t.Errorf("once one has arrived: got -, want +:\n%s", diff)
	}
}

// TestUnserved: what a process that was ended has not had judged is known to the next.
func TestUnserved(t *testing.T) {
	s, c := newStorage(), &clock{}
	w := start(t, s, c)
	admitted, pending, moved := w.image(t, "admitted"), w.image(t, "pending"), w.image(t, "moved")
	w.push(t, "v1", admitted)
	w.admit(t, admitted.Digest)
	w.push(t, "v2", pending)
	w.push(t, "v3", admitted)
	w.admit(t, admitted.Digest)
	w.push(t, "v3", moved)
	want := []gate.Candidate{{Repository: web, Digest: moved.Digest}, {Repository: web, Digest: pending.Digest}}
	for name, replica := range map[string]*world{"this process": w, "the next": start(t, s, c)} {
		got, err := replica.Unserved(t.Context())
		if diff := cmp.Diff(got, want); diff != "" || err != nil {
			t.Errorf("%s: %v (-got +want):\n%s", name, err, diff)
		}
	}
	c.pass(DefaultPending + pendingGrace)
	if got, err := w.Unserved(t.Context()); len(got) > 0 || err != nil {
		t.Errorf("later: got %v, %v, want nothing", got, err)
	}
}
