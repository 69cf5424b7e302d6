package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// authority signs the certificates of clients.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nodes"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{parsed, key}
}

// pem returns what a file of client CAs has of it.
func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// client returns the certificate of a client called name.
func (a *authority) client(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestNodesByCertificate pulls as nodes do that are known by their certificates, and replaces the CA under a running proxy.
func TestNodesByCertificate(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.config["listen"] = keys{"registry": "127.0.0.1:0", "admin": "127.0.0.1:0", "tls": keys{
		"cert": s.path("cert.pem"), "key": s.path("key.pem"), "client_ca": s.path("clients.pem"),
	}}
	s.config["access"] = keys{"grants": []any{keys{"who": "cert:CN=node-*", "repositories": []string{host + "/shop/**"}, "actions": []string{"pull"}}}}
	s.pushSigned(t, "shop/web", shop(goodLodash))
	s.push(t, "shop/unsigned", shop(goodLodash, noise(100, 1)))
	cert, key := certificate(t, 1)
	writeFile(t, s.path("cert.pem"), cert)
	writeFile(t, s.path("key.pem"), key)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	first, second := newAuthority(t), newAuthority(t)
	writeFile(t, s.path("clients.pem"), first.pem())
	p := s.serve(t)
	of := func(certificates ...tls.Certificate) node {
		return newNode(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificates}, MaxConnsPerHost: 1})
	}
	// status is that of an image's manifest, 0 when there is no connection.
	status := func(n node, repo string) int {
		r, err := n.fetch(t.Context(), http.MethodGet, "https://"+p.registry+"/v2/"+host+"/"+repo+"/manifests/1.0")
		if err != nil {
			return 0
		}
		return r.status
	}
	expect := func(t *testing.T, law string, n node, repo string, want int) {
		t.Helper()
		if got := status(n, repo); got != want {
			t.Errorf("%s: got %d, want %d", law, got, want)
		}
	}
	old := of(first.client(t, "node-1"))
	expect(t, "a node pulls what is admitted", old, "shop/web", 200)
	expect(t, "and nothing else", old, "shop/unsigned", 403)
	expect(t, "nor what it is not granted", old, "lab/web", 403)
	expect(t, "another client of the same CA does not pull", of(first.client(t, "laptop")), "shop/web", 403)
	expect(t, "nor does whoever shows none", of(), "shop/web", 403)
	expect(t, "a certificate nobody vouches for gets no connection", of(second.client(t, "node-1")), "shop/web", 0)

	replaceFile(t, s.path("clients.pem"), second.pem())
	at := time.Now().Add(time.Minute) // two of one clock tick would be the same to whoever looks at times
	if err := os.Chtimes(s.path("clients.pem"), at, at); err != nil {
		t.Fatal(err)
	}
	t.Run("once the CA is another", func(t *testing.T) {
		expect(t, "its nodes pull", of(second.client(t, "node-2")), "shop/web", 200)
		expect(t, "those of the one before get no connection", of(first.client(t, "node-2")), "shop/web", 0)
		expect(t, "nor keep one that they had", old, "shop/web", 0)
	})
}
