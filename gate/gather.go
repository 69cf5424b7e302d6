package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// gatherSignatures adds to e who signed it, and whether it is nothing but signatures itself. What it found would be remembered as the
// word of the roots and attachments in, so it fails when others have taken their place meanwhile.
func (g *Gate) gatherSignatures(ctx context.Context, in Inputs, p Policy, e *Evidence) error {
	return g.gather(ctx, in, p, e, false)
}

// gatherFresh is gatherSignatures without what was kept.
func (g *Gate) gatherFresh(ctx context.Context, in Inputs, p Policy, e *Evidence) error {
	return g.gather(ctx, in, p, e, true)
}

func (g *Gate) gather(ctx context.Context, in Inputs, p Policy, e *Evidence, fresh bool) error {
	began := g.o.Now()
	if err := g.findSignatures(ctx, in, p, e, fresh); err != nil {
		return err
	}
	now, err := g.inputs(ctx, in.Candidate)
	if err != nil {
		return err
	}
	if now.Attached != in.Attached {
		return errors.New("signatures were attached or removed meanwhile")
	}
	if !e.LookedAt.Before(began.UTC()) { // what was kept before is kept already
		g.keep(ctx, in, p, *e)
	}
	return nil
}

func (g *Gate) findSignatures(ctx context.Context, in Inputs, p Policy, e *Evidence, fresh bool) error {
	wanted := p.wanted(*e)
	if wanted.Nothing() && !p.ReadsLayers() && p.looksAfter() == (Look{}) && !p.needsConfig(*e) && len(p.Expressions) == 0 && p.MinAge == 0 {
		return nil
	}
	if e.Manifest.IsEvidence() {
		only, err := g.onlyStatements(ctx, e.Candidate, e.Manifest)
		if err != nil || only {
			e.OnlyStatements = only
			return err
		}
	}
	if wanted.Nothing() {
		return nil
	}
	return g.signatures(ctx, in, p, wanted, e, fresh)
}

// enough reports whether e has everything about the manifest that p asks for. Of VEX there is never enough: any may excuse something.
func (g *Gate) enough(p Policy, e Evidence) bool {
	return len(p.wanted(e).VEX) == 0 && g.satisfied(p, e)
}

// maxParents bounds the indexes looked at for one of their children: a nightly build may list an unchanged child for months, and
// the latest ones are the ones in use.
const maxParents = 16

// inheritSignatures adds to e the signatures and attestations of the indexes of its own repository that list it and are admitted now,
// until they satisfy p. An index of another repository, or one that is denied, covers nothing.
func (g *Gate) inheritSignatures(ctx context.Context, p Policy, e *Evidence) error {
	if e.Manifest.IsIndex() || p.Signatures.EveryChild || g.enough(p, *e) {
		return nil
	}
	parents, err := g.o.Records.Parents(ctx, e.Candidate)
	if err != nil {
		return err
	}
	for _, parent := range parents[:min(len(parents), maxParents)] {
		v, err := g.Judge(ctx, parent)
		if err != nil {
			return fmt.Errorf("judging the index %s: %w", parent.Digest, err)
		}
		if !v.Allowed() {
			continue
		}
		for _, s := range v.Signatures {
			s.Inherited, s.Until = parent.Digest, earlier(s.Until, v.Until)
			e.Signatures = append(e.Signatures, s)
		}
		for _, a := range v.Attestations {
			a.By.Inherited, a.By.Until = parent.Digest, earlier(a.By.Until, v.Until)
			e.Attestations = append(e.Attestations, a)
		}
		for _, x := range v.VEX {
			x.By.Inherited, x.By.Until = parent.Digest, earlier(x.By.Until, v.Until)
			e.VEX = append(e.VEX, x)
		}
		if g.enough(p, *e) {
			return nil
		}
	}
	return nil
}

