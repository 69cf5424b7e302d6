package ledger

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// The four below ask l one question each and fail unless the answer is as given.

func wantVerdict(t *testing.T, l *Ledger, c gate.Candidate, key string, want gate.Verdict) {
	t.Helper()
	got, ok, err := l.Verdict(t.Context(), c, keyOf(key))
	if !ok || err != nil {
		t.Errorf("Verdict: got %v, %v, want one", ok, err)
		return
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("Verdict (-got +want):\n%s", diff)
	}
}

func wantNoVerdict(t *testing.T, l *Ledger, c gate.Candidate, key string) {
	t.Helper()
	got, ok, err := l.Verdict(t.Context(), c, keyOf(key))
	if diff := cmp.Diff(got, gate.Verdict{}); ok || err != nil || diff != "" {
		t.Errorf("Verdict: got %v, %v, want none (-got +want):\n%s", ok, err, diff)
	}
}

func wantReleased(t *testing.T, l *Ledger, c gate.Candidate, want bool) {
	t.Helper()
	if got, err := l.Released(t.Context(), c); got != want || err != nil {
		t.Errorf("Released(%s): got %v, %v, want %v", c, got, err, want)
	}
}

func wantHolders(t *testing.T, l *Ledger, repo oci.Repository, blob string, want ...gate.Candidate) {
	t.Helper()
	got, err := l.Holders(t.Context(), repo, oci.FromBytes([]byte(blob)))
	if diff := cmp.Diff(got, want); err != nil || diff != "" {
		t.Errorf("Holders(%s): %v (-got +want):\n%s", blob, err, diff)
	}
}

func wantHistory(t *testing.T, l *Ledger, c gate.Candidate, want ...gate.Verdict) {
	t.Helper()
	got, err := l.History(t.Context(), c)
	if diff := cmp.Diff(got, want); err != nil || diff != "" {
		t.Errorf("History(%s): %v (-got +want):\n%s", c, err, diff)
	}
}

func TestARecordedVerdictIsFound(t *testing.T) {
	for name, s := range map[string]*storage{"in memory": inMemory(), "on disk": onDisk(t)} {
		t.Run(name, func(t *testing.T) {
			c := candidate(nginx, "a")
			finding := gate.Finding{ID: "CVE-2026-1", Package: gate.Package{Type: "deb", Name: "xz"}, Severity: gate.Critical, Source: "debian 12"}
			v := denial(c, "k")
			v.Findings, v.Reasons[0].Finding = []gate.Finding{finding}, &finding
			l := openLedger(t, s, &clock{})
			record(t, l, v)
			wantVerdict(t, l, c, "k", v)
			t.Run("also after a restart", func(t *testing.T) {
				wantVerdict(t, openLedger(t, s, &clock{}), c, "k", v)
			})
		})
	}
}

func TestVerdictAnswersOnlyForTheVeryCandidateAndKey(t *testing.T) {
	l := openLedger(t, inMemory(), &clock{})
	c := candidate(nginx, "a")
	record(t, l, admission(c, "k"))
	wantNoVerdict(t, l, c, "other inputs")
	wantNoVerdict(t, l, candidate(nginx, "b"), "k")
	wantNoVerdict(t, l, candidate(redis, "a"), "k")
}

func TestVerdictStopsAtUntil(t *testing.T) {
	cl := &clock{}
	l := openLedger(t, inMemory(), cl)
	c := candidate(nginx, "a")
	v := admission(c, "k")
	record(t, l, v)
	cl.pass(time.Hour - 1)
	wantVerdict(t, l, c, "k", v)
	cl.pass(1)
	wantNoVerdict(t, l, c, "k")
	wantReleased(t, l, c, true)
}

func TestTheLastVerdictCounts(t *testing.T) {
	cl := &clock{}
	l := openLedger(t, inMemory(), cl)
	c := candidate(nginx, "a")
	long, short := admission(c, "k"), denial(c, "k")
	short.Until = epoch.Add(time.Minute)
	record(t, l, long)
	cl.pass(time.Second)
	record(t, l, short, admission(c, "other inputs"))
	wantVerdict(t, l, c, "k", short)
	t.Run("and an earlier one does not come back once it has lapsed", func(t *testing.T) {
		cl.pass(time.Minute)
		wantNoVerdict(t, l, c, "k")
	})
}

func TestAnIncompleteVerdictIsReturnedAsRecorded(t *testing.T) {
	l := openLedger(t, inMemory(), &clock{})
	c := candidate(nginx, "a")
	v := denial(c, "k")
	v.Complete = false
	record(t, l, v)
	wantVerdict(t, l, c, "k", v)
}

