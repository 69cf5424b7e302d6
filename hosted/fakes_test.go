package hosted

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// epoch is what the clock of a test shows at first.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// web is the repository of most tests, hosted by the rules of most tests.
var web = oci.Repository{Path: "apps/web"}

var errDisk = errors.New("the disk is on fire")

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

// storage is what replicas share: events, manifests and blobs. It fails when told, at the step it is told. It is safe for concurrent use.
type storage struct {
	mu        sync.Mutex
	events    map[oci.Repository]map[string]Event                 // guarded by mu
	manifests map[gate.Candidate]oci.Content                      // guarded by mu
	blobs     map[oci.Repository]map[oci.Digest][]byte            // guarded by mu
	calls     map[string]int                                      // guarded by mu; by method
	step      func(method string, n int) (before bool, err error) // guarded by mu; n counts all calls that change something
	changes   int                                                 // guarded by mu
}

func newStorage() *storage {
	return &storage{
		events: map[oci.Repository]map[string]Event{}, manifests: map[gate.Candidate]oci.Content{},
		blobs: map[oci.Repository]map[oci.Digest][]byte{}, calls: map[string]int{},
	}
}

// change runs do, or fails before or after it. The caller holds mu.
func (s *storage) change(method string, do func()) error {
	s.calls[method]++
	s.changes++
	if s.step == nil {
		do()
		return nil
	}
	before, err := s.step(method, s.changes)
	if err == nil || !before {
		do()
	}
	return err
}

// replica is one process over a storage: its view of the time, and the newest event it has seen.
type replica struct {
	*storage
	skew time.Duration
	last int64 // guarded by mu
}

func (r *replica) Append(_ context.Context, repo oci.Repository, e Event) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := e.Check(); err != nil {
		return "", err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	r.last = max(r.last+1, e.At.Add(r.skew).UnixNano())
	name := fmt.Sprintf("%020d-%x", r.last, oci.FromBytes(b).Encoded()[:8])
	return name, r.change("Append", func() {
		if r.events[repo] == nil {
			r.events[repo] = map[string]Event{}
		}
		var stored Event
		if json.Unmarshal(b, &stored) == nil {
			r.events[repo][name] = stored
		}
	})
}

func (r *replica) Events(_ context.Context, repo oci.Repository, since time.Time, known func(string) bool) ([]Recorded, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls["Events"]++
	var events []Recorded
	for name, e := range r.events[repo] {
		var stamp int64
		_, _ = fmt.Sscanf(name, "%d-", &stamp)
		if !known(name) && (since.IsZero() || stamp > since.Add(-24*time.Hour).UnixNano()) {
			events = append(events, Recorded{name, e})
			r.last = max(r.last, stamp)
		}
	}
	slices.SortFunc(events, byName)
	return events, nil
}

func (r *replica) Repositories(context.Context) ([]oci.Repository, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var repos []oci.Repository
	for repo := range r.events {
		repos = append(repos, repo)
	}
	return repos, nil
}

func (s *storage) PutManifest(_ context.Context, c gate.Candidate, content oci.Content) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		return err
	}
	for _, desc := range m.Blobs() {
		if b, ok := s.blobs[c.Repository][desc.Digest]; !ok || int64(len(b)) != desc.Size {
			return &oci.Error{Code: oci.CodeManifestBlobUnknown}
		}
	}
	return s.change("PutManifest", func() { s.manifests[c] = content })
}

func (s *storage) Manifest(_ context.Context, c gate.Candidate) (oci.Content, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	content, ok := s.manifests[c]
	if !ok {
		return oci.Content{}, oci.ErrNotFound
	}
	return content, nil
}

func (s *storage) RemoveManifest(_ context.Context, c gate.Candidate) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.change("RemoveManifest", func() { delete(s.manifests, c) })
}

func (s *storage) ReadBlob(_ context.Context, repo oci.Repository, desc oci.Descriptor, limit int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[repo][desc.Digest]
	if !ok {
		return nil, oci.ErrBlobUnknown
	}
	if int64(len(b)) > limit {
		return nil, oci.ErrTooLarge
	}
	return b, nil
}

func (s *storage) PutBlob(_ context.Context, repo oci.Repository, raw []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.change("PutBlob", func() { s.upload(repo, raw) })
}

// upload puts a blob there, as a client does before it pushes a manifest. The caller holds mu, or is alone.
func (s *storage) upload(repo oci.Repository, raw []byte) oci.Descriptor {
	if s.blobs[repo] == nil {
		s.blobs[repo] = map[oci.Digest][]byte{}
	}
	d := oci.FromBytes(raw)
	s.blobs[repo][d] = raw
	return oci.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: d, Size: int64(len(raw))}
}

// blob is upload for those who are not alone.
func (s *storage) blob(raw string) oci.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.upload(web, []byte(raw))
}

// world is the repositories as one replica knows them.
type world struct {
	*Repositories
	storage *storage
	clock   *clock
	judged  chan gate.Candidate
}

// start returns a world over s, as the start of a process would.
func start(t testing.TB, s *storage, c *clock, rules ...Rule) *world {
	t.Helper()
	return startSkewed(t, s, c, 0, rules...)
}

