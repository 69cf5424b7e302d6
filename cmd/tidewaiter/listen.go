package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
)

// listen opens a listener, with TLS when a certificate is configured, and asking clients for one that clients vouches for if that is
// not nil.
func listen(ctx context.Context, c *config, address string, clients *clientCAFile, log *slog.Logger) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil || c.Listen.TLS.Cert == "" {
		return l, err
	}
	certificate := &certificateFiles{cert: c.Listen.TLS.Cert, key: c.Listen.TLS.Key, log: log}
	if _, err := certificate.get(nil); err != nil {
		return nil, usageError(errors.Join(err, l.Close()))
	}
	settings := &tls.Config{GetCertificate: certificate.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if clients != nil {
		settings = clients.asking(settings)
	}
	return tls.NewListener(l, settings), nil
}

// certificateFiles is a certificate that is read again whenever one of its files has changed. It is safe for concurrent use.
type certificateFiles struct {
	cert, key string
	log       *slog.Logger

	mu     sync.Mutex
	loaded *tls.Certificate // guarded by mu
	// inUse is the state of the files loaded is from, warned the one that was last complained of; both guarded by mu.
	inUse, warned pairState
}

// pairState tells one state of the two files from another. The zero value is that of files that are not both there.
type pairState struct{ cert, key fileState }

type fileState struct {
	modified int64 // nanoseconds since 1970
	size     int64
}

// get implements tls.Config.GetCertificate. A pair that cannot be used, perhaps half replaced, leaves the one before in use, and is
// complained of once; it is tried again with every connection.
func (f *certificateFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, err := f.state()
	if err == nil && f.loaded != nil && now == f.inUse {
		return f.loaded, nil
	}
	if err == nil {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(f.cert, f.key); err == nil {
			f.loaded, f.inUse, f.warned = &pair, now, now
			return f.loaded, nil
		}
	}
	if f.loaded == nil {
		return nil, fmt.Errorf("loading the certificate: %w", err)
	}
	if now != f.warned {
		f.warned = now
		f.log.Warn("the certificate stays as it was: its files do not make a new one", "err", err)
	}
	return f.loaded, nil
}

// state looks at both files: a renewed certificate with its old key file has changed as much as the reverse.
func (f *certificateFiles) state() (pairState, error) {
	cert, err := stateOf(f.cert)
	if err != nil {
		return pairState{}, err
	}
	key, err := stateOf(f.key)
	if err != nil {
		return pairState{}, err
	}
	return pairState{cert, key}, nil
}

func stateOf(path string) (fileState, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{}, err
	}
	return fileState{info.ModTime().UnixNano(), info.Size()}, nil
}
