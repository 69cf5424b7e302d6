package gate_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// excused is w's policies with a waiver of the one finding that the image has, and without it.
func excused(t *testing.T, w *world) (with, without *gate.PolicySet) {
	t.Helper()
	without = &gate.PolicySet{Policies: w.set.Policies, Revision: "p1", WaiverRevision: "w0"}
	with = &gate.PolicySet{
		Policies: w.set.Policies, Revision: "p1", WaiverRevision: "w1",
		Waivers: []gate.Waiver{{Rule: gate.RuleSignatures, Repositories: w.set.Policies[0].Match, Until: noon.AddDate(0, 1, 0), By: "sam", Reason: "r"}},
	}
	return with, without
}

func TestAWaiverTakenBackWhileLayersAreReadWaivesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		with, without := excused(t, w)
		w.set, w.stall = with, make(chan struct{})
		c, g := w.image(w.blob(gzipLayer, "layer")), w.gate()
		clear(w.signatures)
		judged := make(chan gate.Verdict, 1)
		go func() {
			v, err := g.Judge(t.Context(), c)
			if err != nil {
				t.Error(err)
			}
			judged <- v
		}()
		<-w.reading
		w.set = without
		close(w.stall)
		if v := <-judged; v.Allowed() || w.isReleased(c) {
			t.Errorf("got %s, released %t, want what the policies in force say", v.Decision, w.isReleased(c))
		}
		for _, v := range w.records {
			if v.Allowed() {
				t.Error("an admission was recorded by a waiver that was taken back before")
			}
		}
	})
}

func TestLookingLaterUndoesNoNewerDenial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.warnsOf(true, false)
		with, without := excused(t, w)
		w.set, w.stallLooks = with, make(chan struct{})
		c, g := w.image(w.blob(gzipLayer, "layer")), w.gate()
		clear(w.signatures)
		if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
			t.Fatalf("got %s (%s), %v", v.Decision, v.Summary(), err)
		}
		synctest.Wait() // it is being looked into
		w.set = without
		if v, err := g.Judge(t.Context(), c); err != nil || v.Allowed() {
			t.Fatalf("got %s, %v", v.Decision, err)
		}
		close(w.stallLooks)
		synctest.Wait()
		if v := w.lastRecord(); v.Allowed() || w.isReleased(c) {
			t.Errorf("the last record is %s, released %t, want the denial to stand", v.Decision, w.isReleased(c))
		}
	})
}

// TestAClockThatWasAheadProlongsNothing judges while the clock is wrong, and looks at what counts once it is right again.
func TestAClockThatWasAheadProlongsNothing(t *testing.T) {
	const ahead = 30 * 24 * time.Hour
	for law, tt := range map[string]struct {
		ahead time.Duration
		want  string
	}{
		"a verdict of a clock that is right is remembered":            {0, ""},
		"one of a replica whose clock is a little ahead is, too":      {time.Minute, ""},
		"one of a clock that was far ahead is made anew":              {ahead, "verify"},
		"and what was found of malware then is looked for once more.": {ahead, "malware"},
	} {
		t.Run(law, func(t *testing.T) {
			w := newWorld(t)
			w.set.Policies[0].Malware = &gate.MalwareRule{}
			c, g := w.image(w.blob(gzipLayer, "layer")), w.gate()
			w.advance(tt.ahead)
			if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
				t.Fatalf("got %s (%s), %v", v.Decision, v.Summary(), err)
			}
			w.advance(-tt.ahead)
			verified, looked := w.count("verify"), w.count("malware")
			v, err := g.Judge(t.Context(), c)
			if err != nil || !v.Allowed() || v.Until.After(w.clock().Add(25*time.Hour)) {
				t.Errorf("got %s until %s, %v", v.Decision, v.Until, err)
			}
			again := map[string]bool{"verify": w.count("verify") > verified, "malware": w.count("malware") > looked, "": w.count("verify") == verified && w.count("malware") == looked}
			if !again[tt.want] {
				t.Errorf("signatures were looked for again: %t, malware: %t", again["verify"], again["malware"])
			}
		})
	}
}

// TestADenialFitsItsRecord has an image of many layers, each with much in it that is told of.
func TestADenialFitsItsRecord(t *testing.T) {
	const layers, each, fits = 512, 50, 8 << 20 // an eighth of what a record may have
	p := strict(t)
	p.Secrets, p.Malware, p.DenyPackages = &gate.SecretRule{}, &gate.MalwareRule{}, []gate.PackagePattern{{Type: "*", Name: "*", Version: "*"}}
	e := clean()
	e.Looked = gate.Look{Secrets: true, Malware: true}
	for l := range layers {
		layer := digestOf(fmt.Sprint(l))
		for i := range each {
			name := fmt.Sprintf("%d/%s", i, strings.Repeat("x", 250))
			e.Malware.Found = append(e.Malware.Found, gate.Infection{Signature: "Eicar-Test-Signature", Path: name, Layer: layer})
			e.Malware.Gaps = append(e.Malware.Gaps, gate.Gap{Kind: gate.GapLimit, Layer: layer, Path: name, Why: name + " is too large"})
			e.Inventory.Secrets = append(e.Inventory.Secrets, gate.Secret{Kind: "private key", Path: name, Layer: layer})
			e.Inventory.Packages = append(e.Inventory.Packages, gate.Found{Package: gate.Package{Type: "deb", Name: name, Version: "1"}, Path: name})
		}
	}
	v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon)
	encoded, err := json.Marshal(v)
	if err != nil || v.Allowed() || len(encoded) > fits {
		t.Fatalf("got %s of %d bytes, %v, want a denial of at most %d", v.Decision, len(encoded), err, fits)
	}
	t.Run("and each waived, what is left denies", func(t *testing.T) {
		set := &gate.PolicySet{Policies: []gate.Policy{p}}
		for _, r := range v.Reasons[:len(v.Reasons)-1] {
			set.Waivers = append(set.Waivers, gate.Waiver{Rule: r.Rule, Says: r.Message, Digest: e.Candidate.Digest, Until: noon.AddDate(0, 0, 1), By: "sam", Reason: "r"})
		}
		if v := gate.Decide(set, e, noon); v.Allowed() {
			t.Error("it is allowed")
		}
	})
}
