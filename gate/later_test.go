package gate_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// key is a secret, and tool a file with malware.
var (
	key  = gate.Secret{Kind: "private key", Path: "root/.ssh/id_ed25519"}
	tool = gate.Infection{Signature: "Eicar-Test-Signature", Path: "opt/tool"}
)

// warnsOf lets w's policy warn of secrets and malware.
func (w *world) warnsOf(secrets, malware bool) {
	p := &w.set.Policies[0]
	if secrets {
		p.Secrets = &gate.SecretRule{Warn: true}
	}
	if malware {
		p.Malware = &gate.MalwareRule{Warn: true}
	}
}

func warned(v gate.Verdict) (rules []gate.Rule) {
	for _, r := range v.Warnings {
		rules = append(rules, r.Rule)
	}
	return rules
}

func TestWhatIsOnlyWarnedOfIsWaitedForByNobody(t *testing.T) {
	for name, tt := range map[string]struct {
		secrets, malware bool
		want             []gate.Rule
	}{
		"secrets": {secrets: true, want: []gate.Rule{gate.RuleSecrets}},
		"malware": {malware: true, want: []gate.Rule{gate.RuleMalware}},
		"both":    {true, true, []gate.Rule{gate.RuleMalware, gate.RuleSecrets}},
	} {
		for _, alone := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, alone in the policy %t", name, alone), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.warnsOf(tt.secrets, tt.malware)
					if alone {
						w.set.Policies[0].Vulnerabilities = nil
					}
					w.stallLooks = make(chan struct{})
					layer := w.blob(gzipLayer, "layer")
					w.secrets[layer.Digest], w.infected[layer.Digest] = []gate.Secret{key}, []gate.Infection{tool}
					c, g := w.image(layer), w.gate()
					first, err := g.Judge(t.Context(), c)
					if err != nil || !first.Allowed() || first.Complete || !w.isReleased(c) || len(first.Warnings) > 0 {
						t.Fatalf("meanwhile: %s, complete %t, warnings %q, %v", first.Decision, first.Complete, first.WarningSummary(), err)
					}
					synctest.Wait()
					again, err := g.Judge(t.Context(), c)
					if err != nil || !again.Allowed() || again.Complete {
						t.Errorf("while it is looked into: %s, complete %t, %v", again.Decision, again.Complete, err)
					}
					close(w.stallLooks)
					synctest.Wait()
					v, err := g.Judge(t.Context(), c)
					if err != nil || !v.Allowed() || !v.Complete || !slices.Equal(warned(v), tt.want) || v.Until.After(first.Until) {
						t.Errorf("afterwards: %s, complete %t, warnings %q, until %s, %v", v.Decision, v.Complete, v.WarningSummary(), v.Until, err)
					}
					if got := w.lastRecord(); got.Key != v.Key || !slices.Equal(warned(got), tt.want) {
						t.Errorf("the record: warnings %q", got.WarningSummary())
					}
					before := w.count("scan") + w.count("malware")
					if _, err := g.Judge(t.Context(), c); err != nil || w.count("scan")+w.count("malware") != before {
						t.Errorf("it was looked into again, %v", err)
					}
				})
			})
		}
	}
	t.Run("what was looked for before is told at once", func(t *testing.T) {
		w := newWorld(t)
		w.set.Policies[0].Secrets = &gate.SecretRule{}
		layer := w.blob(gzipLayer, "layer")
		w.secrets[layer.Digest] = []gate.Secret{key}
		c, g := w.image(layer), w.gate()
		if v, err := g.Judge(t.Context(), c); err != nil || v.Allowed() {
			t.Fatalf("got %s, %v", v.Decision, err)
		}
		p := w.set.Policies[0]
		p.Secrets = &gate.SecretRule{Warn: true}
		w.set = &gate.PolicySet{Policies: []gate.Policy{p}, Revision: "p2"}
		v, err := g.Judge(t.Context(), c)
		if err != nil || !v.Allowed() || !v.Complete || len(v.Warnings) != 1 || w.count("scan") != 1 {
			t.Errorf("got %s, complete %t, warnings %q, %v", v.Decision, v.Complete, v.WarningSummary(), err)
		}
	})
	t.Run("also malware, and by a policy that asks for nothing else", func(t *testing.T) {
		w := newWorld(t)
		w.warnsOf(true, true)
		w.set.Policies[0].Vulnerabilities = nil
		layer := w.blob(gzipLayer, "layer")
		w.secrets[layer.Digest], w.infected[layer.Digest] = []gate.Secret{key}, []gate.Infection{tool}
		c, g := w.image(layer), w.gate()
		if v, err := g.Examine(t.Context(), c); err != nil || len(v.Warnings) != 2 {
			t.Fatalf("warnings %q, %v", v.WarningSummary(), err)
		}
		w.set = &gate.PolicySet{Policies: w.set.Policies, Revision: "p2"}
		before := w.count("scan") + w.count("malware")
		v, err := g.Judge(t.Context(), c)
		if err != nil || !v.Allowed() || !v.Complete || len(v.Warnings) != 2 || w.count("scan")+w.count("malware") != before {
			t.Errorf("got %s, complete %t, warnings %q, %v", v.Decision, v.Complete, v.WarningSummary(), err)
		}
	})
	t.Run("whoever asks for everything waits for it", func(t *testing.T) {
		w := newWorld(t)
		w.warnsOf(true, true)
		layer := w.blob(gzipLayer, "layer")
		w.secrets[layer.Digest] = []gate.Secret{key}
		v, err := w.gate().Examine(t.Context(), w.image(layer))
		if err != nil || !v.Allowed() || !v.Complete || len(v.Warnings) != 1 {
			t.Errorf("got %s, complete %t, warnings %q, %v", v.Decision, v.Complete, v.WarningSummary(), err)
		}
	})
	t.Run("an index and a signature have nothing to look into", func(t *testing.T) {
		w := newWorld(t)
		w.warnsOf(true, true)
		index := w.index(nginx, w.image(w.blob(gzipLayer, "layer")))
		w.sign(index, "release")
		statement := w.manifest(nginx, map[string]any{
			"mediaType": oci.MediaTypeImage, "artifactType": oci.MediaTypeSigstoreBundle, "config": w.blob(oci.MediaTypeEmpty, "{}"),
			"layers": []oci.Descriptor{w.blob(oci.MediaTypeSigstoreBundle, `{"mediaType":"","verificationMaterial":{}}`)},
		})
		o := w.options(maxImageBytes)
		o.Platforms = nil // the child would be judged ahead
		g := gate.New(o)
		defer g.Close()
		for _, c := range []gate.Candidate{index, statement} {
			if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() || !v.Complete {
				t.Errorf("got %s (%s), complete %t, %v", v.Decision, v.Summary(), v.Complete, err)
			}
		}
	})
}

