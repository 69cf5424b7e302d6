package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newPair returns a certificate of that serial number and its key, as PEM.
func newPair(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: []string{"proxy.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// pairFiles are certificateFiles whose files' times are counted, so that no two writes look alike.
type pairFiles struct {
	*certificateFiles
	log    bytes.Buffer
	writes int64
}

func newPairFiles(t *testing.T) *pairFiles {
	p := &pairFiles{}
	dir := t.TempDir()
	p.certificateFiles = &certificateFiles{
		cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key"), log: slog.New(slog.NewTextHandler(&p.log, nil)),
	}
	return p
}

func (p *pairFiles) put(t *testing.T, name string, content []byte) {
	t.Helper()
	p.writes++
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_000+p.writes, 0)
	if err := os.Chtimes(name, at, at); err != nil {
		t.Fatal(err)
	}
}

// serial returns the serial number of the certificate clients are shown, and how often was warned by then.
func (p *pairFiles) serial(t *testing.T) (serial int64, warnings int) {
	t.Helper()
	pair, err := p.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return parsed.SerialNumber.Int64(), strings.Count(p.log.String(), "level=WARN")
}

func TestReplacedCertificates(t *testing.T) {
	p := newPairFiles(t)
	cert1, key1 := newPair(t, 1)
	cert2, key2 := newPair(t, 2)
	expect := func(law string, serial int64, warnings int) {
		t.Helper()
		for range 3 { // connections
			if gotSerial, gotWarnings := p.serial(t); gotSerial != serial || gotWarnings != warnings {
				t.Errorf("%s: got certificate %d and %d warnings, want %d and %d", law, gotSerial, gotWarnings, serial, warnings)
			}
		}
	}
	p.put(t, p.cert, cert1)
	p.put(t, p.key, key1)
	expect("the first pair is used", 1, 0)

	p.put(t, p.cert, cert2)
	expect("half a new pair leaves the old one in use, and is complained of once", 1, 1)
	p.put(t, p.key, key2)
	expect("the new pair is used once its key is there, although the certificate has not changed since", 2, 1)

	p.put(t, p.key, []byte("not a key"))
	expect("a broken key leaves the pair in use, and is complained of", 2, 2)
	p.put(t, p.key, []byte("nor this"))
	expect("another broken key is complained of anew", 2, 3)
	if err := os.Remove(p.cert); err != nil {
		t.Fatal(err)
	}
	expect("a certificate that is gone leaves the pair in use, and is complained of", 2, 4)
	p.put(t, p.cert, cert1)
	p.put(t, p.key, key1)
	expect("a good pair is used again", 1, 4)
	if strings.Contains(p.log.String(), "PRIVATE KEY") {
		t.Error("the log holds a key")
	}
}

func TestNoCertificate(t *testing.T) {
	p := newPairFiles(t)
	if _, err := p.get(nil); err == nil {
		t.Error("a connection is taken without a certificate")
	}
}
