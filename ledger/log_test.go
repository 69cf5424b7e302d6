package ledger

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// note is a record that says something unless it is empty.
type note struct {
	Text string `json:"text"`
}

func (n note) Check() error {
	if n.Text == "" {
		return errors.New("it says nothing")
	}
	return nil
}

// notes returns the texts of what log has about repo, by name.
func notes(t *testing.T, log Log[note], repo oci.Repository) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := log.Records(t.Context(), repo, time.Time{}, func(string) bool { return false }, func(name string, n note) { found[name] = n.Text })
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestALogKeepsWhatItWasTold(t *testing.T) {
	s := inMemory()
	local := oci.Repository{Upstream: "localhost:5000", Path: "web"}
	want := map[oci.Repository]map[string]string{}
	log := NewLog[note](openLedger(t, s, &clock{}), "notes")
	for repo, text := range map[oci.Repository]string{{}: "of all", nginx: "of nginx", local: "of one with a port"} {
		name, err := log.Append(t.Context(), repo, note{text})
		if err != nil {
			t.Fatal(err)
		}
		want[repo] = map[string]string{name: text}
	}
	again := NewLog[note](openLedger(t, s, &clock{}), "notes") // after a restart
	for repo := range want {
		if diff := cmp.Diff(notes(t, again, repo), want[repo]); diff != "" {
			t.Errorf("%q (-got +want):\n%s", repo, diff)
		}
	}
	repos, err := again.Repositories(t.Context())
	if diff := cmp.Diff(repos, []oci.Repository{nginx, local}); err != nil || diff != "" {
		t.Errorf("Repositories: %v (-got +want):\n%s", err, diff)
	}
	if other := notes(t, NewLog[note](openLedger(t, s, &clock{}), "others"), nginx); len(other) != 0 {
		t.Errorf("a log of another kind has %v", other)
	}
}

func TestALogReadsOneRecord(t *testing.T) {
	s := inMemory()
	log := NewLog[note](openLedger(t, s, &clock{}), "notes")
	name, err := log.Append(t.Context(), nginx, note{"x"})
	if err != nil {
		t.Fatal(err)
	}
	for law, tt := range map[string]struct {
		repo oci.Repository
		name string
		want bool
	}{
		"one that is there":      {nginx, name, true},
		"one that is not":        {nginx, recordName(1, []byte("x")), false},
		"another repository's":   {oci.Repository{Path: "web"}, name, false},
		"a name that is no name": {nginx, "../" + name, false},
	} {
		t.Run(law, func(t *testing.T) {
			got, ok, err := log.Record(t.Context(), tt.repo, tt.name)
			if err != nil || ok != tt.want || ok && got.Text != "x" {
				t.Errorf("got %+v, %t, %v, want %t", got, ok, err, tt.want)
			}
		})
	}
}

func TestALogRefusesWhatSaysNothing(t *testing.T) {
	log := NewLog[note](openLedger(t, inMemory(), &clock{}), "notes")
	if _, err := log.Append(t.Context(), nginx, note{}); err == nil {
		t.Error("an empty note was recorded")
	}
	if _, err := log.Append(t.Context(), oci.Repository{Path: "../up"}, note{"x"}); !errors.Is(err, oci.ErrNameInvalid) {
		t.Errorf("a repository that is none: got %v", err)
	}
}
