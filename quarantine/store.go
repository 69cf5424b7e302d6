package quarantine

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// errNotHeld says that something is not stored here, which is a reason to fetch it.
var errNotHeld = errors.New("not held")

// Where things lie in storage. Blobs lie where distribution keeps them, so that one blob is stored once whoever brought it.
const (
	blobsPath     = "/docker/registry/v2/blobs/sha256"
	manifestsPath = "/tidewaiter/manifests"
	claimsPath    = "/tidewaiter/claims"
	uploadsPath   = "/tidewaiter/uploads"
	droppedPath   = "/tidewaiter/dropped"
)

// store knows where bytes lie. It checks nothing and locks nothing.
type store struct {
	driver storagedriver.StorageDriver
	root   string // empty when the driver does not keep plain files
	spool  *spool
	scales *scales
}

func blobPath(d oci.Digest) string {
	return path.Join(blobsPath, d.Encoded()[:2], d.Encoded(), "data")
}

// manifestPath is where it is noted that a repository has a manifest, and as what media type. No component of a repository's name
// begins with '_'.
func manifestPath(c gate.Candidate) string {
	return path.Join(manifestsPath, c.Repository.Escaped(), "_manifests", c.Digest.Encoded())
}

func claimsOf(d oci.Digest) string {
	return path.Join(claimsPath, d.Encoded()[:2], d.Encoded())
}

// claimName is the name of c's claim on a blob: which upstream and repository, hashed because names have slashes, and which manifest.
func claimName(c gate.Candidate) string { return repositoryMark(c.Repository) + c.Digest.Encoded() }

func repositoryMark(repo oci.Repository) string { return upstreamMark(repo) + mark(repo.String()) }

func upstreamMark(repo oci.Repository) string { return mark(repo.Upstream) }

func mark(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16]) + "-"
}

// manifest returns the stored manifest of c if it is intact. Errors: errNotHeld.
func (s *store) manifest(ctx context.Context, c gate.Candidate) (oci.Content, error) {
	mediaType, err := s.read(ctx, manifestPath(c), oci.MaxNameBytes)
	if err != nil {
		return oci.Content{}, err
	}
	raw, err := s.read(ctx, blobPath(c.Digest), oci.MaxManifestBytes)
	if err != nil {
		return oci.Content{}, err
	}
	if oci.FromBytes(raw) != c.Digest {
		return oci.Content{}, errNotHeld // it is fetched again and written over
	}
	return oci.Content{MediaType: string(mediaType), Digest: c.Digest, Raw: raw}, nil
}

// putManifest stores a manifest. It is claimed before it is there, see [store.dropBlob]. The note that the repository has it comes last:
// until then it is not held.
func (s *store) putManifest(ctx context.Context, c gate.Candidate, content oci.Content) error {
	if err := s.claim(ctx, c, c.Digest); err != nil {
		return err
	}
	if err := s.putBlob(ctx, c.Digest, content.Raw); err != nil {
		return err
	}
	return s.driver.PutContent(ctx, manifestPath(c), []byte(content.MediaType))
}

// putBlob stores a small blob.
func (s *store) putBlob(ctx context.Context, d oci.Digest, raw []byte) error {
	if err := s.driver.PutContent(ctx, blobPath(d), raw); err != nil {
		return err
	}
	s.scales.put(blobPath(d), int64(len(raw)))
	return nil
}

func (s *store) removeManifest(ctx context.Context, c gate.Candidate) error {
	return s.remove(ctx, manifestPath(c))
}

// dropBlob removes a blob nobody claims. Another process may claim it at any moment, so it is moved aside first, and comes back if somebody
// has. Whoever claims it before it lies there, or finds it there afterwards, does not lose it. It returns how many bytes are known to
// have gone.
func (s *store) dropBlob(ctx context.Context, d oci.Digest) (freed int64, err error) {
	aside := path.Join(droppedPath, d.Encoded()+"-"+rand.Text())
	err = s.driver.Move(ctx, blobPath(d), aside)
	if isNotFound(err) {
		return s.scales.remove(blobPath(d)), nil
	}
	if err != nil {
		return 0, err
	}
	s.removeFolder(path.Dir(blobPath(d)))
	removed, err := s.settleDropped(ctx, d, aside)
	if err != nil || !removed {
		return 0, err
	}
	s.removeFolder(claimsOf(d))
	return s.scales.remove(blobPath(d)), nil
}

