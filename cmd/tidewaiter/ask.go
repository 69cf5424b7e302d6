package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/oci"
)

// decideTimeout is how long a decision may take: what is released may have to be looked into first, and is judged anew.
const decideTimeout = 10 * time.Minute

// defaultServer is where a proxy without a configuration is asked.
const defaultServer = "http://127.0.0.1:5001"

// withServer gives a command the flag that says which proxy it asks.
func withServer(cmd *cobra.Command, server *string) {
	cmd.Flags().StringVar(server, "server", defaultServer, "admin address of the proxy; credentials as in https://NAME:PASSWORD@host")
}

// askAdmin sends body, nil for none, to path of the admin API at server, and reads the answer into v. path is not escaped yet.
//
// Errors: what the proxy says of why not; that server is no URL, as wrong usage.
func askAdmin(ctx context.Context, server, method, path string, query url.Values, body, v any) error {
	resp, err := openAdmin(ctx, server, method, path, query, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it has been read, or has failed
	raw, err := oci.ReadBounded(resp.Body, maxAnswerBytes)
	if err != nil {
		return fmt.Errorf("asking %s: %w", shownServer(server), err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", shownServer(server), err)
	}
	return nil
}

// openAdmin is askAdmin for an answer that is read by the caller, who closes it.
func openAdmin(ctx context.Context, server, method, path string, query url.Values, body any) (*http.Response, error) {
	base, err := url.Parse(server)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, usageError(fmt.Errorf("%s is not an http or https URL", shownServer(server)))
	}
	asked := url.URL{Scheme: base.Scheme, User: base.User, Host: base.Host, Path: strings.TrimSuffix(base.Path, "/") + "/api/v1/" + path, RawQuery: query.Encode()}
	var sent io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		sent = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, asked.String(), sent)
	if err != nil {
		return nil, usageError(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", shownServer(server), err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // what it says is all there is
	raw, err := oci.ReadBounded(resp.Body, maxAnswerBytes)
	var failure struct{ Error string }
	if err != nil || json.Unmarshal(raw, &failure) != nil || failure.Error == "" {
		return nil, fmt.Errorf("asking %s: %s", shownServer(server), resp.Status)
	}
	return nil, fmt.Errorf("%s: %s", shownServer(server), failure.Error)
}

// shownServer is server as it may be shown: without the password.
func shownServer(server string) string {
	if u, err := url.Parse(server); err == nil {
		return u.Redacted()
	}
	return "the server"
}

// checkReference refuses what is no reference before anybody is asked about it.
func checkReference(reference string) error {
	if _, err := oci.ParseReference(reference, anyUpstream, nil); err != nil {
		return usageError(err)
	}
	return nil
}
