package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// hostedPath is the repository everything is copied from, to where it goes.
const (
	hostedPath = "apps/web"
	to         = "registry.example/mirror"
)

var errBroken = errors.New("broken")

// harbor is everything a Forwarder needs but a Destination: a repository that is hosted here, with what was admitted in it.
type harbor struct {
	t       *testing.T
	content *ocitest.Registry // asked past HTTP

	mu        sync.Mutex            // guards everything below
	names     map[oci.Digest]string // what tests call manifests and blobs
	referrers map[oci.Digest][]oci.Descriptor
	denied    map[oci.Digest]bool
	untold    map[oci.Digest]error             // why there is no verdict
	broken    map[oci.Digest]bool              // blobs that cannot be read to their end
	onJudge   func(d oci.Digest, judgings int) // nil for nothing
	judgings  map[oci.Digest]int
	pending   map[place]Item // survives whoever works on it, as a real queue does
	queueErr  error
	doneErr   error
	asked     int // calls of Pending
	done      []Item
	observed  []Outcome
}

func newHarbor(t *testing.T) *harbor {
	t.Helper()
	content, err := ocitest.StartRegistry(ocitest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(content.Close)
	return &harbor{
		t: t, content: content, names: map[oci.Digest]string{}, referrers: map[oci.Digest][]oci.Descriptor{}, denied: map[oci.Digest]bool{},
		untold: map[oci.Digest]error{}, broken: map[oci.Digest]bool{}, judgings: map[oci.Digest]int{}, pending: map[place]Item{},
	}
}

// image admits an image of one layer.
func (h *harbor) image(name, tag string) oci.Descriptor {
	h.t.Helper()
	desc, err := h.content.PushImage(hostedPath, tag, ocitest.Image{
		Layers: []ocitest.LayerSpec{{Files: []ocitest.File{{Path: "name", Body: []byte(name)}}}},
	})
	return h.named(name, desc, err)
}

// index admits an index.
func (h *harbor) index(name, tag string, children ...oci.Descriptor) oci.Descriptor {
	h.t.Helper()
	desc, err := h.content.PushIndex(hostedPath, tag, children...)
	return h.named(name, desc, err)
}

// referrer admits a manifest that refers to subject.
func (h *harbor) referrer(name string, subject oci.Descriptor) oci.Descriptor {
	h.t.Helper()
	subject.Platform = nil
	desc, err := h.content.PushImage(hostedPath, "", ocitest.Image{
		Subject: &subject, ArtifactType: "application/spdx+json", ConfigMediaType: oci.MediaTypeEmpty, ConfigBlob: []byte("{}"),
		Layers: []ocitest.LayerSpec{{Blob: []byte(name), MediaType: "application/spdx+json"}},
	})
	h.referrers[subject.Digest] = append(h.referrers[subject.Digest], desc)
	return h.named(name, desc, err)
}

// named remembers what tests call a manifest and its blobs.
func (h *harbor) named(name string, desc oci.Descriptor, err error) oci.Descriptor {
	h.t.Helper()
	content, ok := h.content.Manifest(hostedPath, desc.Digest.String())
	if err != nil || !ok {
		h.t.Fatalf("building %s: %v", name, err)
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		h.t.Fatal(err)
	}
	h.names[desc.Digest] = name
	for i, b := range m.Blobs() {
		h.names[b.Digest] = fmt.Sprintf("%s/%d", name, i)
	}
	return desc
}

// candidate returns the candidate of a digest.
func candidate(d oci.Digest) gate.Candidate {
	return gate.Candidate{Repository: oci.Repository{Path: hostedPath}, Digest: d}
}

// admit makes an item pending.
func (h *harbor) admit(desc oci.Descriptor, tags ...string) Item {
	h.mu.Lock()
	defer h.mu.Unlock()
	item := Item{Candidate: candidate(desc.Digest), Tags: tags, To: to, AdmittedAt: time.Date(2026, 1, 2, 3, 4, 5+len(h.pending), 0, time.UTC)}
	h.pending[item.place()] = item
	return item
}

func (h *harbor) Pending(context.Context) ([]Item, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	if h.queueErr != nil {
		return nil, h.queueErr
	}
	return slices.SortedFunc(maps.Values(h.pending), older), nil
}

func (h *harbor) Done(_ context.Context, item Item) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.doneErr != nil {
		return h.doneErr
	}
	h.done = append(h.done, item)
	if slices.Equal(h.pending[item.place()].Tags, item.Tags) {
		delete(h.pending, item.place())
	}
	return nil
}

