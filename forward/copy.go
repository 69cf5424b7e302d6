package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	// attemptTimeout bounds one attempt: the largest image allowed by default, 20 GiB, at 3 MiB/s.
	attemptTimeout = 2 * time.Hour
	// doneTimeout bounds noting that an item was copied, which is done even when the time of the attempt is over.
	doneTimeout = 30 * time.Second
	// maxManifests bounds what one item can lead to: the largest index allowed, and three pieces of evidence for each of its children.
	maxManifests = 4096
	// blobsAtOnce is how many blobs of one manifest are sent at a time: registries answer slowly and take small blobs fast.
	blobsAtOnce = 3
)

// transfer is one attempt to copy an item. What is not said to be guarded belongs to the goroutine that makes the attempt.
type transfer struct {
	o        Options
	from, to oci.Repository
	// manifests are those that were come to so far.
	manifests map[oci.Digest]*passage

	mu    sync.Mutex
	bytes int64 // guarded by mu; of blobs that were read
}

// passage is what became of a manifest. The zero value is on its way.
type passage struct {
	content oci.Content
	err     error
}

// copyItem copies item and notes that it did. It returns how many bytes of blobs it read, also when it fails.
//
// The order is what makes it safe to stop anywhere: blobs, children, the manifest, evidence, and the tags last, so that whoever pulls
// by tag from the destination finds all of it, or what was there before.
func (f *Forwarder) copyItem(ctx context.Context, item Item) (bytes int64, err error) {
	to, err := Target(item.To, item.Candidate.Repository)
	if err != nil {
		return 0, &fault{OutcomeRefused, err}
	}
	timed, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	t := &transfer{o: f.o, from: item.Candidate.Repository, to: to, manifests: map[oci.Digest]*passage{}}
	if err := t.copyTagged(timed, item); err != nil {
		return t.read(), fmt.Errorf("forwarding %s to %s: %w", item.Candidate, to, err)
	}
	// A crash here leaves the item pending. It is then copied again, which finds everything in place.
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), doneTimeout)
	defer cancel()
	if err := f.o.Queue.Done(noting, item); err != nil {
		return t.read(), faultf(OutcomeUnnoted, "noting that %s was forwarded: %w", item.Candidate, err)
	}
	return t.read(), nil
}

// copyTagged copies an item with all that belongs to it.
func (t *transfer) copyTagged(ctx context.Context, item Item) error {
	var tags []string
	for _, tag := range item.Tags {
		// A list of our own would replace what the destination's holds: each entry is added to that list by whoever pushes it.
		if evidence, _ := oci.ParseEvidenceTag(tag); !evidence.Lists() {
			tags = append(tags, tag)
		}
	}
	if len(item.Tags) > 0 && len(tags) == 0 {
		return t.copyListed(ctx, item.Candidate)
	}
	content, err := t.copyManifest(ctx, item.Candidate)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		// Meanwhile it may have moved on, and what it stands for now be there already.
		now, err := t.o.Evidence.Resolve(ctx, t.from, tag)
		if oci.IsMissing(err) || err == nil && now.Digest != content.Digest {
			continue
		}
		if err != nil {
			return fmt.Errorf("looking up the tag %s: %w", tag, err)
		}
		if err := t.push(ctx, tag, content); err != nil {
			return err
		}
	}
	return nil
}

// copyManifest copies a manifest, what it refers to, and the evidence that hangs on it, once for each transfer. It returns the zero
// Content for one that is on its way: evidence may list what it is evidence of, which leads back there.
func (t *transfer) copyManifest(ctx context.Context, c gate.Candidate) (oci.Content, error) {
	if p, ok := t.manifests[c.Digest]; ok {
		return p.content, p.err
	}
	if len(t.manifests) == maxManifests {
		return oci.Content{}, faultf(OutcomeRefused, "more than %d manifests belong to it", maxManifests)
	}
	p := &passage{}
	t.manifests[c.Digest] = p
	content, err := t.copyWhole(ctx, c)
	if err == nil {
		err = t.copyEvidence(ctx, c)
	}
	*p = passage{content, err}
	return content, err
}

// copyWhole copies a manifest and what it refers to.
func (t *transfer) copyWhole(ctx context.Context, c gate.Candidate) (oci.Content, error) {
	content, m, err := t.open(ctx, c)
	if err != nil {
		return oci.Content{}, err
	}
	if err := t.copyBlobs(ctx, c, m.Blobs()); err != nil {
		return oci.Content{}, err
	}
	for _, child := range m.Manifests {
		// One that is not allowed keeps back the whole: an index that lists what is not there is broken to whoever needs just that.
		if _, err := t.copyManifest(ctx, gate.Candidate{Repository: t.from, Digest: child.Digest}); err != nil {
			return oci.Content{}, fmt.Errorf("its child: %w", err)
		}
	}
	return content, t.push(ctx, c.Digest.String(), content)
}

// open opens a manifest if it is allowed. It is asked here as well as in push, because the layers of what is denied need not be sent.
func (t *transfer) open(ctx context.Context, c gate.Candidate) (oci.Content, oci.Manifest, error) {
	if err := t.allowed(ctx, c); err != nil {
		return oci.Content{}, oci.Manifest{}, err
	}
	content, err := t.o.Released.Manifest(ctx, c)
	if err != nil {
		return oci.Content{}, oci.Manifest{}, faultf(OutcomeUnreadable, "opening manifest %s: %w", c.Digest, err)
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		return oci.Content{}, oci.Manifest{}, faultf(OutcomeUnreadable, "opening manifest %s: %w", c.Digest, err)
	}
	return content, m, nil
}

