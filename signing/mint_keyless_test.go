package signing_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Who signs without a key, and when. The time lies in the past: nothing may depend on the present.
const (
	actionsIssuer  = "https://token.actions.example"
	actionsSubject = "https://github.example/acme/app/.github/workflows/release.yml@refs/tags/v1"
)

func signedAt() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// keylessBench is a bench with an authority called "actions" that signs without keys.
type keylessBench struct {
	*bench
	sigstore *ocitest.Sigstore
}

func newKeylessBench(t testing.TB, edit func(*gate.Keyless)) *keylessBench {
	t.Helper()
	k := &keylessBench{bench: newBench(t), sigstore: newSigstore(t)}
	k.trust(edit)
	return k
}

func newSigstore(t testing.TB) *ocitest.Sigstore {
	t.Helper()
	s, err := ocitest.NewSigstore(signedAt())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// trust makes the bench trust what its sigstore instance vouches for, with the thresholds of the public instance.
func (k *keylessBench) trust(edit func(*gate.Keyless)) {
	root := k.sigstore.TrustedRoot()
	keyless := gate.Keyless{
		Issuer: gate.Wording{Text: actionsIssuer}, Subject: gate.Wording{Text: actionsSubject},
		TrustedRoot: root, RootDigest: oci.FromBytes(root), Tlog: 1, SCT: 1,
	}
	if edit != nil {
		edit(&keyless)
	}
	k.roots = &gate.TrustRoots{Authorities: []gate.Authority{{Name: "actions", Keyless: &keyless}, k.roots.Authorities[0]}, Revision: "r2"}
}

// certified is what somebody signed with a short-lived certificate, in pieces that tests change before they are put together.
type certified struct {
	leaf    ocitest.Leaf
	payload []byte
	sig     []byte
	entries []ocitest.LogEntry
	stamps  [][]byte
	// mediaType is that of the bundle; version 0.3 if it is empty.
	mediaType string
	// payloadType is that of the envelope.
	payloadType string
}

// sign signs a statement in an envelope as id and logs it a minute later.
func (k *keylessBench) sign(t testing.TB, statement []byte, edit func(*ocitest.Identity)) certified {
	t.Helper()
	c := certified{leaf: k.leaf(t, edit), payload: statement, payloadType: inToto}
	var err error
	if c.sig, err = c.leaf.SignDSSE(inToto, statement); err != nil {
		t.Fatal(err)
	}
	entry, err := k.sigstore.LogEnvelope(c.leaf, statement, c.sig, signedAt().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	c.entries = []ocitest.LogEntry{entry}
	return c
}

// leaf returns a certificate of the trusted identity, unless edit makes it another's.
func (k *keylessBench) leaf(t testing.TB, edit func(*ocitest.Identity)) ocitest.Leaf {
	t.Helper()
	id := ocitest.Identity{Subject: actionsSubject, Issuer: actionsIssuer, At: signedAt()}
	if edit != nil {
		edit(&id)
	}
	leaf, err := k.sigstore.Issue(id)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// stamp returns a time stamp on c's signature.
func (k *keylessBench) stamp(t testing.TB, c certified, at time.Time) []byte {
	t.Helper()
	stamp, err := k.sigstore.Timestamp(c.sig, at)
	if err != nil {
		t.Fatal(err)
	}
	return stamp
}

// good returns a signature that counts.
func (k *keylessBench) goodSignature(t testing.TB) certified {
	t.Helper()
	return k.sign(t, statementOf(signPredicate, k.digest), nil)
}

// bundle returns c as a sigstore bundle.
func (c certified) bundle(t testing.TB) []byte {
	t.Helper()
	material := map[string]any{"certificate": map[string]any{"rawBytes": c.leaf.DER}}
	if c.mediaType != "" {
		material = map[string]any{"x509CertificateChain": map[string]any{"certificates": []any{map[string]any{"rawBytes": c.leaf.DER}}}}
	} else {
		c.mediaType = oci.MediaTypeSigstoreBundle
	}
	var entries, stamps []any
	for _, e := range c.entries {
		entries = append(entries, e.Bundled())
	}
	for _, s := range c.stamps {
		stamps = append(stamps, map[string]any{"signedTimestamp": s})
	}
	material["tlogEntries"] = entries
	if stamps != nil {
		material["timestampVerificationData"] = map[string]any{"rfc3161Timestamps": stamps}
	}
	return bundleOf(t, map[string]any{
		"mediaType": c.mediaType, "verificationMaterial": material,
		"dsseEnvelope": envelope{
			Payload: base64.StdEncoding.EncodeToString(c.payload), PayloadType: c.payloadType,
			Signatures: []dsseSignature{{Sig: base64.StdEncoding.EncodeToString(c.sig)}},
		},
	})
}

// signLegacy signs a payload of the legacy format and logs it.
func (k *keylessBench) signLegacy(t testing.TB, payload []byte, edit func(*ocitest.Identity)) certified {
	t.Helper()
	c := certified{leaf: k.leaf(t, edit), payload: payload}
	var err error
	if c.sig, err = c.leaf.Sign(payload); err != nil {
		t.Fatal(err)
	}
	entry, err := k.sigstore.LogSignature(c.leaf, payload, c.sig, signedAt().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	c.entries = []ocitest.LogEntry{entry}
	return c
}

// annotations returns what cosign writes beside a legacy signature.
func (c certified) annotations(t testing.TB) map[string]string {
	t.Helper()
	a := map[string]string{"dev.sigstore.cosign/certificate": string(c.leaf.PEM())}
	if len(c.entries) > 0 {
		a["dev.sigstore.cosign/bundle"] = c.entries[0].Annotated()
	}
	if len(c.stamps) > 0 {
		stamp, err := json.Marshal(map[string]any{"SignedRFC3161Timestamp": c.stamps[0]})
		if err != nil {
			t.Fatal(err)
		}
		a["dev.sigstore.cosign/rfc3161timestamp"] = string(stamp)
	}
	return a
}

// layer returns c as the layer of a legacy signature.
func (c certified) layer(t testing.TB) blob {
	t.Helper()
	l := legacyLayer(c.payload, c.sig)
	for name, value := range c.annotations(t) {
		l.desc.Annotations[name] = value
	}
	return l
}

// envelopeLayer returns c as the layer of a legacy attestation.
func (c certified) envelopeLayer(t testing.TB) blob {
	t.Helper()
	raw := fmt.Appendf(nil, `{"payload":%q,"payloadType":%q,"signatures":[{"keyid":"","sig":%q}]}`,
		base64.StdEncoding.EncodeToString(c.payload), inToto, base64.StdEncoding.EncodeToString(c.sig))
	l := blobOf(oci.MediaTypeDSSE, raw)
	l.desc.Annotations = c.annotations(t)
	l.desc.Annotations["dev.cosignproject.cosign/signature"] = ""
	return l
}
