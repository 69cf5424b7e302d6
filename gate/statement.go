package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/tidewaiter/tidewaiter/oci"
)

// maxStatementBytes bounds a layer that is read to see whether it is a signature or attestation. The largest in the wild are SBOM
// attestations of some megabytes.
const maxStatementBytes = 16 << 20

// maxStatements bounds the layers of a manifest of signatures, one per signature.
const maxStatements = 64

// maxStatementsAtOnce bounds the manifests of signatures that are looked into at the same time, and so the memory for it.
const maxStatementsAtOnce = 4

// statementKeys are, for each type of statement, the keys one has. Signers write no others that a check here could miss.
var statementKeys = map[string][]string{
	oci.MediaTypeSimpleSigning:  {"critical"},
	oci.MediaTypeDSSE:           {"payload", "payloadType", "signatures"},
	oci.MediaTypeSigstoreBundle: {"mediaType", "verificationMaterial"},
	oci.MediaTypeBundle01:       {"mediaType", "verificationMaterial"},
	oci.MediaTypeBundle02:       {"mediaType", "verificationMaterial"},
	oci.MediaTypeJWS:            {"payload", "protected", "signature"},
}

// onlyStatements reports whether every layer of m is the signature or attestation its media type claims, and its config a JSON
// document. What a manifest claims counts for nothing until it has been read: an image behind the media types of signatures is an
// image, and so is one whose layers can be read both as JSON and as something a runtime unpacks.
func (g *Gate) onlyStatements(ctx context.Context, c Candidate, m oci.Manifest) (bool, error) {
	if len(m.Layers) > maxStatements {
		return false, nil
	}
	select {
	case g.statements <- struct{}{}:
		defer func() { <-g.statements }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	for i, d := range m.Blobs() {
		limit := int64(maxStatementBytes)
		if i == 0 {
			limit = maxConfigBytes
		}
		if d.Size > limit {
			return false, nil
		}
		body, err := g.readBlob(ctx, c, d, limit)
		if err != nil {
			return false, err
		}
		if i > 0 && d.MediaType == oci.MediaTypeCOSE {
			if !isCOSE(body) {
				return false, nil
			}
			continue
		}
		if !isDocument(body) || i > 0 && !hasKeys(body, statementKeys[d.MediaType]) {
			return false, nil
		}
	}
	return true, nil
}

// readBlob reads a small blob of c whole.
func (g *Gate) readBlob(ctx context.Context, c Candidate, d oci.Descriptor, limit int64) ([]byte, error) {
	r, err := g.o.Bytes.Open(ctx, c, d)
	if err != nil {
		return nil, err
	}
	body, err := oci.ReadBounded(r, limit)
	return body, errors.Join(err, r.Close())
}

// isDocument reports whether body is a JSON object and nothing that a runtime would unpack.
func isDocument(body []byte) bool {
	return bytes.HasPrefix(body, []byte("{")) && !isTar(body) && json.Valid(body)
}

// coseSign1 is how a signature in COSE begins: the tag of one, and a list of four (RFC 9052, section 4.2).
var coseSign1 = []byte{0xd2, 0x84}

// isCOSE reports whether body begins like a signature in COSE and is nothing that a runtime would unpack.
func isCOSE(body []byte) bool { return bytes.HasPrefix(body, coseSign1) && !isTar(body) }

// hasKeys reports whether the JSON object body has all of keys, of which there is at least one.
func hasKeys(body []byte, keys []string) bool {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil {
		return false
	}
	for _, k := range keys {
		if _, ok := object[k]; !ok {
			return false
		}
	}
	return len(keys) > 0
}

// Where the header of a tar archive has the sum of its bytes (POSIX 1003.1-1988, ustar; older archives agree).
const (
	tarHeaderBytes = 512
	tarSumFrom     = 148
	tarSumUntil    = 156
)

// isTar reports whether body begins with a tar header, which is known by its sum alone. A text can be made to be one.
func isTar(body []byte) bool {
	if len(body) < tarHeaderBytes {
		return false
	}
	var unsigned, signed int64
	for i, b := range body[:tarHeaderBytes] {
		if i >= tarSumFrom && i < tarSumUntil {
			b = ' ' // the sum itself counts as blanks
		}
		unsigned, signed = unsigned+int64(b), signed+int64(int8(b)) // some archivers took bytes for signed
	}
	sum, err := strconv.ParseInt(string(bytes.Trim(body[tarSumFrom:tarSumUntil], " \x00")), 8, 64)
	return err == nil && (sum == unsigned || sum == signed)
}
