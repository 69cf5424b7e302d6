package trail

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestFirstSeen(t *testing.T) {
	c := image(nginx, "a")
	t.Run("never changes, whatever the clock does and however often it is asked", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		for _, passes := range []time.Duration{0, time.Hour, -48 * time.Hour, 1000 * day} {
			s.clock.pass(passes)
			for _, asked := range []*Trail{tr, s.trail()} { // the second after a restart
				if got := mustSee(t, asked, c); got != noon {
					t.Errorf("after %s: got %s, want %s", passes, got, noon)
				}
			}
		}
		if n := s.sightings.count(); n != 1 {
			t.Errorf("%d records, want 1", n)
		}
	})
	t.Run("is of a digest in one repository, and not in another", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		mustSee(t, tr, image(web, "a"))
		s.clock.pass(48 * time.Hour)
		if got := mustSee(t, tr, c); got != noon.Add(48*time.Hour) {
			t.Errorf("got %s: another repository has let it come of age", got)
		}
	})
	t.Run("is when it was first judged, for what was judged before sightings were recorded", func(t *testing.T) {
		s := newSite()
		s.decide(c, gate.Allow)
		s.clock.pass(1000 * time.Hour)
		s.decide(c, gate.Deny)
		for range 2 {
			if got := mustSee(t, s.trail(), c); got != noon {
				t.Errorf("got %s, want %s", got, noon)
			}
		}
		if got := mustSee(t, s.trail(), image(web, "a")); got == noon {
			t.Error("a verdict in another repository counts")
		}
	})
	t.Run("is the earliest record of any replica", func(t *testing.T) {
		s := newSite()
		s.sightings.put(nginx, "000000", Sighting{c.Digest, noon.Add(-time.Hour)})
		s.sightings.put(nginx, "999999", Sighting{c.Digest, noon.Add(-9 * time.Hour)})
		if got := mustSee(t, s.trail(), c); got != noon.Add(-time.Hour) {
			t.Errorf("got %s", got)
		}
	})
	t.Run("is recorded once by whoever asks at the same time", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				if _, err := tr.FirstSeen(t.Context(), c); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := s.sightings.count(); n != 1 {
			t.Errorf("%d records, want 1", n)
		}
	})
	t.Run("is not known when it cannot be recorded", func(t *testing.T) {
		s := newSite()
		s.sightings.fail(errDisk)
		if at, err := s.trail().FirstSeen(t.Context(), c); !errors.Is(err, errDisk) || !at.IsZero() {
			t.Errorf("got %s, %v", at, err)
		}
	})
	t.Run("ignores records that are not believed", func(t *testing.T) {
		s := newSite()
		s.sightings.put(nginx, "000000", Sighting{})
		if got := mustSee(t, s.trail(), c); got != noon {
			t.Errorf("got %s", got)
		}
	})
}

func TestLooksLikeVersion(t *testing.T) {
	for tag, want := range map[string]bool{
		"v1": true, "1.2": true, "1.2.3": true, "v1.2.3": true, "1.2.3-rc1": true, "1.2.3rc1": true, "1.27-alpine": true, "1.2.3.4": true,
		"v2-slim": true, "2026.11": true, "1.0_p1": true,
		"latest": false, "main": false, "20261122": false, "42": false, "vnext": false, "v": false, "stable-1.2": false, "1.": false,
		"1.2-": false, "sha256-0123": false, "sha-1.2": false, "alpine3.19": false,
	} {
		if got := LooksLikeVersion(tag); got != want {
			t.Errorf("%s: got %t, want %t", tag, got, want)
		}
	}
}

