// Package gate owns verdicts: it is the one place where it is decided whether a manifest may be served.
//
// [Gate.Judge] gathers evidence of a candidate through the interfaces below, calls the pure [Decide], records the verdict,
// remembers it, and releases or withdraws the bytes. It promises that nothing becomes an admission but a decision to allow: not
// an error, not a timeout, not an unexamined layer. It must not know HTTP, databases, files, scanners or the time of day, which
// all come in from outside.
package gate

import (
	"context"
	"io"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Bytes fetches and keeps what is judged. Implementations are safe for concurrent use.
type Bytes interface {
	// Hold returns the manifest of c, fetching it first if it is not held, and only if it has c's digest.
	// Errors: oci.ErrNotFound, oci.ErrManifestInvalid, oci.ErrUnauthorized, oci.ErrRateLimited, oci.ErrUnavailable.
	Hold(ctx context.Context, c Candidate) (Held, error)
	// Open reads a blob that c's manifest refers to, while it is being fetched if it is not held. The last byte comes only when
	// all of them proved to be desc's, and are stored. Whoever closes early does not stop the fetch.
	// Errors: as Hold, oci.ErrBlobUnknown, oci.ErrMismatch.
	Open(ctx context.Context, c Candidate, desc oci.Descriptor) (io.ReadCloser, error)
}

// Releases decides which held bytes can be served. Implementations are safe for concurrent use.
type Releases interface {
	// Release makes servable what v allows. It refuses, with an error, a verdict that does not allow.
	Release(ctx context.Context, v Verdict) error
	// Withdraw makes c unservable at once. When drop is set its bytes go too, as far as nothing else holds them.
	Withdraw(ctx context.Context, c Candidate, drop bool) error
}

// Scanner reads layers. Implementations are safe for concurrent use.
type Scanner interface {
	// ReadLayer returns what is in the layer r streams, secrets too if look says so. What cannot be read is a gap in the result; an
	// error means that the attempt failed for a reason outside the layer (r's errors among them), and says nothing about it.
	ReadLayer(ctx context.Context, layer oci.Descriptor, r io.Reader, look Look) (LayerInventory, error)
}

// Malware looks into layers for what signatures of malware fit. Implementations are safe for concurrent use.
type Malware interface {
	// Database identifies the signatures in use, as last heard; empty when that is not known.
	Database() string
	// FindMalware returns what is in the layer r streams, with Database, At and FileBytes set. A file that cannot be looked into is a
	// gap in the result; an error means that the attempt failed for a reason outside the layer, and says nothing about it.
	FindMalware(ctx context.Context, layer oci.Descriptor, r io.Reader) (LayerMalware, error)
}

// Advisories matches packages against what is known to be bad. Implementations are safe for concurrent use.
type Advisories interface {
	// Snapshot returns the identity of the data Match would use now; the zero Snapshot when there is none.
	Snapshot() Snapshot
	// Match returns the findings of inv by the data of snapshot, sorted as [Evidence.Findings], and what could not be matched.
	// It fails when snapshot is no longer the data in use.
	Match(ctx context.Context, snapshot Snapshot, inv Inventory) ([]Finding, []Gap, error)
}

// Signatures checks who signed and who attested what. Implementations are safe for concurrent use.
type Signatures interface {
	// Revision identifies the trust roots in use.
	Revision() string
	// Verify looks for what is wanted of c and checks it. What does not verify is a Rejection; an error means that looking was not
	// possible, and never that there is no signature. Nothing in the evidence is shared with a later caller.
	Verify(ctx context.Context, c Candidate, wanted Wanted) (SignatureEvidence, error)
}

// Attachments knows what was attached to a candidate where that changes without anything else changing that a verdict depends on: in
// the repositories hosted here, whose signatures are pushed after the images. Implementations are safe for concurrent use.
type Attachments interface {
	// Attachments identifies the signatures, attestations and indexes that c's verdict may lean on, as they are now. When they change
	// and are then as they were before it is another revision, or what a judging saw between two looks would go unnoticed. Empty where
	// that cannot be known without asking somebody else; verdicts that lean on a missing one then count for a short time only.
	Attachments(ctx context.Context, c Candidate) (revision string, err error)
}

// Policies gives the policies in force. Implementations are safe for concurrent use.
type Policies interface {
	// Current returns the policies and waivers in force now. It is never nil and never modified.
	Current() *PolicySet
}

// Verdicts remembers verdicts. Forgetting one costs time, not safety. Implementations are safe for concurrent use.
type Verdicts interface {
	// Get returns the verdict remembered for key. ok is false for none, for one that was tampered with, and for any failure.
	Get(ctx context.Context, key Key) (v Verdict, ok bool)
	// Put remembers v until v.Until.
	Put(ctx context.Context, key Key, v Verdict) error
}

// Inventories keeps what layers were found to hold, durably. Implementations are safe for concurrent use.
type Inventories interface {
	// Inventory returns the inventory of layer. ok is false when it was never recorded in this [InventoryFormat].
	Inventory(ctx context.Context, layer oci.Digest) (inv LayerInventory, ok bool, err error)
	// RecordInventory keeps inv. When it returns nil a restart does not lose it.
	RecordInventory(ctx context.Context, inv LayerInventory) error
}

// Records keeps every verdict, durably. Implementations are safe for concurrent use.
type Records interface {
	// RecordVerdict appends v to the history of its candidate. When it returns nil a restart does not lose it.
	RecordVerdict(ctx context.Context, v Verdict) error
	// Verdict returns the last verdict recorded about c under key.
	Verdict(ctx context.Context, c Candidate, key Key) (v Verdict, ok bool, err error)
	// Parents returns the indexes of c's repository, once admitted, that list c.
	Parents(ctx context.Context, c Candidate) ([]Candidate, error)
}
