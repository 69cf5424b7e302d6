// Package hosted owns the repositories that CI pushes to: which manifests they have, what their tags stand for, what refers to what.
//
// What is true of a repository is a fold over events that are written once and never changed, so replicas that share a journal cannot
// overwrite one another. The package promises that what it has acknowledged survives a restart, that a tag which must not move does
// not, and that of signatures pushed at the same time, none is lost. It must not decide what may be served, nor know how bytes and
// events are kept.
//
// A tag has two pointers: what was last pushed under it, and what was last pushed under it and admitted. Whoever may push sees the
// first, everybody else the second.
package hosted

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Manifests keeps the bytes of manifests. Implementations are safe for concurrent use.
type Manifests interface {
	// PutManifest stores the manifest of c if all the blobs it refers to are in c's repository, and keeps them there. When it returns
	// nil a restart does not lose it. Errors: oci.ErrManifestInvalid, an oci.Error of code MANIFEST_BLOB_UNKNOWN.
	PutManifest(ctx context.Context, c gate.Candidate, content oci.Content) error
	// Manifest returns a stored manifest, which has c's digest. Errors: oci.ErrNotFound.
	Manifest(ctx context.Context, c gate.Candidate) (oci.Content, error)
	// RemoveManifest removes the manifest of c, and those of its blobs that nothing else refers to. It is no error if it is not there.
	RemoveManifest(ctx context.Context, c gate.Candidate) error
}

// Blobs keeps the small blobs that uniting signatures reads and makes. Implementations are safe for concurrent use.
type Blobs interface {
	// ReadBlob returns a blob of repo, which has desc's digest, if it has at most limit bytes.
	// Errors: oci.ErrBlobUnknown, oci.ErrTooLarge, oci.ErrMismatch.
	ReadBlob(ctx context.Context, repo oci.Repository, desc oci.Descriptor, limit int64) ([]byte, error)
	// PutBlob stores a blob in repo. When it returns nil a restart does not lose it before a manifest can refer to it.
	PutBlob(ctx context.Context, repo oci.Repository, raw []byte) error
}

// Bytes keeps what was pushed.
type Bytes interface {
	Manifests
	Blobs
}

// Options are what Repositories are built from. Everything is needed but Rules: without any, nothing is hosted.
type Options struct {
	Rules   []Rule
	Journal Journal
	Bytes   Bytes
	Now     func() time.Time
	Log     *slog.Logger
	// Judge is told, about a second after something that bears on it was pushed, that a candidate should be judged. It must not block.
	Judge func(gate.Candidate)
	// Served is told whenever a candidate, or a tag of it, came to be served. It must not block; nil for nobody.
	Served func(gate.Candidate)
}

// Repositories are the repositories hosted here. It is safe for concurrent use, also beside others over the same journal and bytes.
type Repositories struct {
	o      Options
	limits limits
	soon   *soon

	// mu is taken before the lock of a repository, never after.
	mu           sync.Mutex
	repositories map[oci.Repository]*repository // guarded by mu
	folded       int                            // guarded by mu; the bytes of the events held of all repositories together
}

// New returns the repositories hosted by these rules. It panics when an option it cannot do without is missing. It reads nothing yet.
func New(o Options) (*Repositories, error) {
	for name, missing := range map[string]bool{
		"Journal": o.Journal == nil, "Bytes": o.Bytes == nil, "Now": o.Now == nil, "Log": o.Log == nil, "Judge": o.Judge == nil,
	} {
		if missing {
			panic("hosted: option " + name + " is missing")
		}
	}
	o.Rules = slices.Clone(o.Rules)
	for i := range o.Rules {
		if err := o.Rules[i].check(); err != nil {
			return nil, err
		}
		o.Rules[i].Pending = cmp.Or(o.Rules[i].Pending, DefaultPending)
	}
	return &Repositories{o: o, limits: production, soon: newSoon(o.Judge), repositories: map[oci.Repository]*repository{}}, nil
}

// Close ends the waiting for what should be judged.
func (r *Repositories) Close() { r.soon.close() }

// Tag is what a tag stands for.
type Tag struct {
	// Pushed is what was last pushed under it, which those see who may push.
	Pushed oci.Descriptor
	// Served is what was last pushed under it and admitted, which everybody else sees. The zero Descriptor for nothing yet.
	Served oci.Descriptor
}

