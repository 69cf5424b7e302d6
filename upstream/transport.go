package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	dialTimeout   = 10 * time.Second // a connection across an ocean takes under one
	headerTimeout = 30 * time.Second // registries that fetch from elsewhere themselves take that long
	idleTimeout   = 90 * time.Second
	pingTimeout   = 15 * time.Second // of silence before a connection is asked whether it lives, and then for its answer
	// idlePerHost is how many connections to one host wait for the next image: a cold pull opens dozens at once.
	idlePerHost = 64
	// readBufferBytes is per connection; blobs are gigabytes and the default means a system call every 4 KiB.
	readBufferBytes = 64 << 10
	// maxHeaderBytes bounds an answer's header. Registries and object stores send under 8 KiB.
	maxHeaderBytes = 256 << 10

	maxPasswordBytes = 64 << 10 // a cloud's service account key is 3 KiB, the longest token seen 5
	maxCABytes       = 4 << 20  // a whole system's bundle is 250 KiB
)

// newTransport returns connections to s and to where it redirects. It reads no environment; proxies are not for it to find.
func newTransport(s settings) (*http.Transport, error) {
	dialer := &net.Dialer{Timeout: dialTimeout}
	if !s.UnsafePrivateAddresses {
		dialer.Control = RefusePrivate
	}
	roots, err := Roots(s.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    idlePerHost,
		ReadBufferSize:         readBufferBytes,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ForceAttemptHTTP2:      true,
		// All requests to a host share one HTTP/2 connection; when it dies unnoticed they would all wait for their time limits.
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingTimeout, PingTimeout: pingTimeout},
		// Content is named by the digest of the bytes sent; a transport that unpacks them hands over others.
		DisableCompression: true,
	}, nil
}

// Roots returns the system's roots and those of file, in PEM; nil, which stands for the system's, when there is no file.
func Roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := readBoundedFile(file, maxCABytes)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil { // a machine without roots of its own trusts the file alone
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return pool, nil
}

func readBoundedFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	return oci.ReadBounded(f, limit)
}

// credential is the auth.CredentialFunc of the endpoint at the URL of s. The file is read anew each time.
func (s settings) credential(ctx context.Context, _ string) (auth.Credential, error) {
	if s.Credentials != nil {
		username, password, err := s.Credentials.Credential(ctx)
		switch {
		case err != nil:
			return auth.EmptyCredential, s.noCredential(err)
		case username == "" || password == "": // which would be to ask as nobody
			return auth.EmptyCredential, s.noCredential(errors.New("a user name or a password is missing"))
		case username == identityToken:
			return auth.Credential{RefreshToken: password}, nil
		}
		return auth.Credential{Username: username, Password: password}, nil
	}
	if s.Username == "" {
		return auth.EmptyCredential, nil
	}
	text, err := readBoundedFile(s.PasswordFile, maxPasswordBytes)
	if err != nil {
		return auth.EmptyCredential, s.noCredential(fmt.Errorf("reading the password file: %w", err))
	}
	password := strings.TrimSpace(string(text))
	if password == "" {
		return auth.EmptyCredential, s.noCredential(fmt.Errorf("%s is empty", s.PasswordFile))
	}
	return auth.Credential{Username: s.Username, Password: password}, nil
}

// basic returns what a basic challenge is answered with at this moment.
func (s settings) basic(ctx context.Context) (string, error) {
	c, err := s.credential(ctx, "")
	if err != nil {
		return "", err
	}
	if c.Username == "" || c.Password == "" {
		return "", errNoToken
	}
	return base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password)), nil
}

func (s settings) noCredential(err error) error {
	return &refusal{"cannot be asked: its credentials cannot be had", err}
}

// noRedirects makes an http.Client hand back redirects: whoever asked decides, without credentials, whether to follow.
func noRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

const (
	// maxRetries is how often a request is sent again at once. More would only keep a client waiting that could be told.
	maxRetries = 2
	// retryWait is the wait before the first of them, give or take half; the second waits twice as long.
	retryWait = 200 * time.Millisecond
)

// retries is the retry.Policy of requests that only read: again, soon and seldom, after answers and failures that are likely over
// in a moment. Not after a 429, for which asking again makes matters worse.
type retries struct{ wait time.Duration }

// Retry implements retry.Policy.
func (p retries) Retry(attempt int, resp *http.Response, err error) (time.Duration, error) {
	if attempt >= maxRetries || !transient(resp, err) {
		return -1, nil
	}
	wait := p.wait << attempt
	return wait/2 + rand.N(wait+1), nil
}

func transient(resp *http.Response, err error) bool {
	if err != nil {
		return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
	}
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return resp.Header.Get("Retry-After") == "" // it said when, and that is not now
	}
	return false
}

func withRetries(next http.RoundTripper, wait time.Duration) http.RoundTripper {
	return &retry.Transport{Base: next, Policy: func() retry.Policy { return retries{wait} }}
}
