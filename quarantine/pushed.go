package quarantine

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// isHosted reports whether nobody but those who push to us can have what repo has.
func isHosted(repo oci.Repository) bool { return repo.Upstream == "" }

// maxAtOnce bounds how many blobs of one manifest are looked for, or claimed, at a time. Each is a few requests to the storage.
const maxAtOnce = 8

// PutManifest stores the manifest of c, which was pushed, if all the blobs it refers to are in c's repository, and claims them for it.
// Dying between leaves blobs that stay although nothing refers to them, until the manifest is pushed again.
//
// Errors: oci.ErrManifestInvalid; oci.ErrMismatch; an oci.Error of code MANIFEST_BLOB_UNKNOWN, whose detail lists the digests.
func (q *Quarantine) PutManifest(ctx context.Context, c gate.Candidate, content oci.Content) error {
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		return err
	}
	if !isHosted(c.Repository) || oci.FromBytes(content.Raw) != c.Digest {
		return fmt.Errorf("storing manifest %s: %w", c, oci.ErrMismatch)
	}
	q.claims.RLock()
	defer q.claims.RUnlock()
	if err := q.checkBlobs(ctx, c.Repository, m); err != nil {
		return err
	}
	var claiming errgroup.Group
	claiming.SetLimit(maxAtOnce)
	for _, desc := range pushedBlobs(m) {
		claiming.Go(func() error { return q.store.claim(ctx, c, desc.Digest) })
	}
	if err := claiming.Wait(); err != nil {
		q.notice(err)
		return fmt.Errorf("claiming the blobs of %s: %w", c, err)
	}
	// Another process may have dropped some before they were claimed. From here on nobody does.
	if err := q.checkBlobs(ctx, c.Repository, m); err != nil {
		return err
	}
	if err := q.store.putManifest(ctx, c, content); err != nil {
		q.notice(err)
		return fmt.Errorf("storing manifest %s: %w", c, err)
	}
	return nil
}

