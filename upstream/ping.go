package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// pongTimeout is how long an endpoint may take to answer a ping, token and retries included: whoever pings waits for it.
const pongTimeout = 15 * time.Second

// Fault is where asking an upstream came to an end. The zero value is nowhere: it answered.
type Fault string

// The faults of a [Pong].
const (
	FaultName         Fault = "name"         // it does not resolve
	FaultPrivate      Fault = "private"      // it leads to an address that is not public, and those are not allowed
	FaultConnection   Fault = "connection"   // there is none, or it broke
	FaultTLS          Fault = "tls"          // its certificate does not verify, or there is no TLS
	FaultRealm        Fault = "realm"        // it names a token service that is not configured
	FaultCredentials  Fault = "credentials"  // those configured cannot be had
	FaultUnauthorized Fault = "unauthorized" // it lets nobody in by what it was shown
	FaultLimited      Fault = "limited"      // it limits our rate
	FaultSlow         Fault = "slow"         // it does not answer in time
	FaultAnswer       Fault = "answer"       // it answers something else than a registry does
)

// Pong is what one URL of an upstream answered to being pinged.
type Pong struct {
	// URL is a scheme and a host. Mirror says that it is one of the mirrors.
	URL    string
	Mirror bool
	// Configured says that there are credentials for it, Shown that it asked to be shown some, or a token, and was.
	Configured, Shown bool
	// Date is its clock, to the second, and At ours then. Zero when it does not say.
	Date, At time.Time
	Fault    Fault
	// Err says more of the fault, nil for none. It is for operators: it holds no credential, and may quote a certificate or a realm.
	Err error
}

// Ping asks the upstream of that name for /v2/ at each of its URLs, mirrors first, as whatever it is configured to know us by: by new
// connections and with new tokens, and whether or not it is being left alone. Nothing is remembered of it.
//
// Errors: there is no such upstream.
func (rs *Registries) Ping(ctx context.Context, host string) ([]Pong, error) {
	r, ok := rs.byHost[host]
	if !ok {
		return nil, fmt.Errorf("there is no upstream %.100q", host)
	}
	transport := r.transports[0].Clone()
	defer transport.CloseIdleConnections()
	pongs := make([]Pong, len(r.endpoints))
	var pinging sync.WaitGroup
	for i, known := range r.endpoints {
		pinging.Go(func() { pongs[i] = r.ping(ctx, known, transport) })
	}
	pinging.Wait()
	return pongs, nil
}

func (r *registry) ping(ctx context.Context, known *endpoint, transport *http.Transport) Pong {
	ctx, cancel := context.WithTimeout(ctx, pongTimeout)
	defer cancel()
	e := newEndpoint(r.settings, known.origin, transport, Options{
		UserAgent: known.userAgent, Log: r.log, Now: r.now, Observe: func(Event) {}, retryWait: r.retryWait,
	}, auth.ActionPull)
	realm := make(chan error, 1) // one request asks for one token; whoever fetches it may go on when it is late
	e.diagnose = func(err error) { realm <- err }
	p := Pong{URL: e.origin.String(), Mirror: e.origin != r.url, Configured: e.origin == r.url && r.hasCredentials()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: e.origin.Scheme, Host: e.origin.Host, Path: "/v2/"}).String(), nil)
	if err != nil {
		p.Fault, p.Err = FaultAnswer, err
		return p
	}
	resp, err := e.signed.Do(req)
	if err != nil {
		select {
		case err = <-realm:
			p.Fault, p.Err = faultOf(err)
			p.Err = fmt.Errorf("asking its token service: %w", p.Err)
		default:
			p.Fault, p.Err = faultOf(err)
		}
		return p
	}
	drain(resp.Body)
	p.Shown = resp.Request.Header.Get("Authorization") != ""
	if said, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		p.Date, p.At = said, r.now()
	}
	p.Fault, p.Err = faultOfStatus(resp.StatusCode)
	return p
}

// faultOf returns what it means that no answer came, and the part of err that says so.
func faultOf(err error) (Fault, error) {
	if _, ok := errors.AsType[*refusal](err); ok {
		return faultOfRefusal(err), withoutURL(err)
	}
	if said, ok := errors.AsType[*errcode.ErrorResponse](err); ok { // a realm's
		return faultOfStatus(said.StatusCode)
	}
	if name, ok := errors.AsType[*net.DNSError](err); ok {
		return FaultName, name
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return FaultTLS, bad
	}
	if isTLS(err) {
		return FaultTLS, withoutURL(err)
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return FaultUnauthorized, errors.New("it asks for a user name and a password")
	}
	timeout, ok := errors.AsType[net.Error](err)
	dial, dialled := errors.AsType[*net.OpError](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), ok && timeout.Timeout() && !dialled:
		return FaultSlow, errors.New("no answer in time")
	case dialled:
		return FaultConnection, dial
	}
	return FaultConnection, withoutURL(err)
}

func faultOfRefusal(err error) Fault {
	switch {
	case errors.Is(err, errForeignRealm):
		return FaultRealm
	case errors.Is(err, errPrivateAddress):
		return FaultPrivate
	case errors.Is(err, errLeak):
		return FaultAnswer
	}
	return FaultCredentials
}

// isTLS reports whether a connection failed for want of an understanding about encryption.
func isTLS(err error) bool {
	_, record := errors.AsType[tls.RecordHeaderError](err)
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	op, alert := errors.AsType[*net.OpError](err)
	return record || authority || errors.Is(err, http.ErrSchemeMismatch) || alert && (op.Op == "remote error" || op.Op == "local error")
}

func faultOfStatus(status int) (Fault, error) {
	switch status {
	case http.StatusOK:
		return "", nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return FaultUnauthorized, fmt.Errorf("it answers with status %d", status)
	case http.StatusTooManyRequests:
		return FaultLimited, fmt.Errorf("it answers with status %d", status)
	}
	return FaultAnswer, fmt.Errorf("it answers with status %d", status)
}
