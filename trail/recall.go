package trail

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Recall records that an image which somebody has was withdrawn, or that this is over.
type Recall struct {
	Digest oci.Digest `json:"digest"`
	// At is when it was recorded, UTC. JudgedAt is when the verdict was made that withdrew it; zero when the recall is over.
	At       time.Time `json:"at"`
	JudgedAt time.Time `json:"judged_at,omitzero"`
	// Over says that the image is not withdrawn any more.
	Over bool `json:"over,omitempty"`
	// Policy is the name of the policy that decided, and Reasons are why, the worst first, as many as are kept.
	Policy  string   `json:"policy,omitempty"`
	Reasons []string `json:"reasons,omitempty"`
	// More counts the reasons that are not kept here; the verdict has them.
	More int `json:"more,omitempty"`
}

// Check returns what is wrong with the record.
func (r Recall) Check() error {
	if _, err := oci.ParseDigest(r.Digest.String()); err != nil {
		return err
	}
	if r.At.IsZero() {
		return errNoTime
	}
	return nil
}

// Recalled is an image that is withdrawn, and everybody who has it.
type Recalled struct {
	Repository oci.Repository `json:"repository"`
	Recall
	// Pulls are who has it, by what is known now.
	Pulls Pullers `json:"pulls"`
}

// recalls are those of one repository: of each manifest the newest.
type recalls struct{ newest map[oci.Digest]named[Recall] }

func newRecalls() *recalls { return &recalls{map[oci.Digest]named[Recall]{}} }

func (s *recalls) size() int { return len(s.newest) }

func (s *recalls) add(name string, record Recall) {
	if record.Digest == "" { // not believed
		return
	}
	if before, ok := s.newest[record.Digest]; !ok || before.name < name {
		s.newest[record.Digest] = named[Recall]{name, record}
	}
}

// open reports whether d is recalled.
func (s *recalls) open(d oci.Digest) bool {
	r, ok := s.newest[d]
	return ok && !r.value.Over
}

// count returns how many are recalled.
func (s *recalls) count() int {
	n := 0
	for d := range s.newest {
		if s.open(d) {
			n++
		}
	}
	return n
}

// Decided notes a verdict: an image that was let out before may have to be recalled. It must be called after v was recorded, and waits for
// nothing.
func (t *Trail) Decided(v gate.Verdict) {
	t.mu.Lock()
	concerns := !v.Allowed() || t.recalled[v.Repository] > 0
	t.mu.Unlock()
	if concerns {
		t.suspects(v.Repository)
		t.nudge()
	}
}

// suspects has repo looked through for what must be recalled.
func (t *Trail) suspects(repo oci.Repository) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.suspect[repo] = true
}

// suspectAll has all repositories looked through that something was pulled from, or recalled in. It is how a recall comes to pass whose
// verdict was recorded by a process that was killed right after, or by another replica.
func (t *Trail) suspectAll(ctx context.Context) {
	for _, list := range []func(context.Context) ([]oci.Repository, error){t.o.Pulls.Repositories, t.o.Recalls.Repositories} {
		repos, err := list(ctx)
		if err != nil {
			t.fail(ctx, "looking for what must be recalled", oci.Repository{}, err)
		}
		for _, repo := range repos {
			t.suspects(repo)
		}
	}
}

// recall looks through the suspect repositories, once each, as far as it gets before pulls have to be put on record again. What could
// not be looked through stays suspect.
func (t *Trail) recall(ctx context.Context) {
	t.mu.Lock()
	suspect := t.suspect
	t.suspect = map[oci.Repository]bool{}
	t.mu.Unlock()
	began := t.o.Now()
	for repo := range suspect {
		if t.o.Now().Sub(began) >= flushEvery {
			t.suspects(repo)
			t.nudge()
			continue
		}
		if err := t.recallIn(ctx, repo); err != nil {
			t.fail(ctx, "looking for what must be recalled", repo, err)
			t.suspects(repo)
		}
	}
}

// recallIn brings the recalls of repo into line with what is withdrawn and who has it. It is called by one goroutine only, so that each
// withdrawal becomes one recall; replicas that look at the same moment may record it twice, and have it once.
func (t *Trail) recallIn(ctx context.Context, repo oci.Repository) error {
	withdrawn, err := t.o.Verdicts.Withdrawn(ctx, repo)
	if err != nil {
		return err
	}
	held, err := t.held(ctx, repo)
	if err != nil {
		return err
	}
	gone := map[oci.Digest]bool{}
	for _, c := range withdrawn {
		gone[c.Digest] = true
		if _, has := held[c.Digest]; has {
			if err := t.recallOne(ctx, c); err != nil {
				return err
			}
		}
	}
	var over []oci.Digest
	err = t.recalls.ask(ctx, repo, func(s *recalls) bool {
		over = nil
		for d := range s.newest {
			if s.open(d) && !gone[d] {
				over = append(over, d)
			}
		}
		return len(s.newest) > 0
	})
	for _, d := range over {
		if err == nil {
			err = t.recallOver(ctx, gate.Candidate{Repository: repo, Digest: d})
		}
	}
	t.countRecalled(repo)
	return err
}

