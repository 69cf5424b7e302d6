package trail

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Client is who asked, as far as it is known.
type Client struct {
	// Name is how access names callers: "anonymous", "user:ci".
	Name string `json:"name"`
	// Address is the IP address of the other end of the connection, which may be a load balancer's; empty when it has none.
	Address string `json:"address,omitempty"`
	// Agent is what the client called itself, which anybody can write; may be empty.
	Agent string `json:"agent,omitempty"`
}

// maxTextBytes bounds each text about a client. Names hold an issuer's URL and a subject of 255 bytes at most.
const maxTextBytes = 512

// cut returns c with every text within its bound and on one line.
func (c Client) cut() Client { return Client{clean(c.Name), clean(c.Address), clean(c.Agent)} }

// clean returns the start of s that is kept, with a '?' for what is not printable.
func clean(s string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
	if len(s) <= maxTextBytes && !strings.ContainsFunc(s, odd) {
		return s
	}
	if len(s) > maxTextBytes {
		s = s[:maxTextBytes]
	}
	return strings.Map(func(r rune) rune {
		if odd(r) {
			return '?'
		}
		return r
	}, s)
}

// Tagged records what a tag came to stand for.
type Tagged struct {
	Tag    string     `json:"tag"`
	Digest oci.Digest `json:"digest"`
	// At is when it was seen, UTC, and By who pushed it or asked for it then. Whoever moved a tag at an upstream is not known here.
	At time.Time `json:"at"`
	By Client    `json:"by"`
}

// Check returns what is wrong with the record.
func (r Tagged) Check() error {
	if _, err := oci.ParseDigest(r.Digest.String()); err != nil {
		return err
	}
	if !oci.ValidTag(r.Tag) {
		return fmt.Errorf("tag %.140q: %w", r.Tag, oci.ErrTagInvalid)
	}
	if r.At.IsZero() {
		return errNoTime
	}
	return nil
}

// maxMoves bounds what is remembered of one tag: the last ones. A nightly build makes a hundred in a season.
const maxMoves = 100

// tags are what the tags of one repository stood for, oldest first.
type tags struct {
	byName map[string][]named[Tagged]
	moves  int
}

func newTags() *tags { return &tags{byName: map[string][]named[Tagged]{}} }

func (s *tags) size() int { return s.moves }

func (s *tags) add(name string, record Tagged) {
	if record.Digest == "" { // not believed
		return
	}
	all := s.byName[record.Tag]
	at, _ := slices.BinarySearchFunc(all, name, func(e named[Tagged], name string) int { return cmp.Compare(e.name, name) })
	all = slices.Insert(all, at, named[Tagged]{name, record})
	s.moves++
	if len(all) > maxMoves {
		all = slices.Delete(all, 0, len(all)-maxMoves)
		s.moves--
	}
	s.byName[record.Tag] = all
}

// history returns what tag stood for, newest first, without what another replica recorded a second time.
func (s *tags) history(tag string) []Tagged {
	var all []Tagged
	for _, e := range s.byName[tag] {
		if len(all) == 0 || all[len(all)-1].Digest != e.value.Digest {
			all = append(all, e.value)
		}
	}
	slices.Reverse(all)
	return all
}

// newest returns what tag stood for last; empty for nothing.
func (s *tags) newest(tag string) oci.Digest {
	all := s.byName[tag]
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1].value.Digest
}

// MoveKind says how a tag moved.
type MoveKind string

// How a tag moved.
const (
	Moved      MoveKind = "moved"       // to what it had not stood for before
	RolledBack MoveKind = "rolled_back" // to what it had stood for before something else
)

// MoveKinds returns every kind, for whoever counts them.
func MoveKinds() []MoveKind { return []MoveKind{Moved, RolledBack} }

// Move is that a tag which looks like a version came to stand for something else.
type Move struct {
	Repository oci.Repository `json:"repository"`
	Kind       MoveKind       `json:"kind"`
	Tagged
	// Before is what it stood for until then.
	Before oci.Digest `json:"before"`
}

// tagKey names a tag.
type tagKey struct {
	repo oci.Repository
	tag  string
}

