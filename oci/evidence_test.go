package oci

import "testing"

func TestParseEvidenceTag(t *testing.T) {
	for _, tt := range []struct {
		law, tag string
		want     EvidenceTag
		lists    bool
	}{
		{"the list of referrers", "sha256-" + hexA, EvidenceTag{digestA, ""}, true},
		{"signatures", "sha256-" + hexA + ".sig", EvidenceTag{digestA, ".sig"}, false},
		{"attestations", "sha256-" + hexA + ".att", EvidenceTag{digestA, ".att"}, false},
		{"an inventory", "sha256-" + hexA + ".sbom", EvidenceTag{digestA, ".sbom"}, false},
		{"another suffix", "sha256-" + hexA + ".vex", EvidenceTag{}, false},
		{"two suffixes", "sha256-" + hexA + ".sig.sig", EvidenceTag{}, false},
		{"a suffix alone", ".sig", EvidenceTag{}, false},
		{"a short hash", "sha256-aa", EvidenceTag{}, false},
		{"a hash in upper case", "sha256-A" + hexA[1:], EvidenceTag{}, false},
		{"an algorithm that is not read", "sha512-" + hexA + hexA, EvidenceTag{}, false},
		{"a digest", string(digestA), EvidenceTag{}, false},
		{"something in front", "v1-sha256-" + hexA, EvidenceTag{}, false},
		{"a line break", "sha256-" + hexA + "\n", EvidenceTag{}, false},
		{"nothing", "", EvidenceTag{}, false},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got, ok := ParseEvidenceTag(tt.tag)
			if got != tt.want || ok != (tt.want != EvidenceTag{}) || got.Lists() != tt.lists {
				t.Errorf("got %+v, %t, lists %t; want %+v, lists %t", got, ok, got.Lists(), tt.want, tt.lists)
			}
			if ok && got.String() != tt.tag {
				t.Errorf("written again it is %q", got.String())
			}
		})
	}
}