func TestTags(t *testing.T) {
	a, b, c := digestOf("a"), digestOf("b"), digestOf("c")
	resolve := func(t *testing.T, tr *Trail, s *site, tag string, all ...oci.Digest) {
		t.Helper()
		for _, d := range all {
			s.clock.pass(time.Hour)
			tr.Resolved(t.Context(), nginx, tag, d, node1)
		}
	}
	for name, tt := range map[string]struct {
		tag      string
		resolved []oci.Digest
		history  []oci.Digest // newest first
		moves    []MoveKind
	}{
		"a tag that stays is recorded once": {"1.27", []oci.Digest{a, a, a}, []oci.Digest{a}, nil},
		"a version that moves is told of":   {"1.27", []oci.Digest{a, b, b, c}, []oci.Digest{c, b, a}, []MoveKind{Moved, Moved}},
		"one that moves back, too":          {"v1.2.3", []oci.Digest{a, b, a}, []oci.Digest{a, b, a}, []MoveKind{Moved, RolledBack}},
		"of others nothing is expected":     {"latest", []oci.Digest{a, b, a}, []oci.Digest{a, b, a}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite()
			resolve(t, s.trail(), s, tt.tag, tt.resolved...)
			for when, tr := range map[string]*Trail{"after a restart": s.trail()} {
				history, err := tr.History(t.Context(), nginx, tt.tag)
				if err != nil {
					t.Fatal(err)
				}
				var got []oci.Digest
				for _, h := range history {
					got = append(got, h.Digest)
				}
				if diff := cmp.Diff(got, tt.history); diff != "" {
					t.Errorf("history %s (-got +want):\n%s", when, diff)
				}
			}
			var moves []MoveKind
			for _, m := range s.moves {
				moves = append(moves, m.Kind)
			}
			if diff := cmp.Diff(moves, tt.moves); diff != "" {
				t.Errorf("moves (-got +want):\n%s", diff)
			}
			if n := s.tags.count(); n != len(tt.history) {
				t.Errorf("%d records, want %d", n, len(tt.history))
			}
		})
	}
	t.Run("a move says who saw it, when, and what was before", func(t *testing.T) {
		s := newSite()
		resolve(t, s.trail(), s, "1.27", a, b)
		want := []Move{{Repository: nginx, Kind: Moved, Tagged: Tagged{"1.27", b, noon.Add(2 * time.Hour), node1}, Before: a}}
		if diff := cmp.Diff(s.moves, want); diff != "" {
			t.Errorf("-got +want:\n%s", diff)
		}
	})
	t.Run("what another replica has recorded is no move", func(t *testing.T) {
		s := newSite()
		one, other := s.trail(), s.trail()
		resolve(t, one, s, "1.27", a)
		resolve(t, other, s, "1.27", b)
		resolve(t, one, s, "1.27", b)
		if len(s.moves) != 1 || s.tags.count() != 2 {
			t.Errorf("%d moves in %d records", len(s.moves), s.tags.count())
		}
	})
	t.Run("asking again costs nothing", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		resolve(t, tr, s, "1.27", a)
		listings := s.tags.listings
		resolve(t, tr, s, "1.27", a, a, a)
		if s.tags.listings != listings {
			t.Errorf("%d listings", s.tags.listings-listings)
		}
	})
	t.Run("only the last moves are remembered", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		for i := range maxMoves + 10 {
			resolve(t, tr, s, "latest", digestOf(fmt.Sprint(i)))
		}
		history, err := tr.History(t.Context(), nginx, "latest")
		if err != nil || len(history) != maxMoves || history[0].Digest != digestOf(fmt.Sprint(maxMoves+9)) {
			t.Errorf("%d moves, the newest is %v, %v", len(history), history[:1], err)
		}
	})
	t.Run("what cannot be recorded is counted, and recorded by whoever asks next", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		s.tags.fail(errDisk)
		resolve(t, tr, s, "1.27", a)
		s.tags.fail(nil)
		resolve(t, tr, s, "1.27", a)
		if tr.Stats().Failures != 1 || s.tags.count() != 1 {
			t.Errorf("%d failures, %d records", tr.Stats().Failures, s.tags.count())
		}
	})
	t.Run("of a repository", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		resolve(t, tr, s, "1.27", a, b)
		resolve(t, tr, s, "1.26", a)
		got, err := tr.Tags(t.Context(), nginx)
		want := []Tagged{{"1.26", a, noon.Add(3 * time.Hour), node1}, {"1.27", b, noon.Add(2 * time.Hour), node1}}
		if diff := cmp.Diff(got, want); err != nil || diff != "" {
			t.Errorf("%v (-got +want):\n%s", err, diff)
		}
	})
}

