package main

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/policy"
	"github.com/tidewaiter/tidewaiter/seal"
	"github.com/tidewaiter/tidewaiter/trail"
)

// trailOver returns a trail over a ledger in root, as a process has it, and the ledger.
func trailOver(t *testing.T, root string, now func() time.Time) (*trail.Trail, *ledger.Ledger) {
	t.Helper()
	key, err := seal.CreateKey(filepath.Join(root, sealKeyName))
	if err != nil {
		t.Fatal(err)
	}
	l := ledger.New(filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 25}), key, slog.New(slog.DiscardHandler), now)
	o := trailIn(l)
	o.Keep, o.Now, o.Log = minTrail, now, slog.New(slog.DiscardHandler)
	return trail.New(o), l
}

// What replicas over one folder put on record they know of one another, and after a restart.
func TestTrailsShareTheLedger(t *testing.T) {
	root, noon := t.TempDir(), time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	now := func() time.Time { return noon }
	repo := oci.Repository{Upstream: "registry.example:5000", Path: "shop/web"}
	c := gate.Candidate{Repository: repo, Digest: oci.FromBytes([]byte("image"))}
	who := trail.Client{Name: "user:ci", Address: "10.0.0.1", Agent: "crane"}
	one, l := trailOver(t, root, now)
	if _, err := one.FirstSeen(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	one.Resolved(t.Context(), repo, "1.0", c.Digest, who)
	one.Pulled(c, who)
	for i, d := range []gate.Decision{gate.Allow, gate.Deny} {
		v := gate.Verdict{
			Decision: d, Repository: repo, Digest: c.Digest, Policy: "production", JudgedAt: noon, Until: noon.Add(time.Hour), Key: gate.Key{byte(i)}.String(),
		}
		if err := l.RecordVerdict(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		one.Decided(v)
	}
	one.Flush(t.Context())
	for name, asked := range map[string]*trail.Trail{"the same": one, "another": first(trailOver(t, root, func() time.Time { return noon.Add(time.Hour) }))} {
		if at, err := asked.FirstSeen(t.Context(), c); err != nil || !at.Equal(noon) {
			t.Errorf("%s: first seen %s, %v", name, at, err)
		}
		tags, err := asked.Tags(t.Context(), repo)
		if diff := cmp.Diff(tags, []trail.Tagged{{Tag: "1.0", Digest: c.Digest, At: noon, By: who}}); err != nil || diff != "" {
			t.Errorf("%s: tags, %v (-got +want):\n%s", name, err, diff)
		}
		recalls, err := asked.Recalls(t.Context(), func(oci.Repository) bool { return true })
		want := []trail.Recalled{{
			Repository: repo, Recall: trail.Recall{Digest: c.Digest, At: noon, JudgedAt: noon, Policy: "production"},
			Pulls: trail.Pullers{Clients: []trail.Pull{{Digest: c.Digest, Client: who, First: noon, Last: noon, Count: 1}}},
		}}
		if diff := cmp.Diff(recalls, want); err != nil || diff != "" {
			t.Errorf("%s: recalls, %v (-got +want):\n%s", name, err, diff)
		}
	}
}

func first[A, B any](a A, _ B) A { return a }

// For how long what a tag stood for before may be served is the policy's of its repository.
func TestLastGoodIsForAsLongAsThePolicySays(t *testing.T) {
	root, at := t.TempDir(), time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	now := func() time.Time { return at }
	set, err := policy.Parse("policy.yaml", []byte(`policies:
  - {name: a, match: {repositories: ["apps/a"]}, last_good: 24h}
  - {name: b, match: {repositories: ["apps/b"]}}
`), at)
	if err != nil {
		t.Fatal(err)
	}
	tr, _ := trailOver(t, root, now)
	l := lastGood{always{set}, tr, now}
	old, next := oci.FromBytes([]byte("old")), oci.FromBytes([]byte("next"))
	for _, d := range []oci.Digest{old, next} {
		for _, path := range []string{"apps/a", "apps/b", "apps/none"} {
			tr.Resolved(t.Context(), oci.Repository{Path: path}, "1.0", d, trail.Client{Name: "user:ci"})
		}
	}
	for _, tt := range []struct {
		path   string
		passed time.Duration
		serves bool
		want   []oci.Digest
	}{
		{"apps/a", 0, true, []oci.Digest{old}}, {"apps/a", 24 * time.Hour, true, []oci.Digest{old}}, {"apps/a", 24*time.Hour + 1, true, nil},
		{"apps/b", 0, false, nil}, {"apps/none", 0, false, nil},
	} {
		began := at
		at = at.Add(tt.passed)
		repo := oci.Repository{Path: tt.path}
		got, err := l.Earlier(t.Context(), repo, "1.0", next)
		if diff := cmp.Diff(got, tt.want); err != nil || diff != "" || l.Serves(repo) != tt.serves {
			t.Errorf("%s after %s: %t, %v (-got +want):\n%s", tt.path, tt.passed, l.Serves(repo), err, diff)
		}
		at = began
	}
}

// always are policies that stay.
type always struct{ set *gate.PolicySet }

func (a always) Current() *gate.PolicySet { return a.set }
