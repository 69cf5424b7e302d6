package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// hostHeader is the Host header of every request here.
const hostHeader = "Host: proxy\r\n"

// rawPut begins a request that brings a manifest; the rest of its headers, and what follows them, come after.
const rawPut = "PUT /v2/apps/web/manifests/v1 HTTP/1.1\r\n" + hostHeader

// rawGet begins a request for a target in the same way.
func rawGet(target string) string { return "GET " + target + " HTTP/1.1\r\n" + hostHeader }

// second is the request sent after each of the others: it is answered only where nobody can doubt that it is one.
const second = "GET /v2/ HTTP/1.1\r\n" + hostHeader + "Connection: close\r\n\r\n"

// exchange sends bytes as they are, and returns what came back for each request that was taken for one: "<status> <code of the
// error, or what net/http says>". The connection is closed in the end, or it says so.
func exchange(t *testing.T, c net.Conn, sent string) []string {
	t.Helper()
	defer func() { _ = c.Close() }() // the server has
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(c, sent) }() // the server may close before all of it is sent
	received, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) { // it is reset when what was sent was not read
		t.Fatalf("after %q: %v", received, err)
	}
	var answers []string
	for r := bufio.NewReader(bytes.NewReader(received)); ; {
		if _, err := r.Peek(1); err != nil {
			return answers
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return append(answers, fmt.Sprintf("not an answer: %v", err))
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return append(answers, fmt.Sprintf("%d, cut off: %v", resp.StatusCode, err))
		}
		answers = append(answers, describe(resp, body))
	}
}

func describe(resp *http.Response, body []byte) string {
	var e struct{ Errors []struct{ Code string } }
	if json.Unmarshal(body, &e) == nil && len(e.Errors) == 1 {
		return fmt.Sprintf("%d %s", resp.StatusCode, e.Errors[0].Code)
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, bytes.TrimPrefix(bytes.TrimSpace(body), []byte(resp.Status))))
}

