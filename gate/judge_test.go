package gate_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestJudge(t *testing.T) {
	t.Run("admits a signed and clean image, and releases it before it says so", func(t *testing.T) {
		w := newWorld(t)
		c := w.image(w.blob(gzipLayer, "layer"))
		v, err := w.gate().Judge(t.Context(), c)
		if err != nil || !v.Allowed() || !w.isReleased(c) || !v.Complete {
			t.Errorf("got %s (%s), released %t, %v", v.Decision, v.Summary(), w.isReleased(c), err)
		}
	})
	t.Run("denies a finding, keeps the bytes and withdraws", func(t *testing.T) {
		w := newWorld(t)
		layer := w.blob(gzipLayer, "layer")
		w.packages[layer.Digest] = []gate.Package{log4j.Package}
		w.findings = []gate.Finding{log4j}
		v, err := w.gate().Judge(t.Context(), w.image(layer))
		if err != nil || v.Allowed() || w.count("withdraw true") != 0 || w.count("withdraw false") == 0 {
			t.Errorf("got %s (%s), %v, calls %q", v.Decision, v.Summary(), err, w.calls)
		}
	})
	t.Run("sixteen callers cause one judging and one reading of each layer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.stall = make(chan struct{})
			c := w.image(w.blob(gzipLayer, "one"), w.blob(gzipLayer, "two"))
			g := w.gate()
			var callers sync.WaitGroup
			for range 16 {
				callers.Go(func() {
					if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
						t.Errorf("got %s, %v", v.Decision, err)
					}
				})
			}
			synctest.Wait() // all of them wait for the same layers
			if got, want := g.Load(), (gate.Load{Judgings: 1, Layers: 2, Workers: 4}); got != want {
				t.Errorf("load: got %+v, want %+v", got, want)
			}
			close(w.stall)
			callers.Wait()
			if got := w.count("record verdict"); got != 1 {
				t.Errorf("%d judgings, want 1", got)
			}
			if got := w.count("scan "); got != 2 {
				t.Errorf("%d layers read, want 2", got)
			}
		})
	})
	t.Run("a remembered verdict costs no call", func(t *testing.T) {
		w := newWorld(t)
		c := w.image(w.blob(gzipLayer, "layer"))
		g := w.gate()
		for range 2 {
			if _, err := g.Judge(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.count("hold") + w.count("verify") + w.count("match"); got != 3 {
			t.Errorf("%d calls, want 3, those of the first judging", got)
		}
	})
	t.Run("no evidence is gathered for a repository no policy matches", func(t *testing.T) {
		w := newWorld(t)
		w.set = &gate.PolicySet{}
		v, err := w.gate().Judge(t.Context(), w.image(w.blob(gzipLayer, "layer")))
		if err != nil || v.Allowed() || w.count("verify")+w.count("open") != 0 {
			t.Errorf("got %s, %v, calls %q", v.Decision, err, w.calls)
		}
	})
	t.Run("a policy without content rules reads no layer", func(t *testing.T) {
		w := newWorld(t)
		w.set.Policies[0].Vulnerabilities = nil
		v, err := w.gate().Judge(t.Context(), w.image(w.blob(gzipLayer, "layer")))
		if err != nil || !v.Allowed() || w.count("open "+gzipLayer) != 0 || w.count("open "+oci.MediaTypeConfig) != 1 {
			t.Errorf("got %s, %v, calls %q", v.Decision, err, w.calls)
		}
	})
	t.Run("a policy without rules about the config reads nothing but the manifest", func(t *testing.T) {
		w := newWorld(t)
		w.set.Policies[0].Vulnerabilities, w.set.Policies[0].Image.UnsafeHostileConfig = nil, true
		v, err := w.gate().Judge(t.Context(), w.image(w.blob(gzipLayer, "layer")))
		if err != nil || !v.Allowed() || w.count("open") != 0 {
			t.Errorf("got %s, %v, calls %q", v.Decision, err, w.calls)
		}
	})
	t.Run("it panics when built without what it needs", func(t *testing.T) {
		defer func() {
			if recover() == nil {
				t.Error("a gate was built from nothing")
			}
		}()
		gate.New(gate.Options{})
	})
}

func TestErrorsAreNeitherAdmissionNorDenial(t *testing.T) {
	for _, step := range []struct{ call, want string }{
		{"look up verdict", gate.StepRecord}, {"hold", gate.StepHold}, {"verify", gate.StepVerify}, {"inventory", gate.StepInventory},
		{"open " + gzipLayer, gate.StepInventory}, {"scan", gate.StepInventory}, {"record inventory", gate.StepInventory},
		{"open " + oci.MediaTypeConfig, gate.StepConfig}, {"match", gate.StepMatch}, {"record verdict", gate.StepRecord}, {"release", gate.StepRelease},
	} {
		t.Run("when it breaks at: "+step.call, func(t *testing.T) {
			w := newWorld(t)
			w.breaks = step.call
			c := w.image(w.blob(gzipLayer, "one"), w.blob(gzipLayer, "two"))
			g := w.gate()
			v, err := g.Judge(t.Context(), c)
			var none *gate.NoVerdict
			if !errors.As(err, &none) || none.Step != step.want || !errors.Is(err, errBroken) {
				t.Errorf("got %v, want no verdict while %s", err, step.want)
			}
			if v.Allowed() || v.Policy != "" || w.isReleased(c) {
				t.Errorf("got a verdict %s by %q, released %t", v.Decision, v.Policy, w.isReleased(c))
			}
			g.Close() // readings that are under way still fail
			w.breaks = ""
			if v, err := w.gate().Judge(t.Context(), c); err != nil || !v.Allowed() {
				t.Errorf("once it is whole again: %s, %v", v.Decision, err)
			}
		})
	}
	t.Run("but forgetting a verdict is no matter", func(t *testing.T) {
		w := newWorld(t)
		w.breaks = "remember"
		if v, err := w.gate().Judge(t.Context(), w.image(w.blob(gzipLayer, "layer"))); err != nil || !v.Allowed() {
			t.Errorf("got %s, %v", v.Decision, err)
		}
	})
}

func TestCallerThatLeaves(t *testing.T) {
	w := newWorld(t)
	w.stall = make(chan struct{})
	c := w.image(w.blob(gzipLayer, "layer"))
	g := w.gate()
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := g.Judge(ctx, c)
		left <- err
	}()
	<-w.reading
	leave()
	var none *gate.NoVerdict
	if err := <-left; !errors.As(err, &none) || none.Step != gate.StepInventory || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want no verdict while %s", err, gate.StepInventory)
	}
	close(w.stall)
	if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
		t.Errorf("the next caller: %s, %v", v.Decision, err)
	}
	if got := w.count("scan"); got != 1 {
		t.Errorf("the layer was read %d times, want 1", got)
	}
}

