// Package ledger owns the small records that must last, in the same storage as the blobs: what was found in each layer, every
// verdict, and what happened in the repositories hosted here.
//
// A record is written once, under a name that no other record gets and that sorts by time, and sealed for that name; it is never changed.
// Two kinds of facts lie under names of their own instead, where writing them again loses nothing: inventories, which follow from a layer,
// and signatures found, of which the latest look says most. What is true now is a fold over the records, kept in memory, so replicas that
// share a storage cannot overwrite one another. The package promises that what it has returned success for survives a restart, and that a
// record altered, moved, renamed or made by anyone without the seal key is not believed. It must not judge: it says what was recorded, not
// what follows.
package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/seal"
)

// Stats counts records that were not believed since the start. Each is counted when it is read.
type Stats struct {
	BrokenInventories, BrokenVerdicts, BrokenEvents uint64
}

// Ledger keeps records in a storage driver. It implements gate.Inventories and gate.Records and is safe for concurrent use, also
// beside other Ledgers, in this process or elsewhere, with the same storage and key.
type Ledger struct {
	driver storagedriver.StorageDriver
	key    seal.Key
	log    *slog.Logger
	now    func() time.Time
	limits limits

	brokenInventories, brokenVerdicts, brokenEvents atomic.Uint64

	// mu is taken before the lock of a repository, never after.
	mu           sync.Mutex
	last         int64                          // guarded by mu; the newest stamp given or seen
	repositories map[oci.Repository]*repository // guarded by mu
	folded       int                            // guarded by mu; the records seen of all repositories together
}

var (
	_ gate.Inventories = (*Ledger)(nil)
	_ gate.Records     = (*Ledger)(nil)
	_ gate.Overturns   = (*Ledger)(nil)
)

// New returns the ledger that lies in driver, whose PutContent must be atomic and durable. Its records are sealed with a key derived
// from key, which must not be the zero Key. It reads nothing yet.
func New(driver storagedriver.StorageDriver, key seal.Key, log *slog.Logger, now func() time.Time) *Ledger {
	return &Ledger{
		driver: driver, key: key.Derive("ledger"), log: log, now: now, limits: production,
		repositories: map[oci.Repository]*repository{},
	}
}

// Stats returns the counts so far.
func (l *Ledger) Stats() Stats {
	return Stats{
		BrokenInventories: l.brokenInventories.Load(), BrokenVerdicts: l.brokenVerdicts.Load(), BrokenEvents: l.brokenEvents.Load(),
	}
}

// Inventory implements gate.Inventories. A record that is not believed counts as never recorded, so that the layer is read again.
func (l *Ledger) Inventory(ctx context.Context, layer oci.Digest) (gate.LayerInventory, bool, error) {
	path, err := inventoryPath(layer)
	if err != nil {
		return gate.LayerInventory{}, false, fmt.Errorf("looking up an inventory: %w", err)
	}
	inv, err := read[gate.LayerInventory](ctx, l, path, l.limits.inventory)
	if err == nil && (inv.Layer != layer || inv.Format != gate.InventoryFormat) {
		err = fmt.Errorf("it is of %s in format %d: %w", inv.Layer, inv.Format, errBroken)
	}
	switch {
	case err == nil:
		return inv, true, nil
	case isAbsent(err):
		return gate.LayerInventory{}, false, nil
	case isBroken(err):
		l.brokenInventories.Add(1)
		l.log.WarnContext(ctx, "an inventory is not believed, the layer will be read again", "digest", layer, "err", err)
		return gate.LayerInventory{}, false, nil
	}
	return gate.LayerInventory{}, false, fmt.Errorf("looking up the inventory of %s: %w", layer, err)
}

// RecordInventory implements gate.Inventories. Its name follows from the layer and the format alone: recording it again writes the
// same facts, and is how a broken record heals. It must be of the current format, and its strings valid UTF-8.
func (l *Ledger) RecordInventory(ctx context.Context, inv gate.LayerInventory) error {
	if inv.Format != gate.InventoryFormat {
		return fmt.Errorf("recording the inventory of %s: its format is %d, not %d", inv.Layer, inv.Format, gate.InventoryFormat)
	}
	path, err := inventoryPath(inv.Layer)
	if err != nil {
		return fmt.Errorf("recording an inventory: %w", err)
	}
	plain, err := encode(inv, l.limits.inventory)
	if err == nil {
		err = l.write(ctx, path, plain, l.limits.inventory)
	}
	if err != nil {
		return fmt.Errorf("recording the inventory of %s: %w", inv.Layer, err)
	}
	return nil
}
