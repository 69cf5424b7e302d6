package signing

import (
	"errors"
	"fmt"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Stated is the record of what we said about a manifest, in place of everything we said about it before. Without a manifest and a bundle it
// takes that back and says nothing.
type Stated struct {
	Repository oci.Repository `json:"repository"`
	Subject    oci.Digest     `json:"subject"`
	// At orders what was said about a subject, UTC: the latest counts.
	At time.Time `json:"at"`
	// Key and JudgedAt are those of the verdict that was stated, and Passed what came of it.
	Key      string    `json:"key"`
	JudgedAt time.Time `json:"judged_at"`
	Passed   bool      `json:"passed,omitempty"`
	// Signer is [StatementOptions.Signer] as it was then.
	Signer string `json:"signer"`
	// Manifest is the referrer, and Bundle the one blob it refers to beside its empty config.
	Manifest []byte `json:"manifest,omitempty"`
	Bundle   []byte `json:"bundle,omitempty"`
}

// Check returns what is wrong with the record: what it holds must be about its subject, and nothing else.
func (s Stated) Check() error {
	if _, err := oci.ParseDigest(s.Subject.String()); err != nil {
		return err
	}
	if s.Repository == (oci.Repository{}) || s.Key == "" || s.At.IsZero() || s.JudgedAt.IsZero() {
		return errors.New("it does not say which verdict it is about")
	}
	if s.silent() {
		return nil
	}
	m, err := oci.ParseManifest(oci.MediaTypeImage, s.Manifest)
	if err != nil {
		return err
	}
	if m.Subject == nil || m.Subject.Digest != s.Subject {
		return fmt.Errorf("its manifest is not about %s", s.Subject)
	}
	for i, blob := range s.artifact().Blobs {
		if listed := m.Blobs(); len(listed) != 2 || listed[i].Digest != oci.FromBytes(blob) {
			return errors.New("its manifest does not refer to its bundle")
		}
	}
	return nil
}

// silent reports whether it takes back what was said before and says nothing.
func (s Stated) silent() bool { return len(s.Manifest) == 0 && len(s.Bundle) == 0 }

func (s Stated) artifact() oci.Artifact { return artifactOf(s.Manifest, s.Bundle) }

// entry is what is remembered of a record: everything but what was said.
type entry struct {
	// name is that of the record in the journal.
	name         string
	at, judgedAt time.Time
	key, signer  string
	passed       bool
	silent       bool
}

func (s Stated) entry(name string) entry {
	return entry{name: name, at: s.At, judgedAt: s.JudgedAt, key: s.Key, signer: s.Signer, passed: s.Passed, silent: s.silent()}
}

// replaces reports whether e counts rather than other, whatever the order in which they came to be known.
func (e entry) replaces(other entry) bool {
	return e.at.After(other.at) || e.at.Equal(other.at) && e.name > other.name
}

// states reports whether e says, in signer's words, what there is to say of v.
func (e entry) states(v gate.Verdict, signer string) bool {
	return !e.silent && e.key == v.Key && e.passed == v.Passed() && e.signer == signer && !e.judgedAt.Before(v.JudgedAt)
}
