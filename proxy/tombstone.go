package proxy

import (
	"container/list"
	"net/http"
	"strconv"
	"sync"

	"github.com/tidewaiter/tidewaiter/oci"
)

// maxTombstones bounds the refusals that are kept for the GET that follows a HEAD within moments. A forgotten one costs the client
// the text, not us the refusal: nobody has content with the digest of our sentence.
const maxTombstones = 1024

// writeTombstone answers the HEAD of a mirror's client for a tag it cannot have: 200, and as the digest that of the refusal itself.
// The client then asks for that digest, gets the refusal from us, and from the origin, if it goes there, that there is no such
// manifest. A refused HEAD would have sent it to the origin for the real one.
func (p *Proxy) writeTombstone(w *answer, repo oci.Repository, refusal error) error {
	e := answerTo(refusal)
	body := e.Body()
	d := oci.FromBytes(body)
	p.tombstones.put(repo, d, e)
	p.metrics.tombstones.Inc()
	w.err = refusal // for the log: nothing of it is in the answer
	h := w.Header()
	h.Set("Content-Type", oci.MediaTypeImage)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusOK)
	return nil
}

// tombstones are the refusals that have been given out as digests, per repository. It is safe for concurrent use.
type tombstones struct {
	max int

	mu sync.Mutex
	// byDigest and order are guarded by mu. order has the latest first.
	byDigest map[tombstoneKey]*list.Element
	order    *list.List
}

type tombstoneKey struct {
	repo   oci.Repository
	digest oci.Digest
}

type tombstone struct {
	key     tombstoneKey
	refusal *oci.Error
}

func newTombstones(limit int) *tombstones {
	return &tombstones{max: limit, byDigest: map[tombstoneKey]*list.Element{}, order: list.New()}
}

func (t *tombstones) put(repo oci.Repository, d oci.Digest, refusal *oci.Error) {
	key := tombstoneKey{repo, d}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.byDigest[key]; ok {
		t.order.MoveToFront(e)
		return
	}
	t.byDigest[key] = t.order.PushFront(tombstone{key, refusal})
	if oldest := t.order.Back(); t.order.Len() > t.max {
		delete(t.byDigest, t.order.Remove(oldest).(tombstone).key)
	}
}

// find returns the refusal that d is the digest of.
func (t *tombstones) find(repo oci.Repository, d oci.Digest) (*oci.Error, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.byDigest[tombstoneKey{repo, d}]
	if !ok {
		return nil, false
	}
	return e.Value.(tombstone).refusal, true
}
