package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newClientCA returns a certificate as a file of client CAs holds it, and one of a client it signed.
func newClientCA(t *testing.T, name string) (ca []byte, client tls.Certificate) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der, key
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, key := sign(authority, authority, nil)
	node := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "node-1"}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	clientDER, clientKey := sign(node, authority, key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), tls.Certificate{Certificate: [][]byte{clientDER}, PrivateKey: clientKey}
}

func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	cert, key := newPair(t, 1)
	caA, clientA := newClientCA(t, "a")
	caB, clientB := newClientCA(t, "b")
	var c config
	c.Listen.TLS.Cert, c.Listen.TLS.Key, c.Listen.TLS.ClientCA = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.pem")
	writes := int64(0)
	put := func(path string, content []byte) {
		t.Helper()
		writes++
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(1_700_000_000+writes, 0)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	put(c.Listen.TLS.Cert, cert)
	put(c.Listen.TLS.Key, key)
	var log bytes.Buffer
	if _, err := openClientCAs(&c, slog.New(slog.DiscardHandler)); err == nil {
		t.Fatal("it serves without the client CAs it was told of")
	}
	put(c.Listen.TLS.ClientCA, caA)
	clients, err := openClientCAs(&c, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := listen(t.Context(), &c, "127.0.0.1:0", clients, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()

	sessions := tls.NewLRUClientSessionCache(10)
	// connect returns the name of the client as the server has verified it, and whether there was a connection.
	connect := func(client *tls.Certificate) (string, bool) {
		t.Helper()
		type seen struct {
			name string
			ok   bool
		}
		server := make(chan seen, 1)
		go func() {
			accepted, err := l.Accept()
			if err != nil {
				server <- seen{}
				return
			}
			defer func() { _ = accepted.Close() }()
			conn := accepted.(*tls.Conn)
			if conn.Handshake() != nil {
				server <- seen{}
				return
			}
			_, _ = conn.Write([]byte("x"))
			s := seen{ok: true}
			if chains := conn.ConnectionState().VerifiedChains; len(chains) > 0 {
				s.name = chains[0][0].Subject.CommonName
			}
			server <- s
		}()
		settings := &tls.Config{InsecureSkipVerify: true, ClientSessionCache: sessions, ServerName: "proxy.test"} // the server's certificate is of no matter here
		if client != nil {
			settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return client, nil }
		}
		conn, err := tls.Dial("tcp", l.Addr().String(), settings)
		if err == nil {
			if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				t.Log(err)
			}
			_ = conn.Close()
		}
		s := <-server
		return s.name, s.ok
	}
	expect := func(law string, client *tls.Certificate, wantName string, wantOK bool) {
		t.Helper()
		if name, ok := connect(client); name != wantName || ok != wantOK {
			t.Errorf("%s: got %q, %t", law, name, ok)
		}
	}
	expect("without a certificate there is a connection", nil, "", true)
	expect("with one it has a name", &clientA, "node-1", true)
	expect("with one of another CA there is no connection", &clientB, "", false)
	put(c.Listen.TLS.ClientCA, caB)
	expect("a replaced file counts from the next connection on", &clientB, "node-1", true)
	expect("and so does what is no longer in it", &clientA, "", false)
	put(c.Listen.TLS.ClientCA, []byte("nothing"))
	expect("a broken file leaves the one before in use", &clientB, "node-1", true)
	expect("for all", &clientA, "", false)
	if got := strings.Count(log.String(), "level=ERROR"); got != 1 {
		t.Errorf("it was complained of %d times, want once", got)
	}
}
