// Package simulation owns the question what would be if another policy were in force: it goes through what was judged, has each image
// that is held decided upon by a draft, from what is known of it, and tells which decisions change and why.
//
// It promises to change nothing: whatever it asks for is a replay, which records, releases and withdraws nothing. What the draft asks for
// and nobody has looked for is told as unknown and never guessed. It decides nothing itself, and must not know where records lie.
package simulation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Gate replays. Implementations are safe for concurrent use.
type Gate interface {
	// Replay returns what set decides about c by what is known of it, leaving nothing behind. With fetch, what is not known is looked for.
	// Errors: *gate.NoVerdict.
	Replay(ctx context.Context, set *gate.PolicySet, c gate.Candidate, fetch bool) (gate.Replayed, error)
	// Key returns the key of the verdict on c that would count now.
	Key(ctx context.Context, c gate.Candidate) (gate.Key, error)
}

// Past knows what was judged. Implementations are safe for concurrent use.
type Past interface {
	// Repositories returns the repositories of which anything was judged.
	Repositories(ctx context.Context) ([]oci.Repository, error)
	// Judged returns every candidate of repo that was ever judged, in no order.
	Judged(ctx context.Context, repo oci.Repository) ([]gate.Candidate, error)
	// Newest returns the newest verdict on c.
	Newest(ctx context.Context, c gate.Candidate) (v gate.Verdict, ok bool, err error)
}

// Holdings knows what is held. Implementations are safe for concurrent use.
type Holdings interface {
	// Holds reports whether the manifest of c is held.
	Holds(ctx context.Context, c gate.Candidate) (bool, error)
}

// Pulls knows what is in use. Implementations are safe for concurrent use.
type Pulls interface {
	// LastPulled returns when each of candidates was last served to anybody, UTC; those that never were are not in it.
	LastPulled(ctx context.Context, candidates []gate.Candidate) (map[gate.Candidate]time.Time, error)
}

// Options are what a Simulator is built from. All are needed but Pulls.
type Options struct {
	Gate     Gate
	Past     Past
	Holdings Holdings
	// Pulls may be nil: then nothing can be asked for by when it was pulled.
	Pulls Pulls
	// Policies gives those in force.
	Policies gate.Policies
	Now      func() time.Time
}

// Simulator simulates. It is safe for concurrent use; one simulation runs at a time.
type Simulator struct {
	o    Options
	busy chan struct{}
}

// New returns a Simulator. It panics when an option it cannot do without is missing.
func New(o Options) *Simulator {
	for name, missing := range map[string]bool{
		"Gate": o.Gate == nil, "Past": o.Past == nil, "Holdings": o.Holdings == nil, "Policies": o.Policies == nil, "Now": o.Now == nil,
	} {
		if missing {
			panic("simulation: option " + name + " is missing")
		}
	}
	return &Simulator{o: o, busy: make(chan struct{}, 1)}
}

var (
	// ErrBusy says that a simulation is under way: it takes a processor, and clients need those.
	ErrBusy = errors.New("another simulation is under way")
	// ErrNoPulls says that it is not known here what was pulled when.
	ErrNoPulls = errors.New("it is not known here what was pulled when")
)

// MaxPage is how many images one call looks at, at most: some six seconds of a processor, which pageTimeout bounds where that is slow.
const MaxPage = 1000

// pageTimeout bounds how long one call goes on looking at images. The page ends there, and the next one goes on.
const pageTimeout = 20 * time.Second

// Request says what to simulate.
type Request struct {
	// Draft is the policies and waivers that are tried.
	Draft *gate.PolicySet
	// Since leaves out what was last pulled before; the zero time leaves out nothing.
	Since time.Time
	// Wanted says which repositories are looked at; nil for all.
	Wanted func(oci.Repository) bool
	// Fetch has what is not known looked for.
	Fetch bool
	// After is the Next of the page before; empty for the first.
	After string
	// Limit is how many images are looked at, at most [MaxPage]; 0 for that.
	Limit int
}

// Side is one of the two decisions about an image.
type Side struct {
	Decision gate.Decision `json:"decision"`
	// Policy is the name of the policy, empty where none matches.
	Policy string `json:"policy,omitempty"`
	// Reasons are why it is denied or, with Warned, would be if the policy enforced.
	Reasons []Reason `json:"reasons,omitempty"`
	Warned  bool     `json:"warned,omitempty"`
}

