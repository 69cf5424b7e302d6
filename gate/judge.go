package gate

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"
)

// judgeTimeout bounds one judging from the first byte to the record: the largest images seen, 20 GiB, at 12 MiB/s.
const judgeTimeout = 30 * time.Minute

// maxStarted bounds the judgings that go on with nobody waiting. Beyond it, a HEAD starts none and the GET that follows will.
const maxStarted = 64

// The steps of a judging, as [NoVerdict] and [Options.Observe] name them.
const (
	StepHold      = "holding"
	StepVerify    = "verifying signatures"
	StepConfig    = "reading the config"
	StepInventory = "reading layers"
	StepMalware   = "looking for malware"
	StepMatch     = "matching advisories"
	StepRecord    = "recording"
	StepRelease   = "releasing"
)

// NoVerdict is the failure to come to a verdict. It is neither an admission nor a denial.
type NoVerdict struct {
	// Step is one of the Step constants: what was being done.
	Step string
	// Err is why it could not be done. It wraps the context's error when the caller stopped waiting; the judging then goes on.
	Err error
}

func (e *NoVerdict) Error() string { return e.Step + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *NoVerdict) Unwrap() error { return e.Err }

// Close stops every judging and waits for it to have stopped.
func (g *Gate) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.end()
	g.running.Wait()
}

// begin counts one more piece of work Close must wait for; false when it is too late for any.
func (g *Gate) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.running.Add(1)
	return true
}

// detached returns do as work of the gate's own: it has its own deadline, outlives whoever asked for it, and is waited for by Close.
func (g *Gate) detached(do func(context.Context) (any, error)) func() (any, error) {
	return func() (any, error) {
		if !g.begin() {
			return nil, context.Canceled
		}
		defer g.running.Done()
		ctx, cancel := context.WithTimeout(g.lifetime, judgeTimeout)
		defer cancel()
		return do(ctx)
	}
}

// Judge returns the verdict on c, making it if there is none that still counts. However many callers ask, one judging runs per
// candidate and inputs; it does not stop when a caller does. An admission is returned only after its bytes have been released,
// a denial only after they have been withdrawn.
//
// Errors: [NoVerdict], and then the Verdict is the zero one, a denial.
func (g *Gate) Judge(ctx context.Context, c Candidate) (Verdict, error) {
	for attempt := 1; ; attempt++ {
		in, err := g.inputs(ctx, c)
		if err != nil {
			return Verdict{}, err
		}
		v, err := g.verdict(ctx, in)
		if err == nil {
			return v, nil
		}
		// Policies, roots or advisories that were replaced meanwhile may be all that is wrong; then there are new ones to judge by.
		if attempt == judgeAttempts || ctx.Err() != nil || !g.outdated(ctx, in) {
			return Verdict{}, err
		}
	}
}

// judgeAttempts bounds how often a judging begins anew because what it goes by was replaced while it ran.
const judgeAttempts = 3

// verdict returns the verdict on in, remembered or made now, with the bytes released or withdrawn accordingly.
func (g *Gate) verdict(ctx context.Context, in Inputs) (Verdict, error) {
	v, ok := g.o.Verdicts.Get(ctx, in.Key())
	if !ok || !g.counts(v, in) {
		var err error
		if v, err = g.fly(ctx, in); err != nil {
			return Verdict{}, err
		}
	}
	if err := g.possess(ctx, v); err != nil {
		return Verdict{}, &NoVerdict{StepRelease, err}
	}
	if g.replay == nil && g.isDue(v) {
		g.lookLater(in)
	}
	return v, nil
}

// Start begins to judge c, if nobody has, without waiting for the verdict. It does nothing when too much is under way already:
// whoever needs the verdict will ask for it.
func (g *Gate) Start(c Candidate) {
	if _, started := g.ahead.LoadOrStore(c, nil); started {
		return
	}
	select {
	case g.started <- struct{}{}:
	default:
		g.ahead.Delete(c)
		return
	}
	go func() {
		defer g.ahead.Delete(c)
		defer func() { <-g.started }()
		_, err := g.detached(func(ctx context.Context) (any, error) { return g.Judge(ctx, c) })()
		if err != nil {
			g.o.Log.DebugContext(g.lifetime, "judging ahead", "candidate", c.String(), "err", err)
		}
	}()
}

