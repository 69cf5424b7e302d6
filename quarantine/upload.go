package quarantine

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Anywhere is where an upload goes on for a client that does not say.
const Anywhere = -1

// uploadBuffer is how much of a body is read at a time. There may be as many bodies as connections, ten thousand: 320 MiB.
const uploadBuffer = 32 << 10

// retryUpload is when somebody may ask again who found another request writing to their upload: that one has most likely lost its
// client, and is about to see it.
const retryUpload = time.Second

var (
	errUploadUnknown = &oci.Error{Code: oci.CodeBlobUploadUnknown, Message: "the upload is not known here"}
	errUploadBusy    = &oci.Error{Code: oci.CodeUnavailable, Message: "another request is writing to the upload", RetryAfter: retryUpload}
)

// Uploads takes blobs from those who push to hosted repositories. An upload lies in storage from its first byte, with a note of who it
// belongs to and how its hash stood when it was last added to, so another process can go on with it. No body is ever kept in memory.
//
// Distribution's own blob writer does the same over the same driver, but keeps links of its own for who has which blob, beside our
// claims, and brings half of its registry along to do so.
//
// It is safe for concurrent use. An upload has one writer at a time in this process; two processes that write to the same one spoil
// it, which shows when it is finished or first read.
type Uploads struct {
	q        *Quarantine
	maxBytes int64
	now      func() time.Time

	mu   sync.Mutex
	busy map[string]bool // guarded by mu; the sessions somebody is at
}

// Uploads returns what takes uploads into q, of blobs of at most maxBytes. It is called once.
func (q *Quarantine) Uploads(maxBytes int64, now func() time.Time) *Uploads {
	return &Uploads{q: q, maxBytes: maxBytes, now: now, busy: map[string]bool{}}
}

// upload is an upload that somebody is at.
type upload struct {
	u       *Uploads
	session string
	state   uploadState
}

// Start begins an upload to repo.
func (u *Uploads) Start(ctx context.Context, repo oci.Repository) (session string, err error) {
	session = rand.Text()
	if err := u.q.store.putUploadState(ctx, session, uploadState{Repository: repo.String()}); err != nil {
		u.q.notice(err)
		return "", fmt.Errorf("starting an upload to %s: %w", repo, err)
	}
	return session, nil
}

// Progress returns how many bytes of an upload have arrived.
//
// Errors: oci.Error of code BLOB_UPLOAD_UNKNOWN, or UNAVAILABLE while another request writes to it.
func (u *Uploads) Progress(ctx context.Context, repo oci.Repository, session string) (end int64, err error) {
	return u.Append(ctx, repo, session, Anywhere, eof{})
}

// Append adds body to an upload, at its end, which must be at unless that is [Anywhere]. It returns where the end is then, also when
// it fails: what arrived before body failed is kept.
//
// Errors: as [Uploads.Progress]; RANGE_INVALID when the end is not at; SIZE_INVALID when the upload is larger than it may be, and has
// been removed; whatever body returns.
func (u *Uploads) Append(ctx context.Context, repo oci.Repository, session string, at int64, body io.Reader) (end int64, err error) {
	up, err := u.open(ctx, repo, session)
	if err != nil {
		return 0, err
	}
	defer u.leave(session)
	if up.state.Blob != "" {
		return 0, errUploadUnknown
	}
	ctx = context.WithoutCancel(ctx) // a client that has gone ends body, not the storing of what it sent
	end, _, err = up.append(ctx, at, body, false)
	return end, err
}

// Finish adds body, which may be empty, and makes the whole the blob d of repo if that is its digest; otherwise nothing is kept. It may
// be called again when its answer was lost.
//
// Errors: as [Uploads.Append]; DIGEST_INVALID.
func (u *Uploads) Finish(ctx context.Context, repo oci.Repository, session string, at int64, body io.Reader, d oci.Digest) (size int64, err error) {
	up, err := u.open(ctx, repo, session)
	if err != nil {
		return 0, err
	}
	defer u.leave(session)
	ctx = context.WithoutCancel(ctx)
	if up.state.Blob == "" {
		end, sum, err := up.append(ctx, at, body, true)
		if err != nil {
			return end, err
		}
		if got := oci.Digest(fmt.Sprintf("sha256:%x", sum.Sum(nil))); got != d {
			refusal := &oci.Error{Code: oci.CodeDigestInvalid, Message: fmt.Sprintf("what was uploaded has the digest %s, not %s", got, d)}
			return 0, errors.Join(refusal, up.remove(ctx))
		}
		up.state = uploadState{Repository: up.state.Repository, Blob: d}
		if err := u.q.store.putUploadState(ctx, session, up.state); err != nil {
			return 0, fmt.Errorf("finishing the upload of %s: %w", d, err)
		}
	}
	if up.state.Blob != d {
		return 0, errUploadUnknown
	}
	// The note is written. Dying from here on leaves what proved to be the blob and whose it is, for another try or the purge.
	if err := up.settle(ctx, repo); err != nil {
		return 0, fmt.Errorf("storing %s: %w", d, err)
	}
	return u.q.HasBlob(ctx, repo, d)
}