// startSkewed is start for a replica whose clock differs.
func startSkewed(t testing.TB, s *storage, c *clock, skew time.Duration, rules ...Rule) *world {
	t.Helper()
	if len(rules) == 0 {
		rules = []Rule{rule(t, Mutable, "apps/**")}
	}
	judged := make(chan gate.Candidate, 1000)
	rs, err := New(Options{
		Rules: rules, Journal: &replica{storage: s, skew: skew}, Bytes: s, Now: c.now, Log: slog.New(slog.DiscardHandler),
		Judge: func(c gate.Candidate) { judged <- c },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rs.Close)
	return &world{Repositories: rs, storage: s, clock: c, judged: judged}
}

func rule(t testing.TB, tags TagRule, patterns ...string) Rule {
	t.Helper()
	r := Rule{Tags: tags}
	for _, s := range patterns {
		p, err := oci.ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		r.Repositories = append(r.Repositories, p)
	}
	return r
}

// wire is JSON being written by a test.
type wire map[string]any

func contentOf(t testing.TB, mediaType string, fields wire) oci.Content {
	t.Helper()
	all := wire{"schemaVersion": 2, "mediaType": mediaType}
	for k, v := range fields {
		all[k] = v
	}
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return oci.Content{MediaType: mediaType, Digest: oci.FromBytes(raw), Raw: raw}
}

// image returns an image whose layer holds what, with its blobs uploaded.
func (w *world) image(t testing.TB, what string) oci.Content {
	t.Helper()
	config := w.storage.blob(`{"rootfs":{}}`)
	config.MediaType = oci.MediaTypeConfig
	return contentOf(t, oci.MediaTypeImage, wire{"config": config, "layers": []oci.Descriptor{w.storage.blob(what)}})
}

// referrer returns what says something about subject.
func (w *world) referrer(t testing.TB, subject oci.Digest, what string) oci.Content {
	t.Helper()
	config := w.storage.blob("{}")
	config.MediaType = oci.MediaTypeEmpty
	about := oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: subject, Size: 1}
	return contentOf(t, oci.MediaTypeImage, wire{
		"artifactType": oci.MediaTypeSigstoreBundle, "config": config, "layers": []oci.Descriptor{w.storage.blob(what)}, "subject": about,
		"annotations": map[string]string{"says": what},
	})
}

func index(t testing.TB, children ...oci.Descriptor) oci.Content {
	t.Helper()
	if children == nil {
		children = []oci.Descriptor{}
	}
	return contentOf(t, oci.MediaTypeIndex, wire{"manifests": children})
}

// signatures returns an image as cosign makes it: a layer for each of payloads, with the signature in its annotations.
func (w *world) signatures(t testing.TB, signed ...string) oci.Content {
	t.Helper()
	var layers []oci.Descriptor
	var diffIDs []oci.Digest
	var history []any
	for _, s := range signed {
		layer := w.storage.blob("payload")
		layer.MediaType = oci.MediaTypeSimpleSigning
		layer.Annotations = map[string]string{"dev.cosignproject.cosign/signature": s}
		layers, diffIDs, history = append(layers, layer), append(diffIDs, layer.Digest), append(history, wire{"created_by": s})
	}
	raw, err := json.Marshal(wire{"architecture": "", "history": history, "os": "", "rootfs": wire{"type": "layers", "diff_ids": diffIDs}})
	if err != nil {
		t.Fatal(err)
	}
	config := w.storage.blob(string(raw))
	config.MediaType = oci.MediaTypeConfig
	return contentOf(t, oci.MediaTypeImage, wire{"config": config, "layers": layers})
}

// push pushes content under a tag, or by digest if that is empty.
func (w *world) push(t testing.TB, tag string, content oci.Content) oci.Descriptor {
	t.Helper()
	stored, err := w.Put(t.Context(), web, reference(tag, content), content, "user:ci")
	if err != nil {
		t.Fatalf("Put: %v", err)
	}
	return stored.Descriptor
}

func reference(tag string, content oci.Content) Reference {
	if tag == "" {
		return Reference{Digest: content.Digest}
	}
	return Reference{Tag: tag}
}

// admit tells that the gate admitted d.
func (w *world) admit(t testing.TB, d oci.Digest) {
	t.Helper()
	if err := w.Admitted(t.Context(), gate.Verdict{Decision: gate.Allow, Repository: web, Digest: d}); err != nil {
		t.Fatalf("Admitted: %v", err)
	}
}

// wantTag compares what a tag stands for; empty digests for none.
func (w *world) wantTag(t testing.TB, tag string, pushed, served oci.Digest) {
	t.Helper()
	got, err := w.Resolve(t.Context(), web, tag)
	if pushed == "" {
		if !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("Resolve(%s): got %v, %v, want oci.ErrNotFound", tag, got, err)
		}
		return
	}
	if err != nil || got.Pushed.Digest != pushed || got.Served.Digest != served {
		t.Errorf("Resolve(%s): got %s, %s, %v, want %s, %s", tag, got.Pushed.Digest, got.Served.Digest, err, pushed, served)
	}
}

func code(err error) oci.Code {
	if e, ok := errors.AsType[*oci.Error](err); ok {
		return e.Code
	}
	if err != nil {
		return "none"
	}
	return ""
}
