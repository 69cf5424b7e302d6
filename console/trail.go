package console

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/trail"
)

// Pulls tells who was sent what. Implementations are safe for concurrent use.
type Pulls interface {
	// PulledBy returns who was sent the manifest of c.
	PulledBy(ctx context.Context, c gate.Candidate) (trail.Pullers, error)
}

// Recalls tells what was withdrawn that somebody has. Implementations are safe for concurrent use.
type Recalls interface {
	// RecallOf returns the recall of c. ok is false when it is not recalled.
	RecallOf(ctx context.Context, c gate.Candidate) (r trail.Recall, ok bool, err error)
	// Recalls returns all recalls of the repositories that wanted says, newest first.
	Recalls(ctx context.Context, wanted func(oci.Repository) bool) ([]trail.Recalled, error)
}

// Tags tells what tags stood for. Implementations are safe for concurrent use.
type Tags interface {
	// Tags returns what each tag of repo stands for by what was seen last, sorted by tag.
	Tags(ctx context.Context, repo oci.Repository) ([]trail.Tagged, error)
	// History returns what a tag stood for, newest first, each with when it came to.
	History(ctx context.Context, repo oci.Repository, tag string) ([]trail.Tagged, error)
}

// Trail is everything that was seen of images.
type Trail interface {
	Pulls
	Recalls
	Tags
}

// Judge makes verdicts. Implementations are safe for concurrent use.
type Judge interface {
	// Judge returns the verdict on c, making it if there is none that still counts; of an index that is admitted that on the first of its
	// children for the platforms in use that is denied. It waits as long as ctx lasts. Errors: *gate.NoVerdict.
	Judge(ctx context.Context, c gate.Candidate) (gate.Verdict, error)
}

// routeTrail has what was seen of images answered for, where it is known.
func (c *Console) routeTrail() {
	if c.o.Trail == nil {
		return
	}
	c.mux.HandleFunc("GET /api/v1/tags/{repository...}", c.answering(c.tags))
	c.mux.HandleFunc("GET /api/v1/recalls", c.answering(func(r *http.Request) (any, error) { return c.recalls(r) }))
	c.mux.HandleFunc("GET /recalls", c.serveRecallsPage)
	if c.o.Judge != nil {
		c.mux.HandleFunc("GET /api/v1/eligible", c.answering(c.eligible))
	}
}

// answering returns what answers with what asked returns, as JSON.
func (c *Console) answering(asked func(r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := asked(r)
		c.writeJSON(w, r, body, err)
	}
}

// seen adds to image what was seen of it: who has it, whether it is recalled, and what the tag it was asked for by stood for before.
func (c *Console) seen(ctx context.Context, ref oci.Reference, image *Image) (err error) {
	if c.o.Trail == nil {
		return nil
	}
	candidate := gate.Candidate{Repository: ref.Repository, Digest: ref.Digest}
	if image.Pulls, err = c.o.Trail.PulledBy(ctx, candidate); err != nil {
		return err
	}
	recall, ok, err := c.o.Trail.RecallOf(ctx, candidate)
	if err != nil {
		return err
	}
	if ok {
		image.Recalled = &recall
	}
	if ref.Tag != "" {
		image.Tagged, err = c.o.Trail.History(ctx, ref.Repository, ref.Tag)
	}
	return err
}

// maxTags is how many tags one answer has; whoever wants more asks for those after the last.
const maxTags = 1000

// TagList is what the admin API says of the tags of a repository.
type TagList struct {
	Repository string `json:"repository"`
	// Tags are what they stand for by what was seen last, sorted; of a single one that was asked for, all it stood for, newest first.
	Tags []trail.Tagged `json:"tags"`
	// More says that other tags follow, which ?last= asks for.
	More bool `json:"more,omitempty"`
}

// tags answers what the tags of a repository, or one of them, stood for.
func (c *Console) tags(r *http.Request) (any, error) {
	ref, err := oci.ParseReference(r.PathValue("repository"), c.o.DefaultUpstream, c.o.Hosts)
	if err != nil {
		return nil, err
	}
	if err := c.visible(r, ref.Repository); err != nil {
		return nil, err
	}
	list := TagList{Repository: ref.Repository.String(), Tags: []trail.Tagged{}}
	if tag := r.URL.Query().Get("tag"); tag != "" {
		history, err := c.o.Trail.History(r.Context(), ref.Repository, tag)
		list.Tags = append(list.Tags, history...)
		return list, err
	}
	all, err := c.o.Trail.Tags(r.Context(), ref.Repository)
	if err != nil {
		return nil, err
	}
	last := r.URL.Query().Get("last")
	all = slices.DeleteFunc(all, func(t trail.Tagged) bool { return t.Tag <= last })
	list.Tags, list.More = append(list.Tags, all[:min(len(all), maxTags)]...), len(all) > maxTags
	return list, nil
}

// maxRecalls is how many recalls one answer has.
const maxRecalls = 1000

