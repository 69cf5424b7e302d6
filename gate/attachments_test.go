package gate_test

import (
	"errors"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
)

func TestAttachments(t *testing.T) {
	t.Run("a signature that is attached has a denied image judged anew", func(t *testing.T) {
		w := newWorld(t)
		c := w.image(w.blob(gzipLayer, "layer"))
		w.sign(c, "stranger")
		g := w.gate()
		if v, err := g.Judge(t.Context(), c); err != nil || v.Allowed() {
			t.Fatalf("got %s, %v, want a denial", v.Decision, err)
		}
		w.sign(c, "release")
		w.attached = "a2"
		if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
			t.Errorf("got %s (%s), %v, want an admission", v.Decision, v.Summary(), err)
		}
	})
	t.Run("what was found while something was attached or removed is not remembered for what was there before", func(t *testing.T) {
		w := newWorld(t)
		c := w.image(w.blob(gzipLayer, "layer"))
		w.arrives = "a2"
		v, err := w.gate().Judge(t.Context(), c)
		if err != nil || !v.Allowed() || w.count("verify") != 2 {
			t.Fatalf("got %s after %d checks, %v, want an admission after 2", v.Decision, w.count("verify"), err)
		}
		in := gate.Inputs{Candidate: c, Policies: w.set, Snapshot: w.snap, Roots: w.roots, Attached: "a2", MaxImageBytes: maxImageBytes, MalwareFileBytes: malwareFileBytes}
		if want := in.Key().String(); v.Key != want {
			t.Errorf("the verdict counts for %s, want %s", v.Key, want)
		}
	})
	t.Run("not knowing what is attached is no verdict", func(t *testing.T) {
		w := newWorld(t)
		w.breaks = "attachments"
		var none *gate.NoVerdict
		v, err := w.gate().Judge(t.Context(), w.image(w.blob(gzipLayer, "layer")))
		if !errors.As(err, &none) || none.Step != gate.StepVerify || v.Allowed() {
			t.Errorf("got %s, %v, want no verdict", v.Decision, err)
		}
	})
}
