package quarantine

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Room returns the view of q for whoever sees to it that there is room. It is called once, before q is used.
func (q *Quarantine) Room(now func() time.Time) *Room {
	q.uses.now = now
	return &Room{q}
}

// Room knows how much is held, and makes it less. It opens nothing, and touches nothing that was pushed. It is safe for concurrent use;
// counting and sweeping are for one caller at a time.
type Room struct{ q *Quarantine }

// Count looks through the storage for how much is held. Until it returns the count before holds.
func (r *Room) Count(ctx context.Context) error {
	s := r.q.store
	s.scales.begin()
	found := map[string]int64{}
	for _, top := range []string{blobsPath, uploadsPath} {
		err := s.walk(ctx, top, func(f stored) error {
			if isContent(f.path) {
				found[weighed(f.path)] = f.size
			}
			return nil
		})
		if err != nil {
			s.scales.end(nil)
			return fmt.Errorf("counting what is held: %w", err)
		}
	}
	s.scales.end(found)
	return nil
}

// HeldBytes returns how many bytes of blobs, manifests among them, and of uploads are in storage: each once, whoever refers to it.
// counted is false before the first [Room.Count]; then the number means nothing.
func (r *Room) HeldBytes() (bytes int64, counted bool) { return r.q.store.scales.held() }

// Grown receives a value when something was stored since the last.
func (r *Room) Grown() <-chan struct{} { return r.q.store.scales.grown }

// Full receives a value when the storage had no room for something since the last.
func (r *Room) Full() <-chan struct{} { return r.q.full }

// Notice is told why something could not be stored, by whoever else keeps things in the same storage. Nil is no reason.
func (r *Room) Notice(err error) { r.q.notice(err) }

// notice has [Room.Full] tell if err says that there is no room.
func (q *Quarantine) notice(err error) {
	if err == nil || !isFull(err) {
		return
	}
	select {
	case q.full <- struct{}{}:
	default:
	}
}

// isFull reports whether err says that there is no room. The driver's own error does not show what is in it.
func isFull(err error) bool {
	var within storagedriver.Error
	if errors.As(err, &within) && isFull(within.Detail) {
		return true
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Images calls visit with every image of an upstream that is held, and when its manifest was stored, in no order.
func (r *Room) Images(ctx context.Context, visit func(c gate.Candidate, at time.Time) error) error {
	err := r.q.store.notes(ctx, func(c gate.Candidate, at time.Time) error {
		if isHosted(c.Repository) {
			return nil
		}
		return visit(c, at)
	})
	if err != nil {
		return fmt.Errorf("listing what is held: %w", err)
	}
	return nil
}

// errPushed says that something cannot be had again.
var errPushed = errors.New("what was pushed is nobody else's to give again")

// Evict removes the bytes of c, an image of an upstream: those of its blobs that nothing else claims, and its manifest. What was released
// stays released; whoever asks for it has it fetched again. done is false when c is being fetched or read, or was wanted by anybody in
// this process since then; part of it may be gone, and is fetched again too. freed are the bytes that went.
//
// Dying anywhere leaves an image that is held in part, until the manifest goes, last.
func (r *Room) Evict(ctx context.Context, c gate.Candidate, since time.Time) (freed int64, done bool, err error) {
	if isHosted(c.Repository) {
		return 0, false, fmt.Errorf("evicting %s: %w", c, errPushed)
	}
	content, err := r.q.store.manifest(ctx, c)
	if err != nil && !errors.Is(err, errNotHeld) { // one that is noted and not there has no blobs we could know of
		return 0, false, fmt.Errorf("evicting %s: %w", c, err)
	}
	var blobs []oci.Descriptor
	if m, err := oci.ParseManifest(content.MediaType, content.Raw); err == nil {
		blobs = m.Blobs()
	}
	for _, desc := range blobs {
		n, done, err := r.evict(ctx, c, desc.Digest, since)
		freed += n
		if err != nil || !done {
			return freed, false, err
		}
	}
	n, done, err := r.evict(ctx, c, c.Digest, since)
	return freed + n, done, err
}

// evict gives up c's claim on d. The lock is had for each blob anew: to have an object moved aside takes its storage as long as to copy
// it, and nobody could claim anything meanwhile.
func (r *Room) evict(ctx context.Context, c gate.Candidate, d oci.Digest, since time.Time) (freed int64, done bool, err error) {
	q := r.q
	q.claims.Lock()
	defer q.claims.Unlock()
	if q.uses.since(c, since) || q.arriving(c) {
		return 0, false, nil
	}
	freed, err = q.drop(ctx, c, d)
	if err == nil && d == c.Digest {
		err = q.store.removeManifest(ctx, c)
	}
	if err != nil {
		return freed, false, fmt.Errorf("evicting %s: dropping %s: %w", c, d, err)
	}
	return freed, true, nil
}

// arriving reports whether a blob is being fetched for c.
func (q *Quarantine) arriving(c gate.Candidate) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, a := range q.arrivals {
		if a.candidate == c {
			return true
		}
	}
	return false
}