// Cancel removes an upload. Errors: as [Uploads.Progress].
func (u *Uploads) Cancel(ctx context.Context, repo oci.Repository, session string) error {
	up, err := u.open(ctx, repo, session)
	if err != nil {
		return err
	}
	defer u.leave(session)
	if up.state.Blob != "" {
		return errUploadUnknown
	}
	return up.remove(ctx)
}

// Purge removes the uploads nothing was added to for olderThan, and gives up the claims of finished ones that are as old: a blob that no
// manifest has come to refer to goes with them. It returns how many there were.
func (u *Uploads) Purge(ctx context.Context, olderThan time.Duration) (int, error) {
	sessions, err := u.q.store.uploads(ctx)
	if err != nil {
		return 0, fmt.Errorf("purging uploads: %w", err)
	}
	purged := 0
	for _, session := range sessions {
		old, err := u.purge(ctx, session, u.now().Add(-olderThan))
		if err != nil {
			return purged, fmt.Errorf("purging the upload %s: %w", session, err)
		}
		if old {
			purged++
		}
	}
	return purged, nil
}

// purge removes an upload that was last touched before then, and returns whether it was.
func (u *Uploads) purge(ctx context.Context, session string, then time.Time) (bool, error) {
	if old, err := u.isOlder(ctx, session, then); err != nil || !old { // before it is taken, or whoever writes to it would find it taken
		return false, err
	}
	if !u.enter(session) {
		return false, nil
	}
	defer u.leave(session)
	if old, err := u.isOlder(ctx, session, then); err != nil || !old { // somebody was at it in between
		return false, err
	}
	state, err := u.q.store.uploadState(ctx, session)
	if err != nil && !errors.Is(err, errNotHeld) { // one that cannot be read will not be finished either
		return false, err
	}
	up := &upload{u: u, session: session, state: state}
	if state.Blob != "" {
		if err := u.q.giveUp(ctx, state.Blob, state.claim(session)); err != nil {
			return false, err
		}
	}
	return true, up.remove(ctx)
}

// isOlder reports whether nothing was added to an upload since then.
func (u *Uploads) isOlder(ctx context.Context, session string, then time.Time) (bool, error) {
	touched, err := u.q.store.uploadTouched(ctx, session)
	if isNotFound(err) { // it was finished or given up meanwhile
		return false, nil
	}
	return err == nil && touched.Before(then), err
}

// open takes an upload for the caller, who leaves it again.
func (u *Uploads) open(ctx context.Context, repo oci.Repository, session string) (*upload, error) {
	if !sessionPattern.MatchString(session) {
		return nil, errUploadUnknown
	}
	if !u.enter(session) {
		return nil, errUploadBusy
	}
	state, err := u.q.store.uploadState(ctx, session)
	if err == nil && state.Repository == repo.String() {
		return &upload{u: u, session: session, state: state}, nil
	}
	u.leave(session)
	if err == nil || errors.Is(err, errNotHeld) {
		return nil, errUploadUnknown
	}
	return nil, fmt.Errorf("looking up the upload %s: %w", session, err)
}

// enter reports whether nobody else is at the session, and the caller is now.
func (u *Uploads) enter(session string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.busy[session] {
		return false
	}
	u.busy[session] = true
	return true
}

func (u *Uploads) leave(session string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.busy, session)
}

// append adds body at the end, and returns where that is then and, if last says that nothing more will come, the hash of all.
func (up *upload) append(ctx context.Context, at int64, body io.Reader, last bool) (end int64, sum hash.Hash, err error) {
	w, err := up.writer(ctx)
	if err != nil {
		return 0, nil, fmt.Errorf("writing the upload %s: %w", up.session, err)
	}
	end = w.Size()
	if at != Anywhere && at != end {
		refusal := &oci.Error{Code: oci.CodeRangeInvalid, Message: fmt.Sprintf("the upload goes on at %d, not at %d", end, at)}
		return end, nil, errors.Join(refusal, w.Close())
	}
	sum = up.sumAt(end)
	n, bodyErr, err := copyBody(w, sum, body, up.u.maxBytes-end)
	end += n
	up.u.q.store.scales.put(uploadData(up.session), end)
	if err == nil && bodyErr == nil && last {
		err = w.Commit(ctx)
	}
	if err := errors.Join(err, w.Close()); err != nil { // what is there is counted, and hashed again, by whoever goes on
		up.u.q.notice(err)
		return end, nil, fmt.Errorf("writing the upload %s: %w", up.session, err)
	}
	switch {
	case errors.Is(bodyErr, oci.ErrTooLarge):
		refusal := &oci.Error{Code: oci.CodeSizeInvalid, Message: fmt.Sprintf("a blob may have %d bytes", up.u.maxBytes)}
		return end, nil, errors.Join(refusal, up.remove(ctx))
	case last && bodyErr == nil:
		if sum == nil {
			sum, err = up.rehash(ctx)
		}
		return end, sum, err
	case n > 0:
		err = up.note(ctx, end, sum)
	}
	return end, nil, errors.Join(bodyErr, err)
}

