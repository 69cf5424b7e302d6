package signing_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/notaryproject/notation-core-go/signature"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
)

func mustBase64URL(t testing.TB, s string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A signature by notation counts for the manifest it names by type, digest and size, made by somebody named, while it lasts.
func TestNotation(t *testing.T) {
	for _, mediaType := range []string{jws, cose} {
		for name, tc := range map[string]struct {
			edit func(n *notaryBench, o *notarizing)
			why  string
		}{
			"good":          {func(*notaryBench, *notarizing) {}, ""},
			"expires later": {func(n *notaryBench, o *notarizing) { o.expiry = n.now.Add(time.Hour) }, ""},
			"of any of several identities": {func(n *notaryBench, _ *notarizing) {
				n.trust.Identities = append([]gate.Name{{{Type: "CN", Value: "x"}}}, n.trust.Identities...)
			}, ""},
			"expired": {func(n *notaryBench, o *notarizing) {
				o.signedAt, o.expiry = n.now.Add(-time.Hour), n.now.Add(-time.Minute)
			}, "expired"},
			"certificate has run out": {func(n *notaryBench, o *notarizing) {
				o.from, o.signedAt = n.now.Add(-72*time.Hour), n.now.Add(-60*time.Hour)
			}, "expired"},
			"certificate is not valid yet": {func(n *notaryBench, o *notarizing) {
				o.from, o.signedAt = n.now.Add(24*time.Hour), n.now.Add(25*time.Hour)
			}, "validity period"},
			"another identity":             {func(_ *notaryBench, o *notarizing) { o.subject.CommonName = "Evil" }, "which is not corp"},
			"identity with more behind":    {func(_ *notaryBench, o *notarizing) { o.subject.CommonName = "Release2" }, "which is not corp"},
			"another organization":         {func(_ *notaryBench, o *notarizing) { o.subject.Organization = []string{"Evil"} }, "which is not corp"},
			"two organizations":            {func(_ *notaryBench, o *notarizing) { o.subject.Organization = []string{"Acme", "Evil"} }, "which is not corp"},
			"an attribute is missing":      {func(_ *notaryBench, o *notarizing) { o.subject.Country = nil }, "which is not corp"},
			"7 authority of the same name": {func(n *notaryBench, o *notarizing) { o.caKey = newP256(t); o.ca = n.authority(t, o.caKey) }, "its notation signature"},
			"of another image": {func(_ *notaryBench, o *notarizing) {
				o.payload = strings.Replace(o.payload, `"digest":"sha256:`, `"digest":"sha256:`+strings.Repeat("0", 64)+`","x":"`, 1)
			}, "descriptor mismatch"},
			"58 of another type": {func(_ *notaryBench, o *notarizing) {
				o.payload = strings.Replace(o.payload, oci.MediaTypeImage, oci.MediaTypeIndex, 1)
			}, "descriptor mismatch"},
			"of another size": {func(_ *notaryBench, o *notarizing) { o.payload = strings.Replace(o.payload, "1234", "1235", 1) }, "descriptor mismatch"},
			"target twice": {func(_ *notaryBench, o *notarizing) {
				o.payload = strings.Replace(o.payload, `{"targetArtifact"`, `{"targetArtifact":{},"targetArtifact"`, 1)
			}, "occurs twice"},
			"digest twice": {func(_ *notaryBench, o *notarizing) {
				o.payload = strings.Replace(o.payload, `"digest"`, `"digest":"sha256:00","digest"`, 1)
			}, "occurs twice"},
			"target in another case": {func(_ *notaryBench, o *notarizing) {
				o.payload = strings.Replace(o.payload, `{"targetArtifact"`, `{"TargetArtifact":{},"targetArtifact"`, 1)
			}, "only by case"},
			"a plugin is asked for": {func(_ *notaryBench, o *notarizing) {
				o.extended = []signature.Attribute{{Key: "io.cncf.notary.verificationPlugin", Value: "evil", Critical: true}}
			}, "plugin"},
			"an unknown critical attribute": {func(_ *notaryBench, o *notarizing) {
				o.extended = []signature.Attribute{{Key: "evil", Value: "x", Critical: true}}
			}, "unknown attribute"},
			"an authority's own time": {func(_ *notaryBench, o *notarizing) { o.scheme = signature.SigningSchemeX509SigningAuthority }, "its notation signature"},
		} {
			if mediaType == jws && strings.HasSuffix(name, " twice") {
				continue // who signs here writes the payload anew, without repetitions
			}
			t.Run(name+" in "+mediaType, func(t *testing.T) {
				n := newNotaryBench(t)
				o := n.notarizing(mediaType)
				tc.edit(n, &o)
				n.notarize(t, mediaType, o.sign(t))
				got := n.look(t)
				if counts := len(got.Signatures) == 1; counts != (tc.why == "") {
					t.Errorf("got signatures %v", got.Signatures)
				}
				if why := whysOf(got); !strings.Contains(why, tc.why) || tc.why == "" && why != "" {
					t.Errorf("got rejections %q, want %q among them", why, tc.why)
				}
			})
		}
	}
}

// What is not the envelope its media type says is none, and breaks nothing.
func TestNotationEnvelopes(t *testing.T) {
	n := newNotaryBench(t)
	good := n.notarizing(jws).sign(t)
	for name, tc := range map[string]struct {
		mediaType string
		raw       []byte
	}{
		"payload changed":    {jws, bytes.Replace(good, []byte(`"payload":"ey`), []byte(`"payload":"fy`), 1)},
		"JWS as COSE":        {cose, good},
		"COSE as JWS":        {jws, n.notarizing(cose).sign(t)},
		"empty":              {jws, nil},
		"empty COSE":         {cose, nil},
		"null":               {jws, []byte("null")},
		"no certificates":    {jws, []byte(`{"payload":"e30","protected":"e30","header":{},"signature":""}`)},
		"a CBOR that nests":  {cose, bytes.Repeat([]byte{0x81}, 1000)},
		"a CBOR of a length": {cose, []byte{0xd2, 0x84, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNotaryBench(t)
			n.notarize(t, tc.mediaType, tc.raw)
			if got := n.look(t); len(got.Signatures) != 0 || len(got.Rejections) != 1 {
				t.Errorf("got %v", got)
			}
		})
	}
}

// A time stamp says when a signature was made, and lets it outlive its certificate; a bad one is as good as none.
func TestNotationTimestamps(t *testing.T) {
	const day = 24 * time.Hour
	for name, tc := range map[string]struct {
		from, at time.Duration // of the certificate and of the time stamp, from now
		strange  bool          // a service nobody trusts
		counts   bool
		stamped  bool
		why      string
	}{
		"while the certificate is valid":        {-day, -time.Hour, false, true, true, ""},
		"after it has run out":                  {-10 * day, -9 * day, false, true, true, ""},
		"after it has run out, stamped later":   {-10 * day, -time.Hour, false, false, false, "expired"},
		"after it has run out, stamped earlier": {-10 * day, -11 * day, false, false, false, "expired"},
		"after it has run out, by a stranger":   {-10 * day, -9 * day, true, false, false, "expired"},
		"valid, stamped by a stranger":          {-day, -time.Hour, true, true, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNotaryBench(t)
			n.trust.TSARoots = n.sigstore.TSAChain()[1:]
			if tc.strange {
				n.sigstore = newSigstore(t)
			}
			o := n.notarizing(jws)
			o.from, o.signedAt = n.now.Add(tc.from), n.now.Add(tc.from+time.Hour)
			manifest := n.notarize(t, jws, n.stamp(t, o.sign(t), n.now.Add(tc.at)))
			got := n.look(t)
			if !strings.Contains(whysOf(got), tc.why) || tc.why == "" && len(got.Rejections) > 0 {
				t.Errorf("got rejections %q, want %q", whysOf(got), tc.why)
			}
			var want []gate.Signature
			if tc.counts {
				want = []gate.Signature{{Authority: "corp", Format: "notation", Signer: "CN=Release,OU=Ops,O=Acme,C=US", Issuer: "CN=CA,O=Acme,C=US", Manifest: manifest}}
				if tc.stamped {
					want[0].SignedAt = n.now.Add(tc.at).UTC()
				} else {
					want[0].Until = o.from.Add(48 * time.Hour).UTC()
				}
			}
			if diff := cmp.Diff(got.Signatures, want); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Each way of signing is told from the others, and an authority nobody could be is a failure.
func TestNotationBesideOthers(t *testing.T) {
	n := newNotaryBench(t)
	n.notarize(t, jws, n.notarizing(jws).sign(t))
	n.good(t)
	if got := n.look(t); len(got.Signatures) != 1 || !strings.Contains(whysOf(got), "not signed with notation") {
		t.Errorf("by notation: got %v", got)
	}
	if got, err := n.verify(t, "release"); err != nil || len(got.Signatures) != 1 || !strings.Contains(whysOf(got), "not known") {
		t.Errorf("by key, the size of the image unknown: got %v, %v", got, err)
	}
	for name, trust := range map[string]gate.Notation{
		"no authority":     {Identities: n.trust.Identities},
		"no identity":      {Roots: n.trust.Roots},
		"an empty one":     {Roots: n.trust.Roots, Identities: []gate.Name{nil}},
		"bad certificates": {Roots: [][]byte{{1}}, Identities: n.trust.Identities},
	} {
		if err := signing.CheckRoots(&gate.TrustRoots{Authorities: []gate.Authority{{Name: "corp", Notation: &trust}}}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
