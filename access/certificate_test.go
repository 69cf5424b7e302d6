package access_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
)

// ca signs certificates of clients.
type ca struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newCA(t testing.TB) *ca {
	t.Helper()
	c := &ca{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "clients"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	c.certificate, c.key = signCertificate(t, template, nil)
	c.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.certificate.Raw})
	return c
}

// signCertificate returns the certificate template describes, signed by a CA or, when that is nil, by itself.
func signCertificate(t testing.TB, template *x509.Certificate, by *ca) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed, key
}

// client returns a certificate of a client.
func (c *ca) client(t testing.TB, subject pkix.Name) tls.Certificate {
	t.Helper()
	cert, key := signCertificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: subject, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, c)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func TestCertificates(t *testing.T) {
	trusted := newCA(t)
	p := newPlace(t, func(p *place, o *access.Options) {
		o.HtpasswdFile = p.write(t, "htpasswd", hash(t, "ci", "secret"))
		o.Grants = []access.Grant{grant("cert:CN=node-*", "pull", "**"), grant("group:nodes", "sign", "nodes/**")}
	})
	pool := x509.NewCertPool()
	pool.AddCert(trusted.certificate)
	got := make(chan access.Caller, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := p.Identify(r)
		got <- caller
		w.WriteHeader(status(err))
	}))
	server.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.StartTLS()
	defer server.Close()
	for _, tt := range []struct {
		law         string
		certificate *tls.Certificate
		user        string
		want        string
		status      int // 0 for no connection
	}{
		{"no certificate is nobody in particular", nil, "", "anonymous", 200},
		{"one that was checked is its common name", ptr(trusted.client(t, pkix.Name{CommonName: "node-7", Organization: []string{"nodes"}})), "", "cert:CN=node-7", 200},
		{"a password goes before it", ptr(trusted.client(t, pkix.Name{CommonName: "node-7"})), "ci", "user:ci", 200},
		{"even a wrong one", ptr(trusted.client(t, pkix.Name{CommonName: "node-7"})), "nobody", "", 401},
		{"one without a name is refused", ptr(trusted.client(t, pkix.Name{Organization: []string{"nodes"}})), "", "", 401},
		{"one with a line end in it, too", ptr(trusted.client(t, pkix.Name{CommonName: "a\nb"})), "", "", 401},
		{"one of another CA gets no connection", ptr(newCA(t).client(t, pkix.Name{CommonName: "node-7"})), "", "", 0},
	} {
		transport := server.Client().Transport.(*http.Transport).Clone()
		if tt.certificate != nil { // whichever CA the server asks for
			transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tt.certificate, nil }
		}
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.user != "" {
			r.SetBasicAuth(tt.user, "secret")
		}
		response, err := (&http.Client{Transport: transport}).Do(r)
		transport.CloseIdleConnections()
		if err != nil {
			if tt.status != 0 {
				t.Errorf("%s: %v", tt.law, err)
			}
			continue
		}
		_ = response.Body.Close()
		if caller := <-got; caller.Name != tt.want || response.StatusCode != tt.status {
			t.Errorf("%s: got %+v, %d", tt.law, caller, response.StatusCode)
		}
	}
	expired := trusted.client(t, pkix.Name{CommonName: "node-7", Organization: []string{"nodes"}})
	kept := asking(func(r *http.Request) {
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{expired.Leaf}}}
	})
	if got := p.may(t, p.must(t, kept), "nodes/x"); got != "pull,sign" {
		t.Errorf("its organization gives %q", got)
	}
	p.clock.pass(100 * 365 * 24 * time.Hour)
	if _, err := p.Identify(kept); status(err) != 401 {
		t.Errorf("on a connection that outlives it: got %v", err)
	}
}

func ptr[T any](v T) *T { return &v }
