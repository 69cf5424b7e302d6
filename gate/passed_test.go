package gate_test

import (
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Only an admission after everything was looked into, and with nothing to warn of, has passed.
func TestPassed(t *testing.T) {
	for name, tt := range map[string]struct {
		policy   func(*gate.Policy)
		evidence func(*gate.Evidence)
		want     bool
	}{
		"admitted":                 {want: true},
		"denied":                   {evidence: func(e *gate.Evidence) { e.Signatures = nil }},
		"denied before a look":     {evidence: func(e *gate.Evidence) { e.Signatures, e.Examined = nil, false }},
		"no look":                  {evidence: func(e *gate.Evidence) { e.Examined = false }},
		"let through with warning": {policy: func(p *gate.Policy) { p.Mode = gate.Warn }, evidence: func(e *gate.Evidence) { e.Signatures = nil }},
		"nothing to warn of":       {policy: func(p *gate.Policy) { p.Mode = gate.Warn }, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			p, e := strict(t), clean()
			if tt.policy != nil {
				tt.policy(&p)
			}
			if tt.evidence != nil {
				tt.evidence(&e)
			}
			if got := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon); got.Passed() != tt.want {
				t.Errorf("%s, complete %t, warnings %v: got %t, want %t", got.Decision, got.Complete, got.Warnings, got.Passed(), tt.want)
			}
		})
	}
	if (gate.Verdict{}).Passed() {
		t.Error("the zero verdict has passed")
	}
}

// A verdict says what its manifest is to others.
func TestAttached(t *testing.T) {
	signature := oci.Descriptor{MediaType: oci.MediaTypeSigstoreBundle, Digest: digestOf("bundle"), Size: 10}
	for name, tt := range map[string]struct {
		manifest oci.Manifest
		want     bool
	}{
		"an image":                {imageOf(layerOf("layer", 100)), false},
		"an image with signature": {imageOf(layerOf("layer", 100), signature), false},
		"signatures":              {imageOf(signature), true},
		"an inventory":            {oci.Manifest{MediaType: oci.MediaTypeImage, Subject: &signature, Layers: []oci.Descriptor{layerOf("sbom", 1)}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := clean()
			e.Manifest, e.SizeBytes = tt.manifest, 321
			got := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{strict(t)}}, e, noon)
			if got.Attached != tt.want || got.SizeBytes != 321 {
				t.Errorf("got %t, %d bytes", got.Attached, got.SizeBytes)
			}
		})
	}
}
