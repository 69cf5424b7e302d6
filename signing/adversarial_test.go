package signing_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
)

// attack is something an image is offered with. It counts as many times as counts says, and the rejections say why.
type attack struct {
	attach func(t *testing.T, b *bench)
	counts int
	why    string
}

func run(t *testing.T, attacks map[string]attack) {
	t.Helper()
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			a.attach(t, b)
			got, err := b.verify(t)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Signatures) != a.counts {
				t.Errorf("got signatures %v, want %d", got.Signatures, a.counts)
			}
			if why := whysOf(got); !strings.Contains(why, a.why) || a.why == "" && why != "" {
				t.Errorf("got rejections %q, want %q among them", why, a.why)
			}
		})
	}
}

// statementCase offers a bundle in which the trusted key signs what edit makes of a good statement.
func statementCase(why string, edit func(b *bench, statement string) string) attack {
	return attack{why: why, attach: func(t *testing.T, b *bench) {
		statement := edit(b, string(statementOf(signPredicate, b.digest)))
		b.bundle(t, signedBundle(t, b.release, []byte(statement)))
	}}
}

// replacing returns an edit that replaces what must be there.
func replacing(old, replacement string) func(*bench, string) string {
	return func(_ *bench, s string) string {
		if !strings.Contains(s, old) {
			panic(fmt.Sprintf("%q is not in %q", old, s))
		}
		return strings.Replace(s, old, replacement, 1)
	}
}

// attesting returns an edit that makes a statement of another predicate.
func attesting(predicateType string) func(*bench, string) string {
	return replacing(signPredicate, predicateType)
}

// A statement signed by a trusted key counts only if it is what a signature says, about this image, read one way.
func TestSignedStatements(t *testing.T) {
	good := statementCase("", func(_ *bench, s string) string { return s })
	good.counts = 1
	bare := statementCase("", replacing(`,"predicate":{}`, ""))
	bare.counts = 1
	upper := statementCase("", func(b *bench, s string) string { return string(upperHex([]byte(s), b.digest)) })
	upper.counts = 1
	amongOthers := statementCase("", func(b *bench, _ string) string {
		return string(statementOf(signPredicate, digestOf("one"), b.digest, digestOf("two")))
	})
	amongOthers.counts = 1
	run(t, map[string]attack{
		"good":                             good,
		"without a predicate":              bare,
		"digest in upper case":             upper,
		"image among others":               amongOthers,
		"13 payload of another image":      statementCase("about other artifacts", func(*bench, string) string { return string(statementOf(signPredicate, digestOf("other"))) }),
		"23 SBOM attestation":              statementCase(`attestation of type "https://spdx.dev/Document"`, attesting("https://spdx.dev/Document")),
		"24 failed verification summary":   statementCase("is not a signature", attesting("https://slsa.dev/verification_summary/v1")),
		"24 provenance":                    statementCase("is not a signature", attesting("https://slsa.dev/provenance/v1")),
		"predicate type with a slash more": statementCase("is not a signature", attesting(signPredicate+"/")),
		"predicate type in capitals":       statementCase("is not a signature", attesting(strings.ToUpper(signPredicate))),
		"predicate type empty":             statementCase("is not a signature", attesting("")),
		"predicate type missing":           statementCase("predicateType", replacing(`"predicateType":"`+signPredicate+`",`, "")),
		"predicate type not a string":      statementCase("predicateType", replacing(`"`+signPredicate+`"`, `["`+signPredicate+`"]`)),
		"27 no subject":                    statementCase("subject", replacing(`"subject":`, `"subjects":`)),
		"27 empty subject":                 statementCase("names no artifact", func(*bench, string) string { return string(statementOf(signPredicate)) }),
		"28 sha256 under sha512":           statementCase("names no artifact", replacing(`"sha256"`, `"sha512"`)),
		"sha256 key in capitals":           statementCase("only by case", replacing(`"sha256"`, `"SHA256"`)),
		"digest with its algorithm":        statementCase("is none", func(b *bench, s string) string { return strings.Replace(s, b.digest.Encoded(), b.digest.String(), 1) }),
		"digest cut short": statementCase("is none", func(b *bench, s string) string {
			return strings.Replace(s, b.digest.Encoded(), b.digest.Encoded()[:62], 1)
		}),
		"30 1,025 subjects": statementCase("at most 1024", func(b *bench, _ string) string {
			return string(statementOf(signPredicate, append(make1024(), b.digest)...))
		}),
		"31 unknown _type":                 statementCase("unknown type", replacing("Statement/v1", "Statement/v9")),
		"31 Statement/v0.1":                statementCase("unknown type", replacing("Statement/v1", "Statement/v0.1")),
		"31 no _type":                      statementCase("_type", replacing(`"_type":"https://in-toto.io/Statement/v1",`, "")),
		"32 predicateType twice":           statementCase("occurs twice", replacing(`"predicateType"`, `"predicateType":"https://spdx.dev/Document","predicateType"`)),
		"32 predicateType in another case": statementCase("only by case", replacing(`"predicateType"`, `"PredicateType":"https://spdx.dev/Document","predicateType"`)),
		"32 subject with a long s":         statementCase("only by case", replacing(`"_type"`, `"ſubject":[],"_type"`)),
		"32 subject twice":                 statementCase("occurs twice", replacing(`"subject"`, `"subject":[],"subject"`)),
		"32 digest twice":                  statementCase("occurs twice", replacing(`{"digest"`, `{"digest":{},"digest"`)),
		"32 sha256 twice":                  statementCase("occurs twice", replacing(`{"sha256"`, `{"sha256":"00","sha256"`)),
		"something after the end":          statementCase("follows its end", func(_ *bench, s string) string { return s + "{}" }),
		"a list":                           statementCase("not a JSON object", func(_ *bench, s string) string { return "[" + s + "]" }),
		"not JSON":                         statementCase("not a JSON object", func(*bench, string) string { return "signed, yours truly" }),
		"empty":                            statementCase("the statement", func(*bench, string) string { return "" }),
	})
}

