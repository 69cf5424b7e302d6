package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Candidate is a manifest that asks to be let through: image, index, child of an index, signature, chart. The tag it was asked
// for by is no part of it: a tag moves, a verdict does not.
type Candidate struct {
	Repository oci.Repository
	Digest     oci.Digest
}

// String returns the candidate as a reference by digest.
func (c Candidate) String() string { return c.Repository.String() + "@" + c.Digest.String() }

// Snapshot identifies the advisory data findings were matched against. The zero value is the absence of data.
type Snapshot struct {
	// ID is the digest of the data, or empty when there is none.
	ID string
	// UpdatedAt is when its publisher built it, UTC.
	UpdatedAt time.Time
	// Until is when it is too old to count, UTC, exclusive; the zero time is never.
	Until time.Time
}

// keyFormat changes whenever the same inputs could lead to another verdict because the code that makes it has changed.
const keyFormat = "tidewaiter-verdict-5"

// Key identifies a verdict by everything that went into it. New inputs are a new key, so no remembered verdict is ever
// invalidated: it is simply not asked for again.
type Key [sha256.Size]byte

// String returns the key in hexadecimal.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// Inputs are what a verdict depends on besides the candidate's own content, taken at one moment.
type Inputs struct {
	Candidate Candidate
	Policies  *PolicySet
	Snapshot  Snapshot
	// Roots is the revision of the trust roots signatures are checked against.
	Roots string
	// Attached is what [Attachments] says of the candidate; empty where nobody knows.
	Attached string
	// MaxImageBytes is [Options.MaxImageBytes]: an image beyond it has a gap.
	MaxImageBytes int64
	// MalwareFileBytes is [Options.MalwareFileBytes]: a larger file is a gap to whoever asks for malware.
	MalwareFileBytes int64
}

// Key returns the identity of the verdict these inputs lead to.
func (in Inputs) Key() Key {
	h := sha256.New()
	for _, term := range []string{
		keyFormat, in.Candidate.Repository.String(), in.Candidate.Digest.String(),
		in.Policies.Revision, in.Policies.WaiverRevision, in.Snapshot.ID, in.Snapshot.Until.UTC().Format(time.RFC3339), in.Roots,
		in.Attached, strconv.FormatInt(in.MaxImageBytes, 10), strconv.FormatInt(in.MalwareFileBytes, 10),
	} {
		_, _ = fmt.Fprintf(h, "%d:%s,", len(term), term) // a hash never fails; the length keeps terms apart
	}
	return Key(h.Sum(nil))
}

// Held is a manifest whose bytes lie in quarantine and have the digest they should.
type Held struct {
	Candidate Candidate
	Content   oci.Content
	Manifest  oci.Manifest
}
