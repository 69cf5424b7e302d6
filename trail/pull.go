package trail

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

// Pull is that a client was sent a manifest, so often and between these times.
type Pull struct {
	Digest oci.Digest `json:"digest"`
	// Client is who; the zero Client for all those together that are too many to tell apart.
	Client
	// First and Last are when, UTC, by what is kept; Count how often between them.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Count uint64    `json:"count"`
}

// isOthers reports whether p is about those that are not told apart.
func (p Pull) isOthers() bool { return p.Client == Client{} }

// Pulls records who was sent manifests of one repository since the last such record.
type Pulls struct {
	Pulls []Pull `json:"pulls"`
}

var (
	errNoPulls = errors.New("it has no pulls")
	errNoCount = errors.New("a pull that did not happen")
)

// Check returns what is wrong with the record.
func (p Pulls) Check() error {
	if len(p.Pulls) == 0 {
		return errNoPulls
	}
	for _, pull := range p.Pulls {
		if _, err := oci.ParseDigest(pull.Digest.String()); err != nil {
			return err
		}
		if pull.Count == 0 {
			return errNoCount
		}
		if pull.First.IsZero() || pull.Last.Before(pull.First) {
			return errNoTime
		}
	}
	return nil
}

// maxClients bounds the clients of one image that are told apart: as many nodes as large clusters have. The rest is counted together.
const maxClients = 5000

// pulls are those of one repository.
type pulls struct {
	byDigest map[oci.Digest]map[origin]*Pull
	clients  int
}

// origin is what clients are told apart by: who they are, and where they come from. The zero origin is that of those that are not told
// apart.
type origin struct{ name, address string }

func newPulls() *pulls { return &pulls{byDigest: map[oci.Digest]map[origin]*Pull{}} }

func (s *pulls) size() int { return s.clients }

func (s *pulls) add(_ string, record Pulls) {
	for _, p := range record.Pulls {
		by := s.byDigest[p.Digest]
		if by == nil {
			by = map[origin]*Pull{}
			s.byDigest[p.Digest] = by
		}
		from := s.origin(p.Digest, origin{p.Name, p.Address})
		if from == (origin{}) {
			p.Client = Client{}
		}
		if known, ok := by[from]; ok {
			known.merge(p)
			continue
		}
		by[from] = &p
		s.clients++
	}
}

// origin returns where a pull of d from there is counted.
func (s *pulls) origin(d oci.Digest, from origin) origin {
	by := s.byDigest[d]
	told := len(by)
	if by[origin{}] != nil {
		told--
	}
	if by[from] != nil || told < maxClients {
		return from
	}
	return origin{}
}

// merge adds more of the same client to p.
func (p *Pull) merge(more Pull) {
	p.Count += more.Count
	if more.First.Before(p.First) {
		p.First = more.First
	}
	if !more.Last.Before(p.Last) {
		p.Last, p.Agent = more.Last, more.Agent
	}
}

// pullKey names pulls that are counted together until they are on record.
type pullKey struct {
	candidate gate.Candidate
	from      origin
}

// tally counts pulls.
type tally struct {
	agent       string
	first, last time.Time
	count       uint64
}

// maxPending bounds the pulls that are not on record yet, in pairs of a client and an image.
const maxPending = 1 << 16

// Pulled notes that by was sent the manifest of c. It waits for nothing, and costs one look into a map.
func (t *Trail) Pulled(c gate.Candidate, by Client) {
	now := t.o.Now()
	by = by.cut()
	key := pullKey{c, origin{by.Name, by.Address}}
	t.pullMu.Lock()
	defer t.pullMu.Unlock()
	if known, ok := t.pending[key]; ok {
		known.last, known.agent = now, by.Agent
		known.count++
		return
	}
	if len(t.pending) >= maxPending { // they are put on record within seconds; a storage that is down has them pile up
		t.lostPulls.Add(1)
		return
	}
	t.pending[key] = &tally{agent: by.Agent, first: now, last: now, count: 1}
}

