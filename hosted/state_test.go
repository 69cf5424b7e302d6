package hosted

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

func digestOf(n int) oci.Digest { return oci.FromBytes(fmt.Append(nil, n)) }

// randomEvents returns events about a handful of manifests and tags, evidence of each kind among them, in no sensible order.
func randomEvents(rng *rand.Rand, n int) []Recorded {
	tags := append([]string{"latest", "v1.0.0"}, evidenceTags(digestOf(0))...)
	var events []Recorded
	for i := range n {
		d := digestOf(rng.IntN(8))
		e := Event{At: epoch.Add(time.Duration(i) * time.Second), By: "user:ci", Descriptor: oci.Descriptor{Digest: d}}
		tag := tags[rng.IntN(len(tags))]
		switch rng.IntN(12) {
		case 0:
			e.Kind, e.Tag, e.Descriptor = TagDeleted, tag, oci.Descriptor{}
		case 1:
			e.Kind = ManifestDeleted
		case 2, 3:
			e.Kind, e.Tags = Admitted, []string{tag}
		case 4:
			e.Kind, e.Tags, e.Revision = Forwarded, []string{tag}, "r"
		case 7:
			e.Kind = BlobDeleted
		case 5, 6:
			e.Kind, e.Tag, e.Claim = []Kind{Claimed, Unclaimed}[rng.IntN(2)], tag, fmt.Sprint(rng.IntN(3))
		default:
			e.Kind, e.Descriptor = Pushed, oci.Descriptor{Digest: d, MediaType: oci.MediaTypeImage, Size: 1}
			if rng.IntN(2) == 0 {
				e.Tag, e.Immutable = tag, tag == "v1.0.0"
			}
			describe(&e, d)
		}
		events = append(events, Recorded{Name: fmt.Sprintf("%020d", i+1), Event: e})
	}
	return events
}

// describe says of a manifest what follows from its digest: the last three of eight are indexes, two refer to the first.
func describe(e *Event, d oci.Digest) {
	switch d {
	case digestOf(1), digestOf(2):
		e.Subject = digestOf(0)
	case digestOf(5), digestOf(6), digestOf(7):
		e.Descriptor.MediaType = oci.MediaTypeIndex
		e.Children = []oci.Digest{digestOf(0), digestOf(1)}
		if d != digestOf(5) {
			e.Children = []oci.Digest{digestOf(2), digestOf(5)}
		}
		return
	}
	if evidence, ok := oci.ParseEvidenceTag(e.Tag); ok && !evidence.Lists() {
		e.Entries = []oci.Digest{oci.FromBytes([]byte("entry of " + d)), oci.FromBytes([]byte("entry of all"))}
	}
}

// summary is everything that can be asked of a state.
func summary(s *state) map[string]string {
	all := map[string]string{"order": fmt.Sprint(s.order), "claims": fmt.Sprint(s.claims), "unforwarded": fmt.Sprint(s.unforwarded(web, "elsewhere", 100))}
	for name, t := range s.tags {
		served := oci.Digest("")
		if t.served != nil {
			served = t.served.desc.Digest
		}
		all["tag "+name] = fmt.Sprint(t.pushed.desc.Digest, served, s.lacking(t))
	}
	for d, m := range s.manifests {
		all["manifest "+d.String()] = fmt.Sprint(m.desc, m.order, m.pushedAt, m.admitted, s.tagsOf(m), s.unserved(m), s.attachments(d))
	}
	for n := range 8 {
		var lists []string
		for _, m := range slices.Concat(s.bySubject[digestOf(n)], s.byChild[digestOf(n)]) {
			lists = append(lists, m.desc.Digest.String())
		}
		slices.Sort(lists)
		all["about "+digestOf(n).String()] = fmt.Sprint(lists, s.gone[digestOf(n)], s.attachments(digestOf(n)))
	}
	return all
}

// TestStateFollowsFromTheEventsAlone is the law replicas rest on: however events come in, what they add up to depends on their names.
func TestStateFollowsFromTheEventsAlone(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 1))
		events := randomEvents(rng, 60)
		want := summary(fold(events))
		r := &Repositories{limits: production, o: Options{Now: time.Now}}
		rp := &repository{known: map[string]bool{}, state: newState(), claimed: map[string]time.Time{}}
		shuffled := slices.Clone(events)
		if seed%2 == 0 { // as they come to one process, or else as two take turns
			rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		}
		for len(shuffled) > 0 {
			n := 1 + rng.IntN(len(shuffled))
			batch := slices.Clone(shuffled[:n])
			r.add(rp, batch...)
			r.add(rp, batch[rng.IntN(n)]) // and some twice
			shuffled = shuffled[n:]
		}
		if diff := cmp.Diff(summary(rp.state), want); diff != "" {
			t.Fatalf("seed %d: the state (-got +want):\n%s", seed, diff)
		}
		bytes := 0
		for _, e := range events {
			bytes += e.Event.bytes()
		}
		if r.folded != bytes || rp.bytes != bytes || rp.state.bytes != bytes {
			t.Fatalf("seed %d: %d, %d and %d bytes are counted, want %d", seed, r.folded, rp.bytes, rp.state.bytes, bytes)
		}
	}
}

