package ledger

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// errKey says that a verdict's key is not one.
var errKey = errors.New("it is not a key")

// RecordVerdict implements gate.Records.
func (l *Ledger) RecordVerdict(ctx context.Context, v gate.Verdict) error {
	name, stamp, err := l.recordVerdict(ctx, v)
	if err != nil {
		return fmt.Errorf("recording the verdict on %s: %w", v.Candidate(), err)
	}
	// Only now is the fold looked up: one that began before the record was stored may have missed it.
	l.mu.Lock()
	r := l.repositories[v.Repository]
	l.mu.Unlock()
	if r != nil {
		l.add(r, name, stamp, v)
	}
	return nil
}

func (l *Ledger) recordVerdict(ctx context.Context, v gate.Verdict) (name string, stamp int64, err error) {
	dir, err := verdictsPath(v.Repository)
	if err != nil {
		return "", 0, err
	}
	if err := check(v); err != nil {
		return "", 0, err
	}
	plain, err := encode(v, l.limits.verdict)
	if err != nil {
		return "", 0, err
	}
	stamp = l.stamp()
	name = recordName(stamp, plain)
	return name, stamp, l.write(ctx, path.Join(dir, name), plain, l.limits.verdict)
}

// stamp returns the time for a record's name: never the same twice, and never before one that was given or seen, whatever the clock
// does.
func (l *Ledger) stamp() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = max(l.last+1, l.now().UnixNano())
	return l.last
}

// check refuses a verdict that could not be found again.
func check(v gate.Verdict) error {
	if _, err := oci.ParseDigest(v.Digest.String()); err != nil {
		return err
	}
	_, err := parseKey(v.Key)
	return err
}

func parseKey(s string) (key gate.Key, err error) {
	if len(s) != hex.EncodedLen(len(key)) {
		return gate.Key{}, fmt.Errorf("%.80q: %w", s, errKey)
	}
	if _, err := hex.Decode(key[:], []byte(s)); err != nil || key.String() != s {
		return gate.Key{}, fmt.Errorf("%.80q: %w", s, errKey)
	}
	return key, nil
}

// verdict returns the verdict recorded at path.
//
// Errors: errBroken, storagedriver.PathNotFoundError, and whatever the driver returns.
func (l *Ledger) verdict(ctx context.Context, path string) (gate.Verdict, error) {
	v, err := read[gate.Verdict](ctx, l, path, l.limits.verdict)
	if err != nil {
		return gate.Verdict{}, err
	}
	if err := check(v); err != nil {
		return gate.Verdict{}, fmt.Errorf("%w: %v", errBroken, err)
	}
	return v, nil
}

// Verdict implements gate.Records. It returns only a verdict that still counts: once the last one under key has lapsed, an earlier one
// does not take its place.
func (l *Ledger) Verdict(ctx context.Context, c gate.Candidate, key gate.Key) (gate.Verdict, bool, error) {
	now := l.now()
	name, found, err := ask(ctx, l, c.Repository, func(r *repository) (string, bool) {
		m, ok := r.manifests[c.Digest]
		if !ok {
			return "", false
		}
		for _, e := range slices.Backward(m.entries) {
			if e.key == key {
				return e.name, now.Before(e.until)
			}
		}
		return "", false
	})
	if err != nil {
		return gate.Verdict{}, false, fmt.Errorf("looking up the verdict on %s: %w", c, err)
	}
	if !found {
		return gate.Verdict{}, false, nil
	}
	vs, err := l.verdicts(ctx, c, []string{name})
	if err != nil || len(vs) == 0 {
		return gate.Verdict{}, false, err
	}
	return vs[0], true, nil
}

// History returns the verdicts on c, newest first, at most the newest thousand.
func (l *Ledger) History(ctx context.Context, c gate.Candidate) ([]gate.Verdict, error) {
	names, _, err := ask(ctx, l, c.Repository, func(r *repository) (names []string, found bool) {
		if m, ok := r.manifests[c.Digest]; ok {
			for _, e := range slices.Backward(m.entries[max(0, len(m.entries)-l.limits.history):]) {
				names = append(names, e.name)
			}
		}
		return names, len(names) > 0
	})
	if err != nil {
		return nil, fmt.Errorf("looking up the history of %s: %w", c, err)
	}
	return l.verdicts(ctx, c, names)
}

// verdicts reads the verdicts on c recorded under names, in that order. What has gone or is not believed since they were indexed is
// left out.
func (l *Ledger) verdicts(ctx context.Context, c gate.Candidate, names []string) ([]gate.Verdict, error) {
	dir, err := verdictsPath(c.Repository)
	if err != nil {
		return nil, err
	}
	var vs []gate.Verdict
	for _, name := range names {
		v, err := l.verdict(ctx, path.Join(dir, name))
		switch {
		case err == nil:
			vs = append(vs, v)
		case isAbsent(err):
		case isBroken(err):
			l.disbelieve(ctx, c.Repository, name, err)
		default:
			return nil, fmt.Errorf("reading a verdict on %s: %w", c, err)
		}
	}
	return vs, nil
}