func TestBefore(t *testing.T) {
	a, b, c := digestOf("a"), digestOf("b"), digestOf("c")
	for name, tt := range map[string]struct {
		history []oci.Digest // one each hour, from one o'clock
		now     oci.Digest
		since   time.Duration // after noon
		want    []oci.Digest
	}{
		"what a tag stood for before, newest first": {[]oci.Digest{a, b, c}, c, 0, []oci.Digest{b, a}},
		"what it stands for now is not on record":   {[]oci.Digest{a, b}, c, 0, []oci.Digest{b, a}},
		"each once":                              {[]oci.Digest{a, b, a, b, c}, c, 0, []oci.Digest{b, a}},
		"never what it stands for now":           {[]oci.Digest{a, c, a, c}, c, 0, []oci.Digest{a}},
		"not what it moved on from too long ago": {[]oci.Digest{a, b, c}, c, 2*time.Hour + 1, []oci.Digest{b}},
		"but what it moved on from just then":    {[]oci.Digest{a, b, c}, c, 2 * time.Hour, []oci.Digest{b, a}},
		"nothing of a tag never seen":            {nil, c, 0, nil},
		"nothing before the first":               {[]oci.Digest{c}, c, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite()
			tr := s.trail()
			for _, d := range tt.history {
				s.clock.pass(time.Hour)
				tr.Resolved(t.Context(), nginx, "1.27", d, node1)
			}
			got, err := tr.Before(t.Context(), nginx, "1.27", tt.now, noon.Add(tt.since))
			if diff := cmp.Diff(got, tt.want); err != nil || diff != "" {
				t.Errorf("%v (-got +want):\n%s", err, diff)
			}
		})
	}
}

