package review_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/review"
)

var (
	noon  = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	nginx = oci.Repository{Upstream: "docker.io", Path: "library/nginx"}
	sam   = review.Person{Name: "user:sam", Address: "192.0.2.1", Known: true}
	kim   = review.Person{Name: "user:kim", Address: "192.0.2.2", Known: true}
	who   = review.Person{Name: "anonymous"}
)

func digestOf(s string) oci.Digest { return oci.FromBytes([]byte(s)) }

func candidate(repo oci.Repository, s string) gate.Candidate {
	return gate.Candidate{Repository: repo, Digest: digestOf(s)}
}

// clock is a time that goes on when it is told to.
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

// log is a log in memory that replicas share.
type log[T any] struct {
	mu      sync.Mutex
	records map[oci.Repository]map[string]T // guarded by mu
	n       int                             // guarded by mu
	err     error                           // guarded by mu; of everything
}

func newLog[T any]() *log[T] { return &log[T]{records: map[oci.Repository]map[string]T{}} }

func (l *log[T]) Append(_ context.Context, repo oci.Repository, record T) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return "", l.err
	}
	l.n++
	name := fmt.Sprintf("%020d-00000000", l.n)
	if l.records[repo] == nil {
		l.records[repo] = map[string]T{}
	}
	l.records[repo][name] = record
	return name, nil
}

func (l *log[T]) Records(_ context.Context, repo oci.Repository, _ time.Time, known func(string) bool, found func(string, T)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	for name, record := range l.records[repo] { // in no order
		if !known(name) {
			found(name, record)
		}
	}
	return nil
}

func (l *log[T]) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *log[T]) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// book is an Audit in memory, and whoever is notified.
type book struct {
	mu             sync.Mutex
	recorded, told []review.Act // guarded by mu
	err            error        // guarded by mu
}

func (b *book) Record(_ context.Context, a review.Act) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.recorded = append(b.recorded, a)
	}
	return b.err
}

func (b *book) notify(a review.Act) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = append(b.told, a)
}

// kinds returns what is on record: who, what, and whether it failed.
func (b *book) kinds() (all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.recorded {
		s := a.By.Name + " " + string(a.Kind)
		if a.Pending {
			s += " pending"
		}
		if a.Failed {
			s += " failed"
		}
		all = append(all, s)
	}
	return all
}

// files are the policy files.
type files struct {
	mu  sync.Mutex
	set *gate.PolicySet // guarded by mu
}

func (f *files) Current() *gate.PolicySet {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.set
}

func pattern(t testing.TB, s string) oci.Pattern {
	t.Helper()
	p, err := oci.ParseFullPattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// desk is Waivers with everything around them.
type desk struct {
	*review.Waivers
	clock *clock
	log   *log[review.Event]
	book  *book
	files *files
}

// strict is a set with one policy that asks for a signature and looks for vulnerabilities, and no waivers.
func strict(t testing.TB) *gate.PolicySet {
	high := gate.High
	return &gate.PolicySet{
		Policies: []gate.Policy{{
			Name: "strict", Match: []oci.Pattern{pattern(t, "**")}, OnFail: gate.Quarantine,
			Signatures: gate.SignatureRule{AnyOf: []string{"release"}}, Vulnerabilities: &gate.VulnerabilityRule{DenyAt: &high},
			Secrets: &gate.SecretRule{},
		}},
		Revision: "policies", WaiverRevision: "file waivers", WaiverMax: 100 * time.Hour,
	}
}

func newDesk(t testing.TB, change func(o *review.Options)) *desk {
	t.Helper()
	d := &desk{clock: &clock{at: noon}, log: newLog[review.Event](), book: &book{}, files: &files{set: strict(t)}}
	return d.replica(t, change)
}

// replica returns another desk with the same clock, log and files.
func (d *desk) replica(t testing.TB, change func(o *review.Options)) *desk {
	t.Helper()
	other := *d
	other.book = &book{}
	o := review.Options{
		Files: d.files, Log: d.log, Audit: other.book, Now: d.clock.now, Notify: other.book.notify, Logger: slog.New(slog.DiscardHandler),
		WarnBefore: time.Hour,
	}
	if change != nil {
		change(&o)
	}
	var err error
	if other.Waivers, err = review.Open(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	return &other
}

func secondApprover(o *review.Options) { o.SecondApprover = true }

// cve asks for a waiver of one advisory in nginx for a day.
func cve(id string) review.Request {
	return review.Request{Vulnerability: id, Repositories: []string{nginx.String()}, For: 24 * time.Hour, Reason: "not reachable"}
}

func mustGrant(t testing.TB, d *desk, by review.Person, r review.Request) review.Standing {
	t.Helper()
	made, err := d.Grant(t.Context(), by, r)
	if err != nil || len(made) != 1 {
		t.Fatalf("granting %+v: %v", r, err)
	}
	return made[0]
}

func why(err error) review.Why {
	if r, ok := errors.AsType[*review.Refusal](err); ok {
		return r.Why
	}
	return ""
}

// inForce returns the advisories the gate would waive.
func (d *desk) inForce() []string {
	var ids []string
	for _, w := range d.Current().Waivers {
		ids = append(ids, w.Vulnerability)
	}
	slices.Sort(ids)
	return ids
}

// appendFails is a log that takes nothing.
type appendFails struct{ *log[review.Event] }

func (appendFails) Append(context.Context, oci.Repository, review.Event) (string, error) {
	return "", errAppend
}