// inputs takes one consistent view of everything a verdict on c depends on.
//
// Errors: [NoVerdict].
func (g *Gate) inputs(ctx context.Context, c Candidate) (Inputs, error) {
	in := g.always(c)
	if g.o.Attachments == nil {
		return in, nil
	}
	var err error
	if in.Attached, err = g.o.Attachments.Attachments(ctx, c); err != nil {
		return Inputs{}, &NoVerdict{StepVerify, err}
	}
	return in, nil
}

// outdated reports whether a verdict would depend on something else now than it did when in was taken.
func (g *Gate) outdated(ctx context.Context, in Inputs) bool {
	now, err := g.inputs(ctx, in.Candidate)
	return err == nil && now.Key() != in.Key()
}

// maxSkew is how far the clocks of two replicas may be apart that go by each other's verdicts.
const maxSkew = time.Minute

// counts reports whether v is a verdict on these inputs that has not lapsed, nor is of a time to come: a clock that ran ahead and was set
// back took waivers to have lapsed and images to have come of age. Whoever remembers verdicts promises the former; a gate does not rest
// on promises it can check.
func (g *Gate) counts(v Verdict, in Inputs) bool {
	now := g.o.Now()
	return v.Key == in.Key().String() && v.Candidate() == in.Candidate && now.Before(v.Until) && !v.JudgedAt.After(now.Add(maxSkew))
}

// possess brings what can be served into line with v.
func (g *Gate) possess(ctx context.Context, v Verdict) error {
	if v.Allowed() {
		return g.o.Releases.Release(ctx, v)
	}
	return g.o.Releases.Withdraw(ctx, v.Candidate(), false)
}

// fly joins the judging of in, or begins it. The judging has its own deadline and outlives ctx.
func (g *Gate) fly(ctx context.Context, in Inputs) (v Verdict, err error) {
	key := in.Key().String()
	ctx, end := g.o.Trace.Start(ctx, spanAsk, in.Candidate)
	defer func() { end(err) }()
	asked := ctx
	done := g.flights.DoChan(key, g.detached(func(ctx context.Context) (any, error) {
		var at atomic.Pointer[string]
		g.steps.Store(key, &at)
		defer g.steps.Delete(key)
		defer g.lease(ctx, in, &at)()
		ctx, end := g.o.Trace.Start(g.o.Trace.Follow(ctx, asked), spanJudge, in.Candidate)
		v, err := g.judge(ctx, in, &at, time.Time{})
		end(err)
		return flown{v, ctx}, err
	}))
	select {
	case result := <-done:
		g.waited(ctx, result.Val)
		if _, ok := errors.AsType[*NoVerdict](result.Err); result.Err != nil && !ok {
			return Verdict{}, &NoVerdict{StepHold, result.Err}
		}
		if result.Err != nil {
			return Verdict{}, result.Err
		}
		return result.Val.(flown).verdict, nil
	case <-ctx.Done():
		return Verdict{}, &NoVerdict{g.stepOf(key), ctx.Err()}
	}
}

// stepOf returns the step the judging under key is at; the first while it has not come to any.
func (g *Gate) stepOf(key string) string {
	if at, ok := g.steps.Load(key); ok {
		if step := at.(*atomic.Pointer[string]).Load(); step != nil {
			return *step
		}
	}
	return StepHold
}

