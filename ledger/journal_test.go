package ledger

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/oci"
)

// web and its neighbours are hosted repositories whose names begin alike.
var (
	web     = oci.Repository{Path: "apps/web"}
	apps    = oci.Repository{Path: "apps"}
	webDeep = oci.Repository{Path: "apps/web/v"}
)

func pushed(seed, tag string) hosted.Event {
	return hosted.Event{
		At: epoch, By: "user:ci", Kind: hosted.Pushed, Tag: tag, Subject: oci.FromBytes([]byte("subject")),
		Descriptor: oci.Descriptor{
			MediaType: oci.MediaTypeImage, Digest: oci.FromBytes([]byte(seed)), Size: 7, ArtifactType: "application/vnd.example",
			Annotations: map[string]string{"a": "b"},
		},
	}
}

func appendEvents(t testing.TB, l *Ledger, repo oci.Repository, events ...hosted.Event) {
	t.Helper()
	for _, e := range events {
		if _, err := l.Journal().Append(t.Context(), repo, e); err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
}

func unknown(string) bool { return false }

// wantEvents compares all events of repo, in order.
func wantEvents(t testing.TB, l *Ledger, repo oci.Repository, want ...hosted.Event) {
	t.Helper()
	recorded, err := l.Journal().Events(t.Context(), repo, time.Time{}, unknown)
	if err != nil {
		t.Errorf("Events of %s: %v", repo, err)
	}
	var got []hosted.Event
	for i, r := range recorded {
		got = append(got, r.Event)
		if i > 0 && r.Name <= recorded[i-1].Name {
			t.Errorf("Events of %s: %s comes after %s", repo, r.Name, recorded[i-1].Name)
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("Events of %s (-got +want):\n%s", repo, diff)
	}
}

func TestTheJournalKeepsEventsInOrder(t *testing.T) {
	s, c := onDisk(t), &clock{}
	var want []hosted.Event
	for i := range 20 {
		want = append(want, pushed(fmt.Sprint(i), "latest"))
	}
	want = append(want,
		hosted.Event{At: epoch, By: "tidewaiter", Kind: hosted.Admitted, Tags: []string{"latest"}, Descriptor: oci.Descriptor{Digest: oci.FromBytes(nil)}},
		hosted.Event{At: epoch, By: "user:ci", Kind: hosted.TagDeleted, Tag: "latest"},
	)
	l := openLedger(t, s, c)
	for _, e := range want {
		appendEvents(t, l, web, e)
		c.pass(-time.Minute) // whatever the clock does
	}
	wantEvents(t, l, web, want...)
	wantEvents(t, openLedger(t, s, c), web, want...)
	t.Run("and gives those that are not known", func(t *testing.T) {
		all, err := l.Journal().Events(t.Context(), web, time.Time{}, unknown)
		if err != nil {
			t.Fatal(err)
		}
		some, err := l.Journal().Events(t.Context(), web, time.Time{}, func(name string) bool { return name != all[3].Name && name != all[7].Name })
		if diff := cmp.Diff(some, []hosted.Recorded{all[3], all[7]}); diff != "" || err != nil {
			t.Errorf("Events: %v (-got +want):\n%s", err, diff)
		}
	})
	t.Run("after those another has seen", func(t *testing.T) {
		c.pass(-time.Hour)
		other := openLedger(t, s, c)
		wantEvents(t, other, web, want...)
		last := pushed("last", "")
		appendEvents(t, other, web, last)
		wantEvents(t, l, web, append(slices.Clone(want), last)...)
	})
}

// TestWhatIsOldIsNotListedAgain records on ten days and asks for what is new.
func TestWhatIsOldIsNotListedAgain(t *testing.T) {
	s, c := inMemory(), &clock{}
	l := openLedger(t, s, c)
	var all []hosted.Event
	for i := range 10 {
		all = append(all, pushed(fmt.Sprint(i), ""))
		appendEvents(t, l, web, all[i])
		c.pass(24 * time.Hour)
	}
	for _, tt := range []struct {
		name      string
		since     time.Time
		want      []hosted.Event
		wantLists int
	}{
		{"all", time.Time{}, all, 11},
		{"of the last days", epoch.Add(8 * 24 * time.Hour), all[7:], 4},
		{"of an hour after midnight", epoch.Add(8*24*time.Hour - 11*time.Hour), all[7:], 4},
		{"of the future", epoch.Add(20 * 24 * time.Hour), nil, 1},
		{"from before there were days", time.Unix(0, 0), all, 11},
	} {
		s.called()
		recorded, err := l.Journal().Events(t.Context(), web, tt.since, unknown)
		var got []hosted.Event
		for _, r := range recorded {
			got = append(got, r.Event)
		}
		if diff := cmp.Diff(got, tt.want); diff != "" || err != nil {
			t.Errorf("%s: %v (-got +want):\n%s", tt.name, err, diff)
		}
		if lists := s.called()["List"]; lists != tt.wantLists {
			t.Errorf("%s: got %d listings, want %d", tt.name, lists, tt.wantLists)
		}
	}
}

func TestRepositoriesWhoseNamesBeginAlikeShareNoEvents(t *testing.T) {
	for _, s := range []*storage{inMemory(), onDisk(t)} {
		l := openLedger(t, s, &clock{})
		wantRepositories(t, l)
		for _, repo := range []oci.Repository{web, apps, webDeep} {
			appendEvents(t, l, repo, pushed(repo.Path, ""))
		}
		for _, repo := range []oci.Repository{web, apps, webDeep} {
			wantEvents(t, l, repo, pushed(repo.Path, ""))
		}
		wantRepositories(t, l, apps, web, webDeep)
		wantEvents(t, l, oci.Repository{Path: "apps/other"})
		s.called()
		wantRepositories(t, l, apps, web, webDeep)
		if got := s.called(); got["Reader"] != 0 {
			t.Errorf("got %v, want no record read", got)
		}
	}
}

func wantRepositories(t *testing.T, l *Ledger, want ...oci.Repository) {
	t.Helper()
	got, err := l.Journal().Repositories(t.Context())
	if diff := cmp.Diff(got, want); diff != "" || err != nil {
		t.Errorf("Repositories: %v (-got +want):\n%s", err, diff)
	}
}

func TestTheJournalIsOfHostedRepositories(t *testing.T) {
	j := openLedger(t, inMemory(), &clock{}).Journal()
	for _, repo := range []oci.Repository{nginx, {}, {Path: "docker.io/library/nginx"}, {Path: "../apps"}, {Path: "apps/_e"}, {Path: "Apps"}} {
		if _, err := j.Append(t.Context(), repo, pushed("a", "")); !errors.Is(err, oci.ErrNameInvalid) {
			t.Errorf("Append in %q: got %v, want oci.ErrNameInvalid", repo, err)
		}
		if _, err := j.Events(t.Context(), repo, time.Time{}, unknown); !errors.Is(err, oci.ErrNameInvalid) {
			t.Errorf("Events of %q: got %v, want oci.ErrNameInvalid", repo, err)
		}
	}
}

func TestAnEventThatSaysNothingIsNotRecorded(t *testing.T) {
	s := inMemory()
	l := openLedger(t, s, &clock{})
	noDigest, badTag, noTag := pushed("a", ""), pushed("a", "../latest"), hosted.Event{Kind: hosted.TagDeleted}
	noDigest.Descriptor.Digest = "latest"
	badTags := hosted.Event{Kind: hosted.Admitted, Tags: []string{""}, Descriptor: oci.Descriptor{Digest: oci.FromBytes(nil)}}
	huge := pushed("a", "")
	huge.Descriptor.Annotations["a"] = string(make([]byte, production.event.plainBytes))
	for name, e := range map[string]hosted.Event{
		"no kind": {}, "an unknown kind": {Kind: "renamed"}, "no digest": noDigest, "a tag that is none": badTag, "no tag": noTag,
		"an empty tag": badTags, "too large": huge,
	} {
		if _, err := l.Journal().Append(t.Context(), web, e); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	wantEvents(t, l, web)
}

func TestAnEventThatIsNotOursIsNotBelieved(t *testing.T) {
	dirOf := func(t *testing.T, repo oci.Repository) string {
		dir, err := NewLog[hosted.Event](nil, eventsKind).dir(repo)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for name, spoil := range map[string]func(t *testing.T, s *storage, dir, at string){
		"altered": func(t *testing.T, s *storage, _, at string) {
			content := s.get(t, at)
			content[len(content)/2] ^= 1
			s.put(t, at, content)
		},
		"empty":   func(t *testing.T, s *storage, _, at string) { s.put(t, at, nil) },
		"foreign": func(t *testing.T, s *storage, _, at string) { s.put(t, at, []byte(`{"kind":"pushed"}`)) },
		"renamed, to look newer": func(t *testing.T, s *storage, dir, at string) {
			move(t, s, at, path.Join(dir, recordName(epoch.UnixNano()+int64(time.Hour), nil)))
		},
		"moved to another day": func(t *testing.T, s *storage, dir, at string) {
			move(t, s, at, path.Join(path.Dir(dir), dayName(1), path.Base(at)))
		},
		"under a name that is none": func(t *testing.T, s *storage, dir, at string) { move(t, s, at, path.Join(dir, "newest")) },
		"moved from another repository": func(t *testing.T, s *storage, dir, at string) {
			from := path.Join(dirOf(t, apps), dayName(epoch.UnixNano()))
			paths, err := s.StorageDriver.List(t.Context(), from)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Delete(t.Context(), at); err != nil {
				t.Fatal(err)
			}
			move(t, s, paths[0], path.Join(dir, path.Base(paths[0])))
		},
		"of a later version": func(t *testing.T, s *storage, dir, at string) {
			l := openLedger(t, s, &clock{})
			place(t, l, s, dir, path.Base(at), struct {
				hosted.Event
				Unless string `json:"unless"`
			}{pushed("a", ""), "tuesday"})
		},
		"of a later kind": func(t *testing.T, s *storage, dir, at string) {
			place(t, openLedger(t, s, &clock{}), s, dir, path.Base(at), hosted.Event{Kind: "renamed"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := inMemory()
			before := openLedger(t, s, &clock{})
			appendEvents(t, before, web, pushed("a", "one"), pushed("b", "two"))
			appendEvents(t, before, apps, pushed("c", "three"))
			dir := path.Join(dirOf(t, web), dayName(epoch.UnixNano()))
			paths, err := s.StorageDriver.List(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(paths)
			spoil(t, s, dir, paths[0])
			l := openLedger(t, s, &clock{})
			recorded, err := l.Journal().Events(t.Context(), web, time.Time{}, unknown)
			if err != nil || len(recorded) != 2 {
				t.Fatalf("Events: got %d, %v, want 2", len(recorded), err)
			}
			var believed []hosted.Event
			for _, r := range recorded {
				if r.Event.Kind != "" {
					believed = append(believed, r.Event)
				} else if diff := cmp.Diff(r.Event, hosted.Event{}); diff != "" {
					t.Errorf("an event that is not believed (-got +want):\n%s", diff)
				}
			}
			if diff := cmp.Diff(believed, []hosted.Event{pushed("b", "two")}); diff != "" {
				t.Errorf("believed (-got +want):\n%s", diff)
			}
			if got, want := l.Stats(), (Stats{BrokenEvents: 1}); got != want {
				t.Errorf("Stats: got %+v, want %+v", got, want)
			}
		})
	}
}

func TestWhatTheJournalCannotReadIsAFailure(t *testing.T) {
	s := inMemory()
	l := openLedger(t, s, &clock{})
	appendEvents(t, l, web, pushed("a", ""), pushed("b", ""))
	for _, method := range []string{"List", "Reader"} {
		s.failing(method, errDisk)
		if _, err := l.Journal().Events(t.Context(), web, time.Time{}, unknown); !errors.Is(err, errDisk) {
			t.Errorf("Events, %s failing: got %v, want errDisk", method, err)
		}
		s.failing(method, nil)
	}
	s.failing("List", errDisk)
	if _, err := l.Journal().Repositories(t.Context()); !errors.Is(err, errDisk) {
		t.Errorf("Repositories: got %v, want errDisk", err)
	}
	s.failing("List", nil)
	s.failing("PutContent", errDisk)
	if _, err := l.Journal().Append(t.Context(), web, pushed("c", "")); !errors.Is(err, errDisk) {
		t.Errorf("Append: got %v, want errDisk", err)
	}
	t.Run("and one that is given up is too", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s.before["Reader"] = func(context.Context) { cancel() }
		if _, err := l.Journal().Events(ctx, web, time.Time{}, unknown); !errors.Is(err, context.Canceled) {
			t.Errorf("Events: got %v, want context.Canceled", err)
		}
	})
}

func TestManyAppendAtOnce(t *testing.T) {
	s, c := onDisk(t), &clock{}
	ledgers := []*Ledger{openLedger(t, s, c), openLedger(t, s, c)}
	const each = 20
	var writers sync.WaitGroup
	for i, l := range ledgers {
		for _, repo := range []oci.Repository{web, apps} {
			writers.Go(func() {
				for n := range each {
					appendEvents(t, l, repo, pushed(fmt.Sprint(i, n), ""))
				}
			})
		}
	}
	writers.Wait()
	for _, repo := range []oci.Repository{web, apps} {
		events, err := ledgers[0].Journal().Events(t.Context(), repo, time.Time{}, unknown)
		if want := each * len(ledgers); len(events) != want || err != nil {
			t.Errorf("Events: got %d, %v, want %d", len(events), err, want)
		}
	}
}
