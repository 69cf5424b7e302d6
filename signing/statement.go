package signing

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Types in the frame of what cosign signs (in-toto attestation framework, spec/v1/statement.md; cosign, bundle signing).
const (
	payloadTypeInToto = "application/vnd.in-toto+json"
	statementType     = "https://in-toto.io/Statement/v1"
	// statementTypeOld is what cosign's legacy attestations, and older provenance, state. Their frame is the same.
	statementTypeOld = "https://in-toto.io/Statement/v0.1"
	// predicateTypeSignature is what makes a statement a signature. Every other predicate says something about an image: an SBOM,
	// a provenance, a failed verification. None of them says that the signer wants it run.
	predicateTypeSignature = "https://sigstore.dev/cosign/sign/v1"
)

// statement is the frame of an in-toto statement. What it says of its subjects, the predicate, is left as it was written.
type statement struct {
	statementType string
	predicateType string
	predicate     json.RawMessage
	// subjects are the sha256 digests of the artifacts it is about.
	subjects [][sha256.Size]byte
}

// parseStatement reads the frame of a statement strictly. The predicate may be missing, as some versions of cosign leave it out.
func parseStatement(payload []byte) (statement, error) {
	top, err := members(payload, "_type", "subject", "predicateType", "predicate")
	if err != nil {
		return statement{}, fmt.Errorf("the statement: %w", err)
	}
	s := statement{predicate: top["predicate"]}
	if s.statementType, err = text(top["_type"]); err != nil {
		return statement{}, fmt.Errorf("the statement's _type: %w", err)
	}
	if s.predicateType, err = text(top["predicateType"]); err != nil {
		return statement{}, fmt.Errorf("the statement's predicateType: %w", err)
	}
	if s.subjects, err = parseSubjects(top["subject"]); err != nil {
		return statement{}, fmt.Errorf("the statement's subject: %w", err)
	}
	return s, nil
}

func parseSubjects(raw json.RawMessage) ([][sha256.Size]byte, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, errors.New("not a list")
	}
	if len(list) > maxSubjects {
		return nil, fmt.Errorf("%d artifacts, at most %d are read", len(list), maxSubjects)
	}
	var digests [][sha256.Size]byte
	for _, raw := range list {
		subject, err := members(raw, "name", "digest")
		if err != nil {
			return nil, err
		}
		byAlgorithm, err := members(subject["digest"], "sha256")
		if err != nil {
			return nil, fmt.Errorf("its digest: %w", err)
		}
		if _, ok := byAlgorithm["sha256"]; !ok {
			continue // named by another algorithm, which says nothing about a manifest we know by its sha256
		}
		value, err := text(byAlgorithm["sha256"])
		if err != nil {
			return nil, fmt.Errorf("its sha256: %w", err)
		}
		sum, err := hex.DecodeString(value) // of either case: the same bytes
		if err != nil || len(sum) != sha256.Size {
			return nil, fmt.Errorf("its sha256 %.80q is none", value)
		}
		digests = append(digests, [sha256.Size]byte(sum))
	}
	return digests, nil
}

// isSignature reports whether s is, by its kind, a signature and not an attestation.
func (s statement) isSignature() bool { return s.predicateType == predicateTypeSignature }

// checkSignature reports, as an error, why s is no signature of the manifest d.
func (s statement) checkSignature(d oci.Digest) error {
	switch {
	case !s.isSignature():
		return fmt.Errorf("it is an attestation of type %.120q, which is not a signature", s.predicateType)
	case s.statementType != statementType:
		return fmt.Errorf("its statement is of the unknown type %.120q", s.statementType)
	}
	return s.checkSubject(d)
}

// checkAttestation reports, as an error, why s says nothing of the manifest d.
func (s statement) checkAttestation(d oci.Digest) error {
	switch {
	case s.statementType != statementType && s.statementType != statementTypeOld:
		return fmt.Errorf("its statement is of the unknown type %.120q", s.statementType)
	case !bytes.HasPrefix(s.predicate, []byte("{")):
		return errors.New("its predicate is not a JSON object")
	}
	return s.checkSubject(d)
}

func (s statement) checkSubject(d oci.Digest) error {
	if len(s.subjects) == 0 {
		return errors.New("its statement names no artifact by sha256")
	}
	if !slices.Contains(s.subjects, sum(d)) {
		return errors.New("its statement is about other artifacts")
	}
	return nil
}

// sum returns the bytes of a digest that came from [oci.ParseDigest].
func sum(d oci.Digest) [sha256.Size]byte {
	var b [sha256.Size]byte
	_, _ = hex.Decode(b[:], []byte(d.Encoded())) // 64 hexadecimal digits, by ParseDigest
	return b
}