// TestStateIsConsistent checks what every question takes for granted.
func TestStateIsConsistent(t *testing.T) {
	for seed := range uint64(100) {
		s := fold(randomEvents(rand.New(rand.NewPCG(seed, 2)), 80))
		for name, tag := range s.tags {
			for _, m := range []*manifest{tag.pushed, tag.served} {
				if m != nil && s.manifests[m.desc.Digest] != m {
					t.Fatalf("seed %d: the tag %s stands for %s, which is not here", seed, name, m.desc.Digest)
				}
			}
			if !tag.pushed.tags[name] {
				t.Fatalf("seed %d: the tag %s stands for a manifest that does not know", seed, name)
			}
			if tag.served != nil && !tag.served.admitted {
				t.Fatalf("seed %d: the tag %s serves what was never admitted", seed, name)
			}
		}
		for d, m := range s.manifests {
			for name := range m.tags {
				if s.tags[name] == nil || s.tags[name].pushed != m {
					t.Fatalf("seed %d: %s is said to have the tag %s", seed, d, name)
				}
			}
		}
		for _, under := range []map[oci.Digest][]*manifest{s.bySubject, s.byChild} {
			for d, ms := range under {
				for i, m := range ms {
					if s.manifests[m.desc.Digest] != m || slices.Contains(ms[:i], m) {
						t.Fatalf("seed %d: %s is listed under %s, and is not here or listed twice", seed, m.desc.Digest, d)
					}
				}
			}
		}
	}
}

// TestAttachmentsChangeWithWhatHangsOnAManifest also when it is as it was before: a judging that saw what came and went meanwhile would
// otherwise be remembered for a time when that was not there.
func TestAttachmentsChangeWithWhatHangsOnAManifest(t *testing.T) {
	image, sig, idx, sigOfIndex := digestOf(0), digestOf(1), digestOf(2), digestOf(3)
	tag := evidenceTags(image)[1]
	pushed := func(d oci.Digest, e Event) Event {
		e.Kind, e.Descriptor.Digest = Pushed, d
		return e
	}
	s := newState()
	seen := map[string]string{}
	last := ""
	for _, step := range []struct {
		name    string
		event   Event
		changes bool
	}{
		{"nothing", pushed(image, Event{}), false},
		{"a tag of the image is none", pushed(image, Event{Tag: "latest"}), false},
		{"another image is none", pushed(digestOf(9), Event{}), false},
		{"a referrer", pushed(sig, Event{Subject: image}), true},
		{"the same again", pushed(sig, Event{Subject: image}), false},
		{"that it is admitted is nothing", Event{Kind: Admitted, Descriptor: oci.Descriptor{Digest: sig}}, false},
		{"signatures under a tag", pushed(digestOf(4), Event{Tag: tag}), true},
		{"the same under the tag again", pushed(digestOf(4), Event{Tag: tag}), false},
		{"a parent", pushed(idx, Event{Children: []oci.Digest{image}}), true},
		{"the parent under a tag", pushed(idx, Event{Tag: "multi", Children: []oci.Digest{image}}), false},
		{"a signature of the parent", pushed(sigOfIndex, Event{Subject: idx}), true},
		{"without that signature, as before it", Event{Kind: ManifestDeleted, Descriptor: oci.Descriptor{Digest: sigOfIndex}}, true},
		{"with it again", pushed(sigOfIndex, Event{Subject: idx}), true},
		{"without the parent", Event{Kind: ManifestDeleted, Descriptor: oci.Descriptor{Digest: idx}}, true},
		{"with it again, as before it", pushed(idx, Event{Children: []oci.Digest{image}}), true},
		{"without a blob that may have been a signature's", Event{Kind: BlobDeleted, Descriptor: oci.Descriptor{Digest: digestOf(8)}}, true},
		{"without the tag", Event{Kind: TagDeleted, Tag: tag}, true},
		{"what is under it again", pushed(digestOf(4), Event{Tag: tag}), true},
		{"without what it stands for", Event{Kind: ManifestDeleted, Descriptor: oci.Descriptor{Digest: digestOf(4)}}, true},
		{"without the referrer", Event{Kind: ManifestDeleted, Descriptor: oci.Descriptor{Digest: sig}}, true},
		{"without the parent again: nothing", Event{Kind: ManifestDeleted, Descriptor: oci.Descriptor{Digest: idx}}, true},
		{"that it is gone is not news", Event{Kind: ManifestDeleted, Descriptor: oci.Descriptor{Digest: idx}}, false},
	} {
		s.apply(step.event)
		got := s.attachments(image)
		if !step.changes && got != last {
			t.Errorf("%s: got %.8s, want what it was, %.8s", step.name, got, last)
		}
		if other, ok := seen[got]; ok && step.changes {
			t.Errorf("%s: got what it was after %q", step.name, other)
		}
		seen[got], last = step.name, got
		if len(seen) == 1 && got != "" {
			t.Errorf("%s: got %q, want it empty", step.name, got)
		}
	}
}
