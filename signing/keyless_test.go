package signing_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/signing"
)

// keylessAttack is a signature an image is offered with, under a trust that edit may change.
type keylessAttack struct {
	trust  func(*gate.Keyless)
	attach func(t *testing.T, k *keylessBench)
	counts int
	why    string
}

func runKeyless(t *testing.T, attacks map[string]keylessAttack) {
	t.Helper()
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			k := newKeylessBench(t, a.trust)
			a.attach(t, k)
			got, err := k.verify(t, "actions")
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

// altered offers a good signature, altered before it is put into a bundle.
func altered(counts int, why string, edit func(t *testing.T, k *keylessBench, c *certified)) keylessAttack {
	return keylessAttack{counts: counts, why: why, attach: func(t *testing.T, k *keylessBench) {
		c := k.goodSignature(t)
		edit(t, k, &c)
		k.bundle(t, c.bundle(t))
	}}
}

// signedAs offers a signature by a certificate of another identity.
func signedAs(why string, edit func(*ocitest.Identity)) keylessAttack {
	return keylessAttack{why: why, attach: func(t *testing.T, k *keylessBench) {
		k.bundle(t, k.sign(t, statementOf(signPredicate, k.digest), edit).bundle(t))
	}}
}

// trusting returns a with another trust.
func (a keylessAttack) trusting(edit func(*gate.Keyless)) keylessAttack {
	a.trust = edit
	return a
}

func (a keylessAttack) counting() keylessAttack {
	a.counts, a.why = 1, ""
	return a
}

// A certificate counts for exactly the identity a trust file names, issued by exactly the instance it names.
func TestIdentities(t *testing.T) {
	subject := func(s string) func(*ocitest.Identity) { return func(id *ocitest.Identity) { id.Subject = s } }
	expression := func(e string) func(*gate.Keyless) {
		return func(k *gate.Keyless) { k.Subject = gate.Wording{Text: e, Regexp: true} }
	}
	const acme = `https://github\.example/acme/.+`
	runKeyless(t, map[string]keylessAttack{
		"good":                             altered(1, "", func(*testing.T, *keylessBench, *certified) {}),
		"3 another subject":                signedAs("which is not actions", subject("https://github.example/evil/app")),
		"4 subject with more behind":       signedAs("which is not actions", subject(actionsSubject+"0")),
		"4 subject with more before":       signedAs("which is not actions", subject("https://evil.example/?"+actionsSubject)),
		"4 subject in capitals":            signedAs("which is not actions", subject(strings.ToUpper(actionsSubject))),
		"an expression":                    signedAs("", subject("https://github.example/acme/x")).trusting(expression(acme)).counting(),
		"5 expression, more before":        signedAs("which is not actions", subject("https://evil.example/https://github.example/acme/x")).trusting(expression(acme)),
		"5 expression, more behind":        signedAs("which is not actions", subject("https://github.example/acme/evil")).trusting(expression(`https://github\.example/acme/x`)),
		"5 alternatives, more behind":      signedAs("which is not actions", subject("https://a.example/evil")).trusting(expression(`https://a\.example|https://b\.example`)),
		"5 expression that turns lines on": signedAs("which is not actions", subject("https://a.example/x%0Ahttps://b.example")).trusting(expression(`(?m)https://a\.example/x$`)),
		"6 another issuer":                 signedAs("which is not actions", func(id *ocitest.Identity) { id.Issuer = "https://evil.example" }),
		"6 no issuer":                      signedAs("which is not actions", func(id *ocitest.Identity) { id.Issuer = "" }),
		"e-mail address": signedAs("", subject("build@acme.example")).trusting(func(k *gate.Keyless) {
			k.Subject = gate.Wording{Text: "build@acme.example"}
		}).counting(),
		"62 two subjects":     signedAs("names 2 subjects", func(id *ocitest.Identity) { id.Also = []string{"https://evil.example"} }),
		"62 subjects of 1 MB": signedAs("at most 16384 are read", func(id *ocitest.Identity) { id.Also = []string{"https://evil.example/" + strings.Repeat("x", 1<<20)} }),
		"62 no subject":       signedAs("names no subject", func(id *ocitest.Identity) { id.Subject = "" }),
		"7 look-alike authority of the same names": {why: "leaf certificate verification failed", attach: func(t *testing.T, k *keylessBench) {
			evil := &keylessBench{bench: k.bench, sigstore: newSigstore(t)}
			c := evil.goodSignature(t)
			entry, err := k.sigstore.LogEnvelope(c.leaf, c.payload, c.sig, signedAt().Add(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			c.entries = []ocitest.LogEntry{entry}
			k.bundle(t, c.bundle(t))
		}},
		"8 no SCT":                       signedAs("SCT", func(id *ocitest.Identity) { id.NoSCT = true }),
		"9 SCT of an unknown log":        signedAs("SCT", func(id *ocitest.Identity) { id.StrangeSCT = true }),
		"8 no SCT where none is asked":   signedAs("", func(id *ocitest.Identity) { id.NoSCT = true }).trusting(func(k *gate.Keyless) { k.SCT = 0 }).counting(),
		"two SCTs asked, there is one":   signedAs("SCT", nil).trusting(func(k *gate.Keyless) { k.SCT = 2 }),
		"two logs asked, there is one":   signedAs("not enough verified log entries", nil).trusting(func(k *gate.Keyless) { k.Tlog = 2 }),
		"time stamp asked, there's none": signedAs("threshold not met", nil).trusting(func(k *gate.Keyless) { k.TSA = 1 }),
		"a key of P-384":                 signedAs("", func(id *ocitest.Identity) { id.Key = ocitest.ECDSAP384 }).counting(),
		"signed with a key":              {why: "it is signed with a key", attach: func(t *testing.T, k *keylessBench) { k.good(t) }},
	})
}

// A certificate counts for what its key signed, at a time the log or the time stamp service vouches for.
func TestLogsAndTimes(t *testing.T) {
	tsaOnly := func(k *gate.Keyless) { k.Tlog, k.SCT, k.TSA = 0, 0, 1 }
	both := func(k *gate.Keyless) { k.TSA = 1 }
	stamped := func(counts int, why string, at time.Duration) keylessAttack {
		return altered(counts, why, func(t *testing.T, k *keylessBench, c *certified) {
			c.stamps = [][]byte{k.stamp(t, *c, signedAt().Add(at))}
		})
	}
	unlogged := func(a keylessAttack) keylessAttack {
		return altered(a.counts, a.why, func(t *testing.T, k *keylessBench, c *certified) {
			c.entries, c.stamps = nil, [][]byte{k.stamp(t, *c, signedAt().Add(time.Minute))}
		})
	}
	logAgain := func(t *testing.T, k *keylessBench, c *certified, at time.Duration) {
		entry, err := k.sigstore.LogEnvelope(c.leaf, c.payload, c.sig, signedAt().Add(at))
		if err != nil {
			t.Fatal(err)
		}
		c.entries = []ocitest.LogEntry{entry}
	}
	runKeyless(t, map[string]keylessAttack{
		"10 no log entry and no time stamp": altered(0, "not enough verified log entries", func(_ *testing.T, _ *keylessBench, c *certified) { c.entries = nil }),
		"11 logged after the certificate":   altered(0, "integrated time outside certificate validity", func(t *testing.T, k *keylessBench, c *certified) { logAgain(t, k, c, time.Hour) }),
		"11 logged before the certificate":  altered(0, "integrated time outside certificate validity", func(t *testing.T, k *keylessBench, c *certified) { logAgain(t, k, c, -time.Hour) }),
		"12 time stamp, where a log is asked": unlogged(keylessAttack{
			why: "not enough verified log entries",
		}),
		"time stamp alone, where that is asked": unlogged(keylessAttack{counts: 1}).trusting(tsaOnly),
		"time stamp and log":                    stamped(1, "", time.Minute).trusting(both),
		"time stamp after the certificate":      stamped(0, "leaf certificate verification failed", time.Hour).trusting(tsaOnly),
		"time stamp before the certificate":     stamped(0, "leaf certificate verification failed", -time.Hour).trusting(tsaOnly),
		"time stamp of another signature": altered(0, "threshold not met", func(t *testing.T, k *keylessBench, c *certified) {
			c.stamps = [][]byte{k.stamp(t, k.goodSignature(t), signedAt())}
		}).trusting(tsaOnly),
		"time stamp of a stranger": altered(0, "threshold not met", func(t *testing.T, k *keylessBench, c *certified) {
			stranger := keylessBench{sigstore: newSigstore(t)}
			c.stamps = [][]byte{stranger.stamp(t, *c, signedAt())}
		}).trusting(tsaOnly),
		"the same time stamp twice for a threshold of two": altered(0, "threshold not met", func(t *testing.T, k *keylessBench, c *certified) {
			s := k.stamp(t, *c, signedAt())
			c.stamps = [][]byte{s, s}
		}).trusting(func(k *gate.Keyless) { k.TSA = 2 }),
		"33 time stamps": altered(0, "too many signed timestamps", func(t *testing.T, k *keylessBench, c *certified) {
			for range 33 {
				c.stamps = append(c.stamps, k.stamp(t, *c, signedAt()))
			}
		}).trusting(tsaOnly),
		"a time stamp nobody can read": altered(0, "threshold not met", func(_ *testing.T, _ *keylessBench, c *certified) {
			c.stamps = [][]byte{[]byte("noon")}
		}).trusting(tsaOnly),
		"13 payload replaced after signing": altered(0, "its certificate is for actions, but", func(_ *testing.T, k *keylessBench, c *certified) {
			c.payload = append(c.payload, ' ')
		}),
		"14 of another image": {why: "about other artifacts", attach: func(t *testing.T, k *keylessBench) {
			k.bundle(t, k.sign(t, statementOf(signPredicate, digestOf("other")), nil).bundle(t))
		}},
		"15 log entry of another artifact": altered(0, "its certificate is for actions, but", func(t *testing.T, k *keylessBench, c *certified) {
			c.entries = k.sign(t, statementOf(signPredicate, digestOf("other")), nil).entries
		}),
		"16 log entry by an unknown log": altered(0, "not enough verified log entries", func(t *testing.T, _ *keylessBench, c *certified) {
			logAgain(t, &keylessBench{sigstore: newSigstore(t)}, c, time.Minute)
		}),
		"17 the log's time altered": altered(0, "not enough verified log entries", func(_ *testing.T, _ *keylessBench, c *certified) {
			c.entries[0].IntegratedTime++
		}),
		"18 the proof's root flipped": altered(0, "its certificate is for actions, but", func(_ *testing.T, _ *keylessBench, c *certified) {
			c.entries[0].RootHash[0] ^= 1
		}),
		"18 another checkpoint": altered(0, "its certificate is for actions, but", func(t *testing.T, k *keylessBench, c *certified) {
			c.entries[0].Checkpoint = k.sign(t, statementOf(signPredicate, digestOf("other")), nil).entries[0].Checkpoint
		}),
		"19 a proof and no promise, so no time": altered(0, "threshold not met", func(_ *testing.T, _ *keylessBench, c *certified) {
			c.entries[0].Promise = nil
		}),
		"19 a proof, and a time stamp's time": altered(1, "", func(t *testing.T, k *keylessBench, c *certified) {
			c.entries[0].Promise, c.stamps = nil, [][]byte{k.stamp(t, *c, signedAt())}
		}),
		"20 the same log entry twice": altered(0, "duplicate tlog entries", func(_ *testing.T, _ *keylessBench, c *certified) {
			c.entries = append(c.entries, c.entries[0])
		}),
		"20 for a threshold of two": altered(0, "its certificate is for actions, but", func(t *testing.T, k *keylessBench, c *certified) {
			again := c.entries[0]
			again.Index++
			c.entries = append(c.entries, again)
		}).trusting(func(k *gate.Keyless) { k.Tlog = 2 }),
		"21 33 log entries": altered(0, "too many tlog entries", func(_ *testing.T, _ *keylessBench, c *certified) {
			for i := range 32 {
				again := c.entries[0]
				again.Index = int64(i + 1)
				c.entries = append(c.entries, again)
			}
		}),
		"22 certificate swapped for another good one": altered(0, "its certificate is for actions, but", func(t *testing.T, k *keylessBench, c *certified) {
			c.leaf = k.leaf(t, nil)
		}),
		"no certificate": altered(0, "the certificate cannot be read", func(_ *testing.T, _ *keylessBench, c *certified) { c.leaf.DER = nil }),
		"certificate cut short": altered(0, "the certificate cannot be read", func(_ *testing.T, _ *keylessBench, c *certified) {
			c.leaf.DER = c.leaf.DER[:len(c.leaf.DER)-1]
		}),
		"25 payload type changed": altered(0, "unknown type", func(_ *testing.T, _ *keylessBench, c *certified) { c.payloadType = "text/plain" }),
		"bundle version 0.1": altered(1, "", func(_ *testing.T, _ *keylessBench, c *certified) {
			c.mediaType = "application/vnd.dev.sigstore.bundle+json;version=0.1"
		}),
		"bundle version 0.2": altered(1, "", func(_ *testing.T, _ *keylessBench, c *certified) {
			c.mediaType = "application/vnd.dev.sigstore.bundle+json;version=0.2"
		}),
		"certificate chain in version 0.3": altered(0, "not a sigstore bundle", func(_ *testing.T, _ *keylessBench, c *certified) {
			c.mediaType = oci.MediaTypeSigstoreBundle
		}),
		"bundle version 0.4": altered(0, "version", func(_ *testing.T, _ *keylessBench, c *certified) {
			c.mediaType = "application/vnd.dev.sigstore.bundle.v0.4+json"
		}),
		"23 SBOM attestation": {why: "which is not a signature", attach: func(t *testing.T, k *keylessBench) {
			k.bundle(t, k.sign(t, statementOf("https://spdx.dev/Document", k.digest), nil).bundle(t))
		}},
		"26 a good one beside a bad one": {counts: 1, why: "duplicate tlog", attach: func(t *testing.T, k *keylessBench) {
			c := k.goodSignature(t)
			k.bundle(t, c.bundle(t))
			c.entries = append(c.entries, c.entries[0])
			k.bundle(t, c.bundle(t))
		}},
	})
}

// Legacy signatures with a certificate are held to the same, their log entry and time stamp in annotations.
func TestLegacyKeyless(t *testing.T) {
	legacy := func(counts int, why string, edit func(t *testing.T, k *keylessBench, c *certified)) keylessAttack {
		return keylessAttack{counts: counts, why: why, attach: func(t *testing.T, k *keylessBench) {
			c := k.signLegacy(t, payloadOf(k.repo.String(), k.digest.String()), nil)
			edit(t, k, &c)
			k.legacy(t, c.layer(t))
		}}
	}
	annotated := func(counts int, why, name, value string) keylessAttack {
		return keylessAttack{counts: counts, why: why, attach: func(t *testing.T, k *keylessBench) {
			l := k.signLegacy(t, payloadOf(k.repo.String(), k.digest.String()), nil).layer(t)
			l.desc.Annotations["dev.sigstore.cosign/"+name] = value
			k.legacy(t, l)
		}}
	}
	tsaOnly := func(k *gate.Keyless) { k.Tlog, k.TSA = 0, 1 }
	runKeyless(t, map[string]keylessAttack{
		"2 good": legacy(1, "", func(*testing.T, *keylessBench, *certified) {}),
		"with a time stamp too": legacy(1, "", func(t *testing.T, k *keylessBench, c *certified) {
			c.stamps = [][]byte{k.stamp(t, *c, signedAt())}
		}).trusting(func(k *gate.Keyless) { k.TSA = 1 }),
		"with a time stamp alone": legacy(1, "", func(t *testing.T, k *keylessBench, c *certified) {
			c.entries, c.stamps = nil, [][]byte{k.stamp(t, *c, signedAt())}
		}).trusting(tsaOnly),
		"3 another subject": {why: "which is not actions", attach: func(t *testing.T, k *keylessBench) {
			k.legacy(t, k.signLegacy(t, payloadOf(k.repo.String(), k.digest.String()), func(id *ocitest.Identity) { id.Subject = "https://evil.example" }).layer(t))
		}},
		"39 another repository": {why: "is for the repository", attach: func(t *testing.T, k *keylessBench) {
			k.legacy(t, k.signLegacy(t, payloadOf("registry.example/acme/other", k.digest.String()), nil).layer(t))
		}},
		"42 payload changed": legacy(0, "its certificate is for actions, but", func(_ *testing.T, _ *keylessBench, c *certified) { c.payload = append(c.payload, ' ') }),
		"43 log entry of another signature": legacy(0, "its certificate is for actions, but", func(t *testing.T, k *keylessBench, c *certified) {
			c.entries = k.signLegacy(t, payloadOf(k.repo.String(), digestOf("other").String()), nil).entries
		}),
		"44 log entry of the same payload under another key": legacy(0, "its certificate is for actions, but", func(t *testing.T, k *keylessBench, c *certified) {
			c.entries = k.signLegacy(t, c.payload, nil).entries
		}),
		"45 no log entry":                   legacy(0, "not enough verified log entries", func(_ *testing.T, _ *keylessBench, c *certified) { c.entries = nil }),
		"46 an attacker's CA in the chain":  annotated(1, "", "chain", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		"log entry that is no JSON":         annotated(0, "the log entry", "bundle", "{"),
		"log entry without a body":          annotated(0, "the log entry", "bundle", `{"Payload":{"logID":"00"}}`),
		"log entry of an odd id":            annotated(0, "the log entry", "bundle", `{"Payload":{"body":"e30=","logID":"0"}}`),
		"log entry of an unknown kind":      annotated(0, "log entry", "bundle", `{"Payload":{"body":"eyJraW5kIjoieCJ9","logID":"00"}}`),
		"time stamp that is no JSON":        annotated(0, "the time stamp", "rfc3161timestamp", "{"),
		"time stamp that is not base64":     annotated(0, "the time stamp", "rfc3161timestamp", `{"SignedRFC3161Timestamp":"?"}`),
		"certificate that is not PEM":       annotated(0, "not one in PEM", "certificate", "MII"),
		"certificate of another kind":       annotated(0, "not one in PEM", "certificate", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
		"certificate that cannot be parsed": annotated(0, "cannot be read", "certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		"two certificates": {why: "not one in PEM", attach: func(t *testing.T, k *keylessBench) {
			c := k.signLegacy(t, payloadOf(k.repo.String(), k.digest.String()), nil)
			l := c.layer(t)
			l.desc.Annotations["dev.sigstore.cosign/certificate"] += string(k.leaf(t, nil).PEM())
			k.legacy(t, l)
		}},
		"signed with a key": {why: "it is signed with a key", attach: func(t *testing.T, k *keylessBench) { k.legacy(t, k.goodLayer(t)) }},
	})
}

// A signature of a certificate says who made it, who vouches for that, and when.
func TestKeylessEvidence(t *testing.T) {
	k := newKeylessBench(t, nil)
	c := k.goodSignature(t)
	c.stamps = [][]byte{k.stamp(t, c, signedAt().Add(30*time.Second))}
	manifest := k.bundle(t, c.bundle(t))
	key := k.good(t)
	got, err := k.verify(t, "release", "actions")
	if err != nil {
		t.Fatal(err)
	}
	want := gate.SignatureEvidence{Signatures: []gate.Signature{
		{Authority: "actions", Format: "sigstore-bundle", Signer: actionsSubject, Issuer: actionsIssuer, SignedAt: signedAt().Add(30 * time.Second), Manifest: manifest},
		{Authority: "release", Format: "sigstore-bundle", Signer: k.release.trusted(t).Fingerprint, Manifest: key},
	}}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Error(diff)
	}
}

// A key does not speak for an authority of certificates, nor the other way round.
func TestOtherWaysOfSigning(t *testing.T) {
	k := newKeylessBench(t, nil)
	k.bundle(t, k.goodSignature(t).bundle(t))
	got, err := k.verify(t, "release")
	if err != nil || len(got.Signatures) != 0 || !strings.Contains(whysOf(got), "signed with a certificate, and release signs with keys") {
		t.Errorf("got %v, %v", got, err)
	}
}

// An authority that cannot be checked is a failure, and never the absence of its signature.
func TestUnusableKeyless(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*gate.Keyless)
		want string
	}{
		"no root":                     {func(k *gate.Keyless) { k.TrustedRoot = nil }, "trusted root"},
		"root of an unknown type":     {func(k *gate.Keyless) { k.TrustedRoot = []byte(`{"mediaType":"x"}`) }, "trusted root"},
		"no issuer":                   {func(k *gate.Keyless) { k.Issuer = gate.Wording{} }, "issuer"},
		"no subject":                  {func(k *gate.Keyless) { k.Subject = gate.Wording{Regexp: true} }, "subject"},
		"no expression":               {func(k *gate.Keyless) { k.Subject = gate.Wording{Text: "(", Regexp: true} }, "subject"},
		"expression that closes ours": {func(k *gate.Keyless) { k.Subject = gate.Wording{Text: "a)|(.*", Regexp: true} }, "subject"},
		"no time":                     {func(k *gate.Keyless) { k.Tlog = 0 }, "nothing says when"},
		"negative":                    {func(k *gate.Keyless) { k.SCT = -1 }, "below 0"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeylessBench(t, tc.edit)
			k.bundle(t, k.goodSignature(t).bundle(t))
			got, err := k.verify(t, "actions")
			if err == nil || !strings.Contains(err.Error(), tc.want) || len(got.Signatures) > 0 {
				t.Errorf("got %v, %v; want an error with %q", got, err, tc.want)
			}
			if err := signing.CheckRoots(k.roots); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("checking the roots: got %v, want an error with %q", err, tc.want)
			}
		})
	}
	if err := signing.CheckRoots(newKeylessBench(t, nil).roots); err != nil {
		t.Errorf("good roots: got %v", err)
	}
}
