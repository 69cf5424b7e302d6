package hosted

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// state is what the events of a repository add up to. It is only read once events have been applied.
type state struct {
	// order counts the events that were applied, bytes what they take in memory.
	order, bytes int
	// manifests are those that are here, and gone those that were and are not.
	manifests map[oci.Digest]*manifest
	gone      map[oci.Digest]bool
	tags      map[string]*tag
	// claims are those on tags, by the name of the claim.
	claims map[string]Event
	// bySubject and byChild are the manifests that refer to a digest or, as an index, list it.
	bySubject, byChild map[oci.Digest][]*manifest
	// turns counts what came to hang on a digest or went away again.
	turns map[oci.Digest]int
	// blobsDeleted counts the blobs that were taken out of the repository.
	blobsDeleted int

	memo      sync.Mutex
	revisions map[oci.Digest]string // guarded by memo; what attachments has returned, until the next event
}

// manifest is what is known of a manifest that is here.
type manifest struct {
	// desc is as [Event.Descriptor].
	desc     oci.Descriptor
	subject  oci.Digest
	children []oci.Digest
	// entries are as [Event.Entries].
	entries []oci.Digest
	// index says that it was pushed for what it lists, and not as a list of referrers.
	index bool
	// order and pushedAt are of its last push.
	order    int
	pushedAt time.Time
	// tags are those that stand for it.
	tags map[string]bool
	// admitted says that it was, ever, and admittedAt when first; forwarded, with which of its tags, and forwardedAt, with what hanging on
	// it.
	admitted    bool
	admittedAt  time.Time
	forwarded   map[string]bool
	forwardedAt string
}

// plain returns the descriptor as a tag or a HEAD request has it.
func (m *manifest) plain() oci.Descriptor {
	return oci.Descriptor{MediaType: m.desc.MediaType, Digest: m.desc.Digest, Size: m.desc.Size}
}

// tag is what a tag stands for.
type tag struct {
	// pushed is never nil; served is while nothing pushed under the tag was admitted.
	pushed, served *manifest
	// evidence counts if isEvidence. Then union are the manifests pushed under the tag, oldest first, that may hold entries the last one
	// lacks, that one included.
	evidence   oci.EvidenceTag
	isEvidence bool
	union      []*manifest
}

func newState() *state {
	return &state{
		manifests: map[oci.Digest]*manifest{}, gone: map[oci.Digest]bool{}, tags: map[string]*tag{}, claims: map[string]Event{},
		bySubject: map[oci.Digest][]*manifest{}, byChild: map[oci.Digest][]*manifest{}, turns: map[oci.Digest]int{},
		revisions: map[oci.Digest]string{},
	}
}

// fold returns the state events add up to, in this order.
func fold(events []Recorded) *state {
	s := newState()
	for _, e := range events {
		s.apply(e.Event)
	}
	return s
}

// apply adds an event. One that makes no sense in this state changes nothing: it came late, by another replica.
func (s *state) apply(e Event) {
	s.order++
	s.bytes += e.bytes()
	clear(s.revisions)
	m := s.manifests[e.Descriptor.Digest]
	switch e.Kind {
	case Pushed:
		delete(s.claims, e.Claim)
		s.push(e)
	case Admitted:
		if m != nil {
			if !m.admitted {
				m.admittedAt = e.At
			}
			s.admit(m, e.Tags)
		}
	case Forwarded:
		if m != nil {
			s.forward(m, e)
		}
	case Claimed:
		s.claims[e.Claim] = e
	case Unclaimed:
		delete(s.claims, e.Claim)
	case TagDeleted:
		s.untag(e.Tag)
	case BlobDeleted:
		s.blobsDeleted++
	case ManifestDeleted:
		if m != nil {
			s.remove(m)
		}
	}
}

func (s *state) push(e Event) {
	m, ok := s.manifests[e.Descriptor.Digest]
	if !ok {
		m = &manifest{desc: e.Descriptor, subject: e.Subject, children: e.Children, tags: map[string]bool{}}
		s.manifests[m.desc.Digest] = m
		delete(s.gone, m.desc.Digest)
		if m.subject != "" {
			s.bySubject[m.subject] = append(s.bySubject[m.subject], m)
			s.turns[m.subject]++
		}
	}
	m.order, m.pushedAt = s.order, e.At
	evidence, isEvidence := oci.ParseEvidenceTag(e.Tag)
	if !m.index && !(isEvidence && evidence.Lists()) {
		m.index = true
		for _, child := range m.children {
			s.byChild[child] = append(s.byChild[child], m)
			s.turns[child]++
		}
	}
	if e.Entries != nil {
		m.entries = e.Entries
	}
	if e.Tag != "" && !e.Part {
		s.move(e.Tag, m, e.Immutable)
	}
}

// move makes a tag stand for m. Where it must not move, the first one counts.
func (s *state) move(name string, m *manifest, immutable bool) {
	t, ok := s.tags[name]
	switch {
	case !ok:
		t = &tag{}
		t.evidence, t.isEvidence = oci.ParseEvidenceTag(name)
		s.tags[name] = t
	case immutable && t.pushed != m:
		return
	default:
		delete(t.pushed.tags, name)
	}
	if t.pushed != m {
		delete(m.forwarded, name) // what it was forwarded as before, it is not any more
		s.turn(t)
	}
	t.pushed = m
	m.tags[name] = true
	if _, unites := entriesUnder(t.evidence, m); t.isEvidence && unites {
		t.union = append(without(t.union, m), m)
		if len(s.lacking(t)) == 0 {
			t.union = []*manifest{m}
		}
	}
}

