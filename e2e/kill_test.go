package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// progress is something that advances while images are pulled.
type progress int

const (
	upstreamRequests progress = iota
	upstreamBytes
	clientBytes
	logLines
	progresses
)

var progressNames = [progresses]string{"requests of the upstream", "bytes of the upstream", "bytes of the clients", "lines of the log"}

// freshBytes is the size of the layer each image has to itself, and chunkBytes how much of it the upstream sends at a time.
const (
	freshBytes = 256 << 10
	chunkBytes = 4 << 10
)

// most bounds each progress: about what pulling a good and a bad image comes to.
var most = [progresses]int64{upstreamRequests: 20, upstreamBytes: 2 * freshBytes, clientBytes: freshBytes, logLines: 12}

// trap kills a process once something has advanced so far. It is safe for concurrent use.
type trap struct {
	on     progress
	left   atomic.Int64
	victim atomic.Pointer[process] // nil until there is one
	sprung atomic.Bool
}

func newTrap(random *rand.Rand) *trap {
	tr := &trap{on: progress(random.IntN(int(progresses)))}
	tr.left.Store(1 + random.Int64N(most[tr.on]))
	return tr
}

// step tells that p advanced by n. The process is dead, though perhaps not gone, when the step that kills it returns.
func (tr *trap) step(p progress, n int64) {
	victim := tr.victim.Load()
	if p != tr.on || victim == nil || tr.left.Add(-n) > 0 {
		return
	}
	if !tr.sprung.Swap(true) {
		_ = victim.cmd.Process.Kill() // it cannot be gone: only this kills it
	}
}

// upstream counts requests, and serves blobs piece by piece.
func (tr *trap) upstream(r *ocitest.Registry) ocitest.Intercept {
	return func(w http.ResponseWriter, req *http.Request) bool {
		tr.step(upstreamRequests, 1)
		q := ocitest.Classify(req)
		b, ok := r.Blob(q.Repo, oci.Digest(q.Reference))
		if q.Kind != ocitest.KindBlob || q.Method != http.MethodGet || !ok || req.Header.Get("Range") != "" {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		for len(b) > 0 {
			n := min(len(b), chunkBytes)
			if _, err := w.Write(b[:n]); err != nil || http.NewResponseController(w).Flush() != nil || tr.sprung.Load() {
				panic(http.ErrAbortHandler)
			}
			tr.step(upstreamBytes, int64(n))
			b = b[n:]
		}
		return true
	}
}

// RoundTrip implements http.RoundTripper. It counts what clients read of the answers' bodies, and shares no connection with another
// proxy that listened at the same address.
func (tr *trap) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(req)
	if err == nil {
		resp.Body = steppedBody{resp.Body, tr}
	}
	return resp, err
}

type steppedBody struct {
	io.ReadCloser
	tr *trap
}

// Read implements io.Reader, a chunk at a time.
func (b steppedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), chunkBytes)])
	b.tr.step(clientBytes, int64(n))
	return n, err
}

// life is one data folder, and the images pulled into it so far.
type life struct {
	*site
	random *rand.Rand
	rounds int
}

func repoOf(fate string, round int) string { return fmt.Sprintf("shop/%s-%d", fate, round) }

// round starts a proxy, pulls a good image, a bad one and one of before through it, all at once, and kills it on the way. It
// reports whether that was on the way indeed.
func (l *life) round(t *testing.T) (onTheWay bool) {
	t.Helper()
	round := l.rounds
	l.rounds++
	l.pushSigned(t, repoOf("good", round), shop(goodLodash, noise(freshBytes, l.random.Uint64())))
	bad := l.pushSigned(t, repoOf("bad", round), shop(badLodash, noise(freshBytes, l.random.Uint64())))
	earlier := l.random.IntN(round + 1)
	tr := newTrap(l.random)
	amount := tr.left.Load()
	l.upstream.SetIntercept(tr.upstream(l.upstream))
	p := serveWatched(t, l.write(t), func(line) { tr.step(logLines, 1) })
	tr.victim.Store(p.process)

	var clients sync.WaitGroup
	n, failures := newNode(tr), make([]error, 3)
	clients.Go(func() { failures[0] = expect(t.Context(), n, p.registry, repoOf("good", round), http.StatusOK) })
	clients.Go(func() {
		failures[1] = errors.Join(
			expect(t.Context(), n, p.registry, repoOf("bad", round), http.StatusForbidden),
			nothingOf(t.Context(), n, p.registry, repoOf("bad", round), bad.Digest, l.parsed(t, repoOf("bad", round), bad.Digest)),
		)
	})
	clients.Go(func() { failures[2] = expect(t.Context(), n, p.registry, repoOf("good", earlier), http.StatusOK) })
	clients.Wait()
	p.kill()
	for _, err := range append(failures, l.checkStored()) {
		if err != nil {
			t.Errorf("round %d, killed %t after %d %s: %v", round, tr.sprung.Load(), amount, progressNames[tr.on], err)
		}
	}
	return tr.sprung.Load()
}

