package hosted

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// errNotAllowed says that a verdict does not admit.
var errNotAllowed = errors.New("the verdict does not allow it")

// Admitted notes that v allows its candidate: the tags that stand for it are served from now on. It is called with every such verdict,
// and cheap when there is nothing new in it. What is not hosted here, or not there any more, is no concern of it.
func (r *Repositories) Admitted(ctx context.Context, v gate.Verdict) error {
	c := v.Candidate()
	if !v.Allowed() {
		return fmt.Errorf("admitting %s: %w", c, errNotAllowed)
	}
	if _, err := r.rule(c.Repository); err != nil {
		return nil
	}
	isNews := func(s *state) (news, found bool) {
		m, found := s.manifests[c.Digest]
		return found && (!m.admitted || len(s.unserved(m)) > 0), found
	}
	if news, _, err := ask(ctx, r, c.Repository, isNews); err != nil || !news {
		return err
	}
	return r.change(ctx, c.Repository, func(rp *repository) error {
		news, tags := false, []string(nil)
		rp.view(func(s *state) {
			if news, _ = isNews(s); news {
				tags = s.unserved(s.manifests[c.Digest])
			}
		})
		if !news {
			return nil
		}
		err := r.recordTags(ctx, rp, Event{By: itself, Kind: Admitted, Descriptor: oci.Descriptor{Digest: c.Digest}}, tags)
		if err == nil && r.o.Served != nil {
			r.o.Served(c)
		}
		return err
	})
}

// recordTags records e for tags, in as many events as they need.
func (r *Repositories) recordTags(ctx context.Context, rp *repository, e Event, tags []string) error {
	if len(tags) == 0 {
		return r.record(ctx, rp, e)
	}
	for some := range slices.Chunk(tags, r.limits.eventTags) {
		e.Tags = some
		if err := r.record(ctx, rp, e); err != nil {
			return err
		}
	}
	return nil
}

// pendingGrace is how much longer than a rule's Pending something is still said to be pending: long enough for whoever looks every hour
// to see it once more when its time is over, and have it dropped.
const pendingGrace = 2 * time.Hour

// Unserved returns what was pushed lately and was not admitted, or is not served by all of its tags, newest first: what somebody who was
// ended before could have it judged has left behind.
func (r *Repositories) Unserved(ctx context.Context) ([]gate.Candidate, error) {
	repos, err := r.Repositories(ctx)
	if err != nil {
		return nil, err
	}
	var all []gate.Candidate
	for _, repo := range repos {
		rule, err := r.rule(repo)
		if err != nil {
			continue // no rule hosts it any more
		}
		since := r.o.Now().Add(-rule.Pending - pendingGrace)
		found, _, err := ask(ctx, r, repo, func(s *state) ([]gate.Candidate, bool) { return s.unservedSince(repo, since), true })
		if err != nil {
			return nil, fmt.Errorf("looking for what is pending in %s: %w", repo, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func (s *state) unservedSince(repo oci.Repository, since time.Time) []gate.Candidate {
	var found []gate.Candidate
	for _, m := range slices.SortedFunc(maps.Values(s.manifests), func(a, b *manifest) int { return cmp.Compare(b.order, a.order) }) {
		if m.pushedAt.After(since) && (!m.admitted || len(s.unserved(m)) > 0) {
			found = append(found, gate.Candidate{Repository: repo, Digest: m.desc.Digest})
		}
	}
	return found
}

// Forward is a manifest that was admitted and has yet to be forwarded, or to be forwarded again.
type Forward struct {
	Candidate gate.Candidate
	// To is the rule's ForwardTo.
	To string
	// Tags are those that stand for it and serve it, sorted. Nil for a manifest without.
	Tags []string
	// Revision is what [Repositories.Attachments] was when it was listed.
	Revision string
	// AdmittedAt is when it was first admitted, UTC.
	AdmittedAt time.Time
}

// Unforwarded returns what was admitted and has not been forwarded since: manifests, tags that came to serve them, and what came to
// hang on them. Of each repository it lists the newest, a thousand at most: what cannot be forwarded, because it is denied by now or the
// upstream does not want it, is listed for ever, and must keep back neither what comes later nor another repository.
func (r *Repositories) Unforwarded(ctx context.Context) ([]Forward, error) {
	repos, err := r.Repositories(ctx)
	if err != nil {
		return nil, err
	}
	var all []Forward
	for _, repo := range repos {
		rule, err := r.rule(repo)
		if err != nil || rule.ForwardTo == "" {
			continue
		}
		found, _, err := ask(ctx, r, repo, func(s *state) ([]Forward, bool) { return s.unforwarded(repo, rule.ForwardTo, r.limits.forwards), true })
		if err != nil {
			return nil, fmt.Errorf("looking for what is to be forwarded of %s: %w", repo, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func (s *state) unforwarded(repo oci.Repository, to string, limit int) []Forward {
	sorted := slices.SortedFunc(maps.Values(s.manifests), func(a, b *manifest) int { return cmp.Compare(b.order, a.order) })
	var found []Forward
	for _, m := range sorted {
		if len(found) == limit {
			break
		}
		if !m.admitted {
			continue
		}
		unserved := s.unserved(m)
		tags := slices.DeleteFunc(s.tagsOf(m), func(name string) bool { return slices.Contains(unserved, name) })
		revision := s.attachments(m.desc.Digest)
		missing := slices.ContainsFunc(tags, func(name string) bool { return !m.forwarded[name] })
		if m.forwarded == nil || missing || m.forwardedAt != revision {
			c := gate.Candidate{Repository: repo, Digest: m.desc.Digest}
			found = append(found, Forward{Candidate: c, To: to, Tags: tags, Revision: revision, AdmittedAt: m.admittedAt})
		}
	}
	return found
}

// Forwarded notes that f has arrived, as it was listed.
func (r *Repositories) Forwarded(ctx context.Context, f Forward) error {
	return r.change(ctx, f.Candidate.Repository, func(rp *repository) error {
		e := Event{By: itself, Kind: Forwarded, Descriptor: oci.Descriptor{Digest: f.Candidate.Digest}, Revision: f.Revision}
		return r.recordTags(ctx, rp, e, f.Tags)
	})
}
