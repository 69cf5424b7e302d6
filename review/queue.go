package review

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Records tell what was decided about images. Implementations are safe for concurrent use.
type Records interface {
	// Repositories returns those of which anything was ever judged.
	Repositories(ctx context.Context) ([]oci.Repository, error)
	// Kept returns the candidates of repo whose newest verdict denies them and keeps their bytes, in any order.
	Kept(ctx context.Context, repo oci.Repository) ([]Kept, error)
	// Newest returns the last verdict recorded about c, whether it still counts or not.
	Newest(ctx context.Context, c gate.Candidate) (v gate.Verdict, ok bool, err error)
}

// Kept is a candidate in quarantine.
type Kept struct {
	Candidate gate.Candidate
	// JudgedAt is when its newest verdict was made, FirstSeen when the image came up here first, both UTC.
	JudgedAt, FirstSeen time.Time
}

// Judge makes verdicts. Implementations are safe for concurrent use.
type Judge interface {
	// Judge returns the verdict on c by what is in force now. Errors: *gate.NoVerdict.
	Judge(ctx context.Context, c gate.Candidate) (gate.Verdict, error)
	// Examine is Judge with everything looked into that the policy asks for. Errors: as Judge.
	Examine(ctx context.Context, c gate.Candidate) (gate.Verdict, error)
}

// Bytes are what lies in quarantine. Implementations are safe for concurrent use.
type Bytes interface {
	// Manifest returns the parsed manifest of c. ok is false when it is not held.
	Manifest(ctx context.Context, c gate.Candidate) (m oci.Manifest, ok bool, err error)
	// Drop deletes the bytes of c as far as nothing else holds them, for whoever is called by. Errors: an oci.Error, when it must stay.
	Drop(ctx context.Context, c gate.Candidate, by string) error
}

// Counts tell who asked for what was denied. [Askers] are some.
type Counts interface {
	Asked(ctx context.Context, c gate.Candidate) (Asked, error)
}

// Queue is the images in quarantine and what can be done with them. It is safe for concurrent use.
type Queue struct {
	Waivers *Waivers
	Records Records
	Judge   Judge
	Bytes   Bytes
	Counts  Counts
}

// Item is an image in quarantine, as the list shows it.
type Item struct {
	Repository string     `json:"repository"`
	Digest     oci.Digest `json:"digest"`
	MediaType  string     `json:"media_type,omitempty"`
	Policy     string     `json:"policy,omitempty"`
	// Rules are those it is denied by, each once; Why is the verdict's summary, one line.
	Rules []gate.Rule `json:"rules"`
	Why   string      `json:"why"`
	// Findings counts findings by severity, those that do not deny included.
	Findings map[string]int `json:"findings"`
	// Signatures are the authorities whose signatures hold, each once.
	Signatures []string `json:"signatures"`
	// Complete says that everything was looked into that the policy asks for.
	Complete  bool      `json:"complete"`
	FirstSeen time.Time `json:"first_seen"`
	JudgedAt  time.Time `json:"judged_at"`
	Asked     Asked     `json:"asked"`
	// Pending are the waivers for it that wait for a second person, by the names of their releases.
	Pending []string `json:"pending,omitempty"`
}

// Reference returns the image as people write it.
func (i Item) Reference() string { return i.Repository + "@" + i.Digest.String() }

// Filter says which images to list. The zero value lists those of nobody: May has to let some through.
type Filter struct {
	// May says which repositories whoever asks may see.
	May func(oci.Repository) bool
	// Repositories, if not the zero pattern, must match the repository's full name.
	Repositories *oci.Pattern
	// Rule, if not empty, is one of those it is denied by.
	Rule gate.Rule
	// Severity, if not 0, is the least the worst of its findings has.
	Severity gate.Severity
	// After is the Next of the page before; empty for the first.
	After string
	// N is how many to list, from 1 to [MaxPage].
	N int
}

// Bounds of a page. Each image on it is a record that is read; where a filter looks into records, so is each that does not fit.
const (
	DefaultPage   = 50
	MaxPage       = 500
	maxLookedInto = 2000
)

// Page is a part of the list.
type Page struct {
	Images []Item `json:"images"`
	// Next, if not empty, asks for those that follow. A page may be shorter than asked for, or empty, and have one.
	Next string `json:"next,omitempty"`
}

