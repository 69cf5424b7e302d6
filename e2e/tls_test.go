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
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// certificate returns a certificate for loopback, and for names, that vouches for itself, and its key, in PEM.
func certificate(t *testing.T, serial int64, names ...string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "proxy"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func TestTLS(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.config["listen"] = keys{"registry": "127.0.0.1:0", "admin": "127.0.0.1:0", "tls": keys{"cert": s.path("cert.pem"), "key": s.path("key.pem")}}
	s.pushSigned(t, "shop/web", shop(goodLodash))
	roots := x509.NewCertPool()
	install := func(serial int64) {
		t.Helper()
		cert, key := certificate(t, serial)
		roots.AppendCertsFromPEM(cert)
		replaceFile(t, s.path("key.pem"), key)
		replaceFile(t, s.path("cert.pem"), cert)
		at := time.Now().Add(time.Duration(serial) * time.Second) // two of one clock tick would be the same to whoever looks at times
		if err := os.Chtimes(s.path("cert.pem"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	install(1)
	p := s.serve(t)
	for _, serial := range []int64{1, 2} { // the second replaces the first in a running proxy
		install(serial)
		n := newNode(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true})
		for _, url := range []string{"https://" + p.registry + "/v2/" + host + "/shop/web/manifests/1.0", "https://" + p.admin + "/readyz"} {
			resp, err := n.open(t.Context(), http.MethodGet, url)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close() // only the header is of interest
			if got := resp.TLS.PeerCertificates[0].SerialNumber.Int64(); got != serial || resp.StatusCode != 200 {
				t.Errorf("%s: status %d with certificate %d, want 200 with %d", url, resp.StatusCode, got, serial)
			}
		}
	}
	if got := request(t, http.MethodGet, "http://"+p.registry+"/v2/"); got.status != 400 {
		t.Errorf("without TLS: status %d, want 400", got.status)
	}
}
