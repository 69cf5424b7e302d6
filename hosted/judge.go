package hosted

import (
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// settling is how long after a push it is said that something should be judged: an image, its signature and its attestations come one
// after the other, and one look at the end will do.
const settling = time.Second

// maxSoon bounds the candidates that wait to be judged. Whoever needs the verdict on one that is left out will ask for it.
const maxSoon = 4096

// soon tells, a little later, that candidates should be judged, each once however often it was heard of meanwhile.
type soon struct {
	judge func(gate.Candidate)

	mu      sync.Mutex
	closed  bool                           // guarded by mu
	waiting map[gate.Candidate]*time.Timer // guarded by mu
	running sync.WaitGroup                 // added to under mu, while not closed
}

func newSoon(judge func(gate.Candidate)) *soon {
	return &soon{judge: judge, waiting: map[gate.Candidate]*time.Timer{}}
}

func (s *soon) tell(c gate.Candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[c] != nil || s.closed || len(s.waiting) >= maxSoon {
		return
	}
	s.waiting[c] = time.AfterFunc(settling, func() { s.due(c) })
}

func (s *soon) due(c gate.Candidate) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	delete(s.waiting, c)
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	s.judge(c)
}

// close forgets who is waiting, and waits for who has been told.
func (s *soon) close() {
	s.mu.Lock()
	s.closed = true
	for _, t := range s.waiting {
		t.Stop()
	}
	clear(s.waiting)
	s.mu.Unlock()
	s.running.Wait()
}

// judgeFor has judged, of what is here, whatever e bears on: the manifest if it was pushed by tag or lists others, what it is about, and
// of an index the children too, which may rest on what is said about it.
func (r *Repositories) judgeFor(rp *repository, e Event) {
	evidence, isEvidence := oci.ParseEvidenceTag(e.Tag)
	digests := map[oci.Digest]bool{}
	rp.view(func(s *state) {
		note := func(d oci.Digest) {
			m, ok := s.manifests[d]
			if !ok {
				return
			}
			digests[d] = true
			if m.index {
				for _, child := range m.children {
					if _, ok := s.manifests[child]; ok {
						digests[child] = true
					}
				}
			}
		}
		if t, ok := s.tags[e.Tag]; ok {
			note(t.pushed.desc.Digest)
		}
		if isEvidence {
			note(evidence.Subject)
		} else if len(e.Children) > 0 {
			note(e.Descriptor.Digest)
		}
		note(e.Subject)
	})
	for d := range digests {
		r.soon.tell(gate.Candidate{Repository: rp.name, Digest: d})
	}
}
