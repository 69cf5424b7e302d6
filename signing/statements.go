package signing

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Outcome is what came of stating a verdict. It is a closed set: metrics are labelled with it.
type Outcome string

// The outcomes.
const (
	OutcomePassed    Outcome = "passed"    // it was stated that a manifest passed
	OutcomeFailed    Outcome = "failed"    // it was stated that a manifest did not
	OutcomeTakenBack Outcome = "withdrawn" // what was stated before does not hold any more, and nothing takes its place
	OutcomeError     Outcome = "error"     // it was not possible
)

// Outcomes returns every outcome.
func Outcomes() []Outcome {
	return []Outcome{OutcomePassed, OutcomeFailed, OutcomeTakenBack, OutcomeError}
}

// StatementOptions configure [Statements]. Summaries, Journal, Signer and Log are needed.
type StatementOptions struct {
	Summaries *Summaries
	Journal   Journal
	// Signer identifies the key and name that Summaries signs with. What was stated under another one is stated again.
	Signer string
	// Failures says that what did not pass is stated too. Otherwise nothing is said of it, and what was said before is taken back.
	Failures bool
	Log      *slog.Logger
	// Observe is told what came of each attempt to state something; nil for nobody. It must not block.
	Observe func(Outcome)
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// Statements are our own words about manifests: of each at most one counts, and it is that on the verdict in force. It is safe for
// concurrent use.
//
// A statement is made soon after its verdict ([Statements.Decided], [Statements.Run]), and at the latest when it is asked for
// ([Statements.Current]). So none is lost with a process, nor with a key that could not be used for a while.
type Statements struct {
	o    StatementOptions
	kept *kept
	// turns has a lock, taken by sending, for each share of the candidates: of one, one statement is made at a time.
	turns [64]chan struct{}
	seed  maphash.Seed
	// woken holds a value when there may be something to do.
	woken chan struct{}

	mu      sync.Mutex
	waiting map[gate.Candidate]verdict // guarded by mu
}

// verdict is one that is to be stated.
type verdict struct {
	gate.Verdict
	attempts int
}

// NewStatements returns Statements. It fails when an option is missing.
func NewStatements(o StatementOptions) (*Statements, error) {
	if o.Summaries == nil || o.Journal == nil || o.Signer == "" || o.Log == nil {
		return nil, errors.New("statements need summaries, a signer, a journal and a log")
	}
	if o.Observe == nil {
		o.Observe = func(Outcome) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Statements{
		o: o, kept: newKept(o.Journal, o.Now), seed: maphash.MakeSeed(), woken: make(chan struct{}, 1), waiting: map[gate.Candidate]verdict{},
	}
	for i := range s.turns {
		s.turns[i] = make(chan struct{}, 1)
	}
	return s, nil
}

// Current returns the statement of v, which is the verdict in force, and makes it if need be. ok is false when nothing is stated of v;
// then what was stated before is taken back.
//
// Errors: of the key and of the journal.
func (s *Statements) Current(ctx context.Context, v gate.Verdict) (made oci.Artifact, ok bool, err error) {
	return s.state(ctx, v, false)
}

// Subject returns the manifest of repo that a manifest or blob of ours with digest d is about, whether or not it still counts. With anew
// set what other replicas stated until now is known too.
func (s *Statements) Subject(ctx context.Context, repo oci.Repository, d oci.Digest, anew bool) (subject oci.Digest, ok bool, err error) {
	return s.kept.subject(ctx, repo, d, anew)
}

// Stated returns the manifest of what was stated last of c, and when the verdict was made, UTC, that it states. ok is false when nothing was,
// or it was taken back. It makes nothing.
//
// Errors: those of the journal.
func (s *Statements) Stated(ctx context.Context, c gate.Candidate) (manifest oci.Digest, judgedAt time.Time, ok bool, err error) {
	last, found, err := s.kept.last(ctx, c.Repository, c.Digest)
	if err != nil || !found || last.silent {
		return "", time.Time{}, false, err
	}
	record, ok, err := s.o.Journal.Record(ctx, c.Repository, last.name)
	if err != nil || !ok || record.silent() {
		return "", time.Time{}, false, err
	}
	return oci.FromBytes(record.Manifest), record.JudgedAt, true, nil
}

// concerns reports whether anything is ever stated of v: of what hangs on images nothing is.
func concerns(v gate.Verdict) bool { return !v.Attached && v.SizeBytes > 0 && v.Digest != "" }

// state is Current, or if late, for a v that may not be in force any more: then what was stated on a later verdict stays.
func (s *Statements) state(ctx context.Context, v gate.Verdict, late bool) (oci.Artifact, bool, error) {
	if !concerns(v) {
		return oci.Artifact{}, false, nil
	}
	turn := s.turns[maphash.Comparable(s.seed, v.Candidate())%uint64(len(s.turns))]
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return oci.Artifact{}, false, ctx.Err()
	}
	last, found, err := s.kept.last(ctx, v.Repository, v.Digest)
	if err != nil {
		return oci.Artifact{}, false, fmt.Errorf("looking up what was stated about %s: %w", v.Candidate(), err)
	}
	silent := !v.Passed() && !s.o.Failures
	switch {
	case late && found && last.judgedAt.After(v.JudgedAt), silent && (!found || last.silent):
		return oci.Artifact{}, false, nil
	case !silent && found && last.states(v, s.o.Signer):
		record, ok, err := s.o.Journal.Record(ctx, v.Repository, last.name)
		if err != nil || ok {
			return record.artifact(), ok && !record.silent(), err
		}
	}
	made, err := s.make(ctx, v, silent, last)
	if err != nil {
		s.o.Observe(OutcomeError)
		return oci.Artifact{}, false, err
	}
	return made, !silent, nil
}

// make states v in place of what was stated last.
func (s *Statements) make(ctx context.Context, v gate.Verdict, silent bool, last entry) (made oci.Artifact, err error) {
	record := Stated{
		Repository: v.Repository, Subject: v.Digest, At: v.JudgedAt.UTC(), Key: v.Key, JudgedAt: v.JudgedAt.UTC(), Passed: v.Passed(), Signer: s.o.Signer,
	}
	if !record.At.After(last.at) { // an earlier verdict is in force again
		record.At = last.at.Add(1)
	}
	outcome := OutcomeTakenBack
	if !silent {
		if made, err = s.o.Summaries.Sign(ctx, v); err != nil {
			return oci.Artifact{}, err
		}
		record.Manifest, record.Bundle = made.Manifest.Raw, made.Blobs[1]
		outcome = OutcomeFailed
		if record.Passed {
			outcome = OutcomePassed
		}
	}
	if _, err := s.kept.append(ctx, record); err != nil {
		return oci.Artifact{}, fmt.Errorf("keeping the statement about %s: %w", v.Candidate(), err)
	}
	s.o.Observe(outcome)
	s.o.Log.DebugContext(ctx, "stated", "candidate", v.Candidate().String(), "outcome", string(outcome), "digest", made.Manifest.Digest.String())
	return made, nil
}

// maxWaiting bounds the verdicts that wait to be stated. Those beyond it are stated when they are asked for.
const maxWaiting = 4096

// Decided notes that v was made, to be stated by [Statements.Run]. It waits for nothing.
func (s *Statements) Decided(v gate.Verdict) {
	if !concerns(v) {
		return
	}
	// What is not stated would take memory for as long as the key cannot be used.
	v.Findings, v.Reasons, v.Rejections, v.Blobs, v.Children = nil, nil, nil, nil, nil
	s.wait(verdict{Verdict: v})
	select {
	case s.woken <- struct{}{}:
	default: // it is about to look already
	}
}

// wait adds v to what waits, unless something later about the same candidate does.
func (s *Statements) wait(v verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := v.Candidate()
	before, ok := s.waiting[c]
	if ok && before.JudgedAt.After(v.JudgedAt) || !ok && len(s.waiting) >= maxWaiting {
		return
	}
	s.waiting[c] = v
}

// next takes one of those that wait.
func (s *Statements) next() (v verdict, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, v := range s.waiting {
		delete(s.waiting, c)
		return v, true
	}
	return verdict{}, false
}

// Limits of stating verdicts with nobody waiting. What fails that often is stated when it is asked for.
const (
	stateTimeout  = 30 * time.Second // twice as long as a key management service may take to sign
	maxAttempts   = 8
	firstPause    = time.Second
	longestPause  = time.Minute
	pauseMultiple = 2
)

// Run states what was decided until ctx ends, one after the other. What fails is tried again.
func (s *Statements) Run(ctx context.Context) {
	pause := firstPause
	for {
		v, ok := s.next()
		if !ok {
			select {
			case <-s.woken:
				continue
			case <-ctx.Done():
				return
			}
		}
		err := s.stateLate(ctx, v)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			pause = firstPause
			continue
		}
		s.o.Log.WarnContext(ctx, "a verdict is not stated", "candidate", v.Candidate().String(), "attempt", v.attempts+1, "err", err)
		if v.attempts++; v.attempts < maxAttempts {
			s.wait(v)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(pause*pauseMultiple, longestPause)
	}
}

func (s *Statements) stateLate(ctx context.Context, v verdict) error {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	_, _, err := s.state(ctx, v.Verdict, true)
	return err
}