func TestEarlyRefusal(t *testing.T) {
	t.Run("downloads no layer when bytes are dropped anyway", func(t *testing.T) {
		w := newWorld(t)
		w.set.Policies[0].OnFail = gate.Block
		c := w.image(w.blob(gzipLayer, "layer"))
		w.sign(c, "stranger")
		v, err := w.gate().Judge(t.Context(), c)
		if err != nil || v.Allowed() || v.Complete || w.count("open") != 0 || w.count("withdraw true") != 1 {
			t.Errorf("got %s, complete %t, %v, calls %q", v.Decision, v.Complete, err, w.calls)
		}
	})
	t.Run("looks at the signatures again once the layers have been read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.stall = make(chan struct{})
			c := w.image(w.blob(gzipLayer, "layer"))
			w.sign(c, "stranger")
			g := w.gate()
			if v, err := g.Judge(t.Context(), c); err != nil || v.Allowed() {
				t.Fatalf("got %s, %v", v.Decision, err)
			}
			synctest.Wait()
			w.sign(c, "release") // while the layers are being read
			close(w.stall)
			synctest.Wait()
			if last := w.lastRecord(); !last.Allowed() {
				t.Errorf("the last record: %s (%s)", last.Decision, last.Summary())
			}
			if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() || !w.isReleased(c) {
				t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
			}
		})
	})
	t.Run("is whole at once when all layers are known", func(t *testing.T) {
		w := newWorld(t)
		layer := w.blob(gzipLayer, "layer")
		w.packages[layer.Digest], w.findings = []gate.Package{log4j.Package}, []gate.Finding{log4j}
		g := w.gate()
		if _, err := g.Judge(t.Context(), w.image(layer)); err != nil {
			t.Fatal(err)
		}
		unsigned := w.manifest(nginx, map[string]any{
			"mediaType": oci.MediaTypeImage, "config": w.blob(oci.MediaTypeEmpty, "{}"), "layers": []oci.Descriptor{layer},
		})
		v, err := g.Judge(t.Context(), unsigned)
		if err != nil || v.Allowed() || !v.Complete || len(v.Reasons) != 2 {
			t.Errorf("got %s (%s), complete %t, %v", v.Decision, v.Summary(), v.Complete, err)
		}
	})
	t.Run("is examined to the end for whoever asks for that", func(t *testing.T) {
		w := newWorld(t)
		layer := w.blob(gzipLayer, "layer")
		w.packages[layer.Digest], w.findings = []gate.Package{log4j.Package}, []gate.Finding{log4j}
		c := w.image(layer)
		w.sign(c, "stranger")
		v, err := w.gate().Examine(t.Context(), c)
		if err != nil || v.Allowed() || !v.Complete || len(v.Findings) != 1 {
			t.Errorf("got %s (%s), complete %t, %v", v.Decision, v.Summary(), v.Complete, err)
		}
	})
	t.Run("does not wait for the layers it examines for the review", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.stall = make(chan struct{})
			layer := w.blob(gzipLayer, "layer")
			w.packages[layer.Digest], w.findings = []gate.Package{log4j.Package}, []gate.Finding{log4j}
			c := w.image(layer)
			w.sign(c, "stranger")
			v, err := w.gate().Judge(t.Context(), c)
			if err != nil || v.Allowed() || v.Complete {
				t.Errorf("got %s, complete %t, %v", v.Decision, v.Complete, err)
			}
			close(w.stall)
			synctest.Wait()
			if last := w.lastRecord(); last.Allowed() || !last.Complete || len(last.Findings) != 1 {
				t.Errorf("the completed record: %s, complete %t, %d findings", last.Decision, last.Complete, len(last.Findings))
			}
		})
	})
	t.Run("warn mode waits for the layers, so that its warnings are whole", func(t *testing.T) {
		w := newWorld(t)
		w.set.Policies[0].Mode = gate.Warn
		layer := w.blob(gzipLayer, "layer")
		w.packages[layer.Digest], w.findings = []gate.Package{log4j.Package}, []gate.Finding{log4j}
		c := w.image(layer)
		w.sign(c, "stranger")
		v, err := w.gate().Judge(t.Context(), c)
		if err != nil || !v.Allowed() || len(v.Warnings) != 2 {
			t.Errorf("got %s, warnings %q, %v", v.Decision, v.WarningSummary(), err)
		}
	})
}