// judge makes the verdict on in, unless one is recorded that counts longer than until beyond. This is the whole of it, in order; what is
// true should the process die is said at each step.
func (g *Gate) judge(ctx context.Context, in Inputs, at *atomic.Pointer[string], beyond time.Time) (Verdict, error) {
	step := func(name string, do func() error) error {
		at.Store(&name)
		began := g.o.Now()
		_, end := g.o.Trace.Start(ctx, name, in.Candidate)
		err := do()
		end(err)
		g.o.Observe(name, g.o.Now().Sub(began), err)
		if err == nil {
			return nil
		}
		if nested, ok := errors.AsType[*NoVerdict](err); ok { // the index this one leans on has no verdict
			return nested
		}
		return &NoVerdict{name, err}
	}
	// A verdict on the same inputs may have been made before a restart, or by the flight that ended as we began.
	if v, ok, err := g.o.Records.Verdict(ctx, in.Candidate, in.Key()); err != nil {
		return Verdict{}, &NoVerdict{StepRecord, err}
	} else if ok && g.counts(v, in) && v.Until.After(beyond) {
		return v, g.settle(ctx, in, v, Evidence{}, false)
	}

	e, err := g.hold(ctx, in, step)
	if err != nil {
		return Verdict{}, err
	}
	p, matched := in.Policies.For(in.Candidate.Repository)
	if !matched { // certain already: nothing more is fetched
		return g.conclude(ctx, in, e, step)
	}
	// Signatures: kilobytes, so they come first.
	if err := step(StepVerify, func() error { return g.gatherSignatures(ctx, in, p, &e) }); err != nil {
		return Verdict{}, err
	}
	// The config: another of them. What is certain already and dropped needs none; what is kept is completed below.
	if p.needsConfig(e) && (!g.isRefused(in, p, e) || p.OnFail == Quarantine && !p.needsLayers(e)) {
		if err := step(StepConfig, func() error { return g.gatherConfig(ctx, p, &e) }); err != nil {
			return Verdict{}, err
		}
	}
	if !p.needsLayers(e) {
		return g.conclude(ctx, in, e, step)
	}
	// A refusal that is certain without the layers does not wait for them. Dropped bytes need no further look; bytes that are
	// kept for review are examined with nobody waiting, unless all their layers are known.
	if g.isRefused(in, p, e) {
		known := false
		if p.OnFail == Quarantine {
			if known, err = g.allKnown(ctx, e.Manifest, p.looksFor()); err != nil {
				return Verdict{}, &NoVerdict{StepInventory, err}
			}
		}
		if !known {
			return g.conclude(ctx, in, e, step)
		}
		if p.needsConfig(e) && !e.ConfigExamined {
			if err := step(StepConfig, func() error { return g.gatherConfig(ctx, p, &e) }); err != nil {
				return Verdict{}, err
			}
		}
	}
	if err := g.gatherLayers(ctx, in, p, &e, p.looksFor(), step); err != nil {
		return Verdict{}, err
	}
	return g.conclude(ctx, in, e, step)
}

// hold begins the evidence of in's candidate: its manifest is fetched and stored, and that it was seen here is on record. Dying here leaves
// a manifest nobody can be served.
func (g *Gate) hold(ctx context.Context, in Inputs, step func(string, func() error) error) (e Evidence, err error) {
	err = step(StepHold, func() error {
		held, err := g.o.Bytes.Hold(ctx, in.Candidate)
		e = Evidence{Candidate: in.Candidate, Manifest: held.Manifest, SizeBytes: int64(len(held.Content.Raw))}
		return err
	})
	if err != nil {
		return Evidence{}, err
	}
	return e, step(StepRecord, func() error { return g.see(ctx, &e) })
}

// gatherLayers adds to e what its layers hold, look included, and what is known to be bad of that. Dying here leaves inventories, which are true
// whatever becomes of this candidate, and layers nobody can be served.
func (g *Gate) gatherLayers(ctx context.Context, in Inputs, p Policy, e *Evidence, look Look, step func(string, func() error) error) error {
	err := step(StepInventory, func() (err error) {
		e.Inventory, err = g.inventory(ctx, e.Candidate, e.Manifest, look)
		return err
	})
	if err != nil {
		return err
	}
	if p.ReadsLayers() {
		e.Gaps = append(e.Gaps, e.Inventory.Gaps...)
	} else { // nothing else is asked for than what is only warned of
		e.SecretGaps = slices.Clone(e.Inventory.Gaps)
	}
	if look.Malware {
		err := step(StepMalware, func() (err error) {
			e.Malware, err = g.findMalware(ctx, e.Candidate, e.Manifest, false, g.awaitMalware)
			return err
		})
		if err != nil {
			return err
		}
	}
	e.Looked = Look{Secrets: look.Secrets || e.Inventory.secretsRead, Malware: look.Malware}
	if p.OS != nil && p.OS.DenyEndOfLife {
		if g.o.EndOfLife == nil {
			return &NoVerdict{StepInventory, errNoLifetimes}
		}
		e.EndOfLife, _ = g.o.EndOfLife(e.Inventory)
	}
	if p.matchesAdvisories() {
		err := step(StepMatch, func() error {
			findings, gaps, err := g.o.Advisories.Match(ctx, in.Snapshot, e.Inventory)
			e.Findings, e.Gaps = findings, append(e.Gaps, gaps...)
			return err
		})
		if err != nil {
			return err
		}
		if until := in.Snapshot.Until; !until.IsZero() && !g.o.Now().Before(until) {
			e.Gaps = append(e.Gaps, Gap{Kind: GapStaleAdvisories, Why: "the advisory data counted until " + until.Format(time.RFC3339)})
		}
	}
	e.Examined = true
	return nil
}

