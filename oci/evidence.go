package oci

import "strings"

// EvidenceTag is a tag under which clients keep what they have to say about a manifest: the list of its referrers, for registries that
// make none (distribution-spec, Referrers Tag Schema), or as cosign does, its signatures, attestations and inventories. The zero value
// is no such tag.
type EvidenceTag struct {
	// Subject is the manifest it is about.
	Subject Digest
	// Suffix is one of [EvidenceSuffixes]; empty for the list of referrers.
	Suffix string
}

// EvidenceSuffixes returns what ends the tags of signatures, attestations and inventories.
func EvidenceSuffixes() []string { return []string{".sig", ".att", ".sbom"} }

// ParseEvidenceTag reports whether tag is an evidence tag, and of what.
func ParseEvidenceTag(tag string) (EvidenceTag, bool) {
	name, suffix := tag, ""
	for _, s := range EvidenceSuffixes() {
		if rest, ok := strings.CutSuffix(tag, s); ok {
			name, suffix = rest, s
		}
	}
	algorithm, hash, _ := strings.Cut(name, "-")
	d, err := ParseDigest(algorithm + ":" + hash)
	if err != nil {
		return EvidenceTag{}, false
	}
	return EvidenceTag{Subject: d, Suffix: suffix}, true
}

// String returns the tag as clients write it: "sha256-<hex>.sig".
func (t EvidenceTag) String() string {
	return t.Subject.Algorithm().String() + "-" + t.Subject.Encoded() + t.Suffix
}

// Lists reports whether the tag stands for a list of referrers.
func (t EvidenceTag) Lists() bool { return t.Subject != "" && t.Suffix == "" }
