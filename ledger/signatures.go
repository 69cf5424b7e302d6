package ledger

import (
	"context"
	"fmt"
	"path"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

var _ gate.SignatureRecords = (*Ledger)(nil)

// signaturesDir ends the path of what was found of a repository's signatures, as verdictsDir that of its verdicts.
const signaturesDir = "_s"

// signaturesPath returns where it lies what was found of c's signatures. There is one record for each candidate: a later look says
// more about it than an earlier one, and each carries its time, so that of two replicas it does not matter who is last.
func signaturesPath(c gate.Candidate) (string, error) {
	if !oci.ValidPath(c.Repository.Escaped()) {
		return "", fmt.Errorf("repository %.100q: %w", c.Repository.String(), oci.ErrNameInvalid)
	}
	if _, err := oci.ParseDigest(c.Digest.String()); err != nil {
		return "", err
	}
	return path.Join(root, "signatures", c.Repository.Escaped(), signaturesDir, c.Digest.Encoded()), nil
}

// KeptSignatures implements gate.SignatureRecords. What is not believed counts as never kept, so that it is looked for again.
func (l *Ledger) KeptSignatures(ctx context.Context, c gate.Candidate) (gate.KeptSignatures, bool, error) {
	at, err := signaturesPath(c)
	if err != nil {
		return gate.KeptSignatures{}, false, fmt.Errorf("looking up signatures: %w", err)
	}
	kept, err := read[gate.KeptSignatures](ctx, l, at, l.limits.verdict)
	if err == nil && kept.Candidate != c { // names that differ in how a port is written share a directory
		return gate.KeptSignatures{}, false, nil
	}
	switch {
	case err == nil:
		return kept, true, nil
	case isAbsent(err):
		return gate.KeptSignatures{}, false, nil
	case isBroken(err):
		l.brokenEvents.Add(1)
		l.log.WarnContext(ctx, "kept signatures are not believed, they will be looked for again", "candidate", c.String(), "err", err)
		return gate.KeptSignatures{}, false, nil
	}
	return gate.KeptSignatures{}, false, fmt.Errorf("looking up the signatures of %s: %w", c, err)
}

// KeepSignatures implements gate.SignatureRecords. They must fit what a verdict may take, of which they become a part.
func (l *Ledger) KeepSignatures(ctx context.Context, kept gate.KeptSignatures) error {
	at, err := signaturesPath(kept.Candidate)
	if err != nil {
		return fmt.Errorf("keeping signatures: %w", err)
	}
	plain, err := encode(kept, l.limits.verdict)
	if err == nil {
		err = l.write(ctx, at, plain, l.limits.verdict)
	}
	if err != nil {
		return fmt.Errorf("keeping the signatures of %s: %w", kept.Candidate, err)
	}
	return nil
}
