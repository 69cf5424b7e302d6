package signing

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

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
