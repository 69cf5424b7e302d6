package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"maps"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/seal"
)

// epoch is what the clock of a test shows at first.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// nginx and redis are two repositories of the tests.
var (
	nginx = oci.Repository{Upstream: "docker.io", Path: "library/nginx"}
	redis = oci.Repository{Upstream: "docker.io", Path: "library/redis"}
)

// clock moves when told. It is safe for concurrent use.
type clock struct {
	mu     sync.Mutex
	passed time.Duration // guarded by mu
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return epoch.Add(c.passed)
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passed += d
}

// storage is a driver that counts, and fails or waits when told. It is safe for concurrent use.
type storage struct {
	storagedriver.StorageDriver

	mu     sync.Mutex
	calls  map[string]int                   // guarded by mu; by method
	fail   map[string]error                 // guarded by mu; by method
	before map[string]func(context.Context) // guarded by mu; by method, called before it
}

func newStorage(d storagedriver.StorageDriver) *storage {
	return &storage{StorageDriver: d, calls: map[string]int{}, fail: map[string]error{}, before: map[string]func(context.Context){}}
}

func inMemory() *storage { return newStorage(inmemory.New()) }

// onDisk returns the driver that is used in practice, in a directory of the test.
func onDisk(t *testing.T) *storage {
	t.Helper()
	return newStorage(filesystem.New(filesystem.DriverParameters{RootDirectory: t.TempDir(), MaxThreads: 100}))
}

func (s *storage) call(ctx context.Context, method string) error {
	s.mu.Lock()
	s.calls[method]++
	before, err := s.before[method], s.fail[method]
	s.mu.Unlock()
	if before != nil {
		before(ctx)
	}
	return err
}

// called returns how often each method was called since the last time.
func (s *storage) called() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := maps.Clone(s.calls)
	clear(s.calls)
	return calls
}

func (s *storage) failing(method string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail[method] = err
}

func (s *storage) List(ctx context.Context, path string) ([]string, error) {
	if err := s.call(ctx, "List"); err != nil {
		return nil, err
	}
	return s.StorageDriver.List(ctx, path)
}

func (s *storage) Reader(ctx context.Context, path string, offset int64) (io.ReadCloser, error) {
	if err := s.call(ctx, "Reader"); err != nil {
		return nil, err
	}
	return s.StorageDriver.Reader(ctx, path, offset)
}

func (s *storage) PutContent(ctx context.Context, path string, content []byte) error {
	if err := s.call(ctx, "PutContent"); err != nil {
		return err
	}
	return s.StorageDriver.PutContent(ctx, path, content)
}

// get and put are what somebody with access to the storage does.
func (s *storage) get(t *testing.T, path string) []byte {
	t.Helper()
	content, err := s.GetContent(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func (s *storage) put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := s.StorageDriver.PutContent(t.Context(), path, bytes.Clone(content)); err != nil {
		t.Fatal(err)
	}
}

// records returns the paths of the verdicts recorded on repo, oldest first.
func (s *storage) records(t *testing.T, repo oci.Repository) []string {
	t.Helper()
	dir, err := verdictsPath(repo)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := s.StorageDriver.List(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	return paths
}

func testKey(t testing.TB, secret string) seal.Key {
	t.Helper()
	key, err := seal.NewKey([]byte(secret + " as the seal key of the ledger's tests"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// openLedger returns a Ledger over s, as a start of the process or another replica would.
func openLedger(t testing.TB, s *storage, c *clock) *Ledger {
	t.Helper()
	return New(s, testKey(t, "one"), slog.New(slog.DiscardHandler), c.now)
}

// candidate returns the candidate in repo called seed.
func candidate(repo oci.Repository, seed string) gate.Candidate {
	return gate.Candidate{Repository: repo, Digest: oci.FromBytes([]byte(seed))}
}

func keyOf(seed string) gate.Key { return sha256.Sum256([]byte(seed)) }

// admission returns a verdict that allows c for an hour from epoch, made from the inputs called key, which lets out blobs.
func admission(c gate.Candidate, key string, blobs ...string) gate.Verdict {
	v := gate.Verdict{
		Decision: gate.Allow, Repository: c.Repository, Digest: c.Digest, MediaType: oci.MediaTypeImage, Policy: "production",
		Complete: true, Packages: 2, JudgedAt: epoch, Until: epoch.Add(time.Hour), Key: keyOf(key).String(), PolicyRevision: key,
	}
	for _, b := range blobs {
		v.Blobs = append(v.Blobs, oci.FromBytes([]byte(b)))
	}
	return v
}

// denial is as admission, and denies.
func denial(c gate.Candidate, key string) gate.Verdict {
	v := admission(c, key)
	v.Decision, v.Reasons = gate.Deny, []gate.Reason{{Rule: gate.RuleSignatures, Message: "unsigned"}}
	return v
}

func record(t testing.TB, l *Ledger, vs ...gate.Verdict) {
	t.Helper()
	for _, v := range vs {
		if err := l.RecordVerdict(t.Context(), v); err != nil {
			t.Fatalf("RecordVerdict: %v", err)
		}
	}
}

// place puts v where it would be recorded, sealed with the ledger's own key, under a name of the test's choice.
func place(t *testing.T, l *Ledger, s *storage, dir, name string, v any) {
	t.Helper()
	plain, err := encode(v, production.verdict)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.write(t.Context(), path.Join(dir, name), plain, production.verdict); err != nil {
		t.Fatal(err)
	}
	s.called()
}
