package signing_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
)

// journal keeps records in memory. Several Statements may share it, as replicas do.
type journal struct {
	mu      sync.Mutex
	names   []string
	records map[string]signing.Stated
	// fails is what everything fails with; lost are names whose records have gone.
	fails error
	lost  map[string]bool
}

func newJournal() *journal {
	return &journal{records: map[string]signing.Stated{}, lost: map[string]bool{}}
}

func (j *journal) Append(_ context.Context, repo oci.Repository, s signing.Stated) (string, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := errors.Join(j.fails, s.Check()); err != nil {
		return "", err
	}
	name := fmt.Sprintf("%04d %s", len(j.names), repo)
	j.names, j.records[name] = append(j.names, name), s
	return name, nil
}

func (j *journal) Record(_ context.Context, _ oci.Repository, name string) (signing.Stated, bool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s, ok := j.records[name]
	return s, ok && !j.lost[name], j.fails
}

func (j *journal) Records(_ context.Context, repo oci.Repository, _ time.Time, known func(string) bool, found func(string, signing.Stated)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, name := range j.names {
		if s := j.records[name]; s.Repository == repo && !known(name) {
			found(name, s)
		}
	}
	return j.fails
}

// said returns what was recorded, in order: PASSED, FAILED, or nothing.
func (j *journal) said(t *testing.T) []string {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	var all []string
	for _, name := range j.names {
		all = append(all, resultOf(t, j.records[name].Bundle))
	}
	return all
}

// resultOf returns the result in a bundle of ours; empty for none.
func resultOf(t *testing.T, bundle []byte) string {
	t.Helper()
	if len(bundle) == 0 {
		return ""
	}
	var b struct{ DSSEEnvelope struct{ Payload string } }
	var s struct {
		Predicate struct{ VerificationResult string }
	}
	if err := json.Unmarshal(bundle, &b); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(b.DSSEEnvelope.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &s); err != nil {
		t.Fatal(err)
	}
	return s.Predicate.VerificationResult
}

// statementBench is everything a test of statements needs.
type statementBench struct {
	*bench
	journal *journal
	key     *turning
	signer  string
	now     time.Time
	seen    []signing.Outcome
	// failures is that of the options.
	failures bool
}

// turning is a key that can be made to fail.
type turning struct {
	signing.SigningKey
	mu    sync.Mutex
	fails int // guarded by mu; how often it still fails
}

func (k *turning) Sign(ctx context.Context, message []byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fails > 0 {
		k.fails--
		return nil, errors.New("the key is out of reach")
	}
	return k.SigningKey.Sign(ctx, message)
}

func newStatementBench(t *testing.T) *statementBench {
	t.Helper()
	own, err := signing.ParseSigningKey(privatePEM(t, newP256(t).private, "PRIVATE KEY"))
	if err != nil {
		t.Fatal(err)
	}
	return &statementBench{bench: newBench(t), journal: newJournal(), key: &turning{SigningKey: own}, signer: "own", now: signedAt()}
}