// RecallList is what the admin API says of what is recalled.
type RecallList struct {
	// Recalls are the newest, newest first.
	Recalls []trail.Recalled `json:"recalls"`
	// More counts those that are left out.
	More int `json:"more,omitempty"`
}

// recalls answers with what is withdrawn that somebody has, where whoever asks reviews.
func (c *Console) recalls(r *http.Request) (RecallList, error) {
	visible, err := c.reviewed(r)
	if err != nil {
		return RecallList{}, err
	}
	all, err := c.o.Trail.Recalls(r.Context(), visible)
	if err != nil {
		return RecallList{}, err
	}
	return RecallList{Recalls: append([]trail.Recalled{}, all[:min(len(all), maxRecalls)]...), More: max(len(all)-maxRecalls, 0)}, nil
}

// Limits of looking for a digest that passes.
const (
	maxEligible  = 16               // digests that are judged: of a tag that moves every night, those of two weeks
	eligibleHold = 55 * time.Second // how long whoever asks is kept waiting, as clients are
)

// Seen is a digest a tag stood for, and how it stands.
type Seen struct {
	Digest oci.Digest `json:"digest"`
	// At is when the tag came to stand for it, UTC; zero when that was not seen before.
	At time.Time `json:"at,omitzero"`
	// Decision is "allow", "deny", or "none" when there is no verdict, and Why is then what keeps it.
	Decision string `json:"decision"`
	// Why is the reasons in one line; empty when it passes.
	Why string `json:"why,omitempty"`
	// Until is when the verdict stops counting, UTC: a denial may then pass.
	Until time.Time `json:"until,omitzero"`
}

// Eligible is the newest digest of a tag that passes.
type Eligible struct {
	Reference string `json:"reference"`
	// Eligible is nil when none passes.
	Eligible *Seen `json:"eligible"`
	// Newer are those that do not pass, newest first.
	Newer []Seen `json:"newer"`
}

// errTagWanted says that a reference names no tag.
var errTagWanted = &oci.Error{Code: oci.CodeTagInvalid, Message: "ref is not a reference by tag"}

// eligible answers with the newest digest of a tag, by what was seen of it here, that is allowed now.
func (c *Console) eligible(r *http.Request) (any, error) {
	ref, err := oci.ParseReference(r.URL.Query().Get("ref"), c.o.DefaultUpstream, c.o.Hosts)
	if err != nil {
		return nil, err
	}
	if ref.Digest != "" {
		return nil, errTagWanted
	}
	if err := c.visible(r, ref.Repository); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), eligibleHold)
	defer cancel()
	candidates, err := c.stoodFor(ctx, ref)
	if err != nil {
		return nil, err
	}
	found := Eligible{Reference: ref.String(), Newer: []Seen{}}
	for _, s := range candidates[:min(len(candidates), maxEligible)] {
		c.standing(ctx, ref.Repository, &s)
		if s.Decision == gate.Allow.String() {
			found.Eligible = &s
			break
		}
		found.Newer = append(found.Newer, s)
	}
	return found, nil
}

// stoodFor returns what a tag stands for and stood for, newest first, each once. An upstream that does not answer is no reason not to
// tell what was seen before.
func (c *Console) stoodFor(ctx context.Context, ref oci.Reference) ([]Seen, error) {
	history, err := c.o.Trail.History(ctx, ref.Repository, ref.Tag)
	if err != nil {
		return nil, err
	}
	var all []Seen
	for _, h := range history {
		if !slices.ContainsFunc(all, func(s Seen) bool { return s.Digest == h.Digest }) {
			all = append(all, Seen{Digest: h.Digest, At: h.At})
		}
	}
	desc, _, err := c.o.Resolver.Resolve(ctx, ref.Repository, ref.Tag)
	switch {
	case err != nil && len(all) == 0:
		return nil, err
	case err == nil && (len(all) == 0 || all[0].Digest != desc.Digest):
		all = slices.DeleteFunc(all, func(s Seen) bool { return s.Digest == desc.Digest })
		all = append([]Seen{{Digest: desc.Digest}}, all...)
	}
	return all, nil
}

// standing says of s how it stands now.
func (c *Console) standing(ctx context.Context, repo oci.Repository, s *Seen) {
	v, err := c.o.Judge.Judge(ctx, gate.Candidate{Repository: repo, Digest: s.Digest})
	if err != nil {
		s.Decision, s.Why = "none", "it could not be judged"
		if nv, ok := errors.AsType[*gate.NoVerdict](err); ok {
			s.Why += ": " + nv.Step
		}
		c.o.Log.DebugContext(ctx, "judging what a tag stood for", "upstream", repo.Upstream, "repo", repo.Path, "digest", s.Digest.String(), "err", err)
		return
	}
	s.Decision, s.Why, s.Until = v.Decision.String(), v.Summary(), v.Until
	if v.Digest != s.Digest {
		s.Why = strconv.Quote(v.Digest.String()) + ": " + s.Why
	}
}