func TestLookingLater(t *testing.T) {
	t.Run("notes what could not be looked into, which does not deny", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.warnsOf(true, true)
			w.set.Policies[0].Vulnerabilities = nil
			layer, strange := w.blob(gzipLayer, "layer"), w.blob("application/x-strange", "strange")
			w.unscanned[layer.Digest] = []gate.Gap{{Kind: gate.GapLimit, Layer: layer.Digest, Path: "big", Why: "big is too large"}}
			c, g := w.image(layer, strange), w.gate()
			if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
				t.Fatalf("got %s (%s), %v", v.Decision, v.Summary(), err)
			}
			synctest.Wait()
			v, err := g.Judge(t.Context(), c)
			want := []gate.Rule{gate.RuleMalware, gate.RuleMalware, gate.RuleSecrets}
			if err != nil || !v.Allowed() || !v.Complete || !slices.Equal(warned(v), want) {
				t.Errorf("got %s, complete %t, warnings %q, %v", v.Decision, v.Complete, v.WarningSummary(), err)
			}
		})
	})
	t.Run("that fails leaves the admission as it is, and is tried again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.warnsOf(false, true)
			w.breaks = "malware"
			layer := w.blob(gzipLayer, "layer")
			w.infected[layer.Digest] = []gate.Infection{tool}
			c, g := w.image(layer), w.gate()
			for range 2 {
				if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() || v.Complete {
					t.Errorf("got %s, complete %t, %v", v.Decision, v.Complete, err)
				}
				synctest.Wait()
			}
			w.breaks = ""
			if _, err := g.Judge(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() || !v.Complete || len(v.Warnings) != 1 {
				t.Errorf("got %s, complete %t, warnings %q, %v", v.Decision, v.Complete, v.WarningSummary(), err)
			}
		})
	})
	t.Run("never admits what was denied meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.warnsOf(true, false)
			w.stallLooks = make(chan struct{})
			c, g := w.image(w.blob(gzipLayer, "layer")), w.gate()
			v, err := g.Judge(t.Context(), c)
			if err != nil || !v.Allowed() {
				t.Fatalf("got %s, %v", v.Decision, err)
			}
			synctest.Wait()
			denied := v
			denied.Decision, denied.Reasons = gate.Deny, []gate.Reason{{Rule: gate.RuleSignatures, Message: "gone"}}
			if err := w.RecordVerdict(t.Context(), denied); err != nil {
				t.Fatal(err)
			}
			if err := (remembers{w}).Put(t.Context(), keyOf(w, c), denied); err != nil {
				t.Fatal(err)
			}
			close(w.stallLooks)
			synctest.Wait()
			if got := w.lastRecord(); got.Allowed() {
				t.Errorf("the last record: %s", got.Decision)
			}
			if v, err := g.Judge(t.Context(), c); err != nil || v.Allowed() {
				t.Errorf("got %s, %v", v.Decision, err)
			}
		})
	})
	t.Run("keeps no more candidates waiting than there is room for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const room = 256
			w := newWorld(t)
			w.warnsOf(true, false)
			w.set.Policies[0].Vulnerabilities = nil
			w.stallLooks = make(chan struct{})
			w.reading = make(chan struct{}, 2*room)
			var images []gate.Candidate
			for i := range room + 10 {
				images = append(images, w.image(w.blob(gzipLayer, fmt.Sprint("layer ", i))))
			}
			g := w.gate()
			for _, c := range images {
				if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
					t.Fatalf("got %s, %v", v.Decision, err)
				}
			}
			synctest.Wait()
			close(w.stallLooks)
			synctest.Wait()
			if got := w.count("scan"); got != room {
				t.Errorf("%d layers read, want %d", got, room)
			}
		})
	})
}

