package gate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// errBroken is what a fake answers at the step a test breaks.
var errBroken = errors.New("broken")

// world is everything around a gate, in memory. Its fields are set before the gate is used; what it notes is guarded by mu.
type world struct {
	t     testing.TB
	set   *gate.PolicySet
	snap  gate.Snapshot
	roots string
	now   time.Time

	held        map[gate.Candidate]oci.Content
	blobs       map[oci.Digest][]byte
	packages    map[oci.Digest][]gate.Package // by layer
	secrets     map[oci.Digest][]gate.Secret  // by layer
	scanned     map[oci.Digest]gate.LayerInventory
	findings    []gate.Finding
	signatures  map[gate.Candidate]gate.SignatureEvidence
	newRoots    string        // what the trust roots become while signatures are verified
	restless    bool          // and again each time
	attached    string        // what is known to be attached to every candidate
	arrives     string        // what that becomes while signatures are verified
	breaks      string        // the call that fails
	stall       chan struct{} // when not nil, layers are read only once it is closed
	stalls      string        // when not empty, the one upstream whose layers stall
	stallLooks  chan struct{} // when not nil, layers are read for secrets or malware only once it is closed
	infected    map[oci.Digest][]gate.Infection
	unscanned   map[oci.Digest][]gate.Gap // what the malware scanner cannot look into, by layer
	signatureDB string                    // of the malware scanner
	reading     chan struct{}             // receives a value whenever a layer begins to be read
	ends        map[string]time.Time      // when distributions are no longer mended, by ID

	mu          sync.Mutex
	calls       []string
	verdicts    map[gate.Key]gate.Verdict
	inventories map[oci.Digest]gate.LayerInventory
	records     []gate.Verdict
	released    map[gate.Candidate]bool
}

func newWorld(t testing.TB) *world {
	return &world{
		t: t, set: &gate.PolicySet{Policies: []gate.Policy{strict(t)}, Revision: "p1"}, snap: gate.Snapshot{ID: "s1"}, roots: "r1", now: noon,
		held: map[gate.Candidate]oci.Content{}, blobs: map[oci.Digest][]byte{}, packages: map[oci.Digest][]gate.Package{},
		secrets: map[oci.Digest][]gate.Secret{}, infected: map[oci.Digest][]gate.Infection{}, unscanned: map[oci.Digest][]gate.Gap{}, signatureDB: "d1",
		scanned: map[oci.Digest]gate.LayerInventory{}, signatures: map[gate.Candidate]gate.SignatureEvidence{},
		reading:  make(chan struct{}, 64),
		verdicts: map[gate.Key]gate.Verdict{}, inventories: map[oci.Digest]gate.LayerInventory{}, released: map[gate.Candidate]bool{},
	}
}

// What the malware scanner of [world.gate] is asked with.
const (
	malwareMaxAge    = 6 * time.Hour
	malwareFileBytes = 1 << 10
)

// maxImageBytes is the limit of [world.gate].
const maxImageBytes = 1 << 20

func (w *world) gate() *gate.Gate { return w.gateFor(maxImageBytes) }

func (w *world) gateFor(maxImageBytes int64) *gate.Gate {
	return w.gateWith(func(o *gate.Options) { o.MaxImageBytes = maxImageBytes })
}

// gateWith returns a gate whose options change has changed.
func (w *world) gateWith(change func(*gate.Options)) *gate.Gate {
	o := w.options(maxImageBytes)
	change(&o)
	g := gate.New(o)
	w.t.Cleanup(g.Close)
	return g
}

func (w *world) options(maxImageBytes int64) gate.Options {
	return gate.Options{
		Bytes: w, Releases: w, Scanner: w, Advisories: w, Signatures: w, Policies: w, Verdicts: remembers{w}, Inventories: w, Records: w,
		Attachments: w, SecretKinds: secretKinds, EndOfLife: w.endOfLife, Malware: malwareScanner{w}, MalwareMaxAge: malwareMaxAge, MalwareFileBytes: malwareFileBytes,
		Now: w.clock, Log: slog.New(slog.DiscardHandler), Workers: 4, MaxImageBytes: maxImageBytes, Platforms: []string{"linux/amd64"},
	}
}

// secretKinds finds a secret of the kind "token" wherever a text has the word.
func secretKinds(text []byte) []string {
	if bytes.Contains(text, []byte("token")) {
		return []string{"token"}
	}
	return nil
}

func (w *world) endOfLife(inv gate.Inventory) (time.Time, bool) {
	end, ok := w.ends[inv.OS.ID]
	return end, ok
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) note(format string, args ...any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	call := fmt.Sprintf(format, args...)
	w.calls = append(w.calls, call)
	if w.breaks != "" && len(call) >= len(w.breaks) && call[:len(w.breaks)] == w.breaks {
		return errBroken
	}
	return nil
}