func make1024() []oci.Digest {
	digests := make([]oci.Digest, 1024)
	for i := range digests {
		digests[i] = digestOf(fmt.Sprint(i))
	}
	return digests
}

// envelopeCase offers a bundle whose envelope edit has changed.
func envelopeCase(counts int, why string, edit func(t *testing.T, b *bench, e *envelope)) attack {
	return attack{counts: counts, why: why, attach: func(t *testing.T, b *bench) {
		e := sealed(t, b.release, inToto, statementOf(signPredicate, b.digest))
		edit(t, b, &e)
		b.bundle(t, bundleOf(t, map[string]any{"dsseEnvelope": e}))
	}}
}

// What surrounds a statement in a bundle is either right or the bundle does not count.
func TestBundles(t *testing.T) {
	const unsigned = "not signed with a key of release"
	run(t, map[string]attack{
		"13 payload replaced after signing": envelopeCase(0, unsigned, func(t *testing.T, b *bench, e *envelope) {
			e.Payload = base64.StdEncoding.EncodeToString(append(statementOf(signPredicate, b.digest), ' '))
		}),
		"13 signature of another statement": envelopeCase(0, unsigned, func(t *testing.T, b *bench, e *envelope) {
			e.Signatures = sealed(t, b.release, inToto, statementOf(signPredicate, digestOf("other"))).Signatures
		}),
		"signature of the bare payload": envelopeCase(0, unsigned, func(t *testing.T, b *bench, e *envelope) {
			e.Signatures[0].Sig = base64.StdEncoding.EncodeToString(b.release.sign(t, statementOf(signPredicate, b.digest)))
		}),
		"signed by a stranger": envelopeCase(0, unsigned, func(t *testing.T, b *bench, e *envelope) {
			*e = sealed(t, newP256(t), inToto, statementOf(signPredicate, b.digest))
		}),
		"25 payload type signed as text": envelopeCase(0, `unknown type "text/plain"`, func(t *testing.T, b *bench, e *envelope) {
			*e = sealed(t, b.release, "text/plain", statementOf(signPredicate, b.digest))
		}),
		"25 payload type changed after signing": envelopeCase(0, unsigned, func(t *testing.T, b *bench, e *envelope) {
			*e = sealed(t, b.release, "text/plain", statementOf(signPredicate, b.digest))
			e.PayloadType = inToto
		}),
		"25 payload type with a parameter": envelopeCase(0, "unknown type", func(t *testing.T, b *bench, e *envelope) {
			*e = sealed(t, b.release, inToto+"; v=1", statementOf(signPredicate, b.digest))
		}),
		"26 two signatures, both good": envelopeCase(0, "2 signatures instead of one", func(t *testing.T, _ *bench, e *envelope) {
			e.Signatures = append(e.Signatures, e.Signatures[0])
		}),
		"26 two signatures, a stranger's first": envelopeCase(0, "2 signatures instead of one", func(t *testing.T, b *bench, e *envelope) {
			e.Signatures = append(sealed(t, newP256(t), inToto, statementOf(signPredicate, b.digest)).Signatures, e.Signatures...)
		}),
		"no signature": envelopeCase(0, "0 signatures instead of one", func(_ *testing.T, _ *bench, e *envelope) { e.Signatures = nil }),
		"an empty signature": envelopeCase(0, unsigned, func(_ *testing.T, _ *bench, e *envelope) {
			e.Signatures[0].Sig = ""
		}),
		"a key id that names another key": envelopeCase(1, "", func(_ *testing.T, _ *bench, e *envelope) {
			e.Signatures[0].KeyID = "SHA256:nobody"
		}),
		"33 message signature over the digest": {why: "signs bytes and not a statement", attach: func(t *testing.T, b *bench) {
			digest := mustHex(b.digest)
			b.bundle(t, bundleOf(t, map[string]any{"messageSignature": map[string]any{
				"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": digest},
				"signature":     b.release.sign(t, []byte("app")),
			}}))
		}},
		"bundle with a certificate nobody can read": {why: "the certificate cannot be read", attach: func(t *testing.T, b *bench) {
			b.bundle(t, bundleOf(t, map[string]any{
				"dsseEnvelope":         sealed(t, b.release, inToto, statementOf(signPredicate, b.digest)),
				"verificationMaterial": map[string]any{"certificate": map[string]any{"rawBytes": "AAAA"}},
			}))
		}},
		"bundle version 0.1": {counts: 1, attach: func(t *testing.T, b *bench) {
			b.bundle(t, bundleOf(t, map[string]any{
				"mediaType":    "application/vnd.dev.sigstore.bundle+json;version=0.1",
				"dsseEnvelope": sealed(t, b.release, inToto, statementOf(signPredicate, b.digest)),
			}))
		}},
		"bundle of an unknown type": {why: "not a sigstore bundle", attach: func(t *testing.T, b *bench) {
			b.bundle(t, bundleOf(t, map[string]any{
				"mediaType":    "application/json",
				"dsseEnvelope": sealed(t, b.release, inToto, statementOf(signPredicate, b.digest)),
			}))
		}},
		"bundle with an unknown member": {why: "not a sigstore bundle", attach: func(t *testing.T, b *bench) {
			b.bundle(t, bundleOf(t, map[string]any{
				"dsseEnvelope": sealed(t, b.release, inToto, statementOf(signPredicate, b.digest)), "dsseEnvelope2": 1,
			}))
		}},
		"log entries nobody can read": {counts: 1, attach: func(t *testing.T, b *bench) {
			b.bundle(t, bundleOf(t, map[string]any{
				"dsseEnvelope": sealed(t, b.release, inToto, statementOf(signPredicate, b.digest)),
				"verificationMaterial": map[string]any{
					"publicKey":   map[string]any{"hint": ""},
					"tlogEntries": []any{map[string]any{"kindVersion": map[string]any{"kind": "intoto", "version": "0.0.1"}, "canonicalizedBody": "AAAA"}},
				},
			}))
		}},
		"gzip in place of JSON": {why: "not a sigstore bundle", attach: func(t *testing.T, b *bench) {
			b.bundle(t, append([]byte{0x1f, 0x8b, 8, 0}, make([]byte, 1<<20)...))
		}},
		"null signatures": {why: "not a sigstore bundle", attach: func(t *testing.T, b *bench) {
			b.bundle(t, bundleOf(t, map[string]any{"dsseEnvelope": map[string]any{"payload": "", "payloadType": inToto, "signatures": []any{nil}}}))
		}},
		"empty layer":  {why: "not a sigstore bundle", attach: func(t *testing.T, b *bench) { b.bundle(t, nil) }},
		"empty object": {why: "not a sigstore bundle", attach: func(t *testing.T, b *bench) { b.bundle(t, []byte("{}")) }},
	})
}