// Overturned implements gate.Overturns.
func (l *Ledger) Overturned(ctx context.Context, v gate.Verdict) (before gate.Verdict, ok bool, err error) {
	// The name of the record that decided otherwise, or none; found is whether v is known to be recorded.
	name, _, err := ask(ctx, l, v.Repository, func(r *repository) (name string, found bool) {
		m, ok := r.manifests[v.Digest]
		if !ok {
			return "", false
		}
		for i, e := range slices.Backward(m.entries) {
			if e.key.String() == v.Key && e.judgedAt.Equal(v.JudgedAt) {
				if i > 0 && m.entries[i-1].allowed != e.allowed {
					name = m.entries[i-1].name
				}
				return name, true
			}
		}
		return "", false
	})
	if err != nil {
		return gate.Verdict{}, false, fmt.Errorf("looking up what was decided before of %s: %w", v.Candidate(), err)
	}
	if name == "" {
		return gate.Verdict{}, false, nil
	}
	vs, err := l.verdicts(ctx, v.Candidate(), []string{name})
	if err != nil || len(vs) == 0 {
		return gate.Verdict{}, false, err
	}
	return vs[0], true, nil
}

// Released reports whether c was ever allowed here.
func (l *Ledger) Released(ctx context.Context, c gate.Candidate) (bool, error) {
	released, _, err := ask(ctx, l, c.Repository, func(r *repository) (released, found bool) {
		m, ok := r.manifests[c.Digest]
		released = ok && m.admitted
		return released, released
	})
	if err != nil {
		return false, fmt.Errorf("looking up whether %s was released: %w", c, err)
	}
	return released, nil
}

// Parents implements gate.Records. The one with the newest verdict comes first.
func (l *Ledger) Parents(ctx context.Context, c gate.Candidate) ([]gate.Candidate, error) {
	cs, _, err := ask(ctx, l, c.Repository, func(r *repository) ([]gate.Candidate, bool) {
		return r.candidates(slices.DeleteFunc(slices.Clone(r.byChild[c.Digest]), func(m *manifest) bool { return !m.admitted }))
	})
	if err != nil {
		return nil, fmt.Errorf("looking up the parents of %s: %w", c, err)
	}
	return cs, nil
}

// Holders returns the manifests of repo, once admitted, whose admission let out blob. The one with the newest verdict comes first;
// whether it allows is for the gate to say.
func (l *Ledger) Holders(ctx context.Context, repo oci.Repository, blob oci.Digest) ([]gate.Candidate, error) {
	cs, _, err := ask(ctx, l, repo, func(r *repository) ([]gate.Candidate, bool) { return r.candidates(r.byBlob[blob]) })
	if err != nil {
		return nil, fmt.Errorf("looking up who holds %s in %s: %w", blob, repo, err)
	}
	return cs, nil
}

// candidates returns manifests of r as candidates, the one with the newest verdict first.
func (r *repository) candidates(manifests []*manifest) ([]gate.Candidate, bool) {
	sorted := slices.SortedFunc(slices.Values(manifests), func(a, b *manifest) int { return cmp.Compare(b.newest().name, a.newest().name) })
	var cs []gate.Candidate
	for _, m := range sorted {
		cs = append(cs, gate.Candidate{Repository: r.name, Digest: m.digest})
	}
	return cs, len(cs) > 0
}

// Standing is what the newest verdict says of a candidate, without its reasons.
type Standing struct {
	Candidate gate.Candidate
	Decision  gate.Decision
	// Keep is that of the verdict: denied bytes stay for review.
	Keep bool
	// Admitted says that the candidate was once allowed here.
	Admitted bool
	Key      gate.Key
	// JudgedAt and Until are those of the verdict, UTC.
	JudgedAt, Until time.Time
	// FirstJudgedAt is that of the oldest verdict there is a record of, UTC.
	FirstJudgedAt time.Time
}

// Standings returns how every candidate of repo stands that was ever judged, the one with the newest verdict first.
func (l *Ledger) Standings(ctx context.Context, repo oci.Repository) ([]Standing, error) {
	standings, _, err := ask(ctx, l, repo, func(r *repository) (all []Standing, found bool) {
		sorted := slices.SortedFunc(maps.Values(r.manifests), func(a, b *manifest) int { return cmp.Compare(b.newest().name, a.newest().name) })
		for _, m := range sorted {
			all = append(all, m.standing(repo))
		}
		return all, len(all) > 0
	})
	if err != nil {
		return nil, fmt.Errorf("looking up how the images of %s stand: %w", repo, err)
	}
	return standings, nil
}

// Repositories returns the repositories of which anything was ever judged, sorted. It looks at directories, not at records.
func (l *Ledger) Repositories(ctx context.Context) ([]oci.Repository, error) {
	return l.repositoriesBelow(ctx, verdictsRoot, verdictsDir)
}