// keyOf returns the key under which w's gate remembers the verdict on c.
func keyOf(w *world, c gate.Candidate) gate.Key {
	return gate.Inputs{
		Candidate: c, Policies: w.set, Snapshot: w.snap, Roots: w.roots, MaxImageBytes: maxImageBytes, MalwareFileBytes: malwareFileBytes,
	}.Key()
}

func TestMalware(t *testing.T) {
	deny := func(t *testing.T) (*world, oci.Descriptor, gate.Candidate) {
		w := newWorld(t)
		w.set.Policies[0].Malware = &gate.MalwareRule{}
		layer := w.blob(gzipLayer, "layer")
		return w, layer, w.image(layer)
	}
	t.Run("denies, naming file and signature", func(t *testing.T) {
		w, layer, c := deny(t)
		w.infected[layer.Digest] = []gate.Infection{tool}
		v, err := w.gate().Judge(t.Context(), c)
		want := "strict: malware, Eicar-Test-Signature, in opt/tool of layer " + layer.Digest.String()[:19]
		if err != nil || v.Allowed() || v.Summary() != want || v.MalwareDatabase != "d1" {
			t.Errorf("got %s (%s), want %s; %v", v.Decision, v.Summary(), want, err)
		}
	})
	t.Run("a scanner that fails, or is not there, is no verdict", func(t *testing.T) {
		w, _, c := deny(t)
		w.breaks = "malware"
		if v, err := w.gate().Judge(t.Context(), c); err == nil || v.Allowed() || w.isReleased(c) {
			t.Errorf("got %s, %v", v.Decision, err)
		}
		o := w.options(maxImageBytes)
		o.Malware = nil
		g := gate.New(o)
		defer g.Close()
		if v, err := g.Judge(t.Context(), c); err == nil || v.Allowed() || w.isReleased(c) {
			t.Errorf("without one: %s, %v", v.Decision, err)
		}
	})
	t.Run("what a clock found that ran ahead is looked for again once it is set back", func(t *testing.T) {
		w, _, c := deny(t)
		g := w.gate()
		w.advance(10 * malwareMaxAge)
		for range 2 {
			if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
				t.Fatalf("got %s, %v", v.Decision, err)
			}
			w.advance(-10 * malwareMaxAge)
		}
		if got := w.count("malware"); got != 2 {
			t.Errorf("%d layers looked into, want 2", got)
		}
	})
	t.Run("a layer is looked into once for each set of signatures", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, layer, c := deny(t)
			other := w.image(layer, w.blob(gzipLayer, "another"))
			g := w.gate()
			for _, c := range []gate.Candidate{c, other, c} {
				if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
					t.Fatalf("got %s, %v", v.Decision, err)
				}
			}
			if got := w.count("malware"); got != 2 {
				t.Errorf("%d layers looked into, want 2", got)
			}
			w.newSignatures(layer.Digest)
			for range 2 {
				if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
					t.Fatalf("got %s, %v", v.Decision, err)
				}
				synctest.Wait()
			}
			if got := w.count("malware"); got != 3 {
				t.Errorf("%d layers looked into, want 3", got)
			}
		})
	})
	t.Run("new signatures deny and withdraw what was admitted by older ones, with nobody waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, layer, c := deny(t)
			g := w.gate()
			first, err := g.Judge(t.Context(), c)
			if err != nil || !first.Allowed() {
				t.Fatalf("got %s, %v", first.Decision, err)
			}
			w.newSignatures(layer.Digest, tool)
			w.stallLooks = make(chan struct{})
			if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
				t.Errorf("meanwhile: %s, %v", v.Decision, err)
			}
			close(w.stallLooks)
			synctest.Wait()
			if w.isReleased(c) {
				t.Error("it can still be served")
			}
			v, err := g.Judge(t.Context(), c)
			if err != nil || v.Allowed() || v.Reasons[0].Rule != gate.RuleMalware || v.MalwareDatabase != "d1+" || v.Until.After(first.Until) {
				t.Errorf("afterwards: %s (%s), by %s, until %s, %v", v.Decision, v.Summary(), v.MalwareDatabase, v.Until, err)
			}
		})
	})
	t.Run("an answer counts for a time, and so does its verdict", func(t *testing.T) {
		w, layer, c := deny(t)
		g := w.gate()
		v, err := g.Judge(t.Context(), c)
		if err != nil || !v.Allowed() || !v.Until.Equal(noon.Add(malwareMaxAge)) {
			t.Fatalf("got %s, until %s, %v", v.Decision, v.Until, err)
		}
		w.breaks = "malware" // nothing can be looked for in the background
		w.newSignatures(layer.Digest, tool)
		w.advance(malwareMaxAge - time.Second)
		if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
			t.Errorf("before: %s, %v", v.Decision, err)
		}
		w.advance(time.Second)
		if v, err := g.Judge(t.Context(), c); err == nil || v.Allowed() {
			t.Errorf("after: %s, %v", v.Decision, err)
		}
	})
	t.Run("an answer is renewed with nobody waiting once half its time has gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _, c := deny(t)
			g := w.gate()
			for range 6 {
				before := w.count("malware")
				if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
					t.Errorf("got %s, %v", v.Decision, err)
				}
				if waited := w.count("malware") - before; before > 0 && waited > 0 {
					t.Error("somebody waited for it")
				}
				synctest.Wait()
				w.advance(malwareMaxAge / 4)
			}
			if got := w.count("malware"); got != 3 {
				t.Errorf("asked %d times, want 3", got)
			}
		})
	})
	t.Run("a passing fault denies and is no fact about the layer", func(t *testing.T) {
		w, layer, c := deny(t)
		w.unscanned[layer.Digest] = []gate.Gap{{Kind: gate.GapUnscannedFile, Layer: layer.Digest, Path: "a", Why: "no room"}}
		if v, err := w.gate().Judge(t.Context(), c); err != nil || v.Allowed() || v.Reasons[0].Rule != gate.RuleGap {
			t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
		}
		if w.inventories[layer.Digest].Malware != nil {
			t.Error("it was recorded")
		}
	})
	t.Run("what is known of packages and secrets is kept", func(t *testing.T) {
		w, layer, c := deny(t)
		w.set.Policies[0].Secrets = &gate.SecretRule{}
		g := w.gate()
		if _, err := g.Judge(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if inv := w.inventories[layer.Digest]; !inv.SecretsRead || inv.Malware == nil || inv.DiffID == "" {
			t.Errorf("got %+v", inv)
		}
	})
}
