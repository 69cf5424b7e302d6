package ledger

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// wording identifies what a verdict says, apart from when and by which inputs: two verdicts with the same one tell a person the same.
type wording [16]byte

// wordingOf returns the wording of v.
func wordingOf(v gate.Verdict) wording {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s %q %t %t", v.Decision, v.Policy, v.Keep, v.Complete) // a hash never fails
	for i, reasons := range [][]gate.Reason{v.Reasons, v.Warnings, v.Waived, v.Excused} {
		for _, r := range reasons {
			by := r.Waiver
			if r.Excuse != nil {
				by = r.Excuse.String()
			}
			_, _ = fmt.Fprintf(h, " %d %q %q %q", i, r.Rule, r.Message, by)
		}
	}
	return wording(h.Sum(nil)[:len(wording{})])
}

// Thin removes verdicts that were made before a time, count no more, and only repeat the one before them on their candidate. The first
// of those that say the same stays, so that it can be seen since when, and the newest of each candidate, whatever it says. So what
// follows from the records does not change, and neither does the history of changes.
//
// It may run anywhere and end anywhere: each removal leaves records that say the same. Replicas that still have a removed record in
// memory find it gone when they look.
func (l *Ledger) Thin(ctx context.Context, before time.Time) (removed int, err error) {
	repositories, err := l.Repositories(ctx)
	if err != nil {
		return 0, err
	}
	for _, repo := range repositories {
		n, err := l.thin(ctx, repo, before)
		if removed += n; err != nil {
			return removed, fmt.Errorf("thinning out the verdicts of %s: %w", repo, err)
		}
	}
	return removed, nil
}

func (l *Ledger) thin(ctx context.Context, repo oci.Repository, before time.Time) (removed int, err error) {
	names, _, err := ask(ctx, l, repo, func(r *repository) (names []string, found bool) {
		for _, m := range r.manifests {
			names = append(names, m.repeated(before, l.now())...)
		}
		return names, len(r.manifests) > 0
	})
	if err != nil || len(names) == 0 {
		return 0, err
	}
	dir, err := verdictsPath(repo)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if err := l.driver.Delete(ctx, path.Join(dir, name)); err != nil && !isAbsent(err) { // another replica may have done it
			return removed, err
		}
		removed++
		l.forget(repo, name)
	}
	return removed, nil
}

// repeated returns the names of entries that [Ledger.Thin] removes.
func (m *manifest) repeated(before, now time.Time) []string {
	var names []string
	for i, e := range m.entries {
		if i > 0 && i < len(m.entries)-1 && e.says == m.entries[i-1].says && e.judgedAt.Before(before) && !now.Before(e.until) {
			names = append(names, e.name)
		}
	}
	return names
}

// forget takes a removed record out of the fold, if there is one.
func (l *Ledger) forget(repo oci.Repository, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.repositories[repo]
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.seen[name] {
		return
	}
	delete(r.seen, name)
	if !r.dropped {
		l.folded--
	}
	for _, m := range r.manifests {
		if i := slices.IndexFunc(m.entries, func(e entry) bool { return e.name == name }); i >= 0 && len(m.entries) > 1 {
			m.entries = slices.Delete(m.entries, i, i+1)
			return
		}
	}
}