// earlier returns the earlier of two times, of which the zero time is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// inventory returns what the image m holds, reading only layers that were never read before, the largest first.
func (g *Gate) inventory(ctx context.Context, c Candidate, m oci.Manifest, look Look) (Inventory, error) {
	if gap := g.tooLarge(m); gap != nil {
		return Inventory{Gaps: []Gap{*gap}}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	inventories := make([]LayerInventory, len(m.Layers))
	failures := make([]error, len(m.Layers))
	order := make([]int, len(m.Layers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(m.Layers[b].Size, m.Layers[a].Size) })
	slots := make(chan struct{}, cap(g.workers)) // one image starts no more readings than there are workers
	var readings sync.WaitGroup
	for _, i := range order {
		slots <- struct{}{}
		readings.Go(func() {
			defer func() { <-slots }()
			if inventories[i], failures[i] = g.layer(ctx, c, m.Layers[i], look); failures[i] != nil {
				cancel() // the others cannot lead to a verdict any more
			}
		})
	}
	readings.Wait()
	if err := firstCause(failures); err != nil {
		return Inventory{}, err
	}
	inv := Merge(inventories)
	gap, err := g.checkConfig(ctx, c, m, inventories)
	if gap != nil {
		inv.Gaps = append(inv.Gaps, *gap)
	}
	return inv, err
}

// tooLarge returns the gap that an image is whose layers are not read for its size.
func (g *Gate) tooLarge(m oci.Manifest) *Gap {
	size := totalBytes(m)
	if g.o.MaxImageBytes <= 0 || size <= g.o.MaxImageBytes {
		return nil
	}
	return &Gap{Kind: GapLimit, Why: fmt.Sprintf("the image is %d bytes, at most %d are read", size, g.o.MaxImageBytes)}
}

// maxConfigBytes bounds an image config. Real ones are kilobytes; containerd reads at most 8 MiB.
const maxConfigBytes = 8 << 20

// checkConfig compares the layers an image's config names by their uncompressed digests with those that were read. A config that
// tells another story than its manifest is a gap: which of the two a runtime goes by is not ours to guess. The config of anything
// else is a document, or it is a gap too: it is let out like a layer and was not looked into like one.
func (g *Gate) checkConfig(ctx context.Context, c Candidate, m oci.Manifest, layers []LayerInventory) (*Gap, error) {
	gap := func(kind GapKind, format string, args ...any) (*Gap, error) {
		return &Gap{Kind: kind, Why: fmt.Sprintf(format, args...)}, nil
	}
	if m.Config.Size > maxConfigBytes {
		large := largeConfig(m)
		return &large, nil
	}
	body, err := g.readBlob(ctx, c, m.Config, maxConfigBytes)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	if m.Config.MediaType != oci.MediaTypeConfig && m.Config.MediaType != oci.MediaTypeDockerConf {
		if !isDocument(body) {
			return gap(GapUnknownMediaType, "the config is no document, and media type %.100q is not one that is looked into", m.Config.MediaType)
		}
		return nil, nil
	}
	config, err := parseConfig(body)
	if err != nil {
		return gap(GapConfig, "%v", err)
	}
	if len(config.DiffIDs) != len(layers) {
		return gap(GapConfig, "the config names %d layers, the manifest %d", len(config.DiffIDs), len(layers))
	}
	for i, l := range layers {
		if l.DiffID != "" && l.DiffID != config.DiffIDs[i] {
			return gap(GapConfig, "the config and the manifest disagree about layer %s", short(l.Layer))
		}
	}
	return nil, nil
}

// firstCause returns the error that made the others give up, rather than their giving up.
func firstCause(errs []error) error {
	var given error
	for _, err := range errs {
		if err != nil && (given == nil || errors.Is(given, context.Canceled)) {
			given = err
		}
	}
	return given
}

// layer returns the inventory of one layer for an image that announces it as desc.
func (g *Gate) layer(ctx context.Context, c Candidate, desc oci.Descriptor, look Look) (LayerInventory, error) {
	compression, gap := announced(desc)
	if gap != nil {
		return LayerInventory{Layer: desc.Digest, Gaps: []Gap{*gap}}, nil
	}
	inv, err := g.readOnce(ctx, c, desc, look)
	if err != nil {
		return LayerInventory{}, err
	}
	if inv.Compression != "" && inv.Compression != compression {
		// Runtimes differ in whether they believe the media type or look at the bytes. We serve neither reading.
		why := fmt.Sprintf("announced as %s, its bytes are %s", compression, inv.Compression)
		inv.Gaps = append(slices.Clone(inv.Gaps), Gap{Kind: GapUnreadableLayer, Layer: desc.Digest, Why: why})
	}
	return inv, nil
}

// readOnce returns the inventory of a layer from the records, or reads the layer: once, however many images ask for it, and once more
// if secrets are asked for and nobody did before.
func (g *Gate) readOnce(ctx context.Context, c Candidate, desc oci.Descriptor, look Look) (LayerInventory, error) {
	if g.replay != nil {
		return g.replay.layer(ctx, c, desc, look)
	}
	// Only who asks the same upstream for the same thing shares a reading: another one's slowness or failure is nobody else's.
	flight := fmt.Sprint(c.Repository.Upstream, " ", desc.Digest, " ", desc.Size, " ", look.Secrets)
	done := g.layers.DoChan(flight, g.detached(func(ctx context.Context) (any, error) {
		if inv, ok, err := g.known(ctx, desc.Digest, look); err != nil || ok {
			return inv, err
		}
		return g.readLayer(ctx, c, desc, look)
	}))
	select {
	case result := <-done:
		if result.Err != nil {
			return LayerInventory{}, result.Err
		}
		return result.Val.(LayerInventory), nil
	case <-ctx.Done():
		return LayerInventory{}, ctx.Err()
	}
}

// known returns the recorded inventory of a layer. ok is false when there is none, or none that has what is looked for.
func (g *Gate) known(ctx context.Context, layer oci.Digest, look Look) (inv LayerInventory, ok bool, err error) {
	inv, ok, err = g.o.Inventories.Inventory(ctx, layer)
	return inv, ok && (inv.SecretsRead || !look.Secrets), err
}

// allKnown reports whether no layer of m would have to be read.
func (g *Gate) allKnown(ctx context.Context, m oci.Manifest, look Look) (bool, error) {
	for _, l := range m.Layers {
		if _, gap := announced(l); gap != nil {
			continue
		}
		if _, ok, err := g.known(ctx, l.Digest, look); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// readLayer is read in a place among those who read layers.
func (g *Gate) readLayer(ctx context.Context, c Candidate, desc oci.Descriptor, look Look) (LayerInventory, error) {
	leave, err := g.place(ctx, c)
	if err != nil {
		return LayerInventory{}, err
	}
	defer leave()
	return g.read(ctx, c, desc, look)
}

// place waits for a place among those who read layers. Its share comes first, so that nobody waits for a worker he may not have: one
// upstream that is slow leaves the others some.
func (g *Gate) place(ctx context.Context, c Candidate) (leave func(), err error) {
	share := g.share(c.Repository.Upstream)
	select {
	case share <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case g.workers <- struct{}{}:
		return func() { <-g.workers; <-share }, nil
	case <-ctx.Done():
		<-share
		return nil, ctx.Err()
	}
}

// read reads a layer and records what it holds. A worker's death is a gap of this judging alone: it may be the machine's
// fault, so it is not recorded as a fact about the layer.
func (g *Gate) read(ctx context.Context, c Candidate, desc oci.Descriptor, look Look) (LayerInventory, error) {
	r, err := g.o.Bytes.Open(ctx, c, desc)
	if err != nil {
		return LayerInventory{}, err
	}
	inv, err := g.o.Scanner.ReadLayer(ctx, desc, r, look)
	if err := errors.Join(err, r.Close()); err != nil {
		return LayerInventory{}, fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	inv.Format, inv.Layer = InventoryFormat, desc.Digest
	if slices.ContainsFunc(inv.Gaps, Gap.isPassing) {
		return inv, nil
	}
	g.recording.Lock()
	defer g.recording.Unlock()
	recorded, ok, err := g.o.Inventories.Inventory(ctx, desc.Digest)
	if err != nil || ok && recorded.SecretsRead {
		return recorded, err // another reading, which looked for secrets too, ended before: there is nothing to add to it
	}
	inv.Malware = recorded.Malware
	return inv, g.o.Inventories.RecordInventory(ctx, inv)
}

// share returns the slots of one upstream, all but one of the workers. There are as many shares as upstreams are configured.
func (g *Gate) share(upstream string) chan struct{} {
	own, _ := g.shares.LoadOrStore(upstream, make(chan struct{}, max(cap(g.workers)-1, 1)))
	return own.(chan struct{})
}

// announced returns the compression that desc's media type announces, or the gap that a layer of such a type is. Types are those of
// the image specification, of Docker, and of charts, all of which hold tar archives.
func announced(desc oci.Descriptor) (compression string, gap *Gap) {
	t := strings.ToLower(desc.MediaType)
	if strings.HasSuffix(t, "+encrypted") {
		return "", &Gap{Kind: GapEncryptedLayer, Layer: desc.Digest, Why: "it is encrypted"}
	}
	for _, known := range [...]struct{ suffix, compression string }{
		{".tar+gzip", CompressionGzip}, {".tar.gzip", CompressionGzip}, {".tar+zstd", CompressionZstd}, {".tar.zstd", CompressionZstd}, {".tar", CompressionNone},
	} {
		if strings.HasSuffix(t, known.suffix) {
			return known.compression, nil
		}
	}
	return "", &Gap{Kind: GapUnknownMediaType, Layer: desc.Digest, Why: fmt.Sprintf("media type %.100q is not one that is looked into", desc.MediaType)}
}

// Inventory returns what the image c holds, whatever policies say of it, reading only layers that were never read before.
//
// Errors: those of [Bytes], [Scanner] and [Inventories].
func (g *Gate) Inventory(ctx context.Context, c Candidate) (Inventory, error) {
	held, err := g.o.Bytes.Hold(ctx, c)
	if err != nil {
		return Inventory{}, err
	}
	return g.inventory(ctx, c, held.Manifest, Look{})
}
