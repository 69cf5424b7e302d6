package trail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// noon is what the clock of a test shows at first.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

var (
	nginx = oci.Repository{Upstream: "docker.io", Path: "library/nginx"}
	web   = oci.Repository{Path: "apps/web"}
	node1 = Client{Name: "anonymous", Address: "10.0.0.1", Agent: "containerd/2.1"}
	node2 = Client{Name: "user:ci", Address: "10.0.0.2", Agent: "skopeo/1.14"}
)

var errDisk = errors.New("the disk is on fire")

func digestOf(s string) oci.Digest { return oci.FromBytes([]byte(s)) }

func image(repo oci.Repository, s string) gate.Candidate {
	return gate.Candidate{Repository: repo, Digest: digestOf(s)}
}

// clock moves when told. It is safe for concurrent use.
type clock struct {
	mu sync.Mutex
	at time.Time // guarded by mu
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// memory is a log in memory. It fails when told. It is safe for concurrent use.
type memory[T interface{ Check() error }] struct {
	mu       sync.Mutex
	records  map[oci.Repository]map[string]T // guarded by mu
	written  int                             // guarded by mu
	listings int                             // guarded by mu
	fails    error                           // guarded by mu
	expired  time.Time                       // guarded by mu
}

func newMemory[T interface{ Check() error }]() *memory[T] {
	return &memory[T]{records: map[oci.Repository]map[string]T{}}
}

func (m *memory[T]) Append(_ context.Context, repo oci.Repository, record T) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.fails, record.Check()); err != nil {
		return "", err
	}
	m.written++
	name := fmt.Sprintf("%06d", m.written)
	m.put(repo, name, record)
	return name, nil
}

// put is what another replica recorded. The caller holds mu, or is alone.
func (m *memory[T]) put(repo oci.Repository, name string, record T) {
	if m.records[repo] == nil {
		m.records[repo] = map[string]T{}
	}
	m.records[repo][name] = record
}

func (m *memory[T]) Records(_ context.Context, repo oci.Repository, _ time.Time, known func(string) bool, found func(string, T)) error {
	m.mu.Lock()
	m.listings++
	records, err := maps.Clone(m.records[repo]), m.fails
	m.mu.Unlock()
	for name, r := range records {
		if !known(name) {
			found(name, r)
		}
	}
	return err
}

func (m *memory[T]) Repositories(context.Context) ([]oci.Repository, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.records)), m.fails
}

func (m *memory[T]) Expire(_ context.Context, _ oci.Repository, before time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expired = before
	return m.fails
}

func (m *memory[T]) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fails = err
}

func (m *memory[T]) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.written
}

// decided are verdicts in memory. It is safe for concurrent use.
type decided struct {
	mu       sync.Mutex
	verdicts map[gate.Candidate][]gate.Verdict // guarded by mu; oldest first
}

func (d *decided) record(v gate.Verdict) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.verdicts[v.Candidate()] = append(d.verdicts[v.Candidate()], v)
}

func (d *decided) Withdrawn(_ context.Context, repo oci.Repository) ([]gate.Candidate, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []gate.Candidate
	for c, vs := range d.verdicts {
		if c.Repository == repo && !vs[len(vs)-1].Allowed() && slices.ContainsFunc(vs, gate.Verdict.Allowed) {
			all = append(all, c)
		}
	}
	return all, nil
}

func (d *decided) Newest(_ context.Context, c gate.Candidate) (gate.Verdict, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	vs := d.verdicts[c]
	if len(vs) == 0 {
		return gate.Verdict{}, false, nil
	}
	return vs[len(vs)-1], true, nil
}

func (d *decided) FirstJudged(_ context.Context, c gate.Candidate) (time.Time, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	vs := d.verdicts[c]
	if len(vs) == 0 {
		return time.Time{}, false, nil
	}
	return vs[0].JudgedAt, true, nil
}

// site is what replicas share, and what they told of.
type site struct {
	clock     *clock
	sightings *memory[Sighting]
	tags      *memory[Tagged]
	pulls     *memory[Pulls]
	recalls   *memory[Recall]
	decided   *decided

	mu       sync.Mutex
	moves    []Move     // guarded by mu
	recalled []Recalled // guarded by mu
}

func newSite() *site {
	return &site{
		clock: &clock{at: noon}, sightings: newMemory[Sighting](), tags: newMemory[Tagged](), pulls: newMemory[Pulls](),
		recalls: newMemory[Recall](), decided: &decided{verdicts: map[gate.Candidate][]gate.Verdict{}},
	}
}

// trail returns what a process that starts now sees.
func (s *site) trail() *Trail {
	return New(Options{
		Sightings: s.sightings, Tags: s.tags, Pulls: s.pulls, Recalls: s.recalls, Verdicts: s.decided, Keep: 90 * day,
		Now: s.clock.now, Log: slog.New(slog.DiscardHandler),
		Moved: func(m Move) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.moves = append(s.moves, m)
		},
		Recalled: func(r Recalled) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.recalled = append(s.recalled, r)
		},
	})
}

// decide has a verdict on c recorded, and perhaps heard of.
func (s *site) decide(c gate.Candidate, decision gate.Decision, hears ...*Trail) {
	v := gate.Verdict{Decision: decision, Repository: c.Repository, Digest: c.Digest, Policy: "production", JudgedAt: s.clock.now()}
	if decision == gate.Deny {
		v.Reasons = []gate.Reason{{Rule: gate.RuleVulnerabilities, Message: "CVE-2026-0001 (critical) in zlib 1.2"}}
	}
	s.decided.record(v)
	for _, t := range hears {
		t.Decided(v)
	}
}

func mustSee(t *testing.T, tr *Trail, c gate.Candidate) time.Time {
	t.Helper()
	at, err := tr.FirstSeen(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return at
}
