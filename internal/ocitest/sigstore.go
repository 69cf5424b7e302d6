package ocitest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"
)

// Sigstore is a sigstore instance in memory: a certificate authority, its certificate transparency log, a log of signatures of the shape
// of Rekor 1, and a time stamp service. All of it is real cryptography, written without the libraries that check it. Immutable after
// [NewSigstore], and safe for concurrent use.
type Sigstore struct {
	ca, ctlog, rekor, tsa, tsaRoot *Key
	caCert, tsaCert, tsaRootCert   *x509.Certificate
}

// NewSigstore makes an instance whose certificates are valid for ten years around now.
func NewSigstore(now time.Time) (*Sigstore, error) {
	s := &Sigstore{}
	for _, k := range []**Key{&s.ca, &s.ctlog, &s.rekor, &s.tsa, &s.tsaRoot} {
		var err error
		if *k, err = NewKey(ECDSAP256); err != nil {
			return nil, err
		}
	}
	var err error
	if s.caCert, err = newCA("fulcio", s.ca, now); err != nil {
		return nil, err
	}
	if s.tsaRootCert, err = newCA("tsa root", s.tsaRoot, now); err != nil {
		return nil, err
	}
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}) // time stamping, and only that
	if err != nil {
		return nil, fmt.Errorf("encoding the use of a certificate: %w", err)
	}
	s.tsaCert, err = issue(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "tsa", Organization: []string{"test"}, Country: []string{"US"}},
		NotBefore: now.AddDate(-5, 0, 0), NotAfter: now.AddDate(5, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}, s.tsaRootCert, s.tsa, s.tsaRoot)
	return s, err
}

func newCA(name string, key *Key, now time.Time) (*x509.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{"test"}, Country: []string{"US"}},
		NotBefore: now.AddDate(-5, 0, 0), NotAfter: now.AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return issue(template, template, key, key)
}

// issue returns the certificate of a key, signed with that of its issuer.
func issue(template, parent *x509.Certificate, of, by *Key) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, of.signer.Public(), by.signer)
	if err != nil {
		return nil, fmt.Errorf("issuing a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// TrustedRoot returns what verifiers of the instance's signatures are given (sigstore protobuf-specs, trusted root 0.1).
func (s *Sigstore) TrustedRoot() []byte {
	window := map[string]any{"start": s.caCert.NotBefore}
	log := func(k *Key, url string) []any {
		id := sha256.Sum256(k.der)
		return []any{map[string]any{
			"baseUrl": url, "hashAlgorithm": "SHA2_256", "logId": map[string]any{"keyId": id[:]},
			"publicKey": map[string]any{"rawBytes": k.der, "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": window},
		}}
	}
	chain := func(url string, certs ...*x509.Certificate) []any {
		var raw []any
		for _, c := range certs {
			raw = append(raw, map[string]any{"rawBytes": c.Raw})
		}
		return []any{map[string]any{"uri": url, "certChain": map[string]any{"certificates": raw}, "validFor": window}}
	}
	root, err := json.Marshal(map[string]any{
		"mediaType":              "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
		"tlogs":                  log(s.rekor, "https://rekor.test"),
		"ctlogs":                 log(s.ctlog, "https://ctlog.test"),
		"certificateAuthorities": chain("https://fulcio.test", s.caCert),
		"timestampAuthorities":   chain("https://tsa.test", s.tsaCert, s.tsaRootCert),
	})
	if err != nil {
		panic(err) // there is nothing in it that JSON cannot say
	}
	return root
}

// TSAChain returns the time stamp service's certificates in DER, its own first.
func (s *Sigstore) TSAChain() [][]byte { return [][]byte{s.tsaCert.Raw, s.tsaRootCert.Raw} }

// Identity is what a short-lived certificate says.
type Identity struct {
	// Subject is who signs: an e-mail address if it has an @ and no scheme, otherwise a URI. Also are further subjects.
	Subject string
	Also    []string
	// Issuer is who vouches for the subject.
	Issuer string
	// At is when it is issued; it is valid for ten minutes.
	At time.Time
	// NoSCT leaves out the transparency log's promise; StrangeSCT has a log make it that nobody knows.
	NoSCT, StrangeSCT bool
	// Key is the kind of key it is for; P-256 when it is empty.
	Key KeyKind
}

// Leaf is a short-lived certificate and its key.
type Leaf struct {
	*Key
	DER []byte
}

// PEM returns the certificate as annotations and log entries hold it.
func (l Leaf) PEM() []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.DER}) }

