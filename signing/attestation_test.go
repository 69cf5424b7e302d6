package signing_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
)

const (
	sbomType   = "https://spdx.dev/Document"
	provenance = "https://slsa.dev/provenance/v1"
	vsaType    = "https://slsa.dev/verification_summary/v1"
)

// saying returns a statement about d with a predicate.
func saying(predicateType, predicate string, d oci.Digest) []byte {
	return []byte(strings.Replace(string(statementOf(predicateType, d)), `"predicate":{}`, `"predicate":`+predicate, 1))
}

// attest looks for SBOM attestations, of which b's image is offered some, by authorities.
func (b *bench) attest(t testing.TB, wanted gate.Wanted) gate.SignatureEvidence {
	t.Helper()
	v, err := signing.New(b.options)
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.Verify(t.Context(), b.candidate(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func sboms(authorities ...string) gate.Wanted {
	return gate.Wanted{Attestations: map[string][]string{sbomType: authorities}}
}

// underAtt puts a legacy attestation under the image's .att tag, or several.
func (b *bench) underAtt(t testing.TB, layers ...blob) oci.Digest {
	t.Helper()
	m := holder("", "", layers...)
	m.Config.MediaType = oci.MediaTypeConfig
	return b.tag(t, b.repo, b.attTag(), m, layers...)
}

// envelopeLayer returns a statement in an envelope signed with a key, as the layer of a legacy attestation.
func envelopeLayer(t testing.TB, s signer, statement []byte) blob {
	t.Helper()
	e := sealed(t, s, inToto, statement)
	raw := fmt.Appendf(nil, `{"payloadType":%q,"payload":%q,"signatures":[{"keyid":"","sig":%q}]}`, e.PayloadType, e.Payload, e.Signatures[0].Sig)
	l := blobOf(oci.MediaTypeDSSE, raw)
	l.desc.Annotations = map[string]string{"dev.cosignproject.cosign/signature": "", "predicateType": sbomType}
	return l
}

// Attestations are found in every way in which they are stored, by keys and by certificates, and what they say is what was signed.
func TestAttestationFormats(t *testing.T) {
	k := newKeylessBench(t, nil)
	statement := saying(sbomType, `{"spdxVersion": "SPDX-2.3"}`, k.digest)
	old := []byte(strings.Replace(string(statement), "Statement/v1", "Statement/v0.1", 1))
	bundle := k.bundle(t, signedBundle(t, k.release, statement))
	certified := k.sign(t, statement, nil)
	keyless := k.bundle(t, certified.bundle(t))
	legacy := k.underAtt(t, envelopeLayer(t, k.release, old))
	legacyCertified := k.sign(t, old, nil)
	layer := legacyCertified.envelopeLayer(t)
	referrer := k.attach(t, k.repo, k.digest, holder("application/vnd.in-toto+json", k.digest, layer), layer)

	key := k.release.trusted(t).Fingerprint
	at := signedAt().Add(time.Minute)
	attestation := func(by gate.Signature, statement []byte) gate.Attestation {
		return gate.Attestation{By: by, PredicateType: sbomType, Statement: statement, Predicate: []byte(`{"spdxVersion": "SPDX-2.3"}`)}
	}
	byKey := []gate.Attestation{
		attestation(gate.Signature{Authority: "release", Format: "sigstore-bundle", Signer: key, Manifest: bundle}, statement),
		attestation(gate.Signature{Authority: "release", Format: "dsse-envelope", Signer: key, Manifest: legacy}, old),
	}
	byCertificate := []gate.Attestation{
		attestation(gate.Signature{Authority: "actions", Format: "sigstore-bundle", Signer: actionsSubject, Issuer: actionsIssuer, SignedAt: at, Manifest: keyless}, statement),
		attestation(gate.Signature{Authority: "actions", Format: "dsse-envelope", Signer: actionsSubject, Issuer: actionsIssuer, SignedAt: at, Manifest: referrer}, old),
	}
	for _, pair := range [][]gate.Attestation{byKey, byCertificate} {
		if pair[0].By.Manifest > pair[1].By.Manifest {
			pair[0], pair[1] = pair[1], pair[0]
		}
	}
	got := k.attest(t, sboms("release", "actions"))
	if diff := cmp.Diff(got, gate.SignatureEvidence{Attestations: append(byCertificate, byKey...)}); diff != "" {
		t.Error(diff)
	}
	if got := k.attest(t, sboms("actions")); len(got.Attestations) != 2 || len(got.Rejections) != 2 {
		t.Errorf("by one of the authorities: got %v", got)
	}
}

// The signed type of a statement decides what it counts for, and nothing else does.
func TestWhatAttestationsCountFor(t *testing.T) {
	wanted := gate.Wanted{Signatures: []string{"release"}, Attestations: map[string][]string{sbomType: {"release"}}}
	for name, tc := range map[string]struct {
		statement              func(b *bench) []byte
		signatures, statements int
		why                    string
	}{
		"an SBOM":                  {func(b *bench) []byte { return saying(sbomType, "{}", b.digest) }, 0, 1, ""},
		"a signature":              {func(b *bench) []byte { return statementOf(signPredicate, b.digest) }, 1, 0, ""},
		"another type":             {func(b *bench) []byte { return saying(provenance, "{}", b.digest) }, 0, 0, "not a signature"},
		"a type with a slash more": {func(b *bench) []byte { return saying(sbomType+"/", "{}", b.digest) }, 0, 0, "not a signature"},
		"of another image":         {func(b *bench) []byte { return saying(sbomType, "{}", digestOf("other")) }, 0, 0, "other artifacts"},
		"of no image":              {func(b *bench) []byte { return statementOf(sbomType) }, 0, 0, "names no artifact"},
		"without a predicate": {func(b *bench) []byte {
			return []byte(strings.Replace(string(statementOf(sbomType, b.digest)), `,"predicate":{}`, "", 1))
		}, 0, 0, "its predicate is not a JSON object"},
		"predicate a list":          {func(b *bench) []byte { return saying(sbomType, "[]", b.digest) }, 0, 0, "its predicate is not a JSON object"},
		"predicate null":            {func(b *bench) []byte { return saying(sbomType, "null", b.digest) }, 0, 0, "its predicate is not a JSON object"},
		"predicate twice":           {func(b *bench) []byte { return saying(sbomType, `{},"predicate":{}`, b.digest) }, 0, 0, "occurs twice"},
		"predicate in another case": {func(b *bench) []byte { return saying(sbomType, `{},"Predicate":{}`, b.digest) }, 0, 0, "only by case"},
		"31 unknown _type": {func(b *bench) []byte {
			return []byte(strings.Replace(string(saying(sbomType, "{}", b.digest)), "Statement/v1", "Statement/v2", 1))
		}, 0, 0, "unknown type"},
	} {
		for _, way := range []string{"bundle", "envelope"} {
			t.Run(name+" in a "+way, func(t *testing.T) {
				b := newBench(t)
				if way == "bundle" {
					b.bundle(t, signedBundle(t, b.release, tc.statement(b)))
				} else {
					b.underAtt(t, envelopeLayer(t, b.release, tc.statement(b)))
				}
				got := b.attest(t, wanted)
				if len(got.Signatures) != tc.signatures || len(got.Attestations) != tc.statements {
					t.Errorf("got %d signatures and %d attestations, want %d and %d", len(got.Signatures), len(got.Attestations), tc.signatures, tc.statements)
				}
				if why := whysOf(got); !strings.Contains(why, tc.why) || tc.why == "" && why != "" {
					t.Errorf("got rejections %q, want %q among them", why, tc.why)
				}
			})
		}
	}
}

// What surrounds a statement in an envelope of its own is either right or it does not count.
func TestEnvelopes(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(raw string) string
		why  string
	}{
		"13 another payload":         {func(s string) string { return strings.Replace(s, `"payload":"`, `"payload":"IA==`, 1) }, "payload"},
		"26 two signatures":          {func(s string) string { return strings.Replace(s, `"signatures":[`, `"signatures":[{"sig":""},`, 1) }, "2 signatures instead of one"},
		"no signature":               {func(s string) string { return s[:strings.Index(s, `"signatures":[`)] + `"signatures":[]}` }, "0 signatures"},
		"signatures twice":           {func(s string) string { return strings.Replace(s, `"signatures"`, `"signatures":[],"signatures"`, 1) }, "occurs twice"},
		"payload in another case":    {func(s string) string { return strings.Replace(s, `"payload"`, `"Payload":"","payload"`, 1) }, "only by case"},
		"25 another payload type":    {func(s string) string { return strings.Replace(s, inToto, "text/plain", 1) }, "unknown type"},
		"signature that is a number": {func(s string) string { return strings.Replace(s, `"sig":"`, `"sig":1,"x":"`, 1) }, "not a string"},
		"payload not in base64":      {func(s string) string { return strings.Replace(s, `"payload":"`, `"payload":"?`, 1) }, "not base64"},
		"not JSON":                   {func(string) string { return "signed" }, "not a JSON object"},
		"gzip":                       {func(string) string { return "\x1f\x8b\x08" }, "not a JSON object"},
		"a key id nobody has":        {func(s string) string { return strings.Replace(s, `"keyid":""`, `"keyid":"SHA256:x"`, 1) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			l := envelopeLayer(t, b.release, saying(sbomType, "{}", b.digest))
			edited := blobOf(oci.MediaTypeDSSE, []byte(tc.edit(string(l.raw))))
			edited.desc.Annotations = l.desc.Annotations
			b.underAtt(t, edited)
			got := b.attest(t, sboms("release"))
			if counts := len(got.Attestations) == 1; counts != (tc.why == "") || !strings.Contains(whysOf(got), tc.why) {
				t.Errorf("got %d attestations, rejections %q; want %q", len(got.Attestations), whysOf(got), tc.why)
			}
		})
	}
}

// Where nobody asks for attestations, nobody looks for them; where nobody asks for signatures, those are left alone.
func TestOnlyWhatIsWanted(t *testing.T) {
	b := newBench(t)
	b.good(t)
	b.legacy(t, b.goodLayer(t))
	b.underAtt(t, envelopeLayer(t, b.release, saying(sbomType, "{}", b.digest)))
	if got := b.attest(t, gate.Wanted{Signatures: []string{"release"}}); len(got.Signatures) != 2 || b.asked("manifest "+b.attTag()) {
		t.Errorf("got %v, asked for %q", got, b.reads)
	}
	b.reads = nil
	if got := b.attest(t, sboms("release")); len(got.Attestations) != 1 || len(got.Signatures) != 0 || len(got.Rejections) != 0 || b.asked("manifest "+b.sigTag()) {
		t.Errorf("got %v, asked for %q", got, b.reads)
	}
	b.reads = nil
	if got := b.attest(t, gate.Wanted{}); len(got.Signatures) != 0 || len(b.reads) != 0 {
		t.Errorf("nothing wanted: got %v, asked for %q", got, b.reads)
	}
}

// A good attestation still counts beside large ones on the .att tag.
func TestSmallAttestationsComeFirst(t *testing.T) {
	b := newBench(t)
	var large []blob
	for i := range 5 {
		large = append(large, blobOf(oci.MediaTypeDSSE, []byte(strings.Repeat(string(rune('a'+i)), 8<<20))))
	}
	b.underAtt(t, large...)
	b.bundle(t, signedBundle(t, b.release, saying(sbomType, "{}", b.digest)))
	if got := b.attest(t, sboms("release")); len(got.Attestations) != 1 {
		t.Errorf("got %v", whysOf(got))
	}
}