func TestVerdictsAreBoundToTheirInputs(t *testing.T) {
	for name, change := range map[string]func(*world){
		"policy revision": func(w *world) { w.set = &gate.PolicySet{Policies: w.set.Policies, Revision: "p2"} },
		"waiver revision": func(w *world) {
			w.set = &gate.PolicySet{Policies: w.set.Policies, Revision: "p1", WaiverRevision: "w2"}
		},
		"snapshot":       func(w *world) { w.snap.ID = "s2" },
		"snapshot limit": func(w *world) { w.snap.Until = noon.Add(72 * time.Hour) },
		"trust roots":    func(w *world) { w.roots = "r2" },
		"attachment":     func(w *world) { w.attached = "a2" },
	} {
		t.Run("a new "+name+" is a new judging, and reads no layer again", func(t *testing.T) {
			w := newWorld(t)
			c := w.image(w.blob(gzipLayer, "layer"))
			g := w.gate()
			if _, err := g.Judge(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			change(w)
			if _, err := g.Judge(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if records, scans := w.count("record verdict"), w.count("scan"); records != 2 || scans != 1 {
				t.Errorf("%d judgings and %d layers read, want 2 and 1", records, scans)
			}
		})
	}
	t.Run("what is remembered for other inputs, another candidate or a time gone by is not believed", func(t *testing.T) {
		w := newWorld(t)
		c := w.image(w.blob(gzipLayer, "layer"))
		w.sign(c, "stranger")
		key := gate.Inputs{Candidate: c, Policies: w.set, Snapshot: w.snap, Roots: w.roots, MaxImageBytes: maxImageBytes, MalwareFileBytes: malwareFileBytes}.Key()
		good := gate.Verdict{Decision: gate.Allow, Repository: c.Repository, Digest: c.Digest, Key: key.String(), Until: noon.Add(time.Hour)}
		for name, forge := range map[string]func(*gate.Verdict){
			"other inputs":      func(v *gate.Verdict) { v.Key = "00" },
			"another candidate": func(v *gate.Verdict) { v.Digest = digestOf("other") },
			"a time gone by":    func(v *gate.Verdict) { v.Until = noon },
		} {
			v := good
			forge(&v)
			w.verdicts[key] = v
			g := w.gate()
			if got, err := g.Judge(t.Context(), c); err != nil || got.Allowed() {
				t.Errorf("%s: got %s, %v", name, got.Decision, err)
			}
			g.Close() // what goes on in the background remembers verdicts too
		}
	})
	t.Run("a restart with another limit of size is a new judging", func(t *testing.T) {
		w := newWorld(t)
		c := w.image(w.blob(gzipLayer, "layer"))
		if v, err := w.gate().Judge(t.Context(), c); err != nil || !v.Allowed() {
			t.Fatalf("got %s, %v", v.Decision, err)
		}
		if v, err := w.gateFor(10).Judge(t.Context(), c); err != nil || v.Allowed() {
			t.Errorf("got %s, %v, want the limit to be felt", v.Decision, err)
		}
	})
	t.Run("a restart finds the verdict in the records", func(t *testing.T) {
		w := newWorld(t)
		c := w.image(w.blob(gzipLayer, "layer"))
		if _, err := w.gate().Judge(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		w.verdicts = map[gate.Key]gate.Verdict{}
		if v, err := w.gate().Judge(t.Context(), c); err != nil || !v.Allowed() {
			t.Errorf("got %s, %v", v.Decision, err)
		}
		if got := w.count("hold"); got != 1 {
			t.Errorf("held %d times, want 1", got)
		}
	})
	t.Run("signatures checked by roots that were replaced meanwhile are nobody's word", func(t *testing.T) {
		w := newWorld(t)
		w.newRoots = "r2"
		g := w.gate()
		c := w.image(w.blob(gzipLayer, "layer"))
		if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() || v.RootsRevision != "r2" || w.count("verify") != 2 {
			t.Errorf("got %s by %s after %d checks, %v, want the word of the new roots", v.Decision, v.RootsRevision, w.count("verify"), err)
		}
	})
	t.Run("roots that are replaced for ever come to no verdict", func(t *testing.T) {
		w := newWorld(t)
		w.newRoots = "r"
		w.restless = true
		var none *gate.NoVerdict
		v, err := w.gate().Judge(t.Context(), w.image(w.blob(gzipLayer, "layer")))
		if !errors.As(err, &none) || none.Step != gate.StepVerify || v.Allowed() {
			t.Errorf("got %s, %v, want no verdict", v.Decision, err)
		}
	})
	t.Run("data that has become stale is nothing to a policy that does not go by it", func(t *testing.T) {
		w := newWorld(t)
		w.set.Policies[0].Vulnerabilities = nil
		w.snap.Until = noon
		c := w.image(w.blob(gzipLayer, "layer"))
		g := w.gate()
		for range 3 {
			if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
				t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
			}
		}
		if got := w.count("record verdict"); got != 1 {
			t.Errorf("%d judgings, want 1", got)
		}
	})
	t.Run("data that has become stale is a gap", func(t *testing.T) {
		w := newWorld(t)
		w.snap.Until = noon
		v, err := w.gate().Judge(t.Context(), w.image(w.blob(gzipLayer, "layer")))
		if err != nil || v.Allowed() || v.Reasons[0].Gap.Kind != gate.GapStaleAdvisories {
			t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
		}
	})
}

func TestLayersAreReadOnce(t *testing.T) {
	w := newWorld(t)
	base, one, two := w.blob(gzipLayer, "base"), w.blob(gzipLayer, "one"), w.blob(gzipLayer, "two")
	g := w.gate()
	for _, c := range []gate.Candidate{w.image(base, one), w.image(base, two)} {
		if _, err := g.Judge(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.count("scan"); got != 3 {
		t.Errorf("%d layers read, want 3", got)
	}
	t.Run("but once more for the first policy that asks for secrets", func(t *testing.T) {
		p := w.set.Policies[0]
		p.Secrets = &gate.SecretRule{}
		w.set = &gate.PolicySet{Policies: []gate.Policy{p}, Revision: "p2"}
		w.secrets[base.Digest] = []gate.Secret{{Kind: "private key", Path: "root/.ssh/id_ed25519"}}
		before := w.count("scan")
		for range 2 {
			v, err := g.Judge(t.Context(), w.image(base, one))
			if err != nil || v.Allowed() || v.Reasons[0].Rule != gate.RuleSecrets {
				t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
			}
		}
		if got := w.count("scan") - before; got != 2 {
			t.Errorf("%d layers read, want both, once", got)
		}
	})
	t.Run("but a worker's death is not a fact about the layer", func(t *testing.T) {
		layer := w.blob(gzipLayer, "unlucky")
		w.scanned[layer.Digest] = gate.LayerInventory{Gaps: []gate.Gap{{Kind: gate.GapScanner, Why: "killed"}}}
		c := w.image(layer)
		if v, err := g.Judge(t.Context(), c); err != nil || v.Allowed() {
			t.Errorf("got %s, %v", v.Decision, err)
		}
		if _, known := w.inventories[layer.Digest]; known {
			t.Error("the death was recorded")
		}
	})
}

func TestLayersThatCannotBeLookedInto(t *testing.T) {
	tests := map[string]struct {
		mediaType string
		scanned   *gate.LayerInventory
		want      gate.GapKind
	}{
		"an encrypted layer":                       {gzipLayer + "+encrypted", nil, gate.GapEncryptedLayer},
		"a layer of an unknown type":               {"application/x-squashfs", nil, gate.GapUnknownMediaType},
		"a layer that is not what it is called":    {"application/vnd.oci.image.layer.v1.tar+zstd", nil, gate.GapUnreadableLayer},
		"a layer its reader has a gap for":         {gzipLayer, &gate.LayerInventory{Compression: gate.CompressionGzip, Gaps: []gate.Gap{unreadable}}, gate.GapUnreadableLayer},
		"a layer the config knows by another name": {gzipLayer, &gate.LayerInventory{Compression: gate.CompressionGzip, DiffID: digestOf("other")}, gate.GapConfig},
	}
	for name, tt := range tests {
		t.Run(name+" denies", func(t *testing.T) {
			w := newWorld(t)
			layer := w.blob(tt.mediaType, "layer")
			if tt.scanned != nil {
				w.scanned[layer.Digest] = *tt.scanned
			}
			v, err := w.gate().Judge(t.Context(), w.image(layer))
			if err != nil || v.Allowed() || v.Reasons[0].Gap == nil || v.Reasons[0].Gap.Kind != tt.want {
				t.Errorf("got %s (%s), %v, want the gap %s", v.Decision, v.Summary(), err, tt.want)
			}
		})
	}
	for _, mediaType := range []string{
		"application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.cncf.helm.chart.content.v1.tar+gzip",
	} {
		t.Run("a layer called "+mediaType+" is looked into", func(t *testing.T) {
			w := newWorld(t)
			w.set.Policies[0].Image.UnsafeForeignLayers = true
			if v, err := w.gate().Judge(t.Context(), w.image(w.blob(mediaType, "layer"))); err != nil || !v.Allowed() {
				t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
			}
		})
	}
	for _, mediaType := range []string{
		"application/vnd.oci.image.layer.v1.tar+xz", "application/vnd.wasm.content.layer.v1+wasm", "application/vnd.in-toto+json", "application/nottar", "tar", "x",
	} {
		t.Run("a layer called "+mediaType+" is not", func(t *testing.T) {
			w := newWorld(t)
			v, err := w.gate().Judge(t.Context(), w.image(w.blob(mediaType, "layer")))
			if err != nil || v.Allowed() || v.Reasons[0].Gap.Kind != gate.GapUnknownMediaType || w.count("scan") != 0 {
				t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
			}
		})
	}
	t.Run("an image beyond the limit denies unread", func(t *testing.T) {
		w := newWorld(t)
		w.set.Policies[0].Image.MaxBytes = 0
		layer := w.blob(gzipLayer, "layer")
		layer.Size = 1 << 20
		v, err := w.gate().Judge(t.Context(), w.image(layer))
		if err != nil || v.Allowed() || v.Reasons[0].Gap.Kind != gate.GapLimit || w.count("open "+gzipLayer) != 0 {
			t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
		}
	})
}

func TestIndexes(t *testing.T) {
	elsewhere := oci.Repository{Upstream: "quay.io", Path: "other"}
	setup := func(t *testing.T) (*world, gate.Candidate) {
		w := newWorld(t)
		child := w.image(w.blob(gzipLayer, "layer"))
		delete(w.signatures, child)
		return w, child
	}
	t.Run("a child inherits the signature of an admitted index of its repository", func(t *testing.T) {
		w, child := setup(t)
		index := w.index(nginx, child)
		w.sign(index, "release")
		g := w.gate()
		if v, err := g.Judge(t.Context(), index); err != nil || !v.Allowed() {
			t.Fatalf("the index: %s (%s), %v", v.Decision, v.Summary(), err)
		}
		v, err := g.Judge(t.Context(), child)
		if err != nil || !v.Allowed() || v.Signatures[0].Inherited != index.Digest {
			t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
		}
	})
	t.Run("what a child inherits lasts no longer than the verdict on the index", func(t *testing.T) {
		w, child := setup(t)
		index := w.index(nginx, child)
		w.sign(index, "release")
		g := w.gate()
		parent, err := g.Judge(t.Context(), index)
		if err != nil || !parent.Allowed() {
			t.Fatalf("the index: %s, %v", parent.Decision, err)
		}
		w.advance(23 * time.Hour)
		v, err := g.Judge(t.Context(), child)
		if err != nil || !v.Allowed() || v.Until.After(parent.Until) {
			t.Errorf("got %s until %s, %v; the index counts until %s", v.Decision, v.Until, err, parent.Until)
		}
	})
	t.Run("a child nobody vouches for is denied", func(t *testing.T) {
		w, child := setup(t)
		if v, err := w.gate().Judge(t.Context(), child); err != nil || v.Allowed() {
			t.Errorf("got %s, %v", v.Decision, err)
		}
	})
	t.Run("an index of another repository covers nothing", func(t *testing.T) {
		w, child := setup(t)
		index := w.index(elsewhere, child)
		w.sign(index, "release")
		g := w.gate()
		if v, err := g.Judge(t.Context(), index); err != nil || !v.Allowed() {
			t.Fatalf("the index: %s, %v", v.Decision, err)
		}
		if v, err := g.Judge(t.Context(), child); err != nil || v.Allowed() {
			t.Errorf("got %s, %v", v.Decision, err)
		}
	})
	t.Run("an index that is not admitted any more covers nothing", func(t *testing.T) {
		w, child := setup(t)
		index := w.index(nginx, child)
		w.records = []gate.Verdict{{Decision: gate.Allow, Repository: nginx, Digest: index.Digest, Children: []oci.Digest{child.Digest}}}
		if v, err := w.gate().Judge(t.Context(), child); err != nil || v.Allowed() {
			t.Errorf("got %s, %v", v.Decision, err)
		}
	})
	t.Run("children for the usual platforms are judged ahead", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, child := setup(t)
			index := w.index(nginx, child)
			w.sign(index, "release")
			if _, err := w.gate().Judge(t.Context(), index); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if !w.isReleased(child) {
				t.Error("the child was not judged ahead")
			}
		})
	})
}

func TestManifestsOfSignatures(t *testing.T) {
	of := func(w *world, body string) gate.Candidate {
		return w.manifest(nginx, map[string]any{
			"mediaType": oci.MediaTypeImage, "config": w.blob(oci.MediaTypeConfig, "{}"), "layers": []oci.Descriptor{w.blob(oci.MediaTypeSimpleSigning, body)},
		})
	}
	t.Run("are admitted unsigned once their layers are seen to be statements", func(t *testing.T) {
		w := newWorld(t)
		if v, err := w.gate().Judge(t.Context(), of(w, `{"critical":{}}`)); err != nil || !v.Allowed() {
			t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
		}
	})
	t.Run("are images when the config is no document: it is let out too", func(t *testing.T) {
		w := newWorld(t)
		c := w.manifest(nginx, map[string]any{
			"mediaType": oci.MediaTypeImage, "config": w.blob("application/x", "\x1f\x8b a layer"),
			"layers": []oci.Descriptor{w.blob(oci.MediaTypeSimpleSigning, `{"critical":{}}`)},
		})
		if v, err := w.gate().Judge(t.Context(), c); err != nil || v.Allowed() {
			t.Errorf("got %s, %v", v.Decision, err)
		}
	})
	t.Run("are images when a layer is JSON and a tar at once", func(t *testing.T) {
		w := newWorld(t)
		body := polyglot(t)
		if !json.Valid([]byte(body)) {
			t.Fatal("the polyglot is not even JSON")
		}
		if _, err := tar.NewReader(strings.NewReader(body)).Next(); err != nil {
			t.Fatalf("the polyglot is not even a tar: %v", err)
		}
		if v, err := w.gate().Judge(t.Context(), of(w, body)); err != nil || v.Allowed() {
			t.Errorf("got %s, %v", v.Decision, err)
		}
	})
	for name, body := range map[string]string{"a JSON document of another kind": `{"not":"a signature"}`, "a tar": "usr/bin/sh\x00\x00", "a gzip": "\x1f\x8b", "JSON and more": `{} #!/bin/sh`, "nothing": ""} {
		t.Run("are images when a layer is "+name, func(t *testing.T) {
			w := newWorld(t)
			if v, err := w.gate().Judge(t.Context(), of(w, body)); err != nil || v.Allowed() {
				t.Errorf("got %s, %v", v.Decision, err)
			}
		})
	}
}

// Signatures of every format are let out like those of cosign, and nothing is that only begins like one.
func TestEveryKindOfStatement(t *testing.T) {
	for name, tt := range map[string]struct {
		mediaType, body string
		want            bool
	}{
		"bundle 0.1":               {oci.MediaTypeBundle01, `{"mediaType":"","verificationMaterial":{}}`, true},
		"bundle 0.2":               {oci.MediaTypeBundle02, `{"mediaType":"","verificationMaterial":{}}`, true},
		"JWS":                      {oci.MediaTypeJWS, `{"payload":"","protected":"","header":{},"signature":""}`, true},
		"COSE":                     {oci.MediaTypeCOSE, "\xd2\x84\x43", true},
		"a JWS without a payload":  {oci.MediaTypeJWS, `{"protected":"","signature":""}`, false},
		"JSON as COSE":             {oci.MediaTypeCOSE, `{}`, false},
		"gzip as COSE":             {oci.MediaTypeCOSE, "\x1f\x8b", false},
		"COSE as JWS":              {oci.MediaTypeJWS, "\xd2\x84\x43", false},
		"a tar that begins as one": {oci.MediaTypeCOSE, "\xd2\x84" + polyglot(t)[2:], false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			body := tt.body
			if strings.HasPrefix(name, "a tar") {
				body = summed([]byte(body))
			}
			c := w.manifest(nginx, map[string]any{
				"mediaType": oci.MediaTypeImage, "config": w.blob(oci.MediaTypeEmpty, "{}"), "layers": []oci.Descriptor{w.blob(tt.mediaType, body)},
			})
			if v, err := w.gate().Judge(t.Context(), c); err != nil || v.Allowed() != tt.want {
				t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
			}
		})
	}
}