// open returns statements as a process that has just started has them.
func (s *statementBench) open(t *testing.T) *signing.Statements {
	t.Helper()
	summaries, err := signing.NewSummaries(signing.SummaryOptions{Key: s.key, Verifier: "https://gate.example", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := signing.NewStatements(signing.StatementOptions{
		Summaries: summaries, Journal: s.journal, Signer: s.signer, Failures: s.failures, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return s.now }, Observe: func(o signing.Outcome) { s.seen = append(s.seen, o) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// at returns a verdict that was made some minutes after noon.
func (s *statementBench) at(decision gate.Decision, minutes int, key string) gate.Verdict {
	v := s.verdict(decision)
	v.JudgedAt, v.Key = v.JudgedAt.Add(time.Duration(minutes)*time.Minute), key
	return v
}

// current returns the result in what is stated of v; empty for nothing.
func (s *statementBench) current(t *testing.T, made *signing.Statements, v gate.Verdict) string {
	t.Helper()
	got, ok, err := made.Current(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return ""
	}
	if m, err := oci.ParseManifest(got.Manifest.MediaType, got.Manifest.Raw); err != nil || m.Subject.Digest != v.Digest || m.Subject.Size != v.SizeBytes {
		t.Errorf("the manifest is not about %s: %v", v.Digest, err)
	}
	return resultOf(t, got.Blobs[1])
}

// Of every manifest at most one statement counts, that on the verdict in force, and it is made once.
func TestStatementsFollowVerdicts(t *testing.T) {
	allow, deny := gate.Allow, gate.Deny
	type step struct {
		decision gate.Decision
		minutes  int
		key      string
		want     string
	}
	for name, tc := range map[string]struct {
		failures bool
		steps    []step
		recorded []string
	}{
		"an admission is stated, once":          {steps: []step{{allow, 0, "k", "PASSED"}, {allow, 0, "k", "PASSED"}}, recorded: []string{"PASSED"}},
		"nothing is said of a denial":           {steps: []step{{deny, 0, "k", ""}, {deny, 1, "k2", ""}}},
		"a denial takes the statement back":     {steps: []step{{allow, 0, "k", "PASSED"}, {deny, 1, "k2", ""}, {deny, 1, "k2", ""}}, recorded: []string{"PASSED", ""}},
		"a denial is stated where that is on":   {failures: true, steps: []step{{allow, 0, "k", "PASSED"}, {deny, 1, "k2", "FAILED"}, {deny, 1, "k2", "FAILED"}}, recorded: []string{"PASSED", "FAILED"}},
		"what is judged again is stated again":  {steps: []step{{allow, 0, "k", "PASSED"}, {allow, 9, "k", "PASSED"}}, recorded: []string{"PASSED", "PASSED"}},
		"an earlier verdict is in force again":  {steps: []step{{allow, 0, "k", "PASSED"}, {deny, 1, "k2", ""}, {allow, 0, "k", "PASSED"}, {allow, 0, "k", "PASSED"}}, recorded: []string{"PASSED", "", "PASSED"}},
		"an earlier denial is in force again":   {failures: true, steps: []step{{deny, 0, "k", "FAILED"}, {allow, 1, "k2", "PASSED"}, {deny, 0, "k", "FAILED"}}, recorded: []string{"FAILED", "PASSED", "FAILED"}},
		"one more look at the same is no other": {failures: true, steps: []step{{deny, 1, "k", "FAILED"}, {deny, 0, "k", "FAILED"}}, recorded: []string{"FAILED"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStatementBench(t)
			s.failures = tc.failures
			made := s.open(t)
			for i, step := range tc.steps {
				if got := s.current(t, made, s.at(step.decision, step.minutes, step.key)); got != step.want {
					t.Errorf("step %d: got %q, want %q", i, got, step.want)
				}
			}
			if diff := cmp.Diff(s.journal.said(t), tc.recorded); diff != "" {
				t.Errorf("recorded, got -, want +:\n%s", diff)
			}
			last := tc.steps[len(tc.steps)-1]
			if got := s.current(t, s.open(t), s.at(last.decision, last.minutes, last.key)); got != last.want || len(s.journal.names) != len(tc.recorded) {
				t.Errorf("after a restart: got %q, %d records, want %q", got, len(s.journal.names), last.want)
			}
		})
	}
}

func TestStatementsAreMadeAgain(t *testing.T) {
	for name, change := range map[string]func(*statementBench){
		"by another key":              func(s *statementBench) { s.signer = "other" },
		"when the record is not read": func(s *statementBench) { s.journal.lost[s.journal.names[0]] = true },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStatementBench(t)
			v := s.at(gate.Allow, 0, "k")
			s.current(t, s.open(t), v)
			change(s)
			if got := s.current(t, s.open(t), v); got != "PASSED" || len(s.journal.names) != 2 {
				t.Errorf("got %q, %d records, want a second one", got, len(s.journal.names))
			}
		})
	}
}

// Nothing is stated of what hangs on images, nor of what cannot be named; and a failure is one.
func TestStatementsOfNothing(t *testing.T) {
	s := newStatementBench(t)
	made := s.open(t)
	for name, edit := range map[string]func(*gate.Verdict){
		"a signature": func(v *gate.Verdict) { v.Attached = true }, "an old record": func(v *gate.Verdict) { v.SizeBytes = 0 },
	} {
		v := s.at(gate.Allow, 0, "k")
		edit(&v)
		if got := s.current(t, made, v); got != "" {
			t.Errorf("%s: got %q", name, got)
		}
	}
	s.key.fails = 1
	if _, ok, err := made.Current(t.Context(), s.at(gate.Allow, 0, "k")); err == nil || ok {
		t.Error("stated without a key")
	}
	s.journal.fails = errors.New("the disk is full")
	if _, ok, err := s.open(t).Current(t.Context(), s.at(gate.Allow, 0, "k")); !errors.Is(err, s.journal.fails) || ok {
		t.Errorf("got %v, want %v", err, s.journal.fails)
	}
	if diff := cmp.Diff(s.seen, []signing.Outcome{signing.OutcomeError}); diff != "" {
		t.Errorf("observed, got -, want +:\n%s", diff)
	}
}

// Every digest of ours is known again, superseded ones too, in the repository it was made for.
func TestStatementsKnowTheirOwn(t *testing.T) {
	s := newStatementBench(t)
	one, two := s.open(t), s.open(t) // replicas
	first, _, err := one.Current(t.Context(), s.at(gate.Allow, 0, "k"))
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := one.Current(t.Context(), s.at(gate.Allow, 1, "k2"))
	if err != nil {
		t.Fatal(err)
	}
	digests := []oci.Digest{first.Manifest.Digest, second.Manifest.Digest, oci.FromBytes(first.Blobs[1]), oci.FromBytes(second.Blobs[1]), oci.FromBytes([]byte("{}"))}
	for replica, made := range map[string]*signing.Statements{"the one that made them": one, "another": two} {
		for i, d := range digests {
			if subject, ok, err := made.Subject(t.Context(), s.repo, d, true); err != nil || !ok || subject != s.digest {
				t.Errorf("%s, %d: got %s, %t, %v", replica, i, subject, ok, err)
			}
			other := oci.Repository{Upstream: s.repo.Upstream, Path: "acme/other"}
			if _, ok, err := made.Subject(t.Context(), other, d, true); err != nil || ok {
				t.Errorf("%s, %d: known in another repository, %v", replica, i, err)
			}
		}
		if _, ok, err := made.Subject(t.Context(), s.repo, s.digest, true); err != nil || ok {
			t.Errorf("%s: took an image for a statement, %v", replica, err)
		}
	}
	if got := s.current(t, one, s.at(gate.Deny, 2, "k3")); got != "" {
		t.Fatalf("got %q", got)
	}
	if _, ok, err := one.Subject(t.Context(), s.repo, oci.FromBytes([]byte("{}")), true); err != nil || ok {
		t.Errorf("the empty config belongs to a statement that was taken back, %v", err)
	}
	s.now = s.now.Add(time.Minute)
	if got := s.current(t, two, s.at(gate.Allow, 1, "k2")); got != "PASSED" {
		t.Errorf("the other replica, by an earlier verdict that is in force there: got %q", got)
	}
}

// What was decided is stated with nobody asking, the latest of each candidate; what fails is tried again, and a verdict that comes late
// takes nothing back.
func TestDecidedVerdictsAreStated(t *testing.T) {
	for name, tc := range map[string]struct {
		fails   int
		decided func(s *statementBench) []gate.Verdict
		want    []string
	}{
		"an admission": {decided: func(s *statementBench) []gate.Verdict { return []gate.Verdict{s.at(gate.Allow, 0, "k")} }, want: []string{"PASSED"}},
		"a denial":     {decided: func(s *statementBench) []gate.Verdict { return []gate.Verdict{s.at(gate.Deny, 0, "k")} }},
		"the later of two": {decided: func(s *statementBench) []gate.Verdict {
			return []gate.Verdict{s.at(gate.Deny, 1, "k2"), s.at(gate.Allow, 0, "k")}
		}},
		"after the key was gone": {fails: 3, decided: func(s *statementBench) []gate.Verdict { return []gate.Verdict{s.at(gate.Allow, 0, "k")} }, want: []string{"PASSED"}},
		"never, by no key":       {fails: 100, decided: func(s *statementBench) []gate.Verdict { return []gate.Verdict{s.at(gate.Allow, 0, "k")} }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStatementBench(t)
				s.key.fails = tc.fails
				made := s.open(t)
				for _, v := range tc.decided(s) {
					made.Decided(v)
				}
				ctx, end := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { made.Run(ctx); close(ended) }()
				<-time.After(time.Hour) // of the time in the bubble
				synctest.Wait()
				end()
				<-ended
				if diff := cmp.Diff(s.journal.said(t), tc.want); diff != "" {
					t.Errorf("recorded, got -, want +:\n%s", diff)
				}
				if n := len(slices.DeleteFunc(s.seen, func(o signing.Outcome) bool { return o != signing.OutcomeError })); n != min(tc.fails, 8) {
					t.Errorf("failed %d times, want %d", n, min(tc.fails, 8))
				}
			})
		})
	}
	t.Run("not in place of a later verdict that was stated already", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStatementBench(t)
			s.failures = true
			made := s.open(t)
			s.current(t, made, s.at(gate.Deny, 1, "k2"))
			made.Decided(s.at(gate.Allow, 0, "k"))
			ctx, end := context.WithCancel(t.Context())
			go made.Run(ctx)
			synctest.Wait()
			end()
			synctest.Wait()
			if diff := cmp.Diff(s.journal.said(t), []string{"FAILED"}); diff != "" {
				t.Errorf("recorded, got -, want +:\n%s", diff)
			}
		})
	})
}

