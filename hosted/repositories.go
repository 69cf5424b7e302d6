// Package hosted owns the repositories that CI pushes to: which manifests they have, what their tags stand for, what refers to what.
package hosted

import (
	"context"
	"errors"
	"log/slog"
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

// Blobs keeps the small blobs that merging reads and makes. Implementations are safe for concurrent use.
type Blobs interface {
	// ReadBlob returns a blob of repo, at most limit bytes of it. Errors: oci.ErrBlobUnknown, oci.ErrTooLarge, oci.ErrMismatch.
	ReadBlob(ctx context.Context, repo oci.Repository, desc oci.Descriptor, limit int64) ([]byte, error)
	// PutBlob stores a blob in repo. When it returns nil a restart does not lose it.
	PutBlob(ctx context.Context, repo oci.Repository, raw []byte) error
}

// Bytes keeps what was pushed.
type Bytes interface {
	Manifests
	Blobs
}

// TagRule says whether tags move.
type TagRule int

// Tag rules. The zero value is the strictest.
const (
	Immutable       TagRule = iota // no tag moves
	ImmutableSemver                // tags that are full semantic versions do not move, with or without a v in front
	Mutable
)

// DefaultPending is [Rule.Pending] when that is 0.
const DefaultPending = 24 * time.Hour

// Rule is how some repositories are hosted.
type Rule struct {
	// Repositories are patterns over paths. The first rule that matches counts.
	Repositories []oci.Pattern
	Tags         TagRule
	// ForwardTo is where what was admitted is copied to; empty for nowhere.
	ForwardTo string
	// Pending is how long what was denied stays before its bytes may be dropped.
	Pending time.Duration
}

// Options are what Repositories are built from.
type Options struct {
	Rules   []Rule
	Journal Journal
	Bytes   Bytes
	Now     func() time.Time
	Log     *slog.Logger
	// Judge is told, about a second after what bears on it was last pushed, that a candidate should be judged. It must not block.
	Judge func(gate.Candidate)
}

// Repositories are the hosted repositories. It is safe for concurrent use.
type Repositories struct{ o Options }

// New returns the repositories hosted by these rules.
func New(o Options) (*Repositories, error) { return &Repositories{o: o}, nil }

// Reference names a manifest in a repository by tag or by digest: exactly one of them is set.
type Reference struct {
	Tag    string
	Digest oci.Digest
}

// Stored is what was pushed.
type Stored struct {
	Descriptor oci.Descriptor
	// Subject is what the manifest refers to; empty for nothing.
	Subject oci.Digest
}

// Tag is what a tag stands for.
type Tag struct {
	// Pushed is what was last pushed under it, which those see who may push.
	Pushed oci.Descriptor
	// Served is what was last pushed under it and admitted, which everybody else sees. The zero Descriptor for nothing yet.
	Served oci.Descriptor
}

// Forward is a manifest that was admitted and has yet to be forwarded.
type Forward struct {
	Candidate gate.Candidate
	// To is the rule's ForwardTo.
	To string
	// Tags are those that stand for it, sorted. Nil for a manifest without.
	Tags []string
	// Revision is what [Repositories.Attachments] was when it was listed.
	Revision string
}

var errSkeleton = errors.New("not written yet")

// Hosts reports whether the repository called path is hosted here.
func (r *Repositories) Hosts(path string) bool { return false }

// Put takes a manifest.
func (r *Repositories) Put(ctx context.Context, repo oci.Repository, ref Reference, content oci.Content, by string) (Stored, error) {
	return Stored{}, errSkeleton
}

// Resolve returns what a tag stands for. Errors: oci.ErrNotFound.
func (r *Repositories) Resolve(ctx context.Context, repo oci.Repository, tag string) (Tag, error) {
	return Tag{}, errSkeleton
}

// Stat returns the descriptor of a manifest that was pushed. Errors: oci.ErrNotFound.
func (r *Repositories) Stat(ctx context.Context, repo oci.Repository, d oci.Digest) (oci.Descriptor, error) {
	return oci.Descriptor{}, errSkeleton
}

// Tags returns tags in lexical order.
func (r *Repositories) Tags(ctx context.Context, repo oci.Repository, n int, last string, pending bool) (tags []string, more bool, err error) {
	return nil, false, errSkeleton
}

// Referrers returns the manifests whose subject is subject.
func (r *Repositories) Referrers(ctx context.Context, repo oci.Repository, subject oci.Digest) ([]oci.Descriptor, error) {
	return nil, errSkeleton
}

// Parents returns the indexes that list c, newest first.
func (r *Repositories) Parents(ctx context.Context, c gate.Candidate) ([]gate.Candidate, error) {
	return nil, errSkeleton
}

// Attachments identifies what hangs on c.
func (r *Repositories) Attachments(ctx context.Context, c gate.Candidate) (string, error) {
	return "", errSkeleton
}

// Admitted notes that v allows its candidate.
func (r *Repositories) Admitted(ctx context.Context, v gate.Verdict) error { return errSkeleton }

// Droppable reports whether the bytes of a denied candidate may go.
func (r *Repositories) Droppable(ctx context.Context, c gate.Candidate) (bool, error) {
	return false, errSkeleton
}

// DeleteTag takes a tag away. Errors: oci.ErrNotFound, DENIED.
func (r *Repositories) DeleteTag(ctx context.Context, repo oci.Repository, tag, by string) error {
	return errSkeleton
}

// DeleteManifest removes a manifest and its tags. Errors: oci.ErrNotFound, DENIED.
func (r *Repositories) DeleteManifest(ctx context.Context, repo oci.Repository, d oci.Digest, by string) error {
	return errSkeleton
}

// Repositories returns the repositories something was pushed to, sorted by name.
func (r *Repositories) Repositories(ctx context.Context) ([]oci.Repository, error) {
	return nil, errSkeleton
}

// Unforwarded returns what has yet to be forwarded, oldest first.
func (r *Repositories) Unforwarded(ctx context.Context) ([]Forward, error) { return nil, errSkeleton }

// Forwarded notes that f has arrived.
func (r *Repositories) Forwarded(ctx context.Context, f Forward) error { return errSkeleton }

// Close ends what is waiting to be judged.
func (r *Repositories) Close() {}
