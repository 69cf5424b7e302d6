package signing

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// fuzzed is the image the fuzz targets ask about, and its genuine signatures.
func fuzzed() (s subject, statement, payload []byte) {
	s = subject{Candidate: gate.Candidate{Repository: oci.Repository{Upstream: "registry.example", Path: "acme/app"}, Digest: oci.FromBytes([]byte("app"))}}
	s.names = namesOf(s.Repository, nil)
	s.attested = func(string) bool { return false }
	statement = fmt.Appendf(nil, `{"_type":%q,"subject":[{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`,
		statementType, s.Digest.Encoded(), predicateTypeSignature)
	payload = fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"registry.example/acme/app"},"image":{"docker-manifest-digest":%q},"type":%q},"optional":null}`,
		s.Digest, payloadType)
	return s, statement, payload
}

// A statement that is accepted says the same to a reader that does not care about case and takes the last of repeated keys.
func FuzzStatement(f *testing.F) {
	s, statement, _ := fuzzed()
	f.Add(statement)
	f.Add(bytes.Replace(statement, []byte(`"predicateType"`), []byte(`"PredicateType":"x","predicateType"`), 1))
	f.Add(bytes.Replace(statement, []byte(`{"digest"`), []byte(`{"name":"a","digest"`), 1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := parseStatement(raw)
		if err != nil || got.checkSignature(s.Digest) != nil {
			return
		}
		var lenient struct {
			Type          string `json:"_type"`
			PredicateType string `json:"predicateType"`
			Subject       []struct {
				Digest map[string]string `json:"digest"`
			} `json:"subject"`
		}
		if err := json.Unmarshal(raw, &lenient); err != nil {
			t.Fatalf("accepted, but not to be read: %v", err)
		}
		if lenient.Type != statementType || lenient.PredicateType != predicateTypeSignature {
			t.Errorf("another reader takes it for %q, %q", lenient.Type, lenient.PredicateType)
		}
		for _, subject := range lenient.Subject {
			if strings.EqualFold(subject.Digest["sha256"], s.Digest.Encoded()) {
				return
			}
		}
		t.Errorf("another reader finds the subjects %v", lenient.Subject)
	})
}

// A payload that is accepted says the same to a reader that does not care about case and takes the last of repeated keys.
func FuzzPayload(f *testing.F) {
	s, _, payload := fuzzed()
	f.Add(payload)
	f.Add(bytes.Replace(payload, []byte(`acme/app"`), []byte(`acme/app:v1@`+s.Digest.String()+`"`), 1))
	f.Add(bytes.Replace(payload, []byte(`"image"`), []byte(`"Image":{},"image"`), 1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := parsePayload(raw)
		if err != nil || p.check(s) != nil {
			return
		}
		var lenient struct {
			Critical struct {
				Identity struct {
					Reference string `json:"docker-reference"`
				} `json:"identity"`
				Image struct {
					Digest string `json:"docker-manifest-digest"`
				} `json:"image"`
				Type string `json:"type"`
			} `json:"critical"`
		}
		if err := json.Unmarshal(raw, &lenient); err != nil {
			t.Fatalf("accepted, but not to be read: %v", err)
		}
		c := lenient.Critical
		if c.Type != payloadType || c.Image.Digest != s.Digest.String() || !strings.HasPrefix(c.Identity.Reference, s.names[0]) {
			t.Errorf("another reader takes it for %+v", c)
		}
	})
}

// genuineBundle returns a bundle in which a key signs that it is for the fuzzed image.
func genuineBundle(t testing.TB) (s subject, k key, raw []byte) {
	t.Helper()
	s, statement, _ := fuzzed()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	k, err := loadKey(gate.TrustedKey{Public: private.Public()})
	if err != nil {
		t.Fatal(err)
	}
	pae := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadTypeInToto), payloadTypeInToto, len(statement), statement)
	raw = fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":{"publicKey":{"hint":"k"}},"dsseEnvelope":{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q}]}}`,
		mediaTypeBundle, base64.StdEncoding.EncodeToString(statement), payloadTypeInToto, base64.StdEncoding.EncodeToString(ed25519.Sign(private, pae)))
	return s, k, raw
}

// Whatever is made of a bundle, it does not break the reader, and what a key is found to have signed is what it did sign.
func FuzzBundle(f *testing.F) {
	_, statement, _ := fuzzed()
	s, k, genuine := genuineBundle(f)
	if c, err := (bundled{}).read(s, offer{}, genuine); err != nil || !k.signed(c) {
		f.Fatalf("the genuine bundle does not count: %v", err)
	}
	f.Add(genuine)
	f.Add(bytes.Replace(genuine, []byte(`"sig"`), []byte(`"keyid":"x","sig"`), 1))
	f.Add(bytes.Replace(genuine, []byte(`"publicKey"`), []byte(`"tlogEntries":[{}],"publicKey"`), 1))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{"signatures":[null]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := bundled{}.read(s, offer{}, raw)
		if err != nil || !k.signed(c) {
			return
		}
		b, err := parseBundle(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.GetDsseEnvelope().GetPayload(); !bytes.Equal(got, statement) {
			t.Errorf("the key is found to have signed %q", got)
		}
	})
}