// A record that is not what it says is not believed.
func TestStatedChecks(t *testing.T) {
	s := newStatementBench(t)
	if got := s.current(t, s.open(t), s.at(gate.Allow, 0, "k")); got != "PASSED" {
		t.Fatal(got)
	}
	good := s.journal.records[s.journal.names[0]]
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*signing.Stated){
		"nothing":             func(r *signing.Stated) { *r = signing.Stated{} },
		"no key":              func(r *signing.Stated) { r.Key = "" },
		"another subject":     func(r *signing.Stated) { r.Subject = digestOf("other") },
		"another bundle":      func(r *signing.Stated) { r.Bundle = []byte("{}") },
		"a bundle alone":      func(r *signing.Stated) { r.Manifest = nil },
		"a manifest alone":    func(r *signing.Stated) { r.Bundle = nil },
		"no manifest":         func(r *signing.Stated) { r.Manifest = []byte("{") },
		"no subject's digest": func(r *signing.Stated) { r.Subject = "sha256:x" },
	} {
		r := good
		edit(&r)
		if err := r.Check(); err == nil {
			t.Errorf("%s: believed", name)
		}
	}
}

func TestWhatWasStatedCanBeLookedUp(t *testing.T) {
	s := newStatementBench(t)
	made, v := s.open(t), s.at(gate.Allow, 0, "k")
	look := func(want string) {
		t.Helper()
		manifest, at, ok, err := made.Stated(t.Context(), v.Candidate())
		if err != nil || ok != (want != "") || manifest.String() != want || ok && !at.Equal(v.JudgedAt) {
			t.Errorf("got %q of %s, %t, %v; want %q", manifest, at, ok, err, want)
		}
	}
	look("")
	if len(s.journal.names) != 0 {
		t.Error("looking states something")
	}
	stated, _, err := made.Current(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	look(oci.FromBytes(stated.Manifest.Raw).String())
	s.current(t, made, s.at(gate.Deny, 1, "k2"))
	look("") // it was taken back
}