// checkBlobs sees whether repo has what m refers to, as large as m says.
func (q *Quarantine) checkBlobs(ctx context.Context, repo oci.Repository, m oci.Manifest) error {
	blobs := pushedBlobs(m)
	sizes := make([]int64, len(blobs)) // -1 for what is not there
	var looking errgroup.Group
	looking.SetLimit(maxAtOnce)
	for i, desc := range blobs {
		looking.Go(func() (err error) {
			if sizes[i], err = q.store.possessed(ctx, repo, desc.Digest); errors.Is(err, errNotHeld) {
				sizes[i], err = -1, nil
			}
			return err
		})
	}
	if err := looking.Wait(); err != nil {
		return fmt.Errorf("looking for blobs in %s: %w", repo, err)
	}
	var missing []oci.Digest
	for i, desc := range blobs {
		if sizes[i] != desc.Size && !slices.Contains(missing, desc.Digest) {
			missing = append(missing, desc.Digest)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &oci.Error{
		Code:    oci.CodeManifestBlobUnknown,
		Message: fmt.Sprintf("the repository does not have %s with the announced size (%d are missing)", missing[0], len(missing)),
		Detail:  map[string][]oci.Digest{"digests": missing},
	}
}

// pushedBlobs returns the blobs a client that pushes m has pushed before. No other is claimed: naming a blob is not having it.
func pushedBlobs(m oci.Manifest) []oci.Descriptor { return slices.DeleteFunc(m.Blobs(), isForeign) }

// isForeign reports whether desc is a layer that clients fetch from elsewhere and do not push (image-spec, layer.md, Non-Distributable
// Layers; Docker's "foreign" ones). That it does not pass us is a reason to deny the image, and none to refuse the push.
func isForeign(desc oci.Descriptor) bool {
	return len(desc.URLs) > 0 && (strings.Contains(desc.MediaType, ".nondistributable.") || strings.Contains(desc.MediaType, ".foreign."))
}

// Manifest returns the manifest of c, which was pushed. Errors: oci.ErrNotFound.
func (q *Quarantine) Manifest(ctx context.Context, c gate.Candidate) (oci.Content, error) {
	if !isHosted(c.Repository) {
		return oci.Content{}, oci.ErrNotFound
	}
	held, err := q.Hold(ctx, c)
	return held.Content, err
}

// RemoveManifest removes the manifest of c and those of its blobs that nothing else claims. Nothing of it can be served afterwards.
func (q *Quarantine) RemoveManifest(ctx context.Context, c gate.Candidate) error {
	return q.Withdraw(ctx, c, true)
}

// ReadBlob returns a small blob of a hosted repository. Errors: oci.ErrBlobUnknown, oci.ErrTooLarge, oci.ErrMismatch.
func (q *Quarantine) ReadBlob(ctx context.Context, repo oci.Repository, desc oci.Descriptor, limit int64) ([]byte, error) {
	if _, err := q.HasBlob(ctx, repo, desc.Digest); err != nil {
		return nil, err
	}
	r, err := q.store.openBlob(ctx, desc.Digest)
	if errors.Is(err, errNotHeld) {
		return nil, oci.ErrBlobUnknown
	}
	if err != nil {
		return nil, err
	}
	raw, err := oci.ReadVerified(r, desc, limit)
	return raw, errors.Join(err, r.Close())
}

// PutBlob stores a small blob in a hosted repository, as an upload of it would.
func (q *Quarantine) PutBlob(ctx context.Context, repo oci.Repository, raw []byte) error {
	return q.take(ctx, repo, oci.FromBytes(raw), func(d oci.Digest) error {
		return q.store.putBlob(ctx, d, bytes.Clone(raw))
	})
}

// Mount gives repo, which is hosted here, a blob that from's manifest refers to, as an upload of it would. Whether it may have that is
// for the caller to know. Errors: oci.ErrBlobUnknown, for whatever reason there is nothing to mount.
func (q *Quarantine) Mount(ctx context.Context, repo oci.Repository, from gate.Candidate, d oci.Digest) error {
	content, err := q.store.manifest(ctx, from)
	if errors.Is(err, errNotHeld) {
		return oci.ErrBlobUnknown
	}
	if err != nil {
		return fmt.Errorf("mounting %s from %s: %w", d, from, err)
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil || !slices.ContainsFunc(m.Blobs(), func(desc oci.Descriptor) bool { return desc.Digest == d }) {
		return oci.ErrBlobUnknown
	}
	return q.take(ctx, repo, d, func(d oci.Digest) error {
		_, err := q.store.possessed(ctx, from.Repository, d)
		return err
	})
}

// take notes that repo has a blob that bring puts there, or finds to be there, and claims it until purged. Errors: oci.ErrBlobUnknown
// when bring returns errNotHeld.
func (q *Quarantine) take(ctx context.Context, repo oci.Repository, d oci.Digest, bring func(oci.Digest) error) error {
	if !isHosted(repo) {
		return oci.ErrBlobUnknown
	}
	session, state := rand.Text(), uploadState{Repository: repo.String(), Blob: d}
	if err := q.store.putUploadState(ctx, session, state); err != nil { // first, so that whatever follows is purged
		return fmt.Errorf("taking %s into %s: %w", d, repo, err)
	}
	q.claims.RLock()
	defer q.claims.RUnlock()
	err := bring(d)
	if errors.Is(err, errNotHeld) {
		return errors.Join(oci.ErrBlobUnknown, q.store.remove(ctx, uploadPath(session)))
	}
	if err == nil {
		err = q.store.putClaim(ctx, d, state.claim(session), repo.String())
	}
	if err == nil && errors.Is(q.store.hasBlob(ctx, d), errNotHeld) { // another process dropped it before it was claimed
		if err = bring(d); errors.Is(err, errNotHeld) {
			err = oci.ErrBlobUnknown
		}
	}
	if err != nil {
		q.notice(err)
		return fmt.Errorf("taking %s into %s: %w", d, repo, err)
	}
	return nil
}

// HasBlob returns the size of a blob of a hosted repository, pushed to it, mounted there, or referred to by a manifest of it.
// Errors: oci.ErrBlobUnknown.
func (q *Quarantine) HasBlob(ctx context.Context, repo oci.Repository, d oci.Digest) (int64, error) {
	if !isHosted(repo) {
		return 0, oci.ErrBlobUnknown
	}
	size, err := q.store.possessed(ctx, repo, d)
	if errors.Is(err, errNotHeld) {
		return 0, oci.ErrBlobUnknown
	}
	if err != nil {
		return 0, fmt.Errorf("looking for %s in %s: %w", d, repo, err)
	}
	return size, nil
}

// DeleteBlob takes a blob out of a hosted repository, and removes it when nobody else has it. A manifest that refers to it stays, and
// cannot be pulled whole any more. Errors: oci.ErrBlobUnknown.
func (q *Quarantine) DeleteBlob(ctx context.Context, repo oci.Repository, d oci.Digest) error {
	if _, err := q.HasBlob(ctx, repo, d); err != nil {
		return err
	}
	q.claims.Lock()
	defer q.claims.Unlock()
	names, err := q.store.claimsOn(ctx, repo, d)
	for _, name := range names {
		if err == nil {
			_, err = q.dropClaim(ctx, d, name)
		}
	}
	if err != nil {
		return fmt.Errorf("deleting %s from %s: %w", d, repo, err)
	}
	return nil
}

// giveUp is [Quarantine.dropClaim] for those who do not hold the lock.
func (q *Quarantine) giveUp(ctx context.Context, d oci.Digest, claim string) error {
	q.claims.Lock()
	defer q.claims.Unlock()
	_, err := q.dropClaim(ctx, d, claim)
	return err
}

// claimPushed makes sure that c's repository, which is hosted here, has a stored blob, and claims it for c. Nobody is asked: there is
// nobody to ask. Errors: oci.ErrBlobUnknown.
func (q *Quarantine) claimPushed(ctx context.Context, c gate.Candidate, d oci.Digest) error {
	by, err := q.claimant(ctx, c, d)
	if err != nil || by == byCandidate {
		return err
	}
	q.claims.RLock()
	defer q.claims.RUnlock()
	if _, err := q.claimant(ctx, c, d); err != nil { // it may have been deleted before the lock was had
		return err
	}
	return q.store.claim(ctx, c, d)
}

// claimant says on whose word c, of a hosted repository, may open a stored blob. Errors: oci.ErrBlobUnknown when on nobody's of the
// repository.
func (q *Quarantine) claimant(ctx context.Context, c gate.Candidate, d oci.Digest) (claimant, error) {
	err := q.store.hasBlob(ctx, d)
	by := byNobody
	if err == nil {
		by, err = q.store.claimed(ctx, c, d)
	}
	if err == nil && by < byRepository {
		err = errNotHeld
	}
	if errors.Is(err, errNotHeld) {
		err = oci.ErrBlobUnknown
	}
	return by, err
}

// Pushed returns the view of q for those who may push: it opens what hosted repositories have, and has no way to ask for more.
func (q *Quarantine) Pushed() Pushed { return Pushed{q} }

// Pushed opens what hosted repositories have, whether it was released or not. Of any other repository it has nothing.
type Pushed struct{ q *Quarantine }

// Manifest returns a manifest of a hosted repository. Errors: oci.ErrNotFound.
func (p Pushed) Manifest(ctx context.Context, c gate.Candidate) (oci.Content, error) {
	return p.q.Manifest(ctx, c)
}

// Blob opens a blob of a hosted repository. content is as [Released.Blob] returns it. Errors: oci.ErrBlobUnknown.
func (p Pushed) Blob(ctx context.Context, repo oci.Repository, d oci.Digest) (content io.ReadCloser, size int64, err error) {
	size, err = p.q.HasBlob(ctx, repo, d)
	if err != nil {
		return nil, 0, err
	}
	content, err = p.q.openIntact(ctx, oci.Descriptor{Digest: d, Size: size})
	if errors.Is(err, errNotHeld) {
		return nil, 0, oci.ErrBlobUnknown
	}
	return content, size, err
}