func TestReleased(t *testing.T) {
	l := openLedger(t, inMemory(), &clock{})
	never, once, unknown := candidate(nginx, "never"), candidate(nginx, "once"), candidate(nginx, "unknown")
	record(t, l, denial(never, "k"), denial(never, "l"), admission(once, "k"), denial(once, "l"))
	wantReleased(t, l, never, false)
	wantReleased(t, l, unknown, false)
	wantReleased(t, l, once, true)
	wantReleased(t, l, candidate(redis, "once"), false)
}

func TestHolders(t *testing.T) {
	cl := &clock{}
	l := openLedger(t, inMemory(), cl)
	a, b, denied := candidate(nginx, "a"), candidate(nginx, "b"), candidate(nginx, "denied")
	refused := denial(denied, "k")
	refused.Blobs = admission(denied, "k", "shared").Blobs // even if a denial should list what it would have let out
	record(t, l, admission(a, "k", "shared", "of a"), admission(b, "k", "shared"), refused)
	t.Run("are the admitted manifests that list the blob", func(t *testing.T) {
		wantHolders(t, l, nginx, "of a", a)
		wantHolders(t, l, nginx, "of nobody")
	})
	t.Run("come newest verdict first", func(t *testing.T) {
		wantHolders(t, l, nginx, "shared", b, a)
		record(t, l, denial(a, "l"))
		wantHolders(t, l, nginx, "shared", a, b)
	})
	t.Run("are those of the same repository", func(t *testing.T) { wantHolders(t, l, redis, "shared") })
	t.Run("are listed once, however often they were admitted", func(t *testing.T) {
		record(t, l, admission(b, "l", "shared"), admission(b, "m", "shared", "seen later"))
		wantHolders(t, l, nginx, "shared", b, a)
		wantHolders(t, l, nginx, "seen later", b)
	})
}

func TestParents(t *testing.T) {
	l := openLedger(t, inMemory(), &clock{})
	child := candidate(nginx, "child")
	index := func(repo oci.Repository, seed string) gate.Verdict {
		v := admission(candidate(repo, seed), "k")
		v.MediaType, v.Children = oci.MediaTypeIndex, []oci.Digest{oci.FromBytes([]byte("sibling")), child.Digest}
		return v
	}
	denied := index(nginx, "denied index")
	denied.Decision = gate.Deny
	childless := admission(candidate(nginx, "childless"), "k", "child")
	record(t, l, index(nginx, "old index"), index(nginx, "new index"), denied, index(redis, "elsewhere"), childless)
	want := []gate.Candidate{candidate(nginx, "new index"), candidate(nginx, "old index")}
	got, err := l.Parents(t.Context(), child)
	if diff := cmp.Diff(got, want); err != nil || diff != "" {
		t.Errorf("Parents: %v (-got +want):\n%s", err, diff)
	}
	if got, err := l.Parents(t.Context(), candidate(nginx, "new index")); len(got) != 0 || err != nil {
		t.Errorf("Parents of an index: got %v, %v, want none", got, err)
	}
}

func TestHistoryIsNewestFirst(t *testing.T) {
	cl := &clock{}
	l := openLedger(t, inMemory(), cl)
	c := candidate(nginx, "a")
	var want []gate.Verdict
	for i := range 5 {
		v := denial(c, fmt.Sprint(i))
		record(t, l, v, admission(candidate(nginx, "b"), "k"))
		want = append([]gate.Verdict{v}, want...)
		cl.pass(time.Minute)
	}
	wantHistory(t, l, c, want...)
	wantHistory(t, l, candidate(nginx, "unknown"))
}