// payloadCase offers a legacy signature in which the trusted key signs what edit makes of a good payload.
func payloadCase(counts int, why string, edit func(b *bench, payload string) string) attack {
	return attack{counts: counts, why: why, attach: func(t *testing.T, b *bench) {
		payload := edit(b, string(payloadOf(b.repo.String(), b.digest.String())))
		b.legacy(t, b.layerOf(t, []byte(payload)))
	}}
}

// named returns an edit that signs for another repository name.
func named(reference string) func(*bench, string) string {
	return func(b *bench, _ string) string { return string(payloadOf(reference, b.digest.String())) }
}

// A payload signed by a trusted key counts only if it is a signature of this image in this repository, read one way.
func TestLegacyPayloads(t *testing.T) {
	const elsewhere = "is for the repository"
	run(t, map[string]attack{
		"good":                          payloadCase(1, "", func(_ *bench, s string) string { return s }),
		"optional annotations":          payloadCase(1, "", replacing(`"optional":null`, `"optional":{"creator":"skopeo","optional":{"a":1,"a":2}}`)),
		"without optional":              payloadCase(1, "", replacing(`,"optional":null`, "")),
		"spaces":                        payloadCase(1, "", replacing(`{"critical":`, " {\n\t\"critical\" : ")),
		"67 reference with a tag":       payloadCase(1, "", named("registry.example/acme/app:v1")),
		"67 reference with the digest":  payloadCase(1, "", func(b *bench, s string) string { return named("registry.example/acme/app@"+b.digest.String())(b, s) }),
		"67 reference with both":        payloadCase(1, "", func(b *bench, s string) string { return named("registry.example/acme/app:v1@"+b.digest.String())(b, s) }),
		"reference with another digest": payloadCase(0, "names two images", named("registry.example/acme/app@"+digestOf("other").String())),
		"38 signature of another image": payloadCase(0, "about another image", func(b *bench, _ string) string { return string(payloadOf(b.repo.String(), digestOf("other").String())) }),
		"39 another repository":         payloadCase(0, elsewhere, named("registry.example/acme/other")),
		"39 another registry":           payloadCase(0, elsewhere, named("registry.evil/acme/app")),
		"39 a repository below":         payloadCase(0, elsewhere, named("registry.example/acme/app/sub")),
		"39 a repository above":         payloadCase(0, elsewhere, named("registry.example/acme")),
		"39 path without the host":      payloadCase(0, elsewhere, named("acme/app")),
		"39 host in capitals":           payloadCase(0, elsewhere, named("Registry.example/acme/app")),
		"39 host with a port":           payloadCase(0, elsewhere, named("registry.example:443/acme/app")),
		"39 empty reference":            payloadCase(0, elsewhere, named("")),
		"39 only a tag":                 payloadCase(0, elsewhere, named(":v1")),
		"39 no reference":               payloadCase(0, "critical.identity", replacing(`"docker-reference":"registry.example/acme/app"`, "")),
		"40 wrong type":                 payloadCase(0, "unknown type", replacing("cosign container image signature", "atomic container signature")),
		"40 no type":                    payloadCase(0, "critical.type", replacing(`,"type":"cosign container image signature"`, "")),
		"41 image twice":                payloadCase(0, "occurs twice", replacing(`"image"`, `"image":{"docker-manifest-digest":"sha256:00"},"image"`)),
		"41 image in another case":      payloadCase(0, "only by case", replacing(`"image"`, `"Image":{"docker-manifest-digest":"sha256:00"},"image"`)),
		"41 critical twice":             payloadCase(0, "occurs twice", replacing(`"critical"`, `"critical":{},"critical"`)),
		"41 digest twice":               payloadCase(0, "occurs twice", replacing(`"docker-manifest-digest"`, `"docker-manifest-digest":"sha256:00","docker-manifest-digest"`)),
		"41 reference twice":            payloadCase(0, "occurs twice", replacing(`"docker-reference"`, `"docker-reference":"a/b","docker-reference"`)),
		"41 unknown critical member":    payloadCase(0, "critical: it has 1 members other than", replacing(`"identity"`, `"until":"2020","identity"`)),
		"41 unknown member":             payloadCase(0, "the payload: it has 1 members other than", replacing(`"optional"`, `"opt":1,"optional"`)),
		"digest in upper case":          payloadCase(0, "about another image", func(b *bench, s string) string { return string(upperHex([]byte(s), b.digest)) }),
		"critical is a list":            payloadCase(0, "critical", func(*bench, string) string { return `{"critical":[],"optional":null}` }),
		"critical is null":              payloadCase(0, "critical", func(*bench, string) string { return `{"critical":null}` }),
		"digest is a number": payloadCase(0, "not a string", func(_ *bench, _ string) string {
			return strings.Replace(string(payloadOf("registry.example/acme/app", "x")), `"x"`, "1", 1)
		}),
		"something after the end": payloadCase(0, "follows its end", func(_ *bench, s string) string { return s + s }),
		"empty":                   payloadCase(0, "not a JSON object", func(*bench, string) string { return "" }),
	})
}