// Object identifiers of Fulcio and of certificate transparency (fulcio, oid-info.md; RFC 6962, section 3.3).
var (
	oidIssuer   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
	oidIssuerV2 = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
	oidSCTs     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

// Issue returns a certificate for id, as Fulcio does.
func (s *Sigstore) Issue(id Identity) (Leaf, error) {
	kind := id.Key
	if kind == "" {
		kind = ECDSAP256
	}
	key, err := NewKey(kind)
	if err != nil {
		return Leaf{}, err
	}
	issuer, err := asn1.MarshalWithParams(id.Issuer, "utf8")
	if err != nil {
		return Leaf{}, fmt.Errorf("encoding the issuer: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(key.der[len(key.der)-16:]), NotBefore: id.At, NotAfter: id.At.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{Id: oidIssuer, Value: []byte(id.Issuer)}, {Id: oidIssuerV2, Value: issuer}},
	}
	for _, subject := range append([]string{id.Subject}, id.Also...) {
		if strings.Contains(subject, "@") && !strings.Contains(subject, "://") {
			template.EmailAddresses = append(template.EmailAddresses, subject)
			continue
		}
		uri, err := url.Parse(subject)
		if err != nil {
			return Leaf{}, fmt.Errorf("the subject: %w", err)
		}
		template.URIs = append(template.URIs, uri)
	}
	cert, err := issue(template, s.caCert, key, s.ca)
	if err != nil || id.NoSCT {
		return Leaf{key, cert.Raw}, err
	}
	log := s.ctlog
	if id.StrangeSCT {
		if log, err = NewKey(ECDSAP256); err != nil {
			return Leaf{}, err
		}
	}
	sct, err := s.promise(log, cert, id.At)
	if err != nil {
		return Leaf{}, err
	}
	template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidSCTs, Value: sct})
	if cert, err = issue(template, s.caCert, key, s.ca); err != nil {
		return Leaf{}, err
	}
	return Leaf{key, cert.Raw}, nil
}

// promise returns the extension in which log promises to list what is otherwise the same certificate (RFC 6962, sections 3.2 and 3.3).
func (s *Sigstore) promise(log *Key, cert *x509.Certificate, at time.Time) ([]byte, error) {
	ms := uint64(at.UnixMilli())
	issuerKey := sha256.Sum256(s.caCert.RawSubjectPublicKeyInfo)
	tbs := cert.RawTBSCertificate
	signed := binary.BigEndian.AppendUint64([]byte{0, 0}, ms)
	signed = append(signed, 0, 1) // a precertificate
	signed = append(signed, issuerKey[:]...)
	signed = append(signed, byte(len(tbs)>>16), byte(len(tbs)>>8), byte(len(tbs)))
	signed = append(append(signed, tbs...), 0, 0)
	sig, err := log.Sign(signed)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(log.der)
	sct := append([]byte{0}, id[:]...)
	sct = binary.BigEndian.AppendUint64(sct, ms)
	sct = append(sct, 0, 0, 4, 3) // no extensions; SHA-256, ECDSA
	sct = append(binary.BigEndian.AppendUint16(sct, uint16(len(sig))), sig...)
	list := append(binary.BigEndian.AppendUint16(nil, uint16(len(sct))), sct...)
	return asn1.Marshal(append(binary.BigEndian.AppendUint16(nil, uint16(len(list))), list...))
}

// LogEntry is an entry of the log of signatures, with the log's promise to keep it and the proof that it does. Tests change it.
type LogEntry struct {
	Body           []byte
	Kind           string
	LogID          []byte
	IntegratedTime int64
	Index          int64
	Promise        []byte
	RootHash       []byte
	Checkpoint     string
}

