package hosted

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Kind says what happened in a repository. The zero value is that of a record that is not believed: nothing happened.
type Kind string

// The kinds of events.
const (
	// Pushed: Descriptor was pushed, under Tag unless that is empty.
	Pushed Kind = "pushed"
	// Admitted: Descriptor.Digest was judged and may be served, under Tags too.
	Admitted Kind = "admitted"
	// Claimed: somebody is about to push Descriptor.Digest under Tag, which must not move once it is there. Unclaimed: they are not.
	Claimed   Kind = "claimed"
	Unclaimed Kind = "unclaimed"
	// TagDeleted: Tag stands for nothing any more. What it stood for is still there.
	TagDeleted Kind = "tag-deleted"
	// ManifestDeleted: Descriptor.Digest is gone, and with it every tag that stood for it and serves no other.
	ManifestDeleted Kind = "manifest-deleted"
	// BlobDeleted: the blob Descriptor.Digest was taken out of the repository. What hangs on a manifest may have held it.
	BlobDeleted Kind = "blob-deleted"
	// Forwarded: Descriptor.Digest, with Tags and what hung on it at Revision, has arrived where it is forwarded to.
	Forwarded Kind = "forwarded"
)

// Event is one thing that happened in a repository, and is never changed. It holds what the state is folded from and no more, so that
// nobody needs to read the manifests to know it.
type Event struct {
	At time.Time `json:"at"`
	// By is who did it, as they are known here; "tidewaiter" for what follows from what others did.
	By   string `json:"by"`
	Kind Kind   `json:"kind"`
	// Tag is of Pushed, Claimed, Unclaimed and TagDeleted, Tags of Admitted and Forwarded.
	Tag  string   `json:"tag,omitempty"`
	Tags []string `json:"tags,omitempty"`
	// Immutable says of a Pushed that Tag must not move: it does nothing to a tag that stands for another manifest already. It is
	// part of the event, so that rules that change do not change the past.
	Immutable bool `json:"immutable,omitempty"`
	// Part says of a Pushed under an evidence tag that Tag does not move: a manifest that holds both this one and what Tag stands for
	// is pushed next, so that nothing is lost if that does not come to pass.
	Part bool `json:"part,omitempty"`
	// Descriptor is the manifest: only its digest but for Pushed, where it has the media type and size too, and for one with a
	// Subject the artifact type and annotations a list of referrers shows (distribution-spec, Listing Referrers).
	Descriptor oci.Descriptor `json:"descriptor"`
	Subject    oci.Digest     `json:"subject,omitempty"`
	// Children are the manifests an index lists, each once.
	Children []oci.Digest `json:"children,omitempty"`
	// Entries name the layers of an image pushed under an evidence tag, each with its annotations; see entryName.
	Entries []oci.Digest `json:"entries,omitempty"`
	// Revision is of Forwarded: what [Repositories.Attachments] was.
	Revision string `json:"revision,omitempty"`
	// Claim names a claim: that of Claimed and Unclaimed, and the one that ends with a Pushed.
	Claim string `json:"claim,omitempty"`
}

// What an event takes in memory, roughly: by itself, with the manifest and tag it may make, and for each digest, tag and annotation in it.
const (
	eventBytes = 512
	itemBytes  = 200
)

// bytes returns what e takes in memory.
func (e Event) bytes() int {
	n := eventBytes + itemBytes*(len(e.Children)+len(e.Entries)+len(e.Tags)+len(e.Descriptor.Annotations))
	return n + annotationBytes(e.Descriptor)
}

// Recorded is an event and the name of its record. Events happened in the order of their names.
type Recorded struct {
	Name  string
	Event Event
}

// Journal keeps events, durably. Implementations are safe for concurrent use, also beside others over the same storage.
type Journal interface {
	// Append records e under a name of its own, after those of all events this process has seen, and returns the name. When it returns
	// nil, a restart does not lose e, and whoever asks later is told; when it fails, e may have been recorded or not.
	Append(ctx context.Context, repo oci.Repository, e Event) (name string, err error)
	// Events returns the events of repo whose names are not known, in the order of their names: those recorded since then, by processes
	// whose clocks are wrong by less than a day, or all for the zero time; earlier ones may be among them. What another process appended
	// may come later than younger events. A record that is not believed comes with the zero Event, so that it need not be read again.
	// known is called by one goroutine.
	Events(ctx context.Context, repo oci.Repository, since time.Time, known func(name string) bool) ([]Recorded, error)
	// Repositories returns the repositories that have events, sorted by name.
	Repositories(ctx context.Context) ([]oci.Repository, error)
}

// Check refuses an event that does not say what its kind needs. Errors: oci.ErrDigestInvalid, oci.ErrTagInvalid, errKind.
func (e Event) Check() error {
	switch e.Kind {
	case Pushed, Admitted, ManifestDeleted, BlobDeleted, Forwarded:
		if _, err := oci.ParseDigest(e.Descriptor.Digest.String()); err != nil {
			return err
		}
	case Claimed, Unclaimed:
		if _, err := oci.ParseDigest(e.Descriptor.Digest.String()); err != nil {
			return err
		}
		if e.Tag == "" || e.Claim == "" {
			return oci.ErrTagInvalid
		}
	case TagDeleted:
		if e.Tag == "" {
			return oci.ErrTagInvalid
		}
	default:
		return fmt.Errorf("%.40q: %w", string(e.Kind), errKind)
	}
	tags := e.Tags
	if e.Tag != "" {
		tags = append([]string{e.Tag}, tags...)
	}
	for _, tag := range tags {
		if !oci.ValidTag(tag) {
			return oci.ErrTagInvalid
		}
	}
	return nil
}

// errKind says that an event is of a kind this version does not know.
var errKind = errors.New("it is of an unknown kind")