// List returns images in quarantine, the one judged last first.
func (q *Queue) List(ctx context.Context, f Filter) (Page, error) {
	if f.N < 1 || f.N > MaxPage {
		return Page{}, refuse(Invalid, "n is not a number from 1 to %d", MaxPage)
	}
	all, err := q.kept(ctx, f)
	if err != nil {
		return Page{}, err
	}
	slices.SortFunc(all, compareKept)
	if f.After != "" {
		after, ok := parseCursor(f.After)
		if !ok {
			return Page{}, refuse(Invalid, "after is not what a list said was next")
		}
		all = all[firstAfter(all, after):]
	}
	page := Page{Images: []Item{}}
	for i, k := range all {
		if len(page.Images) == f.N || i == maxLookedInto {
			page.Next = cursor(all[i-1])
			break
		}
		v, ok, err := q.Records.Newest(ctx, k.Candidate)
		if err != nil {
			return Page{}, err
		}
		if !ok || v.Allowed() || !f.fits(v) { // it has been judged again since it was listed, or is not asked for
			continue
		}
		item, err := q.item(ctx, k, v)
		if err != nil {
			return Page{}, err
		}
		page.Images = append(page.Images, item)
	}
	return page, nil
}

// kept returns what is in quarantine in the repositories f is about. What was dropped, and not judged since, is not.
func (q *Queue) kept(ctx context.Context, f Filter) ([]Kept, error) {
	repositories, err := q.Records.Repositories(ctx)
	if err != nil {
		return nil, err
	}
	var all []Kept
	for _, repo := range repositories {
		if f.May == nil || !f.May(repo) || f.Repositories != nil && !f.Repositories.Match(repo.String()) {
			continue
		}
		some, err := q.Records.Kept(ctx, repo)
		if err != nil {
			return nil, err
		}
		for _, k := range some {
			if _, _, at, ok := q.Waivers.dropped(k.Candidate); !ok || k.JudgedAt.After(at) {
				all = append(all, k)
			}
		}
	}
	return all, nil
}

func (f Filter) fits(v gate.Verdict) bool {
	if f.Rule != "" && !slices.ContainsFunc(v.Reasons, func(r gate.Reason) bool { return r.Rule == f.Rule }) {
		return false
	}
	return f.Severity == 0 || slices.ContainsFunc(v.Findings, func(found gate.Finding) bool { return found.Severity >= f.Severity })
}

// item returns what the list shows of k, on which v is the newest verdict.
func (q *Queue) item(ctx context.Context, k Kept, v gate.Verdict) (Item, error) {
	i := Item{
		Repository: k.Candidate.Repository.String(), Digest: k.Candidate.Digest, MediaType: v.MediaType, Policy: v.Policy, Why: v.Summary(),
		Complete: v.Complete, FirstSeen: k.FirstSeen, JudgedAt: v.JudgedAt, Findings: map[string]int{}, Rules: []gate.Rule{}, Signatures: []string{},
	}
	for _, r := range v.Reasons {
		if !slices.Contains(i.Rules, r.Rule) {
			i.Rules = append(i.Rules, r.Rule)
		}
	}
	for _, f := range v.Findings {
		i.Findings[f.Severity.String()]++
	}
	for _, s := range v.Signatures {
		if !slices.Contains(i.Signatures, s.Authority) {
			i.Signatures = append(i.Signatures, s.Authority)
		}
	}
	for _, s := range q.Waivers.pendingFor(k.Candidate) {
		if id := cmp.Or(s.Release, s.ID); !slices.Contains(i.Pending, id) {
			i.Pending = append(i.Pending, id)
		}
	}
	var err error
	i.Asked, err = q.Counts.Asked(ctx, k.Candidate)
	return i, err
}

// pendingFor returns the waivers on c's digest that wait for a second person.
func (w *Waivers) pendingFor(c gate.Candidate) []Standing {
	now := w.o.Now()
	return slices.DeleteFunc(slices.Clone(w.state.Load().standings), func(s Standing) bool {
		return s.at(now).State != Pending || s.Digest != c.Digest || !s.reaches(c)
	})
}

// compareKept orders by the time of the newest verdict, latest first.
func compareKept(a, b Kept) int {
	return cmp.Or(b.JudgedAt.Compare(a.JudgedAt), strings.Compare(a.Candidate.String(), b.Candidate.String()))
}

// A cursor is where a page ended: the time of a verdict in nanoseconds, and the image it is on.
func cursor(k Kept) string {
	return strconv.FormatInt(k.JudgedAt.UnixNano(), 10) + "." + k.Candidate.String()
}

type position struct {
	at    time.Time
	image string
}

func parseCursor(s string) (position, bool) {
	nanos, image, ok := strings.Cut(s, ".")
	n, err := strconv.ParseInt(nanos, 10, 64)
	return position{time.Unix(0, n), image}, ok && err == nil
}

// firstAfter returns the index of what follows the position in sorted.
func firstAfter(sorted []Kept, p position) int {
	i, found := slices.BinarySearchFunc(sorted, p, func(k Kept, p position) int {
		return cmp.Or(p.at.Compare(k.JudgedAt), strings.Compare(k.Candidate.String(), p.image))
	})
	if found {
		i++
	}
	return i
}