// Whatever is wrong with the layers of a .sig tag, they are judged one by one.
func TestLegacyLayers(t *testing.T) {
	const unsigned = "not signed with a key of release"
	good := func(t *testing.T, b *bench) blob { return b.goodLayer(t) }
	run(t, map[string]attack{
		"42 payload changed after signing": {why: unsigned, attach: func(t *testing.T, b *bench) {
			l := good(t, b)
			b.legacy(t, legacyLayer(append(bytes.Clone(l.raw), ' '), b.release.sign(t, l.raw)))
		}},
		"signed by a stranger": {why: unsigned, attach: func(t *testing.T, b *bench) {
			l := good(t, b)
			b.legacy(t, legacyLayer(l.raw, newP256(t).sign(t, l.raw)))
		}},
		"47 bad first, good second": {counts: 1, why: unsigned, attach: func(t *testing.T, b *bench) {
			l := good(t, b)
			b.legacy(t, legacyLayer(l.raw, newP256(t).sign(t, l.raw)), l)
		}},
		"48 60 layers, the good one last": {why: "60 layers, only the first 50", attach: func(t *testing.T, b *bench) {
			b.legacy(t, append(manyLayers(t, b, 59), good(t, b))...)
		}},
		"48 50 layers, the good one last": {counts: 1, why: unsigned, attach: func(t *testing.T, b *bench) {
			b.legacy(t, append(manyLayers(t, b, 49), good(t, b))...)
		}},
		"49 empty signature": {why: "no signature", attach: func(t *testing.T, b *bench) {
			b.legacy(t, legacyLayer(good(t, b).raw, nil))
		}},
		"49 no annotations": {why: "no signature", attach: func(t *testing.T, b *bench) {
			l := good(t, b)
			l.desc.Annotations = nil
			b.legacy(t, l)
		}},
		"signature not in base64": {why: "not base64", attach: func(t *testing.T, b *bench) {
			l := good(t, b)
			l.desc.Annotations["dev.cosignproject.cosign/signature"] += "\n!"
			b.legacy(t, l)
		}},
		"46 somebody's certificate and log entry beside it": {counts: 1, attach: func(t *testing.T, b *bench) {
			l := good(t, b)
			l.desc.Annotations["dev.sigstore.cosign/certificate"] = "-----BEGIN CERTIFICATE-----"
			l.desc.Annotations["dev.sigstore.cosign/bundle"] = "{"
			b.legacy(t, l)
		}},
		"46 only a certificate": {why: "no signature", attach: func(t *testing.T, b *bench) {
			l := good(t, b)
			l.desc.Annotations = map[string]string{"dev.sigstore.cosign/certificate": "-----BEGIN CERTIFICATE-----"}
			b.legacy(t, l)
		}},
		"65 the same layer twice": {counts: 1, attach: func(t *testing.T, b *bench) {
			b.legacy(t, good(t, b), good(t, b))
		}},
		"56 an image under the .sig tag": {why: "is no signature", attach: func(t *testing.T, b *bench) {
			l := good(t, b)
			l.desc.MediaType = "application/vnd.oci.image.layer.v1.tar+gzip"
			b.legacy(t, l)
		}},
		"56 an index under the .sig tag": {why: "it is an index", attach: func(t *testing.T, b *bench) {
			b.tagIndex(t, b.repo, b.sigTag(), []oci.Descriptor{b.put(t, b.repo, holder("", "", good(t, b)), good(t, b))})
		}},
		"58 layers and manifests together": {why: "an image has a config and no manifests", attach: func(t *testing.T, b *bench) {
			l := good(t, b)
			b.legacy(t, l)
			content := contentOf(t, oci.MediaTypeImage, struct {
				manifest
				Manifests []oci.Descriptor `json:"manifests"`
			}{holder("", "", l), []oci.Descriptor{}})
			b.manifests[b.repo.String()+" "+b.sigTag()] = content
		}},
		"59 schema 1 under the .sig tag": {why: "not supported", attach: func(t *testing.T, b *bench) {
			b.manifests[b.repo.String()+" "+b.sigTag()] = oci.Content{MediaType: "application/vnd.docker.distribution.manifest.v1+json", Raw: []byte(`{"schemaVersion":1}`)}
		}},
		"the .sig tag refers to another image": {why: "refers to another image", attach: func(t *testing.T, b *bench) {
			b.tag(t, b.repo, b.sigTag(), holder("", digestOf("other"), good(t, b)), good(t, b))
		}},
		"63 a payload larger than is read": {why: "more than is read", attach: func(t *testing.T, b *bench) {
			payload := strings.Replace(string(good(t, b).raw), "null", `"`+strings.Repeat("x", 64<<10)+`"`, 1)
			b.legacy(t, b.layerOf(t, []byte(payload)))
		}},
		"a layer larger than announced": {why: "does not match", attach: func(t *testing.T, b *bench) {
			l := good(t, b)
			l.desc.Size--
			b.legacy(t, l)
		}},
		"a layer that is something else": {why: "does not match", attach: func(t *testing.T, b *bench) {
			l := good(t, b)
			b.legacy(t, l)
			b.blobs[l.desc.Digest] = bytes.ToUpper(l.raw)
		}},
		"a layer that is not there": {why: "not known", attach: func(t *testing.T, b *bench) {
			l := good(t, b)
			b.legacy(t, l)
			delete(b.blobs, l.desc.Digest)
		}},
	})
}

