package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"
)

// maxClientCABytes bounds the file of client CAs: the bundles systems come with are 250 KB.
const maxClientCABytes = 4 << 20

// clientCAFile is a file of the certificates that those of clients are signed by, read again whenever it has changed. It is safe for
// concurrent use.
type clientCAFile struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex
	loaded *x509.CertPool // guarded by mu
	// inUse is the state of the file loaded is from, warned the one that was last complained of; both guarded by mu.
	inUse, warned fileState
	// sound are the certificates, by their hashes, that loaded vouches for. Guarded by mu.
	sound map[[sha256.Size]byte]bool
}

// maxSound bounds the certificates that are remembered to be sound: all of a large cluster's. Those beyond it are looked at each time.
const maxSound = 10_000

// openClientCAs returns the file of client CAs of c, nil if it names none.
func openClientCAs(c *config, log *slog.Logger) (*clientCAFile, error) {
	if c.Listen.TLS.ClientCA == "" {
		return nil, nil
	}
	f := &clientCAFile{path: c.Listen.TLS.ClientCA, log: log}
	if _, err := f.get(); err != nil {
		return nil, usageError(err)
	}
	return f, nil
}

// guarding returns a handler that does what next does for connections whose certificate, if they have one, holds now. A connection lasts
// as long as its client likes, and a certificate no longer than its CA is among those in the file. A nil file is that of no certificates.
func (f *clientCAFile) guarding(next http.Handler) http.Handler {
	if f == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && !f.holds(r.TLS.PeerCertificates) {
			panic(http.ErrAbortHandler) // as it would get no connection now
		}
		next.ServeHTTP(w, r)
	})
}

// holds reports whether the CAs there are now vouch for the first of these certificates, which the others may lead to. That it has
// expired since the connection began is for others to notice.
func (f *clientCAFile) holds(shown []*x509.Certificate) bool {
	pool, err := f.get()
	if err != nil {
		return false
	}
	mark := sha256.Sum256(shown[0].Raw)
	f.mu.Lock()
	known := f.loaded == pool && f.sound[mark]
	f.mu.Unlock()
	if known {
		return true
	}
	between := x509.NewCertPool()
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	o := x509.VerifyOptions{Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: time.Now()}
	if _, err := shown[0].Verify(o); err != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loaded == pool && len(f.sound) < maxSound {
		f.sound[mark] = true
	}
	return true
}

// asking returns settings that ask clients for a certificate, and take connections without one: who comes with none may have a password,
// and may do what everybody may. One that does not hold ends the connection. Sessions are not resumed, or a client would go on by a
// certificate whose CA is gone.
func (f *clientCAFile) asking(settings *tls.Config) *tls.Config {
	settings.ClientAuth = tls.VerifyClientCertIfGiven
	settings.SessionTicketsDisabled = true
	plain := settings.Clone()
	settings.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pool, err := f.get()
		if err != nil {
			return nil, err
		}
		now := plain.Clone()
		now.ClientCAs = pool
		return now, nil
	}
	return settings
}

// get returns the certificates. A file that cannot be used leaves those before in use, and is complained of once; it is tried again
// with every connection.
func (f *clientCAFile) get() (*x509.CertPool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, err := stateOf(f.path)
	if err == nil && f.loaded != nil && now == f.inUse {
		return f.loaded, nil
	}
	if err == nil {
		var pool *x509.CertPool
		if pool, err = readClientCAs(f.path); err == nil {
			f.loaded, f.inUse, f.warned, f.sound = pool, now, now, map[[sha256.Size]byte]bool{}
			return pool, nil
		}
	}
	if f.loaded == nil {
		return nil, err
	}
	if now != f.warned {
		f.warned = now
		f.log.Error("the client CAs stay as they were: the file does not hold new ones", "path", f.path, "err", err)
	}
	return f.loaded, nil
}

// readClientCAs reads a file of certificates in PEM.
func readClientCAs(path string) (*x509.CertPool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("loading the client CAs: %w", err)
	}
	if info.Size() > maxClientCABytes {
		return nil, fmt.Errorf("loading the client CAs: %s is larger than %d bytes", path, maxClientCABytes)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("loading the client CAs: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("loading the client CAs: %s holds no certificate", path)
	}
	return pool, nil
}