// Reason is why, and where that is asked for.
type Reason struct {
	Rule    gate.Rule `json:"rule"`
	Message string    `json:"message"`
	// Place is the policy and where it asks for it: "production (policy.yaml:12)".
	Place string `json:"place,omitempty"`
}

// Kind says in what way an image is concerned by a draft.
type Kind string

// The kinds of change, the worst first.
const (
	Denied   Kind = "denied"   // it is allowed and would be denied
	Admitted Kind = "admitted" // it is denied and would be allowed
	Reworded Kind = "reworded" // the decision stays, for other reasons, or other warnings
	Unknown  Kind = "unknown"  // what would be is not known
)

// Change is an image that the draft concerns.
type Change struct {
	Kind       Kind       `json:"kind"`
	Repository string     `json:"repository"`
	Digest     oci.Digest `json:"digest"`
	Before     Side       `json:"before"`
	// After is nil when it is not known.
	After *Side `json:"after,omitempty"`
	// Unknown is what is not known.
	Unknown string `json:"unknown,omitempty"`
	// PulledAt is when it was last pulled, UTC; zero if never, or nobody knows.
	PulledAt time.Time `json:"pulled_at,omitzero"`
}

// Page is what came of one call.
type Page struct {
	// Images is how many were looked at, and how many of them are of each kind. The rest stays as it is.
	Images   int `json:"images"`
	Denied   int `json:"denied"`
	Admitted int `json:"admitted"`
	Reworded int `json:"reworded"`
	Unknown  int `json:"unknown"`
	// Changes are in the order of repositories and digests.
	Changes []Change `json:"changes"`
	// Next is where the next page goes on; empty at the end.
	Next string `json:"next,omitempty"`
	// Revision and WaiverRevision are those of the draft.
	Revision       string `json:"revision"`
	WaiverRevision string `json:"waiver_revision"`
}

// Simulate goes through what is held and tells what the draft would change. It ends with ctx.
//
// Errors: ErrBusy, ErrNoPulls, *gate.NoVerdict, ctx's.
func (s *Simulator) Simulate(ctx context.Context, r Request) (Page, error) {
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		return Page{}, ErrBusy
	}
	if !r.Since.IsZero() && s.o.Pulls == nil {
		return Page{}, ErrNoPulls
	}
	page := Page{Changes: []Change{}, Revision: r.Draft.Revision, WaiverRevision: r.Draft.WaiverRevision}
	limit, ends := MaxPage, s.o.Now().Add(pageTimeout)
	if r.Limit > 0 {
		limit = min(r.Limit, MaxPage)
	}
	repositories, err := s.repositories(ctx, r)
	if err != nil {
		return Page{}, err
	}
	for _, repo := range repositories {
		candidates, pulled, err := s.candidates(ctx, repo, r)
		if err != nil {
			return Page{}, err
		}
		for _, c := range candidates {
			if page.Images >= limit || page.Images > 0 && !s.o.Now().Before(ends) {
				return page, nil // Next is the one before c
			}
			if err := ctx.Err(); err != nil { // nobody waits for it any more
				return Page{}, err
			}
			if err := s.look(ctx, c, r, pulled[c], &page); err != nil {
				return Page{}, err
			}
		}
	}
	page.Next = ""
	return page, nil
}

// repositories returns those that are looked at, sorted, from the one of r.After on.
func (s *Simulator) repositories(ctx context.Context, r Request) ([]oci.Repository, error) {
	all, err := s.o.Past.Repositories(ctx)
	if err != nil {
		return nil, err
	}
	after, _ := cutPlace(r.After)
	all = slices.DeleteFunc(slices.Clone(all), func(repo oci.Repository) bool {
		return repo.String() < after || r.Wanted != nil && !r.Wanted(repo)
	})
	slices.SortFunc(all, func(a, b oci.Repository) int { return cmp.Compare(a.String(), b.String()) })
	return all, nil
}