// removeFolder removes a folder that is empty, where there are folders. It stays when somebody uses it again.
func (s *store) removeFolder(p string) {
	if s.root != "" {
		_ = os.Remove(filepath.Join(s.root, filepath.FromSlash(p)))
	}
}

// settleDropped ends what [store.dropBlob] began, and reports whether the blob went.
func (s *store) settleDropped(ctx context.Context, d oci.Digest, aside string) (removed bool, err error) {
	names, err := s.claimNames(ctx, d)
	if err != nil {
		return false, err
	}
	if len(names) == 0 {
		return true, s.remove(ctx, aside)
	}
	if err := s.driver.Move(ctx, aside, blobPath(d)); !isNotFound(err) {
		return false, err
	}
	return false, nil // another process ended it
}

// makeFolders makes what [store.dropBlob] needs where there are folders: a storage that is full may have no room for one.
func (s *store) makeFolders() error {
	if s.root == "" {
		return nil
	}
	return os.MkdirAll(filepath.Join(s.root, filepath.FromSlash(droppedPath)), 0o755)
}

// settleAllDropped ends what processes began that died before they could.
func (s *store) settleAllDropped(ctx context.Context) error {
	paths, err := s.driver.List(ctx, droppedPath)
	if isNotFound(err) {
		return nil
	}
	for _, p := range paths {
		encoded, _, _ := strings.Cut(path.Base(p), "-")
		d, wrong := oci.ParseDigest("sha256:" + encoded)
		if err == nil && wrong == nil { // anything else is not ours
			_, err = s.settleDropped(ctx, d, p)
		}
	}
	return err
}

func (s *store) removeBlob(ctx context.Context, d oci.Digest) error {
	if err := s.remove(ctx, path.Dir(blobPath(d))); err != nil {
		return err
	}
	s.scales.remove(blobPath(d))
	return nil
}

func (s *store) remove(ctx context.Context, p string) error {
	err := s.driver.Delete(ctx, p)
	if isNotFound(err) {
		return nil
	}
	return err
}

// hasBlob returns nil when a blob is stored. Errors: errNotHeld.
func (s *store) hasBlob(ctx context.Context, d oci.Digest) error {
	_, err := s.driver.Stat(ctx, blobPath(d))
	if isNotFound(err) {
		return errNotHeld
	}
	return err
}

// hasManifest returns nil when c's manifest is stored. Errors: errNotHeld.
func (s *store) hasManifest(ctx context.Context, c gate.Candidate) error {
	_, err := s.driver.Stat(ctx, manifestPath(c))
	if isNotFound(err) {
		return errNotHeld
	}
	return err
}

// openBlob opens a stored blob, unverified. Errors: errNotHeld.
func (s *store) openBlob(ctx context.Context, d oci.Digest) (io.ReadCloser, error) {
	r, err := s.driver.Reader(ctx, blobPath(d), 0)
	if isNotFound(err) {
		return nil, errNotHeld
	}
	return r, err
}

// proves reports whether a stored blob is what its digest says. Errors: errNotHeld.
func (s *store) proves(ctx context.Context, d oci.Digest) (bool, error) {
	info, err := s.driver.Stat(ctx, blobPath(d))
	if isNotFound(err) {
		return false, errNotHeld
	}
	if err != nil {
		return false, err
	}
	r, err := s.openBlob(ctx, d)
	if err != nil {
		return false, err
	}
	verifier := oci.NewVerifier(r, oci.Descriptor{Digest: d, Size: info.Size()})
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, verifier, make([]byte, arrivalBuffer))
	if errors.Is(err, oci.ErrMismatch) {
		return false, r.Close()
	}
	return err == nil, errors.Join(err, r.Close())
}

// smallBlob is up to where a blob is written to an object store in one request, from memory; parts of their own take three at least.
const smallBlob = 4 << 20

