package main

import (
	"context"
	"sync"
	"time"
)

// How replicas keep an eye on one another: how often each says what it judges by, after what silence it counts as gone, and for how long
// two may differ before it is a disagreement, which is longer than files take to reach all of them and be read.
const (
	standingEvery     = 5 * time.Second
	standingLasts     = 20 * time.Second
	disagreementGrace = 30 * time.Second
)

// maxPeers bounds the replicas kept in mind. Old announcements can be made to arrive again, by somebody who writes to Redis.
const maxPeers = 1024

// standing is what a replica judges by, as it tells the others.
type standing struct {
	ID       string    `json:"id"`
	Version  string    `json:"version"`
	Policies string    `json:"policies"`
	Waivers  string    `json:"waivers"`
	Roots    string    `json:"roots"`
	At       time.Time `json:"at"`
}

// agrees reports whether two replicas with the same advisory data come to the same verdicts.
func (s standing) agrees(other standing) bool {
	return s.Policies == other.Policies && s.Waivers == other.Waivers && s.Roots == other.Roots
}

// peer is what is known of another replica.
type peer struct {
	standing
	heardAt time.Time
	// differsSince is when it was first seen to differ without having agreed since; the zero time while it agrees.
	differsSince time.Time
	// said says that the log has it.
	said bool
}

// peers are the other replicas. It is safe for concurrent use.
type peers struct {
	mu      sync.Mutex
	byID    map[string]*peer // guarded by mu
	differs int              // guarded by mu; how many disagree
}

func newPeers() *peers { return &peers{byID: map[string]*peer{}} }

// hear notes what another replica says. What it said earlier, and is heard again, is not taken for news.
func (p *peers) hear(s standing, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.byID[s.ID]
	switch {
	case !ok && len(p.byID) < maxPeers:
		p.byID[s.ID] = &peer{standing: s, heardAt: now}
	case ok && s.At.After(known.At):
		known.standing, known.heardAt = s, now
	}
}

// compare returns the replicas that have come to disagree with own, and those that disagreed and agree now, or are gone.
func (p *peers) compare(own standing, now time.Time) (disagree, settled []standing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.differs = 0
	for id, other := range p.byID {
		gone := now.Sub(other.heardAt) >= standingLasts
		if gone || own.agrees(other.standing) {
			if other.said {
				settled = append(settled, other.standing)
			}
			other.differsSince, other.said = time.Time{}, false
			if gone {
				delete(p.byID, id)
			}
			continue
		}
		if other.differsSince.IsZero() {
			other.differsSince = now
		}
		if now.Sub(other.differsSince) < disagreementGrace {
			continue
		}
		p.differs++
		if !other.said {
			other.said = true
			disagree = append(disagree, other.standing)
		}
	}
	return disagree, settled
}

// counts returns how many other replicas there are, and how many of them disagree.
func (p *peers) counts() (others, disagreeing int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.byID), p.differs
}

// standing returns what this replica judges by.
func (in *instance) standing(now time.Time) standing {
	set := in.policies.Current()
	return standing{
		ID: in.fleet.ID(), Version: version, Policies: set.Revision, Waivers: set.WaiverRevision, Roots: in.policies.Roots().Revision, At: now.UTC(),
	}
}

// reportPeers logs what has changed about whether the replicas agree. Neither can know which of them is behind, so both go on: their
// verdicts have different keys, and none is taken for the other's. But what one serves the other may refuse.
func (in *instance) reportPeers(ctx context.Context, own standing) {
	disagree, settled := in.peers.compare(own, own.At)
	for _, other := range disagree {
		in.log.ErrorContext(ctx, "another replica judges by other policies, waivers or trust: see that all have the same files",
			"replica", other.ID, "version", other.Version, "policy", own.Policies, "other_policy", other.Policies,
			"waivers", own.Waivers, "other_waivers", other.Waivers, "roots", own.Roots, "other_roots", other.Roots)
	}
	for _, other := range settled {
		in.log.InfoContext(ctx, "the other replica agrees again, or is gone", "replica", other.ID)
	}
}