func TestHistoryIsBounded(t *testing.T) {
	l := openLedger(t, inMemory(), &clock{})
	c := candidate(nginx, "a")
	l.limits.history = 5
	for i := range 8 {
		record(t, l, admission(c, fmt.Sprint(i)))
	}
	got, err := l.History(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	var revisions []string
	for _, v := range got {
		revisions = append(revisions, v.PolicyRevision)
	}
	if diff := cmp.Diff(revisions, []string{"7", "6", "5", "4", "3"}); diff != "" {
		t.Errorf("History (-got +want):\n%s", diff)
	}
}

func TestNamesSortInTheOrderOfRecordingWhateverTheClockDoes(t *testing.T) {
	s, cl := inMemory(), &clock{}
	l := openLedger(t, s, cl)
	c := candidate(nginx, "a")
	var want []gate.Verdict
	next := func(l *Ledger) {
		v := denial(c, fmt.Sprint(len(want)))
		record(t, l, v)
		want = append([]gate.Verdict{v}, want...)
	}
	next(l)
	next(l) // in the same nanosecond
	cl.pass(-time.Hour)
	next(l)
	cl.pass(2 * time.Hour)
	next(l)
	cl.pass(-24 * time.Hour)
	restarted := openLedger(t, s, cl)
	wantHistory(t, restarted, c, want...) // from here on it has seen the names
	next(restarted)
	wantHistory(t, restarted, c, want...)
	wantHistory(t, openLedger(t, s, cl), c, want...)
}

func TestHistoryIsInTheOrderOfNamesWhateverOrderTheyAreSeenIn(t *testing.T) {
	s := inMemory()
	late, early := &clock{}, &clock{}
	late.pass(time.Minute)
	c := candidate(nginx, "a")
	l := openLedger(t, s, late)
	newer, older := denial(c, "newer"), denial(c, "older")
	record(t, l, newer)
	wantHistory(t, l, c, newer)
	record(t, openLedger(t, s, early), older) // by a replica whose clock is behind
	late.pass(maxAge)
	wantHistory(t, l, c, newer, older)
}

func TestRecordVerdictRefusesWhatCouldNotBeFoundAgain(t *testing.T) {
	good := admission(candidate(nginx, "a"), "k")
	for name, change := range map[string]func(*gate.Verdict){
		"the zero verdict":                func(v *gate.Verdict) { *v = gate.Verdict{} },
		"no repository":                   func(v *gate.Verdict) { v.Repository = oci.Repository{} },
		"a repository that leads outside": func(v *gate.Verdict) { v.Repository.Path = "../../v2" },
		"no digest":                       func(v *gate.Verdict) { v.Digest = "" },
		"a digest that is none":           func(v *gate.Verdict) { v.Digest = "sha256:a" },
		"no key":                          func(v *gate.Verdict) { v.Key = "" },
		"a key too short":                 func(v *gate.Verdict) { v.Key = v.Key[2:] },
		"a key in capitals":               func(v *gate.Verdict) { v.Key = "AB" + v.Key[2:] },
		"a key that is not hexadecimal":   func(v *gate.Verdict) { v.Key = "xy" + v.Key[2:] },
	} {
		t.Run(name, func(t *testing.T) {
			s := inMemory()
			v := good
			change(&v)
			if err := openLedger(t, s, &clock{}).RecordVerdict(t.Context(), v); err == nil {
				t.Error("got no error")
			}
			if got := s.called()["PutContent"]; got != 0 {
				t.Errorf("got %d writes, want none", got)
			}
		})
	}
}

func TestAVerdictThatWasNotStoredIsNotRemembered(t *testing.T) {
	s := inMemory()
	l := openLedger(t, s, &clock{})
	c := candidate(nginx, "a")
	wantReleased(t, l, c, false)
	s.failing("PutContent", errDisk)
	if err := l.RecordVerdict(t.Context(), admission(c, "k")); !errors.Is(err, errDisk) {
		t.Errorf("RecordVerdict: got %v, want the driver's error", err)
	}
	wantReleased(t, l, c, false)
	wantNoVerdict(t, l, c, "k")
}

func TestWithoutStorageNothingIsAnswered(t *testing.T) {
	for _, method := range []string{"List", "Reader"} {
		t.Run(method+" fails", func(t *testing.T) {
			s := inMemory()
			c := candidate(nginx, "a")
			record(t, openLedger(t, s, &clock{}), admission(c, "k", "blob"))
			l := openLedger(t, s, &clock{})
			s.failing(method, errDisk)
			questions := map[string]func() error{
				"Verdict":  func() error { _, _, err := l.Verdict(t.Context(), c, keyOf("k")); return err },
				"Released": func() error { _, err := l.Released(t.Context(), c); return err },
				"History":  func() error { _, err := l.History(t.Context(), c); return err },
				"Parents":  func() error { _, err := l.Parents(t.Context(), c); return err },
				"Holders":  func() error { _, err := l.Holders(t.Context(), nginx, c.Digest); return err },
			}
			for name, ask := range questions {
				if err := ask(); !errors.Is(err, errDisk) {
					t.Errorf("%s: got %v, want the driver's error", name, err)
				}
			}
			s.failing(method, nil)
			wantReleased(t, l, c, true)
			if got := l.Stats(); got != (Stats{}) {
				t.Errorf("Stats: got %+v, want none", got)
			}
		})
	}
}

func TestQuestionsAboutNoRepositoryAreRefused(t *testing.T) {
	l := openLedger(t, inMemory(), &clock{})
	outside := candidate(oci.Repository{Path: "../../docker"}, "a")
	if _, err := l.Released(t.Context(), outside); !errors.Is(err, oci.ErrNameInvalid) {
		t.Errorf("Released: got %v, want oci.ErrNameInvalid", err)
	}
	if _, _, err := l.Verdict(t.Context(), gate.Candidate{}, gate.Key{}); !errors.Is(err, oci.ErrNameInvalid) {
		t.Errorf("Verdict: got %v, want oci.ErrNameInvalid", err)
	}
}

func TestStandingsGoByTheNewestVerdict(t *testing.T) {
	c := &clock{}
	l := openLedger(t, inMemory(), c)
	a, b, elsewhere := candidate(nginx, "a"), candidate(nginx, "b"), candidate(oci.Repository{Path: "apps/web"}, "a")
	kept := denial(b, "k2")
	kept.Keep = true
	withdrawn := denial(a, "k3")
	for _, v := range []gate.Verdict{admission(a, "k1"), kept, withdrawn, admission(elsewhere, "k1")} {
		record(t, l, v)
	}
	want := []Standing{
		{Candidate: a, Admitted: true, Key: keyOf("k3"), JudgedAt: withdrawn.JudgedAt, Until: withdrawn.Until, FirstJudgedAt: admission(a, "k1").JudgedAt},
		{Candidate: b, Keep: true, Key: keyOf("k2"), JudgedAt: kept.JudgedAt, Until: kept.Until, FirstJudgedAt: kept.JudgedAt},
	}
	for c, want := range map[gate.Candidate]gate.Verdict{a: withdrawn, b: kept} {
		newest, ok, err := l.Newest(t.Context(), c)
		if diff := cmp.Diff(newest, want); !ok || err != nil || diff != "" {
			t.Errorf("Newest: %t, %v (-got +want):\n%s", ok, err, diff)
		}
	}
	if _, ok, err := l.Newest(t.Context(), candidate(nginx, "never judged")); ok || err != nil {
		t.Errorf("Newest of what was never judged: got %t, %v", ok, err)
	}
	got, err := l.Standings(t.Context(), nginx)
	if diff := cmp.Diff(got, want); err != nil || diff != "" {
		t.Errorf("Standings: %v (-got +want):\n%s", err, diff)
	}
	got, err = l.Standings(t.Context(), elsewhere.Repository)
	if err != nil || len(got) != 1 || got[0].Decision != gate.Allow {
		t.Errorf("Standings of another repository: got %+v, %v, want one admission", got, err)
	}
	repos, err := l.Repositories(t.Context())
	if diff := cmp.Diff(repos, []oci.Repository{elsewhere.Repository, nginx}); err != nil || diff != "" {
		t.Errorf("Repositories: %v (-got +want):\n%s", err, diff)
	}
	if got, err := l.Standings(t.Context(), oci.Repository{Path: "apps/none"}); err != nil || len(got) != 0 {
		t.Errorf("Standings of a repository nobody asked for: got %+v, %v, want none", got, err)
	}
}

func TestOverturned(t *testing.T) {
	cl := &clock{}
	s := inMemory()
	l := openLedger(t, s, cl)
	c := candidate(nginx, "a")
	at := func(v gate.Verdict) gate.Verdict {
		cl.pass(time.Second)
		v.JudgedAt = cl.now()
		record(t, l, v, denial(candidate(nginx, "b"), "k"))
		return v
	}
	first, same, denied, again := at(admission(c, "k1")), at(admission(c, "k2")), at(denial(c, "k3")), at(admission(c, "k2"))
	for name, test := range map[string]struct {
		v    gate.Verdict
		want gate.Verdict
		ok   bool
	}{
		"the first overturns nothing":                   {v: first},
		"one that decides the same overturns nothing":   {v: same},
		"one that decides otherwise overturns the last": {v: denied, want: same, ok: true},
		"a key may come again":                          {v: again, want: denied, ok: true},
		"one that is not recorded overturns nothing":    {v: denial(c, "k4")},
	} {
		t.Run(name, func(t *testing.T) {
			for where, l := range map[string]*Ledger{"at once": l, "after a restart": openLedger(t, s, cl)} {
				got, ok, err := l.Overturned(t.Context(), test.v)
				if diff := cmp.Diff(got, test.want); ok != test.ok || err != nil || diff != "" {
					t.Errorf("%s: got %v, %v, want %v (-got +want):\n%s", where, ok, err, test.ok, diff)
				}
			}
		})
	}
}