// conclude decides, with what is known besides, records and remembers. Once the record is written the verdict is a fact that survives;
// until then there is none, and the next request judges again.
func (g *Gate) conclude(ctx context.Context, in Inputs, e Evidence, step func(string, func() error) error) (Verdict, error) {
	if p, ok := in.Policies.For(e.Candidate.Repository); ok {
		if err := g.recall(ctx, p, &e); err != nil {
			return Verdict{}, err
		}
	}
	g.lookAgain(ctx, in, &e, step)
	v := Decide(in.Policies, e, g.o.Now())
	v.lapseAt(g.counted(e))
	v.Key, v.SnapshotID, v.RootsRevision = in.Key().String(), in.Snapshot.ID, in.Roots
	if g.o.Now().Before(in.Snapshot.Until) { // later it has become a gap for whoever goes by the data, and nothing to anybody else
		v.lapseAt(in.Snapshot.Until)
	}
	if g.replay != nil { // this is as far as it goes
		return v, nil
	}
	if err := step(StepRecord, func() error { return g.recordCurrent(ctx, in, v) }); err != nil {
		return Verdict{}, err
	}
	return v, g.settle(ctx, in, v, e, true)
}

// errOutdated says that what a verdict was made by was replaced while it was made.
var errOutdated = errors.New("what it is judged by was replaced meanwhile")

// recordCurrent records v, unless what it was made by was replaced meanwhile: reading layers takes long enough for a waiver to be taken
// back. Such a verdict would be served by once, and stand in the records as the last word, after the one that took its place.
func (g *Gate) recordCurrent(ctx context.Context, in Inputs, v Verdict) error {
	now, err := g.inputs(ctx, in.Candidate)
	if err != nil {
		return err
	}
	if now.Key() != in.Key() {
		return errOutdated
	}
	return g.o.Records.RecordVerdict(ctx, v)
}

// settle does what follows a verdict, new or found in the records. Its error means that denied bytes could not be dropped.
func (g *Gate) settle(ctx context.Context, in Inputs, v Verdict, e Evidence, made bool) error {
	if err := g.o.Verdicts.Put(ctx, in.Key(), v); err != nil { // losing it costs time, not safety
		g.o.Log.DebugContext(ctx, "remembering the verdict", "candidate", in.Candidate.String(), "err", err)
	}
	if made {
		g.report(ctx, v)
	}
	// Children of one that is too young are judged too, so that they come of age with it.
	if young := hasRule(v.Reasons, RuleMinAge); made && (v.Allowed() || young) && e.Manifest.IsIndex() {
		g.startChildren(v.Candidate(), e.Manifest)
	}
	if !v.Allowed() && !v.Keep {
		if err := g.o.Releases.Withdraw(ctx, v.Candidate(), true); err != nil {
			return &NoVerdict{StepRelease, err}
		}
	}
	if !v.Allowed() && !v.Complete && v.Keep {
		g.examineLater(in)
	}
	return nil
}

// report writes the one log line of a verdict.
func (g *Gate) report(ctx context.Context, v Verdict) {
	g.o.Decided(v)
	g.overturned(ctx, v)
	var rules []string
	for _, r := range slices.Concat(v.Reasons, v.Warnings) {
		rules = append(rules, string(r.Rule))
	}
	g.o.Log.InfoContext(ctx, "verdict", "decision", v.Decision.String(), "upstream", v.Repository.Upstream, "repo", v.Repository.Path,
		"digest", v.Digest.String(), "media_type", v.MediaType, "policy", v.Policy, "rules", slices.Compact(rules),
		"reasons", v.Summary(), "warnings", v.WarningSummary(), "waived", len(v.Waived), "excused", len(v.Excused), "findings", len(v.Findings),
		"packages", v.Packages, "complete", v.Complete, "snapshot", v.SnapshotID)
}
