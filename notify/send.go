package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	// maxAnswerBytes is how much of an answer's body is read so that its connection can be used again. Nothing in it is of interest.
	maxAnswerBytes = 4 << 10
	// maxHeaderBytes bounds an answer's header.
	maxHeaderBytes  = 64 << 10
	idleTimeout     = 90 * time.Second
	maxCABytes      = 4 << 20 // a whole system's bundle is 250 KiB
	maxProblemBytes = 300
	// maxRetryAfter bounds for how long a receiver can put us off.
	maxRetryAfter = time.Hour
)

// failure is why an attempt did not deliver. It is a value: receivers that are down are a fact.
type failure struct {
	// problem is for people. What a receiver wrote is in it only as far as the TLS layer repeats it, cut short.
	problem string
	// after is when the receiver wants to be asked again, at the earliest; 0 when it did not say.
	after time.Duration
	// abandoned says that we stopped, and the receiver is not to blame.
	abandoned bool
}

// sender posts events to one webhook.
type sender struct {
	hook   Webhook
	client *http.Client
	now    func() time.Time
}

func newSender(w Webhook, now func() time.Time) (*sender, error) {
	roots, err := loadRoots(w.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	timeout := w.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	dialer := &net.Dialer{Timeout: timeout}
	if !w.UnsafePrivateAddresses {
		dialer.Control = w.Control
	}
	return &sender{hook: w, now: now, client: &http.Client{
		Timeout: timeout,
		// Whoever could make a receiver redirect would get the events.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{ // which reads no environment; proxies are not for it to find
			DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: timeout, IdleConnTimeout: idleTimeout, MaxIdleConnsPerHost: maxAttempting,
			MaxResponseHeaderBytes: maxHeaderBytes, ForceAttemptHTTP2: true,
		},
	}}, nil
}

// send posts an event once; nil when it was taken.
func (s *sender) send(ctx context.Context, id string, body []byte) *failure {
	secrets, err := readSecrets(s.hook.SecretFile)
	if err != nil {
		return &failure{problem: "there is nothing to sign it with: " + err.Error()}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.hook.URL, bytes.NewReader(body))
	if err != nil { // which holds the URL
		return &failure{problem: "the URL is not one"}
	}
	now := s.now()
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("User-Agent", "tidewaiter")
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("webhook-signature", signature(secrets, id, now, body))
	resp, err := s.client.Do(req)
	if err != nil {
		return &failure{problem: fmt.Sprintf("%.*s", maxProblemBytes, withoutURL(err).Error()), abandoned: ctx.Err() != nil}
	}
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswerBytes)
	_ = resp.Body.Close() // the rest does not matter
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	problem := fmt.Sprintf("it answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	return &failure{problem: problem, after: retryAfter(resp.Header.Get("Retry-After"), now)}
}

// withoutURL returns what is wrong, without the URL that net/http puts in front.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// retryAfter returns the time a Retry-After asks for, within bounds; 0 for none (RFC 9110, 10.2.3).
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(header)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// loadRoots returns the system's roots and those of file; nil, which stands for the system's, when there is no file.
func loadRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	pem, err := oci.ReadBounded(f, maxCABytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
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