// LogEnvelope logs the signature of a DSSE envelope by leaf.
func (s *Sigstore) LogEnvelope(leaf Leaf, payload, sig []byte, at time.Time) (LogEntry, error) {
	sum := sha256.Sum256(payload)
	hash := map[string]string{"algorithm": "sha256", "value": fmt.Sprintf("%x", sum)}
	return s.log("dsse", map[string]any{
		"envelopeHash": hash, "payloadHash": hash,
		"signatures": []any{map[string]any{"signature": base64.StdEncoding.EncodeToString(sig), "verifier": leaf.PEM()}},
	}, at)
}

// LogSignature logs the signature of a message by leaf.
func (s *Sigstore) LogSignature(leaf Leaf, message, sig []byte, at time.Time) (LogEntry, error) {
	return s.log("hashedrekord", map[string]any{
		"data":      map[string]any{"hash": map[string]string{"algorithm": "sha256", "value": fmt.Sprintf("%x", sha256.Sum256(message))}},
		"signature": map[string]any{"content": sig, "publicKey": map[string]any{"content": leaf.PEM()}},
	}, at)
}

// log returns an entry that is the only one of its tree.
func (s *Sigstore) log(kind string, spec any, at time.Time) (LogEntry, error) {
	body, err := json.Marshal(map[string]any{"apiVersion": "0.0.1", "kind": kind, "spec": spec})
	if err != nil {
		return LogEntry{}, fmt.Errorf("encoding the log entry: %w", err)
	}
	id := sha256.Sum256(s.rekor.der)
	root := sha256.Sum256(append([]byte{0}, body...))
	e := LogEntry{Body: body, Kind: kind, LogID: id[:], IntegratedTime: at.Unix(), RootHash: root[:]}
	if e.Promise, err = s.rekor.Sign(e.promised()); err != nil {
		return LogEntry{}, err
	}
	text := fmt.Sprintf("rekor.test - 1\n1\n%s\n", base64.StdEncoding.EncodeToString(root[:]))
	sig, err := s.rekor.Sign([]byte(text))
	if err != nil {
		return LogEntry{}, err
	}
	e.Checkpoint = fmt.Sprintf("%s\n— rekor.test %s\n", text, base64.StdEncoding.EncodeToString(append(bytes.Clone(id[:4]), sig...)))
	return e, nil
}

// promised returns what the log signs when it promises to keep an entry: canonical JSON, so keys in order.
func (e LogEntry) promised() []byte {
	return fmt.Appendf(nil, `{"body":%q,"integratedTime":%d,"logID":"%x","logIndex":%d}`, base64.StdEncoding.EncodeToString(e.Body), e.IntegratedTime, e.LogID, e.Index)
}

// Bundled returns e as a sigstore bundle holds it. Without a promise or a checkpoint it has none.
func (e LogEntry) Bundled() map[string]any {
	entry := map[string]any{
		"logIndex": fmt.Sprint(e.Index), "logId": map[string]any{"keyId": e.LogID}, "kindVersion": map[string]any{"kind": e.Kind, "version": "0.0.1"},
		"integratedTime": fmt.Sprint(e.IntegratedTime), "canonicalizedBody": e.Body,
	}
	if e.Promise != nil {
		entry["inclusionPromise"] = map[string]any{"signedEntryTimestamp": e.Promise}
	}
	if e.Checkpoint != "" {
		entry["inclusionProof"] = map[string]any{
			"logIndex": fmt.Sprint(e.Index), "rootHash": e.RootHash, "treeSize": "1", "hashes": []any{}, "checkpoint": map[string]any{"envelope": e.Checkpoint},
		}
	}
	return entry
}

// Annotated returns e as cosign annotates it on a layer.
func (e LogEntry) Annotated() string {
	return fmt.Sprintf(`{"SignedEntryTimestamp":%q,"Payload":%s}`, base64.StdEncoding.EncodeToString(e.Promise), e.promised())
}

// Timestamp returns the time stamp service's word that it saw message at a time (RFC 3161, section 2.4.2).
func (s *Sigstore) Timestamp(message []byte, at time.Time) ([]byte, error) {
	return timestamp(message, at, s.tsaCert, s.tsa)
}
