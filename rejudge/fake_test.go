package rejudge_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/rejudge"
)

var errDown = errors.New("the upstream is down")

// proxy is what a Rejudger works on, in memory. What it is set to is guarded by mu like the rest.
type proxy struct {
	mu        sync.Mutex
	revision  string
	attached  map[gate.Candidate]string
	denied    map[gate.Candidate]bool // by what there is now
	down      map[gate.Candidate]bool
	dropped   map[gate.Candidate]bool
	pulled    map[gate.Candidate]time.Time
	ends      map[gate.Candidate]time.Time // of a grace period, say
	unlisted  bool
	others    int           // judgings of pulls under way
	takes     time.Duration // each judging
	standings map[gate.Candidate]rejudge.Standing
	memory    map[gate.Key]gate.Verdict
	judged    []string // in order
	atOnce    int      // judgings under way
	most      int      // of them, ever
	before    func(gate.Candidate)
	log       bytes.Buffer
}

func newProxy() *proxy {
	return &proxy{
		revision: "r1", attached: map[gate.Candidate]string{}, denied: map[gate.Candidate]bool{}, down: map[gate.Candidate]bool{},
		dropped: map[gate.Candidate]bool{}, pulled: map[gate.Candidate]time.Time{}, ends: map[gate.Candidate]time.Time{},
		standings: map[gate.Candidate]rejudge.Standing{}, memory: map[gate.Key]gate.Verdict{},
	}
}

// candidates returns n of them, in repositories of two each, of which each was judged a second after the one before.
func (p *proxy) candidates(n int) []gate.Candidate {
	var all []gate.Candidate
	for i := range n {
		c := gate.Candidate{
			Repository: oci.Repository{Upstream: "docker.io", Path: fmt.Sprintf("library/%c", 'a'+i/2)}, Digest: oci.FromBytes(fmt.Append(nil, i)),
		}
		all = append(all, c)
		p.record(c)
		pass(time.Second)
	}
	p.judged = nil
	return all
}

// record judges c by what there is now. The caller holds mu, or is alone.
func (p *proxy) record(c gate.Candidate) gate.Verdict {
	now := time.Now()
	s := rejudge.Standing{Candidate: c, Key: p.key(c), JudgedAt: now, Until: now.Add(24 * time.Hour)}
	if end := p.ends[c]; now.Before(end) && end.Before(s.Until) {
		s.Until = end
	}
	if !p.denied[c] && (p.ends[c].IsZero() || now.Before(p.ends[c])) {
		s.Decision = gate.Allow
	}
	p.standings[c] = s
	p.judged = append(p.judged, short(c))
	v := gate.Verdict{Decision: s.Decision, Repository: c.Repository, Digest: c.Digest, Key: s.Key.String(), JudgedAt: s.JudgedAt, Until: s.Until}
	p.memory[s.Key] = v
	return v
}

// short names a candidate by its repository's last letter and whether it is the repository's first or second.
func short(c gate.Candidate) string {
	letter := c.Repository.Path[len("library/"):]
	if oci.FromBytes(fmt.Append(nil, 2*int(letter[0]-'a'))) == c.Digest {
		return letter + "1"
	}
	return letter + "2"
}

func (p *proxy) key(c gate.Candidate) gate.Key {
	return gate.Key(sha256.Sum256([]byte(p.revision + p.attached[c] + c.String())))
}

func (p *proxy) Revision() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.revision
}

func (p *proxy) Key(_ context.Context, c gate.Candidate) (gate.Key, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.key(c), nil
}

func (p *proxy) Renew(ctx context.Context, c gate.Candidate, beyond time.Time) (gate.Verdict, error) {
	p.mu.Lock()
	p.atOnce++
	p.most = max(p.most, p.atOnce)
	before, takes := p.before, p.takes
	p.mu.Unlock()
	defer p.change(func() { p.atOnce-- })
	if before != nil {
		before(c)
	}
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return gate.Verdict{}, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down[c] {
		p.judged = append(p.judged, "not "+short(c))
		return gate.Verdict{}, errDown
	}
	if v, ok := p.memory[p.key(c)]; ok && time.Now().Before(v.Until) && v.Until.After(beyond) {
		return v, nil
	}
	return p.record(c), nil
}

func (p *proxy) Repositories(context.Context) ([]oci.Repository, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unlisted {
		return nil, errDown
	}
	var all []oci.Repository
	for c := range p.standings {
		if !slices.Contains(all, c.Repository) {
			all = append(all, c.Repository)
		}
	}
	return all, nil
}

func (p *proxy) Standings(_ context.Context, repo oci.Repository) ([]rejudge.Standing, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []rejudge.Standing
	for c, s := range p.standings {
		if c.Repository == repo {
			all = append(all, s)
		}
	}
	return all, nil
}

func (p *proxy) Holds(_ context.Context, c gate.Candidate) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.dropped[c], nil
}

func (p *proxy) LastPulled(_ context.Context, candidates []gate.Candidate) (map[gate.Candidate]time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pulled := map[gate.Candidate]time.Time{}
	for _, c := range candidates {
		if at, ok := p.pulled[c]; ok {
			pulled[c] = at
		}
	}
	return pulled, nil
}

func (p *proxy) underWay() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.others + p.atOnce
}

func (p *proxy) change(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
}

// said returns what was judged since the last call.
func (p *proxy) said() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	judged := p.judged
	p.judged = nil
	return judged
}

// in runs a test in a time of its own, with a proxy that has some candidates. run starts a Rejudger, which ends with the test.
func in(t *testing.T, candidates int, test func(t *testing.T, p *proxy, all []gate.Candidate, run func(...func(*rejudge.Options)) *rejudge.Rejudger)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		p := newProxy()
		all := p.candidates(candidates)
		test(t, p, all, func(change ...func(*rejudge.Options)) *rejudge.Rejudger {
			o := rejudge.Options{
				Judge: p, Standings: p, Holdings: p, Pulls: p, UnderWay: p.underWay, Log: newLog(p), Now: time.Now,
			}
			for _, c := range change {
				c(&o)
			}
			r := rejudge.New(o)
			wg.Go(func() { r.Run(ctx) })
			return r
		})
	})
}

func newLog(p *proxy) *slog.Logger { return slog.New(slog.NewTextHandler(&p.log, nil)) }

// pass lets the test's own time pass.
func pass(d time.Duration) { <-time.After(d) }