// maxLatest bounds the tags of which it is remembered what they stood for last, so that asking again costs nothing. When there are more,
// all are forgotten, and looked up once.
const maxLatest = 1 << 16

// resolveTimeout bounds how long a client waits for it to be recorded that a tag has moved: a write takes milliseconds.
const resolveTimeout = 5 * time.Second

// Resolved notes that tag of repo stands for d now, as by found out by asking or pushed. Nothing depends on it being on record, so it
// fails silently but for the log and the counts.
func (t *Trail) Resolved(ctx context.Context, repo oci.Repository, tag string, d oci.Digest, by Client) {
	key := tagKey{repo, tag}
	t.mu.Lock()
	known := t.latest[key] == d
	t.mu.Unlock()
	if known {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	record := Tagged{Tag: tag, Digest: d, At: t.o.Now().UTC(), By: by.cut()}
	var before []Tagged
	err := t.tags.append(ctx, repo, func(s *tags) (Tagged, bool) {
		before = s.history(tag)
		return record, s.newest(tag) != d
	})
	if err != nil {
		t.fail(ctx, "recording what a tag stands for", repo, err)
		return
	}
	t.mu.Lock()
	if len(t.latest) >= maxLatest {
		clear(t.latest)
	}
	t.latest[key] = d
	t.mu.Unlock()
	if len(before) > 0 && before[0].Digest != d && LooksLikeVersion(tag) {
		t.alert(ctx, repo, record, before)
	}
}

// alert says that a tag which looks like a version has moved.
func (t *Trail) alert(ctx context.Context, repo oci.Repository, record Tagged, before []Tagged) {
	m := Move{Repository: repo, Kind: Moved, Tagged: record, Before: before[0].Digest}
	if slices.ContainsFunc(before, func(b Tagged) bool { return b.Digest == record.Digest }) {
		m.Kind = RolledBack
	}
	t.o.Log.WarnContext(ctx, "a version's tag moved", "kind", string(m.Kind), "upstream", repo.Upstream, "repo", repo.Path, "tag", m.Tag,
		"digest", m.Digest.String(), "before", m.Before.String(), "caller", m.By.Name, "client", m.By.Address)
	t.o.Moved(m)
}

// History returns what tag of repo stood for, newest first, at most the last hundred.
func (t *Trail) History(ctx context.Context, repo oci.Repository, tag string) ([]Tagged, error) {
	var all []Tagged
	err := t.tags.ask(ctx, repo, func(s *tags) bool {
		all = s.history(tag)
		return len(all) > 0
	})
	if err != nil {
		return nil, fmt.Errorf("looking up the history of %s:%s: %w", repo, tag, err)
	}
	return all, nil
}

// Tags returns what each tag of repo stands for by what was seen last, sorted by tag.
func (t *Trail) Tags(ctx context.Context, repo oci.Repository) ([]Tagged, error) {
	var all []Tagged
	err := t.tags.ask(ctx, repo, func(s *tags) bool {
		all = nil
		for _, moves := range s.byName {
			all = append(all, moves[len(moves)-1].value)
		}
		return len(all) > 0
	})
	slices.SortFunc(all, func(a, b Tagged) int { return cmp.Compare(a.Tag, b.Tag) })
	if err != nil {
		return nil, fmt.Errorf("looking up the tags of %s: %w", repo, err)
	}
	return all, nil
}

// Before returns what tag of repo stood for before now, each digest once, newest first: those that it moved on from at since or later.
// What it stands for now may not be on record yet; then it moved on just now.
func (t *Trail) Before(ctx context.Context, repo oci.Repository, tag string, now oci.Digest, since time.Time) ([]oci.Digest, error) {
	all, err := t.History(ctx, repo, tag)
	if err != nil {
		return nil, err
	}
	var earlier []oci.Digest
	for i, e := range all {
		if i > 0 && all[i-1].At.Before(since) {
			break
		}
		if e.Digest != now && !slices.Contains(earlier, e.Digest) {
			earlier = append(earlier, e.Digest)
		}
	}
	return earlier, nil
}
