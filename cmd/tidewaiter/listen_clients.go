package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
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
			f.loaded, f.inUse, f.warned = pool, now, now
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