// commit moves a verified spool file to where blobs lie. It either is there afterwards, whole, or not at all: an object appears when
// it is complete, and no sooner. It must not be written beside: to an object store, whatever begins with the name of a blob is in a
// folder of that name, and the blob looks as if it were there.
func (s *store) commit(ctx context.Context, file *os.File, d oci.Digest) error {
	if s.root != "" {
		final := filepath.Join(s.root, filepath.FromSlash(blobPath(d)))
		if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
			return err
		}
		return os.Rename(file.Name(), final)
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if size <= smallBlob {
		content, err := oci.ReadBounded(file, smallBlob)
		if err != nil {
			return err
		}
		return s.driver.PutContent(ctx, blobPath(d), content)
	}
	w, err := s.driver.Writer(ctx, blobPath(d), false)
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(w, struct{ io.Reader }{file}, make([]byte, arrivalBuffer)); err != nil {
		return errors.Join(err, w.Cancel(ctx), w.Close())
	}
	return errors.Join(w.Commit(ctx), w.Close())
}

// claimant says on whose word a blob may be opened for a candidate.
type claimant int

// Claimants. The zero value is the one that has to be proven first.
const (
	byNobody     claimant = iota // that is, nobody of the same upstream
	byUpstream                   // another repository of the same upstream, which has sent these bytes
	byRepository                 // another manifest of the same repository
	byCandidate
)

// claimed reports who claimed the blob.
func (s *store) claimed(ctx context.Context, c gate.Candidate, d oci.Digest) (claimant, error) {
	names, err := s.claimNames(ctx, d)
	found := byNobody
	for _, name := range names {
		if name == claimName(c) {
			return byCandidate, err
		}
		switch {
		case strings.HasPrefix(name, repositoryMark(c.Repository)):
			found = byRepository
		case strings.HasPrefix(name, upstreamMark(c.Repository)):
			found = max(found, byUpstream)
		}
	}
	return found, err
}

// claim notes that c's repository has been seen to have the blob, and that c needs it.
func (s *store) claim(ctx context.Context, c gate.Candidate, d oci.Digest) error {
	return s.putClaim(ctx, d, claimName(c), c.String())
}

// putClaim writes the claim called name, and whose it is for people to read.
func (s *store) putClaim(ctx context.Context, d oci.Digest, name, whose string) error {
	return s.driver.PutContent(ctx, path.Join(claimsOf(d), name), []byte(whose))
}

// unclaim gives up the claim called name and returns how many are left.
func (s *store) unclaim(ctx context.Context, d oci.Digest, name string) (left int, err error) {
	if err := s.remove(ctx, path.Join(claimsOf(d), name)); err != nil {
		return 0, err
	}
	names, err := s.claimNames(ctx, d)
	return len(names), err
}

// claimsOn returns the claims of repo on a blob. That a manifest claims itself makes it no blob of the repository.
func (s *store) claimsOn(ctx context.Context, repo oci.Repository, d oci.Digest) ([]string, error) {
	names, err := s.claimNames(ctx, d)
	mine, itself := repositoryMark(repo), claimName(gate.Candidate{Repository: repo, Digest: d})
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, mine) || name == itself }), err
}

// possessed returns the size of a stored blob that repo has. Errors: errNotHeld when it has not.
func (s *store) possessed(ctx context.Context, repo oci.Repository, d oci.Digest) (int64, error) {
	info, err := s.driver.Stat(ctx, blobPath(d))
	if isNotFound(err) {
		return 0, errNotHeld
	}
	if err != nil {
		return 0, err
	}
	claims, err := s.claimsOn(ctx, repo, d)
	if err == nil && len(claims) == 0 {
		err = errNotHeld
	}
	return info.Size(), err
}

// isTorn reports whether what lies at p is the driver's own, from a write that was cut short.
func isTorn(p string) bool { return strings.HasSuffix(p, ".tmp") }

func (s *store) claimNames(ctx context.Context, d oci.Digest) ([]string, error) {
	paths, err := s.driver.List(ctx, claimsOf(d))
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	var names []string
	for _, p := range paths {
		if name := path.Base(p); !isTorn(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// read returns a small stored object. Errors: errNotHeld.
func (s *store) read(ctx context.Context, p string, limit int64) ([]byte, error) {
	r, err := s.driver.Reader(ctx, p, 0)
	if isNotFound(err) {
		return nil, errNotHeld
	}
	if err != nil {
		return nil, err
	}
	b, err := oci.ReadBounded(r, limit)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("reading %s: %w", p, err)
	}
	return b, nil
}

func isNotFound(err error) bool {
	var notFound storagedriver.PathNotFoundError
	return errors.As(err, &notFound)
}