func pulledBy(t *testing.T, tr *Trail, c gate.Candidate) Pullers {
	t.Helper()
	by, err := tr.PulledBy(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return by
}

func TestPulls(t *testing.T) {
	a := image(nginx, "a")
	t.Run("are known at once, and after a restart once they were flushed", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		tr.Pulled(a, node1)
		s.clock.pass(time.Minute)
		tr.Pulled(a, node2)
		tr.Pulled(a, node2)
		want := Pullers{Clients: []Pull{
			{a.Digest, node2, noon.Add(time.Minute), noon.Add(time.Minute), 2}, {a.Digest, node1, noon, noon, 1},
		}}
		if diff := cmp.Diff(pulledBy(t, tr, a), want); diff != "" {
			t.Errorf("before the flush (-got +want):\n%s", diff)
		}
		tr.Flush(t.Context())
		for when, asked := range map[string]*Trail{"after the flush": tr, "after a restart": s.trail()} {
			if diff := cmp.Diff(pulledBy(t, asked, a), want); diff != "" {
				t.Errorf("%s (-got +want):\n%s", when, diff)
			}
		}
		if by := pulledBy(t, tr, image(web, "a")); by.Any() {
			t.Errorf("of another repository: %v", by)
		}
	})
	t.Run("are on record whatever the clock does between them", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		tr.Pulled(a, node1)
		s.clock.pass(-day)
		tr.Pulled(a, node1)
		tr.Close()
		want := Pullers{Clients: []Pull{{a.Digest, node1, noon.Add(-day), noon, 2}}}
		if diff := cmp.Diff(pulledBy(t, s.trail(), a), want); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
	})
	t.Run("by somebody who is known to have it are counted, and recorded now and then", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		for range 100 {
			tr.Pulled(a, node1)
			tr.Flush(t.Context())
			s.clock.pass(time.Minute)
		}
		if n := s.pulls.count(); n != 2 { // the first, and one after an hour
			t.Errorf("%d records, want 2", n)
		}
		tr.Close()
		if by := pulledBy(t, s.trail(), a); by.Clients[0].Count != 100 || s.pulls.count() != 3 {
			t.Errorf("got %+v after a restart, in %d records", by, s.pulls.count())
		}
	})
	t.Run("that cannot be recorded are tried again", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		tr.Pulled(a, node1)
		s.pulls.fail(errDisk)
		tr.Flush(t.Context())
		s.pulls.fail(nil)
		tr.Pulled(a, node1)
		tr.Flush(t.Context())
		if by := pulledBy(t, s.trail(), a); len(by.Clients) != 1 || by.Clients[0].Count != 2 || tr.Stats().Failures != 1 {
			t.Errorf("got %+v, %+v", by, tr.Stats())
		}
	})
	t.Run("by more clients than are told apart are counted together", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		for i := range maxClients + 7 {
			tr.Pulled(a, Client{Name: "anonymous", Address: fmt.Sprint(i)})
		}
		tr.Flush(t.Context())
		by := pulledBy(t, s.trail(), a)
		if len(by.Clients) != maxClients || by.Others != 7 {
			t.Errorf("%d clients and %d others", len(by.Clients), by.Others)
		}
	})
	t.Run("beyond what is held are lost, and counted", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		for i := range maxPending + 3 {
			tr.Pulled(image(nginx, fmt.Sprint(i)), node1)
		}
		if got := tr.Stats().LostPulls; got != 3 {
			t.Errorf("got %d, want 3", got)
		}
	})
	t.Run("are known for as long as is configured, and then removed", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		tr.Pulled(a, node1)
		tr.Flush(t.Context())
		s.clock.pass(90*day + 1)
		if by := pulledBy(t, tr, a); by.Any() {
			t.Errorf("got %+v", by)
		}
		tr.expire(t.Context())
		if want := noon.Add(1); s.pulls.expired != want {
			t.Errorf("removed what is before %s, want %s", s.pulls.expired, want)
		}
	})
	t.Run("keep what a client says of itself short and printable", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		tr.Pulled(a, Client{Name: "anonymous", Address: "10.0.0.1", Agent: "\x1b[2J" + strings.Repeat("é", maxTextBytes)})
		got := pulledBy(t, tr, a).Clients[0].Agent
		if len(got) > maxTextBytes || !strings.HasPrefix(got, "?[2Jé") {
			t.Errorf("got %d bytes: %.20q", len(got), got)
		}
	})
	t.Run("tell what was pulled last", func(t *testing.T) {
		s := newSite()
		tr := s.trail()
		tr.Pulled(a, node1)
		tr.Flush(t.Context())
		s.clock.pass(time.Hour)
		tr.Pulled(image(nginx, "b"), node1)
		got, err := tr.LastPulled(t.Context(), []gate.Candidate{a, image(nginx, "b"), image(nginx, "c"), image(web, "a")})
		if diff := cmp.Diff(got, map[gate.Candidate]time.Time{a: noon, image(nginx, "b"): noon.Add(time.Hour)}); err != nil || diff != "" {
			t.Errorf("%v (-got +want):\n%s", err, diff)
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	s := newSite()
	tr := s.trail()
	tr.sightings.limit = 50
	for i := range 100 {
		mustSee(t, tr, image(oci.Repository{Path: fmt.Sprintf("apps/%d", i)}, "a"))
	}
	if held := tr.sightings.held.Load(); held > 52 || len(tr.sightings.repos) > 26 {
		t.Errorf("%d things are held of %d repositories", held, len(tr.sightings.repos))
	}
	s.clock.pass(time.Hour)
	if got := mustSee(t, tr, image(oci.Repository{Path: "apps/0"}, "a")); got != noon {
		t.Errorf("what was forgotten is first seen at %s", got)
	}
	for i := range 100 {
		if _, err := tr.History(t.Context(), oci.Repository{Path: fmt.Sprintf("none/%d", i)}, "1.0"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(tr.tags.repos); n != 0 {
		t.Errorf("%d repositories are remembered of which nothing is on record", n)
	}
}

func BenchmarkPulled(b *testing.B) {
	tr := newSite().trail()
	cs := make([]gate.Candidate, 64)
	for i := range cs {
		cs[i] = image(nginx, fmt.Sprint(i))
	}
	for i := 0; b.Loop(); i++ {
		tr.Pulled(cs[i%len(cs)], node1)
	}
}