// copyListed copies what the index under a fallback tag lists, and not the index.
func (t *transfer) copyListed(ctx context.Context, c gate.Candidate) error {
	_, m, err := t.open(ctx, c)
	if err != nil {
		return err
	}
	for _, listed := range m.Manifests {
		if _, err := t.copyIfAllowed(ctx, listed.Digest); err != nil {
			return err
		}
	}
	return nil
}

// copyEvidence copies what hangs on c: its referrers, and what is kept under the tags made of its digest.
func (t *transfer) copyEvidence(ctx context.Context, c gate.Candidate) error {
	referrers, err := t.o.Evidence.Referrers(ctx, t.from, c.Digest)
	if err != nil && !oci.IsMissing(err) {
		return fmt.Errorf("listing the referrers of %s: %w", c.Digest, err)
	}
	for _, r := range referrers {
		if _, err := t.copyIfAllowed(ctx, r.Digest); err != nil {
			return err
		}
	}
	for _, suffix := range oci.EvidenceSuffixes() {
		tag := oci.EvidenceTag{Subject: c.Digest, Suffix: suffix}.String()
		desc, err := t.o.Evidence.Resolve(ctx, t.from, tag)
		if oci.IsMissing(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("looking up the tag %s: %w", tag, err)
		}
		content, err := t.copyIfAllowed(ctx, desc.Digest)
		if err != nil {
			return err
		}
		if content.Digest == "" {
			continue
		}
		if err := t.push(ctx, tag, content); err != nil {
			return err
		}
	}
	return nil
}

// copyIfAllowed copies a piece of evidence. One that is not allowed, or not here any more, keeps nothing back: if it is admitted
// later it is an item of its own. One about which nothing can be said does, or its image would arrive without it. It returns the zero
// Content for what was not copied.
func (t *transfer) copyIfAllowed(ctx context.Context, d oci.Digest) (oci.Content, error) {
	content, err := t.copyManifest(ctx, gate.Candidate{Repository: t.from, Digest: d})
	switch {
	case outcomeOf(err) == OutcomeDenied, outcomeOf(err) == OutcomeUnjudged && oci.IsMissing(err):
		return oci.Content{}, nil
	case err != nil:
		return oci.Content{}, fmt.Errorf("its evidence: %w", err)
	}
	return content, nil
}

// copyBlobs copies the blobs of c.
func (t *transfer) copyBlobs(ctx context.Context, c gate.Candidate, blobs []oci.Descriptor) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(blobsAtOnce)
	seen := map[oci.Digest]bool{}
	for _, desc := range blobs {
		if !seen[desc.Digest] {
			seen[desc.Digest] = true
			group.Go(func() error { return t.copyBlob(ctx, c, desc) })
		}
	}
	return group.Wait()
}

// copyBlob copies one blob.
func (t *transfer) copyBlob(ctx context.Context, c gate.Candidate, desc oci.Descriptor) error {
	src := &source{count: t.count}
	err := t.o.Destination.PushBlob(ctx, t.to, desc, func() (io.ReadCloser, error) {
		content, size, err := t.o.Released.Blob(ctx, c, desc.Digest)
		if err == nil && size != desc.Size {
			_ = content.Close() // it was not read
			err = fmt.Errorf("%d bytes, the manifest announces %d: %w", size, desc.Size, oci.ErrMismatch)
		}
		if err != nil {
			src.fail(err)
			return nil, err
		}
		return &sourceReader{ReadCloser: content, source: src}, nil
	})
	switch {
	case err == nil:
		return nil
	case src.failed() != nil:
		return faultf(OutcomeUnreadable, "reading blob %s: %w", desc.Digest, src.failed())
	default:
		return faultf(destinationOutcome(err), "pushing blob %s: %w", desc.Digest, err)
	}
}

// push stores a manifest at the destination, if it is allowed. Nothing else in this package does.
func (t *transfer) push(ctx context.Context, reference string, content oci.Content) error {
	if err := t.allowed(ctx, gate.Candidate{Repository: t.from, Digest: content.Digest}); err != nil {
		return err
	}
	if err := t.o.Destination.PushManifest(ctx, t.to, reference, content); err != nil {
		return faultf(destinationOutcome(err), "pushing manifest %s: %w", reference, err)
	}
	return nil
}

// allowed returns nil if the verdict on c allows it now.
func (t *transfer) allowed(ctx context.Context, c gate.Candidate) error {
	v, err := t.o.Judge.Judge(ctx, c)
	if err != nil {
		return faultf(OutcomeUnjudged, "judging %s: %w", c.Digest, err)
	}
	if !v.Allowed() {
		return faultf(OutcomeDenied, "%s is denied: %s", c.Digest, v.Summary())
	}
	return nil
}

func (t *transfer) count(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes += int64(n)
}

func (t *transfer) read() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bytes
}

// source remembers why a blob could not be read here, which the destination may report in words of its own. It is safe for
// concurrent use, because a blob can be read on after whoever sends it has given up.
type source struct {
	count func(int)

	mu  sync.Mutex
	err error // guarded by mu; the first
}

func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *source) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// sourceReader is a blob being read.
type sourceReader struct {
	io.ReadCloser
	source *source

	mu     sync.Mutex
	closed bool // guarded by mu
}

// Read implements io.Reader.
func (r *sourceReader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.source.count(n)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && !errors.Is(err, io.EOF) && !r.closed { // what is read after it was closed fails for that
		r.source.fail(err)
	}
	return n, err
}

// Close implements io.Closer.
func (r *sourceReader) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	return r.ReadCloser.Close()
}
