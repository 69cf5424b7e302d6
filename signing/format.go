package signing

import (
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/tidewaiter/tidewaiter/gate"
)

// format is one way in which signatures are stored and what they sign. Implementations hold no state.
type format interface {
	// name is how evidence calls the format.
	name() string
	// maxBytes bounds one layer of the format.
	maxBytes() int64
	// read returns what the layer o, whose verified content is body, claims. An error says why it cannot be a signature of s, or an
	// attestation that is looked for, in a clause for a person; it may quote the signer.
	read(s subject, o offer, body []byte) (claim, error)
}

// formats maps the media type of a layer to the format it is read by. It is the table to add a format to.
var formats = map[string]format{
	mediaTypePayload:  legacy{},
	mediaTypeBundle:   bundled{},
	mediaTypeBundle02: bundled{},
	mediaTypeBundle01: bundled{},
	mediaTypeEnvelope: enveloped{},
	mediaTypeJWS:      notarized{mediaTypeJWS},
	mediaTypeCOSE:     notarized{mediaTypeCOSE},
}

// artifactTypes are the types of referrers that hold signatures. A referrer of another type is somebody else's; one that states no
// type, as lists written by some clients do, is opened to see.
var artifactTypes = map[string]bool{
	mediaTypeBundle:            true,
	mediaTypeBundle02:          true,
	mediaTypeBundle01:          true,
	artifactTypeStatement:      true,
	artifactTypeNotation:       true,
	artifactTypeLegacyReferrer: true,
	mediaTypeEmpty:             true,
	"":                         true,
}

// subject is the image whose signatures are looked for.
type subject struct {
	gate.Candidate
	// names are the names of its repository by which a signer may have known it.
	names []string
	// MediaType and SizeBytes are those of its manifest.
	MediaType string
	SizeBytes int64
	// attested reports whether attestations of a type are looked for.
	attested func(predicateType string) bool
}

// claim is a signature that has been read and not been believed: it says of the right image what a signature says, and whether
// somebody we trust says so is for [speaker.made] to find out. It is used by one goroutine only.
type claim struct {
	// keyed is what a key can have signed, without all that a key's signature does not need; nil if it is signed with a certificate.
	keyed verify.SignedEntity
	// certified is what the key of a certificate can have signed, leaf what the certificate says; nil if it has none that can be
	// read, and uncertified is then why, or nil if it has none at all.
	certified   verify.SignedEntity
	leaf        certificate.Summary
	uncertified error
	// notarized is what was signed with notation; nil if it was signed otherwise.
	notarized *notarizedClaim
	// artifact returns what the entity must be about. It is called for every check, because the library reads it up.
	artifact func() verify.ArtifactPolicyOption
	// predicateType is what a signed statement must turn out to be once verified; empty when the entity holds no statement.
	predicateType string
	// statement and predicate are what an attestation says; nil for a signature.
	statement, predicate []byte
}