// manyLayers returns layers signed by a stranger, each another one.
func manyLayers(t *testing.T, b *bench, n int) []blob {
	t.Helper()
	stranger := newP256(t)
	var layers []blob
	for i := range n {
		payload := payloadOf(fmt.Sprintf("%s:v%d", b.repo, i), b.digest.String())
		layers = append(layers, legacyLayer(payload, stranger.sign(t, payload)))
	}
	return layers
}

// Signers know Docker Hub by several hosts, and a repository by the names an operator vouches for. No other repository profits.
func TestReferenceNames(t *testing.T) {
	hub := oci.Repository{Upstream: "docker.io", Path: "library/nginx"}
	for name, tc := range map[string]struct {
		repo      oci.Repository
		reference string
		aliases   []string
		counts    bool
	}{
		"its own name":                 {hub, "docker.io/library/nginx", nil, true},
		"as cosign writes it":          {hub, "index.docker.io/library/nginx", nil, true},
		"as the registry calls itself": {hub, "registry-1.docker.io/library/nginx:1.27", nil, true},
		"short":                        {hub, "nginx", nil, false},
		"without library":              {hub, "docker.io/nginx", nil, false},
		"another registry":             {hub, "ghcr.io/library/nginx", nil, false},
		"only Docker Hub is many":      {oci.Repository{Upstream: "ghcr.io", Path: "library/nginx"}, "index.docker.io/library/nginx", nil, false},
		"an alias":                     {hub, "localhost:5000/nginx", []string{"localhost:5000/nginx"}, true},
		"an alias with a tag":          {hub, "localhost:5000/nginx:1", []string{"localhost:5000/nginx"}, true},
		"beside an alias":              {hub, "docker.io/library/nginx", []string{"localhost:5000/nginx"}, true},
		"not quite an alias":           {hub, "localhost:5000/nginx2", []string{"localhost:5000/nginx"}, false},
		"an empty alias is no pattern": {hub, "localhost:5000/nginx", []string{""}, false},
		"hosted, by its bare path":     {oci.Repository{Path: "apps/web"}, "apps/web", nil, true},
		"hosted, as it was pushed":     {oci.Repository{Path: "apps/web"}, "proxy.example/apps/web", []string{"proxy.example/apps/web"}, true},
		"hosted, by another host":      {oci.Repository{Path: "apps/web"}, "evil.example/apps/web", []string{"proxy.example/apps/web"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.repo = tc.repo
			b.options.Revision = "1"
			b.options.ReferenceAliases = func(repo oci.Repository) []string {
				if repo != tc.repo {
					t.Errorf("asked for the aliases of %s", repo)
				}
				return tc.aliases
			}
			b.legacy(t, b.layerOf(t, payloadOf(tc.reference, b.digest.String())))
			got, err := b.verify(t)
			if err != nil {
				t.Fatal(err)
			}
			if counts := len(got.Signatures) == 1; counts != tc.counts {
				t.Errorf("got %v, want counting %v", got, tc.counts)
			}
		})
	}
}

