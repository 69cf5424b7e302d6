package advisories

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// scripted is a registry that answers one attempt after another: with a database of its own, the one before, or an error. It notes when
// it was asked.
type scripted struct {
	t       *testing.T
	answers []string // "new", "same", anything else is an error
	began   time.Time
	asked   []time.Duration
	built   int
}

func (s *scripted) layer() []byte {
	return zipped(s.t, pack(s.t, file(databaseName, fmt.Appendf(nil, "%d", s.built))))
}

func (s *scripted) Manifest(context.Context, oci.Repository, string) (oci.Content, error) {
	n := len(s.asked)
	s.asked = append(s.asked, time.Since(s.began))
	answer := s.answers[min(n, len(s.answers)-1)]
	switch answer {
	case "new":
		s.built++
	case "same":
	default:
		return oci.Content{}, errors.New(answer)
	}
	layer := s.layer()
	raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		oci.MediaTypeImage, oci.FromBytes([]byte("{}")), layerMediaType, oci.FromBytes(layer), len(layer))
	return oci.Content{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes([]byte(raw)), Raw: []byte(raw)}, nil
}

func (s *scripted) Blob(context.Context, oci.Repository, oci.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s.layer())), nil
}

// trusting takes everything for a database built now.
func trusting(context.Context, string) (gate.Snapshot, error) {
	return gate.Snapshot{ID: "sha256:any", UpdatedAt: time.Now().UTC()}, nil
}

// schedule runs an updater for a time and returns when it asked, and what became of it.
func schedule(t *testing.T, path string, random float64, lasting time.Duration, answers ...string) (asked []time.Duration, changes int, u *Updater) {
	t.Helper()
	folder := NewFolder(path, trusting, time.Now)
	ref, err := ParseSource("registry.test/trivy-db:2")
	if err != nil {
		t.Fatal(err)
	}
	registry := &scripted{t: t, answers: answers, began: time.Now()}
	u = NewUpdater(UpdaterOptions{
		Folder: folder, Registry: registry, Source: ref, Refresh: 6 * time.Hour, Now: time.Now, Random: func() float64 { return random },
		Log: slog.New(slog.DiscardHandler), Changed: func(context.Context) { changes++ },
	})
	ctx, cancel := context.WithTimeout(t.Context(), lasting)
	defer cancel()
	u.Run(ctx)
	return registry.asked, changes, u
}

func TestSchedule(t *testing.T) {
	for law, tt := range map[string]struct {
		random  float64
		lasting time.Duration
		answers []string
		want    []time.Duration
		changes int
	}{
		"at once, then every so often":          {.5, 13 * time.Hour, []string{"new", "same", "new"}, []time.Duration{0, 6 * time.Hour, 12 * time.Hour}, 2},
		"a little earlier by chance":            {0, 11 * time.Hour, []string{"new", "same"}, []time.Duration{0, 324 * time.Minute, 648 * time.Minute}, 1},
		"a little later by chance":              {.999999, 12 * time.Hour, []string{"new", "same"}, []time.Duration{0, 396 * time.Minute}, 1},
		"soon after a failure, then less often": {.5, 8 * time.Minute, []string{"down"}, []time.Duration{0, time.Minute, 3 * time.Minute, 7 * time.Minute}, 0},
		"never less often than usual": {.5, 24 * time.Hour, []string{"down"}, []time.Duration{
			0, 1 * time.Minute, 3 * time.Minute, 7 * time.Minute, 15 * time.Minute, 31 * time.Minute, 63 * time.Minute, 127 * time.Minute, 255 * time.Minute,
			511 * time.Minute, 871 * time.Minute, 1231 * time.Minute,
		}, 0},
		"as usual after a success": {.5, 8 * time.Hour, []string{"down", "down", "new", "same"}, []time.Duration{0, time.Minute, 3 * time.Minute, 363 * time.Minute}, 1},
	} {
		t.Run(law, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "advisories")
			synctest.Test(t, func(t *testing.T) {
				asked, changes, u := schedule(t, path, tt.random, tt.lasting, tt.answers...)
				for i := range asked {
					asked[i] = asked[i].Round(time.Minute)
				}
				if diff := cmp.Diff(asked, tt.want); diff != "" {
					t.Errorf("asked (-got +want):\n%s", diff)
				}
				if changes != tt.changes {
					t.Errorf("%d changes were told, want %d", changes, tt.changes)
				}
				a := u.Attempts()
				if s, err := u.o.Folder.Status(); err != nil || s.Attempts != a {
					t.Errorf("the folder says %+v, %v, the updater %+v", s.Attempts, err, a)
				}
				if a.Failing() != (tt.answers[len(tt.answers)-1] == "down") || a.NextAt.Before(time.Now()) {
					t.Errorf("got %+v", a)
				}
			})
		})
	}
}

func TestScheduleAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "advisories")
	synctest.Test(t, func(t *testing.T) {
		schedule(t, path, .5, time.Hour, "new")
		if asked, _, _ := schedule(t, path, .5, 6*time.Hour, "same"); len(asked) != 1 || asked[0] != 5*time.Hour {
			t.Errorf("with a recent one it asked after %v", asked)
		}
		<-time.After(24 * time.Hour)
		if asked, _, _ := schedule(t, path, .5, time.Minute, "same"); len(asked) != 1 || asked[0] != 0 {
			t.Errorf("with an old one it asked after %v", asked)
		}
		if asked, _, _ := schedule(t, path, .5, 7*time.Hour, "down"); len(asked) == 0 {
			t.Errorf("it asked after %v", asked)
		}
		if asked, _, _ := schedule(t, path, .5, time.Second, "same"); len(asked) != 1 || asked[0] != 0 {
			t.Errorf("after a failure it asked after %v", asked)
		}
	})
}

// Nothing on the network at start: what there is stays, and what went wrong can be read.
func TestFailureLeavesWhatThereIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "advisories")
	synctest.Test(t, func(t *testing.T) {
		schedule(t, path, .5, time.Hour, "new")
		<-time.After(100 * time.Hour)
		_, changes, u := schedule(t, path, .5, time.Hour, strings.Repeat("no such host ", 1000))
		s, err := u.o.Folder.Status()
		if err != nil || s.InUse == nil || !s.Failing() || !strings.HasPrefix(s.Failure, "no such host") || len(s.Failure) > maxFailureBytes || changes != 0 {
			t.Errorf("got %+v, %v, %d changes", s, err, changes)
		}
	})
}

// Another replica that is at it is no failure, and will be done in a moment.
func TestScheduleBesideAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "advisories")
	unlock, err := NewFolder(path, trusting, time.Now).lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	synctest.Test(t, func(t *testing.T) {
		asked, changes, u := schedule(t, path, .5, 150*time.Second, "new", "same")
		if diff := cmp.Diff(asked, []time.Duration{0, time.Minute, 2 * time.Minute}); diff != "" || changes != 0 {
			t.Errorf("%d changes, asked (-got +want):\n%s", changes, diff)
		}
		if a := u.Attempts(); a.Failing() || !a.SucceededAt.IsZero() {
			t.Errorf("got %+v", a)
		}
	})
}