// of returns what is to be on record. The clock may have been set back since the first pull.
func (p *tally) of(key pullKey) Pull {
	first, last := p.first.UTC(), p.last.UTC()
	if last.Before(first) {
		first, last = last, first
	}
	return Pull{
		Digest: key.candidate.Digest, Client: Client{key.from.name, key.from.address, p.agent},
		First: first, Last: last, Count: p.count,
	}
}

// countEvery is how long the pulls of a client that is known to have an image are counted in memory before the count is put on record.
// That somebody new has it is on record at the next flush.
const countEvery = time.Hour

// maxRecorded bounds the pulls of one record, which then has some 500 KiB at most before it is compressed.
const maxRecorded = 1000

// record puts on record what is pending and due: clients that were not known to have an image, and counts that have waited long enough;
// all of it at the end.
func (t *Trail) record(ctx context.Context, all bool) {
	byRepo := map[oci.Repository][]pullKey{}
	t.pullMu.Lock()
	for key := range t.pending {
		byRepo[key.candidate.Repository] = append(byRepo[key.candidate.Repository], key)
	}
	t.pullMu.Unlock()
	for repo, keys := range byRepo {
		for some := range slices.Chunk(keys, maxRecorded) {
			if err := t.recordPulls(ctx, repo, some, all); err != nil {
				t.fail(ctx, "recording pulls", repo, err)
				break
			}
		}
	}
}

// recordPulls puts on record those of keys that are due.
func (t *Trail) recordPulls(ctx context.Context, repo oci.Repository, keys []pullKey, all bool) error {
	var taken map[pullKey]*tally
	news := false
	err := t.pulls.appendSeen(ctx, repo, func(s *pulls) (Pulls, bool) {
		due := keys
		if !all {
			due = slices.DeleteFunc(slices.Clone(keys), func(k pullKey) bool { return !s.due(k, t.o.Now()) })
		}
		for _, k := range due {
			news = news || !s.knows(k)
		}
		taken = t.take(due)
		var record Pulls
		for _, k := range due {
			if p := taken[k]; p != nil {
				record.Pulls = append(record.Pulls, p.of(k))
			}
		}
		return record, len(record.Pulls) > 0
	})
	if err != nil {
		t.putBack(taken)
		return err
	}
	if news { // somebody may have been sent what is withdrawn by now
		t.suspects(repo)
	}
	return nil
}

func (s *pulls) knows(k pullKey) bool {
	_, ok := s.byDigest[k.candidate.Digest][s.origin(k.candidate.Digest, k.from)]
	return ok
}

// due reports whether what is pending of k is to be put on record at now.
func (s *pulls) due(k pullKey, now time.Time) bool {
	known, ok := s.byDigest[k.candidate.Digest][s.origin(k.candidate.Digest, k.from)]
	return !ok || now.Sub(known.Last) >= countEvery || now.Before(known.Last)
}

// take takes what is pending of keys out.
func (t *Trail) take(keys []pullKey) map[pullKey]*tally {
	t.pullMu.Lock()
	defer t.pullMu.Unlock()
	taken := map[pullKey]*tally{}
	for _, k := range keys {
		if p, ok := t.pending[k]; ok {
			taken[k] = p
			delete(t.pending, k)
		}
	}
	return taken
}

// putBack makes pending again what could not be put on record, or may not have been: twice is better than never.
func (t *Trail) putBack(taken map[pullKey]*tally) {
	t.pullMu.Lock()
	defer t.pullMu.Unlock()
	for k, p := range taken {
		if newer, ok := t.pending[k]; ok {
			newer.first = p.first
			newer.count += p.count
			continue
		}
		t.pending[k] = p
	}
}

// Pullers are those who were sent a manifest.
type Pullers struct {
	// Clients are those that are told apart, the last to pull first; never nil where it was looked up.
	Clients []Pull `json:"clients"`
	// Others counts the pulls of those that are too many to tell apart.
	Others uint64 `json:"others,omitempty"`
}

// Any reports whether anybody was sent it.
func (p Pullers) Any() bool { return len(p.Clients) > 0 || p.Others > 0 }