// candidates returns those of repo that are held, after r.After and pulled since r.Since, sorted, and when they were last pulled.
func (s *Simulator) candidates(ctx context.Context, repo oci.Repository, r Request) ([]gate.Candidate, map[gate.Candidate]time.Time, error) {
	all, err := s.o.Past.Judged(ctx, repo)
	if err != nil {
		return nil, nil, err
	}
	var pulled map[gate.Candidate]time.Time
	if s.o.Pulls != nil {
		if pulled, err = s.o.Pulls.LastPulled(ctx, all); err != nil {
			return nil, nil, err
		}
	}
	in, after := cutPlace(r.After)
	var left []gate.Candidate
	for _, c := range all {
		if repo.String() == in && c.Digest.String() <= after || pulled[c].Before(r.Since) {
			continue
		}
		held, err := s.o.Holdings.Holds(ctx, c)
		if err != nil {
			return nil, nil, err
		}
		if held {
			left = append(left, c)
		}
	}
	slices.SortFunc(left, func(a, b gate.Candidate) int { return cmp.Compare(a.Digest, b.Digest) })
	return left, pulled, nil
}

// cutPlace takes a [Page.Next] apart.
func cutPlace(place string) (repository, digest string) {
	if i := strings.LastIndexByte(place, '@'); i >= 0 {
		return place[:i], place[i+1:]
	}
	return "", ""
}

// look adds to page what the draft changes about c.
func (s *Simulator) look(ctx context.Context, c gate.Candidate, r Request, pulledAt time.Time, page *Page) error {
	page.Images++
	page.Next = c.String()
	before, err := s.before(ctx, c)
	if err != nil {
		return fmt.Errorf("looking up what counts for %s: %w", c, err)
	}
	after, err := s.o.Gate.Replay(ctx, r.Draft, c, r.Fetch)
	if none, ok := errors.AsType[*gate.NoVerdict](err); ok && r.Fetch && ctx.Err() == nil {
		after, err = gate.Replayed{Unknown: "it was looked for in vain: " + none.Step}, nil
	}
	if err != nil {
		return fmt.Errorf("replaying %s: %w", c, err)
	}
	change := Change{Repository: c.Repository.String(), Digest: c.Digest, Before: side(before), PulledAt: pulledAt}
	if after.Unknown != "" {
		change.Kind, change.Unknown = Unknown, after.Unknown
		page.Unknown++
		page.Changes = append(page.Changes, change)
		return nil
	}
	change.After = new(side(after.Verdict))
	switch {
	case before.Allowed() && !after.Verdict.Allowed():
		change.Kind = Denied
		page.Denied++
	case !before.Allowed() && after.Verdict.Allowed():
		change.Kind = Admitted
		page.Admitted++
	case !sameReasons(before, after.Verdict):
		change.Kind = Reworded
		page.Reworded++
	default:
		return nil
	}
	page.Changes = append(page.Changes, change)
	return nil
}

// before returns what the policies in force say of c: the newest verdict or, where that counts no more, what a new one would be as far as
// that is known.
func (s *Simulator) before(ctx context.Context, c gate.Candidate) (gate.Verdict, error) {
	newest, ok, err := s.o.Past.Newest(ctx, c)
	if err != nil {
		return gate.Verdict{}, err
	}
	key, err := s.o.Gate.Key(ctx, c)
	if err != nil {
		return gate.Verdict{}, err
	}
	if ok && newest.Key == key.String() && s.o.Now().Before(newest.Until) {
		return newest, nil
	}
	replayed, err := s.o.Gate.Replay(ctx, s.o.Policies.Current(), c, false)
	if err != nil || replayed.Unknown != "" {
		return newest, err
	}
	return replayed.Verdict, nil
}

// side returns what v says.
func side(v gate.Verdict) Side {
	s := Side{Decision: v.Decision, Policy: v.Policy}
	reasons := v.Reasons
	if v.Allowed() {
		reasons, s.Warned = v.Warnings, len(v.Warnings) > 0
	}
	for _, r := range reasons {
		s.Reasons = append(s.Reasons, Reason{Rule: r.Rule, Message: r.Message, Place: v.Place(r)})
	}
	return s
}

// sameReasons reports whether a and b deny or warn for the same, wherever that is written. What is only warned of is looked for once a
// verdict has been given, so where one of the two lacks it nothing follows from that.
func sameReasons(a, b gate.Verdict) bool {
	if a.Policy != b.Policy {
		return false
	}
	whole := a.Complete && b.Complete || !a.Allowed()
	words := func(v gate.Verdict) (all []string) {
		for _, r := range slices.Concat(v.Reasons, v.Warnings) {
			if whole || r.Rule != gate.RuleSecrets && r.Rule != gate.RuleMalware {
				all = append(all, string(r.Rule)+" "+r.Message)
			}
		}
		slices.Sort(all)
		return all
	}
	return slices.Equal(words(a), words(b))
}
