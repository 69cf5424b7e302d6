package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// Limits of asking as a node does.
const (
	nodeRequestTimeout = 2 * time.Minute  // the proxy answers after gate.hold at the latest, which is less than what cuts silent connections
	maxNodeWait        = 30 * time.Second // between attempts, whatever the proxy asks for
)

// node asks a proxy as the clients on nodes do, and follows it nowhere.
type node struct {
	server *url.URL
	client *http.Client
	after  func(time.Duration) <-chan time.Time
}

// newNode returns a node that asks the proxy at server. It trusts the certificates in caFile, if that is not empty, beside the system's.
func newNode(server, caFile string) (*node, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("%s is not an http or https URL without a path", shownServer(server))
	}
	transport := &http.Transport{DisableCompression: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if transport.TLSClientConfig.RootCAs, err = upstream.Roots(caFile); err != nil {
		return nil, err
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &node{server: u, client: &http.Client{Transport: transport, CheckRedirect: stay, Timeout: nodeRequestTimeout}, after: time.After}, nil
}

// nodeAnswer is what the proxy answered.
type nodeAnswer struct {
	status int
	// digest is what a manifest is said to have; empty when nothing is said.
	digest oci.Digest
	// content is the manifest, if one was served.
	content oci.Content
	refusal refusal
}

func (t nodeAnswer) refused() bool {
	return t.status == http.StatusForbidden || t.status == http.StatusNotFound
}

// refusal is the first error of an answer (distribution-spec, Error Codes).
type refusal struct {
	Code, Message string
	Detail        json.RawMessage
}

// judged reports whether a verdict refuses: only then there are reasons.
func (r refusal) judged() bool { return len(r.Detail) > 0 && string(r.Detail) != "null" }

// ask sends a request, and again for as long as the proxy asks for patience and ctx lasts.
//
// Errors: no answer, or only to come back later.
func (n *node) ask(ctx context.Context, method, path, query string) (nodeAnswer, error) {
	for {
		got, wait, err := n.askOnce(ctx, method, path, query)
		if err != nil || wait == 0 {
			return got, err
		}
		select {
		case <-n.after(wait):
		case <-ctx.Done():
			return got, fmt.Errorf("status %d to the last: %s: %w", got.status, got.refusal.Message, ctx.Err())
		}
	}
}

// askOnce sends a request once. wait is when to come back, 0 if that is not asked for.
func (n *node) askOnce(ctx context.Context, method, path, query string) (_ nodeAnswer, wait time.Duration, err error) {
	u := url.URL{Scheme: n.server.Scheme, Host: n.server.Host, Path: path, RawQuery: query}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nodeAnswer{}, 0, err
	}
	req.Header.Set("Accept", strings.Join(oci.ManifestMediaTypes(), ", "))
	req.Header.Set("User-Agent", "tidewaiter/"+version)
	if password, ok := n.server.User.Password(); ok {
		req.SetBasicAuth(n.server.User.Username(), password)
	}
	resp, err := n.client.Do(req)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err // without the URL, which is known
	}
	if err != nil {
		return nodeAnswer{}, 0, err
	}
	defer func() { _ = resp.Body.Close() }() // a blob that is served is not read to its end
	got := nodeAnswer{status: resp.StatusCode}
	if d, err := oci.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil {
		got.digest = d
	}
	isManifest := strings.Contains(path, "/manifests/")
	if method == http.MethodHead || resp.StatusCode < http.StatusBadRequest && !isManifest {
		return got, waitOf(resp), nil
	}
	body, err := oci.ReadBounded(resp.Body, oci.MaxManifestBytes)
	if err != nil {
		return got, 0, err
	}
	if resp.StatusCode < http.StatusBadRequest {
		got.content = oci.Content{MediaType: oci.BaseMediaType(resp.Header.Get("Content-Type")), Digest: oci.FromBytes(body), Raw: body}
		return got, 0, nil
	}
	var said struct{ Errors []refusal }
	if json.Unmarshal(body, &said) == nil && len(said.Errors) > 0 {
		got.refusal = said.Errors[0]
	}
	return got, waitOf(resp), nil
}

// waitOf returns when to come back by an answer that asks for it.
func waitOf(resp *http.Response) time.Duration {
	if resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusTooManyRequests {
		return 0
	}
	seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return min(max(time.Duration(seconds)*time.Second, time.Second), maxNodeWait)
}
