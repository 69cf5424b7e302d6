package quarantine_test

import (
	"io"
	"testing"
)

func TestWhatIsStoredIsOpenedWithoutAskingAnybody(t *testing.T) {
	w := onFiles(t)
	layer := w.source.put(repoA, []byte("layer"))
	c := w.source.image(t, repoA, layer)
	if _, ok, err := w.HoldStored(t.Context(), c); ok || err != nil {
		t.Errorf("what nobody asked for is held: %t, %v", ok, err)
	}
	if _, err := w.Hold(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	held, ok, err := w.HoldStored(t.Context(), c)
	if !ok || err != nil || len(held.Manifest.Layers) != 1 {
		t.Fatalf("what is held: %t, %v", ok, err)
	}
	if _, ok, err := w.OpenStored(t.Context(), c, layer); ok || err != nil {
		t.Errorf("a layer that was never fetched is opened: %t, %v", ok, err)
	}
	if _, err := w.readAll(t, c, layer); err != nil {
		t.Fatal(err)
	}
	asked := w.source.count("manifest") + w.source.count("blob")
	r, ok, err := w.OpenStored(t.Context(), c, layer)
	if !ok || err != nil {
		t.Fatalf("a layer that is stored: %t, %v", ok, err)
	}
	got, err := io.ReadAll(r)
	if closeErr := r.Close(); string(got) != "layer" || err != nil || closeErr != nil {
		t.Errorf("it reads %q, %v, %v", got, err, closeErr)
	}
	if n := w.source.count("manifest") + w.source.count("blob"); n != asked {
		t.Errorf("the upstream was asked %d times", n-asked)
	}
}
