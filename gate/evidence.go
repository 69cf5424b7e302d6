package gate

import (
	"fmt"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Severity is how bad a finding is, as the best source for the package rates it. The zero value is unrated, which counts as low.
type Severity int

// Severities, in ascending order.
const (
	Unrated Severity = iota
	Low
	Medium
	High
	Critical
)

var severityNames = [...]string{"unrated", "low", "medium", "high", "critical"}

// String returns the severity's name in lower case.
func (s Severity) String() string {
	if s < 0 || int(s) >= len(severityNames) {
		return fmt.Sprintf("severity(%d)", int(s))
	}
	return severityNames[s]
}

// MarshalText implements encoding.TextMarshaler.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; an unknown name is refused.
func (s *Severity) UnmarshalText(text []byte) error {
	for i, name := range severityNames {
		if name == string(text) {
			*s = Severity(i)
			return nil
		}
	}
	return fmt.Errorf("unknown severity %q", text)
}

// Finding is an advisory that matches a package of the image.
type Finding struct {
	// ID is the advisory's name, a CVE number where there is one.
	ID       string   `json:"id"`
	Package  Package  `json:"package"`
	Path     string   `json:"path"`
	Severity Severity `json:"severity"`
	// FixedVersion is the first version that is not affected; empty when there is none yet.
	FixedVersion string `json:"fixed_version,omitempty"`
	// Status is what the source says of a finding without a fix: "affected", "will_not_fix", "end_of_life"; may be empty.
	Status string `json:"status,omitempty"`
	// CVSS is the vector of the best source that has one, "CVSS:3.1/AV:N/…"; empty when none does. Score is its base score.
	CVSS  string  `json:"cvss,omitempty"`
	Score float64 `json:"score,omitempty"`
	// Source is the part of the advisory data the finding is from: "debian 12", "npm".
	Source string `json:"source"`
	// Title is one line of what is wrong; may be empty.
	Title string `json:"title,omitempty"`
	// Published is when the vulnerability became known, UTC; zero when the data does not say.
	Published time.Time `json:"published,omitzero"`
}

// GapKind says in what way something stayed unexamined. Policies tolerate gaps by this name, so it is a closed set.
type GapKind string

// The kinds of gaps.
const (
	GapUnreadableLayer   GapKind = "unreadable-layer"   // truncated, corrupt or not what its media type says
	GapUnknownMediaType  GapKind = "unknown-media-type" // a layer of a type we cannot look into
	GapEncryptedLayer    GapKind = "encrypted-layer"
	GapUnreadablePackage GapKind = "unreadable-package" // a package database or archive that could not be read
	GapUnresolvedLink    GapKind = "unresolved-link"    // a package database behind a link we do not follow
	GapLimit             GapKind = "limit"              // larger, deeper or slower than we examine
	GapScanner           GapKind = "scanner"            // the worker that reads layers died
	GapNoAdvisories      GapKind = "no-advisories"      // there is no advisory data, or none for this distribution
	GapStaleAdvisories   GapKind = "stale-advisories"   // the advisory data is older than allowed
	GapUnknownVersion    GapKind = "unknown-version"    // a version that could not be compared with an advisory's
	GapConfig            GapKind = "config"             // an image config that could not be read or contradicts the layers
	GapUnscannedFile     GapKind = "unscanned-file"     // a file that the malware scanner says it could not look into
)

// GapKinds returns every kind, for whoever checks names.
func GapKinds() []GapKind {
	return []GapKind{
		GapUnreadableLayer, GapUnknownMediaType, GapEncryptedLayer, GapUnreadablePackage, GapUnresolvedLink,
		GapLimit, GapScanner, GapNoAdvisories, GapStaleAdvisories, GapUnknownVersion, GapConfig, GapUnscannedFile,
	}
}

// Gap is something that could not be examined, and why. It denies unless the policy tolerates its kind by name.
type Gap struct {
	Kind GapKind `json:"kind"`
	// Layer is the layer concerned; empty when it is the image as a whole.
	Layer oci.Digest `json:"layer,omitempty"`
	// Path is the file concerned; may be empty.
	Path string `json:"path,omitempty"`
	// Why is a sentence for a person. It may quote what the image's author wrote, bounded and escaped.
	Why string `json:"why"`
}

// Signature is a checked statement of who signed a manifest. Something that did not verify is never one.
type Signature struct {
	// Authority is the name, in the trust files, of who signed.
	Authority string `json:"authority"`
	// Format is how the signature was stored: "cosign-legacy", "sigstore-bundle".
	Format string `json:"format"`
	// Signer identifies the key or identity beyond the authority's name: the fingerprint of a public key, the subject of a certificate.
	Signer string `json:"signer"`
	// Issuer is who vouched for the identity; empty for a key.
	Issuer string `json:"issuer,omitempty"`
	// SignedAt is when it was made, UTC, by the word of a log or time stamp service that is trusted; zero when none says so.
	SignedAt time.Time `json:"signed_at,omitzero"`
	// Manifest is the digest of the manifest the signature was found in.
	Manifest oci.Digest `json:"manifest"`
	// Inherited is the index whose signature covers this manifest; empty when the manifest itself is signed.
	Inherited oci.Digest `json:"inherited,omitempty"`
	// Until is when the signature stops counting because its key does, UTC, exclusive; the zero time is never.
	Until time.Time `json:"until,omitzero"`
}

// Rejection is something offered as a signature or attestation that does not count, and why. It is for people; nothing is decided by it.
type Rejection struct {
	Manifest oci.Digest `json:"manifest"`
	Format   string     `json:"format"`
	Why      string     `json:"why"`
}

// SignatureEvidence is what looking for signatures and attestations of one manifest found. Empty means unsigned, which is a fact; not having been
// able to look is an error and never becomes this.
type SignatureEvidence struct {
	// Signatures is sorted by authority, then manifest.
	Signatures []Signature `json:"signatures,omitempty"`
	// Attestations is sorted by predicate type, authority, then manifest.
	Attestations []Attestation `json:"attestations,omitempty"`
	// VEX is sorted by authority, then manifest.
	VEX        []VEX       `json:"vex,omitempty"`
	Rejections []Rejection `json:"rejections,omitempty"`
}

// Evidence is everything that is known of a candidate when it is decided upon.
type Evidence struct {
	Candidate Candidate
	Manifest  oci.Manifest
	// FirstSeen is when the candidate was first seen here, UTC; zero when that is not known, and then it is of no age.
	FirstSeen time.Time
	// SizeBytes is the size of the manifest itself.
	SizeBytes int64
	SignatureEvidence
	// LookedAt is when signatures were looked for, UTC; zero when they were not.
	LookedAt time.Time
	// OnlyStatements says that every layer was read and is a signature or attestation, JSON that no runtime unpacks. Such a
	// manifest needs no signature of its own.
	OnlyStatements bool
	// ConfigExamined says that the config was read, where there is one to read: Config is then what it says, or there is a gap. Until
	// then it counts as unknown, and a policy that asks for it denies.
	ConfigExamined bool
	// Config is nil when it was not read, could not be, or is none of an image.
	Config *ImageConfig
	// ConfigSecrets are the secrets in Config, if the policy looks for them; Path says where in it.
	ConfigSecrets []Secret
	// Examined says that the content of the layers is known: Inventory, Findings and Gaps are then complete. Until then they
	// count as unknown, and a policy that asks for them denies.
	Examined  bool
	Inventory Inventory
	// EndOfLife is when the distribution is no longer mended, UTC; zero when nobody knows, or the policy does not ask.
	EndOfLife time.Time
	// Findings is sorted by severity, highest first, then by ID, package and path.
	Findings []Finding
	Gaps     []Gap
	// Looked says what, besides packages, was looked for. What is not in it was not found for want of looking.
	Looked Look
	// SecretGaps are what could not be searched for secrets, where only these are asked for and only warned of; else it is in Gaps.
	SecretGaps []Gap
	Malware    MalwareEvidence
}