// What an attacker wrote into a signature reaches people bounded and without control characters.
func TestRejectionText(t *testing.T) {
	b := newBench(t)
	b.bundle(t, signedBundle(t, b.release, statementOf("\x1b[2J\n"+strings.Repeat("é", 4<<10), b.digest)))
	b.bundle(t, []byte(`{"`+strings.Repeat("\u202ex\u0085", 4<<10)+`":1}`))
	for i := range 100 {
		b.bundle(t, fmt.Appendf(nil, `{"%d":1}`, i))
	}
	got, err := b.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Rejections) != 64 || !strings.HasSuffix(got.Rejections[63].Why, "and 39 more") {
		t.Errorf("got %d rejections, the last %v; want 64 and that there are 39 more", len(got.Rejections), got.Rejections[len(got.Rejections)-1])
	}
	for _, r := range got.Rejections {
		if strings.ContainsAny(r.Why, "\x1b\n\u202e\u0085") || len(r.Why) > 250 {
			t.Errorf("got the text %q", r.Why)
		}
	}
}

// The revision changes with whatever decides what counts.
func TestRevision(t *testing.T) {
	revision := func(edit func(*bench)) string {
		b := newBench(t)
		edit(b)
		v, err := signing.New(b.options)
		if err != nil {
			t.Fatal(err)
		}
		return v.Revision()
	}
	seen := map[string]string{}
	for name, edit := range map[string]func(*bench){
		"as it is":    func(*bench) {},
		"other roots": func(b *bench) { b.roots.Revision = "r2" },
		"aliases":     func(b *bench) { b.options.Revision = "a1" },
		"others":      func(b *bench) { b.options.Revision = "a2" },
	} {
		got := revision(edit)
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s have the same revision %q", name, other, got)
		}
		seen[got] = name
	}
}