func (h *harbor) Judge(_ context.Context, c gate.Candidate) (gate.Verdict, error) {
	h.mu.Lock()
	h.judgings[c.Digest]++
	on, n := h.onJudge, h.judgings[c.Digest]
	h.mu.Unlock()
	if on != nil {
		on(c.Digest, n)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.untold[c.Digest]; err != nil {
		return gate.Verdict{}, &gate.NoVerdict{Step: gate.StepHold, Err: err}
	}
	if h.denied[c.Digest] {
		return gate.Verdict{Policy: "production", Reasons: []gate.Reason{{Rule: gate.RuleGap, Message: "unread"}}}, nil
	}
	return gate.Verdict{Decision: gate.Allow}, nil
}

func (h *harbor) Manifest(_ context.Context, c gate.Candidate) (oci.Content, error) {
	content, ok := h.content.Manifest(c.Repository.Path, c.Digest.String())
	if !ok {
		return oci.Content{}, oci.ErrNotFound
	}
	return content, nil
}

func (h *harbor) Blob(_ context.Context, c gate.Candidate, d oci.Digest) (io.ReadCloser, int64, error) {
	b, ok := h.content.Blob(c.Repository.Path, d)
	if !ok {
		return nil, 0, oci.ErrBlobUnknown
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken[d] {
		return io.NopCloser(io.MultiReader(bytes.NewReader(b[:len(b)/2]), failing{})), int64(len(b)), nil
	}
	return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }

func (h *harbor) Referrers(_ context.Context, _ oci.Repository, subject oci.Digest) ([]oci.Descriptor, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.referrers[subject]) == 0 {
		return nil, oci.ErrNotFound
	}
	return h.referrers[subject], nil
}

func (h *harbor) Resolve(_ context.Context, repo oci.Repository, tag string) (oci.Descriptor, error) {
	content, ok := h.content.Manifest(repo.Path, tag)
	if !ok {
		return oci.Descriptor{}, oci.ErrNotFound
	}
	return content.Descriptor(), nil
}

// observe notes the outcome of an attempt.
func (h *harbor) observe(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.observed = append(h.observed, e.Outcome)
}

// forwarder returns a Forwarder from h to d.
func (h *harbor) forwarder(d Destination) *Forwarder {
	return New(Options{
		Queue: h, Judge: h, Released: h, Evidence: h, Destination: d, Log: slog.New(slog.DiscardHandler), Observe: h.observe,
	})
}

// quay is a Destination in memory. It takes what it is given, and notes it, unless it is told otherwise.
type quay struct {
	h *harbor

	mu        sync.Mutex                                                        // guards everything below
	taken     []string                                                          // in order: "blob <name>", "manifest <name>", "tag <tag> <name>"
	blobs     map[string]bool                                                   // by repository and digest
	manifests map[string]oci.Digest                                             // by repository and reference
	fail      func(ctx context.Context, what string, repo oci.Repository) error // before it is taken; nil for never
	lose      func(ctx context.Context, what string) error                      // after it was; nil for never
}

func newQuay(h *harbor) *quay {
	return &quay{h: h, blobs: map[string]bool{}, manifests: map[string]oci.Digest{}}
}

// take notes what came, or refuses it.
func (q *quay) take(ctx context.Context, repo oci.Repository, what string) error {
	q.mu.Lock()
	fail := q.fail
	q.mu.Unlock()
	if fail != nil {
		if err := fail(ctx, what, repo); err != nil {
			return err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken = append(q.taken, what)
	return nil
}

func (q *quay) PushBlob(ctx context.Context, repo oci.Repository, desc oci.Descriptor, open func() (io.ReadCloser, error)) error {
	key := repo.String() + "@" + desc.Digest.String()
	q.mu.Lock()
	has := q.blobs[key]
	q.mu.Unlock()
	if has {
		return nil
	}
	r, err := open()
	if err != nil {
		return err
	}
	b, err := oci.ReadVerified(r, desc, desc.Size)
	if err := errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("sending %d bytes: %w", len(b), err)
	}
	if err := q.take(ctx, repo, "blob "+q.h.names[desc.Digest]); err != nil {
		return err
	}
	q.mu.Lock()
	q.blobs[key] = true
	q.mu.Unlock()
	return q.answer(ctx, "blob "+q.h.names[desc.Digest])
}

func (q *quay) PushManifest(ctx context.Context, repo oci.Repository, reference string, content oci.Content) error {
	what := "manifest " + q.h.names[content.Digest]
	if !strings.HasPrefix(reference, "sha256:") {
		what = "tag " + q.h.short(reference) + " " + q.h.names[content.Digest]
	}
	if err := q.take(ctx, repo, what); err != nil {
		return err
	}
	q.mu.Lock()
	q.manifests[repo.String()+" "+reference] = content.Digest
	q.mu.Unlock()
	return q.answer(ctx, what)
}

// answer tells whoever sent what that it was taken, unless the answer is lost.
func (q *quay) answer(ctx context.Context, what string) error {
	q.mu.Lock()
	lose := q.lose
	q.mu.Unlock()
	if lose == nil {
		return nil
	}
	return lose(ctx, what)
}

// short returns a tag with the names of digests in it.
func (h *harbor) short(tag string) string {
	for d, name := range h.names {
		tag = strings.ReplaceAll(tag, tagOf(d), name)
	}
	return tag
}

// log returns what was taken, blobs that were sent side by side in the order of their names.
func (q *quay) log() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := slices.Clone(q.taken)
	for i := 0; i < len(list); {
		j := i
		for j < len(list) && strings.HasPrefix(list[j], "blob ") {
			j++
		}
		slices.Sort(list[i:j])
		i = max(j, i+1)
	}
	return list
}

// forget empties the note of what was taken.
func (q *quay) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken = nil
}

// tagOf returns the tag under which the referrers of d are listed.
func tagOf(d oci.Digest) string { return oci.EvidenceTag{Subject: d}.String() }
