package gate_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Overturned implements gate.Overturns.
func (w *world) Overturned(_ context.Context, v gate.Verdict) (gate.Verdict, bool, error) {
	err := w.note("overturned")
	w.mu.Lock()
	defer w.mu.Unlock()
	own := false
	for _, before := range slices.Backward(w.records) {
		if before.Candidate() != v.Candidate() {
			continue
		}
		if own {
			return before, before.Decision != v.Decision, err
		}
		own = before.Key == v.Key
	}
	return gate.Verdict{}, false, err
}

func TestAChangedDecisionIsTold(t *testing.T) {
	w := newWorld(t)
	var told []string
	g := gate.New(gate.Options{
		Bytes: w, Releases: w, Scanner: w, Advisories: w, Signatures: w, Policies: w, Verdicts: remembers{w}, Inventories: w, Records: w,
		Now: w.clock, Log: slog.New(slog.DiscardHandler), Workers: 1, MaxImageBytes: maxImageBytes,
		Overturns: w, Changed: func(before, after gate.Verdict) {
			told = append(told, before.SnapshotID+" "+before.Decision.String()+", "+after.SnapshotID+" "+after.Decision.String())
		},
	})
	t.Cleanup(g.Close)
	layer := w.blob(gzipLayer, "layer")
	w.packages[layer.Digest] = []gate.Package{{Type: "deb", Name: "openssl", Version: "1"}}
	c := w.image(layer)
	bad := []gate.Finding{{ID: "CVE-1", Severity: gate.Critical, Package: gate.Package{Type: "deb", Name: "openssl", Version: "1"}, FixedVersion: "2"}}
	for _, s := range []struct {
		snapshot string
		findings []gate.Finding
	}{{"s1", nil}, {"s2", nil}, {"s3", bad}, {"s3", bad}, {"s4", bad}, {"s5", nil}} {
		w.snap.ID, w.findings = s.snapshot, s.findings
		if _, err := g.Judge(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(told, []string{"s2 allow, s3 deny", "s4 deny, s5 allow"}); diff != "" {
		t.Errorf("told (-got +want):\n%s", diff)
	}
}

func TestAVerdictStandsWhateverItOverturns(t *testing.T) {
	w := newWorld(t)
	w.breaks = "overturned"
	g := gate.New(gate.Options{
		Bytes: w, Releases: w, Scanner: w, Advisories: w, Signatures: w, Policies: w, Verdicts: remembers{w}, Inventories: w, Records: w,
		Now: w.clock, Log: slog.New(slog.DiscardHandler), Workers: 1, MaxImageBytes: maxImageBytes,
		Overturns: w, Changed: func(gate.Verdict, gate.Verdict) { t.Error("somebody was told of a change that nobody knows of") },
	})
	t.Cleanup(g.Close)
	c := w.image(w.blob(gzipLayer, "layer"))
	if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
		t.Errorf("Judge: got %v, %v, want an admission", v.Summary(), err)
	}
}