// Resolve returns what a tag stands for. Errors: oci.ErrNotFound.
func (r *Repositories) Resolve(ctx context.Context, repo oci.Repository, name string) (Tag, error) {
	lacks := false
	resolve := func(s *state) (Tag, bool) {
		t, ok := s.tags[name]
		if !ok {
			return Tag{}, false
		}
		lacks = len(s.lacking(t)) > 0
		found := Tag{Pushed: t.pushed.plain()}
		if t.served != nil {
			found.Served = t.served.plain()
		}
		return found, true
	}
	found, err := known(ask(ctx, r, repo, resolve))
	if err != nil || !lacks {
		return found, err
	}
	r.heal(ctx, repo, name)
	return known(ask(ctx, r, repo, resolve))
}

// Stat returns the descriptor of a manifest that was pushed and is here: media type, digest and size. Errors: oci.ErrNotFound.
func (r *Repositories) Stat(ctx context.Context, repo oci.Repository, d oci.Digest) (oci.Descriptor, error) {
	return known(ask(ctx, r, repo, func(s *state) (oci.Descriptor, bool) {
		m, ok := s.manifests[d]
		if !ok {
			return oci.Descriptor{}, false
		}
		return m.plain(), true
	}))
}

// Tags returns at most n tags of repo that come after last, in lexical order, and whether there are more; all of them for
// [oci.NoLimit]. Unless pending, only those under which something was admitted. Errors: NAME_UNKNOWN when nothing was ever pushed.
func (r *Repositories) Tags(ctx context.Context, repo oci.Repository, n int, last string, pending bool) (tags []string, more bool, err error) {
	tags, found, err := ask(ctx, r, repo, func(s *state) ([]string, bool) {
		var tags []string
		for name, t := range s.tags {
			if name > last && (pending || t.served != nil) {
				tags = append(tags, name)
			}
		}
		return tags, s.order > 0
	})
	if err == nil && !found {
		err = errNameUnknown
	}
	slices.Sort(tags)
	if n < 0 || len(tags) <= n {
		return tags, false, err
	}
	return tags[:n], n > 0, err
}

// Referrers returns the manifests of repo whose subject is subject, each with its artifact type and annotations, sorted by digest. What
// a referrers tag lists is among them if it is here and refers to subject; the tag's word alone counts for nothing.
func (r *Repositories) Referrers(ctx context.Context, repo oci.Repository, subject oci.Digest) ([]oci.Descriptor, error) {
	found, _, err := ask(ctx, r, repo, func(s *state) ([]oci.Descriptor, bool) {
		var found []oci.Descriptor
		for _, m := range s.bySubject[subject] {
			found = append(found, m.desc)
		}
		return found, len(found) > 0
	})
	slices.SortFunc(found, func(a, b oci.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	return found, err
}

// Parents returns the indexes pushed to c's repository that list c, the last pushed first. A list of referrers is none of them.
func (r *Repositories) Parents(ctx context.Context, c gate.Candidate) ([]gate.Candidate, error) {
	parents, _, err := ask(ctx, r, c.Repository, func(s *state) ([]gate.Candidate, bool) {
		sorted := slices.SortedFunc(slices.Values(s.byChild[c.Digest]), func(a, b *manifest) int { return cmp.Compare(b.order, a.order) })
		var parents []gate.Candidate
		for _, m := range sorted {
			parents = append(parents, gate.Candidate{Repository: c.Repository, Digest: m.desc.Digest})
		}
		return parents, len(parents) > 0
	})
	return parents, err
}

// Attachments identifies what hangs on c: its referrers, what its evidence tags stand for, the indexes that list it and what hangs on
// those. It changes when one of them comes or goes, or may have lost a blob, and does not become what it was before; it is empty when there
// never was any.
func (r *Repositories) Attachments(ctx context.Context, c gate.Candidate) (string, error) {
	revision, _, err := ask(ctx, r, c.Repository, func(s *state) (string, bool) { return s.attachments(c.Digest), true })
	return revision, err
}

// known turns an answer that was not found into an error.
func known[T any](answer T, found bool, err error) (T, error) {
	if err == nil && !found {
		err = oci.ErrNotFound
	}
	return answer, err
}

// Repositories returns the repositories hosted here that something was pushed to, sorted by name.
func (r *Repositories) Repositories(ctx context.Context) ([]oci.Repository, error) {
	found, err := r.o.Journal.Repositories(ctx)
	found = slices.DeleteFunc(found, func(repo oci.Repository) bool { return !r.Hosts(repo.Path) })
	slices.SortFunc(found, func(a, b oci.Repository) int { return strings.Compare(a.Path, b.Path) })
	return found, err
}