// expect pulls an image and says what is wrong with what was answered. That nothing was, or not all of it, is not wrong while proxies
// are killed.
func expect(ctx context.Context, n node, registry, repo string, status int) error {
	got, err := n.pull(ctx, registry, repo, "1.0")
	if errors.Is(err, oci.ErrMismatch) {
		return err
	}
	if err == nil && got.status != status {
		return fmt.Errorf("%s: status %d: %s, want %d", repo, got.status, got.message, status)
	}
	return nil
}

// nothingOf asks for everything of an image that is not to be had.
func nothingOf(ctx context.Context, n node, registry, repo string, image oci.Digest, m oci.Manifest) error {
	paths := []string{"/manifests/1.0", "/manifests/" + image.String(), "/blobs/" + image.String()}
	for _, d := range m.Blobs() {
		paths = append(paths, "/blobs/"+d.Digest.String())
	}
	var wrong []error
	for _, path := range paths {
		got, err := n.fetch(ctx, http.MethodGet, "http://"+registry+"/v2/"+host+"/"+repo+path)
		if err == nil && got.status != http.StatusForbidden && got.status != http.StatusNotFound {
			wrong = append(wrong, fmt.Errorf("%s%s: status %d with %d bytes", repo, path, got.status, len(got.body)))
		}
	}
	return errors.Join(wrong...)
}

// checkStored reads every stored blob and says which are not what they are called.
func (l *life) checkStored() error {
	blobs := l.path("data/docker/registry/v2/blobs/sha256")
	err := filepath.WalkDir(blobs, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "data" {
			return err
		}
		content, err := os.ReadFile(path)
		if want := filepath.Base(filepath.Dir(path)); err != nil || oci.FromBytes(content).Encoded() != want {
			return fmt.Errorf("stored blob %s: %d bytes with digest %s, %w", want, len(content), oci.FromBytes(content), errors.Join(oci.ErrMismatch, err))
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) { // killed before it stored anything
		return nil
	}
	return err
}

// end pulls everything once more, with nobody killing: the good images are to be had whole, the bad ones not at all, and nothing
// half finished is left lying about.
func (l *life) end(t *testing.T) {
	t.Helper()
	l.upstream.SetIntercept(nil)
	p := l.serve(t)
	for round := range l.rounds {
		p.mustPull(t, repoOf("good", round))
		repo := repoOf("bad", round)
		got := p.pull(t, repo)
		if got.status != http.StatusForbidden || !strings.Contains(got.message, "CVE-2019-10744") {
			t.Errorf("%s: %+v, want a refusal for CVE-2019-10744", repo, got)
		}
		if err := nothingOf(t.Context(), client, p.registry, repo, got.digest, l.parsed(t, repo, got.digest)); err != nil {
			t.Error(err)
		}
	}
	p.stop(t)
	for law, text := range map[string]string{
		"a stored blob is what its digest says": "is not what its digest says", "a record is believed": "is not believed",
	} {
		if n := p.log.count(says(text)); n > 0 {
			t.Errorf("%s: %d were not", law, n)
		}
	}
	left, err := os.ReadDir(l.path("data/tidewaiter/spool"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) > 0 {
		t.Errorf("the spool holds %v, %v, want nothing", left, err)
	}
	if err := l.checkStored(); err != nil {
		t.Error(err)
	}
}

// TestKill kills the proxy at points that progress decides: so many requests into a pull, bytes, lines of its log. Ten times over the
// same data, then over new.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	const kills, perLife, lives = 50, 10, 8
	random := rand.New(rand.NewPCG(20, 26))
	killed := 0
	for i := 0; killed < kills && i < lives; i++ {
		t.Run(fmt.Sprintf("whatever is answered over data folder %d is whole and right", i), func(t *testing.T) {
			l := &life{site: newSite(t, ocitest.Options{}), random: random}
			for range perLife {
				if l.round(t) {
					killed++
				}
			}
			l.end(t)
		})
	}
	if killed < kills {
		t.Errorf("killed on the way %d times, want %d", killed, kills)
	}
	t.Logf("killed on the way %d times", killed)
}