// polyglot returns a JSON document with the keys of a signature that is also the first header of a tar archive.
func polyglot(t *testing.T) string {
	t.Helper()
	header := []byte(strings.Repeat("x", 512))
	copy(header, `{"critical":{},"x":"`)
	for at, field := range map[int]string{100: "0000644 ", 108: "0000000 ", 116: "0000000 ", 124: "00000000000 ", 136: "00000000000 ", 148: "        ", 156: "0"} {
		copy(header[at:], field)
	}
	copy(header[510:], `"}`)
	return summed(header)
}

// summed returns a tar header with its sum.
func summed(header []byte) string {
	copy(header[148:], "        ")
	sum := 0
	for _, b := range header {
		sum += int(b)
	}
	copy(header[148:], fmt.Sprintf("%06o  ", sum))
	return string(header)
}

func TestConfigsThatAreNoDocument(t *testing.T) {
	w := newWorld(t)
	layer := w.blob(gzipLayer, "\x1f\x8b a layer nobody looked into")
	c := w.manifest(nginx, map[string]any{"mediaType": oci.MediaTypeImage, "config": layer, "layers": []oci.Descriptor{}})
	w.sign(c, "release")
	v, err := w.gate().Judge(t.Context(), c)
	if err != nil || v.Allowed() || v.Reasons[0].Gap == nil || v.Reasons[0].Gap.Kind != gate.GapUnknownMediaType {
		t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
	}
}

