package gate_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// seen are sightings in memory. A candidate is first seen when it is first asked about.
type seen struct {
	w  *world
	at map[gate.Candidate]time.Time // guarded by w.mu
}

func (s seen) FirstSeen(_ context.Context, c gate.Candidate) (time.Time, error) {
	err := s.w.note("see %s", c)
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if _, ok := s.at[c]; !ok {
		s.at[c] = s.w.now
	}
	return s.at[c], err
}

// aged returns a world whose only policy is to have known what is let through for a day, and its gate.
func aged(t *testing.T) (*world, seen, *gate.Gate) {
	t.Helper()
	w := newWorld(t)
	w.set.Policies = []gate.Policy{{Name: "aged", Match: []oci.Pattern{pattern(t, "**")}, MinAge: 24 * time.Hour}}
	s := seen{w, map[gate.Candidate]time.Time{}}
	return w, s, w.gateWith(func(o *gate.Options) { o.Sightings = s })
}

func TestMinAge(t *testing.T) {
	index := oci.Manifest{MediaType: oci.MediaTypeIndex, Manifests: []oci.Descriptor{{Digest: digestOf("child"), ArtifactType: "application/x"}}}
	mixed := oci.Manifest{MediaType: oci.MediaTypeIndex, Manifests: []oci.Descriptor{{Digest: digestOf("child"), ArtifactType: "application/x"}, {Digest: digestOf("image")}}}
	waiver := gate.Waiver{Rule: gate.RuleMinAge, Digest: digestOf("image"), Until: noon.Add(time.Hour)}
	for name, tt := range map[string]struct {
		seen     time.Time
		evidence func(*gate.Evidence)
		waivers  []gate.Waiver
		want     string        // the reason; empty when it is admitted
		lapses   time.Duration // after noon
	}{
		"what was never seen before":       {seen: noon, want: "first seen here 0s ago, min_age is 24h, passes at 2026-11-23T12:00:00Z", lapses: 24 * time.Hour},
		"what came three hours ago":        {seen: noon.Add(-3 * time.Hour), want: "first seen here 3h ago, min_age is 24h, passes at 2026-11-23T09:00:00Z", lapses: 21 * time.Hour},
		"what is almost old enough":        {seen: noon.Add(time.Second - 24*time.Hour), want: "first seen here 23h59m59s ago, min_age is 24h, passes at 2026-11-22T12:00:01Z", lapses: time.Second},
		"what is exactly old enough":       {seen: noon.Add(-24 * time.Hour), lapses: 24 * time.Hour},
		"what came later than now":         {seen: noon.Add(time.Hour), want: "first seen here 0s ago, min_age is 24h, passes at 2026-11-23T13:00:00Z", lapses: 24 * time.Hour},
		"what nobody knows the age of":     {want: "it is not known when it was first seen here, min_age is 24h", lapses: 24 * time.Hour},
		"statements":                       {seen: noon, evidence: func(e *gate.Evidence) { e.OnlyStatements = true }, lapses: 24 * time.Hour},
		"a list of referrers":              {seen: noon, evidence: func(e *gate.Evidence) { e.Manifest = index }, lapses: 24 * time.Hour},
		"an index of one image and others": {seen: noon, evidence: func(e *gate.Evidence) { e.Manifest = mixed }, want: "first seen here 0s ago, min_age is 24h, passes at 2026-11-23T12:00:00Z", lapses: 24 * time.Hour},
		"what is waived, for as long":      {seen: noon, waivers: []gate.Waiver{waiver}, lapses: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			e := clean()
			e.FirstSeen = tt.seen
			if tt.evidence != nil {
				tt.evidence(&e)
			}
			p := gate.Policy{Name: "aged", Match: []oci.Pattern{pattern(t, "**")}, MinAge: 24 * time.Hour}
			v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}, Waivers: tt.waivers}, e, noon)
			got := strings.TrimPrefix(v.Summary(), "aged: ")
			if got != tt.want || v.Allowed() != (tt.want == "") {
				t.Errorf("got %s %q, want %q", v.Decision, got, tt.want)
			}
			if got := v.Until.Sub(noon); got != tt.lapses {
				t.Errorf("it lapses after %s, want %s", got, tt.lapses)
			}
		})
	}
}

func TestComingOfAge(t *testing.T) {
	t.Run("a denial lapses exactly when the image passes, and no layer is read for it", func(t *testing.T) {
		w, _, g := aged(t)
		c := w.image(w.blob(gzipLayer, "layer"))
		var got []string
		for _, wait := range []time.Duration{0, 24*time.Hour - 1, 1} {
			w.advance(wait)
			v, err := g.Judge(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, v.Decision.String())
		}
		if diff := cmp.Diff(got, []string{"deny", "deny", "allow"}); diff != "" {
			t.Errorf("-got +want:\n%s", diff)
		}
		if n := w.count("scan"); n > 0 {
			t.Errorf("%d layers were read", n)
		}
	})
	t.Run("the children of an index come of age with it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, s, g := aged(t)
			child := w.image(w.blob(gzipLayer, "layer"))
			index := w.index(nginx, child)
			if v, err := g.Judge(t.Context(), index); err != nil || v.Allowed() {
				t.Fatalf("got %s, %v", v.Decision, err)
			}
			synctest.Wait()
			if s.at[child] != noon {
				t.Errorf("the child was first seen at %s, want %s", s.at[child], noon)
			}
		})
	})
	t.Run("what is not there does not come of age by being asked for", func(t *testing.T) {
		w, s, g := aged(t)
		c := gate.Candidate{Repository: nginx, Digest: digestOf("to be pushed tomorrow")}
		if _, err := g.Judge(t.Context(), c); err == nil {
			t.Fatal("there is a verdict on nothing")
		}
		if n := w.count("see"); n > 0 || len(s.at) > 0 {
			t.Errorf("it was seen: %v", s.at)
		}
	})
	t.Run("what cannot be put on record has no verdict", func(t *testing.T) {
		w, _, g := aged(t)
		c := w.image(w.blob(gzipLayer, "layer"))
		w.breaks = "see"
		if v, err := g.Judge(t.Context(), c); err == nil || v.Allowed() {
			t.Errorf("got %s, %v", v.Decision, err)
		}
	})
	t.Run("signatures pass at any age once they are seen to be signatures", func(t *testing.T) {
		w, _, g := aged(t)
		c := w.manifest(nginx, map[string]any{
			"mediaType": oci.MediaTypeImage, "config": w.blob(oci.MediaTypeConfig, "{}"), "layers": []oci.Descriptor{w.blob(oci.MediaTypeSimpleSigning, `{"critical":{}}`)},
		})
		if v, err := g.Judge(t.Context(), c); err != nil || !v.Allowed() {
			t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
		}
	})
}

func TestBeingSeenLaterNeverAdmits(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 0))
	allowed := 0
	for range draws {
		set, e := randomPolicies(t, r), randomEvidence(r)
		for i := range set.Policies {
			set.Policies[i].MinAge = time.Duration(r.IntN(3)) * time.Hour
		}
		e.FirstSeen = noon.Add(-time.Duration(r.IntN(240)) * time.Minute)
		before := gate.Decide(set, e, noon)
		if before.Allowed() {
			allowed++
		}
		e.FirstSeen = e.FirstSeen.Add(time.Duration(r.IntN(240)) * time.Minute)
		mustStayDenied(t, before, gate.Decide(set, e, noon))
	}
	if allowed < draws/20 || allowed > draws*19/20 {
		t.Errorf("%d of %d draws are admitted: the law was hardly tried", allowed, draws)
	}
}