// PulledBy returns who was sent the manifest of c, by what is kept and what is not on record yet.
func (t *Trail) PulledBy(ctx context.Context, c gate.Candidate) (Pullers, error) {
	var all *pulls
	err := t.pulls.ask(ctx, c.Repository, func(s *pulls) bool {
		all = newPulls()
		for _, p := range s.byDigest[c.Digest] {
			all.add("", Pulls{[]Pull{*p}})
		}
		return len(s.byDigest[c.Digest]) > 0
	})
	if err != nil {
		return Pullers{}, fmt.Errorf("looking up who pulled %s: %w", c, err)
	}
	t.pullMu.Lock()
	for k, p := range t.pending {
		if k.candidate == c {
			all.add("", Pulls{[]Pull{p.of(k)}})
		}
	}
	t.pullMu.Unlock()
	return all.pullers(c.Digest, t.o.Now().Add(-t.o.Keep)), nil
}

// pullers returns who was sent d since then.
func (s *pulls) pullers(d oci.Digest, since time.Time) Pullers {
	found := Pullers{Clients: []Pull{}}
	for _, p := range s.byDigest[d] {
		switch {
		case p.Last.Before(since):
		case p.isOthers():
			found.Others = p.Count
		default:
			found.Clients = append(found.Clients, *p)
		}
	}
	slices.SortFunc(found.Clients, func(a, b Pull) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address))
	})
	return found
}

// LastPulled returns when each of candidates was last sent to anybody, UTC, by what is kept; those that never were are not in it.
func (t *Trail) LastPulled(ctx context.Context, candidates []gate.Candidate) (map[gate.Candidate]time.Time, error) {
	byRepo, found := map[oci.Repository]map[oci.Digest]time.Time{}, map[gate.Candidate]time.Time{}
	for _, c := range candidates {
		last, ok := byRepo[c.Repository]
		if !ok {
			var err error
			if last, err = t.lastPulledOf(ctx, c.Repository); err != nil {
				return nil, err
			}
			byRepo[c.Repository] = last
		}
		if at, ok := last[c.Digest]; ok {
			found[c] = at
		}
	}
	return found, nil
}

// lastPulledOf returns when each manifest of repo was last sent to anybody, by what is on record or pending.
func (t *Trail) lastPulledOf(ctx context.Context, repo oci.Repository) (map[oci.Digest]time.Time, error) {
	last := map[oci.Digest]time.Time{}
	note := func(d oci.Digest, at time.Time) {
		if last[d].Before(at) {
			last[d] = at.UTC()
		}
	}
	err := t.pulls.ask(ctx, repo, func(s *pulls) bool {
		for d, by := range s.byDigest {
			for _, p := range by {
				note(d, p.Last)
			}
		}
		return len(s.byDigest) > 0
	})
	if err != nil {
		return nil, fmt.Errorf("looking up what was pulled of %s: %w", repo, err)
	}
	t.pullMu.Lock()
	defer t.pullMu.Unlock()
	for k, p := range t.pending {
		if k.candidate.Repository == repo {
			note(k.candidate.Digest, p.last)
		}
	}
	return last, nil
}

// expire removes what is older than is kept.
func (t *Trail) expire(ctx context.Context) {
	repos, err := t.o.Pulls.Repositories(ctx)
	if err != nil {
		t.fail(ctx, "looking for what is too old", oci.Repository{}, err)
	}
	for _, repo := range repos {
		if err := t.o.Pulls.Expire(ctx, repo, t.o.Now().Add(-t.o.Keep)); err != nil {
			t.fail(ctx, "removing what is too old", repo, err)
		}
		t.pulls.forget(repo)
	}
}

// held returns the manifests of repo that somebody was sent.
func (t *Trail) held(ctx context.Context, repo oci.Repository) (map[oci.Digest]time.Time, error) {
	last, err := t.lastPulledOf(ctx, repo)
	since := t.o.Now().Add(-t.o.Keep)
	maps.DeleteFunc(last, func(_ oci.Digest, at time.Time) bool { return at.Before(since) })
	return last, err
}