// Whatever is made of an envelope, reading it breaks nothing, and what is read is what another reader reads.
func FuzzEnvelope(f *testing.F) {
	s, statement, _ := fuzzed()
	s.attested = func(string) bool { return true }
	attestation := bytes.Replace(statement, []byte(predicateTypeSignature), []byte(predicateTypeOpenVEX), 1)
	for _, payload := range [][]byte{statement, attestation} {
		f.Add(fmt.Appendf(nil, `{"payloadType":%q,"payload":%q,"signatures":[{"keyid":"","sig":"AAAA"}]}`, payloadTypeInToto, base64.StdEncoding.EncodeToString(payload)))
	}
	f.Add([]byte(`{"payload":"e30","Payload":"","payloadType":"","signatures":[{}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		envelope, err := parseEnvelope(raw)
		if err != nil {
			return
		}
		_, _ = enveloped{}.read(s, offer{}, raw) // it may be refused, it must not break
		var lenient struct{ Payload, PayloadType string }
		if err := json.Unmarshal(raw, &lenient); err != nil {
			t.Fatalf("accepted, but not to be read: %v", err)
		}
		payload, err := base64.StdEncoding.DecodeString(lenient.Payload)
		if err != nil {
			payload, err = base64.URLEncoding.DecodeString(lenient.Payload)
		}
		if err != nil || lenient.PayloadType != envelope.GetPayloadType() || !bytes.Equal(payload, envelope.GetPayload()) {
			t.Errorf("another reader takes it for %q of %q, %v", lenient.Payload, lenient.PayloadType, err)
		}
	})
}

// Whatever stands in annotations beside a signature, reading it breaks nothing.
func FuzzAnnotations(f *testing.F) {
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", `{"SignedEntryTimestamp":"","Payload":{"body":"e30=","logID":"00"}}`, `{"SignedRFC3161Timestamp":"AAAA"}`)
	f.Add("", `{"Payload":{"body":"eyJraW5kIjoiaW50b3RvIiwiYXBpVmVyc2lvbiI6IjAuMC4xIn0=","logID":"00"}}`, "")
	f.Fuzz(func(_ *testing.T, certificate, entry, stamp string) {
		c := claim{}
		_ = c.annotate(map[string]string{annotationCertificate: certificate, annotationLogEntry: entry, annotationTimestamp: stamp}, func(wire *protobundle.Bundle) {
			wire.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{MessageDigest: &protocommon.HashOutput{}}}
		})
		_, _ = parseLogEntry(entry) // whatever it says of it, it must not break
		_, _ = parseTimestamp(stamp)
	})
}

// Whatever is made of an envelope of notation, nothing breaks, and nobody is found to have signed what he did not.
func FuzzNotation(f *testing.F) {
	s, _, _ := fuzzed()
	s.MediaType, s.SizeBytes = oci.MediaTypeImage, 1234
	n := fuzzNotary(f)
	f.Add(false, []byte(`{"payload":"e30","protected":"e30","header":{"x5c":["AAAA"]},"signature":"AAAA"}`))
	f.Add(true, []byte{0xd2, 0x84, 0x43, 0xa1, 0x01, 0x26, 0xa0, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, isCOSE bool, raw []byte) {
		mediaType := mediaTypeJWS
		if isCOSE {
			mediaType = mediaTypeCOSE
		}
		c, err := notarized{mediaType}.read(s, offer{}, raw)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := n.made(c, time.Now()); err == nil {
			t.Errorf("found %v to have signed %q", m, raw)
		}
	})
}

// fuzzNotary returns an authority whose key nobody has.
func fuzzNotary(t testing.TB) *notary {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, ed25519.SeedSize))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	n, err := loadNotation("fuzzed", gate.Notation{Roots: [][]byte{der}, Identities: []gate.Name{{{Type: "O", Value: "x"}}}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Whatever a document says of vulnerabilities, reading it breaks nothing, and no statement is about nothing.
func FuzzVEX(f *testing.F) {
	s, _, _ := fuzzed()
	f.Add([]byte(`{"statements":[{"vulnerability":"CVE-1","products":["pkg:oci/app@` + s.Digest.String() + `"],"status":"fixed"}]}`))
	f.Add([]byte(`{"statements":[{"vulnerability":{"name":"CVE-1"},"products":[{"@id":"pkg:oci/app","hashes":{"sha-256":"` + s.Digest.Encoded() + `"},"subcomponents":[{"@id":"pkg:deb/debian/a@1?epoch=1"}]}],"status":"fixed"}]}`))
	f.Add([]byte(`{"document":{"category":"csaf_vex"},"product_tree":{"full_product_names":[{"product_id":"P","product_identification_helper":{"purl":"pkg:oci/app@` + s.Digest.String() + `"}}]},"vulnerabilities":[{"cve":"CVE-1","product_status":{"fixed":["P"]}}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, parse := range vexTypes {
			about, err := parse(raw, s)
			if err != nil {
				continue
			}
			for _, x := range about {
				if len(x.Vulnerabilities) == 0 {
					t.Errorf("a statement about nothing: %v", x)
				}
			}
		}
	})
}