// countRecalled counts what is recalled of repo, by what is in memory.
func (t *Trail) countRecalled(repo oci.Repository) {
	n := 0
	t.recalls.peek(repo, func(s *recalls) { n = s.count() })
	t.mu.Lock()
	defer t.mu.Unlock()
	if n == 0 {
		delete(t.recalled, repo)
		return
	}
	t.recalled[repo] = n
}

// maxReasons bounds the reasons a recall keeps: a person reads no more before going to the verdict.
const maxReasons = 10

// recallOne records that c is recalled, unless that is on record, and says so.
func (t *Trail) recallOne(ctx context.Context, c gate.Candidate) error {
	known := false
	err := t.recalls.ask(ctx, c.Repository, func(s *recalls) bool { known = s.open(c.Digest); return known })
	if err != nil || known {
		return err
	}
	v, ok, err := t.o.Verdicts.Newest(ctx, c)
	if err != nil || !ok || v.Allowed() { // decided otherwise meanwhile; then it is looked at again
		return err
	}
	record := Recall{Digest: c.Digest, At: t.o.Now().UTC(), JudgedAt: v.JudgedAt, Policy: v.Policy, More: max(len(v.Reasons)-maxReasons, 0)}
	for _, r := range v.Reasons[:min(len(v.Reasons), maxReasons)] {
		record.Reasons = append(record.Reasons, clean(r.Message))
	}
	news := false
	err = t.recalls.append(ctx, c.Repository, func(s *recalls) (Recall, bool) {
		news = !s.open(c.Digest)
		return record, news
	})
	if err != nil || !news {
		return err
	}
	t.countRecalled(c.Repository)
	by, err := t.PulledBy(ctx, c)
	if err != nil { // it is recalled all the same, and who has it can be asked for later
		t.fail(ctx, "looking up who has what is recalled", c.Repository, err)
	}
	t.o.Log.ErrorContext(ctx, "an image that clients have was withdrawn", "upstream", c.Repository.Upstream, "repo", c.Repository.Path,
		"digest", c.Digest.String(), "policy", v.Policy, "reasons", v.Summary(), "clients", names(by), "others", by.Others)
	t.o.Recalled(Recalled{Repository: c.Repository, Recall: record, Pulls: by})
	return nil
}

// maxLogged bounds the clients one line of the log names.
const maxLogged = 50

// names returns who is among by, for a person.
func names(by Pullers) []string {
	var all []string
	for _, p := range by.Clients[:min(len(by.Clients), maxLogged)] {
		all = append(all, p.Name+" at "+cmp.Or(p.Address, "an unknown address"))
	}
	if more := len(by.Clients) - len(all); more > 0 {
		all = append(all, fmt.Sprintf("%d more", more))
	}
	return all
}

// recallOver records that c is not recalled any more.
func (t *Trail) recallOver(ctx context.Context, c gate.Candidate) error {
	news := false
	err := t.recalls.append(ctx, c.Repository, func(s *recalls) (Recall, bool) {
		news = s.open(c.Digest)
		return Recall{Digest: c.Digest, At: t.o.Now().UTC(), Over: true}, news
	})
	if err == nil && news {
		t.o.Log.InfoContext(ctx, "a recall is over", "upstream", c.Repository.Upstream, "repo", c.Repository.Path, "digest", c.Digest.String())
	}
	return err
}

// RecallOf returns the recall of c. ok is false when it is not recalled.
func (t *Trail) RecallOf(ctx context.Context, c gate.Candidate) (r Recall, ok bool, err error) {
	err = t.recalls.ask(ctx, c.Repository, func(s *recalls) bool {
		r, ok = s.newest[c.Digest].value, s.open(c.Digest)
		return ok
	})
	if err != nil {
		return Recall{}, false, fmt.Errorf("looking up whether %s is recalled: %w", c, err)
	}
	if !ok {
		return Recall{}, false, nil
	}
	return r, true, nil
}

// Recalls returns everything that is recalled now in the repositories that wanted says, newest first, with who has it.
func (t *Trail) Recalls(ctx context.Context, wanted func(oci.Repository) bool) ([]Recalled, error) {
	repos, err := t.o.Recalls.Repositories(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking up what is recalled: %w", err)
	}
	var all []Recalled
	for _, repo := range slices.DeleteFunc(repos, func(r oci.Repository) bool { return !wanted(r) }) {
		var here []Recall
		err := t.recalls.ask(ctx, repo, func(s *recalls) bool {
			here = nil
			for d, r := range s.newest {
				if s.open(d) {
					here = append(here, r.value)
				}
			}
			return len(s.newest) > 0
		})
		if err != nil {
			return nil, fmt.Errorf("looking up what is recalled in %s: %w", repo, err)
		}
		for _, r := range here {
			by, err := t.PulledBy(ctx, gate.Candidate{Repository: repo, Digest: r.Digest})
			if err != nil {
				return nil, err
			}
			all = append(all, Recalled{Repository: repo, Recall: r, Pulls: by})
		}
	}
	slices.SortFunc(all, func(a, b Recalled) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Repository.String(), b.Repository.String()), cmp.Compare(a.Digest, b.Digest))
	})
	return all, nil
}