// turn notes that an evidence tag has come to stand for something else, or for nothing.
func (s *state) turn(t *tag) {
	if t.isEvidence {
		s.turns[t.evidence.Subject]++
	}
}

// part is a manifest that holds entries another one lacks.
type part struct {
	digest oci.Digest
	// entries are those the other lacks.
	entries map[oci.Digest]bool
}

// lacking returns what the manifests pushed under an evidence tag hold that the last of them lacks, each entry once, oldest first;
// nothing when that one is of a form that is not united. What an index lists and has been deleted since is not missed.
func (s *state) lacking(t *tag) []part {
	last, unites := entriesUnder(t.evidence, t.pushed)
	if !t.isEvidence || !unites {
		return nil
	}
	have := map[oci.Digest]bool{}
	for _, entry := range last {
		have[entry] = true
	}
	var parts []part
	for _, m := range t.union {
		p := part{digest: m.desc.Digest, entries: map[oci.Digest]bool{}}
		held, _ := entriesUnder(t.evidence, m)
		for _, entry := range held {
			if !have[entry] && !s.gone[entry] {
				have[entry], p.entries[entry] = true, true
			}
		}
		if len(p.entries) > 0 {
			parts = append(parts, p)
		}
	}
	return parts
}

// lackingIn returns what [state.lacking] would of the tag e is pushed under, once it were.
func (s *state) lackingIn(e Event) []part {
	t, ok := s.tags[e.Tag]
	if !ok {
		return nil
	}
	return s.lacking(&tag{evidence: t.evidence, isEvidence: t.isEvidence, pushed: pushedBy(e), union: t.union})
}

// admit notes that m may be served, and under which tags. One that stands for something else by now is left as it is.
func (s *state) admit(m *manifest, tags []string) {
	m.admitted = true
	for _, name := range tags {
		if t, ok := s.tags[name]; ok && t.pushed == m {
			t.served = m
		}
	}
}

// forward notes that m has arrived where it is forwarded to, and as what of the tags that stand for it.
func (s *state) forward(m *manifest, e Event) {
	m.forwardedAt = e.Revision
	if m.forwarded == nil {
		m.forwarded = map[string]bool{}
	}
	for _, name := range e.Tags {
		if m.tags[name] {
			m.forwarded[name] = true
		}
	}
}

// untag takes a tag away.
func (s *state) untag(name string) {
	if t, ok := s.tags[name]; ok {
		delete(t.pushed.tags, name)
		delete(s.tags, name)
		s.turn(t)
	}
}

// remove takes a manifest away, with the tags that stand for it. A tag that serves another one goes back to standing for that: to
// everybody who pulls it never stood for m.
func (s *state) remove(m *manifest) {
	for name, t := range s.tags {
		if t.pushed == m && t.served != nil && t.served != m && !t.isEvidence {
			t.pushed = t.served
			t.pushed.tags[name] = true
			continue
		}
		if t.pushed == m {
			delete(s.tags, name)
			s.turn(t)
			continue
		}
		if t.served == m {
			t.served = nil
		}
		t.union = without(t.union, m)
	}
	if m.subject != "" {
		unlist(s.bySubject, m.subject, m)
		s.turns[m.subject]++
	}
	for _, child := range m.children {
		if m.index {
			unlist(s.byChild, child, m)
			s.turns[child]++
		}
	}
	delete(s.manifests, m.desc.Digest)
	s.gone[m.desc.Digest] = true
}

func without(ms []*manifest, m *manifest) []*manifest {
	return slices.DeleteFunc(ms, func(other *manifest) bool { return other == m })
}

func unlist(under map[oci.Digest][]*manifest, d oci.Digest, m *manifest) {
	if under[d] = without(under[d], m); len(under[d]) == 0 {
		delete(under, d)
	}
}

// unserved returns the tags that stand for m without serving it, sorted.
func (s *state) unserved(m *manifest) []string {
	var tags []string
	for name := range m.tags {
		if s.tags[name].served != m {
			tags = append(tags, name)
		}
	}
	slices.Sort(tags)
	return tags
}

// attachments returns the revision of what hangs on d; empty if nothing ever did. It never is again what it was once.
func (s *state) attachments(d oci.Digest) string {
	s.memo.Lock()
	defer s.memo.Unlock()
	return s.revise(d)
}

// revise computes what attachments returns. A digest cannot list itself, so it comes to an end. The caller holds memo.
func (s *state) revise(d oci.Digest) string {
	if known, ok := s.revisions[d]; ok {
		return known
	}
	var terms []string
	for _, m := range s.bySubject[d] {
		terms = append(terms, "referrer "+m.desc.Digest.String())
	}
	for _, name := range evidenceTags(d) {
		if t, ok := s.tags[name]; ok {
			terms = append(terms, "tag "+name+" "+t.pushed.desc.Digest.String())
		}
	}
	for _, m := range s.byChild[d] {
		terms = append(terms, "parent "+m.desc.Digest.String()+" "+s.revise(m.desc.Digest))
	}
	if s.turns[d] == 0 {
		return ""
	}
	slices.SortFunc(terms, cmp.Compare)
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%d,%d,", s.turns[d], s.blobsDeleted)
	for _, term := range terms {
		_, _ = fmt.Fprintf(h, "%d:%s,", len(term), term) // a hash never fails; the length keeps terms apart
	}
	s.revisions[d] = hex.EncodeToString(h.Sum(nil))
	return s.revisions[d]
}