// TestFraming sends what is tried in order to have two servers disagree about where a request begins, or what it asks for. Where that
// is in doubt nothing follows on the connection. A refusal that reached the proxy has an OCI code; the others are net/http's own, among
// them 501 and 505, which RFC 9112, 6.1 and RFC 9110, 15.6.6 want.
func TestFraming(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	p := s.serve(t)
	const (
		ok      = "200 {}"
		refused = "405 UNSUPPORTED" // what a push to an upstream is answered with; here it says that the request was understood
		chunked = "Transfer-Encoding: chunked\r\n\r\n"
	)
	both := func(first string) []string { return []string{first, ok} }
	alone := func(first string) []string { return []string{first} }
	for _, tt := range []struct {
		law, request string
		want         []string
	}{
		// Where a body ends.
		{"a length and a body", rawPut + "Content-Length: 5\r\n\r\nhello", both(refused)},
		{"a length said twice, alike", rawPut + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", both(refused)},
		{"a length said twice, not alike", rawPut + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", alone("400")},
		{"a list of lengths", rawPut + "Content-Length: 5, 5\r\n\r\nhello", alone("400")},
		{"a length with a sign", rawPut + "Content-Length: +5\r\n\r\nhello", alone("400")},
		{"a length below nothing", rawPut + "Content-Length: -5\r\n\r\nhello", alone("400")},
		{"a length in hexadecimal", rawPut + "Content-Length: 0x5\r\n\r\nhello", alone("400")},
		{"no length where one should be", rawPut + "Content-Length:\r\n\r\nhello", alone("400")},
		{"a length that overflows", rawPut + "Content-Length: 99999999999999999999\r\n\r\nhello", alone("400")},
		{"chunks", rawPut + chunked + "5\r\nhello\r\n0\r\n\r\n", alone(refused)},
		{"a length, then chunks", rawPut + "Content-Length: 5\r\n" + chunked + "0\r\n\r\n", alone(refused)},
		{"chunks, then a length", rawPut + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", alone(refused)},
		{"chunks, by a tab", rawPut + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", alone(refused)},
		{"chunks, on a line that is folded", rawPut + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", alone(refused)},
		{"chunks of HTTP/1.0", "PUT /v2/a/manifests/v1 HTTP/1.0\r\n" + chunked + "0\r\n\r\n", alone(refused)},
		{"chunks, said twice", rawPut + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", alone("501 Unsupported transfer encoding")},
		{"chunks, and another encoding", rawPut + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", alone("501 Unsupported transfer encoding")},
		{"chunks under a like name", rawPut + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", alone("501 Unsupported transfer encoding")},
		{"chunks, with a space before the colon", rawPut + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", alone("400")},
		{"an encoding that is none", rawPut + "Transfer-Encoding: identity\r\n\r\n", alone("501 Unsupported transfer encoding")},
		{"a chunk with an extension", rawPut + chunked + "5;a=b\r\nhello\r\n0\r\n\r\n", alone(refused)},
		{"a chunk with a long extension", rawPut + chunked + "5;a=" + strings.Repeat("b", 20_000) + "\r\nhello\r\n0\r\n\r\n", alone(refused)},
		{"a chunk whose size overflows", rawPut + chunked + "fffffffffffffffff\r\nhello\r\n0\r\n\r\n", alone(refused)},
		{"a chunk whose size has a prefix", rawPut + chunked + "0x5\r\nhello\r\n0\r\n\r\n", alone(refused)},
		{"a chunk line that ends in LF", rawPut + chunked + "5\nhello\r\n0\r\n\r\n", alone(refused)},
		{"a chunk longer than its size", rawPut + chunked + "5\r\nhelloXX0\r\n\r\n", alone(refused)},
		{"a length announced as a trailer", rawPut + "Trailer: Content-Length\r\n" + chunked + "0\r\nContent-Length: 5\r\n\r\n", alone("400")},
		{"a body where there should be none", rawGet("/v2/") + "Content-Length: 5\r\n\r\nhello", both(ok)},
		{"a body that is not waited for", rawPut + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", alone(refused)},
		{"an expectation nobody meets", rawPut + "Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello", alone("417")},

		// Where a header ends.
		{"a folded line", rawGet("/v2/") + "X: a\r\n b\r\n\r\n", both(ok)}, // joined, as RFC 9112, 5.2 allows
		{"a first line that is folded", "GET /v2/ HTTP/1.1\r\n X: a\r\n" + hostHeader + "\r\n", alone("400")},
		{"lines that end in LF", "GET /v2/ HTTP/1.1\nHost: proxy\nX: y\n\n", both(ok)}, // as RFC 9112, 2.2 allows
		{"a CR inside a line", rawGet("/v2/") + "X: a\rY: b\r\n\r\n", alone("400")},
		{"a zero byte in a value", rawGet("/v2/") + "X: a\x00b\r\n\r\n", alone("400")},
		{"a space in a name", rawGet("/v2/") + "X Y: a\r\n\r\n", alone("400")},
		{"no name", rawGet("/v2/") + ": a\r\n\r\n", alone("400")},
		{"no colon", rawGet("/v2/") + "XY\r\n\r\n", alone("400")},
		{"a name of HTTP/2", rawGet("/v2/") + ":path: /x\r\n\r\n", alone("400")},
		{"empty lines in front", "\r\n\r\n" + rawGet("/v2/") + "\r\n", alone("400")},
		{"a header of 80 KiB", rawGet("/v2/") + "X: " + strings.Repeat("a", 80<<10) + "\r\n\r\n", alone("431")},
		{"twenty thousand headers", rawGet("/v2/") + strings.Repeat("X: a\r\n", 20_000) + "\r\n", alone("431")},
		{"a target of 80 KiB", rawGet("/v2/"+strings.Repeat("a", 80<<10)) + "\r\n", alone("431")},
		{"no host", "GET /v2/ HTTP/1.1\r\n\r\n", alone("400")},
		{"two hosts", "GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", alone("400")},
		{"a host that is a path", "GET /v2/ HTTP/1.1\r\nHost: a b/c\r\n\r\n", alone("400")},

		// What is asked for.
		{"a whole URL", rawGet("http://proxy/v2/") + "\r\n", both(ok)},
		{"a whole URL with a user", rawGet("http://a:b@proxy/v2/") + "\r\n", both("400 NAME_INVALID")},
		{"a whole URL of another scheme", rawGet("ftp://proxy/v2/") + "\r\n", both("400 NAME_INVALID")},
		{"an authority", rawGet("proxy:443") + "\r\n", both("404 NAME_UNKNOWN")},
		{"an asterisk", "OPTIONS * HTTP/1.1\r\n" + hostHeader + "\r\n", both("404 NAME_UNKNOWN")},
		{"a path without its slash", rawGet("v2/") + "\r\n", alone("400")},
		{"two slashes in front", rawGet("//v2/") + "\r\n", both("404 NAME_UNKNOWN")},
		{"two slashes behind", rawGet("/v2//") + "\r\n", both("404 NAME_UNKNOWN")},
		{"a path that climbs into the API", rawGet("/x/../v2/") + "\r\n", both("404 NAME_UNKNOWN")},
		{"a path that climbs out of the API and back", rawGet("/v2/../v2/") + "\r\n", both("404 NAME_UNKNOWN")},
		{"a path that climbs within the API", rawGet("/v2/a/../b/manifests/v1") + "\r\n", both("400 NAME_INVALID")},
		{"an escaped slash", rawGet("/v2/apps%2fweb/manifests/v1") + "\r\n", both("400 NAME_INVALID")},
		{"an escaped zero byte", rawGet("/v2/apps%00/manifests/v1") + "\r\n", both("400 NAME_INVALID")},
		{"an escape that is none", rawGet("/v2/apps%zz/manifests/v1") + "\r\n", alone("400")},
		{"a zero byte", rawGet("/v2/apps\x00/manifests/v1") + "\r\n", alone("400")},
		{"a space", rawGet("/v2/a b") + "\r\n", alone("400")},
		{"a fragment", rawGet("/v2/#a") + "\r\n", both("400 NAME_INVALID")},
		{"a semicolon in the query", rawGet("/v2/a/tags/list?n=1;last=b") + "\r\n", both("400 NAME_INVALID")},

		// How.
		{"CONNECT", "CONNECT proxy:443 HTTP/1.1\r\n" + hostHeader + "\r\n", both("404 NAME_UNKNOWN")},
		{"CONNECT to a path", "CONNECT /v2/ HTTP/1.1\r\n" + hostHeader + "\r\n", both("405 UNSUPPORTED")},
		{"TRACE, which tells nothing back", "TRACE /v2/ HTTP/1.1\r\n" + hostHeader + "Authorization: Bearer x\r\n\r\n", both("405 UNSUPPORTED")},
		{"OPTIONS", "OPTIONS /v2/ HTTP/1.1\r\n" + hostHeader + "\r\n", both("405 UNSUPPORTED")},
		{"a method in small letters", "get /v2/ HTTP/1.1\r\n" + hostHeader + "\r\n", both("405 UNSUPPORTED")},
		{"a method that is none", "G@T /v2/ HTTP/1.1\r\n" + hostHeader + "\r\n", alone("400")},
		{"HTTP/0.9", "GET /v2/\r\n\r\n", alone("400")},
		{"HTTP/1.0", "GET /v2/ HTTP/1.0\r\n\r\n", alone(ok)},
		{"HTTP/1.0 that stays", "GET /v2/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", both(ok)},
		{"HTTP/1.2", "GET /v2/ HTTP/1.2\r\n" + hostHeader + "\r\n", both(ok)},
		{"HTTP/3", "GET /v2/ HTTP/3.0\r\n" + hostHeader + "\r\n", alone("505")},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", alone("404 NAME_UNKNOWN")},
		{"an upgrade to HTTP/2", rawGet("/v2/") + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", both(ok)},
		{"TLS", "\x16\x03\x01\x00\x05hello\r\n\r\n", alone("400")},
	} {
		t.Run(tt.law, func(t *testing.T) {
			c, err := net.Dial("tcp", p.registry)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, exchange(t, c, tt.request+second)); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
		})
	}
}

// There is no HTTP/2 here, so nothing of it can be abused: who insists on it gets no connection, and its preface is no request.
func TestNoHTTP2(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.config["listen"] = keys{"registry": "127.0.0.1:0", "admin": "127.0.0.1:0", "tls": keys{"cert": s.path("cert.pem"), "key": s.path("key.pem")}}
	cert, key := certificate(t, 1)
	writeFile(t, s.path("cert.pem"), cert)
	writeFile(t, s.path("key.pem"), key)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	p := s.serve(t)
	dial := func(protocols ...string) (*tls.Conn, error) {
		return tls.Dial("tcp", p.registry, &tls.Config{RootCAs: roots, NextProtos: protocols})
	}
	if c, err := dial("h2"); err == nil {
		t.Errorf("a client that speaks nothing else got a connection: %v", c.Close())
	}
	for _, protocols := range [][]string{nil, {"h2", "http/1.1"}} {
		c, err := dial(protocols...)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState().NegotiatedProtocol; got == "h2" {
			t.Errorf("%v: got %q", protocols, got)
		}
		// The preface, settings, and headers with a pseudo-header twice.
		frames := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x04\x01\x05\x00\x00\x00\x01\x82\x82\x84\x84"
		if diff := cmp.Diff([]string{"404 NAME_UNKNOWN"}, exchange(t, c, frames)); diff != "" {
			t.Errorf("%v: answers (-want +got):\n%s", protocols, diff)
		}
	}
}
