package gate_test

import (
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

func TestTheKeyIsThatOfTheVerdict(t *testing.T) {
	w := newWorld(t)
	g := w.gate()
	c := w.image(w.blob(gzipLayer, "layer"))
	revision := g.Revision()
	for _, change := range []func(){func() {}, func() { w.snap.ID = "s2" }, func() { w.roots = "r2" }, func() { w.attached = "a2" }} {
		change()
		v, err := g.Judge(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := g.Key(t.Context(), c); err != nil || got.String() != v.Key {
			t.Errorf("Key: got %v, %v, want %s", got, err, v.Key)
		}
	}
	if g.Revision() == revision {
		t.Error("another snapshot and other roots are the same revision")
	}
	if got := g.UnderWay(); got != 0 {
		t.Errorf("UnderWay: got %d, want none", got)
	}
	w.breaks = "attachments"
	if _, err := g.Key(t.Context(), c); err == nil {
		t.Error("Key: got no error from somebody who does not know what is attached")
	}
}

func TestRenew(t *testing.T) {
	w := newWorld(t)
	g := w.gate()
	c := w.image(w.blob(gzipLayer, "layer"))
	first, err := g.Judge(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	w.advance(time.Hour)
	renew := func(t *testing.T, beyond time.Time, want time.Time) gate.Verdict {
		t.Helper()
		v, err := g.Renew(t.Context(), c, beyond)
		if err != nil {
			t.Fatal(err)
		}
		if !v.JudgedAt.Equal(want) || !v.Allowed() {
			t.Errorf("got a verdict of %v, allowed: %t, want an admission of %v", v.JudgedAt, v.Allowed(), want)
		}
		return v
	}
	t.Run("keeps a verdict that counts longer", func(t *testing.T) { renew(t, first.Until.Add(-1), first.JudgedAt) })
	var renewed gate.Verdict
	t.Run("makes one anew that would lapse", func(t *testing.T) { renewed = renew(t, first.Until, w.clock()) })
	t.Run("which is then the one that counts", func(t *testing.T) {
		if v, err := g.Judge(t.Context(), c); err != nil || !v.JudgedAt.Equal(renewed.JudgedAt) {
			t.Errorf("Judge: got the verdict of %v, %v, want that of %v", v.JudgedAt, err, renewed.JudgedAt)
		}
	})
	t.Run("reads no layer", func(t *testing.T) {
		if n := w.count("scan "); n != 1 {
			t.Errorf("layers were read %d times, want once", n)
		}
	})
	t.Run("leaves the verdict there is when it fails", func(t *testing.T) {
		w.breaks = "verify"
		if _, err := g.Renew(t.Context(), c, renewed.Until); err == nil {
			t.Error("Renew: got no error")
		}
		if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
			t.Errorf("Judge: got %v, %v, want the admission", v.Summary(), err)
		}
	})
}