// count returns how many calls begin with prefix.
func (w *world) count(prefix string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, c := range w.calls {
		if len(c) >= len(prefix) && c[:len(prefix)] == prefix {
			n++
		}
	}
	return n
}

func (w *world) isReleased(c gate.Candidate) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.released[c]
}

func (w *world) lastRecord() gate.Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.records[len(w.records)-1]
}

// blob puts content where Open finds it.
func (w *world) blob(mediaType, content string) oci.Descriptor {
	d := oci.FromBytes([]byte(content))
	w.blobs[d] = []byte(content)
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

const gzipLayer = "application/vnd.oci.image.layer.v1.tar+gzip"

// image puts an image into nginx whose config agrees with its layers, signed by release.
func (w *world) image(layers ...oci.Descriptor) gate.Candidate {
	var diffs []oci.Digest
	for _, l := range layers {
		diffs = append(diffs, diffOf(l.Digest))
	}
	config, err := json.Marshal(map[string]any{"rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
	if err != nil {
		w.t.Fatal(err)
	}
	c := w.manifest(nginx, map[string]any{"mediaType": oci.MediaTypeImage, "config": w.blob(oci.MediaTypeConfig, string(config)), "layers": layers})
	w.sign(c, "release")
	return c
}

func (w *world) index(repo oci.Repository, children ...gate.Candidate) gate.Candidate {
	var list []oci.Descriptor
	for _, c := range children {
		list = append(list, oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: c.Digest, Size: 1, Platform: &oci.Platform{OS: "linux", Architecture: "amd64"}})
	}
	return w.manifest(repo, map[string]any{"mediaType": oci.MediaTypeIndex, "manifests": list})
}

func (w *world) manifest(repo oci.Repository, fields map[string]any) gate.Candidate {
	fields["schemaVersion"] = 2
	raw, err := json.Marshal(fields)
	if err != nil {
		w.t.Fatal(err)
	}
	c := gate.Candidate{Repository: repo, Digest: oci.FromBytes(raw)}
	w.held[c] = oci.Content{MediaType: fields["mediaType"].(string), Digest: c.Digest, Raw: raw}
	return c
}

func (w *world) sign(c gate.Candidate, authority string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.signatures[c] = gate.SignatureEvidence{Signatures: []gate.Signature{signedBy(authority)}}
}

func diffOf(layer oci.Digest) oci.Digest { return digestOf("uncompressed " + layer.String()) }

func (w *world) Hold(_ context.Context, c gate.Candidate) (gate.Held, error) {
	if err := w.note("hold %s", c.Digest); err != nil {
		return gate.Held{}, err
	}
	content, ok := w.held[c]
	if !ok {
		return gate.Held{}, oci.ErrNotFound
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	return gate.Held{Candidate: c, Content: content, Manifest: m}, err
}

func (w *world) Open(_ context.Context, c gate.Candidate, desc oci.Descriptor) (io.ReadCloser, error) {
	if err := w.note("open %s %s", desc.MediaType, desc.Digest); err != nil {
		return nil, err
	}
	if w.stalls != "" && c.Repository.Upstream == w.stalls {
		return io.NopCloser(io.MultiReader(waitFor(w.stall), bytes.NewReader(w.blobs[desc.Digest]))), nil
	}
	return io.NopCloser(bytes.NewReader(w.blobs[desc.Digest])), nil
}

// waitFor is a reader without content that ends once the channel is closed.
type waitFor chan struct{}

func (c waitFor) Read([]byte) (int, error) {
	<-c
	return 0, io.EOF
}

func (w *world) ReadLayer(ctx context.Context, layer oci.Descriptor, r io.Reader, look gate.Look) (gate.LayerInventory, error) {
	if err := w.note("scan %s", layer.Digest); err != nil {
		return gate.LayerInventory{}, err
	}
	w.reading <- struct{}{}
	if look.Secrets && w.stallLooks != nil {
		<-w.stallLooks
	}
	if w.stall != nil && w.stalls == "" {
		select {
		case <-w.stall:
		case <-ctx.Done():
			return gate.LayerInventory{}, ctx.Err()
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return gate.LayerInventory{}, err
	}
	if inv, ok := w.scanned[layer.Digest]; ok {
		return inv, nil
	}
	inv := gate.LayerInventory{Layer: layer.Digest, Compression: gate.CompressionGzip, DiffID: diffOf(layer.Digest)}
	if look.Secrets {
		inv.SecretsRead, inv.Secrets = true, w.secrets[layer.Digest]
	}
	if packages := w.packages[layer.Digest]; packages != nil {
		inv.Files = []gate.FileInventory{{Path: "packages", Packages: packages}}
	}
	return inv, nil
}

// malwareScanner is the world's malware scanner, apart because its methods have everyday names.
type malwareScanner struct{ w *world }

func (s malwareScanner) Database() string {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.w.signatureDB
}

func (s malwareScanner) FindMalware(_ context.Context, layer oci.Descriptor, r io.Reader) (gate.LayerMalware, error) {
	if err := s.w.note("malware %s", layer.Digest); err != nil {
		return gate.LayerMalware{}, err
	}
	if s.w.stallLooks != nil {
		<-s.w.stallLooks
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return gate.LayerMalware{}, err
	}
	now := s.w.clock()
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return gate.LayerMalware{
		Database: s.w.signatureDB, At: now, FileBytes: malwareFileBytes, Found: s.w.infected[layer.Digest], Gaps: s.w.unscanned[layer.Digest],
	}, nil
}

// newSignatures gives the malware scanner other signatures, by which layer is infected.
func (w *world) newSignatures(layer oci.Digest, found ...gate.Infection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.signatureDB += "+"
	w.infected[layer] = found
}

func (w *world) Snapshot() gate.Snapshot { return w.snap }

// Match finds the world's findings whose package the image has.
func (w *world) Match(_ context.Context, s gate.Snapshot, inv gate.Inventory) ([]gate.Finding, []gate.Gap, error) {
	if err := w.note("match %s", s.ID); err != nil {
		return nil, nil, err
	}
	return slices.DeleteFunc(slices.Clone(w.findings), func(f gate.Finding) bool {
		return !slices.ContainsFunc(inv.Packages, func(p gate.Found) bool { return p.Name == f.Package.Name })
	}), nil, nil
}

func (w *world) Revision() string { return w.roots }

func (w *world) Attachments(context.Context, gate.Candidate) (string, error) {
	return w.attached, w.note("attachments")
}

func (w *world) Verify(_ context.Context, c gate.Candidate, _ gate.Wanted) (gate.SignatureEvidence, error) {
	if w.newRoots != "" {
		w.roots = w.newRoots
	}
	if w.restless {
		w.newRoots += "r"
	}
	if w.arrives != "" {
		w.attached = w.arrives
	}
	err := w.note("verify %s", c.Digest)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.signatures[c], err
}

func (w *world) Current() *gate.PolicySet { return w.set }

// remembers is the world's memory of verdicts, apart because its methods have everyday names.
type remembers struct{ w *world }

func (r remembers) Get(_ context.Context, key gate.Key) (gate.Verdict, bool) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	v, ok := r.w.verdicts[key]
	return v, ok
}

func (r remembers) Put(_ context.Context, key gate.Key, v gate.Verdict) error {
	if err := r.w.note("remember"); err != nil {
		return err
	}
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.w.verdicts[key] = v
	return nil
}

func (w *world) Inventory(_ context.Context, layer oci.Digest) (gate.LayerInventory, bool, error) {
	err := w.note("inventory %s", layer)
	w.mu.Lock()
	defer w.mu.Unlock()
	inv, ok := w.inventories[layer]
	return inv, ok, err
}

func (w *world) RecordInventory(_ context.Context, inv gate.LayerInventory) error {
	if err := w.note("record inventory"); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inventories[inv.Layer] = inv
	return nil
}

func (w *world) RecordVerdict(_ context.Context, v gate.Verdict) error {
	if err := w.note("record verdict"); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.records = append(w.records, v)
	return nil
}

func (w *world) Verdict(_ context.Context, c gate.Candidate, key gate.Key) (gate.Verdict, bool, error) {
	err := w.note("look up verdict")
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range slices.Backward(w.records) {
		if v.Candidate() == c && v.Key == key.String() {
			return v, true, err
		}
	}
	return gate.Verdict{}, false, err
}

func (w *world) Parents(_ context.Context, c gate.Candidate) ([]gate.Candidate, error) {
	err := w.note("parents")
	w.mu.Lock()
	defer w.mu.Unlock()
	var parents []gate.Candidate
	for _, v := range w.records {
		if v.Repository == c.Repository && v.Allowed() && slices.Contains(v.Children, c.Digest) {
			parents = append(parents, v.Candidate())
		}
	}
	return parents, err
}

func (w *world) Release(_ context.Context, v gate.Verdict) error {
	if err := w.note("release"); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.released[v.Candidate()] = true
	return nil
}

func (w *world) Withdraw(_ context.Context, c gate.Candidate, drop bool) error {
	if err := w.note("withdraw %t", drop); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.released[c] = false
	return nil
}