// writer opens the upload for adding to its end. Not every driver has an end before there is a beginning.
func (up *upload) writer(ctx context.Context) (storagedriver.FileWriter, error) {
	w, err := up.u.q.store.driver.Writer(ctx, uploadData(up.session), true)
	if isNotFound(err) {
		return up.u.q.store.driver.Writer(ctx, uploadData(up.session), false)
	}
	return w, err
}

// sumAt returns the hash of the first end bytes as it was noted; nil when it was not, because a process died or storage failed
// between a byte and the note.
func (up *upload) sumAt(end int64) hash.Hash {
	sum := sha256.New()
	if end == 0 {
		return sum
	}
	state, ok := sum.(encoding.BinaryUnmarshaler)
	if !ok || up.state.Offset != end || state.UnmarshalBinary(up.state.Hash) != nil {
		return nil
	}
	return sum
}

// note writes down how the hash stands after end bytes. A sum that is not known is left out, and the upload hashed when it is complete.
func (up *upload) note(ctx context.Context, end int64, sum hash.Hash) error {
	up.state.Offset, up.state.Hash = 0, nil
	if state, ok := sum.(encoding.BinaryMarshaler); ok {
		b, err := state.MarshalBinary()
		if err != nil {
			return err
		}
		up.state.Offset, up.state.Hash = end, b
	}
	return up.u.q.store.putUploadState(ctx, up.session, up.state)
}

// rehash hashes an upload that is complete.
func (up *upload) rehash(ctx context.Context) (hash.Hash, error) {
	r, err := up.u.q.store.driver.Reader(ctx, uploadData(up.session), 0)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	_, err = io.CopyBuffer(struct{ io.Writer }{sum}, io.LimitReader(r, up.u.maxBytes+1), make([]byte, arrivalBuffer))
	return sum, errors.Join(err, r.Close())
}

// settle claims the blob for repo and moves it to where blobs lie, unless that has been done.
func (up *upload) settle(ctx context.Context, repo oci.Repository) error {
	q, d := up.u.q, up.state.Blob
	q.claims.RLock()
	defer q.claims.RUnlock()
	info, err := q.store.driver.Stat(ctx, uploadData(up.session))
	if isNotFound(err) {
		return nil // moved before: whether it is still there is for the caller to see
	}
	if err != nil {
		return err
	}
	if err := q.store.putClaim(ctx, d, up.state.claim(up.session), repo.String()); err != nil {
		return err
	}
	if err := q.store.driver.Move(ctx, uploadData(up.session), blobPath(d)); err != nil {
		return err
	}
	q.store.scales.put(blobPath(d), info.Size())
	q.store.scales.remove(uploadData(up.session))
	return nil
}

// remove removes the upload and its note. Cancelling first makes drivers drop the parts of what was never complete.
func (up *upload) remove(ctx context.Context) error {
	if up.state.Blob == "" {
		if w, err := up.u.q.store.driver.Writer(ctx, uploadData(up.session), true); err == nil {
			_ = errors.Join(w.Cancel(ctx), w.Close()) // what can be removed is, below; parts left over are the storage's to expire
		}
	}
	if err := up.u.q.store.remove(ctx, uploadPath(up.session)); err != nil {
		return err
	}
	up.u.q.store.scales.remove(uploadData(up.session))
	return nil
}

// copyBody writes body to w, and to sum if there is one. It tells a body that fails from a storage that does.
//
// Errors: bodyErr is oci.ErrTooLarge when there is no room for all of it.
func copyBody(w io.Writer, sum hash.Hash, body io.Reader, room int64) (n int64, bodyErr, err error) {
	buf := make([]byte, uploadBuffer)
	for {
		read, readErr := body.Read(buf)
		if int64(read) > room-n {
			return n, oci.ErrTooLarge, nil
		}
		if _, err := w.Write(buf[:read]); err != nil {
			return n, nil, err
		}
		if sum != nil {
			_, _ = sum.Write(buf[:read]) // a hash never fails
		}
		n += int64(read)
		if errors.Is(readErr, io.EOF) {
			return n, nil, nil
		}
		if readErr != nil {
			return n, readErr, nil
		}
	}
}

// eof is an empty body.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