func TestATolerableGapHidesNoOther(t *testing.T) {
	w := newWorld(t)
	w.set.Policies[0].TolerateGaps = []gate.GapKind{gate.GapUnresolvedLink}
	layer := w.blob("application/vnd.oci.image.layer.v1.tar+zstd", "layer")
	w.scanned[layer.Digest] = gate.LayerInventory{
		Compression: gate.CompressionGzip, DiffID: diffOf(layer.Digest), Gaps: []gate.Gap{{Kind: gate.GapUnresolvedLink, Why: "x"}},
	}
	if v, err := w.gate().Judge(t.Context(), w.image(layer)); err != nil || v.Allowed() || v.Reasons[0].Gap.Kind != gate.GapUnreadableLayer {
		t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
	}
}

func TestASlowUpstreamLeavesTheOthersWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.stall = make(chan struct{})
		w.stalls = "slow.test"
		g := w.gate()
		slow := oci.Repository{Upstream: "slow.test", Path: "app"}
		fast := w.image(w.blob(gzipLayer, "fast"))
		var candidates []gate.Candidate
		for i := range 8 {
			c := w.manifest(slow, map[string]any{
				"mediaType": oci.MediaTypeImage, "config": w.blob(oci.MediaTypeEmpty, "{}"), "layers": []oci.Descriptor{w.blob(gzipLayer, fmt.Sprint("slow", i))},
			})
			w.sign(c, "release")
			candidates = append(candidates, c)
		}
		for _, c := range candidates {
			g.Start(c)
		}
		synctest.Wait()
		if v, err := g.Judge(t.Context(), fast); err != nil || !v.Allowed() {
			t.Errorf("got %s, %v", v.Decision, err)
		}
		close(w.stall)
	})
}

func TestClose(t *testing.T) {
	w := newWorld(t)
	w.stall = make(chan struct{})
	g := w.gate()
	c := w.image(w.blob(gzipLayer, "layer"))
	g.Start(c)
	<-w.reading
	g.Close()
	var none *gate.NoVerdict
	if _, err := g.Judge(t.Context(), c); !errors.As(err, &none) {
		t.Errorf("after Close: %v, want no verdict", err)
	}
}
